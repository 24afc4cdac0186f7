"""What decides the second half of section 5.1 of paper C, and 5.2: what normalisation does to steps of descent.

Runs are in :mod:`companion.normalization_geometry.step_size_runs`.
"""

import torch
from torch import Tensor

from claimbook.evidence import at_most, claim, counterexample, equal, limit, tendency, together
from companion.normalization_geometry import step_size_runs as runs
from companion.normalization_geometry.step_size_runs import LENGTHS, Example, Plane, Rectified
from normdyn.networks.normalizers import batch_norm

FOLLOWED = "integrator's tolerance of 1e-11 a step; three tasks, norms 0.3 and 3"

# Trajectories in the plane


def half_angle(w: Tensor, at: Plane) -> Tensor:
    """Tangent of half the angle to the best direction, exact for small angles."""
    u = w / w.norm(dim=-1, keepdim=True)
    return (u - at.aim).norm(dim=-1) / (u + at.aim).norm(dim=-1)


@claim("C-sec5.2-bn", printed={"steps": 60}, control={"kind": "none"})
def rotates_on_a_circle(case, steps=0, kind="batch"):
    """The flow from a right angle keeps the norm and turns monotonically to the best direction, from any norm.  C 5.2

    The norm for white and correlated inputs, the angle in closed form for white ones: tan(theta/2) = exp(-c t/r^2).
    Printed: in steps. Control: no normalisation.
    """
    white = lambda: runs.rotations(case, kind, False, steps)
    both = lambda: [*white(), *runs.rotations(case, kind, True, steps)]
    times = torch.linspace(0, 1, 9).double() ** 2
    slope = lambda at: (at.X.mT @ at.y).norm() / len(at.y)
    turned = lambda: [half_angle(w[:9], at) for w, at, _ in white()]
    return together(
        circle=equal(
            measured=lambda: [w.norm(dim=1) for w, *_ in both()],
            predicted=lambda: [torch.tensor(r, dtype=torch.float64) for _ in range(6) for r in LENGTHS],
            bound=1e-8, reason=FOLLOWED,
        ),
        angle=equal(
            measured=turned,
            predicted=lambda: [torch.exp(-8 * times * slope(at)) for _, at, _ in white()],
            bound=1e-8, reason=FOLLOWED,
        ),
    )  # fmt: skip


@claim("C-sec5.2-nobn", printed={"product": False}, control=[{"kind": "batch"}, {"rates": (0.9, 0.9)}])
def slow_from_small_weights(case, product=True, kind="none", rates=(0.9, 1.5)):
    """Without normalisation small weights learn slowly at first, if an output weight is small and trained as well.

    Short ones grow and long ones shrink; descent swings about the best length where eta times curvature is 1.5, and not
    at 0.9.  C 5.2.  Printed: one linear unit. Controls: batch normalisation; both steps the same.
    """
    grown = lambda w, r: (w[-1].norm() - r).sign()
    return together(
        slow=limit(
            measured=lambda reach: runs.first_speeds(case, 0.03 / reach, product),
            predicted=lambda: [torch.zeros(())] * 3, scale=lambda: [torch.ones(())] * 3,
            bound=5e-3, reason="of the order of the square of the weights at the start, 0.03, and half of it",
        ),
        lengths=equal(
            measured=lambda: [grown(w, r) for w, _, r in runs.rotations(case, kind)],
            predicted=lambda: [torch.tensor(sign).double() for _ in range(3) for sign in (1.0, -1.0)],
            bound=1e-4, reason="a sign: from norm 0.3 to about one, and from norm 3",
        ),
        swings=equal(
            measured=lambda: [n for rate in rates for n in runs.crossings(case, rate)],
            predicted=lambda: [torch.tensor(n) for n in (0, 10) for _ in range(3)],
            bound=1e-4, reason="counts in ten steps; white inputs, where the curvature is one",
        ),
    )  # fmt: skip


# The effective learning rate

SCALES = (0.01, 0.1, 10.0, 100.0)


