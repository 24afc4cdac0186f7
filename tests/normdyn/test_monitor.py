import copy
import csv
import io
import itertools
import warnings

import pytest
import torch
from benchmarks.bench_monitor import network, summary
from torch import nn
from torch.nn import functional as F

from normdyn.norms.monitor import NormLawWarning, NormMonitor


class SquaredReLU(nn.Module):
    def forward(self, x):
        return torch.relu(x) ** 2


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.one, self.two = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x):
        return x + self.two(torch.relu(self.one(x)))


def chain(*between, widths=(6, 10, 8, 3), bias=False, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    layers = []
    for l, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        layers += [nn.Linear(fan_in, fan_out, bias=bias), *([between[l]] if l < len(between) else [])]
    return nn.Sequential(*layers).to(dtype)


def frozen_batch_norm(width):
    layer = nn.BatchNorm1d(width, affine=False).eval()
    layer.running_mean += torch.linspace(-1, 1, width)
    return layer


def problem(samples=30, dtype=torch.float64, seed=1, inputs=6, outputs=3):
    draw = torch.Generator().manual_seed(seed)
    return (torch.randn(samples, k, generator=draw, dtype=torch.float64).to(dtype) for k in (inputs, outputs))


def train(model, optimizer, steps, X, Y, loss=F.mse_loss, oracle=None, **kwargs):
    """Train with a monitor, and call ``oracle()`` before and after each step."""
    monitor, seen = NormMonitor(model, optimizer, **kwargs), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(X), Y).backward()
        before = oracle() if oracle else None
        optimizer.step()
        seen.append((before, oracle() if oracle else None))
    return monitor, seen


def by_layer(column, monitor):
    return column.reshape(-1, len(monitor.names))


