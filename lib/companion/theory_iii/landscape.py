"""What decides the claims of sections 3, 8, 8.2 and 9 of paper D: critical points and Hessians of an exponential loss.

Labels are absorbed where nothing else is said: ``m_n`` is the margin of sample ``n``. Noise is in
:mod:`companion.theory_iii.landscape_noise`, the square loss in :mod:`companion.theory_iii.landscape_square_loss`.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from claimbook.evidence import Case, at_most, claim, counterexample, equal, limit, shared, together
from normdyn.measures.curvature import Params, critical_point, flatten, hessian, unflatten
from normdyn.motion.flows import gradient
from normdyn.networks.graphs import layered_weights, mlp

Widths = tuple[int, ...]
Forward = Callable[[Params, Tensor], Tensor]


def draw(case: Case, role: str, *shape: int) -> Tensor:
    """Gaussian numbers, one independent stream for each role."""
    return torch.randn(*shape, generator=case.generator(role), dtype=torch.float64)


def layers(case: Case, role: str, widths: Sequence[int]) -> Params:
    return {str(l): W for l, W in enumerate(layered_weights(widths, case.generator(role)))}


def network(p: Params, X: Tensor, biased: bool = False) -> Tensor:
    """Outputs of a ReLU network, with hidden biases of one half if asked for."""
    biases = [torch.full((len(W),), 0.5 * (k < len(p) - 1)).to(W) for k, W in enumerate(p.values())] if biased else None
    return mlp(list(p.values()), X, biases=biases)[:, 0]


def exponential(m: Tensor) -> Tensor:
    return torch.exp(-m).sum()


# No critical point separates

LOSSES = {"exponential": exponential, "logistic": lambda m: torch.log1p(torch.exp(-m)).sum()}
SLOPES = {"exponential": lambda m: -torch.exp(-m), "logistic": lambda m: -torch.sigmoid(-m)}
SHAPES: tuple[Widths, ...] = ((4, 1), (4, 8, 1), (4, 6, 6, 1), (4, 5, 5, 5, 1))


@shared
def separated(case: Case, biased: bool = False) -> list[tuple[Params, Tensor, Tensor]]:
    """Weights, inputs and labels that a network separates: its own signs. The last is a kernel machine."""
    found = []
    for k in range(20):
        widths = SHAPES[k % 4]
        p, X = layers(case, f"separated {k}", widths), draw(case, f"separated X {k}", 8, widths[0])
        f = network(p, X, biased)
        found.append((p, X[f.abs() > 1e-9], f[f.abs() > 1e-9].sign()))
    X = draw(case, "kernel X", 8, 4)
    kernel = torch.exp(-torch.cdist(X, X).square() / 2)
    p = layers(case, "kernel", (8, 1))
    return [*found, (p, kernel, network(p, kernel).sign())]


@shared
def pulls(case: Case, loss: str, biased: bool = False) -> list[Tensor]:
    """Inner product of each layer with its gradient."""
    found = []
    for p, X, y in separated(case, biased):
        g = gradient(lambda q, X=X, y=y: LOSSES[loss](y * network(q, X, biased)))(p)
        found.append(torch.stack([(p[k] * g[k]).sum() for k in p]))
    return found


@shared
def margins(case: Case, biased: bool = False) -> list[Tensor]:
    return [y * network(p, X, biased) for p, X, y in separated(case, biased)]


@claim("D-remark-sec3", control={"biased": True})
def separating_critical_points_are_at_infinity(case, biased=False):
    """<W_k, dL/dW_k> = sum m l'(m) < 0 in every layer where the data are separated; along a ray the loss tends to zero.

    Exponential and logistic loss, ReLU networks of one to four layers and a kernel machine. Hidden biases break it.
    D Remark of section 3
    """
    along = lambda one, scale: exponential(scale * one / one.min())  # margins along a ray grow together
    return together(
        downhill=equal(
            measured=lambda: [pull for loss in LOSSES for pull in pulls(case, loss, biased)],
            predicted=lambda: [
                (m * SLOPES[loss](m)).sum().expand(len(p))
                for loss in LOSSES
                for m, (p, _, _) in zip(margins(case, biased), separated(case, biased), strict=True)
            ],
            bound=1e-11, reason="rounding of sums that cancel in part",
        ),
        minima=limit(
            measured=lambda reach: [along(m, 100 * reach) for m in margins(case)], predicted=lambda: [0.0] * 21,
            scale=lambda: [1.0] * 21, bound=1e-40, reason="eight samples or fewer, of margins 100 and 200 or more",
        ),
    )  # fmt: skip


class Kinked(torch.autograd.Function):
    """ReLU whose derivative at zero is chosen."""

    @staticmethod
    def forward(context, z, slope):
        context.save_for_backward(z)
        context.slope = slope
        return z.clamp_min(0)

    @staticmethod
    def backward(context, g):
        (z,) = context.saved_tensors
        return g * ((z > 0) + context.slope * (z == 0)), None


@shared
def at_kinks(case: Case, offset: float) -> tuple[list[Tensor], list[Tensor]]:
    """Margins, and length times length of the gradient for each layer, of networks with units exactly at their kinks.

    Three choices of the slope there; the widths (3, 4, 1, 1) have a layer between single units. With an offset of the
    output all units are dead.
    """
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for k in range(30):
        widths = ((3, 6, 1), (3, 4, 1, 1), (3, 5, 5, 1))[k % 3]
        p, X = layers(case, f"kinks {k}", widths), draw(case, f"kinks X {k}", 8, 3)
        p["0"][0] = 0.0
        p[str(len(p) - 1)] = p[str(len(p) - 1)].abs()
        if offset:
            p["0"], X = -p["0"].abs(), X.abs()

        def forward(q: Params, X: Tensor = X, slope: float = (0.0, 0.5, 1.0)[k % 3]) -> Tensor:
            *hidden, last = q.values()
            for W in hidden:
                X = Kinked.apply(X @ W.mT, slope)
            return (X @ last.mT)[:, 0] + offset

        keep = forward(p).abs() > 1e-9
        y = forward(p).sign()
        if keep.any():
            g = gradient(lambda q, forward=forward, y=y, keep=keep: exponential((y * forward(q))[keep]))(p)
            found[0].append((y * forward(p))[keep].detach())
            found[1].append(torch.stack([p[n].norm() * g[n].norm() for n in p]))
    return found


@claim("D-lem5", control={"offset": 1.0})
def no_finite_critical_point_separates(case, offset=0.0):
    """|W_k| |dL/dW_k| is at least sum m e^-m > 0 at every finite point that separates, at kinks too.  D Lemma 5

    A fixed bias of the output breaks it: units may be dead and the labels right.
    """
    floor = lambda: [(m * torch.exp(-m)).sum() for m in at_kinks(case, offset)[0]]
    return at_most(
        left=floor, right=lambda: at_kinks(case, offset)[1], scale=floor,
        bound=1e-12, reason="rounding; the layer between single units is exactly tight",
    )  # fmt: skip


# But there are finite minima


def linear(p: Params, X: Tensor) -> Tensor:
    return X @ p["w"]


def rows(values: Sequence) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


POND = rows([[1, 0], [0, 1], [0.1, 0.1]])
LABELS = rows([1, 1, -1])
BEST = math.log(10) / 1.2  # the best linear function is BEST (x_1 + x_2): there 2 e^-b + e^(b/5) is least


def pond_weights(t: float, a: float) -> Params:
    """Three units: (1, -t), (-t, 1), (1, 1) with output weights a, a, -a/2. For t <= 0 all see all three samples."""
    return {"0": rows([[1, -t], [-t, 1], [1, 1]]), "1": rows([[a, a, -a / 2]])}


def pond_loss(p: Params) -> Tensor:
    return exponential(LABELS * network(p, POND))


Witness = tuple[Callable[[Params], Tensor], Params]


@shared
def witnesses(case: Case, model: str) -> list[Witness]:
    """Losses and points: a dead ReLU network, and a live one that its three samples see as linear; or linear models."""
    X = draw(case, "dead X", 8, 3).abs() + 0.1
    if model == "linear":
        return [(lambda p: exponential(linear(p, X)), {"w": draw(case, f"linear {k}", 3) / 2}) for k in range(2)]
    dead = {"0": -draw(case, "dead 0", 5, 3).abs() - 0.1, "1": draw(case, "dead 1", 1, 5)}
    return [(lambda p: exponential(network(p, X)), dead), (pond_loss, pond_weights(-0.5, BEST))]


@shared
def undercut(case: Case, model: str) -> list[float]:
    """How far the lowest of 400 neighbours is below each witness, as a share of its loss."""
    found = []
    for k, (loss, p) in enumerate(witnesses(case, model)):
        at, kicks = flatten(p), draw(case, f"kicks {k}", 400, flatten(p).numel())
        near = [loss(unflatten(at + 0.02 * kick / kick.norm(), p)) for kick in kicks]
        found.append((1 - torch.stack(near).min() / loss(p)).clamp_min(0).item())
    return found


@claim("D-no-local-minima", control={"model": "linear"})
def no_local_minima(case, model="relu"):
    """Where the data can be separated, a point that no neighbour undercuts has loss zero.  D section 9

    Witnesses: a plateau of dead units, and three samples that live units see as a linear model sees them.
    """
    loss = lambda: [of(p).item() for of, p in witnesses(case, model)]
    separates = lambda: pond_weights(1.0, 4.0)
    return counterexample(
        statement=equal(
            measured=lambda: [
                l if low < 1e-12 else 0.0 for l, low in zip(loss(), undercut(case, model), strict=True)
            ],
            predicted=lambda: [0.0, 0.0], bound=1e-6, reason="rounding of a loss at 400 neighbours",
        ),
        exact=lambda: [8.0, 12 * 0.1 ** (5 / 6)] if model == "relu" else [0.0],
        separable=at_most(
            left=lambda: [torch.tensor([2.0, 2.0, 0.4], dtype=torch.float64)],
            right=lambda: [LABELS * network(separates(), POND)],
            bound=1e-12, reason="exact: the same network with other weights",
        ),
    )  # fmt: skip


# Hessians that vanish


@shared
def second_differences(case: Case, witness: str) -> list[float]:
    """The largest second difference of the loss in any two weights, without a derivative."""
    return [largest_second_difference(*one) for one in bare(case, witness)]


def largest_second_difference(loss: Callable[[Params], Tensor], p: Params, h: float = 1e-3) -> float:
    at, kick = flatten(p), h * torch.eye(flatten(p).numel(), dtype=torch.float64)
    of = lambda *kicks: loss(unflatten(at + sum(kicks), p)).item() if kicks else loss(p).item()
    pairs = [(kick[i], kick[j]) for i in range(len(at)) for j in range(i + 1)]
    return max(abs(of(u, v) - of(u) - of(v) + of()) for u, v in pairs) / h**2


@shared
def bare(case: Case, witness: str) -> list[Witness]:
    """Critical points: dead units, and zero weights in three layers; or of linear models on opposed data."""
    X = draw(case, "dead X", 8, 3).abs() + 0.1
    if witness == "linear":
        made = [draw(case, f"opposed {k}", 2, 3) for k in range(2)]
        data = [torch.cat([a, -0.7 * a]) for a in made]
        starts = [{"w": torch.zeros(3, dtype=torch.float64)} for _ in data]
        losses = [lambda p, X=X: exponential(linear(p, X)) for X in data]
        ends = [critical_point(loss, start, tolerance=1e-9) for loss, start in zip(losses, starts, strict=True)]
        return [(loss, end) for loss, end in zip(losses, ends, strict=True) if end is not None]
    zero = {str(l): torch.zeros(m, n, dtype=torch.float64) for l, (n, m) in enumerate(((3, 2), (2, 2), (2, 1)))}
    return [witnesses(case, "relu")[0], (lambda p: exponential(network(p, X)), zero)]


@shared
def ranks(case: Case, witness: str) -> list[float]:
    """Nonzero eigenvalues of the Hessian at these points."""
    return [float((torch.linalg.eigvalsh(hessian(*one)).abs() > 1e-8).sum()) for one in bare(case, witness)]


def no_rank(case: Case, witness: str) -> list[float]:
    """The violation again: one, where all second differences vanish."""
    return [float(size < 1e-6) for size in second_differences(case, witness)]


@claim("D-hessian-finite-nonzero", control={"witness": "linear"})
def finite_points_have_a_hessian(case, witness="bare"):
    """At every point with finite weights the Hessian is not zero.  D section 3

    Witnesses: dead units, and zero weights in three layers.
    """
    return counterexample(
        statement=at_most(left=lambda: [1.0, 1.0], right=lambda: ranks(case, witness), bound=1e-4, reason="ranks"),
        exact=lambda: no_rank(case, witness),
    )


@claim("D-fact1", control={"witness": "linear"})
def other_critical_points_are_less_degenerate(case, witness="bare"):
    """Critical points other than the global minima have a nonzero eigenvalue of the Hessian.  D Fact 1

    Witnesses: dead units, and zero weights in three layers; their loss is N, and the infimum is zero.
    """
    slopes = lambda: [flatten(gradient(loss)(p)) for loss, p in bare(case, witness)]
    return counterexample(
        statement=at_most(left=lambda: [1.0, 1.0], right=lambda: ranks(case, witness), bound=1e-4, reason="ranks"),
        exact=lambda: no_rank(case, witness),
        critical=equal(
            measured=slopes, predicted=lambda: [0.0, 0.0], scale=lambda: [1.0, 1.0],
            bound=1e-8, reason="the gradient is zero exactly; that of linear models to a search's tolerance",
        ),
        not_global=equal(
            measured=lambda: [loss(p).log() for loss, p in bare(case, "bare")], predicted=lambda: [math.log(8)] * 2,
            bound=1e-12, reason="all outputs are zero exactly",
        ),
    )  # fmt: skip


@shared
def quadratic_forms(case: Case, biased: bool) -> list[Tensor]:
    """<W_k, H_kk W_k> for each layer of networks with random labels."""
    found = []
    for k in range(12):
        p, X, y = labelled(case, k)
        loss = lambda q, X=X, y=y: exponential(y * network(q, X, biased))
        forms = []
        for name in p:
            still = {n: torch.zeros_like(W) if n != name else W for n, W in p.items()}
            forms.append((still[name] * torch.func.jvp(torch.func.grad(loss), (p,), (still,))[1][name]).sum())
        found.append(torch.stack(forms))
    return found


@shared
def labelled(case: Case, k: int) -> tuple[Params, Tensor, Tensor]:
    widths = SHAPES[k % 4]
    X, y = draw(case, f"labelled X {k}", 6, widths[0]), draw(case, f"labelled y {k}", 6).sign()
    return layers(case, f"labelled {k}", widths), X, y


@claim("O-hessian-of-a-layer", control={"biased": True})
def a_layer_bends_unless_outputs_vanish(case, biased=False):
    """<W_k, H_kk W_k> = sum m^2 e^-m in every layer: the Hessian vanishes only where every output is zero.  Ours"""
    m = lambda p, X, y: y * network(p, X, biased)
    return equal(
        measured=lambda: quadratic_forms(case, biased),
        predicted=lambda: [
            (m(*one).square() * torch.exp(-m(*one))).sum().expand(len(one[0]))
            for one in (labelled(case, k) for k in range(12))
        ],
        bound=1e-11, reason="rounding; ReLU networks of one to four layers, random labels",
    )  # fmt: skip
