"""Runs of section 14.5 of paper D: one point at rest, norms in logarithmic time, networks near zero loss."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from scipy.optimize import minimize
from torch import Tensor

from claimbook.evidence import Case, Unfinished, shared
from companion.theory_iii.hidden_complexity_control_runs import (
    Instant,
    Outputs,
    exponential,
    identity,
    instant,
    normal,
    separable,
    smooth_cube,
)
from normdyn.motion.flows import Field, Params, gradient_flow, integrate
from normdyn.networks.graphs import mlp
from normdyn.norms.growth import follow_norms

leaky = partial(torch.nn.functional.leaky_relu, negative_slope=0.2)  # of order one, and no unit is ever dead
DEPTHS = (1, 2, 3, 5)
CLOCK = torch.tensor([0.0, 1.0, 3.0, 10.0, 20.0, 30.0], dtype=torch.float64)  # log(1 + t)
LINE = torch.logspace(-1, 4, 61, dtype=torch.float64)


def rows(values: Sequence | Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


# One point at rest


def point(case: Case, role: str, norms: Sequence[float], margin: float, *, tied: bool = False, turned: float = 0.0):
    """Output on one point of a ReLU network whose directions are at rest, and its weights.

    Every layer is of rank one, along positive vectors. ``tied`` makes one parameter of all norms, ``turned`` moves the
    directions out of rest.
    """
    widths = [3, *(4 for _ in norms[1:])]
    frame = [normal(case, f"{role} {k}", n) for k, n in enumerate(widths)]
    frame = [u if k == 0 else u.abs() + 0.2 for k, u in enumerate(frame)]
    frame = [u / u.norm() for u in frame]
    x = margin * frame[0]
    ends = [*frame[1:], torch.ones(1, dtype=torch.float64)]
    V = {f"W{k}": torch.outer(out, into) for k, (out, into) in enumerate(zip(ends, frame, strict=True))}
    V = {k: v + turned * normal(case, f"{role} turn {k}", *v.shape).abs() * v.sign() for k, v in V.items()}
    V = {k: v / v.norm() for k, v in V.items()}
    network = lambda layers: mlp(list(layers), x[None])[:, 0]
    if tied:
        return (lambda p: network(p["rho"] * v for v in V.values())), {"rho": rows(norms[0])}
    return (lambda p: network(p.values())), {k: n * v for n, (k, v) in zip(norms, V.items(), strict=True)}


class Rates(NamedTuple):
    """At an instant of the flow on one point: depth, margin, norms, and rates of norms, of their r and of exp(f)."""

    depth: int
    margin: float
    norms: Tensor
    lengths: Tensor
    radius: Tensor
    exponential: Tensor


def _rates(f: Outputs, W: Params, field: Field, depth: int, margin: float) -> Rates:
    norms = lambda p: torch.stack([x.norm() for x in p.values()])
    seen = lambda p: (norms(p), norms(p).norm(), f(p)[0].exp())
    rate = torch.func.jvp(seen, (W,), (field(W),))[1]
    return Rates(depth, margin, norms(W), *rate)


@shared
def equal_norms(case: Case, tied: bool) -> list[Rates]:
    """Equal norms of one to five layers; or one norm that the layers share."""
    found = []
    for depth in (1, 2, 3, 5):
        for margin, size in ((0.7, 0.9), (1.3, 0.9), (0.7, 1.2), (1.3, 1.2)):
            f, W = point(case, f"equal {depth}", [size] * depth, margin, tied=tied)
            found.append(_rates(f, W, exponential(f), depth, margin))
    return found


@shared
def two_norms(case: Case, turned: float, decay: float = 0.0) -> list[Rates]:
    """Two layers of any norms."""
    found = []
    for margin in (0.7, 1.3):
        for k, norms in enumerate(((1.0, 1.0), (0.4, 2.0), (1.5, 1.1))):
            f, W = point(case, f"two {k}", norms, margin, turned=turned)
            field = gradient_flow(lambda p, f=f: (-f(p)).exp().sum(), weight_decay=decay)
            found.append(_rates(f, W, field, 2, margin))
    return found


def in_log_time(drive: Field) -> Field:
    """The field in s = log(1 + t), which becomes one of the parameters."""

    def field(p: Params) -> Params:
        moved = drive({k: x for k, x in p.items() if k != "s"})
        return {"s": torch.ones((), dtype=torch.float64)} | {k: p["s"].exp() * h for k, h in moved.items()}

    return field


@shared
def outputs_of(case: Case, depth: int, margin: float, size: float) -> Tensor:
    """Output of a network on its point at the times of the clock, from equal norms: the whole network is integrated."""
    f, W = point(case, f"path {depth}", [size] * depth, margin)
    start = {"s": torch.zeros((), dtype=torch.float64)} | W
    record = {"f": lambda p: f({k: p[k] for k in W})[0]}
    return integrate(in_log_time(exponential(f)), start, CLOCK, record=record, relative=1e-11)["f"]


PATHS = ((0.7, 1.2), (1.3, 1.0))  # margins and norms at the start


def log_t() -> Tensor:
    """Logarithm of the times of the clock, without the first, which is zero."""
    return CLOCK[1:] + torch.log1p(-(-CLOCK[1:]).exp())


# Norms alone, in logarithmic time


@shared
def norms_at(times: tuple[float, ...], norms: tuple[float, ...], margin: float = 1.0) -> Tensor:
    """Norms at given log(1 + t), one column a layer: by (96) all squares gain the same."""
    return follow_norms(rows(times), norms, margin=margin)


@shared
def product_at(times: tuple[float, ...], norms: tuple[float, ...], margin: float = 1.0) -> Tensor:
    return norms_at(times, norms, margin).prod(1)


STARTS = ((1.0, 1.0), (0.2, 3.0, 1.0), (1.0, 1.0, 1.0), (0.5, 1.0, 1.5, 2.0), (1.0,) * 8)


@shared
def many_layers(depth: int, times: tuple[float, ...], power: float, margin: float) -> Tensor:
    """Output of many layers, of norm one at the start, at tau = depth^power t, for given log tau."""
    s = tuple(math.log1p(math.exp(log_tau - power * math.log(depth))) for log_tau in times)
    return margin * follow_norms(rows(s), [1.0] * depth, margin=margin).log().sum(1).exp()


class Curves(NamedTuple):
    """Norms of one layer and products of all, by depth, at given log(1 + t), from equal norms; and their slopes."""

    clock: Tensor
    layer: dict[int, Tensor]
    product: dict[int, Tensor]
    layer_slope: dict[int, Tensor]
    product_slope: dict[int, Tensor]


@shared
def curves(times: tuple[float, ...], size: float = 1.0, margin: float = 1.0) -> Curves:
    """Slopes are those of chords, from one time to the next."""
    found, clock = {K: norms_at(times, (size,) * K, margin) for K in DEPTHS}, rows(times)
    layer, product = {K: n[:, 0] for K, n in found.items()}, {K: n.prod(1) for K, n in found.items()}
    slopes = lambda values: {K: x.diff() / clock.diff() for K, x in values.items()}
    return Curves(clock, layer, product, slopes(layer), slopes(product))


@shared
def three_unequal(times: tuple[float, ...], trained: str) -> Tensor:
    """Norms of three layers from 0.1, 5 and 2; or of the last layer alone, the others kept."""
    first, margin = (0.1, 5.0, 2.0), 0.2
    if trained == "all":
        return norms_at(times, first, margin)
    last = norms_at(times, first[2:], margin * first[0] * first[1])
    return torch.cat([rows(first[:2]).expand(len(times), 2), last], 1)


# Networks at random weights


def drawn(case: Case, role: str, depth: int, activation, *, width: int = 3, samples: int = 4, bias: float = 0.0,
          idle: bool = False):  # fmt: skip
    """Outputs of a network, a start, and the labels that it gives. ``idle``: the last input is always zero."""
    widths = (*(width for _ in range(depth)), 1)
    X = normal(case, f"{role} X", samples, width)
    X[:, -1] *= not idle
    W = {f"W{k}": 0.7 * normal(case, f"{role} W{k}", widths[k + 1], widths[k]) for k in range(depth)}
    shifts = [bias * normal(case, f"{role} b{k}", widths[k + 1]) for k in range(depth)] if bias else None
    f = lambda p: mlp([p[f"W{k}"] for k in range(depth)], X, activation=activation, biases=shifts)[:, 0]
    return f, W, f(W).sign()


@shared
def single_points(case: Case, biased: bool) -> list[Instant]:
    """Networks of two to four layers and one point each, at an instant."""
    found = []
    for k in range(9):
        f, W, y = drawn(case, f"single {k}", 2 + k % 3, leaky, width=4, samples=1, bias=float(biased))
        labelled = lambda p, f=f, y=y: y * f(p)
        found.append(instant(labelled, labelled, W, 1.0))
    return found


class Flat(NamedTuple):
    """A network of a vector: outputs, weights, labels, depth, and the number of weights of each layer."""

    f: Callable[[Tensor], Tensor]
    w: Tensor
    y: Tensor
    depth: int
    sizes: list[int]


def flat(f: Outputs, W: Params, y: Tensor) -> Flat:
    sizes = [x.numel() for x in W.values()]
    named = lambda w: {k: v.reshape(x.shape) for (k, x), v in zip(W.items(), w.split(sizes), strict=True)}
    return Flat(lambda w: f(named(w)), torch.cat([x.flatten() for x in W.values()]), y, len(W), sizes)


SMOOTH = ((2, identity), (3, identity), (3, smooth_cube))


@shared
def smooth_networks(case: Case, width: int = 3, kinds: tuple = SMOOTH) -> list[Flat]:
    return [flat(*drawn(case, f"smooth {k}", depth, act, width=width)) for k, (depth, act) in enumerate(kinds)]


LEVELS = (1.0, 10.0, 40.0)  # smallest outputs, minus the logarithm of the loss


def stretch(one: Flat, level: float) -> float:
    """The factor of all weights at which the smallest output has a given size."""
    return (level / (one.y * one.f(one.w)).min().item()) ** (1 / one.depth)


def derivatives(one: Flat, c: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs with labels, slopes and second derivatives, at weights times c."""
    f = lambda w: one.y * one.f(w)
    return f(c * one.w), torch.func.jacrev(f)(c * one.w), torch.func.hessian(f)(c * one.w)


