r"""What decides A section 5.2: tanh in the place of the identity, and why the loss seems to matter.

With :math:`U_\ell=G_{\ell+1}W_{\ell+1}` what comes down to :math:`\phi(Z_\ell)`, the defect of a coordinate-wise
activation is

.. math:: C_\ell = (U_\ell\odot\phi'(Z_\ell))^\top Z_\ell - U_\ell^\top\phi(Z_\ell) .
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from claimbook.evidence import Case, claim, equal, shared, tendency, together
from companion.unified_balancing.convolutional import all_digits
from companion.unified_balancing.evidence import SEEN
from normdyn.networks.losses import cross_entropy, square_loss


class Activation(NamedTuple):
    """A function of one number with its derivative."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


def bell(z: Tensor) -> Tensor:
    """The density of the normal distribution."""
    return torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)


ACTIVATIONS = {
    "tanh": Activation(torch.tanh, lambda z: 1 - torch.tanh(z).square()),
    "identity": Activation(lambda z: z, torch.ones_like),
    "gelu": Activation(F.gelu, lambda z: torch.special.ndtr(z) + z * bell(z)),
    "relu": Activation(torch.relu, lambda z: (z > 0).to(z)),
}


@dataclass(frozen=True)
class Figure:
    """Every choice of a run; rate and decay are the paper's, sizes are small.

    Args:
        bent: The activation is phi(bent z) / bent: the smaller, the more like a straight line, all else equal.
        loss_scale, target_scale, input_scale: Factors of the loss, of one-hot targets, of standardised inputs.
    """

    loss: str = "square"
    activation: str = "tanh"
    bent: float = 1.0
    loss_scale: float = 1.0
    target_scale: float = 1.0
    input_scale: float = 1.0
    images: int = 80
    hidden: tuple[int, ...] = (48, 36, 24)
    steps: int = 1201
    every: int = 25
    learning_rate: float = 0.01
    weight_decay: float = 0.075
    seeds: int = 6


SQUARE, ENTROPY = Figure(), Figure(loss="cross-entropy")


def start(case: Case, figure: Figure) -> tuple[list[Tensor], Tensor, Tensor]:
    """Weights with the variance of torch's default layers, inputs and one-hot targets; an entry a seed."""
    draw, (images, labels) = case.generator("tanh"), all_digits()
    chosen = torch.stack([torch.randperm(len(labels), generator=draw)[: figure.images] for _ in range(figure.seeds)])
    X, Y = images[chosen].flatten(2), F.one_hot(labels[chosen], 10).double()
    deviation, mean = torch.std_mean(X, 1, correction=0, keepdim=True)
    X = (X - mean) / torch.where(deviation > 1e-9, deviation, 1.0)
    widths = (X.shape[2], *figure.hidden, 10)
    normal = lambda *shape: torch.randn(figure.seeds, *shape, generator=draw, dtype=torch.float64)
    weights = [normal(n, m) / (3 * m) ** 0.5 for m, n in zip(widths, widths[1:], strict=False)]
    return weights, figure.input_scale * X, Y


class Signals(NamedTuple):
    """What goes up and down: activations A (inputs first), fields Z, gradients in Z and in the weights, U."""

    A: list[Tensor]
    Z: list[Tensor]
    G: list[Tensor]
    g: list[Tensor]
    U: list[Tensor]


def signals(figure: Figure, weights: list[Tensor], X: Tensor, Y: Tensor) -> Signals:
    """Forward and backward, written out, for all seeds at once."""
    phi, a = ACTIVATIONS[figure.activation], figure.bent
    A, Z = [X], []
    for W in weights:
        Z.append(A[-1] @ W.mT)
        A.append(phi.value(a * Z[-1]) / a)
    target = figure.target_scale * Y if figure.loss == "square" else Y
    out = Z[-1] if figure.loss == "square" else Z[-1].softmax(-1)
    G, U = [figure.loss_scale * (out - target) / X.shape[-2]], []
    for W, z in zip(weights[:0:-1], Z[-2::-1], strict=True):
        U.insert(0, G[0] @ W)
        G.insert(0, U[0] * phi.slope(a * z))
    return Signals(A, Z, G, [h.mT @ B for h, B in zip(G, A, strict=False)], U)


