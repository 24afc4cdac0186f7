"""What decides section 3 of paper C: normalisations, and what gradients and second derivatives are below one.

Runs are in :mod:`companion.normalization_geometry.model_runs`.
"""

import torch
from torch import Tensor

from claimbook.evidence import at_most, claim, counterexample, equal, together
from companion.normalization_geometry import model_runs as runs
from companion.normalization_geometry.model_runs import Backward, stored
from companion.normalization_geometry.normalised_units import OVER, WeightNormalised, layers, weight_normalised
from normdyn.networks.normalizers import batch_norm, layer_norm, normalize, normalize_backward

USUAL = 1e-5  # torch's epsilon
SMOOTH = (0.0, 0.1)
BATCH = ("batch", "batch with space")
LAYER = ("layer", "instance")
FACTORS = (1e-3, 0.1, 7.0, 1e3)
ROUNDING = "rounding of automatic differentiation, where sums cancel in part; 5 draws"

# Mean and variance


def shrunk(v: Tensor, epsilon: float) -> Tensor:
    return v / (v + epsilon)


def unit_variance(v: Tensor, epsilon: float) -> Tensor:
    return torch.ones_like(v)


@claim("C-bn-zero-mean-unit-variance", printed={"variance": unit_variance}, control={"centred": False})
def unit_over_the_batch(case, variance=shrunk, centred=True):
    """Over the batch a normalised unit has mean zero and variance v/(v + epsilon).  C 3.1

    Printed: variance one, with epsilon in the formula. Control: the mean is left in.
    """
    some = lambda: [(kind, *pair) for kind in BATCH for pair in runs.normalised(case, kind, 0.1, centred)]
    return together(
        mean=equal(
            measured=lambda: [hat.mean(OVER[kind]) for kind, _, hat in some()],
            predicted=lambda: [0.0 for _ in some()], scale=lambda: [1.0 for _ in some()],
            bound=1e-12, reason="rounding; signals of five sizes without and with space, epsilon = 0.1",
        ),
        variance=equal(
            measured=lambda: [hat.var(OVER[kind], correction=0) for kind, _, hat in some()],
            predicted=lambda: [variance(z.var(OVER[kind], correction=0), 0.1) for kind, z, _ in some()],
            bound=1e-12, reason="rounding; signals of five sizes without and with space, epsilon = 0.1",
        ),
    )  # fmt: skip


def alone(z: Tensor, kind: str) -> Tensor:
    """Each sample normalised in a batch of its own."""
    return torch.cat([normalize(one[None], OVER[kind], epsilon=0.1) for one in z])


@claim(
    "C-ln-zero-mean-unit-variance", printed={"variance": unit_variance}, control=[{"centred": False}, {"kinds": BATCH}]
)
def unit_over_the_layer(case, variance=shrunk, centred=True, kinds=LAYER):
    """Each sample has mean zero and variance v/(v + epsilon) over its units, whatever the other samples are.  C 3.1

    Printed: variance one. Controls: the mean is left in; batch normalisation, which needs the other samples.
    """
    some = lambda: [(kind, *pair) for kind in kinds for pair in runs.normalised(case, kind, 0.1, centred)]
    return together(
        mean=equal(
            measured=lambda: [hat.mean(OVER[kind]) for kind, _, hat in some()],
            predicted=lambda: [0.0 for _ in some()], scale=lambda: [1.0 for _ in some()],
            bound=1e-12, reason="rounding; signals of five sizes, LN and instance normalisation, epsilon = 0.1",
        ),
        variance=equal(
            measured=lambda: [hat.var(OVER[kind], correction=0) for kind, _, hat in some()],
            predicted=lambda: [variance(z.var(OVER[kind], correction=0), 0.1) for kind, z, _ in some()],
            bound=1e-12, reason="rounding; signals of five sizes, LN and instance normalisation, epsilon = 0.1",
        ),
        alone=equal(
            measured=lambda: [hat for kind in kinds for _, hat in runs.normalised(case, kind, 0.1)],
            predicted=lambda: [alone(z, kind) for kind in kinds for z, _ in runs.normalised(case, kind, 0.1)],
            bound=1e-12, reason="rounding; every sample in a batch of its own",
        ),
    )  # fmt: skip


