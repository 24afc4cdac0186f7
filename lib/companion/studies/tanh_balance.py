r"""Balance and norms of a tanh network under gradient descent with weight decay, with all that moves them.

Figures 1c, 1d, 2a and 2b of Singh, Compagnoni and Orvieto. With :math:`U_\ell=G_{\ell+1}W_{\ell+1}` what comes down to
the activations :math:`\phi(Z_\ell)`, the defect of the coordinate-wise activation at a junction is the matrix

.. math:: C_\ell = (U_\ell\odot\phi'(Z_\ell))^\top Z_\ell - U_\ell^\top\phi(Z_\ell),

zero for the identity; its trace is zero for every activation of order one. With it both laws are exact for one step:

.. math:: B' &= (1-\eta\delta)^2B-\eta(1-\eta\delta)(C+C^\top)+\eta^2(g_\ell g_\ell^\top-g_{\ell+1}^\top g_{\ell+1}),\\
   \frac{\|W_\ell'\|^2-\|W_\ell\|^2}{\eta} &= 2\langle f,-\nabla_fL\rangle-2\sum_{j\ge\ell}\mathrm{tr}\,C_j
   -2\delta\|W_\ell\|^2+\eta\|g_\ell+\delta W_\ell\|^2 .

Both corrections are ours.
"""

import hashlib
import time
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor
from torch.nn import functional as F

from claimbook.show import results
from normdyn.data import sets as data
from normdyn.networks.chains import Signals, chain, signals
from normdyn.networks.graphs import layered_weights
from normdyn.networks.losses import cross_entropy, square_loss
from normdyn.norms.laws import alignment, gramian_balance, gramian_balance_step

ACTIVATIONS = {"tanh": torch.tanh, "identity": lambda z: z, "gelu": F.gelu}
LOSSES = ("square", "cross-entropy")
SOURCES = ["companion.studies.tanh_balance"]
SOURCES += [
    f"normdyn.{name}" for name in ("networks.chains", "networks.losses", "networks.graphs", "norms.laws", "data.sets")
]


@dataclass(frozen=True)
class Setup:
    """Every choice of a run; sizes, rate and decay are the paper's.

    Args:
        loss: ``square`` is half the squared distance from one-hot targets, ``cross-entropy`` takes logits.
        loss_scale: Factor of the loss. Averaging the square loss over c outputs as well is 2 / c.
        target_scale: Factor of the one-hot targets of the square loss.
        logit_scale: Factor of the output inside the cross-entropy.
        input_scale: Factor of the standardised inputs.
        gain: Variance of a weight times fan in; a third is that of torch's default layers.
        every: Steps between records. sharpness_every: Records between measurements of the sharpness, 0 for none.
    """

    images: int = 512
    hidden: tuple[int, ...] = (1024, 512, 256)
    activation: str = "tanh"
    loss: str = "square"
    loss_scale: float = 1.0
    target_scale: float = 1.0
    logit_scale: float = 1.0
    input_scale: float = 1.0
    gain: float = 1 / 3
    learning_rate: float = 0.01
    weight_decay: float = 0.075
    steps: int = 1000
    every: int = 10
    sharpness_every: int = 0
    seed: int = 0

    def __post_init__(self):
        for name, choices in {"activation": tuple(ACTIVATIONS), "loss": LOSSES}.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown, choose among {', '.join(choices)}")
        if not (self.learning_rate > 0 and self.steps >= 1 and self.every >= 1 and self.hidden):
            raise ValueError("learning_rate, steps and every must be positive, hidden must name a layer")

    def objective(self, targets: Tensor):
        """The loss as a function of the output."""
        if self.loss == "square":
            return lambda f: self.loss_scale * square_loss(f, self.target_scale * targets)
        labels = targets.argmax(1)
        return lambda f: self.loss_scale * cross_entropy(self.logit_scale * f, labels)


