"""Runs of Table 1 of paper C: null spaces of Jacobians, in which no symmetry is known beforehand."""

from dataclasses import replace
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from claimbook.evidence import Case, Unfinished, shared
from companion.theory_iii.hidden_complexity_control_runs import normal
from normdyn.motion.flows import Params, gradient
from normdyn.networks.losses import square_loss
from normdyn.networks.normalizers import Normalizer, weight_norm
from normdyn.symmetry import continuous as symmetry
from normdyn.symmetry.continuous import Architecture, NullSpace

LAYERS = 3  # draws of a layer
STACKS = ((3, 6, 2), (3, 6, 5, 2), (3, 5, 4, 4, 2))

# Networks


class Point(NamedTuple):
    """A network at a generic point, with the inputs on which its function is seen."""

    architecture: Architecture
    params: Params
    inputs: list[Tensor]
    statistics: list[tuple[Tensor, Tensor]]

    def outputs(self, params: Params) -> Tensor:
        return symmetry.outputs(self.architecture, params, self.inputs, self.statistics)


@shared
def point(case: Case, a: Architecture, role: str = "", batches: int = 3, samples: int = 40) -> Point:
    """Parameters and inputs, with as many samples in every batch."""
    generator = case.generator(f"C groups {role} {a.widths} {a.normalizer} {a.activation} {a.affine} {a.kernel}")
    return Point(a, *symmetry.draw(a, generator, batches=batches, samples=samples))


def decided(jacobian: Tensor) -> NullSpace:
    """The null space, where a gap in the singular values tells zeros from others."""
    try:
        return symmetry.null_space(jacobian)
    except ValueError as reason:
        raise Unfinished(str(reason)) from reason


@shared
def space(case: Case, a: Architecture, role: str = "", batches: int = 3, samples: int = 40) -> NullSpace:
    """All directions in which the function does not change."""
    at = point(case, a, role, batches, samples)
    return decided(symmetry.jacobian(at.outputs, at.params))


@shared
def free(case: Case, a: Architecture, names: str, role: str = "") -> int:
    """Dimension of the directions that move only the hidden weights ``W``, only the biases ``b``, or both, ``Wb``.

    Zeros are told by the size of the whole Jacobian: that in the biases alone may be nothing but rounding.
    """
    at = point(case, a, role, 3, 50)
    whole = symmetry.jacobian(at.outputs, at.params)
    starts = torch.tensor([value.numel() for value in at.params.values()]).cumsum(0).tolist()
    blocks = zip(at.params, [0, *starts], starts, strict=False)
    moving = torch.cat([whole[:, i:j] for key, i, j in blocks if key.rstrip("0123456789") in names], 1)
    values = torch.linalg.svdvals(moving) / torch.linalg.matrix_norm(whole, 2)
    if ((values > 1e-13) & (values < 1e-9)).any():
        raise Unfinished("a singular value is neither zero nor another")
    return int((values < 1e-11).sum())


@shared
def panel() -> list[Architecture]:
    """Dense and convolutional blocks, one or two of them, ReLU and tanh, with and without gains, epsilon 0 and 0.3."""
    shapes = [((3, 6, 2), 0), ((3, 6, 6, 2), 0), ((2, 6, 2), 3)]
    return [
        Architecture(widths, kind, activation, affine, epsilon, 2, kernel)
        for (widths, kernel), kind, activation, affine, epsilon in product(
            shapes, symmetry.NORMALIZERS, ("relu", "tanh"), (True, False), (0.0, 0.3)
        )
        if kernel or kind not in ("place", "instance")
    ]


def seen_on(a: Architecture) -> int:
    """Samples a batch."""
    return 40 if len(a.widths) == 3 else 80


@shared
def listed(case: Case, a: Architecture, exact: bool = False) -> Tensor:
    """Tangents of the symmetries on our list; with ``exact`` those of epsilon = 0."""
    at = point(case, a, "", 3, seen_on(a))
    of = replace(a, epsilon=0.0) if exact else a
    return symmetry.generators(of, at.params, at.inputs, at.statistics)[1]


