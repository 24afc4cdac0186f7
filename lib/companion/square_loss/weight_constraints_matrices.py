"""What decides the remarks of appendix H of paper B on orthogonal and on diagonal matrices."""

import math
from itertools import combinations

import torch
from torch import Tensor

from claimbook.evidence import Case, at_most, claim, counterexample, equal, shared, together
from companion.square_loss import weight_constraints_runs as runs
from companion.square_loss.weight_constraints_runs import identity, normal, orthogonal
from normdyn.measures.curvature import minimum
from normdyn.networks.graphs import mlp

# What the paper recalls of orthogonal matrices


def of_determinant_one(A: Tensor) -> Tensor:
    """The squared norm of A scaled to determinant plus or minus one."""
    return A.square().sum() / A.det().abs() ** (2 / len(A))


def with_inverse(A: Tensor) -> Tensor:
    """The squared norms of A and its inverse."""
    return A.square().sum() + A.inverse().square().sum()


@shared
def drawn_matrices(case: Case) -> list[Tensor]:
    """Orthogonal matrices and others, of four rows."""
    return [orthogonal(case, f"O {k}", 4) for k in range(3)] + [normal(case, f"A {k}", 4, 4) for k in range(20)]


def lighter(lean: float) -> Tensor:
    """Weights of four columns, the first of which may count for less."""
    return torch.tensor([lean, 1, 1, 1], dtype=torch.float64)


def least(case, size) -> list[Tensor]:
    """Minimisers of a size from three random starts."""
    starts = [{"A": normal(case, f"least {k}", 4, 4)} for k in range(3)]
    found = [minimum(lambda p: size(p["A"]), start, tolerance=1e-9) for start in starts]
    return [p["A"] for p in found if p]


@claim("B-H2-det", control={"lean": 0.5})
def least_norm_at_determinant_one(case, lean=1.0):
    """Of the matrices of determinant 1 or -1 the orthogonal ones have the least norm; det^2 is the product of sigma^2.

    Control: one column counts a half.  B H.2
    """
    size = lambda A: of_determinant_one(A) * (A * lighter(lean)).square().sum() / A.square().sum()
    gram = lambda A: 4 * A.mT @ A / A.square().sum()
    return together(
        bound=at_most(
            left=lambda: [4.0 for _ in drawn_matrices(case)],
            right=lambda: [size(A) for A in drawn_matrices(case)],
            bound=1e-12, reason="rounding; orthogonal matrices and twenty others, p = 4",
        ),
        reached=equal(
            measured=lambda: torch.stack([gram(A) for A in least(case, size)]),
            predicted=lambda: torch.eye(4, dtype=torch.float64).expand(3, 4, 4),
            bound=1e-6, reason="gradient of the minimiser below 1e-9",
        ),
        determinant=equal(
            measured=lambda: [A.det() ** 2 for A in drawn_matrices(case)],
            predicted=lambda: [torch.linalg.svdvals(A).square().prod() for A in drawn_matrices(case)],
            bound=1e-11, reason="rounding",
        ),
    )  # fmt: skip


@claim("B-H2-inverse", control={"lean": 0.5})
def least_norm_with_the_inverse(case, lean=1.0):
    """Orthogonal matrices minimise |A|^2 + |A^-1|^2, where each is the sum of squared singular values.  B H.2

    Control: one column of A counts a half.
    """
    size = lambda A: with_inverse(A) - A.square().sum() + (A * lighter(lean)).square().sum()
    return together(
        bound=at_most(
            left=lambda: [8.0 for _ in drawn_matrices(case)],
            right=lambda: [size(A) for A in drawn_matrices(case)],
            bound=1e-12, reason="rounding; orthogonal matrices and twenty others, p = 4",
        ),
        reached=equal(
            measured=lambda: torch.stack([A.mT @ A for A in least(case, size)]),
            predicted=lambda: torch.eye(4, dtype=torch.float64).expand(3, 4, 4),
            bound=1e-6, reason="gradient of the minimiser below 1e-9",
        ),
        sums=equal(
            measured=lambda: [with_inverse(A) for A in drawn_matrices(case)],
            predicted=lambda: [(lambda s: (s**2 + s**-2).sum())(torch.linalg.svdvals(A)) for A in drawn_matrices(case)],
            bound=1e-9, reason="rounding of random inverses",
        ),
    )  # fmt: skip


def transpose(A: Tensor) -> Tensor:
    return A.mT


