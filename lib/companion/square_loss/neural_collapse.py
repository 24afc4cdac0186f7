"""What decides appendix G of paper B and its prediction of neural collapse.

A counterexample stands for all of them: a unit for each of four clusters, at rest under (5) and (6), the global minimum
of (4), and not collapsed. The control of what fails are features that are variables with a decay of their own, where
collapse follows. Runs are in :mod:`companion.square_loss.neural_collapse_runs`.
"""

from math import cos

import torch

from claimbook.evidence import at_most, claim, counterexample, equal, tendency, together
from companion.square_loss import neural_collapse_runs as runs
from companion.square_loss.dynamics_runs import across, by_hand, said, states
from companion.square_loss.neural_collapse_runs import DECAYS
from normdyn.networks.graphs import layered_weights, mlp
from normdyn.symmetry.polar import hard_margin

LEFT = "what descent leaves of the start at time 100; decays from 1e-9 to 0.01"
ROUNDING = "rounding of sums over 40 samples"
FREE = {"model": "free"}


def seen(model: str, *names: str) -> list[torch.Tensor]:
    """Measures of collapse at every decay, one number an item."""
    return [runs.measures(model, d)[name] for d in DECAYS for name in names or runs.MEASURES]


def foretold(model: str, *names: str) -> list[float]:
    """The same from lengths alone; zero where features are free."""
    if model == "free":
        return [0.0]
    return [runs.by_hand(model, d)[name] for d in DECAYS for name in names or runs.MEASURES]


def moving() -> list[torch.Tensor]:
    """Velocities (5) and (6) at the private units, at every decay."""
    return [v for d in DECAYS for v in runs.velocities(runs.private(d), d)]


# Corollary 4 and its four parts


@claim("B-cor4", control=FREE)
def equations_imply_collapse(case, model="private"):
    """Equations (5) and (6) imply NC1, NC2, NC3 and NC4.  They do not.  B Corollary 4

    Private units, closed form: at rest, a global minimum of (4) of nearly no loss, all measures of collapse far from
    zero. Control: free features.
    """
    return counterexample(
        equal(
            measured=lambda: seen(model), predicted=lambda: [0.0] * 20, scale=lambda: [1.0] * 20,
            bound=1e-10, reason=LEFT,
        ),
        exact=lambda: foretold(model),
        at_rest=equal(
            measured=moving, predicted=lambda: [0.0] * 12, scale=lambda: [1.0] * 12, bound=1e-12, reason=ROUNDING,
        ),
        unit_layers=equal(
            measured=lambda: [W.norm() for d in DECAYS for W in runs.private(d).V],
            predicted=lambda: [1.0 for _ in DECAYS for _ in range(2)], bound=1e-12, reason=ROUNDING,
        ),
        little_loss=at_most(
            left=lambda: [runs.loss(runs.private(d)) for d in DECAYS], right=lambda: [20 * d**2 for d in DECAYS],
            bound=0.01, reason="in the limit the loss is 14.6 times the square of the decay",
        ),
        global_minimum=at_most(
            left=lambda: [runs.strongest_pull(d) for d in DECAYS],
            right=lambda: [d * runs.length_by_hand(d) for d in DECAYS],
            bound=1e-5, reason="rounding of residuals of the size 1e-9; no unit whatever is pulled harder than these",
        ),
        strict=at_most(
            left=lambda: [-runs.curvatures()[1]], right=lambda: [-0.05], bound=1e-9,
            reason="eigenvalues of a Hessian at decay 0.01, all but that of the exchange of scale between layers",
        ),
    )  # fmt: skip


@claim("B-nc1", control=FREE)
def features_of_a_class_agree(case, model="private"):
    """At convergence h_n = V_L f_n, so the features of a class become one point.  They do not.  B NC1"""
    names = ("NC1, published", "NC1, scatter")
    return counterexample(
        equal(
            measured=lambda: seen(model, *names), predicted=lambda: [0.0] * 8, scale=lambda: [1.0] * 8,
            bound=1e-10, reason=LEFT,
        ),
        exact=lambda: foretold(model, *names),
        at_rest=equal(
            measured=moving, predicted=lambda: [0.0] * 12, scale=lambda: [1.0] * 12, bound=1e-12, reason=ROUNDING,
        ),
    )  # fmt: skip


