"""What decides the claims of section 14.4 of paper D: deep networks, square loss, and how degenerate minima are.

Networks have no biases. Runs are in :mod:`companion.theory_iii.deep_square_loss_runs`.
"""

import torch
from torch import Tensor

from claimbook.evidence import Case, at_most, claim, equal, shared, together
from companion.theory_iii import deep_square_loss_runs as runs
from companion.theory_iii.deep_square_loss_runs import Network, normal
from normdyn.measures.curvature import flatten, hessian, orthogonal_orbit_dimension
from normdyn.motion.flows import gradient_flow

ROUNDING = "rounding of automatic differentiation; tanh, widths 3, 4, 4, 1, six samples, 3 networks"

# The curvature at an interpolating point, (87) and (88)


@shared
def targets(case: Case, reached: bool) -> list[Tensor]:
    """Targets that the networks meet, or that they miss."""
    return [one.output(one.weights) if reached else normal(case, f"missed {k}", 6) for k, one in enumerate(tanh(case))]


@shared
def tanh(case: Case) -> list[Network]:
    return [runs.network(case, f"tanh {k}", (3, 4, 4, 1), 6, "tanh") for k in range(3)]


@shared
def true_jacobians(case: Case, reached: bool) -> list[Tensor]:
    """Minus the Hessian of the loss, by automatic differentiation."""
    pairs = zip(tanh(case), targets(case, reached), strict=True)
    return [-hessian(lambda p, one=one, y=y: (y - one.output(p)).square().sum(), one.weights) for one, y in pairs]


@shared
def slopes(case: Case) -> list[Tensor]:
    """Slopes of the outputs in all weights, one row a sample."""
    return [torch.func.jacrev(one.on_vector)(flatten(one.weights)) for one in tanh(case)]


@shared
def bends(case: Case) -> list[Tensor]:
    """Second derivatives of the outputs, one matrix a sample."""
    return [torch.func.jacrev(torch.func.jacrev(one.on_vector))(flatten(one.weights)) for one in tanh(case)]


@shared
def misses(case: Case, reached: bool) -> list[Tensor]:
    """E_n, by sample."""
    return [y - one.output(one.weights) for one, y in zip(tanh(case), targets(case, reached), strict=True)]


@claim("D-eq87-88", control=[{"met": False}, {"second": 0.0}, {"across": 0.0}])
def curvature_of_the_flow(case, met=True, second=1.0, across=1.0):
    """The flow is 2 sum E grad f, its Jacobian 2 sum(-grad f grad f' + E grad^2 f), at zero loss minus a Gram matrix.

    That is negative semidefinite, with blocks across layers. The controls take it where the errors do not vanish, leave
    out the second derivatives there, or the blocks across layers.  D (87), (88)
    """
    drive = lambda one, y: flatten(gradient_flow(lambda p: (y - one.output(p)).square().sum())(one.weights))
    first = lambda S: -2 * S.mT @ S
    blocks = lambda: [across + (1 - across) * runs.own_layers(one) for one in tanh(case)]
    top = lambda J: torch.linalg.eigvalsh(J)[-1].clamp(min=0)
    return together(
        flow=equal(
            measured=lambda: [drive(one, y) for one, y in zip(tanh(case), targets(case, False), strict=True)],
            predicted=lambda: [2 * E @ S for E, S in zip(misses(case, False), slopes(case), strict=True)],
            bound=1e-12, reason=ROUNDING,
        ),
        jacobian=equal(
            measured=lambda: true_jacobians(case, False),
            predicted=lambda: [
                first(S) + second * 2 * torch.einsum("n,nij->ij", E, B)
                for S, E, B in zip(slopes(case), misses(case, False), bends(case), strict=True)
            ],
            bound=1e-12, reason=ROUNDING,
        ),
        at_rest=equal(
            measured=lambda: true_jacobians(case, met),
            predicted=lambda: [kept * first(S) for S, kept in zip(slopes(case), blocks(), strict=True)],
            bound=1e-12, reason=ROUNDING,
        ),
        semidefinite=equal(
            measured=lambda: [top(J) for J in true_jacobians(case, met)], predicted=lambda: [0.0] * 3,
            scale=lambda: [J.abs().max() for J in true_jacobians(case, met)],
            bound=1e-12, reason="rounding; the largest eigenvalue, if positive",
        ),
    )  # fmt: skip


# Theorem 9


def least_singular(case: Case, wanted: bool) -> list[float]:
    """Smallest singular value of J over its largest, where the condition is met, or nothing forces a zero."""
    nets = runs.census(case)
    return [c.smallest for c in nets if (c.met if wanted else not c.met and c.smooth and c.spare <= 0)]


@claim("D-thm9", control={"enough": False})
def enough_weights_make_minima_degenerate(case, enough=True):
    """Where N_k N_(k-1) > n min(N_k, ..., N_(H+1)) for some k the Hessian at zero loss has a zero eigenvalue.

    600 random architectures at zero loss; Hessians of trained networks by automatic differentiation. The controls are
    smooth networks that miss the condition and have no more weights than outputs.  D Theorem 9
    """
    least = lambda H: torch.linalg.eigvalsh(H).abs().min() / torch.linalg.eigvalsh(H).abs().max()
    return together(
        census=equal(
            measured=lambda: torch.tensor(least_singular(case, enough)), predicted=lambda: 0.0, scale=lambda: 1.0,
            bound=1e-12, reason="rounding of singular values, relative to the largest; two to four layers",
        ),
        trained=equal(
            measured=lambda: [least(hessian(one.loss, one.weights)) for one in runs.fitted(case, enough)],
            predicted=lambda: [0.0] * 4, scale=lambda: [1.0] * 4,
            bound=1e-10, reason="minima with gradients below 1e-11, errors of whose Hessian are as small; 4 networks",
        ),
    )  # fmt: skip


