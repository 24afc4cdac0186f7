"""What decides the claims of section 2 of paper A and of its appendix: conventions, assumptions and definitions."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy.integrate import quad
from torch import Tensor
from torch.func import jvp
from torch.nn import functional

from claimbook.evidence import Case, at_most, claim, counterexample, equal, limit, shared, together
from companion.unified_balancing.balancedness import FLOW, flow, hermitian
from companion.unified_balancing.common import Task, chains, identity, listed, named, normal
from normdyn.motion.flows import Params, gradient, gradient_flow, integrate
from normdyn.motion.sliding import slide
from normdyn.networks.chains import Signals, chain, signals
from normdyn.networks.chains import homogeneous_activation as power
from normdyn.networks.losses import square_loss
from normdyn.norms.laws import bias_grades, gramian_balance, operator_matrix, order_products

DECAY = 0.3
TIMES = torch.tensor([0.0, 0.5, 1.0, 2.0], dtype=torch.float64)
ROUNDING = "rounding of sums of a few dozen products"


# Which weight decay, and one for all layers


@shared
def decays(case: Case, literal: bool, junction: Callable) -> list[dict]:
    """Flows of a tanh, an activation and the balance between the two layers around it."""
    found = []
    for task in chains(case, "decays", (4, 6, 5, 3)):
        loss = lambda p, s=task: square_loss(chain(listed(p), s.X, [torch.tanh, junction]), s.Y)
        record = {"B": lambda p: gramian_balance(p["W2"], p["W3"])}
        found.append(integrate(flow(loss, DECAY, literal), named(task.weights), TIMES, record=record))
    return found


class Growth(NamedTuple):
    """Rates of the squared norms of all layers along a flow, and what Theorem 2 makes them of."""

    rates: Tensor
    squares: Tensor
    products: Tensor  # of orders
    pairing: Tensor  # of the output with the gradient of the loss in it


ORDERS = (2.0, 0.5)


@shared
def growths(case: Case, literal: bool) -> list[Growth]:
    """At random networks with activations of orders 2 and 1/2."""
    found, activations = [], [power(k) for k in ORDERS]
    for task in chains(case, "growths", (4, 6, 5, 3)):
        loss = lambda p, s=task: square_loss(chain(listed(p), s.X, activations), s.Y)
        squares = lambda p: torch.stack([W.square().sum() for W in p.values()])
        params = named(task.weights)
        rates = jvp(squares, (params,), (flow(loss, DECAY, literal)(params),))[1]
        s = signals(lambda f, Y=task.Y: square_loss(f, Y), task.weights, task.X, activations)
        K = torch.tensor(order_products(ORDERS), dtype=torch.float64)
        found.append(Growth(rates, squares(params), K, (s.output * s.output_gradient).sum()))
    return found


@claim("A-eq2-wd-convention", printed={"literal": True}, control=[{"junction": torch.tanh}, {"whole": False}])
def drift_of_weight_decay(case, literal=False, junction=identity, whole=True):
    """All rates of the paper are those of the drift -delta theta, the gradient of half the squared norm.

    With |theta|^2 as it is printed the balance decays as exp(-4 delta t), and the last term of Theorem 2 doubles; with
    half of it they do not.  A (2)
    """
    shrinking = lambda run, rate: torch.exp(-rate * DECAY * TIMES)[:, None, None] * run["B"][0]
    return together(
        balance=equal(
            measured=lambda: [run["B"] for run in decays(case, literal, junction)],
            predicted=lambda: [shrinking(run, 2) for run in decays(case, literal, junction)],
            bound=1e-11, reason=FLOW,
        ),
        norms=equal(
            measured=lambda: [s.rates for s in growths(case, literal)],
            predicted=lambda: [-2 * s.products * s.pairing - 2 * DECAY * s.squares for s in growths(case, literal)],
            bound=1e-12, reason=ROUNDING,
        ),
        as_printed=equal(
            measured=lambda: [run["B"] for run in decays(case, whole, junction)],
            predicted=lambda: [shrinking(run, 4) for run in decays(case, whole, junction)],
            bound=1e-11, reason=FLOW,
        ),
        norms_as_printed=equal(
            measured=lambda: [s.rates for s in growths(case, whole)],
            predicted=lambda: [-2 * s.products * s.pairing - 4 * DECAY * s.squares for s in growths(case, True)],
            bound=1e-12, reason=ROUNDING,
        ),
    )  # fmt: skip


def of_first(one: float, other: float) -> tuple[float, float]:
    return one, one


def own(one: float, other: float) -> tuple[float, float]:
    return one, other


@shared
def balanced_pairs(case: Case, role: str = "balanced", size: int = 4, count: int = 3) -> list[Task]:
    """Two layers with equal Gramians at their junction, and data."""
    found, draw = [], case.generator(role)
    random = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)
    s = torch.linspace(0.5, 1.5, size, dtype=torch.float64)
    for _ in range(count):
        U, V = (torch.linalg.qr(random(size, size))[0] for _ in range(2))
        found.append(Task([s[:, None] * V, U * s], random(12, size), random(12, size)))
    return found


def linear_loss(task: Task) -> Callable[[Params], Tensor]:
    return lambda p: square_loss(chain(listed(p), task.X, [identity]), task.Y)


def balance_rate(field: Callable, task: Task) -> Tensor:
    """Of the balance of two layers along a field."""
    params = named(task.weights)
    return jvp(lambda p: gramian_balance(p["W1"], p["W2"]), (params,), (field(params),))[1]


@claim("O-unequal-decay", control={"seen": of_first})
def unequal_decay_unbalances(case, seen=own):
    """With a decay for each layer, dB/dt = -2 kappa T T* + 2 kappa' T'* T': not zero where B is.  Beside A (2)"""
    layers = (0.2, 0.6)

    def field(task: Task) -> Callable:
        plain = gradient_flow(linear_loss(task))
        return lambda p: {k: v - d * p[k] for (k, v), d in zip(plain(p).items(), layers, strict=True)}

    def law(task: Task) -> Tensor:
        (W, V), (first, second) = task.weights, seen(*layers)
        return -2 * first * W @ W.mT + 2 * second * V.mT @ V

    return equal(
        measured=lambda: [balance_rate(field(task), task) for task in balanced_pairs(case)],
        predicted=lambda: [law(task) for task in balanced_pairs(case)],
        scale=lambda: [1.5**2 for _ in balanced_pairs(case)],
        bound=1e-12, reason="rounding, in units of the largest squared singular value",
    )  # fmt: skip


