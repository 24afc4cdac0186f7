"""Oracles: autograd (the gradient of an invariant function is orthogonal), structures known by construction, SGD."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from normdyn.symmetry import scale_invariance as si
from normdyn.symmetry import scale_probe


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def found(model, *inputs, **options):
    return {(g.parameters, g.row) for g in si.scale_invariant_groups(model, *inputs, **options)}


def rows(name, count, *more):
    return {((name, *more), row) for row in range(count)}


def dense(eps=1e-5, bias=True):
    return nn.Sequential(nn.Linear(3, 4, bias=bias), nn.BatchNorm1d(4, eps=eps), nn.Tanh(), nn.Linear(4, 2))


class Residual(nn.Module):
    """A skip connection: the normalised branch is invariant, the path round it is not."""

    def __init__(self):
        super().__init__()
        self.inner, self.norm, self.outer = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)

    def forward(self, x):
        return {"y": (self.outer(x + self.norm(self.inner(x))), "label")}


class HalfNormalised(nn.Module):
    """Batch normalisation of the first two of four units."""

    def __init__(self):
        super().__init__()
        self.lin, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(2)

    def forward(self, x):
        z = self.lin(x)
        return torch.cat([self.norm(z[:, :2]), z[:, 2:]], 1)


def test_dense_batch_normalisation():
    groups = si.scale_invariant_groups(dense(), draw(0, 8, 3))
    assert {(g.parameters, g.row) for g in groups} == rows("0.weight", 4)
    assert all(not g.exact and 1e-8 < g.residual < 1e-2 for g in groups)
    assert all(g.exact for g in si.scale_invariant_groups(dense(eps=1e-20), draw(0, 8, 3)))


@pytest.mark.parametrize("bias", [True, False])
def test_convolution_and_what_homogeneity_adds(bias):
    """Gain and shift in front of ReLU, convolution and another normalisation are one more invariant group."""
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, bias=bias), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3, bias=bias), nn.BatchNorm2d(2)
    )
    wanted = rows("0.weight", 3) | {(("1.weight", "1.bias"), None)} | rows("3.weight", 2)
    assert found(model, draw(0, 4, 2, 7, 7)) == wanted


def test_layer_normalisation_takes_the_bias_along():
    x = draw(0, 6, 3)
    model = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5))
    assert found(model, x) == {(("0.weight", "0.bias"), None)}
    assert found(nn.Sequential(nn.Linear(3, 5, bias=False), nn.LayerNorm(5)), x) == {(("0.weight",), None)}
    nn.init.zeros_(model[0].bias)
    assert found(model, x) == {(("0.weight", "0.bias"), None)}


def test_group_and_root_mean_square_normalisation():
    x = draw(0, 4, 2, 6, 6)
    assert found(nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4)), x) == {(("0.weight", "0.bias"), None)}
    model = nn.Sequential(nn.Linear(3, 5), nn.RMSNorm(5, eps=1e-3))
    assert found(model, draw(0, 6, 3)) == {(("0.weight", "0.bias"), None)}


def test_weight_normalisation_is_exact_and_the_gain_is_not_invariant():
    groups = si.scale_invariant_groups(weight_norm(nn.Linear(3, 4)), draw(0, 5, 3))
    assert {(g.parameters, g.row) for g in groups} == rows("parametrizations.weight.original1", 4)
    assert all(g.exact for g in groups)


def test_attention_has_none_and_key_bias_is_no_group():
    x = draw(0, 2, 5, 8)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    assert found(attention, x, x, x, keywords={"need_weights": False}) == set()
    assert found(nn.Linear(3, 4), draw(0, 5, 3)) == set()


def test_one_key_makes_queries_and_keys_unseen():
    x = draw(0, 4, 1, 8)
    assert found(nn.MultiheadAttention(8, 2, batch_first=True), x, x, x) == set()


def test_a_unit_that_no_sample_turns_on_is_dead_and_not_exact():
    """Scaling its row with the bias, or its row alone, changes nothing, and nor does anything else."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].bias[1] = -30.0
    groups = si.scale_invariant_groups(model, draw(0, 8, 3))
    assert groups == [] and groups.dead == ()  # no row of this layer is a group, so none is listed
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].bias[1] = -8.0
    groups = si.scale_invariant_groups(model, draw(0, 8, 3))
    assert {(g.parameters, g.row) for g in groups} == {(("0.weight",), row) for row in (0, 2, 3)}
    assert [(g.parameters, g.row, g.status) for g in groups.dead] == [(("0.weight",), 1, "dead")]
    assert not groups.dead[0].exact


