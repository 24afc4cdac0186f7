"""What decides the statements on networks as PyTorch runs them: ours; which units can be rescaled, and how far."""

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn import functional as F

from claimbook.evidence import Case, at_most, claim, equal, shared, together
from claimbook.show.figures import BLUE, ORANGE, axes
from claimbook.show.notebook import show_figure
from companion.weight_balancing.in_practice import fit, seeded
from normdyn.data.sets import digits
from normdyn.networks.traced import Trace
from normdyn.rescaling.assembly import apply, assemble
from normdyn.rescaling.certificate import certified_gap
from normdyn.rescaling.following import follow
from normdyn.rescaling.gauge import minimum_norm, rebalance
from normdyn.rescaling.shared import SharedProblem

Factors = Tensor  # log a, one for each class of a trace


# Networks, one for each kind of operation


class Residual(nn.Module):
    """A stream of eight features that a block adds to."""

    def __init__(self, activation: Callable[[], nn.Module] = nn.ReLU):
        super().__init__()
        self.enter, self.inner, self.outer = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 8)
        self.leave, self.act = nn.Linear(8, 3), activation()

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.enter(x))
        return self.leave(self.act(h + self.outer(self.act(self.inner(h)))))


class Dense(nn.Module):
    """Features of two layers side by side."""

    def __init__(self, activation: Callable[[], nn.Module] = nn.ReLU):
        super().__init__()
        self.first, self.second, self.leave, self.act = nn.Linear(5, 6), nn.Linear(6, 5), nn.Linear(11, 3), activation()

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.first(x))
        return self.leave(torch.cat([h, self.act(self.second(h))], 1))


class Separable(nn.Module):
    """A depthwise convolution between pointwise ones, pooled; inputs are five pixels."""

    def __init__(self, activation: Callable[[], nn.Module] = nn.ReLU):
        super().__init__()
        self.wide, self.depthwise = nn.Conv1d(1, 4, 1), nn.Conv1d(4, 4, 3, groups=4)
        self.mixed, self.leave, self.act = nn.Conv1d(4, 3, 1), nn.Linear(3, 3), activation()

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.depthwise(self.act(self.wide(x[:, None]))))
        return self.leave(self.act(self.mixed(h)).mean(2))


class Gated(nn.Module):
    """A product of two projections, of which one goes through a gate (Shazeer's SwiGLU)."""

    def __init__(self, activation: Callable[[], nn.Module] = nn.ReLU):
        super().__init__()
        self.enter, self.gate, self.up = nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(6, 7)
        self.down, self.act = nn.Linear(7, 3), activation()

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.enter(x))
        return self.down(F.silu(self.gate(h)) * self.up(h))


KINDS = (Residual, Dense, Separable, Gated)


class Followed(NamedTuple):
    """A network, what running it without numbers has shown, and inputs."""

    kind: type[nn.Module]
    model: nn.Module
    trace: Trace
    inputs: Tensor

    @property
    def free(self) -> Tensor:
        """Numbers of the classes that may be rescaled and that weights enter."""
        rows = torch.cat([use.target.flatten() for use in self.trace.uses])
        return self.trace.classes.roots(rows).unique()[1:]

    def factors(self, values: Tensor) -> Factors:
        """``log a`` of every number, from those of the free classes."""
        known = torch.zeros(len(self.trace.classes), dtype=values.dtype)
        known[self.free] = values
        return known[self.trace.classes.roots(torch.arange(len(known)))]


def centred(model: nn.Module, inputs: Tensor) -> nn.Module:
    """Biases such that the mean of what a layer gives is zero: every unit is on for some inputs, and off for others."""

    def centre(layer: nn.Module, _: Any, output: Tensor) -> Tensor:
        mean = output.mean([axis for axis in range(output.ndim) if axis != 1], keepdim=True)
        layer.bias.data -= mean.flatten()
        return output - mean

    hooks = [layer.register_forward_hook(centre) for layer in model.modules() if hasattr(layer, "bias")]
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    return model


@shared
def networks(case: Case, count: int = 40) -> list[Followed]:
    """One network of each kind, with weights of varied sizes."""
    draw, found = case.generator("traced"), []
    for kind in KINDS:
        model = seeded(kind, draw)
        for value in model.parameters():
            value.data.mul_((0.5 * torch.randn(value.shape, generator=draw, dtype=value.dtype)).exp())
        inputs = torch.randn(count, 5, generator=draw, dtype=torch.float64)
        found.append(Followed(kind, centred(model, inputs), follow(model, inputs)[0], inputs))
    return found


