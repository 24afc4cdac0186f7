"""Figures of the chapter on gradient flow: what it keeps, and what descent moves."""

import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from claimbook.show.figures import BROKEN, GREEN, MEASURED, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.weight_balancing.common import learners, linear
from companion.weight_balancing.gradient_flow import balance, curvature, descent, excess, small_steps
from normdyn.motion.flows import gradient_flow, integrate

WORLDS = {"kept": (linear, 0.0), "decay": (linear, 0.3), "tanh": (torch.tanh, 0.0)}


@shared
def paths(case: Case) -> dict[str, tuple[Tensor, Tensor]]:
    """Balances over time of one network in three worlds, and what the law says."""
    times, found = torch.linspace(0, 2, 21, dtype=torch.float64), {}
    for name, (activation, decay) in WORLDS.items():
        params, hidden, error = learners(case, "figure", activation, hidden_bias=0.3, count=1)[0]
        record = {"balance": lambda s, hidden=hidden: balance(s["W"], s["b"], hidden)}
        flow = gradient_flow(error, weight_decay=decay)
        path = integrate(flow, params, times, record=record, relative=1e-10)["balance"]
        found[name] = path, torch.exp(-2 * decay * times)[:, None] * path[0]
    return found


def draw_balance(case: Case) -> None:
    """Balances of five units over time, and their deviation from the law."""
    fig, (left, right) = axes(1, 2, height=3.1)
    times, columns = torch.linspace(0, 2, 21), {}
    looks = {"kept": MEASURED, "decay": MEASURED | {"color": GREEN}, "tanh": BROKEN}
    labels = {"kept": "no decay", "decay": "decay 0.3", "tanh": "tanh"}
    for name, (path, law) in paths(case).items():
        left.plot(times, path, **looks[name], label=[labels[name]] + [None] * 4)
        gap = (path - law).abs().amax(1).clamp_min(1e-17)[1:]
        right.semilogy(times[1:], gap, **looks[name], label=labels[name])
        columns |= {f"{name}_measured": path.flatten(), f"{name}_predicted": law.flatten()}
    for name in ("kept", "decay"):
        left.plot(times, paths(case)[name][1], **PREDICTED, label=["law" if name == "kept" else None] + [None] * 4)
    low, high = left.get_ylim()
    left.set(xlabel="time", ylabel=r"balance $\Delta_i$ of five units", ylim=(low, high + 0.45 * (high - low)))
    left.legend(ncols=2, fontsize=8, loc="upper left")
    right.set(xlabel="time", ylabel="largest deviation from the law")
    right.legend(loc="center right")
    show_figure(fig, name="synaptic-balance", data={"time_by_unit": times.repeat_interleave(5)} | columns)


@shared
def long_runs(case: Case, steps: int = 1000) -> dict[str, tuple[Tensor, Tensor]]:
    """Change of the balance of a ReLU network, all units together: measured, and from squares of gradients."""
    one = learners(case, "figure", torch.relu, hidden_bias=0.3, count=1)[0]
    step, found = 1 / (3 * curvature(one)), {}
    for name, batch in {"batches of 4": 4, "full batch": None}.items():
        run = descent(case, one, step, steps, batch)
        found[name] = tuple((x - run.balance[0]).norm(dim=1) for x in (run.balance, run.moved))
    return found


def draw_descent(case: Case) -> None:
    """The balance under gradient descent: over many steps, and over a fixed time against the learning rate."""
    fig, (left, right) = axes(1, 2, height=3.1)
    columns, tops = {}, []
    looks = {"batches of 4": MEASURED, "full batch": MEASURED | {"color": GREEN}}
    for name, (measured, law) in long_runs(case).items():
        clock = torch.arange(len(measured))
        left.plot(clock, measured, **looks[name], label=name)
        left.plot(clock, law, **PREDICTED, label="squares of gradients" if name == "full batch" else None)
        columns |= {"step": clock[::10], name.replace(" ", "_"): measured[::10], f"{name}_law": law[::10]}
        tops.append(measured.max().item())
    left.set(xlabel="step", ylabel=r"change of $\Delta$, all units", ylim=(0, 1.45 * max(tops)))
    left.legend(fontsize=8, loc="upper left")
    one, counts = learners(case, "rates", hidden_bias=0.3, count=3)[0], (10, 20, 40, 80)
    rates = torch.tensor([1 / n for n in counts], dtype=torch.float64) / curvature(one)
    changes = torch.stack([small_steps(case, linear, n)[0].norm() for n in counts]) * rates
    law = excess(case, linear)[0].norm() * rates
    right.loglog(rates, changes, "o", color=MEASURED["color"], label="measured")
    right.loglog(rates, law, **PREDICTED, label="integral along the flow")
    right.set_xticks(rates.tolist(), [f"{rate:.2g}" for rate in rates.tolist()])
    right.set_xticks([], minor=True)
    right.set(xlabel="learning rate", ylabel="change after a fixed time")
    right.legend(fontsize=8)
    columns |= {"learning_rate": rates, "change": changes, "integral": law}
    show_figure(fig, name="discrete-balance", data=columns)
