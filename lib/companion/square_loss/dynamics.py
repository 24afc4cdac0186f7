"""What decides sections 2.1 to 2.3 and appendix B of paper B: the flow of one length and of unit layers.

Networks, flows off the sphere and sequences of draws are in :mod:`companion.square_loss.dynamics_runs`. Losses are sums
of squares without a half; predicted sides have outputs and gradients by hand.
"""

import math

import torch
from torch import Tensor

from claimbook.evidence import at_most, claim, equal, together
from companion.square_loss import dynamics_runs as runs
from companion.square_loss.dynamics_runs import RHO, State, across, by_hand, jacobian, pulled, said, states
from normdyn.motion.flows import gradient
from normdyn.networks.normalizers import batch_norm

ROUNDING = "rounding of automatic differentiation; 15 ReLU networks of 2, 3 and 5 layers, 12 samples"
BOUND = 1e-10
LAMBDA = 0.3

# What a layer knows of the output


@claim("B-eq1", control={"spread": 1.0})
def a_layer_times_its_gradient(case, spread=0.0):
    """The inner product of a layer with the gradient of the output is the output, all layers and inputs.  B (1), (2)

    Control: hidden biases.
    """
    inner = lambda one: [(S * W).flatten(1).sum(1) for S, W in zip(jacobian(one).values(), one.V.values(), strict=True)]
    return equal(
        measured=lambda: [torch.stack(inner(one)) for one in states(case, spread)],
        predicted=lambda: [said(one).expand(len(one.V), -1) for one in states(case, spread)],
        bound=BOUND, reason=ROUNDING,
    )  # fmt: skip


def of_the_input(gates: Tensor) -> Tensor:
    return gates


def of_the_first(gates: Tensor) -> Tensor:
    """One matrix of gates for all inputs: a derivative that does not know which input it is at."""
    return gates[:1].expand_as(gates)


@claim("B-eq1-remark", printed={"gates": of_the_first})
def gates_depend_on_the_input(case, gates=of_the_input):
    """In (1) the derivative in W_k depends on the input, through x and the gates; W_k is one for all.  B 2.1

    First layers of the networks of two layers. Printed: W_k does, so that the gates of one input serve all.
    """

    def predicted(one: State) -> Tensor:
        A, B = one.V.values()
        return torch.einsum("j,nj,nd->njd", B[0], gates((one.X @ A.mT > 0).double()), one.X)

    some = lambda: [one for one in states(case) if len(one.V) == 2]
    return equal(
        measured=lambda: [jacobian(one)["A"] for one in some()], predicted=lambda: [predicted(one) for one in some()],
        bound=BOUND, reason="rounding; 5 networks",
    )  # fmt: skip


def whole(W: Tensor) -> Tensor:
    return W / W.norm()


def by_rows(W: Tensor) -> Tensor:
    return W / W.norm(dim=1, keepdim=True)


@claim("B-f-bound", control={"normalised": by_rows})
def outputs_are_at_most_one(case, normalised=whole):
    """Unit inputs and layers of Frobenius norm one give an output of at most one, at any time.  B 2.1, footnote 3

    Five drawn networks, and five aligned ones of rank one where it is one. Control: unit rows in place of unit layers.
    """
    return at_most(
        left=lambda: [f.abs().max() for f in runs.unit_outputs(case, normalised)], right=lambda: [1.0] * 10,
        bound=1e-12, reason="rounding",
    )  # fmt: skip


def spanned(samples: int, inputs: int) -> int:
    return min(samples, inputs)


def all_of_them(samples: int, inputs: int) -> int:
    return inputs


