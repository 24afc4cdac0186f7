"""What decides the claims of sections 14.5.2 to 14.5.4 of paper D: directions at rest, and coordinates once more.

Labels are absorbed in the outputs: ``f_n`` stands for ``y_n f(x_n)``. The first half are runs, the second claims.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from claimbook.evidence import Case, Unfinished, claim, equal, shared, together
from companion.theory_iii.growth_of_weights_runs import drawn, leaky
from companion.theory_iii.hidden_complexity_control_runs import (
    Instant,
    Outputs,
    exponential,
    identity,
    instant,
    instants,
    normal,
    separable,
    smooth_cube,
)
from normdyn.motion.flows import Params, gradient_flow, integrate
from normdyn.networks.graphs import mlp
from normdyn.symmetry.polar import reparametrized, to_polar

ROUNDING = "rounding of sums that cancel in part"

# Runs


class Apart(NamedTuple):
    """A network that separates its points, so long that the weakest pulls e^40 times as hard as the next."""

    f: Outputs
    W: Params
    idle: int


@shared
def far_apart(case: Case) -> list[Apart]:
    """Two and three layers; the last of the inputs is zero for all samples, so that its weights are not pulled at."""
    found = []
    for k in range(6):
        depth = 2 + k % 2
        f, W, y = drawn(case, f"apart {k}", depth, leaky, width=4, samples=5, idle=True)
        tilde = (y * f({n: x / x.norm() for n, x in W.items()})).sort().values
        scale = (40 / (tilde[1] - tilde[0]) / torch.stack([x.norm() for x in W.values()]).prod()) ** (1 / depth)
        found.append(Apart(lambda p, f=f, y=y: y * f(p), {n: scale * x for n, x in W.items()}, 3))
    return found


def turning(one: Apart) -> Params:
    """Velocities of the unit layers under the flow, over the loss."""
    drive = gradient_flow(lambda p: torch.logsumexp(-one.f(p), 0))(one.W)
    return torch.func.jvp(lambda p: {k: x / x.norm() for k, x in p.items()}, (one.W,), (drive,))[1]


@shared
def linear_pairs(case: Case) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """O, V_2, V_1 and x of the paper's linear network: O is a row of 1/d, layers and point have norm one."""
    found = []
    for k in range(4):
        V2, V1, x = (
            normal(case, f"pair {k} {n}", *shape) for n, shape in (("V2", (4, 4)), ("V1", (4, 3)), ("x", (3,)))
        )
        found.append((torch.full((1, 4), 0.25, dtype=torch.float64), V2 / V2.norm(), V1 / V1.norm(), x / x.norm()))
    return found


