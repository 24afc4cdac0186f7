"""What decides section 7.1 of paper C: whether descent converges, where, how fast, and what normalisation changes.

Runs are in :mod:`companion.normalization_geometry.convergence_runs`.
"""

import math

import torch
from torch import Tensor

from claimbook.evidence import at_most, claim, counterexample, equal, tendency, together
from companion.normalization_geometry import convergence_runs as runs
from normdyn.measures.curvature import hessian
from normdyn.motion.flows import gradient

# Does descent converge?


@claim(
    "C-gd-converges-critical", printed={"problems": runs.separable}, control={"step": 2.2},
    untrained={"steps": 1}, longer={"steps": 600},
)  # fmt: skip
def bounded_paths_of_analytic_losses(case, problems=runs.bounded_and_analytic, step=1.0, steps=300):
    """Descent and flow converge to a critical point if the path is bounded and the loss analytic.  C 7.1

    Parabolas, logistic losses with decay, and normalised units without gain, on a sphere. Printed: logistic losses of
    separable points, with and without normalisation; smooth, and without a critical point. Control: too large a step.
    """
    made = lambda: runs.descents(case, problems, steps, step)
    return together(
        gradients=at_most(
            left=lambda: [one.squares * abs(one.step) for one in made()],
            right=lambda: [one.height for one in made()],
            bound=1e-9, reason="rounding of 600 steps",
        ),
        settles=equal(
            measured=lambda: [one.moved for one in made()], predicted=lambda: [0.0 for _ in made()],
            scale=lambda: [1.0 for _ in made()],
            bound=1e-7, reason="what is left after 300 steps; a logarithm moves by 0.7 in each doubling",
        ),
        critical=equal(
            measured=lambda: [one.slope for one in made()], predicted=lambda: [0.0 for _ in made()],
            scale=lambda: [1.0 for _ in made()], bound=1e-7, reason="what is left after 600 steps",
        ),
        flow=equal(
            measured=lambda: runs.flows(case, problems, 200.0), predicted=lambda: [0.0 for _ in problems(case)],
            scale=lambda: [1.0 for _ in problems(case)],
            bound=1e-7, reason="what is left at time 200; tolerance of 1e-11 a step",
        ),
    )  # fmt: skip


@claim("O-smooth-path-without-limit", control={"turn": 0.5})
def a_spiral(case, turn=0.0):
    """The gradient flow of a smooth function follows the spiral of angle 1/(1 - r^2), which nears a whole circle.

    Function and spiral are those of Absil, Mahony and Andrews. Control: the spiral turned by half a radian.
    """
    return equal(
        measured=lambda: runs.turning_of_the_flow(turn),
        predicted=lambda: [2 * r / (1 - r**2) ** 2 for r in runs.RADII],
        bound=1e-12, reason="rounding of automatic differentiation; five radii", margin=100.0,
    )  # fmt: skip


@claim(
    "C-convex-rate", printed={"losses": runs.quartic}, control={"step": 2.1},
    untrained={"steps": 10}, longer={"steps": 8000},
)  # fmt: skip
def steps_in_proportion_to_the_condition_number(case, losses=runs.strongly_convex, step=1.0, steps=4000):
    """With a strong convexity mu descent of step 1/beta needs at most kappa/2 ln(1/eps) steps, kappa = beta/mu.  C 7.1

    Each step leaves at most (1 - 1/kappa)^2 of the excess, and a quadratic may take no fewer. Printed: w^4/4, convex
    and smooth on the way, with kappa = 100. Control: a step beyond 2/beta.
    """
    tiny = 1e-8

    def above(one):
        return one.excess[one.excess > tiny * one.excess[0]]

    def count(one):
        hit = (one.excess <= tiny * one.excess[0]).nonzero()
        return hit[0, 0].double() if len(hit) else torch.tensor(math.inf)

    whole = lambda kappa: math.ceil(math.log(tiny) / (2 * math.log1p(-1 / kappa)))
    return together(
        rate=at_most(
            left=lambda: [above(one) for one in losses(case, step, steps)],
            right=lambda: [
                one.excess[0] * (1 - 1 / one.kappa) ** (2 * torch.arange(len(above(one)), dtype=torch.float64))
                for one in losses(case, step, steps)
            ],
            bound=1e-6, reason="rounding of some thousand steps, above 1e-8 of the first excess",
        ),
        fewer=equal(
            measured=lambda: [count(one) for one in losses(case, step, steps)[: len(runs.KAPPAS)]],
            predicted=lambda: [whole(one.kappa) for one in losses(case, step, steps)[: len(runs.KAPPAS)]],
            bound=5e-3, reason="whole numbers of steps, 270 or more",
        ),
    )  # fmt: skip


# Saddles


