r"""Stacks of small two-class networks, with and without batch normalisation, from any initial scale, by plain descent.

Experiments 3 and 4 of paper C: a teacher with one hidden layer labels Gaussian inputs, and a ReLU network without
output bias learns the labels. Every draw has its own task and start; all draws and all initial scales train together.

The ``layers - 1`` hidden layers may be normalised by statistics of the batch, with trained gains and shifts. Without
normalisation the shifts are biases and there are no gains, so both networks have the same form at inference.
"""

import dataclasses
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F

from companion.studies.stacks import Device, Params, along, gradients, leaves, move, require
from normdyn.measures import robustness
from normdyn.networks.normalizers import batch_norm, normalized_mlp

Condition = Callable[[Float[Tensor, "k n"], Float[Tensor, " k"]], Bool[Tensor, " k"]]
LOSSES = {
    "logistic": lambda margin: F.softplus(-margin),
    "hinge": lambda margin: F.relu(1 - margin),
    "square": lambda margin: (1 - margin).square() / 2,
}


@dataclasses.dataclass(frozen=True)
class Setup:
    """One stack of ``draws * len(scales)`` networks, the scales outside.

    Args:
        draws: Tasks and starts; shared by all scales.
        samples, inputs, width, layers: Training set, its dimension, hidden units of a layer, linear maps.
        teacher: Hidden units of the network that labels; its labels are balanced.
        batch_norm: Normalise every hidden layer before its ReLU.
        affine: With a trained gain and shift after it (without normalisation: a bias).
        epsilon: Of the normalisation.
        loss: Of the margin ``y f``, averaged over samples: ``logistic``, ``hinge`` or ``square``.
        learning_rates: One for all, or one for each scale.
        steps: Of descent on the whole training set, or on ``batch`` samples drawn with replacement.
        scales: Factors on the initial weights: He's for hidden layers, ``1/width`` variance for the last.
        scale_last: The factor is on the last layer too.
        seed: Of all generators.
    """

    draws: int = 100
    samples: int = 200
    inputs: int = 50
    width: int = 20
    layers: int = 2
    teacher: int = 5
    batch_norm: bool = True
    affine: bool = True
    epsilon: float = 0.0
    loss: str = "logistic"
    learning_rates: tuple[float, ...] = (1.0,)
    steps: int = 250
    batch: int | None = None
    scales: tuple[float, ...] = (1.0,)
    scale_last: bool = True
    seed: int = 0

    def __post_init__(self):
        require(self, at_least_one=("draws", "samples", "inputs", "width", "teacher", "steps", "batch"))
        if self.layers < 2:
            raise ValueError(
                f"layers must be 2 or more, got {self.layers}: without a hidden layer nothing is normalised"
            )
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {sorted(LOSSES)}, got {self.loss!r}")
        if len(self.learning_rates) not in (1, len(self.scales)):
            raise ValueError(
                f"learning_rates must be one, or one for each of the {len(self.scales)} scales, "
                f"got {len(self.learning_rates)}"
            )

    @property
    def networks(self) -> int:
        """Size of the stack."""
        return self.draws * len(self.scales)