@claim("B-L2-unique", printed={"fixed": all_of_them}, control={"depth": 2})
def linear_networks_with_one_minimiser(case, fixed=spanned, depth=1):
    """A linear network of one layer has one minimiser if the inputs span the space, else an affine set of them.  B 2.1

    Directions in which minimisers from 12 starts agree, for 3 to 8 inputs in five dimensions. Printed: all.
    Control: two layers, whose minimisers are not one, as they can be rescaled.
    """
    return equal(
        measured=lambda: [runs.agreement(case, samples, depth) for samples in (3, 4, 5, 8)],
        predicted=lambda: [float(fixed(samples, 5)) for samples in (3, 4, 5, 8)],
        bound=1e-6, reason="ranks, of minimisers in closed form",
    )  # fmt: skip


# Gradients in two sets of coordinates


@claim("B-eq18", control={"over": torch.sum})
def flow_of_the_mean_square(case, over=torch.mean):
    """The mean square moves W_k at -2/N sum (g_n - y_n) dg_n/dW_k. Control: the sum of squares.  B (18), (19)"""

    def predicted(one: State) -> list[Tensor]:
        g = said(one)
        return [-2 / len(g) * torch.einsum("n,nij->ij", g - one.y, S) for S in by_hand(one).values()]

    down = lambda one: [-d for d in gradient(lambda W: over((one.output(W) - one.y).square()))(one.V).values()]
    return equal(
        measured=lambda: [d for one in states(case) for d in down(one)],
        predicted=lambda: [d for one in states(case) for d in predicted(one)],
        bound=BOUND, reason=ROUNDING,
    )  # fmt: skip


@claim("B-chain-nobn", control={"spread": 1.0})
def gradients_scale_with_lengths(case, spread=0.0):
    """The gradient of g in W_k is rho/rho_k that of f in V_k. Control: hidden biases.  B B.1"""
    lengths = lambda one: [0.6 + 0.4 * k for k in range(len(one.V))]
    grown = lambda one: {n: r * V for r, (n, V) in zip(lengths(one), one.V.items(), strict=True)}
    scaled = lambda one: [
        math.prod(lengths(one)) / r * S for r, S in zip(lengths(one), by_hand(one).values(), strict=True)
    ]
    return equal(
        measured=lambda: [S for one in states(case, spread) for S in jacobian(one, grown(one)).values()],
        predicted=lambda: [S for one in states(case, spread) for S in scaled(one)],
        bound=BOUND, reason=ROUNDING,
    )  # fmt: skip


@claim("B-chain-bn", printed={"top": -2}, control={"lower": 2.0})
def only_the_last_length_moves(case, top=-1, lower=1.0):
    """With rho_k = 1 for k < L the gradient of g is rho df/dV_k for k < L, and df/dV_L for the last layer.  B B.1

    Printed: df/dV_k for the last layer too; its first row, as shapes differ. Control: first layers of norm two.
    """

    def grown(one: State) -> dict[str, Tensor]:
        first, last = next(iter(one.V)), list(one.V)[-1]
        return {n: (RHO if n == last else 1.0) * (lower if n == first else 1.0) * V for n, V in one.V.items()}

    def predicted(one: State) -> list[Tensor]:
        S = list(by_hand(one).values())
        return [RHO * D for D in S[:-1]] + [S[top][:, :1]]

    some = lambda: runs.square_states(case)
    return equal(
        measured=lambda: [S for one in some() for S in jacobian(one, grown(one)).values()],
        predicted=lambda: [S for one in some() for S in predicted(one)],
        bound=BOUND, reason="rounding; 5 networks of 3 layers",
    )  # fmt: skip


# Which velocity of the direction


def own_lengths(lengths: list[float], k: int) -> float:
    return lengths[k]


def product(lengths: list[float], k: int) -> float:
    return math.prod(lengths)


