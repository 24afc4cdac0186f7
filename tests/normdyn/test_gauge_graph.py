"""Rebalancing traced networks: each operation by itself, in a small network, in both modes."""

import math

import pytest
import scipy.optimize
import torch
from torch import nn
from torch.nn import functional as F

from normdyn.rescaling.following import follow
from normdyn.rescaling.gauge import rebalance
from normdyn.rescaling.group import entrywise_norm
from normdyn.rescaling.verification import duplicate

ROWS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Embedding)
GAINS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class Net(nn.Module):
    """A forward pass as a function of the layers."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            self.add_module(name, layer) if isinstance(layer, nn.Module) else self.register_parameter(name, layer)

    def forward(self, *inputs):
        return self.run(self, *inputs)


def conv(i, o, k=3, **more):
    return nn.Conv2d(i, o, k, padding=k // 2, **more)


def seen(norm):
    """A normalisation with gains, biases and statistics of its own."""
    for value in norm.parameters():
        nn.init.uniform_(value, 0.3, 2.0)
    if isinstance(norm, nn.modules.batchnorm._BatchNorm):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.2, 3.0)
    return norm


def between(middle, *, end=None, i=4, forward=None):
    """Two convolutions with something between them."""
    step = forward or (lambda m, h: m.middle(h))
    layers = {} if middle is None else {"middle": middle}
    return Net(lambda m, x: m.b(step(m, F.relu(m.a(x)))), a=conv(2, 4), b=end or conv(i, 3), **layers)


def pair(forward):
    """Two linear layers."""
    return Net(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 2))


def residual():
    def forward(m, x):
        h = F.relu(m.bn0(m.stem(x)))
        h = F.relu(h + m.bn2(m.c2(F.relu(m.bn1(m.c1(h))))))
        return m.fc(F.adaptive_avg_pool2d(h, 1).flatten(1))

    return Net(
        forward, stem=conv(2, 4), bn0=seen(nn.BatchNorm2d(4)), c1=conv(4, 5), bn1=seen(nn.BatchNorm2d(5)),
        c2=conv(5, 4), bn2=seen(nn.BatchNorm2d(4)), fc=nn.Linear(4, 3),
    )  # fmt: skip


def dense_block():
    def forward(m, x):
        h = F.relu(m.a(x))
        h = torch.cat([h, F.relu(m.b(h))], 1)
        return m.c(torch.cat([h, F.relu(m.d(h))], 1)).mean((2, 3))

    return Net(forward, a=conv(2, 3), b=conv(3, 2), d=conv(5, 2), c=conv(7, 3))


def squeeze_excite():
    def forward(m, x):
        h = F.relu(m.a(x))
        gate = torch.sigmoid(m.up(F.relu(m.down(h.mean((2, 3), keepdim=True)))))
        return m.b(h * gate)

    return Net(forward, a=conv(2, 4), down=conv(4, 2, 1), up=conv(2, 4, 1), b=conv(4, 3))


def unet():
    def forward(m, x):
        one = F.relu(m.a(x))
        two = F.relu(m.b(F.max_pool2d(one, 2)))
        return m.c(torch.cat([one, m.up(two)], 1))

    return Net(forward, a=conv(2, 3), b=conv(3, 4), up=nn.ConvTranspose2d(4, 2, 2, stride=2), c=conv(5, 2))


def swiglu():
    def forward(m, x):
        h = m.norm(x)
        return x + m.down(F.silu(m.gate(h)) * m.up(h))

    return Net(
        forward, norm=seen(nn.RMSNorm(6)), gate=nn.Linear(6, 5, bias=False), up=nn.Linear(6, 5, bias=False),
        down=nn.Linear(5, 6, bias=False),
    )  # fmt: skip


def attention():
    def forward(m, x):
        h = m.norm(x)
        q, k, v = (each.unflatten(-1, (2, 3)).transpose(1, 2) for each in (m.q(h), m.k(h), m.v(h)))
        h = F.scaled_dot_product_attention(q, k, v)
        return x + m.o(h.transpose(1, 2).flatten(2))

    layers = {name: nn.Linear(6, 6) for name in "qkvo"}
    return Net(forward, norm=seen(nn.LayerNorm(6)), **layers)


def joint_attention():
    def forward(m, x):
        q, k, v = m.qkv(m.norm(x)).unflatten(-1, (3, 2, 3)).permute(2, 0, 3, 1, 4).unbind()
        h = (q @ k.mT).softmax(-1) @ v
        return m.o(h.transpose(1, 2).flatten(2))

    return Net(forward, norm=seen(nn.LayerNorm(6)), qkv=nn.Linear(6, 18), o=nn.Linear(6, 6))


def words():
    def forward(m, x):
        h = m.words(x) + m.places
        return m.b(F.relu(m.a(h)))

    return Net(forward, words=nn.Embedding(9, 4), places=nn.Parameter(torch.randn(5, 4)), a=nn.Linear(4, 3),
               b=nn.Linear(3, 2))  # fmt: skip


def tied():
    shared = nn.Linear(4, 4)
    return Net(
        lambda m, x: m.b(F.relu(m.s(F.relu(m.s(F.relu(m.a(x))))))), a=nn.Linear(3, 4), s=shared, b=nn.Linear(4, 2)
    )


def depth_drop(m, h):
    """Stochastic depth: a sample's branch is dropped as a whole."""
    keep = torch.empty(h.shape[0], 1, 1, 1, dtype=h.dtype, device=h.device).bernoulli_(0.5)
    return h * keep.div_(0.5) if m.training else h