@claim("B-nc2", control=FREE)
def class_means_are_opposite(case, model="private"):
    """The features tend to V_L and -V_L, so the class means are antipodal.  ReLU features never are.  B NC2"""
    return counterexample(
        equal(
            measured=lambda: seen(model, "NC2"), predicted=lambda: [0.0] * 4, scale=lambda: [1.0] * 4,
            bound=1e-10, reason=LEFT,
        ),
        exact=lambda: foretold(model, "NC2"),
        at_rest=equal(
            measured=moving, predicted=lambda: [0.0] * 12, scale=lambda: [1.0] * 12, bound=1e-12, reason=ROUNDING,
        ),
    )  # fmt: skip


@claim("B-nc3", control=FREE)
def features_are_parallel_to_the_last_layer(case, model="private"):
    """At convergence h is proportional to V_L.  No sample comes near, in the best one the cosine is a half.  B NC3"""
    return counterexample(
        equal(
            measured=lambda: seen(model, "NC3"), predicted=lambda: [0.0] * 4, scale=lambda: [1.0] * 4,
            bound=1e-10, reason=LEFT,
        ),
        exact=lambda: foretold(model, "NC3"),
        at_rest=equal(
            measured=moving, predicted=lambda: [0.0] * 12, scale=lambda: [1.0] * 12, bound=1e-12, reason=ROUNDING,
        ),
    )  # fmt: skip


@claim("B-nc4", control=FREE)
def nearest_mean_decides(case, model="private"):
    """The network decides as the nearest class mean does.  On the smallest cluster it does not.  B NC4"""
    return counterexample(
        equal(
            measured=lambda: seen(model, "NC4"), predicted=lambda: [0.0] * 4, scale=lambda: [1.0] * 4,
            bound=1e-10, reason="no sample is to differ",
        ),
        exact=lambda: foretold(model, "NC4"),
        at_rest=equal(
            measured=moving, predicted=lambda: [0.0] * 12, scale=lambda: [1.0] * 12, bound=1e-12, reason=ROUNDING,
        ),
    )  # fmt: skip


@claim("B-pred-nc", control=FREE)
def predicted_for_all_minima(case, model="batch"):
    """With batch normalisation and decay every minimum of nearly no loss has NC1 to NC4.  Not so.  B section 5

    Private units behind a genuine batch normalisation: NC1, NC2 and NC3 fail. Control: free features.
    """
    names = ("NC1, published", "NC1, scatter", "NC2", "NC3")
    return counterexample(
        equal(
            measured=lambda: seen(model, *names), predicted=lambda: [0.0] * 16, scale=lambda: [1.0] * 16,
            bound=1e-10, reason=LEFT,
        ),
        exact=lambda: foretold(model, *names),
        at_rest=equal(
            measured=lambda: [s for d in DECAYS for s in runs.batch_slopes(runs.batch_private(d), d)],
            predicted=lambda: [0.0] * 8, scale=lambda: [1.0] * 8, bound=1e-12, reason=ROUNDING,
        ),
        little_loss=at_most(
            left=lambda: [runs.loss(runs.batch_private(d)) for d in DECAYS], right=lambda: [d**2 for d in DECAYS],
            bound=0.01, reason="in the limit the loss is 0.06 times the square of the decay",
        ),
        strict=at_most(
            left=lambda: [-runs.batch_curvatures()[4]], right=lambda: [-1e-5], bound=1e-3,
            reason="eigenvalues of a Hessian at decay 0.01, all but those of the four lengths that are not seen",
        ),
    )  # fmt: skip


# Steps of the proof


@claim("B-G-f-equal", printed={"swapped": True}, control={"decay": 0.1})
def outputs_are_equal(case, decay=0.0, swapped=False):
    """At a global minimum f does not depend on the sample, as rho f = 1 and |f| = 1 / rho.  B appendix G

    At zero loss, for private units and four interpolants in random ReLU features. Printed: f = 1, rho f = 1 / rho.
    Control: decay.
    """
    some = lambda: runs.interpolants(case, decay)
    return equal(
        measured=lambda: [v for f, rho in some() for v in (f, rho * f)],
        predicted=lambda: [v for _, rho in some() for v in ((1.0, 1 / rho) if swapped else (1 / rho, 1.0))],
        bound=1e-9, reason="rounding of a kernel matrix of 8 samples",
    )  # fmt: skip


