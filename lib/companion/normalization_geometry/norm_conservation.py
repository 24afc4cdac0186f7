"""What decides the first half of section 5.1 of paper C: conserved norms, what steps add to them, and decay.

Weight decay is lambda, as in the paper. Runs are in :mod:`companion.normalization_geometry.norm_conservation_runs`.
"""

import math

import torch
from torch import Tensor

from claimbook.evidence import at_most, claim, counterexample, equal, together
from companion.normalization_geometry import norm_conservation_runs as runs
from companion.normalization_geometry.norm_conservation_runs import (
    CLOCK,
    HIDDEN,
    bias_sums,
    biases,
    component,
    layer_squares,
    quadratic,
    row_norms,
    whole_squares,
)

USUAL = 1e-5  # epsilon as in common use
FOLLOWED = "integrator's tolerance of 1e-10 a step, to time 1/2; two networks with two hidden layers, all of it trained"
DECAY = 0.1


# Symmetry and conservation


@claim("C-conservation-principle", printed={"charge": component}, control={"kept": False})
def symmetries_conserve(case, charge=quadratic, kept=True):
    """No force along an orbit; so u.theta is kept for a shift u, theta'A theta for a symmetric generator A.  C 5.1

    Printed: the component along the direction that is invariant at the start. Control: the symmetry is broken.
    """
    some = lambda linear: runs.charges(case, charge, linear, kept)

    def part(linear: bool):
        return equal(
            measured=lambda: [one.later for one in some(linear)], predicted=lambda: [one.first for one in some(linear)],
            scale=lambda: [one.size for one in some(linear)], bound=1e-8, reason=FOLLOWED,
        )  # fmt: skip

    return together(
        no_force=equal(
            measured=lambda: [product for product, _ in runs.pushes(case, kept)],
            predicted=lambda: [torch.zeros(len(CLOCK))] * 10,
            scale=lambda: [size for _, size in runs.pushes(case, kept)],
            bound=1e-10, reason="rounding of automatic differentiation; two networks, three scales and two shifts each",
        ),
        shifts=part(False),
        scales=part(True),
    )  # fmt: skip


@claim("O-screw", control={"tilt": 0.3})
def screw_conserves_nothing(case, tilt=0.0):
    """Flows of losses with one screw symmetry lead from a state to another of its orbit: no charge tells them apart.

    Out to another radius, round, back and round again: the angle gained is in closed form. Control: losses that see z.
    """
    share = lambda r, h: 1 / (1 + r**2 / h**2)
    gained = lambda h, far: share(1.0, h) - share(far, h)
    return equal(
        measured=lambda: [end for end, *_ in runs.screwed(case, tilt)],
        predicted=lambda: [
            torch.tensor([math.cos(a), math.sin(a), h * a], dtype=torch.float64) for a, h in
            ((gained(h, far), h) for _, h, far in runs.screwed(case))
        ],
        bound=1e-9, reason="DOP853 with 1e-12 a step; three pitches",
    )  # fmt: skip


# Lemma 5.1 and its companions


@claim("C-lem5.1", printed={"epsilon": USUAL}, control=[{"kind": "none"}, {"kind": "stored"}])
def rows_keep_their_norms(case, kind="batch", epsilon=0.0):
    """Under gradient flow each neuron in front of batch normalisation keeps the norm of its weights.  C Lemma 5.1

    Printed: epsilon = 1e-5. Controls: no normalisation; stored statistics.
    """
    return equal(
        measured=lambda: [one.later for one in runs.kept(case, row_norms, kind, epsilon)],
        predicted=lambda: [one.first for one in runs.kept(case, row_norms, kind, epsilon)],
        each=True, bound=1e-8, reason=FOLLOWED,
    )  # fmt: skip


@claim("C-lem5.1-ln", printed={"with_biases": False, "epsilon": USUAL}, control={"kind": "none"})
def layers_keep_their_norms(case, with_biases=True, kind="layer", epsilon=0.0):
    """Below layer normalisation |W|^2 + |b|^2 is kept, and |W| itself where the layer has no biases.  C after Lemma 5.1

    Printed: |W| alone, and epsilon = 1e-5. Control: no normalisation.
    """
    both = lambda: runs.kept(case, whole_squares if with_biases else layer_squares, kind, epsilon)
    bare = lambda: runs.kept(case, layer_squares, kind, epsilon, biased=False)
    return together(
        with_biases=equal(
            measured=lambda: [one.later for one in both()], predicted=lambda: [one.first for one in both()],
            bound=1e-8, reason=FOLLOWED,
        ),
        without=equal(
            measured=lambda: [one.later for one in bare()], predicted=lambda: [one.first for one in bare()],
            bound=1e-8, reason=FOLLOWED,
        ),
    )  # fmt: skip


