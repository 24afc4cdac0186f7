"""What decides appendix A of paper C: the gradient and the Hessian through batch normalisation, line by line.

Runs, and the letters, are in :mod:`companion.normalization_geometry.derivations_runs`.
"""

import torch
from torch import Tensor

from claimbook.evidence import claim, counterexample, equal, together
from companion.normalization_geometry import derivations_runs as runs
from companion.normalization_geometry.derivations_runs import (
    EPSILONS,
    GAIN,
    Batch,
    batches,
    centred,
    every,
    eye,
    hessian,
    in_values,
    in_weights,
    regressions,
    solutions,
    units,
)
from normdyn.measures import curvature
from normdyn.networks.normalizers import normalize_curvature
from normdyn.symmetry.polar import orthogonal_part

ROUNDING = "rounding of automatic differentiation; 5 units on 7 samples of 3 inputs, epsilon 0 and 0.1"


# A.1.1, the gradient


def all_outputs(response: Tensor) -> Tensor:
    return response


def own_output(response: Tensor) -> Tensor:
    """Each value moves its own output alone."""
    return torch.diag(response.diagonal())


@claim("C-a1.1-chain", printed={"kept": own_output})
def chain_rule(case, kept=all_outputs):
    """dL/dz_n = sum_k delta_k da_k/dz_n: all outputs of the batch depend on one value.  C A.1.1

    Printed: the term k = n alone.
    """
    pairs = lambda: [
        (one, J)
        for epsilon in EPSILONS
        for one, J in zip(units(case, epsilon), runs.responses(case, epsilon), strict=True)
    ]
    return equal(
        measured=lambda: [in_values(one) for one in every(case)],
        predicted=lambda: [kept(J).mT @ one.delta for one, J in pairs()],
        bound=1e-7, reason="central differences of sixth order, which leave 1e-10; 5 units, epsilon 0 and 0.1",
    )  # fmt: skip


def over_batch(m: int) -> float:
    return 1 / m


def not_divided(m: int) -> float:
    return 1.0


@claim("C-a1.1-jacobian", printed={"share": not_divided}, control={"center": False})
def jacobian(case, share=over_batch, center=True):
    """dhat_n/dz_k = delta_nk/s - 1/(ms) - (z_n - mu)(z_k - mu)/(m s^3), from the slopes of z - mu and of 1/s.  C A.1.1

    And the sum over outputs, gathered. Printed: the last terms of both are not over m. Control: the mean is left in.
    """
    some = lambda: every(case, center=center)
    u = lambda one: one.z - one.z.mean()

    def entries(one):
        m = len(one.z)
        return eye(m) / one.s - 1 / (m * one.s) - share(m) * torch.outer(u(one), u(one)) / one.s**3

    def gathered(one):
        last = share(len(one.z)) * u(one) * (one.delta * u(one)).sum() / one.s**3
        return GAIN / one.s * (one.delta - one.delta.mean()) - GAIN * last

    return together(
        jacobian=equal(
            measured=lambda: [torch.func.jacrev(one.outputs)(one.z) / GAIN for one in some()],
            predicted=lambda: [entries(one) for one in some()],
            bound=1e-12, reason=ROUNDING,
        ),
        gathered=equal(
            measured=lambda: [in_values(one) for one in some()], predicted=lambda: [gathered(one) for one in some()],
            bound=1e-12, reason=ROUNDING,
        ),
        centring=equal(
            measured=lambda: [torch.func.jacrev(lambda z: z - z.mean())(one.z) for one in some()],
            predicted=lambda: [eye(len(one.z)) - 1 / len(one.z) for one in some()],
            bound=1e-12, reason=ROUNDING,
        ),
        scale=equal(
            measured=lambda: [torch.func.grad(lambda z, one=one: 1 / one.spread(z))(one.z) for one in some()],
            predicted=lambda: [
                -u(one) @ (eye(len(one.z)) - 1 / len(one.z)) / (len(one.z) * one.s**3) for one in some()
            ],
            bound=1e-12, reason=ROUNDING,
        ),
    )  # fmt: skip


