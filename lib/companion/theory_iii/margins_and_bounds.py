"""What decides the claims of sections 4, 11, 12 and 13 of paper D: bounds, surrogates, margins, norms, augmented data.

Labels are absorbed: the margin of a function is its smallest output. Runs are in
:mod:`companion.theory_iii.margins_and_bounds_runs`.
"""

import math

import torch
from torch import Tensor

from claimbook.evidence import Case, at_most, claim, counterexample, equal, limit, shared, together
from companion.theory_iii import margins_and_bounds_runs as runs
from companion.theory_iii.margins_and_bounds_runs import (
    Class,
    circle,
    entrywise,
    induced,
    least,
    log_exponential,
    power,
)
from companion.theory_iii.summary_theorem import best_of_bound, plane
from normdyn.symmetry.polar import hard_margin

DELTAS = torch.tensor([0.5, 0.2, 0.05], dtype=torch.float64)
SIZES = (5, 20, 60, 200)
QUANTILE = "a quantile of 400 trials; fractions of one half, a fifth and a twentieth, 5 to 200 samples"


def confidence(samples: int) -> Tensor:
    """The last term of the bounds, without its constant."""
    return ((1 / DELTAS).log() / (2 * samples)).sqrt()


def reached(values: Tensor) -> Tensor:
    """What all but a fraction of the trials stay below."""
    return torch.quantile(values, 1 - DELTAS)


# Bounds


@shared
def classes(case: Case, bounded: bool) -> list[Class]:
    """Classes whose worst member is known."""
    if not bounded:
        return [runs.rare_loss(case, n) for n in SIZES]
    known = [runs.memoriser(case, points, n) for points in (2000, 60) for n in SIZES]
    return known + [runs.ball(case, n) for n in SIZES[1:]]


@claim("D-prop1", printed={"bounded": False}, control={"c1": 0.0})
def uniform_bound(case, bounded=True, c1=1.0):
    """L(f) <= L^(f) + c1 R_N + c2 sqrt(ln(1/delta)/2N) for all f, in all but a fraction delta of the samples.

    For losses with Lipschitz constant 1/2 in an interval of length one: c1 = 1; c2 = 1 if R_N is averaged over samples,
    3 if it is that of the sample. No smaller c1 will do. As printed, the range of the loss has no say.  D (10)
    """
    some = lambda: classes(case, bounded)[:8]
    return together(
        averaged=at_most(
            left=lambda: [reached(one.gaps) for one in classes(case, bounded)],
            right=lambda: [c1 * one.averages.mean() + confidence(one.samples) for one in classes(case, bounded)],
            bound=0.02, reason=QUANTILE,
        ),
        empirical=at_most(
            left=lambda: [reached(one.gaps - one.averages) + one.averages.mean() for one in some()],
            right=lambda: [c1 * one.averages.mean() + 3 * confidence(one.samples) for one in some()],
            bound=0.02, reason=QUANTILE,
        ),
        sharp=equal(
            measured=lambda: [one.gaps.mean() for one in classes(case, bounded)[:1]],
            predicted=lambda: [c1 * one.averages.mean() for one in classes(case, bounded)[:1]],
            bound=3e-3, reason="five samples of 2,000 points: what they share is of the order of their ratio",
        ),
    )  # fmt: skip


@claim("D-prop7", control=[{"b1": 0.0}, {"transposed": True}])
def margin_bound(case, b1=2.0, transposed=False):
    """L_binary <= L_surr + b1 R_N/eta + sqrt(ln(1/delta)/2N); among normalised functions it asks for the margin.

    The worst class takes two values on a domain, zero or eta: what fits the sample, where a ramp of width eta vanishes,
    may err elsewhere. There the bound is tight. Over directions and lengths it is least at the largest margin; the
    control asks for that of other data.  D Proposition 7, (65)
    """
    known = lambda: [runs.memoriser(case, points, n) for points in (60, 2000) for n in SIZES]
    halved = lambda one: one.averages.mean() / 2  # two values, zero and eta, instead of minus and plus one
    return together(
        worst=at_most(
            left=lambda: [reached(one.unseen) for one in known()],
            right=lambda: [b1 * halved(one) + confidence(one.samples) for one in known()],
            bound=0.02, reason=QUANTILE,
        ),
        asked=equal(
            measured=lambda: [best_of_bound(case, k, 2.0) for k in range(3)],
            predicted=lambda: [hard_margin(A.flip(1) if transposed else A)[0] for A in plane(case)],
            bound=5e-4, reason="directions that are searched for the least bound are 0.0002 apart",
        ),
    )  # fmt: skip


# Surrogates


def exponential(m: Tensor) -> Tensor:
    return (-m).exp()


def nats(m: Tensor) -> Tensor:
    return torch.nn.functional.softplus(-m)


