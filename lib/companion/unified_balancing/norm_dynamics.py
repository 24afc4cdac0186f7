"""What decides the claims of paper A on norms: Theorem 2 and Corollary 1 of section 3, their proof, and appendix C."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from claimbook.evidence import Case, claim, equal, limit, shared, tendency, together
from companion.unified_balancing import norm_dynamics_runs as runs
from companion.unified_balancing.common import identity, normal, squared_relu
from companion.unified_balancing.norm_dynamics_runs import (
    DECAY,
    GELU,
    HOMOGENEOUS,
    MISNAMED,
    TANH,
    Followed,
    Network,
    Pass,
    followed,
    half_square,
    networks,
    passes,
    whole_square,
)
from normdyn.motion.flows import Params
from normdyn.networks.chains import signals
from normdyn.networks.losses import cross_entropy, square_loss
from normdyn.norms.laws import alignment, gramian_balance, order_products, squared_norm_rate

ROUNDING = "rounding of sums over 12 samples; 7 lists of orders out of 0, 1/2, 1, 2, either loss, 2 networks each"


def squared_norms(weights: Params) -> Tensor:
    return torch.stack([W.square().sum() for W in weights.values()])


def traces(weights: Params) -> Tensor:
    """Of the balance at every junction, by the library."""
    layers = list(weights.values())
    return torch.stack([gramian_balance(W, V).trace() for W, V in zip(layers, layers[1:], strict=False)])


# Theorem 2 at an instant


def norm_law(one: Pass) -> Tensor:
    """The right-hand side of eq. (5), for every layer."""
    net, s = one
    driven = [squared_norm_rate(s.output, s.output_gradient, order=K) for K in order_products(net.units.orders)]
    return torch.stack(driven) - 2 * DECAY * torch.stack([W.square().sum() for W in net.weights.values()])


OUTSIDE = [{"units": TANH}, {"units": GELU}, {"units": MISNAMED}, {"biased": True}, {"stale": True}]


@claim("A-thm2", printed={"penalty": whole_square}, control=OUTSIDE)
def norms_follow_one_number(case, units=HOMOGENEOUS, penalty=half_square, biased=False, stale=False):
    """Each squared norm moves at -2 K <f, grad_f L> - 2 delta |W|^2, the regulariser being half the square.  A (5)

    For a batch W is what acts on one sample, and the inner product is taken over the batch.
    """
    return equal(
        measured=lambda: [runs.rate(net, squared_norms, penalty) for net in networks(case, units, biased, stale)],
        predicted=lambda: [norm_law(one) for one in passes(case, units, biased, stale)],
        bound=1e-12, reason=ROUNDING,
    )  # fmt: skip


def samples(net: Network) -> int:
    return len(net.X)


def single(net: Network) -> int:
    return 1


def operators(weights: Params, n: int) -> Tensor:
    """Squared norms of the layers as they act on n collected inputs, each written out as a matrix."""
    return torch.stack([torch.kron(W, torch.eye(n, dtype=W.dtype)).square().sum() for W in weights.values()])


@claim("O-batch-operator", control={"factor": single})
def batch_operator_grows_faster(case, factor=samples):
    """The operator that acts on n collected inputs grows, before decay, n times as fast as Theorem 2 says of it."""
    some = lambda: networks(case, HOMOGENEOUS)
    decayed = lambda net: -2 * DECAY * torch.stack([W.square().sum() for W in net.weights.values()])
    law = lambda one: factor(one.net) * (norm_law(one) - decayed(one.net)) + len(one.net.X) * decayed(one.net)
    return equal(
        measured=lambda: [runs.rate(net, lambda W, net=net: operators(W, len(net.X))) for net in some()],
        predicted=lambda: [law(one) for one in passes(case)],
        bound=1e-12, reason=ROUNDING,
    )  # fmt: skip


def product_above(orders: tuple[float, ...], l: int) -> float:
    """Of the orders above junction l, as eq. (6) prints it."""
    return math.prod(orders[l + 1 :])


def product_from(orders: tuple[float, ...], l: int) -> float:
    """The same begun one layer too low."""
    return math.prod(orders[l:])


def trace_law(one: Pass, product: Callable[[tuple[float, ...], int], float]) -> Tensor:
    """The right-hand side of eq. (6), for every junction."""
    net, s = one
    sizes = torch.stack([W.square().sum() for W in net.weights.values()])
    aligned, orders = (s.output * s.output_gradient).sum(), net.units.orders
    driven = [-2 * (k - 1) * product(orders, l) * aligned for l, k in enumerate(orders)]
    return torch.stack(driven) - 2 * DECAY * (sizes[:-1] - sizes[1:])


@claim(
    "A-cor1", printed={"penalty": whole_square}, control=[{"product": product_from}, {"units": TANH}, {"biased": True}]
)
def traces_follow(case, units=HOMOGENEOUS, penalty=half_square, product=product_above, biased=False):
    """The trace of a balance moves at -2 (k - 1) K <f, grad_f L> - 2 delta Tr B, K from the layer above.  A (6)"""
    return equal(
        measured=lambda: [runs.rate(net, traces, penalty) for net in networks(case, units, biased)],
        predicted=lambda: [trace_law(one, product) for one in passes(case, units, biased)],
        bound=1e-11, reason=f"{ROUNDING}; traces are differences of norms, which cancel in part",
    )  # fmt: skip


# The proof


SMOOTH = (
    runs.Units((1, 1, 1), (torch.tanh, functional.gelu, functional.softplus)),
    runs.Units((1, 1, 1), (torch.sin, torch.tanh, torch.exp)),
)


@claim("A-eq20b", control={"biased": True})
def growth_shows_at_own_output(case, units=(*SMOOTH, *HOMOGENEOUS), biased=False):
    """Without weight decay |W|^2 moves at -2 <G, Z>: any differentiable activations, the last layer too.  A (20b)"""
    own = lambda s: [-2 * (G * Z).sum() for G, Z in zip(s.field_gradients, s.fields, strict=True)]
    return equal(
        measured=lambda: [runs.rate(net, squared_norms, decay=0.0) for net in networks(case, units, biased)],
        predicted=lambda: [torch.stack(own(one.signals)) for one in passes(case, units, biased)],
        bound=1e-11, reason="rounding of sums over 12 samples; exp, sine, tanh, GELU, softplus, and homogeneous maps",
    )  # fmt: skip


def layer_norm(z: Tensor) -> Tensor:
    return functional.layer_norm(z, z.shape[-1:], eps=0.0)


def mixed_rms(z: Tensor) -> Tensor:
    """A normalisation followed by a fixed mixing: its derivative is not symmetric."""
    mixing = torch.linspace(-1, 1, z.shape[-1] ** 2, dtype=z.dtype).reshape(z.shape[-1], -1).sin()
    return z / z.square().mean(-1, keepdim=True).sqrt() @ mixing


def pooled(z: Tensor) -> Tensor:
    return functional.max_pool1d(z, 2).repeat_interleave(2, 1)


@shared
def three_layers(case: Case) -> list[tuple[Any, list[Tensor], Callable]]:
    """Signals, weights, and the map at the first junction: three that act on a sample as a whole, and the identity."""
    found = []
    for phi in (layer_norm, mixed_rms, pooled, identity):
        for k in range(3):
            weights, X, Y = runs.problem(case, f"recursion {phi.__name__} {k}", (4, 6, 6, 3))
            found.append((signals(lambda f, Y=Y: square_loss(f, Y), weights, X, [phi, torch.tanh]), weights, phi))
    return found


@claim("A-eq17", control={"adjoint": False})
def gradients_come_down(case, adjoint=True):
    """The gradient in a field is what comes from above, through the adjoint of the activation's derivative.  A (17)"""
    pattern = "nij,ni->nj" if adjoint else "nij,nj->ni"
    derivative = lambda s, phi: torch.stack([torch.func.jacfwd(lambda z: phi(z[None])[0])(z) for z in s.fields[0]])
    return equal(
        measured=lambda: [s.field_gradients[0] for s, _, _ in three_layers(case)],
        predicted=lambda: [torch.einsum(pattern, derivative(s, phi), s.field_gradients[1] @ W[1])
                           for s, W, phi in three_layers(case)],
        bound=1e-12, reason="rounding; layer norm, RMS norm with mixing, max pooling, identity, 3 networks each",
    )  # fmt: skip


