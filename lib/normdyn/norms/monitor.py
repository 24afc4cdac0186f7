r"""Norm dynamics of any network, watched from inside its own training loop.

A monitor is attached to a model and its optimiser; the loop itself stays as it is::

    monitor = NormMonitor(model, optimizer)
    ...                                    # output = model(X); loss.backward(); optimizer.step()
    monitor.check(), monitor.plot(), monitor.to_csv("norms.csv")

Hooks do the work: on the model's output and on the parameters (their gradients pass by in the backward pass that runs
anyway), before and after the optimiser's step. For each parameter tensor ``W`` with gradient ``g``, update
``u = W' - W``, learning rate ``eta``, output ``f`` and alignment ``a = <f, grad_f L>`` the difference quotient of its
squared norm splits into

.. math:: \frac{\|W'\|^2-\|W\|^2}{\eta} = \underbrace{-2Ka}_{\text{flow}} \underbrace{-2(\langle W,g\rangle-Ka)}_
   {\text{broken}} \underbrace{-2\delta\|W\|^2}_{\text{decay}} + \underbrace{\tfrac2\eta\langle W,u+\eta g+\eta\delta W
   \rangle}_{\text{optimizer}} + \underbrace{\tfrac1\eta\|u\|^2}_{\text{step}}

``broken`` is zero up to rounding where the network is homogeneous of order ``K`` in ``W``, ``optimizer`` is what
momentum and preconditioning add, and zero for plain gradient descent; ``step`` is the cost of a finite step. The sum
holds for every optimiser. ``g`` is what the optimiser finds. Where clipping, loss scaling or averaging made it ``c``
times the gradient of the backward pass, ``a`` is multiplied by ``c`` as well: it belongs to the loss that is descended.

Source: ``flow`` is Singh et al., Theorem 2, eq. (5), the rest is ours.
"""

import csv
import io
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from normdyn.norms.diagnosis import KNOWN, LINEAR, SHAPES, Diagnosis, LayerReport, NormLawWarning, is_bias
from normdyn.norms.recording import Recorder, known

COLUMNS = ("learning_rate", "squared_norm", "rate", "flow", "broken", "decay", "optimizer", "step_term", "law",
           "k_eff", "order", "factor", "flow_error", "error", "law_error")  # fmt: skip
TERMS = ("flow", "broken", "decay", "optimizer", "step_term")

__all__ = ["COLUMNS", "KNOWN", "LINEAR", "SHAPES", "TERMS", "LayerReport", "NormLawWarning", "NormMonitor"]


