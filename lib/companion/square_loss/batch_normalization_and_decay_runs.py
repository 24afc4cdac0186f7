"""Runs of section 3 of paper B: critical lengths, last layers, single samples, large decay, and Figures 1 to 5.

The network of the figures is trained on digits by :mod:`companion.studies.square_loss`; its runs on two classes of
CIFAR-10 are stored by :mod:`companion.studies.square_loss_figures`.
"""

from typing import NamedTuple

import torch
from scipy.optimize import brentq
from torch import Tensor

from claimbook.evidence import Case, Unfinished, shared
from claimbook.show import results
from companion.square_loss.equilibria_runs import unit, unit_rows
from companion.studies.square_loss import Setup, equilibrium_ratio, norm_products, run, two_classes
from companion.studies.square_loss_figures import LEVELS
from companion.theory_iii.hidden_complexity_control_runs import normal
from normdyn.data.sets import digits, flatten, select_classes
from normdyn.motion.flows import integrate
from normdyn.networks.graphs import layered_weights, mlp

# Critical lengths at given outputs


class Critical(NamedTuple):
    """Outputs times labels of a normalised network, the decay, and the length at which the loss is stationary."""

    m: Tensor
    decay: float
    rho: Tensor


def critical(m: Tensor, decay: float = 0.0) -> Critical:
    """The root of the loss's slope in rho, by search."""
    loss = lambda r: (r * m - 1).square().sum() + decay * r**2
    slope = lambda r: torch.func.grad(loss)(torch.tensor(r, dtype=torch.float64)).item() / m.norm().item()
    reach = 10 / m.abs().max().item()
    root = brentq(slope, -reach, reach, xtol=1e-15 * reach, rtol=1e-14)
    return Critical(m, decay, torch.tensor(root, dtype=torch.float64))


def uniform(case: Case, role: str, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=case.generator(role), dtype=torch.float64)


CLOSE = 0.01  # a mean square loss that is close to zero; predicting nothing has one


@shared
def fitting(case: Case, fits: bool = True) -> list[Critical]:
    """Critical lengths of twenty samples with a loss close to zero, or far from it: more decay, unequal outputs."""
    found = []
    for size in (1e-3, 0.1, 0.9):
        for share in (0.0, 0.03, 0.1):
            noise = uniform(case, f"fitting {size} {share}", 20)
            m = size * (1 + 0.05 * (noise - 0.5)) if fits else size * noise
            decay = (share if fits else 100.0) * m.square().sum().item()
            one = critical(m, decay)
            if fits and (one.rho * m - 1).square().mean() > CLOSE:
                raise Unfinished("outputs that do not fit")
            found.append(one)
    return found


@shared
def drawn_lengths(case: Case, least: float = 0.0, decay: float = 0.0) -> list[Critical]:
    """Critical lengths where y f is drawn between ``least`` and one, and where it is zero or one."""
    found = []
    for k in range(12):
        m = least + (1 - least) * uniform(case, f"drawn {k}", 20) ** (1 + k % 3)
        m = m * m.sum().sign()
        if k % 4 == 3:
            m = m.round()
            m[0] = 1.0
        found.append(critical(m, decay))
    return found


# Outputs of normalised networks


def normalised_outputs(weights: list[Tensor], X: Tensor) -> Tensor:
    """A ReLU network with each layer divided by its Frobenius norm."""
    return mlp([W / W.norm() for W in weights], X)[:, 0]


def chain_of_rank_one(case: Case, widths: tuple[int, ...]) -> tuple[list[Tensor], Tensor]:
    """Layers of rank one, each along the image of the one below, and the input that they pass on whole."""
    u = [unit(0.1 + uniform(case, f"aligned {j}", width)) for j, width in enumerate(widths)]
    return [torch.outer(b, a) for a, b in zip(u, u[1:], strict=False)], u[0][None]


