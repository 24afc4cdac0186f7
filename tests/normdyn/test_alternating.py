"""A sweep in two halves against updates made one after the other on the matrix itself."""

import math

import pytest
import torch

from normdyn.networks.graphs import layered_matrix, layered_weights
from normdyn.rescaling.alternating import Halves, Sweep
from normdyn.rescaling.gauge import minimum_norm
from normdyn.rescaling.group import entrywise_norm, incoming_outgoing, multiplicative_update
from normdyn.rescaling.problems import RescalingProblem, VacuousUnit

PAIRS = [(1, 1), (2, 2), (1, 2), (2, 1), (2, 8), (3, 1.5), (0.5, 2)]
DEPTHS = [(6, 9, 4), (5, 12, 9, 3), (5, 9, 12, 7, 3), (4, 8, 30, 8, 9, 3)]


def heavy(widths, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [W * (1.5 * torch.randn(W.shape, generator=g).double()).exp() for W in layered_weights(widths, g)]


def sweep_of(weights, p, q, exponent=0.1, z=None):
    problem = RescalingProblem.layered(weights, p=p, q=q)
    halves = Halves(problem)
    z = torch.zeros(len(problem.hidden), dtype=torch.float64) if z is None else z
    return problem, halves, Sweep(problem, halves, z, exponent)


def log_norm(W, z, p, q):
    return entrywise_norm(W * (z[:, None] - z).exp(), p=p, q=q).log().item()


@pytest.mark.parametrize("widths", DEPTHS)
@pytest.mark.parametrize("p, q", PAIRS)
def test_a_sweep_is_two_updates_of_the_matrix(p, q, widths):
    weights = heavy(widths)
    problem, halves, sweep = sweep_of(weights, p, q)
    W, hidden = layered_matrix(weights)
    z = sweep.z
    for half in (halves.first, halves.second):
        update = multiplicative_update(W * (z[:, None] - z).exp(), hidden, p=p, q=q, exponent=0.1).log()
        moved = torch.zeros_like(hidden)
        for l in half:
            moved[problem.layers[l]] = True
        z = torch.where(moved, z + update, z)
    torch.testing.assert_close(sweep.z + sweep.step, z, rtol=0, atol=1e-12)
    assert (sweep.z[~hidden] == 0).all() and (sweep.step[~hidden] == 0).all()


@pytest.mark.parametrize("widths", DEPTHS)
@pytest.mark.parametrize("p, q", PAIRS)
def test_layers_are_equal_before_it_and_both_norms_are_known(p, q, widths):
    weights = heavy(widths)
    start = torch.zeros(sum(widths), dtype=torch.float64)
    start[widths[0] : -widths[-1]] = torch.randn(sum(widths[1:-1]), generator=torch.Generator().manual_seed(1)).double()
    problem, _, sweep = sweep_of(weights, p, q, z=start)
    W, _ = layered_matrix(weights)
    incoming, _ = incoming_outgoing(W * (sweep.z[:, None] - sweep.z).exp(), p=p, q=q)
    totals = torch.stack([incoming[units].sum() for units in problem.layers[1:]])
    assert totals.log().std() < 1e-12
    assert abs(sweep.log_norm - log_norm(W, sweep.z, p, q)) < 1e-12
    assert abs(sweep.log_start - log_norm(W, start, p, q)) < 1e-12
    shift = (sweep.z - start).split(list(widths))
    assert max((part - part[0]).abs().max() for part in shift) < 1e-12  # constant on layers


@pytest.mark.parametrize("p, q", PAIRS)
def test_gradient_is_that_of_the_norm_for_the_half_that_moves_first(p, q):
    weights = heavy((5, 9, 12, 7, 3))
    problem, halves, sweep = sweep_of(weights, p, q)
    W, _ = layered_matrix(weights)
    for l in halves.first:
        for i in range(problem.layers[l].start, problem.layers[l].stop):
            shift = torch.zeros_like(sweep.z)
            shift[i] = 1e-6
            slope = (log_norm(W, sweep.z + shift, p, q) - log_norm(W, sweep.z - shift, p, q)) / 2e-6
            assert abs(sweep.gradient[i].item() - slope) < 1e-8


@pytest.mark.parametrize("p, q", PAIRS)
def test_safe_halves_never_increase_the_norm_and_bolder_ones_can(p, q):
    rises = dict.fromkeys((1.0, 2.5), 0)
    for seed in range(20):
        weights = heavy((4, 8, 30, 8, 9, 3), seed)
        W, _ = layered_matrix(weights)
        for factor in rises:
            safe = 1 / (q + max(p, q))
            _, halves, sweep = sweep_of(weights, p, q, exponent=factor * safe)
            assert halves.safe == safe
            rises[factor] += log_norm(W, sweep.z + sweep.step, p, q) > sweep.log_norm + 1e-13
    assert rises[1.0] == 0 < rises[2.5]


def test_for_equal_exponents_a_half_is_at_its_minimum():
    weights = heavy((5, 9, 12, 7, 3))
    problem, halves, sweep = sweep_of(weights, 2, 2, exponent=1 / 4)
    W, _ = layered_matrix(weights)
    last = torch.cat([torch.arange(problem.layers[l].start, problem.layers[l].stop) for l in halves.second])
    z = sweep.z + sweep.step
    incoming, outgoing = incoming_outgoing(W * (z[:, None] - z).exp(), p=2, q=2)
    torch.testing.assert_close(incoming[last], outgoing[last], rtol=1e-12, atol=0)


@pytest.mark.parametrize("p, q", [(2, 2), (2, 8)])
def test_cost_counts_every_reading_of_a_matrix(p, q):
    weights = heavy((4, 8, 30, 8, 9, 3))
    problem = RescalingProblem.layered(weights, p=p, q=q)
    halves, readings = Halves(problem), 0
    for block in problem.blocks:
        plain = block.sums

        def counted(x, *, transposed=False, plain=plain, block=block):
            nonlocal readings
            readings += block.weights.numel()
            return plain(x, transposed=transposed)

        block.sums = counted
    Sweep(problem, halves, torch.zeros(len(problem.hidden), dtype=torch.float64), 0.1)
    entries = sum(W.numel() for W in weights)
    free = weights[0].numel() + (weights[-1].numel() if p == q and len(weights) - 1 in halves.first else 0)
    assert readings == 2 * halves.passes * entries - free  # inputs need no column sums, nor some outputs row sums
    assert 1 <= halves.passes <= 1.25


@pytest.mark.parametrize("p, q", [(1, 1), (2, 2), (2, 8)])
def test_extrapolated_halves_need_half_the_passes_of_extrapolated_parallel_updates(p, q):
    weights = heavy((30, 60, 50, 40, 30, 10), seed=3)
    W, hidden = layered_matrix(weights)
    parallel = minimum_norm(RescalingProblem.graph(W, hidden, p=p, q=q, precise=True), tolerance=1e-10)
    halves = minimum_norm(weights, p=p, q=q, tolerance=1e-10)
    assert halves.norm == pytest.approx(parallel.norm, rel=1e-8)
    assert halves.passes < 0.7 * parallel.passes


def test_no_hidden_layer_is_no_work():
    _, halves, sweep = sweep_of([torch.tensor([[3.0, 4.0]])], 2, 2)
    assert sweep.largest == 0 and math.exp(sweep.log_norm) == pytest.approx(5) and not halves.first + halves.second


@pytest.mark.parametrize("where", [(0, 2, slice(None)), (1, slice(None), 2), (1, slice(None), slice(None))])
@pytest.mark.parametrize("p, q", [(2, 2), (2, 1)])
def test_vacuous_units_are_named(p, q, where):
    weights = heavy((5, 12, 9, 3))
    layer, *entries = where
    weights[layer][tuple(entries)] = 0
    with pytest.raises(VacuousUnit, match="unit 7 is vacuous" if entries != [slice(None)] * 2 else "unit"):
        sweep_of(weights, p, q)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(value):
    for layer in range(3):
        weights = heavy((5, 12, 9, 3))
        weights[layer][1, 1] = value
        with pytest.raises(ValueError, match="not finite"):
            sweep_of(weights, 2, 2)
