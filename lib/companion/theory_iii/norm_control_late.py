"""What decides the claims of sections 6.1 and 8 of paper D that go with norm control: late times, stationary layers.

Runs are in :mod:`companion.theory_iii.norm_control_runs`; the claims of section 5 in
:mod:`companion.theory_iii.norm_control`.
"""

import torch
from scipy.special import lambertw
from torch import Tensor

from claimbook.evidence import Case, at_most, claim, equal, limit, shared, together
from companion.theory_iii import norm_control_runs as runs
from companion.theory_iii import summary_theorem_runs as ends_of
from companion.theory_iii.hidden_complexity_control_runs import geometry, instants, late
from companion.theory_iii.norm_control_runs import SETS, Still
from companion.theory_iii.summary_theorem import WITNESSES, forward, separated

# Late times

FAR = (100.0, 200.0, 400.0)  # log t


def slope_of(value, s: float) -> list[Tensor]:
    """Growth of a quantity per unit of log t, from s to 2 s."""
    return [(b - a) / s for a, b in zip(value(s), value(2 * s), strict=True)]


@claim("D-lambda-vanishes", control={"stretch": 4.0, "stop": 0.0})
def multiplier_and_drive_vanish(case, stretch=1.0, stop=6.0):
    """Late, the drive g, the multiplier, alpha - 1 and the speed of directions vanish, and rho grows.  D section 5.1

    In linear models 2 lambda t grows by 1/gamma^2 and rho by 1/gamma per unit of log t (ours); networks of two and
    three layers to log t = 12. The controls: the margin in another norm, and the start of the flow.
    """
    doubled = lambda s: [V @ g for V, g in runs.pulled(case, s)]
    length = lambda s: [run.length[run.at(s)] for run in late(case, "weight normalization", SETS)]
    square = lambda g, l: (1 - g**2 + (2 * l) ** 2).clamp(min=0)  # of the part that drops onto the sphere, as in (20)
    small = lambda run, k: torch.cat([
        run.drives[k], run.multipliers[k], run.speeds[k],
        square(run.drives[k], run.multipliers[k]).sqrt() - 2 * run.multipliers[k] - 1,
    ])  # fmt: skip
    margins = lambda: [one.margin for one in geometry(case, SETS, stretch)]
    return together(
        law=limit(
            measured=lambda reach: slope_of(doubled, 100 * reach), predicted=lambda: [m**-2 for m in margins()],
            bound=1e-4, reason="what is left falls as a power of log t = 100; integrator at 1e-8",
        ),
        length=limit(
            measured=lambda reach: slope_of(length, 100 * reach), predicted=lambda: [1 / m for m in margins()],
            bound=1e-3, reason="what is left falls as the square of log t = 100",
        ),
        networks=limit(
            measured=lambda reach: [small(run, runs.CLOCK.index(stop * reach)) for run in runs.on_spheres(case)],
            predicted=lambda: [0.0 for _ in runs.on_spheres(case)], scale=lambda: [1.0 for _ in runs.on_spheres(case)],
            bound=7e-3, reason="all fall nearly as one over time, which has grown by e^6, then by e^12",
        ),
    )  # fmt: skip


@claim("D-eq44", control={"p": 4.0})
def direction_is_the_drive_over_the_multiplier(case, p=2.0):
    """Late, V = g / 2 lambda, so that g vanishes with lambda at one rate; for p = 2.  D (44)

    Linear models at log t = 100, 200 and 400. The control has the normal of another norm.
    """
    normal = lambda V: V.sign() * V.abs() ** (p - 1) / V.abs().pow(p).sum()
    return equal(
        measured=lambda: [g / (V @ g) for s in FAR for V, g in runs.pulled(case, s)],
        predicted=lambda: [normal(V) for s in FAR for V, _ in runs.pulled(case, s)],
        bound=1e-5, reason="the speed of V over lambda falls as the cube of log t = 100",
    )  # fmt: skip


@claim("D-rho-regularised", control={"charged": 0.0})
def penalty_bounds_the_length(case, charged=1.0):
    """A penalty times rho^2 stops rho at a value that its size determines.  D section 5.1, remark 3

    One point by Lambert's function (ours), from below and from above; several points, whose direction moves too, at
    the minimiser of a convex function.
    """
    closed = lambda penalty: lambertw(runs.GAMMA**2 / (2 * penalty)).real / runs.GAMMA
    return together(
        point=equal(
            measured=lambda: [runs.length_of_a_point(charged * c, 8 / c, start)
                              for start in (1.0, 20.0) for c in (*runs.PENALTIES, 1e-6)],
            predicted=lambda: [closed(c) for _ in range(2) for c in (*runs.PENALTIES, 1e-6)],
            bound=1e-6, reason="integrator at 1e-11, and e^-16 of the distance for the time that is left",
        ),
        points=equal(
            measured=lambda: [x for c in runs.PENALTIES for x in runs.penalised(case, charged * c, 8 / c)],
            predicted=lambda: [x for c in runs.PENALTIES for x in runs.shortest_penalised(case, c)],
            bound=1e-6, reason="the same; two sets of points",
        ),
    )  # fmt: skip