@claim("C-effective-learning-rate", control={"kind": "none"})
def updates_shrink_with_the_norm(case, kind="batch"):
    """Relative updates fall as 1/r^2 in the norm r of the weights: (eta, w) and (k^2 eta, k w) are one run.  C 5.1

    Control: no normalisation.
    """
    powers = torch.tensor(SCALES, dtype=torch.float64) ** -2
    return together(
        one_run=equal(
            measured=lambda: [path for s in SCALES for path, _ in runs.descended(case, kind, s, 0.05 * s**2)],
            predicted=lambda: [path for _ in SCALES for path, _ in runs.descended(case, kind, 1.0, 0.05)],
            bound=1e-9, reason="rounding of sixty steps; three layers of four units",
        ),
        power=equal(
            measured=lambda: runs.relative_updates(case, SCALES, kind),
            predicted=lambda: [powers[:, None] * one for one in runs.relative_updates(case, (1.0,), kind)],
            each=True, bound=1e-10, reason="rounding of automatic differentiation",
        ),
    )  # fmt: skip


@claim("C-init-scale-irrelevant", control={"power": 2})
def initial_scale_does_not_matter(case, power=0):
    """The initial scale of the weights does not matter, as outputs are brought to unit variance.  C 5.1

    Outputs are the same, and training is not: losses after sixty steps from scales a hundredth and a hundred differ.
    Control: the step in proportion to the square of the scale, where it does hold.
    """
    last = lambda s: torch.stack([loss for _, loss in runs.descended(case, "batch", s, 0.1 * s**power)])
    ends = (0.01, 100.0)
    again = lambda s: torch.stack(runs.losses_by_hand(case, s, 0.1 * s**power))
    layers = lambda: runs.hidden_layers(case, "batch")
    return counterexample(
        equal(
            measured=lambda: [last(s) for s in ends], predicted=lambda: [last(1.0)] * 2,
            bound=1e-9, reason="rounding of sixty steps; three layers of four units at each scale",
        ),
        exact=lambda: [(again(s) - again(1.0)).abs().max() / again(1.0).max() for s in ends],
        outputs=equal(
            measured=lambda: [one.output(s * one.start) for s in ends for one in layers()],
            predicted=lambda: [one.output(one.start) for _ in ends for one in layers()],
            bound=1e-10, reason="rounding",
        ),
    )  # fmt: skip


@claim("O-rate-cap", control={"kind": "none"})
def rates_have_a_cap(case, kind="batch"):
    """After one step of any size the effective rate is at most 1/(2|g|), g the gradient at unit norm.

    It is eta/(r^2 + eta^2 |g|^2/r^2). Control: no normalisation.
    """
    return together(
        formula=equal(
            measured=lambda: [one.rates for one in runs.all_steps(case, kind)],
            predicted=lambda: [
                one.steps / (1 + (one.steps * one.push) ** 2) for one in runs.all_steps(case, kind)
            ],
            each=True, bound=1e-9, reason="rounding; three units, steps over twelve decades",
        ),
        cap=at_most(
            left=lambda: [one.rates for one in runs.all_steps(case, kind)],
            right=lambda: [1 / (2 * one.push) for one in runs.all_steps(case, kind)],
            bound=1e-9, reason="rounding; one step attains it", margin=10.0,
        ),
    )  # fmt: skip


# Example 5.1


def zero(values: Tensor) -> Tensor:
    return torch.zeros_like(values)


def one_whatever(values: Tensor) -> Tensor:
    return torch.ones_like(values)


@claim("C-example5.1-degenerate", printed={"law": one_whatever}, control={"spread": 0.01})
def constant_signals_become_zero(case, law=zero, spread=0.0):
    """A signal that is constant on its batch is normalised to 0, at any epsilon > 0.  C Example 5.1

    At epsilon = 0 it has no value: one that is nearly constant is normalised to what its spread is made of. Printed: to
    1. Control: a signal that is not quite constant.
    """
    signal = lambda one, spread: one.w[0] + spread * one.X[:, :1]
    return together(
        constant=equal(
            measured=lambda: [
                batch_norm(signal(one, spread), epsilon=e) for one in runs.examples(case) for e in (1e-5, 1e-2)
            ],
            predicted=lambda: [law(one.X[:, :1]) for one in runs.examples(case) for _ in range(2)],
            bound=1e-10, reason="rounding of a mean, over the root of epsilon",
        ),
        undefined=equal(
            measured=lambda: [batch_norm(signal(one, s)) for one in runs.examples(case) for s in (1.0, 1e-3)],
            predicted=lambda: [
                (x - x.mean()) / x.std(correction=0) for one in runs.examples(case) for x in [one.X[:, :1]] * 2
            ],
            bound=1e-10, reason="rounding, over the spread of a thousandth",
        ),
    )  # fmt: skip