@claim("A-eq22b", control=[{"biased": True}, {"units": TANH}])
def each_map_passes_its_order(case, units=HOMOGENEOUS, biased=False):
    """Along the chain <G, Z> is multiplied by the order of each activation that it passes.  A (22b)"""
    passed = lambda: [one.signals for one in passes(case, units, biased)]
    pairing = lambda s: torch.stack([(G * Z).sum() for G, Z in zip(s.field_gradients, s.fields, strict=True)])
    orders = lambda: [torch.tensor(net.units.orders, dtype=torch.float64) for net in networks(case, units, biased)]
    sizes = lambda s: torch.stack([G.norm() * Z.norm() for G, Z in zip(s.field_gradients, s.fields, strict=True)])
    return equal(
        measured=lambda: [pairing(s)[:-1] for s in passed()],
        predicted=lambda: [k * pairing(s)[1:] for k, s in zip(orders(), passed(), strict=True)],
        scale=lambda: [sizes(s)[1:] for s in passed()],
        bound=1e-12, reason="rounding of inner products, relative to the lengths of their factors; 7 lists of orders",
    )  # fmt: skip


# Theorem 2 along a flow


def all_one(orders: tuple[float, ...]) -> list[float]:
    """As if every activation had order one."""
    return [1.0] * (len(orders) + 1)