def test_what_the_output_does_not_see_is_listed_as_dead():
    groups = si.scale_invariant_groups(dense(), draw(0, 8, 3))
    assert [(g.parameters, g.row) for g in groups.dead] == [(("0.bias",), None)]
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    x = draw(0, 4, 1, 8)
    groups = si.scale_invariant_groups(attention, x, x, x)  # one key: queries and keys do not matter
    assert groups == [] and groups.dead == ()
    assert si.scale_invariant_groups(Twin(), draw(0, 4, 3)).dead[0].parameters == ("other.weight",)


class Twin(nn.Module):
    """A layer that is never called."""

    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x):
        return self.one(x)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_old_weight_and_spectral_normalisation():
    """Their hooks leave a computed tensor in the module, which deepcopy refuses."""
    x = draw(0, 8, 6)
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(6, 4)), nn.Tanh(), nn.Linear(4, 2))
    model(x)
    groups = si.scale_invariant_groups(model, x)
    assert {(g.parameters, g.row) for g in groups} == rows("0.weight_v", 4) and all(g.exact for g in groups)
    model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(6, 4)), nn.Tanh(), nn.Linear(4, 2))
    model(x)
    groups = si.scale_invariant_groups(model, x)
    assert [(g.parameters, g.row, g.status) for g in groups] == [(("0.weight_orig",), None, "exact")]


def test_a_kink_that_no_sample_reaches_makes_no_group():
    """ReLU6 is homogeneous as long as nothing saturates: the gain and shift in front pass the derivative's test."""
    model = nn.Sequential(
        nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU6(), nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4)
    )
    probe = scale_probe.Probe(model, (draw(0, 16, 3),), {}, True)
    found_first, _ = scale_probe.candidates(probe, True)
    assert scale_probe.Part(("1.weight", "1.bias"), None) in found_first
    assert found(model, draw(0, 16, 3)) == rows("0.weight", 4) | rows("3.weight", 4)
    assert len(scale_probe.confirmed(probe, found_first, (0.5, 8.0), 1e-8, rounds=0)) == 8  # by halves alone


