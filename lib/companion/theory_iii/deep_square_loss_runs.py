"""Runs of section 14.4 of paper D: slopes of random networks, minima with a penalty, steps that bring points apart."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from claimbook.evidence import Case, Unfinished, shared
from normdyn.measures.curvature import flatten, hessian, minimum, nullity, unflatten
from normdyn.networks.graphs import layered_weights, mlp
from normdyn.networks.losses import square_loss

Params = dict[str, Tensor]
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "tanh": (torch.tanh, lambda h: 1 - torch.tanh(h).square()),
    "softplus": (torch.nn.functional.softplus, torch.sigmoid),
    "ReLU": (torch.relu, lambda h: (h > 0).to(h.dtype)),
    "linear": (lambda h: h, torch.ones_like),
}
SMOOTH = ("tanh", "softplus")
COUNT, CUT = 600, 1e-11  # networks of the census; singular values below this share of the largest are zero


def normal(case: Case, role: str, *shape: int) -> Tensor:
    """Gaussian numbers in float64, one independent stream for each role."""
    return torch.randn(*shape, generator=case.generator(role), dtype=torch.float64)


class Network(NamedTuple):
    """A network on fixed inputs: its weights by name, its outputs, a loss, and the targets of a loss with a penalty."""

    widths: tuple[int, ...]
    inputs: Tensor
    weights: Params
    output: Callable[[Params], Tensor]
    loss: Callable[[Params], Tensor]
    targets: Tensor | None = None

    def on_vector(self, v: Tensor) -> Tensor:
        return self.output(unflatten(v, self.weights))


def layers(case: Case, role: str, widths: tuple[int, ...]) -> Params:
    """Random weights of a layered network, by name."""
    return {str(k): W for k, W in enumerate(layered_weights(widths, case.generator(role)))}


def network(case: Case, role: str, widths: tuple[int, ...], samples: int, kind: str) -> Network:
    """A network with random weights, whose targets are its own outputs; one output comes as a vector."""
    X, W = normal(case, f"{role} X", samples, widths[0]), layers(case, role, widths)
    out = lambda p: mlp(list(p.values()), X, activation=ACTIVATIONS[kind][0])
    output = (lambda p: out(p)[:, 0]) if widths[-1] == 1 else out
    Y = output(W)
    return Network(widths, X, W, output, lambda p: (output(p) - Y).square().sum() / 2)


def own_layers(one: Network) -> Tensor:
    """One where two weights are of one layer, else zero."""
    return torch.block_diag(*(torch.ones(W.numel(), W.numel(), dtype=W.dtype) for W in one.weights.values()))


# The census


class Counted(NamedTuple):
    """One random network at zero loss, and what its slopes are like."""

    widths: tuple[int, ...]
    samples: int
    kind: str
    met: bool
    rank: int
    smallest: float
    weights: int

    @property
    def smooth(self) -> bool:
        return self.kind in SMOOTH

    @property
    def spare(self) -> int:
        """Weights beyond the number of outputs on all samples."""
        return self.weights - self.samples * self.widths[-1]


def condition(widths: tuple[int, ...], n: int) -> bool:
    """That of Theorem 9."""
    return any(a * b > n * min(widths[k + 1 :]) for k, (a, b) in enumerate(pairwise(widths)))


def slopes_by_hand(weights: list[Tensor], X: Tensor, kind: str) -> Tensor:
    """Derivatives of all outputs on all samples in all weights, layer by layer, by the chain rule."""
    activation, slope = ACTIVATIONS[kind]
    H, J = X, torch.zeros(len(X), X.shape[1], 0, dtype=X.dtype)
    for k, W in enumerate(weights):
        own = torch.einsum("ab,nc->nabc", torch.eye(len(W), dtype=X.dtype), H).flatten(2)
        J, H = torch.cat([torch.einsum("ab,nbp->nap", W, J), own], 2), H @ W.mT
        if k < len(weights) - 1:
            J, H = J * slope(H)[:, :, None], activation(H)
    return J.flatten(0, 1)


@shared
def census(case: Case) -> list[Counted]:
    """Random architectures: two to four layers, widths one to six, one to thirty samples, four kinds of units."""
    whole, found = case.generator("census"), []
    pick = lambda low, high: int(torch.randint(low, high, (), generator=whole))
    for i in range(COUNT):
        widths, n = tuple(pick(1, 7) for _ in range(pick(3, 6))), pick(1, 31)
        kind = list(ACTIVATIONS)[i % 4]
        X = torch.randn(n, widths[0], generator=whole, dtype=torch.float64)
        J = slopes_by_hand(layered_weights(widths, whole), X, kind)
        D, s = J.shape[1], torch.linalg.svdvals(J)
        smallest = (s[-1] / s[0]).item() if len(s) == D and s[0] > 0 else 0.0
        rank = int((s > CUT * s[0]).sum()) if s[0] > 0 else 0
        found.append(Counted(widths, n, kind, condition(widths, n), rank, smallest, D))
    return found


@shared
def fitted(case: Case, enough: bool) -> list[Network]:
    """Trained to zero loss on random targets, with three samples; or eleven samples and the network's own outputs.

    Raises:
        Unfinished: a search did not come to zero loss.
    """
    found = []
    for k, kind in enumerate(("tanh", "softplus", "tanh", "softplus")):
        one = network(case, f"fitted {k}", (3, 4, 2), 3 if enough else 11, kind)
        if enough:
            Y = 0.5 * normal(case, f"fitted {k} Y", 3, 2)
            loss = lambda p, one=one, Y=Y: (one.output(p) - Y).square().sum() / 2
            point = minimum(loss, one.weights)
            if point is None or loss(point) > 1e-20:
                raise Unfinished(f"network {k} has not come to zero loss")
            one = one._replace(weights=point, loss=loss)
        found.append(one)
    return found


# Minima with a penalty

DECAY, TRIES, LEAST = 0.02, {"linear": 4, "tanh": 4, "softplus": 4, "ReLU": 8}, 2


@shared
def regularised(case: Case, kind: str, even: bool) -> list[Network]:
    """Certified minima of a loss with noisy targets and a penalty, which may weigh each weight by itself.

    A point counts as a minimum if its gradient vanishes to 1e-9, no eigenvalue of the Hessian is negative, and, with
    ReLUs, no unit is silent and no sample is near a kink, so that the loss is smooth around it.

    Raises:
        Unfinished: fewer than two were found.
    """
    found = []
    for k in range(TRIES[kind]):
        role = f"penalty {kind} {k}"
        widths = (3, 3 + k % 4 if kind == "ReLU" else 4, 1)
        X = normal(case, f"{role} X", 24, 3)
        if kind == "ReLU":  # samples on two sides, so that many units have one set of active samples
            X = X[:, :1].sign() * (torch.tensor([2.0, 0.0, 0.0]).double() + 0.3 * X)
        teacher, W = layers(case, f"{role} teacher", widths), layers(case, role, widths)
        weigh = {n: 1.0 if even else 0.5 + normal(case, f"{role} {n}", *w.shape).abs() for n, w in W.items()}
        output = lambda p, X=X: mlp(list(p.values()), X, activation=ACTIVATIONS[kind][0])
        Y = output(teacher) + 0.3 * normal(case, f"{role} noise", 24, 1)
        loss = lambda p, output=output, Y=Y, weigh=weigh: (
            square_loss(output(p), Y) + DECAY / 2 * sum((weigh[n] * w.square()).sum() for n, w in p.items())
        )
        point = minimum(loss, W, tolerance=1e-9, steps=300)
        if point is None or (kind == "ReLU" and kinked(point, X)):
            continue
        one = Network(widths, X, point, output, loss, Y)
        if nullity(hessian(loss, point), relative=1e-9, gap=100).negative == 0:
            found.append(one)
    if len(found) < LEAST:
        raise Unfinished(f"only {len(found)} minima of {kind} networks")
    return found


def pull_of_errors(point: Network) -> Tensor:
    """The mean over samples of E_n times the slope, which is minus the gradient of the loss without the penalty."""
    errors = point.targets - point.output(point.weights)
    S = torch.func.jacrev(point.on_vector)(flatten(point.weights))
    return torch.einsum("no,nop->p", errors, S) / len(errors)


def kinked(point: Params, X: Tensor) -> bool:
    """Whether a unit is silent on all samples, or a sample lies within 1e-4 of a unit's kink."""
    Z = X @ point["0"].mT
    return bool((~(Z > 0).any(0)).any() or (Z.abs() < 1e-4).any())