def written_in_place(m, h):
    out = torch.zeros_like(h)
    out[:, 1:] = h[:, :-1]
    out[:, :1] = h[:, -1:]
    return out.relu_()


image, line, tokens = (3, 2, 8, 8), (5, 3), (3, 5, 6)
# a network, the shape of an input, and how many classes of units are free: counted by hand
NETWORKS = {
    "relu": (lambda: between(nn.ReLU(inplace=True)), image, 4),
    "leaky relu": (lambda: between(nn.LeakyReLU(0.1)), image, 4),
    "prelu": (lambda: between(nn.PReLU(4)), image, 4),
    "abs": (lambda: between(None, forward=lambda m, h: h.abs()), image, 4),
    "batch norm": (lambda: between(seen(nn.BatchNorm2d(4))), image, 4),
    "batch norm without gain": (lambda: between(nn.BatchNorm2d(4, affine=False)), image, 0),
    "group norm": (lambda: between(seen(nn.GroupNorm(2, 4))), image, 4),
    "instance norm": (lambda: between(seen(nn.InstanceNorm2d(4, affine=True))), image, 4),
    "max pool": (lambda: between(nn.MaxPool2d(2)), image, 4),
    "average pool": (lambda: between(nn.AvgPool2d(2)), image, 4),
    "dropout": (lambda: between(nn.Dropout(0.3)), image, 4),
    "dropout of channels": (lambda: between(nn.Dropout2d(0.3)), image, 4),
    "stochastic depth": (lambda: between(None, forward=depth_drop), image, 4),
    "zero padding": (lambda: between(nn.ZeroPad2d(1)), image, 4),
    "reflection padding": (lambda: between(nn.ReflectionPad2d(1)), image, 4),
    "replication padding": (lambda: between(nn.ReplicationPad2d(1)), image, 4),
    "circular padding": (lambda: between(nn.CircularPad2d(1)), image, 4),
    "constant padding": (lambda: between(nn.ConstantPad2d(1, 0.5)), image, 0),
    "padded channels": (lambda: between(None, i=6, forward=lambda m, h: F.pad(h, (0, 0, 0, 0, 1, 1))), image, 4),
    "nearest upsampling": (lambda: between(nn.Upsample(scale_factor=2)), image, 4),
    "bilinear upsampling": (lambda: between(nn.Upsample(scale_factor=2, mode="bilinear")), image, 4),
    "pixel shuffle": (lambda: between(nn.PixelShuffle(2), i=1), image, 1),
    "pixel unshuffle": (lambda: between(nn.PixelUnshuffle(2), i=16), image, 4),
    "channel shuffle": (lambda: between(nn.ChannelShuffle(2)), image, 4),
    "shuffle by hand": (
        lambda: between(None, forward=lambda m, h: h.unflatten(1, (2, 2)).transpose(1, 2).contiguous().flatten(1, 2)),
        image, 4,
    ),
    "chunks": (lambda: between(None, i=2, forward=lambda m, h: torch.maximum(*h.chunk(2, 1))), image, 2),
    "split and cat": (lambda: between(None, forward=lambda m, h: torch.cat(h.split([1, 3], 1)[::-1], 1)), image, 4),
    "flip and slice": (lambda: between(None, i=2, forward=lambda m, h: h.flip(1)[:, ::2]), image, 2),
    "written in place": (lambda: between(None, forward=written_in_place), image, 4),
    "in place sums": (lambda: between(conv(4, 4), forward=lambda m, h: m.middle(h).add_(h)), image, 4),
    "depthwise": (lambda: between(conv(4, 4, groups=4)), image, 8),
    "grouped": (lambda: between(conv(4, 6, groups=2), i=6), image, 10),
    "transposed": (lambda: between(nn.ConvTranspose2d(4, 5, 2, stride=2), i=5), image, 9),
    "transposed in groups": (lambda: between(nn.ConvTranspose2d(4, 6, 2, groups=2), i=6), image, 10),
    "mean": (lambda: between(None, end=nn.Linear(4, 2), forward=lambda m, h: h.mean((2, 3))), image, 4),
    "flatten": (lambda: between(None, end=nn.Linear(256, 2), forward=lambda m, h: h.flatten(1)), image, 4),
    "view of features": (
        lambda: between(None, end=nn.Linear(256, 2), forward=lambda m, h: h.view(-1, 256)), image, 4,
    ),
    "channels last": (
        lambda: between(None, end=nn.Linear(4, 2), forward=lambda m, h: h.permute(0, 2, 3, 1)), image, 4,
    ),
    "pooled units": (
        lambda: nn.Sequential(nn.Linear(3, 6), nn.MaxPool1d(3), nn.Linear(2, 2)), line, 1,
    ),
    "residual": (residual, image, 9),
    "concatenation": (dense_block, image, 7),
    "squeeze and excite": (squeeze_excite, image, 6),
    "u-net": (unet, image, 9),
    "swiglu": (swiglu, tokens, 11),
    "attention": (attention, tokens, 12),
    "joint attention": (joint_attention, tokens, 12),
    "embedding": (words, "words", 7),
    "tied weights": (tied, line, 4),
    "old weight norm": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), old_weight_norm(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 2)),
        line, 1,
    ),
    "weight norm": (
        lambda: nn.Sequential(
            nn.Linear(3, 4), nn.ReLU(), nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.ReLU(),
            nn.Linear(5, 2),
        ),
        line, 1,
    ),
    "layer norm": (lambda: nn.Sequential(nn.Linear(3, 4), seen(nn.LayerNorm(4)), nn.Linear(4, 2)), line, 4),
    "layer scale": (
        lambda: Net(lambda m, x: m.b(m.a(x) * m.gamma), a=nn.Linear(3, 4), gamma=nn.Parameter(torch.rand(4) + 0.5),
                    b=nn.Linear(4, 2)), line, 8,
    ),
    "scalar gain": (
        lambda: Net(lambda m, x: m.b(m.a(x) * m.gamma), a=nn.Linear(3, 4), gamma=nn.Parameter(torch.rand(())),
                    b=nn.Linear(4, 2)), line, 4,
    ),
    "loose weights": (lambda: pair(lambda m, x: F.linear(m.a(x), m.b.weight)), line, 4),
    "minimum with zero": (lambda: pair(lambda m, x: m.b(m.a(x).clamp(max=0))), line, 4),
    "masked": (
        lambda: pair(lambda m, x: m.b(m.a(x).masked_fill(x[:, :1] > 0, 0.0))), line, 4,
    ),
    "chosen": (
        lambda: Net(lambda m, x: m.b((h := m.a(x)).where(h > 0, m.c(x))), a=nn.Linear(3, 4), c=nn.Linear(3, 4),
                    b=nn.Linear(4, 2)), line, 4,
    ),
    "features too": (
        lambda: pair(lambda m, x: (m.b(h := F.relu(m.a(x))), {"features": [h[:, :2]]})), line, 2,
    ),
}  # fmt: skip


