"""What decides appendix H of paper B: layers that equal their derivatives, and the matrices proposed for them.

Runs are in :mod:`companion.square_loss.weight_constraints_runs`.
"""

import math

import torch
from torch import Tensor

from claimbook.evidence import at_most, claim, counterexample, equal, tendency, together
from companion.square_loss import weight_constraints_runs as runs
from companion.square_loss.weight_constraints_runs import Witness, identity, normal, orthogonal
from normdyn.networks.graphs import mlp

ROUNDING = "rounding; networks of five draws"


def flat(values: list[Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in values])


# The derivative by a layer


@claim("B-eq51", control=[{"gates": -1.0}, {"activation": torch.tanh}])
def two_factors(case, gates=1.0, activation=torch.relu):
    """f = a' V_k b and df/dV_k = a b' with the gates of x, and the sum over entries of V_k df/dV_k is f.  B (50), (51)

    In all layers. Controls: the gates of -x; tanh.
    """
    pairs = lambda V, x: runs.halves(V, x, gates_of=gates * x).pairs
    return together(
        output=equal(
            measured=lambda: [torch.stack([a @ W @ b for W, (a, b) in zip(V, pairs(V, x), strict=True)])
                              for V, x in runs.drawn(case)],
            predicted=lambda: [mlp(V, x[None]).expand(1, 4)[0] for V, x in runs.drawn(case)],
            bound=1e-12, reason=ROUNDING,
        ),
        derivative=equal(
            measured=lambda: [flat([d[0] for d in runs.slopes(V, x[None])]) for V, x in runs.drawn(case)],
            predicted=lambda: [torch.cat([torch.outer(a, b).flatten() for a, b in pairs(V, x)])
                               for V, x in runs.drawn(case)],
            bound=1e-12, reason=ROUNDING,
        ),
        sum=equal(
            measured=lambda: [
                torch.stack([(d[0] * W).sum() for d, W in zip(runs.slopes(V, x[None], activation), V, strict=True)])
                for V, x in runs.drawn(case)
            ],
            predicted=lambda: [mlp(V, x[None], activation=activation).expand(1, 4)[0] for V, x in runs.drawn(case)],
            bound=1e-12, reason=ROUNDING,
        ),
    )  # fmt: skip


@claim("B-eq56", control={"order": "ji"})
def an_entry_is_a_product(case, order="ij"):
    """Entry (i, j) of df/dW_k is a number from column i of layer k+1 times one from row j of layer k-1.  B (56)

    Inner layers of ReLU networks. Control: i and j exchanged.
    """

    def product(V, x, k):
        below = x
        for W in V[: k - 1]:
            below = (W @ below).relu()
        row = (V[k - 1] @ below).relu()  # row j of layer k - 1
        above, z, gates = V[-1][0], row, []
        for W in V[k:-1]:
            z = (W @ z).relu()
            gates.append(z > 0)
        for W, gate in zip(V[-2:k:-1], gates[:0:-1], strict=True):
            above = (above * gate) @ W  # column i of layer k + 1
        return torch.einsum(f"i,j->{order}", above * gates[0], row)

    return equal(
        measured=lambda: [runs.slopes(V, x[None])[k][0] for V, x in runs.drawn(case) for k in (1, 2)],
        predicted=lambda: [product(V, x, k) for V, x in runs.drawn(case) for k in (1, 2)],
        bound=1e-12, reason=ROUNDING,
    )  # fmt: skip


# The constraint


def layer_times_output(one: Witness) -> Tensor:
    """V_k f_n of all layers and samples."""
    f = mlp(one.V, one.X, activation=one.activation)[:, 0]
    return torch.cat([(f[:, None, None] * v).flatten() for v in one.V])


def by_differentiation(one: Witness) -> Tensor:
    return flat(runs.slopes(one.V, one.X, one.activation))


def by_hand(one: Witness) -> Tensor:
    """Products of the factors from above and from below, of all layers and samples."""
    every = [runs.halves(one.V, x, one.activation).pairs for x in one.X]
    return flat([torch.stack([torch.outer(*pairs[k]) for pairs in every]) for k in range(len(one.V))])


def violation(one: Witness, derivative) -> Tensor:
    """Largest entry of what is missing over the largest of the derivatives."""
    seen = derivative(one)
    return (layer_times_output(one) - seen).abs().max() / seen.abs().max()


