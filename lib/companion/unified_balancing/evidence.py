"""What decides A Figs. 1a and 1b: how near the two curves are as seen in a figure, and all that lies between them."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from claimbook.evidence import Case, claim, equal, shared, tendency, together
from companion.unified_balancing.convolutional import FIGURE_1A, FIGURE_1B, descent
from normdyn.networks.losses import cross_entropy, square_loss

SEEN = 1 / 20  # of what a figure shows: about three widths of a line
SETTLED = 10  # steps after the start, which no figure can draw on the scale of the others
FEW = replace(FIGURE_1A, images=40, learning_rate=0.08, steps=250)
LEFT_OPEN = (FEW, replace(FEW, centred=True))  # choices on which the paper is silent
LEAKY = replace(FIGURE_1B, images=40, steps=150, seeds=8)
EPSILONS = (1e-5, 0.0)


def total(layers: Tensor) -> Tensor:
    """Of all layers together."""
    return layers.sum(-1)


def height(run: dict[str, Tensor]) -> Tensor:
    """Of a figure that begins at step 10: the largest total rate of each seed."""
    return total(run["quotient"])[SETTLED:].abs().amax(0)


def missed(run: dict[str, Tensor], orders: tuple[float, ...]) -> Tensor:
    """Total quotient less a prediction whose layers have these products of orders; for each step and seed."""
    return total(run["quotient"]) - sum(orders) * run["drive"]


@claim(
    "A-fig1a",
    control=[{"activation": "gelu"}, {"orders": (4.0, 2.0, 1.0)}, {"orders": (0.0,)}, {"slower": 3}],
    untrained={"steps": 60},
    longer={"steps": 500},
)
def the_curves_are_close_and_part(case, activation="relu", orders=(1.0, 1.0, 1.0), slower=1, steps=FEW.steps):
    """ReLU, max pooling, square loss: at first the two curves are one to the eye, late the prediction lies below.

    Rivals: another activation, order two, no loss at all (decay alone); a third of the step over the same
    time, which never meets its edge.
    """
    pace = {"learning_rate": FEW.learning_rate / slower, "steps": slower * steps}
    figures = [replace(f, activation=activation, **pace) for f in LEFT_OPEN]
    runs = lambda: [descent(case, figure) for figure in figures]
    share = lambda run: missed(run, orders) / total(run["quotient"]).abs()
    why = "cells: targets one-hot and centred; 5 seeds; a twentieth of the rate is seen"
    return together(
        close=tendency(
            effect=lambda: [(SEEN / share(run)[SETTLED:40].abs().median(0).values).log() for run in runs()],
            reason=f"{why}; median over steps 10 to 40",
        ),
        late=tendency(
            effect=lambda: [(share(run)[-100:].median(0).values.clamp_min(1e-9) / SEEN).log() for run in runs()],
            reason=f"{why}; median over the last 100 steps",
        ),
    )


@claim(
    "A-fig1b",
    control=[{"normalise": 0}, {"normalise": 1}, {"orders": (1.0, 1.0, 1.0, 1.2)}],
    untrained={"steps": 11},
    longer={"steps": 300},
)
def lower_layers_stay(case, normalise=3, orders=(0.0, 0.0, 0.0, 1.0), steps=LEAKY.steps):
    """Leaky ReLU, normalisation before the readout, cross-entropy: in the figure only the readout moves, as predicted.

    Rivals: no normalisation, one after the first layer, order one in all layers and a fifth more in the readout.
    """
    figures = [replace(LEAKY, epsilon=e, normalise=normalise, steps=steps) for e in EPSILONS]
    runs = lambda: [descent(case, figure) for figure in figures]
    went = lambda rates: rates[SETTLED:].sum(0).abs()
    moves = lambda run: went(run["quotient"][..., :-1]).amax(1) / went(total(run["quotient"]))
    apart = lambda run: missed(run, orders)[SETTLED:].abs().median(0).values / height(run)
    own = lambda run: run["quotient"][..., -1] - orders[-1] * run["drive"]
    readout = lambda run: (own(run) / run["quotient"][..., -1])[SETTLED:].abs().median(0).values
    why = "cells: epsilon 1e-5 and 0; 8 seeds; standardised inputs"
    return together(
        constant=tendency(
            effect=lambda: [(SEEN / moves(run)).log() for run in runs()],
            reason=f"{why}; from step 10 on no lower layer's squared norm goes a twentieth as far as the network's",
        ),
        tracks=tendency(
            effect=lambda: [(2 * SEEN / apart(run)).log() for run in runs()],
            reason=f"{why}; a tenth of the height, for four layers add up; median over the steps from 10 on",
        ),
        readout=tendency(
            effect=lambda: [(SEEN / readout(run)).log() for run in runs()],
            reason=f"{why}; a twentieth of the readout's own rate; median over the steps from 10 on",
        ),
    )


@claim(
    "O-leak-seen",
    control=[{"epsilon": 0.0}, {"inputs": "standardised"}],
    untrained={"steps": 1},
    longer={"steps": 300},
)
def leak_is_seen(case, epsilon=1e-5, inputs="pixels", steps=LEAKY.steps):
    """Inputs in [0, 1], the usual epsilon: late, the leak alone takes the total off its prediction by what is seen."""
    figure = replace(LEAKY, epsilon=epsilon, inputs=inputs, steps=steps)
    late = lambda run: (total(run["leak"]) / total(run["quotient"]))[-50:].median(0).values
    return tendency(
        effect=lambda: [(late(descent(case, replace(figure, images=n))) / SEEN - 1) for n in (40, 60)],
        reason="cells: 40 and 60 images; 8 seeds; a twentieth of the rate is seen; median over the last 50 steps",
    )


LAW = {
    "figure 1a": replace(FIGURE_1A, images=40, steps=20),
    "figure 1b": replace(FIGURE_1B, images=40, steps=20),
    "no epsilon": replace(FIGURE_1B, images=40, steps=20, epsilon=0.0),
    "large epsilon": replace(FIGURE_1B, images=40, steps=20, epsilon=1e-3),
    "normalised early": replace(FIGURE_1B, images=40, steps=20, normalise=1),
}


@claim("O-layer-law", control=[{"activation": "gelu"}, {"biases": True}, {"leaks": False}, {"finite": False}])
def law_of_every_layer(case, activation=None, biases=False, leaks=True, finite=True):
    """Quotient of each layer and step: the prediction, the squared gradient, and the leak of a normalisation."""
    changed = {"biases": biases} | ({"activation": activation} if activation else {})
    runs = lambda: [descent(case, replace(figure, **changed)) for figure in LAW.values()]
    terms = lambda run: run["flow"] + finite * run["step"] + leaks * run["leak"]
    return equal(
        measured=lambda: [run["quotient"] for run in runs()],
        predicted=lambda: [terms(run) for run in runs()],
        bound=1e-11,
        reason="rounding of squared norms, divided by the learning rate; largest over steps, seeds and layers",
    )


# What a normalisation leaks


def squared_relu(z: Tensor) -> Tensor:
    """Homogeneous of order two."""
    return torch.relu(z).square()


ORDERS = {torch.relu: 1.0, squared_relu: 2.0, F.leaky_relu: 1.0}


@shared
def normalised_chains(case: Case, activations, epsilon: float, loss) -> list[dict[str, Tensor]]:
    """Dense layers with a batch normalisation after the last activation, at random weights.

    Returns:
        For each network ``rates`` of the squared norms under gradient flow, by autograd in the weights; ``leak`` from
        gradients at the normalisation alone; ``drive`` of the output; ``variance`` of the units that are normalised.
    """
    draw, found = case.generator("normalised chains"), []
    normal = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)
    for _ in range(5):
        weights = [(normal(*shape) / 2).requires_grad_() for shape in ((6, 5), (7, 6), (4, 7))]
        X, labels = normal(30, 5), torch.randint(4, (30,), generator=draw)
        H = X
        for W, activation in zip(weights, activations, strict=False):
            H = activation(H @ W.mT)
        variance, mean = torch.var_mean(H, 0, correction=0)
        N = (H - mean) / (variance + epsilon).sqrt()
        f = N @ weights[-1].mT
        risk = loss(f, labels if loss is cross_entropy else F.one_hot(labels, 4).double())
        down, up, *gradients = torch.autograd.grad(risk, [N, f, *weights])
        leak = -2 * (epsilon / (variance + epsilon) * N * down).sum()
        rates = torch.stack([-2 * (W * g).sum() for W, g in zip(weights, gradients, strict=True)])
        found.append({"rates": rates, "leak": leak, "drive": -2 * (f * up).sum(), "variance": variance})
    return [{name: value.detach() for name, value in net.items()} for net in found]


def above(activations, counted) -> Tensor:
    """For each layer below the normalisation the product of the orders of the activations between them."""
    found = torch.tensor([counted(a) for a in activations], dtype=torch.float64)
    return found.flip(0).cumprod(0).flip(0)


def order_of(activation) -> float:
    return ORDERS[activation]


def order_one(activation) -> float:
    """As if all activations were of order one."""
    return 1.0


CHAINS = [(a, e, loss) for a in ((torch.relu, F.leaky_relu), (torch.relu, squared_relu), (squared_relu, squared_relu))
          for e, loss in ((1e-2, cross_entropy), (1.0, square_loss))]  # fmt: skip


@claim("O-norm-leak", control=[{"counted": order_one}, {"leaks": 0.0}])
def leak_of_a_normalisation(case, counted=order_of, leaks=1.0):
    """Below a normalisation a squared norm moves at the leak's rate times the orders of the activations in between."""
    nets = lambda: [(a, net) for a, e, loss in CHAINS for net in normalised_chains(case, a, e, loss)]
    return equal(
        measured=lambda: [net["rates"][:2] for _, net in nets()],
        predicted=lambda: [leaks * above(a, counted) * net["leak"] for a, net in nets()],
        bound=1e-11, reason="rounding of sums over 30 samples",
    )  # fmt: skip


@claim("O-leak-share", control={"readout": torch.tanh})
def leak_is_a_share_of_the_readout(case, readout=None, variances=(0.5, 2.0), epsilon=0.1):
    """Units of one variance, order one: a layer below takes epsilon / (variance + epsilon) of the readout's rate."""

    def rates(variance: float) -> tuple[Tensor, Tensor]:
        draw = case.generator("one variance")
        normal = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)
        W, V, X = normal(1, 5).requires_grad_(), normal(4, 1).requires_grad_(), normal(30, 5)
        H = torch.relu(X @ W.mT)
        H = H * (variance / H.detach().var(correction=0)).sqrt()
        spread, mean = torch.var_mean(H, 0, correction=0)
        N = (H - mean) / (spread + epsilon).sqrt()
        f = (readout(N) if readout else N) @ V.mT
        g, h = torch.autograd.grad(square_loss(f, normal(30, 4)), [W, V])
        return -2 * (W * g).sum(), -2 * (V * h).sum()

    return equal(
        measured=lambda: [rates(v)[0] for v in variances],
        predicted=lambda: [epsilon / (v + epsilon) * rates(v)[1] for v in variances],
        bound=1e-11, reason="rounding of sums over 30 samples",
    )  # fmt: skip
