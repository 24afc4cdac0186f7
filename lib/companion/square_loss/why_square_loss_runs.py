"""Runs of the introduction and the summary of paper B: descents of unit layers in the plane, and the best networks.

The loss is the paper's, a sum of squares with a penalty ``decay * rho**2``. Networks lie side by side, one a draw.
"""

from math import log, pi
from typing import NamedTuple

import torch
from scipy.optimize import linprog, nnls
from torch import Tensor

from claimbook.evidence import Case, Unfinished, shared
from companion.square_loss.bounds_runs import unit
from companion.square_loss.dynamics_runs import State, states
from companion.square_loss.maximum_margin import draw
from normdyn.data.sets import digits, flatten, select_classes, unit_norm
from normdyn.motion.flows import descend, gradient_flow, integrate
from normdyn.symmetry.polar import hard_margin, orthogonal_part

LABELS = torch.tensor([1.0, 1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
DRAWS, WIDE, STEPS = 10, 64, 8000
DECAYS, STARTS = (0.0, 0.01, 0.1), (0.3, 3.0, 10.0)
LARGE = STARTS[2]


# Two layers of ReLUs in the plane


@shared
def inputs(case: Case) -> Tensor:
    """Five unit inputs around the circle for each draw; their labels are ``LABELS``."""
    shift = 0.6 * torch.rand(DRAWS, 5, generator=case.generator("angles"), dtype=torch.float64) - 0.3
    return unit(2 * pi * (torch.arange(5) + shift) / 5)


class Ends(NamedTuple):
    """Unit layers, lengths (positive), outputs of the unit layers; which runs have come to rest."""

    V1: Tensor
    V2: Tensor
    rho: Tensor
    f: Tensor
    rest: Tensor

    def losses(self) -> Tensor:
        """Sums of squares."""
        return (self.rho[:, None] * self.f - LABELS).square().sum(1)


def normed(W: Tensor) -> Tensor:
    """Layers of norm one, one a draw."""
    return W / W.flatten(1).norm(dim=1).view(-1, *[1] * (W.ndim - 1))


def velocities(X: Tensor, V1: Tensor, V2: Tensor, rho: Tensor, decay: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Half of the right-hand sides of (5) and (6), and the outputs."""
    Z = (V1 @ X.mT).relu()
    f = (V2[:, None] @ Z)[:, 0]
    ell = rho[:, None] * f - LABELS
    pull = -(rho[:, None] * ell)[..., None]
    first, second = (Z > 0).double() * pull.mT * V2[..., None] @ X, (Z @ pull)[..., 0]
    across = lambda V, h: h - V * (V * h).flatten(1).sum(1).view(-1, *[1] * (V.ndim - 1))
    return across(V1, first), across(V2, second), -(ell * f).sum(1) - decay * rho, f


def descend_all(X: Tensor, V1: Tensor, V2: Tensor, rho: Tensor, decay: Tensor, steps: int) -> Ends:
    """Descent on (5) and (6) with heavy-ball momentum of 0.95; steps shrink over the last 40 %.

    A run rests if its length moves by less than 0.2 % in the last quarter, and if without decay its loss is below 1e-4.
    """
    state, motion, before = [V1, V2, rho], [torch.zeros_like(V) for V in (V1, V2, rho)], torch.zeros_like(rho)
    for k in range(steps):
        *push, _ = velocities(X, *state, decay)
        step = 0.5 * min(1.0, (1 - k / steps) / 0.4) / (1 + 5 * state[2].clamp(min=4.0) ** 2)
        motion = [0.95 * m + step.view(-1, *[1] * (p.ndim - 1)) * p for m, p in zip(motion, push, strict=True)]
        V1, V2, rho = (V + m for V, m in zip(state, motion, strict=True))
        state = [normed(V1), normed(V2), rho]
        before = rho if k == 3 * steps // 4 else before
    V1, V2, rho = state
    *_, f = velocities(X, V1, V2, rho, decay)
    V2, f = (rho.sign()[:, None] * part for part in (V2, f))  # a length that has passed zero is the length of -f
    found = Ends(V1, V2, rho.abs(), f, (before / rho - 1).abs() < 5e-3)
    return found._replace(rest=found.rest & ((decay > 0) | (found.losses() < 1e-4)))


def begin(case: Case, width: int, count: int) -> tuple[Tensor, Tensor]:
    """Random unit layers with this many units."""
    first, second = (draw(case, f"{name} of {width}", count, width, *n) for name, n in (("first", [2]), ("second", [])))
    return normed(first), normed(second)


@shared
def descents(case: Case, width: int = WIDE, steps: int = STEPS) -> dict[tuple[float, float], Ends]:
    """Where descent ends, by decay and length at the start: ten draws of data and layers each."""
    cells = [(decay, start) for decay in DECAYS for start in STARTS]
    each = lambda values: torch.tensor(values, dtype=torch.float64).repeat_interleave(DRAWS)
    decay, rho = each([cell[0] for cell in cells]), each([cell[1] for cell in cells])
    X = inputs(case).repeat(len(cells), 1, 1)
    found = descend_all(X, *begin(case, width, len(X)), rho, decay, steps)
    return {cell: Ends(*(part[DRAWS * k : DRAWS * (k + 1)] for part in found)) for k, cell in enumerate(cells)}


WIDTHS = (2, 4, 8, 16, 32, 64)


@shared
def by_width(case: Case, decay: float = 0.1, start: float = 3.0) -> Ends:
    """The same for six widths, ten draws each; units that are missing have weights zero."""
    pad = lambda W, width: torch.nn.functional.pad(W, (0, 0) * (W.ndim - 2) + (0, WIDE - width))
    layers = [[pad(W, width) for W in begin(case, width, DRAWS)] for width in WIDTHS]
    V1, V2 = (torch.cat(parts) for parts in zip(*layers, strict=True))
    X, one = inputs(case).repeat(len(WIDTHS), 1, 1), torch.ones(len(V1), dtype=V1.dtype)
    return descend_all(X, V1, V2, start * one, decay * one, STEPS)


@shared
def rested(case: Case, width: int, decay: float, start: float, steps: int = STEPS) -> Ends:
    """The runs of a cell, all of which have come to rest.

    Raises:
        Unfinished: one has not.
    """
    ends = descents(case, width, steps)[decay, start]
    if not ends.rest.all():
        raise Unfinished(f"{int((~ends.rest).sum())} of ten runs with decay {decay:g} from length {start:g} still move")
    return ends


@shared
def resting(case: Case, width: int, decay: float, start: float, steps: int) -> tuple[Ends, Tensor]:
    """The runs of a cell that have come to rest, all of them if the network is wide; and which they are."""
    ends = rested(case, width, decay, start, steps) if width == WIDE else descents(case, width, steps)[decay, start]
    return Ends(*(part[ends.rest] for part in ends)), ends.rest


# The best network of any width


class Best(NamedTuple):
    """A measure on signed directions of least loss: its angles, signed masses, length and loss."""

    angles: Tensor
    masses: Tensor
    rho: float
    loss: float


def kinks(X: Tensor) -> Tensor:
    """Angles at which a unit passes zero at some input."""
    base = torch.atan2(X[:, 1], X[:, 0])
    return torch.cat([base + pi / 2, base - pi / 2])


def on_grid(X: Tensor, y: Tensor, decay: float, angles: Tensor, signs: str) -> Best:
    """The least loss over measures on these angles, a non-negative least-squares problem."""
    A = (X @ unit(angles).mT).relu()
    A = torch.cat([A, -A], 1) if signs == "both" else A
    rows = torch.cat([A, torch.full((1, A.shape[1]), decay**0.5, dtype=A.dtype)])
    mass, rest = nnls(rows.numpy(), torch.cat([y, y.new_zeros(1)]).numpy())
    signed = torch.as_tensor(mass).view(-1, len(angles)) * torch.tensor([[1.0], [-1.0]])[: len(A.mT) // len(angles)]
    keep = signed.abs() > 1e-9
    return Best(angles.expand_as(signed)[keep], signed[keep], mass.sum().item(), rest**2)


def least(X: Tensor, y: Tensor, decay: float, signs: str = "both") -> Best:
    """The best network of any width: on a grid of angles with all kinks, then on finer grids around its units."""
    angles, decay = torch.cat([torch.arange(720, dtype=X.dtype) * pi / 360, kinks(X)]), max(decay, 1e-9)
    for spread in (pi / 360, pi / 36000, pi / 3600000):
        one = on_grid(X, y, decay, angles, signs)
        near = one.angles[:, None] + spread * torch.linspace(-1, 1, 41, dtype=X.dtype)
        angles = torch.cat([near.flatten(), one.angles, kinks(X)])
    return merged(on_grid(X, y, decay, angles, signs))


def merged(one: Best) -> Best:
    """Units that are neighbours on the finest grid taken as one, at their mean direction."""
    angles, masses = list[Tensor](), list[Tensor]()
    left = torch.ones(len(one.angles), dtype=torch.bool)
    for k in range(len(left)):
        near = (
            left & ((unit(one.angles) @ unit(one.angles[k])) > 1 - 2e-6) & (one.masses.sign() == one.masses[k].sign())
        )
        if near.any():
            masses.append(one.masses[near].sum())
            angles.append(torch.atan2(*(one.masses[near] @ unit(one.angles[near]) / masses[-1]).flip(0)))
        left &= ~near
    return Best(torch.stack(angles), torch.stack(masses), one.rho, one.loss)


@shared
def best(case: Case, decay: float, signs: str = "both") -> list[Best]:
    """The best two-layer network of any width for each draw."""
    return [least(X, LABELS, decay, signs) for X in inputs(case)]


def certificate(X: Tensor, z: Tensor, decay: float) -> float:
    """No network of any width has a loss below (z.y)^2 / (|z|^2 + H^2/decay), H = max |sum z_n (w.x_n)_+| over |w| = 1.

    On each arc between two kinks the largest value is known.
    """
    ends = kinks(X).sort().values
    middles = (ends + torch.cat([ends[1:], ends[:1] + 2 * pi])) / 2
    tops = torch.nn.functional.normalize(((unit(middles) @ X.mT > 0).double() * z) @ X, dim=1)
    height = ((torch.cat([unit(ends), tops, -tops]) @ X.mT).clamp(min=0) @ z).abs().max()
    return ((z @ LABELS) ** 2 / (z @ z + height**2 / decay)).item()


@shared
def residuals(case: Case, decay: float) -> list[Tensor]:
    """y - rho f of the best networks."""
    sums = lambda X, one: (X @ unit(one.angles).mT).relu() @ one.masses
    return [LABELS - sums(X, one) for X, one in zip(inputs(case), best(case, decay), strict=True)]


@shared
def margin_tasks(case: Case) -> list[tuple[Tensor, Tensor]]:
    """The ten data sets, and three inputs 20 degrees apart with one label."""
    crowd = unit(torch.tensor([0.0, pi / 9, 2 * pi / 9], dtype=torch.float64))
    return [*((X, LABELS) for X in inputs(case)), (crowd, torch.ones(3, dtype=torch.float64))]


@shared
def shortest(case: Case) -> list[float]:
    """The least product of norms of an interpolant, by non-negative least squares."""
    return [least(X, y, 0.0).rho for X, y in margin_tasks(case)]


@shared
def widest(case: Case, among: str) -> list[float]:
    """The largest least margin of networks of norm one, by a linear program: all margins equal, or of classifiers."""
    found = []
    for X, y in margin_tasks(case):
        angles = torch.cat([torch.arange(3600, dtype=X.dtype) * pi / 1800, kinks(X)])
        A = y[:, None] * (X @ unit(angles).mT).relu()
        A = torch.cat([A, -A, -torch.ones(len(y), 1, dtype=X.dtype)], 1).numpy()  # margins of the measure, less t
        goal, mass = [0.0] * (A.shape[1] - 1) + [-1.0], [[1.0] * (A.shape[1] - 1) + [0.0]]
        if among == "interpolants":
            end = linprog(goal, A_ub=mass, b_ub=[1.0], A_eq=A, b_eq=[0.0] * len(y))
        else:
            end = linprog(goal, A_ub=[*mass, *-A], b_ub=[1.0] + [0.0] * len(y))
        found.append(-end.fun)
    return found


# Interpolants


@shared
def interpolants(case: Case, decay: float = 0.0) -> list[Ends]:
    """Networks that interpolate, longer ones last, from three lengths at the start; with decay they do not."""
    return [rested(case, WIDE, decay, start) for start in STARTS]


@shared
def exact(case: Case, decay: float = 0.0) -> Ends:
    """Those from the largest length, which interpolate to rounding.

    Raises:
        Unfinished: one has a loss above 1e-20.
    """
    ends = interpolants(case, decay)[-1]
    if not decay and ends.losses().max() > 1e-20:
        raise Unfinished(f"a loss of {ends.losses().max():.0e} is left")
    return ends


class Pair(NamedTuple):
    """Least and average margin of the longer and the shorter network; their ramp losses at the margin both exceed."""

    longer: Tensor
    shorter: Tensor
    ramps: Tensor


@shared
def pairs(case: Case, apart: bool) -> list[Pair]:
    """Pairs of networks for one of five data sets with |y g - 1| <= e < 1, whose norms differ; enough if asked for.

    Interpolants of three lengths, shrunk and stretched by up to a fifth, and networks trained with decay.
    """
    kinds = [(ends, s) for ends in interpolants(case) for s in (0.8, 1.0, 1.2)]
    kinds += [(descents(case)[0.01, start], 1.0) for start in STARTS]
    nets, found = [(ends.f * LABELS, s * ends.rho) for ends, s in kinds], []
    ramp = lambda g, width: (1 - g / width).clamp(0, 1).mean()
    for n, sigma in nets:
        for m, rho in nets:
            d, e = ((f * r[:, None] - 1).abs().amax(1) for f, r in ((n, sigma), (m, rho)))
            ratio = (1 + d) / (1 - e) if apart else torch.ones_like(d)
            keep = (d < 1) & (e < 1) & (sigma > (1 + 1e-9) * ratio * rho)
            for k in keep[:5].nonzero()[:, 0].tolist():
                width = 1 - max(d[k], e[k])
                ramps = torch.stack([ramp(n[k] * sigma[k], width), ramp(m[k] * rho[k], width)])
                found.append(Pair(*(torch.stack([x[k].min(), x[k].mean()]) for x in (n, m)), ramps))
    return found


class Closed(NamedTuple):
    """Inputs with label one, unit layers and length of the best network with one unit, decay, and the least loss."""

    X: Tensor
    V1: Tensor
    V2: Tensor
    rho: Tensor
    decay: float

    def outputs(self) -> Tensor:
        return (self.X @ self.V1.mT).relu() @ self.V2


def one_unit(number: int, decay: float = 0.001) -> Closed:
    """The best network for some orthonormal inputs in three dimensions: one unit along their mean."""
    X = torch.eye(3, dtype=torch.float64)[:number]
    w = X.sum(0) / number**0.5
    zero = torch.zeros(2, 3, dtype=X.dtype)
    length = torch.tensor(number**0.5 / (1 + decay), dtype=X.dtype)
    return Closed(X, torch.cat([w[None], zero]), torch.eye(3, dtype=X.dtype)[0], length, decay)


def lower_bound(number: int, decay: float = 0.001) -> float:
    """(z.y)^2 / (|z|^2 + H^2/decay) with z all ones and H = max |sum (w.x_n)_+|, the root of the number of inputs."""
    return number**2 / (number + number / decay)


@shared
def several_inputs(case: Case) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Inputs and unit layers: two orthogonal inputs with decay 0.001, and ten interpolants."""
    one, ends = one_unit(2), exact(case)
    return [(one.X, one.V1, one.V2), *zip(inputs(case), ends.V1, ends.V2, strict=True)]


@shared
def one_input(case: Case) -> list[tuple[Tensor, Tensor, Tensor]]:
    """A single input."""
    one = one_unit(1)
    return [(one.X, one.V1, one.V2)]


@shared
def scaled(case: Case, size: float) -> list[State]:
    """The fifteen networks of appendix D with layers of one norm."""
    return [one._replace(V={n: size * V for n, V in one.V.items()}) for one in states(case)]


# Linear models


@shared
def regressions(case: Case) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Inputs, targets and a direction of five problems, six samples in 24 dimensions."""
    one = lambda k: (draw(case, f"X {k}", 6, 24), draw(case, f"y {k}", 6).sign(), draw(case, f"w {k}", 24))
    return [(X, y, w / w.norm()) for X, y, w in map(one, range(5))]


@shared
def linear_ends(case: Case, size: float, steps: int = 1500) -> list[Tensor]:
    """Where gradient descent from a start of this size ends."""
    found = []
    for X, y, w in regressions(case):
        field = gradient_flow(lambda p, X=X, y=y: (X @ p["w"] - y).square().sum() / 12)
        found.append(descend(field, {"w": size * w}, step=0.1, steps=steps, every=steps)["w"][-1])
    return found


class Path(NamedTuple):
    """Clock, multiplier and loss along the normalised flow; margin of the data and loss at the start."""

    clock: Tensor
    nu: Tensor
    loss: Tensor
    margin: float


@shared
def exponential(case: Case, right: bool = True) -> list[Path]:
    """Equations (14) and (15) of one linear layer on the exponential loss, on the clock log(1 + t); two data sets.

    Starts at length one from a direction that has all samples right, or all wrong.
    """
    found = []
    for k in range(2):
        w = torch.nn.functional.normalize(draw(case, f"teacher {k}", 3), dim=0)
        points = draw(case, f"points {k}", 6, 3)
        points = torch.nn.functional.normalize(points + (1.0 - (points @ w).clamp(max=1.0))[:, None] * w, dim=1)
        margin, v = (points @ hard_margin(points)[0]).amin().item(), w if right else -w

        def field(s, points=points):
            each = torch.exp((-s["rho"] * points @ s["v"]).clamp(max=30.0))  # for trial steps
            move = {"v": s["rho"] * orthogonal_part(s["v"], each @ points), "rho": each @ (points @ s["v"])}
            return {n: s["clock"].exp() * x for n, x in move.items()} | {"clock": torch.ones_like(s["rho"])}

        terms = lambda s, points=points: s["rho"] * points @ s["v"]
        record = {
            "nu": lambda s, terms=terms: (terms(s) * torch.exp(-terms(s))).sum() / 2,
            "loss": lambda s, terms=terms: torch.exp(-terms(s)).sum(),
        }
        zero = torch.zeros((), dtype=v.dtype)
        times = torch.linspace(0, log(3000.0 if right else 10.0), 12).double()
        path = integrate(field, {"v": v, "rho": zero + 1, "clock": zero}, times,
                         record=record, relative=1e-8, absolute=1e-10)  # fmt: skip
        found.append(Path(path["times"], path["nu"], path["loss"], margin))
    return found


# Modes and ranks

MODES, SMALL = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64), 1e-4
MOMENTS = torch.linspace(0, 8, 33, dtype=torch.float64)


@shared
def modes(case: Case, depth: int = 2) -> Tensor:
    """Singular modes over time of a linear network that learns a matrix, from a small start along its vectors."""
    U, V = (torch.linalg.qr(draw(case, role, 3, 3))[0] for role in ("left", "right"))
    target = U @ torch.diag(MODES) @ V.mT
    size = SMALL ** (1 / depth)
    if depth == 1:
        begin, product = {"W": size * U @ V.mT}, lambda p: p["W"]
    else:
        begin, product = {"A": size * V.mT, "B": size * U}, lambda p: p["B"] @ p["A"]
    field = gradient_flow(lambda p: (product(p) - target).square().sum() / 2)
    return integrate(field, begin, MOMENTS, record={"a": lambda p: (U.mT @ product(p) @ V).diag()}, relative=1e-11)["a"]


def effective_rank(W: Tensor) -> Tensor:
    """The exponential of the entropy of the singular values, as shares of their sum."""
    shares = torch.linalg.svdvals(W)
    shares = shares / shares.sum(-1, keepdim=True)
    return torch.exp(torch.special.entr(shares).sum(-1))


@shared
def sensed(case: Case, rank: int, depth: int, size: float = 0.01, steps: int = 6000) -> Tensor:
    """Effective ranks of 6 by 6 matrices that fit 20 random measurements of one of low rank, by depth; ten draws.

    Linear networks from a small random start, by descent; with one layer the matrix of least norm.

    Raises:
        Unfinished: a network has not fitted.
    """
    role = f"sensing {rank}"
    X = draw(case, f"{role} X", DRAWS, 20, 36)
    S = draw(case, f"{role} left", DRAWS, 6, rank) @ draw(case, f"{role} right", DRAWS, rank, 6)
    S = 3 * S / S.flatten(1).norm(dim=1)[:, None, None]
    y = (X @ S.flatten(1)[..., None])[..., 0]
    if depth == 1:
        return effective_rank((torch.linalg.pinv(X) @ y[..., None]).view(DRAWS, 6, 6))
    layers = [size ** (1 / depth) * draw(case, f"{role} {depth} {l}", DRAWS, 6, 6) / 6**0.5 for l in range(depth)]
    motion, one = [torch.zeros_like(W) for W in layers], torch.eye(6, dtype=X.dtype).expand(DRAWS, 6, 6)
    for _ in range(steps):
        below, above = [one], [one]
        for W, V in zip(layers, reversed(layers), strict=True):
            below.append(W @ below[-1])
            above.append(above[-1] @ V)
        gap = (X @ below[-1].flatten(1)[..., None])[..., 0] - y
        push = (gap[:, None] @ X).view(DRAWS, 6, 6) / 20
        slopes = [above[depth - 1 - l].mT @ push @ below[l].mT for l in range(depth)]
        motion = [0.9 * m - 0.01 * slope for m, slope in zip(motion, slopes, strict=True)]
        layers = [W + m for W, m in zip(layers, motion, strict=True)]
    if not gap.abs().max() < 3e-2:
        raise Unfinished(f"{depth} layers from size {size:g} miss a measurement by {gap.abs().max():.1g}")
    return effective_rank(below[-1])


# Digits


@shared
def regret(case: Case, kind: str, noise: float = 0.2, steps: int = 600, count: int = 20, size: int = 80) -> Tensor:
    """Last less best test error of two ReLU layers without decay on digits with flipped labels, one a draw."""
    pool = unit_norm(flatten(select_classes(digits(), ["3", "5", "8", "9"])))
    images, classes = pool.inputs.double(), torch.where(pool.labels < 2, 1.0, -1.0).double()
    order = torch.stack([torch.randperm(len(images), generator=case.generator(f"order {k}")) for k in range(count)])
    flips = torch.rand(count, size, generator=case.generator("flips"))
    x, held, truth = images[order[:, :size]], images[order[:, size : size + 400]], classes[order[:, size : size + 400]]
    y = torch.where(flips < noise, -1.0, 1.0).double() * classes[order[:, :size]]
    W, a, errors = draw(case, "W", count, 32, 64) / 32**0.5, draw(case, "a", count, 1, 32) / 32**0.5, []
    for k in range(steps):
        Z = x @ W.mT
        g = (Z.relu() @ a.mT)[..., 0]
        pull = 0.5 / size * (y - g if kind == "square" else y * torch.sigmoid(-y * g))[..., None]
        W, a = W + ((pull @ a) * (Z > 0)).mT @ x, a + pull.mT @ Z.relu()
        if k % 50 == 49:
            wrong = ((held @ W.mT).relu() @ a.mT)[..., 0] * truth <= 0
            errors.append(wrong.double().mean(1))
    return errors[-1] - torch.stack(errors).amin(0)
