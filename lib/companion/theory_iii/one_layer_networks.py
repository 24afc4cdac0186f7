"""What decides the claims of sections 14.1 and 14.2 of paper D: one linear layer under the square and exponential loss.

Runs are in :mod:`companion.theory_iii.one_layer_networks_runs`.
"""

import torch
from torch import Tensor

from claimbook.evidence import at_most, claim, equal, limit, together
from companion.theory_iii import one_layer_networks_runs as runs
from companion.theory_iii.one_layer_networks_runs import PENALTY

FLOW, SPHERE = "gradient", "weight normalization"
ROUNDING = "rounding of automatic differentiation; three sets of examples, wide, tall and not of full rank"
CLOUDS = "three drawn sets of eight points in four of six dimensions"


def padded(values: Tensor, size: int) -> Tensor:
    """Squares in increasing order, with zeros to make up the number."""
    return torch.cat([values, values.new_zeros(max(0, size - len(values)))]).square().sort().values[-size:]


# Square loss


@claim("D-eq68", control={"unit": torch.tanh})
def square_loss_flow(case, unit=runs.identity):
    """The flow of sum (y_n - w.x_n)^2 is 2 sum E_n x_n.  D (67), (68)"""
    return equal(
        measured=lambda: runs.drifts(case, unit),
        predicted=lambda: [2 * X.mT @ (y - X @ w) for X, y, w in runs.problems(case)],
        bound=1e-12, reason=ROUNDING,
    )  # fmt: skip


@claim("D-eq69", printed={"factor": 1})
def square_loss_jacobian(case, factor=2):
    """Its Jacobian is -2 sum x_n x_n', with a zero eigenvalue for each dimension that no example sees.  D (69), (70)"""
    return together(
        matrix=equal(
            measured=lambda: runs.jacobians(case),
            predicted=lambda: [-factor * X.mT @ X for X, _, _ in runs.problems(case)],
            bound=1e-12, reason=ROUNDING,
        ),
        spectrum=equal(
            measured=lambda: [torch.linalg.eigvalsh(-J) for J in runs.jacobians(case)],
            predicted=lambda: [factor * padded(torch.linalg.svdvals(X), len(w)) for X, _, w in runs.problems(case)],
            bound=1e-11, reason="rounding of eigenvalues against singular values; 4 of 7, 3 of 3, 2 of 5 not zero",
        ),
    )  # fmt: skip


RULES = ("flow", "descent", "stochastic")


@claim("D-null-space-invariant", control=[{"decay": 0.1}, {"rules": ("Adam",) * 3}])
def what_no_example_sees_stays(case, decay=0.0, rules=RULES):
    """Weights at right angles to the examples never change, under square and exponential loss.  D 14.1, 14.2

    The flow, descent, and descent on one example at a time. With a penalty, or by Adam, they change.
    """
    return equal(
        measured=lambda: [null for rule in rules for null in runs.kept(case, rule, decay)],
        predicted=lambda: [runs.null_part(X, w) for _ in rules for X, _, w in runs.interpolable(case) for _ in (0, 1)],
        scale=lambda: [w.norm() for _ in rules for _, _, w in runs.interpolable(case) for _ in (0, 1)],
        bound=1e-11, reason="rounding of some hundred steps",
    )  # fmt: skip


@claim("D-min-norm-zero-init", control={"start": "drawn"})
def least_norm_from_zero(case, start="zero"):
    """From zero, descent ends at the interpolant of least norm.  D section 14 item 1, 14.1"""
    return equal(
        measured=lambda: [runs.descended(case, start)[k] for k in (0, 2)],
        predicted=lambda: [
            torch.linalg.pinv(X, rtol=1e-10) @ y for X, y, _ in [runs.interpolable(case)[k] for k in (0, 2)]
        ],
        bound=1e-7, reason="2^20 steps multiply rounding; examples that do not span, wide and not of full rank",
    )  # fmt: skip