@claim("D-rho-equal-rate", control={"biased": True})
def squares_grow_alike(case, biased=False):
    """With directions on the sphere the squared lengths of all layers grow at one rate.  D section 5.1, remark 2

    At an instant, ReLU networks against the sum of margins times forces; along the flow, layer against layer. Hidden
    biases break it.
    """
    grown = lambda run: run.lengths[1:].square() - run.lengths[:1].square()
    return together(
        rates=equal(
            measured=lambda: [2 * one.lengths[k] * one.normalised[k][0] for one in instants(case, biased=biased)
                              for k in one.weights],
            predicted=lambda: [2 * one.own @ (-one.own).exp() for one in instants(case, biased=biased)
                               for _ in one.weights],
            bound=1e-11, reason="rounding; networks of two and three layers, four of each",
        ),
        path=equal(
            measured=lambda: [grown(run)[:, 1:] for run in runs.on_spheres(case)],
            predicted=lambda: [grown(run)[:, :1].expand(-1, run.lengths.shape[1] - 1) for run in runs.on_spheres(case)],
            bound=1e-4, reason="integrator's tolerance of 1e-6 a step",
        ),
    )  # fmt: skip


@claim("D-eq23", control={"labelled": False})
def free_flow_and_its_infinity(case, labelled=True):
    """The flow is sum_n y_n df_n/dW exp(-y_n f_n); along a network that separates the loss vanishes at infinity.  (23)

    Lengthened networks: minus the logarithm of the loss over rho is their smallest margin. At finite weights the loss
    is a sum of positive terms. The control leaves the labels out.
    """
    sign = lambda f: f.sign() if labelled else torch.ones_like(f)
    longer = lambda p, size: {k: W * size ** (1 / len(p)) for k, W in p.items()}
    level = lambda p, X, slope, f, size: -torch.logsumexp(-sign(f) * forward(longer(p, size), X, slope), 0) / size
    return together(
        flow=equal(
            measured=lambda: [one.drive[k] for one in instants(case) for k in one.weights],
            predicted=lambda: [torch.einsum("n,nij->ij", (-one.own).exp(), one.raw[k])
                               for one in instants(case, labelled=labelled) for k in one.weights],
            bound=1e-11, reason="rounding; ReLU networks of two and three layers, four of each",
        ),
        infinity=limit(
            measured=lambda reach: torch.stack([level(*one, 1e6 * reach) for one in separated(case)]),
            predicted=lambda: torch.stack([f.abs().min() for *_, f in separated(case)]),
            scale=lambda: 1.0,
            bound=1e-5, reason="log 6 over the product of lengths, 1e6",
        ),
    )  # fmt: skip


# Prescribed lengths


@claim("D-rho-schedule", printed={"divided": False})
def lengths_may_be_prescribed(case, divided=True):
    """A prescribed rho(t) that outgrows log t makes the margin grow faster, if rho and the loss divide the gradient.

    The margin lacks (b - a) / rho, as late in the flow itself (O-late-margin). With the plain gradient the direction
    freezes.  D section 8
    """
    lacks = lambda u, P, best: best.margin - (P @ u).min()
    sets = lambda: list(zip(runs.point_sets(case, SETS), geometry(case, SETS), strict=True))
    at = lambda schedule, k, size: [
        size * lacks(u[k], P, best) for u, ((P, _), best) in zip(runs.scheduled(case, schedule, divided), sets(),
                                                                 strict=True)
    ]  # fmt: skip
    return limit(
        measured=lambda reach: [x for schedule in runs.SCHEDULES for x in at(schedule, int(reach) - 3, 2000 * reach)],
        predicted=lambda: [lag(best.dual) for _ in runs.SCHEDULES for best in geometry(case, SETS)],
        bound=5e-3, reason="the next order, one over rho = 2000, in units of the spread of multipliers; two sets",
    )  # fmt: skip


def lag(dual: Tensor) -> Tensor:
    """What the mean of minus the logarithm of the multipliers, with these as weights, is above its least value."""
    return -(dual @ dual.log()) / dual.sum() + dual.log().max()


# Stationary layers


def by_slopes(one: Still) -> list[Tensor]:
    """The right-hand side of (46): slopes of the weighted output, over its value."""
    total = lambda p: one.alpha @ one.f(p)
    return [g / total(one.units) for g in torch.func.grad(total)(one.units).values()]


@claim("D-eq45-46", control={"steps": 0})
def layers_are_slopes_of_the_weighted_output(case, steps=300):
    """Stationary unit layers are the slopes of f^ = sum_n alpha_n f~_n over f^ itself.  D (45), (46), (102), (103)

    Exactly so at the largest margin of three linear layers; and where linear and smooth networks come to rest at a
    given rho, with the softmax of the margins for alpha. The control: before they have moved.
    """
    return together(
        largest=equal(
            measured=lambda: [V for one in runs.rank_one(case) for V in one.units.values()],
            predicted=lambda: [g for one in runs.rank_one(case) for g in by_slopes(one)],
            bound=1e-9, reason="support vectors' weights by non-negative least squares",
        ),
        rest=equal(
            measured=lambda: [V for one in runs.still(case, steps) for V in one.units.values()],
            predicted=lambda: [g for one in runs.still(case, steps) for g in by_slopes(one)],
            bound=1e-6, reason="at rest to 1e-9 of the force; two and three layers, two draws, rho = 10 and 40",
        ),
    )  # fmt: skip


