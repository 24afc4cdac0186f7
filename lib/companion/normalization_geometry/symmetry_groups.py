"""What decides the claims of Table 1 of paper C: how many symmetries a normalised network has, and which.

A symmetry's tangent does not move the outputs, so at a generic point the null space of their Jacobian holds all of
them and nothing else. Runs are in :mod:`companion.normalization_geometry.symmetry_groups_runs`.
"""

import torch
from torch import Tensor

from claimbook.evidence import Case, claim, equal, together
from companion.normalization_geometry import symmetry_groups_runs as runs
from companion.normalization_geometry.symmetry_groups_runs import STACKS
from normdyn.networks.normalizers import batch_norm, layer_norm
from normdyn.symmetry.continuous import Architecture, predicted_symmetries

USUAL = 1e-5  # epsilon as in common use
COUNT = "counts are whole numbers; zeros of the Jacobian lie ten orders below the other singular values"
EXACT = 1e-6  # of a count

# Table 1, row by row


def a_unit(widths: tuple[int, ...]) -> int:
    return sum(widths[1:-1])


def a_layer(widths: tuple[int, ...]) -> int:
    return len(widths) - 2


def dimensions(case: Case, names: str, kind: str, epsilon: float) -> list[int]:
    """Of what can be moved freely in networks of one, two and three blocks of tanh units with gains and shifts."""
    return [runs.free(case, Architecture(w, kind, "tanh", epsilon=epsilon), names, "stack") for w in STACKS]


@claim("C-symmetry-group-count", printed={"law": a_layer}, control={"epsilon": USUAL})
def scales_of_batch_normalisation(case, law=a_unit, epsilon=0.0):
    """The scales under batch normalisation make a group of one dimension a unit. Printed: one a layer.  C 4.1

    Counted in the weights alone, in networks of one to three blocks. Control: an epsilon.
    """
    return equal(
        measured=lambda: dimensions(case, "W", "batch", epsilon), predicted=lambda: [law(w) for w in STACKS],
        bound=EXACT, reason=COUNT,
    )  # fmt: skip


@claim("C-table1-bn", printed={"epsilon": USUAL}, control={"kind": "none"})
def scale_and_shift_of_each_unit(case, kind="batch", epsilon=0.0):
    """Under batch normalisation each unit has one scale and one shift, and there is nothing else.  C Table 1

    In weights alone, in biases alone, and among all parameters. Control: no normalisation.
    """
    return together(
        scales=equal(
            measured=lambda: dimensions(case, "W", kind, epsilon), predicted=lambda: [a_unit(w) for w in STACKS],
            bound=EXACT, reason=COUNT,
        ),
        shifts=equal(
            measured=lambda: dimensions(case, "b", kind, epsilon), predicted=lambda: [a_unit(w) for w in STACKS],
            bound=EXACT, reason=COUNT,
        ),
        both=equal(
            measured=lambda: dimensions(case, "Wb", kind, epsilon), predicted=lambda: [2 * a_unit(w) for w in STACKS],
            bound=EXACT, reason=COUNT,
        ),
    )  # fmt: skip


def layer_exact(z: Tensor) -> Tensor:
    return layer_norm(z)


def layer_usual(z: Tensor) -> Tensor:
    return layer_norm(z, epsilon=0.1)


def batch_usual(z: Tensor) -> Tensor:
    return batch_norm(z, epsilon=0.1)


def by_unit(z: Tensor) -> Tensor:
    return batch_norm(z)


INPUTS = (2, 4, 7)


@claim("C-table1-ln", printed={"columns": 0}, control={"normalizer": by_unit})
def scale_shift_and_columns(case, columns=1, normalizer=layer_exact):
    """A dense layer with k inputs has k + 2 symmetries under layer normalisation; over space it has two.  C Table 1

    Printed: two. Control: batch normalisation.
    """
    return together(
        dense=equal(
            measured=lambda: [n for k in INPUTS for n in runs.layer_freedoms(case, normalizer, k=k)],
            predicted=lambda: [2 + columns * k for k in INPUTS for _ in range(runs.LAYERS)], bound=EXACT, reason=COUNT,
        ),
        over_space=equal(
            measured=lambda: [n for k in INPUTS for n in runs.layer_freedoms(case, normalizer, k=k, places=5)],
            predicted=lambda: [2] * (len(INPUTS) * runs.LAYERS), bound=EXACT, reason=COUNT,
        ),
    )  # fmt: skip


