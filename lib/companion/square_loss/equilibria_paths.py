"""What decides the rest of section 2.3.1 and of appendix E of paper B: Observations 1 and 2, linear layers, SGD.

What holds at an equilibrium is in :mod:`companion.square_loss.equilibria`.
"""

from itertools import product
from typing import NamedTuple

import torch
from scipy.optimize import brentq
from torch import Tensor

from claimbook.evidence import Case, at_most, claim, counterexample, equal, together
from companion.square_loss import equilibria_runs as runs
from companion.square_loss.equilibria import SOLVER
from companion.square_loss.equilibria_runs import DECAY, Point
from companion.square_loss.maximum_margin import interpolant_norm, problems

# Observation 1


class World(NamedTuple):
    """Angles of inputs and decay where growth is watched; angles where the decay is then sent to zero."""

    growth: tuple[tuple[tuple[float, ...], float], ...]
    limit: tuple[float, ...]


HARD = World((((0.0, 5.0), 0.0), ((0.0, 5.0), 0.01)), (0.0, 30.0, 60.0))
EASY = World((((0.0,), 0.0),), (0.0, 30.0))
LAST = 1e-4  # the least decay


@claim("B-obs1", control={"world": EASY})
def length_grows_to_its_minimum(case, world=HARD):
    """From a small start the length grows until it rests, and the loss there goes to zero with the decay.  B Obs. 1

    One ReLU unit that separates all samples throughout. Control: one sample without decay; two for the loss.
    """
    path = lambda angles, decay: runs.planar(angles, decay)
    end = lambda: runs.planar(world.limit, LAST, -25.0)
    ones = lambda angles: torch.ones(len(angles), dtype=torch.float64)
    rest = lambda angles, decay: runs.ridge(runs.at_angles(*angles), ones(angles), decay or 1e-12).norm()
    lost = lambda w: (runs.at_angles(*world.limit) @ w - 1).square().sum()

    early = lambda angles, decay: runs.planar(angles, decay, method="DOP853", stop=20.0)

    def exact() -> float:
        overshoot = [(early(*one)["rho"].max() / rest(*one) - 1).item()
                     for one in world.growth]  # fmt: skip
        return min(*overshoot, lost(runs.ridge(runs.at_angles(*world.limit), ones(world.limit), LAST)).item())

    return counterexample(
        at_most(
            left=lambda: [*(path(*one)["rho"].max() / path(*one)["rho"][-1] - 1 for one in world.growth),
                          lost(end()["w"][-1])],
            right=lambda: [0.0] * (len(world.growth) + 1), scale=lambda: [1.0] * (len(world.growth) + 1),
            bound=1e-5, reason="integrator's tolerance of 1e-10 a step; a loss of order decay^2 = 1e-8",
        ),
        exact=exact,
        separated=at_most(
            left=lambda: [0.05] * (len(world.growth) + 1),
            right=lambda: [*(path(*one)["margin"].min() for one in world.growth), end()["margin"].min()],
            bound=1e-9, reason="rounding: every sample has the right sign, from start to end",
        ),
        ended=equal(
            measured=lambda: [*(path(*one)["rho"][-1] for one in world.growth), end()["rho"][-1]],
            predicted=lambda: [*(rest(*one) for one in world.growth), rest(world.limit, LAST)],
            bound=1e-5, reason="time 4000 is many times the slowest rate; ridge solutions in closed form",
        ),
    )  # fmt: skip


# Observation 2


@claim("B-obs2", printed={"among": "ineq"}, control={"resting": False})
def small_length_is_large_margin(case, among="eq", resting=True):
    """At rest the mean margin is (1 - L/N)/rho; the least interpolant has the largest margin of them.  B Obs. 2

    Printed: the largest margin of all. Control: random points.
    """
    total = lambda one: one.ell @ one.ell + DECAY * one.rho**2
    sets = lambda: tuple(problems(case)[:10])
    return together(
        mean=equal(
            measured=lambda: [(one.y * one.f).mean() for one in runs.there(case, resting)],
            predicted=lambda: [(1 - total(one) / len(one.y)) / one.rho for one in runs.there(case, resting)],
            scale=lambda: [1 / one.rho for one in runs.there(case, resting)],
            bound=1e-8, reason=SOLVER,
        ),
        largest=equal(
            measured=lambda: runs.widest(case, sets(), among),
            predicted=lambda: [1 / interpolant_norm(points) for points in sets()],
            bound=1e-6, reason="stopping of the quadratic program; 10 linear problems, 6 points in 9 dimensions",
        ),
    )  # fmt: skip