@shared
def largest_outputs(case: Case, depth: int, width: int, drawn: bool = True, count: int = 20) -> Tensor:
    """Largest output of drawn networks with unit layers on 20 unit inputs, or of aligned ones; one entry a draw."""
    found, widths = [], (64, *[width] * (depth - 1), 1)
    for k in range(count):
        role = f"small {depth} {width} {k}"
        if drawn:
            layers = layered_weights(widths, case.generator(role))
            X = unit_rows(normal(case, f"{role} X", 20, widths[0]))
        else:
            layers, X = chain_of_rank_one(case, widths)
        found.append(normalised_outputs(layers, X).abs().max())
    return torch.stack(found)


# The last layer alone


class Last(NamedTuple):
    """Inputs, labels, outputs of the best last layer over random hidden ones, product of norms, outputs elsewhere."""

    X: Tensor
    y: Tensor
    g: Tensor
    rho: Tensor
    probe: Tensor


@shared
def last_layer(case: Case, draw: int, width: int = 60, size: float = 1.0) -> Last:
    """Two random hidden layers stay as they are; the last one is found by least squares for 20 samples."""
    X, y = size * unit_rows(normal(case, "last X", 20, 8)), normal(case, "last y", 20).sign()
    probe = size * unit_rows(normal(case, "last probe", 30, 8))
    A, B = normal(case, f"last A {draw}", width, 8), normal(case, f"last B {draw}", width, width)
    features = lambda Z: ((Z @ A.mT).relu() @ B.mT).relu()
    w = torch.linalg.lstsq(features(X), y[:, None], driver="gelsd").solution
    return Last(X, y, (features(X) @ w)[:, 0], A.norm() * B.norm() * w.norm(), (features(probe) @ w)[:, 0])


def nearest(X: Tensor, y: Tensor) -> Tensor:
    """Distance of the nearest two directions with different labels."""
    U = unit_rows(X)
    apart = torch.cdist(U, U)
    return apart[y[:, None] != y].min()


# One sample at a time


class Steps(NamedTuple):
    """A network's layers, its outputs and residuals, and the gradients of single outputs, samples first."""

    W: list[Tensor]
    g: Tensor
    ell: Tensor
    slopes: tuple[Tensor, ...]


def single(weights: list[Tensor], X: Tensor, y: Tensor) -> Steps:
    output = lambda *W: mlp(list(W), X)[:, 0]
    g = output(*weights)
    return Steps(weights, g, g - y, torch.func.jacrev(output, argnums=tuple(range(len(weights))))(*weights))


@shared
def networks(case: Case) -> list[Steps]:
    """Four drawn ReLU networks of four layers, one that is aligned with its input, one whose ReLUs are all off."""
    widths, found = (6, 8, 8, 8, 1), []
    X, y = normal(case, "single X", 20, 6).abs(), normal(case, "single y", 20).sign()
    for k in range(4):
        found.append(single(layered_weights(widths, case.generator(f"single {k}")), X, y))
    layers, x = chain_of_rank_one(case, widths)
    found.append(single(layers, x, -torch.ones(1, dtype=torch.float64)))
    first, *rest = layered_weights(widths, case.generator("off"))
    return [*found, single([-first.abs(), *rest], X, y)]


class Wandering(NamedTuple):
    """At a critical point of descent with two linear layers: its gradient and terms, and how far SGD moves then."""

    gradient: list[Tensor]
    terms: list[Tensor]
    moved: Tensor


@shared
def wandering(case: Case, samples: int) -> list[Wandering]:
    """Four thousand steps with one sample each from the least-squares solution of 4 features; the last 500 count."""
    found = []
    for k in range(3):
        X, y = unit_rows(normal(case, f"wander X {k}", samples, 4)), normal(case, f"wander y {k}", samples).sign()
        w = torch.linalg.lstsq(X, y[:, None], driver="gelsd").solution[:, 0]
        a = unit(normal(case, f"wander a {k}", 3))
        A, b = torch.outer(a, w), a.clone()
        ell = X @ w - y
        single_A = ell[:, None, None] * b[:, None] * X[:, None]
        single_b = ell[:, None] * (X @ A.mT)
        order = torch.randint(samples, (4000,), generator=case.generator(f"wander order {k}"))
        path = []
        for n in order.tolist():
            residual = b @ A @ X[n] - y[n]
            A, b = A - 0.05 * residual * torch.outer(b, X[n]), b - 0.05 * residual * (A @ X[n])
            path.append(b @ A)
        late = torch.stack(path[-500:])
        moved = (late - late.mean(0)).norm(dim=1).max() / w.norm()
        found.append(Wandering([single_A.sum(0), single_b.sum(0)], [single_A.abs().sum(), single_b.abs().sum()], moved))
    return found


