r"""Whether the norm law holds for a layer, from what was recorded, and what keeps it from holding, by name.

Whole numbers ``K`` are fitted to the gradients of the backward pass, ``<W, G> = K <f, grad_f L>``, so that no scaling
of gradients is taken for an order; the law is then tested with the gradients that the optimiser found.

Source: the law is Singh et al., Theorem 2, eq. (5); how it is tested is ours.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from normdyn.networks.modules import CONVOLUTIONS, HOMOGENEOUS, POOLING
from normdyn.norms.calls import Calls, is_bias, normalises
from normdyn.shapes import Float

__all__ = ["FEW", "KNOWN", "LINEAR", "SHAPES", "Diagnosis", "LayerReport", "NormLawWarning", "finite"]

LINEAR = (nn.Linear, *CONVOLUTIONS, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Embedding)
SHAPES = (nn.Flatten, nn.Unflatten, nn.Upsample, nn.PixelShuffle, nn.PixelUnshuffle)
FEW = 8  # suspects that a reason names
KNOWN = (*LINEAR, *HOMOGENEOUS, *POOLING, *SHAPES)


class NormLawWarning(UserWarning):
    """Some layers of a monitored model do not obey the norm law of Theorem 2."""


class LayerReport(NamedTuple):
    """Whether the norm law holds for one parameter tensor, over all steps recorded whose numbers are finite.

    Attributes:
        layer: Its name in the model.
        order: Product of homogeneity orders ``K`` that the law is tested with: the caller's, or the whole number
            nearest to ``k_eff``.
        k_eff: Least-squares fit of ``<W, G> = k <f, grad_f L>`` over the steps, ``G`` from the backward pass.
        misfit: Root mean square of ``<W, g> - K <f, grad_f L>`` relative to that of ``<f, grad_f L>``.
        error_bar: Of the misfit, from the precision that the network is evaluated in.
        status: ``exact`` (every step within its error bar), ``exact with biases`` (so for the layer together with all
            biases from it upward, not for the layer alone), ``approximate`` (misfit within the tolerance),
            ``not covered``, or ``unused`` (no step had a gradient in it).
        with_biases: The misfit of the layer together with all biases from it upward, whose law (grade 1) holds
            where biases alone break the layer's own.
        reasons: What in the model or the training loop may break the law, by name; empty where it is exact.
        scaling: What came between backward pass and optimiser and is corrected for: a factor, its smallest and largest
            value; empty where the optimiser found the gradients as they were.
    """

    layer: str
    order: float
    k_eff: float
    misfit: float
    error_bar: float
    status: str
    with_biases: float
    reasons: tuple[str, ...]
    scaling: str


class Diagnosis:
    """The laws of all layers of one model, as far as it was recorded.

    Args:
        model: Whose modules are named as causes.
        called: Their names in the order of their calls.
        readout: The one whose result is the output, empty if unknown.
        parameters: Tensors by name.
        precision: Spacing of the numbers that the network is evaluated in.
        given: Orders that the caller knows.
        averaging: What averages gradients over processes unseen, empty if nothing does.
    """

    def __init__(
        self,
        model: nn.Module,
        called: Sequence[str],
        readout: str,
        parameters: Mapping[str, Tensor],
        precision: float,
        given: Mapping[str, float],
        averaging: str,
    ):
        self._names, self._called, self._given, self._averaging = list(parameters), called, given, averaging
        self._modules = dict(model.named_modules())
        self._readout, self._precision = readout, precision
        # Of gradients that are summed over passes or multiplied; a rest shows down to the root of float64's spacing.
        spacings = [torch.finfo(p.dtype).eps for p in parameters.values()]
        self._rounding = (16 * torch.tensor(spacings, dtype=torch.float64)).clamp_min(1e-7)
        self._calls = Calls(called, self._modules, self._names)

    def orders(self, d: Mapping[str, Tensor]) -> Float[Tensor, " l"]:
        """``K`` of each tensor: the whole number that fits best, the layer alone or with the biases from it upward."""
        d, found = finite(d), []
        above = self._calls.bias_sums(d["WG"])
        for k, name in enumerate(self._names):
            a, factor = d["a"][:, k], d["factor"][:, k]
            alone = factor * d["WG"][:, k]
            sums = (alone, alone + factor * above(name))
            fits = [max(0.0, (s @ a / (a @ a)).nan_to_num().round().item()) for s in sums]
            best = min((_ratio((s - K * a).norm().item(), a.norm().item()), K) for s, K in zip(sums, fits, strict=True))
            found.append(self._given.get(name, math.nan if is_bias(name) else best[1]))
        return torch.tensor(found, dtype=torch.float64)

    def flow_error(self, d: Mapping[str, Tensor], order: Float[Tensor, "s l"]) -> Float[Tensor, "s l"]:
        """Error bar of ``2 <W, g>`` and ``2 K a``, from the norms that enter: one error a layer each way."""
        modules = len({name.rpartition(".")[0] for name in self._names})
        return 8 * (modules + 1) * self._precision * ((d["WW"] * d["gg"]).sqrt() + (order + 1) * d["size"])

    def reports(self, d: Mapping[str, Tensor], tolerance: float) -> list[LayerReport]:
        """One report for each tensor but the biases."""
        orders, good = self.orders(d), finite(d)
        hidden = self._hidden_factor(orders.tolist())
        bars = self.flow_error(good, orders.nan_to_num().expand_as(good["WW"])) / 2
        above, scaling = self._calls.bias_sums(good["slope"]), self._scalings(good)
        layers = [k for k, name in enumerate(self._names) if not is_bias(name)]
        return [
            self._report(k, orders[k].item(), good, len(d["a"]), tolerance, hidden, bars[:, k], above, scaling[k])
            for k in layers
        ]

    def _hidden_factor(self, orders: Sequence[float]) -> list[str]:
        """The output is linear in a linear readout, called once; another order there is a factor on all gradients."""
        name, module = f"{self._readout}.weight", self._modules[self._readout]
        if name not in self._names or name in self._given or not isinstance(module, LINEAR):
            return []
        shared = sum(getattr(m, "weight", None) is module.weight for m in self._modules.values()) > 1
        K = orders[self._names.index(name)]
        if shared or self._called.count(self._readout) > 1 or K == 1:
            return []
        return [
            f"{name} has order 1, for its module returns the output, but {K:g} fits: a hook scales gradients inside "
            "of the backward pass, where it should scale the loss, or the loss sees more than the output"
        ]

    def _report(
        self,
        k: int,
        K: float,
        d: Mapping[str, Tensor],
        recorded: int,
        tolerance: float,
        hidden: list[str],
        bar: Tensor,
        above: Callable[..., Tensor],
        scaling: str,
    ) -> LayerReport:
        name = self._names[k]
        a, factor = d["a"][:, k], d["factor"][:, k]
        miss = d["Wg"][:, k] - K * a
        biases = self._calls.has_biases(name, K)
        together = miss + factor * above(name, K)
        scale = a.norm().item()
        misfit, graded = _ratio(miss.norm().item(), scale), _ratio(together.norm().item(), scale)
        fit = ((factor * d["WG"][:, k] * a).sum() / a.square().sum()).item()
        unused = not (d["GG"][:, k].any() or d["gg"][:, k].any())
        loop = self._loop_reasons(k, d, recorded, unused) or hidden
        exact = not loop and bool((miss.abs() <= bar).all())
        restored = not (loop or exact) and biases and bool((together.abs() <= 2 * bar).all())
        if len(a) and unused:
            status = "unused"
        elif exact or restored:
            status = "exact" if exact else "exact with biases"
        else:
            status = "approximate" if scale and misfit <= tolerance and not hidden else "not covered"
        idle = int(((d["GG"][:, k] == 0) & (a != 0)).sum())
        some = [f"no gradient in {idle} of {len(a)} steps: not all batches use it"] if idle and not loop else []
        causes = () if exact or loop else self._reasons(name, K, restored, misfit > 1e-3)
        reasons = causes if exact or restored else (*loop, *some, *causes)
        bars = _ratio(bar.norm().item(), scale)
        return LayerReport(name, K, fit, misfit, bars, status, graded, reasons, scaling)

    def _loop_reasons(self, k: int, d: Mapping[str, Tensor], recorded: int, unused: bool) -> list[str]:
        """What in the training loop keeps the law from being tested, whatever the model is."""
        steps = len(d["a"])
        if not steps:
            return [f"gradients or weights were not finite in any of {recorded} steps: lower the learning rate"]
        if unused:
            return ["no step had a gradient in it: the loss does not depend on it"]
        if not d["factor"][:, k].any():
            return ["gradients were set to zero before every step: call zero_grad after the step or before backward"]
        changed = int((d["rest"][:, k] > self._rounding[k]).sum())
        if not changed:
            return []
        why = self._averaging or (
            "clipped by value, noise added, left over from a step without zero_grad, or torch.autograd.grad passed too"
        )
        return [f"gradients changed between backward and step, not by a factor, in {changed} of {steps} steps: {why}"]

    def _scalings(self, d: Mapping[str, Tensor]) -> list[str]:
        """Factors between backward pass and optimiser, in words, for each tensor."""
        factor, changed = d["factor"], (d["rest"] > self._rounding).any(0)
        scaled = ~changed & ((factor - 1).abs() > self._rounding).any(0)
        others = factor[:, (d["GG"] > 0).all(0) & ~changed]
        others = others if others.shape[1] else factor
        low, high = others.amin(1, keepdim=True), others.amax(1, keepdim=True)
        near = self._rounding.max() * factor.abs()
        same = (((high - factor).abs() <= near) & ((factor - low).abs() <= near)).all(0)
        words = []
        for k in range(factor.shape[1]):
            whose = "one factor over all layers" if same[k] else "a factor of this layer's own"
            causes = "clipping, loss scaling or averaging" if same[k] else "clipping or scaling by layer"
            span = f"{factor[:, k].min():.3g} to {factor[:, k].max():.3g}" if scaled[k] else ""
            words.append(f"gradients were multiplied before the step by {whose}, {span} ({causes})" if span else "")
        return words

    def _reasons(self, name: str, order: float, restored: bool, gross: bool) -> tuple[str, ...]:
        """What in the model may stand in the way, module by module from the layer upward; smallest suspects last."""
        found, flaws, biases, owner = [], [], [], name.rpartition(".")[0]
        for other in self._calls.after(name, order):
            module = self._modules[other]
            normaliser = normalises(module) and other != owner
            if getattr(module, "bias", None) is not None and not (normaliser and order == 0):
                biases.append(other)
            if normaliser:
                flaws += [f"{other} ({type(module).__name__}) {flaw}" for flaw in _flaws(module)]
            elif not normalises(module) and not next(module.children(), None) and not isinstance(module, KNOWN):
                found.append(f"{other} ({type(module).__name__}) is not homogeneous, or not known to be")
        if restored:
            return (f"bias of {_few(biases)}: the law holds for the layer together with these biases",)
        found = [*found[:FEW], f"{len(found) - FEW} more such"] if len(found) > FEW else found
        found += [f"bias of {_few(biases)}"] * bool(biases)
        hidden = [
            "a function in forward, such as attention or a skip connection; or a loss that sees more than the output"
        ]
        return (*found, *(hidden if gross or not (found or flaws) else []), *flaws[:FEW])


def finite(d: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The steps whose numbers are: one gradient of an overflow leaves nothing to fit in its row."""
    good = torch.stack([d[name].isfinite().all(1) for name in ("WW", "Wg", "gg", "GG", "factor", "a", "size")]).all(0)
    return {name: column[good] for name, column in d.items()}


def _few(names: list[str]) -> str:
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.inf if part else 0.0


def _flaws(module: nn.Module) -> list[str]:
    frozen = getattr(module, "running_mean", None) is not None and not module.training
    eps = getattr(module, "eps", 0.0)
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    return ["uses running statistics"] if frozen else [f"has eps = {eps:g}"] * (eps > 0)
