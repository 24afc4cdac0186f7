"""Figures of the chapter on weight-balancing flows."""

import torch
from torch import Tensor

from claimbook.evidence import Case, shared
from claimbook.show.figures import BROKEN, GREEN, MEASURED, ORANGE, PREDICTED, axes
from claimbook.show.notebook import show_figure
from companion.weight_balancing.common import linear
from companion.weight_balancing.kinked_flows import TILT, solvable
from companion.weight_balancing.moving_biases import WAYS, sines, with_biases
from companion.weight_balancing.penalties import norm
from companion.weight_balancing.weight_balancing_flows import followed
from normdyn.motion.flows import descend
from normdyn.motion.sliding import slide
from normdyn.rescaling.flows import minimum_norm_flow

TIMES = tuple(k / 10 for k in range(21))
WORLDS = {"balanced start": (linear, True), "unbalanced": (linear, False), "tanh units": (torch.tanh, False)}


def draw_balance(case: Case) -> None:
    """Imbalances of five units along the flow of the (1, 2) norm, their deviation from the law, and the loss."""
    fig, (left, middle, right) = axes(1, 3, height=2.9, width=7.6)
    looks, columns = (MEASURED | {"color": GREEN}, MEASURED, BROKEN), {}
    for (name, (activation, balance)), look in zip(WORLDS.items(), looks, strict=True):
        run = followed(case, (norm(1, 2),), (0.5,), activation, balance=balance, times=TIMES)[0]
        law = torch.exp(-0.5 * run["times"])[:, None] * run["Q"][0]
        left.plot(run["times"], run["Q"], **look, label=[name] + [None] * 4)
        if name == "unbalanced":
            left.plot(run["times"], law, **PREDICTED, label=[r"$e^{-\lambda t}$"] + [None] * 4)
        middle.semilogy(run["times"][1:], (run["Q"] - law).abs().amax(1).clamp_min(1e-17)[1:], **look)
        right.plot(run["times"], run["loss"], **look)
        columns |= {f"{name} Q": run["Q"].flatten(), f"{name} law": law.flatten(), f"{name} loss": run["loss"]}
    low, high = left.get_ylim()
    left.set(xlabel="time", ylabel="imbalance $Q_i$ of five units", ylim=(low, high + 0.5 * (high - low)))
    left.legend(fontsize=8, loc="upper left")
    middle.set(xlabel="time", title="deviation from the law")
    right.set(xlabel="time", title="loss")
    show_figure(fig, name="balancing-flow", data={"time_by_unit": torch.tensor(TIMES).repeat_interleave(5)} | columns)


@shared
def hopping(step: float = 0.01, span: float = 4.0, window: int = 40) -> dict[str, Tensor]:
    """The solvable network from below the kink, p = q = 1: slid, and by Euler steps with the slope 0 at the kink."""
    one, penalty = solvable(1), norm(1, 1)
    W = one.W.clone()
    W[2, 0] = 0.3
    W[3, 2] = W[2].sum()
    record = {"kink": lambda s: one.switches(s)[0]}
    times = torch.linspace(0, span, 101, dtype=torch.float64)
    path = slide(one.field(penalty, 0.0), one.switches, {"W": W}, times, rates=one.rates, record=record)
    flow = minimum_norm_flow(one.plain, one.hidden, p=1, q=1)
    hops = descend(flow, {"W": W, "b": one.W[0]}, step=step, steps=round(span / step), record=record)
    on = (hops["kink"] > 0).double().unfold(0, window, window // 4)
    middles = hops["times"].unfold(0, window, window // 4).mean(1)
    return path | {"hop times": hops["times"], "hops": hops["kink"], "share": on.mean(1), "middles": middles}


def draw_sliding(case: Case) -> None:
    """The pre-activation that comes to the kink and stays, and the slope that keeps it there."""
    fig, (left, right) = axes(1, 2, height=2.9)
    run = hopping()
    left.plot(run["hop times"], run["hops"], **BROKEN, label="Euler, step 0.01")
    left.plot(run["times"], run["kink"], **PREDICTED, label="sliding")
    left.set(xlabel="time", ylabel=rf"pre-activation $w_1-{TILT:g}w_2$ of a sample")
    left.legend(loc="lower right")
    right.plot(run["middles"], run["share"], **BROKEN, label="share of Euler steps with the unit on")
    right.plot(run["times"], run["gates"][:, 0], **PREDICTED, label=r"slope $\alpha$ at the kink")
    right.set(xlabel="time", ylabel=r"between 0 and 1", ylim=(-0.02, 0.45))
    right.legend(loc="upper right")
    show_figure(fig, name="sliding", data={
        "time": run["times"], "sliding": run["kink"], "alpha": run["gates"][:, 0], "step_time": run["hop times"],
        "euler": run["hops"], "window_time": run["middles"], "share": run["share"],
    })  # fmt: skip


def draw_biases(case: Case) -> None:
    """Biases that move: imbalances with and without compensation, and three ways to learn a sine."""
    fig, (left, middle, right) = axes(1, 3, height=2.9, width=7.6)
    times, columns = tuple(k / 10 for k in range(11)), {}
    for name, look in (("gradient flow", BROKEN), ("compensated", MEASURED)):
        run = with_biases(case, penalties=(norm(1, 2),), times=times, **WAYS[name])[0]
        left.plot(run["times"], run["Q"], **look, label=[name] + [None] * 4)
        columns |= {f"{name} Q": run["Q"].flatten()}
        if name == "gradient flow":
            left.plot(run["times"], run["law"], **PREDICTED, label=["law"] + [None] * 4)
    low, high = left.get_ylim()
    left.set(xlabel="time", ylabel="imbalance $Q_i$ of five units", ylim=(low, high + 0.45 * (high - low)))
    left.legend(fontsize=8, loc="upper left")
    for name, look in zip(WAYS, (MEASURED | {"color": ORANGE}, BROKEN, MEASURED), strict=True):
        run = sines(case, name)[0]
        middle.semilogy(run["times"], run["error"], **look, label=name)
        right.semilogy(run["times"][1:], run["tilt"][1:], **look)
        columns |= {f"{name} error": run["error"], f"{name} tilt": run["tilt"]}
    middle.set(xlabel="time", title="error, ReLU network")
    middle.legend(fontsize=8, title="hidden biases", title_fontsize=8)
    right.set(xlabel="time", title="relative imbalance")
    show_figure(fig, name="trained-biases", data={"time_by_unit": torch.tensor(times).repeat_interleave(5)} | columns)
