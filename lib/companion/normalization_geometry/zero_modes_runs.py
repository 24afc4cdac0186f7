"""Runs of the chapter on zero modes, decay and margins: linear networks with normalised layers, saddles, units."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.optimize import minimize
from torch import Tensor

from claimbook.evidence import Case, Unfinished, shared
from companion.normalization_geometry.normalised_units import units
from companion.theory_iii.hidden_complexity_control_runs import generic, identity, normal
from normdyn.measures.curvature import Params, flatten, hessian, minimum, nullity
from normdyn.motion.flows import gradient, gradient_flow, integrate
from normdyn.networks.graphs import layered_weights, mlp
from normdyn.networks.losses import square_loss
from normdyn.networks.normalizers import batch_norm, layer_norm, normalized_mlp, weight_norm
from normdyn.symmetry.polar import hard_margin

PATTERNS = ((3, 3, 3), (3, 3, 3, 3), (4, 5, 2), (5, 3, 4, 2), (4, 6, 6, 1), (3, 1, 1))
SAMPLES = 90  # more than any of these networks has parameters
Widths = tuple[int, ...]

# Linear networks


def pair(p: Params, i: int, j: int) -> Tensor:
    """The direction of rescaling layer i against layer j."""
    return flatten({str(l): W * ((l == i) - (l == j)) for l, W in enumerate(p.values())})


def energy(p: Params) -> Tensor:
    """The squared norm of all parameters."""
    return torch.stack([W.square().sum() for W in p.values()]).sum()


@dataclass(frozen=True)
class Rescaling:
    """A Hessian along the rescaling of two layers: applied, the direction, and that of the gradients."""

    applied: Tensor
    direction: Tensor
    slopes: Tensor
    size: Tensor


@shared
def rescalings(case: Case, solved: bool = False, activation=identity) -> list[Rescaling]:
    """All pairs of layers of five networks with three, at random weights, or where the targets are the outputs."""
    found = []
    for k in range(5):
        p = {str(l): W for l, W in enumerate(layered_weights((3, 4, 5, 2), case.generator(f"C weights {k}")))}
        X = normal(case, f"C inputs {k}", 12, 3)
        output = lambda p, X=X: mlp(list(p.values()), X, activation=activation)
        Y = output(p) if solved else normal(case, f"C targets {k}", 12, 2)
        loss = lambda p, output=output, Y=Y: square_loss(output(p), Y)
        H, G = hessian(loss, p), gradient(loss)(p)
        for i, j in ((0, 1), (0, 2), (1, 2)):
            t = pair(p, i, j)
            found.append(Rescaling(H @ t, t, pair(G, i, j), H.norm()))
    return found


def network(case: Case, kind: str, widths: Widths, activation=identity) -> tuple[Params, Callable[[Params], Tensor]]:
    """Parameters of a network of one kind, linear but for its normalisations, and its outputs."""
    weights, L = layered_weights(widths, case.generator(f"C layers {widths}"), gain=1.0), len(widths) - 1
    X, hidden = normal(case, f"C data {widths}", SAMPLES, widths[0]), widths[1:-1]
    params = {str(l): W for l, W in enumerate(weights)}
    row = lambda name, l, d: normal(case, f"C {name} {widths} {l}", d)
    Ws = lambda p: [p[str(l)] for l in range(L)]
    if kind == "weight":
        params |= {f"g{l}": 1 + row("gain", l, d).abs() for l, d in enumerate(widths[1:])}
        seen = lambda p: [weight_norm(W, p[f"g{l}"]) for l, W in enumerate(Ws(p))]
        return params, lambda p: mlp(seen(p), X, activation=activation)
    if kind == "affine":
        params |= {f"g{l}": 1 + row("gain", l, d).abs() for l, d in enumerate(hidden)}
        params |= {f"b{l}": row("shift", l, d) for l, d in enumerate(hidden)}
        some = lambda p, name: [p[f"{name}{l}"] for l in range(len(hidden))]
        return params, lambda p: normalized_mlp(
            Ws(p), X, activation=activation, gains=some(p, "g"), shifts=some(p, "b")
        )
    normalizer = {"plain": identity, "batch": batch_norm, "layer": layer_norm}[kind]
    return params, lambda p: normalized_mlp(Ws(p), X, normalizer=normalizer, activation=activation)


@shared
def curvatures(case: Case, kind: str, widths: Widths, activation=identity) -> Tensor:
    """The Hessian of the square loss where the targets are the network's own outputs: J'J/m."""
    params, output = network(case, kind, widths, activation)
    jacobian = torch.func.jacrev(output)(params)
    J = torch.cat([jacobian[n].flatten(0, 1).flatten(1) for n in params], 1)
    return J.mT @ J / SAMPLES


@shared
def zero_modes(case: Case, kind: str, widths: Widths, activation=identity) -> int:
    return nullity(curvatures(case, kind, widths, activation), relative=1e-11, gap=100).zeros


@shared
def slope_there(case: Case, kind: str, widths: Widths) -> float:
    """Largest slope of the square loss at that point, by automatic differentiation."""
    params, output = network(case, kind, widths)
    target = output(params)
    return flatten(gradient(lambda p: square_loss(output(p), target))(params)).abs().max().item()


# With weight decay

DECAY = 0.01
DECAYED = ((3, 3, 3), (4, 5, 2), (3, 4, 1), (4, 3, 3, 1), (3, 1, 1))


@shared
def decayed(case: Case, widths: Widths, place: str = "minimum") -> tuple[Params, Tensor]:
    """A minimum of the square loss of a plain linear network with weight decay, or a point near it; the Hessian there.

    Targets are twice the outputs of a random network, so all their singular values outlive the decay.
    """
    for k in range(10):
        start = {str(l): W for l, W in enumerate(layered_weights(widths, case.generator(f"C decayed {widths} {k}")))}
        X = normal(case, f"C decayed {widths} {k} X", SAMPLES, widths[0])
        output = lambda p, X=X: mlp(list(p.values()), X, activation=identity)
        Y = 2 * output(start)
        loss = lambda p, output=output, Y=Y: square_loss(output(p), Y) + DECAY / 2 * energy(p)
        p = minimum(loss, start)
        if p is None or nullity(hessian(loss, p), relative=1e-7, gap=100).negative:
            continue
        if place == "nearby":
            p = {n: W + 0.1 * normal(case, f"C nearby {widths} {n}", *W.shape) for n, W in p.items()}
        return p, hessian(loss, p)
    raise Unfinished(f"no minimum of widths {widths} from ten starts")


@shared
def decayed_modes(case: Case, widths: Widths) -> int:
    """Zero modes of a plain linear network at a minimum with weight decay."""
    return nullity(decayed(case, widths)[1], relative=1e-7, gap=100).zeros


@shared
def decayed_directions(case: Case, kind: str, place: str = "minimum") -> list[tuple[Tensor, Tensor]]:
    """Unit directions of rescaling two layers, or of rotating the units between, and the Hessian applied to them."""
    found = []
    for widths in DECAYED:
        p, H = decayed(case, widths, place)
        for l in range(len(widths) - 2):
            A = normal(case, f"C turn {widths} {l}", widths[l + 1], widths[l + 1])
            turned = {n: torch.zeros_like(W) for n, W in p.items()}
            turned |= {str(l): (A - A.mT) @ p[str(l)], str(l + 1): -p[str(l + 1)] @ (A - A.mT)}
            t = pair(p, l, l + 1) if kind == "rescaling" else flatten(turned)
            if widths[l + 1] > 1 or kind == "rescaling":
                found.append((t / t.norm(), H @ t / t.norm()))
    return found


@dataclass(frozen=True)
class Flat:
    """A direction in which a normalised loss is flat, with the penalised loss's Hessian applied to it and its slope."""

    kind: str
    direction: Tensor
    applied: Tensor
    slope: Tensor