def over_samples(one: Example) -> Tensor:
    """The gradient with means over the batch."""
    z = one.X @ one.w
    hat = (z - z.mean()) / z.std(correction=0)
    error = hat - one.targets
    bracket = error - error.mean() - hat * (error * hat).mean()
    return (bracket[:, None] * one.X).mean(0) / z.std(correction=0)


def over_features(one: Example) -> Tensor:
    """As printed: means over the inputs' features, then over the batch, with the normalised unit's error."""
    z = one.X @ one.w
    hat = ((z - z.mean()) / z.std(correction=0))[:, None]
    pulls = (hat - one.targets[:, None]) * one.X
    means = pulls.mean(1, keepdim=True)
    return (pulls - means - hat * (pulls * hat).mean(1, keepdim=True)).mean(0) / z.std(correction=0)


@claim("C-example5.1-gradient", printed={"bracket": over_features, "power": 0.0}, control={"power": 0.0})
def gradient_of_the_unit(case, bracket=over_samples, power=-1.0):
    """Means of the bracket run over the batch, and the gradient's size falls as 1/|w|.  C Example 5.1

    Printed: over the features, and a size that stays. Control: such a size.
    """
    sizes = (1e-3, 0.1, 10.0, 1e3)
    return together(
        formula=equal(
            measured=lambda: runs.example_slopes(case),
            predicted=lambda: [bracket(one) for one in runs.examples(case)],
            bound=1e-11, reason="rounding of automatic differentiation; five draws",
        ),
        size=equal(
            measured=lambda: [g.norm() for s in sizes for g in runs.example_slopes(case, s)],
            predicted=lambda: [s**power * g.norm() for s in sizes for g in runs.example_slopes(case)],
            bound=1e-9, reason="rounding of automatic differentiation over six decades",
        ),
    )  # fmt: skip


# Is the loss smoother?


@claim("C-descent-eta-l", printed={"separable": True}, control={"product": 2.1})
def descends_below_two(case, product=1.9, separable=False):
    """With eta L < 2 the loss falls in every step, and the weights converge if it is convex with a minimum.

    Printed: whatever the loss; of separable data the weights grow for ever. Control: eta L = 2.1.  C 5.1
    """
    some = lambda: runs.paths(case, product)
    return together(
        falls=at_most(
            left=lambda: [losses[1:] for losses in some()], right=lambda: [losses[:-1] for losses in some()],
            scale=lambda: [losses[:1] for losses in some()],
            bound=1e-11, reason="rounding; 200 steps on a parabola and three sums of waves",
        ),
        converges=equal(
            measured=lambda: [last for _, last in runs.iterates(case, product, separable)],
            predicted=lambda: [half for half, _ in runs.iterates(case, product, separable)],
            bound=1e-5, reason="what is left after 500 steps; three logistic regressions",
        ),
    )  # fmt: skip


@claim("C-bn-lipschitz", control={"radius": 10.0})
def curvature_is_lower(case, radius=0.1):
    """Batch normalisation lowers the largest curvature, the Lipschitz constant of the gradient.  C 5.1 and 1.4

    At the norm r it is c/r^2, so no constant bounds it; at r = 0.1 it is higher. Control: r = 10, where it is lower.
    """
    top = lambda: runs.curvatures(case, radius)
    return counterexample(
        at_most(
            left=lambda: [with_bn for with_bn, *_ in top()], right=lambda: [without for _, without, _ in top()],
            bound=0.1, reason="a tenth; three tasks with white inputs, along the best direction",
        ),
        exact=lambda: [c / radius**2 - 1 for *_, c in top()],
    )  # fmt: skip