@claim("B-vdot-factor", printed={"factor": product, "projected": False})
def two_velocities_of_a_direction(case, factor=own_lengths, projected=True):
    """Weight normalisation turns V_k at rho_k S h and its length at V_k' h, with h = -dL/dW_k; the flow at S h/rho_k.

    Printed: rho S h with the product of all lengths, and h/rho_k without S.  B 2.3 and B.1
    """
    drives = lambda one: zip(runs.drives(one).items(), one.V.values(), strict=True)
    turned = lambda one: [factor(runs.LENGTHS, k) * across(V, h) for k, ((_, h), V) in enumerate(drives(one))]
    stretched = lambda one: torch.stack([(V * h).sum() for (_, h), V in drives(one)])
    tangent = lambda V, h: across(V, h) if projected else h
    polar = lambda one: [tangent(V, h) / r for r, ((_, h), V) in zip(runs.LENGTHS, drives(one), strict=True)]
    return together(
        lengths=equal(
            measured=lambda: [runs.weight_normalised(one)[0] for one in runs.square_states(case)],
            predicted=lambda: [stretched(one) for one in runs.square_states(case)],
            bound=BOUND, reason="rounding; 5 networks of 3 layers",
        ),
        weight_normalisation=equal(
            measured=lambda: [v for one in runs.square_states(case) for v in runs.weight_normalised(one)[1]],
            predicted=lambda: [v for one in runs.square_states(case) for v in turned(one)],
            bound=BOUND, reason="rounding; 5 networks of 3 layers",
        ),
        plain_flow=equal(
            measured=lambda: [v for one in runs.square_states(case) for v in runs.directions_of_the_flow(one)],
            predicted=lambda: [v for one in runs.square_states(case) for v in polar(one)],
            bound=BOUND, reason="rounding; 5 networks of 3 layers",
        ),
    )  # fmt: skip


def of_the_inputs(X: Tensor) -> Tensor:
    return torch.cov(X.mT, correction=0)


def euclidean(X: Tensor) -> Tensor:
    return torch.eye(X.shape[1], dtype=X.dtype)


@claim("B-bn-rows", printed={"metric": euclidean})
def rows_that_batch_normalisation_leaves(case, metric=of_the_inputs):
    """The row that reproduces a unit's normalised activity has length one in the covariance of its inputs.  B 2.3

    Rows by least squares, six units in five batches. Printed: length one.
    """
    seen = lambda X, W: torch.linalg.lstsq(X - X.mean(0), batch_norm(X @ W.mT)).solution.mT
    return equal(
        measured=lambda: [
            torch.einsum("id,de,ie->i", seen(X, W), metric(X), seen(X, W)) for X, W in runs.batches(case)
        ],
        predicted=lambda: [torch.ones(6) for _ in range(5)],
        bound=1e-10, reason="rounding of least squares; 40 samples of 4 inputs",
    )  # fmt: skip


# The two equations


@claim("B-wd-penalty", control={"lengths": runs.alike})
def decay_is_a_penalty_on_rho(case, lengths=runs.last_only):
    """With rho_k = 1 for k < L, lambda sum |W_k|^2 moves rho as lambda rho^2 does.  B 2.3 and E.1

    Control: free lengths, where the least penalty is lambda L rho^(2/L).
    """
    total = lambda one, rho: sum(
        (r * V).square().sum() for r, V in zip(lengths(rho, len(one.V)), one.V.values(), strict=True)
    )
    at = lambda: torch.tensor([0.5, 1.7, 3.0], dtype=torch.float64)
    slope = lambda one: torch.stack([torch.func.grad(lambda rho: total(one, rho))(rho) for rho in at()])
    return equal(
        measured=lambda: [slope(one) for one in states(case)], predicted=lambda: [2 * at() for _ in states(case)],
        bound=1e-12, reason="rounding; 15 networks, three lengths each",
    )  # fmt: skip


def squares(W: Tensor) -> Tensor:
    return W.square().sum()


def absolutes(W: Tensor) -> Tensor:
    return W.abs().sum()


