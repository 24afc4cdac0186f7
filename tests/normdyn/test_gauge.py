"""Gauge fixing against independent oracles: finite differences, a general convex solver, closed forms."""

import math

import pytest
import torch

from normdyn.networks.graphs import feedforward, hidden_mask, layered_matrix, layered_weights, mlp, random_dag
from normdyn.rescaling.gauge import METHODS, algorithm_1, convex_optimum, minimum_norm
from normdyn.rescaling.group import (
    entrywise_norm,
    incoming_outgoing,
    largest_safe_exponent,
    multiplicative_update,
    rescale,
    scatter,
)
from normdyn.rescaling.problems import RescalingProblem, VacuousUnit, check_graph

PAIRS = [(1, 1), (2, 2), (1, 2), (2, 1), (2, 8), (3, 1.5), (0.5, 2)]
GRID = (0.5, 1, 1.5, 2, 3, 5, 8)
WIDTHS = (5, 12, 9, 7, 3)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def heavy(widths=WIDTHS, seed: int = 0, spread: float = 1.0) -> list[torch.Tensor]:
    g = generator(seed)
    return [W * (spread * torch.randn(W.shape, generator=g).double()).exp() for W in layered_weights(widths, g)]


def norm_of(weights, z, p, q) -> float:
    """By the definition, on the rescaled matrix."""
    W, _ = layered_matrix(weights)
    return entrywise_norm(W * (z[:, None] - z).exp(), p=p, q=q).item()


# --- the sums -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p, q", PAIRS)
def test_a_pass_gives_both_sides_of_the_balance_of_the_matrix(p, q):
    weights = heavy()
    W, hidden = layered_matrix(weights)
    z = scatter(torch.randn(int(hidden.sum()), generator=generator(1), dtype=torch.float64), hidden)
    incoming, outgoing = incoming_outgoing(W * (z[:, None] - z).exp(), p=p, q=q)
    for problem in (
        RescalingProblem.layered(weights, p=p, q=q),
        RescalingProblem.graph(W, hidden, p=p, q=q),
        RescalingProblem.graph(W.to_sparse(), hidden, p=p, q=q),
    ):
        for _ in range(2):  # the second pass takes the shorter way
            log_in, log_out = problem.traverse(z)
            torch.testing.assert_close(log_in.exp()[~(log_in.isinf())], incoming[incoming > 0], rtol=1e-12, atol=0)
            torch.testing.assert_close(log_out[hidden].exp(), outgoing[hidden], rtol=1e-12, atol=0)


@pytest.mark.parametrize("p, q", PAIRS)
def test_out_minus_in_is_minus_the_gradient_of_the_norm(p, q):
    weights, step = heavy(), 1e-6
    problem = RescalingProblem.layered(weights, p=p, q=q)
    z = torch.zeros(len(problem.hidden), dtype=torch.float64)
    log_in, log_out = problem.traverse(z)
    total = log_in.logsumexp(0)
    gradient = ((log_in - total).exp() - (log_out - total).exp())[problem.hidden]
    differences = []
    for i in problem.hidden.nonzero().flatten():
        shift = torch.zeros_like(z)
        shift[i] = step
        differences.append(math.log(norm_of(weights, shift, p, q) / norm_of(weights, -shift, p, q)) / (2 * step))
    torch.testing.assert_close(gradient, torch.tensor(differences, dtype=torch.float64), rtol=1e-6, atol=1e-9)


# --- the optimum ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("p, q", PAIRS)
def test_layered_optimum_is_that_of_a_convex_solver(method, p, q):
    weights = heavy()
    z, norm = convex_optimum(weights, p=p, q=q)
    found = minimum_norm(weights, p=p, q=q, method=method, tolerance=1e-15, max_passes=5000)
    assert found.converged
    assert abs(found.norm / norm - 1) < 1e-12  # both solve to rounding; the norm is flat there
    torch.testing.assert_close(found.log_factors, z, rtol=0, atol=1e-5)


@pytest.mark.parametrize("p, q", PAIRS)
def test_graph_optimum_is_that_of_a_convex_solver(p, q):
    for seed in range(4):
        W, hidden = random_dag(generator(seed), hidden=12, spread=1.5)
        _, norm = convex_optimum(W, p=p, q=q, hidden=hidden)
        for form in (W, W.to_sparse()):
            problem = RescalingProblem.graph(form, hidden, p=p, q=q)
            assert abs(minimum_norm(problem, tolerance=1e-14).norm / norm - 1) < 1e-11


