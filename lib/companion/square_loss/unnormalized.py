"""What decides appendix D of paper B: how norms grow under the square loss when nothing holds them.

Runs are in :mod:`companion.square_loss.unnormalized_runs`. The loss is a sum of squares without a half.
"""

import math

import torch
from torch import Tensor

from claimbook.evidence import at_most, claim, equal, tendency, together
from companion.square_loss import unnormalized_runs as runs
from companion.square_loss.unnormalized_runs import SCALES, STEPS, Task, tasks, units
from normdyn.motion.flows import gradient, gradient_flow

ROUNDING = "rounding of automatic differentiation; 15 ReLU networks of 2, 3 and 5 layers"

# All layers grow alike


def corrected(g: Tensor, y: Tensor) -> Tensor:
    """The rate of every squared norm under the mean of squares."""
    return 4 * (y * g).mean() - 4 * g.square().mean()


def as_printed(g: Tensor, y: Tensor) -> Tensor:
    return 4 * g.square().mean() + 4 * g.mean()


def growth(one: Task) -> Tensor:
    """Rates of the squared norms of all layers, by automatic differentiation."""
    slopes = gradient(lambda W: (one.output(W) - one.y).square().mean())(one.W)
    return torch.stack([-2 * (one.W[n] * slopes[n]).sum() for n in one.W])


@claim("B-lem3", printed={"law": as_printed}, control={"spread": 1.0})
def layers_grow_alike(case, law=corrected, spread=0.0):
    """The squared norms of all layers grow at one rate, 4/N (sum y g - sum g^2).  B Lemma 3, (26)

    Printed: both signs positive and no label. Control: hidden biases.
    """
    some = lambda: tasks(case, spread)
    each = lambda one: law(one.output(one.W), one.y).expand(len(one.W))
    return equal(
        measured=lambda: [growth(one) for one in some()], predicted=lambda: [each(one) for one in some()],
        bound=1e-11, reason=ROUNDING,
    )  # fmt: skip


@claim("B-lem3-equal", control={"step": 0.02})
def equal_norms_stay_equal(case, step=None):
    """Layers that start with equal norms keep them equal along the flow. Control: steps of 0.02.  B appendix D"""
    return equal(
        measured=lambda: [norms / norms[0] for norms in runs.ends(case, step)],
        predicted=lambda: [torch.ones(depth) for _ in range(2) for depth in (2, 3)],
        bound=1e-9, reason="integrator's tolerance of 1e-11 a step; 4 linear networks, to time one half", margin=100.0,
    )  # fmt: skip


# One equation for the product


def last_expression(depth: int) -> float:
    return 1.0


def middle_expression(depth: int) -> float:
    return float(depth)


RADIUS = 1.3


@claim("B-eq27", printed={"factor": middle_expression}, control={"spread": 1.0})
def each_radius_by_itself(case, factor=last_expression, spread=0.0):
    """With equal radii each moves at -2 rho_k^(L-1) [sum rho_k^L f^2 - sum f y]; there is no factor L.  B (27)"""

    def measured(one: Task) -> Tensor:
        start = {"r": torch.full((len(one.W),), RADIUS, dtype=torch.float64)}
        V = units(one.W)
        grown = lambda p: {n: p["r"][i] * V[n] for i, n in enumerate(V)}
        return -gradient(lambda p: (one.output(grown(p)) - one.y).square().sum())(start)["r"]

    def predicted(one: Task) -> Tensor:
        f, L = one.output(units(one.W)), len(one.W)
        rate = -2 * RADIUS ** (L - 1) * (RADIUS**L * (f * f).sum() - (f * one.y).sum())
        return factor(L) * rate.expand(L)

    return equal(
        measured=lambda: [measured(one) for one in tasks(case, spread)],
        predicted=lambda: [predicted(one) for one in tasks(case, spread)],
        bound=1e-11, reason=ROUNDING,
    )  # fmt: skip


