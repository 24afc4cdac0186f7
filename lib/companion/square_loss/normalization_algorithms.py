"""What decides appendix A of paper B: weight and batch normalisation as projected gradients, under the square loss.

The appendix is that of section 6 of paper D, where signals, margins and rates are decided as well.
"""

import torch
from torch import Tensor

from claimbook.evidence import Case, at_most, claim, equal, shared, together
from companion.theory_iii.hidden_complexity_control_runs import normal
from companion.theory_iii.normalised_signals import differentiated, jacobian, not_divided, over_samples
from companion.theory_iii.weight_and_batch_normalization import across, chain_rule
from companion.theory_iii.weight_and_batch_normalization_runs import Layer, batches
from normdyn.motion.flows import gradient_flow, integrate
from normdyn.networks.normalizers import batch_norm
from normdyn.symmetry.polar import (
    orthogonal_part,
    reparametrized,
    seen_velocity,
    standardize_columns,
    to_polar,
)

ROUNDING = "rounding of automatic differentiation, where sums cancel in part; 5 networks"

# Weight normalisation


@shared
def layers(case: Case, size: float = 1.0, gain: float = 2.3) -> list[Layer]:
    """First layers of five tanh networks under the square loss, at w = g v/|v| with a given g and |v|."""
    found = []
    for k in range(5):
        X, y, a = normal(case, f"B {k} X", 8, 4), normal(case, f"B {k} y", 8).sign(), normal(case, f"B {k} a", 5)
        loss = lambda W, X=X, y=y, a=a: (torch.tanh(X @ W.mT) @ a - y).square().sum()
        unit = (lambda W: W / W.norm())(normal(case, f"B {k} W", 5, 4))
        W = gain * unit
        found.append(Layer(loss, W, torch.tensor(gain, dtype=W.dtype), size * unit, -torch.func.grad(loss)(W)))
    return found


@shared
def slopes(case: Case, size: float, gain: float = 2.3) -> list[tuple[Tensor, Tensor]]:
    """Minus the gradients in g and v of the loss at g v/|v|."""
    seen = lambda one: lambda g, v: one.loss(g * v / v.norm())
    both = lambda one: torch.func.grad(seen(one), (0, 1))(one.length, one.direction)
    return [(-g, -v) for g, v in map(both, layers(case, size, gain))]


def drive(one: Layer) -> Tensor:
    return one.drive


def resulting(one: Layer) -> Tensor:
    """The motion of w that results: what the paper's dot suggests."""
    return seen_velocity(one.length, one.direction, one.drive)


@claim("B-eq12", control={"dot": resulting})
def weight_normalisation_descends(case, dot=drive):
    """The flow of g and v is g' = v'/|v| h, v' = g/|v| S h with h = -dL/dw, written as the velocity of w.  B (12)

    Control: the velocity that w has.
    """
    return equal(
        measured=lambda: [part for pair in slopes(case, 1.7) for part in pair],
        predicted=lambda: [part for one in layers(case, 1.7) for part in chain_rule(one, dot(one))],
        bound=1e-11, reason=ROUNDING,
    )  # fmt: skip


@claim("B-eq14", printed={"sign": 1.0})
def length_descends(case, sign=-1.0):
    """The length of w = rho v moves at minus dw/drho dL/dw, which is v' h.  B (14)"""
    rate = lambda one: -torch.func.grad(lambda rho: one.loss(rho * one.direction))(one.length)
    return together(
        middle=equal(
            measured=lambda: [rate(one) for one in layers(case)],
            predicted=lambda: [sign * (one.direction * -one.drive).sum() for one in layers(case)],
            bound=1e-11, reason=ROUNDING,
        ),
        right=equal(
            measured=lambda: [rate(one) for one in layers(case)],
            predicted=lambda: [(one.direction * one.drive).sum() for one in layers(case)],
            bound=1e-11, reason=ROUNDING,
        ),
    )  # fmt: skip


@claim("B-eq15", control={"size": 2.0})
def unit_vectors_make_them_one(case, size=1.0):
    """For |v| = 1 weight normalisation is rho' = v' h, v' = rho S h, the tangent gradient of w = rho v.  B (15)"""
    unit = lambda one: one.direction / one.direction.norm()
    tangent = lambda one: ((unit(one) * one.drive).sum(), one.length * across(unit(one), one.drive))
    return equal(
        measured=lambda: [part for pair in slopes(case, size) for part in pair],
        predicted=lambda: [part for one in layers(case, size) for part in tangent(one)],
        bound=1e-11, reason=ROUNDING,
    )  # fmt: skip