def old_weight_norm(layer):
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer)


def made(name, seed=0):
    build, shape, classes = (NETWORKS | DECEIVING)[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build().double()
        x = torch.randint(9, (4, 5)) if shape == "words" else torch.randn(shape, dtype=torch.float64)
    return model, x, classes


def everything(model, x, training):
    """All that a model returns, in a row, in a mode, with the same random numbers."""
    model = duplicate(model).train(training)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        out = model(x)
    return torch.cat([t.flatten() for t in torch.utils._pytree.tree_leaves(out)])


def norm_of(model, p, q):
    """Over all rows of all layers with weights: gains are rows of one entry."""
    rows, done = [], set()
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter) or id(weight) in done:
            continue
        done.add(id(weight))
        if isinstance(module, nn.Embedding):
            rows += weight.detach().T
        elif isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d)):
            groups = weight.detach().chunk(module.groups)
            rows += [row.flatten() for group in groups for row in group.transpose(0, 1)]
        elif isinstance(module, ROWS):
            rows += weight.detach().flatten(1)
        elif isinstance(module, GAINS):
            rows += weight.detach().reshape(-1, 1)
    rows += [
        row for name, value in model.named_parameters() if name == "gamma" for row in value.detach().reshape(-1, 1)
    ]
    width = max(len(row) for row in rows)
    return entrywise_norm(torch.stack([F.pad(row, (0, width - len(row))) for row in rows]), p=p, q=q).item()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_function_is_kept_in_both_modes_and_as_many_units_are_free_as_can_be(name):
    model, x, classes = made(name)
    found = rebalance(model, tol=1e-13, sample=x, verify=False)
    for training in (False, True):
        before, after = everything(model, x, training), everything(found.model, x, training)
        assert (before - after).abs().max() <= 1e-12 * before.abs().max()
    if classes:
        assert found.history["norm"][-1] < found.history["norm"][0]
    assert free_classes(found) == classes
    if name != "scalar gain":
        names = [n for n, _ in model.named_parameters() if "original" not in n and "weight_" not in n]
        if len(names) == len(list(model.parameters())) and "instance" not in name:
            assert math.isclose(norm_of(found.model, 2, 2), found.history["norm"][-1].item(), rel_tol=1e-11)


