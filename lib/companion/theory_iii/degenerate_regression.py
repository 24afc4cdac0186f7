"""What decides the claims of Figures 7 to 10 and 13 of paper D: a valley, kicks along it, and three hundred monomials.

Runs are in :mod:`companion.theory_iii.degenerate_regression_runs`: one side composes steps by squaring their map, the
other knows the eigenbasis.
"""

import math

import torch
from scipy import stats
from torch import Tensor

from claimbook.evidence import Case, Unfinished, at_most, claim, equal, limit, tendency, together
from companion.theory_iii import degenerate_regression_runs as runs
from normdyn.motion.regression import expected_square_error, perturbed_variances

EVERY, DEVIATION, COUNT = 120_000, 0.45, 41  # Figure 9; the last kick is before step 5,000,000
REST = runs.LONG - (COUNT + 1) * EVERY
OFTEN, STRONG, MANY = 4000, 0.6, 60  # Figure 10
ROUNDING = 2.0**-53  # what rounding leaves of one
LEFT = 5e-8  # what the closed form leaves of the training error before a kick, rounded up


# Figure 7


@claim("D-fig7", control=[{"samples": 2}, {"fitted": False}])
def valley(case, samples=1, fitted=True):
    """A quadratic loss of two parameters with one sample has a zero eigenvalue; a network that fits has many.

    Tanh networks with 32 weights and six labels: six positive eigenvalues at a zero of the loss. Under the exponential
    loss the valley slopes: its logarithm falls at rate one as the last layer grows.  D Fig. 7
    """
    spectrum = lambda loss, w: torch.linalg.eigvalsh(torch.func.hessian(loss)(w))
    at = lambda k: runs.network(case, k, fitted)
    loss = lambda k: lambda w: (at(k)[1](w) - 1).square().mean()
    lengthened = lambda k, t: torch.cat([at(k)[0][:24], t * at(k)[0][24:]])
    slope = lambda k: lambda t: torch.logsumexp(-at(k)[1](lengthened(k, t)), 0)
    return together(
        two=equal(
            measured=lambda: spectrum(runs.plane(case, samples)[1], torch.zeros(2).double())[0],
            predicted=lambda: 0.0, scale=lambda: runs.plane(case, samples)[0].square().sum(),
            bound=1e-14, reason="rounding of two eigenvalues",
        ),
        network=equal(
            measured=lambda: [(spectrum(loss(k), at(k)[0])[:-runs.FITTED]).abs().max() for k in range(2)],
            predicted=lambda: [0.0, 0.0], scale=lambda: [spectrum(loss(k), at(k)[0])[-1] for k in range(2)],
            bound=1e-10, reason="rounding of second derivatives; the labels are fitted to 1e-13",
        ),
        sloped=equal(
            measured=lambda: [
                torch.func.grad(slope(k))(torch.tensor(t).double()) for k in range(2) for t in (1.0, 2.0, 8.0)
            ],
            predicted=lambda: [-1.0] * 6,
            bound=1e-10, reason="the labels are fitted to 1e-13",
        ),
    )  # fmt: skip


# What a kick leaves


@claim("D-pred-null-unchanged", control={"weight_decay": 1e-4})
def flat_directions_stay(case, weight_decay=0.0):
    """After a kick descent restores the components that the data determine, and leaves the others.  D section 17

    Degree 39, nine nodes, ten million steps.
    """
    kicked = lambda: runs.kicked(case, 39)
    end = lambda: runs.many_steps(39, runs.LONG, weight_decay)(kicked()[1])
    return together(
        undetermined=equal(
            measured=lambda: runs.flat_part(39, end()), predicted=lambda: runs.solved(39).null_part(kicked()[1]),
            bound=1e-6, reason="rounding of a product that is squared 23 times",
        ),
        determined=equal(
            measured=lambda: end() - runs.flat_part(39, end()), predicted=lambda: kicked()[0],
            bound=1e-8, reason="rounding; in modes that decay it does not add up",
        ),
    )  # fmt: skip


