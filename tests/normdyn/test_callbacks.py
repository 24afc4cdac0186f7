"""The events of Lightning and of the Hugging Face Trainer, played by stand-ins; loggers; decay; what is refused."""

import sys
import types

import pytest
import torch
from tests.normdyn.test_monitor import problem
from tests.normdyn.test_monitor_loops import SGD, assert_exact, plain_step, relu_chain, watch
from torch import nn
from torch.nn import functional as F

from normdyn.norms import callbacks
from normdyn.norms.decay import decay_rate
from normdyn.norms.monitor import NormMonitor


class Base:
    """In place of the library's own base class."""


@pytest.fixture
def libraries(monkeypatch):
    """Stand-ins of lightning and transformers."""
    for name, kind in {"lightning": None, "lightning.pytorch": "Callback", "transformers": "TrainerCallback"}.items():
        module = types.ModuleType(name)
        if kind:
            setattr(module, kind, Base)
        monkeypatch.setitem(sys.modules, name, module)


class Own(nn.Module):
    """A LightningModule in shape: training_step calls the net, or itself."""

    def __init__(self):
        super().__init__()
        self.net, self.logged = relu_chain(), []

    def log_dict(self, numbers):
        self.logged.append(numbers)


class Forward(Own):
    def forward(self, x):
        return self.net(x)


def fit(callback, module, optimizers, steps=4):
    trainer = types.SimpleNamespace(optimizers=optimizers, global_step=0)
    X, Y = problem()
    callback.on_train_start(trainer, module)
    for _ in range(steps):
        f = module(X) if isinstance(module, Forward) else module.net(X)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss = F.mse_loss(f, Y)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, module, None, None, 0)
    callback.on_train_end(trainer, module)


@pytest.mark.parametrize("kind", [Own, Forward])
def test_a_lightning_module_is_watched_where_it_is_called(libraries, kind):
    module = kind()
    callback = callbacks.lightning_callback(log_every=2)
    assert isinstance(callback, Base)
    fit(callback, module, [SGD(module)])
    (monitor,) = callback.monitors
    assert_exact(monitor, steps=4)
    prefix = "net." if kind is Forward else ""
    assert len(module.logged) == 2 and f"norms/rate/{prefix}0.weight" in module.logged[0]
    plain_step(module.net, torch.optim.SGD(module.parameters(), lr=0.1), *problem())
    assert len(monitor) == 4  # detached


def test_two_optimizers_have_a_monitor_each_and_checkpoints_go_on(libraries):
    module = Own()
    first, *others = module.net.parameters()
    optimizers = [torch.optim.SGD([first], lr=0.1), torch.optim.AdamW(others, lr=0.01)]
    callback = callbacks.lightning_callback()
    fit(callback, module, optimizers)
    assert [monitor.names for monitor in callback.monitors] == [["0.weight"], ["2.weight", "4.weight"]]
    assert all(r.status == "exact" for monitor in callback.monitors for r in monitor.check())
    again = callbacks.lightning_callback()
    again.load_state_dict(callback.state_dict())
    fit(again, module, optimizers)
    assert [len(monitor) for monitor in again.monitors] == [8, 8]


def test_a_lightning_module_of_several_parts_has_to_name_one(libraries):
    module = Own()
    module.other = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="Own has no forward and 2 children with parameters: name the one"):
        fit(callbacks.lightning_callback(), module, [SGD(module)])
    fit(callbacks.lightning_callback(module="net"), module, [SGD(module)])


def test_the_trainer_of_hugging_face(libraries):
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = relu_chain()

        def forward(self, x):
            return {"loss": None, "logits": self.net(x)}

    model = Wrapper()
    optimizer = SGD(model)
    written = []
    callback = callbacks.trainer_callback(log_every=1, write=lambda numbers, step: written.append((numbers, step)))
    state, logs = types.SimpleNamespace(global_step=3), {}
    callback.on_log(None, state, None, logs=logs)  # before training
    callback.on_train_begin(None, state, None, model=model, optimizer=optimizer)
    callback.on_log(None, state, None, logs=logs)
    assert logs == {}
    X, Y = problem()
    for _ in range(6):
        optimizer.zero_grad()
        F.mse_loss(model(X)["logits"], Y).backward()
        optimizer.step()
    callback.on_log(None, state, None, logs=logs)
    callback.on_train_end(None, state, None)
    assert_exact(callback.monitor)
    assert logs["norms/k_eff/net.2.weight"] == pytest.approx(1.0) and written == [(logs, 3)]


def test_a_loss_inside_of_a_model_whose_output_is_cast_afterwards():
    """As Accelerate does it under mixed precision: what the model returns is no part of the loss."""

    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = relu_chain(dtype=torch.float32)

        def forward(self, x, y):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                f = self.net(x)
            return {"loss": F.mse_loss(f.float(), y), "logits": f.float()}

    def step(k, model, optimizer, X, Y):
        optimizer.zero_grad()
        model(X, Y)["loss"].backward()
        optimizer.step()

    data = tuple(problem(dtype=torch.float32))
    monitor = watch(step, model=Inside(), data=data, output=callbacks.logits)
    assert [(r.status, r.order) for r in monitor.check(warn=False)] == [("exact", 1)] * 3


def test_logits_are_found_in_what_models_return():
    f = torch.ones(2)
    assert all(callbacks.logits(r) is f for r in (f, {"logits": f}, types.SimpleNamespace(logits=f)))
    with pytest.raises(TypeError, match="returns tuple, which has no logits: give output="):
        callbacks.logits((f,))