def alike(depth: int) -> list[float]:
    return [RADIUS] * depth


def uneven(depth: int) -> list[float]:
    return [0.6 + 0.5 * k for k in range(depth)]


@claim("B-eq28", control={"sizes": uneven})
def product_of_equal_layers(case, sizes=alike):
    """For layers of equal norms rho' = 2 L rho^(2 - 2/L) [sum f y - rho sum f^2]. Control: unequal ones.  B (28)"""

    def measured(one: Task) -> Tensor:
        W = units(one.W, sizes(len(one.W)))
        moved = gradient_flow(lambda W: (one.output(W) - one.y).square().sum())(W)
        product = lambda *layers: torch.stack([w.norm() for w in layers]).prod()
        return torch.func.jvp(product, tuple(W.values()), tuple(moved.values()))[1]

    def predicted(one: Task) -> Tensor:
        f, L, rho = one.output(units(one.W)), len(one.W), math.prod(sizes(len(one.W)))
        return 2 * L * rho ** (2 - 2 / L) * ((f * one.y).sum() - rho * (f * f).sum())

    return equal(
        measured=lambda: [measured(one) for one in tasks(case)],
        predicted=lambda: [predicted(one) for one in tasks(case)],
        bound=1e-11, reason=ROUNDING,
    )  # fmt: skip


DEPTHS = (2, 3, 4, 6)


def own(depth: int) -> float:
    return depth


def logistic(depth: int) -> float:
    """The depth of which (28) is the logistic equation."""
    return 2


@claim("B-eq28-logistic", printed={"as_depth": logistic}, control={"as_depth": lambda depth: depth + 1})
def logistic_for_two_layers(case, as_depth=own):
    """u' is proportional to u^(2 - 2/L) (1 - u), which is logistic for two layers only; time is hypergeometric in u.

    Chains of single units, whose directions cannot move, along the flow of their weights. The curves are compared as
    shares of the last time, so that no rate can mend them. Control: one layer more.  B appendix D
    """
    share = lambda t: t / t[-1]
    read = lambda depth: share(runs.antiderivative(runs.chain(depth)[1], as_depth(depth))
                               - runs.antiderivative(runs.chain(depth)[1][:1], as_depth(depth)))  # fmt: skip
    return equal(
        measured=lambda: [share(runs.chain(depth)[0]) for depth in DEPTHS],
        predicted=lambda: [read(depth) for depth in DEPTHS],
        bound=1e-7, reason="integrator's tolerance of 1e-11 a step; depths 2, 3, 4 and 6, from u = 0.01 to 0.98",
    )  # fmt: skip


# How long is the wait


def half(run: runs.Trained) -> Tensor:
    """Steps until the loss is below one half, by draw; it starts at one."""
    if not (run.loss[-1] < 0.5).all():
        raise runs.Unfinished("a network has not halved its loss")
    return 5.0 * (run.loss < 0.5).double().argmax(0)


def waits(case, depth: int, size: float) -> Tensor:
    """Of networks that descend on digits from layers of one norm."""
    return half(runs.trained(case, size, 0.03, 1000, momentum=0.0, depth=depth, every=5))


STARTS = (1e-2, 1e-4, 1e-6)
GROWING = math.log(1.2)


@claim("B-transient-init", control={"depths": (1,)})
def small_starts_wait_longer(case, depths=(2, 3)):
    """The smaller the start, the longer the plateau; for two layers and more without limit. Control: one layer.

    Chains: the wait from a hundredth of the start is longer by a fifth or more. Networks: steps until the loss is
    halved, from layers whose norms differ by 1.6.  B appendix D and 2.3.1
    """
    pairs = lambda depth: zip(STARTS, STARTS[1:], strict=False)
    chains = lambda depth: torch.stack([(runs.wait(depth, b) / runs.wait(depth, a)).log() for a, b in pairs(depth)])
    return together(
        chains=at_most(
            left=lambda: [GROWING for _ in depths], right=lambda: [chains(depth).min() for depth in depths],
            scale=lambda: [1.0 for _ in depths], bound=1e-3, reason="a closed form; starts 0.01 to a millionth",
        ),
        networks=tendency(
            effect=lambda: [(waits(case, depth, a) / waits(case, depth, b)).log()
                            for depth in depths for a, b in ((0.6, 1.0), (0.8, 1.3))],
            least=GROWING, reason="2 depths, 2 pairs of sizes, 5 draws; a fifth longer, fixed beforehand",
        ),
    )  # fmt: skip