@pytest.mark.parametrize("p, q", PAIRS)
def test_algorithm_1_reaches_the_same_optimum_keeps_the_function_and_never_increases_the_norm(p, q):
    W, hidden = random_dag(generator(3))
    b, X = torch.randn(len(W), generator=generator(4)).double(), torch.randn(20, 3, generator=generator(5)).double()
    balanced, biases, history = algorithm_1(W, b, p=p, q=q, hidden=hidden)
    best = minimum_norm(RescalingProblem.graph(W, hidden, p=p, q=q), tolerance=1e-15)
    assert history["factor"][-1] <= 1e-12
    assert abs(history["norm"][-1] / best.norm - 1) < 1e-13
    assert (history["norm"].diff() <= 1e-14 * history["norm"][0]).all()
    torch.testing.assert_close(
        feedforward(balanced, biases, X, hidden), feedforward(W, b, X, hidden), rtol=1e-12, atol=1e-12
    )


def test_a_sweep_is_exact_on_one_layer_and_says_what_it_costs():
    weights = heavy([5, 8, 4])
    for p in (1, 2, 5):
        once = minimum_norm(weights, p=p, q=p, method="enorm", tolerance=0, max_passes=1)
        assert once.norm == pytest.approx(minimum_norm(weights, p=p, q=p, tolerance=1e-15).norm, rel=1e-12)
        assert once.passes == 1
    thrice = minimum_norm(weights, p=1, q=2, method="enorm", tolerance=0, max_passes=3)
    assert thrice.passes == 1.5 * len(thrice.history["norm"]) == 3  # for p != q row sums are needed once more


def test_the_layer_by_layer_form_makes_the_same_updates_as_the_matrix():
    weights = heavy()
    W, hidden = layered_matrix(weights)
    _, _, dense = algorithm_1(W, W[0] * 0, p=2, q=3, hidden=hidden, max_passes=30)
    layered = minimum_norm(weights, p=2, q=3, method="paper", tolerance=0, max_passes=31)
    torch.testing.assert_close(layered.history["norm"], dense["norm"], rtol=1e-13, atol=0)


def test_all_starts_on_an_orbit_lead_to_one_minimiser():
    W, hidden = random_dag(generator(6), hidden=10)
    limits = []
    for seed in range(5):
        z = scatter(3 * torch.randn(10, generator=generator(seed), dtype=torch.float64), hidden)
        V, _ = rescale(W, W[0] * 0, z.exp())
        found = minimum_norm(RescalingProblem.graph(V, hidden, p=2, q=3), tolerance=1e-20, max_passes=60)
        limits.append(z + found.log_factors)
    assert (torch.stack(limits) - limits[0]).abs().max() < 1e-8


@pytest.mark.parametrize("p, q", PAIRS)
def test_the_estimated_gap_is_the_true_one(p, q):
    weights = heavy((10, 30, 25, 20, 5), spread=1.5)
    _, norm = convex_optimum(weights, p=p, q=q)
    found = minimum_norm(weights, p=p, q=q, tolerance=1e-6)
    assert norm_of(weights, found.log_factors, p, q) / norm - 1 < 1e-6
    swept = minimum_norm(weights, p=p, q=q, method="enorm", tolerance=1e-6).history  # says what a sweep gained
    late = (swept["gap"] / (swept["norm"] / norm - 1))[-3:]
    assert (late > 0.45).all() and (late < 10).all(), late


# --- monotone, and where it ends ------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", GRID)
def test_the_parallel_update_never_increases_the_norm_up_to_the_safe_exponent(p):
    for q in GRID:
        for seed in range(6):
            W, hidden = random_dag(generator(seed), hidden=8, spread=2.0 * (seed % 3))
            for share in (1.0, 0.6):
                V = W
                for _ in range(4):
                    before = entrywise_norm(V, p=p, q=q)
                    a = multiplicative_update(V, hidden, p=p, q=q, exponent=share * largest_safe_exponent(p, q))
                    V, _ = rescale(V, V[0] * 0, a)
                    assert entrywise_norm(V, p=p, q=q) <= before * (1 + 1e-13)


def test_a_deep_chain_needs_the_exponent_one_over_2q():
    """With K hidden units in a row the threshold is (1 / 2q) 2 / (1 + cos(pi / (K + 1))), which tends to 1 / 2q."""
    for K, q in ((1, 2.0), (3, 1.0), (10, 4.0)):
        threshold = 1 / (q * (1 + math.cos(math.pi / (K + 1))))
        mode = torch.tensor([(-1.0) ** k * math.sin(math.pi * k / (K + 1)) for k in range(K + 2)]).double()
        for exponent, worse in ((threshold * 1.001, True), (threshold * 0.999, False)):
            W = torch.diag((1e-5 * mode.diff()).exp(), -1)
            a = multiplicative_update(W, hidden_mask(1, K, 1), p=2 * q, q=q, exponent=exponent)
            after, before = entrywise_norm(rescale(W, a, a)[0], p=q, q=q), entrywise_norm(W, p=q, q=q)
            assert (after.log() > before.log()) == worse, (K, q, exponent)