@claim("B-G-h", control={"squash": torch.tanh})
def features_are_the_gradient(case, squash=lambda z: z):
    """The last features are the gradient of the output in the last layer. Control: a tanh at the output."""
    layers = lambda: layered_weights((15, 10, 8, 1), case.generator("deep"))
    X = lambda: torch.randn(12, 15, generator=case.generator("inputs")).double()
    output = lambda last: squash(mlp([*layers()[:-1], last], X()))[:, 0]
    return equal(
        measured=lambda: torch.func.jacrev(output)(layers()[-1])[:, 0],
        predicted=lambda: mlp(layers()[:-1], X()).relu(),
        bound=1e-12, reason="rounding of automatic differentiation",
    )  # fmt: skip


@claim("O-self-dual", control={"features": "plain"})
def no_two_samples_are_self_dual(case, features="relu"):
    """For features that are not negative |h - V f| / |f| of two samples on either side of zero have a product >= 1."""
    tilt = lambda V, h: (h - V * (V * h).sum(1, keepdim=True)).norm(dim=1) / (V * h).sum(1).abs()
    return at_most(
        left=lambda: 1.0,
        right=lambda: [tilt(V, H[:, 0]) * tilt(V, H[:, 1]) for V, H in [runs.pairs(case, features)]],
        bound=1e-9, reason="rounding, an exact inequality; 4000 draws, and one for which it is sharp",
    )  # fmt: skip


# What training finds


@claim("O-collapse-needs-depth", control={"shallow": 2}, untrained={"steps": 1}, longer={"steps": 4000})
def second_layer_lets_features_collapse(case, shallow=1, deep=2, steps=runs.STEPS):
    """On the four clusters one hidden layer keeps its scatter under decay; with two it falls, tenfold or more.

    Widths 16 and 32 with full batches, 16 with batches of eight, eight starts each. Control: two hidden layers twice.
    """
    cells = [(16, None), (32, None), (16, 8)]
    return tendency(
        effect=lambda: [runs.scatter(case, shallow, *cell, steps) - runs.scatter(case, deep, *cell, steps)
                        for cell in cells],
        least=2.3, reason="logarithms of the scatter ratio, and of ten; three cells, eight starts, after a first run",
    )  # fmt: skip


@claim("O-batch-norm-keeps-scatter", control={"batch_norm": False}, untrained={"steps": 1}, longer={"steps": 4000})
def batch_normalisation_keeps_the_scatter(case, batch_norm=True, steps=runs.STEPS):
    """With batch normalisation, decay and two hidden layers descent fits and keeps its scatter, tenfold that without.

    The four clusters, the same steps with normalisation and without, widths 16 and 32, eight starts. Control: without.
    """
    return tendency(
        effect=lambda: [
            runs.scatter(case, 2, width, None, steps, batch_norm) - runs.scatter(case, 2, width, None, steps)
            for width in (16, 32)
        ],
        least=2.3, reason="logarithms of the scatter ratio, and of ten; two cells, eight starts, after a first run",
    )  # fmt: skip


@claim("O-decay-collapses", control={"without": 1})
def decay_drives_collapse(case, without=0):
    """On CIFAR-10 the scatter within classes is smaller with decay, long after the fit.  Stored runs

    Square loss; two, three and ten classes, with normalisation and without, five starts. Control: decay in both.
    """
    end = lambda run, decay: runs.curve(run, "variance_ratio", "square", decay)[-1].log()
    return tendency(
        effect=lambda: [end(run, without) - end(run, 1) for run in runs.images().values()],
        reason="logarithms of the scatter ratio at the last step; six cells of five starts, all that are stored",
    )  # fmt: skip


# The exponential loss