@shared
def flat_directions(case: Case, decay: float, solved: bool = True, epsilon: float = 0.0) -> list[Flat]:
    """Scales and biases below BN, layers below LN and raw vectors of WN, with decay on everything.

    With ``solved`` the targets are the outputs, so that the gradient of the loss without decay is zero.
    """
    found = []
    for k, one in enumerate(units(case)):
        outputs = {
            "BN": lambda p, one=one: torch.tanh(batch_norm(one.X @ p["W"].mT + p["b"], epsilon=epsilon)) @ one.outer,
            "LN": lambda p, one=one: torch.tanh(layer_norm(one.X @ p["W"].mT + p["b"], epsilon=epsilon)) @ one.outer,
            "WN": lambda p, one=one: torch.tanh(one.X @ raised(p, epsilon).mT) @ one.outer,
        }
        for kind, output in outputs.items():
            p = one.start
            y = output(p) if solved else normal(case, f"C goals {k}", 20)
            loss = lambda q, output=output, y=y: square_loss(output(q)[:, None], y[:, None]) + decay / 2 * energy(q)
            H, G = hessian(loss, p), flatten(gradient(loss)(p))
            for t in _scales(kind, p):
                found.append(Flat(kind, t, H @ t, G))
    return found


def raised(p: Params, epsilon: float) -> Tensor:
    """Weights g v/|v| with a small power of |v| left in."""
    return p["W"].norm(dim=1, keepdim=True) ** epsilon * weight_norm(p["W"], p["b"])


