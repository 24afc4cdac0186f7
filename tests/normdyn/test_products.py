"""The two ways to take a step's inner products against each other and against plain sums; sums over later biases."""

import pytest
import torch
from torch import nn

from normdyn.norms.calls import Calls
from normdyn.norms.products import NAMES, PIECE, Pieces, Rows

SHAPES = [(40, 2000), (40,), (7, 40), (12, 2, 3, 3), (5, 12, 2, 2), (1,), ()]
JUNCTIONS = [(0, 2), (3, 4)]


def step(dtype, change):
    """Tensors before and after, and gradients: the same, multiplied, or with noise."""
    draw = torch.Generator().manual_seed(0)
    noise = lambda size: [torch.randn(s, generator=draw).to(dtype) * size for s in SHAPES]
    W, G = noise(1.0), noise(1e-2)
    V = [w - 0.1 * g for w, g in zip(W, G, strict=True)]
    found = {"same": [None] * len(G), "factor": [g / 3 for g in G], "noise": [g + 1e-3 * g.abs().max() for g in G]}
    return W, G, V, found[change]


def measured(kind, W, G, V, found):
    products = kind([w.clone() for w in W], JUNCTIONS)
    for place, g in zip(products.received, G, strict=True):
        place.copy_(g)
    products.begin(W, found)
    return products.finish(V), products.balances()


@pytest.mark.parametrize("change", ["same", "factor", "noise"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_piece_by_piece_is_all_at_once(dtype, change):
    assert SHAPES[0][0] * SHAPES[0][1] > PIECE  # several pieces
    W, G, V, found = step(dtype, change)
    one, other = (measured(kind, W, G, V, found) for kind in (Pieces, Rows))
    for k, (w, g, v) in enumerate(zip(W, G, V, strict=True)):
        w, G_, v = (x.double().flatten() for x in (w, g, v))
        f = G_ if found[k] is None else found[k].double().flatten()
        values = {"W": w, "G": G_, "g": f, "d": f - G_, "V": v, "u": v - w}
        slow = torch.stack([values[n[0]] @ values[n[1]] for n in NAMES])
        sizes = torch.stack([values[n[0]].norm() * values[n[1]].norm() for n in NAMES])
        exact = change != "same" or dtype == torch.float64
        for products in (one[0], other[0]):
            loose = torch.tensor([not exact and "g" in n.lower() for n in NAMES])
            bar = torch.where(loose, 1e-5, 1e-13) * sizes + 1e-14 * (w @ w)
            assert ((products[k] - slow).abs() <= bar).all()
    for a, b, (below, _) in zip(one[1], other[1], JUNCTIONS, strict=True):
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-13 * float(W[below].double().square().sum()))


def test_small_gradients_in_float32_are_multiplied_in_float64():
    W, G, V, found = step(torch.float32, "same")
    tiny = [g * 1e-28 for g in G]
    products, _ = measured(Pieces, W, tiny, V, found)
    slow = torch.stack([g.double().square().sum() for g in tiny])
    assert torch.allclose(products[:, NAMES.index("gg")], slow, rtol=1e-12, atol=0)


def test_sums_over_later_biases_against_a_search():
    """Modules are called once, twice or never; a parameter may belong to a module that is none of them."""
    modules = {name: nn.Linear(1, 1) for name in "abcde"} | {"n": nn.LayerNorm(1)}
    called = ["a", "b", "a", "c", "n", "d"]
    names = ["p", *(f"{m}.{kind}" for m in modules for kind in ("weight", "bias"))]
    calls = Calls(called, modules, names)
    values = torch.randn(4, len(names), generator=torch.Generator().manual_seed(0))
    above = calls.bias_sums(values)
    for name in names:
        owner = name.rpartition(".")[0]
        start = called.index(owner) if owner in called else 0
        later = set(called[start:])
        columns = [k for k, n in enumerate(names) if n.endswith("bias") and n[0] in later]
        assert torch.allclose(above(name), values[:, columns].sum(1)) and calls.has_biases(name, 1.0)
        short = list(calls.after(name, 0))
        assert set(short) <= later and [m for m in short if m == "n" and m != owner] in ([], short[-1:])
        below = [
            k for k, n in enumerate(names) if n.endswith("bias") and n[0] in short and (n[0] != "n" or owner == "n")
        ]
        assert torch.allclose(above(name, 0.0), values[:, below].sum(1))