def rebuilt(run: Followed, products: Callable, driven: bool) -> Tensor:
    """Squared norms at all times, from their starts and one recorded number."""
    K = torch.tensor(products(run.orders), dtype=torch.float64)
    gained = 2 * K * driven * run.integral[:, None]
    return torch.exp(-2 * DECAY * run.times)[:, None] * (run.squares[0] + gained)


@claim("A-thm2-scalar", control=[{"products": all_one}, {"driven": False}])
def one_number_is_enough(case, products=order_products, driven=True):
    """All norms at all times follow from their starts, the weight decay, and s recorded along the flow.  A abstract"""
    return equal(
        measured=lambda: [run.squares for run in followed(case)],
        predicted=lambda: [rebuilt(run, products, driven) for run in followed(case)],
        bound=1e-10, reason="integrator's tolerance of 1e-12 a step; three lists of orders",
    )  # fmt: skip


@shared
def over_orders(case: Case, products: Callable) -> list[tuple[Tensor, Tensor]]:
    """Squared norms over K along the flow, of the layers with K other than 0, each less the last one's; and times."""
    found = []
    for run in followed(case):
        K = torch.tensor(products(run.orders), dtype=torch.float64)
        ratio = (run.squares / K)[:, K != 0]
        found.append((ratio[:, :-1] - ratio[:, -1:], run.times))
    return found


@claim("O-any-two-layers", control={"products": all_one})
def any_two_layers_move_on_a_line(case, products=order_products):
    """For any two layers with K other than 0 the difference of |W|^2 / K decays as exp(-2 delta t)."""
    return equal(
        measured=lambda: [one[1:] for one, _ in over_orders(case, products)],
        predicted=lambda: [torch.exp(-2 * DECAY * t[1:])[:, None] * one[0] for one, t in over_orders(case, products)],
        bound=1e-9, reason="integrator's tolerance of 1e-12 a step, of differences that cancel in part",
    )  # fmt: skip


# Special cases that were known


@claim("A-thm2-cao", control={"second": squared_relu})
def all_layers_receive_the_same(case, second=torch.relu):
    """With all orders one the loss drives every layer alike: dense layers, and factors of a tensor.  A section 3"""
    some = lambda: [*runs.deep(case, second), runs.tensorised(case, second)]
    return equal(
        measured=lambda: [one.pulls for one in some()],
        predicted=lambda: [one.aligned for one in some()],
        scale=lambda: [one.scale for one in some()],
        bound=1e-13, reason="rounding of inner products, relative to |f| |grad f|; depths 2 to 8 and a layer of rank 5",
    )  # fmt: skip


@claim("A-thm2-du-norm", printed={"power": 1}, control=[{"bias": 0.5}, {"units": (torch.tanh, torch.tanh)}])
def differences_of_squares_are_kept(case, power=2, bias=0.0, units=(torch.relu, identity)):
    """Differences of the squared norms of layers are kept without weight decay, dense and convolutional.  A section 3

    Rates with ReLUs and max pooling; whole paths with linear layers and average pooling, which are smooth.
    """
    kinked, smooth = units
    rate = lambda one: -power * one.norms ** (power - 2) * one.pulls  # of each norm to the power
    rates = lambda: [rate(one) for one in runs.du_growths(case, kinked, bias)]
    scales = lambda: [one.scale * one.norms.min() ** (power - 2) for one in runs.du_growths(case, kinked, bias)]
    differences = lambda: [(path**power).diff(dim=1) for path in runs.du_paths(case, smooth, bias)]
    return together(
        rates=equal(
            measured=lambda: [rate[:-1] for rate in rates()], predicted=lambda: [rate[1:] for rate in rates()],
            scale=scales, bound=1e-12, reason="rounding of sums over samples; 3 dense and 3 convolutional networks",
        ),
        paths=equal(
            measured=lambda: [d[1:] for d in differences()],
            predicted=lambda: [d[:1].expand(len(d) - 1, -1) for d in differences()],
            bound=1e-8, reason="integrator's tolerance of 1e-10 a step; a dense and a convolutional network",
        ),
    )  # fmt: skip


