"""What decides the claims of section 14.5 of paper D: how layers grow under the exponential loss, and what rests.

Labels are absorbed in the outputs: ``f_n`` stands for ``y_n f(x_n)``. Runs are in
:mod:`companion.theory_iii.growth_of_weights_runs`.
"""

import math

import mpmath
import torch
from torch import Tensor

from claimbook.evidence import Case, at_most, claim, counterexample, equal, limit, together
from companion.theory_iii import growth_of_weights_runs as runs
from companion.theory_iii.growth_of_weights_runs import DEPTHS, PATHS, STARTS, Rates, norms_at, product_at, rows
from companion.theory_iii.hidden_complexity_control_runs import identity
from normdyn.norms.growth import asymptotic_output, output

ROUNDING = "rounding of sums that cancel in part"
POINTS = "rounding; one to five layers, two margins, two sizes"
FOLLOWED = "a whole network integrated with 1e-11 a step, to log t = 30; two margins"
FAR = (1e5, 2e5)  # log t


# Near zero loss


@claim("D-eq91", control={"loss": "square"})
def jacobian_has_two_parts(case, loss="exponential"):
    """The Jacobian of the flow has a part of first and one of second derivatives; the second stays near zero loss.

    Over the loss, from e^-1 to e^-40, the second part is what its derivatives at the start say by homogeneity. Under
    the square loss it is zero at weights that interpolate.  D (90), (91)
    """
    measured = lambda: runs.jacobians(case, loss)
    return together(
        formula=equal(
            measured=measured, predicted=lambda: [second - first for first, second in runs.by_formula(case, False)],
            bound=1e-10, reason=f"{ROUNDING}; two and three layers, linear and smooth, labels of both signs",
        ),
        stays=equal(
            measured=lambda: [
                J + first for J, (first, _) in zip(measured(), runs.by_formula(case, False), strict=True)
            ],
            predicted=lambda: [second for _, second in runs.by_formula(case, True)],
            bound=1e-8, reason="rounding of the first part, which is up to a thousand times as large",
        ),
    )  # fmt: skip


@claim("D-eq92", printed={"factor": 1.0})
def penalty_counts_twice(case, factor=2.0):
    """With a penalty of lambda_k |W_k|^2 the decay is 2 lambda_k W_k, in flow, minimum and Jacobian.  D (92) to (95)"""
    each = lambda of: [of(one) for one in runs.penalised(case)]
    start = lambda one: one.net.w
    why = "rounding of a penalty of hundredths; linear and smooth networks of two and three layers"
    return together(
        flow=equal(
            measured=lambda: each(lambda one: one.pull(start(one)) + torch.func.grad(one.loss)(start(one))),
            predicted=lambda: each(lambda one: factor * one.decay * start(one)),
            bound=1e-10, reason=why,
        ),
        minimum=equal(
            measured=lambda: each(lambda one: one.pull(one.minimum)),
            predicted=lambda: each(lambda one: factor * one.decay * one.minimum),
            bound=1e-8, reason="a minimum by Newton's steps, gradient below 1e-11",
        ),
        jacobian=equal(
            measured=lambda: each(
                lambda one: torch.func.jacfwd(one.pull)(start(one)) + torch.func.hessian(one.loss)(start(one))
            ),
            predicted=lambda: each(lambda one: factor * one.decay.diag()),
            bound=1e-9, reason=why,
        ),
    )  # fmt: skip


LINEAR = ((2, identity), (3, identity))
LATE_LEVELS = (1, 2, 4, 5)  # of two networks at three levels of loss, those of e^-10 and e^-40


def least_eigenvalues(case: Case, width: int) -> list[Tensor]:
    """Minus the least eigenvalue of the Hessian over the loss."""
    found = runs.jacobians(case, "exponential", width, LINEAR)
    return [-torch.linalg.eigvalsh(-found[k])[0] for k in LATE_LEVELS]


def by_homogeneity(case: Case, width: int) -> list[Tensor]:
    """The same from derivatives at weights of another length."""
    found = runs.by_formula(case, True, width, LINEAR)
    return [-torch.linalg.eigvalsh(found[k][0] - found[k][1])[0] for k in LATE_LEVELS]


