"""Runs of the chapter on implicit bias: descent as a power, flows in logarithmic time, networks fitted to digits."""

from collections.abc import Callable
from fractions import Fraction
from itertools import combinations, product
from typing import NamedTuple

import torch
from sklearn.svm import SVC
from torch import Tensor

from claimbook.evidence import Case, Unfinished, shared
from companion.theory_iii.hidden_complexity_control_runs import normal
from normdyn.data import sets as data
from normdyn.motion.flows import descend, gradient_flow, integrate
from normdyn.networks.graphs import layered_weights, mlp
from normdyn.networks.losses import cross_entropy
from normdyn.networks.normalizers import batch_norm, normalized_mlp
from normdyn.norms.margins import follow
from normdyn.symmetry.polar import hard_margin

Params = dict[str, Tensor]


def rows(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Least squares


@shared
def wide_regressions(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Five regressions of six samples on fifteen features."""
    return [(normal(case, f"C wide {k} X", 6, 15), normal(case, f"C wide {k} y", 6)) for k in range(5)]


@shared
def descended(case: Case, start: float, steps: int) -> list[Tensor]:
    """Weights after that many steps: the map of one step, by automatic differentiation, to a power."""
    found = []
    for k, (X, y) in enumerate(wide_regressions(case)):
        loss = lambda w, X=X, y=y: (X @ w - y).square().mean() / 2
        curved = torch.func.hessian(loss)(X[0])
        step = 1 / curved.diagonal().sum()
        one = torch.eye(16, dtype=X.dtype)
        one[:15, :15] -= step * curved
        one[:15, 15] = -step * torch.func.grad(loss)(torch.zeros_like(X[0]))
        begin = torch.cat([start * normal(case, f"C wide {k} start", 15), torch.ones(1).double()])
        found.append((torch.linalg.matrix_power(one, steps) @ begin)[:15])
    return found


# Classification in the plane

SIX = rows([[1.0, 0.7], [0.6, 1.1], [6.0, 2.0], [5.0, 1.5], [4.0, 3.0], [3.0, 0.8]])  # samples times labels


@shared
def clouds(case: Case) -> list[Tensor]:
    """Six samples of our own, and two drawn clouds of eight, all times labels, with two support vectors."""
    found, attempt = [SIX], 0
    while len(found) < 3:
        attempt += 1
        B = normal(case, f"C cloud {attempt}", 8, 2) + rows([2.2, 1.2])
        try:
            dual = hard_margin(B)[1]
        except ValueError:
            continue
        if ((dual > 0.1).sum() == 2) and (B @ hard_margin(B)[0]).min() > 0.2:
            found.append(B)
    return found


def moments(points: Tensor) -> Tensor:
    return points.mT @ points / len(points)


def shortest(points: Tensor) -> tuple[Tensor, Tensor]:
    """The shortest vector with all margins one or more, and its two support vectors: all pairs are tried."""
    best: tuple[Tensor, Tensor] | None = None
    for i, j in combinations(range(len(points)), 2):
        pair = points[[i, j]]
        w = torch.linalg.solve(pair, torch.ones(2, dtype=points.dtype))
        if (points @ w).min() > 1 - 1e-9 and (best is None or w.norm() < best[0].norm()):
            best = w, pair
    if best is None:
        raise ValueError("points: no pair of support vectors")
    return best


def residual_of(points: Tensor) -> Tensor:
    """The limit of w - log(t) w^: exp(-r x_n) is the multiplier of each support vector."""
    w, pair = shortest(points)
    return torch.linalg.solve(pair, -torch.linalg.solve(pair.mT, w).log())


STARTS = ((0.0, 0.0), (2.0, -3.0))


@shared
def late_vectors(case: Case, s: float, unit: float = 1.0) -> list[Tensor]:
    """Weights of each cloud from two starts at log t = s, by the flow of the exponential loss.

    The second feature may be measured in another unit, in which descent then goes.
    """
    found = []
    for points in clouds(case):
        scale = rows([1.0, unit])
        u = hard_margin(points * scale)[0]
        frame = u / (points * scale @ u).min()
        for start in STARTS:
            path = follow(points * scale, rows(start), [s / 2, s], frame=frame, relative=1e-7)
            found.append(path["vector"][-1] * scale)
    return found


@shared
def normalised_directions(case: Case, s: float) -> list[Tensor]:
    """Unit vectors behind a batch normalisation, from one start: at log t = s/2 and s, extrapolated in 1/log t."""
    found = []
    for points in clouds(case):
        u = hard_margin(points, moments(points))[0]
        path = follow(
            points, rows([0.3, 0.5]), [s / 2, s], system="batch normalization", metric=moments(points),
            frame=u / (points @ u).min(), relative=1e-7,
        )  # fmt: skip
        early, late = (w / w.norm() for w in path["vector"])
        found.append(2 * late - early)
    return found


TURNS = torch.logspace(0.3, 2.3, 24, dtype=torch.float64)


@shared
def turning(case: Case, system: str) -> Tensor:
    """Weights on the six samples at TURNS of log t, each system from a start near the other's end."""
    metric = moments(SIX) if system == "batch normalization" else None
    u = hard_margin(SIX, metric)[0]
    start = rows([0.1, 1.5] if metric is None else [1.0, 0.4])
    frame = u / (SIX @ u).min()
    return follow(SIX, start, TURNS, system=system, metric=metric, frame=frame, relative=1e-7)["vector"]


# One normalised unit, its norm and its gain

LABELS = rows([1.0, 1.0, 1.0, -1.0, -1.0, -1.0])
LENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)


def unit_loss(kind: str) -> Callable[[Params], Tensor]:
    """Exponential loss of one unit on six samples, with batch normalisation or without."""
    X = LABELS[:, None] * SIX
    signal = (lambda w: batch_norm(X @ w[:, None])[:, 0]) if kind == "batch" else (lambda w: X @ w)
    return lambda p: (-LABELS * p["gain"] * signal(p["w"])).exp().sum()


def unit_start(length: float, kind: str, turn: float = 0.64) -> Params:
    angle = torch.tensor(turn, dtype=torch.float64)
    w = length * torch.stack([angle.cos(), angle.sin()])
    return {"w": w, "gain": rows(0.5 if kind == "batch" else 0.5 / length)}


@shared
def unit_losses(kind: str) -> list[Tensor]:
    """Losses at LENGTHS, the gain as it is for the normalised unit."""
    return [unit_loss(kind)(unit_start(length, "batch")) for length in LENGTHS]


@shared
def norms_along_the_flow(case: Case, kind: str) -> list[Tensor]:
    """Norm of the weights at five instants, over that at the start; the clock runs with the squared norm."""
    turn = 0.5 + 0.5 * torch.rand((), generator=case.generator("C turn")).item()
    found = []
    for length in LENGTHS:
        times = torch.linspace(0, min(1.0, length**2), 6).double()
        path = integrate(gradient_flow(unit_loss(kind)), unit_start(length, kind, turn), times, relative=1e-11)
        found.append(path["w"].norm(dim=1)[1:] / length)
    return found


# Last layers


class Stack(NamedTuple):
    """Inputs, labels, and two hidden layers with batch normalisation below a last layer with a bias."""

    X: Tensor
    labels: Tensor
    params: Params

    def features(self, p: Params) -> Tensor:
        return torch.relu(batch_norm(torch.relu(batch_norm(self.X @ p["W0"].mT)) @ p["W1"].mT))

    def logits(self, p: Params, above: str = "nothing") -> Tensor:
        z = self.features(p) @ p["W2"].mT + p["b"]
        return batch_norm(z) if above == "batch" else z

    def scaled(self, factor: float) -> Params:
        return self.params | {name: factor * self.params[name] for name in ("W2", "b")}


@shared
def stacks(case: Case) -> list[Stack]:
    found = []
    for k in range(3):
        weights = layered_weights((5, 8, 8, 3), case.generator(f"C stack {k}"))
        p = {f"W{l}": W for l, W in enumerate(weights)} | {"b": normal(case, f"C stack {k} b", 3)}
        found.append(Stack(normal(case, f"C stack {k} X", 30, 5), torch.arange(30) % 3, p))
    return found


LOWER = ("W0", "W1")


@shared
def signals(case: Case, factor: float, above: str = "nothing") -> list[tuple[Tensor, Tensor]]:
    """Features and logits, the last layer scaled; the logits may be normalised as well."""
    return [(one.features(one.scaled(factor)), one.logits(one.scaled(factor), above)) for one in stacks(case)]


@shared
def updates(case: Case, factor: float) -> list[Params]:
    """Gradients of the cross-entropy in the layers below, by automatic differentiation, the last layer scaled."""
    found = []
    for one in stacks(case):
        p = one.scaled(factor)
        loss = lambda q, one=one, p=p: cross_entropy(one.logits(p | q), one.labels)
        found.append(torch.func.grad(loss)({name: p[name] for name in LOWER}))
    return found


class Separator(NamedTuple):
    """Inputs, weights of a ReLU network, and labels that are its own."""

    X: Tensor
    weights: list[Tensor]
    labels: Tensor


@shared
def separators(case: Case, flipped: int = 0) -> list[Separator]:
    """Three drawn networks on thirty samples, some labels flipped, and one that is aligned with a single sample."""
    found = []
    for k in range(3):
        X, weights = normal(case, f"C ray {k} X", 30, 5), layered_weights((5, 12, 1), case.generator(f"C ray {k}"))
        own = mlp(weights, X)[:, 0].sign()
        found.append(Separator(X, weights, torch.where(torch.arange(30) < flipped, -own, own)))
    x, v = normal(case, "C ray one", 5), normal(case, "C ray v", 12).abs()
    aligned = [torch.outer(v, x) / (v.norm() * x.norm()), (v / v.norm())[None]]
    found.append(Separator(x[None], aligned, torch.ones(1).double() * (-1 if flipped else 1)))
    return found


# Bounds

SIGNS = rows(list(product([-1, 1], repeat=12)))


@shared
def margined(case: Case) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Clouds of twelve samples times labels, the direction of the largest margin, and one with half of it."""
    found = []
    for k in range(5):
        X = normal(case, f"C bound {k} X", 12, 3)
        X = torch.cat([1.5 + X[:, :1].abs(), X[:, 1:]], 1)
        best = hard_margin(X)[0]
        across = (lambda v, b=best: v - (v @ b) * b)(normal(case, f"C bound {k} across", 3))
        across = across / across.norm()
        goal, low, high = (X @ best).min() / 2, 0.0, torch.pi / 2
        tilted = lambda a, best=best, across=across: torch.cos(rows(a)) * best + torch.sin(rows(a)) * across
        for _ in range(80):
            middle = (low + high) / 2
            low, high = (middle, high) if (X @ tilted(middle)).min() > goal else (low, middle)
        found.append((X, best, tilted(low)))
    return found


def averaged(X: Tensor, norm: Tensor) -> Tensor:
    """Rademacher average of all vectors up to a norm: all signs are summed."""
    return norm * (SIGNS @ X).norm(dim=1).mean() / len(X)


class Fitted(NamedTuple):
    """A batch-normalised network that has fitted a hundred digits, with them and others."""

    weights: list[Tensor]
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


FIT, STEPS = 0.02, 300


@shared
def digits(case: Case, steps: int = STEPS) -> Fitted:
    """A hundred digits, steps of one half. Raises Unfinished if an error is left, or a mean loss above 0.02."""
    images = data.flatten(data.digits())
    order = torch.randperm(len(images.labels), generator=case.generator("C digits"))
    train, test = ((images.inputs[k], images.labels[k]) for k in (order[:100], order[100:900]))
    begin = {f"W{k}": W for k, W in enumerate(layered_weights((64, 24, 24, 10), case.generator("C digits start")))}
    output = lambda p: normalized_mlp([p[f"W{k}"] for k in range(3)], train[0])
    loss = lambda p: cross_entropy(output(p), train[1])
    path = descend(gradient_flow(loss), begin, step=0.5, steps=steps, every=max(steps, 1))
    end = {name: W[-1] for name, W in path.items() if name != "times"}
    if not (loss(end) < FIT and bool((output(end).argmax(1) == train[1]).all())):
        raise Unfinished(f"the digits are not fitted: loss {loss(end):.3f}")
    return Fitted([end[f"W{k}"] for k in range(3)], train, test)


@shared
def shrunken(case: Case, factor: float, steps: int = STEPS) -> list[Tensor]:
    """The weights of the fitted network, the first layer scaled."""
    one = digits(case, steps)
    return [factor * one.weights[0], *one.weights[1:]]


@shared
def gap(case: Case, factor: float, steps: int = STEPS) -> float:
    """Errors on held-out digits less those on the training set."""
    one = digits(case, steps)
    wrong = lambda X, y: (normalized_mlp(shrunken(case, factor, steps), X).argmax(1) != y).double().mean().item()
    return wrong(*one.test) - wrong(*one.train)


NOISES = 6


@shared
def roughness(case: Case, factor: float, relative: bool) -> float:
    """Mean rise of the training loss under noise on the scaled first layer, of a fixed size or in proportion."""
    one, weights = digits(case), shrunken(case, factor)
    loss = lambda W: cross_entropy(normalized_mlp([W, *weights[1:]], one.train[0]), one.train[1]).item()
    kicks = normal(case, "C noise", NOISES, *weights[0].shape)
    size = 0.3 * one.weights[0].norm() / one.weights[0].numel() ** 0.5 * (factor if relative else 1.0)
    rises = [loss(weights[0] + sign * size * kick) for kick in kicks for sign in (1, -1)]
    return sum(rises) / len(rises) - loss(weights[0])


# Cues


def in_each_batch(case: Case) -> tuple[Tensor, Tensor]:
    """A feature between 100 and 110 for class one and between 0 and 1 for class zero, and labels; ten batches of 20."""
    label = (torch.arange(200) % 2).reshape(10, 20)
    noise = torch.rand(10, 20, generator=case.generator("C cue"), dtype=torch.float64)
    return torch.where(label == 1, 100 + 10 * noise, noise), label


def of_whole_batches(case: Case) -> tuple[Tensor, Tensor]:
    """A size and a label that each batch shares: the same values, a hundred times as large."""
    label = (torch.arange(10) % 2)[:, None].expand(10, 20)
    noise = torch.rand(1, 20, generator=case.generator("C cue"), dtype=torch.float64)
    return torch.where(label == 1, 100.0, 1.0).double() * (1 + noise), label


def ordered(feature: Tensor, label: Tensor) -> Tensor:
    """Share of pairs of the two classes that the feature puts in order, ties by half: twice its distance from 1/2."""
    one, zero = (feature[label == k].round(decimals=9) for k in (1, 0))
    wins = (one[:, None] > zero).double() + 0.5 * (one[:, None] == zero)
    return 2 * (wins.mean() - 0.5).abs()


def ordered_exactly(feature: Tensor, label: Tensor) -> float:
    """The same of a normalised batch in rational arithmetic: the scale does not matter to order, the mean is exact."""
    found: list[tuple[Fraction, int]] = []
    for values, classes in zip(feature, label, strict=True):
        exact = [Fraction(v) for v in values.tolist()]
        mean = sum(exact) / len(exact)
        square = sum((v - mean) ** 2 for v in exact) / len(exact)
        sign = lambda v, mean=mean: 1 if v > mean else -1
        found += [(sign(v) * (v - mean) ** 2 / square, int(c)) for v, c in zip(exact, classes.tolist(), strict=True)]
    one, zero = ([v for v, c in found if c == k] for k in (1, 0))
    wins = sum(Fraction((a > b) - (a < b)) for a in one for b in zero)
    return abs(float(wins / (len(one) * len(zero))))


@shared
def with_a_cue(case: Case, normalised: bool) -> tuple[float, float]:
    """A maximum-margin classifier of a reliable feature and a cue: accuracy without its help, and its share."""

    def features(role: str, honest: bool) -> tuple[Tensor, Tensor]:
        y = torch.arange(400) % 2
        told = y if honest else torch.randint(2, (400,), generator=case.generator(f"{role} told"))
        core = (2 * y - 1) * (1 + normal(case, f"{role} core", 400).abs())
        u = torch.rand(400, generator=case.generator(f"{role} cue"), dtype=torch.float64)
        F = torch.stack([core, torch.where(told == 1, 100 + 10 * u, u)], 1)
        return y, batch_norm(F) if normalised else F

    (y, F), (z, G) = features("C honest", True), features("C lying", False)
    model = SVC(kernel="linear", C=1e6, tol=1e-8).fit(F.numpy(), y.numpy())
    parts = rows(model.coef_[0].tolist()) * (F[y == 1].mean(0) - F[y == 0].mean(0))
    return model.score(G.numpy(), z.numpy()), (parts[1] / parts.sum()).item()
