"""The monitor in loops that people train with: clipped and scaled gradients, skipped batches, closures, wrappers."""

import copy
import io
import itertools

import pytest
import torch
import torch.multiprocessing as mp
from tests.normdyn.test_monitor import chain, problem
from torch import nn
from torch.nn import functional as F

from normdyn.norms.monitor import NormLawWarning, NormMonitor

SGD = lambda model, lr=0.05, **kwargs: torch.optim.SGD(model.parameters(), lr=lr, **kwargs)


def relu_chain(**kwargs):
    return chain(nn.ReLU(), nn.ReLU(), **kwargs)


def plain_step(model, optimizer, X, Y):
    optimizer.zero_grad()
    F.mse_loss(model(X), Y).backward()
    optimizer.step()


def watch(step, steps=6, model=None, optimizer=None, data=None, **kwargs):
    """Train by ``step(k, model, optimizer, X, Y)`` under a monitor."""
    model = model or relu_chain()
    optimizer = optimizer or SGD(model)
    monitor = NormMonitor(model, optimizer, **kwargs)
    X, Y = data or problem()
    for k in range(steps):
        step(k, model, optimizer, X, Y)
    return monitor


def statuses(monitor):
    return [r.status for r in monitor.check(warn=False)]


def assert_exact(monitor, orders=(1, 1, 1), steps=6):
    """The law holds with the right orders and rates, and nothing is left to the optimiser under gradient descent."""
    reports, table = monitor.check(warn=False), monitor.table()
    assert [(r.status, r.order) for r in reports] == [("exact", K) for K in orders]
    assert all(table[name].isfinite().all() for name in ("rate", "flow", "optimizer", "k_eff", "factor", "error"))
    assert ((table["rate"] - table["flow"] - table["decay"] - table["step_term"]).abs() <= table["error"]).all()
    assert table["flow"].abs().max() > 100 * table["error"].max()
    assert len(monitor) == steps


# Gradients that are multiplied


def clipped(k, model, optimizer, X, Y):
    optimizer.zero_grad()
    F.mse_loss(model(20 * X), 20 * Y).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def averaged_afterwards(k, model, optimizer, X, Y):
    optimizer.zero_grad()
    for part in range(4):
        F.mse_loss(model(X[part::4]), Y[part::4]).backward()
    for p in model.parameters():
        p.grad /= 4
    optimizer.step()


def clipped_layer_by_layer(k, model, optimizer, X, Y):
    optimizer.zero_grad()
    F.mse_loss(model(20 * X), 20 * Y).backward()
    for p in model.parameters():
        nn.utils.clip_grad_norm_([p], 1.0)
    optimizer.step()


@pytest.mark.parametrize(
    "step, whose", [(clipped, "one factor"), (averaged_afterwards, "one factor"), (clipped_layer_by_layer, "own")]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_factor_on_all_gradients_is_named_and_is_no_order(step, whose, dtype):
    monitor = watch(step, model=relu_chain(dtype=dtype), data=tuple(problem(dtype=dtype)))
    assert_exact(monitor)
    assert all(whose in r.scaling and r.reasons == () for r in monitor.check(warn=False))
    assert monitor.table()["factor"].max() < 0.9


def test_gradients_left_as_they_are_have_no_factor():
    monitor = watch(lambda k, *rest: plain_step(*rest))
    assert {r.scaling for r in monitor.check(warn=False)} == {""}
    assert (monitor.table()["factor"] == 1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fused", [False, True])
def test_loss_scaling_is_no_order(dtype, fused):
    """Fused optimisers divide by the scale themselves, in the step."""
    model, scaler = relu_chain(dtype=torch.float32), torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, fused=fused)

    def step(k, model, optimizer, X, Y):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            f = model(X)
        scaler.scale(F.mse_loss(f.float(), Y)).backward()
        scaler.step(optimizer)
        scaler.update()

    monitor = watch(step, model=model, optimizer=optimizer, data=tuple(problem(dtype=torch.float32)))
    assert [(r.status, r.order) for r in monitor.check(warn=False)] == [("exact", 1)] * 3
    table = monitor.table()
    assert torch.allclose(table["factor"], torch.tensor(1 / 1024, dtype=torch.float64), rtol=1e-6)
    assert torch.allclose(table["k_eff"], torch.ones_like(table["k_eff"]), atol=0.1)
    assert (table["optimizer"].abs() < 1e-3 * table["flow"].abs()).all()  # the flow of the loss unscaled; float32


def test_the_precision_of_autocast_inside_of_the_model_is_seen():
    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = relu_chain(dtype=torch.float32)

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.inner(x).float()

    monitor = watch(lambda k, *rest: plain_step(*rest), model=Cast(), data=tuple(problem(dtype=torch.float32)))
    assert statuses(monitor) == ["exact"] * 3 and monitor.check()[0].misfit > 1e-4


def test_an_output_changed_in_place_keeps_its_order():
    def step(k, model, optimizer, X, Y):
        optimizer.zero_grad()
        logits = model(X)
        logits /= 2
        F.mse_loss(logits, Y).backward()
        optimizer.step()

    assert_exact(watch(step))


def by_value(p):
    p.grad.clamp_(-1e-2, 1e-2)


def with_noise(p):
    p.grad += 1e-3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0), dtype=p.dtype)


