"""What decides the claims of sections 4.1 to 4.3 of paper C: moves of the parameters that the function does not see.

The paper's statements are read with epsilon under the root, as its section 3 defines the layers and its proof of
Proposition 4.2 has it. Runs are in :mod:`companion.normalization_geometry.invariances_runs`.
"""

import torch
from torch import Tensor

from claimbook.evidence import claim, equal, together
from companion.normalization_geometry import invariances_runs as runs
from companion.normalization_geometry.invariances_runs import FACTORS, seen
from normdyn.networks.normalizers import batch_norm, weight_norm

USUAL = 1e-5  # epsilon as in common use
ROUNDING = "rounding, amplified by the outputs' slopes; 5 networks, 3 batches, factors 0.1, 3 and 100"

# Batch normalisation


@claim("C-prop4.1", printed={"epsilon": USUAL}, control=[{"kind": "none"}, {"kind": "stored"}])
def batch_normalised_scale_is_free(case, kind="batch", epsilon=0.0):
    """Weights and biases below batch normalisation times a positive factor: the outputs stay.  C Proposition 4.1

    Controls: no normalisation; the statistics stored before.
    """
    return equal(
        measured=lambda: [f for c in FACTORS for f in runs.after(case, c, kind=kind, epsilon=epsilon)],
        predicted=lambda: runs.before(case, kind, epsilon) * len(FACTORS),
        bound=1e-11, reason=ROUNDING,
    )  # fmt: skip


@claim("C-bn-gamma-division", printed={"power": -1.0}, control={"epsilon": USUAL})
def gain_stays(case, power=0.0, epsilon=0.0):
    """The outputs stay when the gain is multiplied by c^0 while weights and biases are multiplied by c.  C 2.1

    Printed: by 1/c. Control: an epsilon.
    """
    return equal(
        measured=lambda: [f for c in FACTORS for f in runs.after(case, c, epsilon=epsilon, gain=c**power)],
        predicted=lambda: runs.before(case, epsilon=epsilon) * len(FACTORS),
        bound=1e-11, reason=ROUNDING,
    )  # fmt: skip


@claim("C-prop4.1-interpolation-identity", control={"shift": 0.0})
def output_with_divided_gain(case, shift=1.0):
    """With the normalised values kept and the gain divided by c, a' = a/c + (1 - 1/c) beta.  C 4.1

    At epsilon = 1e-5. Control: without the term in beta.
    """
    gain, beta = 1.7, -0.6
    hat = lambda one: (lambda z: (z - z.mean()) / (z.var(correction=0) + USUAL).sqrt())(one.X @ one.w + one.b)
    layer = lambda one, g: g * batch_norm((one.X @ one.w + one.b)[:, None], epsilon=USUAL)[:, 0] + beta
    return equal(
        measured=lambda: [layer(one, gain / c) for one in runs.units(case) for c in FACTORS],
        predicted=lambda: [
            (gain * hat(one) + beta) / c + (1 - 1 / c) * beta * shift for one in runs.units(case) for c in FACTORS
        ],
        bound=1e-13, reason="rounding; 5 units of 20 samples, factors 0.1, 3 and 100",
    )  # fmt: skip


@claim("C-cor4.1.1", printed={"epsilon": USUAL}, control={"kind": "none"})
def no_force_along_the_scale(case, kind="batch", epsilon=0.0):
    """The gradient is orthogonal to (W, b), for the layer and for each row by itself.  C Corollary 4.1.1

    On each batch by itself. Control: no normalisation.
    """
    some = lambda: runs.gradients(case, kind, epsilon)
    return together(
        layer=equal(
            measured=lambda: [(one.rows * one.gradient).sum() for one in some()],
            predicted=lambda: [0.0] * len(some()),
            scale=lambda: [one.rows.norm() * one.gradient.norm() for one in some()],
            bound=1e-13, reason="rounding of autograd; 5 networks, 2 layers, 3 batches",
        ),
        rows=equal(
            measured=lambda: [(one.rows * one.gradient).sum(1) for one in some()],
            predicted=lambda: [torch.zeros(len(one.rows)) for one in some()],
            scale=lambda: [one.rows.norm(dim=1) * one.gradient.norm(dim=1) for one in some()],
            bound=1e-12, reason="rounding of autograd, where a row's gradient is small",
        ),
    )  # fmt: skip