@claim("C-bn-bounded-activation", control={"normalised": False})
def weights_cannot_blow_it_up(case, normalised=True):
    """However large the weights grow, outputs have variance gamma^2 v/(v + eps), and none passes |gamma| sqrt(m - 1).

    So neither do the outputs of a network above: |f| is at most the sum of what its last layer can make of that. The
    last batches have one outlier, which reaches the bound. Control: no normalisation.  C 5.1
    """
    some = lambda: runs.grown(case, normalised)
    reach = lambda gain, shift, m: gain.abs() * (m - 1) ** 0.5 + shift.abs()
    highest = lambda one: (
        one.weights[-1].abs() @ reach(one.gains[-1], one.shifts[-1], len(one.X)) + one.biases[-1].abs()
    )
    return together(
        variance=equal(
            measured=lambda: [a.var(0, correction=0) for _, a, _ in some()],
            predicted=lambda: [gain.square()[0] * shrunk(z.var(0, correction=0), USUAL) for gain, _, z in some()],
            each=True, bound=1e-9, reason="rounding; heavy tails, weights grown by factors from 1 to 1e12",
        ),
        values=at_most(
            left=lambda: [a.abs().amax(0) for _, a, _ in some()],
            right=lambda: [gain.abs()[0] * (len(a) - 1) ** 0.5 for gain, a, _ in some()],
            bound=1e-12, reason="rounding; 30,000 batches of nine with heavy tails, and one outlier in 4, 9 and 256",
        ),
        network=at_most(
            left=lambda: [largest for _, largest in runs.grown_networks(case, normalised)],
            right=lambda: [highest(one) for one, _ in runs.grown_networks(case, normalised)],
            bound=1e-12, reason="rounding; 5 networks whose first layer grows by factors from 1 to 1e12",
        ),
    )  # fmt: skip


# What a normalised unit forgets


@claim("C-bn-shift", control={"normalizer": stored})
def biases_do_not_matter(case, normalizer=batch_norm):
    """A constant added to a unit's signals changes nothing, for any epsilon: the slope in its bias is zero.  C 3.1

    On a batch and on its halves. Control: stored statistics.
    """
    return together(
        outputs=equal(
            measured=lambda: [f for e in SMOOTH for f in runs.moved(case, "ones", 5.0, 1, False, normalizer, e)],
            predicted=lambda: [f for e in SMOOTH for f in runs.by_torch(case, normalizer, e)],
            bound=1e-11, reason="rounding; 5 networks, random offsets five times the weights, epsilon 0 and 0.1",
        ),
        slopes=equal(
            measured=lambda: [b for _, b in runs.first_slopes(case, normalizer)],
            predicted=lambda: [0.0 for _ in runs.first_slopes(case, normalizer)],
            scale=lambda: [W.abs().max() for W, _ in runs.first_slopes(case, normalizer)],
            bound=1e-12, reason=f"{ROUNDING}, each on three batches",
        ),
    )  # fmt: skip


def about_shift(a: Tensor, shift: Tensor) -> Tensor:
    return 2 * shift - a


def about_zero(a: Tensor, shift: Tensor) -> Tensor:
    return -a


@claim("C-bn-sign-flip", printed={"flipped": about_zero}, control={"gain": 1.0})
def negative_factors_flip(case, flipped=about_shift, gain=-1.0):
    """A factor of minus one flips hat z, so a - beta flips; with the gain's sign changed too nothing does.  C 3.1

    Also negative factors of other sizes, at epsilon zero. Printed: a flips. Control: the gain keeps its sign.
    """
    pairs = lambda kind: zip(layers(case, kind, 0.1), runs.normalised(case, kind, 0.1), strict=True)
    some = lambda: [(one, *pair) for kind in BATCH for one, pair in pairs(kind)]
    return together(
        unit=equal(
            measured=lambda: [one.gain * one.hat(-z) + one.shift for one, z, _ in some()],
            predicted=lambda: [flipped(one.gain * hat + one.shift, one.shift) for one, _, hat in some()],
            bound=1e-12, reason="rounding; units with gains and shifts, epsilon = 0.1",
        ),
        network=equal(
            measured=lambda: [*runs.moved(case, "-ones", gain=gain, epsilon=0.1),
                              *runs.moved(case, "-spread", gain=gain)],
            predicted=lambda: [*runs.by_torch(case, epsilon=0.1), *runs.by_torch(case)],
            bound=1e-10, reason="rounding; 5 networks, factors from -1e-3 to -1e3 at epsilon zero, -1 at 0.1",
        ),
    )  # fmt: skip


@claim("C-bn-per-neuron-scaling", printed={"epsilon": USUAL}, control=[{"normalizer": layer_norm}, {"undo": True}])
def each_unit_has_its_own_scale(case, normalizer=batch_norm, undo=False, epsilon=0.0):
    """Under BN the weights and bias of each unit can be multiplied by a positive factor of their own.  C 3.1

    At epsilon zero. Controls: layer normalisation; the factors undone in the gains, as the text has it first.
    """
    return equal(
        measured=lambda: runs.moved(case, "spread", undo=undo, normalizer=normalizer, epsilon=epsilon),
        predicted=lambda: runs.by_torch(case, normalizer, epsilon),
        bound=1e-10, reason="rounding at factors from 1e-3 to 1e3 for six units; 5 networks",
    )  # fmt: skip


