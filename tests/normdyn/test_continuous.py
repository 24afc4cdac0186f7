"""Symmetries counted from the Jacobian against the predicted counts, the listed tangents, and finite moves."""

from itertools import product

import pytest
import torch
from numpy.testing import assert_allclose

from normdyn.symmetry import continuous as symmetry
from normdyn.symmetry.continuous import Architecture

SHAPES = {"dense": ((3, 6, 2), 0), "deep": ((4, 6, 6, 2), 0), "convolutional": ((2, 6, 2), 3)}


def case(architecture, *, batches=3, seed=0):
    params, inputs, statistics = symmetry.draw(
        architecture, torch.Generator().manual_seed(seed), batches=batches, samples=210 // batches
    )
    return (lambda p: symmetry.outputs(architecture, p, inputs, statistics)), params, inputs, statistics


def architectures():
    for shape, kind, activation, affine, epsilon in product(
        SHAPES, symmetry.NORMALIZERS, ("relu", "tanh"), (True, False), (0.0, 0.3)
    ):
        widths, kernel = SHAPES[shape]
        if kernel or kind not in ("place", "instance"):
            yield Architecture(widths, kind, activation, affine, epsilon, 2, kernel)


@pytest.mark.parametrize("architecture", list(architectures()), ids=str)
def test_null_space_has_the_predicted_dimension_and_is_spanned_by_the_list(architecture):
    for batches in (1, 3) if architecture.normalizer == "batch" else (3,):
        function, params, inputs, statistics = case(architecture, batches=batches)
        space = symmetry.null_space(symmetry.jacobian(function, params))
        names, rows = symmetry.generators(architecture, params, inputs, statistics)
        assert len(space.basis) == sum(symmetry.predicted_symmetries(architecture, batches=batches).values())
        sine, beyond = symmetry.unexplained(space, rows)
        assert sine < 1e-8 and beyond == 0
        assert len(names) == len(set(names)) == len(rows)


@pytest.mark.parametrize("kind", symmetry.NORMALIZERS)
def test_names_count_like_the_prediction(kind):
    architecture = Architecture((2, 6, 6, 2), kind, "relu", kernel=3)
    _, params, inputs, statistics = case(architecture)
    names, _ = symmetry.generators(architecture, params, inputs, statistics)
    counted = {}
    for name in names:
        counted[name.split()[0]] = counted.get(name.split()[0], 0) + 1
    assert counted == symmetry.predicted_symmetries(architecture)


def test_finite_moves_of_a_batch_normalised_relu_block():
    function, params, *_ = case(Architecture((3, 6, 2), "batch", "relu"))
    moved = {name: value.clone() for name, value in params.items()}
    moved["W0"][1] *= 7.0
    moved["b0"][2] += 5.0
    moved["gain0"][3], moved["shift0"][3], moved["V"][:, 3] = (
        4 * params["gain0"][3], 4 * params["shift0"][3], params["V"][:, 3] / 4,
    )  # fmt: skip
    assert_allclose(function(moved), function(params), atol=1e-12)
    moved["gain0"][1] /= 7.0
    assert (function(moved) - function(params)).abs().max() > 0.01


def test_one_batch_with_epsilon_has_a_finite_symmetry_that_two_batches_break():
    architecture = Architecture((3, 6, 2), "batch", "tanh", epsilon=0.3)
    for batches, same in ((1, True), (2, False)):
        function, params, inputs, _ = case(architecture, batches=batches)
        variance = (inputs[0] @ params["W0"].mT).var(0, correction=0)[1]
        moved = {name: value.clone() for name, value in params.items()}
        moved["W0"][1] *= 3.0
        moved["gain0"][1] *= ((9 * variance + 0.3) / (variance + 0.3)).sqrt() / 3
        assert bool((function(moved) - function(params)).abs().max() < 1e-12) is same


def test_null_space_of_a_known_matrix():
    q = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    matrix = torch.diag(torch.tensor([2.0, 1.0, 0.5], dtype=torch.float64)) @ q[:3]
    space = symmetry.null_space(matrix)
    assert_allclose(space.basis @ q[3:].mT @ q[3:], space.basis, atol=1e-14)
    assert_allclose(space.values, [2.0, 1.0, 0.5, 0.0, 0.0], atol=1e-14)
    assert space.gap > 1e10
    assert len(symmetry.null_space(q).basis) == 0
    assert len(symmetry.null_space(torch.zeros(2, 3, dtype=torch.float64)).basis) == 3


