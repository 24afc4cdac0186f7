"""What decides the claims of sections 6.3 and 14.5.6 of paper D: what batch normalisation does to signals, and holds.

Runs are in :mod:`companion.theory_iii.weight_and_batch_normalization_runs`.
"""

import math

import torch
from torch import Tensor

from claimbook.evidence import Case, at_most, claim, counterexample, equal, shared, together
from companion.theory_iii import weight_and_batch_normalization_runs as runs
from companion.theory_iii.hidden_complexity_control_runs import normal
from companion.theory_iii.weight_and_batch_normalization_runs import FOLLOWED, batches, signal_motion, signals
from normdyn.networks.normalizers import batch_norm
from normdyn.symmetry.polar import orthogonal_part, standardize_columns, whitening

# What batch normalisation does to the signals


def jacobian(X: Tensor, epsilon: float = 0.1) -> Tensor:
    """The blocks (I - hat hat'/N)/s of all columns, as a tensor (n, d, m, e) that does not mix columns."""
    scale, N = (X.square().mean(0) + epsilon).sqrt(), len(X)
    hat, eye = X / scale, torch.eye(N, dtype=X.dtype)
    blocks = (eye[:, None] - torch.einsum("nd,md->ndm", hat, hat) / N) / scale[:, None]
    return torch.einsum("ndm,de->ndme", blocks, torch.eye(X.shape[1], dtype=X.dtype))


def by_hadamard(X: Tensor, epsilon: float = 0.1) -> Tensor:
    """As printed, which is defined for as many samples as units only: hat' times hat, entry by entry."""
    scale, N = (X.square().mean(0) + epsilon).sqrt(), len(X)
    hat, eye = X / scale, torch.eye(N, dtype=X.dtype)
    return torch.einsum("nm,d,de->ndme", eye - hat.mT * hat / N, 1 / scale, torch.eye(N, dtype=X.dtype))


def differentiated(X: Tensor, center: bool = False) -> Tensor:
    return torch.func.jacrev(lambda X: standardize_columns(X, epsilon=0.1, center=center))(X)


@claim("D-bn-jacobian-1d", control={"center": True})
def jacobian_of_one_unit(case, center=False):
    """Without the mean the Jacobian of a unit's normalisation is (I - hat hat'/N)/sqrt(sigma^2 + eps).  D 6.3"""
    return equal(
        measured=lambda: [differentiated(X, center)[:, 0, :, 0] for X in batches(case, "one", 1)],
        predicted=lambda: [jacobian(X)[:, 0, :, 0] for X in batches(case, "one", 1)],
        bound=1e-13,
        reason="rounding; 5 batches of 6 samples, epsilon = 0.1",
    )


@claim("D-bn-jacobian-multi", printed={"law": by_hadamard}, control={"center": True})
def jacobian_of_many_units(case, law=jacobian, center=False):
    """Of several units each has the Jacobian of one unit, and units do not mix.  D 6.3"""
    return equal(
        measured=lambda: [differentiated(X, center) for X in batches(case, "many", 6)],
        predicted=lambda: [law(X) for X in batches(case, "many", 6)],
        bound=1e-13,
        reason="rounding; 5 batches of 6 samples and 6 units, epsilon = 0.1",
    )


def over_samples(X: Tensor) -> float:
    return 1 / len(X)


def not_divided(X: Tensor) -> float:
    return 1.0


@claim("D-bn-projector", printed={"weight": not_divided}, control={"epsilon": 0.1})
def projector_of_the_signals(case, weight=over_samples, epsilon=0.0):
    """I - hat hat'/N projects off the signal: it leaves what is across alone, and takes the signal to zero.  D 6.3"""
    hat = lambda X: X[:, 0] / (X.square().mean() + epsilon).sqrt()
    S = lambda X: torch.eye(len(X), dtype=X.dtype) - weight(X) * torch.outer(hat(X), hat(X))
    some = lambda: zip(batches(case, "off", 1), batches(case, "pushed", 1), strict=True)
    return equal(
        measured=lambda: [S(X) @ g[:, 0] for X, g in some()],
        predicted=lambda: [orthogonal_part(X[:, 0], g[:, 0]) for X, g in some()],
        bound=1e-13,
        reason="rounding; 5 batches of 6 samples",
    )


