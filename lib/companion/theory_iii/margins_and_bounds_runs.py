"""Runs behind the claims of sections 4, 11, 12 and 13 of paper D: worst members of classes, minimisers, streams.

Labels are absorbed: rows of ``A`` are ``y x``, and the margin of a function is its smallest output.
"""

import math
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import torch
from scipy.optimize import linprog, minimize
from torch import Tensor

from claimbook.evidence import Case, shared
from companion.theory_iii.summary_theorem import max_margin
from companion.theory_iii.summary_theorem_runs import pair
from normdyn.networks.graphs import mlp
from normdyn.symmetry.polar import hard_margin

Loss = Callable[[Tensor], Tensor]
TRIALS = 400


def draw(case: Case, role: str, *shape: int) -> Tensor:
    """Gaussian numbers, one independent stream for each role."""
    return torch.randn(*shape, generator=case.generator(role), dtype=torch.float64)


def coins(case: Case, role: str, *shape: int) -> Tensor:
    """Independent fair signs."""
    return 2.0 * torch.randint(2, shape, generator=case.generator(role)).double() - 1


# What a uniform bound promises


class Class(NamedTuple):
    """Largest gap between true and empirical loss in each trial, and the Rademacher average of each trial's sample.

    ``unseen``: the share of the domain outside of the sample, where there is one.
    """

    samples: int
    gaps: Tensor
    averages: Tensor
    unseen: Tensor = torch.empty(0)