@claim("A-thm2-order0", control={"order": 1})
def nothing_below_moves(case, order=0):
    """Below a map of order 0, and without weight decay, all norms stand still.  A section 3"""
    return equal(
        measured=lambda: [after for _, after in runs.below_a_map(case, order)],
        predicted=lambda: [before for before, _ in runs.below_a_map(case, order)],
        bound=1e-10, reason="integrator's tolerance of 1e-12 a step; three places for the map",
    )  # fmt: skip


# Appendix C


@shared
def outputs(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Outputs and targets of 12 samples in 4 dimensions."""
    return [(normal(case, f"f {k}", 12, 4), normal(case, f"Y {k}", 12, 4)) for k in range(3)]


@claim("A-eq30", control={"half": 1.0})
def square_loss_gradient(case, half=0.5):
    """For the loss |f - Y|^2 / 2n the gradient is (f - Y) / n, so that n s = <f, Y> - |f|^2.  A (29), (30)"""
    slope = lambda f, Y: torch.func.grad(lambda f: 2 * half * square_loss(f, Y))(f)
    return together(
        gradient=equal(
            measured=lambda: [-slope(f, Y) for f, Y in outputs(case)],
            predicted=lambda: [(Y - f) / len(f) for f, Y in outputs(case)],
            bound=1e-14, reason="rounding of one difference",
        ),
        aligned=equal(
            measured=lambda: [alignment(f, slope(f, Y)) for f, Y in outputs(case)],
            predicted=lambda: [((f * Y).sum() - f.square().sum()) / len(f) for f, Y in outputs(case)],
            bound=1e-12, reason="rounding of a sum of 48 products",
        ),
    )  # fmt: skip


@claim("A-eq31", control={"over": 0})
def cross_entropy_gradient(case, over=1):
    """For the mean cross-entropy minus the gradient is (Y - softmax f) / n, softmax over a sample's classes.  A (31)"""
    label = lambda Y: Y.argmax(1)
    one_hot = lambda Y: functional.one_hot(label(Y), Y.shape[1]).double()
    return equal(
        measured=lambda: [-torch.func.grad(lambda f, Y=Y: cross_entropy(f, label(Y)))(f) for f, Y in outputs(case)],
        predicted=lambda: [(one_hot(Y) - f.softmax(over)) / len(f) for f, Y in outputs(case)],
        bound=1e-13, reason="rounding of a softmax",
    )  # fmt: skip


def quotient(one: Pass, step: float) -> Tensor:
    """Eq. (32): the change of the squared norm of all layers in a step of gradient descent, over the step."""
    net, s = one
    moved = [W - step * (g + DECAY * W) for W, g in zip(net.weights.values(), s.gradients, strict=True)]
    before = sum(W.square().sum() for W in net.weights.values())
    return (sum(W.square().sum() for W in moved) - before) / step


def summed_law(one: Pass, products: Callable[[tuple[float, ...]], list[float]]) -> Tensor:
    """Theorem 2 summed over layers."""
    net, s = one
    aligned, sizes = (s.output * s.output_gradient).sum(), [W.square().sum() for W in net.weights.values()]
    return -2 * sum(products(net.units.orders)) * aligned - 2 * DECAY * sum(sizes)


@claim("A-eq32", control={"products": all_one})
def quotient_estimates_the_rate(case, products=order_products):
    """The difference quotient tends to the sum over layers of Theorem 2 as the step shrinks.  A (32)

    It is exactly linear in the step, so two steps give its limit.
    """
    return limit(
        measured=lambda reach: [2 * quotient(one, 0.05 / reach) - quotient(one, 0.1 / reach) for one in passes(case)],
        predicted=lambda: [summed_law(one, products) for one in passes(case)],
        bound=1e-11, reason="rounding of a quotient; steps of 0.1 and 0.05, then half of them; 7 lists of orders",
    )  # fmt: skip


# Ours: a step, and other tensors in the place of the output


@claim("O-discrete-norm", control=[{"biased": True}, {"stale": True}, {"products": all_one}])
def norm_after_a_step(case, products=order_products, biased=False, stale=False):
    """A step changes |W|^2 by the rate of Theorem 2 times the learning rate, plus the squared length of the step."""
    some = lambda: [runs.descent(case, name, biased, stale, products) for name in runs.WAYS]
    steps = lambda: [way.step for way in runs.WAYS.values()]
    return equal(
        measured=lambda: [run.after for run in some()],
        predicted=lambda: [run.before + step * run.law for step, run in zip(steps(), some(), strict=True)],
        scale=lambda: [run.before for run in some()],
        bound=1e-12, reason="rounding of one step, relative to the squared norm; six ways to train",
    )  # fmt: skip


@shared
def residual_blocks(case: Case) -> list[dict[str, Tensor]]:
    """A stem, a residual block with one hidden layer, a head: <W, gradient> of each, and the two alignments."""
    found = []
    for k in range(3):
        shapes = {"stem": (6, 4), "inner": (8, 6), "outer": (6, 8), "head": (3, 6)}
        W = {name: 0.6 * normal(case, f"{name} {k}", *shape).requires_grad_() for name, shape in shapes.items()}
        h = normal(case, f"block inputs {k}", 12, 4) @ W["stem"].mT
        branch = torch.relu(h @ W["inner"].mT) @ W["outer"].mT
        f = (h + branch) @ W["head"].mT
        loss = square_loss(f, normal(case, f"block targets {k}", 12, 3))
        G, df, *g = torch.autograd.grad(loss, [branch, f, *W.values()])
        pulls = torch.stack([(a * b).sum() for a, b in zip(W.values(), g, strict=True)]).detach()
        own, whole = (G * branch).sum().detach(), (df * f).sum().detach()
        found.append({"pulls": pulls, "branch": own, "output": whole, "scale": (f.norm() * df.norm()).detach()})
    return found


@claim("O-branch-norm", control={"through": "output"})
def branches_obey_their_own_output(case, through="branch"):
    """Layers of a residual branch obey Theorem 2 with the branch for the output; stem and head with the output."""
    order = ("output", through, through, "output")
    return equal(
        measured=lambda: [one["pulls"] for one in residual_blocks(case)],
        predicted=lambda: [torch.stack([one[name] for name in order]) for one in residual_blocks(case)],
        scale=lambda: [one["scale"] for one in residual_blocks(case)],
        bound=1e-13, reason="rounding of inner products, relative to |f| |grad f|; 3 blocks",
    )  # fmt: skip


# From functions to norms

NARROW, WIDE, WIDEST = 32, 1024, 2048


def foretold(case: Case, task: tuple[int, int], width: int, scaling: str, theory: str, draws: int = 1) -> Tensor:
    """Error of a theory's prediction of the growth of the norm, relative to the mean over seeds; (times, seeds).

    By the kernel of the start; or by the outputs of another network, far wider, which stands for the limit. The error
    is the mean over a few draws of the network, on the data of the seed.
    """
    errors = []
    for k in range(draws):
        network = (case, task, width, scaling, f"draw {k}")
        if theory == "kernel":
            told = runs.lazy_growth(*network)
        else:
            told = runs.learnt(case, task, WIDEST, scaling, "stand-in").output
        errors.append((runs.learnt(*network).grown - told).abs() / told.mean(1, keepdim=True))
    return torch.stack(errors).mean(0)


def improvement(case: Case, scaling: str, theory: str) -> list[Tensor]:
    """By how much more than a half the error falls from a narrow network to a wide one; one item a task and time."""
    both = lambda task: [foretold(case, task, w, scaling, theory, draws) for w, draws in ((NARROW, 6), (WIDE, 1))]
    pairs = [both(task) for task in runs.TASKS]
    return [row for narrow, wide in pairs for row in narrow - 2 * wide]


MOVING = ("mean field", "kernel")  # the kernel of the start, in a scaling in which it moves


@claim("A-ntk-link", control=[{"lazily": MOVING, "richly": MOVING}])
def function_theory_gives_norms(case, lazily=("ntk", "kernel"), richly=("mean field", "output")):
    """A theory of the output foretells norms, the better the wider: tangent kernel, mean-field limit.  A section 6"""
    why = "4 tasks, 2 times, 24 seeds each; 32 times the width has to halve the error, a slope of -1/2 leaves a sixth"
    return together(
        kernel=tendency(effect=lambda: improvement(case, *lazily), reason=why),
        mean_field=tendency(effect=lambda: improvement(case, *richly), reason=why),
    )