def free_classes(found):
    """Distinct factors other than one: generic weights give every class its own."""
    factors = torch.cat(list(found.factors.values()))
    return len({round(a, 9) for a in factors.tolist()} - {1.0})


# Options


def uneven():
    """A unit with tiny incoming and huge outgoing weights."""
    model = pair(lambda m, x: m.b(F.relu(m.a(x)))).double()
    with torch.no_grad():
        model.a.weight[1] *= 1e-5
        model.b.weight[:, 1] *= 1e5
    return model, torch.randn(5, 3, dtype=torch.float64)


@pytest.mark.parametrize("p, q", [(2, 2), (1, 2), (2, 1)])
def test_factors_are_bounded_and_the_norm_least_within_the_bounds(p, q):
    model, x = uneven()
    free = rebalance(model, p, q, sample=x)
    assert free.factors["a"].max() > 1e3
    found = rebalance(model, p, q, max_factor=3.0, sample=x, tol=1e-14)
    a = found.factors["a"]
    assert math.isclose(a.max(), 3.0) and a.min() >= 1 / 3
    assert found.converged and found.history["norm"][-1] > free.history["norm"][-1]
    least = norm_of(found.model, p, q)
    for k in range(4):
        for step in (0.99, 1.01):
            if 1 / 3 <= a[k] * step <= 3.0:
                other = duplicate(found.model)
                with torch.no_grad():
                    other.a.weight[k] *= step
                    other.b.weight[:, k] /= step
                assert norm_of(other, p, q) >= least * (1 - 1e-14)
    with pytest.raises(ValueError, match="max_factor must be 1 or more, got 0.5"):
        rebalance(model, max_factor=0.5)


def test_biases_count_when_asked():
    model, x = uneven()
    with torch.no_grad():
        model.a.bias[1] = 30.0
    rows = lambda m: torch.cat([torch.cat([l.weight, l.bias[:, None]], 1).square().flatten() for l in (m.a, m.b)]).sum()
    found = rebalance(model, count_biases=True, sample=x, tol=1e-14)
    assert math.isclose(rows(found.model).sqrt().item(), found.history["norm"][-1].item(), rel_tol=1e-12)
    assert rows(found.model) < rows(rebalance(model, sample=x).model)
    for k in range(4):
        for step in (0.99, 1.01):
            other = duplicate(found.model)
            with torch.no_grad():
                other.a.weight[k] *= step
                other.a.bias[k] *= step
                other.b.weight[:, k] /= step
            assert rows(other) >= rows(found.model) * (1 - 1e-14)


