r"""Norm dynamics of any network, watched from inside its own training loop.

A monitor is attached to a model and its optimiser; the loop itself stays as it is::

    monitor = NormMonitor(model, optimizer)
    ...                                    # output = model(X); loss.backward(); optimizer.step()
    monitor.check(), monitor.plot(), monitor.to_csv("norms.csv")

Three hooks do the work: on the model's output (its gradient passes by in the backward pass that runs anyway), before
and after the optimiser's step. For each parameter tensor ``W`` with gradient ``g``, update ``u = W' - W``, learning
rate ``eta``, output ``f`` and alignment ``a = <f, grad_f L>`` the difference quotient of its squared norm splits into

.. math:: \frac{\|W'\|^2-\|W\|^2}{\eta} = \underbrace{-2Ka}_{\text{flow}} \underbrace{-2(\langle W,g\rangle-Ka)}_
   {\text{broken}} \underbrace{-2\delta\|W\|^2}_{\text{decay}} + \underbrace{\tfrac2\eta\langle W,u+\eta g+\eta\delta W
   \rangle}_{\text{optimizer}} + \underbrace{\tfrac1\eta\|u\|^2}_{\text{step}}

``flow`` is Singh et al., Theorem 2, eq. (5), the rest is ours: ``broken`` is zero up to rounding where the network is
homogeneous of order ``K`` in ``W``, ``optimizer`` is what momentum and preconditioning add, and zero for plain
gradient descent; ``step`` is the cost of a finite step. The sum holds for every optimiser.

Inner products are accumulated in float64 on the device of the model and leave it only when a result is asked for.
"""

import csv
import io
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from normdyn.modules import CONVOLUTIONS, HOMOGENEOUS, POOLING, UnsupportedModel, weighted_layers

LINEAR = (nn.Linear, *CONVOLUTIONS, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Embedding)
SHAPES = (nn.Flatten, nn.Unflatten, nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle)
KNOWN = (*LINEAR, *HOMOGENEOUS, *POOLING, *SHAPES)
COLUMNS = ("learning_rate", "squared_norm", "rate", "flow", "broken", "decay", "optimizer", "step_term", "law",
           "k_eff", "order", "flow_error", "error", "law_error")  # fmt: skip
TERMS = ("flow", "broken", "decay", "optimizer", "step_term")
_KEPT = (0, 1, 3, 5, 10, 15)  # of the Gramian of (W, g, W', u): WW, Wg, Wu, gg, W'W', uu
_FOLD = 256


class NormLawWarning(UserWarning):
    """Some layers of a monitored model do not obey the norm law of Theorem 2."""


class LayerReport(NamedTuple):
    """Whether the norm law holds for one parameter tensor, over all steps recorded.

    Attributes:
        layer: Its name in the model.
        order: Product of homogeneity orders ``K`` that the law is tested with: the caller's, or the whole number
            nearest to ``k_eff``.
        k_eff: Least-squares fit of ``<W, g> = k <f, grad_f L>`` over the steps.
        misfit: Root mean square of ``<W, g> - K <f, grad_f L>`` relative to that of ``<f, grad_f L>``.
        error_bar: Of the misfit, from the precision that the network is evaluated in.
        status: ``exact`` (every step within its error bar), ``approximate`` (misfit within the tolerance) or
            ``not covered``.
        with_biases: The misfit of the layer together with all biases from it upward, whose law (grade 1) holds
            where biases alone break the layer's own.
        reasons: What in the model may break the law, by name; empty where it is exact.
    """

    layer: str
    order: float
    k_eff: float
    misfit: float
    error_bar: float
    status: str
    with_biases: float
    reasons: tuple[str, ...]