@claim("D-pred-train-returns", control={"degrees": (4, 4)})
def training_error_returns(case, degrees=(39, 30)):
    """After a kick descent brings the training error back to zero.  D section 17

    Ten million steps, and twenty. The control has nine points for five coefficients.
    """
    after = lambda degree, steps: runs.many_steps(degree, steps)(runs.kicked(case, degree)[1])
    return limit(
        measured=lambda reach: [
            runs.problem(d).errors(after(d, round(reach * runs.LONG)))[0] for d in degrees
        ],
        predicted=lambda: [0.0 for _ in degrees],
        scale=lambda: [runs.problem(d).errors(runs.kicked(case, d)[1])[0] for d in degrees],
        bound=1e-16, reason="the square of what rounding leaves of a product that is squared 23 times",
    )  # fmt: skip


# Figures 8, 9 and 10 without kicks

STARTS, DRAWS = (0.03, 0.1, 0.3, 1.0), 10
CELLS = [("chebyshev", scale) for scale in STARTS]
OVER = f"Gaussian starts of deviation {STARTS}; {DRAWS} draws of thirty repetitions, 250,000 steps, fixed beforehand"


def curves(case: Case, degree: int, cells: list[tuple[str, float]], draws: int = DRAWS) -> list[list[runs.Curve]]:
    """Runs of each cell, a cell being a kind of nodes and the deviation of the starts."""
    return [[runs.curve(case, degree, scale, k, nodes) for k in range(draws)] for nodes, scale in cells]


def cellwise(values, found: list[list[runs.Curve]]) -> list[Tensor]:
    """Logarithms of a ratio, one tensor a cell."""
    return [torch.stack([values(one).log() for one in cell]) for cell in found]


@claim("D-fig8", control={"degree": 4})
def thirty_one_coefficients_overfit(case, degree=30):
    """Degree 30 at nine points: the training error goes, the test error ends above its least, the norm grows.  D Fig. 8

    On Chebyshev nodes; test error and norm on nodes that are drawn too. The control is degree 4.
    """
    all_nodes = [*CELLS, ("drawn", 0.1)]
    return together(
        train=tendency(
            effect=lambda: cellwise(lambda c: c.train[0] / c.train[-1], curves(case, degree, CELLS)),
            least=math.log(100), reason=f"it falls a hundredfold; {OVER}",
        ),
        test=tendency(
            effect=lambda: cellwise(runs.Curve.rise, curves(case, degree, all_nodes)),
            least=math.log(1.5), reason=f"it ends half as high again as its least; {OVER}, drawn nodes one cell more",
        ),
        norm=tendency(
            effect=lambda: cellwise(lambda c: c.norm[-1] / c.norm[0], curves(case, degree, all_nodes)),
            least=math.log(2), reason=f"it doubles; {OVER}, drawn nodes one cell more",
        ),
    )  # fmt: skip


@claim("D-fig9-unperturbed", control=[{"nodes": "drawn"}, {"degree": 4}])
def without_kicks_all_settles(case, degree=30, nodes="chebyshev"):
    """The same run as in Figure 8: the test error ends above its least; it and the norm settle.  D Fig. 9"""
    cells = [(nodes, scale) for scale in STARTS]
    return together(
        test=tendency(
            effect=lambda: cellwise(runs.Curve.rise, curves(case, degree, cells)),
            least=math.log(1.5), reason=f"it ends half as high again as its least; {OVER}",
        ),
        settled=tendency(
            effect=lambda: cellwise(lambda c: 1 / c.late().clamp(min=1e-16), curves(case, degree, cells)),
            least=math.log(1000), reason=f"less than a thousandth in the second half of the run; {OVER}",
        ),
    )  # fmt: skip


