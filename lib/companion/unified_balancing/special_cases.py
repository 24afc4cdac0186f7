"""What decides the claims of section 4 of paper A: matrices, activations, pooling, normalisation."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from claimbook.evidence import Case, claim, equal, shared, together
from companion.unified_balancing.common import named, normal, root, signed_square
from companion.unified_balancing.layers import (
    EPS,
    NORMS,
    Map,
    convolve,
    graph_max,
    graph_sum,
    log_sum_exp,
    over_positions,
    plain_top_nodes,
    soft_clusters,
    top_nodes,
)
from normdyn.motion.flows import Params, gradient_flow, integrate
from normdyn.networks.chains import chain
from normdyn.networks.chains import homogeneous_activation as power
from normdyn.networks.graphs import layered_weights
from normdyn.networks.losses import square_loss
from normdyn.norms.laws import operator_matrix, squared_norm_rate

# From operators to matrices


def orthonormal(M: Tensor, draw: Tensor) -> Tensor:
    """A basis that is orthonormal in the inner product of M."""
    return torch.linalg.inv(torch.linalg.cholesky(M)).mT @ torch.linalg.qr(draw)[0]


def unit_length(M: Tensor, draw: Tensor) -> Tensor:
    """A basis of vectors of length one in the inner product of M, askew."""
    return draw / (draw * (M @ draw)).sum(0).sqrt()


@shared
def operators(case: Case) -> list[tuple[Tensor, ...]]:
    """A linear map, the inner products of the spaces from which and to which it leads, and draws for bases."""
    metric = lambda role, n: (lambda A: A @ A.mT / n + torch.eye(n, dtype=A.dtype))(normal(case, role, n, n))
    found = []
    for k in range(10):
        spaces = metric(f"from {k}", 4), metric(f"to {k}", 5)
        draws = normal(case, f"basis from {k}", 4, 4), normal(case, f"basis to {k}", 5, 5)
        found.append((normal(case, f"map {k}", 5, 4), *spaces, *draws))
    return found


@claim("A-eq7", printed={"basis": unit_length})
def hilbert_schmidt_is_frobenius(case, basis=orthonormal):
    """In orthonormal bases the Frobenius norm of the matrix is the Hilbert-Schmidt norm of the operator.  A (7)"""
    matrix = lambda T, M1, M2, D1, D2: torch.linalg.solve(basis(M2, D2), T @ basis(M1, D1))
    return equal(
        measured=lambda: [matrix(*one).norm() for one in operators(case)],
        predicted=lambda: [torch.trace(torch.linalg.solve(M1, T.mT @ M2 @ T)).sqrt()
                           for T, M1, M2, *_ in operators(case)],
        bound=1e-12, reason="rounding of solving 5 equations; 10 pairs of inner products",
    )  # fmt: skip


LAYOUTS = {
    "circular": ("circular", 1),
    "circular, stride 2": ("circular", 2),
    "unpadded": (0, 1),
    "zero-padded": (1, 1),
}
POSITIONS = {"circular": 6, "circular, stride 2": 3, "unpadded": 4, "zero-padded": 6}
EVEN = ("circular", "circular, stride 2", "unpadded")


@shared
def convolutions(case: Case, layout: str, activation: Map) -> list[dict[str, Tensor]]:
    """Growth by the loss of the squared norms of kernel and operator; output and the gradient in it."""
    padding, stride = LAYOUTS[layout]
    found = []
    for k in range(3):
        K, X = normal(case, f"kernel {k}", 3, 2, 3).requires_grad_(), normal(case, f"maps {k}", 12, 2, 6)
        h = functional.max_pool1d(activation(convolve(X, K, padding, stride)), 3).flatten(1)
        f = h @ normal(case, f"readout {k}", 3, h.shape[1]).mT
        df, g = torch.autograd.grad(square_loss(f, normal(case, f"targets {k}", 12, 3)), [f, K])
        T, moved = (operator_matrix(lambda H, k=k: convolve(H, k, padding, stride), (2, 6)) for k in (K.detach(), g))
        one = {"kernel": -2 * (K * g).sum(), "operator": -2 * (T * moved).sum(), "f": f, "df": df}
        found.append({name: value.detach() for name, value in one.items()})
    return found


@claim("A-conv-norm", printed={"norm": "operator"}, control={"activation": torch.tanh})
def kernels_are_covered(case, norm="kernel", activation=functional.leaky_relu):
    """The squared norm of a convolution's kernel moves as Theorem 2 says; that of its matrix does not.  A section 4"""
    some = lambda: [one for layout in LAYOUTS for one in convolutions(case, layout, activation)]
    return equal(
        measured=lambda: [one[norm] for one in some()],
        predicted=lambda: [squared_norm_rate(one["f"], one["df"]) for one in some()],
        scale=lambda: [one["f"].norm() * one["df"].norm() for one in some()],
        bound=1e-12, reason="rounding of inner products, relative to |f| |grad f|; four layouts, 3 kernels each",
    )  # fmt: skip