@claim("D-near-zero-loss-psd", control={"width": 1})
def hessian_is_indefinite(case, width=3):
    """Near zero exponential loss the Hessian is positive semidefinite. It is not.

    Linear networks of two and three layers on four separated points, with smallest margins of 10 and 40: the least
    eigenvalue over the loss is negative. Layers of width one are the control.  D 14.5.2
    """
    return counterexample(
        statement=at_most(
            left=lambda: least_eigenvalues(case, width), right=lambda: [0.0] * 4, scale=lambda: [1.0] * 4,
            bound=1e-6, reason="rounding of an eigenvalue, over a largest one of some thousands",
        ),
        exact=lambda: by_homogeneity(case, width),
        loss=at_most(
            left=lambda: [runs.losses(case, width, LINEAR)[k] for k in LATE_LEVELS], right=lambda: [0.0] * 4,
            scale=lambda: [1.0] * 4, bound=1e-3, reason="what counts as near zero: four samples, margins from 10 on",
        ),
    )  # fmt: skip


# The growth of one output


@claim("D-eq96", control={"biased": True})
def all_layers_grow_alike(case, biased=False):
    """On one point every layer obeys rho_k d rho_k/dt = f~ rho e^(-rho f~), wherever its direction is.  D (96)"""
    some = lambda: runs.single_points(case, biased)
    return equal(
        measured=lambda: [torch.stack([one.lengths[k] * one.truth[k][0] for k in one.weights]) for one in some()],
        predicted=lambda: [(one.rho * one.tilde * one.pull).expand(len(one.weights)) for one in some()],
        bound=1e-11, reason="rounding; nine leaky ReLU networks of two to four layers",
    )  # fmt: skip


@claim("D-eq97", control={"turned": 0.5})
def two_layers_in_two_numbers(case, turned=0.0):
    """Two layers: gamma = e^f and r^2 = rho_1^2 + rho_2^2 obey d gamma/dt = f~^2 r^2, r dr/dt = 2 log gamma/gamma."""
    each = lambda of: [of(one) for one in runs.two_norms(case, turned)]
    log_gamma = lambda one: one.margin * one.norms.prod()
    why = "rounding; two margins, three pairs of norms"
    return together(
        gamma=equal(
            measured=lambda: each(lambda one: one.exponential),
            predicted=lambda: each(lambda one: one.margin**2 * one.norms.square().sum()),
            bound=1e-12, reason=why,
        ),
        radius=equal(
            measured=lambda: each(lambda one: one.norms.norm() * one.radius),
            predicted=lambda: each(lambda one: 2 * log_gamma(one) / log_gamma(one).exp()),
            bound=1e-12, reason=why,
        ),
    )  # fmt: skip


@claim("O-two-layer-output", control={"decay": 0.1})
def two_layers_in_one_number(case, decay=0.0):
    """With c = rho_1^2 - rho_2^2, which is kept, gamma = e^f obeys d gamma/dt = f~ sqrt(f~^2 c^2 + 4 log^2 gamma)."""
    gap = lambda one: one.norms[0] ** 2 - one.norms[1] ** 2
    log_gamma = lambda one: one.margin * one.norms.prod()
    root = lambda one: (one.margin**2 * gap(one) ** 2 + 4 * log_gamma(one) ** 2).sqrt()
    return equal(
        measured=lambda: [one.exponential for one in runs.two_norms(case, 0.0, decay)],
        predicted=lambda: [one.margin * root(one) for one in runs.two_norms(case, 0.0, decay)],
        bound=1e-12, reason="rounding; two margins, three pairs of norms",
    )  # fmt: skip