# The backward pass


def by_formula(one: Backward, kind: str, epsilon: float) -> Tensor:
    """The bracket of equation (1), of gains times the gradient above."""
    return normalize_backward(one.z, one.gain * one.above, OVER[kind], epsilon=epsilon)


def without_gains(one: Backward, kind: str, epsilon: float) -> Tensor:
    return normalize_backward(one.z, one.above, OVER[kind], epsilon=epsilon)


@claim("C-eq1", printed={"formula": without_gains}, control={"constants": True})
def gradient_below_batch_normalisation(case, formula=by_formula, constants=False):
    """dL/dz = gamma/(m s) [m delta - sum delta - hat z sum delta hat z] with delta = dL/da.  C (1)

    Printed: without gamma. Control: stored statistics, which do not depend on z.
    """
    some = lambda: [(kind, e, one) for kind in BATCH for e in SMOOTH for one in runs.backward(case, kind, e, constants)]
    return equal(
        measured=lambda: [one.below for _, _, one in some()],
        predicted=lambda: [formula(one, kind, e) for kind, e, one in some()],
        bound=1e-12, reason=f"{ROUNDING}, batches without and with space, epsilon 0 and 0.1",
    )  # fmt: skip


@claim("C-eq1-zero-sum", control={"constants": True})
def gradients_sum_to_zero(case, constants=False):
    """Below BN the gradients of a unit sum to zero over the batch, for any epsilon.  C 3.2

    Control: stored statistics.
    """
    some = lambda: [(kind, one) for kind in BATCH for e in SMOOTH for one in runs.backward(case, kind, e, constants)]
    return equal(
        measured=lambda: [one.below.sum(OVER[kind]) for kind, one in some()],
        predicted=lambda: [0.0 for _ in some()],
        scale=lambda: [one.below.abs().sum() / one.below.shape[1] for _, one in some()],
        bound=1e-13, reason=f"{ROUNDING}, batches without and with space, epsilon 0 and 0.1",
    )  # fmt: skip


def gains_in_front(one: Backward, kind: str, epsilon: float) -> Tensor:
    return one.gain * normalize_backward(one.z, one.above, OVER[kind], epsilon=epsilon)


def index_in_the_sum(one: Backward, kind: str, epsilon: float) -> Tensor:
    """The printed formula with its loose index taken into the last sum, and gains."""
    over, g = OVER[kind], one.gain * one.above
    hat, s = normalize(one.z, over, epsilon=epsilon), (one.z.var(over, correction=0, keepdim=True) + epsilon).sqrt()
    return (g - g.mean(over, keepdim=True) - (g * hat.square()).mean(over, keepdim=True)) / s


@claim(
    "C-ln-backward",
    printed={"formula": without_gains},
    control=[{"formula": index_in_the_sum}, {"formula": gains_in_front}, {"constants": True}],
)
def gradient_below_layer_normalisation(case, formula=by_formula, constants=False):
    """dL/dz_i = 1/(d s) [d g_i - sum g_j - hat z_i sum g_j hat z_j], of g_j = gamma_j dL/da_j.  C 3.2

    Printed: without gains, the loose index read as i. Controls: it is summed over; gains in front; stored statistics.
    """
    some = lambda: [(e, one) for e in SMOOTH for one in runs.backward(case, "layer", e, constants)]
    return equal(
        measured=lambda: [one.below for _, one in some()],
        predicted=lambda: [formula(one, "layer", e) for e, one in some()],
        bound=1e-12, reason=f"{ROUNDING}, 12 samples of 5 units, epsilon 0 and 0.1",
    )  # fmt: skip