@claim("O-conv-operator", control={"layouts": tuple(LAYOUTS)})
def operators_of_kernels_grow_faster(case, layouts=EVEN):
    """A circular or unpadded convolution's matrix grows as many times faster as there are output positions."""
    some = lambda name: convolutions(case, name, functional.leaky_relu)
    law = lambda one: squared_norm_rate(one["f"], one["df"])
    return equal(
        measured=lambda: [one["operator"] for layout in layouts for one in some(layout)],
        predicted=lambda: [POSITIONS[layout] * law(one) for layout in layouts for one in some(layout)],
        scale=lambda: [one["f"].norm() * one["df"].norm() for layout in layouts for one in some(layout)],
        bound=1e-11, reason="rounding of inner products, relative to |f| |grad f|; three layouts, 3 kernels each",
    )  # fmt: skip


# Homogeneous functions of one variable

HALF = torch.logspace(-3, 3, 61, dtype=torch.float64)
GRID = torch.cat([-HALF, torch.zeros(1, dtype=torch.float64), HALF])
THREE = torch.tensor([-1.0, 0, 1], dtype=torch.float64)

FUNCTIONS = (  # order, function; for a negative order the value at 0 has to be put in
    (-1, lambda x: torch.where(x == 0, 0, 1 / (x.abs() + 2 * x.relu()))),
    (0, lambda x: torch.atan2(x, x.abs())),
    (0, lambda x: torch.heaviside(x, x.new_tensor(0.3))),
    (0.5, lambda x: (x.abs() + 3 * x.relu()).sqrt()),
    (1, lambda x: torch.hypot(x, x.relu())),
    (1, lambda x: torch.maximum(-0.3 * x, 2 * x)),
    (2, lambda x: x * (x - 4 * x.relu())),
    (math.pi, lambda x: (math.pi * x.abs().log()).exp() * (2 + x.sign())),
)
STRANGERS = ((1, torch.tanh), (1, functional.gelu), (2, lambda x: x * x.abs() + x), (1, torch.cos))


def member(k: float, below: Tensor | float, zero: Tensor | float, above: Tensor | float) -> Map:
    """The function of eq. (8)."""
    below, zero, above = (torch.as_tensor(c, dtype=torch.float64) for c in (below, zero, above))
    return lambda x: torch.where(x == 0, zero, torch.where(x < 0, below, above) * x.abs() ** k)