# Losses that change


@shared
def rotating(case: Case, lag: float) -> list[dict]:
    """Flows while the inputs rotate; the second layer sees them with a lag. Carries what Theorem 2 says of norms."""
    found, activations = [], [power(2), identity]
    for task in chains(case, "rotating", (4, 6, 5, 3), samples=24, count=2):
        at = lambda t, X=task.X: torch.cos(2 * t) * X[:12] + torch.sin(2 * t) * X[12:]
        Y = task.Y[:12]

        def field(p: Params, at=at, Y=Y) -> Params:
            W = {name: p[name] for name in ("W1", "W2", "W3")}
            loss = lambda q, t: square_loss(chain(listed(q), at(t), activations), Y)
            slope = lambda t: gradient(lambda q: loss(q, t))(W)
            now = slope(p["t"])
            late = slope(p["t"] - lag) if lag else now
            v = {k: -g - DECAY * W[k] for k, g in now.items()} | {"W2": -late["W2"] - DECAY * W["W2"]}
            f = chain(listed(W), at(p["t"]), activations)
            drive = -2 * torch.tensor([2.0, 1, 1], dtype=torch.float64) * (f * (f - Y)).sum() / len(Y)
            return v | {"squares": drive - 2 * DECAY * p["squares"], "t": torch.ones_like(p["t"])}

        squares = torch.stack([W.square().sum() for W in task.weights])
        start = named(task.weights) | {"squares": squares, "t": torch.zeros((), dtype=torch.float64)}
        record = {
            "B": lambda p: gramian_balance(p["W2"], p["W3"]),
            "norms": lambda p: torch.stack([p[f"W{l}"].square().sum() for l in (1, 2, 3)]),
            "carried": lambda p: p["squares"],
        }
        found.append(integrate(field, start, [0.0, 1.0], record=record))
    return found


@shared
def jumping(case: Case, late: bool) -> list[Tensor]:
    """The balance at start and end of five stretches of time, each with its own batch; late: one layer one behind."""
    found = []
    for task in chains(case, "jumping", (4, 6, 5, 3), samples=20, count=2):
        params, batches = named(task.weights), torch.arange(20).split(4)
        start = gramian_balance(params["W2"], params["W3"])
        for k, rows in enumerate(batches):
            at = lambda p, r, s=task: square_loss(chain(listed(p), s.X[r], [torch.tanh, identity]), s.Y[r])
            now = gradient_flow(lambda p, r=rows, at=at: at(p, r), weight_decay=DECAY)
            old = gradient_flow(lambda p, r=batches[k - late], at=at: at(p, r), weight_decay=DECAY)
            field = (lambda p, now=now, old=old: now(p) | {"W2": old(p)["W2"]}) if late else now
            path = integrate(field, params, [0.0, 0.2])
            params = {name: W[-1] for name, W in path.items() if name != "times"}
        found.append(torch.stack([start, gramian_balance(params["W2"], params["W3"])]))
    return found


@claim("A-note-timedep", control={"lag": 0.5})
def loss_may_change(case, lag=0.0):
    """Both theorems remain true while the loss changes, if all layers move by the loss of the moment.  A section 2"""
    shrunk = torch.exp(torch.tensor(-2 * DECAY, dtype=torch.float64))
    return together(
        rotating=equal(
            measured=lambda: [run["B"][1] for run in rotating(case, lag)],
            predicted=lambda: [shrunk * run["B"][0] for run in rotating(case, lag)],
            bound=1e-11, reason=FLOW,
        ),
        jumping=equal(
            measured=lambda: [B[1] for B in jumping(case, lag > 0)],
            predicted=lambda: [shrunk * B[0] for B in jumping(case, lag > 0)],
            bound=1e-11, reason=FLOW,
        ),
        norms=equal(
            measured=lambda: [run["norms"][1] for run in rotating(case, lag)],
            predicted=lambda: [run["carried"][1] for run in rotating(case, lag)],
            bound=1e-11, reason=FLOW,
        ),
    )  # fmt: skip


# Penalties that differ


def schatten(W: Tensor) -> Tensor:
    """A quarter of the sum of fourth powers of singular values."""
    return (W @ W.mT).square().sum() / 4