@claim("B-eq46", control=[{"labels": False}, {"project": False}])
def flow_of_the_exponential_loss(case, labels=True, project=True):
    """In rho_k and V_k the flow of the exponential loss is (46). Controls: no labels, no projection.  B (46)

    Fifteen ReLU networks of two to five layers, lengths from 0.5 to 2.6.
    """
    lengths = lambda one: torch.tensor([1.4, 0.5, 2.6, 0.9, 1.2][: len(one.V)], dtype=torch.float64)
    polar = lambda one, r, V: {n: s * v / v.norm() for s, (n, v) in zip(r, V.items(), strict=True)}
    loss = lambda one: lambda r, V: torch.exp(-one.y * one.output(polar(one, r, V))).sum()
    slopes = lambda one: torch.func.grad(loss(one), (0, 1))(lengths(one), one.V)
    rho = lambda one: lengths(one).prod()
    weights = lambda one: torch.exp(-rho(one) * one.y * said(one)) * (one.y if labels else 1.0)
    force = lambda one: {n: torch.einsum("n,nij->ij", weights(one), S) for n, S in by_hand(one).items()}
    turn = lambda V, h: across(V, h) if project else h
    return together(
        lengths=equal(
            measured=lambda: [-slopes(one)[0] for one in states(case)],
            predicted=lambda: [rho(one) / lengths(one) * (weights(one) @ said(one)) for one in states(case)],
            bound=1e-11, reason="rounding of automatic differentiation",
        ),
        directions=equal(
            measured=lambda: [-v for one in states(case) for v in slopes(one)[1].values()],
            predicted=lambda: [rho(one) * turn(one.V[n], h) for one in states(case) for n, h in force(one).items()],
            scale=lambda: [rho(one) * h.norm() for one in states(case) for h in force(one).values()],
            bound=1e-11, reason="rounding of automatic differentiation",
        ),
    )  # fmt: skip


SPREAD = 1 - cos(runs.ANGLE) / cos(runs.LIFT)


@claim("B-eq47", control={"kind": "axes"})
def margins_become_equal(case, kind="corner"):
    """As rho grows (47) can hold only if all margins are equal.  Only those of support vectors have to be.  B (47)

    One layer, three unit inputs; the limit of the flow is the largest margin. Control: orthogonal inputs.
    """
    limit = lambda: runs.points(kind) @ hard_margin(runs.points(kind))[0]
    best = lambda: runs.best_unit("corner", 1e4)
    return counterexample(
        equal(
            measured=lambda: (limit().max() - limit().min()) / limit().max(), predicted=lambda: 0.0,
            scale=lambda: 1.0, bound=1e-9, reason="rounding of a quadratic programme",
        ),
        exact=lambda: SPREAD if kind == "corner" else 0.0,
        equilibrium=equal(
            measured=lambda: [runs.balance(rho) for rho in (1e3, 1e4)],
            predicted=lambda: [0.0] * 2, scale=lambda: [1.0] * 2,
            bound=1e-9, reason="the third weight, e to the power -300 of the others",
        ),
        limit=equal(
            measured=lambda: runs.late_direction("corner", 1e4), predicted=best,
            bound=1e-3, reason="of the order of one over log t at t = e^10000",
        ),
    )  # fmt: skip


@claim("B-G-exp-fixed-rho", control={"kind": "axes"})
def minimum_at_fixed_length_has_equal_margins(case, kind="corner"):
    """At a fixed large rho the absolute minimum over unit layers has equal margins.  Not even with units to spare.  B G

    Three unit inputs, rho from 1 to 100: one ReLU unit is best among two-layer networks of any width, by a convex
    certificate, and its margins differ by a third. Control: orthogonal inputs.
    """
    lengths = (1.0, 10.0, 100.0)
    relative = lambda margins: (margins.max() - margins.min()) / margins.max()
    return counterexample(
        equal(
            measured=lambda: [relative(runs.fixed(kind, rho).margins) for rho in lengths],
            predicted=lambda: [0.0] * 3, scale=lambda: [1.0] * 3, bound=1e-9, reason="rounding of a root",
        ),
        exact=lambda: [runs.unit_spread(rho) for rho in lengths] if kind == "corner" else [0.0],
        best_of_any_width=at_most(
            left=lambda: [runs.best_of_any(runs.fixed("corner", rho)) for rho in lengths],
            right=lambda: [runs.fixed("corner", rho).weights @ runs.fixed("corner", rho).margins for rho in lengths],
            bound=1e-9, reason="rounding of a root",
        ),
    )  # fmt: skip
