"""A stack trained by an optimiser of torch is its networks one by one; stopping rules copy where they first hold."""

import pytest
import torch

from companion.normalization_geometry.protocols import OPTIMISERS, train

G = torch.Generator().manual_seed(0)
X = torch.randn(3, 12, 4, generator=G, dtype=torch.float64)
Y = torch.randn(3, 12, generator=G, dtype=torch.float64)
START = {
    "W": torch.randn(3, 5, 4, generator=G, dtype=torch.float64),
    "v": torch.randn(3, 5, generator=G, dtype=torch.float64),
}


def losses(params, X=X, Y=Y):
    f = (torch.tanh(X @ params["W"].mT) @ params["v"][..., None])[..., 0]
    return {"loss": (f - Y).square().mean(1)}


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_stack_is_its_networks_by_themselves(optimiser):
    together = train(losses, START, optimiser=optimiser, rate=0.05, steps=30)
    for k in range(3):
        alone = {name: p[k].clone().requires_grad_() for name, p in START.items()}
        stepper = OPTIMISERS[optimiser](list(alone.values()), 0.05)
        for _ in range(30):
            stepper.zero_grad()
            f = torch.tanh(X[k] @ alone["W"].mT) @ alone["v"]
            (f - Y[k]).square().mean().backward()
            stepper.step()
        for name, p in alone.items():
            assert (together.end[name][k] - p).abs().max() < 1e-12, name


def test_the_start_is_left_as_it_was():
    before = {name: p.clone() for name, p in START.items()}
    train(losses, START, optimiser="Adam", rate=0.1, steps=3)
    assert all(torch.equal(before[name], p) for name, p in START.items())


def test_rules_copy_networks_where_they_first_hold():
    whole = train(losses, START, optimiser="descent", rate=0.05, steps=40)
    level = whole.seen["loss"][20].max()
    run = train(
        losses, START, optimiser="descent", rate=0.05, steps=40, until={"low": lambda seen: seen["loss"] < level}
    )
    first = (whole.seen["loss"] < level).to(torch.int8).argmax(0)
    assert run.reached["low"].tolist() == first.tolist()
    assert torch.allclose(losses(run.copies["low"])["loss"], whole.seen["loss"].gather(0, first[None])[0], atol=1e-14)
    assert len(run.seen["loss"]) == first.max() + 1  # nothing is trained after the last of them


def test_a_rule_that_never_holds_gives_the_end():
    run = train(losses, START, optimiser="momentum", rate=0.01, steps=5, until={"never": lambda seen: seen["loss"] < 0})
    assert run.reached["never"].tolist() == [-1, -1, -1]
    assert all(torch.equal(run.copies["never"][name], run.end[name]) for name in START)


def test_slopes_are_norms_of_the_gradient():
    run = train(losses, START, optimiser="descent", rate=0.1, steps=1)
    change = sum((run.end[n] - p).reshape(3, -1).square().sum(1) for n, p in START.items()).sqrt()
    assert torch.allclose(run.seen["slope"][0], change / 0.1, rtol=1e-10)