@pytest.mark.parametrize("change", [by_value, with_noise])
def test_other_changes_of_gradients_are_named_and_never_exact(change):
    def step(k, model, optimizer, X, Y):
        optimizer.zero_grad()
        F.mse_loss(model(X), Y).backward()
        for p in model.parameters():
            change(p)
        optimizer.step()

    monitor = watch(step)
    for r in monitor.check(warn=False):
        assert r.status != "exact" and r.order == 1 and abs(r.k_eff - 1) < 1e-12 and r.scaling == ""
        assert (
            "changed between backward and step" in r.reasons[0] and "in 6 of 6 steps: clipped by value" in r.reasons[0]
        )


def test_gradients_left_over_from_the_last_step_are_named():
    def step(k, model, optimizer, X, Y):
        F.mse_loss(model(X), Y).backward()
        optimizer.step()

    for r in watch(step).check(warn=False):
        assert r.status == "not covered" and "in 5 of 6 steps" in r.reasons[0] and "zero_grad" in r.reasons[0]


@pytest.mark.parametrize("factor", [0.01, 1e-16, 3.0])
def test_a_factor_inside_of_the_backward_pass_is_no_order(factor):
    model = relu_chain()
    for p in model.parameters():
        p.register_hook(lambda gradient: factor * gradient)
    monitor = watch(lambda k, *rest: plain_step(*rest), model=model)
    for r in monitor.check(warn=False):
        assert r.status == "not covered" and "4.weight has order 1" in r.reasons[0]
    assert statuses(watch(lambda k, *rest: plain_step(*rest), orders=1.0)) == ["exact"] * 3