@claim("B-H2-iff", control=[{"other": identity}, {"own": False}])
def inverse_is_transpose(case, other=transpose, own=True):
    """|A^-1 - A'|^2 is the sum of (sigma - 1/sigma)^2, zero for orthogonal A alone; eigenvectors of S make it diagonal.

    Controls: A itself for its transpose; the eigenvectors of another matrix.  B H.2
    """
    symmetric = lambda k: (lambda A: A + A.mT)(normal(case, f"S {k}", 5, 5))
    vectors = lambda k: torch.linalg.eigh(symmetric(k if own else k + 5))[1]
    return together(
        iff=equal(
            measured=lambda: [(A.inverse() - other(A)).norm() for A in drawn_matrices(case)],
            predicted=lambda: [(lambda s: (s - 1 / s).norm())(torch.linalg.svdvals(A)) for A in drawn_matrices(case)],
            scale=lambda: [1 + A.inverse().norm() for A in drawn_matrices(case)],
            bound=1e-10, reason="rounding of random inverses; three orthogonal matrices and twenty others",
        ),
        diagonal=equal(
            measured=lambda: [vectors(k).mT @ symmetric(k) @ vectors(k) for k in range(5)],
            predicted=lambda: [torch.diag(torch.linalg.eigvalsh(symmetric(k))) for k in range(5)],
            bound=1e-11, reason="rounding; five symmetric matrices",
        ),
    )  # fmt: skip


def unit_rows(A: Tensor) -> Tensor:
    return A / A.norm(dim=1, keepdim=True)


@claim("B-fn16", printed={"power": 1.0}, control={"lengths": (1.0, 1.0, 1.0, 1.0, 1.0)})
def norm_of_unit_rows(case, power=0.5, lengths=(0.5, 1.0, 1.5, 2.0, 2.5)):
    """Rows of norm one give M matrix norm sqrt(M), printed M; rows of different norms are no multiple of orthogonal.

    The operator A A' is at least half the spread of the squared lengths away from all multiples of one. Control: equal
    lengths.  B footnote 16
    """
    some = lambda: [orthogonal(case, f"rows {k}", 5) if k < 3 else normal(case, f"rows {k}", 5, 5) for k in range(6)]
    away = lambda A: (lambda e: (e[-1] - e[0]) / 2)(torch.linalg.eigvalsh(A @ A.mT))
    return together(
        norm=equal(
            measured=lambda: [unit_rows(normal(case, f"tall {M}", M, 4)).norm() for M in (2, 5, 9)],
            predicted=lambda: [M**power for M in (2, 5, 9)],
            bound=1e-13, reason="rounding; 2, 5 and 9 rows",
        ),
        different=at_most(
            left=lambda: [(2.5**2 - 0.5**2) / 2 for _ in some()],
            right=lambda: [away(torch.tensor(lengths, dtype=torch.float64)[:, None] * unit_rows(A)) for A in some()],
            scale=lambda: [1.0 for _ in some()],
            bound=1e-12, reason="rounding; three matrices of orthogonal rows and three others",
        ),
    )  # fmt: skip


# Are matrices near to orthogonal?


def from_orthogonal(A: Tensor) -> Tensor:
    """Relative distance from the nearest multiple of a matrix with orthonormal columns."""
    s = torch.linalg.svdvals(A)
    return (1 - s.mean() ** 2 / s.square().mean()).clamp(min=0).sqrt()


@claim("B-random-orthogonal", printed={"far": 0.0})
def random_matrices(case, far=1.0):
    """A Gaussian matrix of c columns a row is as far from orthogonal as Marchenko and Pastur's law says.

    Relative distance from the nearest multiple of an orthogonal matrix: about sqrt(c)/2, 0.53 for a square one. As
    printed: none.  B section 5
    """
    sizes = ((8000, 400), (2000, 400), (1000, 1000))

    def law(c):
        angle = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000 * math.pi
        square = 1 + c + 2 * math.sqrt(c) * angle.cos()  # sigma^2 between (1 - sqrt c)^2 and (1 + sqrt c)^2
        weight = angle.sin() ** 2 / square * 2 / 200_000  # times pi, over pi
        return (1 - (weight * square.sqrt()).sum() ** 2 / (weight * square).sum()).sqrt()

    return equal(
        measured=lambda: [from_orthogonal(normal(case, f"aspect {q}/{p}", p, q)) for p, q in sizes],
        predicted=lambda: [far * law(q / p) for p, q in sizes],
        scale=lambda: [1.0 for _ in sizes],
        bound=4e-3, reason="means of 400 and more singular values move by about 1e-3; c = 0.05, 0.2 and 1",
    )  # fmt: skip