def tangent(one: Witness) -> Tensor:
    """Slopes of the loss along the unit layers: what descent goes by."""
    f = mlp(one.V, one.X, activation=one.activation)[:, 0]
    left = runs.length(f, one.y, runs.SMALL) * f - one.y
    slopes = [torch.einsum("n,nij->ij", left, d) for d in runs.slopes(one.V, one.X, one.activation)]
    return flat([s - (s * v).sum() * v for s, v in zip(slopes, one.V, strict=True)])


def mean_loss(one: Witness) -> Tensor:
    """Loss a sample; that of the zero function is one."""
    return runs.reduced_loss(mlp(one.V, one.X, activation=one.activation)[:, 0], one.y, runs.SMALL) / len(one.y)


@claim("B-eq48", control={"collinear": True})
def layers_equal_their_derivatives(case, collinear=False):
    """At convergence V_k f_n = df_n/dV_k for all layers and all training samples.  B (48), (40)

    Witnesses: global minima of linear networks and critical points of ReLU networks. Control: inputs on one line.
    """
    return counterexample(
        equal(
            measured=lambda: [layer_times_output(one) for one in runs.critical(case, collinear)],
            predicted=lambda: [by_differentiation(one) for one in runs.critical(case, collinear)],
            bound=1e-10, reason="rounding of a closed form; ten critical points, five linear and five ReLU",
        ),
        exact=lambda: [violation(one, by_hand) for one in runs.critical(case, collinear)],
        at_rest=equal(
            measured=lambda: [tangent(one) for one in runs.critical(case, collinear)],
            predicted=lambda: [0.0 for _ in runs.critical(case, collinear)],
            scale=lambda: [1.0 for _ in runs.critical(case, collinear)],
            bound=1e-12, reason="rounding of a closed form",
        ),
        small_loss=at_most(
            left=lambda: [mean_loss(one) for one in runs.critical(case, collinear)],
            right=lambda: [0.1 for _ in runs.critical(case, collinear)],
            bound=1e-9, reason="a tenth of the loss of the zero function",
        ),
    )  # fmt: skip


@claim("B-eq11", control={"collinear": True})
def layers_equal_their_factors(case, collinear=False):
    """At a critical point of small loss V_k f = [V_L D ... D_k]' [D_{k-1} ... V_1 x], read as an outer product.  B (11)

    The same critical points. Control: inputs on one line.
    """
    return counterexample(
        equal(
            measured=lambda: [layer_times_output(one) for one in runs.critical(case, collinear)],
            predicted=lambda: [by_hand(one) for one in runs.critical(case, collinear)],
            bound=1e-10, reason="rounding of a closed form; ten critical points, five linear and five ReLU",
        ),
        exact=lambda: [violation(one, by_differentiation) for one in runs.critical(case, collinear)],
        at_rest=equal(
            measured=lambda: [tangent(one) for one in runs.critical(case, collinear)],
            predicted=lambda: [0.0 for _ in runs.critical(case, collinear)],
            scale=lambda: [1.0 for _ in runs.critical(case, collinear)],
            bound=1e-12, reason="rounding of a closed form",
        ),
        small_loss=at_most(
            left=lambda: [mean_loss(one) for one in runs.critical(case, collinear)],
            right=lambda: [0.1 for _ in runs.critical(case, collinear)],
            bound=1e-9, reason="a tenth of the loss of the zero function",
        ),
    )  # fmt: skip


@claim("B-H-D-identity", printed={"off": True})
def gates_may_be_dropped(case, off=False):
    """A solution with gates and f nonzero solves the constraint without gates; the converse fails.  B H

    Printed: also a network that is switched off at the sample. The converse: layers (c, -s)' and (c, -s) at x = 1.
    """

    def found():
        if not off:
            return [Witness(V, x[None], x, identity) for V, x in runs.solutions(case)]
        return [Witness([-V[0].abs(), *V[1:]], x[None].abs(), x, identity) for V, x in runs.drawn(case)]

    angles = (0.3, 0.8, 1.2)

    def residual(angle):
        w = torch.tensor([[math.cos(angle)], [-math.sin(angle)]], dtype=torch.float64)
        x = torch.ones(1, 1, dtype=w.dtype)
        return (w * mlp([w, w.mT], x) - runs.slopes([w, w.mT], x)[0][0]).norm()

    return together(
        dropped=equal(
            measured=lambda: [layer_times_output(one) for one in found()],
            predicted=lambda: [by_differentiation(one) for one in found()],
            bound=1e-12, reason="rounding; solutions of five ReLU networks of four layers",
        ),
        converse=equal(
            measured=lambda: [residual(angle) for angle in angles],
            predicted=lambda: [abs(math.sin(angle) * math.cos(angle)) for angle in angles],
            bound=1e-12, reason="rounding; the linear solution misses with rectifiers by this much",
        ),
    )  # fmt: skip