@claim("O-unit-height-on-an-ellipsoid", control={"centred": False})
def a_height(case, centred=True):
    """The loss of a batch-normalised linear unit is a height on an ellipsoid, with two critical rays.

    L(u) = (1 + <y^2>)/2 - <u, w*>_C / |u|_C, at drawn weights, with its gradient; and the Hessians at both rays.
    Control: targets and inputs with a mean.
    """
    some = lambda: list(enumerate(runs.regressions(case, centred=centred)))
    at = lambda k: runs.somewhere(case)[k]

    def height(one, u):
        return (1 + one.y.square().mean()) / 2 - one.inner(u, one.best) / one.size(u)

    def slope(one, u):
        part = one.best - one.inner(u, one.best) / one.size(u) ** 2 * u
        return -one.C @ part / one.size(u)

    def curved(one, sign):
        u = one.C @ one.best
        return sign * (one.C - torch.outer(u, u) / one.size(one.best) ** 2) / one.size(one.best)

    return together(
        loss=equal(
            measured=lambda: [runs.of_unit(one)({"u": at(k)}) for k, one in some()],
            predicted=lambda: [height(one, at(k)) for k, one in some()], bound=1e-12, reason="rounding",
        ),
        gradient=equal(
            measured=lambda: [gradient(runs.of_unit(one))({"u": at(k)})["u"] for k, one in some()],
            predicted=lambda: [slope(one, at(k)) for k, one in some()], bound=1e-12, reason="rounding",
        ),
        rays=equal(
            measured=lambda: [hessian(runs.of_unit(one), {"u": s * one.best}) for s in (1, -1) for _, one in some()],
            predicted=lambda: [curved(one, s) for s in (1, -1) for _, one in some()], bound=1e-11, reason="rounding",
        ),
    )  # fmt: skip


@claim("O-half-angle", control={"whitened": False})
def from_near_the_maximum(case, whitened=True):
    """Below BN on whitened inputs tan of half the angle to the solution falls like exp(-|w*| t / r^2).

    Control: correlated inputs.
    """
    times = (0.0, 1.0, 2.0, 4.0, 8.0)
    found = lambda: runs.half_angles(case, whitened, times)

    def line(one, start):
        axis, u = one.best / one.best.norm(), start / start.norm()
        first = torch.sqrt((1 - u @ axis) / (1 + u @ axis)).log()
        return first - one.best.norm() * torch.tensor(times, dtype=torch.float64) / start.norm() ** 2

    return equal(
        measured=lambda: [path for _, path in found()],
        predicted=lambda: [
            line(one, start) for one, (start, _) in zip(runs.regressions(case, whitened), found(), strict=True)
        ],
        bound=1e-6, reason="integrator at 1e-12 a step; the square root near the maximum costs digits",
    )  # fmt: skip


@claim("C-bn-linear-critical-points", control={"places": runs.at_the_solution})
def not_every_critical_point(case, places=runs.opposite):
    """Every critical point of a normalised linear network is a global minimum along the sphere. It is not.

    Without a gain the ray opposite the solution is the maximum; with one, gain zero is a saddle. Control: the
    solution.  C 7.1
    """
    return counterexample(
        at_most(
            left=lambda: [place.loss(place.at) for place in places(case)],
            right=lambda: [place.loss(place.at) for place in runs.at_the_solution(case)],
            scale=lambda: [1.0 for _ in places(case)], bound=1e-9, reason="rounding",
        ),
        exact=lambda: [min(min(2 * one.size(one.best), one.size(one.best) ** 2 / 2) for one in runs.regressions(case))],
        critical=equal(
            measured=lambda: [s for place in places(case) for s in gradient(place.loss)(place.at).values()],
            predicted=lambda: [0.0 for place in places(case) for _ in place.at],
            scale=lambda: [1.0 for place in places(case) for _ in place.at], bound=1e-12, reason="rounding",
        ),
    )  # fmt: skip


@claim("C-strict-saddles", printed={"gains": True}, control=[{"normalised": False}, {"spread": 0.0}])
def saddles_are_strict(case, gains=False, normalised=True, spread=1e-2):
    """In a deep linear network with BN behind its hidden layers, gains fixed, saddles are strict, and flows leave them.

    The least curvature is at most that in the last weights and in first weights moved along the target, where second
    derivatives are moments of features, slopes of their overlaps with the target, and zeros.
    Starts around strict saddles of units below BN and LN. Printed: gains are trained. Controls: no normalisation; a
    start on the saddle.  C 7.1
    """

    def bound(one, at):
        first = (one.X @ at["W1"].mT).std(0, correction=0)
        rows = at["W2"] / first  # features of the second layer, before their normalisation, are rows @ W1 x
        U = rows @ at["W1"]
        sizes = torch.stack([one.size(u) for u in U])
        features = one.inner(U, U.mT) / sizes / sizes[:, None]
        slopes = -rows / sizes[:, None] * one.size(one.best) ** 2 / one.best.norm()
        block = torch.cat([torch.cat([features, slopes], 1), torch.cat([slopes.mT, torch.zeros(3, 3).double()], 1)])
        return -torch.linalg.eigvalsh(block)[0]

    fixed = lambda: [bound(one, place.at) for one, place in runs.deep_saddles(case)]
    only = lambda: [bound(one, place.at) for one, place in runs.deep_saddles(case) if not place.at["V"].any()]
    bounds = lambda: only() if gains or not normalised else fixed()
    return together(
        strict=at_most(
            left=bounds, right=lambda: [-value for value in runs.least_curvatures(case, gains, normalised)],
            bound=1e-9, reason="rounding of an eigenvalue; five networks",
        ),
        left=at_most(
            left=lambda: runs.left_behind(case, spread),
            right=lambda: [0.5] * runs.DRAWS + [0.95] * 2, scale=lambda: [1.0] * (runs.DRAWS + 2),
            bound=1e-4, reason="tolerance of 1e-7 a step; the saddle's own loss is one",
        ),
    )  # fmt: skip