@claim("D-eq71-73", printed={"decay": 1, "share": 2, "data": 1})
def penalised_square_loss(case, decay=2, share=1, data=2):
    """With the penalty lambda |w|^2: flow, equilibrium and Hessian, definite for every lambda > 0.  D (71) to (74)"""
    sized = (PENALTY, 1e-3 * PENALTY)
    each = lambda of: [of(lam, X, y, w) for lam in sized for X, y, w in runs.problems(case)]
    balance = lambda lam: [
        X.mT @ (y - X @ w0) for (X, y, _), w0 in zip(runs.problems(case), runs.ridge(case, lam), strict=True)
    ]
    return together(
        flow=equal(
            measured=lambda: [v for lam in sized for v in runs.drifts(case, penalty=lam)],
            predicted=lambda: each(lambda lam, X, y, w: 2 * X.mT @ (y - X @ w) - decay * lam * w),
            bound=1e-12, reason=ROUNDING,
        ),
        equilibrium=equal(
            measured=lambda: [w0 for lam in sized for w0 in runs.ridge(case, lam)],
            predicted=lambda: [share / lam * pull for lam in sized for pull in balance(lam)],
            bound=1e-8, reason="minimiser by least squares; errors are divided by lambda",
        ),
        hessian=equal(
            measured=lambda: [J for lam in sized for J in runs.jacobians(case, lam)],
            predicted=lambda: each(
                lambda lam, X, y, w: -data * X.mT @ X - decay * lam * torch.eye(len(w), dtype=w.dtype)
            ),
            bound=1e-12, reason=ROUNDING,
        ),
        spectrum=equal(
            measured=lambda: [torch.linalg.eigvalsh(-J) for lam in sized for J in runs.jacobians(case, lam)],
            predicted=lambda: each(
                lambda lam, X, y, w: data * padded(torch.linalg.svdvals(X), len(w)) + decay * lam
            ),
            bound=1e-10, reason="rounding of eigenvalues; none below 2 lambda",
        ),
    )  # fmt: skip


@claim("D-lambda-min-norm", control={"penalty": 0.0})
def penalty_forgets_the_start(case, penalty=1.0):
    """Every lambda > 0 gives one equilibrium from all starts, and it tends to the least norm as lambda goes to zero.

    For targets that can be fitted and not, for examples that span and not.  D 14.1, section 14 Remarks
    """
    return together(
        start=equal(
            measured=lambda: runs.settled(case, penalty),
            predicted=lambda: [w.expand(3, -1) for w in runs.ridge(case, penalty or 1e-12)],
            bound=1e-6, reason="integrator's tolerance; the slowest mode has left e^-60",
        ),
        limit=limit(
            measured=lambda reach: runs.ridge(case, 1e-6 / reach, True),
            predicted=lambda: [torch.linalg.pinv(X, rtol=1e-10) @ y for X, y, _ in runs.interpolable(case)],
            bound=1e-5, reason="lambda of 1e-6 and 5e-7 of the least eigenvalue",
        ),
    )  # fmt: skip


@claim("O-penalty-price", control={"rate": 1.0})
def what_a_penalty_costs(case, rate=2.0):
    """The null part fades as exp(-2 lambda t), and the equilibrium is off by lambda X^+ (X X')^+ y to first order."""
    inverse = lambda X: torch.linalg.pinv(X, rtol=1e-10)
    lam = lambda X, reach: 1e-4 / reach * runs.least(X)
    gap = lambda reach: zip(runs.interpolable(case), runs.ridge(case, 1e-4 / reach, True), strict=True)
    return together(
        fades=equal(
            measured=lambda: [runs.fading(case, lam) for lam in runs.FADING[1:]],
            predicted=lambda: [
                runs.fading(case, 0.0)[0] * (-rate * lam * runs.TIMES).exp() for lam in runs.FADING[1:]
            ],
            bound=1e-8, reason="integrator's tolerance of 1e-9 a step",
        ),
        distance=limit(
            measured=lambda reach: [(inverse(X) @ y - w) / lam(X, reach) for (X, y, _), w in gap(reach)],
            predicted=lambda: [inverse(X) @ inverse(X).mT @ inverse(X) @ y for X, y, _ in runs.interpolable(case)],
            bound=1e-3, reason="second order in lambda, 1e-4 and 5e-5 of the least eigenvalue",
        ),
    )  # fmt: skip