def line(V: list[Tensor], X: Tensor) -> Tensor:
    """Outputs of the layers below the last one, at unit length and with the sign of the last layer."""
    inner = X @ V[0].mT @ V[1].mT
    return inner / (inner @ V[2].mT).sign() / inner.norm(dim=1, keepdim=True)


@shared
def rectified(case: Case) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Ends of the flow on spheres of two layers of ReLUs: unit layers, hidden outputs, and forces of the samples."""
    found = []
    for degrees, k in WITNESSES:
        p, X = ends_of.followed(case, degrees, k, "sphere"), ends_of.pair(degrees)
        H = (X @ p["W"].mT).relu()
        found.append((p["W"] / p["W"].norm(), p["a"] / p["a"].norm(), H, torch.softmax(-H @ p["a"], 0)))
    return found


@claim("D-linear-transposed-layers", control={"steps": 0})
def last_layer_is_the_others_transposed(case, steps=300):
    """At rest the last of three linear layers is the others applied to the data, transposed, whatever the sample.

    Layers balance. With rectifiers it is the weighted mean of hidden outputs, and the two sides of a unit balance.
    D section 8
    """
    linear = lambda: [one for one in runs.still(case, steps) if len(one.units) == 3]
    unit = lambda x: x / x.norm()
    return together(
        transposed=equal(
            measured=lambda: [line(list(one.units.values()), one.X) for one in linear()],
            predicted=lambda: [one.units["W2"].expand(len(one.X), -1) for one in linear()],
            bound=1e-5, reason="at rest to 1e-9 of the force, for samples nearly across the direction less",
        ),
        balance=equal(
            measured=lambda: [one.units[f"W{k + 1}"].mT @ one.units[f"W{k + 1}"] for one in linear() for k in (0, 1)],
            predicted=lambda: [one.units[f"W{k}"] @ one.units[f"W{k}"].mT for one in linear() for k in (0, 1)],
            bound=1e-6, reason="at rest to 1e-9 of the force",
        ),
        rectifiers=equal(
            measured=lambda: [a for _, a, _, _ in rectified(case)],
            predicted=lambda: [unit(q @ H) for _, _, H, q in rectified(case)],
            bound=1e-3, reason="what the flow has left, as a power of one over the lengths",
        ),
        units=equal(
            measured=lambda: [W.norm(dim=1) for W, _, _, _ in rectified(case)],
            predicted=lambda: [a.abs() for _, a, _, _ in rectified(case)],
            bound=1e-3, reason="the same",
        ),
    )  # fmt: skip


# The geometry of Fisher and Rao


def steepness(G: Tensor, direction: Tensor) -> Tensor:
    """Change of the mean loss along a direction, for its length in the geometry of Fisher and Rao."""
    return G.mean(0) @ direction / (G @ direction).square().mean().sqrt()


def natural(G: Tensor) -> Tensor:
    return torch.linalg.pinv(G.mT @ G / len(G), hermitian=True) @ G.mean(0)


def plain(G: Tensor) -> Tensor:
    return G.mean(0)


@claim("D-fisher-rao", control={"biased": True, "steepest": plain})
def natural_gradient_is_steepest(case, biased=False, steepest=natural):
    """No direction changes the loss more for its Fisher-Rao length than the natural gradient.  D section 5

    That norm of the weights is K^2 E (l' f)^2, seen at the output.
    Rivals change the losses of all samples nearly alike, or not at all so. The control: hidden biases, and the
    Euclidean gradient.
    """
    noise = lambda G, k: torch.randn(10, len(G), generator=case.generator(f"rivals {k}"), dtype=torch.float64)
    rivals = lambda G, k: [torch.linalg.pinv(G) @ (1 + size * x) for x in noise(G, k) for size in (1e-3, 0.1, 1.0)]
    some = lambda: runs.slopes_of_losses(case, biased)
    return together(
        norm=equal(
            measured=lambda: [(G @ theta).square().mean() for theta, G, _, _ in some()],
            predicted=lambda: [depth**2 * output.square().mean() for _, _, output, depth in some()],
            bound=1e-11, reason="rounding; networks of two and three layers, two of each",
        ),
        steepest=at_most(
            left=lambda: [
                torch.stack([steepness(G, d) for d in rivals(G, k)]) for k, (_, G, _, _) in enumerate(some())
            ],
            right=lambda: [best_of(G, steepest) for _, G, _, _ in some()],
            bound=1e-6, reason="the pseudoinverse's cut; 30 rivals each",
        ),
    )  # fmt: skip


def best_of(G: Tensor, steepest) -> Tensor:
    """Slope over length of the direction in question, the length by the Fisher matrix."""
    F, direction = G.mT @ G / len(G), steepest(G)
    return direction @ G.mean(0) / (direction @ F @ direction).sqrt()