@claim("A-lem1", control={"functions": STRANGERS})
def three_values_are_enough(case, functions=FUNCTIONS):
    """A homogeneous function is known from its values at -1, 0, 1; that at 0 is 0 unless the order is.  A Lemma 1"""
    orders = lambda: [(k, phi) for k, phi in functions if k != 0]
    return together(
        form=equal(
            measured=lambda: [phi(GRID) for _, phi in functions],
            predicted=lambda: [member(k, *phi(THREE))(GRID) for k, phi in functions],
            each=True, bound=1e-12, reason="rounding of powers over six decades; eight functions, orders -1 to pi",
        ),
        zero=equal(
            measured=lambda: [phi(THREE)[1] for _, phi in orders()],
            predicted=lambda: [torch.zeros(()) for _ in orders()],
            scale=lambda: [phi(THREE)[2] for _, phi in orders()],
            bound=1e-14, reason="exact in floating point, relative to the value at 1",
        ),
    )  # fmt: skip


SLOPES = (0.01, 0.1, 0.5, 2.0)
PIECES = (
    (torch.clone, -1.0),
    (torch.relu, 0.0),
    *((lambda x, c=c: functional.leaky_relu(x, c), -c) for c in SLOPES),
)
BENT = ((functional.elu, 0.0), (functional.gelu, 0.0), (functional.silu, 0.0))


@claim("A-lem1-activations", control={"activations": BENT})
def order_one_members(case, activations=PIECES):
    """Identity, ReLU and leaky ReLU have order 1: (c_-, c_0, c_+) is (-1, 0, 1), (0, 0, 1), (-c, 0, 1).  A section 4"""
    return equal(
        measured=lambda: [phi(GRID) for phi, _ in activations],
        predicted=lambda: [member(1, below, 0.0, 1.0)(GRID) for _, below in activations],
        each=True, bound=1e-14, reason="rounding of one product; six activations over six decades",
    )  # fmt: skip


# Chains, sums and products

LINKS = (
    (0, power(0)), (0.5, root), (0.5, power(0.5)), (1, torch.abs), (1, functional.leaky_relu), (2, signed_square),
    (2, power(2)),
)  # fmt: skip
FACTORS = (0.1, 3.0, 10.0)
Ordered = tuple[float, Map]


@shared
def composed(case: Case, count: int = 20, length: int = 4) -> list[Ordered]:
    """Random chains of four maps with fixed mixing matrices between them, and the product of the orders."""
    found = []
    for k in range(count):
        picks = torch.randint(len(LINKS), (length,), generator=case.generator(f"picks {k}")).tolist()
        mixing = [normal(case, f"mixing {k} {l}", 6, 6) for l in range(length)]

        def apply(z: Tensor, picks=picks, mixing=mixing) -> Tensor:
            for i, M in zip(picks, mixing, strict=True):
                z = LINKS[i][1](z @ M)
            return z

        found.append((math.prod(LINKS[i][0] for i in picks), apply))
    return found


@shared
def scaled(case: Case, joined: str) -> list[dict[str, list[Tensor] | Tensor | float]]:
    """Chains alone or two of different order joined: orders of both, output at an input, outputs at multiples of it."""
    x = normal(case, "x", 5, 6)
    unit = lambda phi: lambda z: phi(z) / phi(x).norm()
    chains = [(k, unit(phi)) for k, phi in composed(case)]
    pairs = [(a, b) for a, b in zip(chains, chains[1:], strict=False) if a[0] != b[0]]
    join = {"sum": lambda p, q: lambda z: p(z) + q(z), "product": lambda p, q: lambda z: p(z) * q(z)}
    maps = [(k, 0.0, phi) for k, phi in chains]
    if joined != "alone":
        maps = [(k, l, join[joined](p, q)) for (k, p), (l, q) in pairs]
    return [{"first": k, "second": l, "at": phi(x), "far": [phi(c * x) for c in FACTORS]} for k, l, phi in maps]


def multiples(one: dict) -> Tensor:
    """Outputs at multiples of the input, each over the multiple to the power of the first order, or of both."""
    return torch.stack([f * c ** -(one["first"] + one["second"]) for c, f in zip(FACTORS, one["far"], strict=True)])