@claim("C-ln-backward-zero-sum", printed={"epsilon": USUAL}, control={"constants": True})
def gradients_sum_to_zero_over_units(case, epsilon=0.0, constants=False):
    """Below LN each sample's gradient sums to zero over units, and has a factor 1/c where the sample is scaled by c.

    The first for any epsilon. Printed: the second with one. Control: stored statistics.  C 3.2
    """
    some = lambda: [one for e in SMOOTH for one in runs.backward(case, "layer", e, constants)]
    factors = lambda one: (9.0 ** (torch.arange(len(one.z)).remainder(3) / 2))[:, None]
    return together(
        sum=equal(
            measured=lambda: [one.below.sum(1) for one in some()],
            predicted=lambda: [0.0 for _ in some()], scale=lambda: [one.below.abs().sum(1) for one in some()],
            bound=1e-13, reason=f"{ROUNDING}, 12 samples of 5 units, epsilon 0 and 0.1",
        ),
        scale=equal(
            measured=lambda: [factors(one) * one.below for one in runs.backward(case, "layer", epsilon, factor=9.0)],
            predicted=lambda: [one.below for one in runs.backward(case, "layer", epsilon)],
            bound=1e-12, reason=f"{ROUNDING}, samples times 1, 3 and 9",
        ),
    )  # fmt: skip


def divided(epsilon: float, factor: float) -> float:
    return epsilon / factor**2


def kept(epsilon: float, factor: float) -> float:
    return epsilon


@claim("C-bn-grad-inverse-scale", printed={"seen": kept}, control={"normalised": False})
def larger_weights_smaller_gradients(case, seen=divided, normalised=True):
    """Weights and biases below BN times c have 1/c of the gradient, at epsilon zero; else that of epsilon/c^2.

    Printed: that of the same epsilon. Control: no normalisation.  C 2.1 and 3.2
    """
    cells = [(c, e) for c in FACTORS for e in (0.0, USUAL, 0.1)]
    return equal(
        measured=lambda: [c * g for c, e in cells for g in runs.slopes_at(case, c, e, normalised)],
        predicted=lambda: [g for c, e in cells for g in runs.slopes_at(case, 1.0, seen(e, c), normalised)],
        bound=1e-10, reason=f"{ROUNDING}, factors from 1e-3 to 1e3, epsilon 0, 1e-5 and 0.1",
    )  # fmt: skip


# Weight normalisation


def weight_normalisation(one: WeightNormalised, v: Tensor, gain: Tensor) -> Tensor:
    return one.seen(v, gain)


def not_normalised(one: WeightNormalised, v: Tensor, gain: Tensor) -> Tensor:
    return gain * v


def length_alone(one: WeightNormalised, v: Tensor, gain: Tensor) -> Tensor:
    """Only the length of v matters, its direction does not: the opposite of weight normalisation."""
    return gain * v.norm() * one.v / one.v.norm()


@claim("C-wn-length-direction", printed={"factors": (0.1, 10.0, -1.0)}, control={"layer": not_normalised})
def length_and_direction_part(case, factors=(0.1, 10.0), layer=weight_normalisation):
    """With w = g v/|v| changes of v leave |w| = |g|, and changes of g leave the direction, as long as g keeps its sign.

    Printed: any change of g. Control: w = g v.  C 3.1
    """
    step = lambda one: torch.stack([one.v.flip(0), 5 * one.v.roll(1), -3 * one.v])
    every = lambda: weight_normalised(case)
    return together(
        length=equal(
            measured=lambda: [layer(one, one.v + s, one.gain).norm() for one in every() for s in step(one)],
            predicted=lambda: [one.gain.abs() for one in every() for _ in range(3)],
            bound=1e-13, reason="rounding; 5 vectors, three finite changes of each",
        ),
        direction=equal(
            measured=lambda: [(lambda w: w / w.norm())(layer(one, one.v, c * one.gain))
                              for one in every() for c in factors],
            predicted=lambda: [one.v / one.v.square().sum().sqrt() for one in every() for _ in factors],
            bound=1e-13, reason="rounding; 5 vectors with positive gains",
        ),
    )  # fmt: skip


def whole_jacobian(one: WeightNormalised, h: Tensor) -> Tensor:
    """g/|v| (I - v v'/|v|^2) h."""
    return one.gain / one.v.norm() * (h - one.v * (one.v @ h) / one.v.square().sum())


def diagonal(one: WeightNormalised, h: Tensor) -> Tensor:
    return (one.gain / one.v.norm() - one.gain * one.v.square() / one.v.norm() ** 3) * h


@claim("C-wn-partials", printed={"jacobian": diagonal}, control={"layer": not_normalised})
def chain_rule(case, jacobian=whole_jacobian, layer=weight_normalisation):
    """dL/dv = g/|v| (I - v v'/|v|^2) dL/dw, for every w_j depends on v_k; dL/dg = v' dL/dw/|v|.  C 3.2

    Printed: the diagonal of the matrix. Control: w = g v.
    """
    every = lambda: zip(weight_normalised(case), runs.seen_slopes(case, layer), strict=True)
    return together(
        raw=equal(
            measured=lambda: [raw for raw, _ in runs.partials(case, layer)],
            predicted=lambda: [jacobian(one, h) for one, h in every()],
            bound=1e-12, reason=ROUNDING,
        ),
        gain=equal(
            measured=lambda: [gain for _, gain in runs.partials(case, layer)],
            predicted=lambda: [one.v @ h / one.v.norm() for one, h in every()],
            bound=1e-12, reason=ROUNDING,
        ),
    )  # fmt: skip