@claim("D-eq98-100", printed={"power": 2}, control={"tied": True})
def equal_layers_in_one_equation(case, power=1, tied=False):
    """Equal norms: d rho/dt = f~ rho^(K-1) e^-y, R = e^y obeys dR/dt = K f~^(2/K) (log R)^(2-2/K), y = rho^K f~.

    Norms that start apart become equal: their ratios tend to one. The printed equations have K times as much, which is
    the flow of one norm that all layers share, the control.  D (98) to (100)
    """
    each = lambda of: [of(one) for one in runs.equal_norms(case, tied)]
    y = lambda one: one.margin * one.norms[0] ** one.depth
    factor = lambda one: one.depth**power

    def from_output(one: Rates) -> Tensor:
        return factor(one) * one.margin ** (2 / one.depth) * y(one) ** (2 - 2 / one.depth)

    return together(
        norm=equal(
            measured=lambda: each(lambda one: one.lengths),
            predicted=lambda: each(
                lambda one: (factor(one) / one.depth * one.margin * one.norms[0] ** (one.depth - 1) * (-y(one)).exp())
                .expand(len(one.lengths))
            ),
            bound=1e-12, reason=POINTS,
        ),
        exponential=equal(
            measured=lambda: each(lambda one: one.exponential),
            predicted=lambda: each(lambda one: factor(one) * one.margin**2 * one.norms[0] ** (2 * one.depth - 2)),
            bound=1e-12, reason=POINTS,
        ),
        closed=equal(
            measured=lambda: each(lambda one: one.exponential), predicted=lambda: each(from_output),
            bound=1e-12, reason=POINTS,
        ),
        general=limit(
            measured=lambda reach: [n / n.mean() for n in (norms_at((1e6 * reach,), s)[0] for s in STARTS)],
            predicted=lambda: [torch.ones(len(start)) for start in STARTS],
            bound=5e-3, reason="conserved differences, up to 9, over twice the squares at log t = 1e6",
        ),
    )  # fmt: skip


@claim("D-growth-k1", control={"depth": 2})
def one_layer_grows_like_the_logarithm(case, depth=1):
    """One layer: R = e^(f~ rho) grows as t, rho as log t. Exactly, R = R_0 + f~^2 t.  D 14.5.1"""
    margins = (0.7, 1.3)
    norm = lambda m, s: norms_at((s,), (1.0,) * depth, m)[0]
    return together(
        path=equal(
            measured=lambda: [runs.outputs_of(case, depth, *one)[1:].exp() for one in PATHS],
            predicted=lambda: [math.exp(m * size**depth) + m**2 * runs.log_t().exp() for m, size in PATHS],
            each=True, bound=1e-8, reason=FOLLOWED,
        ),
        exponential=limit(
            measured=lambda reach: [(m * norm(m, 1e4 * reach).prod() - 1e4 * reach).exp() for m in margins],
            predicted=lambda: [m**2 for m in margins],
            bound=1e-6, reason="the integrator's 1e-12, of an output of 1e4",
        ),
        length=limit(
            measured=lambda reach: [norm(m, 1e5 * reach)[0] / (1e5 * reach) for m in margins],
            predicted=lambda: [1 / m for m in margins],
            bound=1e-4, reason="what is left is log(f~^2) over log t = 1e5 and 2e5",
        ),
    )  # fmt: skip


@claim("D-growth-k2", printed={"factor": 4.0}, control={"depth": 3})
def two_layers_and_the_logarithmic_integral(case, factor=2.0, depth=2):
    """Two layers: R = li^-1(f~ K t + C), with C = li(R_0): the factor is K = 2, not its square.  D 14.5.1"""
    li = lambda y: float(mpmath.li(mpmath.exp(mpmath.mpf(y))))
    grown = lambda path: rows([li(y) - li(path[0].item()) for y in path[1:].tolist()])
    return equal(
        measured=lambda: [grown(runs.outputs_of(case, depth, *one)) for one in PATHS],
        predicted=lambda: [factor * margin * runs.log_t().exp() for margin, _ in PATHS],
        each=True, bound=1e-8, reason=FOLLOWED,
    )  # fmt: skip


LOG_TAU = (0.0, 10.0, 28.0)
LATE = (10.0, 1e2, 1e4)