# The symmetry


@shared
def turned(case: Case, activation: Callable[[], nn.Module]) -> list[tuple[Tensor, Tensor]]:
    """Outputs before and after random factors at all free classes."""
    draw, found = case.generator("factors"), []
    for one in networks(case):
        before = one.kind(activation).double().eval()
        before.load_state_dict(one.model.state_dict())
        after = copy.deepcopy(before)
        apply(one.trace, after, one.factors(torch.randn(len(one.free), generator=draw, dtype=torch.float64)))
        with torch.no_grad():
            found.append((before(one.inputs), after(one.inputs)))
    return found


@claim("O-graph-symmetry", control={"activation": nn.SiLU})
def classes_keep_the_function(case, activation=nn.ReLU):
    """Factors that agree wherever values are added, and are one at barriers, keep what a traced network computes."""
    return equal(
        measured=lambda: [after for _, after in turned(case, activation)],
        predicted=lambda: [before for before, _ in turned(case, activation)],
        bound=1e-12,
        reason="rounding of sums over up to 12 weights, after factors of up to 20",
    )


@shared
def zero_directions(case: Case) -> list[int]:
    """Directions of weight space in which no output moves: the kernel of the outputs' Jacobian at 400 inputs."""
    found = []
    for one in networks(case, count=400):
        params = {name: value.detach() for name, value in one.model.named_parameters()}
        out = lambda p, one=one: functional_call(one.model, p, (one.inputs,))
        jacobian = torch.cat([j.flatten(2).flatten(0, 1) for j in jacrev(out)(params).values()], 1)
        values = torch.linalg.svdvals(jacobian)
        rank = int((values > 1e-10 * values[0]).sum())
        found.append(jacobian.shape[1] - rank)
    return found


@claim("O-graph-complete", control={"joined": False})
def classes_are_all_there_is(case, joined=True):
    """In these networks the free classes are all continuous symmetries: as many as directions that move nothing."""

    def counted() -> list[float]:
        if joined:
            return [float(len(one.free)) for one in networks(case, count=400)]
        layers = lambda one: [use.target for use in one.trace.uses if use.of is None]  # each unit for itself
        roots = lambda one: [one.trace.classes.roots(target) for target in layers(one)]
        return [float(sum((each != 0).sum() for each in roots(one))) for one in networks(case, count=400)]

    return equal(
        measured=lambda: [float(n) for n in zero_directions(case)],
        predicted=counted,
        bound=1e-9,
        reason="numbers of directions",
    )


# The least norm


def norm_of(parameters: dict[str, Tensor], p: float, q: float) -> Tensor:
    """The norm over all rows of the weights, whatever is known of units."""
    rows = [W.flatten(1).norm(p, 1) for W in parameters.values() if W.ndim > 1]
    return torch.cat(rows).norm(q)


def moved(one: Followed, values: Tensor) -> dict[str, Tensor]:
    """The parameters at ``log a = values``, differentiably."""
    factors, found = one.factors(values), {}
    for use in one.trace.uses:
        W = dict(one.model.named_parameters())[use.name].detach()
        scale = (factors[use.target][:, :, None] - factors[use.source][:, None]).exp()
        found[use.name] = (use.view(W) * scale.reshape(*scale.shape, *[1] * (len(use.size) - 3))).reshape(W.shape)
    return found


@shared
def midpoints(case: Case, in_log: bool, p: float = 2.0, q: float = 2.0, pairs: int = 60) -> list[tuple[Tensor, Tensor]]:
    """Norm half way between two rescalings, near and far, and the geometric mean of the norms at both."""
    draw, found = case.generator("segments"), []
    for one in networks(case):
        ends = torch.randn(pairs, 2, len(one.free), generator=draw, dtype=torch.float64)
        ends *= torch.linspace(0.3, 3.0, pairs, dtype=ends.dtype)[:, None, None]
        norms = lambda points, one=one: torch.stack([norm_of(moved(one, z), p, q) for z in points])
        middle = ends.mean(1) if in_log else ends.exp().mean(1).log()
        found.append((norms(middle), (norms(ends[:, 0]) * norms(ends[:, 1])).sqrt()))
    return found


