"""Normalised units, layers and networks with the data and losses they are tried on; drawn anew for each seed.

Normalisations themselves are in :mod:`normdyn.networks.normalizers`. Everything is in float64 and comes five times.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from companion.theory_iii.hidden_complexity_control_runs import normal
from normdyn.networks.losses import square_loss
from normdyn.networks.normalizers import Normalizer, averaged_axes, batch_norm, normalize, normalized_mlp, weight_norm

DRAWS = 5
SHAPES = {"batch": (12, 5), "layer": (12, 5), "batch with space": (6, 4, 3, 3), "instance": (6, 4, 3, 3)}
Loss = Callable[[Tensor], Tensor]


def averaged(kind: str) -> tuple[int, ...]:
    """Axes of one mean, for the signals of :data:`SHAPES`."""
    return averaged_axes(kind.split()[0], len(SHAPES[kind]))


def upper_loss(case: Case, role: str, *shape: int) -> Loss:
    """A smooth loss of a layer's outputs that couples samples, units and space: all that lies above the layer."""
    R, S = normal(case, f"{role} R", *shape), normal(case, f"{role} S", *shape)
    return lambda a: (torch.sin(a * R) * a.roll(1, 0)).sum() + (a * S).sum().tanh() + (a * a.roll(1, 1)).mean().cosh()


OVER = {kind: averaged(kind) for kind in SHAPES}


@dataclass(frozen=True)
class NormalisedLayer:
    """Signals before a normalisation, gains after it, and the loss above; ``gain`` has the signals' axes."""

    kind: str
    epsilon: float
    z: Tensor
    gain: Tensor
    shift: Tensor
    loss: Loss

    def hat(self, z: Tensor) -> Tensor:
        return normalize(z, averaged(self.kind), epsilon=self.epsilon)

    def slopes(self) -> tuple[Tensor, Tensor]:
        """Gradients of the loss in the outputs, and in the signals before, by automatic differentiation."""
        act = lambda z: self.gain * self.hat(z) + self.shift
        return torch.func.grad(self.loss)(act(self.z)), torch.func.grad(lambda z: self.loss(act(z)))(self.z)


@shared
def layers(case: Case, kind: str, epsilon: float = 0.0, gains: bool = True) -> list[NormalisedLayer]:
    """Five layers of a kind of :data:`SHAPES`, with a gain for each unit, or with gains of one."""
    shape, found = SHAPES[kind], []
    for k in range(DRAWS):
        z = normal(case, f"{kind} {k} z", *shape)
        gain, shift = (
            1.7 + 0.3 * normal(case, f"{kind} {k} gain", shape[1]),
            normal(case, f"{kind} {k} shift", shape[1]),
        )
        gain, shift = (t.reshape(1, -1, *[1] * (z.ndim - 2)) for t in (gain if gains else torch.ones_like(gain), shift))
        found.append(NormalisedLayer(kind, epsilon, z, gain, shift, upper_loss(case, f"{kind} {k}", *shape)))
    return found


@dataclass(frozen=True)
class NormalisedNetwork:
    """A layered network with a normalisation, a gain and a shift in front of each activation, and its inputs."""

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    gains: tuple[Tensor, ...]
    shifts: tuple[Tensor, ...]
    X: Tensor

    def output(self, normalizer: Normalizer = batch_norm, activation: Normalizer = torch.relu) -> Tensor:
        return normalized_mlp(
            self.weights, self.X, normalizer=normalizer, activation=activation,
            biases=self.biases, gains=self.gains, shifts=self.shifts,
        )  # fmt: skip

    def moved(
        self, factor: Tensor | float = 1.0, offset: Tensor | float = 0.0, gain: Tensor | float = 1.0
    ) -> "NormalisedNetwork":
        """The first layer scaled unit by unit, its biases moved, its gains multiplied."""
        row = factor[:, None] if isinstance(factor, Tensor) else factor
        return replace(
            self,
            weights=(row * self.weights[0], *self.weights[1:]),
            biases=(factor * self.biases[0] + offset, *self.biases[1:]),
            gains=(gain * self.gains[0], *self.gains[1:]),
        )


@shared
def networks(
    case: Case, widths: tuple[int, ...] = (3, 6, 4, 2), samples: int = 12, spread: float = 1.0
) -> list[NormalisedNetwork]:
    """Five networks with random weights, biases, gains and shifts."""
    found, pairs = [], list(zip(widths, widths[1:], strict=False))
    for k in range(DRAWS):
        vectors = lambda name, k=k: tuple(normal(case, f"{k} {name} {l}", o) for l, (_, o) in enumerate(pairs))
        weights = tuple(spread * normal(case, f"{k} weights {l}", o, i) for l, (i, o) in enumerate(pairs))
        X = normal(case, f"{k} inputs", samples, widths[0])
        found.append(NormalisedNetwork(weights, vectors("biases"), vectors("gains")[:-1], vectors("shifts")[:-1], X))
    return found


@dataclass(frozen=True)
class NormalisedUnits:
    """Square loss of a hidden normalised layer of tanh units, as a function of its weights ``W`` and biases ``b``."""

    X: Tensor
    y: Tensor
    outer: Tensor
    W: Tensor
    b: Tensor

    @property
    def start(self) -> dict[str, Tensor]:
        return {"W": self.W, "b": self.b}

    def fit(self, p: dict[str, Tensor], epsilon: float = 0.0) -> Tensor:
        return torch.tanh(batch_norm(self.X @ p["W"].mT + p["b"], epsilon=epsilon)) @ self.outer

    def loss(self, epsilon: float = 0.0) -> Callable[[dict[str, Tensor]], Tensor]:
        return lambda p: square_loss(self.fit(p, epsilon)[:, None], self.y[:, None])


@shared
def units(
    case: Case, count: int = 4, inputs: int = 3, solved: bool = False, epsilon: float = 0.0
) -> list[NormalisedUnits]:
    """Five layers on 20 samples with random labels, or with targets that the layer itself produces."""
    found = []
    for k in range(DRAWS):
        X, y = normal(case, f"units {k} X", 20, inputs), normal(case, f"units {k} y", 20).sign()
        c, W = normal(case, f"units {k} outer", count), normal(case, f"units {k} W", count, inputs)
        one = NormalisedUnits(X, y, c, W, normal(case, f"units {k} b", count))
        found.append(replace(one, y=one.fit(one.start, epsilon)) if solved else one)
    return found


@dataclass(frozen=True)
class WeightNormalised:
    """A smooth loss of one weight vector ``w = gain v / |v|``, at a ``v`` of any length."""

    loss: Loss
    v: Tensor
    gain: Tensor

    def seen(self, v: Tensor, gain: Tensor) -> Tensor:
        return weight_norm(v[None], gain[None])[0]


@shared
def weight_normalised(case: Case, size: int = 6) -> list[WeightNormalised]:
    """Five losses of tanh units on 12 samples."""
    found = []
    for k in range(DRAWS):
        X, y = normal(case, f"WN {k} X", 12, size), normal(case, f"WN {k} y", 12)
        loss = lambda w, X=X, y=y: (torch.tanh(X @ w) - y).square().sum() + w.sum().cos()
        found.append(
            WeightNormalised(loss, normal(case, f"WN {k} v", size), 1.5 + normal(case, f"WN {k} g", 1)[0].abs())
        )
    return found
