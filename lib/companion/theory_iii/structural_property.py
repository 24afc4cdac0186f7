"""What decides the claims of section 2 of paper D: homogeneity of order one in each layer, and what follows from it.

The first part are runs, the second the claims.
"""

import math
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from claimbook.evidence import Case, Unfinished, at_most, claim, equal, shared, together
from companion.theory_iii.summary_theorem import draw
from companion.theory_iii.summary_theorem_runs import rows
from normdyn.motion.flows import Params, gradient
from normdyn.networks.graphs import Activation, layered_weights, mlp
from normdyn.networks.losses import square_loss

WIDTHS = ((4, 6, 1), (4, 1, 1), (4, 8, 8, 1), (4, 10, 10, 10, 10, 10, 1))
SIGNALS = rows([-3.0, -0.7, -0.01, 0.02, 0.4, 2.5])
NORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "L1": lambda W: W.abs().sum(),
    "Frobenius": lambda W: W.square().sum().sqrt(),
    "L3": lambda W: W.abs().pow(3).sum() ** (1 / 3),
    "largest": lambda W: W.abs().max(),
    "spectral": lambda W: torch.linalg.matrix_norm(W, 2),
}
ROUNDING = "rounding; ReLU networks of two, three and six layers, five draws of each"


class Network(NamedTuple):
    """Weights of a layered network, by the number of the layer, and inputs."""

    weights: Params
    X: Tensor


def outputs(weights: Params, X: Tensor, activation: Activation = torch.relu, bias: float = 0.0) -> Tensor:
    """Outputs, with a bias that is the same in all hidden units."""
    last = len(weights) - 1
    shifts = [torch.full((len(W),), bias * (k < last), dtype=W.dtype) for k, W in enumerate(weights.values())]
    return mlp(list(weights.values()), X, activation=activation, biases=shifts)[:, 0]


@shared
def networks(case: Case) -> list[Network]:
    """Five random networks of each of the widths."""
    found = []
    for number, widths in enumerate(WIDTHS):
        for k in range(5):
            W = layered_weights(widths, case.generator(f"network {number} {k}"))
            found.append(Network({f"{l}": w for l, w in enumerate(W)}, draw(case, f"inputs {number} {k}", 10, 4)))
    return found


@shared
def raw(case: Case, activation: Activation, bias: float) -> list[Tensor]:
    """Outputs of these networks."""
    return [outputs(one.weights, one.X, activation, bias) for one in networks(case)]


@shared
def taken_apart(case: Case, norm: str, activation: Activation, bias: float) -> list[tuple[Tensor, Tensor]]:
    """Lengths of the layers in a norm, and outputs of the network of the directions."""
    found = []
    for one in networks(case):
        rho = {k: NORMS[norm](W) for k, W in one.weights.items()}
        unit = {k: W / rho[k] for k, W in one.weights.items()}
        found.append((torch.stack(list(rho.values())), outputs(unit, one.X, activation, bias)))
    return found


@shared
def length_slopes(case: Case, norm: str, bias: float) -> list[Tensor]:
    """Derivatives of the outputs in the lengths, with directions held: samples by layers."""
    found = []
    for one in networks(case):
        rho = torch.stack([NORMS[norm](W) for W in one.weights.values()])
        unit = {k: W / r for (k, W), r in zip(one.weights.items(), rho, strict=True)}
        f = lambda r, one=one, unit=unit: outputs(
            {k: s * V for (k, V), s in zip(unit.items(), r, strict=True)}, one.X, bias=bias
        )
        found.append(torch.func.jacrev(f)(rho))
    return found


@shared
def layer_sums(case: Case, activation: Activation, bias: float) -> list[Tensor]:
    """Inner products of each layer with the slope of the outputs in it: samples by layers."""
    found = []
    for one in networks(case):
        slopes = torch.func.jacrev(lambda p, one=one: outputs(p, one.X, activation, bias))(one.weights)
        found.append(torch.stack([(slopes[k] * W).sum((1, 2)) for k, W in one.weights.items()], 1))
    return found