def bits(m: Tensor) -> Tensor:
    return nats(m) / math.log(2)


def perceptron(m: Tensor) -> Tensor:
    return (-m).relu()


MARGINS = torch.arange(-300_000, 300_001, dtype=torch.float64) / 1e4  # zero is one of them


HALF_CIRCLE = torch.linspace(-math.pi, math.pi, 20_001, dtype=torch.float64)
FAR = torch.tensor([[1.0, 0.0]] * 3 + [[-10.0, 3.0]], dtype=torch.float64)


def errors_of_the_minimiser(loss, rho: float = 0.1) -> Tensor:
    """Share of four samples that the direction of least loss gets wrong, all weights of one length."""
    margins = circle(HALF_CIRCLE, 2.0) @ FAR.mT
    return (margins[loss(rho * margins).mean(1).argmin()] <= 0).double().mean()


@claim("D-surrogate-upper-bound", printed={"logistic": nats}, control={"logistic": perceptron})
def surrogates_lie_above(case, logistic=bits):
    """The exponential loss bounds the 0-1 loss; cross-entropy does so in bits. In nats it is 0.69 at m = 0.  D 4.1

    So a minimiser's error is at most its surrogate. It need not be the least: on four samples it is three quarters,
    where another direction of the same length makes none.
    """
    both = lambda: (exponential, logistic)
    return together(
        above=at_most(
            left=lambda: [(MARGINS <= 0).double() for _ in range(2)],
            right=lambda: [loss(MARGINS) for loss in both()],
            scale=lambda: [1.0, 1.0],
            bound=1e-12, reason="rounding; 600,001 margins from -30 to 30, zero among them",
        ),
        not_least=equal(
            measured=lambda: [errors_of_the_minimiser(loss) - runs.fewest(FAR) / 4 for loss in (exponential, bits)],
            predicted=lambda: [0.75, 0.75],
            bound=1e-9, reason="a count of four samples; directions 0.0003 apart",
        ),
    )  # fmt: skip


def entropy(a: Tensor, b: Tensor) -> Tensor:
    return torch.xlogy(a, a) + torch.xlogy(b, b)


PSI = {
    "exponential": lambda t: 1 - (1 - t * t).sqrt(),
    "logistic": lambda t: entropy(1 + t, 1 - t) / 2,
}
LEAST = {
    "exponential": lambda q: 2 * (q * (1 - q)).sqrt(),
    "logistic": lambda q: torch.special.entr(q) + torch.special.entr(1 - q),
}


@claim("D-excess-risk", control={"losses": (perceptron, perceptron)})
def little_is_left(case, losses=(exponential, nats)):
    """psi(R - R*) <= excess surrogate risk, with an increasing psi: 1 - sqrt(1 - t^2) for the exponential loss.  D 4.1

    For the logistic loss it is ((1 + t) ln(1 + t) + (1 - t) ln(1 - t)) / 2. The control, the perceptron loss, is
    content with scores near zero.
    """
    some = lambda: runs.distributions(case)
    floor = lambda kind, loss: LEAST[kind](some().chance).mean(1) if loss is not perceptron else 0.0
    return at_most(
        left=lambda: [psi(some().errors()) for psi in PSI.values()],
        right=lambda: [some().surrogate(loss) - floor(kind, loss) for kind, loss in zip(PSI, losses, strict=True)],
        scale=lambda: [1.0 for _ in losses],
        bound=1e-12, reason="rounding; 4,000 distributions, of which a quarter has one point, where the bound is tight",
    )  # fmt: skip


# From the loss to the margin

NORMS = (1.0, 1.5, 2.0, 4.0, math.inf)
NETWORKS = (50.0, 70.0)
Rows = tuple[tuple[float, ...], ...]


def hashed(A: Tensor) -> Rows:
    return tuple(tuple(row) for row in A.tolist())


@claim("D-thm2", control={"loss": power})
def minimisers_maximise(case, loss=log_exponential):
    """Minimisers of the exponential loss over unit Lp norms have margins that tend to the largest one.  D Theorem 2

    Linear functions for five p, against linear and quadratic programming; networks of two ReLUs, both layers of norm
    one, against max(cos phi, 1/2). The control is the loss 1/(1 + m).
    """
    sets = lambda: [(A, p) for A in plane(case) for p in NORMS]
    return together(
        linear=limit(
            measured=lambda reach: [runs.margin_of_minimiser(hashed(A), p, 1e6 * reach, loss) for A, p in sets()],
            predicted=lambda: [runs.largest_margin(A, p) for A, p in sets()],
            bound=2e-5, reason="ln N / rho at rho = 1e6 is 2e-6; the rest are tolerances of the programmes",
        ),
        networks=limit(
            measured=lambda reach: [runs.network_minimiser(case, degrees, 300 * reach) for degrees in NETWORKS],
            predicted=lambda: [max(math.cos(math.radians(degrees)), 0.5) for degrees in NETWORKS],
            bound=5e-3, reason="ln N / rho at rho = 300, relative to a margin of one half",
        ),
    )  # fmt: skip