@shared
def norms_of_v(case: Case, decay: float) -> list[Tensor]:
    """Norm of v along the flow of three networks from norm one; v may decay."""
    found = []
    for one in layers(case)[:3]:
        flow = reparametrized(gradient_flow(lambda p, one=one: one.loss(p["A"])), "weight normalization")
        field = lambda p, flow=flow: {n: x - decay * p[n] * n.endswith("direction") for n, x in flow(p).items()}
        path = integrate(field, to_polar({"A": one.W / 4}), torch.linspace(0, 0.1, 3), relative=1e-11)
        found.append(path["A.direction"].flatten(1).norm(dim=1))
    return found


@claim("B-wn-vnorm", control={"decay": 0.1})
def norm_is_kept(case, decay=0.0):
    """The flow of weight normalisation keeps |v|, and a unit vector stays one. Control: v decays.  B A.1"""
    return equal(
        measured=lambda: norms_of_v(case, decay), predicted=lambda: [1.0] * 3,
        bound=1e-9, reason="integrator's tolerance of 1e-11 a step; 3 networks",
    )  # fmt: skip


@claim("B-wn-not-standard", control={"gain": 1.4})
def another_motion_of_w(case, gain=2.3):
    """Weight normalisation moves w at another velocity than h: they differ by |g^2/|v|^2 - 1| |S h|.  B A.1

    At g = 2.3 and |v| = 1.4. Control: g = |v|, where they agree.
    """
    moved = lambda one, g, v: torch.func.jvp(lambda g, v: g * v / v.norm(), (one.length, one.direction), (g, v))[1]
    return equal(
        measured=lambda: [
            (moved(one, *pair) - one.drive).norm()
            for one, pair in zip(layers(case, 1.4, gain), slopes(case, 1.4, gain), strict=True)
        ],
        predicted=lambda: [
            abs(2.3**2 / 1.4**2 - 1) * across(one.direction, one.drive).norm() for one in layers(case, 1.4, gain)
        ],
        bound=1e-11, reason=ROUNDING,
    )  # fmt: skip


# Batch normalisation


@claim("B-bn-jacobian", control={"center": True})
def jacobian_of_a_unit(case, center=False):
    """Without the mean, d hat/dX = (I - hat hat'/N)/sqrt(sigma^2 + eps). Control: the mean is taken off.  B A.2"""
    return equal(
        measured=lambda: [differentiated(X, center)[:, 0, :, 0] for X in batches(case, "B one", 1)],
        predicted=lambda: [jacobian(X)[:, 0, :, 0] for X in batches(case, "B one", 1)],
        bound=1e-13, reason="rounding; 5 batches of 6 samples, epsilon = 0.1",
    )  # fmt: skip


@claim("B-bn-S", printed={"weight": not_divided}, control={"epsilon": 0.1})
def jacobian_projects(case, weight=over_samples, epsilon=0.0):
    """The matrix I - hat hat'/N projects off the signal. As printed, without 1/N, it does not.  B A.2"""
    hat = lambda X: X[:, 0] / (X.square().mean() + epsilon).sqrt()
    S = lambda X: torch.eye(len(X), dtype=X.dtype) - weight(X) * torch.outer(hat(X), hat(X))
    some = lambda: zip(batches(case, "B off", 1), batches(case, "B pushed", 1), strict=True)
    return equal(
        measured=lambda: [S(X) @ g[:, 0] for X, g in some()],
        predicted=lambda: [orthogonal_part(X[:, 0], g[:, 0]) for X, g in some()],
        bound=1e-13, reason="rounding; 5 batches of 6 samples",
    )  # fmt: skip


@shared
def moving_signals(case: Case) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Inputs, signals, dL/dX and the velocity of the normalised signals of five units whose weights descend."""
    found = []
    for k in range(5):
        Z, w, y = (
            normal(case, f"B unit {k} Z", 6, 4),
            normal(case, f"B unit {k} w", 4),
            normal(case, f"B unit {k} y", 6),
        )
        hat = lambda X: standardize_columns(X[:, None], center=False)[:, 0]
        loss = lambda X, y=y, hat=hat: (torch.tanh(hat(X)) - y.sign()).square().sum()
        down = -torch.func.grad(lambda w, Z=Z, loss=loss: loss(Z @ w))(w)
        moved = torch.func.jvp(lambda w, Z=Z, hat=hat: hat(Z @ w), (w,), (down,))[1]
        found.append((Z, Z @ w, torch.func.grad(loss)(Z @ w), moved))
    return found


def by_weights(Z: Tensor, slope: Tensor) -> Tensor:
    """How signals move when weights descend."""
    return -Z @ (Z.mT @ slope)


def gradient_itself(Z: Tensor, slope: Tensor) -> Tensor:
    return slope


def downhill(Z: Tensor, slope: Tensor) -> Tensor:
    return -slope


@claim("B-bn-eq16", printed={"rule": gradient_itself}, control={"rule": downhill})
def signals_follow_their_weights(case, rule=by_weights):
    """Normalised signals move at the Jacobian times - Z Z' dL/dX, with the unit's inputs Z.  B (16)

    Printed: dL/dX itself. Control: its sign changed alone.
    """

    def predicted(Z, X, slope):
        scale = X.square().mean().sqrt()
        return (lambda x: x - (X @ x) * X / (X @ X))(rule(Z, slope)) / scale

    return equal(
        measured=lambda: [moved for *_, moved in moving_signals(case)],
        predicted=lambda: [predicted(Z, X, slope) for Z, X, slope, _ in moving_signals(case)],
        bound=1e-12, reason="rounding; 5 units, 6 samples of 4 inputs",
    )  # fmt: skip


@shared
def normalised_units(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Signals of six units of several sizes before and after batch normalisation at epsilon 0.1; five batches of 40."""
    found = []
    for k in range(5):
        W = normal(case, f"B units {k}", 6, 8) * (0.3 + normal(case, f"B sizes {k}", 6).abs())[:, None]
        X = normal(case, f"B batch {k}", 40, 8) @ W.mT
        found.append((X, standardize_columns(X, epsilon=0.1)))
    return found