@claim("O-graph-convex", control={"in_log": False})
def sharing_keeps_the_norm_convex(case, in_log=True):
    """Also where units share factors the logarithm of the norm is convex in the logarithms of the factors."""
    return at_most(
        left=lambda: [middle for middle, _ in midpoints(case, in_log)],
        right=lambda: [mean for _, mean in midpoints(case, in_log)],
        bound=1e-12,
        reason="rounding of a norm",
    )


def least_by_descent(one: Followed, p: float, q: float) -> float:
    """The least norm by L-BFGS on derivatives of the norm of all parameters, which knows of no balance."""

    def value_and_slope(x: np.ndarray) -> tuple[float, np.ndarray]:
        z = torch.tensor(x, requires_grad=True)
        value = norm_of(moved(one, z), p, q).log()
        return value.item(), torch.autograd.grad(value, z)[0].numpy()

    options = {"maxiter": 3000, "maxcor": 30, "ftol": 0.0, "gtol": 1e-10}
    start = np.zeros(len(one.free))
    return math.exp(scipy.optimize.minimize(value_and_slope, start, jac=True, method="L-BFGS-B", options=options).fun)


@shared
def minima(case: Case, solved_for: tuple[float, float] | None) -> list[tuple[float, float]]:
    """Norm after ``rebalance``, and the least one by descent."""
    found = []
    for one in networks(case):
        for p, q in ((2.0, 2.0), (1.0, 2.0)):
            balanced = rebalance(one.model, *(solved_for or (p, q)), tol=1e-14, sample=one.inputs).model
            found.append((norm_of(dict(balanced.named_parameters()), p, q).item(), least_by_descent(one, p, q)))
    return found


@claim("O-graph-least", control={"solved_for": (1.0, 1.0)})
def rebalance_finds_the_least_of_a_graph(case, solved_for=None):
    """``rebalance`` finds the least norm of networks with additions, concatenations, gates and depthwise layers."""
    return equal(
        measured=lambda: [[norm for norm, _ in minima(case, solved_for)]],
        predicted=lambda: [[least for _, least in minima(case, solved_for)]],
        bound=1e-9,
        reason="the norm is flat at its minimum: its error is the square of that of the factors",
        each=True,
    )


@shared
def gaps(case: Case, passed_on: bool, stops: tuple[int, ...] = (1, 2, 3, 5)) -> tuple[Tensor, Tensor]:
    """True gaps on the way to the minimum, and what the flow near the shares of the norm proves there.

    Args:
        passed_on: False: the shares as they are, of which classes keep some or add some.
        stops: After how many passes.
    """
    true, proven = [], []
    for one in networks(case):
        least = math.log(least_by_descent(one, 2.0, 2.0))
        found = assemble(one.trace, dict(one.model.named_parameters()), p=2.0, q=2.0)
        problem = SharedProblem(found.layers, len(found.numbers), p=2.0, q=2.0, precise=True)
        for passes in stops:
            z = minimum_norm(problem, max_passes=passes, tolerance=1e-15).log_factors
            log_in, log_out = problem.traverse(z)
            total = log_in.logsumexp(0)
            true.append(total.item() / 2 - least)
            kept = (log_in - total).exp() - (log_out - total).exp()
            proven.append(certified_gap(problem, z) if passed_on else (z * kept).sum().item())
    return torch.tensor(true, dtype=torch.float64), torch.tensor(proven, dtype=torch.float64)


@shared
def single_file(case: Case, width: int, exponents: tuple[float, float], depth: int = 4) -> list[tuple[Tensor, float]]:
    """Chains of layers of a few units: sizes of the weights after random factors, and the gap that is certified."""
    draw, found = case.generator("single file"), []
    for _ in range(5):
        ends = [1, *[width] * (depth - 1), 1]
        layers = [nn.Linear(a, b, bias=False, dtype=torch.float64) for a, b in zip(ends, ends[1:], strict=False)]
        model = nn.Sequential(*[module for layer in layers for module in (layer, nn.ReLU())][:-1])
        for layer in layers:
            layer.weight.data = torch.randn(layer.weight.shape, generator=draw, dtype=torch.float64).exp()
        trace = follow(model, torch.ones(1, 1, dtype=torch.float64))[0]
        parts = assemble(trace, dict(model.named_parameters()), p=exponents[0], q=exponents[1])
        problem = SharedProblem(parts.layers, len(parts.numbers), p=exponents[0], q=exponents[1], precise=True)
        z = torch.randn(len(parts.numbers), generator=draw, dtype=torch.float64)
        z[0] = 0.0
        factors = torch.zeros(len(trace.classes), dtype=torch.float64)
        factors[parts.numbers], gap = z, certified_gap(problem, z)  # before the weights that it looks at are rescaled
        apply(trace, model, factors[trace.classes.roots(torch.arange(len(factors)))])
        found.append((torch.cat([layer.weight.detach().flatten() for layer in layers]), gap))
    return found