def _scales(kind: str, p: Params) -> list[Tensor]:
    """All that may be scaled alone: the units of BN with their biases, the layer of LN, the vectors of WN."""
    count, none = len(p["b"]), torch.zeros_like(p["b"])
    if kind == "LN":
        return [flatten({"W": p["W"], "b": p["b"]})]
    own = [torch.eye(count, dtype=p["b"].dtype)[i] for i in range(count)]
    bias = lambda e: none if kind == "WN" else e * p["b"]
    return [flatten({"W": e[:, None] * p["W"], "b": bias(e)}) for e in own]


# The origin

EPSILONS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
TARGETS = ("seen", "constant")


@dataclass(frozen=True)
class Saddle:
    """A network with three hidden units and one output, linear but for batch normalisation, about its origin."""

    X: Tensor
    y: Tensor
    zero: Params

    def loss(self, epsilon: float | None) -> Callable[[Params], Tensor]:
        unit = identity if epsilon is None else lambda z: batch_norm(z, epsilon=epsilon)
        return lambda p: square_loss(unit(self.X @ p["W"].mT) @ p["v"].mT, self.y)


@shared
def saddles(case: Case, target: str = "seen") -> list[Saddle]:
    """Inputs of mean one, and targets that the centred inputs see, or constant ones."""
    found = []
    for k in range(3):
        X = 1 + normal(case, f"C saddle {k}", 30, 4)
        y = normal(case, f"C saddle y {k}", 30, 1) + X[:, :1] if target == "seen" else torch.ones(30, 1).double()
        zero = {"W": torch.zeros(3, 4, dtype=torch.float64), "v": torch.zeros(1, 3, dtype=torch.float64)}
        found.append(Saddle(X, y, zero))
    return found


@shared
def steepest(case: Case, epsilon: float | None) -> list[Tensor]:
    """Minus the most negative eigenvalue at the origin."""
    return [-torch.linalg.eigvalsh(hessian(one.loss(epsilon), one.zero))[0] for one in saddles(case)]


SHARES = (0.9, 0.1, 1e-3)


@shared
def below_threshold(case: Case, target: str = "seen") -> list[tuple[Tensor, Tensor]]:
    """Curvatures at the origin without and with normalisation, epsilon below (|X_c'y|/|X'y|)^2 of seen targets."""
    found = []
    for one, goal in zip(saddles(case), saddles(case, target), strict=True):
        centred = (one.X - one.X.mean(0)).mT @ one.y
        threshold = (centred.square().sum() / (one.X.mT @ one.y).square().sum()).item()
        least = lambda epsilon, goal=goal: -torch.linalg.eigvalsh(hessian(goal.loss(epsilon), goal.zero))[0]
        found += [(least(None), least(share * threshold)) for share in SHARES]
    return found


@shared
def resting(case: Case, epsilon: float | None) -> list[Tensor]:
    """Gradients at the origin itself."""
    return [flatten(gradient(one.loss(epsilon))(one.zero)) for one in saddles(case)]


@shared
def escapes(case: Case, epsilon: float | None) -> list[tuple[Tensor, Tensor]]:
    """Times and distances from the origin along the flow, from 1e-12 on until ten thousand times as far."""
    found = []
    for k, (one, rate) in enumerate(zip(saddles(case), steepest(case, epsilon), strict=True)):
        start = {n: 1e-12 * normal(case, f"C off {n} {k}", *x.shape) for n, x in one.zero.items()}
        times = torch.linspace(0, 1, 21, dtype=torch.float64) * 10 / rate
        size = {"size": lambda p: flatten(p).norm()}
        path = integrate(gradient_flow(one.loss(epsilon)), start, times, record=size, relative=1e-9)
        found.append((times, path["size"]))
    return found


# Margins


@dataclass(frozen=True)
class Cloud:
    """Centred points times labels, the signals' second moments, and the points where these are the identity."""

    points: Tensor
    moments: Tensor
    white: Tensor

    def back(self, v: Tensor) -> Tensor:
        """The unit vector of the inputs' space for one of the white space."""
        w = torch.linalg.solve_triangular(torch.linalg.cholesky(self.moments).mT, v[:, None], upper=True)[:, 0]
        return w / w.norm()