def nuclear(W: Tensor) -> Tensor:
    """The sum of singular values."""
    return torch.linalg.svdvals(W).sum()


def fourth_powers(W: Tensor) -> Tensor:
    return W.pow(4).sum() / 4


def absolute_values(W: Tensor) -> Tensor:
    return W.abs().sum()


DEGREES = {schatten: 4, nuclear: 1, fourth_powers: 4, absolute_values: 1}
SPECTRAL, ENTRYWISE = (schatten, nuclear), (fourth_powers, absolute_values)
G: dict[Callable, Callable] = {schatten: lambda x: x**2 / 2, nuclear: lambda x: x.clamp_min(0).sqrt() / 2}  # x h'(x)


def degree(penalty: Callable) -> int:
    return DEGREES[penalty]


def degree_of_squares(penalty: Callable) -> int:
    return 2


def penalised(task: Task, penalty: Callable) -> Callable:
    """Gradient flow of a linear network whose layers are penalised."""
    loss = linear_loss(task)
    return gradient_flow(lambda p: loss(p) + DECAY * sum(penalty(W) for W in p.values()))


@shared
def penalised_rates(case: Case) -> list[dict]:
    """For each penalty: the rate of the first layer's squared norm, of the penalty's share in it, and the rest."""
    found = []
    for penalty in DEGREES:
        for task in balanced_pairs(case, "penalised"):
            params, loss = named(task.weights), linear_loss(task)
            square = lambda p: p["W1"].square().sum()
            rate = jvp(square, (params,), (penalised(task, penalty)(params),))[1]
            f = chain(task.weights, task.X, [identity])
            pairing = (f * gradient(lambda p, s=task: square_loss(p["f"], s.Y))({"f": f})["f"]).sum()
            found.append(
                {"rate": rate, "pairing": pairing, "penalty": penalty, "size": penalty(params["W1"]), "of": loss}
            )
    return found


@shared
def unbalanced_by(case: Case, penalties: tuple[Callable, ...]) -> list[Tensor]:
    """Rates at which penalties take balanced pairs out of balance."""
    return [balance_rate(penalised(s, r), s) for r in penalties for s in balanced_pairs(case, "penalised")]


def of_matrix(function: Callable, M: Tensor) -> Tensor:
    """A function of a symmetric matrix."""
    values, vectors = torch.linalg.eigh(M)
    return vectors * function(values) @ vectors.mT


def of_entries(function: Callable, M: Tensor) -> Tensor:
    return function(M)


@shared
def spectral_rates(case: Case) -> list[Tensor]:
    """Rates of the balance under spectral penalties, from layers out of balance."""
    return [balance_rate(penalised(s, r), s) for r in SPECTRAL for s in chains(case, "uneven", (5, 4, 5))]


@shared
def spectral_law(case: Case, apply: Callable) -> list[Tensor]:
    """What they should be: -4 delta [g(T T*) - g(T'* T')], with g by :data:`G` for each penalty."""
    g = lambda r, W, V: apply(G[r], W @ W.mT) - apply(G[r], V.mT @ V)
    return [-4 * DECAY * g(r, *s.weights) for r in SPECTRAL for s in chains(case, "uneven", (5, 4, 5))]


@claim("A-note-regularizers", control=[{"penalties": ENTRYWISE}, {"order": degree_of_squares}, {"apply": of_entries}])
def other_regularisers(case, penalties=SPECTRAL, order=degree, apply=of_matrix):
    """Some other regularisers have analogous laws: of norms, all that are homogeneous; of balance, spectral ones.

    Their share in d|T|^2/dt is -2 delta times degree times penalty; a balanced pair stays balanced, and of one that is
    not the Gramians move as if each were penalised for itself.  A section 2
    """
    return together(
        norms=equal(
            measured=lambda: [s["rate"] for s in penalised_rates(case)],
            predicted=lambda: [
                -2 * s["pairing"] - 2 * DECAY * order(s["penalty"]) * s["size"] for s in penalised_rates(case)
            ],
            scale=lambda: [abs(s["pairing"]) + s["size"] for s in penalised_rates(case)],
            bound=1e-12, reason=ROUNDING,
        ),
        balance=equal(
            measured=lambda: unbalanced_by(case, penalties),
            predicted=lambda: [torch.zeros_like(B) for B in unbalanced_by(case, penalties)],
            scale=lambda: [1.5**2 for _ in unbalanced_by(case, penalties)],
            bound=1e-11, reason="rounding of singular vectors, in units of the largest squared singular value",
        ),
        unbalanced=equal(
            measured=lambda: spectral_rates(case),
            predicted=lambda: spectral_law(case, apply),
            bound=1e-11, reason="rounding of eigenvectors",
        ),
    )  # fmt: skip


@shared
def sizes_under(case: Case, penalty: Callable) -> list[Tensor]:
    """The norm of the balance over time under a penalty, from pairs of which the first layer is 2 % too large."""
    found = []
    for task in balanced_pairs(case, "spectral"):
        uneven = task._replace(weights=[1.02 * task.weights[0], task.weights[1]])
        record = {"B": lambda p: gramian_balance(p["W1"], p["W2"])}
        times = [0.0, 0.1, 0.2, 0.3]
        path = integrate(penalised(uneven, penalty), named(uneven.weights), times, record=record, relative=1e-10)
        found.append(path["B"].flatten(1).norm(dim=1))
    return found