def test_a_unit_that_enters_a_dominated_row_needs_the_exponent_one_over_p():
    """Its outgoing weight w tends to zero; the output's own large weight hides it, and F grows like w^(1 - kappa p)."""
    p, q = 8.0, 1.0
    hidden = hidden_mask(2, 1, 1)
    for exponent, worse in ((1.1 / p, True), (1 / p, False)):
        W = torch.zeros(4, 4, dtype=torch.float64)
        W[2, 0], W[3, 1], W[3, 2] = 1.0, 1.0, 1e-30
        a = multiplicative_update(W, hidden, p=p, q=q, exponent=exponent)
        assert (entrywise_norm(rescale(W, a, a)[0], p=p, q=q) > entrywise_norm(W, p=p, q=q)) == worse


@pytest.mark.parametrize("p, q", [(p, q) for p in GRID for q in GRID])
def test_no_accelerated_pass_increases_the_norm(p, q):
    for seed in range(2):
        for weights in (heavy(seed=seed, spread=2.0), [W * 1e6 ** (l % 2) for l, W in enumerate(heavy(seed=seed))]):
            found = minimum_norm(weights, p=p, q=q, tolerance=1e-12)
            norms = torch.cat(
                [found.history["norm"], torch.tensor([norm_of(weights, found.log_factors, p, q)], dtype=torch.float64)]
            )
            assert found.converged
            assert (norms[1:] <= norms[:-1] * (1 + 1e-12)).all()


# --- speed of convergence -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p, q, method", [(2, 2, "paper"), (1, 2, "paper"), (2, 1, "paper"), (2, 8, "multiplicative"),
                                          (2, 2, "multiplicative"), (2, 1, "multiplicative")])  # fmt: skip
def test_convergence_factor_is_its_closed_form(p, q, method):
    """1 - 4 q kappa sin^2(pi / (2 (K + 1))) for K fully connected hidden layers."""
    for K in (4, 6):
        weights = [2.0**l * W for l, W in enumerate(layered_weights((40, *(50,) * K, 20), generator(K)))]
        kappa = 1 / (4 * max(p, q)) if method == "paper" else largest_safe_exponent(p, q)
        factor = 1 - 4 * q * kappa * math.sin(math.pi / (2 * (K + 1))) ** 2
        path = []
        minimum_norm(weights, p=p, q=q, method=method, tolerance=1e-16, callback=path.append)
        best = minimum_norm(weights, p=p, q=q, tolerance=1e-26, max_passes=40).log_factors
        distance = torch.stack([(z - best).norm() for z in path])
        last = int((distance > 1e-6).sum()) - 1
        assert abs(distance[last] / distance[last - 1] - factor) < 1e-4, K


def test_within_layers_the_update_contracts_at_a_rate_of_its_own():
    """One hidden layer, p < q: the layer as a whole contracts by 1 - 2 q kappa, its units only by 1 - (p + q) kappa."""
    p, q, kappa = 1, 2, 1 / 8
    weights = layered_weights((400, 100, 400), generator())
    path = []
    minimum_norm(weights, p=p, q=q, method="paper", tolerance=1e-16, callback=path.append)
    best = minimum_norm(weights, p=p, q=q, tolerance=1e-26, max_passes=40).log_factors
    distance = torch.stack([(z - best).norm() for z in path])
    last = int((distance > 1e-6).sum()) - 1
    assert abs(distance[last] / distance[last - 1] - (1 - (p + q) * kappa)) < 0.02  # up to 1 / sqrt(width) = 0.05


def test_few_passes_do_on_a_network_of_the_papers_figure():
    weights = layered_weights((200, 1000, 750, 750, 500, 500, 250, 10), generator())
    for p, q in ((2, 2), (2, 1), (2, 8)):
        reference = minimum_norm(weights, p=p, q=q, tolerance=1e-15)
        found = minimum_norm(weights, p=p, q=q, tolerance=1e-12)
        assert found.passes <= 8
        assert found.norm / reference.norm - 1 < 1e-12
        assert minimum_norm(weights, p=p, q=q, tolerance=1e-6).passes <= 5  # single precision