@shared
def jacobians(case: Case, loss: str, width: int = 3, kinds: tuple = SMOOTH) -> list[Tensor]:
    """Jacobian of the flow over the loss, by differentiating the flow, at three levels of loss.

    ``square`` is the square loss at weights that interpolate, as it is.
    """
    found = []
    for one in smooth_networks(case, width, kinds):
        for level in LEVELS:
            w = stretch(one, level) * one.w
            goal, size = one.f(w), torch.logsumexp(-one.y * one.f(w), 0)
            cost = {
                "exponential": lambda v, one=one, size=size: (-one.y * one.f(v) - size).exp().sum(),
                "square": lambda v, one=one, goal=goal: (one.f(v) - goal).square().sum(),
            }[loss]
            found.append(-torch.func.jacfwd(torch.func.grad(cost))(w))
    return found


@shared
def by_formula(case: Case, scaled: bool, width: int = 3, kinds: tuple = SMOOTH) -> list[tuple[Tensor, Tensor]]:
    """The two sums of (91) over the loss; ``scaled`` from derivatives at the first weights, by homogeneity."""
    found = []
    for one in smooth_networks(case, width, kinds):
        for level in LEVELS:
            c, K = stretch(one, level), one.depth
            f, slope, second = derivatives(one, 1.0 if scaled else c)
            if scaled:
                f, slope, second = c**K * f, c ** (K - 1) * slope, c ** (K - 2) * second
            pull = torch.softmax(-f, 0)
            found.append(
                (torch.einsum("n,ni,nj->ij", pull, slope, slope), torch.einsum("n,nij->ij", pull, second)),
            )
    return found