# Exponential loss


@claim("D-eq77", control={"label": 2.0})
def exponential_loss_jacobian(case, label=1.0):
    """The Jacobian at any w is -sum x_n x_n' exp(-w.x_n): definite if the examples span, else degenerate.  D (77), (78)

    Labels are plus and minus one and stay outside; with labels of two a square of them would appear.
    """
    some = lambda: runs.curved(case, label)
    force = lambda one: (-one.X @ one.w).exp()
    return together(
        matrix=equal(
            measured=lambda: [one.jacobian for one in some()],
            predicted=lambda: [-(one.X.mT / label**2 * force(one)) @ one.X for one in some()],
            bound=1e-12, reason=ROUNDING,
        ),
        spectrum=equal(
            measured=lambda: [torch.linalg.eigvalsh(-one.jacobian) for one in some()],
            predicted=lambda: [
                padded(torch.linalg.svdvals(force(one).sqrt()[:, None] * one.X / label), len(one.w)) for one in some()
            ],
            bound=1e-11, reason="rounding of eigenvalues against singular values; 4 of 7, 3 of 3, 2 of 5 not zero",
        ),
    )  # fmt: skip


def curvature_bound(X: Tensor, R: float) -> Tensor:
    """beta = sum |x_n|^2 exp(R |x_n|), what the curvature can be in the ball."""
    return (X.norm(dim=1).square() * (R * X.norm(dim=1)).exp()).sum()


def gentle(X: Tensor, R: float) -> Tensor:
    return 2 / curvature_bound(X, R)


def at_the_centre(X: Tensor, R: float) -> Tensor:
    return X.norm(dim=1).square().sum()


def unit_step(X: Tensor, R: float) -> Tensor:
    return torch.ones((), dtype=X.dtype)


@claim("D-exp-nonexpansive", printed={"step": unit_step}, control={"beta": at_the_centre})
def steps_in_a_ball(case, step=gentle, beta=curvature_bound):
    """On a ball the exponential loss is smooth, and a step of at most 2/beta brings nothing apart.  D section 14.2"""
    slope = lambda X, w: (-w @ X.mT).exp() @ X
    curvature = lambda X, w: torch.linalg.eigvalsh((X.mT * (-X @ w).exp()) @ X)[-1]
    return together(
        smooth=at_most(
            left=lambda: [torch.stack([curvature(X, w) for w in a[-60:]]) for X, _, a, _ in runs.balls(case)],
            right=lambda: [beta(X, R) for X, R, _, _ in runs.balls(case)],
            bound=1e-9, reason="rounding; radii 0.5, 2 and 5, eight points and one",
        ),
        steps=at_most(
            left=lambda: [
                (a - b + step(X, R) * (slope(X, a) - slope(X, b))).norm(dim=1) for X, R, a, b in runs.balls(case)
            ],
            right=lambda: [(a - b).norm(dim=1) for _, _, a, b in runs.balls(case)],
            bound=1e-9, reason="rounding of differences; 200 pairs far apart, and near ones where the loss is steepest",
        ),
    )  # fmt: skip