@pytest.mark.parametrize("inplace", [False, True])
def test_batch_normalisations_are_folded_on_request(inplace):
    model, x, _ = made("residual")
    before = everything(model, x, False)
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    found = rebalance(model, fold_batchnorm=True, inplace=inplace, sample=x, tol=1e-13)
    assert (found.model is model) == inplace
    assert dict(found.report.folded) == {"stem": "bn0", "c1": "bn1", "c2": "bn2"}
    assert not any(isinstance(module, nn.BatchNorm2d) for module in found.model.modules())
    assert (everything(found.model, x, False) - before).abs().max() <= 1e-12 * before.abs().max()
    assert free_classes(found) == 9 and found.factors["stem"].tolist() == found.factors["c2"].tolist()
    assert list(found.report.differences) == ["eval"]
    if not inplace:
        assert all(torch.equal(value, kept[key]) for key, value in model.state_dict().items())


def test_a_norm_that_others_look_behind_is_not_folded():
    model = Net(lambda m, x: m.b((h := m.a(x)) + m.bn(h)), a=nn.Linear(3, 4), bn=nn.BatchNorm1d(4), b=nn.Linear(4, 2))
    assert rebalance(model, fold_batchnorm=True).report.folded == ()


OPTIMIZERS = {  # eps is a size of gradients, which a rescaling does not know
    "momentum": lambda ps: torch.optim.SGD(ps, lr=0.01, momentum=0.9),
    "adam": lambda ps: torch.optim.Adam(ps, lr=0.01, amsgrad=True, eps=1e-60),
    "nadam": lambda ps: torch.optim.NAdam(ps, lr=0.01, eps=1e-60),
    "rmsprop": lambda ps: torch.optim.RMSprop(ps, lr=0.01, momentum=0.9, eps=1e-60),
    "adagrad": lambda ps: torch.optim.Adagrad(ps, lr=0.01, eps=1e-60),
    "adamax": lambda ps: torch.optim.Adamax(ps, lr=0.01, eps=1e-60),
    "rprop": lambda ps: torch.optim.Rprop(ps, lr=0.01),
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_of_an_optimiser_follows(name):
    """What it remembers are averages of powers of gradients: the same as if all gradients had been those after."""
    torch.manual_seed(0)
    model, x = uneven()
    start, optimizer = duplicate(model), OPTIMIZERS[name](model.parameters())
    history = []
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(5, 3, dtype=torch.float64)).square().sum().backward()
        history.append([p.grad.clone() for p in model.parameters()])
        optimizer.step()
    before = [p.detach().clone() for p in model.parameters()]
    rebalance(model, inplace=True, optimizer=optimizer, sample=x)
    factors = [after.detach() / one for after, one in zip(model.parameters(), before, strict=True)]
    twin = OPTIMIZERS[name](start.parameters())
    for gradients in history:
        for parameter, gradient, c in zip(start.parameters(), gradients, factors, strict=True):
            parameter.grad = gradient / c
        twin.step()
    for one, other in zip(model.parameters(), start.parameters(), strict=True):
        assert any(torch.is_tensor(value) and value.shape == one.shape for value in optimizer.state[one].values())
        for key, value in optimizer.state[one].items():
            if torch.is_tensor(value) and value.ndim:
                torch.testing.assert_close(value, twin.state[other][key], rtol=1e-9, atol=1e-50, equal_nan=True)


def test_states_that_are_not_known_are_refused():
    model, x = uneven()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.state[model.a.weight]["secret"] = torch.zeros_like(model.a.weight)
    before = model.a.weight.clone()
    with pytest.raises(ValueError, match="not known how its state 'secret' of a.weight changes"):
        rebalance(model, inplace=True, optimizer=optimizer, sample=x)
    assert torch.equal(model.a.weight, before)
    with pytest.raises(ValueError, match="needs inplace=True"):
        rebalance(model, optimizer=optimizer)


# Ways of computing that could deceive a trace


def left_product(m, x):
    """Weights on the left of what they act on."""
    return m.b((m.w @ F.relu(m.a(x)).mT).mT)