@claim("A-lem2", control={"joined": "sum"})
def orders_multiply(case, joined="alone"):
    """A chain of homogeneous maps is homogeneous, its order the product of theirs.  A Lemma 2

    The control adds two chains of different orders, as a residual connection may.
    """
    return equal(
        measured=lambda: [multiples(one | {"second": 0.0}) for one in scaled(case, joined)],
        predicted=lambda: [one["at"][None].expand(len(FACTORS), -1, -1) for one in scaled(case, joined)],
        bound=1e-11, reason="rounding through four maps of orders 0 to 2, at multiples of 0.1, 3 and 10; 20 chains",
    )  # fmt: skip


@claim("O-orders-add", control={"joined": "sum"})
def orders_of_products_add(case, joined="product"):
    """A product of two homogeneous maps is homogeneous, its order the sum of theirs."""
    return equal(
        measured=lambda: [multiples(one) for one in scaled(case, joined)],
        predicted=lambda: [one["at"][None].expand(len(FACTORS), -1, -1) for one in scaled(case, joined)],
        bound=1e-11, reason="rounding through four maps of orders 0 to 2 and a product",
    )  # fmt: skip


# Pooling

POOLS = {
    "max": over_positions(lambda h: functional.max_pool1d(h, 2)),
    "average": over_positions(lambda h: functional.avg_pool1d(h, 2)),
    "power mean": over_positions(lambda h: functional.lp_pool1d(h.abs(), 3.0, 2)),
    "graph sum": graph_sum,
    "graph max": graph_max,
    "top k": plain_top_nodes,
}
ALL_POOLS = POOLS | {"gated top k": top_nodes, "soft clusters": soft_clusters, "log-sum-exp": log_sum_exp}
ORDER_ONE, OF_THE_SURVEY = tuple(POOLS), ("max", "average", "gated top k", "soft clusters")


@shared
def pooled(case: Case, pools: Sequence[str]) -> list[dict[str, Tensor]]:
    """Of each pooling its outputs, at multiples too; and growth of both layers of a network around it."""
    found = []
    for name in pools:
        for k in range(2):
            pool, h = ALL_POOLS[name], normal(case, f"pooled {k}", 12, 6, 6)
            W, V = (
                normal(case, f"{part} {k}", *shape).requires_grad_() for part, shape in (("W", (6, 4)), ("V", (3, 36)))
            )
            f = pool(functional.leaky_relu(normal(case, f"nodes {k}", 12, 6, 4) @ W.mT)).flatten(1) @ V.mT
            df, dW, dV = torch.autograd.grad(square_loss(f, normal(case, f"pool targets {k}", 12, 3)), [f, W, V])
            pulls = torch.stack([(W * dW).sum(), (V * dV).sum()]).detach()
            ends = {"law": (f * df).sum().detach(), "size": (f.norm() * df.norm()).detach()}
            far = torch.stack([pool(c * h) / c for c in FACTORS])
            found.append({"at": pool(h)[None].expand_as(far), "far": far, "pulls": pulls} | ends)
    return found


@claim("A-pooling-order1", printed={"pools": OF_THE_SURVEY}, control={"pools": ("log-sum-exp",)})
def pooling_has_order_one(case, pools=ORDER_ONE):
    """Max, average, power-mean and sum pooling, on graphs too, have order 1, and Theorem 2 stays as it is.  A section 4

    As printed it covers the pooling layers of graph networks in the survey cited, top-k and DiffPool among them.
    """
    return together(
        order=equal(
            measured=lambda: [one["far"] for one in pooled(case, pools)],
            predicted=lambda: [one["at"] for one in pooled(case, pools)],
            bound=1e-13, reason="rounding of sums and powers of two numbers; six poolings, 2 inputs each",
        ),
        law=equal(
            measured=lambda: [one["pulls"] for one in pooled(case, pools)],
            predicted=lambda: [one["law"] for one in pooled(case, pools)],
            scale=lambda: [one["size"] for one in pooled(case, pools)],
            bound=1e-13, reason="rounding of inner products, relative to |f| |grad f|",
        ),
    )  # fmt: skip