def slopes_of_pair(O: Tensor, V2: Tensor, V1: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of O V_2 V_1 x in V_1 and V_2, by automatic differentiation."""
    return torch.func.grad(lambda V1, V2: (O @ V2 @ V1 @ x)[0], argnums=(0, 1))(V1, V2)


@shared
def patterned(case: Case, leak: float) -> list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """O, W_2, W_1 and x of a network of two hidden layers, its output, and the output's derivative in W_1."""
    found, act = [], lambda z: torch.where(z > 0, z, leak * z)
    O = torch.full((1, 6), 1 / 6, dtype=torch.float64)
    for k in range(10):
        W1, W2, x = normal(case, f"W1 {k}", 5, 3), normal(case, f"W2 {k}", 6, 5), normal(case, f"x {k}", 3)
        f = lambda W, W2=W2, x=x: mlp([W, W2, O], x[None], activation=act)[0, 0]
        found.append((O, W2, W1, x, f(W1), torch.func.grad(f)(W1)))
    return found


def resting(hat: Outputs, W: Params) -> Params:
    """Unit layers that are parallel to their own slope, by iteration.

    Raises:
        Unfinished: it has not come to rest.
    """
    V = {k: x / x.norm() for k, x in W.items()}
    for _ in range(3000):
        slope = torch.func.grad(hat)(V)
        new = {k: V[k] + slope[k] / slope[k].norm() for k in V}
        new = {k: x / x.norm() for k, x in new.items()}
        moved, V = max((new[k] - V[k]).norm().item() for k in V), new
        if moved < 1e-15:
            break
    if moved > 1e-13:
        raise Unfinished(f"directions still move by {moved:.1e}")
    return V


class Rest(NamedTuple):
    """Unit layers as one vector, the sum of outputs, its slopes, their squares by layer; the same at other lengths."""

    layers: Tensor
    hat: Tensor
    slopes: Tensor
    squares: Tensor
    longer: Params
    hat_longer: Tensor
    slopes_longer: Tensor


@shared
def at_rest(case: Case, rest: bool) -> list[Rest]:
    """Networks at stationary directions, for drawn weights of the samples; or at the drawn ones."""
    flat = lambda p: torch.cat([x.flatten() for x in p.values()])
    found = []
    for k, (depth, activation) in enumerate(((2, identity), (3, identity), (2, smooth_cube), (3, smooth_cube))):
        f, W, y = drawn(case, f"rest {k}", depth, activation, width=4, samples=3)
        pulls = 0.3 + normal(case, f"rest pulls {k}", 3).abs()
        hat = lambda p, f=f, pulls=pulls * y: pulls @ f(p)
        V = resting(hat, W) if rest else {n: x / x.norm() for n, x in W.items()}
        slopes, longer = torch.func.grad(hat)(V), {n: (1.5 + l) * x for l, (n, x) in enumerate(V.items())}
        squares = torch.stack([g.square().sum() for g in slopes.values()])
        at = torch.func.grad(hat)(longer)
        found.append(Rest(flat(V), hat(V), flat(slopes), squares, longer, hat(longer), flat(at)))
    return found


@shared
def one_unit_below(case: Case) -> list[tuple[Instant, Tensor]]:
    """Networks of three layers, the first a single unit, so that the printed (111) has a shape; and their points."""
    found = []
    for k in range(5):
        X = normal(case, f"one unit {k} X", 6, 4)
        W = {f"W{l}": normal(case, f"one unit {k} W{l}", *s) for l, s in enumerate(((1, 4), (5, 1), (1, 5)))}
        f = lambda p, X=X: mlp([p[f"W{l}"] for l in range(3)], X, activation=leaky)[:, 0]
        y = f(W).sign()
        labelled = lambda p, f=f, y=y: y * f(p)
        found.append((instant(labelled, labelled, W, 1.0), y[:, None] * X))
    return found


class Linear(NamedTuple):
    """One linear layer at an instant: points, length, direction, drive, and velocities of length and direction."""

    points: Tensor
    rho: Tensor
    v: Tensor
    drive: Tensor
    length: Tensor
    direction: Tensor


@shared
def one_layer(case: Case) -> list[Linear]:
    found = []
    for k in range(5):
        P, w = normal(case, f"one layer {k}", 6, 4), normal(case, f"one layer {k} w", 4)
        h = exponential(lambda p, P=P: P @ p["w"])({"w": w})["w"]
        rates = torch.func.jvp(lambda w: (w.norm(), w / w.norm()), (w,), (h,))[1]
        found.append(Linear(P, w.norm(), w / w.norm(), h, *rates))
    return found


class Turned(NamedTuple):
    """Directions at the start and at the end of a flow, the integral of their velocity, and by parts."""

    start: Tensor
    end: Tensor
    integral: Tensor
    parts: Tensor
    polar: Tensor


@shared
def turned(case: Case) -> list[Turned]:
    """One linear layer under gradient flow to time 20, with integrals; and the polar system from the same start."""
    found = []
    for k in range(3):
        P, w = separable(case, f"turned {k}", 4, 3), normal(case, f"turned {k} w", 3)
        drive = exponential(lambda p, P=P: P @ p["w"])

        def field(p: Params, drive=drive) -> Params:
            h = drive({"w": p["w"]})["w"]
            v = p["w"] / p["w"].norm()
            dv = (h - v * (v @ h)) / p["w"].norm()
            return {"w": h, "whole": dv, "parts": (torch.outer(dv, v) + torch.outer(v, dv)) @ v}

        zero = torch.zeros(3, dtype=torch.float64)
        path = integrate(field, {"w": w, "whole": zero, "parts": zero}, (0.0, 20.0))
        polar = integrate(reparametrized(drive, "polar"), to_polar({"w": w}), (0.0, 20.0))["w.direction"][-1]
        end = path["w"][-1]
        found.append(Turned(w / w.norm(), end / end.norm(), path["whole"][-1], path["parts"][-1], polar))
    return found


# Directions at rest


@claim("D-eq101-max", printed={"pick": torch.argmax})
def weakest_sample_pulls_alone(case, pick=torch.argmin):
    """For large rho the sum of (101) is one sample, the one with the smallest f~; idle components of V_k still turn.

    Of weights that no sample pulls at, those of an input that is always zero, V_k changes at the rate at which |W_k|
    grows, with the other sign.  D 14.5.2
    """

    def law(one: Apart) -> dict[str, Tensor]:
        """(101) over the loss, of one sample."""
        V = {k: x / x.norm() for k, x in one.W.items()}
        rho = torch.stack([x.norm() for x in one.W.values()]).prod()
        n = pick(one.f(V))
        slope = torch.func.grad(lambda p: one.f(p)[n])(V)
        return {k: rho / one.W[k].norm() ** 2 * (slope[k] - V[k] * (V[k] * slope[k]).sum()) for k in V}

    def shrinking(one: Apart) -> Tensor:
        """The idle column alone: minus V times the rate of the length over the length."""
        V, n = {k: x / x.norm() for k, x in one.W.items()}, pick(one.f(one.W))
        rho = torch.stack([x.norm() for x in one.W.values()]).prod()
        return -V["W0"][:, one.idle] * one.f(V)[n] * rho / one.W["W0"].norm() ** 2

    return together(
        one_sample=equal(
            measured=lambda: [v for one in far_apart(case) for v in turning(one).values()],
            predicted=lambda: [v for one in far_apart(case) for v in law(one).values()],
            bound=1e-9, reason="e^-40 is what the next sample has, and rounding; six networks",
        ),
        idle=equal(
            measured=lambda: [turning(one)["W0"][:, one.idle] for one in far_apart(case)],
            predicted=lambda: [shrinking(one) for one in far_apart(case)],
            bound=1e-9, reason="e^-40 is what the next sample has, and rounding; six networks",
        ),
    )  # fmt: skip


@claim("D-eq104-105", printed={"reading": "printed"})
def linear_network_at_rest(case, reading="mended"):
    """f = O V_2 V_1 x has slopes V_2' O' x' and O' x' V_1'; layers at rest are these, normalised.  D (104), (105)

    At rest V_1 gives f = a_1 |V_2' O'|^2 |x|^2, V_2 gives f = a_2 O O' |V_1 x|^2, where a_k makes the norm one. The
    printed O' V_2' has no meaning and is read as V_2 O'; a_2 is missing.
    """
    mended = reading == "mended"
    column = lambda O, V2: V2.mT @ O.mT if mended else V2 @ O.mT
    each = lambda of: [of(*one) for one in linear_pairs(case)]
    unit = lambda V: V / V.norm()
    value = lambda O, V2, V1, x: (O @ V2 @ V1 @ x)[0]
    own = lambda O, V1, x: 1 / (O.norm() * (V1 @ x).norm()) if mended else 1.0
    why = f"{ROUNDING}; four networks"
    return together(
        first_slope=equal(
            measured=lambda: each(lambda *one: slopes_of_pair(*one)[0]),
            predicted=lambda: each(lambda O, V2, V1, x: column(O, V2) @ x[None]),
            bound=1e-13, reason=why,
        ),
        second_slope=equal(
            measured=lambda: each(lambda *one: slopes_of_pair(*one)[1]),
            predicted=lambda: each(lambda O, V2, V1, x: O.mT @ x[None] @ V1.mT),
            bound=1e-13, reason=why,
        ),
        first=equal(
            measured=lambda: each(lambda O, V2, V1, x: value(O, V2, unit(slopes_of_pair(O, V2, V1, x)[0]), x)),
            predicted=lambda: each(
                lambda O, V2, V1, x: column(O, V2).square().sum() * (x @ x) / (column(O, V2).norm() * x.norm())
            ),
            bound=1e-13, reason=why,
        ),
        second=equal(
            measured=lambda: each(lambda O, V2, V1, x: value(O, unit(slopes_of_pair(O, V2, V1, x)[1]), V1, x)),
            predicted=lambda: each(lambda O, V2, V1, x: own(O, V1, x) * (O @ O.mT)[0, 0] * (V1 @ x).square().sum()),
            bound=1e-13, reason=why,
        ),
    )  # fmt: skip


@claim("D-eq106", control={"leak": 0.2})
def patterns_make_it_linear(case, leak=0.0):
    """A ReLU network is O D_2 W_2 D_1 W_1 x, with patterns of zeros and ones, in value and in derivative.  D (106)"""
    ones = lambda z: (z > 0).double().diag()
    below = lambda W1, x: ones(W1 @ x)

    def row(O: Tensor, W2: Tensor, W1: Tensor, x: Tensor) -> Tensor:
        D1 = below(W1, x)
        return O @ ones(W2 @ D1 @ W1 @ x) @ W2 @ D1

    return together(
        value=equal(
            measured=lambda: [f for *_, f, _ in patterned(case, leak)],
            predicted=lambda: [(row(*one) @ one[2] @ one[3])[0] for *one, _, _ in patterned(case, leak)],
            scale=lambda: [W1.norm() * W2.norm() for _, W2, W1, *_ in patterned(case, leak)],
            bound=1e-13, reason="rounding; ten networks",
        ),
        derivative=equal(
            measured=lambda: [slope for *_, slope in patterned(case, leak)],
            predicted=lambda: [torch.outer(row(*one)[0], one[3]) for *one, _, _ in patterned(case, leak)],
            scale=lambda: [W2.norm() for _, W2, *_ in patterned(case, leak)],
            bound=1e-13, reason="rounding; ten networks",
        ),
    )  # fmt: skip


@claim("D-stationary-self-consistency", printed={"divided": False}, control={"rest": False})
def layers_at_rest_are_slopes(case, divided=True, rest=True):
    """At rest V_k is its slope over f^, so that f^ = |f^_k'|^2 / f^ for every layer, and in the mean over layers.

    f^ is a sum of the samples' outputs with positive weights, one sample included. With lengths rho_k the slope is
    f^ W_k / rho_k^2. As printed, without f^ in the denominator, only f^ = 1 obeys.  D (102), (103) and the remark
    """
    each = lambda of: [of(one) for one in at_rest(case, rest)]
    over = lambda one: one.hat if divided else torch.ones(())
    why = "an iteration that moves by 1e-13; linear and smooth networks of two and three layers, three samples"
    return together(
        layers=equal(
            measured=lambda: each(lambda one: one.layers), predicted=lambda: each(lambda one: one.slopes / over(one)),
            bound=1e-9, reason=why,
        ),
        output=equal(
            measured=lambda: each(lambda one: one.hat.expand(len(one.squares))),
            predicted=lambda: each(lambda one: one.squares / over(one)),
            bound=1e-9, reason=why,
        ),
        mean=equal(
            measured=lambda: each(lambda one: one.hat),
            predicted=lambda: each(lambda one: one.squares.mean() / over(one)),
            bound=1e-9, reason=why,
        ),
        lengths=equal(
            measured=lambda: each(lambda one: one.slopes_longer),
            predicted=lambda: each(
                lambda one: one.hat_longer * torch.cat([(x / x.square().sum()).flatten() for x in one.longer.values()])
            ),
            bound=1e-9, reason=why,
        ),
    )  # fmt: skip


# Lengths and directions


@claim("D-eq107", control={"power": 0})
def slopes_in_directions(case, power=1):
    """S_k df/dW_k = (rho/rho_k) S_k df~/dV_k, with S_k = dV_k/dW_k = (I - V V')/rho_k, and V_k the slope of |W_k|."""
    some = lambda: [(one, k) for one in instants(case) for k in one.weights]
    flat = lambda one, k: one.weights[k].flatten()
    inside = lambda V: torch.eye(len(V), dtype=V.dtype) - torch.outer(V, V)
    S = lambda one, k: inside(one.units[k].flatten()) / one.lengths[k]
    return together(
        length=equal(
            measured=lambda: [torch.func.grad(torch.norm)(flat(one, k)) for one, k in some()],
            predicted=lambda: [one.units[k].flatten() for one, k in some()],
            bound=1e-13, reason="rounding of one division",
        ),
        direction=equal(
            measured=lambda: [torch.func.jacrev(lambda w: w / w.norm())(flat(one, k)) for one, k in some()],
            predicted=lambda: [S(one, k) for one, k in some()],
            bound=1e-13, reason="rounding of an outer product",
        ),
        slopes=equal(
            measured=lambda: [S(one, k) @ one.raw[k].flatten(1).mT for one, k in some()],
            predicted=lambda: [
                (one.rho / one.lengths[k]) ** power * S(one, k) @ one.slopes[k].flatten(1).mT for one, k in some()
            ],
            bound=1e-11, reason=f"{ROUNDING}; ReLU networks of two and three layers, 4 of each",
        ),
    )  # fmt: skip


@claim("D-eq108-110", control={"power": -1})
def one_linear_layer(case, power=1):
    """v moves at sum e^(-rho v.x) (x - v v.x)/rho, rho at sum e^(-rho v.x) v.x, rho v as w does.  D (108) to (110)"""
    pull = lambda one: (-one.rho * one.points @ one.v).exp()
    dv = lambda one: pull(one) @ (one.points - torch.outer(one.points @ one.v, one.v)) / one.rho**power
    drho = lambda one: pull(one) @ (one.points @ one.v)
    each = lambda of: [of(one) for one in one_layer(case)]
    why = f"{ROUNDING}; five problems of six points"
    return together(
        direction=equal(
            measured=lambda: each(lambda one: one.direction), predicted=lambda: each(dv), bound=1e-11, reason=why,
        ),
        length=equal(
            measured=lambda: each(lambda one: one.length), predicted=lambda: each(drho), bound=1e-11, reason=why,
        ),
        weights=equal(
            measured=lambda: each(lambda one: one.drive),
            predicted=lambda: each(lambda one: drho(one) * one.v + one.rho * dv(one)),
            bound=1e-11, reason=why,
        ),
    )  # fmt: skip


def turn(one: Instant, k: str) -> Tensor:
    """(101) once more: the velocity of a direction."""
    pull, V = torch.einsum("n,n...->...", one.pull, one.slopes[k]), one.units[k]
    return one.rho / one.lengths[k] ** 2 * (pull - V * (V * pull).sum())


@claim("D-eq111", printed={"copied": True})
def many_layers_by_the_chain_rule(case, copied=False):
    """The same argument for many layers: slopes of f~ in the place of points, and ratios of the norms.  D (111), (112)

    V_k moves at (rho/rho_k^2) sum e^(-rho f~_n) S df~_n/dV_k, rho at sum_k rho^2/rho_k^2 sum e^(-rho f~_n) f~_n, and
    rho_k V_k as W_k does. As printed, x_n is the slope and no ratio is there, which has a shape in a first unit alone.
    """
    first = lambda one, P: one.pull @ (P - torch.outer(P @ one.units["W0"][0], one.units["W0"][0])) / one.rho
    ratios = lambda one: 1.0 if copied else sum(one.rho**2 / one.lengths[k] ** 2 for k in one.weights)
    grow = lambda one, k: one.rho / one.lengths[k] * one.pull @ one.tilde
    product = lambda one: sum(one.rho / one.lengths[k] * one.truth[k][0] for k in one.weights)
    some = lambda: one_unit_below(case)
    why = f"{ROUNDING}; five networks of three layers"
    return together(
        direction=equal(
            measured=lambda: [one.truth["W0"][1][0] for one, _ in some()],
            predicted=lambda: [first(one, P) if copied else turn(one, "W0")[0] for one, P in some()],
            bound=1e-10, reason=why,
        ),
        length=equal(
            measured=lambda: [product(one) for one, _ in some()],
            predicted=lambda: [ratios(one) * one.pull @ one.tilde for one, _ in some()],
            bound=1e-10, reason=why,
        ),
        weights=equal(
            measured=lambda: [one.drive[k] for one, _ in some() for k in one.weights],
            predicted=lambda: [
                grow(one, k) * one.units[k] + one.lengths[k] * turn(one, k) for one, _ in some() for k in one.weights
            ],
            bound=1e-10, reason=why,
        ),
    )  # fmt: skip


@claim("D-eq113-114", printed={"share": 0.0})
def velocities_add_up_to_a_difference(case, share=1.0):
    """The integral of dv/dt is v(T) - v(0), also by parts, and w(T)/rho(T) is v(T) of the polar system.

    As printed the start is missing; it has norm one.  D (113), (114)
    """
    change = lambda: [one.end - share * one.start for one in turned(case)]
    why = "two integrations with 1e-12 a step; three linear problems, to time 20"
    return together(
        whole=equal(measured=lambda: [one.integral for one in turned(case)], predicted=change, bound=1e-8, reason=why),
        parts=equal(measured=lambda: [one.parts for one in turned(case)], predicted=change, bound=1e-8, reason=why),
        end=equal(
            measured=lambda: [one.polar for one in turned(case)], predicted=lambda: [one.end for one in turned(case)],
            bound=1e-8, reason=why,
        ),
    )  # fmt: skip