@claim("C-a1.1-final", control=[{"stored": True}, {"center": False}])
def final_formula(case, stored=False, center=True):
    """dL/dz_k = gain/s (delta_k - <delta> - hat_k <delta hat>).  C A.1.1

    Controls: stored statistics, which are constants; the mean left in.
    """
    world = {"stored": stored, "center": center}
    return equal(
        measured=lambda: [in_values(one) for one in every(case, **world)],
        predicted=lambda: [
            GAIN / one.s * (one.delta - one.delta.mean() - one.hat * (one.delta * one.hat).mean())
            for one in every(case, **world)
        ],
        bound=1e-12, reason=ROUNDING,
    )  # fmt: skip


def as_they_are(X: Tensor) -> Tensor:
    return X


@claim("C-a1.1-weight-gradient", control=[{"stored": True}, {"inputs": as_they_are}])
def weight_gradient(case, stored=False, inputs=centred):
    """dL/dW_j = gain/s (sum delta x_j - m <delta> <x_j> - <delta hat> sum hat x_j); two terms for centred inputs.

    Whether inputs are centred does not matter to the gradient. Controls: stored statistics; the middle term dropped
    although inputs have a mean.  C A.1.1
    """
    some = lambda: every(case, stored=stored)
    outer = lambda one, X: one.delta @ X - (one.delta * one.hat).mean() * (one.hat @ X)
    middle = lambda one: len(one.X) * one.delta.mean() * one.X.mean(0)
    return together(
        formula=equal(
            measured=lambda: [in_weights(one) for one in some()],
            predicted=lambda: [GAIN / one.s * (outer(one, one.X) - middle(one)) for one in some()],
            bound=1e-12, reason=ROUNDING,
        ),
        centred=equal(
            measured=lambda: [in_weights(one) for one in some()],
            predicted=lambda: [GAIN / one.s * outer(one, inputs(one.X)) for one in some()],
            bound=1e-12, reason=ROUNDING,
        ),
    )  # fmt: skip


@claim("C-a1.1-orthogonality", control=[{"epsilon": 0.1}, {"last": 0.0}])
def right_angle(case, epsilon=0.0, last=1.0):
    """W is orthogonal to its gradient: W.dL/dW = sum_k dL/dz_k (W.x_k - mu), and the term with hat makes it zero.

    Controls: epsilon = 0.1; that term dropped.  C A.1.1
    """
    some = lambda: units(case, epsilon)
    size = lambda: [one.W.norm() * in_weights(one).norm() for one in some()]

    def slopes(one):
        return GAIN / one.s * (one.delta - one.delta.mean() - last * one.hat * (one.delta * one.hat).mean())

    return together(
        zero=equal(
            measured=lambda: [one.W @ in_weights(one) for one in some()], predicted=lambda: [0.0] * 5, scale=size,
            bound=1e-12, reason="rounding, relative to the lengths of both; 5 units with biases, epsilon = 0",
        ),
        by_the_last_term=equal(
            measured=lambda: [slopes(one) @ (one.X @ one.W - one.z.mean()) for one in some()],
            predicted=lambda: [0.0] * 5, scale=size,
            bound=1e-12, reason="rounding, relative to the lengths of both; 5 units with biases, epsilon = 0",
        ),
    )  # fmt: skip


# A.1.2, a solution and the Hessian in the values


@claim("C-a1.2-conditions", printed={"samples": 8})
def slopes_vanish_at_interpolation(case, samples=5):
    """Where sum delta = 0 and sum delta (z - mu) = 0, at interpolation all dL/dz_k vanish.  C A.1.2

    Minima of the square loss in all parameters, on as many samples as make it interpolate: five for four inputs and a
    bias. The two conditions alone make dL/dz_k = gain/s delta_k. Printed: eight samples, with residuals.
    """
    found = lambda: regressions(case, samples)
    with_residuals = lambda: regressions(case, 8)
    return together(
        slopes=equal(
            measured=lambda: [one.slopes for one in found()], predicted=lambda: [0.0] * 5,
            scale=lambda: [one.params["gain"] / one.s for one in found()],
            bound=1e-9, reason="rounding of least squares; slopes relative to gain/s, for residuals of size one",
        ),
        conditions=equal(
            measured=lambda: [part for one in with_residuals() for part in (one.delta.sum(), one.delta @ one.z)],
            predicted=lambda: [0.0] * 10, scale=lambda: [1.0] * 10,
            bound=1e-9, reason="rounding of least squares; 5 regressions of 8 samples",
        ),
        law=equal(
            measured=lambda: [one.slopes for one in with_residuals()],
            predicted=lambda: [one.params["gain"] / one.s * one.delta for one in with_residuals()],
            bound=1e-9, reason="rounding of least squares; 5 regressions of 8 samples",
        ),
    )  # fmt: skip


