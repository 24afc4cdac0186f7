"""Solutions of the paper's equations that do not collapse, features that do, and what training finds: appendix G of B.

Four clusters, two a class. The two of a class look away from each other, so that no unit serves both. The decay is the
paper's: a penalty ``decay * rho**2`` on a sum of squares.
"""

from math import cos, e, radians, sin, sqrt
from typing import NamedTuple

import torch
from scipy.optimize import brentq
from torch import Tensor

from claimbook.evidence import Case, Unfinished, shared
from claimbook.show import results
from companion.studies import collapse_runs
from normdyn.measures import collapse
from normdyn.motion.flows import descend, gradient_flow
from normdyn.networks.graphs import mlp
from normdyn.networks.losses import square_loss
from normdyn.norms.margins import follow
from normdyn.symmetry.polar import hard_margin, standardize_columns

STORED = "data/results/paper/neural-collapse-images.npz"
DECAYS = (1e-9, 1e-6, 1e-4, 1e-2)
MEMBERS, SIGNS, APART, TILT = (18, 2, 10, 10), (1.0, 1.0, -1.0, -1.0), 0.6, 0.3
REACH = sqrt(1 - TILT**2)  # of every input along the direction of its cluster
MEASURES = ("NC1, published", "NC1, scatter", "NC2", "NC3", "NC4")


def rows(values) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Four clusters


class Task(NamedTuple):
    """Unit inputs, labels, the cluster of each sample and the directions of the clusters."""

    X: Tensor
    y: Tensor
    owner: Tensor
    U: Tensor

    @property
    def classes(self) -> Tensor:
        return (self.y > 0).long()


@shared
def task() -> Task:
    """Directions of one class have the cosine -0.6, of two classes -0.2; inputs spread around at right angles."""
    wide, high = sqrt((1 + APART) / 2), sqrt((1 - APART) / 2)
    U = rows([[wide, 0, high], [-wide, 0, high], [0, wide, -high], [0, -wide, -high]])
    side = max(MEMBERS) - 1
    spread = [collapse.simplex_frame(m, side) for m in MEMBERS]
    X = torch.cat([torch.cat([(REACH * u).expand(len(z), -1), TILT * z], 1) for u, z in zip(U, spread, strict=True)])
    owner = torch.arange(4).repeat_interleave(torch.tensor(MEMBERS))
    return Task(X, rows(SIGNS)[owner], owner, torch.cat([U, U.new_zeros(4, side)], 1))


class Solution(NamedTuple):
    """Unit layers, a length, and the features of all samples."""

    V: list[Tensor]
    rho: Tensor
    H: Tensor


def private(decay: float) -> Solution:
    """The closed form: a unit for every cluster."""
    one, m = task(), rows(MEMBERS)
    rho = (4 / REACH) / (1 + decay * (1 / m).sum() / REACH**2)
    strength = ((1 - decay * rho / (m * REACH)) / (REACH * rho)).sqrt()
    V = [strength[:, None] * one.U, (rows(SIGNS) * strength)[None]]
    return Solution(V, rho, mlp(V[:1], one.X).relu())


def normalised(V1: Tensor) -> Tensor:
    """Features behind a batch normalisation without gain and shift."""
    return standardize_columns(mlp([V1], task().X)).relu()


def batch_private(decay: float) -> Solution:
    """The same behind a batch normalisation: units that tell one cluster from all others, ridge regression above."""
    m, n = rows(MEMBERS), sum(MEMBERS)
    V1 = torch.linalg.pinv(task().U).mT
    a = rows(SIGNS) * (m * (n - m)).sqrt() / (n - m + decay)
    return Solution([V1 / V1.norm(), (a / a.norm())[None]], a.norm(), normalised(V1))


@shared
def free(decay: float = 0.2) -> Solution:
    """Features that are variables with a decay of their own, and a last layer: gradient descent to time 100."""
    start = torch.Generator().manual_seed(44)
    draw = lambda n: torch.randn(n, 6, generator=start, dtype=torch.float64) / 2
    y = task().y[:, None]
    loss = lambda p: len(y) * square_loss(p["H"] @ p["W"].mT, y)
    field = gradient_flow(loss, weight_decay=decay)
    path = descend(field, {"H": draw(len(y)), "W": draw(1)}, step=0.02, steps=5000, every=5000)
    return Solution([path["W"][-1]], rows(1.0), path["H"][-1])


MODELS = {"private": private, "batch": batch_private, "free": lambda decay: free()}