# Normalisation

BY_DEVIATION = ("BatchNorm", "LayerNorm", "InstanceNorm", "GroupNorm")
ALL_NORMS = tuple(NORMS)


@shared
def maps(case: Case) -> list[Tensor]:
    """Inputs of normalisation: 12 samples of 6 positions and 6 channels, with a mean of one half."""
    return [normal(case, f"map {k}", 12, 6, 6) + 0.5 for k in range(3)]


@shared
def normed(case: Case, name: str, eps: float) -> list[dict]:
    """Of one normalisation: inputs, outputs, and outputs at multiples of the inputs."""
    norm = NORMS[name].own(eps)
    far = lambda z: torch.stack([norm(c * z) for c in FACTORS])
    return [{"name": name, "input": z, "at": norm(z), "far": far(z)} for z in maps(case)]


@claim("A-norm-meanstd", printed={"listed": ALL_NORMS}, control={"eps": 0.1})
def mean_and_deviation(case, listed=BY_DEVIATION, eps=0.0):
    """Batch-, Layer-, Instance- and GroupNorm subtract a mean and divide by a standard deviation; all have order 0.

    As printed all the normalisations that section 4 of A lists do, RMSNorm and the l^p variants too.
    """
    some = lambda names: [one for name in names for one in normed(case, name, eps)]
    return together(
        form=equal(
            measured=lambda: [one["at"] / one["at"].norm() for one in some(listed)],
            predicted=lambda: [(out := NORMS[one["name"]].standard(one["input"])) / out.norm() for one in some(listed)],
            bound=1e-12, reason="rounding of sums over up to 72 numbers; 3 inputs, up to a constant factor",
        ),
        order=equal(
            measured=lambda: [one["far"] for one in some(ALL_NORMS)],
            predicted=lambda: [one["at"][None].expand_as(one["far"]) for one in some(ALL_NORMS)],
            bound=1e-12, reason="rounding of sums over up to 72 numbers; seven kinds of normalisation, 3 inputs",
        ),
    )  # fmt: skip


SIZES = (1e-3, 1e-2, 1.0)


@shared
def along(case: Case, eps: float) -> list[dict[str, Tensor]]:
    """Of three norms at inputs of three sizes: output, and its derivative in the direction of the input."""
    found = []
    for name in BY_DEVIATION[:3]:
        for size in SIZES:
            for z in maps(case):
                value, rate = torch.func.jvp(NORMS[name].own(eps), (size * z,), (size * z,))
                found.append({"value": value, "rate": rate, "input": size * z, "name": name})
    return found


@claim("A-norm-order0", printed={"eps": EPS}, control={"eps": 0.1})
def statistics_forget_the_scale(case, eps=0.0, added=EPS):
    """Without eps all seven kinds have order 0; with eps the local order is eps / (v + eps), v the variance.

    As printed, with torch's default of 1e-5 added to the variance.
    """
    some = lambda: [one for name in ALL_NORMS for one in normed(case, name, eps)]
    foreseen = lambda one: NORMS[one["name"]].share(one["input"], added) * one["value"]
    return together(
        order=equal(
            measured=lambda: [one["far"] for one in some()],
            predicted=lambda: [one["at"][None].expand_as(one["far"]) for one in some()],
            bound=1e-12, reason="rounding of sums over up to 72 numbers; seven kinds, 3 inputs at three multiples",
        ),
        local=equal(
            measured=lambda: [one["rate"] for one in along(case, added)],
            predicted=lambda: [foreseen(one) for one in along(case, added)],
            scale=lambda: [one["value"].abs().max() for one in along(case, added)],
            bound=1e-11, reason="rounding of a difference, relative to the output; inputs of sizes 1e-3 to 1",
        ),
    )  # fmt: skip