def test_a_library_that_is_missing_is_named(monkeypatch):
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="Callback needs lightning.pytorch or pytorch_lightning: install it"):
        callbacks.lightning_callback()
    with pytest.raises(ImportError, match="TrainerCallback needs transformers"):
        callbacks.trainer_callback()


def test_loggers_get_the_last_step():
    monitor = watch(lambda k, *rest: plain_step(*rest), steps=40)
    written, logged = [], []
    callbacks.log_tensorboard(monitor, types.SimpleNamespace(add_scalar=lambda *entry: written.append(entry)), 7)
    callbacks.log_wandb(monitor, types.SimpleNamespace(log=lambda row, step: logged.append((row, step))), 7)
    ((numbers, step),) = logged
    assert step == 7 and written == [(tag, value, 7) for tag, value in numbers.items()] and len(numbers) == 12
    table = monitor.table()
    assert numbers["norms/rate/2.weight"] == table["rate"][-2] and numbers["norms/flow/4.weight"] == table["flow"][-1]
    with pytest.raises(ValueError, match="columns names speed; there are learning_rate"):
        callbacks.scalars(monitor, columns=("speed",))


# Weight decay


class Decayed(torch.optim.Optimizer):
    """Decoupled decay alone, in the variants of timm and AdaBelief."""

    def __init__(self, parameters, lr, weight_decay, **flags):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, **flags})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            share = group["weight_decay"] if group.get("fixed_decay") else group["lr"] * group["weight_decay"]
            if group.get("corrected_weight_decay"):
                share *= group["lr"] / self.defaults["lr"]
            for p in group["params"]:
                p.mul_(1 - share)


DECAYS = [
    lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.05),
    lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.05, decoupled_weight_decay=True),
    lambda p: torch.optim.NAdam(p, lr=0.1, weight_decay=0.05, decoupled_weight_decay=True),
    lambda p: torch.optim.RAdam(p, lr=0.1, weight_decay=0.05, decoupled_weight_decay=True),
    lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.05),
    lambda p: Decayed(p, 0.1, 0.05),
    lambda p: Decayed(p, 0.1, 0.05, fixed_decay=True),
    lambda p: Decayed(p, 0.1, 0.05, corrected_weight_decay=True),
]


@pytest.mark.parametrize("build", DECAYS)
def test_all_that_happens_without_a_gradient_is_decay(build):
    """The loss is constant, so the rate's first order is the decay term; the learning rate halves on the way."""
    model = relu_chain()
    optimizer = build(model.parameters())
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)

    def step(k, model, optimizer, X, Y):
        optimizer.zero_grad()
        (0.0 * model(X)).sum().backward()
        optimizer.step()
        schedule.step()

    table = watch(step, model=model, optimizer=optimizer, steps=3).table()
    assert (table["decay"] < -1e-4).all()
    assert torch.allclose(table["rate"], table["decay"] + table["step_term"], rtol=1e-10)
    assert (table["optimizer"].abs() <= 1e-10 * table["decay"].abs()).all()


def test_decay_that_is_not_decoupled_keeps_its_name():
    group = {"lr": 0.1, "weight_decay": 0.2, "decoupled_decay": False, "corrected_weight_decay": True}
    assert decay_rate(group, {"lr": 1.0}) == 0.2
    assert decay_rate({"lr": 0.0, "weight_decay": 0.2, "fixed_decay": True}, {}) == 0.0
    assert decay_rate({"lr": 0.1}, {}) == 0.0


# Averages, two optimisers, sharding


def test_an_average_of_the_weights_beside_training_changes_nothing():
    averaged = []

    def step(k, model, *rest):
        plain_step(model, *rest)
        if not averaged:
            averaged.append(torch.optim.swa_utils.AveragedModel(model))
        averaged[0].update_parameters(model)

    monitor = watch(step)
    assert_exact(monitor)
    assert monitor.to_csv() == watch(lambda k, *rest: plain_step(*rest)).to_csv()


def test_two_optimizers_of_one_model_in_turns():
    """As in a GAN: each monitor sees the passes of both, and its own optimiser's steps."""
    one, two = relu_chain(), relu_chain(widths=(3, 5, 4, 2), seed=1)
    model = nn.Sequential(one, two)
    optimizers = SGD(one), SGD(two)
    monitors = [NormMonitor(model, optimizer) for optimizer in optimizers]
    X, _ = problem()
    Y = torch.zeros(len(X), 2, dtype=X.dtype)
    for k in range(8):
        for optimizer in optimizers:
            optimizer.zero_grad()
        F.mse_loss(model(X), Y).backward()
        optimizers[k % 2].step()
    for monitor in monitors:
        assert len(monitor) == 4 and {(r.status, r.order) for r in monitor.check(warn=False)} == {("exact", 1)}


class FullyShardedDataParallel(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module


def zero_stage_three(model):
    for p in model.parameters():
        p.ds_id = 0
    return model


def placed(model):
    for p in model.parameters():
        p.placements = ("Shard(0)",)
    return model


@pytest.mark.parametrize(
    "wrap, name",
    [(FullyShardedDataParallel, "FullyShardedDataParallel"), (zero_stage_three, "DeepSpeed ZeRO"), (placed, "DTensor")],
)
def test_sharded_models_are_refused_by_name(wrap, name):
    model = wrap(relu_chain())
    with pytest.raises(ValueError, match=f"model is sharded by {name}: each process holds a part"):
        NormMonitor(model, SGD(model))