def recursion(widths: tuple[int, ...], n: int) -> int:
    """The bound R of our proposition."""
    most = widths[1] * min(widths[0], n)
    for below, above in zip(widths[1:], widths[2:], strict=False):
        mu = min(below, n)
        most = min(most + above * mu, n * min(above, below) + max(above - below, 0) * mu)
    return most


def one_less(widths: tuple[int, ...], n: int) -> int:
    return recursion(widths, n) - 1


@claim("O-rank-recursion", control=[{"law": one_less}, {"smooth": True}])
def rank_of_the_slopes(case, law=recursion, smooth=False):
    """The slopes of all outputs in all weights have at most the rank of a recursion over layers, and often just that.

    ReLU and linear networks have, whatever the number of samples, a zero eigenvalue for each hidden unit. The controls
    lower the bound by one, and ask tanh and softplus networks for the same.
    """
    scaled = lambda: [c for c in runs.census(case) if (c.kind in runs.SMOOTH) == smooth]
    return together(
        rank=at_most(
            left=lambda: [c.rank for c in runs.census(case)],
            right=lambda: [law(c.widths, c.samples) for c in runs.census(case)],
            scale=lambda: [1.0] * runs.COUNT,
            bound=1e-3, reason="whole numbers; 600 random architectures, singular values above 1e-11 of the largest",
        ),
        units=at_most(
            left=lambda: [sum(c.widths[1:-1]) for c in scaled()], right=lambda: [c.weights - c.rank for c in scaled()],
            scale=lambda: [1.0] * len(scaled()),
            bound=1e-3, reason="whole numbers; the 300 networks with ReLU or linear units among them",
        ),
    )  # fmt: skip


# With a penalty

HOMOGENEOUS, ALL = ("linear", "ReLU"), ("linear", "ReLU", "tanh", "softplus")


def by_symmetry(kind: str, point: Network) -> int:
    """Zero eigenvalues that rotations explain, for a penalty that spares them."""
    if kind == "linear":
        return orthogonal_orbit_dimension(point.widths, 1)
    return runs.shared_patterns(point) if kind == "ReLU" else 0


@claim("D-square-reg-degenerate", printed={"kinds": ALL}, control={"even": False})
def who_stays_degenerate(case, kinds=HOMOGENEOUS, even=True):
    """With a quadratic penalty errors do not vanish, and minima of linear and of ReLU networks stay degenerate.

    ReLU networks where units share their active samples; those of tanh and softplus units do not. Zeros are those of
    the rotations that the penalty spares. In the control linear networks have one that spares none.  D 14.4 (3)
    """
    minima = lambda kind: runs.regularised(case, kind, even or kind != "linear")
    some = lambda of: [(kind, point) for kind in of for point in minima(kind)]
    return together(
        degenerate=equal(
            measured=lambda: [float(runs.zeros(point) > 0) for _, point in some(kinds)],
            predicted=lambda: [1.0] * len(some(kinds)),
            bound=1e-3, reason="whole numbers; certified minima of each kind",
        ),
        errors=equal(
            measured=lambda: [runs.pull_of_errors(point) for _, point in some(ALL)],
            predicted=lambda: [
                runs.DECAY * torch.cat([W.flatten() for W in point.weights.values()]) for _, point in some(ALL)
            ],
            bound=1e-6, reason="gradients of 1e-9 at the minima; the pull is not zero, so that errors are not",
        ),
        number=equal(
            measured=lambda: [float(runs.zeros(point)) for _, point in some(ALL)],
            predicted=lambda: [float(by_symmetry(kind, point)) for kind, point in some(ALL)],
            bound=1e-3, reason="whole numbers, read with a gap of a hundred between zero and the rest",
        ),
    )  # fmt: skip


# The step expands

GAMMAS, APART = (1e-4, 1e-2, 1.0), 1e-4


def product(w: Tensor) -> Tensor:
    return (1 - w.prod()).square()


def single(w: Tensor) -> Tensor:
    return (1 - w.sum()).square()


@claim("D-square-deep-expansive", control={"loss": single, "deep": False})
def steps_bring_points_apart(case, loss=product, deep=True):
    """Gradient steps on deep networks bring some points apart, whatever the step size.

    Two scalar layers near zero, next to minima of theirs, and two and three layers of four kinds along the direction
    of lowest curvature. In the control there is one layer.  D 14.4 (4)
    """
    a, line = torch.full((2,), APART, dtype=torch.float64), torch.tensor([0.5, 0.8, 1.3, 3.0], dtype=torch.float64)
    return together(
        scalar=equal(
            measured=lambda: [runs.stretch(loss, a, -a, gamma) for gamma in GAMMAS], predicted=lambda: [2.0] * 3,
            bound=1e-6, reason="the square of the distance 1e-4, and rounding over the step",
        ),
        behind=equal(
            measured=lambda: [runs.grows(loss, torch.stack([w, 1.0001 / w])) for w in line],
            predicted=lambda: [1.0] * 4,
            bound=1e-3, reason="counts; four points 1e-4 beyond minima, with a step of 0.01",
        ),
        networks=equal(
            measured=lambda: [float(rate > 0) for rate in runs.expansions(case, deep)],
            predicted=lambda: [1.0] * len(runs.expansions(case, deep)),
            bound=1e-3, reason="counts; two networks of each kind and depth, the best of five random points",
        ),
    )  # fmt: skip
