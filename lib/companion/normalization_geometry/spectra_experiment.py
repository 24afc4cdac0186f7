"""Experiment 2 of paper C: loss, gradient and Hessian with and without batch normalisation (BN), over ways to train.

Runs are in :mod:`companion.normalization_geometry.spectra_experiment_runs`.
"""

import itertools
import math

import torch
from torch import Tensor

from claimbook.evidence import Unfinished, claim, equal, tendency, together
from companion.normalization_geometry import spectra_experiment_runs as runs
from companion.normalization_geometry.protocols import STARTS
from companion.normalization_geometry.spectra_experiment_runs import CUTS, HIGH, LEVELS, LOWERED, STEPS, TARGET, WAYS

OVER = "3 starts, 2 activations, BN in hidden or all layers, 3 optimisers: ways with a step that fits BN only; 24 seeds"
UNTRAINED, LONGER = {"steps": 2}, {"steps": 2 * STEPS}

# Loss and gradient


def run(case, way, rule, normalised, steps, what="loss") -> Tensor:
    """The loss, or the norm of the gradient, of the networks of a way with the step that a rule takes."""
    return runs.curves(case, way, normalised, steps, what)[:, runs.chosen(case, way, rule, normalised, steps)]


def arrival(case, way, rule, normalised, level, steps) -> Tensor:
    """Iterations to a level; the length of the run, if it is not met."""
    return runs.arrivals(case, way, normalised, level, steps)[runs.chosen(case, way, rule, normalised, steps)]


def delays(case, rule, normalised, steps, ways=None) -> list[Tensor]:
    """Logarithm of iterations without BN over those with, at both levels; cells that neither network meets are out."""
    found = []
    for way, level in itertools.product(runs.ways(case, steps) if ways is None else ways, LEVELS):
        one, other = (arrival(case, way, rule, kind, level, steps) for kind in (normalised, False))
        met = torch.minimum(one, other) < steps
        if met.double().mean() >= 0.75:
            found.append((other / one).log()[met])
    return found


def rises(case, way, rule, normalised, steps) -> Tensor:
    """Logarithm of the sum of all rises of the loss, in units of the loss at the start."""
    loss = run(case, way, rule, normalised, steps).clamp(max=10)
    return (loss.diff(dim=0).clamp(min=0).sum(0) / loss[0] + 0.01).log()


def rougher(case, rule, normalised, steps) -> list[Tensor]:
    """By how much the loss rises more without BN than with it."""
    return [
        rises(case, way, rule, False, steps) - rises(case, way, rule, normalised, steps)
        for way in runs.ways(case, steps)
    ]


@claim("C-exp2-loss", control=[{"normalised": False}, {"rule": "best"}], untrained=UNTRAINED, longer=LONGER)
def converges_fast_at_a_high_step(case, rule="equal", normalised=True, steps=STEPS):
    """At a step that is stable with BN and not without: under 100 iterations with BN; without, swings and later.  C 8

    Levels: a tenth and a thirtieth of the loss of predicting nothing. Controls: no BN in either network; to each its
    best step.
    """
    needed = lambda: [
        (TARGET / arrival(case, way, rule, normalised, level, steps)).log()
        for way, level in itertools.product(runs.ways(case, steps), LEVELS)
    ]
    return together(
        under_100=tendency(effect=needed, reason=f"{OVER}; 2 levels"),
        later=tendency(effect=lambda: delays(case, rule, normalised, steps), reason=f"{OVER}; 2 levels"),
        swings=tendency(effect=lambda: rougher(case, rule, normalised, steps), reason=f"{OVER}; rises of the loss"),
    )


@claim("C-fig8.1-right", control=[{"normalised": False}, {"rule": "best"}], untrained=UNTRAINED, longer=LONGER)
def curve_is_lower_and_smoother(case, rule="equal", normalised=True, steps=STEPS):
    """The curve of the training loss lies lower with BN over 100 iterations, and rises less.  C Figure 8.1, right

    Lower: in the mean of its logarithm. At a step that is stable with BN and not without. Controls: as before.
    """
    height = lambda way, n: run(case, way, rule, n, steps)[: TARGET + 1].clamp(1e-4, 10).log().mean(0)
    lower = lambda: [height(way, False) - height(way, normalised) for way in runs.ways(case, steps)]
    return together(
        lower=tendency(effect=lower, reason=OVER),
        swings=tendency(effect=lambda: rougher(case, rule, normalised, steps), reason=f"{OVER}; rises of the loss"),
    )


@claim("O-exp2-best-step", control={"activation": "tanh"}, untrained=UNTRAINED, longer=LONGER)
def rectifiers_gain_at_any_step(case, activation="relu", steps=STEPS):
    """With rectifiers BN takes fewer iterations even if each network has its best step.  Ours

    Control: tanh.
    """
    some = [way for way in WAYS if way.activation == activation]
    return tendency(
        effect=lambda: delays(case, "best", True, steps, some),
        reason="18 ways with rectifiers and 2 levels; 24 seeds; best of five steps by the median to a tenth",
    )


def peak(case, way, rule, normalised, steps) -> Tensor:
    """Logarithm of the largest norm of the gradient over that at the start."""
    slope = run(case, way, rule, normalised, steps, "slope").clamp(max=1e4)
    return (slope.amax(0) / slope[0]).log()