@shared
def dying(case: Case, offset: float) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Sizes of outputs, and of slopes and weights of each layer; every second network is dead on its inputs."""
    found = []
    for k, one in enumerate(networks(case)):
        W, X = (one.weights | {"0": -one.weights["0"].abs()}, one.X.abs()) if k % 2 else one
        f = lambda p, X=X: outputs(p, X) + offset
        slopes = torch.func.jacrev(f)(W)
        sizes = torch.stack([slopes[name].flatten(1).norm(dim=1) for name in W], 1)
        found.append((f(W).abs(), sizes, torch.stack([x.norm() for x in W.values()])))
    return found


# Complexity

PRODUCTS = ((0.5, 3.0), (2.0, 2.0), (7.0, 0.3))
SIGNS = rows(list(product((-1.0, 1.0), repeat=6)))


@shared
def plane(case: Case) -> Tensor:
    """Six inputs in the plane."""
    return draw(case, "plane", 6, 2)


@shared
def by_scan(case: Case, lengths: tuple[float, float], activation: Activation) -> Tensor:
    """Mean over all signs of the supremum over two layers of these lengths: networks of one unit, all directions."""
    X, turn = plane(case), torch.linspace(0, 2 * math.pi, 40001, dtype=torch.float64)
    hidden = activation(lengths[0] * torch.stack([turn.cos(), turn.sin()], 1) @ X.mT)
    return (lengths[1] * (hidden @ SIGNS.mT)).abs().amax(0).mean() / len(X)


@shared
def by_search(case: Case, activation: Activation = torch.relu) -> Tensor:
    """The same at unit lengths from finitely many directions: where a sample switches, and the best of each sector."""
    X = plane(case)
    switches = torch.cat([X.flip(1) * rows([s, -s]) for s in (1.0, -1.0)])
    order = torch.atan2(switches[:, 1], switches[:, 0]).sort().values
    between = (order + torch.cat([order[1:], order[:1] + 2 * math.pi])) / 2
    active = (torch.stack([between.cos(), between.sin()], 1) @ X.mT > 0).double()
    sums = torch.einsum("sn,en,nd->sed", active, SIGNS, X).reshape(-1, 2)
    found = torch.cat([switches, sums[sums.norm(dim=1) > 1e-9]])
    found = torch.cat([found, -found]) / found.norm(dim=1, keepdim=True).repeat(2, 1)
    return (activation(found @ X.mT) @ SIGNS.mT).abs().amax(0).mean() / len(X)


@shared
def of_a_sample(case: Case, activation: Activation, lengths: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Tensor:
    """Complexity of a finite class: two hundred networks of three layers of these lengths, all signs."""
    X, outs = draw(case, "many inputs", 6, 4), []
    for k in range(200):
        W = layered_weights((4, 5, 5, 1), case.generator(f"member {k}"))
        outs.append(outputs({f"{l}": r * w / w.norm() for l, (w, r) in enumerate(zip(W, lengths, strict=True))}, X,
                            activation))  # fmt: skip
    return (torch.stack(outs) @ SIGNS.mT).amax(0).mean() / len(X)


# Critical points of the square loss


class Critical(NamedTuple):
    """Outputs at a critical point and where the search began, and targets."""

    f: Tensor
    start: Tensor
    y: Tensor


@shared
def critical_points(case: Case, offset: float = 0.0) -> list[Critical]:
    """Critical points with some output and some error: three units, inputs in two opposite cones, scattered targets.

    Least squares in one layer after the other, with the active units as they are, comes to rest at one. Where units
    switch for ever, at a kink, it does not; such searches are left out.

    Raises:
        Unfinished: fewer than five of a hundred searches end at one.
    """
    found: list[Critical] = []
    for k in range(100):
        start = {f"{l}": w for l, w in enumerate(layered_weights((3, 3, 1), case.generator(f"search {k}")))}
        X = rows([1.0, -1.0]).repeat(6)[:, None] * (rows([4.0, 0.0, 0.0]) + draw(case, f"search inputs {k}", 12, 3)) / 2
        y = 1 + (0.5, 1.0, 2.0, 4.0)[k % 4] * draw(case, f"search targets {k}", 12)
        end = _by_turns(start, X, y - offset)
        slope = gradient(lambda p, X=X, y=y: square_loss(outputs(p, X)[:, None] + offset, y[:, None]))(end)
        if max(x.abs().max().item() for x in slope.values()) < 1e-10 and outputs(end, X).norm() > 0.1:
            found.append(Critical(outputs(end, X) + offset, outputs(start, X) + offset, y))
        if len(found) == 16:
            break
    if len(found) < 5:
        raise Unfinished(f"{len(found)} of 100 searches have come to a critical point")
    return found


def _by_turns(start: Params, X: Tensor, y: Tensor) -> Params:
    """Least squares in the last layer and in the first, by turns."""
    W, a = start["0"], start["1"]
    solve = lambda A: torch.linalg.lstsq(A, y[:, None], rcond=1e-10, driver="gelsd").solution
    for _ in range(400):
        Z = X @ W.mT
        on = (Z > 0).double()
        a = solve(Z * on).mT
        last, W = W, solve(((on * a)[:, :, None] * X[:, None, :]).flatten(1)).view_as(W)
        if (W - last).abs().max() < 1e-15 or W.norm() > 1e3:
            break
    return {"0": W, "1": a}


@shared
def radial(case: Case, offset: float) -> list[Tensor]:
    """Inner product of each layer with minus the gradient of half the sum of squares, targets drawn."""
    found = []
    for k, one in enumerate(networks(case)):
        y = draw(case, f"targets {k}", len(one.X))
        loss = lambda p, one=one, y=y: (outputs(p, one.X) + offset - y).square().sum() / 2
        slope = gradient(loss)(one.weights)
        found.append(torch.stack([-(slope[name] * W).sum() for name, W in one.weights.items()]))
    return found


@shared
def fitted(case: Case, offset: float) -> list[tuple[Tensor, Tensor]]:
    """Outputs of these networks, and their targets."""
    return [(outputs(one.weights, one.X) + offset, draw(case, f"targets {k}", len(one.X)))
            for k, one in enumerate(networks(case))]  # fmt: skip


# Claims


@claim("D-homogeneity", control=[{"bias": 0.5}, {"activation": torch.tanh}])
def lengths_move_to_the_front(case, activation=torch.relu, bias=0.0):
    """sigma(z) = sigma'(z) z, and f(W) = prod rho_k f(V) in any norm of the layers; without hidden biases.  D section 2

    Entrywise norms with p = 1, 2, 3 and infinity, and the spectral one.
    """
    return together(
        unit=equal(
            measured=lambda: activation(SIGNALS),
            predicted=lambda: SIGNALS * torch.func.grad(lambda z: activation(z).sum())(SIGNALS),
            bound=1e-15, reason="exact",
        ),
        network=equal(
            measured=lambda: [f for _ in NORMS for f in raw(case, activation, bias)],
            predicted=lambda: [r.prod() * f for norm in NORMS for r, f in taken_apart(case, norm, activation, bias)],
            bound=1e-12, reason=ROUNDING,
        ),
    )  # fmt: skip


@claim("D-eq2", control={"bias": 0.5})
def slope_in_a_length(case, bias=0.0):
    """With directions held, df / d rho_k = rho / rho_k f~.  D (2), Frobenius and spectral norm"""
    some = ("Frobenius", "spectral")
    return equal(
        measured=lambda: [J for norm in some for J in length_slopes(case, norm, bias)],
        predicted=lambda: [r.prod() / r * f[:, None] for norm in some
                           for r, f in taken_apart(case, norm, torch.relu, bias)],
        bound=1e-12, reason=ROUNDING,
    )  # fmt: skip


def factors(case: Case, k: int, weights: Params) -> Params:
    """Layers times positive factors whose product is one."""
    a = draw(case, f"factors {k}", len(weights)).exp()
    a = a / a.log().mean().exp()
    return {name: c * W for (name, W), c in zip(weights.items(), a, strict=True)}


def other_matrices(case: Case, k: int, weights: Params) -> Params:
    """The first layer replaced by another matrix of its norm."""
    new = draw(case, f"other {k}", *weights["0"].shape)
    return weights | {"0": new * weights["0"].norm() / new.norm()}


def negative(case: Case, k: int, weights: Params) -> Params:
    """Two factors of minus one."""
    return weights | {name: -weights[name] for name in ("0", "1")}


@claim("D-rescaling-invariance", printed={"change": other_matrices}, control={"change": negative})
def positive_factors_leave_it_alone(case, change=factors):
    """Positive factors of the layers with product one leave a ReLU network as it is.  D section 2

    As printed: other layers with the same product of norms. Two negative factors are no symmetry of a ReLU either.
    """
    after = lambda: [change(case, k, one.weights) for k, one in enumerate(networks(case))]
    size = lambda weights: torch.stack([W.norm() for W in weights.values()]).prod()
    return together(
        output=equal(
            measured=lambda: [outputs(W, one.X) for W, one in zip(after(), networks(case), strict=True)],
            predicted=lambda: raw(case, torch.relu, 0.0),
            bound=1e-12, reason=ROUNDING,
        ),
        product=equal(
            measured=lambda: [size(W) for W in after()],
            predicted=lambda: [size(one.weights) for one in networks(case)],
            bound=1e-12, reason=ROUNDING,
        ),
    )  # fmt: skip


@claim("D-eq1", control={"activation": torch.tanh})
def complexity_scales(case, activation=torch.relu):
    """The Rademacher complexity of networks with product of norms rho is rho times that of unit norm.  D (1)

    All widths of two layers with inputs in the plane, exactly; and a finite class of three layers.
    """
    lengths = (0.5, 3.0, 4.0)
    return together(
        all_widths=equal(
            measured=lambda: [by_scan(case, pair, activation) for pair in PRODUCTS],
            predicted=lambda: [a * b * by_search(case, activation) for a, b in PRODUCTS],
            bound=1e-4, reason="directions of the scan are 1.6e-4 apart, and there are kinks; all 64 signs",
        ),
        three_layers=equal(
            measured=lambda: of_a_sample(case, activation, lengths),
            predicted=lambda: math.prod(lengths) * of_a_sample(case, activation),
            bound=1e-12, reason="rounding; 200 networks, all 64 signs",
        ),
    )  # fmt: skip


@claim("D-eq3", control=[{"bias": 0.5}, {"activation": torch.tanh}])
def each_layer_gives_the_output(case, activation=torch.relu, bias=0.0):
    """The inner product of any layer with the slope of f in it is f, for every input; no hidden biases.  D (3), (4)"""
    return equal(
        measured=lambda: layer_sums(case, activation, bias),
        predicted=lambda: [f[:, None].expand(-1, len(one.weights)) for f, one in
                           zip(raw(case, activation, bias), networks(case), strict=True)],
        bound=1e-12, reason=ROUNDING,
    )  # fmt: skip


@claim("D-eq3-consequence", control={"offset": 0.7})
def no_slope_no_output(case, offset=0.0):
    """|f| is at most |W_k| |df/dW_k| in every layer: where the slope in one layer vanishes, so does f.  D section 2

    Half of the networks are dead on their inputs, with slopes of exactly zero. The control has a bias at the output.
    """
    wide = lambda f, sizes: f[:, None].expand_as(sizes)
    return at_most(
        left=lambda: [wide(f, sizes) for f, sizes, _ in dying(case, offset)],
        right=lambda: [sizes * lengths for _, sizes, lengths in dying(case, offset)],
        scale=lambda: [1.0 for _ in networks(case)],
        bound=1e-12, reason="rounding; a layer between single units is tight",
    )  # fmt: skip


@claim("D-eq54-55", control={"offset": -1.0})
def residual_is_across_the_output(case, offset=0.0):
    """At a critical point of the square loss sum_n (y_n - f_n) f_n = 0.  D (54), (55)

    Everywhere the sum is what each layer has in common with minus the gradient; it vanishes at critical points that do
    not fit. A bias at the output, which is held, breaks it.
    """
    return together(
        identity=equal(
            measured=lambda: radial(case, offset),
            predicted=lambda: [((y - f) @ f).expand(len(one.weights)) for (f, y), one in
                               zip(fitted(case, offset), networks(case), strict=True)],
            bound=1e-11, reason=ROUNDING,
        ),
        points=equal(
            measured=lambda: [(one.y - one.f) @ one.f for one in critical_points(case, offset)],
            predicted=lambda: [0.0 for _ in critical_points(case, offset)],
            scale=lambda: [one.y.norm() * one.f.norm() for one in critical_points(case, offset)],
            bound=1e-8, reason="gradient below 1e-10 at the points found; sixteen at most, five at least",
        ),
    )  # fmt: skip