@claim("C-lem5.1-wn", printed={"share": -1.0}, control={"decay": DECAY})
def length_of_v_is_kept(case, share=0.0, decay=0.0):
    """Weight normalisation keeps |v|, for the gradient is at right angles to (v, 0).  C after Lemma 5.1

    Printed: to (v, -g). Control: v decays.
    """
    along = lambda path, slope: (path["v"][0] * slope["v"]).sum(1) + share * path["g"][0] * slope["g"]
    return together(
        length=equal(
            measured=lambda: [one.later for one in runs.kept_lengths(case, decay)],
            predicted=lambda: [one.first for one in runs.kept_lengths(case, decay)],
            bound=1e-8, reason="integrator's tolerance of 1e-10 a step, to time 1/2; two networks of four units",
        ),
        ground=equal(
            measured=lambda: [along(*one) for one in runs.weight_normalised(case)],
            predicted=lambda: [torch.zeros(4)] * runs.COUNT,
            scale=lambda: [slope["g"].abs().max() for _, slope in runs.weight_normalised(case)],
            bound=1e-12, reason="rounding of automatic differentiation",
        ),
    )  # fmt: skip


@claim("C-bias-shift-conserved", control={"normalised": False})
def common_shift_is_kept(case, normalised=True):
    """The flow keeps the common offset of a layer's biases: their sum, under batch normalisation each of them.  C 5.1

    With epsilon = 1e-5, as shifts do not feel it. Control: no normalisation.
    """
    some = lambda of, kind: runs.kept(case, of, kind if normalised else "none", USUAL)
    return together(
        layer=equal(
            measured=lambda: [one.later for one in some(bias_sums, "layer")],
            predicted=lambda: [one.first for one in some(bias_sums, "layer")],
            bound=1e-8, reason=FOLLOWED,
        ),
        batch=equal(
            measured=lambda: [one.later for one in some(biases, "batch")],
            predicted=lambda: [one.first for one in some(biases, "batch")],
            bound=1e-8, reason=FOLLOWED,
        ),
    )  # fmt: skip


# What a step adds


def square_of_the_step(pushes: Tensor, step: float) -> Tensor:
    return step**2 * pushes.cumsum(0)


def nothing(pushes: Tensor, step: float) -> Tensor:
    return torch.zeros_like(pushes)


@claim("C-remark5.1-discretisation", printed={"added": nothing}, control={"normalised": False})
def steps_lengthen(case, added=square_of_the_step, normalised=True):
    """Finite steps change the norms, absent other forces too: each adds the square of its length.  C Remark (i)

    Printed: descent by itself changes none. Control: no normalisation.
    """
    some = lambda kind, step: runs.stepped(case, kind if normalised else "none", step)
    steps = (0.02, 0.1, 0.5)

    def part(kind: str):
        return equal(
            measured=lambda: [one.squares[1:] for step in steps for one in some(kind, step)],
            predicted=lambda: [
                one.squares[:1] + added(one.pushes, step) for step in steps for one in some(kind, step)
            ],
            bound=1e-11, reason="rounding of 60 steps; two networks, steps of 0.02, 0.1 and 0.5",
        )  # fmt: skip

    return together(batch=part("batch"), layer=part("layer"))


@claim("O-growth-loss", control={"kind": "none"})
def growth_is_the_fall_of_the_loss(case, kind="batch"):
    """Where only scale-invariant weights are trained their squares grow by the step times what the loss loses.

    To first order in the step, in full-batch descent over a fixed time. Control: no normalisation.
    """
    coarse, fine = 0.01, 0.005
    pair = lambda: zip(runs.grown(case, kind, coarse), runs.grown(case, kind, fine), strict=True)
    return equal(
        measured=lambda: [2 * b - a for a, b in pair()],
        predicted=lambda: [losses[0] - losses[-1] for _, losses in runs.hidden_only(case, kind, None)],
        bound=5e-3, reason="second order of steps of 0.01 and 0.005, extrapolated to none; two networks, to time 2",
    )  # fmt: skip


WALK = 2000