@claim("C-exp2-gradnorm", control={"normalised": False}, untrained=UNTRAINED, longer=LONGER)
def gradient_has_no_spike(case, rule="equal", normalised=True, steps=STEPS):
    """The norm of the gradient stays below three times its start with BN, and peaks higher without.  C 8, experiment 2

    At a step that is stable with BN and not without. Control: no BN in either network.
    """
    there = lambda: runs.ways(case, steps)
    return together(
        calm=tendency(
            effect=lambda: [math.log(3) - peak(case, way, rule, normalised, steps) for way in there()],
            reason=f"{OVER}; a factor of three is what we call a spike",
        ),
        higher=tendency(
            effect=lambda: [
                peak(case, way, rule, False, steps) - peak(case, way, rule, normalised, steps) for way in there()
            ],
            reason=OVER,
        ),
    )


# Hessians at the end

FINAL = {"untrained": {"steps": 2}, "longer": {"steps": 1600}}
NETS = tuple(itertools.product(("relu", "tanh"), ("hidden", "all")))


def tops(case, kind, activation, start, rate, steps) -> tuple[Tensor, Tensor]:
    """Largest eigenvalues of the final solutions with a step, and which of them have converged."""
    top, loss = runs.tops(case, kind, activation, steps)
    at = list(STARTS).index(start), runs.final_setup(case, kind, activation).learning_rates.index(rate)
    return top[at], loss[at] < LEVELS[0]


@claim("C-exp2-top-eigenvalue", control={"rate": LOWERED[1]}, **FINAL)
def top_eigenvalue_is_smaller(case, rate=HIGH, steps=800):
    """At final solutions the largest eigenvalue is smaller with BN, the step of the other network lowered.  C 8

    Lowered to a quarter and to a sixth. Control: BN with that sixth too.
    """

    def ratio(activation, layers, start, lowered):
        top, done = tops(case, layers, activation, start, rate, steps)
        plain, plain_done = tops(case, "plain", activation, start, lowered, steps)
        kept = done & plain_done
        if kept.sum() < 5:
            raise Unfinished(f"{start}, {activation}, {layers}, {lowered:g}: {int(kept.sum())} pairs have converged")
        return (plain / top).log()[kept]

    return tendency(
        effect=lambda: [ratio(*net, start, low) for net in NETS for start in STARTS for low in LOWERED],
        reason="24 cells: activation, layers with BN, start, lowered step; up to 8 pairs that are below a tenth",
    )


@claim("O-exp2-two-over-step", control={"exchanged": True}, **FINAL)
def top_eigenvalue_is_set_by_the_step(case, exchanged=False, steps=800):
    """At those solutions the largest eigenvalue is 2/step within a factor of two, with BN and without.  Ours

    Control: two over the step of the other network.
    """

    def near(kind, activation, rate, told):
        found = [tops(case, kind, activation, start, rate, steps) for start in STARTS]
        top = torch.cat([top[done] for top, done in found])
        return math.log(2) - (top * told / 2).log().abs()

    rows = [("plain", act, low, HIGH if exchanged else low) for act in ("relu", "tanh") for low in LOWERED]
    rows += [(layers, act, HIGH, LOWERED[0] if exchanged else HIGH) for act, layers in NETS]
    return tendency(
        effect=lambda: [near(*row) for row in rows],
        reason="8 cells: activation, with BN at 0.4, without at a quarter and a sixth; up to 24 networks each",
    )


@claim("C-exp2-condition", control={"share": 0.01}, **FINAL)
def condition_number_is_better(case, share=1.0, steps=800):
    """The condition number without zero modes is at least twice as good with BN, wherever zero is cut off.  C 8

    Control: the cut-off for the network without BN at a hundredth of the other.
    """

    def ratio(activation, layers, cut):
        plain, normalised = (runs.spectra(case, kind, activation, steps) for kind in ("plain", layers))
        return (runs.conditions(plain, share * cut) / runs.conditions(normalised, cut)).log()

    return tendency(
        effect=lambda: [ratio(*net, cut) for net in NETS for cut in CUTS],
        least=math.log(2),
        reason="20 cells: activation, layers with BN, cut-offs 1e-2 to 1e-6 of the top; 8 seeds; printed is ten times",
    )


@claim("O-exp2-effective-rank", control={"normalised": False}, **FINAL)
def more_directions_are_curved(case, normalised=True, steps=800):
    """At those solutions the trace of the Hessian over its largest eigenvalue is larger with BN.  Ours

    Control: no BN in either network.
    """

    def rank(kind, activation):
        values = runs.spectra(case, kind, activation, steps)
        return (values.sum(1) / values[:, -1]).log()

    return tendency(
        effect=lambda: [rank(layers if normalised else "plain", act) - rank("plain", act) for act, layers in NETS],
        reason="4 cells: activation, layers with BN; 8 seeds",
    )


@claim("C-exp2-zero-modes", printed={"samples": 64}, control={"normalised": False})
def zeros_are_one_a_unit(case, samples=800, normalised=True):
    """At a solution with more samples than parameters, tanh and BN: 30 zeros, one a hidden unit; without BN, none.  C 8

    One more with BN at the output. Printed: 64 samples. Control: no BN.
    """
    count = lambda kind: [runs.zeros(one) for one in runs.teachers(case, kind, "tanh", samples)]
    return together(
        one_a_unit=equal(
            measured=lambda: [n for kind in ("hidden", "all") for n in count(kind if normalised else "plain")],
            predicted=lambda: [torch.tensor(n) for n in (30, 31) for _ in range(4)],
            bound=1e-4, reason="a count; four exact solutions each",
        ),
        none_without=equal(
            measured=lambda: count("plain"), predicted=lambda: [torch.zeros(())] * 4,
            scale=lambda: [torch.ones(())] * 4,
            bound=1e-4, reason="a count; four exact solutions",
        ),
    )  # fmt: skip