class Counted(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.calls = inner, [0]

    def forward(self, x):
        self.calls[0] += 1
        return self.inner(x)

    def __deepcopy__(self, memo):
        twin = Counted(copy.deepcopy(self.inner, memo))
        twin.calls = self.calls
        return twin


def test_four_calls_are_enough_whatever_the_number_of_rows():
    model = Counted(nn.Sequential(nn.Linear(3, 200), nn.BatchNorm1d(200), nn.Tanh(), nn.Linear(200, 100)))
    assert len(si.scale_invariant_groups(model, draw(0, 8, 3))) == 200
    assert model.calls[0] == 4


def test_epsilons_of_other_names_are_made_tiny_too():
    class Norm(nn.Module):
        def __init__(self):
            super().__init__()
            self.variance_epsilon, self.steps = 1e-3, 2.0

        def forward(self, x):
            return self.steps * x * (x.square().mean(1, keepdim=True) + self.variance_epsilon).rsqrt()

    groups = si.scale_invariant_groups(nn.Sequential(nn.Linear(3, 5, bias=False), Norm()), draw(0, 6, 3))
    assert [(g.parameters, g.row, g.status) for g in groups] == [(("0.weight",), None, "approximate")]


def test_residuals_are_derivatives_of_the_output():
    """Against a difference quotient at the model's own epsilon, for the cotangent of the probe."""
    model = dense(eps=1e-2)
    x = draw(0, 8, 3)
    probe = scale_probe.Probe(model, (x,), {}, True)
    for part in scale_probe.candidates(probe, True)[0]:
        probe.copy[1].eps, h = 1e-2, 1e-6
        (up,), (down,) = (probe.output(probe.scaled([part], [1 + sign * h])) for sign in (1, -1))
        (f,) = probe.output({})
        v = torch.randn(f.shape, generator=torch.Generator().manual_seed(1), dtype=f.dtype)
        assert probe.residual(part) == pytest.approx(abs(float((v * (up - down)).sum() / (2 * h) / f.norm())), rel=1e-4)


def test_only_some_rows():
    assert found(HalfNormalised(), draw(0, 8, 3)) == rows("lin.weight", 2)
    assert found(HalfNormalised(), draw(0, 8, 3), rows=False) == set()


def test_skip_connection_and_nested_output():
    assert found(Residual(), draw(0, 8, 3)) == rows("inner.weight", 3)


def test_running_statistics_end_the_invariance():
    assert found(dense(), draw(0, 8, 3), training=False) == set()


def test_spectral_normalisation_and_dropout_are_reproducible():
    model = nn.Sequential(nn.Dropout(0.5), spectral_norm(nn.Linear(6, 4)), nn.Dropout(0.3), nn.Linear(4, 2))
    groups = found(model, draw(0, 8, 6))
    assert not any(name.startswith("3.") for names, _ in groups for name in names)
    noisy = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    assert found(noisy, draw(0, 8, 6)) == rows("0.weight", 4)


def test_model_and_random_state_are_untouched():
    model = nn.Sequential(nn.ReLU(inplace=True), dense(), nn.Dropout(0.5)).eval()
    x = draw(0, 8, 3)
    model(x.clone()).sum().backward()
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    slopes = [p.grad.clone() for p in model.parameters()]
    state, copy = torch.get_rng_state(), x.clone()
    si.scale_invariant_groups(model, x)
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(x, copy) and not model.training
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), slopes, strict=True))
    assert model[1][1].eps == 1e-5 and all(p.dtype == torch.float32 for p in model.parameters())