@claim("C-ln-shift-group", printed={"columns": 0}, control={"kind": "batch", "normalizer": batch_usual})
def shifts_of_a_layer(case, columns=1, kind="layer", normalizer=layer_usual):
    """Under layer normalisation a shift alike for all units does nothing: one by the biases, k by the columns.  C 4.2

    With epsilon = 0.1, which leaves no scale. Printed: the one. Control: batch normalisation.
    """
    return together(
        move=equal(
            measured=lambda: runs.raised_columns(case, kind, 0.1, True),
            predicted=lambda: runs.raised_columns(case, kind, 0.1, False),
            bound=1e-11, reason="rounding of a finite move; 3 networks",
        ),
        biases=equal(
            measured=lambda: [n for k in INPUTS for n in runs.layer_freedoms(case, normalizer, "b", k=k)],
            predicted=lambda: [1] * (len(INPUTS) * runs.LAYERS), bound=EXACT, reason=COUNT,
        ),
        all=equal(
            measured=lambda: [n for k in INPUTS for n in runs.layer_freedoms(case, normalizer, k=k)],
            predicted=lambda: [1 + columns * k for k in INPUTS for _ in range(runs.LAYERS)], bound=EXACT, reason=COUNT,
        ),
    )  # fmt: skip


@claim("C-table1-wn", printed={"power": -1.0})
def one_direction_of_a_weight(case, power=0.0):
    """What does not move w = g v/|v| is the line through (v, 0), and no more. Printed: (v, -g).  C Table 1"""
    tangent = lambda v, g: torch.cat([v, power * g])
    return equal(
        measured=lambda: runs.weight_null_spaces(case),
        predicted=lambda: [
            torch.outer(t, t) / (t @ t) for t in (tangent(v, g) for v, g in runs.weight_points(case))
        ],
        bound=1e-12, reason="rounding of singular vectors; projectors at 5 points",
    )  # fmt: skip


# Ours


@claim("O-symmetry-count", control={"exact": True})
def all_symmetries_are_listed(case, exact=False):
    """The null space is the span of the listed tangents, and has the listed dimension, in 160 networks.  Ours

    Control: the list of epsilon = 0 for all of them.
    """
    some = lambda: [(a, runs.space(case, a, "", 3, runs.seen_on(a))) for a in runs.panel()]
    count = lambda a: sum(predicted_symmetries(Architecture(
        a.widths, a.normalizer, a.activation, a.affine, 0.0 if exact else a.epsilon, a.groups, a.kernel
    )).values())  # fmt: skip
    return together(
        number=equal(
            measured=lambda: [len(space.basis) for _, space in some()],
            predicted=lambda: [count(a) for a in runs.panel()], bound=EXACT, reason=COUNT,
        ),
        span=equal(
            measured=lambda: [space.basis.mT @ space.basis for _, space in some()],
            predicted=lambda: [runs.onto(runs.listed(case, a, exact)) for a in runs.panel()], scale=lambda: [1.0] * 160,
            bound=1e-9, reason="rounding of singular vectors, three orders above the largest that was met",
        ),
    )  # fmt: skip


@claim("O-one-batch-scale", control={"batches": 3})
def one_batch_has_its_scales(case, batches=1):
    """On one batch a unit's scale is undone by its gain, for every epsilon: there are as many symmetries as at zero.

    At epsilon = 0.3, factors 0.2 and 3. Control: three batches of different spread.  Ours
    """
    block = lambda epsilon: Architecture((3, 6, 2), "batch", "tanh", epsilon=epsilon)
    number = lambda epsilon: len(runs.space(case, block(epsilon), "batches", batches, 120 // batches).basis)
    return together(
        move=equal(
            measured=lambda: [f for c in (0.2, 3.0) for f in runs.compensated(case, batches, c)],
            predicted=lambda: runs.compensated(case, batches, 1.0) * 2,
            bound=1e-11, reason="rounding of a finite move; 3 networks",
        ),
        number=equal(
            measured=lambda: [number(0.3)], predicted=lambda: [12], bound=EXACT, reason=COUNT,
        ),
    )  # fmt: skip


@claim("O-column-sums", control=[{"kind": "batch"}, {"rules": ("adam",)}])
def descent_keeps_column_sums(case, kind="layer", rules=("gradient", "momentum")):
    """Under layer normalisation sums over units of weights and biases stay under descent, momentum, mini-batches.  Ours

    Controls: batch normalisation; Adam, whose steps are no sums of gradients.
    """
    paths = lambda: [one for rule in rules for one in runs.descended(case, kind, rule)]
    return equal(
        measured=lambda: [one.end.sum(0) for one in paths()], predicted=lambda: [one.start.sum(0) for one in paths()],
        scale=lambda: [(one.end - one.start).norm() for one in paths()],
        bound=1e-11, reason="rounding over 200 steps, relative to the way that was gone; 3 networks",
    )  # fmt: skip