def walks(longest: int) -> Tensor:
    """Expected distance of a fair walk of 0, 1, 2, ... steps."""
    some = [k * math.comb(k - 1, (k - 1) // 2) / 2.0 ** (k - 1) for k in range(1, longest + 1)]
    return torch.tensor([0.0, *some], dtype=torch.float64)


@shared
def memoriser(case: Case, points: int, samples: int) -> Class:
    """All sign patterns on a domain, one true label for all points, 0-1 loss: the worst pattern errs off the sample."""
    site = torch.randint(points, (TRIALS, samples), generator=case.generator(f"memoriser {points} {samples}"))
    count = torch.zeros(TRIALS, points, dtype=torch.long).scatter_add_(1, site, torch.ones_like(site))
    gaps = (1 / points - count.double() / samples).clamp(0).sum(1)
    average = walks(int(count.max()))[count].sum(1) / samples
    return Class(samples, gaps, average, (count == 0).double().mean(1))


@shared
def ball(case: Case, samples: int, dimension: int = 40) -> Class:
    """Linear functions of norm at most one on the sphere, coins for labels, loss (1 - y f)/2."""
    unit = lambda role: torch.nn.functional.normalize(
        draw(case, f"{role} {samples}", TRIALS, samples, dimension), dim=2
    )
    length = lambda role: unit(role).mean(1).norm(dim=1)  # labels are signs: y x has the law of x
    return Class(samples, length("gap") / 2, length("average"))


@shared
def rare_loss(case: Case, samples: int, size: float = 1e4) -> Class:
    """One function whose loss is large on few samples: its Lipschitz constant is one half, its range is the size."""
    chance = 1 / (2 * samples)
    hits = torch.rand(TRIALS, samples, generator=case.generator(f"rare {samples}")).double() < chance
    return Class(samples, size * (chance - hits.double().mean(1)), torch.zeros(TRIALS).double())


@shared
def separated_noise(case: Case, k: int, samples: int = 20, dimension: int = 60) -> tuple[float, float]:
    """Margin of the best plane through coins for labels, and the Rademacher average of the unit ball."""
    x = torch.nn.functional.normalize(draw(case, f"noise {k}", samples, dimension), dim=1)
    average = (x * coins(case, f"noise coins {k}", 200, samples, 1)).mean(1).norm(dim=1).mean()
    return (x @ hard_margin(x)[0]).min().item(), average.item()


# Surrogates


class Risks(NamedTuple):
    """Chances of the label one at some points, one row a distribution, and scores there."""

    chance: Tensor
    score: Tensor

    def surrogate(self, loss: Loss) -> Tensor:
        return (self.chance * loss(self.score) + (1 - self.chance) * loss(-self.score)).mean(1)

    def errors(self) -> Tensor:
        """Classification risk over the least there is."""
        tilt = 2 * self.chance - 1
        return (tilt.abs() * (tilt * self.score <= 0)).mean(1)


@shared
def distributions(case: Case) -> Risks:
    """Four thousand distributions on ten points, scores of order one or a millionth; the last have one point only."""
    chance = torch.rand(4000, 10, generator=case.generator("chances"), dtype=torch.float64)
    chance[3000:] = chance[3000:, :1]
    score = draw(case, "scores", 4000, 10)
    score[2000:] *= 1e-6
    score[3000:] = -1e-6 * (2 * chance[3000:] - 1).sign()  # just on the wrong side
    return Risks(chance, score)


# Minimisers on the circle


def circle(angles: Tensor, p: float) -> Tensor:
    """Directions in the plane, scaled to Lp norm one."""
    v = torch.stack([angles.cos(), angles.sin()], 1)
    return v / torch.linalg.vector_norm(v, p, dim=1, keepdim=True)


def log_exponential(m: Tensor) -> Tensor:
    """Logarithm of the exponential loss; one row of margins a member."""
    return torch.logsumexp(-m, 1)


def power(m: Tensor, a: float = 1.0) -> Tensor:
    """A loss with the tail of a power: it is infinite where a sample is on the wrong side."""
    return torch.where(m.amin(1) > 0, (1 + m.clamp(0)).pow(-a).sum(1), torch.inf)


def least(value: Loss, p: float = 2.0) -> Tensor:
    """Angle of the minimiser on the Lp circle: the best of a grid, which is then refined twelve times."""
    angles = torch.linspace(-math.pi, math.pi, 20001, dtype=torch.float64)
    for _ in range(13):
        best = angles[value(circle(angles, p)).argmin()]
        step = angles[1] - angles[0]
        angles = best + 2 * step * torch.linspace(-1, 1, 41, dtype=torch.float64)
    return best


@shared
def margin_of_minimiser(A: tuple[tuple[float, ...], ...], p: float, rho: float, loss: Loss) -> Tensor:
    """Smallest margin of the direction that minimises the loss at one length."""
    rows = torch.tensor(A, dtype=torch.float64)
    angle = least(lambda v: loss(rho * v @ rows.mT), p)
    return (circle(angle[None], p) @ rows.mT).min()


def largest_margin(A: Tensor, p: float) -> Tensor:
    """The largest smallest margin at Lp norm one: by linear programming for p = 1 and infinity, quadratic otherwise."""
    if p not in (1.0, math.inf):
        w = max_margin(A, p)
        return (A @ w).min() / torch.linalg.vector_norm(w, p)
    n, d = A.shape
    size = [1.0] * (2 * d) if p == 1.0 else [0.0] * (2 * d)  # w = u - v with u, v >= 0
    limits = torch.cat([-A, A, torch.ones(n, 1).double()], 1)
    rows, ends = [*limits.tolist()], [0.0] * n
    if p == 1.0:
        rows, ends = [*rows, [*size, 0.0]], [*ends, 1.0]
    sides = [(0, 1 if p == math.inf else None)] * (2 * d) + [(None, None)]
    found = linprog([0.0] * (2 * d) + [-1.0], A_ub=rows, b_ub=ends, bounds=sides)
    return torch.tensor(-found.fun, dtype=torch.float64)


def widest(A: Tensor) -> Tensor:
    """The largest smallest margin over the circle, negative where nothing separates."""
    angle = least(lambda v: -(v @ A.mT).amin(1))
    return (circle(angle[None], 2.0) @ A.mT).min()


def fewest(A: Tensor) -> Tensor:
    """The fewest errors that a line through zero makes: lines next to those through a sample are all there are."""
    across = torch.stack([-A[:, 1], A[:, 0]], 1)
    turned = torch.cat([across + 1e-9 * A, across - 1e-9 * A])
    return (torch.cat([turned, -turned]) @ A.mT <= 0).sum(1).min()


def balance(A: Tensor, a: float) -> Tensor:
    """Angle of the direction with the least sum of margins to the power -a, as the minimiser of a convex function."""
    points = A.numpy()

    def value(w):
        m = points @ w
        if m.min() <= 0:
            return 1e12, w
        return (m**-a).sum() + 0.5 * w @ w, w - a * points.T @ m ** (-a - 1)

    w = hard_margin(A)[0]
    found = minimize(value, (w / (A @ w).min()).numpy(), jac=True, method="BFGS", options={"gtol": 1e-12})
    return torch.tensor(math.atan2(found.x[1], found.x[0]), dtype=torch.float64)


@shared
def cloud(case: Case, k: int, separable: bool) -> Tensor:
    """Eight samples in the plane that a line through zero separates with some room, or that none does."""
    for attempt in range(100):
        B = draw(case, f"cloud {k} {attempt}", 8, 2)
        side = B @ torch.tensor([1.0, 0.5]).double()
        B = B * side.sign()[:, None] if separable else B + torch.tensor([0.6, 0.0]).double()
        if bool(widest(B) > 1e-2) == separable:
            return B
    raise RuntimeError("no cloud of the kind asked for")


def worst_of_joint(A: Tensor, rho: float) -> Tensor:
    """The smallest margin of the directions on a grid whose loss falls below 1e-100 up to some length."""
    angles = torch.linspace(-math.pi, math.pi, 40001, dtype=torch.float64)
    m = circle(angles, 2.0) @ A.mT
    return m.amin(1)[log_exponential(rho * m) < -100 * math.log(10)].min()


STARTS = 12


@shared
def network_minimiser(case: Case, degrees: float, rho: float) -> Tensor:
    """Margin of the network of two ReLUs, both layers of norm one, that minimises the loss: the best of many starts."""
    X = pair(degrees)

    def margins(v: Tensor) -> Tensor:
        W, a = v[:4].view(2, 2), v[4:]
        return (X @ (W / W.norm()).mT).relu() @ (a / a.norm())

    def loss(v):
        leaf = torch.tensor(v, dtype=torch.float64, requires_grad=True)
        value = torch.logsumexp(-rho * margins(leaf), 0) / rho
        return value.item(), torch.autograd.grad(value, leaf)[0].numpy()

    starts = draw(case, f"network {degrees}", STARTS, 6).numpy()
    ends = [minimize(loss, v, jac=True, method="BFGS", options={"gtol": 1e-10}) for v in starts]
    return margins(torch.tensor(min(ends, key=lambda end: end.fun).x)).min()


# Minimisers over finite sets


@shared
def members(case: Case, depth: int, p: float, count: int = 4000) -> Tensor:
    """Margins of random ReLU networks whose layers have Lp norm one, one row a network, on four samples."""
    widths = (2, 5, 5)[:depth] + (1,)
    X, y = draw(case, f"members {depth}", 4, 2), torch.tensor([1.0, 1.0, 1.0, -1.0]).double()
    W = [draw(case, f"members {depth} {p} {k}", count, widths[k + 1], widths[k]) for k in range(depth)]
    W = [w / torch.linalg.vector_norm(w, p, dim=(1, 2), keepdim=True) for w in W]
    f = torch.func.vmap(lambda *layers: mlp(list(layers), X, activation=torch.relu)[:, 0])(*W)
    return y * f


def rivals(shortfall: float = 0.1, samples: int = 4) -> Tensor:
    """Two members: one with all margins equal, one with a single smaller margin and the others far away."""
    return torch.tensor([[1.0] * samples, [1.0 - shortfall] + [1e3] * (samples - 1)]).double()


# Margin and norm


def planar(case: Case, k: int) -> Tensor:
    """Five samples in the plane that a line through zero separates."""
    x = draw(case, f"planar {k}", 5, 2)
    return torch.stack([1 + x[:, 0].abs(), 0.5 + 0.8 * x[:, 1]], 1)


def values(case: Case, kind: str, k: int, v: Tensor) -> Tensor:
    """Outputs at weights in the rows of ``v``: linear, the larger of two linear forms, or linear and a fixed bias."""
    linear = v @ planar(case, k).mT
    second = v @ (planar(case, k) + 0.5 * draw(case, f"second {k}", 5, 2)).mT
    return {"maxout": torch.maximum(linear, second), "bias": linear + 0.3}.get(kind, linear)


@shared
def best_margin(case: Case, kind: str, k: int) -> Tensor:
    """The largest smallest output on the unit circle, by search over the angle."""
    angle = least(lambda v: -values(case, kind, k, v).amin(1))
    return values(case, kind, k, circle(angle[None], 2.0)).min()


@shared
def shortest(case: Case, kind: str, k: int) -> Tensor:
    """Least norm at which all outputs are one or more, by sequential quadratic programming from several starts."""
    f = lambda w: values(case, kind, k, w[None])[0]
    return _least_square(f, [draw(case, f"shortest {j}", 2) + 0.5 for j in range(8)]).sqrt()


@shared
def shortest_layers(case: Case, depth: int, k: int) -> Tensor:
    """Least sum of squares of all weights of a linear network at which all outputs are one or more."""
    A = planar(case, k)

    def f(v: Tensor) -> Tensor:
        *hidden, last = v.split(2)
        layers = [torch.stack(hidden[2 * i : 2 * i + 2]) for i in range(depth - 1)]
        return mlp([*layers, last[None]], A, activation=lambda z: z)[:, 0]

    starts = [0.7 * draw(case, f"layers {depth} {j}", 4 * (depth - 1) + 2) for j in range(8)]
    return _least_square(f, starts)


def _least_square(f: Loss, starts: list[Tensor]) -> Tensor:
    limits = {
        "type": "ineq",
        "fun": lambda v: f(torch.tensor(v)).numpy() - 1,
        "jac": lambda v: torch.func.jacrev(f)(torch.tensor(v)).numpy(),
    }
    ends = [
        minimize(lambda v: 0.5 * v @ v, start.numpy(), jac=lambda v: v, constraints=limits, method="SLSQP",
                 options={"ftol": 1e-15, "maxiter": 500})
        for start in starts
    ]  # fmt: skip
    return torch.tensor(min(2 * end.fun for end in ends if (limits["fun"](end.x) > -1e-8).all())).double()


def entrywise(M: Tensor, p: float) -> Tensor:
    return torch.linalg.vector_norm(M, p, dim=(-2, -1))


def induced(M: Tensor, p: float) -> Tensor:
    return torch.linalg.matrix_norm(M, p, dim=(-2, -1))


@shared
def pairs(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Ten thousand pairs of drawn matrices with an inner dimension of four, and the matrices of ones."""
    ones = torch.ones(1, 4, 4).double()
    return [(draw(case, "left", 10000, 3, 4), draw(case, "right", 10000, 4, 3)), (ones, ones)]


# Augmented data


class Stream(NamedTuple):
    """All examples that a stream draws from, each as often as any other, and the weights of least expected risk."""

    inputs: Tensor
    labels: Tensor
    truth: Tensor


SIGNS = torch.tensor(list(product((-1.0, 1.0), repeat=5)), dtype=torch.float64)  # 32 inputs of unit covariance
KICK = 0.5


@shared
def stream(case: Case, samples: int, fresh: bool) -> Stream:
    """Linear data whose inputs are all signs, with noise on the labels: some samples augmented, or the law itself.

    Augmentation adds plus or minus one half to each coordinate of an input, and keeps its label. With 32 samples the
    training set is the law without noise on the labels: as good as any number of samples.
    """
    truth = draw(case, "truth", 5)
    if fresh:
        noise = torch.tensor([1.0, -1.0]).double().repeat_interleave(32)
        return Stream(SIGNS.repeat(2, 1), SIGNS.repeat(2, 1) @ truth + noise, truth)
    pick = torch.randperm(32, generator=case.generator("pick"))[:samples]
    y = SIGNS[pick] @ truth + (samples < 32) * coins(case, "label noise", samples)
    x = (SIGNS[pick][:, None] + KICK * SIGNS[None]).reshape(-1, 5)
    return Stream(x, y.repeat_interleave(32), truth)


@shared
def descent(case: Case, samples: int, fresh: bool, steps: int = 4000, batch: int = 64) -> Tensor:
    """The weights at each step of stochastic gradient descent, every batch a new draw from a stream."""
    data, g = stream(case, samples, fresh), case.generator(f"order {samples} {fresh}")
    w, path = torch.zeros(5).double(), []
    for pick in torch.randint(len(data.inputs), (steps, batch), generator=g):
        x = data.inputs[pick]
        w = w - 0.05 * x.mT @ (x @ w - data.labels[pick]) / batch
        path.append(w)
    return torch.stack(path)


def averaged(path: Tensor) -> Tensor:
    """The mean of the second half."""
    return path[len(path) // 2 :].mean(0)


def ridge(case: Case, samples: int) -> Tensor:
    """Closed form of what an augmented stream tends to: ridge regression on the samples behind it."""
    pick = torch.randperm(32, generator=case.generator("pick"))[:samples]
    X, truth = SIGNS[pick], draw(case, "truth", 5)
    y = X @ truth + (samples < 32) * coins(case, "label noise", samples)
    return torch.linalg.solve(X.mT @ X + samples * KICK**2 * torch.eye(5).double(), X.mT @ y)