@claim("D-eq79", printed={"factor": 1})
def penalised_flow(case, factor=2):
    """The flow with the penalty lambda |w|^2 is sum x_n exp(-w.x_n) - 2 lambda w; it rests where that is 0.  D (79)"""
    pull = lambda c, w: c.points.mT @ (-c.points @ w).exp()
    drift = lambda c: runs.gradient_flow(runs.penalised(c.points, PENALTY))({"w": c.start})["w"]
    return together(
        flow=equal(
            measured=lambda: [drift(c) for c in runs.clouds(case)],
            predicted=lambda: [pull(c, c.start) - factor * PENALTY * c.start for c in runs.clouds(case)],
            bound=1e-12, reason=f"rounding of automatic differentiation; {CLOUDS}",
        ),
        rest=equal(
            measured=lambda: [factor * PENALTY * w for w in runs.rest(case)],
            predicted=lambda: [pull(c, w) for c, w in zip(runs.clouds(case), runs.rest(case), strict=True)],
            bound=1e-9, reason="a zero of the gradient to 1e-11",
        ),
    )  # fmt: skip


def coupled(X: Tensor, k: Tensor) -> Tensor:
    return X @ (k @ X)


def decoupled(X: Tensor, k: Tensor) -> Tensor:
    """As printed: each coefficient by itself."""
    return k * (X @ X.sum(0))


@claim("D-eq79-representer", printed={"sums": decoupled})
def coefficients_are_coupled(case, sums=coupled):
    """The equilibrium is sum k_n x_n, with exp(-x_n . sum_j k_j x_j) = 2 lambda k_n for each n.  D after (79)"""
    return together(
        span=equal(
            measured=lambda: [left for _, _, left in runs.coefficients(case)],
            predicted=lambda: [torch.zeros_like(left) for _, _, left in runs.coefficients(case)],
            scale=lambda: [1.0 for _ in runs.coefficients(case)],
            bound=1e-9, reason="a zero of the gradient to 1e-11; three to five independent points",
        ),
        coefficients=equal(
            measured=lambda: [(2 * PENALTY * k).log() for _, k, _ in runs.coefficients(case)],
            predicted=lambda: [-sums(X, k) for X, k, _ in runs.coefficients(case)],
            scale=lambda: [1.0 for _ in runs.coefficients(case)],
            bound=1e-6, reason="a zero of the gradient to 1e-11, of which logarithms are taken",
        ),
    )  # fmt: skip


@claim("D-eq80", printed={"factor": 1}, control={"penalty": 0.0})
def penalised_jacobian(case, factor=2, penalty=PENALTY):
    """At rest the Jacobian is -sum x_n x_n' exp(-w.x_n) - 2 lambda, definite, and every start comes there.  D (80)"""
    both = lambda: zip(runs.clouds(case), runs.rest(case), strict=True)
    curve = lambda c, w: (c.points.mT * (-c.points @ w).exp()) @ c.points
    return together(
        matrix=equal(
            measured=lambda: runs.rest_jacobians(case),
            predicted=lambda: [
                -curve(c, w) - factor * PENALTY * torch.eye(6, dtype=w.dtype) for c, w in both()
            ],
            bound=1e-12, reason=f"rounding of automatic differentiation; {CLOUDS}",
        ),
        spectrum=equal(
            measured=lambda: [torch.linalg.eigvalsh(-J) for J in runs.rest_jacobians(case)],
            predicted=lambda: [
                padded(torch.linalg.svdvals((-c.points @ w / 2).exp()[:, None] * c.points), 6) + factor * PENALTY
                for c, w in both()
            ],
            bound=1e-10, reason="rounding of eigenvalues against singular values; none below 2 lambda",
        ),
        start=equal(
            measured=lambda: runs.met(case, penalty), predicted=lambda: [w.expand(4, 6) for w in runs.rest(case)],
            bound=1e-6, reason="integrator's tolerance; the slowest mode has left e^-22 of four starts",
        ),
    )  # fmt: skip


def stretched_best(c: runs.Cloud) -> Tensor:
    """Direction of the largest margin under another norm."""
    metric = torch.diag(torch.logspace(-1, 1, 6, dtype=torch.float64))
    return runs.largest_margin(c.points, metric).direction


def best(c: runs.Cloud) -> Tensor:
    return c.best.direction


