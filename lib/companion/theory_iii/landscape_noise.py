"""What decides the claims of section 3 of paper D on noise: a stationary density, flat wells, where SGD arrives."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from claimbook.evidence import Case, at_most, claim, equal, limit, shared, tendency, together

TEMPERATURE, LEFT, STEP = 0.5, -4.0, 0.05
PLACES = torch.linspace(-2.0, 4.0, 25, dtype=torch.float64)


@shared
def spread(reach: float, decay: float) -> Tensor:
    """Density at some places long after a uniform start, for dw = -L' dt + (2T)^(1/2) dB in a box up to 8 times reach.

    The Fokker-Planck equation on a grid, central differences, no flux through the walls; L = exp(-w) + decay w^2 / 2.
    """
    n = round((8 * reach - LEFT) / STEP)
    centres = LEFT + STEP * (torch.arange(n, dtype=torch.float64) + 0.5)
    walls = LEFT + STEP * torch.arange(1, n, dtype=torch.float64)
    drift = torch.exp(-walls) - decay * walls  # minus the slope of L
    right, left = TEMPERATURE / STEP + drift / 2, TEMPERATURE / STEP - drift / 2  # flux: right p_i - left p_(i+1)
    flow = torch.diag(left, 1) + torch.diag(right, -1)
    flow = (flow - torch.diag(flow.sum(0))) / STEP
    p = torch.linalg.matrix_exp(40.0 * flow).mean(1) / STEP
    below = ((PLACES - centres[0]) / STEP).long()
    share = (PLACES - centres[below]) / STEP
    return (1 - share) * p[below] + share * p[below + 1]


@shared
def particles(case: Case, decay: float, step: float, time: float = 8.0, count: int = 100_000) -> Tensor:
    """Shares of particles below some places after steps on noisy slopes with white noise added, from a uniform start.

    Each step sees the slope of one of two samples, L +- w/2.
    """
    draw = case.generator("particles")
    w = 6 * torch.rand(count, generator=draw, dtype=torch.float64) - 2
    for _ in range(round(time / step)):
        sample = torch.randint(2, (count,), generator=draw) - 0.5
        noise = torch.randn(count, generator=draw, dtype=torch.float64)
        w = w - step * (decay * w - torch.exp(-w) + sample) + (2 * TEMPERATURE * step) ** 0.5 * noise
    return (w[:, None] < PLACES).double().mean(0)


@claim("D-eq9", printed={"decay": 0.0}, control={"step": 0.5})
def boltzmann_density(case, decay=1.0, step=0.01):
    """With weight decay the stationary density is exp(-L/T)/Z. Without, Z is infinite: mass spreads.  D (9)

    Of the Langevin equation, and of stochastic descent with white noise added in the limit of small steps. Control:
    large steps.
    """

    def density() -> Tensor:
        """By quadrature, on a line that is long enough to stand for infinity."""
        loss = lambda w: torch.exp(-w) + decay / 2 * w**2
        line = torch.linspace(-4.0, 4e3, 4_000_001, dtype=torch.float64)
        Z = torch.trapezoid(torch.exp(-loss(line) / TEMPERATURE), line)
        return torch.exp(-loss(PLACES) / TEMPERATURE) / Z

    def below() -> Tensor:
        """The share below each place, by quadrature."""
        line = torch.linspace(-4.0, 40.0, 440_001, dtype=torch.float64)
        p = torch.exp(-(torch.exp(-line) + decay / 2 * line**2) / TEMPERATURE)
        shares = torch.cumulative_trapezoid(p, line) / torch.trapezoid(p, line)
        return shares[((PLACES + 4.0) / 1e-4).round().long() - 1]

    return together(
        langevin=limit(
            measured=lambda reach: spread(reach, decay), predicted=density,
            bound=4e-3, reason="a grid of 0.05, second order; the box is doubled",
        ),
        descent=equal(
            measured=lambda: particles(case, decay, step), predicted=below, scale=lambda: 1.0,
            bound=1e-2, reason="three deviations of 100,000 particles, and a step of 0.01", margin=5.0,
        ),
    )  # fmt: skip


# Wells of equal depth

Well = Callable[[Tensor], Tensor]


def wide(w: Tensor) -> Tensor:
    """Two minima of depth zero: at 1 of order four, at -1 of order two, equally steep otherwise."""
    return (w - 1) ** 4 * (w + 1) ** 2


def narrow(w: Tensor) -> Tensor:
    """The same with the degenerate well a hundred times as narrow as the other one."""
    return torch.where(w > 0, 1e8 * (w - 1) ** 4, 1.0) * (w + 1) ** 2 / 4


def mass(loss: Well, well: float, order: int, T: float) -> Tensor:
    """Integral of exp(-L/T) over a well of this order, on a grid that zooms with the temperature."""
    s = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    return torch.trapezoid(torch.exp(-loss(well + T ** (1 / order) * s) / T), s) * T ** (1 / order)


def preference(loss: Well, T: float) -> Tensor:
    """Mass of the degenerate well at 1 over that of the nondegenerate one at -1."""
    return mass(loss, 1.0, 4, T) / mass(loss, -1.0, 2, T)


def ball(curvature: float, dimensions: int, T: float) -> Tensor:
    """Logarithm of the mass of an isotropic quadratic well, by quadrature over its radius, up to the sphere's area."""
    top = (T * dimensions / curvature) ** 0.5  # where the integrand is largest, nearly
    r = top * torch.linspace(1e-3, 6, 40_001, dtype=torch.float64)
    log = (dimensions - 1) * r.log() - curvature * r**2 / (2 * T)
    return torch.logsumexp(log, 0) + (r[1] - r[0]).log()