@claim("D-growth-k-infinity", printed={"power": 2.0}, control={"size": 0.01})
def very_many_layers(case, power=1.0, size=1.0):
    """The output of very many layers obeys R = L^-1(tau + C), L(z) = li(z) - z/log z, in the time tau = K t.

    And at late times it is the larger the more layers there are. The printed constant is the limit of K^2, read as
    tau = K^2 t. Norms of 0.01 at the start, from which deep networks have not yet grown, are the control.  D 14.5.1
    """
    products = lambda: [product_at(LATE, (size,) * K) for K in (*DEPTHS, 8)]
    return together(
        limit=limit(
            measured=lambda reach: [runs.many_layers(int(2e4 * reach), LOG_TAU, power, m) for m in (1.0, 0.5)],
            predicted=lambda: [output(rows(LOG_TAU), math.inf, start=m) for m in (1.0, 0.5)],
            bound=3e-4, reason="the limit is approached as one over K, here 2e4 and 4e4; to tau = e^28",
        ),
        faster=at_most(
            left=lambda: products()[:-1], right=lambda: products()[1:],
            bound=1e-9, reason="the integrator's 1e-12; depths 1, 2, 3, 5 and 8, log t from 10 to 1e4",
        ),
    )  # fmt: skip


# Faster than the logarithm?


def by_norms(starts: tuple, margin: float, s: float) -> list[Tensor]:
    """Output at log t = s, norms followed one by one."""
    return [margin * product_at((s,), start, margin)[0] for start in starts]


@claim("O-late-output", control={"lost": 1.0})
def lead_is_a_double_logarithm(case, lost=2.0):
    """f~ rho - log t = a log log t + log(K f~^(2/K)) + o(1), a = 2 - 2/K, from any norms at the start."""
    margins = (0.5, 2.0)
    power = lambda start: 2 - lost / len(start)
    return limit(
        measured=lambda reach: [
            y - 1e5 * reach - power(start) * math.log(1e5 * reach)
            for m in margins for y, start in zip(by_norms(STARTS, m, 1e5 * reach), STARTS, strict=True)
        ],
        predicted=lambda: [math.log(len(start) * m ** (2 / len(start))) for m in margins for start in STARTS],
        scale=lambda: [1.0 for _ in range(2 * len(STARTS))],
        bound=1e-3, reason="the next term, a^2 log log t / log t, at log t = 1e5 and 2e5; two to eight layers",
    )  # fmt: skip


WITNESSES = tuple((K, m) for K in (2, 4, 8) for m in (0.5, 2.0))


@claim("D-product-faster-than-log", control={"of": "exponential"})
def product_outgrows_the_logarithm(case, of="product"):
    """For K > 1 the product of the norms diverges faster than logarithmically. It does not.

    The ratio of log t to it would vanish; at t = e^(10^6) it is the margin, as for one layer. It is e^(f~ rho) that
    outgrows its own one-layer law, t, which is the control.  D 7.1 and 14.5.1
    """
    product = lambda K, m: product_at((1e6,), (1.0,) * K, m)[0]
    ratio = lambda K, m: 1e6 / product(K, m) if of == "product" else (1e6 - m * product(K, m)).exp()
    return counterexample(
        statement=equal(
            measured=lambda: [ratio(K, m) for K, m in WITNESSES], predicted=lambda: [0.0] * 6,
            scale=lambda: [1.0] * 6, bound=1e-3, reason="a ratio that vanishes is small at log t = 1e6",
        ),
        exact=lambda: [m * 1e6 / asymptotic_output(rows([1e6]), K, margin=m)[0] for K, m in WITNESSES],
        limit=limit(
            measured=lambda reach: [1e5 * reach / product_at((1e5 * reach,), (1.0,) * K, m)[0] for K, m in WITNESSES],
            predicted=lambda: [m for _, m in WITNESSES],
            bound=1e-3, reason="the lead, twice log log t, over log t = 1e5 and 2e5",
        ),
    )  # fmt: skip