@claim("O-spectral-penalty", control=[{"apply": of_entries}, {"penalty": fourth_powers}])
def spectral_penalties_keep_balance(case, apply=of_matrix, penalty=schatten):
    """Under the penalty tr h(T* T) of each layer dB/dt = -4 delta [g(T T*) - g(T'* T')] with g(x) = x h'(x).

    Hence B = 0 stays, and where g does not decrease the norm of B does not grow. From layers out of balance.
    """
    return together(
        rate=equal(
            measured=lambda: spectral_rates(case),
            predicted=lambda: spectral_law(case, apply),
            bound=1e-11, reason="rounding of eigenvectors",
        ),
        falls=at_most(
            left=lambda: [B[1:] for B in sizes_under(case, penalty)],
            right=lambda: [B[:-1] for B in sizes_under(case, penalty)],
            bound=1e-9, reason="integrator's tolerance of 1e-10 a step",
        ),
    )  # fmt: skip


# Kinks


class Kinked(NamedTuple):
    """One ReLU unit with weights w, v that sees two samples."""

    w: Tensor
    v: Tensor


SAMPLES = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
PULLS_APART, PULLS_ALONG = (-1.0, 2.0), (1.0, 2.0)
END = 4.0


@shared
def starts(case: Case) -> list[Kinked]:
    """Points of a small ball: the first sample below the kink, the second above it."""
    offsets = 0.05 * (2 * torch.rand(5, 3, generator=case.generator("kink"), dtype=torch.float64) - 1)
    middle = torch.tensor([-0.3, 0.9, 1.0], dtype=torch.float64)
    return [Kinked(x[:2][None], x[2:][None]) for x in middle + offsets]


def gated(targets: tuple[float, float]) -> Callable:
    """The gradient flow of the square loss with the slopes of the ReLU given."""
    y = torch.tensor(targets, dtype=torch.float64)[:, None]

    def field(p: Params, gates: Tensor) -> Params:
        z = SAMPLES @ p["w"].mT
        f = gates[:, None] * z @ p["v"].mT
        r = (f - y) / 2
        return {"w": -((r @ p["v"]) * gates[:, None]).mT @ SAMPLES, "v": -r.mT @ (gates[:, None] * z)}

    return field


def fields_of(p: Params) -> Tensor:
    return (SAMPLES @ p["w"].mT)[:, 0]


@shared
def time_at_kinks(case: Case, targets: tuple[float, float]) -> list[float]:
    """The share of the time up to 4 that the flow spends at a kink, where the unit is not differentiable."""
    found = []
    for one in starts(case):
        path = slide(gated(targets), fields_of, {"w": one.w, "v": one.v}, [0.0, END])
        stays = ((path["gates"][-1] > 0) & (path["gates"][-1] < 1)).any()
        found.append(1 - path["events"][-1].item() / END if stays else 0.0)
    return found


def arrival(one: Kinked, targets: tuple[float, float]) -> float:
    """When the first field comes to zero, by a quadrature over the second field.

    Until then only the second sample acts: v^2 less half the second field's square stays, and the first field moves
    half as fast as the second.
    """
    z1, z2 = (SAMPLES @ one.w.mT)[:, 0].tolist()
    v = lambda z: (one.v.item() ** 2 + (z**2 - z2**2) / 2) ** 0.5
    return quad(lambda z: 1 / (v(z) * (targets[1] - v(z) * z)), z2, z2 - 2 * z1, epsabs=1e-13, epsrel=1e-13)[0]


def pushes(one: Kinked, targets: tuple[float, float]) -> Tensor:
    """Rates of the first field just below and just above the kink, at the point of arrival."""
    z1, z2 = (SAMPLES @ one.w.mT)[:, 0].tolist()
    end = z2 - 2 * z1
    v = (one.v.item() ** 2 + (end**2 - z2**2) / 2) ** 0.5
    second = v * (targets[1] - v * end) / 2
    return torch.tensor([second, second + v * targets[0] / 2])


@claim("A-ass1", control={"targets": PULLS_ALONG})
def differentiable_along_the_flow(case, targets=PULLS_APART):
    """Almost always, the activations are differentiable where the flow of a ReLU network has its fields: not so.

    Two samples that pull a unit apart drive its field to the kink from both sides; from a whole ball of starts the flow
    gets there in finite time and stays.  A Assumption 1
    """
    return counterexample(
        at_most(
            left=lambda: time_at_kinks(case, targets),
            right=lambda: [0.0 for _ in starts(case)],
            scale=lambda: [1.0 for _ in starts(case)],
            bound=1e-4, reason="share of the time; events are found to 1e-11",
        ),
        exact=lambda: [1 - arrival(one, targets) / END for one in starts(case)],
        from_both_sides=at_most(
            left=lambda: [pushes(one, targets) * torch.tensor([-1.0, 1.0]) for one in starts(case)],
            right=lambda: [torch.zeros(2) for _ in starts(case)],
            scale=lambda: [torch.ones(2) for _ in starts(case)],
            bound=1e-9, reason="rounding: one rate is positive, the other negative",
        ),
    )  # fmt: skip


def absolute(z: Tensor) -> Tensor:
    return z.abs()


def shifted(z: Tensor) -> Tensor:
    """A ReLU with its kink elsewhere than at zero."""
    return torch.relu(z + 0.5) - 0.5