@pytest.mark.parametrize("shared", [False, True])
def test_a_readout_that_has_another_order_by_right_is_not_accused(shared):
    """Called twice, or sharing its weight with a layer below, it has order 2."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(6, 6, bias=False)
            self.other = nn.Linear(6, 6, bias=False) if shared else self.head
            self.other.weight = self.head.weight

        def forward(self, x):
            return self.head(torch.relu(self.other(x)))

    draw = torch.Generator().manual_seed(0)
    data = problem(outputs=6)
    model = Twice().double()
    nn.init.normal_(model.head.weight, generator=draw)
    assert_exact(watch(lambda k, *rest: plain_step(*rest), model=model, optimizer=SGD(model, 0.001), data=data), (2,))


def test_small_gradients_are_not_taken_for_none():
    """Their squares vanish in float32."""

    def step(k, model, optimizer, X, Y):
        optimizer.zero_grad()
        for part in range(2):
            (1e-30 * F.mse_loss(model(X[part::2]), Y[part::2])).backward()
        optimizer.step()

    monitor = watch(step, model=relu_chain(dtype=torch.float32), data=tuple(problem(dtype=torch.float32)))
    assert statuses(monitor) == ["exact"] * 3 and [r.order for r in monitor.check()] == [1, 1, 1]


def test_gradients_set_to_zero_are_not_called_exact():
    def step(k, model, optimizer, X, Y):
        F.mse_loss(model(X), Y).backward()
        optimizer.zero_grad(set_to_none=False)
        optimizer.step()

    for r in watch(step).check(warn=False):
        assert r.status == "not covered" and "set to zero before every step" in r.reasons[0]


# Batches that are skipped, and time that stands still


@pytest.mark.parametrize("fused", [False, True])
def test_a_batch_that_a_loss_scaler_skips_leaves_no_trace(fused):
    model, scaler = relu_chain(dtype=torch.float32), torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, fused=fused)

    def step(k, model, optimizer, X, Y):
        optimizer.zero_grad()
        scaler.scale(F.mse_loss(model(X * (torch.inf if k == 2 else 1.0)), Y)).backward()
        scaler.step(optimizer)
        scaler.update()

    monitor = watch(step, model=model, optimizer=optimizer, data=tuple(problem(dtype=torch.float32)))
    assert_exact(monitor, steps=5)
    resumed = NormMonitor(model, optimizer)
    resumed.load_state_dict(monitor.state_dict())
    assert resumed.to_csv() == monitor.to_csv()


@pytest.mark.parametrize("to_none", [False, True])
@pytest.mark.parametrize("bad", [torch.nan, 30.0])
def test_a_batch_that_the_loop_skips_leaves_no_trace(bad, to_none):
    def step(k, model, optimizer, X, Y):
        optimizer.zero_grad(set_to_none=to_none)
        F.mse_loss(model(X), Y * (bad if k == 2 else 1.0)).backward()
        if k != 2:
            optimizer.step()

    assert_exact(watch(step), steps=5)


def test_a_step_with_nan_is_told_and_spoils_no_other():
    def step(k, model, optimizer, X, Y):
        plain_step(model, optimizer, X, Y * (torch.nan if k == last else 1.0))

    last = 3
    monitor = watch(step)
    assert statuses(monitor) == ["exact"] * 3
    assert monitor.table()["rate"].isnan().reshape(6, 3).all(1).tolist() == [False] * 3 + [True] * 3
    last = 0
    for r in watch(step).check(warn=False):
        assert r.status == "not covered" and "not finite in any of 6 steps" in r.reasons[0]


def test_a_warm_up_from_zero_has_finite_rates():
    model = relu_chain()
    optimizer = SGD(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min(1.0, k / 3))

    def step(k, *rest):
        plain_step(*rest)
        schedule.step()

    monitor = watch(step, model=model, optimizer=optimizer)
    assert_exact(monitor)
    table = monitor.table()
    assert all((table[name][:3] == 0).all() for name in ("rate", "law", "flow", "decay", "optimizer", "learning_rate"))
    assert torch.allclose(table["k_eff"][:3], torch.ones(3, dtype=torch.float64))


def test_a_group_at_learning_rate_zero_stands_still_alone():
    model = relu_chain()
    first, *others = model.parameters()
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.0}, {"params": others}], lr=0.05, weight_decay=0.1)
    monitor = watch(lambda k, *rest: plain_step(*rest), model=model, optimizer=optimizer)
    assert_exact(monitor)
    rate = monitor.table()["rate"].reshape(6, 3)
    assert (rate[:, 0] == 0).all() and (rate[:, 1:] != 0).all()


# Closures and wrapped optimisers


def closed(model, optimizer, X, Y):
    def closure():
        optimizer.zero_grad()
        loss = F.mse_loss(model(X), Y)
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("keyword", [False, True])
def test_steps_with_a_closure_are_those_without(keyword):
    def step(k, model, optimizer, X, Y):
        closure = closed(model, optimizer, X, Y)
        loss = optimizer.step(closure=closure) if keyword else optimizer.step(closure)
        assert loss.item() > 0

    monitor = watch(step)
    assert_exact(monitor)
    assert monitor.to_csv() == watch(lambda k, *rest: plain_step(*rest)).to_csv()


def test_a_closure_that_is_called_often_counts_once():
    model = relu_chain()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    monitor = watch(lambda k, *rest: rest[1].step(closed(*rest)), model=model, optimizer=optimizer)
    assert [(r.status, r.order) for r in monitor.check(warn=False)] == [("exact", 1)] * 3
    table = monitor.table()
    assert ((table["rate"] - table["law"]).abs() <= table["law_error"]).all()


class Wrapped(torch.optim.Optimizer):
    """Of the shape of Accelerate's: an Optimizer by class that was never initialised as one."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)

    def step(self, closure=None):
        return self.optimizer.step(closure)