@claim("D-layers-slower", control={"of": "product"})
def layers_grow_slower(case, of="layer"):
    """Each norm grows as (log t/f~)^(1/K), slower than in one layer, whatever the norms at the start.  D 7.1, 14.5.1"""
    value = {"layer": lambda *run: norms_at(*run)[0], "product": lambda *run: product_at(*run)[0]}
    at = lambda start, s: value[of]((s,), start, 0.5)
    one = lambda s: norms_at((s,), (1.0,), 0.5)[0, 0]
    return together(
        law=limit(
            measured=lambda r: [at(start, 1e6 * r) / (1e6 * r) ** (1 / len(start)) for start in STARTS],
            predicted=lambda: [2.0 ** (1 / len(start)) for start in STARTS],
            bound=3e-3, reason="conserved differences of squares, up to 9, over squares at log t = 1e6 and 2e6",
        ),
        slower=limit(
            measured=lambda r: [at(start, 1e6 * r) / one(1e6 * r) for start in STARTS],
            predicted=lambda: [0.0 for _ in STARTS], scale=lambda: [torch.ones(()) for _ in STARTS],
            bound=2e-3, reason="the square root of log t = 1e6 and more over log t itself",
        ),
    )  # fmt: skip


NEAR = tuple(range(3, 15))  # log t
LINES = tuple(float(10 ** (3 + k / 4)) for k in range(5))
DEEPER = tuple(zip(DEPTHS, DEPTHS[1:], strict=False))


@claim("D-fig3-left", printed={"times": LINES}, control={"size": 0.01})
def products_on_the_figure(case, times=NEAR, size=1.0):
    """From t = e^3 to e^14 products are in the order of depth, and steeper in log t than one layer by a twentieth.

    From e^1000 to e^10000, where the caption's growth faster than logarithmic would have to show, they are as steep as
    one layer. From norms of 0.01, still at the saddle, they are out of order.  D Figure 3 left
    """
    found = lambda: runs.curves(tuple(map(float, times)), size)
    slope = lambda K: found().product_slope[K]
    return together(
        one=equal(
            measured=lambda: [found().product[1]],
            predicted=lambda: [torch.logaddexp(rows(times), torch.log(rows(size).exp() - 1))],
            bound=1e-9, reason="integrator's 1e-12; R = R_0 + t",
        ),
        order=at_most(
            left=lambda: [found().product[K] for K, _ in DEEPER], right=lambda: [found().product[K] for _, K in DEEPER],
            bound=1e-9, reason="integrator's 1e-12; depths 1, 2, 3, 5",
        ),
        steeper=at_most(
            left=lambda: [1.05 * slope(1) for _ in DEPTHS[1:]], right=lambda: [slope(K) for K in DEPTHS[1:]],
            bound=1e-4, reason="a twentieth more is what a figure shows; integrator's 1e-12",
        ),
    )  # fmt: skip


@claim("D-fig3-right", control={"first": (2.0, 0.01)})
def layers_on_the_figure(case, first=(1.0, 1.0)):
    """Norms of one layer are in the inverse order of depth, and so are their slopes: early, to t = e^14, and for ever.

    For ever is the power 1/K of log t at log t = 1e5 and 2e5. From norms of 2 and a margin of 0.01 deep layers lead
    at first, which is the control.  D Figure 3 right
    """
    found = lambda: runs.curves((0.1, 0.3, 1.0, *map(float, NEAR)), *first)
    slope = lambda K: found().layer_slope[K]
    norm = lambda K, s: runs.curves((s,), *first).layer[K][0]
    return together(
        order=at_most(
            left=lambda: [found().layer[K] for _, K in DEEPER], right=lambda: [found().layer[K] for K, _ in DEEPER],
            bound=1e-9, reason="integrator's 1e-12; depths 1, 2, 3, 5",
        ),
        slopes=at_most(
            left=lambda: [slope(K) for _, K in DEEPER], right=lambda: [slope(K) for K, _ in DEEPER],
            bound=1e-9, reason="integrator's 1e-12; depths 1, 2, 3, 5",
        ),
        late=limit(
            measured=lambda r: [(norm(K, 2e5 * r) / norm(K, 1e5 * r)).log() / math.log(2) for K in DEPTHS],
            predicted=lambda: [1 / K for K in DEPTHS],
            bound=1e-3, reason="the next term, a log log t / log t, at log t = 1e5 and 2e5",
        ),
    )  # fmt: skip