def norms_kept(depth: int, r: float) -> float:
    return r**depth


def product_kept(depth: int, r: float) -> float:
    return r


LAYERS = range(2, 21)
RADII = (0.2, 0.3, 0.4, 0.5)


@claim("B-transient-depth", printed={"start": product_kept}, control=[{"start": product_kept}, {"deep": 2}])
def deep_networks_wait_longer(case, start=norms_kept, deep=3):
    """With layers of equal norms of one half or less the wait grows with depth. With an equal product it does not.

    Chains of 2 to 20 layers in closed form. Networks of three layers against two, also at an equal product, as random
    deep directions give smaller outputs. Controls: the product, in chains; two layers against two.
    B appendix D and 2.3.1
    """
    row = lambda r: torch.stack([runs.wait(depth, start(depth, r)) for depth in LAYERS])
    return together(
        chains=at_most(
            left=lambda: [row(r)[:-1] for r in RADII], right=lambda: [row(r)[1:] for r in RADII],
            bound=1e-6, reason="a closed form, rounding; 2 to 20 layers, four norms",
        ),
        networks=tendency(
            effect=lambda: [(waits(case, deep, size) / waits(case, 2, size)).log() for size in (0.6, 0.8, 1.0)],
            least=GROWING, reason="3 sizes of layers, 5 draws, digits; a fifth longer, fixed beforehand",
        ),
        products=tendency(
            effect=lambda: [
                (waits(case, deep, size ** (2 / deep)) / waits(case, 2, size)).log() for size in (0.8, 1.0, 1.6)
            ],
            least=GROWING, reason="3 products of norms, 5 draws, digits; the same fifth",
        ),
    )  # fmt: skip


# Three scales


def end_of(case, k: int, decay: float, steps: int = 1000) -> runs.Trained:
    """Training from one of the three scales; with decay the largest gets time to shrink."""
    if decay and k == 2:
        return runs.trained(case, SCALES[k], 0.01, 2 * steps, decay=decay)
    return runs.trained(case, SCALES[k], STEPS[k], steps, decay=decay)