def above_the_mean(sizes: Tensor, q: float) -> float:
    """Logarithm of a norm over the least one with the same product of its entries."""
    return (sizes.norm(q).log() - math.log(len(sizes)) / q - sizes.log().mean()).item()


@claim("O-graph-gap", control=[{"passed_on": False}, {"end": 2}, {"width": 2}])
def the_gap_is_certified(case, passed_on=True, end=1000, width=1):
    """A flow that every class passes on, near the shares of the norm, bounds how far the norm is above the least.

    The bound is not worthless: at the minimum it is zero, and where each layer has one unit, whose least norm is known
    in closed form, it is the distance from it everywhere.
    """
    runs = lambda: [(single_file(case, width, (p, q)), q) for p, q in ((2.0, 2.0), (1.0, 3.0))]
    return together(
        one_unit=equal(
            measured=lambda: [[gap for _, gap in found] for found, _ in runs()],
            predicted=lambda: [[above_the_mean(sizes, q) for sizes, _ in found] for found, q in runs()],
            bound=1e-12,
            reason="rounding of a logarithm",
        ),
        bounds=at_most(
            left=lambda: gaps(case, passed_on)[0],
            right=lambda: gaps(case, passed_on)[1],
            bound=1e-13,
            reason="rounding of a logarithm",
            scale=lambda: torch.ones(()),
        ),
        tight=at_most(
            left=lambda: gaps(case, True, (end,))[1],
            right=lambda: torch.zeros(()),
            bound=1e-12,
            reason="rounding of a logarithm, and of factors that the solver leaves",
            scale=lambda: torch.ones(()),
        ),
    )


# The page's example


class Digits(nn.Module):
    """A residual network with batch normalisation for digits of 8 x 8 pixels."""

    def __init__(self, width: int = 16):
        super().__init__()
        conv = lambda i, o: nn.Conv2d(i, o, 3, padding=1, bias=False)
        self.stem, self.norm = conv(1, width), nn.BatchNorm2d(width)
        self.inner, self.inner_norm = conv(width, width), nn.BatchNorm2d(width)
        self.outer, self.outer_norm = conv(width, width), nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm(self.stem(x)))
        h = F.relu(h + self.outer_norm(self.outer(F.relu(self.inner_norm(self.inner(h))))))
        return self.head(h.mean((2, 3)))


@shared
def trained(case: Case) -> nn.Module:
    """It learns a thousand digits; in float32."""
    data = digits(dtype=torch.float32)
    return fit(seeded(Digits, case.generator("residual")).float(), data.inputs, data.labels)


def sides(model: nn.Module, sample: Any) -> tuple[Tensor, Tensor]:
    """What enters and what leaves each free class, as shares of the squared norm."""
    trace, *_ = follow(model, sample)
    found = assemble(trace, dict(model.named_parameters()), p=2, q=2)
    problem = SharedProblem(found.layers, len(found.numbers), p=2, q=2, precise=True)
    log_in, log_out = problem.traverse(torch.zeros(len(found.numbers), dtype=torch.float64))
    total = log_in.logsumexp(0)
    return (log_in - total).exp()[1:], (log_out - total).exp()[1:]


def draw_sides(case: Case) -> None:
    """Both sides of every class of the trained network, before and after."""
    model, sample = trained(case), digits(dtype=torch.float32).inputs[:2]
    balanced = rebalance(model, sample=sample).model
    fig, ax = axes(width=4.6, height=3.6)
    columns = {}
    for one, name, colour in ((model, "before", ORANGE), (balanced, "after", BLUE)):
        into, out = (100 * side for side in sides(one, sample))
        ax.loglog(into, out, "o", color=colour, markersize=5, label=name)
        columns |= {f"{name}_in": into.tolist(), f"{name}_out": out.tolist()}
    ends = [min(map(min, columns.values())) / 2, max(map(max, columns.values())) * 2]
    ax.plot(ends, ends, "--", color="0.5", linewidth=1, zorder=0)
    ax.set(xlabel="weights into a class, % of the squared norm", ylabel="weights out of it, %", xlim=ends, ylim=ends)
    ax.legend(frameon=False)
    show_figure(fig, name="both-sides", data=columns)