class Renamed(Wrapped):
    """Of the shape of Lightning's: an object that calls itself of the class of what it holds."""

    def __init__(self, optimizer):
        self.__class__ = type("Lightning", (Renamed, type(optimizer)), {})
        super().__init__(optimizer)


@pytest.mark.parametrize("wrappers", [(Wrapped,), (Renamed,), (Wrapped, Wrapped)])
def test_an_optimizer_around_another_is_looked_through(wrappers):
    model = relu_chain()
    optimizer = SGD(model)
    for wrapper in wrappers:
        optimizer = wrapper(optimizer)
    assert_exact(watch(lambda k, *rest: plain_step(*rest), model=model, optimizer=optimizer))


def test_an_optimizer_without_hooks_is_refused_by_name():
    class Own(torch.optim.Optimizer):
        def __init__(self, parameters):
            self.param_groups = [{"params": list(parameters), "lr": 0.1}]

    model = relu_chain()
    with pytest.raises(TypeError, match="optimizer is a Own, which takes no hooks: pass the torch.optim.Optimizer"):
        NormMonitor(model, Own(model.parameters()))


# Biases


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-6), (torch.float64, 1e-13)])
def test_a_law_that_holds_with_the_biases_is_a_status_of_its_own(dtype, bound):
    model = relu_chain(bias=True, dtype=dtype)
    monitor = watch(lambda k, *rest: plain_step(*rest), model=model, data=tuple(problem(dtype=dtype)))
    with pytest.warns(NormLawWarning, match="0.weight: exact with biases"):
        reports = monitor.check()
    for r in reports:
        assert r.status == "exact with biases" and r.with_biases < bound < 1e-2 < r.misfit
    broken = chain(nn.ReLU(), nn.Tanh(), bias=True, dtype=dtype)
    monitor = watch(lambda k, *rest: plain_step(*rest), model=broken, data=tuple(problem(dtype=dtype)))
    assert statuses(monitor) == ["not covered", "not covered", "exact with biases"]


# Copies and checkpoints


def test_copies_and_checkpoints_leave_the_monitor_behind():
    model = relu_chain()
    optimizer = SGD(model, momentum=0.9)
    monitor = NormMonitor(model, optimizer)
    X, Y = problem()
    plain_step(model, optimizer, X, Y)
    saved = io.BytesIO()
    torch.save(model, saved)
    assert b"normdyn" not in saved.getvalue()
    saved.seek(0)
    copies = copy.deepcopy(model), torch.load(saved, weights_only=False)
    for twin in copies:
        assert not any("normdyn" in type(hook).__module__ for m in twin.modules() for hook in m._forward_hooks.values())
        F.mse_loss(twin(X), Y).backward()
        assert monitor._recorder._alignment is None  # the batch passed by unseen
        copy.deepcopy(optimizer).step()  # a hook on it would miss the backward pass
    for state in (model.state_dict(), optimizer.state_dict()):
        file = io.BytesIO()
        torch.save(state, file)
        assert b"normdyn" not in file.getvalue()
    assert list(model.state_dict()) == ["0.weight", "2.weight", "4.weight"]
    plain_step(model, optimizer, X, Y)
    assert len(monitor) == 2


# Parameters without gradients, and sparse gradients


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(6, 3, bias=False), nn.Linear(6, 3, bias=False)
        self.turn = 0

    def forward(self, x):
        return (self.two if self.turn else self.one)(x)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_parameter_without_gradients_is_called_unused(decay):
    model = Branches().double()
    monitor = watch(lambda k, *rest: plain_step(*rest), model=model, optimizer=SGD(model, weight_decay=decay))
    one, two = monitor.check(warn=False)
    assert (one.status, one.order) == ("exact", 1)
    assert two.status == "unused" and "the loss does not depend on it" in two.reasons[0]
    assert monitor.table()["rate"].reshape(6, 2)[:, 1].abs().max() == 0


