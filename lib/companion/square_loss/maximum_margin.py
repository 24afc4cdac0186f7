"""What decides appendix C of paper B: the largest margin and the smallest norm, classifiers and interpolants.

Points are samples times labels where the model is linear: ``x`` stands for ``y x``.
"""

import itertools

import torch
from scipy.optimize import minimize
from sklearn.svm import SVC
from torch import Tensor
from torch.func import jacrev

from claimbook.evidence import Case, at_most, claim, equal, shared, tendency, together
from normdyn.networks.graphs import layered_weights, mlp
from normdyn.symmetry.polar import hard_margin


def draw(case: Case, role: str, *shape: int) -> Tensor:
    """Gaussian numbers, one independent stream for each role."""
    return torch.randn(*shape, generator=case.generator(role), dtype=torch.float64)


def unit(x: Tensor) -> Tensor:
    """Rows of length one."""
    return x / x.norm(dim=-1, keepdim=True)


def rows(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def svm(points: Tensor) -> Tensor:
    """Least norm under points.w >= 1, by scikit-learn; mirror images replace the offset."""
    both, labels = torch.cat([points, -points]), [1] * len(points) + [-1] * len(points)
    model = SVC(kernel="linear", C=1e10, tol=1e-10).fit(both.numpy(), labels)
    return rows(model.coef_[0].tolist())


def separable(case: Case, role: str, samples: int = 12, features: int = 4) -> Tensor:
    """Points with a margin of at least 0.2 along a random direction."""
    X, w = draw(case, role, samples, features), unit(draw(case, f"{role} direction", features))
    along = X @ w
    return X + (along.abs() + 0.2 - along)[:, None] * w


# Lemma 2: the two problems have one solution


@shared
def networks(case: Case, spread: float) -> list[tuple[list[Tensor], Tensor, list[Tensor]]]:
    """Layers of unit norm, inputs of length one, hidden biases of a given size; ten ReLU networks of two depths."""
    found = []
    for k in range(5):
        for depth in (2, 3):
            role = f"{k} depth {depth}"
            V = [W / W.norm() for W in layered_weights((4, *[6] * (depth - 1), 1), case.generator(f"layers {role}"))]
            biases = [spread * draw(case, f"bias {l} {role}", len(W)) for l, W in enumerate(V)]
            biases[-1] *= 0
            found.append((V, unit(draw(case, f"inputs {role}", 10, 4)), biases))
    return found


def outputs(V: list[Tensor], X: Tensor, biases: list[Tensor]) -> Tensor:
    """Of unit layers, at samples where they are not almost zero; their signs are the labels."""
    f = mlp(V, X, biases=biases)[:, 0]
    return f[f.abs() > 1e-3]


def least_product(V: list[Tensor], X: Tensor, biases: list[Tensor], of: str) -> float:
    """The least product of norms, all layers scaled alike, that has margins of one or more; by bisection.

    Args:
        of: ``output``, which the norms scale, or ``unit layers``, whose margins no norm changes.
    """
    f, low, high = mlp(V, X, biases=biases)[:, 0], 0.0, 1e4
    for _ in range(120):
        middle = (low + high) / 2
        g = mlp([middle * W for W in V], X, biases=biases)[:, 0] if of == "output" else f
        enough = bool(((g * f.sign())[f.abs() > 1e-3] >= 1).all())
        low, high = (low, middle) if enough else (middle, high)
    return high ** len(V)


def of_layers(q: Tensor, like: list[Tensor]) -> list[Tensor]:
    return [w.view(W.shape) for w, W in zip(q.split([W.numel() for W in like]), like, strict=True)]


def flat(layers: list[Tensor]) -> Tensor:
    return torch.cat([W.flatten() for W in layers])


def constraint(kind: str, of) -> dict:
    """A constraint of scipy's ``minimize`` from a function of a tensor."""
    slope = jacrev(of)
    return {
        "type": kind,
        "fun": lambda q: of(torch.as_tensor(q)).numpy(),
        "jac": lambda q: slope(torch.as_tensor(q)).numpy(),
    }


def least_layers(margins, start: list[Tensor], kind: str) -> tuple[list[Tensor], float]:
    """Layers of least sum of squares with all margins one (``eq``) or more (``ineq``), and that sum.

    Sequential quadratic programs, which know neither of margins on spheres nor of closed forms.
    """
    slack = lambda q: margins(of_layers(q, start)) - 1
    found = minimize(lambda q: q @ q, flat(start).numpy(), jac=lambda q: 2 * q, constraints=constraint(kind, slack),
                     method="SLSQP", options={"maxiter": 1000, "ftol": 1e-14})  # fmt: skip
    return of_layers(torch.as_tensor(found.x), start), found.fun


def most_margin(margins, start: list[Tensor]) -> float:
    """The largest least margin near some layers of unit norm, by sequential quadratic programs on the spheres."""
    V = lambda q: of_layers(q[:-1], start)
    spheres = lambda q: torch.stack([W.square().sum() for W in V(q)]) - 1
    above = lambda q: margins(V(q)) - q[-1]
    first = torch.cat([flat(start), margins(start).amin()[None]]).numpy()
    down = torch.zeros(len(first), dtype=torch.float64)
    down[-1] = -1
    rules = [constraint("eq", spheres), constraint("ineq", above)]
    found = minimize(lambda q: -q[-1], first, jac=lambda q: down.numpy(), constraints=rules, method="SLSQP",
                     options={"maxiter": 1000, "ftol": 1e-14})  # fmt: skip
    return -found.fun


@shared
def solved(case: Case, spread: float) -> list[tuple[float, float, int]]:
    """Two-layer ReLU networks: least sum of squares with margins of one, the most margin near there, and the depth.

    Labels are the signs of the start, which is scaled until its margins are one or more.
    """
    found = []
    for k in range(4):
        X = unit(draw(case, f"task {k}", 6, 3))
        biases = [spread * draw(case, f"task bias {k}", 5), torch.zeros(1, dtype=torch.float64)]
        generator = case.generator(f"start {k}")
        starts = (layered_weights((3, 5, 1), generator) for _ in itertools.count())
        start = next(W for W in starts if mlp(W, X).abs().amin() > 0.05)  # every sample has a sign
        f = mlp(start, X)[:, 0]
        margins = lambda W, X=X, f=f, b=biases: f.sign() * mlp(W, X, biases=b)[:, 0]
        layers, squares = least_layers(margins, [W / f.abs().amin().sqrt() for W in start], "ineq")
        near = [W / W.norm() + 0.01 * draw(case, f"near {k} {l}", *W.shape) for l, W in enumerate(layers)]
        found.append((squares, most_margin(margins, [W / W.norm() for W in near]), len(layers)))
    return found


@claim("B-lem2", printed={"of": "unit layers"}, control={"spread": 0.5})
def margin_and_norm_are_one_problem(case, spread=0.0, of="output"):
    """The direction of the largest margin is that of the least norm with margins of one, and the norm is one over it.

    Printed: margins of one for unit layers, which unit inputs do not allow. Control: hidden biases.
    """
    sets = lambda: [separable(case, f"set {k}") for k in range(10)]
    return together(
        linear=equal(
            measured=lambda: [unit(svm(points)) for points in sets()],
            predicted=lambda: [hard_margin(points)[0] for points in sets()],
            bound=1e-5, reason="stopping of the support vector machine; 10 sets of 12 points",
        ),
        networks=equal(
            measured=lambda: [least_product(*one, of) for one in networks(case, spread)],
            predicted=lambda: [1 / outputs(*one).abs().amin() for one in networks(case, spread)],
            bound=1e-12, reason="bisection to rounding; 10 ReLU networks of two and three layers",
        ),
        solvers=equal(
            measured=lambda: [(squares / depth) ** (depth / 2) for squares, _, depth in solved(case, spread)],
            predicted=lambda: [1 / margin for _, margin, _ in solved(case, spread)],
            bound=1e-5, reason="stopping of two quadratic programs; 4 ReLU networks of two layers",
        ),
    )  # fmt: skip


# Equations (24) and (25): regression and classification


@shared
def problems(case: Case) -> list[Tensor]:
    """Six points in nine dimensions: interpolation is possible, and so is every classification."""
    return [draw(case, f"points {k}", 6, 9) for k in range(100)]


def classifier_norm(points: Tensor) -> Tensor:
    """Least norm with margins of one or more."""
    return 1 / (points @ hard_margin(points)[0]).amin()


def interpolant_norm(points: Tensor, value: float = 1.0) -> Tensor:
    """Least norm with all margins at one value."""
    return value * torch.linalg.pinv(points).sum(1).norm()


@shared
def least_sums(case: Case) -> list[tuple[float, float]]:
    """Least sums of squares of deep linear networks by a solver: interpolating, and classifying from there.

    The best of three starts: a program can stop where it has lost a direction.
    """
    found = []
    for k in range(4):
        points = problems(case)[k]
        for depth in (2, 3):
            margins = lambda W, points=points: mlp(W, points, activation=lambda z: z)[:, 0]
            draw = case.generator(f"deep {k} {depth}")
            starts = [layered_weights((9, *[4] * (depth - 1), 1), draw) for _ in range(3)]
            layers, interpolating = min((least_layers(margins, W, "eq") for W in starts), key=lambda one: one[1])
            found.append((interpolating, least_layers(margins, layers, "ineq")[1]))
    return found


def after_shifting(squares: float, goal: str, depth: int, factor: float = 1e-3) -> float:
    """The goal at the least sum of squares; one layer alone can go on to shrink while another grows."""
    return squares if goal == "sum" else factor**2 * squares / depth


@claim("B-eq24", printed={"goal": "one layer"}, control={"value": 0.5})
def classifiers_are_smaller(case, goal="sum", value=1.0):
    """The least sum of squares of a classifier is not above an interpolant's, and in general below.

    Printed: each layer's norm by itself. Control: an interpolant of one half, which is no classifier of margin one.
    """
    depths = (2, 3) * 4
    deep = lambda norm: [depth * norm(problems(case)[k // 2]) ** (2 / depth) for k, depth in enumerate(depths)]
    found = lambda which: [after_shifting(one[which], goal, depth)
                           for one, depth in zip(least_sums(case), depths, strict=True)]  # fmt: skip
    ratio = lambda: torch.stack([interpolant_norm(p, value) / classifier_norm(p) for p in problems(case)])
    return together(
        regression=equal(
            measured=lambda: found(0), predicted=lambda: deep(interpolant_norm), bound=1e-6,
            reason="stopping of the quadratic program; 8 deep linear networks against their closed form",
        ),
        classification=equal(
            measured=lambda: found(1), predicted=lambda: deep(classifier_norm), bound=1e-6,
            reason="stopping of the quadratic program; 8 deep linear networks against their closed form",
        ),
        larger_class=at_most(
            left=lambda: [classifier_norm(p) for p in problems(case)],
            right=lambda: [interpolant_norm(p, value) for p in problems(case)],
            bound=1e-9, reason="rounding of two exact solvers; 100 linear problems", margin=10.0,
        ),
        different=tendency(effect=lambda: [ratio().log()], reason="100 problems, six points in nine dimensions"),
    )  # fmt: skip


# Observation 4: a classifier does not interpolate

THREE = rows([[0.5, 0, 0], [0, 1, 0], [1, 1, 0.2]])
CELLS = (10, 10), (10, 15), (20, 30)  # points, dimensions: interpolation is possible in all


def independent(case: Case, role: str, samples: int, dimensions: int) -> Tensor:
    """Gaussian points."""
    return draw(case, role, samples, dimensions)


def orthogonal(case: Case, role: str, samples: int, dimensions: int) -> Tensor:
    """Points at right angles, of different lengths."""
    basis = torch.linalg.qr(draw(case, role, dimensions, samples))[0].mT
    return basis * (0.5 + draw(case, f"{role} lengths", samples).abs())[:, None]


def interpolates(points: Tensor) -> bool:
    """Whether all margins of the classifier of least norm are equal."""
    margins = points @ hard_margin(points)[0]
    return bool(margins.amax() < (1 + 1e-6) * margins.amin())


@claim("B-obs4", printed={"norm": 1.0}, control={"points": orthogonal})
def classifiers_do_not_interpolate(case, points=independent, norm=None):
    """The least-norm classifier of margin one leaves points above one, although it could interpolate.

    Printed: margins of one for the network of norm one. Control: orthogonal inputs, all of which are support vectors.
    """
    sets = lambda n, d: [points(case, f"{n} in {d}, {k}", n, d) for k in range(20)]
    example = lambda: svm(THREE) if norm is None else norm * unit(svm(THREE))
    return together(
        example=equal(
            measured=lambda: [example(), THREE @ example()],
            predicted=lambda: [rows([2.0, 1, 0]), rows([1.0, 1, 3])],
            bound=1e-6, reason="stopping of the support vector machine; three points, solved by hand",
        ),
        general=tendency(
            effect=lambda: [rows([-1.0 if interpolates(p) else 1.0 for p in sets(*cell)]) for cell in CELLS],
            reason="20 sets a cell: +1 where a margin exceeds one; 10 points in 10 and 15 dimensions, 20 in 30",
        ),
    )  # fmt: skip


# Ours: more dimensions, more support vectors

DIMENSIONS = (10, 15, 25, 50, 100, 250, 1000)


@shared
def supports(case: Case, samples: int = 10, count: int = 8) -> tuple[Tensor, Tensor]:
    """Share of support vectors, and norm of classifier over that of interpolant, by dimension; means of draws."""
    shares, ratios = [], []
    for dimension in DIMENSIONS:
        sets = [draw(case, f"support {dimension} {k}", samples, dimension) for k in range(count)]
        shares.append(sum((hard_margin(p)[1] > 1e-9).double().mean().item() for p in sets) / count)
        ratios.append(sum((classifier_norm(p) / interpolant_norm(p)).item() for p in sets) / count)
    return rows(shares), rows(ratios)