@claim("D-fig10-left", printed={"nodes": "drawn"}, control={"degree": 30})
def five_coefficients_do_not_overfit(case, degree=4, nodes="chebyshev"):
    """Degree 4 at nine Chebyshev nodes: the test error ends within a twentieth of its least.  D Fig. 10, left

    On nodes that are drawn it overfits, although the problem is as convex as before.
    """
    cells = [(nodes, scale) for scale in STARTS]
    return tendency(
        effect=lambda: cellwise(lambda c: 1.05 / c.rise(), curves(case, degree, cells, 3 * DRAWS)),
        reason=f"a twentieth, fixed beforehand; starts of deviation {STARTS}, {3 * DRAWS} draws of thirty repetitions",
    )


# Kicks


def law(degree: int, deviation: float, every: int, count: int, last: int) -> runs.Kicks:
    """The closed form of :func:`runs.expected`."""
    one, descent = runs.problem(degree), runs.solved(degree)
    origin, found = torch.zeros(degree + 1).double(), []
    clock = [(m, every) for m in range(count + 1)] + [(count, every + last)]
    for m, since in clock:
        variances, flat = perturbed_variances(descent, deviation=deviation, every=every, count=m)
        if since > every:
            variances = variances * descent.factors(last).square()
        mean = descent.at(origin, m * every + since)
        pairs = ((one.features, one.y), (one.tests, one.y_test))
        norm = mean.square().sum() + variances.sum() + flat * descent.null_dimension
        errors = [torch.tensor(expected_square_error(descent, mean, (variances, flat), F, y)) for F, y in pairs]
        found.append((norm, *errors))
    return runs.Kicks(*(torch.stack(list(column)).double() for column in zip(*found, strict=True)))


@claim("D-fig9-perturbed", printed={"precision": ROUNDING}, control={"weight_decay": 1e-4})
def kicks_walk_along_the_valley(case, precision=None, weight_decay=0.0):
    """After a kick the training error falls to 5e-8; norm and test error grow, and rest when the kicks stop.  D Fig. 9

    Expectations, without sampling: covariances carried through steps and kicks, against the law of the kicked valley.
    As printed, the training error falls to machine precision.
    """
    found = lambda: runs.expected(39, DEVIATION, EVERY, COUNT, REST, weight_decay)
    told = lambda: law(39, DEVIATION, EVERY, COUNT, REST)
    return together(
        norm=equal(
            measured=lambda: found().norm, predicted=lambda: told().norm,
            bound=1e-6, reason="rounding of a product that is squared 16 times, and of 41 kicks",
        ),
        test=equal(
            measured=lambda: found().test, predicted=lambda: told().test,
            bound=1e-6, reason="rounding of a product that is squared 16 times, and of 41 kicks",
        ),
        grow=equal(
            measured=lambda: [(x[1 : COUNT + 1] > x[:COUNT]).double() for x in (found().norm, found().test)],
            predicted=lambda: [1.0, 1.0],
            bound=1e-3, reason="counts of 41 kicks",
        ),
        rest=equal(
            measured=lambda: [x[-1] for x in (found().norm, found().test)],
            predicted=lambda: [told().norm[COUNT], told().test[COUNT]],
            bound=1e-3, reason="the determined components are within 5e-8 of rest",
        ),
        returns=equal(
            measured=lambda: found().train[1 : COUNT + 1],
            predicted=lambda: told().train[1 : COUNT + 1] if precision is None else precision,
            bound=1e-4, reason="rounding of a product that is squared 16 times, in errors of 5e-8",
        ),
    )  # fmt: skip


def least_squares() -> Tensor:
    """The training error that five coefficients cannot go below."""
    one = runs.problem(4)
    w = torch.linalg.lstsq(one.features, one.y[:, None]).solution[:, 0]
    return one.errors(w)[0]


def nothing() -> Tensor:
    return torch.tensor(0.0)


