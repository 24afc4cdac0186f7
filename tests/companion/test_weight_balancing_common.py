"""What the chapters of paper E share: the fast Newton minimiser against the library's."""

import torch

from claimbook.evidence import Case
from companion.weight_balancing.common import Problem, minimisers, problems, rescaled, sides, stacks
from normdyn.networks.graphs import layered_matrix, layered_weights
from normdyn.rescaling.group import orbit_minimum

WIDTHS = ((5, 7, 4), (6, 9, 8, 3), (4, 7, 6, 7, 5))


def test_minimisers_agree_with_the_trust_region():
    some = problems(Case(0), "test", count=1)
    for s, z in zip(some, minimisers(some), strict=True):
        expected = orbit_minimum(s.W, s.hidden, p=s.p, q=s.q).log()
        assert torch.allclose(z, expected, rtol=0, atol=1e-9)


def test_minimisers_balance_large_exponents():
    """Steps that raise the norm are halved: q = 8 on layered networks has sharp valleys."""
    nets = [layered_matrix(layered_weights(w, Case(s).generator("layers"))) for s in range(3) for w in WIDTHS]
    some = [Problem(W, hidden, 2, q) for W, hidden in nets for q in (8, 16)]
    for s, z in zip(some, minimisers(some), strict=True):
        into, out = sides(rescaled(s, z.exp()))
        assert torch.allclose(into, out, rtol=1e-9)


def test_one_without_a_minimum_does_not_stop_the_others():
    W, hidden = layered_matrix(layered_weights((3, 4, 2), Case(0).generator("layers")))
    dead = W.clone()
    dead[:, 3] = 0  # nothing leaves the first hidden unit
    z = minimisers([Problem(V, hidden, 2, 2) for V in (dead, W)])[1]
    into, out = sides(rescaled(Problem(W, hidden, 2, 2), z.exp()))
    assert torch.allclose(into, out, rtol=1e-9)


def test_stacks_keep_order_and_weights():
    some = problems(Case(0), "test", count=2)
    assert all(torch.equal(W, s.W) for W, s in zip([W for stack in stacks(some) for W in stack.W], some, strict=True))