@claim("B-E1-V-unchanged", control={"penalty": absolutes})
def decay_does_not_turn(case, penalty=squares):
    """Decay leaves the velocity of V_k as it is without, at given rho and V. Control: a penalty on |W|_1.  B E.1"""
    undecayed = lambda one: [
        across(V, h) / r for r, h, V in zip(runs.LENGTHS, runs.drives(one).values(), one.V.values(), strict=True)
    ]
    decayed = lambda one: runs.directions_of_the_flow(one, lambda W: LAMBDA * sum(map(penalty, W.values())))
    return equal(
        measured=lambda: [v for one in runs.square_states(case) for v in decayed(one)],
        predicted=lambda: [v for one in runs.square_states(case) for v in undecayed(one)],
        bound=BOUND, reason="rounding; 5 networks of 3 layers",
    )  # fmt: skip


def first_form(f: Tensor, y: Tensor) -> Tensor:
    """The rate of rho, equation (5)."""
    return -2 * (RHO * (f * f).sum() - (f * y).sum()) - 2 * LAMBDA * RHO


def second_form(f: Tensor, y: Tensor) -> Tensor:
    """The same as a relaxation towards the equilibrium."""
    return 2 * (LAMBDA + (f * f).sum()) * (equilibrium(f, y) - RHO)


def equilibrium(f: Tensor, y: Tensor) -> Tensor:
    """Equation (7)."""
    return (f * y).sum() / (LAMBDA + (f * f).sum())


def length_rate(one: State, over=torch.sum) -> Tensor:
    """Minus the slope of the loss with its penalty in rho."""
    f = one.output(one.V)
    loss = lambda rho: over((rho * f - one.y).square()) + LAMBDA * rho**2
    return -torch.func.grad(loss)(torch.tensor(RHO, dtype=f.dtype))


@claim("B-eq5", control={"over": torch.mean})
def rho_relaxes(case, over=torch.sum):
    """The flow of rho, as -2[rho sum f^2 - sum f y] - 2 lambda rho and as 2 (lambda + sum f^2)(rho_eq - rho).  B (5)

    Control: the loss averaged over samples.
    """
    forms = lambda one: [form(said(one), one.y) for form in (first_form, second_form)]
    return equal(
        measured=lambda: [length_rate(one, over).expand(2) for one in states(case)],
        predicted=lambda: [torch.stack(forms(one)) for one in states(case)],
        bound=BOUND, reason=ROUNDING,
    )  # fmt: skip


@claim("B-E1-reference", printed={"form": equilibrium})
def it_is_equation_five(case, form=first_form):
    """The equation that decay changes is (5), repeated as (30). Printed: (7), which is its equilibrium.  B E.1"""
    return equal(
        measured=lambda: [length_rate(one) for one in states(case)],
        predicted=lambda: [form(said(one), one.y) for one in states(case)],
        bound=BOUND, reason=ROUNDING,
    )  # fmt: skip


def multiplier(one: State) -> Tensor:
    """The paper's nu."""
    f = said(one)
    return -(RHO**2 * f**2 - RHO * one.y * f).sum()


@claim("B-nu", control={"spread": 1.0})
def one_multiplier_for_all(case, spread=0.0):
    """The multiplier that keeps the norm of a layer is nu = - sum (rho^2 f^2 - rho y f), for every layer.  B 2.3, B.1

    Control: hidden biases.
    """
    loss = lambda one: lambda V: (RHO * one.output(V) - one.y).square().sum()
    kept = lambda one: [-(one.V[n] * d).sum() / 2 for n, d in gradient(loss(one))(one.V).items()]
    return equal(
        measured=lambda: [torch.stack(kept(one)) for one in states(case, spread)],
        predicted=lambda: [multiplier(one) for one in states(case, spread)],
        bound=BOUND, reason=ROUNDING,
    )  # fmt: skip


def last_gain(gains: list[float]) -> list[int]:
    return [len(gains) - 1]


def all_gains(gains: list[float]) -> list[int]:
    return list(range(len(gains)))