def onto(rows: Tensor) -> Tensor:
    """The orthogonal projector onto the span of rows."""
    if not len(rows):
        return torch.zeros(rows.shape[1], rows.shape[1]).double()
    _, values, right = torch.linalg.svd(rows / rows.norm(dim=1, keepdim=True), full_matrices=False)
    span = right[values > 1e-9 * values[0]]
    return span.mT @ span


@shared
def found_blindly(case: Case) -> tuple[Point, list[str], Tensor, float]:
    """The null space of a BN-ReLU block in its sparsest basis, in the order of our list, and its distance from it."""
    at = point(case, Architecture((3, 6, 2), "batch", "relu"), "blind")
    names, rows = symmetry.generators(at.architecture, at.params, at.inputs, at.statistics)
    blind = symmetry.reduced(decided(symmetry.jacobian(at.outputs, at.params)).basis)
    known = rows / rows.gather(1, rows.abs().argmax(1, keepdim=True))
    distance, order = torch.cdist(blind, known).min(0)
    kinds = ["scale", "shift", "ReLU"]
    by_kind = sorted(range(len(names)), key=lambda i: (kinds.index(names[i].split()[0]), i))
    return at, [names[i] for i in by_kind], blind[order[by_kind]], distance.max().item()


# One layer


@shared
def layer_freedoms(case: Case, normalizer: Normalizer, names: str = "Wb", *, k: int = 4, places: int = 0) -> list[int]:
    """Dimension of the symmetries of a layer's map from its inputs to its normalised values; six units."""
    found = []
    for role in range(LAYERS):
        draw = lambda name, *shape, role=role: normal(case, f"C layer {role} {k} {places} {name}", *shape)
        X, params = draw("X", 60, k, *(places,) * bool(places)), {"W": draw("W", 6, k), "b": draw("b", 6)}

        def values(moving: Params, X: Tensor = X, params: Params = params) -> Tensor:
            p = params | moving
            return normalizer(torch.einsum("nk...,dk->nd...", X, p["W"]) + p["b"].reshape(-1, *(1,) * bool(places)))

        moving = {name: params[name] for name in names}
        found.append(len(decided(symmetry.jacobian(values, moving)).basis))
    return found


@shared
def raised_columns(case: Case, kind: str, epsilon: float, moved: bool) -> list[Tensor]:
    """Outputs of networks before, or after a random number is added to each column of a layer and one to its bias."""
    found, a = [], Architecture((4, 6, 6, 2), kind, "tanh", epsilon=epsilon)
    for role in range(LAYERS):
        at = point(case, a, f"columns {role}")
        u, t = normal(case, f"C raised {role}", 1, 6), normal(case, f"C raised bias {role}", 1)
        new = {"W1": at.params["W1"] + u, "b1": at.params["b1"] + t} if moved else {}
        found.append(at.outputs(at.params | new))
    return found


@shared
def weight_points(case: Case) -> list[tuple[Tensor, Tensor]]:
    """Five points (v, g) of weight normalisation."""
    return [(normal(case, f"C wn {k} v", 5), 1 + normal(case, f"C wn {k} g", 1).abs()) for k in range(5)]


@shared
def weight_null_spaces(case: Case) -> list[Tensor]:
    """Projectors onto what does not move w, in the space of (v, g)."""
    seen = lambda p: weight_norm(p["v"][None], p["g"])[0]
    spaces = [decided(symmetry.jacobian(seen, {"v": v, "g": g})) for v, g in weight_points(case)]
    return [one.basis.mT @ one.basis for one in spaces]


# Epsilon, and sums