@claim("D-lambda-max-margin", control={"goal": stretched_best})
def penalty_to_the_largest_margin(case, goal=best):
    """For every lambda > 0 the equilibrium is finite; as lambda goes to 0 it diverges towards the largest margin.

    Read where 2 lambda s exp(s) = 1 at s = 10^4 and 2 10^4; the form that allows this agrees with a direct search at
    lambda = 0.25.  D section 14.2
    """
    both = lambda s: list(zip(runs.clouds(case), runs.residual(case, s), strict=True))
    weights = lambda s: [s * c.hard + r for c, r in both(s)]
    return together(
        finite=equal(
            measured=lambda: weights(runs.along(PENALTY)), predicted=lambda: runs.rest(case),
            bound=1e-8, reason="two searches for zeros of gradients, to 1e-11",
        ),
        diverges=limit(
            measured=lambda reach: [w.norm() / (1e4 * reach) for w in weights(1e4 * reach)],
            predicted=lambda: [1 / c.best.margin for c in runs.clouds(case)],
            bound=3e-3, reason="a constant over s = 10^4",
        ),
        direction=limit(
            measured=lambda reach: [w / w.norm() for w in weights(1e4 * reach)],
            predicted=lambda: [goal(c) for c in runs.clouds(case)],
            bound=1e-3, reason=f"C/s with s = 10^4 and twice that; {CLOUDS}",
        ),
    )  # fmt: skip


REACH = (500.0, 1000.0, 2000.0)


def null_part(c: runs.Cloud) -> Tensor:
    """The part of the start at right angles to all points, by a basis of their null space."""
    basis = torch.linalg.svd(c.points, full_matrices=True).Vh[int(torch.linalg.matrix_rank(c.points)) :]
    return basis.mT @ (basis @ c.start)


@claim("D-null-direction-decay", control={"loss": "square"})
def null_share_vanishes(case, loss="exponential"):
    """The part that no example sees stays, the length grows, and so its share vanishes.  D section 14.2

    The share times log t tends to the margin times that part. Under the square loss the share stays.
    """
    ends = lambda s: (
        [path["vector"][REACH.index(s)] for path in runs.late(case, FLOW, REACH)]
        if loss == "exponential"
        else runs.fits_end(case)
    )
    pairs = lambda s: zip(runs.clouds(case), ends(s), strict=True)
    return together(
        stays=equal(
            measured=lambda: [c.outside(w) for c, w in pairs(2000.0)],
            predicted=lambda: [null_part(c) for c in runs.clouds(case)],
            bound=1e-9, reason=f"integrator's tolerance, to t = e^2000; {CLOUDS}",
        ),
        share=limit(
            measured=lambda reach: [1e3 * reach * c.outside(w).norm() / w.norm() for c, w in pairs(1e3 * reach)],
            predicted=lambda: [c.best.margin * null_part(c).norm() for c in runs.clouds(case)],
            bound=4e-3, reason="the length is log t over the margin and a constant; log t = 1000 and 2000",
        ),
    )  # fmt: skip


@claim("D-hard-margin-limit", control=[{"goal": stretched_best}, {"pull": 0.5}])
def limit_of_the_normalised_weights(case, goal=best, pull=1.0):
    """Normalised weights converge to a combination of support vectors, the hard-margin solution.  D section 14.2.1

    For the printed system, which is the plain flow, and for weight normalisation. The limit direction is that along
    which w moves between two times; the forces t exp(-w.x_n) tend to the multipliers.
    """
    late = (100.0, 200.0, 400.0)
    paths = lambda: [p for f in (FLOW, SPHERE) for p in zip(runs.clouds(case), runs.late(case, f, late), strict=True)]
    plain = lambda: paths()[: len(runs.clouds(case))]
    moved = lambda path, s: path["vector"][late.index(2 * s)] - path["vector"][late.index(s)]
    unit = lambda u: u / u.norm()
    forces = lambda c, path, s: (-c.points[c.best.supports] @ path["residual"][late.index(s)]).exp()
    return together(
        direction=limit(
            measured=lambda reach: [unit(moved(path, 100 * reach)) for _, path in paths()],
            predicted=lambda: [goal(c) for c, _ in paths()],
            bound=4e-3, reason=f"from log t = 100 to 200, then to 400; off by the inverse square; {CLOUDS}",
        ),
        forces=limit(
            measured=lambda reach: [unit(forces(c, path, 200 * reach)) for c, path in plain()],
            predicted=lambda: [unit(c.best.dual**pull) for c in runs.clouds(case)],
            bound=1e-3, reason="the plain flow; log t = 200 and 400",
        ),
    )  # fmt: skip