def prepared(seed=0, eps=1e-20):
    """A model in float64 with its groups, parameters and gradients."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = dense(eps=eps).double()
    x, y = draw(1, 16, 3).double(), draw(2, 16, 2).double()
    (model(x) - y).square().mean().backward()
    parameters = dict(model.named_parameters())
    return model, si.scale_invariant_groups(model, x), parameters, {n: p.grad for n, p in parameters.items()}


def test_gradients_of_the_groups_are_orthogonal():
    _, groups, parameters, gradients = prepared()
    for group in groups:
        inner = sum((w * dict(group.parts(gradients))[n]).sum() for n, w in group.parts(parameters))
        assert abs(inner) < 1e-14
    last = (parameters["3.weight"] * gradients["3.weight"]).sum()
    assert abs(last) > 1e-4


def test_effective_rates_are_those_that_rescaling_leaves():
    _, groups, parameters, gradients = prepared()
    big = {n: 3.0 * p.detach() if n == "0.weight" else p for n, p in parameters.items()}
    rates = si.effective_learning_rates(parameters, groups, 0.1)
    assert torch.allclose(rates, 0.1 / parameters["0.weight"].detach().square().sum(1))
    assert torch.allclose(si.effective_learning_rates(big, groups, 0.9), rates)


RATES = [
    ("gradient", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 9.0),
    ("normalized", lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.0, eps=1e-30), 3.0),
    ("normalized", lambda p: torch.optim.RMSprop(p, lr=0.1, eps=1e-30), 3.0),
]


@pytest.mark.parametrize("rule, build, power", RATES)
def test_steps_of_equal_effective_rates_turn_equally(rule, build, power):
    """Three times the weights at the rate that keeps the effective one: the same directions, step by step."""
    directions, effective = [], []
    for scale, rate in ((1.0, 0.1), (3.0, 0.1 * power)):
        model, groups, *_ = prepared()
        x, y = draw(1, 16, 3).double(), draw(2, 16, 2).double()
        with torch.no_grad():
            model[0].weight.mul_(scale)
        optimizer = build([{"params": [model[0].weight]}])
        optimizer.param_groups[0]["lr"] = rate
        effective.append(si.effective_learning_rates(dict(model.named_parameters()), groups, optimizer))
        for _ in range(3):
            model.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
        directions.append(nn.functional.normalize(model[0].weight.detach()))
    assert torch.allclose(*effective, rtol=1e-14) and torch.allclose(*directions, atol=1e-12)
    length = si.group_norms(dict(prepared()[0].named_parameters()), groups)
    assert torch.allclose(effective[0], 0.1 / length ** {"gradient": 2, "normalized": 1}[rule])


def test_rates_of_an_optimizer_are_those_of_its_groups():
    model, groups, parameters, _ = prepared()
    both = [si.ScaleGroup(("3.weight", "3.bias"), None, 0.0), *groups]
    first, *others = model.parameters()
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.3}, {"params": others}], lr=0.1)
    rates = si.effective_learning_rates(parameters, both, optimizer) * si.group_norms(parameters, both).square()
    assert torch.allclose(rates, torch.tensor([0.1, *[0.3] * 4], dtype=rates.dtype))
    relative = si.effective_learning_rates(parameters, both, optimizer, rule="relative")
    assert torch.equal(relative, torch.tensor([0.1, *[0.3] * 4], dtype=rates.dtype))
    copies = {name: p.detach().clone() for name, p in parameters.items()}
    for wrong in (copies, dict(parameters)):
        optimizer = torch.optim.SGD([{"params": [model[3].weight], "lr": 0.3}, {"params": [model[3].bias]}], lr=0.1)
        with pytest.raises(ValueError, match="optimizer must hold 3.weight, 3.bias at one rate"):
            si.effective_learning_rates(wrong, both, optimizer)
    with pytest.raises(ValueError, match="rule of LBFGS is not known: give rule, one of gradient"):
        si.effective_learning_rates(parameters, both, torch.optim.LBFGS(model.parameters()))


def test_tangent_gradients_against_least_squares():
    """What is left after a fit by each group's weights, for gradients that are not orthogonal."""
    _, groups, parameters, gradients = prepared()
    joint = [si.ScaleGroup(("3.weight", "3.bias"), None, 0.0), *groups]
    rough = {n: g + draw(5, *g.shape).double() for n, g in gradients.items()}
    got = si.sphere_gradients(parameters, rough, joint)
    for group in joint:
        w, g, t = (torch.cat([p.detach().flatten() for _, p in group.parts(x)]) for x in (parameters, rough, got))
        fit = torch.linalg.lstsq(w[:, None], g[:, None]).solution[0, 0]
        assert torch.allclose(t, g - fit * w, atol=1e-13)
    assert torch.equal(got["1.weight"], rough["1.weight"]) and got["1.weight"] is not rough["1.weight"]


@pytest.mark.parametrize("rate", [0.1, 1e6])
def test_sphere_step_is_descent_at_the_old_norm(rate):
    _, groups, parameters, gradients = prepared()
    new = si.sphere_step(parameters, gradients, groups, learning_rate=rate)
    assert torch.allclose(si.group_norms(new, groups), si.group_norms(parameters, groups), rtol=1e-14)
    plain = {n: p.detach() - rate * gradients[n] for n, p in parameters.items()}
    unit = nn.functional.normalize
    assert torch.allclose(unit(new["0.weight"]), unit(plain["0.weight"]), atol=1e-12)
    assert torch.equal(new["3.bias"], plain["3.bias"])