@claim("C-remark5.1-minibatch", control={"frozen": True})
def norm_walks_at_random(case, frozen=False):
    """With mini-batches the gradient has a radial part, and the norm performs a random walk.  C Remark (iii)

    A walk of T steps ends within five roots of T; here it is all of the way. Control: stored statistics: it holds.
    """
    walk = lambda epsilon: runs.noisy(case, decay=0.0, steps=WALK, runs=5, epsilon=epsilon, frozen=frozen)
    directed = lambda s: (s[-1] - s[0]).abs() / s.diff(dim=0).abs().sum(0)
    some = lambda: [walk(epsilon) for epsilon in (0.0, USUAL)]
    share = 5 / math.sqrt(WALK)
    return counterexample(
        at_most(
            left=lambda: [directed(one.squares).amin() for one in some()],
            right=lambda: [torch.tensor(share).double()] * 2,
            bound=0.05, reason="five standard deviations of a walk of 2000 equal steps, and a twentieth of them",
        ),
        exact=lambda: [torch.tensor((1 - share) / share).double()] if not frozen else [torch.zeros(1)],
        right_angle=equal(
            measured=lambda: walk(0.0).radial, predicted=lambda: torch.zeros(WALK, 5), scale=lambda: torch.ones(1),
            bound=1e-10, reason="rounding; cosine of the gradient of each batch with the weights, at epsilon = 0",
        ),
    )  # fmt: skip


# Weight decay


@claim("C-remark5.1-weight-decay", control={"kind": "none"})
def decay_breaks_the_invariance(case, kind="batch"):
    """With a penalty lambda/2 |w|^2 the loss sees the scale, by the penalty alone, and the norm moves.  C Remark (ii)

    Control: no normalisation, where the loss itself sees it.
    """
    whole = lambda k, c: runs.penalised(case, kind, k, c, DECAY)
    factors = (0.5, 2.0, 5.0)
    return together(
        invariance=equal(
            measured=lambda: [whole(k, c)[0] - whole(k, 1.0)[0] for k in range(runs.COUNT) for c in factors],
            predicted=lambda: [DECAY / 2 * (c**2 - 1) * r for r in runs.second_squares(case) for c in factors],
            bound=1e-11, reason="rounding of two losses; two networks, three factors",
        ),
        norm=equal(
            measured=lambda: [whole(k, 1.0)[1] for k in range(runs.COUNT)],
            predicted=lambda: [-2 * DECAY * r for r in runs.second_squares(case)],
            bound=1e-11, reason="rounding of automatic differentiation",
        ),
    )  # fmt: skip


@claim("C-bn-wd-decay", printed={"rate": 1.0}, control={"kind": "none"})
def squares_decay_at_twice_the_rate(case, rate=2.0, kind="batch"):
    """With batch normalisation and a penalty lambda/2 |w|^2 the squared norm falls at the rate 2 lambda.  C 5.1

    Printed: at lambda. Control: no normalisation.
    """
    when = (0.0, 1.0, 2.0)
    path = lambda: [p for p, _ in runs.hidden_only(case, kind, None, DECAY, when)]
    falls = lambda: torch.exp(-rate * DECAY * torch.tensor(when[1:], dtype=torch.float64))[:, None]
    return equal(
        measured=lambda: [row_norms(p)[1:].square() / row_norms(p)[:1].square() for p in path()],
        predicted=lambda: [falls().expand(-1, 12)] * runs.COUNT,
        bound=1e-8, reason="integrator's tolerance of 1e-10 a step; rows of two networks",
    )  # fmt: skip


def faster(t: float) -> float:
    """Time of the flow without decay that has passed, seen by directions."""
    return math.expm1(2 * DECAY * t) / (2 * DECAY)


def same_time(t: float) -> float:
    return t


@claim("O-decay-clock", control=[{"clock": same_time}, {"kind": "none"}])
def decay_changes_the_clock(case, clock=faster, kind="batch"):
    """Decay of all that is trained, all of it scale-invariant, is a change of clock for the directions.

    Without decay they are there at tau = (exp(2 lambda t) - 1)/(2 lambda). Controls: the same time; no normalisation.
    """
    when = (0.0, 1.0, 2.0)
    unit = lambda p: [p[n] / p[n].norm(dim=2, keepdim=True) for n in HIDDEN]
    return equal(
        measured=lambda: [u for p, _ in runs.hidden_only(case, kind, None, DECAY, when) for u in unit(p)],
        predicted=lambda: [
            u for p, _ in runs.hidden_only(case, kind, None, 0.0, tuple(map(clock, when))) for u in unit(p)
        ],
        bound=1e-7, reason="two integrations with 1e-10 a step; two networks",
    )  # fmt: skip