@claim("C-cor4.1.1-from-eq1", printed={"epsilon": USUAL}, control=[{"third": False}, {"second": False}])
def orthogonality_from_the_bracket(case, epsilon=0.0, second=True, third=True):
    """Equation (1) sums to zero over the batch, and against the signals: so w dL/dw + b dL/db = 0.  C 4.1, A.1.1

    Controls: the bracket without its term in the normalised values, and without the mean.
    """

    bracket = lambda one: runs.by_equation_one(one, epsilon, second, third)

    def parameters(one):
        slope = bracket(one)
        return torch.cat([one.X.mT @ slope, slope.sum()[None]]), torch.cat([one.w, one.b[None]])

    some = lambda: runs.units(case)
    return together(
        shift=equal(
            measured=lambda: [bracket(one).sum() for one in some()], predicted=lambda: [0.0] * len(some()),
            scale=lambda: [bracket(one).norm() for one in some()],
            bound=1e-13, reason="rounding of a sum of 20",
        ),
        scale=equal(
            measured=lambda: [torch.dot(*parameters(one)) for one in some()], predicted=lambda: [0.0] * len(some()),
            scale=lambda: [parameters(one)[0].norm() * parameters(one)[1].norm() for one in some()],
            bound=1e-13, reason="rounding; 5 units, 20 samples",
        ),
    )  # fmt: skip


def gain_of_the_factor(c: float) -> float:
    return 1 / c


def gain_as_it_is(c: float) -> float:
    return 1.0


@claim("O-stored-scale", control=[{"gain": gain_as_it_is}, {"kind": "batch"}])
def stored_statistics_divide_the_gain(case, gain=gain_of_the_factor, kind="stored"):
    """With stored statistics (w, b - m, gamma) -> (c w, c (b - m), gamma/c) leaves the function.  Ours, beside C 4.1

    Controls: the gain as it is; the batch's own statistics.
    """
    return equal(
        measured=lambda: [f for c in FACTORS for f in runs.after(case, c, kind=kind, gain=gain(c), center=True)],
        predicted=lambda: runs.before(case, kind) * len(FACTORS),
        bound=1e-11, reason=ROUNDING,
    )  # fmt: skip


@claim("O-epsilon-scale", control=[{"power": 0.0}, {"share": 0.0}])
def scale_divides_epsilon(case, power=2.0, share=1.0):
    """BN_eps(c z) = BN_(eps/c^2)(z), and the radial part of a unit's gradient is gain eps/s^2 sum delta hat.  Ours

    At epsilon = 1e-5, 0.01 and 1. Controls: epsilon not divided; no radial part.
    """
    epsilons = (1e-5, 0.01, 1.0)
    signal = lambda one: one.X @ one.w + one.b
    layer = lambda z, e: batch_norm(z[:, None], epsilon=e)[:, 0]
    standard = lambda z, e: (z - z.mean()) / (z.var(correction=0) + e).sqrt()
    loss = lambda w, one, e: (1.7 * layer(one.X @ w + one.b, e)) @ one.delta
    return together(
        values=equal(
            measured=lambda: [layer(c * signal(one), e) for one in runs.units(case) for c in FACTORS for e in epsilons],
            predicted=lambda: [
                standard(signal(one), e / c**power) for one in runs.units(case) for c in FACTORS for e in epsilons
            ],
            bound=1e-12, reason="rounding; 5 units, factors 0.1, 3 and 100",
        ),
        force=equal(
            measured=lambda: [
                torch.func.grad(loss)(one.w, one, e) @ one.w for one in runs.units(case) for e in epsilons
            ],
            predicted=lambda: [
                share * 1.7 * e / (signal(one).var(correction=0) + e) * (one.delta @ standard(signal(one), e))
                for one in runs.units(case) for e in epsilons
            ],
            scale=lambda: [e / (signal(one).var(correction=0) + e) * one.delta.norm()
                           for one in runs.units(case) for e in epsilons],
            bound=1e-7, reason="rounding of sums that cancel to 1e-5 of their terms; 5 units",
        ),
    )  # fmt: skip