def gram(X: Tensor) -> Tensor:
    return X @ X.mT


def free_signals(X: Tensor) -> Tensor:
    return torch.eye(len(X), dtype=X.dtype)


@claim("D-bn-tangent-gradient", printed={"middle": free_signals}, control={"radial": 0.1})
def signals_move_on_a_sphere(case, middle=gram, radial=0.0):
    """Normalised signals move at J dX/dt with dX/dt = - X_in X_in' dL/dX, tangent to their sphere.  D (28)"""

    def velocity(X, w, y):
        z = X @ w
        s = z.square().mean().sqrt()
        hat = z / s
        J = (torch.eye(len(z)).double() - torch.outer(hat, hat) / len(z)) / s
        slope = -y * (-y * hat).exp()
        return -J @ middle(X) @ J @ slope + radial * hat

    return together(
        motion=equal(
            measured=lambda: [moved for _, moved, _ in signal_motion(case)],
            predicted=lambda: [velocity(*one) for one in runs.inputs_of_a_unit(case)],
            bound=1e-12, reason="rounding; 5 batches of 7 samples, 4 inputs",
        ),
        tangent=equal(
            measured=lambda: [hat @ (moved + radial * hat) for hat, moved, _ in signal_motion(case)],
            predicted=lambda: [0.0] * 5, scale=lambda: [hat.norm() * d.norm() for hat, d, _ in signal_motion(case)],
            bound=1e-13, reason="rounding, relative to the lengths of both",
        ),
    )  # fmt: skip


# What is held fixed


@claim("D-bn-controls-activations", printed={"over": 1}, control={"kind": "weight"})
def signals_are_held(case, over=0, kind="batch"):
    """Batch normalisation fixes each unit's root mean square over the batch, whatever the size of the weights.

    So the squared norm of a layer after its ReLUs is, in the mean over the batch, at most the number of its units. The
    control has torch's weight normalisation in its place.  D 6.3 Remark 1
    """
    factors = (0.1, 1.0, 7.0)
    every = lambda: [s for factor in factors for s in signals(case, kind, factor)]
    one = lambda s: torch.ones(s.shape[1 - over])
    return together(
        signals=equal(
            measured=lambda: [s.square().mean(over).sqrt() for s in every()],
            predicted=lambda: [one(s) for s in every()],
            bound=1e-11, reason="rounding; torch's BatchNorm1d at a negligible epsilon, 5 networks, weights of 3 sizes",
        ),
        activations=at_most(
            left=lambda: [s.relu().square().mean(over) for s in every()], right=lambda: [one(s) for s in every()],
            bound=1e-11, reason="rounding",
        ),
    )  # fmt: skip


def second_moments(H: Tensor) -> Tensor:
    """Of the inputs of a layer, means out."""
    H = H - H.mean(0)
    return H.mT @ H / len(H)


def identity_metric(H: Tensor) -> Tensor:
    return torch.eye(H.shape[1], dtype=H.dtype)


