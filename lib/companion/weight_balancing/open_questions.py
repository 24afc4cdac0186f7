"""What decides the sentences of sections 3.2 and 3.4 of paper E on path norms, gradients, speed and generalisation."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Generator, Tensor
from torch.func import grad, hessian, vmap
from torch.nn import functional as F

from claimbook.evidence import Case, Unfinished, at_most, claim, equal, limit, shared, tendency, together
from normdyn.data.sets import digits, flatten
from normdyn.networks.graphs import layered_matrix, layered_weights, random_dag
from normdyn.networks.losses import square_loss
from normdyn.rescaling.gauge import minimum_norm
from normdyn.rescaling.group import scatter
from normdyn.rescaling.problems import RescalingProblem

# Path norms


class Graph(NamedTuple):
    """A network as a matrix over all units, the mask of its hidden units, and its layers of weights (0: no layers)."""

    W: Tensor
    hidden: Tensor
    depth: int
    widths: tuple[int, ...]


@shared
def layered(case: Case) -> list[Graph]:
    """Networks of two to four layers of weights; in the last one a single output sees eight equal hidden units."""
    draw, shapes = case.generator("path norms"), [(3, 4, 2), (3, 4, 3, 2), (2, 3, 3, 3, 1), (3, 8, 1)]
    nets = [layered_weights(widths, draw) for widths in shapes]
    nets[-1] = [torch.ones_like(V) for V in nets[-1]]
    return [Graph(*layered_matrix(V), len(V), widths) for V, widths in zip(nets, shapes, strict=True)]


@shared
def with_a_shortcut(case: Case) -> list[Graph]:
    """The same networks with one more weight, from the first input to the first output."""
    found = []
    for net in layered(case):
        W = net.W.clone()
        W[len(W) - net.widths[-1], 0] = 1.5
        found.append(net._replace(W=W))
    return found


def log_rows(z: Tensor, W: Tensor, hidden: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Logarithms of the norms of all rows with weights, after the rescaling, and their derivatives in z."""
    x = p * scatter(z, hidden)
    powers = (W.abs().pow(p) * (x[:, None] - x).exp())[(W != 0).any(1)]
    total = powers.sum(1, keepdim=True)
    unit = torch.eye(len(W), dtype=W.dtype)[(W != 0).any(1)]
    return total[:, 0].log() / p, (unit - powers / total)[:, hidden]


def least_maximum(net: Graph, p: float) -> float:
    """The least largest row norm over all rescalings: a convex problem, given to a general solver (SLSQP)."""
    rows = lambda x: [part.numpy() for part in log_rows(torch.from_numpy(x[:-1]), net.W, net.hidden, p)]
    level = np.eye(int(net.hidden.sum()) + 1)[-1]  # the last unknown, below which all rows have to lie
    below = {"fun": lambda x: x[-1] - rows(x)[0], "jac": lambda x: level - np.pad(rows(x)[1], ((0, 0), (0, 1)))}
    found = minimize(lambda x: x[-1], level * (rows(0 * level)[0].max() + 0.1), jac=lambda x: level, method="SLSQP",
                     constraints=[{"type": "ineq"} | below], options={"ftol": 1e-15, "maxiter": 500})  # fmt: skip
    return math.exp(rows(found.x)[0].max())


def over_paths(W: Tensor, unit: int, p: float) -> float:
    """Sum over all paths from inputs to the unit of the product of |w|^p, path by path."""
    sources = W[unit].nonzero()[:, 0].tolist()
    return sum(abs(W[unit, j].item()) ** p * over_paths(W, j, p) for j in sources) if sources else 1.0


def path_norms(net: Graph, p: float) -> Tensor:
    """The path norm of every output."""
    outputs = range(len(net.W) - net.widths[-1], len(net.W))
    return torch.tensor([over_paths(net.W, unit, p) ** (1 / p) for unit in outputs], dtype=torch.float64)


def root_of_largest(net: Graph, p: float) -> float:
    return path_norms(net, p).max().item() ** (1 / net.depth)


def no_root(net: Graph, p: float) -> float:
    return path_norms(net, p).max().item()


def over_all_outputs(net: Graph, p: float) -> float:
    """The regularizer of PathSGD: over the paths to any output, without a root of the depth."""
    return path_norms(net, p).pow(p).sum().item() ** (1 / p)


@claim("E-pathnorm", printed={"value": over_all_outputs}, control={"networks": with_a_shortcut})
def path_norm_is_a_least_maximum(case, value=root_of_largest, networks=layered, exponents=(1, 2, 3)):
    """The least max-norm over all rescalings is the d-th root of the largest path norm.  E section 3.4"""
    pairs = lambda: itertools.product(networks(case), exponents)
    return equal(lambda: [least_maximum(net, p) for net, p in pairs()], lambda: [value(net, p) for net, p in pairs()],
                 1e-8, "the solver ends where no step lowers the level in double precision")  # fmt: skip