def test_a_parameter_that_some_batches_use_is_told_so():
    def step(k, model, *rest):
        model.turn = k % 2
        plain_step(model, *rest)

    for r in watch(step, model=Branches().double()).check(warn=False):
        assert r.status == "not covered" and "no gradient in 3 of 6 steps" in r.reasons[0]


def test_sparse_gradients_count_as_dense_ones():
    class Words(nn.Module):
        def __init__(self, sparse):
            super().__init__()
            self.embed, self.head = nn.Embedding(12, 6, sparse=sparse), nn.Linear(6, 3, bias=False)

        def forward(self, x):
            return self.head(torch.relu(self.embed(x)))

    tables = []
    for sparse in (False, True):
        torch.manual_seed(0)
        words, (_, Y) = torch.arange(30) % 7, problem()
        monitor = watch(lambda k, *rest: plain_step(*rest), model=Words(sparse).double(), data=(words, Y))
        assert_exact(monitor, orders=(1, 1))
        tables.append(monitor.table()["rate"])
    assert torch.allclose(*tables, rtol=1e-9)


# Several processes


def rank_of_two(rank, folder, average):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(relu_chain())
    optimizer = SGD(model)
    found = {}
    for ranks, loop in itertools.product(average, (plain_step, lambda *rest: clipped(0, *rest))):
        with NormMonitor(model, optimizer, ranks=ranks) as monitor:
            for _ in range(4):
                loop(model, optimizer, *problem(seed=1 + rank))
            found[ranks, loop is plain_step] = [tuple(r) for r in monitor.check(warn=False)], monitor.table()
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_the_average_over_ranks_is_named_and_can_be_taken(tmp_path):
    workers = mp.spawn(rank_of_two, (str(tmp_path), (False, True)), nprocs=2, join=False)
    assert workers is not None
    for _ in range(180):  # ten seconds on an idle machine
        if workers.join(timeout=1):
            break
    else:
        for process in workers.processes:
            process.kill()
        pytest.fail("two gloo processes did not finish within three minutes")
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    for plain in (False, True):
        for report in one[False, plain][0]:
            status, reasons = report[5], report[7]
            assert status == "not covered" and "averaged over 2 processes, as DistributedDataParallel" in reasons[0]
            assert "ranks=True" in reasons[0]
        reports, table = one[True, plain]
        assert [(r[5], r[1]) for r in reports] == [("exact", 1)] * 3
        assert ["one factor" in r[8] for r in reports] == [not plain] * 3
        assert ((table["rate"] - table["flow"] - table["step_term"]).abs() <= table["error"]).all()
        assert torch.equal(table["rate"], other[True, plain][1]["rate"])


def test_one_process_has_nothing_to_average():
    model = relu_chain()
    with pytest.raises(ValueError, match="ranks=True needs several processes: call torch.distributed"):
        NormMonitor(model, SGD(model), ranks=True)


# torch.compile


@pytest.fixture
def dynamo():
    import torch._dynamo

    torch._dynamo.reset()
    yield torch._dynamo
    torch._dynamo.reset()


def test_a_model_compiled_in_one_graph_is_watched(dynamo):
    model = torch.compile(relu_chain(bias=True), fullgraph=True, backend="aot_eager")
    monitor = watch(lambda k, *rest: plain_step(*rest), model=model, optimizer=SGD(model), steps=3)
    assert statuses(monitor) == ["exact with biases"] * 3
    assert monitor.check(warn=False)[1].reasons[0].startswith("bias of _orig_mod.2, _orig_mod.4:")


def test_a_model_that_is_compiled_behind_the_monitor_trains_to_the_first_step(dynamo):
    model = relu_chain()
    optimizer = SGD(model)
    monitor = NormMonitor(model, optimizer)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match=r"give it compiled = torch.compile\(model\)"):
        plain_step(compiled, optimizer, *problem())
    monitor.close()
    model.compile(fullgraph=True, backend="aot_eager")
    with pytest.raises(ValueError, match=r"model.compile\(\) hides the output"):
        NormMonitor(model, optimizer)


def test_layers_compiled_one_by_one_are_found_all_the_same(dynamo):
    model = relu_chain(bias=True)
    model[2].compile(backend="aot_eager")
    monitor = watch(lambda k, *rest: plain_step(*rest), model=model, steps=3)
    assert statuses(monitor) == ["exact with biases"] * 3