class NormMonitor:
    """Records squared norms, their rates and the causes of their rates at every step of an optimiser.

    Args:
        model: The module that is called for training, compiled or wrapped as it may be. Every backward pass through its
            output between two steps counts, so that gradient accumulation works; a batch whose gradients are set to
            zero without a step, as loss scalers skip one, does not. Gradients that are multiplied between ``backward``
            and ``step`` (clipped by norm, unscaled) are corrected for; other changes are reported.
        optimizer: Any, with or without a closure, and Accelerate's and Lightning's around it. Parameters of the model
            that it holds are recorded. Of a closure called several times in a step the first gradient counts.
        output: Picks the tensor through which all influence of the layers passes from what the model returns;
            needed if that is not a tensor.
        orders: Product of homogeneity orders by parameter name, or one number for all; whole numbers found
            numerically if absent.
        junctions: Pairs of parameter names, neighbours whose balance is recorded; ``"chain"`` for all neighbours in a
            model that is a homogeneous chain of linear and convolution layers. None if absent: sums over units cost a
            third as much again.
        every: Record every so many steps.
        ranks: Several processes train the model as DistributedDataParallel does, and each has a monitor with
            ``ranks=True``: outputs and gradients count on average over all. It costs one more all-reduce a step.

    Copies and pickles of the model, made while the monitor is attached, do not carry it along.

    Memory: on a processor a copy of weights and gradients, and one more of gradients that are changed on their way; on
    an accelerator 36 bytes a parameter, 60 where balances are recorded. One copy of the output, and 11 numbers a tensor
    and step.

    Raises:
        ValueError: The optimiser holds no parameter of the model, they are on several devices or sharded (FSDP,
            DTensor, DeepSpeed ZeRO), a name is unknown, the model is no chain for ``junctions="chain"``,
            ``model.compile()`` hides the output, or there is one process only for ``ranks=True``.
        TypeError: The optimiser takes no hooks.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 2.0)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        >>> monitor = NormMonitor(model, optimizer)
        >>> (model(torch.ones(1, 1)) - 1).square().sum().div(2).backward()           # f = 2, target 1
        >>> optimizer.step()
        >>> {name: monitor.table()[name].item() for name in ("rate", "flow", "step_term", "k_eff")}
        {'rate': -3.5, 'flow': -4.0, 'step_term': 0.5, 'k_eff': 1.0}
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        output: Callable[[Any], Tensor] | None = None,
        orders: Mapping[str, float | int] | float | int | None = None,
        junctions: Iterable[tuple[str, str]] | str | None = None,
        every: int = 1,
        ranks: bool = False,
    ):
        self._recorder = Recorder(model, optimizer, output=output, junctions=junctions, every=every, average=ranks)
        self.names = self._recorder.names
        self._orders = (
            dict.fromkeys(self.names, float(orders)) if isinstance(orders, float | int) else dict(orders or {})
        )
        known(self._orders, self.names, "orders")
        self._recorder.attach()

    def close(self) -> None:
        """Detach from model and optimiser; what was recorded stays."""
        self._recorder.detach()

    def __enter__(self) -> "NormMonitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Results

    def __len__(self) -> int:
        """Steps recorded."""
        return len(self._recorder)

    def _diagnosis(self) -> Diagnosis:
        seen = self._recorder
        parameters = dict(zip(self.names, seen.parameters, strict=True))
        return Diagnosis(
            seen.model, seen.called, seen.readout, parameters, seen.precision, self._orders, seen.averaging
        )

    def _laws(self, last: int | None = None) -> dict[str, Tensor]:
        """Columns of the table as tensors of shape (steps, layers)."""
        d, diagnosis = self._recorder.data(last), self._diagnosis()
        # No time passes at learning rate 0, as a warm-up may begin with: all rates are 0 there, not 0 / 0.
        still = (d["eta"] == 0) & (d["uu"] == 0)
        eta = torch.where(still, math.inf, d["eta"])
        a, slope, delta, moving = (torch.where(still, 0.0, x) for x in (d["a"], d["Wg"], d["delta"], (~still).double()))
        order = diagnosis.orders(d).expand_as(d["WW"])
        flow = torch.where(order.isnan(), torch.zeros_like(order), -2 * order * a)
        broken, decay, step = -2 * slope - flow, -2 * delta * d["WW"], d["uu"] / eta
        first = 2 * d["Wu"] / eta
        flow_error = moving * diagnosis.flow_error(d, order.nan_to_num())
        numel = torch.tensor([p.numel() for p in self._recorder.parameters], dtype=torch.float64)
        sides = d["WW"] + d["VV"] + d["uu"] + 2 * (d["WW"] * d["uu"]).sqrt()
        law_error = (numel + 4) * torch.finfo(torch.float64).eps * sides / eta
        stored = torch.tensor([torch.finfo(p.dtype).eps for p in self._recorder.parameters], dtype=torch.float64)
        rounding = 2 * stored * ((d["WW"] * d["VV"]).sqrt() + 4 * (d["WW"] * d["uu"]).sqrt()) / eta
        return {
            "learning_rate": d["eta"], "squared_norm": d["WW"], "rate": (d["VV"] - d["WW"]) / eta, "flow": flow,
            "broken": broken, "decay": decay, "optimizer": first - flow - broken - decay, "step_term": step,
            "law": first + step, "k_eff": d["k_eff"], "order": order, "factor": d["factor"], "flow_error": flow_error,
            "error": flow_error + rounding + law_error, "law_error": law_error,
        }  # fmt: skip

    def table(self) -> dict[str, list[str] | Tensor]:
        """One row a step and parameter tensor, as columns.

        Returns:
            ``step``, ``layer`` and, per unit of time (learning rate times steps) where they are rates:

            - ``learning_rate``, ``squared_norm`` before the step, ``rate``, the difference quotient as measured;
            - ``flow``, ``broken``, ``decay``, ``optimizer``, ``step_term``, the terms of the module's docstring, and
              ``law``, the first-order term ``2 <W, u> / eta`` plus ``step_term``;
            - ``k_eff``, ``<W, G> / <f, grad_f L>`` with the gradient ``G`` of the backward pass, ``order``, the ``K``
              that ``flow`` is computed with (NaN for a bias, which has none), and ``factor``, ``c`` in ``g = c G``;
            - ``flow_error``, error bar of ``flow`` and ``broken`` from the precision the network is evaluated in: an
              estimate by the norms that enter, with room for one error a layer each way; ``error``, that of ``rate -
              (flow + broken + decay + step_term)`` under plain gradient descent, with the rounding of the stored
              parameters; ``law_error``, that of ``rate - law``, a bound.

            Where the learning rate is 0 no time passes and all rates are 0. Steps that the optimiser itself skipped,
            for its gradients were not finite, have no row.

        Raises:
            RuntimeError: Nothing is recorded yet.
        """
        laws, L = self._laws(), len(self.names)
        columns: dict[str, list[str] | Tensor] = {
            "step": torch.tensor(self._recorder.steps).repeat_interleave(L),
            "layer": self.names * len(self),
        }
        return columns | {name: laws[name].flatten() for name in COLUMNS}

    def latest(self) -> dict[str, dict[str, float]]:
        """The last row of each tensor, by name and column: what a logger wants during training.

        Orders are those that fit the last 32 recorded steps best, so that the cost does not grow with the run.

        Raises:
            RuntimeError: Nothing is recorded yet.
        """
        laws = self._laws(last=32)
        return {name: {c: laws[c][-1, k].item() for c in COLUMNS} for k, name in enumerate(self.names)}

    def balances(self) -> dict[str, list[str] | Tensor]:
        r"""One row a step and junction: Euclidean norms over the junction's units of :math:`|W_i|^2 - |V_{\cdot i}|^2`.

        Returns:
            ``step``, ``junction``, ``balance`` before the step, and of its change ``first_order``, which vanishes for
            plain gradient descent with a coordinate-wise homogeneous activation of order 1 between the layers, and
            ``second_order``. Junctions into another order are not rescaled.

        Raises:
            RuntimeError: The monitor was created without junctions, or nothing is recorded yet.
        """
        if not self._recorder.junctions:
            raise RuntimeError('no junctions are recorded: create NormMonitor(..., junctions="chain"), or name pairs')
        norms = self._recorder.data()["balances"]
        names = [f"{below} -> {above}" for below, above in self._recorder.junctions]
        first, second = 2 * norms[..., 1], norms[..., 2]
        return {
            "step": torch.tensor(self._recorder.steps).repeat_interleave(len(names)), "junction": names * len(self),
            "balance": norms[..., 0].flatten(), "first_order": first.flatten(), "second_order": second.flatten(),
        }  # fmt: skip

    def total(self) -> dict[str, Tensor]:
        """Sums over all parameter tensors, one entry a step: squared norm, rate, its terms, ``law`` and ``error``."""
        laws = self._laws()
        names = ("squared_norm", "rate", *TERMS, "law", "error")
        return {"step": torch.tensor(self._recorder.steps)} | {name: laws[name].sum(1) for name in names}

    def to_csv(self, path: str | os.PathLike | None = None) -> str:
        """The table as comma-separated text in full precision, also written to ``path`` if that is given."""
        columns = {name: getattr(c, "tolist", lambda c=c: c)() for name, c in self.table().items()}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        if path is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text.getvalue())
        return text.getvalue()

    # Diagnosis

    def check(self, *, tolerance: float = 0.05, warn: bool = True) -> list[LayerReport]:
        """Decide for every tensor but the biases whether the norm law applies, and warn of those it does not.

        Args:
            tolerance: Misfit up to which a law that is not exact counts as ``approximate``.
            warn: Issue one :class:`NormLawWarning` that names all layers not ``exact``, and why.

        Raises:
            RuntimeError: Nothing is recorded yet.
        """
        reports = self._diagnosis().reports(self._recorder.data(), tolerance)
        lines = [
            f"{r.layer}: {r.status}, k_eff = {r.k_eff:.4g} (order {r.order:g}), misfit {r.misfit:.1e} "
            f"+- {r.error_bar:.0e}; {'; '.join((*r.reasons, *[r.scaling] * bool(r.scaling)))}"
            for r in reports
            if r.status != "exact"
        ]
        if lines and warn:
            text = "the norm law does not hold exactly for\n  " + "\n  ".join(lines)
            warnings.warn(text, NormLawWarning, stacklevel=2)
        return reports

    def plot(self, ax: Sequence | None = None):
        """Draw the total rate against flow and exact law, and each layer's ``k_eff``; gives the figure.

        Args:
            ax: Two matplotlib axes to draw on; made if absent.
        """
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(1, 2, figsize=(7.2, 3.0), layout="constrained")
        laws, total, steps = self._laws(), self.total(), torch.tensor(self._recorder.steps)
        left, right = ax
        left.plot(steps, total["rate"], color="#2b7bba", linewidth=2.0, label="measured")
        left.plot(steps, total["flow"] + total["decay"], "-.", color="#d55e00", linewidth=1.6, label="flow and decay")
        left.plot(steps, total["law"], "--", color="#1b1e23", linewidth=1.3, zorder=3, label="exact law")
        left.set(xlabel="step", ylabel="rate of the squared norm")
        left.legend()
        layers = [k for k, name in enumerate(self.names) if not is_bias(name)]
        for position, k in enumerate(layers):
            color = plt.cm.cividis(0.35 + 0.5 * position / max(len(layers) - 1, 1))
            right.plot(steps, laws["k_eff"][:, k], color=color, linewidth=1.2, label=self.names[k])
        right.set(xlabel="step", ylabel=r"$k_{\mathrm{eff}}=\langle W,g\rangle\,/\,\langle f,\nabla_f L\rangle$")
        if len(layers) <= 8:
            right.legend(fontsize=7)
        return left.figure

    # Resuming

    def state_dict(self) -> dict[str, Any]:
        """All that is recorded, on the CPU, for ``torch.save`` next to the model's and the optimiser's state."""
        return self._recorder.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; what was recorded here so far is replaced.

        Raises:
            ValueError: The state is that of another model, of other junctions or of an older version.
        """
        self._recorder.load_state_dict(state)