# Large decay

LENGTHS, SETS = (1.0, 3.0, 20.0), 10
SIDES = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)


@shared
def from_three_lengths(case: Case, depth: int, width: int, decay: float, steps: int = 1500) -> Tensor:
    """Length at the end of descent in rho and unit layers, from three lengths, each with its own directions: (sets, 3).

    Eight unit inputs in four dimensions, four labels of each kind; momentum 0.9, step 0.0015, sums of squares.
    """
    draw = case.generator(f"lengths {depth} {width}")
    normals = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)
    X = unit_rows(normals(SETS * 8, 4)).reshape(SETS, 1, 8, 4).expand(SETS, 3, 8, 4)
    y = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)
    shapes = [(width, 4), *[(width, width)] * (depth - 2), (1, width)]
    whole = lambda v: v.flatten(2).norm(dim=2)[..., None, None]
    V = [(lambda v: v / whole(v))(normals(SETS, 3, *shape)) for shape in shapes]

    def outputs() -> Tensor:
        H = X
        for v in V[:-1]:
            H = (H @ v.mT).relu()
        return (H @ V[-1].mT)[..., 0]

    V[-1] = V[-1] * (outputs() * y).sum(-1).sign()[..., None, None]  # average separability
    rho = torch.tensor(LENGTHS, dtype=torch.float64).repeat(SETS, 1).requires_grad_()
    V = [v.requires_grad_() for v in V]
    momenta = [torch.zeros_like(p) for p in (rho, *V)]
    for _ in range(steps):
        loss = (rho[..., None] * outputs() - y).square().sum() + decay * rho.square().sum()
        slopes = torch.autograd.grad(loss, (rho, *V))
        with torch.no_grad():
            rho -= 0.0015 * momenta[0].mul_(0.9).add_(slopes[0])
            for v, slope, m in zip(V, slopes[1:], momenta[1:], strict=True):
                along = (slope * v).flatten(2).sum(2)[..., None, None]
                v -= 0.0015 * m.mul_(0.9).add_(slope - along * v)
                v /= whole(v)
    return rho.detach()


@shared
def two_sides(decay: float, activation=torch.relu) -> list[Tensor]:
    """Lengths at time 100 of one unit that sees three samples at e_1 and one at -e_1, labels one, from either side."""
    f = lambda v: activation(SIDES @ v)

    def field(p):
        out, pull = torch.func.vjp(f, p["v"])
        drive = pull(p["rho"] * out - 1)[0]
        return {
            "rho": -2 * (p["rho"] * out @ out - out.sum() + decay * p["rho"]),
            "v": -2 * p["rho"] * (drive - p["v"] * (p["v"] @ drive)),
        }

    found = []
    for angle in (0.5, 2.6):
        v = torch.tensor([angle, angle - torch.pi / 2], dtype=torch.float64).cos()
        start = {"rho": torch.tensor(2.0, dtype=torch.float64), "v": v}
        found.append(integrate(field, start, (0.0, 100.0), relative=1e-9, absolute=1e-11)["rho"][-1])
    return found


# Figures 1 to 5

STORED = "data/results/paper/square-loss-figures.npz"
SCALES = (0.1, 1.0, 5.0)  # norms of each of the four layers at the start
LAST = 10  # records that count as late