RHOS = torch.logspace(0, 6, 25, dtype=torch.float64)


def defects(margins: Tensor, loss) -> Tensor:
    """rho times what the minimiser's margin lacks, at each rho."""
    least = margins.amin(1)
    return torch.stack([rho * (least.max() - least[loss(rho * margins).argmin()]) for rho in RHOS])


@claim("O-margin-defect", control={"loss": power})
def lacks_at_most_log_n(case, loss=log_exponential):
    """Over any set of functions the minimiser's margin lacks at most ln N / rho of the largest, and may lack as much.

    Random ReLU networks of two and three layers with unit layers for five p; and two rivals for which it is sharp.
    """
    sets = lambda: [runs.members(case, depth, p) for depth in (2, 3) for p in NORMS]
    sharp = lambda: runs.rivals(math.log(4) / RHOS[8].item() * 0.999)
    return at_most(
        left=lambda: [defects(margins, loss) for margins in [*sets(), sharp()]],
        right=lambda: [math.log(4) for _ in range(11)],
        bound=1e-9, reason="an exact inequality; rounding",
    )  # fmt: skip


def angle_of(rho: float, A: Tensor, loss) -> Tensor:
    return least(lambda v: loss(rho * v @ A.mT))


def tail(a: float):
    """The loss whose tail is m to the power -a."""

    def loss(m: Tensor) -> Tensor:
        return power(m, a)

    return loss


TAILS = (tail(1.0), tail(2.0))


@claim("D-thm2-general-losses", control={"tails": (log_exponential, log_exponential)})
def other_losses_need_not(case, tails=TAILS):
    """With the tail m^-a minimisers tend to the direction of least sum m_n^-a, not to the largest margin.  D 4.1.1"""
    sets = lambda: [(A, a, loss) for A in plane(case) for a, loss in zip((1.0, 2.0), tails, strict=True)]
    hard = lambda A: torch.atan2(*hard_margin(A)[0].flip(0))
    return together(
        elsewhere=limit(
            measured=lambda reach: [angle_of(1e6 * reach, A, loss) for A, _, loss in sets()],
            predicted=lambda: [runs.balance(A, a) for A, a, _ in sets()],
            scale=lambda: [1.0 for _ in sets()],
            bound=1e-5, reason="a distance of order 1/rho at rho = 1e6, in radians; the search resolves 1e-7",
        ),
        apart=equal(
            measured=lambda: [((angle_of(1e6, A, loss) - hard(A)).abs() > 1e-3).double() for A, _, loss in sets()],
            predicted=lambda: [1.0 for _ in sets()],
            bound=1e-3, reason="a count: a thousandth of a radian, fixed beforehand; the search resolves 1e-7",
        ),
    )  # fmt: skip


@claim("D-eq11", control={"separable": False})
def limit_classifies(case, separable=True):
    """On separable data the minimiser makes no error from rho = ln N / gamma* on, nor in the limit.  D (11)"""
    data = lambda: [runs.cloud(case, k, separable) for k in range(20)]
    start = lambda A: 1.01 * math.log(len(A)) / runs.widest(A).abs().item()
    wrong = lambda A, rho: (circle(angle_of(rho, A, log_exponential)[None], 2.0) @ A.mT <= 0).sum()
    return together(
        from_then_on=equal(
            measured=lambda: [wrong(A, start(A)) for A in data()], predicted=lambda: [runs.fewest(A) for A in data()],
            bound=1e-3, reason="a count; the fewest errors there are, zero for separable data",
        ),
        limit=equal(
            measured=lambda: [wrong(A, 1e6) for A in data()], predicted=lambda: [runs.fewest(A) for A in data()],
            bound=1e-3, reason="a count; the fewest errors there are, zero for separable data",
        ),
    )  # fmt: skip


@claim("D-eq13", printed={"jointly": True}, control={"loss": power})
def length_goes_last(case, jointly=False, loss=log_exponential):
    """lim over rho of the minimisers over V has the largest margin. Jointly in V and rho every separator is as good.

    Jointly: the worst margin among directions whose loss falls below 1e-100 by rho = 1e6.  D (13)
    """
    joint = lambda A: runs.worst_of_joint(A, 1e6)
    return equal(
        measured=lambda: [
            joint(A) if jointly else runs.margin_of_minimiser(hashed(A), 2.0, 1e6, loss) for A in plane(case)
        ],
        predicted=lambda: [runs.largest_margin(A, 2.0) for A in plane(case)],
        bound=2e-5, reason="ln N / rho at rho = 1e6 is 2e-6; the rest is the tolerance of the programme",
    )  # fmt: skip