def with_the_rest(one: runs.First) -> float:
    """The length whose square, without the part outside of the span, is that of the least interpolant."""
    excess = lambda s: s * (1 - one.outside * torch.exp(torch.tensor(one.start**2 - s)).item()) - one.least**2
    return brentq(excess, one.least**2 - 1e-9, one.least**2 + 10, xtol=1e-14) ** 0.5


def the_least(one: runs.First) -> float:
    return one.least


@claim("B-obs2-first", printed={"law": the_least})
def first_interpolant_is_almost_the_least(case, law=with_the_rest):
    """A linear layer without decay stops at rho^2 (1 - |v_perp(0)|^2 e^(rho(0)^2 - rho^2)) = rho_min^2.  B Obs. 2

    Inputs that scatter and inputs that agree. Printed: at rho_min, which is close only where it is large.
    """
    some = lambda: [*runs.first_interpolants(case, 1.0), *runs.first_interpolants(case, 0.15)]
    return equal(
        measured=lambda: [one.rho for one in some()],
        predicted=lambda: [law(one) for one in some()],
        bound=1e-5, reason="integrator's tolerance and the loss left at time 2000; 6 data sets",
    )  # fmt: skip


@claim("B-degenerate-dim", printed={"spheres": 0})
def dimension_of_interpolants(case, spheres=2):
    """Unit layers that interpolate at one length form a set of dimension W - N - L. Printed: W - N.  B 2.3.1"""
    entries = sum(a * b for a, b in zip(runs.SIZES, runs.SIZES[1:], strict=False))
    return equal(
        measured=lambda: [float(one.dimension) for one in runs.interpolants(case)],
        predicted=lambda: [float(entries - runs.SAMPLES - spheres)] * 4,
        bound=1e-6, reason="whole numbers; 4 interpolants, ReLU network 5-8-1, six samples",
    )  # fmt: skip


@claim("B-same-norm-same-margin", control={"fitted": False})
def same_length_same_margins(case, fitted=True):
    """Interpolants of one length have the same margin at each sample.  B 2.3.1

    Four starts. Control: the starts themselves.
    """
    return equal(
        measured=lambda: [one.margins for one in runs.interpolants(case, fitted)],
        predicted=lambda: [runs.rows([1 / runs.LENGTH] * runs.SAMPLES) for _ in range(4)],
        bound=1e-9, reason="the solver's residual of 1e-12 over a margin of 1/30; 4 interpolants",
    )  # fmt: skip


# Linear layers


def pushes(kind: str, labelled: str, f: Tensor, rho: float, y: Tensor) -> Tensor:
    """Minus the derivative of the loss in each output, or what is printed in its place."""
    square, exponential = -2 * (rho * f - y), torch.exp(-rho * y * f)
    return square if kind == "square" else exponential * y if labelled == "yes" else exponential


def velocity(case: Case, k: int, kind: str) -> tuple[Tensor, Tensor]:
    """Of length and unit vector, by automatic differentiation."""
    X, y, v = runs.layer(case, k)
    value = {"square": lambda g: (g - y).square().sum(), "exponential": lambda g: (-y * g).exp().sum()}[kind]
    loss = lambda rho, v: value(rho * X @ (v / v.norm())) + DECAY * rho**2
    rates = torch.func.grad(loss, (0, 1))(torch.tensor(1.7, dtype=torch.float64), v)
    return -rates[0], -rates[1]


LAYERS = [(k, kind) for k in range(5) for kind in ("square", "exponential")]


def by_outputs(kind: str, f: Tensor, y: Tensor) -> Tensor:
    return pushes(kind, "yes", f, 1.7, y) @ f - 2 * DECAY * 1.7


def over_the_length(kind: str, f: Tensor, y: Tensor) -> Tensor:
    """Equation (32): one formula for both losses."""
    ell = 1.7 * f - y if kind == "square" else torch.exp(-1.7 * y * f)
    return 2 / 1.7 * (ell * y) @ f - 2 * DECAY * 1.7


@claim("B-eq32", printed={"law": over_the_length})
def length_of_a_linear_layer(case, law=by_outputs):
    """The length moves at sum l_n y_n v.x_n (exponential), -2 sum l_n v.x_n (square), less 2 decay rho.  B (32)"""
    outputs = lambda k: runs.layer(case, k)[0] @ runs.layer(case, k)[2]
    return equal(
        measured=lambda: [velocity(case, k, kind)[0] for k, kind in LAYERS],
        predicted=lambda: [law(kind, outputs(k), runs.layer(case, k)[1]) for k, kind in LAYERS],
        bound=1e-12, reason="rounding; 5 data sets, both losses",
    )  # fmt: skip