@shared
def losses(case: Case, width: int, kinds: tuple) -> list[Tensor]:
    """The exponential loss at the levels of :func:`jacobians`."""
    some = [(one, stretch(one, level)) for one in smooth_networks(case, width, kinds) for level in LEVELS]
    return [(-one.y * one.f(c * one.w)).exp().sum() for one, c in some]


@shared
def spectra(case: Case, margins: tuple[float, ...]) -> Tensor:
    """Eigenvalues of the Hessian over the loss of two linear layers, at given smallest margins, by homogeneity."""
    one = smooth_networks(case)[0]
    f, slope, second = derivatives(one)
    found = []
    for level in margins:
        c = stretch(one, level)
        pull = torch.softmax(-(c**2) * f, 0)
        hessian = c**2 * torch.einsum("n,ni,nj->ij", pull, slope, slope) - torch.einsum("n,nij->ij", pull, second)
        found.append(torch.linalg.eigvalsh(hessian))
    return torch.stack(found)


# With a penalty

DECAYS = (0.003, 0.01, 0.005)


class Penalised(NamedTuple):
    """A network with a penalty on each layer, the decay of each weight, and a minimum."""

    net: Flat
    decay: Tensor
    minimum: Tensor

    def pull(self, w: Tensor) -> Tensor:
        """Sum of y_n e^(-y_n f_n) df_n/dW, without the penalty."""
        f = lambda w: self.net.y * self.net.f(w)
        return (-f(w)).exp() @ torch.func.jacrev(f)(w)

    def loss(self, w: Tensor) -> Tensor:
        return (-self.net.y * self.net.f(w)).exp().sum() + self.decay @ w.square()