COLD, WARM = (1e-10, 1e-12), (1e-3, 1e-4)


@claim("D-boltzmann-degenerate", printed={"temperatures": WARM}, control={"curvatures": (1.0, 1.0)})
def noise_prefers_flat_and_wide(case, temperatures=COLD, curvatures=(4.0, 1.0)):
    """At low enough T the degenerate one of two minima of equal depth has more mass, by a factor that grows as T^-1/4.

    In d dimensions the wider of two wells has more, by a power d/2 of the curvatures' ratio.  D section 3
    """
    steep, flat = curvatures
    dimensions = (2, 20, 200)
    slope = lambda a, b: (preference(wide, b) / preference(wide, a)).log() / math.log(b / a)
    return together(
        prefers=at_most(
            left=lambda: [1.0] * 4,
            right=lambda: [preference(loss, T) for loss in (wide, narrow) for T in temperatures],
            bound=1e-3, reason="quadrature",
        ),
        grows=limit(
            measured=lambda reach: slope(1e-6**reach, 1e-8**reach), predicted=lambda: -0.25,
            bound=2e-3, reason="the next term of the expansion, of order T^(1/2), at 1e-6 and 1e-12",
        ),
        volume=equal(
            measured=lambda: [ball(flat, d, 0.1) - ball(steep, d, 0.1) for d in dimensions],
            predicted=lambda: [d / 2 * math.log(4.0) for d in dimensions],
            bound=1e-6, reason="quadrature over the radius, up to six times that of most mass",
        ),
    )  # fmt: skip


# Where stochastic gradient descent arrives

CELLS = tuple((depth, samples) for depth in (2, 3) for samples in (8, 12))
RUNS, SEEDS = 8, 5


@shared
def arrived(case: Case, depth: int, samples: int, width: int, steps: int, step: float = 0.02) -> Tensor:
    """Share of ReLU networks that SGD, two samples a step, leaves with all labels right, for each of five seeds.

    Inputs and labels are random, in four dimensions; pushes are clipped at ten times that of margin zero.
    """
    many, role = RUNS * SEEDS, f"{depth} {samples}"
    normal = lambda name, *shape: torch.randn(*shape, generator=case.generator(f"{role} {name}"), dtype=torch.float64)
    X, y = normal("X", many, samples, 4), normal("y", many, samples).sign()
    widths = (4, *[width] * (depth - 1), 1)
    W = [normal(f"W{l}", many, m, n) * (2 / n) ** 0.5 for l, (n, m) in enumerate(zip(widths, widths[1:], strict=False))]
    order = case.generator(f"{role} order")
    for n in range(steps):
        if n % 100 == 0 and bool((y * outputs(W, X) > 0).all()):
            break
        rows = torch.randint(samples, (many, 2), generator=order)
        batch = X.gather(1, rows[..., None].expand(-1, -1, 4))
        W = [V + step * push for V, push in zip(W, pushes(W, batch, y.gather(1, rows)), strict=True)]
    return (y * outputs(W, X) > 0).all(1).double().view(SEEDS, RUNS).mean(1)


def outputs(W: list[Tensor], X: Tensor) -> Tensor:
    """Outputs of many ReLU networks."""
    for V in W[:-1]:
        X = (X @ V.mT).relu()
    return (X @ W[-1].mT)[..., 0]


def pushes(W: list[Tensor], X: Tensor, y: Tensor) -> list[Tensor]:
    """Minus the gradient of the mean of exp(-y f) for each layer of many networks, clipped."""
    states = [X]
    for V in W[:-1]:
        states.append((states[-1] @ V.mT).relu())
    force = y * torch.exp(-y * (states[-1] @ W[-1].mT)[..., 0]).clamp_max(10) / y.shape[1]
    back, found = force[..., None], []
    for V, state in zip(reversed(W), reversed(states), strict=True):
        found.append(back.mT @ state)
        back = (back @ V) * (state > 0)
    return found[::-1]


@shared
def some_networks(case: Case) -> tuple[list[Tensor], Tensor, Tensor]:
    """Small networks, so that nothing is clipped, with inputs and labels."""
    normal = lambda name, *shape: torch.randn(*shape, generator=case.generator(name), dtype=torch.float64)
    W = [0.3 * normal(f"some {l}", 4, m, n) for l, (n, m) in enumerate(((4, 6), (6, 5), (5, 1)))]
    return W, normal("some X", 4, 3, 4), normal("some y", 4, 3).sign()


def autodiff(W: list[Tensor], X: Tensor, y: Tensor) -> list[Tensor]:
    """The same by automatic differentiation."""
    loss = lambda *W: torch.exp(-y * outputs(list(W), X)).mean(1).sum()
    return [-g for g in torch.func.grad(loss, argnums=(0, 1, 2))(*W)]


@claim("D-conj1", control={"width": 2}, untrained={"steps": 0}, longer={"steps": 5000})
def sgd_arrives_where_all_labels_are_right(case, width=40, steps=2500):
    """SGD brings more than four fifths of wide ReLU networks to where all labels are right and no critical point is.

    Two depths, 8 and 12 random samples in four dimensions, five seeds of 8 networks each.  D Conjecture of section 3
    """
    return together(
        arrives=tendency(
            effect=lambda: [arrived(case, *cell, width, steps) - 0.8 for cell in CELLS],
            reason="four cells, steps of 0.02, 2500 at most; networks of width 2 are the control",
        ),
        steps=equal(
            measured=lambda: pushes(*some_networks(case)), predicted=lambda: autodiff(*some_networks(case)),
            bound=1e-12, reason="rounding; the gradient by hand against automatic differentiation",
        ),
    )  # fmt: skip