def defects(figure: Figure, s: Signals) -> list[Tensor]:
    """The matrices C, one a junction, from fields and their gradients."""
    return [G.mT @ Z - U.mT @ A for G, Z, U, A in zip(s.G, s.Z, s.U, s.A[1:], strict=False)]


def balances(weights: list[Tensor]) -> list[Tensor]:
    """W W' of each layer less V' V of the next one."""
    return [W @ W.mT - V.mT @ V for W, V in zip(weights, weights[1:], strict=False)]


def squares(tensors: list[Tensor]) -> Tensor:
    """Squared norms, a column a layer."""
    return torch.stack([T.square().sum((-2, -1)) for T in tensors], -1)


def peaks(matrices: list[Tensor]) -> Tensor:
    """Largest entries, a column a matrix."""
    return torch.stack([M.abs().amax((-2, -1)) for M in matrices], -1)


@shared
def descent(case: Case, figure: Figure) -> dict[str, Tensor]:
    r"""Full-batch gradient descent with weight decay; a row each ``every`` steps, an entry a seed.

    Returns:
        ``step``; for each layer ``quotient`` of the squared norm, ``flow`` of A Theorem 2 with order one, ``decay``,
        ``defect`` :math:`-2\sum_{j\ge\ell}\mathrm{tr}\,C_j` and ``own`` :math:`\eta\|g+\delta W\|^2`; for each junction
        ``ratio`` of the largest entry of the balance to :math:`e^{-2\delta t}` times its start, ``moved`` (entry by
        entry without its factor, over the largest of the start), ``order``
        :math:`\langle G_\ell,Z_\ell\rangle/\langle G_{\ell+1},Z_{\ell+1}\rangle`, and ``field``, root mean square of Z.
    """
    weights, X, Y = start(case, figure)
    eta, delta, first, rows = figure.learning_rate, figure.weight_decay, balances(weights), []
    for step in range(figure.steps):
        s = signals(figure, weights, X, Y)
        moved = [W - eta * (g + delta * W) for W, g in zip(weights, s.g, strict=True)]
        if step % figure.every == 0:
            now, B = squares(weights), balances(weights)
            traces = torch.stack([C.diagonal(dim1=-2, dim2=-1).sum(-1) for C in defects(figure, s)], -1)
            pull = torch.stack([(G * Z).sum((-2, -1)) for G, Z in zip(s.G, s.Z, strict=True)], -1)
            freed = [b / (1 - eta * delta) ** (2 * step) - b0 for b, b0 in zip(B, first, strict=True)]
            full = [g + delta * W for g, W in zip(s.g, weights, strict=True)]
            rows.append({
                "step": torch.tensor(step), "quotient": (squares(moved) - now) / eta, "own": eta * squares(full),
                "flow": (-2 * pull[:, -1:]).expand_as(now), "decay": -2 * delta * now,
                "defect": -2 * F.pad(traces.flip(-1).cumsum(-1).flip(-1), (0, 1)), "order": pull[:, :-1] / pull[:, 1:],
                "ratio": peaks(B) / peaks(first) * math.exp(2 * delta * eta * step),
                "moved": peaks(freed) / peaks(first),
                "field": torch.stack([Z.square().mean((-2, -1)).sqrt() for Z in s.Z[:-1]], -1),
            })  # fmt: skip
        weights = moved
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def total(layers: Tensor) -> Tensor:
    """Of all layers together."""
    return layers.sum(-1)


def off(run: dict[str, Tensor], figure: Figure, decays: bool = True) -> Tensor:
    """How far the largest entry of each junction is from its curve, over its start, which is the height of the figure.

    Args:
        decays: The curve of A Theorem 1; without it a balance that stays as it was.
    """
    curve = torch.exp(-2 * figure.weight_decay * figure.learning_rate * run["step"])[:, None, None]
    return (run["ratio"] * curve - (curve if decays else 1.0)).abs()


# Figures 1c and 1d: the largest entry of the balance