@shared
def penalised(case: Case) -> list[Penalised]:
    """Two and three layers; the minimum by quasi-Newton steps and a few of Newton's.

    Raises:
        Unfinished: the gradient has not vanished, or the weights have.
    """
    found = []
    for k, (depth, activation) in enumerate(((2, identity), (3, identity), (2, smooth_cube))):
        net = flat(*drawn(case, f"penalised {k}", depth, activation))
        decay = torch.cat([rows([lam] * n) for lam, n in zip(DECAYS[:depth], net.sizes, strict=True)])
        one = Penalised(net, decay, net.w)
        slope, curve = torch.func.grad(one.loss), torch.func.hessian(one.loss)
        value = lambda w, one=one: one.loss(rows(w)).item()
        end = minimize(value, 2 * stretch(net, 1.0) * net.w.numpy(), jac=lambda w, g=slope: g(rows(w)).numpy(),
                       method="BFGS", options={"gtol": 1e-7, "maxiter": 2000})  # fmt: skip
        w = rows(end.x)
        for _ in range(5):
            w = w - torch.linalg.pinv(curve(w), rtol=1e-7) @ slope(w)
        if not (slope(w).norm() < 1e-11 and w.norm() > 0.5):
            raise Unfinished(f"network {k}: gradient {slope(w).norm():.1e} at weights of length {w.norm():.2f}")
        found.append(one._replace(minimum=w))
    return found


# Three remarks


@shared
def under_square_loss(case: Case, biased: bool) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Outputs, targets, and rates of the squared norms of all layers, under the flow of the square loss."""
    found = []
    for k in range(6):
        f, W, _ = drawn(case, f"square {k}", 2 + k % 3, leaky, width=4, bias=float(biased))
        goal = normal(case, f"square {k} y", 4)
        drive = gradient_flow(lambda p, f=f, goal=goal: (goal - f(p)).square().sum())(W)
        squares = lambda p: torch.stack([x.square().sum() for x in p.values()])
        found.append((f(W), goal, torch.func.jvp(squares, (W,), (drive,))[1]))
    return found


@shared
def trained_on_squares(case: Case, biased: bool) -> list[Tensor]:
    """What the squared norms of all layers gain while the square loss falls, one row a time."""
    found = []
    for k, activation in enumerate((identity, smooth_cube)):
        f, W, _ = drawn(case, f"fitted {k}", 3, activation, bias=float(biased))
        goal = normal(case, f"fitted {k} y", 4)
        flow = gradient_flow(lambda p, f=f, goal=goal: (goal - f(p)).square().sum())
        path = integrate(flow, W, (0.0, 0.1, 1.0), relative=1e-9, absolute=1e-12)
        squares = torch.stack([path[n].flatten(1).square().sum(1) for n in W], 1)
        found.append(squares[1:] - squares[0])
    return found


SMALL = ((2, identity), (3, identity), (2, smooth_cube))


@shared
def small_starts(case: Case, size: float) -> list[Tensor]:
    """Norms of the layers late in a flow from norms of a given size, not equal among themselves.

    Raises:
        Unfinished: a layer has not grown to one.
    """
    found = []
    for depth, activation in SMALL:
        role = f"small {depth} {activation.__name__}"
        P = separable(case, role, 5, 3)
        W = {f"W{k}": normal(case, f"{role} {k}", 1 if k == depth - 1 else 3, 3) for k in range(depth)}
        W = {n: size * s * x / x.norm() for (n, x), s in zip(W.items(), (1.0, 2.0, 0.5), strict=False)}
        f = lambda p, depth=depth, P=P, act=activation: mlp([p[f"W{k}"] for k in range(depth)], P, activation=act)[:, 0]
        start = {"s": torch.zeros((), dtype=torch.float64)} | W
        path = integrate(in_log_time(exponential(f)), start, (0.0, 14.0), relative=1e-9, absolute=1e-15)
        norms = torch.stack([path[n][-1].norm() for n in W])
        if norms.min() < 1:
            raise Unfinished(f"{role}: norms have grown to {norms.min():.2g} only")
        found.append(norms)
    return found