OPTIMIZERS = {
    "plain": lambda p: torch.optim.SGD(p, lr=0.05),
    "decay": lambda p: torch.optim.SGD(p, lr=0.05, weight_decay=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.003, momentum=0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_law_is_exact_over_whole_runs(name):
    model = chain(nn.ReLU(), nn.Tanh(), bias=True)
    optimizer = OPTIMIZERS[name](model.parameters())
    norms = lambda: torch.stack([p.detach().square().sum() for p in model.parameters()])
    monitor, seen = train(model, optimizer, 200, *problem(), oracle=norms)
    table = monitor.table()
    before, after = (torch.stack(side) for side in zip(*seen, strict=True))
    eta = optimizer.param_groups[0]["lr"]
    predicted = before + eta * by_layer(table["law"], monitor)
    assert ((predicted - after).abs() <= 1e-12 * after.clamp_min(1e-3)).all()
    assert ((table["rate"] - table["law"]).abs() <= table["law_error"]).all()
    terms = sum(table[t] for t in ("flow", "broken", "decay", "optimizer", "step_term"))
    assert torch.allclose(terms, table["law"], rtol=1e-12, atol=1e-11)
    control = by_layer(table["law"] - table["step_term"], monitor)
    assert ((before + eta * control - after).abs() > 1e-10 * after).any()


def test_under_gradient_descent_nothing_is_left_to_the_optimizer():
    model = chain(nn.ReLU(), nn.ReLU())
    monitor, _ = train(model, OPTIMIZERS["decay"](model.parameters()), 100, *problem())
    table = monitor.table()
    scale = table["rate"].abs().max()
    assert table["optimizer"].abs().max() < 1e-12 * scale  # rounding of W - W' over the step
    assert table["broken"].abs().max() < 1e-12 * scale
    predicted = table["flow"] + table["decay"] + table["step_term"]
    assert ((table["rate"] - predicted).abs() <= table["error"]).all()
    wrong = table["flow"] + table["decay"] / 2 + table["step_term"]  # the other weight-decay convention
    assert (table["rate"] - wrong).abs().max() > 100 * table["error"].max()
    model = chain(nn.ReLU(), nn.ReLU())
    monitor, _ = train(model, OPTIMIZERS["momentum"](model.parameters()), 100, *problem())
    assert monitor.table()["optimizer"].abs().max() > 1e-3


@pytest.mark.parametrize(
    "between, orders",
    [
        ((nn.ReLU(), nn.LeakyReLU(0.1)), (1, 1, 1)),
        ((SquaredReLU(), nn.ReLU()), (2, 1, 1)),
        ((SquaredReLU(), SquaredReLU()), (4, 2, 1)),
        ((nn.ReLU(), nn.LayerNorm(8, eps=0, elementwise_affine=False)), (0, 0, 1)),
    ],
)
def test_orders_are_found(between, orders):
    """Against an oracle that differentiates the loss along each layer in a backward pass of its own."""
    model, (X, Y) = chain(*between), problem()
    twin = copy.deepcopy(model)

    def slopes():
        f = model.forward(X)  # not model(X), which is watched
        drive = (f * torch.autograd.grad(F.mse_loss(f, Y), f)[0]).sum().detach()
        found = []
        for W in model.parameters():
            c = torch.ones((), dtype=W.dtype, requires_grad=True)
            name = next(n for n, p in model.named_parameters() if p is W)
            value = torch.func.functional_call(twin, dict(model.named_parameters()) | {name: c * W.detach()}, (X,))
            found.append(torch.autograd.grad(F.mse_loss(value, Y), c)[0] / drive)
        return torch.stack(found)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    monitor, seen = train(model, optimizer, 20, X, Y, oracle=slopes)
    twins = [before for before, _ in seen]
    k = by_layer(monitor.table()["k_eff"], monitor)
    assert torch.allclose(k, torch.stack(twins), rtol=1e-10, atol=1e-10)
    assert torch.allclose(k, torch.tensor(orders, dtype=k.dtype).expand_as(k), atol=1e-10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [r.status for r in monitor.check()] == ["exact"] * 3
    assert [r.order for r in monitor.check()] == list(orders)


def test_a_wrong_order_is_not_covered():
    model = chain(nn.ReLU(), nn.ReLU())
    monitor, _ = train(
        model, OPTIMIZERS["plain"](model.parameters()), 20, *problem(), orders={"0.weight": 2.0, "2.weight": 0.5}
    )
    assert [r.status for r in monitor.check(warn=False)] == ["not covered", "not covered", "exact"]


@pytest.mark.parametrize(
    "between, bias, inexact, reason",
    [
        ((nn.Tanh(), nn.ReLU()), False, {"0.weight"}, r"1 \(Tanh\) is not homogeneous"),
        ((nn.ReLU(), nn.GELU()), False, {"0.weight", "2.weight"}, r"3 \(GELU\) is not homogeneous"),
        ((nn.ReLU(), nn.ReLU()), True, {"0.weight", "2.weight", "4.weight"}, "holds for the layer together with"),
        ((nn.ReLU(), nn.BatchNorm1d(8, eps=1e-3, affine=False)), False, {"0.weight", "2.weight"}, "has eps = 0.001"),
        ((nn.ReLU(), frozen_batch_norm(8)), False, {"0.weight", "2.weight"}, "uses running statistics"),
        ((nn.Softplus(), nn.LayerNorm(8, eps=0, elementwise_affine=False)), False, {"0.weight"}, "Softplus"),
    ],
)
def test_warnings_name_layers_and_causes(between, bias, inexact, reason):
    model = chain(*between, bias=bias)
    monitor, _ = train(model, OPTIMIZERS["plain"](model.parameters()), 30, *problem())
    with pytest.warns(NormLawWarning, match=reason) as caught:
        reports = monitor.check()
    assert {r.layer for r in reports if r.status != "exact"} == inexact
    assert all(name in str(caught[0].message) for name in inexact)
    if bias:
        assert max(r.with_biases for r in reports) < 1e-12 < 1e-4 < min(r.misfit for r in reports)


def test_a_function_in_forward_is_found_by_the_numbers_alone():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 8, bias=False), nn.Linear(8, 3, bias=False)

        def forward(self, x):
            return {"logits": self.two(torch.sin(self.one(x)))}

    model = Hidden().double()
    optimizer = OPTIMIZERS["plain"](model.parameters())
    with pytest.raises(TypeError, match="output=lambda"):
        train(model, optimizer, 1, *problem(), loss=lambda f, Y: F.mse_loss(f["logits"], Y))
    model = Hidden().double()
    monitor, _ = train(
        model, OPTIMIZERS["plain"](model.parameters()), 20, *problem(),
        loss=lambda f, Y: F.mse_loss(f["logits"], Y), output=lambda f: f["logits"],
    )  # fmt: skip
    with pytest.warns(NormLawWarning, match=r"one.weight: .*a function in forward"):
        one, two = monitor.check()
    assert one.status == "not covered" and two.status == "exact"


def test_a_residual_branch_is_not_covered_but_its_layers_move_together():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8, bias=False), Residual(8), nn.Linear(8, 3, bias=False)).double()
    monitor, _ = train(model, OPTIMIZERS["plain"](model.parameters()), 20, *problem())
    status = {r.layer: r.status for r in monitor.check(warn=False)}
    assert status["0.weight"] == status["2.weight"] == "exact"
    assert status["1.one.weight"] == status["1.two.weight"] == "not covered"
    k = by_layer(monitor.table()["k_eff"], monitor)
    assert torch.allclose(k[:, 1], k[:, 2], rtol=1e-11)  # all influence of both is the branch
    assert (k[:, 1] - k[:, 0]).abs().min() > 1e-2
    with pytest.raises(RuntimeError, match="no junctions are recorded"):
        monitor.balances()
    with pytest.raises(ValueError, match='junctions="chain": .*joins branches.*name pairs'):
        NormMonitor(model, OPTIMIZERS["plain"](model.parameters()), junctions="chain")
    with pytest.raises(ValueError, match="junctions must be pairs"):
        NormMonitor(model, OPTIMIZERS["plain"](model.parameters()), junctions="all")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("images", [False, True])