def lost_since_half(values: Tensor) -> Tensor:
    """The share of what was left at half of the time that is gone at the end."""
    return 1 - values[-1] / values[len(values) // 2]


TOY = "3 scales of layers, 5 draws, 80 digits"


@claim("B-fig10", control=[{"decay": 0.01}, {"steps": 10}], untrained={"steps": 10}, longer={"steps": 2000})
def training_fits(case, decay=0.0, steps=1000):
    """Without normalisation and decay all three scales fit the data, and the loss goes on falling. Controls: decay;
    ten steps.

    B Fig. 10
    """
    return together(
        fits=tendency(
            effect=lambda: [end_of(case, k, decay, steps).margins[-1].amin(1) - 0.5 for k in range(3)],
            reason=f"{TOY}; every sample within one half of its label",
        ),
        falls=tendency(
            effect=lambda: [lost_since_half(end_of(case, k, decay, steps).loss) for k in range(3)],
            least=0.4, reason=f"{TOY}; two fifths of the loss at half of the time are gone at the end",
        ),
    )  # fmt: skip


@claim("B-fig11", control={"decay": 0.01}, longer={"steps": 2000})
def product_remembers_its_start(case, decay=0.0, steps=1000):
    """The final product of norms depends on the scale of the start: it at least doubles from one to the next.

    Control: decay, with which all come near one value.  B Fig. 11
    """
    rho = lambda k: end_of(case, k, decay, steps).rho[-1].log()
    return tendency(
        effect=lambda: [rho(k + 1) - rho(k) for k in range(2)],
        least=math.log(2), reason=f"{TOY}; a factor of two a scale, fixed beforehand",
    )  # fmt: skip


@claim("B-fig12", control=[{"normalised": False}, {"steps": 10}], untrained={"steps": 10}, longer={"steps": 2000})
def margins_remember_it_too(case, normalised=True, steps=1000):
    """Sorted normalised margins are flat at the end, and at least halve from one scale to the next.

    Controls: margins of the output itself, which are one at every scale; ten steps.  B Fig. 12
    """
    end = lambda k: end_of(case, k, 0.0, steps)
    shown = lambda k: end(k).normalised()[-1] if normalised else end(k).margins[-1]
    flat = lambda values: math.log(1.5) - (values.quantile(0.9, dim=1) / values.quantile(0.1, dim=1)).log()
    return together(
        flat=tendency(
            effect=lambda: [flat(shown(k)) for k in range(3)],
            reason=f"{TOY}; the ninth decile is less than 1.5 times the first",
        ),
        lower=tendency(
            effect=lambda: [(shown(k).mean(1) / shown(k + 1).mean(1)).log() for k in range(2)],
            least=math.log(2), reason=f"{TOY}; a factor of two a scale, fixed beforehand",
        ),
    )  # fmt: skip


def of_the_output(run: runs.Trained) -> tuple[Tensor, Tensor]:
    """N/sum of rho f^2 and of y f: they meet where the output fits."""
    f = run.normalised()[-1]
    return run.rho[-1] * f.square().sum(1), f.sum(1)


def of_margins(run: runs.Trained) -> tuple[Tensor, Tensor]:
    """The same with f for the output, as printed."""
    f = run.normalised()[-1]
    return f.square().sum(1), f.sum(1)


@claim("B-d-consistency", printed={"sums": of_margins}, control={"steps": 60})
def output_grows_to_its_label(case, sums=of_the_output, steps=1000):
    """The output times its label grows towards one, so rho sum f^2 meets sum y f; late the margins y f fall.

    From small layers margins rise while the layers align, then fall as the product overtakes, and the target
    sum y f / sum f^2 rises. Printed: f itself grows towards one. Control: the first 60 steps.  B appendix D
    """
    end = lambda: end_of(case, 0, 0.0, steps)
    mean = lambda: end().normalised().mean(2)
    target = lambda: (lambda f: f.sum(2) / f.square().sum(2))(end().normalised())
    at_peak = lambda values: values.gather(0, mean().argmax(0)[None])[0]
    return together(
        meets=equal(
            measured=lambda: [sums(end())[0]], predicted=lambda: [sums(end())[1]],
            bound=5e-3, reason="the root of the loss over a hundred; 5 draws from the smallest layers", margin=5.0,
        ),
        falls=tendency(
            effect=lambda: [(at_peak(mean()) / mean()[-1]).log()],
            reason="5 draws from the smallest layers; the peak over the end",
        ),
        rises=tendency(
            effect=lambda: [(target()[-1] / at_peak(target())).log()],
            reason="5 draws from the smallest layers; the target at the end over that at the peak",
        ),
    )  # fmt: skip


@claim("B-d-large-init", control={"size": SCALES[0]})
def large_products_fall_first(case, size=1.7 * runs.HE):
    """From large layers the product may fall at first. Control: small ones, from which it only grows.  B appendix D"""
    run = lambda: runs.trained(case, size, 1e-3, 60, momentum=0.0, every=1)
    return tendency(
        effect=lambda: [((1 - run().rho.amin(0) / run().rho[0]).clamp_min(1e-9) / 1e-3).log()],
        reason="5 draws, small steps; logarithm of the fall over a thousandth",
    )  # fmt: skip