# Two small examples


@claim("C-example-one-sample-regression", control={"samples": 2})
def one_sample_is_flat(case, samples=1):
    """Square loss of one sample: gradient (w.x - t) x, Hessian x x', flat at right angles to x.  C 4.1, example

    Control: a second sample.
    """
    some = lambda: runs.regressions(case, samples)
    across = lambda x, u: u - x * (x @ u) / (x @ x)
    bound, reason = 1e-11, "rounding; 5 draws in 4 dimensions"
    return together(
        gradient=equal(
            measured=lambda: [one.gradient for one in some()],
            predicted=lambda: [(one.w @ one.X[0] - one.t[0]) * one.X[0] for one in some()], bound=bound, reason=reason,
        ),
        hessian=equal(
            measured=lambda: [one.hessian for one in some()],
            predicted=lambda: [torch.outer(one.X[0], one.X[0]) for one in some()], bound=bound, reason=reason,
        ),
        eigenvalues=equal(
            measured=lambda: [torch.linalg.eigvalsh(one.hessian) for one in some()],
            predicted=lambda: [torch.cat([torch.zeros(3), (one.X[0] @ one.X[0])[None]]) for one in some()],
            bound=bound, reason=reason,
        ),
        moves=equal(
            measured=lambda: [one.loss(one.w + 3 * across(one.X[0], one.other)) for one in some()],
            predicted=lambda: [(one.w @ one.X[0] - one.t[0]) ** 2 / 2 for one in some()], bound=bound, reason=reason,
        ),
    )  # fmt: skip


def sign_of(w: float) -> float:
    return 1.0 if w > 0 else -1.0


def one_whatever(w: float) -> float:
    return 1.0


@claim("C-example-scalar-bn", printed={"law": one_whatever}, control={"epsilon": 0.01})
def scalar_input_leaves_a_sign(case, law=sign_of, epsilon=0.0):
    """The normalised value of a scalar input does not depend on w, but for its sign.  C 4.1, example

    Control: an epsilon.
    """
    standard = lambda x: (x - x.mean()) / x.std(correction=0)
    factors = (-2.0, 0.1, 7.0)
    return equal(
        measured=lambda: [
            batch_norm(w * one.X[:, :1] + one.b, epsilon=epsilon)[:, 0] for one in runs.units(case) for w in factors
        ],
        predicted=lambda: [law(w) * standard(one.X[:, 0]) for one in runs.units(case) for w in factors],
        bound=1e-12, reason="rounding; 5 batches of 20, w = -2, 0.1 and 7",
    )  # fmt: skip


# Layer normalisation


@claim("C-prop4.2", printed={"epsilon": USUAL}, control={"kind": "none"})
def layer_normalised_scale_is_free(case, kind="layer", epsilon=0.0):
    """Weights and biases below layer normalisation times a positive factor: every output stays.  C Proposition 4.2

    Control: no normalisation.
    """
    return equal(
        measured=lambda: [f for c in FACTORS for f in runs.after(case, c, kind=kind, epsilon=epsilon)],
        predicted=lambda: runs.before(case, kind, epsilon) * len(FACTORS),
        bound=1e-11, reason=ROUNDING,
    )  # fmt: skip


@claim("C-ln-partial-scaling", control={"kind": "batch"})
def single_rows_are_not_free(case, kind="layer"):
    """Of the scales of single rows only the common one is free at epsilon = 0, and none with an epsilon.  C 4.2

    Control: batch normalisation, where each row is free.
    """
    exact, loose = (3, 4, 6), (2, 3, 6)
    return equal(
        measured=lambda: [n for d in exact for n in runs.lost_row_scales(case, kind, d, 0.0)]
        + [n for d in loose for n in runs.lost_row_scales(case, kind, d, 0.1)],
        predicted=lambda: [1] * (len(exact) * runs.NETWORKS) + [0] * (len(loose) * runs.NETWORKS),
        bound=1e-6, reason="a count is exact; 5 networks of each of the widths 3, 4, 6, with epsilon = 0.1 also 2",
    )  # fmt: skip