@claim("D-bn-per-unit-norm", printed={"metric": identity_metric}, control={"system": "whole"})
def each_unit_by_itself(case, metric=second_moments, system="batch"):
    """Batch normalisation conserves the norm of each unit's weights, weight normalisation that of the whole layer.

    The weights that a unit effectively has are of unit norm in the second moments of its inputs.  D 6.3 Remark 2
    """
    pairs = lambda kind: runs.rows_along_the_flow(case, kind)
    effective = lambda W, H: W / (H @ W.mT).std(0, correction=0)[:, None]
    size = lambda W, M: torch.einsum("ui,ij,uj->u", W, M, W)
    return together(
        rows=equal(
            measured=lambda: [after.norm(dim=1) for _, after, _ in pairs(system)],
            predicted=lambda: [before.norm(dim=1) for before, _, _ in pairs(system)],
            bound=1e-8, reason=f"{FOLLOWED}; two hidden layers of tanh units, 2 networks",
        ),
        whole=equal(
            measured=lambda: [after.norm() for _, after, _ in pairs("whole")],
            predicted=lambda: [before.norm() for before, _, _ in pairs("whole")],
            bound=1e-8, reason=f"{FOLLOWED}; the same networks with whole layers normalised",
        ),
        effective=equal(
            measured=lambda: [size(effective(W, H), metric(H)) for _, W, H in pairs("batch")],
            predicted=lambda: [torch.ones(len(W)) for _, W, _ in pairs("batch")],
            bound=1e-12, reason="rounding",
        ),
    )  # fmt: skip


# Whitening, section 14.5.6


@shared
def mixed_inputs(case: Case, white: bool = False) -> list[tuple[Tensor, Tensor]]:
    """A layer of three units on five inputs, and the inputs' covariance, of mean variance one, or the identity."""
    found = []
    for k in range(5):
        A = normal(case, f"mixing {k}", 5, 5) * torch.tensor([3.0, 1, 1, 0.3, 0.1]).double()[:, None]
        C = A.mT @ A
        W = normal(case, f"mixed layer {k}", 3, 5)
        found.append((W, torch.eye(5).double() if white else 5 * C / C.trace()))
    return found


@shared
def whitened_layers(case: Case, white: bool = False) -> list[Tensor]:
    """Layers whose signals have the covariance I/3, by Newton and Schulz."""
    found = []
    for W, C in mixed_inputs(case, white):
        K = W @ C @ W.mT
        found.append(whitening((K + K.mT) / 2, iterations=80) @ W / math.sqrt(3))
    return found


def squares_by_inverse(case: Case, white: bool = False) -> Tensor:
    """By how much the squared norms miss one, as traces of (W C W')^-1 W W'/3: no root is taken."""
    found = [torch.linalg.solve(W @ C @ W.mT, W @ W.mT).trace() / 3 for W, C in mixed_inputs(case, white)]
    return torch.stack([(f - 1).abs() for f in found]).min()


@claim("D-bn-whitening-trace", control={"white": True})
def whitened_weights_have_unit_norm(case, white=False):
    """Ideal batch normalisation makes w_new w_new' = I/D, so that |w_new| = 1. It does not, but for white inputs.

    What it makes I/D is w_new Cov(x) w_new'.  D 14.5.6
    """
    return counterexample(
        equal(
            measured=lambda: [w.square().sum() for w in whitened_layers(case, white)], predicted=lambda: [1.0] * 5,
            bound=1e-3, reason="Newton-Schulz to rounding; 5 layers of three units on inputs of unequal variances",
        ),
        exact=lambda: squares_by_inverse(case, white),
        white_signals=equal(
            measured=lambda: [
                w @ C @ w.mT for w, (_, C) in zip(whitened_layers(case, white), mixed_inputs(case, white), strict=True)
            ],
            predicted=lambda: [torch.eye(3).double() / 3] * 5,
            bound=1e-6, reason="Newton-Schulz to rounding, condition numbers up to some hundreds",
        ),
    )  # fmt: skip