DECEIVING = {  # built so that a careless rule would rescale what may not be
    "weights on the left": (
        lambda: Net(left_product, a=nn.Linear(3, 4), w=nn.Parameter(torch.randn(5, 4)), b=nn.Linear(5, 2)), line, 9,
    ),
    "computed weights": (lambda: pair(lambda m, x: m.b(F.linear(m.a(x), F.relu(m.b.weight).T @ m.b.weight))), line, 0),
    "a computed bias": (
        lambda: Net(lambda m, x: m.b(torch.addmm(m.c(x).mean(0), x, m.a.weight.T)), a=nn.Linear(3, 4),
                    c=nn.Linear(3, 4), b=nn.Linear(4, 2)), line, 4,
    ),
    "counted entries": (lambda: pair(lambda m, x: m.b(m.a(x)) + torch.linalg.vector_norm(m.a(x), 0)), line, 0),
    "a square": (lambda: pair(lambda m, x: m.b(m.a(x) ** 2)), line, 0),
    "a product with itself": (lambda: pair(lambda m, x: m.b((h := m.a(x)) * h)), line, 0),
    "a value compared": (lambda: pair(lambda m, x: m.b((h := m.a(x)) * (h > 0.3))), line, 0),
    "a sign": (lambda: pair(lambda m, x: m.b((h := m.a(x)) * (h > 0))), line, 4),
    "a value divided by its size": (
        lambda: pair(lambda m, x: m.b((h := m.a(x)) / h.norm(dim=-1, keepdim=True))), line, 0,
    ),
    "an overwritten part": (
        lambda: pair(lambda m, x: m.b(m.a(x).index_fill_(1, torch.tensor([0]), 1.0))), line, 0,
    ),
    "one unit overwritten": (lambda: pair(lambda m, x: overwritten(m.b, m.a(x))), line, 3),
    "a parameter read elsewhere": (lambda: pair(lambda m, x: m.b(m.a(x)) + m.a.weight.sum()), line, 0),
    "a parameter used as two": (
        lambda: Net(lambda m, x: m.b(F.relu(m.a(x))) @ m.a.weight[:2], a=nn.Linear(3, 4), b=nn.Linear(4, 2)), line, 0,
    ),
    "a head for training": (
        lambda: Net(lambda m, x: (m.b(h := F.relu(m.a(x))), h[:, 0]) if m.training else m.b(F.relu(m.a(x))),
                    a=nn.Linear(3, 4), b=nn.Linear(4, 2)), line, 3,
    ),
    "a mask by its own sum": (lambda: pair(lambda m, x: m.b((h := m.a(x)) * (h.sum(1, keepdim=True) > 0))), line, 1),
    "the smaller of two": (
        lambda: Net(lambda m, x: m.b(torch.minimum(m.a(x), x[:, :1])), a=nn.Linear(3, 4), b=nn.Linear(4, 2)), line, 0,
    ),
    "a cosine": (
        lambda: pair(lambda m, x: m.b(m.a(x)) + F.cosine_similarity(m.a(x), m.a(x).flip(1))[:, None]), line, 0,
    ),
}  # fmt: skip


def overwritten(layer, h):
    h[:, 0] = 1.0
    return layer(h)


@pytest.mark.parametrize("name", DECEIVING)
def test_what_could_deceive_a_trace_does_not(name):
    model, x, classes = made(name)
    found = rebalance(model, tol=1e-13, sample=x, verify=False)
    for training in (False, True):
        before, after = everything(model, x, training), everything(found.model, x, training)
        assert (before - after).abs().max() <= 1e-12 * before.abs().max()
    assert free_classes(found) == classes
    assert found.report.rescaled == sum((a != 1).sum().item() for a in found.factors.values())


# The optimum


SOLVED = ("relu", "residual", "concatenation", "u-net", "squeeze and excite", "tied weights", "swiglu", "depthwise",
          "grouped", "embedding", "in place sums")  # fmt: skip
PAIRS = [(2, 2), (1, 2), (3, 1), (2, 8)]


@pytest.mark.parametrize("name, p, q", [(n, *PAIRS[k % 4]) for k, n in enumerate(SOLVED)] + [("residual", 3, 1)])
def test_the_least_norm_is_proven_by_a_gap_and_found_by_a_convex_solver(name, p, q):
    model, x, classes = made(name)
    found = rebalance(model, p, q, tol=1e-13, sample=x, certify=True)
    assert found.converged and found.report.gap < 1e-9
    least, start = convex_reference(model, x, p, q)
    assert math.isclose(found.history["norm"][0].item(), start, rel_tol=1e-9)
    assert math.isclose(found.history["norm"][-1].item(), least, rel_tol=1e-9)
    rough = rebalance(model, p, q, tol=1e-2, max_passes=1, sample=x, certify=True)
    _, reached = convex_reference(rough.model, x, p, q)
    assert reached <= least * (1 + rough.report.gap) * (1 + 1e-8)