@shared
def measures(model: str, decay: float) -> dict[str, Tensor]:
    """All zero at collapse; NC2 is one plus the cosine of the class means, NC3 the least tilt of a feature from V."""
    one, (V, _, H) = task(), MODELS[model](decay)
    seen = collapse.neural_collapse(H, one.classes, V[-1])
    means = collapse.class_means(H, one.classes)
    values = [seen["variability"], seen["variance_ratio"], 1 + torch.cosine_similarity(*means, dim=0),
              1 - torch.cosine_similarity(H, V[-1], dim=1).abs().max(), seen["center_disagreement"]]  # fmt: skip
    return dict(zip(MEASURES, values, strict=True))


def length_by_hand(decay: float) -> float:
    """The length of the private units."""
    return (4 / REACH) / (1 + decay * sum(1 / m for m in MEMBERS) / REACH**2)


def by_hand(model: str, decay: float) -> dict[str, float]:
    """The same measures from the four lengths of features and weights, without a sample."""
    n = sum(MEMBERS)
    if model == "private":
        rho = length_by_hand(decay)
        a = [(1 - decay * rho / (m * REACH)) / REACH for m in MEMBERS]
        b, v = [REACH * sqrt(x / rho) for x in a], [sqrt(x / rho) for x in a]
    else:
        b = [sqrt((n - m) / m) for m in MEMBERS]
        a = [sqrt(m * (n - m)) / (n - m + decay) for m in MEMBERS]
        v = [x / sqrt(sum(z * z for z in a)) for x in a]
    (p1, p2), (q1, q2) = ([m / (MEMBERS[k] + MEMBERS[k + 1]) for m in MEMBERS[k : k + 2]] for k in (0, 2))
    up, down = (p1 * b[0], p2 * b[1]), (q1 * b[2], q2 * b[3])
    square = (up[0] ** 2 + up[1] ** 2 + down[0] ** 2 + down[1] ** 2) / 4
    within = (p1 * p2 * (b[0] ** 2 + b[1] ** 2) + q1 * q2 * (b[2] ** 2 + b[3] ** 2)) / 2
    seen = p1 * p2 * (b[0] * up[0] - b[1] * up[1]) ** 2 + q1 * q2 * (b[2] * down[0] - b[3] * down[1]) ** 2
    wrong = 0
    for k, m in enumerate(MEMBERS):
        own, other = (up, down) if k < 2 else (down, up)
        to_own = (b[k] - own[k % 2]) ** 2 + own[1 - k % 2] ** 2
        wrong += m * (to_own > b[k] ** 2 + other[0] ** 2 + other[1] ** 2)
    values = [seen / 8 / square**2 / 2, within / square, 1.0, 1 - max(v), wrong / n]
    return dict(zip(MEASURES, values, strict=True))


# The equations


def velocities(one: Solution, decay: float) -> list[Tensor]:
    """Right-hand sides of (5) and (6)."""
    X, y, *_ = task()
    f = mlp(one.V, X)[:, 0]
    ell = one.rho * f - y
    slopes = torch.func.grad(lambda V: ell @ mlp(V, X)[:, 0])(one.V)
    turns = [2 * one.rho * ((ell @ f) * W - S) for W, S in zip(one.V, slopes, strict=True)]
    return [-2 * (ell @ f + decay * one.rho), *turns]


def batch_slopes(one: Solution, decay: float) -> list[Tensor]:
    """Gradient of (4) behind a batch normalisation, in the first layer and in the last one times its length."""
    y = task().y
    loss = lambda V, a: ((normalised(V) @ a.mT)[:, 0] - y).square().sum() + decay * a.square().sum()
    return list(torch.func.grad(loss, (0, 1))(one.V[0], one.rho * one.V[1]))


def loss(one: Solution) -> Tensor:
    """The sum of squares, without the penalty."""
    return (one.rho * (one.H @ one.V[-1].mT)[:, 0] - task().y).square().sum()


@shared
def curvatures(decay: float = 1e-2) -> Tensor:
    """Eigenvalues of the Hessian of (4) in weights whose layers have the norm sqrt(rho) each."""
    (X, y, *_), one = task(), private(decay)
    shapes = [W.shape for W in one.V]

    def penalised(flat: Tensor) -> Tensor:
        A, B = (w.view(s) for w, s in zip(flat.split([s.numel() for s in shapes]), shapes, strict=True))
        return (mlp([A, B], X)[:, 0] - y).square().sum() + decay * A.square().sum() * B.square().sum()

    flat = one.rho.sqrt() * torch.cat([W.flatten() for W in one.V])
    return torch.linalg.eigvalsh(torch.func.hessian(penalised)(flat))