def test_null_space_refuses_what_it_cannot_decide():
    slope = torch.diag(torch.logspace(0, -15, 40, dtype=torch.float64))
    with pytest.raises(ValueError, match="no gap of 10000 between singular values"):
        symmetry.null_space(slope)
    with pytest.raises(ValueError, match="matrix must be float64"):
        symmetry.null_space(torch.eye(2))


def test_bad_architectures_are_refused():
    with pytest.raises(ValueError, match="choose among none, batch"):
        Architecture(normalizer="spectral")
    with pytest.raises(ValueError, match="needs space: give a kernel"):
        Architecture(normalizer="instance")
    with pytest.raises(ValueError, match="6 units make no 3 equal groups of three or more"):
        Architecture((3, 6, 2), "group", groups=3)


def test_reduced_finds_disjoint_rows_again():
    rows = torch.zeros(3, 9, dtype=torch.float64)
    rows[0, :3], rows[1, 4], rows[2, 5:] = torch.tensor([1.0, -2.0, 0.5]), 3.0, torch.tensor([1.0, 1.0, 0.0, -4.0])
    mix = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert_allclose(symmetry.reduced(mix @ rows), rows / torch.tensor([[-2.0], [3.0], [-4.0]]), atol=1e-12)


def test_unexplained_sees_a_wrong_and_a_missing_tangent():
    architecture = Architecture((3, 6, 2), "batch", "relu")
    function, params, inputs, statistics = case(architecture)
    space = symmetry.null_space(symmetry.jacobian(function, params))
    _, rows = symmetry.generators(architecture, params, inputs, statistics)
    assert symmetry.unexplained(space, rows[1:])[1] == 1
    wrong = rows.clone()
    wrong[0] += 0.1 * rows.abs().max() * torch.eye(len(rows[0]), dtype=rows.dtype)[-1]
    assert symmetry.unexplained(space, wrong)[0] > 1e-3


def test_two_blocks_can_undo_each_other_on_two_batches():
    architecture = Architecture((4, 6, 6, 2), "batch", "relu", affine=False, epsilon=0.3)
    extra = {}
    for batches in (2, 3):
        function, *_ = drawn = case(architecture, batches=batches)
        extra[batches] = len(symmetry.null_space(symmetry.jacobian(function, drawn[1])).basis) - 12
    assert extra == {2: 1, 3: 0}
    with pytest.raises(ValueError, match="one, or three and more"):
        symmetry.predicted_symmetries(architecture, batches=2)


def test_units_that_never_meet_have_a_symmetry_of_their_own():
    architecture = Architecture((4, 6, 6, 2), "batch", "relu")
    generator = torch.Generator().manual_seed(0)
    params, inputs, statistics = symmetry._draw(architecture, generator, 1, 200, 6)
    assert symmetry.pattern_margin(architecture, params, inputs, statistics) == 0
    function = lambda p: symmetry.outputs(architecture, p, inputs, statistics)
    assert len(symmetry.null_space(symmetry.jacobian(function, params)).basis) == 36 + 1
    params, inputs, statistics = symmetry.draw(architecture, torch.Generator().manual_seed(0), batches=1, samples=200)
    assert symmetry.pattern_margin(architecture, params, inputs, statistics) >= 0.03
    with pytest.raises(ValueError, match="share their patterns on 2 samples"):
        symmetry.draw(architecture, torch.Generator().manual_seed(0), batches=1, samples=2)


def test_units_with_the_same_pattern_mix():
    architecture = Architecture((3, 6, 2), "none", "relu", affine=False)
    params, inputs, statistics = symmetry.draw(architecture, torch.Generator().manual_seed(0))
    shared = dict(params)
    shared["W0"], shared["b0"] = params["W0"].clone(), params["b0"].clone()
    shared["W0"][1], shared["b0"][1] = params["W0"][0] + 1e-3 * params["W0"][1], params["b0"][0]
    function = lambda p: symmetry.outputs(architecture, p, inputs, statistics)
    assert symmetry.pattern_margin(architecture, shared, inputs, statistics) == 0
    assert len(symmetry.null_space(symmetry.jacobian(function, shared)).basis) == 6 + 2