def test_error_bars_in_float32_are_honest(seed, images):
    """Against the same step in float64 from the same parameters, at every step of a run in float32."""
    torch.manual_seed(seed)
    if images:
        model, X = network(3, 16, 2), torch.randn(40, 3, 16, 16)
        Y = torch.randn(40, 10)
    else:
        model = chain(nn.ReLU(), nn.LayerNorm(8, eps=0, elementwise_affine=False), dtype=torch.float32, seed=seed)
        X, Y = problem(dtype=torch.float32, seed=10 + seed)
    twin = copy.deepcopy(model).double()

    def exact():
        twin.load_state_dict(model.state_dict())
        twin.zero_grad()
        F.mse_loss(twin(X.double()), Y.double()).backward()
        return torch.stack([-2 * (p * p.grad).sum() for p in twin.parameters()]).detach()

    monitor, seen = train(model, torch.optim.SGD(model.parameters(), lr=0.05), 60, X, Y, oracle=exact)
    table = monitor.table()
    true = torch.stack([before for before, _ in seen]).flatten()
    deviation = (table["flow"] + table["broken"] - true).abs()
    assert (deviation <= table["flow_error"]).all()
    assert (deviation > 0).any()  # float32 does show
    predicted = table["flow"] + table["decay"] + table["step_term"]
    assert ((table["rate"] - predicted).abs() <= table["error"]).all()
    assert (table["error"] < 1e-3 * table["rate"].abs().max()).all()  # and the bar says something
    assert all(r.status == "exact" for r in monitor.check())


def test_gradient_accumulation_counts_all_passes():
    model, (X, Y) = chain(nn.ReLU(), nn.ReLU()), problem()
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    monitor = NormMonitor(model, optimizer)
    for _ in range(5):
        optimizer.zero_grad()
        for part in range(3):
            (F.mse_loss(model(X[part::3]), Y[part::3]) / 3).backward()
        optimizer.step()
    assert (monitor.table()["k_eff"] - 1).abs().max() < 1e-12


def test_balance_of_units_against_a_slow_sum():
    model, (X, Y) = chain(nn.ReLU(), nn.ReLU()), problem()

    def slow():
        W = [p.detach() for p in model.parameters()]
        units = lambda V, U: torch.stack([V[i] @ V[i] - U[:, i] @ U[:, i] for i in range(len(V))])
        return [units(W[0], W[1]), units(W[1], W[2])]

    monitor, seen = train(model, OPTIMIZERS["plain"](model.parameters()), 50, X, Y, oracle=slow, junctions="chain")
    table = monitor.balances()
    assert table["junction"][:2] == ["0.weight -> 2.weight", "2.weight -> 4.weight"]
    expected = torch.stack([b.norm() for before, _ in seen for b in before])
    moved = torch.stack([(y - x).norm() for before, after in seen for x, y in zip(before, after, strict=True)])
    assert torch.allclose(table["balance"], expected, rtol=1e-13)
    assert torch.allclose(table["second_order"], moved, rtol=1e-9, atol=1e-13)
    assert (table["first_order"] < 1e-13).all()
    broken = chain(nn.Tanh(), nn.ReLU())
    pair = [("0.weight", "2.weight")]
    monitor, _ = train(broken, OPTIMIZERS["plain"](broken.parameters()), 5, *problem(), junctions=pair)
    assert (monitor.balances()["first_order"] > 1e-6).all()