@shared
def at_ties(case: Case, activations: tuple[Callable, ...]) -> list[tuple[Signals, list[Tensor]]]:
    """Networks full of ties: units at the kink for every sample, equal units in a max pooling, samples at zero."""
    found = []
    for activation in activations:
        for W, X, Y in chains(case, "ties", (4, 8, 6, 3)):
            first, some = W[0].clone(), X.clone()
            first[:2], first[4], some[:3] = 0, first[5], 0
            pooled = lambda z, f=activation: functional.max_pool1d(f(z), 2).repeat_interleave(2, 1)
            weights = [first, *W[1:]]
            found.append((signals(lambda f, Y=Y: square_loss(f, Y), weights, some, [pooled, activation]), weights))
    return found


@claim("O-kinks-at-zero", control={"activations": (shifted,)})
def kinks_at_zero_do_no_harm(case, activations=(torch.relu, functional.leaky_relu, absolute)):
    """Theorem 2 holds at kinks that lie at zero, for whatever slope is taken there, if the order is positive."""
    return equal(
        measured=lambda: [
            torch.stack([(W * g).sum() for W, g in zip(weights, s.gradients, strict=True)])
            for s, weights in at_ties(case, activations)
        ],
        predicted=lambda: [(s.output * s.output_gradient).sum().expand(3) for s, _ in at_ties(case, activations)],
        bound=1e-12, reason=ROUNDING,
    )  # fmt: skip


# Biases


class Biased(NamedTuple):
    """A chain with biases in some layers, and one pass through it."""

    weights: list[Tensor]
    biases: list[Tensor]
    seen: Signals

    def drive(self) -> Tensor:
        return (self.seen.output * self.seen.output_gradient).sum()

    def pulls(self) -> Tensor:
        """Weights times gradients, layer by layer."""
        return torch.stack([(W * g).sum() for W, g in zip(self.weights, self.seen.gradients, strict=True)])

    def bias_pulls(self) -> list[Tensor]:
        return [(b * g).sum() for b, g in zip(self.biases, self.seen.bias_gradients, strict=True)]


@shared
def biased(case: Case, activations: tuple[Callable, ...], where: tuple[int, ...]) -> list[Biased]:
    """Four layers with biases in those that are named."""
    found, draw = [], case.generator("biases")
    for W, X, Y in chains(case, "biased", (4, 6, 6, 6, 3)):
        b = [torch.randn(len(V), generator=draw, dtype=torch.float64) * (l in where) for l, V in enumerate(W)]
        found.append(Biased(W, b, signals(lambda f, Y=Y: square_loss(f, Y), W, X, activations, biases=b)))
    return found


class Sides(NamedTuple):
    """What the loss adds to the Gramians on both sides of a junction, with the sign turned."""

    left: Tensor
    right: Tensor


@shared
def junctions(case: Case, where: tuple[int, ...]) -> list[list[Sides]]:
    """Of the three junctions of linear networks with biases in some layers."""
    left = lambda s, l: hermitian(s.seen.gradients[l] @ s.weights[l].mT)
    right = lambda s, l: hermitian(s.weights[l].mT @ s.seen.gradients[l])
    nets = biased(case, IDENTITIES, where)
    return [[Sides(left(s, l), right(s, l + 1)) for l in range(3)] for s in nets]


RELUS, IDENTITIES, ALL = (torch.relu,) * 3, (identity,) * 3, (0, 1, 2, 3)


@claim("A-single-control-bias", control={"where": ALL})
def no_biases(case, where=()):
    """Layers are linear operators, without biases; with biases both laws break.  A section 2"""
    return together(
        norms=equal(
            measured=lambda: [s.pulls() for s in biased(case, RELUS, where)],
            predicted=lambda: [s.drive().expand(4) for s in biased(case, RELUS, where)],
            bound=1e-12, reason=ROUNDING,
        ),
        balance=equal(
            measured=lambda: [at.left for net in junctions(case, where) for at in net],
            predicted=lambda: [at.right for net in junctions(case, where) for at in net],
            bound=1e-12, reason=ROUNDING,
        ),
    )  # fmt: skip


@shared
def violations(case: Case, layer: int) -> tuple[Tensor, Tensor]:
    """By how much a bias in one layer breaks the norm law of each layer, and the balance law above; the mildest."""
    norms = [(s.pulls() / s.drive() - 1).abs() for s in biased(case, RELUS, (layer,))]
    gap = lambda at: (at.left - at.right).abs().max() / at.right.abs().max()
    balances = [torch.stack([gap(at) for at in net]) for net in junctions(case, (layer,))]
    return torch.stack(norms).amin(0), torch.stack(balances).amin(0)


def upward(law: int, layer: int) -> bool:
    """A norm law is broken by the bias of its own layer and of those above."""
    return layer >= law


def own_layer(law: int, layer: int) -> bool:
    return layer == law


@claim("O-bias-pattern", control=[{"norm_law": own_layer}, {"balance_law": upward}])
def which_law_a_bias_breaks(case, norm_law=upward, balance_law=own_layer):
    """A bias breaks the norm laws of its layer and of all below, and the balance law of the junction above it."""
    broken = lambda which: [(violations(case, layer)[which] > 1e-9).double() for layer in range(4)]
    grid = lambda rule, laws: [torch.tensor([rule(law, j) for law in range(laws)]).double() for j in range(4)]
    why = "yes or no, from residuals that are rounding or at least a thousandth"
    return together(
        norms=equal(lambda: [torch.stack(broken(0))], lambda: [torch.stack(grid(norm_law, 4))], 1e-9, why),
        balances=equal(lambda: [torch.stack(broken(1))], lambda: [torch.stack(grid(balance_law, 3))], 1e-9, why),
    )  # fmt: skip