@shared
def clouds(case: Case, count: int = 5) -> list[Cloud]:
    """Twelve points of two classes in four dimensions, drawn until they are separable, in general position, centred."""
    found, k = [], 0
    labels = torch.tensor([1.0, -1.0]).double().repeat(6)
    while len(found) < count:
        X = normal(case, f"C cloud {k}", 12, 4) * torch.tensor([0.5, 2.0, 1.0, 0.3], dtype=torch.float64)
        X[:, :2] += 1.6 * labels[:, None]
        X, k = X - X.mean(0), k + 1
        points, moments = labels[:, None] * X, X.mT @ X / 12
        white = torch.linalg.solve_triangular(torch.linalg.cholesky(moments), points.mT, upper=False).mT
        try:
            hard_margin(points)
            if generic(white):
                found.append(Cloud(points, moments, white))
        except ValueError:
            continue
    return found


def penalised(Q: Tensor, s: float, theta: Tensor) -> Tensor:
    """Logarithms of the multipliers of mean log(1 + exp(-Q v)) + e^-s |v|^2/2, v = sum_n e^theta_n q_n, by Newton."""
    K, softplus = Q @ Q.mT, torch.nn.functional.softplus
    defect = lambda theta: theta + math.log(len(Q)) - s + softplus(K @ theta.exp(), threshold=700.0)
    for _ in range(200):
        value, alpha = defect(theta), theta.exp()
        jacobian = torch.eye(len(Q), dtype=Q.dtype) + torch.sigmoid(K @ alpha)[:, None] * K * alpha
        step = torch.linalg.solve(jacobian, -value)
        size = 1.0
        while size > 1e-8 and not defect(theta + size * step).abs().max() < value.abs().max():
            size /= 2
        if size <= 1e-8:
            break
        theta = theta + size * step
    if defect(theta).abs().max() > 1e-8 * max(1.0, s):
        raise Unfinished(f"Newton's method has not converged at decay exp(-{s:g})")
    return theta


REACHED = (*(-3.0 + 0.5 * k for k in range(16)), *(5.0 * 1.35**k for k in range(34)), 1e5, 2e5)


@shared
def paths(case: Case) -> list[list[tuple[float, Tensor]]]:
    """Of each cloud ``(s, v)`` along falling decays e^-s on the gain: gain times direction in the white space."""
    found = []
    for one in clouds(case):
        theta, rows = torch.full((12,), REACHED[0]).double() - 3.2, []
        for s in REACHED:
            theta = penalised(one.white, s, theta)
            rows.append((s, one.white.mT @ theta.exp()))
        found.append(rows)
    return found


@shared
def selected(case: Case, on: str, reach: float = 1.0) -> list[tuple[Tensor, Tensor]]:
    """Unit vectors that a decay selects, and the rate of its logarithm per gain.

    On the gain, at the decay exp(-10^5 reach). On the weights alone, at gain one: the decay has no part in it.
    """
    found = []
    for one, path in zip(clouds(case), paths(case), strict=True):
        if on == "gain":
            s, v = next((s, v) for s, v in path if s == 1e5 * reach)
        else:
            s, v = min(path, key=lambda row: abs(row[1].norm().item() - reach))
        found.append((one.back(v), s / v.norm()))
    return found


@shared
def slopes_at_rest(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Slopes in weights and gain of a normalised unit's logistic loss with decay on the gain, where it should rest.

    By automatic differentiation through the batch normalisation, for decays down to 1e-5; beside each its scale.
    """
    found, labels = [], torch.tensor([1.0, -1.0]).double().repeat(6)
    for one, path in zip(clouds(case), paths(case), strict=True):
        X = labels[:, None] * one.points
        for s, v in path:
            decay = math.exp(-s)
            output = lambda p, X=X: p["gain"] * batch_norm((X @ p["w"])[:, None])[:, 0]
            loss = lambda p, output=output, decay=decay: (
                torch.nn.functional.softplus(-labels * output(p)).mean() + decay / 2 * p["gain"].square()
            )
            if 1e-5 <= decay <= 1:
                p = {"w": one.back(v), "gain": v.norm()}
                found.append((flatten(gradient(loss)(p)), decay * v.norm()))
    return found


@shared
def least_norms(case: Case, margins: str = "at least") -> list[Tensor]:
    """Vectors of least norm with all margins at least one, or equal to one as nearly as can be."""
    found = []
    for k, one in enumerate(clouds(case)):
        A = one.points.numpy()
        if margins == "equal":
            found.append(torch.linalg.pinv(one.points) @ torch.ones(12).double())
            continue
        start = torch.linalg.pinv(one.points) @ torch.ones(12).double()
        result = minimize(
            lambda w: w @ w / 2, (3 * start + 0.1 * normal(case, f"C near {k}", 4)).numpy(), jac=lambda w: w,
            method="SLSQP", options={"ftol": 1e-15, "maxiter": 500},
            constraints={"type": "ineq", "fun": lambda w, A=A: A @ w - 1, "jac": lambda w, A=A: A},
        )  # fmt: skip
        found.append(torch.from_numpy(result.x))
    return found