def test_sphere_step_trains_a_model():
    model, groups, *_ = prepared(eps=1e-5)
    x, y = draw(1, 16, 3).double(), draw(2, 16, 2).double()
    norms, values = si.group_norms(dict(model.named_parameters()), groups), []
    for _ in range(50):
        model.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        values.append(loss.item())
        parameters = dict(model.named_parameters())
        gradients = {n: p.grad for n, p in parameters.items()}
        model.load_state_dict(si.sphere_step(parameters, gradients, groups, learning_rate=0.3), strict=False)
    assert values[-1] < 0.8 * values[0]
    assert torch.allclose(si.group_norms(dict(model.named_parameters()), groups), norms, rtol=1e-13)


def test_restore_norms_after_any_optimiser():
    model, groups, parameters, _ = prepared()
    norms = si.group_norms(parameters, groups)
    torch.optim.Adam(model.parameters(), lr=0.1).step()
    moved = {n: p.detach().clone() for n, p in model.named_parameters()}
    back = si.restore_norms(moved, groups, norms)
    assert torch.allclose(si.group_norms(back, groups), norms, rtol=1e-14)
    unit = nn.functional.normalize
    assert torch.allclose(unit(back["0.weight"]), unit(moved["0.weight"]), atol=1e-14)
    assert torch.equal(back["1.weight"], moved["1.weight"])


class Unsteady(nn.Module):
    """Another answer at each call."""

    def __init__(self):
        super().__init__()
        self.w, self.calls = nn.Parameter(torch.ones(2)), 0

    def forward(self, x):
        self.calls += 1
        return self.calls * self.w * x


class Choice(nn.Linear):
    def forward(self, x):
        return super().forward(x).argmax(1)


W, G = {"w": torch.ones(2, 2)}, si.ScaleGroup(("w",), 0, 0.0)
WHOLE = si.ScaleGroup(("w",), None, 0.0)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: si.scale_invariant_groups(dense(), draw(0, 8, 3), factors=(1.0,)), "factors must be positive"),
        (lambda: si.scale_invariant_groups(dense(), draw(0, 8, 3), factors=(-2.0,)), "factors must be positive"),
        (lambda: si.scale_invariant_groups(nn.ReLU(), draw(0, 8, 3)), "no parameters"),
        (lambda: si.scale_invariant_groups(nn.LazyLinear(3), draw(0, 8, 3)), "lazy"),
        (lambda: si.scale_invariant_groups(Choice(3, 2), draw(0, 8, 3)), "no floating-point"),
        (lambda: si.scale_invariant_groups(nn.Linear(3, 2), draw(0, 8, 3) / 0), "not finite"),
        (lambda: si.scale_invariant_groups(Unsteady(), draw(0, 2)), "differs between two calls"),
        (lambda: si.group_norms({}, [G]), "parameters lack 'w'"),
        (lambda: si.group_norms(W, [G, WHOLE]), "share weights of 'w'"),
        (lambda: si.group_norms(W, [G, G]), "share weights of 'w'"),
        (lambda: si.effective_learning_rates(W, [G], 0.0), "learning_rate must be positive"),
        (lambda: si.effective_learning_rates(W, [G], 0.1, rule="adam"), "rule must be one of gradient, normalized"),
        (lambda: si.effective_learning_rates({"w": torch.zeros(2, 2)}, [G], 0.1), "is zero and has no direction"),
        (lambda: si.sphere_gradients(W, {}, [G]), "run backward first"),
        (lambda: si.sphere_gradients(W, {"w": torch.ones(2)}, [G]), "shape"),
        (lambda: si.restore_norms(W, [G], torch.ones(2)), "one positive number for each of 1 groups"),
        (lambda: si.sphere_step(W, W, [G], learning_rate=float("nan")), "learning_rate must be positive"),
    ],
)
def test_errors_say_what_to_do(call, words):
    with pytest.raises(ValueError, match=words):
        call()