@claim("A-fig1c", control=[{"decays": False}, {"target_scale": 5.0}], untrained={"steps": 0}, longer={"steps": 1801})
def balance_decays_with_tanh(case, decays=True, target_scale=1.0, steps=SQUARE.steps):
    """Square loss: the largest entry of the balance follows its exponential to the eye, at each junction.

    Rival: no decay. What breaks it: targets five times as large, for the same network and loss.
    """
    figure = replace(SQUARE, target_scale=target_scale, steps=steps)
    gap = lambda: off(descent(case, figure), figure, decays).amax(0)
    return tendency(
        effect=lambda: [(SEEN / gap()[:, k]).log() for k in range(3)],
        reason="cells: three junctions; 6 seeds; a twentieth of the figure's height is seen; the worst of 1200 steps",
    )


@claim(
    "A-fig1d",
    control=[{"decays": False}, {"activation": "identity"}, {"loss": "square"}],
    untrained={"steps": 0},
    longer={"steps": 2001},
)
def balance_decays_at_first(case, decays=True, activation="tanh", loss="cross-entropy", steps=ENTROPY.steps):
    """Cross-entropy: at first the largest entries follow their exponential to the eye, later they do not.

    Rivals: no decay; the identity and the square loss, with which nothing parts later.
    """
    figure = replace(ENTROPY, activation=activation, loss=loss, steps=steps)
    gap = lambda: off(descent(case, figure), figure, decays)
    first, last = slice(0, 250 // figure.every + 1), slice(-5, None)
    why = "6 seeds; a twentieth of the figure's height is seen"
    return together(
        early=tendency(
            effect=lambda: [(SEEN / gap()[first, :, k].amax(0)).log() for k in range(3)],
            reason=f"cells: three junctions; {why}; the worst of 250 steps",
        ),
        late=tendency(
            effect=lambda: [(gap()[last].amax(2).median(0).values / SEEN).log()],
            reason=f"one cell, the junction that is furthest off; {why}; median over the last 100 steps",
        ),
    )


# Figures 2a and 2b: the rate of the norm


def drawn(run: dict[str, Tensor]) -> Tensor:
    """Height of a figure of the total rate: the range that the measured one runs through; one a seed."""
    return total(run["quotient"]).amax(0) - total(run["quotient"]).amin(0)


def apart(run: dict[str, Tensor], layers: float = 4.0, decays: bool = True) -> Tensor:
    """Largest distance of a prediction from the total quotient over the figure's height.

    Args:
        layers: Sum over layers of the products of orders; 15 for order two, 0 for weight decay alone.
    """
    predicted = layers * run["flow"][..., 0] + decays * total(run["decay"])
    return (total(run["quotient"]) - predicted).abs().amax(0) / drawn(run)


ORDER_TWO, DECAY_ALONE = 8.0 + 4.0 + 2.0 + 1.0, 0.0


@claim(
    "A-fig2a",
    control=[{"layers": DECAY_ALONE}, {"layers": ORDER_TWO}, {"target_scale": 5.0}],
    untrained={"steps": 0},
    longer={"steps": 2001},
)
def norms_track_with_tanh(case, layers=4.0, target_scale=1.0, steps=SQUARE.steps):
    """Square loss: order one tracks the rate of the norm to the eye; weight decay alone and order two do not."""
    run = lambda: descent(case, replace(SQUARE, target_scale=target_scale, steps=steps))
    rivals = lambda: torch.minimum(apart(run(), DECAY_ALONE), apart(run(), ORDER_TWO))
    why = "6 seeds; largest distance over 1200 steps, in heights of the figure"
    return together(
        close=tendency(
            effect=lambda: [(SEEN / apart(run(), layers)).log()], reason=f"one cell; {why}; a twentieth is seen"
        ),
        better=tendency(
            effect=lambda: [(rivals() / apart(run(), layers)).log()],
            least=math.log(3),
            reason=f"one cell; {why}; three times nearer than decay alone or order two",
        ),
    )


@claim(
    "A-fig2b",
    control=[{"layers": DECAY_ALONE}, {"layers": ORDER_TWO}, {"activation": "identity"}],
    untrained={"steps": 0},
    longer={"steps": 2001},
)
def norms_are_similar(case, layers=4.0, activation="tanh", steps=ENTROPY.steps):
    """Cross-entropy: order one is seen to miss the rate of the norm, and is nearer to it than its rivals are."""
    run = lambda: descent(case, replace(ENTROPY, activation=activation, steps=steps))
    rivals = lambda: torch.minimum(apart(run(), DECAY_ALONE), apart(run(), ORDER_TWO))
    why = "6 seeds; largest distance, in heights of the figure"
    return together(
        misses=tendency(
            effect=lambda: [(apart(run(), layers) / SEEN).log()], reason=f"one cell; {why}; a twentieth is seen"
        ),
        similar=tendency(
            effect=lambda: [(rivals() / apart(run(), layers)).log()],
            least=math.log(1.25),
            reason=f"one cell; {why}; nearer by a quarter than decay alone or order two",
        ),
    )


# The law for any activation


@shared
def steps_at_random(case: Case, activation: str) -> list[dict[str, list[Tensor]]]:
    """One step of descent from the random start of each figure, weights well away from zero.

    Returns:
        For each loss balances and squared norms before and after a step that automatic differentiation gives; defects,
        gradients and drive from the signals written out.
    """
    found = []
    for loss, gain in (("square", 1.0), ("cross-entropy", 3.0)):
        figure = Figure(loss=loss, activation=activation, images=30, hidden=(7, 6, 5), seeds=3)
        weights, X, Y = start(case, figure)
        weights = [(gain * W).requires_grad_() for W in weights]
        H = X
        for W in weights[:-1]:
            H = ACTIVATIONS[activation].value(H @ W.mT)
        f = H @ weights[-1].mT
        risk = square_loss if loss == "square" else lambda out, y: cross_entropy(out, y.argmax(-1))
        loss_of_all = sum(risk(out, y) for out, y in zip(f, Y, strict=True))
        g = torch.autograd.grad(loss_of_all, weights)
        weights = [W.detach() for W in weights]
        after = [W - 0.1 * (h + 0.3 * W) for W, h in zip(weights, g, strict=True)]
        s = signals(figure, weights, X, Y)
        change = [(0.1 * (h + 0.3 * W)) for W, h in zip(weights, g, strict=True)]
        after = [W - c for W, c in zip(weights, change, strict=True)]
        found.append({
            "B": balances(weights), "B after": balances(after), "C": defects(figure, s), "g": s.g,
            "square": squares(weights), "square after": squares(after),
            "own": squares([g + 0.3 * W for g, W in zip(s.g, weights, strict=True)]),
            "drive": -2 * (s.Z[-1] * s.G[-1]).sum((-2, -1))[:, None],
        })  # fmt: skip
    return found


@claim("O-activation-law", control=[{"defect": False}, {"squared": False}])
def law_for_any_activation(case, defect=True, squared=True, eta=0.1, delta=0.3):
    """One step with decay moves balance and norms by the defect of the activation and by squares of gradients."""
    steps = lambda: [step for activation in ACTIVATIONS for step in steps_at_random(case, activation)]

    def balance(step) -> list[Tensor]:
        keep, found = 1 - eta * delta, []
        for B, C, g, h in zip(step["B"], step["C"], step["g"], step["g"][1:], strict=False):
            term = eta * keep * (C + C.mT) * defect
            found.append(keep**2 * B - term + squared * eta**2 * (g @ g.mT - h.mT @ h))
        return found

    def rates(step) -> Tensor:
        traces = torch.stack([C.diagonal(dim1=-2, dim2=-1).sum(-1) for C in step["C"]], -1)
        above = F.pad(traces.flip(-1).cumsum(-1).flip(-1), (0, 1))
        return step["drive"] - 2 * delta * step["square"] - 2 * defect * above + squared * eta * step["own"]

    return together(
        balance=equal(
            measured=lambda: [B for step in steps() for B in step["B after"]],
            predicted=lambda: [B for step in steps() for B in balance(step)],
            bound=1e-12,
            reason="rounding of sums over 30 samples and 64 inputs",
        ),
        norms=equal(
            measured=lambda: [(step["square after"] - step["square"]) / eta for step in steps()],
            predicted=lambda: [rates(step) for step in steps()],
            bound=1e-12,
            reason="as above",
        ),
    )


# Why tanh, and which loss


def relative_defect(case: Case, figure: Figure) -> Tensor:
    """Largest |C| over |U' phi(Z)| of the junctions at the start; one a seed."""
    s = signals(figure, *start(case, figure))
    parts = zip(defects(figure, s), s.U, s.A[1:], strict=False)
    return torch.stack([C.norm(dim=(-2, -1)) / (U.mT @ A).norm(dim=(-2, -1)) for C, U, A in parts]).amax(0)


@claim("A-tanh-linear", control={"activation": "relu"}, untrained={"steps": 0}, longer={"steps": 801})
def nearly_linear_is_part_of_it(case, activation="tanh", steps=401):
    """The straighter tanh is, the better Theorem 1: to second order near zero, and on the inputs of the figure.

    In place of tanh(z) stands tanh(a z) / a, which is tanh for pre-activations a times as large, all else equal.
    Control: ReLU, which is as bent near zero as anywhere.
    """
    near = lambda a, loss: relative_defect(case, Figure(loss=loss, activation=activation, bent=a))
    bent = lambda a: descent(case, replace(SQUARE, activation=activation, bent=a, steps=steps))
    moved = lambda a: bent(a)["moved"][-1].amax(-1)
    both = ("square", "cross-entropy")
    return together(
        order=equal(
            measured=lambda: [(near(1e-3, loss) / near(1e-4, loss)).log10() for loss in both],
            predicted=lambda: [2.0 for _ in both],
            bound=2e-3,
            reason="the next term of Taylor's series is of relative order 1e-6; rounding of a difference of 1e-8",
        ),
        figures=tendency(
            effect=lambda: [(moved(a) / moved(a / 2)).log() for a in (1.0, 0.5)],
            least=math.log(1.25),
            reason="cells: a from 1 to 1/2 and to 1/4, square loss; 6 seeds; balance entry by entry, after 400 steps",
        ),
    )


@claim("O-pull", control=[{"weak": 1.0}, {"strong": 1.0}], untrained={"steps": 0}, longer={"steps": 1801})
def pull_decides(case, weak=0.1, strong=5.0, steps=SQUARE.steps):
    """A tenth of cross-entropy follows Theorem 1 to the eye; the square loss with five times the targets does not."""
    soft, far = replace(ENTROPY, loss_scale=weak, steps=steps), replace(SQUARE, target_scale=strong, steps=steps)
    worst = lambda figure: off(descent(case, figure), figure).amax((0, 2))
    why = "one cell; 6 seeds; the worst junction and step; a twentieth of the height is seen"
    return together(
        weak=tendency(effect=lambda: [(SEEN / worst(soft)).log()], reason=why),
        strong=tendency(effect=lambda: [(worst(far) / SEEN).log()], reason=why),
    )


@claim(
    "O-not-necessary",
    control=[{"loss_scale": 1.0}, {"input_scale": 1.0}],
    untrained={"steps": 0},
    longer={"steps": 1801},
)
def small_fields_are_not_necessary(case, loss_scale=0.02, input_scale=10.0, steps=SQUARE.steps):
    """Saturated units under a weak pull: pre-activations beyond one, and still Theorem 1 to the eye."""
    figure = replace(SQUARE, loss_scale=loss_scale, input_scale=input_scale, steps=steps)
    run = lambda: descent(case, figure)
    why = "one cell; 6 seeds; inputs times ten, a fiftieth of the square loss"
    return together(
        saturated=tendency(
            effect=lambda: [run()["field"][:, :, 0].amin(0) - 1], reason=f"{why}; first layer, root mean square"
        ),
        follows=tendency(
            effect=lambda: [(SEEN / off(run(), figure).amax((0, 2))).log()], reason=f"{why}; a twentieth is seen"
        ),
    )
