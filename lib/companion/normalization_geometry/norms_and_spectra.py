"""Experiment 1 of paper C: one linear unit in the plane, its loss, its norm and its paths, with and without BN."""

import torch

from claimbook.evidence import Unfinished, at_most, claim, equal, tendency, together
from companion.normalization_geometry import norms_and_spectra_runs as runs
from companion.normalization_geometry.norms_and_spectra_runs import KINDS, LARGE, LONG, SMALL

LOSSES = ("square", "logistic")
RATES = (0.5, 1.0, 1.5)  # steps over the reciprocal of the largest curvature


@claim("C-fig5.1", control=[{"epsilon": 0.1}, {"normalised": False}])
def contours_are_rays(case, epsilon=0.0, normalised=True):
    """With BN the loss of a unit is a function of the direction, and its valley a half line.  C 1.4, Figure 5.1

    Square loss, lengths from 0.01 to 100, against a closed form of second moments that has no length in it; the bottom
    against Fisher's direction. Controls: an epsilon of 0.1; no normalisation.
    """
    radii = (0.01, 0.1, 1.0, 10.0, 100.0)

    def by_moments(kind):
        (H, c), y = runs.moments(*runs.task(case, kind)), runs.task(case, kind)[1]
        u = runs.spokes(36)
        cosine = (u @ c.mT) / torch.einsum("ki,sij,kj->ks", u, H, u).sqrt()
        return (1 + y.square().mean(1)) / 2 - cosine

    def measured(kind):
        X, y = runs.task(case, kind)
        at = lambda w: runs.losses(X, y, w.expand(len(X), 2), "square", normalised, epsilon)
        return torch.stack([torch.stack([at(r * u) for u in runs.spokes(36)]) for r in radii])

    return together(
        rays=equal(
            lambda: [measured(kind) for kind in KINDS],
            lambda: [by_moments(kind).expand(len(radii), -1, -1) for kind in KINDS],
            1e-10, "rounding of means over 40 samples",
        ),
        valley=equal(
            lambda: [runs.best_on_circle(case, kind, "square", epsilon) for kind in KINDS],
            lambda: [runs.fisher(*runs.task(case, kind)) for kind in KINDS],
            1e-6, "a minimum is found to the root of rounding",
        ),
    )  # fmt: skip


@claim(
    "C-exp1-bn-norm",
    control={"normalised": False}, printed={"everywhere": True}, untrained={"steps": 1}, longer={"steps": 1000},
)  # fmt: skip
def norm_moves_by_less_than_a_percent(case, normalised=True, everywhere=False, steps=500):
    """With BN the norm changes by less than one percent, if the start is long enough for the step.  C 8, experiment 1

    Random weights of five scales, three steps, two losses; what is allowed is known before the first step.
    Counted against the percent are runs that have learned. Control:
    no normalisation. As printed: all runs.
    """

    def growth(loss):
        norms = runs.grown(case, loss, normalised, steps).norms
        return norms[-1] / norms[0] - 1

    def small(loss):
        q, most = runs.from_the_start(case, loss)
        kept = runs.learned(case, loss, True, steps) & (everywhere | ((q <= 1) & (most <= 0.01)))
        if kept.sum() < 20:
            raise Unfinished(f"{int(kept.sum())} runs that may count have learned")
        return kept

    def counted(loss):
        return runs.from_the_start(case, loss)[0] <= 1

    return together(
        percent=at_most(
            lambda: [growth(loss)[small(loss)].abs() for loss in LOSSES],
            lambda: [torch.full_like(growth(loss)[small(loss)], 0.01) for loss in LOSSES],
            1e-9, "the printed percent",
        ),
        law=at_most(
            lambda: [growth(loss)[counted(loss)].abs() for loss in LOSSES],
            lambda: [runs.from_the_start(case, loss)[1][counted(loss)] for loss in LOSSES],
            1e-4, "the curvature is the largest of 720 directions; relative to the growth allowed",
        ),
    )  # fmt: skip