@claim("O-curvature-scale", control={"kind": "none"})
def curvature_falls_with_the_square(case, kind="batch"):
    """The Hessian in scale-invariant weights is that at unit norm over the square of the norm. Control: without BN."""
    H = lambda s: [
        torch.func.hessian(lambda w, one=one: one.loss(w.reshape(4, 3)))(s * one.start.flatten())
        for one in runs.hidden_layers(case, kind)
    ]
    return equal(
        measured=lambda: [s**2 * one for s in (1e-3, 0.1, 10.0, 1e3) for one in H(s)],
        predicted=lambda: [one for _ in range(4) for one in runs.unit_hessians(case, kind)],
        bound=1e-9, reason="rounding of second derivatives over six decades of scale; three layers",
    )  # fmt: skip


@claim("C-flat-minima-large-step", control={"time": 0.8}, untrained={"time": 0.8}, longer={"time": 400.0})
def large_steps_end_flatter(case, time=200.0):
    """Descent with a large step ends at a lower curvature than with a small one.  C 5.1

    Steps of 0.8 and 0.1, networks with and without batch normalisation, tanh and GELU; those that fit with both.
    Control: no time to settle.
    """
    cells = [(normalised, kind) for normalised in (True, False) for kind in ("tanh", "gelu")]
    return tendency(
        effect=lambda: [runs.flatter(runs.settled(case, *cell, time)) for cell in cells],
        reason="log ratio of largest curvatures, 16 starts in each of four cells, one length of time; all cells",
    )


# Saddles and dead units


@claim("C-saddle-noise", control={"frozen": True})
def batches_push_where_the_whole_is_at_rest(case, frozen=False):
    """At a stationary point of the full loss batches still have gradients, as their statistics differ.  C 5.1

    At an exact fit, where sampling alone would give none. Control: stored statistics.
    """
    sizes = (5, 8, 11)
    return together(
        rest=equal(
            measured=lambda: runs.batch_gradients(case, (runs.SAMPLES,), frozen),
            predicted=lambda: [torch.zeros(1)] * 2,
            scale=lambda: [torch.ones(1)] * 2,
            bound=1e-12, reason="rounding of the gradient of the whole; two networks",
        ),
        pushed=equal(
            measured=lambda: [(g > 1e-6).double().mean() for g in runs.batch_gradients(case, sizes, frozen)],
            predicted=lambda: [torch.ones(())] * 6,
            bound=1e-4, reason="a share: of all batches of 5, 8 and 11 out of 12 samples, those with a gradient",
        ),
    )  # fmt: skip


def shift_limit(one: Rectified) -> Tensor:
    """The shift from which downwards a unit is dead: minus the largest scaled value, by the sign of its gain."""
    high, low = one.values.amax(1), one.values.amin(1)
    return -torch.where(one.gain[:, 0] > 0, one.gain[:, 0] * high, one.gain[:, 0] * low)


def positive_gains(one: Rectified) -> Tensor:
    """The same where gains are positive."""
    return -one.gain[:, 0] * one.values.amax(1)


@claim("C-dying-relu", printed={"shift": -1.0}, control=[{"normalised": False}, {"edge": positive_gains}])
def no_unit_is_dead_without_shift(case, shift=0.0, normalised=True, edge=shift_limit):
    """A unit with a normalised signal and no shift is active on some sample of its batch, whatever weights and biases.

    With one it is dead exactly if beta <= -max(gamma z). Printed: any shift; -|gamma| sqrt(m-1) is enough. Controls:
    no normalisation; gains taken to be positive.  C 5.1
    """
    dead = lambda a: (a <= 0).all(1).double()
    some = lambda: runs.rectified(case, normalised)
    lowest = lambda one: shift * one.gain.abs() * (runs.BATCH - 1) ** 0.5
    return together(
        alive=equal(
            measured=lambda: [dead(one.gain * one.values + lowest(one)).sum() for one in [some()]],
            predicted=lambda: [torch.zeros(())], scale=lambda: [torch.tensor(8000.0)],
            bound=1e-4, reason="a count of units, of 8000 in 1000 layers with biases of the order of a hundred",
        ),
        criterion=equal(
            measured=lambda: [dead(one.gain * one.values + one.shift) for one in [runs.rectified(case, True)]],
            predicted=lambda: [
                (one.shift[:, 0] <= edge(one)).double() for one in [runs.rectified(case, True)]
            ],
            bound=1e-4, reason="a comparison, for drawn shifts",
        ),
    )  # fmt: skip