# Three remarks


@claim("D-balance-square-loss", control={"biased": True})
def squares_grow_alike_under_the_square_loss(case, biased=False):
    """The squared norms of all layers grow at one rate under the square loss too, 4 sum_n (y_n - f_n) f_n.  D 14.5.4

    At random weights of leaky ReLU networks; and what they gain while linear and smooth networks are trained.
    """
    at = lambda: runs.under_square_loss(case, biased)
    gained = lambda: runs.trained_on_squares(case, biased)
    return together(
        rates=equal(
            measured=lambda: [rates for _, _, rates in at()],
            predicted=lambda: [(4 * (y - f) @ f).expand(len(rates)) for f, y, rates in at()],
            scale=lambda: [4 * (y - f).norm() * f.norm() for f, y, rates in at()],
            bound=1e-11, reason="rounding; six networks of two to four layers",
        ),
        gained=equal(
            measured=lambda: [gain[:, 1:] for gain in gained()],
            predicted=lambda: [gain[:, :1].expand(-1, 2) for gain in gained()],
            bound=1e-6, reason="integrator's tolerance of 1e-9 a step",
        ),
    )  # fmt: skip


@claim("D-zero-norm-init", control={"size": 1.0})
def small_norms_become_equal(case, size=1e-3):
    """From small norms, not equal, all layers grow alike and become equal, so that rho = rho_1^K.  D 14.5.4

    The starts shrink to zero; time is e^14. From a norm of exactly zero in two layers nothing moves.
    """
    found = lambda reach: runs.small_starts(case, size / reach)
    return together(
        norms=limit(
            measured=lambda reach: [norms / norms[0] for norms in found(reach)],
            predicted=lambda: [1.0 for _ in runs.SMALL],
            bound=1e-5, reason="differences of squares of 4e-6, kept, over squares of ten or more",
        ),
        product=limit(
            measured=lambda reach: [norms.prod() / norms[0] ** len(norms) for norms in found(reach)],
            predicted=lambda: [1.0 for _ in runs.SMALL],
            bound=1e-5, reason="differences of squares of 4e-6, kept, over squares of ten or more",
        ),
    )  # fmt: skip


SEEN = (1.0, 10.0, 1e2, 1e4, 1e6)


def from_the_law() -> Tensor:
    """Of norms 0.1, 5 and 2 with a margin of 0.2 at log t = 1e6: squares gain what the late output asks for."""
    squares = [mpmath.mpf(n) ** 2 for n in ("0.1", "5", "2")]
    y = mpmath.mpf(asymptotic_output(rows([1e6]), 3, margin=0.2).item())
    gain = mpmath.findroot(lambda g: mpmath.sqrt(mpmath.fprod(q + g for q in squares)) - 5 * y, 29000)
    norms = [mpmath.sqrt(q + gain) for q in squares]
    return rows(float(norms[0] ** 3 / mpmath.fprod(norms)))


@claim("D-bounded-product", control={"trained": "last"})
def common_scale_keeps_it_bounded(case, trained="all"):
    """Unequal norms at the start: no common scale of time keeps the product of the norms bounded. One does.

    Norms 0.1, 5 and 2, the scale the first of them to the third power: the ratio tends to one, and was never above its
    start. If it were unbounded its reciprocal would vanish, as it does where the last layer alone is trained.  D 14.5.4
    """
    norms = lambda: runs.three_unequal(SEEN, trained)
    ratio = lambda: norms().prod(1) / norms()[:, 0] ** 3
    return counterexample(
        statement=equal(
            measured=lambda: [1 / ratio()[-1]], predicted=lambda: [0.0], scale=lambda: [1.0],
            bound=1e-3, reason="the reciprocal of what has no bound, at log t = 1e6",
        ),
        exact=lambda: [from_the_law()],
        bounded=at_most(
            left=lambda: ratio(), right=lambda: 0.1 * 5 * 2 / 0.1**3,
            bound=1e-9, reason="integrator's 1e-12; the start has the largest ratio",
        ),
    )  # fmt: skip