# The rate, and what is whitened

ETA, TURNS = 0.3, 20


@claim("C-whitening-rate", control={"rhos": (0.0,)})
def unit_variances_do_not_whiten(case, rhos=runs.RHOS):
    """With BN the Hessian is the identity, and each step reduces the error alike in all directions. It does not.

    Two correlated features: the condition number is (1 + rho)/(1 - rho), and errors along both axes part. Control:
    uncorrelated features.  C 7.1
    """
    made = lambda: [runs.regressed(case, rho, ETA, TURNS) for rho in rhos]

    def parted(rho):
        """Largest distance from a uniform decay, by eigenvalues 1 + rho and 1 - rho."""
        return max(abs(((1 - ETA * (1 + s * rho)) / (1 - ETA)) ** TURNS - 1) for s in (1, -1))

    return counterexample(
        equal(
            measured=lambda: [runs.condition(H) for _, H, _ in made()] + [left for _, _, left in made()],
            predicted=lambda: [1.0 for _ in rhos] + [torch.full((2,), (1 - ETA) ** TURNS).double() for _ in rhos],
            scale=lambda: [1.0 for _ in rhos] + [torch.full((2,), (1 - ETA) ** TURNS).double() for _ in rhos],
            bound=1e-6, reason="rounding of 20 steps",
        ),
        exact=lambda: [min(min(2 * rho / (1 - rho), parted(rho)) for rho in rhos)],
        unit_variance=equal(
            measured=lambda: [X.var(0, correction=0) for X, _, _ in made()],
            predicted=lambda: [torch.ones(2) for _ in rhos], bound=1e-12, reason="rounding",
        ),
    )  # fmt: skip


def log_excess(curvatures: Tensor, t: float) -> Tensor:
    """log of the excess loss of descent with step one from unit errors in all features."""
    return torch.logsumexp(2 * t * torch.log1p(-curvatures.clamp(max=1 - 1e-16)) + (curvatures / 2).log(), 0)


def finitely_many(d: int) -> Tensor:
    """Variances of features of sizes 1, 1/2, ... 1/d."""
    return torch.arange(1, d + 1, dtype=torch.float64) ** -2.0


def endless(d: int) -> Tensor:
    """So many that the smallest does not count in the times of the claim: 10^6."""
    return finitely_many(10**6)


POWER = 10


@claim("C-sublinear-to-linear", control={"spectrum": endless})
def ill_conditioning_is_still_linear(case, spectrum=finitely_many):
    """Without BN descent is sublinear where the inputs are ill-conditioned. It is linear.

    Sublinear: in a doubling of steps the excess falls by no more than some power of two does, 2^10 here. Features of
    variances 1/i^2, for i up to 30, 100 and 300. Control: no end to them.  C 7.1
    """
    many = (30, 100, 300)
    late = lambda d: 20.0 * d**3
    return counterexample(
        at_most(
            left=lambda: [log_excess(spectrum(d), late(d)) - log_excess(spectrum(d), 2 * late(d)) for d in many],
            right=lambda: [POWER * math.log(2)] * 3, scale=lambda: [1.0] * 3, bound=1e-2, reason="rounding",
        ),
        exact=lambda: [min(-2 * late(d) * math.log1p(-(d**-2.0)) - POWER * math.log(2) for d in many)],
        ill_conditioned=at_most(
            left=lambda: [500.0] * 3, right=lambda: [spectrum(d)[0] / spectrum(d)[-1] for d in many],
            bound=1e-9, reason="closed form",
        ),
    )  # fmt: skip


# Plateaus


@claim("C-plateau-saturation", control={"shift": runs.BIAS}, untrained={"steps": 1}, longer={"steps": 2 * runs.STEPS})
def saturated_units_wait(case, bias=runs.BIAS, shift=0.0, steps=runs.STEPS):
    """Units whose biases saturate them wait for long; batch-normalised ones do not.  C 7.1

    The logarithm of the ratio of steps until a fifth of the variance is fitted: sigmoid and tanh, biases 7 and -7, two
    steps, five starts. Control: the layer's own shift saturates it, behind the normalisation.
    """

    def effect():
        wait = runs.waits(case, bias, shift, steps)
        return list((wait[:, 0] / wait[:, 1]).log())

    return tendency(
        effect=effect, least=math.log(2),
        reason="8 cells, five starts each; an effect counts from a factor of two",
    )  # fmt: skip