# --- extremes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p, q", [(64, 64), (2, 400), (400, 2), (400, 400), (0.1, 0.1), (1, 64)])
@pytest.mark.parametrize("imbalance", [1.0, 1e6, 1e60])
def test_extreme_exponents_and_imbalance_stay_finite_and_reach_balance(p, q, imbalance):
    weights = [W * imbalance ** (l % 2) for l, W in enumerate(heavy())]
    found = minimum_norm(weights, p=p, q=q, tolerance=1e-9, max_passes=3000)
    assert found.converged and math.isfinite(found.norm)
    assert found.log_factors.isfinite().all()
    assert (found.history["norm"].diff() <= 1e-12 * found.history["norm"][:-1]).all()


def test_powers_below_single_precision_are_not_lost():
    """Layers of 200 x 200 entries begin in single precision, where 1e-30 squared is zero."""
    weights = [
        W * scale
        for W, scale in zip(layered_weights((200, 200, 200, 200), generator()), (1e-30, 1e10, 1.0), strict=True)
    ]
    exact = minimum_norm(RescalingProblem.layered(weights, p=2, q=2, precise=True), tolerance=1e-12)
    found = minimum_norm(weights, p=2, q=2, tolerance=1e-9)
    torch.testing.assert_close(found.log_factors, exact.log_factors, rtol=0, atol=1e-4)
    X = torch.randn(10, 200, generator=generator(2)).double()
    balanced = RescalingProblem.layered(weights, p=2, q=2).rescaled(weights, found.log_factors)
    torch.testing.assert_close(mlp(balanced, X), mlp(weights, X), rtol=1e-11, atol=0)


def test_dead_outputs_and_unused_inputs_are_no_obstacle():
    weights = heavy()
    weights[0][:, 1] = 0
    weights[-1][2] = 0
    for p, q in PAIRS:
        found = minimum_norm(weights, p=p, q=q, tolerance=1e-14)
        assert abs(found.norm / convex_optimum(weights, p=p, q=q)[1] - 1) < 1e-11


# --- refusals -------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused_by_name():
    weights = heavy()
    with pytest.raises(ValueError, match="p must be a positive finite number, got 0"):
        minimum_norm(weights, p=0, q=2)
    with pytest.raises(ValueError, match="q must be a positive finite number, got -1"):
        minimum_norm(weights, p=1, q=-1)
    with pytest.raises(ValueError, match="method must be one of .*, got 'fast'"):
        minimum_norm(weights, p=1, q=1, method="fast")
    with pytest.raises(ValueError, match="max_passes must be 1 or more"):
        minimum_norm(weights, p=1, q=1, max_passes=0)
    with pytest.raises(ValueError, match="give p and q"):
        minimum_norm(weights)
    with pytest.raises(ValueError, match=r"weights\[1\] must be a matrix with 12 columns"):
        minimum_norm([weights[0], weights[2]], p=1, q=1)
    with pytest.raises(ValueError, match="not finite"):
        minimum_norm([weights[0] * math.nan, *weights[1:]], p=1, q=1)
    with pytest.raises(ValueError, match="not finite"):
        minimum_norm([*weights[:-1], weights[-1] / 0], p=2, q=1)
    problem = RescalingProblem.layered(weights, p=1, q=1)
    with pytest.raises(ValueError, match="leave p and q out"):
        minimum_norm(problem, p=2)


@pytest.mark.parametrize("method", METHODS)
def test_vacuous_units_are_refused_with_their_index(method):
    weights = heavy()
    weights[1][4] = 0
    with pytest.raises(VacuousUnit, match="unit 21 is vacuous: no nonzero weight enters it"):
        minimum_norm(weights, p=2, q=2, method=method)
    weights = heavy()
    weights[2][:, 3] = 0
    with pytest.raises(VacuousUnit, match="leaves"):
        minimum_norm(weights, p=2, q=1, method=method)


def test_graphs_are_checked():
    W, hidden = random_dag(generator())
    solve = lambda W, hidden=hidden: algorithm_1(W, W[0] * 0, p=2, q=2, hidden=hidden)
    with pytest.raises(ValueError, match="strictly lower triangular"):
        solve(W + torch.eye(len(W)))
    with pytest.raises(ValueError, match="not finite"):
        solve(W / 0)
    with pytest.raises(ValueError, match="must be square with 11 rows"):
        check_graph(W[:-1], hidden)
    V = W.clone()
    V[5] = 0
    with pytest.raises(VacuousUnit, match="unit 5"):
        solve(V)
    with pytest.raises(ValueError, match="p must be a positive finite number"):
        algorithm_1(W, W[0], p=-1, q=2, hidden=hidden)
    with pytest.raises(ValueError, match="strictly lower triangular"):
        RescalingProblem.graph(W.mT.to_sparse(), hidden, p=2, q=2)
    with pytest.raises(ValueError, match="build the problem by RescalingProblem.layered"):
        minimum_norm(RescalingProblem.graph(W, hidden, p=2, q=2), method="enorm")