def flat_batch_norm(eps: float) -> Map:
    """Of samples without positions."""
    return lambda z: functional.batch_norm(z, None, None, training=True, eps=eps or 1e-300)


@shared
def normalised_task(case: Case, k: int) -> tuple[Params, Tensor, Tensor]:
    """Four layers, and data for them."""
    weights = layered_weights((4, 6, 6, 6, 3), case.generator(f"normalised {k}"), gain=4.0)
    data = normal(case, f"normalised X {k}", 20, 4), normal(case, f"normalised Y {k}", 20, 3)
    return named(weights), *data


def activations(place: str, eps: float, below: Map | None) -> list[Map]:
    """Smooth maps of order 1, with a batch normalisation before the readout or after the first layer."""
    norm, smooth = flat_batch_norm(eps), power(1)
    normed = lambda z: norm(smooth(z))
    return [normed, smooth, smooth] if place == "first" else [smooth, below or smooth, normed]


TIMES = torch.linspace(0, 0.5, 3, dtype=torch.float64)


@shared
def decaying(case: Case, place: str, eps: float, below: Map | None, decay: float) -> Tensor:
    """Squared norms along gradient flow over their start, one row a time and one column a layer."""
    start, X, Y = normalised_task(case, 0)
    units = activations(place, eps, below)
    field = gradient_flow(lambda p: square_loss(chain(list(p.values()), X, units), Y), weight_decay=decay)
    record = {"squares": lambda p: torch.stack([W.square().sum() for W in p.values()])}
    path = integrate(field, start, TIMES, record=record, relative=1e-12)["squares"]
    return path / path[0]


DECAYS = (0.3, 0.0)


@claim(
    "A-norm-decay",
    printed={"eps": EPS},
    control=[{"eps": 0.1}, {"place": "first"}, {"below": torch.tanh}],
)
def all_below_decay(case, eps=0.0, place="last", below=None):
    """Below a normalisation without eps all squared norms decay as exp(-2 delta t), and stay where delta is 0.

    As printed, with torch's default eps. Controls: a large eps, BatchNorm below these layers, a tanh between them.
    """
    law = lambda decay: torch.exp(-2 * decay * TIMES[1:])[:, None].expand(-1, 3)
    return equal(
        measured=lambda: [decaying(case, place, eps, below, decay)[1:, :3] for decay in DECAYS],
        predicted=lambda: [law(decay) for decay in DECAYS],
        bound=1e-10, reason="integrator's tolerance of 1e-12 a step; three layers below BatchNorm, two rates of decay",
    )  # fmt: skip


@shared
def stepped(case: Case, eps: float, step: float, decay: float, steps: int) -> dict[str, Tensor]:
    """Gradient descent of the layers below BatchNorm: squared norms, one row a step, and those of the gradients."""
    weights, X, Y = normalised_task(case, 0)
    units, squares, gradients = activations("last", eps, None), [], []
    measure = lambda values: torch.stack([value.square().sum() for value in values])[:3]
    field = gradient_flow(lambda p: square_loss(chain(list(p.values()), X, units), Y))
    for _ in range(steps):
        velocity = field(weights)
        squares.append(measure(weights.values()))
        gradients.append(measure(velocity.values()))
        weights = {name: (1 - step * decay) * W + step * velocity[name] for name, W in weights.items()}
    return {"squares": torch.stack([*squares, measure(weights.values())]), "gradients": torch.stack(gradients)}


@claim("O-order0-step", control={"eps": 0.1})
def descent_lets_norms_grow(case, eps=0.0):
    """Below a map of order 0 a step leaves (1 - eta delta)^2 |W|^2 + eta^2 |g|^2: without decay norms only grow."""
    ways = lambda: [(step, decay, stepped(case, eps, step, decay, 40)) for step in (0.1, 0.02) for decay in (0.0, 0.3)]
    kept = lambda step, decay, run: (1 - step * decay) ** 2 * run["squares"][:-1] + step**2 * run["gradients"]
    return equal(
        measured=lambda: [run["squares"][1:] for _, _, run in ways()],
        predicted=lambda: [kept(*way) for way in ways()],
        bound=1e-12, reason="rounding of one step, relative to the squared norm; two rates, with decay and without",
    )  # fmt: skip


