"""E Fig. 2 with the weights left as they are, against Algorithm 1 as it is printed, on networks of a few units."""

import pytest
import torch

from claimbook.evidence import Case
from claimbook.show import results
from companion.weight_balancing import figure_two
from companion.weight_balancing.figure_two import PANELS, SEEDS, Curves, algorithm_1, equalised, narrow
from normdyn.networks.graphs import layered_matrix, layered_weights
from normdyn.rescaling import gauge

WIDTHS = (4, 7, 6, 3)


def networks(count):
    draw = torch.Generator().manual_seed(1)
    return [layered_weights(WIDTHS, draw) for _ in range(count)]


@pytest.mark.parametrize("p, q", PANELS)
def test_norms_are_those_of_algorithm_1(p, q):
    nets = networks(3)
    norms = algorithm_1([torch.stack(layer).abs() ** p for layer in zip(*nets, strict=True)], p, [q, 3.0], 40)
    assert norms.shape == (2, 3, 41)
    for weights, found in zip(nets, norms[0], strict=True):
        W, hidden = layered_matrix(weights)
        *_, history = gauge.algorithm_1(W, 0 * W[0], p=p, q=q, hidden=hidden, max_passes=40, tolerance=0)
        assert torch.allclose(found, history["norm"], rtol=1e-12)


def test_equalised_layers_have_one_total():
    powers = [torch.stack(layer).abs() for layer in zip(*networks(2), strict=True)]
    q = torch.tensor([1.0, 2.0], dtype=torch.float64)
    z = equalised(powers, [torch.zeros(2, width, 2, dtype=torch.float64) for width in WIDTHS], 1, q)
    totals = torch.stack([side.sum(1) for side in figure_two.traverse(powers, z, 1, q)[0]])
    assert torch.allclose(totals, totals[:1].expand_as(totals), rtol=1e-12)


def test_the_excess_goes_from_one_to_zero():
    curves = narrow(Case(3), shapes=(WIDTHS,), part=1)
    assert curves.ratio.shape == (len(PANELS), 1, SEEDS, 201)
    excess = curves.excess()
    assert torch.allclose(excess[..., 0], torch.ones_like(excess[..., 0]))
    assert (excess.diff(dim=-1) < 1e-5).all() and excess[..., -1].abs().max() < 0.05
    assert isinstance(figure_two.joined([curves, curves], 1), Curves)


def test_the_stored_runs_are_of_today():
    stored, origin = results.load(figure_two.STORED)
    assert origin.is_current and set(stored) == {
        f"{a}_{b}" for a in ("ratio", "least") for b in ("as_drawn", "equalised")
    }
    assert stored["ratio_as_drawn"].shape == (len(PANELS), 3, SEEDS, figure_two.UPDATES + 1)