def zeros(point: Network) -> int:
    """Zero eigenvalues of the Hessian at a minimum."""
    return nullity(hessian(point.loss, point.weights), relative=1e-9, gap=100).zeros


def shared_patterns(point: Network) -> int:
    """Units of a ReLU network of two layers, less the number of their different sets of active samples."""
    patterns = [tuple((point.inputs @ w > 0).tolist()) for w in point.weights["0"]]
    return len(patterns) - len(set(patterns))


# Steps that bring points apart


def stretch(loss: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, gamma: float) -> float:
    """By what factor a gradient step changes the distance of two points, as a rate: (factor - 1) / gamma."""
    slope = torch.func.grad(loss)
    step = lambda w: w - gamma * slope(w)
    return (((step(a) - step(b)).norm() / (a - b).norm() - 1) / gamma).item()


def grows(loss: Callable[[Tensor], Tensor], w: Tensor) -> float:
    """Whether a small step brings points beside w apart, along the direction of lowest curvature."""
    v = torch.linalg.eigh(torch.func.hessian(loss)(w))[1][:, 0]
    return float(stretch(loss, w + 1e-6 * v, w - 1e-6 * v, 0.01) > 0)


@shared
def expansions(case: Case, deep: bool) -> list[float]:
    """Rates at which steps bring points apart along the lowest curvature, random weights and targets."""
    found = []
    for kind in ACTIVATIONS:
        for widths in ((3, 4, 1), (3, 4, 3, 1)) if deep else ((3, 1), (4, 1)):
            for k in range(2):
                role, rates = f"steps {kind} {widths} {k}", []
                X, Y = normal(case, f"{role} X", 20, widths[0]), normal(case, f"{role} Y", 20, 1)
                for j in range(5):
                    W = layers(case, f"{role} {j}", widths)
                    loss = lambda v, W=W, X=X, Y=Y, kind=kind: square_loss(
                        mlp(list(unflatten(v, W).values()), X, activation=ACTIVATIONS[kind][0]), Y
                    )
                    w = flatten(W)
                    v = torch.linalg.eigh(torch.func.hessian(loss)(w))[1][:, 0]
                    rates.append(stretch(loss, w + 1e-6 * v, w - 1e-6 * v, 0.01))
                found.append(max(rates))
    return found