@shared
def compensated(case: Case, batches: int, c: float, epsilon: float = 0.3) -> list[Tensor]:
    """Outputs when first-layer weights are multiplied by c and gains undo it for the first batch; c = 1 is before."""
    found, a = [], Architecture((3, 6, 2), "batch", "tanh", epsilon=epsilon)
    for role in range(LAYERS):
        at = point(case, a, f"compensated {role}", batches, 120 // batches)
        variance = (at.inputs[0] @ at.params["W0"].mT).var(0, correction=0)
        gain = at.params["gain0"] / c * ((c**2 * variance + epsilon) / (variance + epsilon)).sqrt()
        found.append(at.outputs(at.params | {"W0": c * at.params["W0"], "gain0": gain}))
    return found


EPSILONS = torch.logspace(-8, 0, 17).double()
WAYS = {  # name -> normalisation, gains, batches
    "BN, three batches": ("batch", False, 3),
    "BN with gains, three batches": ("batch", True, 3),
    "BN with gains, one batch": ("batch", True, 1),
    "LN": ("layer", False, 3),
    "WN": ("weight", False, 3),
}


@shared
def lifted(case: Case, way: str, epsilon: float) -> float:
    """Largest of the singular values that are zero at epsilon = 0, over the largest of all; shifts stay zero."""
    kind, affine, batches = WAYS[way]
    exact = Architecture((3, 6, 2), kind, "tanh", affine)
    zeros = sum(symmetry.predicted_symmetries(exact).values())
    at = point(case, exact, "lifted", batches, 120 // batches)._replace(architecture=replace(exact, epsilon=epsilon))
    values = torch.linalg.svdvals(symmetry.jacobian(at.outputs, at.params))
    return (values[-zeros] / values[0]).item()


class Descended(NamedTuple):
    """Weights and biases of the first layer in one matrix, before and after descent."""

    start: Tensor
    end: Tensor


@shared
def descended(case: Case, kind: str, rule: str, steps: int = 200) -> list[Descended]:
    """Descent on mini-batches by gradient, by momentum of 0.9, or by Adam, whose steps are no sums of gradients."""
    found, a = [], Architecture((3, 6, 2), kind, "tanh")
    for role in range(LAYERS):
        at = point(case, a, f"descended {role}", 4, 15)
        goals = [normal(case, f"C descended {role} {k}", 15, 2) for k in range(4)]
        loss = lambda p, k, at=at, goals=goals: square_loss(
            symmetry.outputs(at.architecture, p, [at.inputs[k]], at.statistics), goals[k]
        )
        slope, p = gradient(loss), {n: x.clone() for n, x in at.params.items()}
        first, second = ({n: torch.zeros_like(x) for n, x in p.items()} for _ in range(2))
        keep = {"gradient": 0.0, "momentum": 0.9, "adam": 0.9}[rule]
        for step in range(steps):
            g = slope(p, step % 4)
            first = {n: keep * first[n] + g[n] for n in p}
            second = {n: 0.99 * second[n] + 0.01 * g[n].square() for n in p}
            move = {n: first[n] / (second[n].sqrt() + 1e-8) / 10 if rule == "adam" else first[n] for n in p}
            p = {n: p[n] - 0.05 * move[n] for n in p}
        joint = lambda p: torch.cat([p["W0"], p["b0"][:, None]], 1)
        found.append(Descended(joint(at.params), joint(p)))
    return found


def few_samples(case: Case, counts: tuple[int, ...] = (4, 6, 8, 12, 40)) -> list[int]:
    """Directions that do nothing in a BN-tanh block with three inputs, on so many samples of one batch."""
    a = Architecture((3, 6, 2), "batch", "tanh")
    return [len(space(case, a, "few", 1, n).basis) for n in counts]


def idle_unit(case: Case) -> int:
    """Symmetries of a BN-ReLU block in which one unit is shifted far below what a normalised value can reach."""
    at = point(case, Architecture((3, 6, 2), "batch", "relu"), "idle")
    shift = at.params["shift0"].clone()
    shift[2] = -20.0
    params = at.params | {"shift0": shift}
    return len(decided(symmetry.jacobian(at.outputs, params)).basis)