# Margin and norm


@claim("D-lem3", control={"kinds": ("bias", "bias")})
def margin_is_inverse_norm(case, kinds=("linear", "maxout")):
    """The largest margin at norm one is the inverse of the least norm at margin one, f of degree one.  D Lemma 3

    A search over angles against quadratic programming. With K normalised layers the least sum of squares is
    K gamma^(-2/K). A fixed bias breaks the first.
    """
    return together(
        one=equal(
            measured=lambda: [runs.best_margin(case, kind, k) for kind in kinds for k in range(4)],
            predicted=lambda: [1 / runs.shortest(case, kind, k) for kind in kinds for k in range(4)],
            bound=1e-7, reason="a search that resolves 1e-7, a programme with a tolerance of 1e-15",
        ),
        layers=equal(
            measured=lambda: [runs.shortest_layers(case, depth, k) for depth in (2, 3) for k in range(2)],
            predicted=lambda: [
                depth * runs.best_margin(case, "linear", k) ** (-2 / depth) for depth in (2, 3) for k in range(2)
            ],
            bound=1e-6, reason="tolerance of the programme, and of the search",
        ),
    )  # fmt: skip


def inner(p: float) -> float:
    """What an inner dimension of four costs."""
    return 4 ** max(0.0, 1 - 2 / p)


def nothing(p: float) -> float:
    return 1.0


def by_sums(M: Tensor, p: float) -> Tensor:
    """The entrywise norm from its definition."""
    M = M.abs().flatten(1)
    return M.amax(1) if p == math.inf else M.pow(p).sum(1).pow(1 / p)


def by_rows(M: Tensor, p: float) -> Tensor:
    """The induced norm for p = 1 and infinity from sums of columns and rows, for p = 2 from an eigenvalue."""
    if p == 2:
        return torch.linalg.eigvalsh(M.mT @ M)[:, -1].sqrt()
    return M.abs().sum(1 if p == 1 else 2).amax(1)


@claim("D-eq66-submultiplicative", printed={"factor": nothing}, control={"operator": entrywise, "size": by_sums})
def norms_of_products(case, factor=inner, operator=induced, size=by_rows):
    """|AB|_p <= n^max(0, 1 - 2/p) |A|_p |B|_p for entries, n the inner dimension; induced norms without it.  D (66)"""
    cells = lambda: [(A, B, p) for A, B in runs.pairs(case) for p in (1.0, 1.5, 2.0, 2.5, 4.0, math.inf)]
    some = lambda: [(A, B, p) for A, B in runs.pairs(case) for p in (1.0, 2.0, math.inf)]
    return together(
        entrywise=at_most(
            left=lambda: [entrywise(A @ B, p) for A, B, p in cells()],
            right=lambda: [factor(p) * by_sums(A, p) * by_sums(B, p) for A, B, p in cells()],
            bound=1e-12, reason="rounding; 10,000 pairs and matrices of ones, which are sharp for p >= 2",
        ),
        induced=at_most(
            left=lambda: [operator(A @ B, p) for A, B, p in some()],
            right=lambda: [size(A, p) * size(B, p) for A, B, p in some()],
            bound=1e-12, reason="rounding; the same matrices",
        ),
    )  # fmt: skip


# Augmented data


@claim("D-online-risk", control={"fresh": True})
def augmented_stream_finds_the_least_risk(case, fresh=False):
    """Descent on an endless augmented stream converges to the least expected risk. It does not.

    Linear regression on six samples whose inputs are shaken, and on all inputs there are: the stream's own minimiser is
    ridge regression on what it was made from. A stream of the law itself is the control.  D section 13
    """
    sizes = (6, 32)
    end = lambda n: torch.linalg.lstsq(
        runs.stream(case, n, fresh).inputs, runs.stream(case, n, fresh).labels[:, None]
    ).solution[:, 0]
    truth = lambda n: runs.stream(case, n, fresh).truth
    return counterexample(
        statement=equal(
            measured=lambda: [end(n) for n in sizes], predicted=lambda: [truth(n) for n in sizes],
            bound=1e-9, reason="rounding of a least-squares solution",
        ),
        exact=lambda: [(runs.ridge(case, n) - truth(n)).abs().max() / truth(n).abs().max() for n in sizes],
        converges=equal(
            measured=lambda: [runs.averaged(runs.descent(case, n, fresh)) for n in sizes],
            predicted=lambda: [end(n) for n in sizes],
            bound=0.06, reason="noise of averaged stochastic descent over 2,000 batches of 64, five standard errors",
        ),
    )  # fmt: skip