@claim("C-wn-gradient-parallel-v", control={"layer": length_alone})
def gradient_is_not_parallel(case, layer=weight_normalisation):
    """The gradient in v is parallel to v. It is orthogonal: all of it is across v.  C 3.2

    Control: weights of which only the length of v is used.
    """
    raw = lambda: [slope for slope, _ in runs.partials(case, layer)]
    every = lambda: zip(weight_normalised(case), raw(), runs.seen_slopes(case, layer), strict=True)
    across = lambda v, g: g - v * (v @ g) / v.square().sum()
    ray = lambda one: torch.func.jvp(lambda v: one.loss(layer(one, v, one.gain)), (one.v,), (one.v / one.v.norm(),))[1]
    return counterexample(
        equal(
            measured=lambda: [across(one.v, slope).norm() for one, slope, _ in every()],
            predicted=lambda: [0.0 for _ in every()], scale=lambda: [slope.norm() for slope in raw()],
            bound=1e-11, reason=ROUNDING,
        ),
        exact=lambda: torch.stack([(1 - (ray(one) / whole_jacobian(one, h).norm()) ** 2).sqrt()
                                   for one, _, h in every()]).min(),
    )  # fmt: skip


# Second derivatives


@claim("C-hessian-flat-direction", printed={"solved": False}, control={"epsilon": 0.1})
def flat_at_critical_points(case, solved=True, epsilon=0.0):
    """Along the scale of a unit w'Hw = 0; H w = -dL/dw, so that H w = 0 at critical points. The shift is flat anywhere.

    So there is an eigenvalue zero, and mixed second derivatives vanish, where the gradient does. Printed: at random
    points. Control: epsilon = 0.1, where only the shift stays flat.  C 3.2
    """
    anywhere, there = lambda: runs.hessian_rows(case, False, epsilon), lambda: runs.hessian_rows(case, solved, epsilon)
    reason = f"{ROUNDING} of networks of four units"
    return together(
        along=equal(
            measured=lambda: [one.unit @ one.applied for one in anywhere()],
            predicted=lambda: [0.0 for _ in anywhere()],
            scale=lambda: [one.size * one.unit.square().sum() for one in anywhere()], bound=1e-12, reason=reason,
        ),
        row=equal(
            measured=lambda: [one.applied for one in anywhere()], predicted=lambda: [-one.slope for one in anywhere()],
            bound=1e-10, reason=reason,
        ),
        eigenvalue=equal(
            measured=lambda: [one.applied for one in there()], predicted=lambda: [0.0 for _ in there()],
            scale=lambda: [one.size * one.unit.norm() for one in there()], bound=1e-11, reason=reason,
        ),
        shift=equal(
            measured=lambda: [one.shift for one in anywhere()], predicted=lambda: [0.0 for _ in anywhere()],
            scale=lambda: [one.size for one in anywhere()], bound=1e-12, reason=reason,
        ),
    )  # fmt: skip


def least_curvature(path: dict[str, Tensor]) -> Tensor:
    """The bound on the smallest eigenvalue: that of the Hessian in the plane of the weights and the gradient."""
    w, G, H = path["w"], path["slope"], path["H"]
    h = torch.einsum("ti,tij,tj->t", G, H, G) / G.square().sum(1)
    return (h - (h.square() + 4 * G.square().sum(1) / w.square().sum(1)).sqrt()) / 2


@claim("O-negative-curvature", control={"normalised": False})
def curvature_is_negative_until_the_gradient_is_gone(case, normalised=True):
    """Where the gradient G in a unit's weights is not zero, lambda_min <= (h - sqrt(h^2 + 4 |G|^2/|w|^2))/2 < 0.

    With h = G'HG/|G|^2; along the flow of one unit. Control: no normalisation, a convex problem.
    """
    path = lambda: runs.descent_of_a_unit(case, normalised)
    return at_most(
        left=lambda: -least_curvature(path()),
        right=lambda: -torch.linalg.eigvalsh(path()["H"])[:, 0],
        scale=lambda: path()["slope"].norm(dim=1) / path()["w"].norm(dim=1),
        bound=1e-6, reason="rounding of eigenvalues where the gradient has fallen by a factor of a million",
    )  # fmt: skip