def task(setup: Setup, held: int = 500) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test set of each draw: inputs ``(draws, n, d)`` and labels +-1 ``(draws, n)``."""
    generator = torch.Generator().manual_seed(1000 * setup.seed + 1)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    X = draw(setup.draws, setup.samples + held, setup.inputs)
    f = (torch.relu(X @ draw(setup.draws, setup.inputs, setup.teacher)) @ draw(setup.draws, setup.teacher, 1))[..., 0]
    y = torch.where(f > f.median(1, keepdim=True).values, 1.0, -1.0).to(X.dtype)
    cut = setup.samples
    return (X[:, :cut], y[:, :cut]), (X[:, cut:], y[:, cut:])


def initialize(setup: Setup, dtype: torch.dtype = torch.float64, other: int = 0) -> Params:
    """Stacked weights ``W1`` on, with shifts ``b1`` and gains ``g1`` on where the setup has them.

    Args:
        other: Another number gives other starts for the same tasks.
    """
    generator = torch.Generator().manual_seed(1000 * setup.seed + 2 + 17 * other)
    scales = torch.tensor(setup.scales, dtype=torch.float64).repeat_interleave(setup.draws)[:, None, None]
    params, fan_in = {}, setup.inputs
    for l in range(1, setup.layers + 1):
        last = l == setup.layers
        shape = (setup.draws, 1 if last else setup.width, fan_in)
        W = torch.randn(shape, generator=generator, dtype=torch.float64) * ((1 if last else 2) / fan_in) ** 0.5
        W = W.repeat(len(setup.scales), 1, 1)
        params[f"W{l}"] = (W * scales if setup.scale_last or not last else W).to(dtype)
        if setup.affine and not last:
            params[f"b{l}"] = torch.zeros(setup.networks, setup.width, dtype=dtype)
            params |= {f"g{l}": torch.ones_like(params[f"b{l}"])} if setup.batch_norm else {}
        fan_in = setup.width
    return params


def outputs(params: Params, X: Float[Tensor, "k n d"], setup: Setup) -> Float[Tensor, "k n"]:
    """Outputs of the stacked networks, each on its own samples and normalised by their statistics."""
    normalizer = (lambda z: batch_norm(z, epsilon=setup.epsilon)) if setup.batch_norm else lambda z: z

    def single(p: Params, x: Tensor) -> Tensor:
        hidden = range(1, setup.layers)
        weights = [p[f"W{l}"] for l in range(1, setup.layers + 1)]
        gains = [p[f"g{l}"] for l in hidden] if "g1" in p else None
        shifts = [p[f"b{l}"] for l in hidden] if "b1" in p else None
        return normalized_mlp(weights, x, normalizer=normalizer, gains=gains, shifts=shifts)[:, 0]

    return vmap(single)(params, X)


def train(
    setup: Setup,
    X: Float[Tensor, "d n i"],
    y: Float[Tensor, "d n"],
    params: Params | None = None,
    *,
    until: Mapping[str, Condition] | None = None,
    frozen: tuple[str, ...] = (),
    record: Callable[[Params], Tensor] | None = None,
    device: Device = "cpu",
) -> dict:
    """Train the stack on a device, in the precision of its parameters.

    Args:
        params: Where to start; :func:`initialize` if None.
        until: By name, conditions on margins and losses over the whole training set. Each network is copied when a
            condition first holds for it.
        frozen: Names of tensors that are not trained.
        record: A number for each network from its parameters on the device, kept at each step as ``recorded``.

    Returns:
        On the processor: ``loss``, ``accuracy``: ``(steps + 1, k)``; ``end``: the final parameters; and for each
        condition its copies (the final parameters where it never held) and, under ``reached``, the steps at which it
        held (-1: never).
    """
    params = move(initialize(setup, X.dtype) if params is None else params, device)
    stack = lambda t: t.repeat(len(setup.scales), *[1] * (t.ndim - 1)).to(device, params["W1"].dtype)
    X, y, k = stack(X), stack(y), setup.networks
    rates = torch.tensor(setup.learning_rates, dtype=X.dtype).repeat_interleave(k // len(setup.learning_rates))
    rates, loss, until = rates.to(device), LOSSES[setup.loss], until or {}
    batches = torch.Generator().manual_seed(1000 * setup.seed + 3)
    kept = dict.fromkeys(until, params)
    reached = {name: torch.full((k,), -1, device=device) for name in until}
    history = {"loss": [], "accuracy": []} | ({"recorded": []} if record else {})
    for step in range(setup.steps + 1):
        graph = leaves(params, frozen)
        margins = outputs(graph, X, setup) * y
        losses = loss(margins).mean(1)
        history["loss"].append(losses.detach()), history["accuracy"].append((margins > 0).double().mean(1))
        if record:
            history["recorded"].append(record(params))
        for name, holds in until.items():
            now = holds(margins.detach(), losses.detach()) & (reached[name] < 0)
            kept[name] = _where(now, params, kept[name])
            reached[name] = reached[name].where(~now, step)
        if step == setup.steps:
            break
        if setup.batch:
            rows = torch.randint(setup.samples, (setup.draws, setup.batch), generator=batches)
            rows = rows.repeat(len(setup.scales), 1).to(device)
            few = X.gather(1, rows[..., None].expand(-1, -1, X.shape[2]))
            losses = loss(outputs(graph, few, setup) * y.gather(1, rows)).mean(1)
        slopes = gradients(losses, graph)
        params = {n: p - along(rates, p) * slopes[n] if n in slopes else p for n, p in params.items()}
    kept = {name: move(_where(reached[name] < 0, params, copies), "cpu") for name, copies in kept.items()}
    history = {n: torch.stack(v).cpu() for n, v in history.items()}
    return history | kept | {"end": move(params, "cpu"), "reached": move(reached, "cpu")}


def _where(networks: Bool[Tensor, " k"], these: Params, those: Params) -> Params:
    """The first parameters for the marked networks, the second ones for the others."""
    return {name: p.where(along(networks, p), those[name]) for name, p in these.items()}


def first_below(
    losses: Float[Tensor, "t k"], level: float, setup: Setup
) -> tuple[Float[Tensor, " scales"], Float[Tensor, " scales"]]:
    """For each scale, the share of draws whose loss falls below ``level``, and the median step at which it first does.

    The median counts draws that never fall below as infinite.
    """
    below = (losses < level).reshape(len(losses), len(setup.scales), setup.draws)
    ever = below.any(0)
    step = torch.where(ever, below.to(torch.int8).argmax(0).double(), torch.inf)
    return ever.double().mean(1), step.median(1).values


def folded(params: Params, X: Float[Tensor, "k n d"], setup: Setup) -> Params:
    """Inference network of a stack of two layers for :mod:`normdyn.measures.robustness`, statistics frozen on ``X``.

    Raises:
        ValueError: The networks have more layers.
    """
    if setup.layers != 2:
        raise ValueError(
            f"layers must be 2, got {setup.layers}: only one hidden layer can be folded into the first map"
        )
    zeros = torch.zeros(params["W1"].shape[:2], dtype=X.dtype)
    plain = {"W": params["W1"], "b": params.get("b1", zeros), "v": params["W2"][:, 0], "c": zeros[:, 0]}
    if not setup.batch_norm:
        return plain
    variance, mean = torch.var_mean(X @ params["W1"].mT, 1, correction=0)
    gain = params.get("g1", torch.ones_like(zeros))
    return robustness.fold(plain, mean, variance, gain, epsilon=setup.epsilon)