@claim("O-same-path", control={"power": 0.5})
def time_is_a_penalty(case, power=1.0):
    """Training to t = e^s and a penalty with 2 lambda s e^s = 1 end at s w_hard + r, with one r in the support's span.

    There exp(-r.x_n) is the dual weight. At right angles the flow keeps what it has met, the penalty nothing.
    """
    late = (1e4, 2e4)
    flow = lambda s: zip(runs.clouds(case), runs.late(case, FLOW, late), strict=True)
    goal = lambda c: torch.linalg.pinv(c.points[c.best.supports]) @ -(power * c.best.dual.log())
    why = f"exponentials for the flow, 1/s for the penalty; s = 10^4 and twice that; {CLOUDS}"
    return together(
        training=limit(
            measured=lambda reach: [
                runs.in_span(c, path["residual"][late.index(1e4 * reach)]) for c, path in flow(reach)
            ],
            predicted=lambda: [goal(c) for c in runs.clouds(case)],
            bound=2e-3, reason=why,
        ),
        penalty=limit(
            measured=lambda reach: runs.residual(case, 1e4 * reach),
            predicted=lambda: [goal(c) for c in runs.clouds(case)],
            bound=2e-3, reason=why,
        ),
    )  # fmt: skip


# Unit weights


@claim("D-separable-n-le-d1", printed={"kind": "on a line"})
def few_points_are_separable(case, kind="independent"):
    """N <= d + 1 points are separable whatever their labels if, with a one appended, they are independent.  D 14.2.1

    The printed form admits three points on a line with labels +, -, +.
    """
    return equal(
        measured=lambda: runs.separated(case, kind), predicted=lambda: torch.ones(48),
        bound=1e-3, reason="counts: 48 sets in one to six dimensions, by linear programming",
    )  # fmt: skip


@claim("D-eq81-82", printed={"system": "weight normalisation"})
def direction_and_length(case, system="polar"):
    """The printed system in v and rho is the flow of w in polar coordinates.  D (81), (82)

    Weight normalisation, whose name the section has, turns rho^2 times as fast.
    """
    force = lambda P, w: (-P @ w).exp()
    along = lambda P, w: force(P, w) @ (P @ (w / w.norm()))
    return together(
        direction=equal(
            measured=lambda: [v for _, _, _, v in runs.turnings(case, system)],
            predicted=lambda: [
                (force(P, w) @ P - w / w.norm() * along(P, w)) / w.norm() for P, w, _, _ in runs.turnings(case, system)
            ],
            bound=1e-11, reason=f"rounding of automatic differentiation; {CLOUDS}",
        ),
        length=equal(
            measured=lambda: [rho for _, _, rho, _ in runs.turnings(case, system)],
            predicted=lambda: [along(P, w) for P, w, _, _ in runs.turnings(case, system)],
            bound=1e-11, reason="the same",
        ),
    )  # fmt: skip