class Curves(NamedTuple):
    """What the figures show over records, starts and seeds: epochs, loss, product of the stored layers' norms, mean
    |f_n|, ratio of sum y f and rho sum f^2, and of the outputs y g the first decile, the median and the ninth."""

    epochs: Tensor
    loss: Tensor
    rho: Tensor
    size: Tensor
    ratio: Tensor
    deciles: Tensor

    @property
    def spread(self) -> Tensor:
        """Distance of the outer deciles over their sum: 0.2 where one is 1.5 times the other; one if signs differ."""
        low, _, high = self.deciles.unbind(-1)
        return ((high - low) / (high + low).abs()).clamp(max=1)


def default_epochs(case: Case) -> int:
    return 300 if case.profile == "quick" else 1000


@shared
def pair(case: Case, flat: bool = True):
    """Threes and eights of norm one, 256 of them for training."""
    chosen = select_classes(digits(), ["3", "8"])
    return two_classes(flatten(chosen) if flat else chosen, samples=256, seed=case.seed)


def seeds(case: Case) -> tuple[int, ...]:
    return tuple(8 * case.seed + k for k in range(8))


def curves_of(result: dict[str, Tensor], y: Tensor, decay: int = 0) -> Curves:
    """The curves of one run at one of its decays."""
    g, rho = result["outputs"][:, :, decay], norm_products(result)["all"][:, :, decay]
    deciles = (g * y).quantile(torch.tensor([0.1, 0.5, 0.9], dtype=g.dtype), dim=-1).movedim(0, -1)
    loss = result["train_loss"][:, :, decay]
    if not loss[-1].isfinite().all():
        raise Unfinished("a network has left the numbers")
    return Curves(result["epochs"], loss, rho, g.abs().mean(-1) / rho, equilibrium_ratio(g, y), deciles)


@shared
def descended(case: Case, decay: float, epochs: int = 0, plain: bool = False) -> dict[str, Tensor]:
    """Four fully connected layers of width 16 on digits; without normalisation from norms 3, 5 and 8, smaller steps."""
    count = epochs or default_epochs(case)
    setup = Setup(
        scales=(3.0, 5.0, 8.0) if plain else SCALES, decays=(decay,), seeds=seeds(case), width=16, epochs=count,
        evaluations=count // 10, batch_norm=not plain, learning_rate=0.005 if plain else 0.1,
    )  # fmt: skip
    return run(setup, *pair(case), device=case.device)


def on_digits(case: Case, decay: float, epochs: int = 0, plain: bool = False) -> Curves:
    """Their curves."""
    return curves_of(descended(case, decay, epochs, plain), pair(case)[0][1])


@shared
def on_images(decay: float, figures: str = "figures_1_to_5") -> Curves:
    """The stored runs on two classes of CIFAR-10; the mean of |y g| is that of its nine stored quantiles."""
    stored, origin = results.load(STORED)
    k = origin.setup[figures]["decays"].index(decay)
    of = lambda name: stored[f"{figures}__{name}"][:, :, k].double()
    at, level = of("margins"), torch.tensor(LEVELS, dtype=torch.float64)
    deciles = at[..., [LEVELS.index(0.1), LEVELS.index(0.5), LEVELS.index(0.9)]]
    size = torch.trapezoid(at.abs(), level, dim=-1) / of("rho")
    return Curves(stored[f"{figures}__epochs"].double(), of("loss"), of("rho"), size, of("ratio"), deciles)


def both(case: Case, decay: float, epochs: int = 0) -> list[Curves]:
    """Digits and images."""
    return [on_digits(case, decay, epochs), on_images(decay)]


def late(values: Tensor, when: str = "late") -> Tensor:
    """The median of the last ten records, as the loss jumps at this step; or the first record."""
    return values[-LAST:].median(0).values if when == "late" else values[0]


def left_of_the_start(values: Tensor, when: str = "late") -> list[Tensor]:
    """The share left of the difference between the logarithms at two neighbouring starts: a row of seeds each."""
    begin, end = values[0].log(), late(values.log(), when)
    return [(end[k + 1] - end[k]).abs() / (begin[k + 1] - begin[k]).abs() for k in range(len(end) - 1)]


def reach(values: Tensor, when: str = "late") -> Tensor:
    """The logarithm of the largest end over the smallest, over starts."""
    end = late(values.log(), when)
    return end.amax(0) - end.amin(0)