def mended(one: Batch) -> Tensor:
    m = len(one.z)
    return (GAIN / one.s) ** 2 * (eye(m) - 1 / m - torch.outer(one.hat, one.hat) / m)


def as_printed(one: Batch) -> Tensor:
    """The last matrix of the text."""
    m = len(one.z)
    return (GAIN / one.s) ** 2 * (eye(m) - 1 / m - torch.outer(one.hat, one.hat) + eye(m) / m)


def as_computed_with(one: Batch) -> Tensor:
    """The matrix that the text takes eigenvalues of."""
    m = len(one.z)
    return (GAIN / one.s) ** 2 * (eye(m) - 1 / m - torch.outer(one.hat, one.hat))


def by_entries(one: Batch) -> Tensor:
    """The entries as the text writes them before it makes them a matrix."""
    m = len(one.z)
    return (GAIN / one.s) ** 2 * (eye(m) - 1 / m - torch.outer(one.hat, one.hat) + 1 / m)


EIGHT = "rounding of automatic differentiation; 5 batches of 8"


@claim("C-a1.2-hessian-matrix", printed={"matrix": as_printed}, control=[{"residual": 1.0}, {"center": False}])
def hessian_in_values(case, matrix=mended, residual=0.0, center=True):
    """At interpolation the square loss has the Hessian gain^2/s^2 (I - 11'/m - hat hat'/m) in the values.  C A.1.2

    Printed: hat hat' undivided, and I/m added. Controls: residuals; the mean left in.
    """
    return equal(
        measured=lambda: [hessian(one) for one in batches(case, 0.0, residual, center)],
        predicted=lambda: [matrix(one) for one in batches(case, 0.0, residual, center)],
        bound=1e-12, reason=EIGHT,
    )  # fmt: skip


@claim("O-hessian-through-normalisation", control={"terms": 0.0})
def hessian_with_residuals(case, terms=1.0):
    """With residuals and epsilon: gain^2/s^2 P P and the second derivative of normalisation, contracted with slopes.

    Control: the latter left out.
    """
    worlds = [(epsilon, residual) for epsilon in EPSILONS for residual in (0.0, 1.0)]

    def predicted(one, epsilon):
        m = len(one.z)
        P = eye(m) - 1 / m - torch.outer(one.hat, one.hat) / m
        slope, g = P @ one.delta, one.hat @ one.delta
        bracket = torch.outer(slope, one.hat) + torch.outer(one.hat, slope) + g * P
        return GAIN**2 / one.s**2 * P @ P - terms * GAIN / (m * one.s**2) * bracket

    column = lambda one, epsilon: torch.stack(
        [normalize_curvature(one.z, GAIN * one.delta, h, (0,), epsilon=epsilon) for h in eye(len(one.z))], 1
    )
    return together(
        formula=equal(
            measured=lambda: [hessian(one) for world in worlds for one in batches(case, *world)],
            predicted=lambda: [predicted(one, world[0]) for world in worlds for one in batches(case, *world)],
            bound=1e-12, reason=f"{EIGHT}, with and without epsilon and residuals",
        ),
        library=equal(
            measured=lambda: [
                hessian(one) - hessian(bare)
                for epsilon in EPSILONS
                for one, bare in zip(batches(case, epsilon, 1.0), batches(case, epsilon), strict=True)
            ],
            predicted=lambda: [column(one, epsilon) for epsilon in EPSILONS for one in batches(case, epsilon, 1.0)],
            bound=1e-12, reason=f"{EIGHT}; what residuals add",
        ),
    )  # fmt: skip