def creep(case: Case, step: float) -> float:
    """Relative growth of squared norms below BatchNorm by descent without decay until time 1, mean of three layers."""
    squares = stepped(case, 0.0, step, 0.0, round(1 / step))["squares"]
    return (squares[-1] / squares[0] - 1).mean().item()


@shared
def affine(case: Case, shifted: float, eps: float) -> list[dict[str, Tensor]]:
    """A layer, a normalisation with gain and shift, a readout: growth of each, output, gradient in it; five norms."""
    found = []
    for name in ALL_NORMS[:5]:
        for k in range(2):
            shapes = {"below": (6, 4), "above": (3, 36), "gain": (6,), "shift": (6,)}
            p = {n: normal(case, f"affine {n} {k}", *shape).requires_grad_() for n, shape in shapes.items()}
            z = functional.leaky_relu(normal(case, f"affine X {k}", 12, 6, 4) @ p["below"].mT)
            h = NORMS[name].own(eps)(z) * p["gain"] + shifted * p["shift"]
            f = functional.leaky_relu(h).flatten(1) @ p["above"].mT / 6
            loss = square_loss(f, normal(case, f"affine Y {k}", 12, 3))
            df, *g = torch.autograd.grad(loss, [f, *p.values()], materialize_grads=True)
            one = {n: -2 * (W * G).sum() for (n, W), G in zip(p.items(), g, strict=True)}
            one |= {"f": f, "df": df}
            found.append({n: value.detach() for n, value in one.items()})
    return found


@claim("A-norm-affine", printed={"eps": EPS}, control={"shifted": 1.0})
def gains_are_layers(case, shifted=0.0, eps=0.0):
    """A gain without shift is a linear layer above a map of order 0: Theorem 2 for it, and K = 0 below.  A note 1

    The gain keeps the law whatever the eps; the layers below need it to be zero. As printed, with torch's default.
    """
    return together(
        gain=equal(
            measured=lambda: [one["gain"] for one in affine(case, shifted, EPS)],
            predicted=lambda: [squared_norm_rate(one["f"], one["df"]) for one in affine(case, shifted, EPS)],
            scale=lambda: [one["f"].norm() * one["df"].norm() for one in affine(case, shifted, EPS)],
            bound=1e-13, reason="rounding of inner products, relative to |f| |grad f|; five norms, whatever their eps",
        ),
        below=equal(
            measured=lambda: [one["below"] for one in affine(case, shifted, eps)],
            predicted=lambda: [torch.zeros(()) for _ in affine(case, shifted, eps)],
            scale=lambda: [one["f"].norm() * one["df"].norm() for one in affine(case, shifted, eps)],
            bound=1e-12, reason="rounding of inner products, relative to |f| |grad f|; five norms without eps",
        ),
    )  # fmt: skip


@claim("O-gain-and-shift", control={"counted": 0.0})
def gain_and_shift_together(case, counted=1.0):
    """With a trained shift, the squared norms of gain and shift together obey Theorem 2."""
    return equal(
        measured=lambda: [one["gain"] + counted * one["shift"] for one in affine(case, 1.0, EPS)],
        predicted=lambda: [squared_norm_rate(one["f"], one["df"]) for one in affine(case, 1.0, EPS)],
        scale=lambda: [one["f"].norm() * one["df"].norm() for one in affine(case, 1.0, EPS)],
        bound=1e-13, reason="rounding of inner products, relative to |f| |grad f|; five norms, 2 networks each",
    )  # fmt: skip