@claim("D-fig10-right", printed={"level": nothing}, control={"degree": 30})
def without_a_valley_nothing_drifts(case, degree=4, level=least_squares):
    """Kicked every 4000 steps at degree 4, descent returns to the least-squares error, and the norm does not drift.

    As printed, it returns to zero training error. The control is degree 30.  D Fig. 10, right
    """
    found = lambda: runs.expected(degree, STRONG, OFTEN, MANY, OFTEN)
    return together(
        returns=equal(
            measured=lambda: found().train, predicted=lambda: level(), scale=lambda: least_squares(),
            bound=1e-5, reason="what 4,000 steps leave of the slowest mode, squared",
        ),
        drift=equal(
            measured=lambda: found().norm, predicted=lambda: found().norm[0],
            bound=1e-5, reason="what 4,000 steps leave of the slowest mode, squared",
        ),
    )  # fmt: skip


@claim("D-pred-random-walk", control=[{"degree": 4}, {"weight_decay": 1e-4}])
def flat_part_walks(case, degree=39, weight_decay=0.0):
    """Kicked again and again, the flat part walks: its square over m sigma^2 is chi-squared; the test error grows.

    A hundred and ten thousand runs of six kicks; the training error stays at 5e-8. Its norm is the distance walked.
    """
    count, sample = 6, 110_000
    square = lambda: runs.walked(case, degree, DEVIATION, EVERY, count, sample).square().sum(1) / (count * DEVIATION**2)
    found = lambda: runs.expected(39, DEVIATION, EVERY, COUNT, REST, weight_decay)
    return together(
        walk=equal(
            measured=lambda: stats.kstest(square().numpy(), stats.chi2(31).cdf).statistic,
            predicted=lambda: 0.0, scale=lambda: 1.0, margin=20,
            bound=2.3 / sample**0.5, reason="Kolmogorov's distance, exceeded once in 20,000; it is one at most",
        ),
        test=equal(
            measured=lambda: (found().test[1 : COUNT + 1] > found().test[:COUNT]).double(), predicted=lambda: 1.0,
            bound=1e-3, reason="a count of 41 kicks",
        ),
        train=at_most(
            left=lambda: found().train, right=lambda: LEFT, scale=lambda: LEFT,
            bound=1e-3, reason="what the closed form leaves of it, rounded up",
        ),
    )  # fmt: skip


# Figure 13


def least_errors(kind: str, upto: int = 300) -> Tensor:
    """Decimal logarithms of test errors over degrees; ``double`` is at equispaced points in double precision.

    Raises:
        Unfinished: fewer than twenty digits are certain.
    """
    degrees = [degree for degree in runs.DEGREES if degree <= upto]
    if kind == "double":
        return torch.tensor([runs.in_double(degree) for degree in degrees])
    found = [runs.interpolated(degree) for degree in degrees]
    if min(one.digits for one in found) < 20:
        raise Unfinished("too few digits are certain")
    return torch.tensor([getattr(one, kind) for one in found])


@claim("D-fig13", control=[{"upto": 75}, {"kinds": ("double",)}])
def least_norm_overfits_in_the_end(case, upto=300, kinds=("equispaced", "chebyshev")):
    """The minimum-norm polynomial is best with as many coefficients as points, and gets worse from there on.  D Fig. 13

    Degrees 1 to 300, 76 Chebyshev nodes, by ball arithmetic; tested at equispaced points and at Chebyshev points.
    """
    beyond = sum(degree >= runs.NODES - 1 for degree in runs.DEGREES)
    return together(
        worse=equal(
            measured=lambda: [least_errors(kind, upto)[-1] - least_errors(kind, upto).min() > 3 for kind in kinds],
            predicted=lambda: [1.0 for _ in kinds],
            bound=1e-3, reason="a count: the last error is a thousand times the least",
        ),
        best=equal(
            measured=lambda: [runs.DEGREES[int(least_errors(kind).argmin())] for kind in kinds],
            predicted=lambda: [runs.NODES - 1 for _ in kinds],
            bound=1e-3, reason="a count",
        ),
        rising=equal(
            measured=lambda: [(least_errors(kind)[-beyond:].diff() > 0).double() for kind in kinds],
            predicted=lambda: [1.0 for _ in kinds],
            bound=1e-3, reason="a count: from one degree to the next the error rises",
        ),
    )  # fmt: skip