@claim("D-null-components-vanish", control={"side": -1.0})
def null_directions_vanish(case, side=1.0):
    """The part of the direction that no point sees falls to zero while all w.x_n are positive.  D section 14.2.1

    As 1/rho in the printed system and as exp(-rho^2/2) with weight normalisation. On the other side it rises.
    """
    systems = ("polar", "sphere")
    every = lambda: [(f, *one) for f in systems for one in runs.fallen(case, f, side)]
    law = {"polar": lambda rho: 1 / rho, "sphere": lambda rho: (-(rho**2) / 2).exp()}
    size = lambda null: null.norm(dim=1)
    return together(
        falls=at_most(
            left=lambda: [size(null)[1:] for _, _, null in every()],
            right=lambda: [size(null)[:-1] for _, _, null in every()],
            bound=1e-8, reason=f"integrator's tolerance of 1e-11 a step; {CLOUDS}",
        ),
        law=equal(
            measured=lambda: [null for _, _, null in every()],
            predicted=lambda: [(law[f](rho) / law[f](rho[0]))[:, None] * null[0] for f, rho, null in every()],
            bound=1e-8, reason="integrator's tolerance of 1e-11 a step",
        ),
        zero=limit(
            measured=lambda reach: [
                c.outside(path["vector"][int(reach) - 1]).norm() / path["vector"][int(reach) - 1].norm()
                for c, path in zip(runs.clouds(case), runs.late(case, FLOW, (1e4, 2e4)), strict=True)
            ],
            predicted=lambda: [0.0 for _ in runs.clouds(case)],
            scale=lambda: [1.0 for _ in runs.clouds(case)],
            bound=1e-3, reason="as 1/log t, at log t = 10^4 and twice that",
        ),
    )  # fmt: skip


@claim("D-sphere-stable", printed={"side": "behind"})
def sphere_is_attracting_ahead(case, side="ahead"):
    """Under dv/dt = x - v v'x the unit sphere is kept, and attracts where v.x > 0.  D section 14.2.1"""
    return together(
        kept=equal(
            measured=lambda: runs.on_the_sphere(case), predicted=lambda: [torch.ones(40) for _ in runs.lone(case)],
            bound=1e-8, reason="integrator's tolerance of 1e-11 a step, where the sphere repels as well",
        ),
        attracts=at_most(
            left=lambda: [gap[1:] for gap in runs.off_the_sphere(case, side)],
            right=lambda: [gap[:-1] for gap in runs.off_the_sphere(case, side)],
            bound=1e-6, reason="integrator's tolerance, relative to the size of |v|^2 - 1",
            scale=lambda: [gap[0] for gap in runs.off_the_sphere(case, side)],
        ),
    )  # fmt: skip


def two_poles(x: Tensor) -> Tensor:
    return torch.stack([x, -x]) / x.norm()


def one_pole(x: Tensor) -> Tensor:
    return x[None] / x.norm()


def nearest(v: Tensor, some: Tensor) -> Tensor:
    return some[torch.cdist(v, some).argmin(1)]


def quotient(v: Tensor, x: Tensor, time: float) -> Tensor:
    """The solution as a quotient of two linear ones: da/dt = x b, db/dt = x.a, v = a/b."""
    d = len(x)
    matrix = torch.zeros(d + 1, d + 1, dtype=x.dtype)
    matrix[:d, d], matrix[d, :d] = x, x
    lifted = torch.cat([v, torch.ones(len(v), 1, dtype=v.dtype)], 1) @ torch.linalg.matrix_exp(time * matrix)
    return lifted[:, :d] / lifted[:, d:]


@claim("D-riccati", printed={"zeros": one_pole}, control={"field": runs.damped})
def a_riccati_equation(case, field=runs.riccati, zeros=two_poles):
    """dv/dt = x - v v'x is of Riccati type, solved by a quotient of linear solutions; at rest v = +-x/|x|.  D 14.2.1"""
    return together(
        solution=equal(
            measured=lambda: runs.solved(case, field),
            predicted=lambda: [quotient(v, x, 2 / x.norm().item()) for x, v in runs.lone(case)],
            bound=1e-8, reason="integrator's tolerance of 1e-11 a step; 40 starts of 3 problems",
        ),
        rest=equal(
            measured=lambda: [v for _, v in runs.zeros(case)],
            predicted=lambda: [nearest(v, zeros(x)) for x, v in runs.zeros(case)],
            bound=1e-8, reason="Newton's method to 1e-10, from the starts that it brings to an end",
        ),
    )  # fmt: skip