ORDERS = (2, 8, 32, 128)  # values of q on the way to the max-norm


@shared
def largest_rows(case: Case, networks=layered, p: float = 2.0) -> list[Tensor]:
    """For each network the largest row norm of its least l_{p,q} norm rescaling, one entry a q."""
    found = []
    for net in networks(case):
        gauges = [minimum_norm(RescalingProblem.graph(net.W, net.hidden, p=p, q=q), tolerance=1e-13) for q in ORDERS]
        rows = [log_rows(gauge.log_factors[net.hidden], net.W, net.hidden, p)[0] for gauge in gauges]
        found.append(torch.stack([row.max() for row in rows]).exp())
    return found


def mean_width(net: Graph) -> float:
    """Geometric mean of the widths of the layers that are no inputs."""
    return math.prod(net.widths[1:]) ** (1 / net.depth)


@claim("O-maxnorm-gauge", control=[{"networks": with_a_shortcut}, {"value": no_root}])
def gauges_tend_to_the_least_maximum(case, value=root_of_largest, networks=layered):
    """With growing q the largest row exceeds the least maximum by a factor g^(1/q) at most, g the mean width."""
    rows, nets = lambda: largest_rows(case, networks), lambda: networks(case)
    roots = lambda: [torch.full((len(ORDERS),), value(net, 2), dtype=torch.float64) for net in nets()]
    factors = lambda net: torch.tensor([mean_width(net) ** (1 / q) for q in ORDERS], dtype=torch.float64)
    why = "the norm is flat at its minimum: a gap of 1e-13 leaves 1e-6 in a row"
    return together(
        above=at_most(roots, rows, 1e-5, why),
        below=at_most(
            lambda: [row / root - 1 for row, root in zip(rows(), roots(), strict=True)],
            lambda: [factors(net) - 1 for net in nets()], 1e-5, why, scale=lambda: [1.0] * len(nets())
        ),
    )  # fmt: skip


# Gradients along the orbit


class Start(NamedTuple):
    """A network with an error that depends on its weights, and the gradient there."""

    W: Tensor
    hidden: Tensor
    error: Callable[[Tensor], Tensor]
    slope: Tensor


def as_drawn(W: Tensor, hidden: Tensor) -> Tensor:
    return W


def all_units_inactive(W: Tensor, hidden: Tensor) -> Tensor:
    """Hidden units whose weights are all negative are inactive on positive inputs; one weight leads past them."""
    W = torch.where(hidden[:, None], -W.abs(), W)
    W[-1, 0] = 1.0
    return W