MIXED = (1.0, 2.0, 0.5)


def grades(orders: tuple[float, ...], layer: int) -> list[float]:
    return bias_grades(orders, layer)


def ungraded(orders: tuple[float, ...], layer: int) -> list[float]:
    return [0.0] * (len(orders) + 1 - layer)


@claim("O-norms-with-biases", control={"share": ungraded})
def laws_with_biases(case, share=grades):
    """Both laws come back with biases counted: graded in the norms, as one more column in the balance."""
    nets = lambda: biased(case, tuple(power(k) for k in ORDERED), ALL)
    flat = lambda: biased(case, IDENTITIES, ALL)
    counted = lambda s, l: (
        s.pulls()[l] + sum(c * pull for c, pull in zip(share(ORDERED, l), s.bias_pulls()[l:], strict=True))
    )
    column = lambda W, b: torch.cat([W, b[:, None] * bool(share(ORDERED, 0)[0])], 1)
    return together(
        norms=equal(
            measured=lambda: [torch.stack([counted(s, l) for l in range(4)]) for s in nets()],
            predicted=lambda: [PRODUCTS * s.drive() for s in nets()],
            bound=1e-12, reason=ROUNDING,
        ),
        balance=equal(
            measured=lambda: [
                column(s.seen.gradients[0], s.seen.bias_gradients[0]) @ column(s.weights[0], s.biases[0]).mT
                for s in flat()
            ],
            predicted=lambda: [s.weights[1].mT @ s.seen.gradients[1] for s in flat()],
            bound=1e-12, reason=ROUNDING,
        ),
    )  # fmt: skip


ORDERED = (1.0, 2.0, 0.5)
PRODUCTS = torch.tensor([1, 1, 0.5, 1], dtype=torch.float64)  # of the orders from each layer up


# Definitions


@shared
def drawn(case: Case, role: str, *shape: int) -> Tensor:
    """Gaussian numbers, the same for both sides of a claim."""
    return normal(case, role, *shape)


def max_pooling(z: Tensor) -> Tensor:
    return functional.max_pool1d(z, 2)


def cube(z: Tensor) -> Tensor:
    return z**3


def normalised(z: Tensor) -> Tensor:
    """Layer normalisation without a constant under the root."""
    return (z - z.mean(1, keepdim=True)) / z.std(1, keepdim=True)


HOMOGENEOUS = (
    (torch.relu, 1.0), (absolute, 1.0), (max_pooling, 1.0), (power(0.5), 0.5), (power(2), 2.0), (cube, 3.0),
    (normalised, 0.0),
)  # fmt: skip
SMOOTH = ((torch.tanh, 1.0), (functional.gelu, 1.0))


class Values(NamedTuple):
    """A map at some points, at 1.7 times these, and its derivative along them."""

    order: float
    plain: Tensor
    scaled: Tensor
    along: Tensor


@shared
def values(case: Case, maps: tuple) -> list[Values]:
    """Of all maps at three sets of points."""
    points = [normal(case, f"euler {k}", 7, 6) for k in range(3)]
    return [Values(k, phi(z), phi(1.7 * z), jvp(phi, (z,), (z,))[1]) for phi, k in maps for z in points]


@claim("A-def1", control=[{"excess": 0.5}, {"maps": SMOOTH}])
def euler_identity(case, excess=0.0, maps=HOMOGENEOUS):
    """If phi(c x) = c^k phi(x) for c > 0, the derivative at x in the direction x is k phi(x).  A Definition 1"""
    order = lambda s: s.order + excess
    size = lambda: [s.plain.abs().max() for s in values(case, maps)]
    return together(
        scaling=equal(
            measured=lambda: [s.scaled for s in values(case, maps)],
            predicted=lambda: [1.7 ** order(s) * s.plain for s in values(case, maps)],
            scale=size, bound=1e-13, reason="rounding of a few operations; seven maps of orders 0 to 3",
        ),
        euler=equal(
            measured=lambda: [s.along for s in values(case, maps)],
            predicted=lambda: [order(s) * s.plain for s in values(case, maps)],
            scale=size, bound=1e-13, reason="as above",
        ),
    )  # fmt: skip


M_DIM, N_DIM = 4, 5


@shared
def two_maps(case: Case) -> tuple[Tensor, Tensor]:
    """Two linear maps from R^4 to R^5, as matrices that act on columns."""
    return drawn(case, "first map", N_DIM, M_DIM), drawn(case, "second map", N_DIM, M_DIM)


@shared
def orthonormal(case: Case, size: int) -> list[Tensor]:
    return [torch.linalg.qr(drawn(case, f"basis {k}", size, size))[0] for k in range(10)]


@shared
def only_unit_vectors(case: Case, size: int) -> list[Tensor]:
    """Bases of unit vectors that are not orthogonal."""
    return [functional.normalize(drawn(case, f"basis {k}", size, size), dim=0) for k in range(10)]


def rows_by_columns(m: int, n: int) -> tuple[int, int]:
    return n, m