@shared
def batch_curvatures(decay: float = 1e-2) -> Tensor:
    """Eigenvalues of the Hessian in the first layer, with the last one at its best for each."""
    y, V1 = task().y, batch_private(decay).V[0]
    V1 = V1 / V1.norm(dim=1, keepdim=True)

    def best(flat: Tensor) -> Tensor:
        H = normalised(flat.view_as(V1))
        return y @ torch.linalg.solve(torch.eye(len(y), dtype=y.dtype) + H @ H.mT / decay, y)

    return torch.linalg.eigvalsh(torch.func.hessian(best)(V1.flatten()))


def strongest_pull(decay: float) -> float:
    """An upper bound of |sum_n (y_n - rho f_n) relu(w.x_n)| over all unit w, by subsets of the two clusters of a class.

    The maximum is the norm of a sum over some subset. Of k among m vertices of a simplex the sum has the squared norm
    k (m - k) / (m - 1).
    """
    one = private(decay)
    rest = (task().y - one.rho * (one.H @ one.V[1].mT)[:, 0]).abs()
    most = 0.0
    for first in (0, 2):
        c, d = (rest[task().owner == k][0].item() for k in (first, first + 1))
        m, n = MEMBERS[first], MEMBERS[first + 1]
        for j in range(m + 1):
            for k in range(n + 1):
                along = (j * c) ** 2 + (k * d) ** 2 - 2 * APART * j * c * k * d
                across = c * sqrt(j * (m - j) / (m - 1)) + d * sqrt(k * (n - k) / (n - 1))
                most = max(most, REACH**2 * along + TILT**2 * across**2)
    return sqrt(most)


# Interpolants, and networks with one feature layer


@shared
def interpolants(case: Case, decay: float) -> list[tuple[Tensor, Tensor]]:
    """Outputs of unit layers times labels, and the length: private units, and ridge regression on random features."""
    one = private(decay)
    found = [((one.H @ one.V[1].mT)[:, 0] * task().y, one.rho)]
    for k in range(4):
        draw = case.generator(f"interpolant {k}")
        X, W = torch.randn(8, 5, generator=draw).double(), torch.randn(30, 5, generator=draw).double()
        y = (torch.arange(8) % 2 * 2 - 1).double()
        H = (X @ (W / W.norm()).mT).relu()
        a = H.mT @ torch.linalg.solve(H @ H.mT + decay * torch.eye(8, dtype=H.dtype), y)
        found.append(((H @ a) / a.norm() * y, a.norm()))
    return found


@shared
def pairs(case: Case, features: str) -> tuple[Tensor, Tensor]:
    """Unit rows V, and two feature vectors each on which V has opposite signs; with relu one is the sharpest."""
    draw = case.generator("pairs")
    V, H = torch.randn(4000, 8, generator=draw).double(), torch.randn(4000, 2, 8, generator=draw).double()
    H = H.relu() if features == "relu" else H
    if features == "relu":
        V[0], H[0] = 0, 0
        V[0, :2], H[0, 0, 0], H[0, 1, 1] = rows([1.0, -1.0]), 1.0, 1.0
    V = V / V.norm(dim=1, keepdim=True)
    f = (H * V[:, None]).sum(2)
    kept = (f.prod(1) < 0) & (f.abs().amin(1) > 1e-9)
    return V[kept], H[kept]


# Training


STEPS = 2000


@shared
def descended(case: Case, hidden: int, *, width: int = 16, batch: int | None = None, steps: int = STEPS,
              batch_norm: bool = False) -> dict[str, Tensor]:  # fmt: skip
    """The four clusters by gradient descent with decay 0.01 from eight random starts."""
    setup = collapse_runs.Setup(
        losses=("square",), decays=(0.01,), seeds=tuple(8 * case.seed + k for k in range(8)), widths=(width,) * hidden,
        batch=batch, steps=steps, batch_norm=batch_norm, per_decade=4,
    )  # fmt: skip
    return collapse_runs.run(setup, task().X, task().classes, device=case.device)


def scatter(case: Case, hidden: int, width: int, batch: int | None, steps: int, batch_norm: bool = False) -> Tensor:
    """Logarithm of the scatter at the end, one entry a start; all have to fit, with a loss below a hundredth."""
    run = descended(case, hidden, width=width, batch=batch, steps=steps, batch_norm=batch_norm)
    wrong = int(((run["error"][-1, 0, 0] > 0) | (run["loss"][-1, 0, 0] > 0.01)).sum())
    if wrong:
        raise Unfinished(f"{wrong} of 8 networks with {hidden} hidden layers of {width} units do not fit")
    return run["variance_ratio"][-1, 0, 0].log()