@claim("B-eq3-wn", printed={"trained": all_gains}, control={"spread": 1.0})
def lagrangian_is_weight_normalisation(case, trained=last_gain, spread=0.0):
    """Flow on (3) is weight normalisation with lambda = 0, one trained gain and |v_k| = 1.  B (3), B.1

    Printed: every layer has a trained gain. Control: hidden biases.
    """

    def lagrangian(one: State) -> list[Tensor]:
        f, nu, move = said(one), multiplier(one), pulled(one)
        return [-2 * ((RHO * f - one.y) * f).sum()] + [move[n] - 2 * nu * V for n, V in one.V.items()]

    return equal(
        measured=lambda: [v for one in states(case, spread) for v in runs.with_gains(one, trained)],
        predicted=lambda: [v for one in states(case, spread) for v in lagrangian(one)],
        bound=BOUND, reason=ROUNDING,
    )  # fmt: skip


@claim("B-eq6", control={"spread": 1.0})
def directions_move(case, spread=0.0):
    """The flow of V_k is 2 rho sum (rho f - y)(V_k f - df/dV_k), at a right angle to V_k. Control: biases.  B (6)"""

    def law(one: State) -> dict[str, Tensor]:
        f = said(one)
        ell = RHO * f - one.y
        return {
            n: 2 * RHO * torch.einsum("n,nij->ij", ell, f[:, None, None] * one.V[n] - S)
            for n, S in by_hand(one).items()
        }

    along = lambda one: torch.stack([(one.V[n] * v).sum() / v.norm() for n, v in law(one).items()])
    return together(
        flow=equal(
            measured=lambda: [v for one in states(case, spread) for v in runs.on_the_sphere(one)],
            predicted=lambda: [v for one in states(case, spread) for v in law(one).values()],
            bound=BOUND, reason=ROUNDING,
        ),
        tangent=equal(
            measured=lambda: [along(one) for one in states(case, spread)],
            predicted=lambda: [torch.zeros(len(one.V)) for one in states(case, spread)],
            scale=lambda: [1.0 for one in states(case, spread)], bound=BOUND, reason=ROUNDING,
        ),
    )  # fmt: skip


def own_multiplier(one: State) -> Tensor:
    return multiplier(one)


def decay_for_it(one: State) -> Tensor:
    return torch.tensor(LAMBDA, dtype=one.X.dtype)


@claim("B-eq21", printed={"factor": decay_for_it})
def unprojected_flow(case, factor=own_multiplier):
    """The flow of (4) in V_k is -2 sum (rho f - y) rho df/dV_k - 2 nu V_k. Printed: lambda for nu.  B (21)"""
    loss = lambda one, nu: (
        lambda V: (RHO * one.output(V) - one.y).square().sum() + nu * sum(W.square().sum() for W in V.values())
    )
    held = lambda one: runs.solved_multiplier(one)
    return equal(
        measured=lambda: [-d for one in states(case) for d in gradient(loss(one, held(one)))(one.V).values()],
        predicted=lambda: [
            move - 2 * factor(one) * one.V[n] for one in states(case) for n, move in pulled(one).items()
        ],
        bound=BOUND, reason=ROUNDING,
    )  # fmt: skip


@claim("B-eq23", printed={"twice": 2.0})
def middle_of_the_chain(case, twice=1.0):
    """Between the flow and (6) stands 2 sum [-(rho f - y) rho df/dV_k + V_k rho f (rho f - y)].  B (23)

    Printed: a factor two on the second term.
    """
    lift = lambda one: (RHO * said(one) * (RHO * said(one) - one.y)).sum()
    return equal(
        measured=lambda: [v for one in states(case) for v in runs.on_the_sphere(one)],
        predicted=lambda: [
            move + 2 * twice * lift(one) * one.V[n] for one in states(case) for n, move in pulled(one).items()
        ],
        bound=BOUND, reason=ROUNDING,
    )  # fmt: skip


# Off the sphere, with noise, at length one