@claim("B-orth-bias", control={"spread": 1.0})
def training_makes_orthogonal(case, spread=0.0):
    """Normalised networks end with layers nearer to orthogonal than they started.  B H.2

    Linear networks under normalisation of layers and of rows, at their global minimum. Control: a penalty on unequal
    singular values.
    """
    ways = ("layers", "rows")
    mean = lambda layers: torch.stack([from_orthogonal(w) for w in layers]).mean()

    def mean_by_products(layers):
        """The same by square roots of A A'."""
        traces = [torch.linalg.eigvalsh(w @ w.mT).clamp(min=0).sqrt().sum() for w in layers]
        away = [(1 - t**2 / (6 * w.square().sum())).sqrt() for t, w in zip(traces, layers, strict=True)]
        return torch.stack(away).mean()

    return counterexample(
        at_most(
            left=lambda: [mean(one.end) for way in ways for one in runs.linear_trained(case, way, spread)],
            right=lambda: [mean(one.start) for way in ways for one in runs.linear_trained(case, way, spread)],
            bound=1e-4, reason="an optimiser's last steps; mean over inner layers, six by six; six networks",
        ),
        exact=lambda: [
            (lambda a, b: (a - b) / b)(mean_by_products(one.end), mean_by_products(one.start))
            for way in ways for one in runs.linear_trained(case, way, spread)
        ],
        finished=equal(
            measured=lambda: [one.loss for way in ways for one in runs.linear_trained(case, way)],
            predicted=lambda: [loss for _ in ways for loss in runs.least_losses(case)],
            bound=1e-6, reason="the global minimum, at a gradient of 1e-8",
        ),
    )  # fmt: skip


# Diagonal networks


def off(G: Tensor) -> Tensor:
    return G - torch.diag(G.diag())


@claim("B-eq55", control={"basis": True})
def descent_keeps_diagonals(case, basis=False):
    """The derivative by a diagonal layer has nothing off the diagonal, so that descent keeps it diagonal.  B (55)

    The square loss of three diagonal layers: linear with five outputs, and ReLU with one. Control: basis vectors as
    inputs, diagonal targets.
    """

    def net(k):
        V = [torch.diag(normal(case, f"diagonal {k} {l}", 5).abs()) for l in range(3)]
        X = torch.eye(5, dtype=torch.float64) if basis else normal(case, f"inputs {k}", 9, 5)
        Y = torch.diag(normal(case, f"targets {k}", 5)) if basis else normal(case, f"targets {k}", 9, 5)
        return V, X, Y, normal(case, f"last {k}", 1, 5)

    def linear(k):
        V, X, Y, _ = net(k)
        return torch.func.grad(lambda V: (mlp(V, X, activation=identity) - Y).square().sum() / 2)(V)[1]

    def rectified(k):
        V, X, Y, last = net(k)
        return torch.func.grad(lambda V: (mlp([*V, last], X)[:, 0] - Y[:, 0]).square().sum() / 2)(V)[1]

    def linear_by_hand(k):
        V, X, Y, _ = net(k)
        product = V[2] @ V[1] @ V[0]
        return V[2] @ (product @ X.mT @ X - Y.mT @ X) @ V[0]

    def rectified_by_hand(k):
        V, X, Y, last = net(k)
        seen = [(runs.halves([*V, last], x), y) for x, y in zip(X, Y[:, 0], strict=True)]
        return sum((one.output - y) * torch.outer(*one.pairs[1]) for one, y in seen)

    return counterexample(
        equal(
            measured=lambda: [off(f(k)) for k in range(5) for f in (linear, rectified)],
            predicted=lambda: [0.0 for k in range(5) for _ in range(2)],
            scale=lambda: [f(k).abs().max() for k in range(5) for f in (linear, rectified)],
            bound=1e-6, reason="rounding is far below; relative to the largest derivative, five draws of each",
        ),
        exact=lambda: [off(f(k)).abs().max() / f(k).abs().max() for k in range(5)
                       for f in (linear_by_hand, rectified_by_hand)],
    )  # fmt: skip