def convex_reference(model, x, p, q):
    """The least norm by a general solver with derivatives by autograd, on nothing but the trace's classes."""
    trace, *_ = follow(model, x)
    parameters = dict(model.named_parameters())
    roots = trace.classes.roots(torch.arange(len(trace.classes)))
    free = roots.unique()
    free = free[free > 0]

    def log_norm(values):
        z = torch.zeros(len(roots), dtype=torch.float64).index_copy(0, free, values)[roots]
        rows = []
        for use in trace.uses:
            if use.of is None:
                w = use.view(parameters[use.name].detach())
                factor = (z[use.target][:, :, None] - z[use.source][:, None]).reshape(*w.shape[:3], *[1] * (w.ndim - 3))
                rows.append((w.abs() * factor.exp()).pow(p).flatten(2).sum(2).flatten())
        return torch.cat(rows).pow(q / p).sum().log() / q

    def value_and_slope(values):
        values = torch.tensor(values, requires_grad=True)
        value = log_norm(values)
        return value.item(), torch.autograd.grad(value, values)[0].numpy()

    start = torch.zeros(len(free), dtype=torch.float64)
    options = {"ftol": 0.0, "gtol": 1e-10, "maxiter": 5000, "maxfun": 10000}
    found = scipy.optimize.minimize(value_and_slope, start.numpy(), jac=True, method="L-BFGS-B", options=options)
    return math.exp(found.fun), log_norm(start).exp().item()


INFINITE = [(math.inf, math.inf), (2, math.inf), (math.inf, 2)]


@pytest.mark.parametrize("p, q", INFINITE)
def test_infinite_exponents_come_with_a_proven_gap(p, q):
    """The largest weight, the largest row, or the squares of largest weights: by hand, and by linear programming."""
    model, x, _ = made("residual")
    found = rebalance(model, p, q, sample=x, certify=True)
    assert found.converged and found.report.gap <= 1e-3
    rows = [use_rows(found.model, use) for use in follow(found.model, x)[0].uses if use.of is None]
    sizes = torch.cat([row.abs().amax(1) if p == math.inf else row.norm(p, 1) for row in rows])
    norm = sizes.max() if q == math.inf else sizes.norm(q)
    assert math.isclose(norm, found.history["norm"][-1], rel_tol=1e-12)
    assert found.history["norm"][-1] < found.history["norm"][0]
    if p == q == math.inf:
        assert math.isclose(norm, largest_weight_by_programming(model, x), rel_tol=2e-3)
    before, after = everything(model, x, False), everything(found.model, x, False)
    assert (before - after).abs().max() <= 1e-12 * before.abs().max()


def use_rows(model, use):
    return use.view(dict(model.named_parameters())[use.name].detach()).flatten(2).flatten(0, 1)


def largest_weight_by_programming(model, x):
    """Minimise ``t`` with ``log|w| + z_target - z_source <= t`` for every weight."""
    trace, *_ = follow(model, x)
    roots = trace.classes.roots(torch.arange(len(trace.classes)))
    number = {root: k + 1 for k, root in enumerate(sorted(set(roots.tolist()) - {0}))}
    rows, limits = [], []
    for use in trace.uses:
        if use.of is None:
            weights = use.view(dict(model.named_parameters())[use.name].detach()).abs()
            largest = weights.flatten(3).amax(3) if weights.ndim > 3 else weights
            for g, r, c in largest.nonzero().tolist():
                row = [-1.0] + [0.0] * len(number)
                for root, sign in ((roots[use.target[g, r]], 1.0), (roots[use.source[g, c]], -1.0)):
                    if int(root):
                        row[number[int(root)]] += sign
                rows.append(row)
                limits.append(-math.log(largest[g, r, c]))
    cost = [1.0] + [0.0] * len(number)
    return math.exp(scipy.optimize.linprog(cost, rows, limits, bounds=(None, None)).fun)