def symmetric_root(C: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(C)
    return vectors * values.sqrt() @ vectors.mT


def no_root(C: Tensor) -> Tensor:
    return C


@shared
def correlated(case: Case, correlation: float) -> list[tuple[Tensor, Tensor]]:
    """Inputs of equal variances and equal correlations, exactly so on the batch, and their covariance."""
    C = (1 - correlation) * torch.eye(3).double() + correlation
    found = []
    for k in range(3):
        X = normal(case, f"correlated {k}", 40, 3)
        Q = torch.linalg.qr(X - X.mean(0))[0] * math.sqrt(40)
        found.append((Q @ torch.linalg.cholesky(C).mT, C))
    return found


@claim("D-eq122", printed={"power": no_root}, control={"correlation": 0.9})
def whitened_by_jacobi(case, power=symmetric_root, correlation=0.4):
    """Solutions of Cov^(1/2) x_new = x are white, and Jacobi's iterations come to them where they converge.  D (122)

    They do for equal correlations of three inputs up to 5/6. The control is a correlation of 0.9.
    """

    def iterated(X: Tensor, C: Tensor) -> Tensor:
        A = power(C)
        D = A.diagonal()
        R, x = A - torch.diag(D), X
        for _ in range(200):
            x = ((X - x @ R.mT) / D).clamp(-1e6, 1e6)
        return x.mT @ x / len(x)

    return equal(
        measured=lambda: [iterated(X, C) for X, C in correlated(case, correlation)],
        predicted=lambda: [torch.eye(3).double()] * 3,
        bound=1e-9, reason="200 iterations at a spectral radius of 0.5; 3 batches",
    )  # fmt: skip


@shared
def products(case: Case, activation: str) -> list[tuple[list[Tensor], Tensor]]:
    """Layers of four networks of each depth from two to four, and the matrix of the composition at an input.

    Of a ReLU network the layers are masked at that input.
    """
    found = []
    for depth in (2, 3, 4):
        for k in range(40):
            Ws = [normal(case, f"product {depth} {k} {l}", 5, 5) for l in range(depth)]
            x, whole = normal(case, f"product {depth} {k} x", 5), torch.eye(5).double()
            for l, W in enumerate(Ws):
                z = W @ x
                on = (z > 0).double() if activation == "relu" and l < depth - 1 else torch.ones(5).double()
                whole, x = on[:, None] * (W @ whole), on * z
            found.append((Ws, whole))
    return found


def spectral(W: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(W, 2)


def largest_entry(W: Tensor) -> Tensor:
    return W.abs().max()


@shared
def lengths(case: Case, norm) -> list[tuple[Tensor, Tensor]]:
    """Norms of compositions, and products of the norms of their layers."""
    some = [one for kind in ("linear", "relu") for one in products(case, kind)]
    return [(norm(whole), torch.stack([norm(W) for W in Ws]).prod()) for Ws, whole in some]


@claim("D-bn-composition-norm", control={"norm": largest_entry})
def composition_is_shorter(case, norm=spectral):
    """Batch normalisation at the end divides by the norm of the composition of all layers, at most their product.

    Linear networks with every layer normalised: the divisor is the norm of the product in the data's moments. Norms of
    compositions, linear and of ReLUs, against products of norms.  D 14.5.6
    """
    return together(
        divisor=equal(
            measured=lambda: [divisor for divisor, _, _ in last_divisors(case)],
            predicted=lambda: [
                torch.einsum("ui,ij,uj->u", V, second_moments(X), V).sqrt() for _, V, X in last_divisors(case)
            ],
            bound=1e-12, reason="rounding; 5 linear networks of three layers",
        ),
        shorter=at_most(
            left=lambda: [whole for whole, _ in lengths(case, norm)],
            right=lambda: [product for _, product in lengths(case, norm)],
            bound=1e-12, reason="rounding; 240 products of two to four Gaussian matrices",
        ),
    )  # fmt: skip


@shared
def last_divisors(case: Case) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Standard deviations of the last signals, the product of the layers as they are used, and the inputs."""
    found = []
    for k in range(5):
        X, V = normal(case, f"last {k} X", 20, 4), torch.eye(4).double()
        H = X
        for l in range(3):
            W = normal(case, f"last {k} {l}", 4, 4)
            Z = H @ W.mT
            V, H, divisor = W @ V, batch_norm(Z), Z.std(0, correction=0)
            if l < 2:
                V = V / divisor[:, None]
        found.append((divisor, V, X))
    return found