@claim("B-H-gates-on", control={"positive": True})
def first_gates_open(case, positive=False):
    """Units end up open on the whole training set, more than half of those of the first layer at least.  B H

    Width eight, no more than the samples; networks that classify all of them. Control: nothing negative at the start.
    """
    cells = [("layers", 8), ("layers", 10), ("rows", 8)]
    return tendency(
        effect=lambda: [runs.gates(case, *cell, positive).open - 0.5 for cell in cells],
        reason="layers or rows normalised, 8 or 10 samples; those of 16 starts that have fitted after 200 steps",
    )


@claim("O-layers-and-derivatives", control=[{"activation": torch.tanh}, {"swept": False}])
def defect_of_a_layer(case, activation=torch.relu, swept=True):
    """|V_k - df/dV_k/f|^2 = |df/dV_k|^2/f^2 - 1 for unit layers, and |f| = |x| where it vanishes in all layers.

    The first at drawn ReLU networks, the second after one sweep. Controls: tanh; no sweep.
    """
    some = lambda: [(V, x, mlp(V, x[None], activation=activation)[0, 0]) for V, x in runs.drawn(case)]
    slopes = lambda V, x: [d[0] for d in runs.slopes(V, x[None], activation)]
    solved = lambda: runs.solutions(case) if swept else runs.drawn(case)
    return together(
        defect=equal(
            measured=lambda: [
                torch.stack([(W - d / f).square().sum() for W, d in zip(V, slopes(V, x), strict=True)])
                for V, x, f in some()
            ],
            predicted=lambda: [
                torch.stack([a.square().sum() * b.square().sum() / f**2 - 1 for a, b in runs.halves(V, x).pairs])
                for V, x, f in some()
            ],
            bound=1e-11, reason="rounding of small outputs; five networks of four layers",
        ),
        largest=equal(
            measured=lambda: [mlp(V, x[None]).abs()[0, 0] for V, x in solved()],
            predicted=lambda: [x.norm() for _, x in solved()],
            bound=1e-12, reason="rounding",
        ),
    )  # fmt: skip


# Projections


@claim("B-H1", printed={"rank": 3}, control={"inside": False})
def projections_on_the_line(case, rank=1, inside=True):
    """V_1 = ... = V_{L-1} = x x'/|x|^2 and V_L = x'/|x| solve the constraint for inputs on the line of x.  B (53), (54)

    Linear. Printed: a projection of any rank, here three, with all inputs in its range. Control: another line.
    """
    return equal(
        measured=lambda: [layer_times_output(one) for one in runs.projections(case, rank, inside)],
        predicted=lambda: [by_hand(one) for one in runs.projections(case, rank, inside)],
        bound=1e-12, reason=ROUNDING,
    )  # fmt: skip


@claim("B-H1-recurrent", printed={"rest": runs.turning}, control={"activation": torch.relu})
def sharing_changes_nothing(case, rest=None, activation=identity):
    """Linear networks with and without sharing of inner layers have one function at their lowest losses.  B H.1

    It is the ridge regression. Printed: at any rest, such as that of three shared layers that turn a plane, a local
    minimum. Control: ReLU.
    """
    reached = lambda: rest(case) if rest else runs.shared_or_not(case, True, activation)
    free = lambda: runs.shared_or_not(case, False, activation)
    fresh = lambda: normal(case, "fresh", 50, 6)

    def outputs(one):
        out = lambda Z: mlp(one.V, Z, activation=activation)[:, 0]
        return runs.length(out(one.X), one.y) * out(fresh())

    def ridge(one):
        kernel = one.X @ one.X.mT + runs.DECAY * torch.eye(len(one.X), dtype=one.X.dtype)
        return fresh() @ one.X.mT @ torch.linalg.solve(kernel, one.y)

    return together(
        recurrent=equal(
            measured=lambda: [outputs(one) for one in reached()],
            predicted=lambda: [ridge(one) for one in reached()],
            bound=1e-4, reason="a gradient of 1e-8 leaves 1e-6; 50 fresh inputs, three and four layers",
        ),
        feedforward=equal(
            measured=lambda: [outputs(one) for one in free()],
            predicted=lambda: [ridge(one) for one in free()],
            bound=1e-4, reason="a gradient of 1e-8 leaves 1e-6; 50 fresh inputs, three and four layers",
        ),
    )  # fmt: skip