def minus_gradient(one: runs.Curved) -> Tensor:
    return -one.gradient


def nothing(one: runs.Curved) -> Tensor:
    return torch.zeros_like(one.theta)


@claim("C-ln-gradient-radial", printed={"image": nothing}, control={"kind": "none"})
def straight_along_the_scale(case, image=minus_gradient, kind="layer"):
    """Along theta = (W, b) gradient and second derivative vanish, and H theta = - grad L.  C 4.2

    Printed: a null vector of the Hessian. Control: no normalisation.
    """
    some = lambda: runs.curved_layers(case, kind)
    zeros = lambda: [0.0] * runs.NETWORKS
    return together(
        force=equal(
            measured=lambda: [one.theta @ one.gradient for one in some()], predicted=zeros,
            scale=lambda: [one.theta.norm() * one.gradient.norm() for one in some()],
            bound=1e-12, reason="rounding of autograd; 5 layers",
        ),
        curvature=equal(
            measured=lambda: [one.theta @ one.hessian @ one.theta for one in some()], predicted=zeros,
            scale=lambda: [one.hessian.norm() * one.theta.square().sum() for one in some()],
            bound=1e-12, reason="rounding of second derivatives; 5 layers",
        ),
        image=equal(
            measured=lambda: [one.hessian @ one.theta for one in some()],
            predicted=lambda: [image(one) for one in some()],
            scale=lambda: [one.hessian.norm() * one.theta.norm() for one in some()],
            bound=1e-12, reason="rounding of second derivatives; 5 layers",
        ),
    )  # fmt: skip


@claim("C-ln-spheres", printed={"epsilon": USUAL}, control={"whole": False})
def a_sphere_for_each_layer(case, whole=True, epsilon=0.0):
    """Every layer can be brought to norm one, weights and biases jointly, and the flow keeps its norm.  C 4.2

    Control: a sphere for each row.
    """
    return together(
        function=equal(
            measured=lambda: runs.on_spheres(case, whole, epsilon),
            predicted=lambda: runs.before(case, "layer", epsilon),
            bound=1e-11, reason="rounding, amplified by the outputs' slopes; 5 networks, 3 batches",
        ),
        flow=equal(
            measured=lambda: [r[1:] for r in runs.radii(case, whole, epsilon)],
            predicted=lambda: [r[:1].expand(2, -1) for r in runs.radii(case, whole, epsilon)],
            bound=1e-8, reason="integrator's tolerance of 1e-10 a step; 2 networks, to time one",
        ),
    )  # fmt: skip


# Weight normalisation

ALPHAS = (0.3, 2.0, 30.0)
WEIGHTS = "rounding; 5 weight vectors of six entries"


@claim("C-prop4.3", printed={"power": -1.0})
def length_of_v_is_free(case, power=0.0):
    """The weight g v/|v| stays under (v, g) -> (alpha v, alpha^0 g). Printed: g/alpha.  C Proposition 4.3"""
    return equal(
        measured=lambda: [seen(a * one.v, a**power * one.gain) for one in runs.weights(case) for a in ALPHAS],
        predicted=lambda: [one.gain * one.v / one.v.norm() for one in runs.weights(case) for _ in ALPHAS],
        bound=1e-13, reason=f"{WEIGHTS}, alpha = 0.3, 2 and 30",
    )  # fmt: skip


