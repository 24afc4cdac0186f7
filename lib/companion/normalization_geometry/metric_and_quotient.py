"""What decides the claims on weights modulo scaling, sections 4.1 and 4.3 of paper C.

Runs are in :mod:`companion.normalization_geometry.metric_and_quotient_runs`.
"""

import torch
from torch import Tensor
from torch.func import jacrev, jvp

from claimbook.evidence import claim, equal, together
from companion.normalization_geometry import metric_and_quotient_runs as runs
from companion.normalization_geometry import normalised_units
from companion.normalization_geometry.metric_and_quotient_runs import raw, with_batch, with_stored, without
from normdyn.measures.curvature import nullity
from normdyn.networks.normalizers import batch_norm

# The space


def one_less(coordinates: int) -> int:
    return coordinates - 1


def as_many(coordinates: int) -> int:
    return coordinates


@claim("C-quotient-sphere", printed={"dimension": as_many}, control={"normaliser": raw})
def directions_are_a_sphere(case, dimension=one_less, normaliser=batch_norm):
    """Weights and bias of a unit modulo positive scaling are the unit sphere, of one dimension less than coordinates.

    Every class meets it once, and antipodes are different units, with opposite outputs. Printed: S^N for N coordinates.
    Control: no normalisation, so that scaling changes the unit.  C 4.1
    """
    some = lambda: runs.one_unit(case, normaliser)
    return together(
        dimension=equal(
            measured=lambda: [runs.rank(jacrev(runs.unit)(one.p)) for one in some()],
            predicted=lambda: [float(dimension(len(one.p))) for one in some()],
            bound=1e-3, reason="ranks are whole numbers; 5 units of four weights and a bias",
        ),
        classes=equal(
            measured=lambda: [moved for moved, _ in runs.same_unit(case, normaliser)],
            predicted=lambda: [own for _, own in runs.same_unit(case, normaliser)],
            bound=1e-10, reason="rounding; factors from 0.001 to 400",
        ),
        antipodes=equal(
            measured=lambda: [one.outputs(-one.p) for one in some()],
            predicted=lambda: [-one.outputs(one.p) for one in some()], bound=1e-12, reason="rounding",
        ),
    )  # fmt: skip


@claim("O-half-planes", control={"normaliser": raw})
def units_are_half_planes(case, normaliser=batch_norm):
    """A normalised unit with d weights and a bias moves in d - 1 dimensions: scale and bias both drop out."""
    return together(
        seen=equal(
            measured=lambda: [runs.rank(jacrev(one.outputs)(one.p)) for one in runs.one_unit(case, normaliser)],
            predicted=lambda: [runs.INPUTS - 1.0] * 5, bound=1e-3, reason="ranks are whole numbers; 5 units",
        ),
        fibre=equal(
            measured=lambda: [moved for moved, _ in runs.same_unit(case, normaliser, 40.0)],
            predicted=lambda: [own for _, own in runs.same_unit(case, normaliser, 40.0)],
            bound=1e-8, reason="rounding where the bias is large: weights a thousandth, bias moved by 40",
        ),
    )  # fmt: skip


# A metric

FACTORS = (-3.0, 1e-3, 0.5, 1.0, 20.0)