# Orthogonal matrices


@claim("B-H2", control={"p": 1})
def orthogonal_layers_solve(case, p=5):
    """Four orthogonal layers are proportional to their derivatives: V_3 to df/dV_3, printed as V_4'(V_2 V_1)'.  B H.2

    First for the output along a direction and one input, then as printed. Control: one unit a layer.
    """

    def net(k):
        V = [orthogonal(case, f"layer {k} {l}", p) for l in range(4)]
        return V, normal(case, f"input {k}", p), normal(case, f"direction {k}", p)

    def nearest(V, seen):
        return (V * seen).sum() / seen.square().sum() * seen

    def derivative(k):
        V, x, y = net(k)
        return torch.func.grad(lambda W: y @ (V[3] @ (W @ (V[1] @ (V[0] @ x)))))(V[2])

    def product(k):
        V = net(k)[0]
        return V[3].mT @ (V[1] @ V[0]).mT

    def missing(V, seen):
        cosine = (V * seen).sum() / (V.norm() * seen.norm())  # of the angle between layer and derivative
        gap = V - cosine * V.norm() / seen.norm() * seen
        return gap.abs().max() / (cosine * V.norm() / seen.norm() * seen).abs().max()

    def exactly(k):
        V, x, y = net(k)
        from_above, from_below = (
            torch.linalg.solve(V[3], y),
            torch.linalg.solve(V[3] @ V[2], V[3] @ V[2] @ V[1] @ V[0] @ x),
        )
        return [missing(V[2], torch.outer(from_above, from_below)), missing(V[2], torch.linalg.inv(V[1] @ V[0] @ V[3]))]

    return counterexample(
        equal(
            measured=lambda: [net(k)[0][2] for k in range(5) for _ in range(2)],
            predicted=lambda: [nearest(net(k)[0][2], f(k)) for k in range(5) for f in (derivative, product)],
            bound=1e-12, reason=ROUNDING,
        ),
        exact=lambda: [value for k in range(5) for value in exactly(k)],
        orthogonal=equal(
            measured=lambda: [W @ W.mT for k in range(5) for W in net(k)[0]],
            predicted=lambda: [torch.eye(p, dtype=torch.float64) for k in range(5) for _ in range(4)],
            bound=1e-12, reason="rounding",
        ),
    )  # fmt: skip


@claim("B-H2-symmetry", control=[{"general": True}, {"inverse": False}, {"penalised": False}])
def penalty_leaves_the_orthogonal_group(case, general=False, inverse=True, penalised=True):
    """V -> G V, W -> W G^-1 leaves a linear network alone; the squared norms leave orthogonal G and no others.  B H.2

    Penalties at forty weights have slopes along the group that span all symmetric generators. Controls: a general G in
    the penalty; G for its inverse; no penalty.
    """
    back = lambda G: G.inverse() if inverse else G
    weights = lambda k: (normal(case, f"V {k}", 5, 4), normal(case, f"W {k}", 2, 5))
    change = lambda k: normal(case, f"G {k}", 5, 5) if general else orthogonal(case, f"Q {k}", 5)

    def size(V, W, G):
        return penalised * ((G @ V).square().sum() + (W @ G.inverse()).square().sum())

    def slopes():
        unity = torch.eye(5, dtype=torch.float64)
        return torch.stack([torch.func.grad(lambda G, k=k: size(*weights(k), G))(unity).flatten() for k in range(40)])

    return together(
        function=equal(
            measured=lambda: [mlp([G @ weights(k)[0], weights(k)[1] @ back(G)], normal(case, f"X {k}", 6, 4),
                                  activation=identity) for k in range(5) for G in [normal(case, f"G {k}", 5, 5)]],
            predicted=lambda: [mlp(weights(k), normal(case, f"X {k}", 6, 4), activation=identity) for k in range(5)],
            bound=1e-10, reason="rounding of a random inverse",
        ),
        penalty=equal(
            measured=lambda: [size(*weights(k), change(k)) for k in range(5)],
            predicted=lambda: [penalised * sum(w.square().sum() for w in weights(k)) for k in range(5)],
            bound=1e-10, reason="rounding of a random inverse",
        ),
        no_other=equal(
            measured=lambda: torch.linalg.matrix_rank(slopes(), atol=1e-9).double(),
            predicted=lambda: 5 * 6 / 2,
            bound=1e-9, reason="a count; singular values lie above 0.1 or at rounding",
        ),
    )  # fmt: skip