@claim("C-a1.2-eigenvalue-zhat", control={"matrix": as_computed_with})
def hat_is_a_direction_of_negative_curvature(case, matrix=hessian):
    """With the gain fixed hat is an eigenvector of the eigenvalue gain^2/s^2 (1 - m) < 0.  It is not: it has zero.

    The control is the matrix that the text computes with.  C A.1.2
    """
    some = lambda: batches(case)
    return counterexample(
        equal(
            measured=lambda: [matrix(one) @ one.hat for one in some()],
            predicted=lambda: [(GAIN / one.s) ** 2 * (1 - len(one.z)) * one.hat for one in some()],
            bound=1e-9, reason=EIGHT,
        ),
        exact=lambda: [runs.bent_along(one) for one in some()],
        at_a_solution=equal(
            measured=lambda: [torch.func.grad(one.loss)(one.z) for one in some()], predicted=lambda: [0.0] * 5,
            scale=lambda: [1.0] * 5, bound=1e-12, reason="rounding; targets of size one are met",
        ),
        eigenvector=equal(
            measured=lambda: [hessian(one) @ one.hat for one in some()], predicted=lambda: [0.0] * 5,
            scale=lambda: [(GAIN / one.s) ** 2 for one in some()], bound=1e-12, reason=EIGHT,
        ),
    )  # fmt: skip


@claim("C-a1.2-eigenvalue-ones", control={"center": False})
def ones_are_flat(case, center=True):
    """The vector of ones has eigenvalue zero, as the loss does not change if one number is added to all values.

    Control: the mean left in.  C A.1.2
    """
    worlds = [(epsilon, residual, center) for epsilon in EPSILONS for residual in (0.0, 1.0)]
    some = lambda: [one for world in worlds for one in batches(case, *world)]
    return together(
        eigenvalue=equal(
            measured=lambda: [hessian(one).sum(1) for one in some()], predicted=lambda: [0.0] * 20,
            scale=lambda: [(GAIN / one.s) ** 2 for one in some()],
            bound=1e-11, reason=f"{EIGHT}, with and without epsilon and residuals",
        ),
        flat=equal(
            measured=lambda: [torch.stack([one.loss(one.z + t) for t in (-3.0, 0.5, 10.0)]) for one in some()],
            predicted=lambda: [one.loss(one.z) for one in some()], scale=lambda: [1.0] * 20,
            bound=1e-11, reason="rounding, of losses of order one",
        ),
    )  # fmt: skip


@claim("C-a1.2-eigenvalue-rest", control=[{"residual": 1.0}, {"matrix": as_printed}])
def the_rest_is_round(case, residual=0.0, matrix=hessian):
    """Across ones and hat the Hessian in the values is gain^2/s^2 times one, m - 2 times, at interpolation.  C A.1.2

    Controls: residuals; the last matrix of the text, which has 1 + 1/m there.
    """
    some = lambda: [one for samples in (3, 8, 30) for one in batches(case, 0.0, residual, True, samples)]

    def restricted(one):
        m = len(one.z)
        basis = torch.linalg.qr(torch.cat([torch.ones(m, 1), one.hat[:, None], eye(m)[:, : m - 2]], 1).double())[0]
        return basis[:, 2:].mT @ matrix(one) @ basis[:, 2:]

    return equal(
        measured=lambda: [restricted(one) for one in some()],
        predicted=lambda: [(GAIN / one.s).square() * torch.eye(len(one.z) - 2).double() for one in some()],
        bound=1e-11, reason="rounding of automatic differentiation; 5 batches each of 3, 8 and 30",
    )  # fmt: skip


# A.1.2, gain and weights