@shared
def images() -> dict[tuple[int, bool], dict[str, Tensor]]:
    """The stored runs on CIFAR-10 by number of classes and normalisation."""
    stored, _ = results.load(STORED)
    part = lambda name: {k.split("__")[1]: v for k, v in stored.items() if k.startswith(name + "__")}
    return {(C, bn): part(f"classes_{C}{'_bn' * bn}") for C in (2, 3, 10) for bn in (False, True)}


def curve(run: dict[str, Tensor], name: str, loss: str, decay: int) -> Tensor:
    """One measure, records by seeds; decay 0 is none."""
    return run[name][:, collapse_runs.LOSSES.index(loss), decay].double()


def fitted(run: dict[str, Tensor]) -> Tensor:
    """First recorded step without a training error, by loss, decay and seed."""
    return run["steps"][(run["error"] > 0).long().cumprod(0).sum(0)]


# The exponential loss

ANGLE, LIFT = radians(50), radians(10)


def points(kind: str) -> Tensor:
    """Unit inputs at 50 and -50 degrees in a plane and one 10 degrees out of it; or the axes."""
    if kind == "axes":
        return torch.eye(3, dtype=torch.float64)
    return rows([[cos(ANGLE), sin(ANGLE), 0], [cos(ANGLE), -sin(ANGLE), 0], [cos(LIFT), 0, sin(LIFT)]])


def best_unit(kind: str, rho: float) -> Tensor:
    """Where one unit has the least loss: out of the plane by the angle that solves one equation."""
    if kind == "axes":
        return torch.ones(3, dtype=torch.float64) / sqrt(3)
    share = lambda phi: e ** (-rho * (cos(phi - LIFT) - cos(ANGLE) * cos(phi)))
    slope = lambda phi: 2 * cos(ANGLE) * sin(phi) + sin(phi - LIFT) * share(phi)
    phi = brentq(slope, 0.0, LIFT, xtol=1e-17, rtol=1e-15)
    return rows([cos(phi), 0.0, sin(phi)])


def unit_spread(rho: float) -> float:
    """Relative spread of its margins by bisection on the sign of the loss's difference quotient."""
    value = lambda phi: torch.logsumexp(-rho * (points("corner") @ rows([cos(phi), 0.0, sin(phi)])), 0)
    low, high = 0.0, LIFT
    for _ in range(60):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if value(a) < value(b) else (a, high)
    phi = (low + high) / 2
    return 1 - cos(ANGLE) * cos(phi) / cos(phi - LIFT)


class Fixed(NamedTuple):
    """Samples, the best unit at a fixed length, its margins and the weights of the samples."""

    X: Tensor
    v: Tensor
    margins: Tensor
    weights: Tensor


@shared
def fixed(kind: str, rho: float) -> Fixed:
    X, v = points(kind), best_unit(kind, rho)
    return Fixed(X, v, X @ v, torch.softmax(-rho * (X @ v), 0))


def balance(rho: float) -> Tensor:
    """The sum (47) of one layer over the loss."""
    X, v, margins, weights = fixed("corner", rho)
    return weights @ (X - margins[:, None] * v)


def best_of_any(one: Fixed) -> float:
    """The largest |sum_n alpha_n relu(w.x_n)| over unit w, by all subsets of the samples."""
    subsets = [[n for n in range(len(one.X)) if k >> n & 1] for k in range(1, 2 ** len(one.X))]
    return max((one.weights[s] @ one.X[s]).norm().item() for s in subsets)


def plan() -> dict[str, str]:
    """Sizes of the stored runs, for the prose."""
    setups = results.load(STORED)[1].setup
    one = [setups[f"classes_{C}"] for C in (2, 3, 10)]
    return {"sizes": ", ".join(str(s["samples"]) for s in one), "width": f"{one[0]['widths'][0]}",
            "decay": f"{one[0]['decays'][1]:g}"}  # fmt: skip


@shared
def late_direction(kind: str, log_time: float) -> Tensor:
    """Direction of one layer under (46), which is weight normalisation of size one, late in its flow."""
    X, start = points(kind), rows([0.3, 0.4, -0.2])
    vector = hard_margin(X)[0]
    path = follow(X, start, [log_time], system="weight normalization", frame=vector / (X @ vector).min())
    return path["vector"][-1] / path["vector"][-1].norm()
