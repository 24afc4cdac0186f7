"""Runs of section 7.1 of paper C: descent on losses with and without a limit, saddles, whitening, saturated layers."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from claimbook.evidence import Case, Unfinished, shared
from companion.theory_iii.hidden_complexity_control_runs import identity, normal
from normdyn.measures.curvature import hessian, minimum
from normdyn.motion.flows import Params, descend, gradient_flow, integrate
from normdyn.networks.graphs import mlp
from normdyn.networks.losses import square_loss
from normdyn.networks.normalizers import layer_norm, normalize, normalized_mlp

DRAWS = 5
Total = Callable[[Params], Tensor]


def rows(values) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


def logistic(margins: Tensor) -> Tensor:
    """Mean logistic loss over the last axis."""
    return torch.nn.functional.softplus(-margins).mean(-1)


# Does it converge?


class Problem(NamedTuple):
    """Five losses side by side, each of its own row of parameters ``w``; ``beta`` bounds their curvature on the way."""

    losses: Callable[[Tensor], Tensor]
    start: Tensor
    beta: float
    infimum: Tensor


def _clouds(case: Case) -> Tensor:
    return normal(case, "C clouds", DRAWS, 30, 3)


def parabolas(case: Case) -> Problem:
    A = normal(case, "C parabolas", DRAWS, 3, 3)
    H = A @ A.mT + 2 * torch.eye(3, dtype=A.dtype)
    H = H / torch.linalg.matrix_norm(H, 2)[:, None, None]
    values = lambda w: torch.einsum("ki,kij,kj->k", w, H, w) / 2
    return Problem(values, normal(case, "C parabolas start", DRAWS, 3), 1.0, torch.zeros(DRAWS).double())


def decayed(case: Case, decay: float = 0.1) -> Problem:
    """Logistic losses with weight decay; labels are all one, and no set is separable."""
    X = _clouds(case)
    X = torch.cat([X, -0.7 * X[:, :15]], 1)
    values = lambda w: logistic(torch.einsum("kni,ki->kn", X, w)) + decay / 2 * w.square().sum(1)
    beta = torch.linalg.matrix_norm(X, 2).square().max().item() / (4 * X.shape[1]) + decay
    best = [
        minimum(lambda p, X=x: logistic(X @ p["w"]) + decay / 2 * p["w"].square().sum(), {"w": torch.zeros(3).double()})
        for x in X
    ]
    found = torch.stack([b["w"] for b in best if b is not None])
    return Problem(values, 3 * normal(case, "C decayed start", DRAWS, 3), beta, values(found))


def on_the_sphere(case: Case) -> Problem:
    """Batch-normalised units without a gain on separable points: the weights count by their direction only."""
    X = _clouds(case)
    X = math.sqrt(30) * torch.linalg.qr(X - X.mean(1, keepdim=True))[0]
    sign, start = X[:, :, 0].sign(), normal(case, "C sphere start", DRAWS, 3)
    values = lambda w: logistic(sign * normalize(torch.einsum("kni,ki->kn", X, w), (1,)))
    return Problem(values, start / start.norm(dim=1, keepdim=True), 2.0, torch.zeros(DRAWS).double())


def bounded_and_analytic(case: Case) -> list[Problem]:
    return [parabolas(case), decayed(case), on_the_sphere(case)]


def separable(case: Case) -> list[Problem]:
    """Logistic losses of separable points, without decay; and a gain behind the normalised values of two of them."""
    X = _clouds(case)
    X = X * X[:, :, :1].sign()
    plain = lambda w: logistic(torch.einsum("kni,ki->kn", X, w))
    beta = torch.linalg.matrix_norm(X, 2).square().max().item() / (4 * 30)
    pair, sign = rows([[0.7], [-0.7]]), rows([1.0, -1.0])
    normed = lambda w: logistic(w[:, :1] * sign * normalize(pair @ w[:, 1:].mT, (0,)).mT)
    begin = torch.cat([torch.zeros(DRAWS, 1).double(), 1 + normal(case, "C gain start", DRAWS, 1).abs()], 1)
    nothing = torch.zeros(DRAWS).double()
    return [Problem(plain, torch.zeros(DRAWS, 3).double(), beta, nothing), Problem(normed, begin, 1.0, nothing)]


class Descent(NamedTuple):
    """Where descent is after some steps and after twice as many, its gradient there, and the sums of squares."""

    moved: Tensor
    slope: Tensor
    squares: Tensor
    height: Tensor
    step: float


@shared
def descents(case: Case, problems: Callable[[Case], list[Problem]], steps: int, step: float) -> list[Descent]:
    """Descent with a step in units of one over the curvature."""
    found = []
    for one in problems(case):
        eta = step / one.beta
        path = descend(
            gradient_flow(lambda p, one=one: one.losses(p["w"]).sum()), {"w": one.start}, step=eta, steps=2 * steps
        )["w"]
        slopes = path.diff(dim=0) / eta
        found.append(
            Descent(
                (path[-1] - path[steps]).norm(dim=1), slopes[-1].norm(dim=1), slopes.square().sum((0, 2)),
                one.losses(path[0]) - one.infimum, eta * (1 - step / 2),
            )
        )  # fmt: skip
    return found


@shared
def flows(case: Case, problems: Callable[[Case], list[Problem]], time: float) -> list[Tensor]:
    """How far the flow still goes between a time and its double."""
    found = []
    for one in problems(case):
        field = gradient_flow(lambda p, one=one: one.losses(p["w"]).sum())
        path = integrate(field, {"w": one.start}, [0.0, time, 2 * time], relative=1e-11, absolute=1e-12)["w"]
        found.append((path[2] - path[1]).norm(dim=1))
    return found


def mexican_hat(p: Params) -> Tensor:
    """The function of Absil et al. in the disc, for a point ``x``; zero outside."""
    r2 = p["x"].square().sum()
    bend = 4 * r2**2 / (4 * r2**2 + (1 - r2) ** 4)
    return (-1 / (1 - r2)).exp() * (1 - bend * torch.sin(torch.atan2(p["x"][1], p["x"][0]) - 1 / (1 - r2)))


RADII = (0.3, 0.5, 0.6, 0.7, 0.8)


def turning_of_the_flow(turn: float = 0.0) -> list[Tensor]:
    """d(angle)/d(radius) along the flow of :func:`mexican_hat` at points of the spiral, or of the spiral turned."""
    found = []
    for r in RADII:
        angle = rows(1 / (1 - r**2) + turn)
        out, side = torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])
        v = gradient_flow(mexican_hat)({"x": r * out})["x"]
        found.append((v @ side) / (r * (v @ out)))
    return found


# Rates of convex losses


class Convex(NamedTuple):
    """Excess losses of a run after each step, and the condition number on the whole space."""

    excess: Tensor
    kappa: float


KAPPAS = (30, 100, 300)


@shared
def strongly_convex(case: Case, step: float, steps: int) -> list[Convex]:
    """Quadratics of three condition numbers in random axes, and a logistic loss with decay."""
    found = []
    for kappa in KAPPAS:
        curvature = kappa ** -torch.linspace(0, 1, 3, dtype=torch.float64)
        Q = torch.linalg.qr(normal(case, f"C axes {kappa}", 3, 3))[0]
        H = Q * curvature @ Q.mT
        field = lambda p, H=H: {"w": -H @ p["w"]}
        excess = lambda p, H=H: p["w"] @ H @ p["w"] / 2
        run = descend(field, {"w": Q[:, 2].clone()}, step=step, steps=steps, record={"excess": excess})
        found.append(Convex(run["excess"], kappa))
    one = decayed(case, 0.05)
    path = descend(
        gradient_flow(lambda p: one.losses(p["w"]).sum()), {"w": one.start}, step=step / one.beta, steps=300,
        record={"loss": lambda p: one.losses(p["w"])},
    )["loss"]  # fmt: skip
    return found + [Convex(e, one.beta / 0.05) for e in (path - one.infimum).mT]


@shared
def quartic(case: Case, step: float, steps: int) -> list[Convex]:
    """w^4/4, whose curvature is 3 at the start and 0 at the minimum; it is given the condition number 100."""
    run = descend(
        lambda p: {"w": -(p["w"] ** 3)}, {"w": rows(1.0)}, step=step / 3, steps=steps,
        record={"excess": lambda p: p["w"] ** 4 / 4},
    )  # fmt: skip
    return [Convex(run["excess"], 100)]


# Saddles


class Regression(NamedTuple):
    """Centred inputs with covariance C, and targets that a linear unit of weights ``best`` reaches."""

    X: Tensor
    C: Tensor
    best: Tensor
    y: Tensor

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ self.C @ b

    def size(self, a: Tensor) -> Tensor:
        return self.inner(a, a).sqrt()

    def across(self, v: Tensor) -> Tensor:
        """The part of each row at right angles to ``best`` in the metric C."""
        along = (v @ self.C @ self.best) / self.inner(self.best, self.best)
        return v - along[..., None] * self.best


@shared
def regressions(case: Case, whitened: bool = False, centred: bool = True) -> list[Regression]:
    found = []
    for k in range(DRAWS):
        X = normal(case, f"C regression {k}", 40, 4)
        if whitened:
            X = math.sqrt(40) * torch.linalg.qr(X - X.mean(0))[0]
        X = X - X.mean(0) if centred else X + 1
        C, w = X.mT @ X / 40, normal(case, f"C solution {k}", 4)
        best = 1.5 * w / (w @ C @ w).sqrt()
        found.append(Regression(X, C, best, (X @ best)[:, None]))
    return found


@shared
def somewhere(case: Case) -> list[Tensor]:
    """Weights of a unit at which nothing is special."""
    return [normal(case, f"C height {k}", 4) for k in range(DRAWS)]


def of_unit(one: Regression) -> Total:
    """Square loss of a batch-normalised linear unit, with the gain ``gain`` if there is one."""
    return lambda p: square_loss(p.get("gain", 1.0) * normalize(one.X @ p["u"], (0,))[:, None], one.y)


class Place(NamedTuple):
    loss: Total
    at: Params


@shared
def opposite(case: Case) -> list[Place]:
    """Critical points of one unit: opposite the solution; and, with a gain, gain zero at right angles to it."""
    found = [Place(of_unit(one), {"u": -1.7 * one.best}) for one in regressions(case)]
    for k, one in enumerate(regressions(case)):
        across = one.across(normal(case, f"C across {k}", 4))
        found.append(Place(of_unit(one), {"u": across / one.size(across), "gain": rows(0.0)}))
    return found


@shared
def at_the_solution(case: Case) -> list[Place]:
    found = [Place(of_unit(one), {"u": 1.7 * one.best}) for one in regressions(case)]
    return found + [Place(of_unit(one), {"u": one.best, "gain": one.size(one.best)}) for one in regressions(case)]


def deep(one: Regression, normalised: bool = True) -> Total:
    """Square loss of a linear network with two hidden layers, each batch-normalised; the gains of the second if any."""

    def loss(p: Params) -> Tensor:
        weights = [p["W1"], p["W2"], p["V"]]
        if not normalised:
            return square_loss(mlp(weights, one.X, activation=identity), one.y)
        gains = [torch.ones(3).double(), p.get("gain", torch.ones(3).double())]
        return square_loss(normalized_mlp(weights, one.X, activation=identity, gains=gains), one.y)

    return loss


@shared
def deep_saddles(case: Case, gains: bool = False, normalised: bool = True) -> list[tuple[Regression, Place]]:
    """Critical points with output zero: features at right angles to the target, and last weights zero or cancelling.

    With ``gains`` those of the last hidden layer are trained, and zero; without ``normalised`` all weights are zero.
    """
    found = []
    for k, one in enumerate(regressions(case)):
        W1 = one.across(normal(case, f"C deep W1 {k}", 3, 4))
        W2 = normal(case, f"C deep W2 {k}", 3, 3)
        last = [torch.zeros(1, 3).double()]
        if not (gains or not normalised):
            W2 = torch.stack([W2[0], W2[0], W2[2]])
            last.append(rows([[0.8, -0.8, 0.0]]))
        for V in last:
            at = {"W1": W1, "W2": W2, "V": V} | ({"gain": torch.zeros(3).double()} if gains else {})
            found.append((one, Place(deep(one, normalised), at if normalised else {n: 0 * W for n, W in at.items()})))
    return found


@shared
def least_curvatures(case: Case, gains: bool = False, normalised: bool = True) -> list[Tensor]:
    return [
        torch.linalg.eigvalsh(hessian(place.loss, place.at))[0] for _, place in deep_saddles(case, gains, normalised)
    ]


def layer_saddle(case: Case, k: int) -> Place:
    """Units below a layer normalisation with last weights and biases zero: inputs come with their negatives.

    The outputs are then odd in the input, and the target is even: what moved biases would add to them.
    """
    X, W = normal(case, f"C layer X {k}", 15, 3), 0.5 * normal(case, f"C layer W {k}", 4, 3)
    X, moved = torch.cat([X, -X]), (torch.zeros(4).double(), normal(case, f"C layer b {k}", 4))
    slope = torch.func.jvp(lambda b: layer_norm(X @ W.mT + b, epsilon=0.1), moved[:1], moved[1:])[1]
    y = slope @ normal(case, f"C layer V {k}", 4, 1)
    y = 3 * (y - y.mean()) / y.std(correction=0)
    unit = lambda p: layer_norm(X @ p["W"].mT + p["b"], epsilon=0.1) @ p["V"].mT
    at = {"W": W, "b": torch.zeros(4).double(), "V": torch.zeros(1, 4).double()}
    return Place(lambda p: square_loss(unit(p), y), at)


def nearby(case: Case, at: Params, spread: float, role: str) -> Params:
    return {name: W + spread * normal(case, f"{role} {name}", W.numel()).reshape(W.shape) for name, W in at.items()}


@shared
def left_behind(case: Case, spread: float, time: float = 20.0) -> list[Tensor]:
    """Loss at the end of flows that start near a strict saddle, over that of the saddle: units below BN, then LN."""
    places = opposite(case)[DRAWS:] + [layer_saddle(case, k) for k in range(2)]
    found = []
    for k, place in enumerate(places):
        begin = nearby(case, place.at, spread, f"C near {k}")
        path = integrate(
            gradient_flow(place.loss), begin, [0.0, time], record={"loss": place.loss}, relative=1e-7, absolute=1e-9
        )
        found.append(path["loss"][-1] / place.loss(place.at))
    return found


@shared
def half_angles(case: Case, whitened: bool, times: tuple[float, ...]) -> list[tuple[Tensor, Tensor]]:
    """Starts near the maximum, and log tan of half the angle to the solution along the flow."""
    found = []
    for k, one in enumerate(regressions(case, whitened)):
        axis = one.best / one.best.norm()
        tan = lambda p, axis=axis: (p["u"] / p["u"].norm() - axis).norm() / (p["u"] / p["u"].norm() + axis).norm()
        start = -one.best + 1e-3 * normal(case, f"C near the maximum {k}", 4)
        path = integrate(gradient_flow(of_unit(one)), {"u": start}, times, record={"tan": tan})["tan"]
        found.append((start, path.log()))
    return found


# Whitening


RHOS = (0.2, 0.5, 0.95)


def features(case: Case, rho: float) -> Tensor:
    """Two features, of deviations 1 and 100 and some mean, whose correlation on the sample is exactly ``rho``."""
    Z = normal(case, f"C features {RHOS.index(rho) if rho in RHOS else 0}", 50, 2)
    Z = math.sqrt(50) * torch.linalg.qr(Z - Z.mean(0))[0]
    second = rho * Z[:, 0] + math.sqrt(1 - rho**2) * Z[:, 1]
    return torch.stack([Z[:, 0] + 2, 100 * second - 30], 1)


@shared
def regressed(case: Case, rho: float, eta: float, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs after BN, the Hessian of linear regression on them, and what descent leaves of errors along both axes."""
    X, error = normalize(features(case, rho), (0,)), rows([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2)
    loss = lambda p: square_loss((X @ p["w"])[:, None], torch.zeros(50, 1).double())
    left = []
    for start in error:
        w = {"w": start.clone()}
        for _ in range(steps):
            w = {"w": w["w"] + eta * gradient_flow(loss)(w)["w"]}
        left.append(w["w"].norm() / start.norm())
    return X, hessian(loss, {"w": error[0]}), torch.stack(left)


def condition(H: Tensor) -> float:
    return torch.linalg.cond(H).item()


def scaled(C: Tensor) -> Tensor:
    """A covariance after its features are brought to unit variance: the correlation matrix."""
    deviation = C.diagonal().sqrt()
    return C / deviation / deviation[:, None]


WORSE = [[5.62274412, -1.86579882, -5.36563545], [-1.86579882, 0.94750056, 1.78746748],
         [-5.36563545, 1.78746748, 5.2060275]]  # fmt: skip


# Saturated layers


BIAS, STEPS, STARTS = 7.0, 700, 5
CELLS = [(act, sign, rate) for act in ("sigmoid", "tanh") for sign in (1, -1) for rate in (0.1, 0.2)]


@shared
def saturated(
    case: Case, bias: float = BIAS, shift: float = 0.0, steps: int = STEPS, cells: tuple = tuple(CELLS)
) -> tuple[Tensor, float]:
    """Losses ``(steps + 1, cell, with or without BN, start)`` of layers with a common bias and a common shift.

    One layer of 8 units on 50 points; weights, biases, shifts, last weights and offset are trained, gains are one. The
    number is the loss of the best constant.
    """
    points = normal(case, "C saturated X", 50, 3)
    goal = torch.sin(1.5 * points[:, 0]) + points[:, 1] * points[:, 2] / 2
    goal = goal - goal.mean()
    W, v = normal(case, "C saturated W", STARTS, 3, 8), normal(case, "C saturated v", STARTS, 8) / 8**0.5
    v = v - v.mean(1, keepdim=True)  # saturated units then start at output zero
    each = lambda f: rows([f(c, n) for c in cells for n in (0, 1)]).repeat_interleave(STARTS)
    count = 2 * len(cells)
    smooth = each(lambda c, n: 0.5 * (c[0] == "sigmoid"))[:, None, None]  # a sigmoid is 1/2 + tanh(z/2)/2
    normed = each(lambda c, n: n)[:, None, None] > 0
    sign, rate = each(lambda c, n: c[1]), each(lambda c, n: c[2])
    layer = {
        "W": W.repeat(count, 1, 1), "v": v.repeat(count, 1), "c": torch.zeros(count * STARTS).double(),
        "b": (bias * sign)[:, None].repeat(1, 8), "beta": (shift * sign)[:, None].repeat(1, 8),
    }  # fmt: skip

    def losses(p: Params) -> Tensor:
        z = points @ p["W"] + p["b"][:, None]
        z = torch.where(normed, normalize(z, (1,)), z) + p["beta"][:, None]
        h = smooth + (1 - smooth) * torch.tanh((1 - smooth) * z)
        return ((h @ p["v"][:, :, None])[:, :, 0] + p["c"][:, None] - goal).square().mean(1) / 2

    field = gradient_flow(lambda p: (rate * losses(p)).sum())
    run = descend(field, layer, step=1.0, steps=steps, record={"loss": losses})["loss"]
    return run.reshape(steps + 1, len(cells), 2, STARTS), goal.square().mean().item() / 2


def waits(case: Case, bias: float, shift: float, steps: int) -> Tensor:
    """Steps until a fifth of the variance is fitted, ``(cell, with or without BN, start)``; at most those of the run.

    Raises:
        Unfinished: a normalised network without a shift has not come there.
    """
    run, variance = saturated(case, bias, shift, steps)
    found = (run > 0.8 * variance).sum(0).double()
    if shift == 0 and (run[-1, :, 1] > 0.8 * variance).any():
        raise Unfinished("a normalised network has not fitted a fifth of the variance")
    return found