@claim("B-eq33", printed={"labelled": "no"})
def direction_of_a_linear_layer(case, labelled="yes"):
    """v' is parallel to sum l_n (x_n - v v.x_n); for the exponential loss with labels in it.  B (33), (34)

    Compared as lines: projectors on the two directions.
    """
    line = lambda d: torch.outer(d, d) / (d @ d)

    def law(k: int, kind: str) -> Tensor:
        X, y, v = runs.layer(case, k)
        total = pushes(kind, labelled, X @ v, 1.7, y) @ X
        return total - v * (v @ total)

    return equal(
        measured=lambda: [line(velocity(case, k, kind)[1]) for k, kind in LAYERS],
        predicted=lambda: [line(law(k, kind)) for k, kind in LAYERS],
        bound=1e-12, reason="rounding; 5 data sets, both losses",
    )  # fmt: skip


def vector(rho: Tensor, v: Tensor) -> Tensor:
    """w = rho v."""
    return rho[:, None] * v


def direction(rho: Tensor, v: Tensor) -> Tensor:
    """v, as long as w at its end."""
    return rho.abs()[:, None] * v


@claim("B-E2-fixedpoint", printed={"seen": direction}, control={"decay": 0.0})
def one_end_with_decay(case, decay=0.1, seen=vector):
    """With decay rho v of a linear layer ends at the ridge solution from every start. Control: no decay.  B E.2

    Four starts, two of them opposite. Printed: v does.
    """
    goal = lambda A: runs.ridge(A, A.new_ones(4), decay or 1e-10)
    return equal(
        measured=lambda: [seen(*runs.linear_ends(case, decay)[1:])],
        predicted=lambda: [goal(runs.linear_ends(case, decay)[0]).repeat(4, 1)],
        bound=1e-5, reason="integrator's tolerance of 1e-9 a step, time 250; four starts",
    )  # fmt: skip


# One sample at a time, and noise on labels


def of_the_angle(degrees: float) -> float:
    return 1 - torch.cos(torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))).item()


def none(degrees: float) -> float:
    return 0.0


@claim("B-eq40", printed={"floor": none})
def stationary_for_each_sample(case, floor=of_the_angle):
    """Where no l_n vanishes (39) is df_n/dV_k = V_k f_n; over all networks two inputs leave a defect 1 - |cos|.  B (40)

    Printed: the defect can vanish.
    """
    off = lambda W, x: x - W * (W * x).sum()
    each = lambda one: [(n, k) for n in range(len(one.y)) for k in range(len(one.V))]
    return together(
        algebra=equal(
            measured=lambda: [off(one.V[k], one.ell[n] * one.slopes[k][n]) / one.ell[n]
                              for one in runs.elsewhere(case) for n, k in each(one)],
            predicted=lambda: [one.slopes[k][n] - one.V[k] * one.f[n]
                               for one in runs.elsewhere(case) for n, k in each(one)],
            scale=lambda: [one.slopes[k][n].abs().max() for one in runs.elsewhere(case) for n, k in each(one)],
            bound=1e-10, reason="rounding; 6 random networks, Euler's identity",
        ),
        defect=equal(
            measured=lambda: [runs.least_defect(case, degrees) for degrees in (20.0, 50.0, 80.0)],
            predicted=lambda: [floor(degrees) for degrees in (20.0, 50.0, 80.0)],
            scale=lambda: [1.0] * 3, bound=1e-4, reason="convergence of L-BFGS; best of four starts an angle",
        ),
    )  # fmt: skip


FLIP, SIZE = 0.2, 0.3


def flipped(y: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
    """Labels after each pattern of flips, and its chance."""
    return signs * y, (0.5 + (0.5 - FLIP) * signs).prod(1)


def shifted(y: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
    """Labels plus or minus 0.3, all patterns alike."""
    return y + SIZE * signs, torch.full((len(signs),), 1 / len(signs), dtype=y.dtype)


@claim("B-labelnoise", printed={"noise": shifted})
def noise_on_labels(case, noise=flipped):
    """Flips with probability p multiply sum f_n y_n by 1 - 2p in the mean, and with it rho_eq.  B E.1, footnote 13

    All 64 patterns, f fixed. Printed: additive noise lowers the sum.
    """
    signs = torch.tensor(list(product([1.0, -1.0], repeat=6)), dtype=torch.float64)

    def mean(one: Point) -> Tensor:
        labels, chance = noise(one.y, signs)
        return chance @ (labels @ one.f / (DECAY + one.f @ one.f))

    return equal(
        measured=lambda: [mean(one) for one in runs.equilibria(case)],
        predicted=lambda: [(1 - 2 * FLIP) * one.rho for one in runs.equilibria(case)],
        bound=1e-8, reason="the solver's gradient; lengths of 6 critical points against means over 64 patterns",
    )  # fmt: skip
