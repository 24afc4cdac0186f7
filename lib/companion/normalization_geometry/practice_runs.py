"""Twin units, biases, a decaying unit, two ways round a sphere, and whitenings: paper C, section 9."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, jacrev

from claimbook.evidence import Case, shared
from companion.theory_iii.hidden_complexity_control_runs import normal
from normdyn.motion.flows import gradient, integrate
from normdyn.networks.normalizers import batch_norm, layer_norm, normalized_mlp

logistic = lambda margin: torch.nn.functional.softplus(-margin).mean()
unit = lambda u: u / u.norm()

# ------------------------------------------------------------------------------------------------------------ symmetry


@shared
def data(case: Case) -> tuple[Tensor, Tensor]:
    """Sixty points in three dimensions and signs that have nothing to do with them."""
    return normal(case, "points", 60, 3), normal(case, "signs", 60).sign()


@shared
def descended(case: Case, scale: float, twins: bool, outgoing: float = 0.0, incoming: float = 0.0) -> list[Tensor]:
    """Both layers, hidden units first, before each of 1000 steps of mini-batches with momentum, decay and epsilon 1e-5.

    The first two units begin as twins, up to differences in what comes in or goes out; or all weights are scaled.
    """
    X, y = data(case)
    batches, W, V = case.generator("batches"), scale * normal(case, "W", 6, 3), scale * normal(case, "V", 1, 6)
    if twins:
        W[1], V[:, 1] = W[0] + incoming, V[:, 0] + outgoing
    normaliser = lambda z: batch_norm(z, epsilon=1e-5)
    slope = gradient(lambda s, x, t: logistic(t * normalized_mlp([s["W"], s["V"]], x, normalizer=normaliser)[:, 0]))
    params, speed, path = {"W": W, "V": V}, {"W": 0.0 * W, "V": 0.0 * V}, []
    for _ in range(1000):
        path.append(torch.cat([params["W"], params["V"].mT], 1))
        pick = torch.randperm(60, generator=batches)[:20]
        g = slope(params, X[pick], y[pick])
        speed = {n: 0.9 * speed[n] + g[n] + 1e-3 * params[n] for n in params}
        params = {n: params[n] - 0.05 * speed[n] for n in params}
    return path


# -------------------------------------------------------------------------------------------------------------- biases

SHAPE = ((8, 3), (6, 8), (2, 6))


def weights(case: Case) -> list[Tensor]:
    return [normal(case, f"weights {l}", *shape) for l, shape in enumerate(SHAPE)]


def biases(case: Case) -> list[Tensor]:
    """Of both hidden layers; the output has none."""
    return [normal(case, "bias 0", 8), normal(case, "bias 1", 6), torch.zeros(2, dtype=torch.float64)]


def in_training(case: Case, biased: bool, kind: str = "batch") -> Tensor:
    """Outputs by the batch's own statistics."""
    chosen = biases(case) if biased else [0 * b for b in biases(case)]
    normaliser = batch_norm if kind == "batch" else layer_norm
    return normalized_mlp(weights(case), data(case)[0], biases=chosen, normalizer=normaliser)


def at_inference(case: Case, biased: bool, folded: bool = True) -> Tensor:
    """Outputs of fresh points by stored statistics; without biases they are folded into the stored means."""
    stored, fresh = [], normal(case, "fresh", 30, 3)

    def remember(z: Tensor) -> Tensor:
        stored.append((z.mean(0), z.var(0, correction=0)))
        return batch_norm(z)

    normalized_mlp(weights(case), data(case)[0], biases=biases(case), normalizer=remember)
    moved = [(m - b if folded and not biased else m, v) for (m, v), b in zip(stored, biases(case), strict=False)]
    rows = iter(moved)
    chosen = biases(case) if biased else [0 * b for b in biases(case)]
    return normalized_mlp(
        weights(case), fresh, biases=chosen, normalizer=lambda z: batch_norm(z, statistics=next(rows))
    )


def freedom(case: Case, biased: str) -> int:
    """Rank of the outputs' Jacobian in all weights, and in the biases of ``hidden`` layers or of the ``output``.

    That is in how many dimensions the outputs can move; ``none`` counts the weights alone.
    """
    W, b = weights(case), biases(case)
    sizes = [p.numel() for p in (*W, *b)]

    def outputs(flat: Tensor) -> Tensor:
        parts = flat.split(sizes)
        layers = [p.reshape(s) for p, s in zip(parts[:3], SHAPE, strict=True)]
        return normalized_mlp(layers, data(case)[0], biases=parts[3:], activation=torch.tanh)

    J = jacrev(outputs)(torch.cat([p.flatten() for p in (*W, *b)])).flatten(0, 1).split(sizes, dim=1)
    kept = {"none": J[:3], "hidden": J[:5], "output": (*J[:3], J[5])}[biased]
    return int(torch.linalg.matrix_rank(torch.cat(kept, 1), rtol=1e-9))