def prepare(dataset: data.Dataset, setup: Setup, *, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Inputs, standardised by feature over the images drawn, and one-hot targets."""
    draw = torch.Generator().manual_seed(1000 * setup.seed)
    chosen = data.flatten(data.draw_samples(dataset, setup.images, generator=draw))
    inputs = data.standardize_dataset(chosen, data.feature_statistics(chosen)).inputs
    return setup.input_scale * inputs.to(dtype), F.one_hot(chosen.labels, len(dataset.names)).to(dtype)


def initial_weights(setup: Setup, X: Tensor, Y: Tensor) -> list[Tensor]:
    """Gaussian layers, drawn with the setup's seed."""
    widths = (X.shape[1], *setup.hidden, Y.shape[1])
    return layered_weights(widths, torch.Generator().manual_seed(1000 * setup.seed + 1), gain=setup.gain, dtype=X.dtype)


def run(setup: Setup, X: Tensor, Y: Tensor) -> dict[str, Tensor]:
    r"""Train by full-batch gradient descent in the precision of the inputs.

    Returns:
        One row for each record. ``step``, ``loss``, ``correct``; for each layer ``squares``, ``quotient`` and its
        causes ``flow``, ``decay``, ``defect``, ``own_step``; for each junction ``largest`` :math:`\max|B|`,
        ``departure`` (largest entry of B without its predicted factor, less the start, over the largest of the
        start), ``source`` :math:`\max|C+C^\top|`, ``law`` (largest error of the exact law of B over the step's largest
        change), ``order`` (effective, :math:`\langle G_\ell,Z_\ell\rangle/\langle G_{\ell+1},Z_{\ell+1}\rangle`),
        ``local_order`` (mean of :math:`z\phi'/\phi`) and ``field`` (root mean square of z). And ``sharpness`` at
        ``sharp_step``.
    """
    weights, rows, sharp = initial_weights(setup, X, Y), [], []
    loss, activations = setup.objective(Y), [ACTIVATIONS[setup.activation]] * len(setup.hidden)
    kept = 1 - setup.learning_rate * setup.weight_decay
    start = _balances(weights)
    for step in range(setup.steps):
        s = signals(loss, weights, X, activations)
        moved = [kept * W - setup.learning_rate * g for W, g in zip(weights, s.gradients, strict=True)]
        if step % setup.every == 0:
            row = {"step": torch.tensor(step), "loss": s.loss, "correct": _correct(s.output, Y)}
            row |= _norm_terms(setup, s, weights, moved) | _balance_terms(setup, s, weights, moved, start, step)
            rows.append(row)
            if setup.sharpness_every and len(rows) % setup.sharpness_every == 1 % setup.sharpness_every:
                sharp.append((step, sharpness(lambda w: loss(chain(w, X, activations)), weights)))
        weights = moved
    recorded = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return recorded | {
        "sharp_step": torch.tensor([n for n, _ in sharp], dtype=torch.int64),
        "sharpness": torch.tensor([value for _, value in sharp], dtype=torch.float64),
    }


def defect(s: Signals, weights: list[Tensor], activation) -> list[Tensor]:
    """The matrices C, one a junction, from fields and their gradients alone; no weight's gradient enters."""
    above = [G @ W for G, W in zip(s.field_gradients[1:], weights[1:], strict=True)]
    below = zip(s.fields, s.field_gradients, above, strict=False)
    return [G.mT @ Z - U.mT @ activation(Z) for Z, G, U in below]


def sharpness(loss, weights: list[Tensor]) -> float:
    """Largest eigenvalue of the loss's Hessian in all weights, to three digits."""
    shapes = [W.shape for W in weights]
    split = lambda v: [p.reshape(s) for p, s in zip(v.split([s.numel() for s in shapes]), shapes, strict=True)]
    flat = torch.cat([W.flatten() for W in weights])
    gradient = torch.func.grad(lambda v: loss(split(v)))
    product = lambda v: torch.func.jvp(gradient, (flat,), (torch.tensor(v, dtype=flat.dtype).flatten(),))[1].numpy()
    hessian = LinearOperator((len(flat), len(flat)), matvec=product, dtype=np.float64)
    return float(eigsh(hessian, k=1, which="LA", tol=1e-3, v0=np.ones(len(flat)), ncv=8, return_eigenvectors=False)[0])


def relative_balance(result: dict[str, Tensor], setup: Setup) -> Tensor:
    r"""Largest entry of B over that of the start and over :math:`e^{-2\delta t}`: 1 if Theorem 1 holds."""
    decay = torch.exp(-2 * setup.weight_decay * setup.learning_rate * result["step"])
    return result["largest"] / result["largest"][0] / decay[:, None]


def store(setup: Setup, dataset: data.Dataset, name: str, **options) -> None:
    """Run a setup in float32 and store the result with its provenance."""
    clock, key = time.perf_counter(), results.code_key(SOURCES)
    result = run(setup, *prepare(dataset, setup, dtype=torch.float32))
    files = "".join(f"{file} {digest}\n" for file, digest in sorted(dataset.provenance["files"].items()))
    results.save(
        result, name, setup=setup, seeds=setup.seed, seconds=time.perf_counter() - clock, device="cpu, one thread",
        data_sha256=hashlib.sha256(files.encode()).hexdigest(), sources=SOURCES, key=key, **options,
    )  # fmt: skip


def _norm_terms(setup: Setup, s: Signals, weights: list[Tensor], moved: list[Tensor]) -> dict[str, Tensor]:
    """Quotient of each layer's squared norm and the terms of its exact law; sums in float64."""
    traces = torch.stack([C.diagonal().double().sum() for C in defect(s, weights, ACTIVATIONS[setup.activation])])
    above = torch.cat([traces.flip(0).cumsum(0).flip(0), traces.new_zeros(1)])
    squares, after = _squares(weights), _squares(moved)
    full = [g + setup.weight_decay * W for g, W in zip(s.gradients, weights, strict=True)]
    return {
        "squares": squares,
        "quotient": (after - squares) / setup.learning_rate,
        "flow": (2 * alignment(s.output.double(), s.output_gradient.double())).expand(len(weights)),
        "decay": -2 * setup.weight_decay * squares,
        "defect": -2 * above,
        "own_step": setup.learning_rate * _squares(full),
    }


def _balance_terms(setup, s: Signals, weights, moved, start, step: int) -> dict[str, Tensor]:
    """Largest entries of the balance, their departure from the predicted factor, and the exact law's error."""
    rate, kept = setup.learning_rate, 1 - setup.learning_rate * setup.weight_decay
    pairs = zip(s.gradients, s.gradients[1:], strict=False)
    matrices, before, after = defect(s, weights, ACTIVATIONS[setup.activation]), _balances(weights), _balances(moved)
    law = []
    for B, C, (g, h), new in zip(before, matrices, pairs, after, strict=True):
        predicted = gramian_balance_step(B, g, h, learning_rate=rate, weight_decay=setup.weight_decay)
        predicted = predicted - rate * kept * (C + C.mT)
        law.append((new - predicted).abs().max() / (new - B).abs().max())
    pull = torch.stack([(G * Z).sum() for G, Z in zip(s.field_gradients, s.fields, strict=True)])
    peak = lambda matrices: torch.stack([M.abs().max() for M in matrices])
    departed = [B / kept ** (2 * step) - B0 for B, B0 in zip(before, start, strict=True)]
    return {
        "largest": peak(before),
        "departure": peak(departed) / peak(start),
        "source": peak([C + C.mT for C in matrices]),
        "law": torch.stack(law),
        "order": pull[:-1] / pull[1:],
        "local_order": torch.stack([_local_order(Z, setup.activation).mean() for Z in s.fields[:-1]]),
        "field": torch.stack([Z.square().mean().sqrt() for Z in s.fields[:-1]]),
    }


def _local_order(Z: Tensor, activation: str) -> Tensor:
    r""":math:`z\phi'(z)/\phi(z)` for each entry; for tanh it is :math:`2z/\sinh 2z`."""
    value, slope = torch.func.jvp(ACTIVATIONS[activation], (Z,), (torch.ones_like(Z),))
    return torch.where(Z == 0, torch.ones_like(Z), Z * slope / value)


def _balances(weights: list[Tensor]) -> list[Tensor]:
    return [gramian_balance(W, V) for W, V in zip(weights, weights[1:], strict=False)]


def _squares(tensors: list[Tensor]) -> Tensor:
    return torch.stack([tensor.double().square().sum() for tensor in tensors])


def _correct(output: Tensor, Y: Tensor) -> Tensor:
    return (output.argmax(1) == Y.argmax(1)).to(output.dtype).mean()


def main() -> None:
    """Both losses at the paper's sizes: ``NORMDYN_DATA=... python -m companion.studies.tanh_balance``."""
    torch.set_num_threads(1)
    for loss in LOSSES:
        store(Setup(loss=loss, sharpness_every=33), data.mnist("test"), f"tanh-balance-{loss}")


if __name__ == "__main__":
    main()