# Where growth and decay meet

RATE, LAMBDA, STARTS = 0.05, 0.02, (0.5, 1.5)


@claim("O-norm-equilibrium", control=[{"frozen": True}, {"power": 2}])
def growth_meets_decay(case, frozen=False, power=4):
    """Under SGD with decay r^4 comes to eta G/(lambda (2 - eta lambda)) and a step turns by sqrt(2 eta lambda).

    From two norms, over 100 runs each; G is the mean of the squared gradient at unit length. The exact law of a step
    goes with it. Controls: stored statistics; the law for the square.
    """
    some = lambda: runs.noisy(case, steps=4000, radii=STARTS, frozen=frozen)
    groups = lambda values: values.reshape(len(values), 2, -1).mean((0, 2))
    return together(
        step=equal(
            measured=lambda: some().squares[1:],
            predicted=lambda: (1 - RATE * LAMBDA) ** 2 * some().squares[:-1]
            + RATE**2 * some().pushes / some().squares[:-1],
            bound=1e-11, reason="rounding of 4000 steps, each by itself",
        ),
        level=equal(
            measured=lambda: groups(some().late(some().squares) ** (power / 2)),
            predicted=lambda: RATE * groups(some().late(some().pushes)) / (LAMBDA * (2 - RATE * LAMBDA)),
            bound=5e-3, reason="eta lambda is 1e-3; mean over the last 2000 steps of 100 runs has an error of 1e-3",
        ),
        turn=equal(
            measured=lambda: groups(some().late(some().turns.square())).sqrt(),
            predicted=lambda: torch.full((2,), math.sqrt(2 * RATE * LAMBDA)).double(),
            bound=5e-3, reason="the same",
        ),
    )  # fmt: skip


ADAM = {"rate": 0.01, "decay": 0.2, "steps": 4000, "runs": 20, "features": 32, "noise": 1.5, "radii": (0.5, 1.3)}


@claim("O-adamw-equilibrium", control=[{"aligned": True}, {"memory": 0.0}])
def adamw_has_an_equilibrium(case, aligned=False, memory=0.9):
    """Under AdamW d scale-invariant weights settle at r^2 = eta d/(2 lambda), whatever the size of the gradients.

    A step turns them by sqrt(2 eta lambda (1-b)/(1+b)), b = 0.9 its memory of gradients, and b = 0. In directions that
    are drawn. Controls: the best direction is an axis, and steps are not at right angles to it; no memory in the law.
    """
    kinds = (("AdamW", memory), ("AdamW without momentum", 0.0))
    some = lambda kind: runs.noisy(case, kind, **(ADAM | {"aligned": aligned}))
    eta, lam, d = ADAM["rate"], ADAM["decay"], ADAM["features"]
    why = "signal to noise in a batch, to first order; along an axis the law misses by a half and more, hence ten"
    return together(
        level=equal(
            measured=lambda: [some(kind).late(some(kind).squares).mean() for kind, _ in kinds],
            predicted=lambda: [eta * d / (2 * lam)] * 2,
            bound=0.05, reason=why, margin=10.0,
        ),
        turn=equal(
            measured=lambda: [some(kind).late(some(kind).turns).square().mean().sqrt() for kind, _ in kinds],
            predicted=lambda: [math.sqrt(2 * eta * lam * (1 - b) / (1 + b)) for _, b in kinds],
            bound=0.05, reason=why, margin=10.0,
        ),
    )  # fmt: skip


# Where the flow ends


@claim("C-endpoint-ray", printed={"curved": True}, control={"kind": "none"})
def ends_on_the_ray_of_the_best_direction(case, curved=False, kind="batch"):
    """The flow of one linear normalised unit ends in the best direction, at the norm it began with.  C 5.1

    White and correlated inputs, two norms, drawn starts. Printed: a unit with a wave for an activation, whose loss has
    several minima. Control: no normalisation, where it ends at one point.
    """
    return equal(
        measured=lambda: [w for w, *_ in runs.ends(case, kind, curved)],
        predicted=lambda: [r * aim for _, aim, r in runs.ends(case, kind, curved)],
        bound=1e-6, reason="the angle that is left at the end of the flow; two norms, two covariances",
    )  # fmt: skip