def as_set(m: int, n: int) -> tuple[int, int]:
    return m, n


@claim("A-def3", printed={"shape": as_set}, control={"bases": only_unit_vectors})
def hilbert_schmidt_norm(case, bases=orthonormal, shape=rows_by_columns):
    """The Hilbert-Schmidt norm is the same in every orthonormal basis: the Frobenius norm of the n x m matrix of a map
    from R^m to R^n.  A Definition 3"""
    T = lambda: two_maps(case)[0]
    return together(
        basis=equal(
            measured=lambda: [sum((T() @ e).square().sum() for e in E.mT) for E in bases(case, M_DIM)],
            predicted=lambda: [torch.linalg.matrix_norm(T()) ** 2 for _ in bases(case, M_DIM)],
            bound=1e-13, reason=ROUNDING,
        ),
        shape=equal(
            measured=lambda: [torch.tensor(operator_matrix(lambda x: x @ T().mT, (M_DIM,)).shape).double()],
            predicted=lambda: [torch.tensor(shape(M_DIM, N_DIM)).double()],
            bound=1e-9, reason="whole numbers",
        ),
    )  # fmt: skip


@claim("A-def5", control={"bases": only_unit_vectors})
def inner_product_is_a_trace(case, bases=orthonormal):
    """Summed over any orthonormal basis <T e, S e> is the trace of S* T.  A Definition 5"""
    T, S = lambda: two_maps(case)[0], lambda: two_maps(case)[1]
    return equal(
        measured=lambda: [sum((T() @ e) @ (S() @ e) for e in E.mT) for E in bases(case, M_DIM)],
        predicted=lambda: [torch.trace(S().mT @ T()) for _ in bases(case, M_DIM)],
        scale=lambda: [T().norm() * S().norm() for _ in bases(case, M_DIM)],
        bound=1e-13, reason=ROUNDING,
    )  # fmt: skip


def in_order(u: Tensor, v: Tensor) -> Tensor:
    return u[:, None] * v


def exchanged(u: Tensor, v: Tensor) -> Tensor:
    return in_order(v, u)


@claim("A-def6", control={"tensor": exchanged})
def outer_product(case, tensor=in_order):
    """u x v takes w to <v, w> u, has norm |u| |v|, and (u x v) T* = u x T v, T* (u x v) = T* u x v.  A Definition 6"""
    u, v, w = (lambda role=role: drawn(case, role, 4) for role in ("u", "v", "w"))
    T = lambda: drawn(case, "square map", 4, 4)
    return together(
        action=equal(lambda: [tensor(u(), v()) @ w()], lambda: [(v() @ w()) * u()], 1e-13, ROUNDING),
        norm=equal(lambda: [tensor(u(), v()).norm()], lambda: [u().norm() * v().norm()], 1e-13, ROUNDING),
        right=equal(lambda: [tensor(u(), v()) @ T().mT], lambda: [torch.outer(u(), T() @ v())], 1e-13, ROUNDING),
        left=equal(lambda: [T().mT @ tensor(u(), v())], lambda: [torch.outer(T().mT @ u(), v())], 1e-13, ROUNDING),
    )  # fmt: skip


@shared
def metric(case: Case, role: str, size: int) -> Tensor:
    """The matrix M of an inner product <x, y> = x' M y."""
    A = drawn(case, role, size, size)
    return A @ A.mT + torch.eye(size, dtype=A.dtype)