@claim("C-wn-equivalence-ray", printed={"power": -1.0})
def class_is_a_ray(case, power=0.0):
    """The set (alpha v, alpha^0 g) has one weight w, and is a ray. Printed: (alpha v, g/alpha).  C 4.3"""
    alphas = (0.5, 1.0, 2.0, 4.0)
    some = lambda: runs.weights(case)
    points = lambda one: torch.stack([torch.cat([a * one.v, a**power * one.gain[None]]) for a in alphas])
    steps = lambda one: torch.linalg.svdvals(points(one).diff(dim=0))
    return together(
        one_weight=equal(
            measured=lambda: [weight_norm(points(one)[:, :-1], points(one)[:, -1]) for one in some()],
            predicted=lambda: [(one.gain * one.v / one.v.norm()).expand(4, -1) for one in some()],
            bound=1e-13, reason=f"{WEIGHTS}, alpha = 1/2, 1, 2 and 4",
        ),
        straight=equal(
            measured=lambda: [steps(one)[1] for one in some()], predicted=lambda: [0.0] * runs.NETWORKS,
            scale=lambda: [steps(one)[0] for one in some()],
            bound=1e-13, reason="rounding of the second singular value of three steps",
        ),
    )  # fmt: skip


@claim("C-wn-radial-identity", printed={"share": 1.0})
def no_force_along_v(case, share=0.0):
    """The force along v is a share 0 of g dL/dg: the gradient is orthogonal to (v, 0). Printed: 1, (v, -g).  C 4.3"""
    both = lambda: zip(runs.weights(case), runs.weight_slopes(case), strict=True)
    return equal(
        measured=lambda: [one.v @ slope for one, (slope, _) in both()],
        predicted=lambda: [share * one.gain * gain for one, (_, gain) in both()],
        scale=lambda: [one.v.norm() * slope.norm() for one, (slope, _) in both()],
        bound=1e-12, reason=f"{WEIGHTS}, one loss each",
    )  # fmt: skip


def as_it_is(v: Tensor) -> Tensor:
    return torch.ones_like(v[0])


def by_the_length(v: Tensor) -> Tensor:
    return v.norm()


@claim("C-wn-gradient-formulas", printed={"divisor": by_the_length}, control={"projected": False})
def slopes_in_v_and_g(case, divisor=as_it_is, projected=True):
    """dL/dv = g/|v| P dL/dw and dL/dg = dL/dw v/|v|. Printed: once more over |v|. Control: no projector.  C 4.3"""
    P = lambda v: torch.eye(len(v), dtype=v.dtype) - projected * torch.outer(v, v) / (v @ v)
    force = lambda one: torch.func.grad(one.loss)(one.gain * one.v / one.v.norm())
    some = lambda: runs.weights(case)
    return together(
        v=equal(
            measured=lambda: [slope for slope, _ in runs.weight_slopes(case)],
            predicted=lambda: [one.gain / one.v.norm() * P(one.v) @ force(one) for one in some()],
            bound=1e-12, reason=f"{WEIGHTS}, one loss each",
        ),
        g=equal(
            measured=lambda: [gain for _, gain in runs.weight_slopes(case)],
            predicted=lambda: [force(one) @ one.v / one.v.norm() / divisor(one.v) for one in some()],
            scale=lambda: [force(one).norm() for one in some()],
            bound=1e-12, reason=f"{WEIGHTS}, one loss each",
        ),
    )  # fmt: skip


@claim("C-wn-hessian-null", printed={"gain": -1.0})
def hessian_along_v(case, gain=0.0):
    """At a minimum the Hessian vanishes on (v, 0), elsewhere it maps it to (-dL/dv, 0). Printed: (v, -g).  C 4.3"""
    tangent = lambda one: torch.cat([one.v, gain * one.gain[None]])
    pairs = lambda minimum: zip(runs.weights(case, minimum), runs.weight_hessians(case, minimum), strict=True)
    size = lambda minimum: [H.norm() * one.v.norm() for one, H in pairs(minimum)]
    bound, reason = 1e-12, f"rounding of second derivatives; {runs.NETWORKS} losses"
    return together(
        minimum=equal(
            measured=lambda: [H @ tangent(one) for one, H in pairs(True)],
            predicted=lambda: [torch.zeros(7)] * runs.NETWORKS, scale=lambda: size(True), bound=bound, reason=reason,
        ),
        elsewhere=equal(
            measured=lambda: [H @ tangent(one) for one, H in pairs(False)],
            predicted=lambda: [torch.cat([-slope, torch.zeros(1)]) for slope, _ in runs.weight_slopes(case)],
            scale=lambda: size(False), bound=bound, reason=reason,
        ),
    )  # fmt: skip