@claim("B-lambda0-singular", printed={"origin": True}, control={"decay": 0.0, "shift": 0.5})
def decay_restores_the_norms(case, decay=0.1, origin=False, shift=0.0):
    """Without decay an interpolating point is at rest whatever its norms; with any, layers at rest have norm one.

    Interpolating points by construction, and flows of (5) and (6) from layers of norms 1.2 and 1.1 to time 100.
    Printed: also those at rho = 0. Control: no decay; labels that are not interpolated.  B 2.3
    """
    return together(
        pathological=equal(
            measured=lambda: runs.speeds_off_the_sphere(case, shift), predicted=lambda: [0.0] * 5,
            scale=lambda: [1.0] * 5, bound=1e-9, reason="rounding of a linear solve; 5 networks, norms far from one",
        ),
        effective=equal(
            measured=lambda: [runs.off_sphere(case, k, decay, origin)["defect"][-1] + 1 for k in range(2)],
            predicted=lambda: [torch.ones(2) for _ in range(2)],
            bound=1e-6, reason="what is left of the defect at time 100; 2 networks",
        ),
    )  # fmt: skip


@claim("O-off-sphere-defect", control={"count": 2.0})
def defects_in_closed_form(case, count=4.0):
    """Under (5), (6) |V_k|^2 - 1 shrinks by exp(rho(0)^2 - rho^2 - 4 lambda int rho^2). Control: 2 for 4 and decay."""
    law = lambda p, d: p["defect"][0] * (p["rho"][0] ** 2 - p["rho"] ** 2 - count * d * p["I"]).exp()[:, None]
    cells = [(k, d) for k in range(2) for d in (0.02, 0.1)]
    return equal(
        measured=lambda: [runs.off_sphere(case, k, d, stop=10.0)["defect"] for k, d in cells],
        predicted=lambda: [law(runs.off_sphere(case, k, d, stop=10.0), d) for k, d in cells],
        bound=1e-7, reason="integrator's tolerance of 1e-10 a step; 2 networks, decay 0.02 and 0.1",
    )  # fmt: skip


@claim("B-rhodot-sgd", control={"decay": 0.3})
def draws_scatter_around_the_equilibrium(case, decay=0.0):
    """At fixed f, one draw a step, the mean of rho nears rho_eq and its variance a positive limit, both in closed form.

    Over all 4^8 sequences of eight draws, from zero for the mean, from rho_eq for the variance. Control: decay.  B B.1
    """
    return together(
        mean=equal(
            measured=lambda: [rho.mean() for rho in runs.sequences(case, decay, True)],
            predicted=lambda: [mean for mean, _ in runs.moments(case)],
            bound=1e-11, reason="all sequences are counted; 5 data sets of 4 samples",
        ),
        variance=equal(
            measured=lambda: [rho.var(correction=0) for rho in runs.sequences(case, decay, False)],
            predicted=lambda: [variance for _, variance in runs.moments(case)],
            bound=1e-11, reason="all sequences are counted; 5 data sets of 4 samples",
        ),
    )  # fmt: skip


@claim("B-rho1-stationary", printed={"least": -1.0}, control={"decay": LAMBDA, "copies": False})
def length_one_is_the_least(case, least=0.0, decay=0.0, copies=True):
    """Without decay, y f = 1 at rho = 1 is at rest with zero loss, and rho_eq is at least one if no y f is negative.

    Copies of one input and an aligned network; a thousand draws of y f from 0 to 1, and of zeros and ones.
    Printed: from -1 to 1 with a positive sum. Control: decay 0.3; inputs that differ.  B B.1
    """
    return together(
        at_rest=equal(
            measured=lambda: runs.motion_at_one(case, copies), predicted=lambda: [0.0] * 5, scale=lambda: [1.0] * 5,
            bound=1e-11, reason="rounding; 5 aligned networks; velocities and the loss",
        ),
        least=at_most(
            left=lambda: [(m.square().sum(1) + decay) / m.sum(1) for m in runs.margins(case, least)],
            right=lambda: [1.0, 1.0], bound=1e-11, reason="rounding; the inverse of rho_eq",
        ),
    )  # fmt: skip