def scale_free(y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (y @ y)


def euclidean(y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return a @ b


@claim("C-metric-cho-lee", control={"metric": euclidean})
def scaling_is_an_isometry(case, metric=scale_free):
    """a'b/(y'y) is the same at ky for ka and kb, k of either sign: it is (d ln r)^2 + |du|^2 of y = ru.  C 4.1"""
    polar = lambda y: torch.cat([y.norm().log()[None], y / y.norm()])

    def pulled_back(y, a, b):
        return jvp(polar, (y,), (a,))[1] @ jvp(polar, (y,), (b,))[1]

    return equal(
        measured=lambda: [pulled_back(k * y, k * a, k * b) for y, a, b in runs.vectors(case) for k in FACTORS],
        predicted=lambda: [metric(y, a, b) for y, a, b in runs.vectors(case) for _ in FACTORS],
        scale=lambda: [metric(y, a, a) + metric(y, b, b) for y, a, b in runs.vectors(case) for _ in FACTORS],
        bound=1e-12, reason="rounding; 5 vectors of seven entries, five factors",
    )  # fmt: skip


@claim("O-scale-free-flow", control={"power": 1})
def radius_is_forgotten(case, power=2):
    """In the scale-free metric gradient flow turns alike from all radii; the Euclidean flow turns at 1/r^2 of that."""
    return together(
        forgotten=equal(
            measured=lambda: [runs.directions(case, power, r) for r in runs.STARTS],
            predicted=lambda: [runs.directions(case, power, 1.0) for _ in runs.STARTS],
            bound=1e-7, reason="integrator's tolerance of 1e-10 a step; 3 losses, radii one half, one and two",
        ),
        slower=equal(
            measured=lambda: [runs.directions(case, power - 2, r, r**-2) for r in runs.STARTS],
            predicted=lambda: [runs.directions(case, 2, 1.0) for _ in runs.STARTS],
            bound=1e-7, reason="integrator's tolerance of 1e-10 a step; times in units of the squared radius",
        ),
    )  # fmt: skip


# The radius and the gradient


@claim("C-loss-independent-of-radius", control={"statistics": with_stored})
def radius_drops_out(case, statistics=with_batch):
    """The loss does not depend on the radii of normalised layers, and its derivatives in them are zero.  C 4.1

    Against the loss at unit vectors of weights and bias. Control: the same network with stored statistics.
    """
    return together(
        value=equal(
            measured=lambda: [there for there, _, _ in runs.by_radius(case, statistics)],
            predicted=lambda: runs.on_unit_vectors(case),
            bound=1e-11, reason="rounding; 3 networks, factors between 0.02 and 50, against torch's own functions",
        ),
        slope=equal(
            measured=lambda: [slope for *_, slope in runs.by_radius(case, statistics)],
            predicted=lambda: [torch.zeros(2)] * len(runs.by_radius(case, statistics)),
            scale=lambda: [own for _, own, _ in runs.by_radius(case, statistics)],
            bound=1e-11, reason="rounding; derivatives in the logarithms of the radii, in units of the loss",
        ),
    )  # fmt: skip


@claim("C-riemannian-gradient", control=[{"removed": 0.0}, {"statistics": without}])
def gradient_across_the_radius(case, removed=1.0, statistics=with_batch):
    """On the unit sphere the gradient is the Euclidean one less its radial part; below BN nothing is to be taken off.

    The gradient on the sphere is made of slopes along great circles. With normalisation and without.  C 4.1
    """
    across = lambda u, g: g - removed * u * (u @ g)
    return together(
        projected=equal(
            measured=lambda: [s for kind in (with_batch, without) for _, s, _ in runs.on_the_sphere(case, kind)],
            predicted=lambda: [
                across(u, g) for kind in (with_batch, without) for u, _, g in runs.on_the_sphere(case, kind)
            ],
            bound=1e-12, reason="rounding; 3 networks with BN and without",
        ),
        unchanged=equal(
            measured=lambda: [slopes for _, slopes, _ in runs.on_the_sphere(case, statistics)],
            predicted=lambda: [g for *_, g in runs.on_the_sphere(case, statistics)],
            bound=1e-12, reason="rounding; 3 networks",
        ),
    )  # fmt: skip


# Weight normalisation's classes


def gain_stays(v: Tensor, g: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    return factor * v, g


def gain_divided(v: Tensor, g: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    return factor * v, g / factor


@claim("C-wn-quotient", printed={"class_of": gain_divided})
def classes_of_weight_normalisation(case, class_of=gain_stays):
    """The classes of (v, g) are pairs of a unit vector and a gain; with |v| = 1, w = g v, of norm g.  C 4.3

    Along a class w stays. Printed: classes along which g/alpha goes with alpha v.
    """
    every = lambda: normalised_units.weight_normalised(case)
    short = lambda one: class_of(one.v, one.gain, 1 / one.v.norm())
    labels = lambda v, g: torch.cat([v / v.norm(), g[None]])

    def along(one):
        seen = lambda t: one.seen(*class_of(one.v, one.gain, t))
        return jvp(seen, (torch.ones((), dtype=torch.float64),), (torch.ones((), dtype=torch.float64),))[1]

    return together(
        representative=equal(
            measured=lambda: [one.seen(one.v, one.gain) for one in every()],
            predicted=lambda: [short(one)[1] * short(one)[0] for one in every()],
            bound=1e-12, reason="rounding; 5 vectors of six weights, positive gains",
        ),
        norm=equal(
            measured=lambda: [one.seen(one.v, one.gain).norm() for one in every()],
            predicted=lambda: [short(one)[1] for one in every()], bound=1e-12, reason="rounding",
        ),
        along=equal(
            measured=lambda: [along(one) for one in every()], predicted=lambda: [torch.zeros(6)] * 5,
            scale=lambda: [one.gain for one in every()], bound=1e-12, reason="rounding",
        ),
        labels=equal(
            measured=lambda: [labels(*class_of(one.v, one.gain, torch.tensor(3.0).double())) for one in every()],
            predicted=lambda: [labels(one.v, one.gain) for one in every()], bound=1e-12, reason="rounding",
        ),
    )  # fmt: skip


@claim("O-twice-covered", control={"sign": 1.0})
def pairs_cover_weights_twice(case, sign=-1.0):
    """(u, g) and (-u, -g) are one w; where g = 0 the map from pairs to weights has rank one, elsewhere full rank."""
    every = lambda: normalised_units.weight_normalised(case)
    slopes = lambda one, g: jacrev(lambda s: one.seen(s[:-1], s[-1]))(torch.cat([one.v, g[None]]))
    return together(
        twice=equal(
            measured=lambda: [one.seen(-one.v, sign * one.gain) for one in every()],
            predicted=lambda: [one.gain * one.v / one.v.norm() for one in every()], bound=1e-12, reason="rounding",
        ),
        ranks=equal(
            measured=lambda: [Tensor([runs.rank(slopes(one, g)) for g in (one.gain, one.gain + sign * one.gain)])
                              for one in every()],
            predicted=lambda: [Tensor([6.0, 1.0])] * 5, bound=1e-3, reason="ranks are whole numbers",
        ),
    )  # fmt: skip


# What the Fisher information sees


@claim("C-fisher-null-space", control={"statistics": without})
def fisher_is_blind_to_scale(case, statistics=with_batch):
    """The Fisher information is zero along the scale of each normalised layer; the natural gradient has no part there.

    At any point. Control: no normalisation.  C 4.3
    """
    every = lambda: runs.information(case, statistics)
    natural = lambda one: torch.linalg.pinv(one.F, rtol=1e-12, hermitian=True) @ one.g
    return together(
        null=equal(
            measured=lambda: [one.scales @ one.F for one in every()],
            predicted=lambda: [torch.zeros_like(one.scales) for one in every()],
            scale=lambda: [one.F.norm() * one.scales.norm(dim=1)[:, None] for one in every()],
            bound=1e-12, reason="rounding; 3 networks of two normalised layers",
        ),
        projected=equal(
            measured=lambda: [one.scales @ natural(one) for one in every()],
            predicted=lambda: [torch.zeros(2)] * 3,
            scale=lambda: [one.scales.norm(dim=1) * natural(one).norm() for one in every()],
            bound=1e-7, reason="rounding times the condition number on the range, above 1e6",
        ),
    )  # fmt: skip


@claim("O-fisher-kernel", control={"statistics": without})
def kernel_of_the_fisher_information(case, statistics=with_batch):
    """Its kernel: two for each normalised unit, radius and bias, and of the softmax one for each input and a bias."""
    first, second, last = runs.WIDTHS[1], runs.WIDTHS[2], runs.WIDTHS[2] + 1
    return equal(
        measured=lambda: [
            float(nullity(one.F, relative=1e-12, gap=100).zeros) for one in runs.information(case, statistics)
        ],
        predicted=lambda: [2.0 * (first + second) + last] * 3,
        bound=1e-3, reason="whole numbers; eigenvalues of both kinds are a hundred times apart",
    )  # fmt: skip


# Curvature in polar coordinates


def full(first: Tensor, second: Tensor) -> Tensor:
    root = (second.square() + 4 * first.square()).sqrt()
    return torch.stack([second - root, second + root], 1) / 2


def at_rest(first: Tensor, second: Tensor) -> Tensor:
    """As where the slope is zero."""
    return torch.stack([torch.zeros_like(second), second], 1).sort(1)[0]


@claim("C-polar-curvature", printed={"law": at_rest}, control={"radial": 0.3})
def curvature_of_an_angle(case, law=full, radial=0.0):
    """Of L = f(angle) the curvature along the radius is 0 and across it f''/r^2; eigenvalues are (f'' +- root)/2r^2.

    The root is that of f''^2 + 4 f'^2. Printed: 0 and f''/r^2 themselves. Control: a loss that depends on the radius.
    """
    orders = torch.arange(1, 5, dtype=torch.float64)

    def slopes(wave):
        sin, cos = ((orders * runs.ANGLES[:, None]).sin(), (orders * runs.ANGLES[:, None]).cos())
        return (orders * (wave.s * cos - wave.c * sin)).sum(1), -(orders**2 * (wave.c * cos + wave.s * sin)).sum(1)

    each = lambda made: [made(*slopes(wave)) / r**2 for wave in runs.waves(case) for r in runs.LENGTHS]
    return together(
        diagonal=equal(
            measured=lambda: [H.diagonal(dim1=1, dim2=2) for H in runs.frames(case, radial)],
            predicted=lambda: each(lambda first, second: torch.stack([0 * first, second], 1)),
            bound=1e-11, reason="rounding; 3 trigonometric polynomials, 125 angles, three radii",
        ),
        eigenvalues=equal(
            measured=lambda: [torch.linalg.eigvalsh(H) for H in runs.frames(case, radial)],
            predicted=lambda: each(law), bound=1e-11, reason="rounding",
        ),
    )  # fmt: skip