@claim(
    "C-exp1-nobn-norm",
    control=[{"normalised": True}, {"rate": 0.5}], printed={"loss": "logistic"},
    untrained={"steps": 0}, longer={"steps": 800},
)  # fmt: skip
def norms_come_to_the_best(case, loss="square", normalised=False, rate=1.5, steps=400):
    """Without BN small weights grow and large ones shrink to the best norm and direction, some past it.  C 8, exp. 1

    Square loss, from a tenth to ten times the best norm, random angles, three steps. Controls: with BN; a smaller step
    does not overshoot. As printed: the logistic loss as well.
    """
    cells = [(factor, step) for factor in SMALL + LARGE for step in RATES]
    ends = lambda: [runs.descended(case, *cell, loss, normalised, steps)[-1] for cell in cells]
    best = lambda: runs.best(*runs.task(case))
    return together(
        norms=equal(
            lambda: [w.norm(dim=1) for w in ends()], lambda: [best().norm(dim=1) for _ in cells],
            1e-3, "the slower direction after 400 steps",
        ),
        aligns=equal(
            lambda: [w / w.norm(dim=1, keepdim=True) for w in ends()],
            lambda: [runs.fisher(*runs.task(case)) for _ in cells],
            1e-3, "the slower direction after 400 steps",
        ),
        overshoots=at_most(
            lambda: 1.1 * best().norm(dim=1),
            lambda: runs.descended(case, SMALL[0], rate, loss, normalised, steps).norm(dim=2).amax(0),
            1e-5, "a tenth beyond the best norm, from a tenth of it",
        ),
    )  # fmt: skip


@claim("C-fig8.1-left", control=[{"normalised": False}, {"factors": SMALL}],
       printed={"factors": SMALL + LARGE, "kinds": KINDS, "losses": LOSSES})  # fmt: skip
def arc_with_and_radius_without(case, normalised=True, factors=LONG, kinds=("blobs",), losses=("square",)):
    """With BN the path is an arc that turns to the optimum; without, a long start moves radially first.  C Figure 8.1

    Of flows, from 90 degrees off. Without BN: square loss, round classes, ten and thirty times the best norm; also
    descent with two steps. Controls: no BN; short starts. As printed: short starts, stretched classes and the logistic
    loss as well.
    """
    both = [(kind, loss, factor) for kind in KINDS for loss in LOSSES for factor in (SMALL[0], LARGE[-1])]
    relative = lambda path: path.norm(dim=2) / path[0].norm(dim=1)

    def leads():
        found = []
        for kind in kinds:
            for factor in factors:
                begin = runs.starts(case, kind, factor)
                if "square" in losses:
                    found += [runs.radial_lead(runs.exact(case, kind, begin, rate)) for rate in (0.0, 0.3, 1.0)]
                if "logistic" in losses and factor == LARGE[-1]:
                    found.append(runs.radial_lead(runs.logistic(case, kind, factor, torch.pi / 2)))
        return found

    return together(
        circle=equal(
            lambda: [relative(runs.arcs(case, "blobs", *way, normalised)) for way in (both[0][1:], both[3][1:])],
            lambda: [torch.ones(len(runs.TIMES), runs.DRAWS)] * 2,
            1e-6, "the integrator's tolerance",
        ),
        turns=equal(
            lambda: [runs.torques(case, *way, normalised).sign() for way in both],
            lambda: [torch.ones(50, runs.DRAWS)] * len(both),
            1e-6, "signs",
        ),
        radial_first=tendency(
            effect=leads, reason="six cells: ten and thirty times the best norm, the flow and two steps; 20 tasks each"
        ),
    )  # fmt: skip


@claim("O-short-starts-turn-first", control={"factors": LARGE})
def short_starts_turn_first(case, factors=SMALL):
    """Without BN and from short weights, the path turns first and grows afterwards.  Ours

    Square loss, flow, round classes, a tenth and a third of the best norm. Control: long weights.
    """
    paths = lambda: [runs.exact(case, "blobs", runs.starts(case, "blobs", factor)) for factor in factors]
    return tendency(effect=lambda: [-runs.radial_lead(path) for path in paths()], reason="two cells of 20 tasks")


@claim("O-logistic-outgrows", control={"loss": "square"})
def logistic_outgrows_every_start(case, loss="logistic"):
    """Under the logistic loss and without BN, weights of ten times the best norm end longer than they began.  Ours

    The flow up to time 1e8, in logarithmic time, on separable classes. Control: the square loss.
    """

    def end():
        if loss == "square":
            return runs.exact(case, "blobs", runs.starts(case, "blobs", LARGE[-1]))[-1]
        return runs.logistic(case, "blobs", LARGE[-1], torch.pi / 2)[-1]

    return at_most(
        lambda: LARGE[-1] * runs.best(*runs.task(case)).norm(dim=1),
        lambda: end().norm(dim=1),
        1e-6, "the integrator's tolerance",
    )  # fmt: skip