class NormMonitor:
    """Records squared norms, their rates and the causes of their rates at every step of an optimiser.

    Args:
        model: Called as ``model(...)`` for training. Every backward pass through its output between two steps counts,
            so that gradient accumulation works. Gradients that are clipped, scaled or zeroed between ``backward`` and
            ``step`` are not those the output belongs to: the law then looks broken in all layers, by one factor.
        optimizer: Any that steps without a closure. Parameters of the model that it holds are recorded.
        output: Picks the tensor through which all influence of the layers passes from what the model returns;
            needed if that is not a tensor.
        orders: Product of homogeneity orders by parameter name, or one number for all; whole numbers found
            numerically if absent.
        junctions: Pairs of parameter names, neighbours whose balance is recorded. Absent, all neighbours in a chain of
            linear and convolution layers, and none where the model is not a homogeneous chain.
        every: Record every so many steps.

    Memory: 32 bytes a parameter, 56 where balances are recorded, and 6 numbers a tensor and step.

    Raises:
        ValueError: The optimiser holds no parameter of the model, they are on several devices, or a name is unknown.

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
        junctions: Iterable[tuple[str, str]] | None = None,
        every: int = 1,
    ):
        group_of = {id(p): k for k, group in enumerate(optimizer.param_groups) for p in group["params"]}
        tracked = {name: p for name, p in model.named_parameters() if p.requires_grad and id(p) in group_of}
        if not tracked:
            raise ValueError("optimizer holds no trainable parameter of model: build it from model.parameters()")
        if every < 1:
            raise ValueError(f"every={every} must be at least 1")
        self.names = list(tracked)
        self._model, self._optimizer, self._output, self._every = model, optimizer, output, every
        self._parameters = list(tracked.values())
        self._groups = [group_of[id(p)] for p in self._parameters]
        self._identity = self._fingerprint()
        self._orders = (
            dict.fromkeys(self.names, float(orders)) if isinstance(orders, float | int) else dict(orders or {})
        )
        _known(self._orders, self.names, "orders")
        self._junctions = self._chain() if junctions is None else [tuple(pair) for pair in junctions]
        _known({name for pair in self._junctions for name in pair}, self.names, "junctions")
        for below, above in self._junctions:
            _columns(tracked[above], len(tracked[below]), above, below)
        self._rows, self._views = self._workspace()
        self._called: list[str] = []
        self._alignment: Tensor | None = None
        self._precision = 0.0
        self._step = 0
        self._steps: list[int] = []
        self._settings: list[tuple[tuple[float, float], ...]] = []
        self._records: list[Tensor] = []
        self._folded: list[Tensor] = []
        self._order_hooks = [m.register_forward_hook(self._note_call(n)) for n, m in model.named_modules() if n]
        self._hooks = [
            model.register_forward_hook(self._watch_output),
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    # Recording

    def close(self) -> None:
        """Detach from model and optimiser; what was recorded stays."""
        for hook in (*self._hooks, *self._order_hooks):
            hook.remove()

    def __enter__(self) -> "NormMonitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _note_call(self, name: str):
        return lambda module, inputs, result: self._called.append(name)

    def _watch_output(self, module: nn.Module, inputs: tuple, result: Any) -> None:
        f = result if self._output is None else self._output(result)
        if not isinstance(f, Tensor):
            raise TypeError(
                f"model returns {type(result).__name__}: tell which tensor counts with output=lambda r: ..."
            )
        while self._order_hooks:
            self._order_hooks.pop().remove()
        if not f.requires_grad or self._step % self._every:
            return
        self._precision = max(self._precision, _epsilon(f), _epsilon(self._parameters[0]))
        value = f.detach()
        f.register_hook(lambda gradient: self._watch_gradient(value, gradient))

    def _watch_gradient(self, f: Tensor, gradient: Tensor) -> None:
        rows = torch.stack((f.reshape(-1), gradient.detach().reshape(-1))).to(self._rows.device, torch.float64)
        seen = (rows @ rows.mT).flatten()
        self._alignment = seen if self._alignment is None else self._alignment + seen

    def _before_step(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        if self._step % self._every:
            return
        if self._alignment is None:
            raise RuntimeError(
                "step without backward: since the last step no gradient passed the output of model(...); call the "
                "model itself, then loss.backward(), then optimizer.step() without a closure"
            )
        missing = [name for name, p in zip(self.names, self._parameters, strict=True) if p.grad is None]
        if missing:
            raise RuntimeError(
                f"no gradient in {', '.join(missing)}: the loss does not depend on it, or zero_grad came between "
                "backward and step; freeze unused parameters with requires_grad_(False) before creating the monitor"
            )
        if self._fingerprint() != self._identity:
            raise RuntimeError("the model's parameters changed (replaced, frozen or moved): create a new monitor")
        with torch.no_grad():
            torch._foreach_copy_(self._views[0], self._parameters)
            torch._foreach_copy_(self._views[1], [p.grad for p in self._parameters])

    def _after_step(self, optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict) -> None:
        if self._step % self._every == 0:
            with torch.no_grad():
                torch._foreach_copy_(self._views[2], self._parameters)
                torch.sub(self._rows[2], self._rows[0], out=self._rows[3])
                grams = [block @ block.mT for block in self._blocks]
                self._records.append(torch.cat([torch.stack(grams).flatten(), self._alignment, *self._balances()]))
            groups = optimizer.param_groups
            self._settings.append(tuple((float(g["lr"]), float(g.get("weight_decay", 0.0))) for g in groups))
            self._steps.append(self._step)
            self._alignment = None
            if len(self._records) >= _FOLD:
                self._fold()
        self._step += 1

    def _balances(self) -> list[Tensor]:
        """For each unit of each junction: its balance, and half of the first- and the second-order change."""
        if not self._junctions:
            return []
        for product, i, j in zip(self._products, (0, 0, 3), (0, 3, 3), strict=True):
            torch.mul(self._rows[i], self._rows[j], out=product)
        return [(below.sum(2) - above.sum((1, 3))).flatten() for below, above in self._sides]

    def _fold(self) -> None:
        """Shrink the latest records to what is kept, still on the device."""
        if not self._records:
            return
        records, L = torch.stack(self._records), len(self.names)
        grams = records[:, : 16 * L].unflatten(1, (L, 16))[:, :, list(_KEPT)].flatten(1)
        units = records[:, 16 * L + 4 :].split([3 * below.shape[1] for below, _ in self._sides], 1)
        balances = [junction.unflatten(1, (3, -1)).norm(dim=2) for junction in units]
        self._folded.append(torch.cat([grams, records[:, 16 * L : 16 * L + 4], *balances], 1))
        self._records = []

    def _workspace(self) -> tuple[Tensor, list[list[Tensor]]]:
        devices = {p.device for p in self._parameters}
        if len(devices) > 1:
            raise ValueError(f"parameters are on {sorted(map(str, devices))}: only one device is supported")
        sizes = [p.numel() for p in self._parameters]
        rows = torch.zeros(4, sum(sizes), dtype=torch.float64, device=devices.pop())
        ends = torch.tensor(sizes).cumsum(0).tolist()
        self._slices = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        self._blocks = [rows[:, s] for s in self._slices]
        views = [[row[s].view_as(p) for s, p in zip(self._slices, self._parameters, strict=True)] for row in rows]
        self._products = rows.new_zeros(3, rows.shape[1] if self._junctions else 0)
        self._sides = []
        for below, above in self._junctions:
            (s, W), (t, V) = ((self._slices[k], self._parameters[k]) for k in map(self.names.index, (below, above)))
            incoming = self._products[:, s].view(3, len(W), -1)
            self._sides.append((incoming, self._products[:, t].view(3, len(V), len(W), -1)))
        return rows, views

    def _fingerprint(self) -> tuple:
        return tuple((id(p), p.requires_grad, p.device) for p in self._model.parameters())

    def _chain(self) -> list[tuple[str, str]]:
        try:
            layers = weighted_layers(self._model)
        except UnsupportedModel:
            return []
        names = {id(p): name for name, p in zip(self.names, self._parameters, strict=True)}
        found = [(names.get(id(a.module.weight)), names.get(id(b.module.weight))) for a, b in pairwise(layers)]
        return [
            pair
            for pair, (a, b) in zip(found, pairwise(layers), strict=True)
            if None not in pair and getattr(b.module, "groups", 1) == 1
        ]

    # Results

    def __len__(self) -> int:
        return len(self._steps)

    def _data(self) -> dict[str, Tensor]:
        """All records on the CPU: the one synchronisation. Tensors of shape (steps, layers) and (steps, 1)."""
        if not self._steps:
            raise RuntimeError("nothing is recorded yet: train at least one step")
        self._fold()
        self._folded = [torch.cat(self._folded)]
        records, L = self._folded[0].cpu(), len(self.names)
        products = records[:, : 6 * L].unflatten(1, (L, 6)).unbind(2)
        ff, a, _, gg = records[:, 6 * L : 6 * L + 4].unbind(1)
        settings = torch.tensor(self._settings, dtype=torch.float64)[:, self._groups]
        named = dict(zip(("WW", "Wg", "Wu", "gg", "VV", "uu"), products, strict=True))
        balances = records[:, 6 * L + 4 :].unflatten(1, (-1, 3)) if self._junctions else None
        return named | {
            "a": a[:, None], "size": (ff * gg).sqrt()[:, None], "eta": settings[..., 0], "delta": settings[..., 1],
            "balances": balances,
        }  # fmt: skip

    def _laws(self) -> dict[str, Tensor]:
        """Columns of the table as tensors of shape (steps, layers)."""
        d = self._data()
        eta, a, norms = d["eta"], d["a"], (d["WW"] * d["VV"]).sqrt()
        order = self._order(d).expand_as(d["WW"])
        flow = torch.where(order.isnan(), torch.zeros_like(order), -2 * order * a)
        broken, decay, step = -2 * d["Wg"] - flow, -2 * d["delta"] * d["WW"], d["uu"] / eta
        first = 2 * d["Wu"] / eta
        flow_error = self._flow_error(d, order.nan_to_num())
        numel = torch.tensor([p.numel() for p in self._parameters], dtype=torch.float64)
        sides = d["WW"] + d["VV"] + d["uu"] + 2 * (d["WW"] * d["uu"]).sqrt()
        law_error = (numel + 4) * torch.finfo(torch.float64).eps * sides / eta
        stored = torch.tensor([torch.finfo(p.dtype).eps for p in self._parameters], dtype=torch.float64)
        rounding = 2 * stored * (norms + 4 * (d["WW"] * d["uu"]).sqrt()) / eta
        return {
            "learning_rate": eta, "squared_norm": d["WW"], "rate": (d["VV"] - d["WW"]) / eta, "flow": flow,
            "broken": broken, "decay": decay, "optimizer": first - flow - broken - decay, "step_term": step,
            "law": first + step, "k_eff": d["Wg"] / a, "order": order, "flow_error": flow_error,
            "error": flow_error + rounding + law_error, "law_error": law_error,
        }  # fmt: skip

    def _order(self, d: Mapping[str, Tensor]) -> Tensor:
        """``K`` of each tensor: the whole number that fits best, the layer alone or with the biases from it upward."""
        a, found = d["a"][:, 0], []
        for k, name in enumerate(self.names):
            alone = d["Wg"][:, k]
            sums = (alone, alone + d["Wg"][:, self._biases(name, order=1.0)].sum(1))
            fits = [max(0.0, (s @ a / (a @ a)).nan_to_num().round().item()) for s in sums]
            best = min((_ratio((s - K * a).norm().item(), a.norm().item()), K) for s, K in zip(sums, fits, strict=True))
            found.append(self._orders.get(name, math.nan if _is_bias(name) else best[1]))
        return torch.tensor(found, dtype=torch.float64)

    def _flow_error(self, d: Mapping[str, Tensor], order: Tensor) -> Tensor:
        modules = len({name.rpartition(".")[0] for name in self.names})
        return 8 * (modules + 1) * self._precision * ((d["WW"] * d["gg"]).sqrt() + (order + 1) * d["size"])

    def table(self) -> dict[str, list[str] | Tensor]:
        """One row a step and parameter tensor, as columns.

        Returns:
            ``step``, ``layer`` and, per unit of time (learning rate times steps) where they are rates:

            - ``learning_rate``, ``squared_norm`` before the step, ``rate``, the difference quotient as measured;
            - ``flow``, ``broken``, ``decay``, ``optimizer``, ``step_term``, the terms of the module's docstring, and
              ``law``, the first-order term ``2 <W, u> / eta`` plus ``step_term``;
            - ``k_eff``, ``<W, g> / <f, grad_f L>``, and ``order``, the ``K`` that ``flow`` is computed with (NaN for a
              bias, which has none);
            - ``flow_error``, error bar of ``flow`` and ``broken`` from the precision the network is evaluated in: an
              estimate by the norms that enter, with room for one error a layer each way; ``error``, that of ``rate -
              (flow + broken + decay + step_term)`` under plain gradient descent, with the rounding of the stored
              parameters; ``law_error``, that of ``rate - law``, a bound.

        Raises:
            RuntimeError: Nothing is recorded yet.
        """
        laws, L = self._laws(), len(self.names)
        columns = {"step": torch.tensor(self._steps).repeat_interleave(L), "layer": self.names * len(self)}
        return columns | {name: laws[name].flatten() for name in COLUMNS}

    def balances(self) -> dict[str, list[str] | Tensor]:
        r"""One row a step and junction: Euclidean norms over the junction's units of :math:`|W_i|^2 - |V_{\cdot i}|^2`.

        Returns:
            ``step``, ``junction``, ``balance`` before the step, and of its change ``first_order``, which vanishes for
            plain gradient descent with a coordinate-wise homogeneous activation of order 1 between the layers, and
            ``second_order``. Junctions into another order are not rescaled.
        """
        norms = self._data()["balances"]
        names = [f"{below} -> {above}" for below, above in self._junctions]
        if norms is None:
            norms = torch.zeros(len(self), 0, 3, dtype=torch.float64)
        first, second = 2 * norms[..., 1], norms[..., 2]
        return {
            "step": torch.tensor(self._steps).repeat_interleave(len(names)), "junction": names * len(self),
            "balance": norms[..., 0].flatten(), "first_order": first.flatten(), "second_order": second.flatten(),
        }  # fmt: skip

    def total(self) -> dict[str, Tensor]:
        """Sums over all parameter tensors, one entry a step: squared norm, rate, its terms, ``law`` and ``error``."""
        laws = self._laws()
        names = ("squared_norm", "rate", *TERMS, "law", "error")
        return {"step": torch.tensor(self._steps)} | {name: laws[name].sum(1) for name in names}

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
        """
        d = self._data()
        reports = [self._report(k, d, tolerance) for k, name in enumerate(self.names) if not _is_bias(name)]
        lines = [
            f"{r.layer}: {r.status}, k_eff = {r.k_eff:.4g} (order {r.order:g}), misfit {r.misfit:.1e} "
            f"+- {r.error_bar:.0e}; {'; '.join(r.reasons)}"
            for r in reports
            if r.status != "exact"
        ]
        if lines and warn:
            text = "the norm law does not hold exactly for\n  " + "\n  ".join(lines)
            warnings.warn(text, NormLawWarning, stacklevel=2)
        return reports

    def _report(self, k: int, d: Mapping[str, Tensor], tolerance: float) -> LayerReport:
        a, Wg, K = d["a"][:, 0], d["Wg"][:, k], self._order(d)[k].item()
        scale = a.norm().item()
        bar = self._flow_error(d, torch.full_like(d["WW"], K))[:, k] / 2
        miss = Wg - K * a
        misfit = _ratio(miss.norm().item(), scale)
        exact = bool((miss.abs() <= bar).all())
        status = "exact" if exact else "approximate" if misfit <= tolerance else "not covered"
        biases = self._biases(self.names[k], K)
        graded = _ratio((miss + d["Wg"][:, biases].sum(1)).norm().item(), scale)
        fit = ((Wg * a).sum() / a.square().sum()).item()
        restored = bool(biases) and not exact and bool(((miss + d["Wg"][:, biases].sum(1)).abs() <= 2 * bar).all())
        reasons = () if exact else self._reasons(self.names[k], K, restored, misfit > 1e-3)
        return LayerReport(self.names[k], K, fit, misfit, _ratio(bar.norm().item(), scale), status, graded, reasons)

    def _later(self, name: str, order: float) -> list[tuple[str, nn.Module]]:
        """Modules from this parameter's own on, as called in the first forward pass that was seen.

        Under order 0 the list ends with the first normalisation: what comes later cannot matter.
        """
        owner, modules = name.rpartition(".")[0], dict(self._model.named_modules())
        start = self._called.index(owner) if owner in self._called else 0  # a parameter of no leaf: all that is called
        later = list(dict.fromkeys(self._called[start:]))
        last = [k for k, other in enumerate(later) if order == 0 and other != owner and _normalises(modules[other])]
        return [(other, modules[other]) for other in (later[: last[0] + 1] if last else later)]

    def _biases(self, name: str, order: float) -> list[int]:
        """Biases from this parameter's module upward; under order 0 those below the normalisation."""
        owner = name.rpartition(".")[0]
        later = {other for other, m in self._later(name, order) if order > 0 or other == owner or not _normalises(m)}
        return [i for i, b in enumerate(self.names) if _is_bias(b) and b.rpartition(".")[0] in later]

    def _reasons(self, name: str, order: float, restored: bool, gross: bool) -> tuple[str, ...]:
        """What may stand in the way, module by module from the layer upward; the smallest suspects last."""
        found, flaws, biases, owner = [], [], [], name.rpartition(".")[0]
        for other, module in self._later(name, order):
            normalises = _normalises(module) and other != owner
            if getattr(module, "bias", None) is not None and not (normalises and order == 0):
                biases.append(other)
            if normalises:
                flaws += [f"{other} ({type(module).__name__}) {flaw}" for flaw in _flaws(module)]
            elif not _normalises(module) and not next(module.children(), None) and not isinstance(module, KNOWN):
                found.append(f"{other} ({type(module).__name__}) is not homogeneous, or not known to be")
        if restored:
            return (f"bias of {', '.join(biases)}: the law holds for the layer together with these biases",)
        found += [f"bias of {', '.join(biases)}"] * bool(biases)
        hidden = ["a function in forward, such as attention or a skip connection; or gradients changed before the step"]
        return (*found, *(hidden if gross or not (found or flaws) else []), *flaws)

    def plot(self, ax: Sequence | None = None):
        """Draw the total rate against flow and exact law, and each layer's ``k_eff``; gives the figure.

        Args:
            ax: Two matplotlib axes to draw on; made in the house style if absent.
        """
        from normdyn import figures

        if ax is None:
            _, ax = figures.axes(1, 2, height=3.0)
        laws, total, steps = self._laws(), self.total(), torch.tensor(self._steps)
        left, right = ax
        left.plot(steps, total["rate"], **figures.MEASURED, label="measured")
        left.plot(steps, total["flow"] + total["decay"], **figures.BROKEN, label="flow and decay")
        left.plot(steps, total["law"], **figures.PREDICTED, label="exact law")
        left.set(xlabel="step", ylabel="rate of the squared norm")
        left.legend()
        layers = [k for k, name in enumerate(self.names) if not _is_bias(name)]
        for k, color in zip(layers, figures.layer_colors(len(layers)), strict=True):
            right.plot(steps, laws["k_eff"][:, k], color=color, linewidth=1.2, label=self.names[k])
        right.set(xlabel="step", ylabel=r"$k_{\mathrm{eff}}=\langle W,g\rangle\,/\,\langle f,\nabla_f L\rangle$")
        if len(layers) <= 8:
            right.legend(fontsize=7)
        return left.figure

    # Resuming

    def state_dict(self) -> dict[str, Any]:
        """All that is recorded, on the CPU, for ``torch.save`` next to the model's and the optimiser's state."""
        self._fold()
        records = torch.cat(self._folded).cpu() if self._folded else None
        return {
            "names": list(self.names), "junctions": [list(pair) for pair in self._junctions], "step": self._step,
            "steps": list(self._steps), "settings": [list(map(list, s)) for s in self._settings],
            "precision": self._precision, "called": list(self._called), "records": records,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; what was recorded here so far is replaced.

        Raises:
            ValueError: The state is that of another model or of other junctions.
        """
        here = {"names": list(self.names), "junctions": [list(pair) for pair in self._junctions]}
        for key, value in here.items():
            if state[key] != value:
                raise ValueError(f"state has {key} {state[key]}, this monitor has {value}: build it as it was saved")
        records = state["records"]
        self._step, self._steps = state["step"], list(state["steps"])
        self._settings = [tuple(map(tuple, s)) for s in state["settings"]]
        self._precision, self._called = state["precision"], list(state["called"])
        self._folded = [] if records is None else [records.to(self._rows.device)]
        self._records, self._alignment = [], None


def _is_bias(name: str) -> bool:
    return name.rpartition(".")[2].endswith("bias")


def _known(given: Iterable[str], names: Sequence[str], argument: str) -> None:
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise ValueError(f"{argument} names {', '.join(unknown)}, which is not tracked; there are {', '.join(names)}")


def _columns(W: Tensor, units: int, above: str, below: str) -> None:
    if W.ndim < 2 or W.shape[1] % units:
        raise ValueError(f"junctions: {above} of shape {tuple(W.shape)} does not read the {units} units of {below}")


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.inf if part else 0.0


def _epsilon(tensor: Tensor) -> float:
    """Spacing of the numbers that a network with this tensor is evaluated in; TF32 rounds factors to 11 bits."""
    spacing = torch.finfo(tensor.dtype).eps
    tf32 = tensor.is_cuda and (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    return max(spacing, 2.0**-10) if tf32 and tensor.dtype == torch.float32 else spacing


def _normalises(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__


def _flaws(module: nn.Module) -> list[str]:
    frozen = getattr(module, "running_mean", None) is not None and not module.training
    eps = getattr(module, "eps", 0.0)
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    return ["uses running statistics"] if frozen else [f"has eps = {eps:g}"] * (eps > 0)