# --------------------------------------------------------------------------------------------------------------- decay

DECAY = 0.05
TIMES = torch.linspace(0, 40, 81, dtype=torch.float64)


def decaying_loss(case: Case, normalised: bool) -> Callable[[dict[str, Tensor]], Tensor]:
    """A normalised unit with the logistic loss, or a linear model with more weights than equations."""
    X, y = data(case)
    wide = normal(case, "wide", 4, 10)
    if normalised:
        return lambda s: logistic(y * batch_norm((X @ s["w"])[:, None])[:, 0])
    return lambda s: (wide @ s["w"] - 1).square().sum() / 2


@shared
def decayed(case: Case, normalised: bool) -> tuple[Tensor, Tensor]:
    """Norms over their start at :data:`TIMES`, and weights at the last; of the linear model ten times later."""
    slope, start = gradient(decaying_loss(case, normalised)), normal(case, "start", 3 if normalised else 10)
    field = lambda s: {"w": -slope(s)["w"] - DECAY * s["w"]}
    # The normalised unit turns as fast as its length is short, and stands at its minimum long before time 40.
    end = TIMES if normalised else torch.cat([TIMES, 10 * TIMES[-1:]])
    path = integrate(field, {"w": start}, end, relative=1e-9, absolute=1e-12)["w"]
    return path[: len(TIMES)].norm(dim=1) / start.norm(), path[-1]


def rate_of_the_norm(case: Case, normalised: bool) -> Tensor:
    """Rate of the logarithm of the norm over the decay, at the end: zero where a length has been chosen."""
    w = decayed(case, normalised)[1]
    g = gradient(decaying_loss(case, normalised))({"w": w})["w"]
    return ((w @ g) / (w @ w) + DECAY).abs() / DECAY


# -------------------------------------------------------------------------------------------------------------- sphere


def inputs(case: Case, white: bool) -> Tensor:
    """The points centred, and whitened or not."""
    X = data(case)[0] - data(case)[0].mean(0)
    mix = torch.eye(3, dtype=torch.float64) + 0.5 * normal(case, "mix", 3, 3).tril(-1)
    return 60**0.5 * torch.linalg.svd(X, full_matrices=False)[0] @ (torch.eye(3).double() if white else mix.mT)


@shared
def round_the_sphere(case: Case, white: bool, normalised: bool, steps: int = 50) -> Tensor:
    """Unit vectors along descent behind BN with steps 0.1 |w|^2, or along projected descent on the sphere with 0.1."""
    (X, y), w = (inputs(case, white), data(case)[1]), unit(normal(case, "vector", 3))
    behind = grad(lambda u: logistic(y * batch_norm((X @ u)[:, None])[:, 0]))
    plain = grad(lambda u: logistic(y * (X @ u)))
    w, path = (2 * w if normalised else w), []
    for _ in range(steps):
        if normalised:
            w = w - 0.1 * (w @ w) * behind(w)
        else:
            g = plain(w)
            w = unit(w - 0.1 * (g - w * (w @ g)))
        path.append(unit(w))
    return torch.stack(path)


# ------------------------------------------------------------------------------------------------------------ whitening

UNITS, FEATURES = 3, 6


def zca(Z: Tensor) -> Tensor:
    """Centred signals, samples in rows, times the inverse root of their covariance."""
    U, _, V = torch.linalg.svd(Z - Z.mean(0), full_matrices=False)
    return len(Z) ** 0.5 * U @ V


def pca(Z: Tensor) -> Tensor:
    return len(Z) ** 0.5 * torch.linalg.svd(Z - Z.mean(0), full_matrices=False)[0]


def cholesky(Z: Tensor) -> Tensor:
    Z = Z - Z.mean(0)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(Z.mT @ Z / len(Z)), Z.mT, upper=False).mT


@shared
def layer(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Fifty inputs, weights of three units, a rotation of them, and a layer on top."""
    Q = torch.linalg.qr(normal(case, "turn", UNITS, UNITS))[0]
    shapes = {"features": (50, FEATURES), "units": (UNITS, FEATURES), "top": (2, UNITS)}
    X, W, V = (normal(case, name, *shape) for name, shape in shapes.items())
    return X, W, Q, V


def dimension(case: Case, whiten: Callable[[Tensor], Tensor], topped: bool = False) -> int:
    """Dimensions in which whitened signals move with the weights; with a layer on top, less those of that layer."""
    X, W, _, _ = layer(case)
    V = normal(case, "square", UNITS, UNITS)
    if topped:
        after = lambda p: whiten(X @ p[: W.numel()].reshape(W.shape).mT) @ p[W.numel() :].reshape(UNITS, UNITS)
        J = jacrev(after)(torch.cat([W.flatten(), V.flatten()])).flatten(0, 1)
    else:
        J = jacrev(lambda p: whiten(X @ p.mT))(W).reshape(-1, W.numel())
    return int(torch.linalg.matrix_rank(J, rtol=1e-9)) - (V.numel() if topped else 0)