@claim("B-diag-commute", control={"full": 0.5})
def gates_move_to_the_input(case, full=0.0):
    """For diagonal layers f = V_L ... V_1 x~ with x~ = D_{L-1}(x) ... D_1(x) x. Control: layers that are not diagonal.

    Four layers with vector outputs; the signs of two layers are such that a channel is open.  B H.3
    """

    def net(k):
        V = [torch.diag(normal(case, f"commute {k} {l}", 5)) for l in range(4)]
        x = normal(case, f"commute {k}", 5).clone()
        x[0] = 3 * V[0][0, 0].sign()
        V = [V[0], *(W * W.diag()[0].sign() for W in V[1:3]), V[3]]
        return [W + full * normal(case, f"full {k} {l}", 5, 5) for l, W in enumerate(V)], x

    def moved(k):
        V, x = net(k)
        gates, z = torch.ones(5, dtype=x.dtype), x
        for W in V[:-1]:
            z = W @ z
            gates, z = gates * (z > 0), z * (z > 0)
        return V[3] @ V[2] @ V[1] @ V[0] @ (gates * x)

    return equal(
        measured=lambda: [mlp(net(k)[0], net(k)[1][None])[0] for k in range(5)],
        predicted=lambda: [moved(k) for k in range(5)],
        bound=1e-13, reason="rounding; four layers, five draws",
    )  # fmt: skip


@claim("B-diag-critical", printed={"power": -1.0})
def diagonal_weights(case, power=0.5):
    """Unit diagonal layers at rest have |V^i| = sqrt(|f|/|x^i|) or 0, L = 4; f^2 = (V_a^i V_b^i x^i)^2 for each pair.

    Printed: |x^i|/|f|. On all supports of two and more of four channels, and for linear networks.  B H.3
    """
    supports = [s for size in (2, 3, 4) for s in combinations(range(4), size)]
    solutions = lambda: [
        (x, s, runs.diagonal_solution(x, s, 4, power))
        for x in (normal(case, f"channels {k}", 4) for k in range(3)) for s in supports
    ]  # fmt: skip
    return together(
        critical=equal(
            measured=lambda: [V * (V.prod(0) @ x) for x, _, V in solutions()],
            predicted=lambda: [torch.func.grad(lambda V, x=x: V.prod(0) @ x)(V) for x, _, V in solutions()],
            bound=1e-11, reason="rounding; 33 solutions, all four layers",
        ),
        unit=equal(
            measured=lambda: [V.norm(dim=1) for *_, V in solutions()],
            predicted=lambda: [torch.ones(4, dtype=torch.float64) for _ in solutions()],
            bound=1e-11, reason="rounding",
        ),
        pairs=equal(
            measured=lambda: [
                torch.stack([(V[a] * V[b] * x)[list(s)] ** 2 for a, b in combinations(range(4), 2)])
                for x, s, V in solutions()
            ],
            predicted=lambda: [(V.prod(0) @ x) ** 2 for x, _, V in solutions()],
            bound=1e-11, reason="rounding; six pairs of layers",
        ),
    )  # fmt: skip


@claim("B-eq57", printed={"power": -1.0})
def weights_from_the_data(case, power=0.5):
    """|V_k^i| = sqrt(|sum alpha_n f_n| / |sum alpha_n D ... D x_n^i|) or zero, with a layer's sign.  B (57)

    ReLU networks of four diagonal layers on seven samples, whose gates are those of the solution. Printed: the inverse
    ratio, without the root.
    """

    def solution(k):
        X, alpha = normal(case, f"samples {k}", 7, 5).clone(), normal(case, f"alpha {k}", 7)
        X[0] = X[0].abs()  # every channel is open for one sample
        x = alpha @ X.relu()  # layers below the last are positive: a gate is open where the input is
        V = runs.diagonal_solution(x, tuple(range(5)), 4, power)
        layers = lambda V: [torch.diag(v) for v in V[:-1]] + [V[-1:]]
        return V, lambda V: alpha @ mlp(layers(V), X)[:, 0]

    return together(
        critical=equal(
            measured=lambda: [(lambda V, f: V * f(V))(*solution(k)) for k in range(5)],
            predicted=lambda: [(lambda V, f: torch.func.grad(f)(V))(*solution(k)) for k in range(5)],
            bound=1e-10, reason="rounding; five draws of five channels",
        ),
        unit=equal(
            measured=lambda: [solution(k)[0].norm(dim=1) for k in range(5)],
            predicted=lambda: [torch.ones(4, dtype=torch.float64) for _ in range(5)],
            bound=1e-10, reason="rounding",
        ),
    )  # fmt: skip