def test_balance_across_a_flatten_counts_channels():
    torch.manual_seed(0)
    model, X = network(3, 8, 2), torch.randn(20, 3, 8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    monitor, _ = train(model, optimizer, 3, X, torch.randn(20, 10), junctions="chain")
    assert len(set(monitor.balances()["junction"])) == 2
    assert (monitor.balances()["first_order"] < 1e-6).all()  # rounding of float32 updates


def test_saved_and_resumed_equals_one_run(tmp_path):
    def run(stops):
        model = chain(nn.ReLU(), nn.ReLU())
        optimizer = OPTIMIZERS["momentum"](model.parameters())
        X, Y = problem()
        monitor = NormMonitor(model, optimizer)
        for step in range(600):
            if step in stops:
                torch.save(monitor.state_dict(), tmp_path / "monitor.pt")
                monitor.close()
                monitor = NormMonitor(model, optimizer)
                monitor.load_state_dict(torch.load(tmp_path / "monitor.pt"))
            optimizer.zero_grad()
            F.mse_loss(model(X), Y).backward()
            optimizer.step()
        return monitor

    whole, parts = run(()), run((0, 10, 300))
    assert whole.to_csv() == parts.to_csv()
    assert whole.check(warn=False) == parts.check(warn=False)
    with pytest.raises(ValueError, match="state has columns None"):
        old = {name: part for name, part in whole.state_dict().items() if name != "columns"}
        parts.load_state_dict(old)
    with pytest.raises(ValueError, match="state has names"):
        other = chain(nn.ReLU(), widths=(6, 4, 3), bias=True)
        NormMonitor(other, OPTIMIZERS["plain"](other.parameters())).load_state_dict(whole.state_dict())


def test_every_few_steps_and_learning_rate_schedules():
    model, (X, Y) = chain(nn.ReLU(), nn.ReLU()), problem()
    optimizer = OPTIMIZERS["plain"](model.parameters())
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    monitor = NormMonitor(model, optimizer, every=3)
    for _ in range(10):
        optimizer.zero_grad()
        F.mse_loss(model(X), Y).backward()
        optimizer.step()
        schedule.step()
    table = monitor.table()
    assert table["step"].unique().tolist() == [0, 3, 6, 9] and len(monitor) == 4
    assert torch.allclose(table["learning_rate"][::3], 0.05 * 0.9 ** torch.tensor([0.0, 3, 6, 9], dtype=torch.float64))
    assert (table["k_eff"] - 1).abs().max() < 1e-12


def test_errors_say_what_to_do():
    model, (X, Y) = chain(nn.ReLU(), nn.ReLU()), problem()
    optimizer = OPTIMIZERS["plain"](model.parameters())
    with pytest.raises(ValueError, match="holds no trainable parameter"):
        NormMonitor(chain(), optimizer)
    with pytest.raises(ValueError, match="orders names nowhere"):
        NormMonitor(model, optimizer, orders={"nowhere": 1.0})
    with pytest.raises(ValueError, match="does not read the 8 units"):
        NormMonitor(model, optimizer, junctions=[("2.weight", "2.weight")])
    with pytest.raises(ValueError, match="every=0"):
        NormMonitor(model, optimizer, every=0)
    monitor = NormMonitor(model, optimizer)
    with pytest.raises(RuntimeError, match="nothing is recorded yet"):
        monitor.table()
    with pytest.raises(RuntimeError, match="step without backward"):
        optimizer.step()
    F.mse_loss(model(X), Y).backward()
    optimizer.zero_grad()
    with pytest.raises(RuntimeError, match="no gradient in 0.weight"):
        optimizer.step()
    F.mse_loss(model(X), Y).backward()
    model[0] = nn.Linear(6, 10, bias=False).double()
    with pytest.raises(RuntimeError, match="create a new monitor"):
        optimizer.step()
    monitor.close()
    optimizer.step()  # detached: nothing is watched


def test_a_monitor_changes_no_bit_of_training():
    trained = []
    for watch in (False, True):
        model, (X, Y) = chain(nn.ReLU(), nn.Tanh(), bias=True), problem()
        optimizer = OPTIMIZERS["adamw"](model.parameters())
        monitor = NormMonitor(model, optimizer) if watch else None
        for _ in range(20):
            optimizer.zero_grad()
            F.mse_loss(model(X), Y).backward()
            optimizer.step()
        trained.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*trained) and len(monitor) == 20


def test_csv_and_plot(tmp_path):
    model = chain(nn.ReLU(), nn.Tanh())
    monitor, _ = train(model, OPTIMIZERS["plain"](model.parameters()), 4, *problem())
    text = monitor.to_csv(tmp_path / "norms.csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert text == (tmp_path / "norms.csv").read_text() and len(rows) == 12
    assert [float(row["rate"]) for row in rows] == monitor.table()["rate"].tolist()
    figure = monitor.plot()
    assert len(figure.axes) == 2 and len(figure.axes[0].lines) == 3
    figure.clear()


@pytest.mark.parametrize("device", ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def test_every_device_gives_the_same_numbers(device):
    rates = []
    for place in ("cpu", device):
        model, (X, Y) = chain(nn.ReLU(), nn.ReLU()).to(place), problem()
        monitor, _ = train(model, OPTIMIZERS["decay"](model.parameters()), 30, X.to(place), Y.to(place))
        rates.append(monitor.table()["rate"])
    assert rates[1].device.type == "cpu" and torch.allclose(*rates, rtol=1e-9)


def test_benchmark_summary_takes_the_worst_case():
    rows = [{"monitor": m, "second backward": 1.5, "finite differences": 3.0} for m in (1.02, 1.08)]
    assert summary(rows)["largest cost of the monitor"] == pytest.approx(0.08)