@claim("B-bn-controls", printed={"over": 1}, control={"kept": False})
def units_are_held_over_the_batch(case, over=0, kept=True):
    """Over the batch the squared norm of a unit's signals is N sigma^2/(sigma^2 + eps).  B (17)

    Printed: that of the signals of each example, over units. Control: no normalisation.
    """
    some = lambda: [(X, hat if kept else X) for X, hat in normalised_units(case)]
    law = lambda X: X.var(0, correction=0) / (X.var(0, correction=0) + 0.1)
    each = lambda X: law(X) if over == 0 else law(X).mean().expand(len(X))
    return together(
        held=equal(
            measured=lambda: [hat.square().mean(over) for _, hat in some()],
            predicted=lambda: [each(X) for X, _ in some()],
            bound=1e-13, reason="rounding; 5 batches of 40 samples, 6 units, epsilon = 0.1",
        ),
        activities=at_most(
            left=lambda: [hat.relu().square().mean(over) for _, hat in some()],
            right=lambda: [each(X) for X, _ in some()],
            bound=1e-13, reason="rounding; after a ReLU", margin=10.0,
        ),
    )  # fmt: skip


def standard(Z: Tensor, epsilon: float) -> Tensor:
    """Signals after batch normalisation; our own where epsilon matters."""
    return standardize_columns(Z, epsilon=epsilon) if epsilon else batch_norm(Z)


@shared
def rows_along_the_flow(case: Case, epsilon: float = 0.0, stop: float = 8.0) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Norms of five rows at 17 instants, the last rows, and the inputs; three networks with one normalised layer."""
    found = []
    for k in range(3):
        X, y = normal(case, f"B rows {k} X", 20, 4), normal(case, f"B rows {k} y", 20).sign()
        a, W = normal(case, f"B rows {k} a", 5) / 2, normal(case, f"B rows {k} W", 5, 4)
        W = W * torch.linspace(0.5, 3, 5, dtype=W.dtype)[:, None]
        loss = lambda p, X=X, y=y, a=a: (torch.tanh(standard(X @ p["A"].mT, epsilon)) @ a - y).square().mean()
        path = integrate(gradient_flow(loss), {"A": W}, torch.linspace(0, stop, 17), relative=1e-10)
        found.append((path["A"].norm(dim=2), path["A"][-1], X))
    return found


def equal_to_one(start: Tensor) -> Tensor:
    return torch.ones_like(start)


def start_itself(start: Tensor) -> Tensor:
    return start


@claim("B-bn-rownorm", printed={"size": equal_to_one}, control={"epsilon": 1.0})
def rows_keep_their_norms(case, size=start_itself, epsilon=0.0):
    """Batch normalisation conserves the norm of each row, at any value; rows have norm one in the inputs' covariance.

    Rows that start at several lengths. Printed: it sets them, to one. Control: epsilon = 1.  B A.2, remark 2
    """
    some = lambda: rows_along_the_flow(case, epsilon)
    effective = lambda W, X: W / ((X @ W.mT).var(0, correction=0) + epsilon).sqrt()[:, None]
    covariance = lambda X: torch.cov(X.mT, correction=0)
    return together(
        conserved=equal(
            measured=lambda: [norms[-1] for norms, *_ in some()],
            predicted=lambda: [size(norms[0]) for norms, *_ in some()],
            bound=1e-8, reason="integrator's tolerance of 1e-10 a step; 3 networks of 5 units, to time 8",
        ),
        effective=equal(
            measured=lambda: [torch.einsum("ui,ij,uj->u", effective(W, X), covariance(X), effective(W, X))
                              for _, W, X in some()],
            predicted=lambda: [torch.ones(len(W)) for _, W, _ in some()],
            bound=1e-12, reason="rounding",
        ),
    )  # fmt: skip