def adjoint_of(T: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """In two inner products."""
    return torch.linalg.solve(first, T.mT @ second)


def transpose_of(T: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return T.mT


@shared
def basis_in(case: Case, role: str, size: int) -> Tensor:
    """Columns that are orthonormal in an inner product."""
    return torch.linalg.inv(torch.linalg.cholesky(metric(case, role, size))).mT


@claim("A-def7", control={"adjoint": transpose_of})
def adjoint_operator(case, adjoint=adjoint_of):
    """The adjoint moves a map to the other side of the inner products; in orthonormal bases it is the transpose.
    A Definition 7"""
    T, M, N = lambda: two_maps(case)[0], lambda: metric(case, "on R4", M_DIM), lambda: metric(case, "on R5", N_DIM)
    pairs = lambda: [(drawn(case, f"x {k}", M_DIM), drawn(case, f"y {k}", N_DIM)) for k in range(20)]
    E, F = lambda: basis_in(case, "on R4", M_DIM), lambda: basis_in(case, "on R5", N_DIM)
    return together(
        sides=equal(
            measured=lambda: [(T() @ x) @ N() @ y for x, y in pairs()],
            predicted=lambda: [x @ M() @ (adjoint(T(), M(), N()) @ y) for x, y in pairs()],
            scale=lambda: [(T() @ x).norm() * (N() @ y).norm() for x, y in pairs()],
            bound=1e-12, reason="rounding; inner products of condition number below 1,000",
        ),
        matrices=equal(
            measured=lambda: [torch.linalg.solve(E(), adjoint(T(), M(), N()) @ F())],
            predicted=lambda: [torch.linalg.solve(F(), T() @ E()).mT],
            bound=1e-12, reason="as above",
        ),
    )  # fmt: skip


def everywhere(h: Tensor) -> Tensor:
    return torch.ones_like(h[..., :1], dtype=torch.bool)


def in_the_open_set(h: Tensor) -> Tensor:
    """Where all coordinates are positive: the set on which the logarithm is defined."""
    return (h > 0).all(-1, keepdim=True)


def away_from_kinks(case: Case) -> Tensor:
    return drawn(case, "point", 5).abs() + 0.5


def at_the_kink(case: Case) -> Tensor:
    return torch.zeros(5, dtype=torch.float64)


@claim("A-def8", printed={"domain": in_the_open_set}, control={"point": at_the_kink})
def frechet_derivative(case, domain=everywhere, point=away_from_kinks):
    """F(x + h) - F(x) - DF(x) h is small against h, for h in all of the space and not only where F is defined.
    A Definition 8"""
    step = lambda reach: 1e-5 / reach
    h = lambda: functional.normalize(drawn(case, "directions", 20, 5), dim=1)
    x = lambda: drawn(case, "logarithm", 5).abs() + 0.5

    def left(F: Callable, D: Tensor, x: Tensor, t: float) -> Tensor:
        return torch.stack([(F(x + t * d) - F(x) - t * e) / t for d, e in zip(h(), D, strict=True)])

    logarithm = lambda: torch.where(domain(h()), h() / x(), torch.nan)
    slopes = lambda: (point(case) > 0) * h()
    nothing = lambda: torch.zeros(20, 5)
    why = "half a second derivative of at most 4, times steps of 1e-5"
    return together(
        logarithm=limit(
            lambda reach: left(torch.log, logarithm(), x(), step(reach)), nothing, 1e-4, why,
            scale=lambda: torch.ones(20, 5),
        ),
        relu=limit(
            lambda reach: left(torch.relu, slopes(), point(case), step(reach)), nothing, 1e-4, "as above",
            scale=lambda: torch.ones(20, 5),
        ),
    )  # fmt: skip


def in_metric(M: Tensor, slope: Tensor) -> Tensor:
    """The vector that represents a derivative in the inner product M."""
    return torch.linalg.solve(M, slope)


def euclidean(M: Tensor, slope: Tensor) -> Tensor:
    return slope


@shared
def functionals(case: Case) -> list[dict]:
    """The loss of a chain as a function of its first layer, its slope, and central differences along directions."""
    found = []
    for W, X, Y in chains(case, "riesz", (4, 6, 5, 3)):
        loss = lambda V, W=W, X=X, Y=Y: square_loss(chain([V, *W[1:]], X, [torch.tanh, torch.sin]), Y)
        slope = gradient(lambda p, f=loss: f(p["V"]))({"V": W[0]})["V"].flatten()
        along = functional.normalize(drawn(case, "along", 10, W[0].numel()), dim=1)
        at = lambda t, d, W=W, f=loss: f(W[0] + t * d.reshape(W[0].shape))
        differences = [(8 * (at(t, d) - at(-t, d)) - (at(2 * t, d) - at(-2 * t, d))) / (12 * t)
                       for t in (1e-3,) for d in along]  # fmt: skip
        found.append({"slope": slope, "along": along, "differences": torch.stack(differences)})
    return found


@claim("A-thm3", control={"vector": euclidean})
def riesz_representation(case, vector=in_metric):
    """One vector represents a derivative, in each inner product its own; partial derivatives, those of one layer, too.
    A Theorem 3"""
    M = lambda: metric(case, "riesz", 24)
    expanded = lambda s: sum((s["slope"] @ e) * e for e in basis_in(case, "riesz", 24).mT)
    return together(
        represents=equal(
            measured=lambda: [s["differences"] for s in functionals(case)],
            predicted=lambda: [s["along"] @ M() @ vector(M(), s["slope"]) for s in functionals(case)],
            bound=1e-8, reason="differences of fourth order with steps of 1e-3",
        ),
        unique=equal(
            measured=lambda: [vector(M(), s["slope"]) for s in functionals(case)],
            predicted=lambda: [expanded(s) for s in functionals(case)],
            bound=1e-11, reason="rounding; an inner product of condition number below 1,000",
        ),
    )  # fmt: skip


# Ours: one inner product for both


@shared
def preconditioned(case: Case) -> list[dict]:
    """Gradient flow of two linear layers in another inner product on the hidden units: both balances over time."""
    found = []
    for k, task in enumerate(balanced_pairs(case, "metric")):
        M = metric(case, f"hidden {k}", 4) / 4
        plain = gradient_flow(linear_loss(task))

        def field(p: Params, plain=plain, M=M) -> Params:
            v = plain(p)
            return {"W1": torch.linalg.solve(M, v["W1"]), "W2": v["W2"] @ M}

        record = {
            "metric": lambda p, M=M: p["W1"] @ p["W1"].mT @ M - torch.linalg.solve(M, p["W2"].mT @ p["W2"]),
            "plain": lambda p: gramian_balance(p["W1"], p["W2"]),
        }
        start = {"W1": 1.5 * task.weights[0], "W2": task.weights[1]}
        found.append(integrate(field, start, [0.0, 0.25, 0.5], record=record))
    return found


@claim("O-balance-metric", control={"which": "plain"})
def balance_in_a_metric(case, which="metric"):
    """Gradient flow in another inner product on the hidden units keeps the balance that is taken with its adjoints."""
    return equal(
        measured=lambda: [run[which][1:] for run in preconditioned(case)],
        predicted=lambda: [run[which][0].expand(2, -1, -1) for run in preconditioned(case)],
        bound=1e-11, reason=FLOW,
    )  # fmt: skip