def signals(W: Tensor, X: Tensor, hidden: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """Outputs of a graph without biases, unit by unit; as ``feedforward``, for many networks under ``vmap``."""
    values = list(X.unbind(1))
    for i in range(X.shape[1], len(W)):
        field = torch.stack(values, 1) @ W[i, :i]
        values.append(activation(field) if hidden[i] else field)
    return torch.stack(values[int(hidden.nonzero()[-1]) + 1 :], 1)


@shared
def starts(case: Case, network=as_drawn, activation=torch.relu, steps: int = 0, count: int = 5) -> list[Start]:
    """Random graphs of 3 inputs, 5 hidden units and 2 outputs on positive inputs, after some steps of descent.

    Of the networks as drawn those count that have a nonzero gradient at a weight into a hidden unit.
    """
    draw, found = case.generator("gradients"), []
    while len(found) < count:
        W, hidden = random_dag(draw, hidden=5, spread=0.3)
        X, Y = (torch.randn(20, width, generator=draw, dtype=W.dtype) for width in (3, 2))
        W = network(W, hidden)

        def error(V, edges=W != 0, X=X, Y=Y, hidden=hidden):
            return square_loss(signals(V * edges, X.abs(), hidden, activation), Y)

        for _ in range(steps):
            W = W - 0.05 * grad(error)(W)
        slope = grad(error)(W)
        if network is not as_drawn or slope[hidden].any():
            found.append(Start(W, hidden, error, slope))
    return found


def slope_after(start: Start, z: Tensor) -> Tensor:
    """The gradient after the rescaling with log factors z of the hidden units, by automatic derivatives."""
    x = scatter(z, start.hidden)
    return grad(start.error)(start.W * (x[:, None] - x).exp())


def stretched(slope: Tensor, hidden: Tensor, z: Tensor) -> Tensor:
    """The law: what is multiplied by a_i / a_j has a gradient that is divided by it."""
    x = torch.zeros_like(slope[0])
    x[hidden] = z
    return slope * (x - x[:, None]).exp()


@shared
def rescalings(case: Case, count: int = 20, units: int = 5) -> Tensor:
    """Log factors of random rescalings, small and large, a row each."""
    return 2 * torch.randn(count, units, generator=case.generator("rescalings"), dtype=torch.float64)


def slope_towards_zero(start: Start, reach: float) -> Tensor:
    """Slope of log |gradient| against log a where the factor a of one unit tends to zero, for the most live unit."""
    unit = start.slope.norm(dim=1)[start.hidden].argmax()
    one = F.one_hot(unit, int(start.hidden.sum())).to(start.W)
    far, near = (slope_after(start, -reach * size * one).norm().log() for size in (20.0, 16.0))
    return (near - far) / (4.0 * reach)


@claim("E-grad-unbounded", printed={"network": all_units_inactive})
def gradients_are_unbounded(case, network=as_drawn):
    """If a unit has a nonzero gradient at a weight into it, the gradient grows like 1/a as its factor a falls."""
    nets = lambda: starts(case, network)
    all_z = lambda: [(s, rescalings(case)) for s in nets()]
    return together(
        law=equal(
            lambda: [torch.stack([slope_after(s, row) for row in z]) for s, z in all_z()],
            lambda: [torch.stack([stretched(s.slope, s.hidden, row) for row in z]) for s, z in all_z()],
            1e-10, "rounding; factors up to a thousand"
        ),
        growth=limit(
            lambda reach: [slope_towards_zero(s, reach) for s in nets()], lambda: [-1.0 for _ in nets()],
            1e-8, "the other weights: the square of their gradient is e^32 times smaller beside it"
        ),
    )  # fmt: skip


def log_factors(z: Tensor) -> Tensor:
    return z


def factors(z: Tensor) -> Tensor:
    """The straight line between the factors, in place of the one between their logarithms."""
    return z.exp()


@shared
def halfway(case: Case, variable) -> list[tuple[Tensor, Tensor]]:
    """For each network and 200 pairs of rescalings: |gradient| halfway in some variable, and its mean at the ends."""
    back, found = Tensor.log if variable is factors else log_factors, []
    ends = variable(rescalings(case, 400)).unflatten(0, (2, -1))
    for start in starts(case, activation=F.leaky_relu):
        sizes = vmap(lambda x, s=start: slope_after(s, back(x)).norm())
        found.append((sizes(ends.mean(0)), (sizes(ends[0]) + sizes(ends[1])) / 2))
    return found


@claim("O-gradient-convex", control={"variable": factors})
def gradient_is_convex(case, variable=log_factors):
    """The norm of the gradient is a convex function of the log factors: halfway it is at most the mean of the ends."""
    return at_most(
        lambda: [middle for middle, _ in halfway(case, variable)],
        lambda: [mean for _, mean in halfway(case, variable)],
        bound=1e-12,
        reason="rounding",
    )


def gauge_of_gradients(start: Start) -> Tensor:
    """The dual gauge: the least norm of the gradient's own magnitudes, with reciprocal factors."""
    problem = RescalingProblem.graph(start.slope, start.hidden, p=2, q=2)
    return -minimum_norm(problem, tolerance=1e-14).log_factors[start.hidden]


def gauge_of_weights(start: Start) -> Tensor:
    problem = RescalingProblem.graph(start.W, start.hidden, p=2, q=2)
    return minimum_norm(problem, tolerance=1e-14).log_factors[start.hidden]


def least_slope(start: Start) -> Tensor:
    """The least norm of the gradient over all rescalings, by Newton's method on derivatives of the error itself."""
    value = lambda z: slope_after(start, z).norm().log()
    bend, push, z = hessian(value), grad(value), start.W.new_zeros(int(start.hidden.sum()))
    for _ in range(50):
        step = torch.linalg.solve(bend(z), push(z))
        z = z - step / step.abs().max().clamp_min(1.0)
        if step.abs().max() < 1e-9:
            break
    return value(z).exp()


@claim("O-dual-gauge", control={"gauge": gauge_of_weights})
def gradients_have_a_gauge(case, gauge=gauge_of_gradients):
    """Over the group the gradient has a least norm; the paper's own algorithm finds it, on |dE/dW| with factors 1/a."""
    nets = lambda: starts(case, activation=F.leaky_relu)[:3]
    return equal(lambda: [least_slope(s) for s in nets()],
                 lambda: [stretched(s.slope, s.hidden, gauge(s)).norm() for s in nets()],
                 1e-10, "rounding; at a minimum an error of the factors counts in the square")  # fmt: skip


class Law(NamedTuple):
    """Independent random factors: values with their probabilities, and in closed form the means of a^2 and 1/a^2."""

    values: Sequence[float]
    chances: Sequence[float]
    square: float
    inverse: float


def uniform(low: float, high: float) -> Law:
    """Uniform on an interval, by Gauss's rule of four points."""
    nodes, weights = np.polynomial.legendre.leggauss(4)
    values = (low + high) / 2 + (high - low) / 2 * nodes
    return Law(values, weights / 2, (low * low + low * high + high * high) / 3, 1 / (low * high))


def teleportation() -> list[Law]:
    """Uniform around one, as in the work cited, and up or down by one factor."""
    ups = [Law((s, 1 / s), (0.5, 0.5), math.cosh(2 * math.log(s)), math.cosh(2 * math.log(s))) for s in (1.1, 2.0)]
    return [uniform(0.9, 1.1), uniform(0.8, 1.2), *ups]


def one_sided() -> list[Law]:
    """Factors that only grow, or only shrink."""
    return [uniform(1.0, 1.1), uniform(1 / 1.1, 1.0)]


@shared
def teleported(case: Case, laws, moments=(0, 50)) -> list[tuple[Start, Law, Tensor, Tensor]]:
    """For networks before and in the middle of learning: every combination of factors, its chance, its |gradient|."""
    found = []
    for start in [s for steps in moments for s in starts(case, activation=F.leaky_relu, steps=steps)]:
        units = int(start.hidden.sum())
        norms = vmap(lambda z, s=start: slope_after(s, z).norm())
        for law in laws():
            values, chances = (torch.tensor(part, dtype=torch.float64) for part in (law.values, law.chances))
            z = torch.cartesian_prod(*[values.log()] * units)
            found.append((start, law, torch.cartesian_prod(*[chances] * units).prod(1), norms(z)))
    return found


def mean_square(start: Start, law: Law) -> Tensor:
    """Closed form: a gradient from j into i is multiplied by a_j / a_i, and the factors are independent."""
    source = torch.where(start.hidden, law.square, 1.0)
    target = torch.where(start.hidden, law.inverse, 1.0)
    return (start.slope.square() * source * target[:, None]).sum()


@claim("E-teleport", control={"laws": one_sided})
def random_rescalings_boost_gradients(case, laws=teleportation):
    """Random rescalings enlarge the gradient on average, before and during learning.  E section 3.4"""
    runs = lambda: teleported(case, laws)
    return together(
        square=equal(
            lambda: [chances @ norms.square() for _, _, chances, norms in runs()],
            lambda: [mean_square(start, law) for start, law, *_ in runs()],
            1e-6, "Gauss's rule of four points for 1/a^2 on an interval of half width 1/5"
        ),
        magnitude=at_most(
            lambda: [start.slope.norm() for start, *_ in runs()],
            lambda: [chances @ norms for *_, chances, norms in runs()], 1e-9, "rounding of a thousand terms"
        ),
    )  # fmt: skip


# Scale and speed


@shared
def regression(case: Case, count: int = 60, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets that no weights fit, and a direction."""
    draw = case.generator("regression")
    normal = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)
    direction = normal(width)
    return normal(count, width), normal(count), direction / direction.norm()


def batch_normalized(fields: Tensor) -> Tensor:
    """One unit's inputs over the batch, with mean zero and variance one."""
    return (fields - fields.mean()) / fields.std(correction=0)


def not_normalized(fields: Tensor) -> Tensor:
    return fields


SCALES = (0.1, 1.0, 10.0, 100.0)


def turns(case: Case, layer, rate: float = 1.0) -> Tensor:
    """Tangent of the angle by which one step of descent turns weights of each scale, by automatic derivatives."""
    X, Y, u = regression(case)
    error = lambda w: (layer(X @ w) - Y).square().mean()
    moved = [scale * u - rate * grad(error)(scale * u) for scale in SCALES]
    return torch.stack([(w - u * (u @ w)).norm() / (u @ w) for w in moved])


def turns_by_law(case: Case, rate: float = 1.0) -> Tensor:
    """The effective rate, rate / |w|^2, times the gradient on the unit sphere, written out."""
    X, Y, u = regression(case)
    X = X - X.mean(0)
    fields, spread = X @ u, (X @ u).square().mean().sqrt()
    rest = fields / spread - Y
    gradient = 2 * (rest @ X / spread - (rest @ fields) * (fields @ X) / (len(X) * spread**3)) / len(X)
    return rate * gradient.norm() / torch.tensor(SCALES, dtype=torch.float64).square()


def noisy(X: Tensor, Y: Tensor, u: Tensor) -> Tensor:
    return Y


def fitted(X: Tensor, Y: Tensor, u: Tensor) -> Tensor:
    """Targets that weights of one direction fit without error."""
    return X @ u


RUNS, STEPS, RATE = 32, 2000, 0.5


def walk(w: Tensor, gradient: Callable[[Tensor], Tensor], decay: float, steps: int, rate: float = RATE) -> Tensor:
    """Effective rates, rate / |w|^2, of descent on scale-invariant weights, given their gradient on the unit sphere.

    Rows of w are runs; the gradient's part along w does not count, and its size falls like 1 / |w|.
    """
    rates = []
    for _ in range(steps):
        size = w.norm(dim=1, keepdim=True)
        unit, push = w / size, gradient(w / size)
        w = (1 - rate * decay) * w - rate * (push - unit * (push * unit).sum(1, keepdim=True)) / size
        rates.append(rate / w.square().sum(1))
    return torch.stack(rates)


@shared
def learning(case: Case, decay: float = 0.0, targets=noisy, steps: int = STEPS) -> Tensor:
    """Effective rates of SGD, one sample a step, on a normalised linear regression: steps by runs."""
    (X, Y, u), draw = regression(case), case.generator("samples")
    Y = targets(X, Y, u)
    w = 3 * torch.randn(RUNS, len(u), generator=draw, dtype=X.dtype)

    def gradient(unit: Tensor) -> Tensor:
        rows = torch.randint(len(X), (RUNS,), generator=draw)
        return 2 * ((X[rows] * unit).sum(1) - Y[rows])[:, None] * X[rows]

    return walk(w, gradient, decay, steps)


@shared
def least_noise(case: Case, begins: int = 10) -> float:
    """The least root mean square, over samples, of the gradient on the unit sphere: positive if no weights fit all."""
    (X, Y, _), draw = regression(case), case.generator("noise")

    def value(v: Tensor) -> Tensor:
        fields = X @ (v / v.norm())
        return (4 * (fields - Y).square() * (X.square().sum(1) - fields.square())).mean()

    of_numpy = lambda function: lambda x: function(torch.from_numpy(x)).numpy()
    v = torch.randn(begins, X.shape[1], generator=draw, dtype=X.dtype).numpy()
    return min(minimize(of_numpy(value), x, jac=of_numpy(grad(value))).fun for x in v) ** 0.5


TIMES = (10, 30, 100, 300, 1000, 2000)  # steps at which rates are compared


@claim("E-vanlaarhoven", control=[{"layer": not_normalized}, {"decay": -0.01}, {"without": 0.04}])
def scale_sets_the_effective_rate(case, layer=batch_normalized, decay=0.04, without=0.0):
    """Smaller scale-invariant weights learn faster; decay keeps them small, without it the rate goes to zero."""
    at = lambda strength, times: learning(case, strength).mean(1)[torch.tensor(times) - 1]
    late = torch.tensor(TIMES[2:], dtype=torch.float64)
    return together(
        turn=equal(
            lambda: turns(case, layer),
            lambda: turns_by_law(case),
            bound=1e-10,
            reason="rounding; scales from 0.1 to 100",
            each=True,
        ),
        decay=at_most(
            lambda: at(without, TIMES),
            lambda: at(decay, TIMES),
            bound=1e-3,
            reason="means over 32 runs on the same samples",
        ),
        growth=at_most(
            lambda: at(without, TIMES[2:]),
            lambda: 1 / (least_noise(case) * (2 * late).sqrt()),
            bound=0.02,
            reason="means over 32 runs, after a hundred steps or more",
        ),
    )


@claim("O-interpolation-settles", control={"targets": noisy})
def weights_settle_where_all_samples_fit(case, targets=fitted):
    """Where weights of some direction fit every sample, SGD without decay stops growing them: the rate settles."""
    rates = lambda times: learning(case, 0.0, targets, 4 * STEPS)[int(times * STEPS) - 1]
    return limit(lambda reach: rates(2 * reach) / rates(reach), lambda: torch.ones(RUNS),
                 1e-3, "errors that fall by powers of e in a few hundred steps")  # fmt: skip


@shared
def pure_noise(case: Case, rate: float, decay: float = 0.0, width: int = 50) -> Tensor:
    """Effective rates of weights whose gradient is nothing but noise, with the same spread in every direction."""
    draw = case.generator("isotropic")
    w = torch.randn(RUNS, width, generator=draw, dtype=torch.float64) / 5
    return walk(w, lambda unit: torch.randn(unit.shape, generator=draw, dtype=unit.dtype), decay, 2 * STEPS, rate)


@claim("O-effective-rate", control={"decay": 0.01})
def rate_forgets_the_learning_rate(case, decay=0.0, width=50, rates=(0.1, 1.0)):
    """Under noise of size c on the sphere the effective rate is 1 / (c sqrt(2 t)), whatever the learning rate."""
    after = lambda steps, rate: pure_noise(case, rate, decay, width)[steps - 1].mean() * math.sqrt(2 * steps)
    return limit(lambda reach: [after(int(reach * STEPS), rate) for rate in rates],
                 lambda: [(width - 1) ** -0.5] * len(rates), 5e-3, "the start, and sums of 64,000 squares")  # fmt: skip


# Speed of unbalanced networks

DIGITS, LOW, MOST, EVERY, SEEDS = 60, 0.2, 300, 4, 16  # samples, loss to be reached, most steps, looks, networks a cell
RATES = tuple(2.0**k for k in range(-6, 1))  # learning rates, of which each start takes its best
ARCHITECTURES = ((16,), (32,), (16, 16))  # hidden layers between 64 pixels and 10 classes
DEGREES = (1.0, 100.0, 1000.0, 10000.0)  # s: hidden unit i is rescaled by s^u, u uniform in [-1, 1]


def outputs(W: Sequence[Tensor], X: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of a stack of layered ReLU networks, and the share of hidden units that are inactive on all samples."""
    idle = []
    for V in W[:-1]:
        X = torch.relu(X @ V.mT)
        idle.append((X == 0).all(-2))
    return X @ W[-1].mT, torch.cat(idle, -1).float().mean(-1)


class Race(NamedTuple):
    """For each start: steps until the loss is low at the rate that gets there first, share of idle units then, rate."""

    steps: Tensor
    idle: Tensor
    rates: Tensor


def race(W: list[Tensor], X: Tensor, Y: Tensor, rates: Tensor, draw: Generator, *, most: int, batch: int) -> Race:
    """Descent on cross-entropy from each start at each of its rates, until one of them is low or the limit is reached.

    Args:
        W: Layers of weights, a stack of starts each.
        X, Y: Samples and labels of each start.
        rates: Starts by rates.
        batch: Samples a step, drawn anew; all of them without drawing if there are no more.
    """
    count, kinds = rates.shape
    found = Race(torch.full((count,), most), torch.ones(count), torch.zeros(count))
    start, rates = torch.arange(count).repeat_interleave(kinds), rates.flatten()
    W, X, Y = [V.repeat_interleave(kinds, 0) for V in W], X.repeat_interleave(kinds, 0), Y.repeat_interleave(kinds, 0)
    for t in range(most + 1):
        if t % EVERY == 0:
            out, idle = outputs(W, X)
            loss = F.cross_entropy(out.mT, Y, reduction="none").mean(1).nan_to_num(torch.inf)
            for k in start.unique().tolist() if t == most else start[loss < LOW].unique().tolist():
                best = torch.where(start == k, loss, torch.inf).argmin()
                found.steps[k], found.idle[k], found.rates[k] = t, idle[best], rates[best]
            keep = (found.steps[start] == most) & loss.isfinite()
            if t == most or not keep.any():
                break
            W, X, Y, start, rates = [V[keep] for V in W], X[keep], Y[keep], start[keep], rates[keep]
        rows = torch.randperm(X.shape[1], generator=draw)[:batch] if batch < X.shape[1] else slice(None)
        W = [V.requires_grad_() for V in W]
        loss = F.cross_entropy(outputs(W, X[:, rows])[0].mT, Y[:, rows], reduction="none").mean(1).sum()
        slopes = torch.autograd.grad(loss, W)
        W = [(V - rates[:, None, None] * slope).detach() for V, slope in zip(W, slopes, strict=True)]
    return found


def sharpest(W: list[Tensor], X: Tensor, Y: Tensor, draw: Generator, rounds: int = 40) -> Tensor:
    """Largest curvature of each start's loss in all weights, by power iteration."""
    v = [torch.randn(V.shape, generator=draw, dtype=V.dtype) for V in W]
    length = lambda parts: sum(part.flatten(1).square().sum(1) for part in parts).sqrt()[:, None, None]
    for _ in range(rounds):
        v = [part / length(v) for part in v]
        W = [V.detach().requires_grad_() for V in W]
        loss = F.cross_entropy(outputs(W, X)[0].mT, Y, reduction="none").mean(1).sum()
        slopes = torch.autograd.grad(loss, W, create_graph=True)
        v = list(torch.autograd.grad(sum((part * slope).sum() for part, slope in zip(v, slopes, strict=True)), W))
    return length(v)[:, 0, 0]


@shared
def unbalanced(case: Case, hidden: tuple[int, ...]) -> tuple[list[Tensor], Tensor, Tensor]:
    """Networks that compute one function for each seed: unbalanced to every degree, and last balanced; with digits."""
    data, widths, nets, chosen = flatten(digits()), (64, *hidden, 10), [], []
    for number in range(SEEDS):
        draw = case.generator(f"network {number}")
        W = layered_weights(widths, draw)
        problem = RescalingProblem.layered(W, p=2, q=2)
        u = scatter(2 * torch.rand(sum(hidden), generator=draw, dtype=torch.float64) - 1, problem.hidden)
        balance = minimum_norm(problem, tolerance=1e-13).log_factors
        nets += [problem.rescaled(W, z) for z in (*(math.log(s) * u for s in DEGREES), balance)]
        chosen += [torch.randperm(len(data.inputs), generator=draw)[:DIGITS]] * (len(DEGREES) + 1)
    rows = torch.stack(chosen)
    return (
        [torch.stack(layer).float() for layer in zip(*nets, strict=True)],
        data.inputs[rows].float(),
        data.labels[rows],
    )


def best_of_a_grid(case: Case, W: list[Tensor], X: Tensor, Y: Tensor) -> dict:
    """SGD with a third of the samples a step, at the best of seven rates."""
    return {"rates": torch.tensor(RATES).expand(len(X), -1), "batch": DIGITS // 3}


def half_of_the_largest_stable(case: Case, W: list[Tensor], X: Tensor, Y: Tensor) -> dict:
    """Descent on all samples at the rate 1 / (largest curvature at the start), half of what is stable there."""
    return {"rates": 1 / sharpest(W, X, Y, case.generator("power"))[:, None], "batch": DIGITS}


RULES = (best_of_a_grid, half_of_the_largest_stable)


@shared
def races(case: Case, hidden: tuple[int, ...], rule, most: int = MOST) -> Race:
    """Every start of one architecture under one rule: seeds by degrees, the last column is balanced."""
    W, X, Y = unbalanced(case, hidden)
    found = race(W, X, Y, draw=case.generator("batches"), most=most, **rule(case, W, X, Y))
    return Race(*(values.reshape(SEEDS, len(DEGREES) + 1) for values in found))


def columns(degrees: Sequence[float]) -> list[int]:
    return [DEGREES.index(s) for s in degrees]


@claim("E-unbalanced-slow", control={"degrees": (1.0,)}, untrained={"most": 0}, longer={"most": 2 * MOST})
def unbalanced_networks_learn_slowly(case, degrees=(1e3, 1e4), most=MOST):
    """The same function, highly unbalanced, takes half as many steps again or more to learn.  E section 3.2"""

    def slowdowns() -> list[Tensor]:
        runs = [races(case, hidden, rule, most).steps + 1.0 for hidden in ARCHITECTURES for rule in RULES]
        return [(steps[:, k] / steps[:, -1]).log() for steps in runs for k in columns(degrees)]

    why = "cells: three architectures, two rules for the rate, factors up to $10^3$ and $10^4$ either way; 16 seeds"
    return tendency(slowdowns, least=math.log(1.5), reason=f"{why}; until the loss is {LOW} or {MOST} steps")


def slower(case: Case, hidden: tuple[int, ...], degree: float = 1e3) -> float:
    """How many times as many steps SGD takes from the unbalanced start, at the best rate: geometric mean over seeds."""
    steps = races(case, hidden, best_of_a_grid).steps + 1.0
    return (steps[:, DEGREES.index(degree)] / steps[:, -1]).log().mean().exp().item()


def beyond_stability(case: Case, hidden: tuple[int, ...], degree: float = 1e3) -> float:
    """The best rate over the limit of stability at the start, 2 / (largest curvature): median over seeds."""
    best = races(case, hidden, best_of_a_grid).rates[:, DEGREES.index(degree)]
    which = slice(DEGREES.index(degree), None, len(DEGREES) + 1)
    W, X, Y = unbalanced(case, hidden)
    return (best * sharpest([V[which] for V in W], X[which], Y[which], case.generator("power")) / 2).median().item()


@claim("O-unbalanced-idle", control={"degrees": (1.0,)}, untrained={"most": 0}, longer={"most": 2 * MOST})
def fast_rates_silence_units(case, degrees=(1e3, 1e4), most=MOST):
    """At the best rate an unbalanced network ends with more units inactive on all samples than the balanced one."""

    def lost() -> list[Tensor]:
        runs = [races(case, hidden, best_of_a_grid, most).idle for hidden in ARCHITECTURES]
        return [idle[:, k] - idle[:, -1] for idle in runs for k in columns(degrees)]

    why = "cells: three architectures, factors up to $10^3$ and $10^4$ either way; 16 seeds; at the best of seven rates"
    return tendency(lost, reason=f"{why}, until the loss is {LOW} or {MOST} steps")


def curvatures(s: float, other: float) -> Tensor:
    """The two curvatures that are not zero where two units fit a target each; the units are rescaled by s and other."""
    loss = lambda v: ((v[0] * v[1] - 1) ** 2 + (v[2] * v[3] - 1) ** 2) / 2
    point = torch.tensor([s, 1 / s, other, 1 / other], dtype=torch.float64)
    return torch.linalg.eigvalsh(hessian(loss)(point))[-2:]


@claim("O-two-units", control={"together": True})
def imbalance_between_units_is_ill_conditioned(case, together=False, degrees=(3.0, 10.0, 30.0, 100.0)):
    """At a solution with one of two units rescaled by s, what is learnt has the condition number (s^2 + s^-2) / 2."""
    pairs = lambda: [curvatures(s, s if together else 1.0) for s in degrees]
    return equal(lambda: [large / small for small, large in pairs()], lambda: [(s**2 + s**-2) / 2 for s in degrees],
                 1e-10, "rounding of eigenvalues up to 10^4 beside 2")  # fmt: skip


# Gauge fixing between the steps of SGD

GAUGES = ("2, 2", "1, 1", "2, 1")  # p, q of the norm that is made least
TUNED, SMALL = (0.1, 0.2, 0.4, 0.8), 0.0125  # rates among which a method is tuned, and one far below the best
PAIRS, TRAINED, CHOSEN = 12, 100, 300  # networks a method; digits to learn from, and to choose the rate by


def balanced(W: list[Tensor], p: float, q: float, passes: int = 3) -> list[Tensor]:
    """Three sweeps of updates over the layers of a stack of networks, with the largest exponent that is safe."""
    for _ in range(passes):
        for l in range(len(W) - 1):
            rows, after = (V.abs().pow(p).sum(2) for V in W[l : l + 2])
            leaves = (after.pow(q / p - 1)[:, :, None] * W[l + 1].abs().pow(p)).sum(1)
            a = (leaves / rows.pow(q / p)).clamp(1e-6, 1e6).pow(1 / max(p, 2 * q))
            W = [*W[:l], W[l] * a[:, :, None], W[l + 1] / a[:, None, :], *W[l + 2 :]]
    return W


def gauged(W: list[Tensor], gauge: str, draw: Generator) -> list[Tensor]:
    """The same functions in another gauge: of least norm for ``p, q``, or half a power of e off at random."""
    if gauge == "none":
        return W
    if gauge != "random":
        return balanced(W, *map(float, gauge.split(",")))
    W = balanced(W, 2, 2)
    for l in range(len(W) - 1):
        a = (0.5 * torch.randn(W[l].shape[:2], generator=draw)).exp()
        W = [*W[:l], W[l] * a[:, :, None], W[l + 1] / a[:, None, :], *W[l + 2 :]]
    return W


@shared
def interleaved(case: Case, gauge: str, steps: int = 300) -> tuple[Tensor, Tensor]:
    """Accuracies in per cent, for choosing the rate and for testing: rates by networks, the small rate first.

    SGD on a hundred digits, 20 a step, with a change of gauge after every fifth; all gauges see the same batches.
    """
    data, draws = flatten(digits()), [case.generator(f"run {k}") for k in range(PAIRS)]
    nets = [layered_weights((64, 32, 32, 10), draw, dtype=torch.float32) for draw in draws]
    order = torch.stack([torch.randperm(len(data.inputs), generator=draw) for draw in draws])
    X, Y, each = data.inputs[order].float(), data.labels[order], torch.arange(PAIRS).repeat(len(TUNED) + 1)
    rates = torch.tensor([SMALL, *TUNED]).repeat_interleave(PAIRS)[:, None, None]
    W, turn = [torch.stack(layer)[each] for layer in zip(*nets, strict=True)], case.generator("gauge")
    for t in range(steps):
        rows = torch.stack([torch.randperm(TRAINED, generator=draw)[:20] for draw in draws])[each]
        W = [V.requires_grad_() for V in W]
        out, _ = outputs(W, X[each[:, None], rows])
        loss = F.cross_entropy(out.mT, Y[each[:, None], rows], reduction="none").mean(1).sum()
        W = [(V - rates * slope).detach() for V, slope in zip(W, torch.autograd.grad(loss, W), strict=True)]
        W = gauged(W, gauge, turn) if t % 5 == 0 else W
    stacks = [V.unflatten(0, (-1, PAIRS)) for V in W]
    right = 100 * (outputs(stacks, X)[0].argmax(-1) == Y).float()
    return right[..., TRAINED : TRAINED + CHOSEN].mean(-1), right[..., TRAINED + CHOSEN :].mean(-1)


def tuned(case: Case, gauge: str, steps: int = 300) -> Tensor:
    """Test accuracy at the rate that is best, over networks, on the digits for choosing."""
    chosen, test = interleaved(case, gauge, steps)
    return test[1 + chosen[1:].mean(1).argmax()]


def gain(case: Case, gauge: str, rate: float | None, steps: int = 300) -> Tensor:
    """Points of test accuracy by which a gauge is ahead of SGD alone, at one rate for both, or each at its best."""
    if rate is None:
        return tuned(case, gauge, steps) - tuned(case, "none", steps)
    ahead = interleaved(case, gauge, steps)[1] - interleaved(case, "none", steps)[1]
    return ahead[(SMALL, *TUNED).index(rate)]


@claim("E-enorm-generalization", control={"rate": 0.4})
def gauge_fixing_generalizes_better(case, rate=None):
    """SGD with gauge fixing between its steps was reported to generalise better.  E section 3.4"""

    def effect() -> list[Tensor]:
        raise Unfinished(
            "the report is about networks and images that are not run here; a hundred digits do not decide it"
        )

    return tendency(effect, reason="cells: three pairs p, q")


@claim("O-gauge-rate", control={"rate": 0.4}, untrained={"steps": 0}, longer={"steps": 600})
def any_gauge_helps_a_small_rate(case, rate=SMALL, steps=300):
    """Far below the best rate gauge fixing raises accuracy, and so does a random gauge; at best rates less is left."""
    gauges = (*GAUGES, "random")
    why = "cells: three pairs p, q and the random gauge; 12 networks, 300 steps, the rate 1/80 or each method's best"
    return together(
        small=tendency(lambda: [gain(case, gauge, rate, steps) for gauge in gauges], reason=why),
        less=tendency(lambda: [gain(case, g, rate, steps) - gain(case, g, None, steps) for g in gauges], reason=why),
    )