@claim("C-a1.2-gamma-compensation", control={"normaliser": runs.raw})
def gain_compensates(case, normaliser=runs.hat_of):
    """The zero mode is a combination of weights and gain, as the gain undoes what a scaling does.  It is not.

    Along (w, b, -gain) the loss rises; along (w, b, 0) it is flat. Control: no normalisation, where the gain does undo
    it.  C A.1.2
    """
    some = lambda: solutions(case, normaliser)
    return counterexample(
        equal(
            measured=lambda: [runs.bend(one, -1.0) for one in some()], predicted=lambda: [0.0] * 5,
            scale=lambda: [one.own.square().sum() for one in some()],
            bound=1e-11, reason="rounding of automatic differentiation, relative to the squared outputs; 5 units",
        ),
        exact=lambda: [runs.risen(one) for one in some()],
        at_a_solution=equal(
            measured=lambda: [one.loss(one.params) for one in some()], predicted=lambda: [0.0] * 5,
            scale=lambda: [1.0] * 5, bound=1e-12, reason="rounding; targets of size one are met",
        ),
        flat_with_the_gain_fixed=equal(
            measured=lambda: [runs.bend(one, 0.0) for one in some()], predicted=lambda: [0.0] * 5,
            scale=lambda: [one.own.square().sum() for one in some()],
            bound=1e-11, reason="rounding of automatic differentiation, relative to the squared outputs; 5 units",
        ),
    )  # fmt: skip


WIDE = ((8, 4), (30, 5), (20, 12))  # samples and weights

FEW = ((4, 6), (6, 8), (12, 12))


@claim("C-a1.2-weight-space", printed={"shapes": FEW}, control={"normaliser": runs.raw})
def weights_of_a_unit(case, shapes=WIDE, normaliser=runs.hat_of):
    """In the weights, n - 1 positive eigenvalues across w and a zero along w, if centred inputs have rank n.  C A.1.2

    Printed: fewer samples than that takes. Control: no normalisation.
    """
    some = lambda: runs.in_weight_space(case, shapes, normaliser)

    def downdated(one):
        S, w = centred(one.X).mT @ centred(one.X), one.params["w"]
        return GAIN**2 / one.z.var(correction=0) * (S - torch.outer(S @ w, S @ w) / (w @ S @ w))

    return together(
        zero=equal(
            measured=lambda: [H @ one.params["w"] for one, H in some()], predicted=lambda: [0.0 for _ in some()],
            scale=lambda: [H.abs().amax() for _, H in some()],
            bound=1e-11, reason="rounding of automatic differentiation; 5 units of each shape",
        ),
        positive=equal(
            measured=lambda: [curvature.nullity(H).positive for _, H in some()],
            predicted=lambda: [len(one.params["w"]) - 1 for one, _ in some()],
            bound=1e-4, reason="a count of eigenvalues above rounding; 5 units of each shape",
        ),
        matrix=equal(
            measured=lambda: [H for _, H in some()], predicted=lambda: [downdated(one) for one, _ in some()],
            bound=1e-11, reason="rounding of automatic differentiation; 5 units of each shape",
        ),
    )  # fmt: skip


# A.1.3, a dimension


@claim("C-sphere-dimension-notation", control={"lost": 0})
def dimension_of_a_sphere(case, lost=1):
    """The unit vectors of R^n are of dimension n - 1: w/|w| moves in n - 1 directions.  C A.1.3

    Control: n dimensions, as section 4 counts when it calls this sphere S^n.
    """
    sizes = (2, 3, 7, 20)
    points = lambda: [w for n in sizes for w in runs.directions(case, n)]
    slope = lambda w: w.norm() * torch.func.jacrev(lambda w: w / w.norm())(w)
    ranks = lambda n: torch.cat([torch.ones(n - lost), torch.zeros(lost)]).double()
    return together(
        dimension=equal(
            measured=lambda: [torch.linalg.svdvals(slope(w)) for w in points()],
            predicted=lambda: [ranks(n) for n in sizes for _ in range(5)],
            bound=1e-12, reason="rounding of singular values; n = 2, 3, 7, 20",
        ),
        tangent=equal(
            measured=lambda: [slope(w)[:, 0] for w in points()],
            predicted=lambda: [orthogonal_part(w, torch.eye(len(w), dtype=w.dtype)[0]) for w in points()],
            bound=1e-12, reason="rounding of automatic differentiation",
        ),
    )  # fmt: skip
