r"""Stacks of small networks with and without normalisation, trained together by plain descent: experiments 1 and 2.

Paper C describes a linear unit on two separable classes and a network of three hidden layers on a regression, and
leaves out nearly every number. Here all of them are arguments: learning rates and initial scales are two dimensions of
one stack, the seeds are the third, and each seed may have data of its own.

For weights that the loss sees by direction only, a step lies at right angles to them (equation 5.1's exact form):

.. math:: \|w_{t+1}\|^2=\|w_t\|^2+\eta^2\|g_t\|^2 .
"""

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from sklearn.datasets import make_blobs, make_moons
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F

from companion.studies.stacks import Device, Params, along, gradients, leaves, move, orders, require, unfold
from normdyn.networks.normalizers import batch_norm, layer_norm

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "identity": lambda z: z}
LOSSES = {"square": lambda f, y: (f - y).square() / 2, "logistic": lambda f, y: F.softplus(-y * f)}
NORMALIZERS = {"none": lambda z, epsilon: z, "batch": lambda z, epsilon: batch_norm(z, epsilon=epsilon),
               "layer": lambda z, epsilon: layer_norm(z, epsilon=epsilon)}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Setup:
    """One stack of networks: one for each scale, learning rate and seed, in this order.

    Args:
        scales: Factors on the initial weights, which are Gaussian of variance ``1 / fan_in``.
        learning_rates: Of descent without momentum.
        seeds: One draw of the weights for each, shared by all scales and rates.
        hidden, width: Hidden layers and their units; with no hidden layer the network is a linear unit.
        normalizer: ``none``, ``batch`` or ``layer``, in front of each activation, without biases before it.
        affine: Give each hidden unit a trained shift, and a gain if it is normalised; without normalisation the shift
            is a bias.
        normalize_output: Normalise the output as well (over the batch).
        gain: Multiply the output by a trained number that starts at one.
        shift: Add a trained number that starts at zero to the output.
        activation, loss: ``relu``, ``tanh`` or ``identity``; ``square`` (half the square) or ``logistic`` (labels +-1).
        epsilon: Of the normalisation.
        steps: Of descent on all samples, or on ``batch`` of them drawn without replacement at each step.
    """

    scales: tuple[float, ...] = (1.0,)
    learning_rates: tuple[float, ...] = (0.1,)
    seeds: tuple[int, ...] = tuple(range(20))
    hidden: int = 3
    width: int = 10
    normalizer: str = "batch"
    affine: bool = True
    normalize_output: bool = False
    gain: bool = False
    shift: bool = False
    activation: str = "tanh"
    loss: str = "square"
    epsilon: float = 0.0
    steps: int = 100
    batch: int | None = None

    def __post_init__(self):
        require(self, filled=("scales", "learning_rates", "seeds"), at_least_one=("width", "steps"))
        if self.hidden < 0 or self.epsilon < 0:
            raise ValueError(f"hidden and epsilon must not be negative, got {self.hidden} and {self.epsilon}")
        if not min(*self.scales, *self.learning_rates, 1) > 0:
            raise ValueError(f"scales and learning_rates must be positive, got {self.scales}, {self.learning_rates}")
        for name, table in (("normalizer", NORMALIZERS), ("activation", ACTIVATIONS), ("loss", LOSSES)):
            if getattr(self, name) not in table:
                raise ValueError(f"{name} must be one of {sorted(table)}, got {getattr(self, name)!r}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of scales, learning rates and seeds: what the stacked dimension unfolds to."""
        return len(self.scales), len(self.learning_rates), len(self.seeds)


def initialize(setup: Setup, inputs: int, dtype: torch.dtype = torch.float64) -> Params:
    """Stacked weights ``W1`` on, ``(k, fan_out, fan_in)``.

    Where the setup has them: ``b1`` and ``g1`` on, ``(k, width)``, ``gain`` and ``shift``, ``(k,)``.
    """
    generators = [torch.Generator().manual_seed(1000 * seed + 1) for seed in setup.seeds]
    scales = torch.tensor(setup.scales, dtype=torch.float64)[:, None, None, None, None]
    params, fan_in = {}, inputs
    for l in range(1, setup.hidden + 2):
        fan_out = 1 if l == setup.hidden + 1 else setup.width
        draws = [torch.randn(fan_out, fan_in, generator=g, dtype=torch.float64) / fan_in**0.5 for g in generators]
        W = (scales * torch.stack(draws)).expand(*setup.shape, -1, -1)
        params[f"W{l}"] = W.reshape(-1, fan_out, fan_in).to(dtype)
        fan_in = fan_out
    k = len(params["W1"])
    for l in range(1, setup.hidden + 1) if setup.affine else ():
        params[f"b{l}"] = torch.zeros(k, setup.width, dtype=dtype)
        params |= {f"g{l}": torch.ones(k, setup.width, dtype=dtype)} if setup.normalizer != "none" else {}
    params |= {"gain": torch.ones(k, dtype=dtype)} if setup.gain else {}
    return params | ({"shift": torch.zeros(k, dtype=dtype)} if setup.shift else {})


def output(params: Params, X: Float[Tensor, "n d"], setup: Setup) -> Float[Tensor, " n"]:
    """Output of one network (no stacked dimension), normalised by the statistics of the given samples."""
    normalizer = NORMALIZERS[setup.normalizer]
    z = X
    for l in range(1, setup.hidden + 1):
        z = normalizer(z @ params[f"W{l}"].mT, setup.epsilon)
        z = z * params[f"g{l}"] if f"g{l}" in params else z
        z = ACTIVATIONS[setup.activation](z + params[f"b{l}"] if f"b{l}" in params else z)
    z = z @ params[f"W{setup.hidden + 1}"].mT
    f = (batch_norm(z, epsilon=setup.epsilon) if setup.normalize_output else z)[:, 0]
    f = params["gain"] * f if setup.gain else f
    return f + params["shift"] if setup.shift else f


def mean_loss(params: Params, X: Float[Tensor, "n d"], y: Float[Tensor, " n"], setup: Setup) -> Float[Tensor, ""]:
    """Mean loss of one network: what ``torch.func.hessian`` and :func:`torch.func.vmap` are applied to."""
    return LOSSES[setup.loss](output(params, X, setup), y).mean()


def run(
    setup: Setup,
    X: Float[Tensor, "... n d"],
    y: Float[Tensor, "... n"],
    *,
    start: Params | None = None,
    keep: Sequence[str] = (),
    device: Device = "cpu",
) -> dict[str, Tensor]:
    """Train all networks together on a device, in the inputs' precision.

    Args:
        X, y: One set for all seeds, or with a leading dimension one for each seed.
        start: Stacked parameters to begin with; :func:`initialize` if None.
        keep: Names of parameters whose whole path is returned under ``path_<name>``.

    Returns:
        On the processor, with leading dimensions ``(steps + 1, scales, rates, seeds)``: ``loss`` and ``slope`` (norm of
        the gradient over all parameters) on all samples, ``norms`` and ``slopes`` (Frobenius, of weights and of the
        gradients that moved them, ``(..., layers)``; the last slope is that of all samples). Final parameters by their
        names, ``(scales, rates, seeds, ...)``. Runs that diverge hold infinities or nan.

    Raises:
        ValueError: The batch is larger than the data, the sets do not match the seeds, or ``keep`` has unknown names.
    """
    seeds, n = len(setup.seeds), X.shape[-2]
    if X.ndim == 3 and len(X) != seeds:
        raise ValueError(f"X must have one set for each of the {seeds} seeds, got {len(X)}")
    if setup.batch is not None and not 0 < setup.batch <= n:
        raise ValueError(f"batch must lie between 1 and the {n} samples, got {setup.batch}")
    params = initialize(setup, X.shape[-1], X.dtype) if start is None else start
    if not set(keep) <= set(params):
        raise ValueError(f"keep must name parameters of {sorted(params)}, got {list(keep)}")
    spread = lambda t, ndim: (t if t.ndim == ndim else t.expand(seeds, *t.shape)).repeat(
        len(params["W1"]) // seeds, *[1] * (ndim - 1)
    )
    X, y, params = spread(X, 3).to(device), spread(y, 2).to(device), move(params, device)
    rates = torch.tensor(setup.learning_rates, dtype=X.dtype).repeat_interleave(seeds).repeat(len(setup.scales))
    rates, shuffles, history = rates.to(device), orders(setup.seeds, n, len(X) // seeds, salt=3), []
    stacked = vmap(lambda p, x, t: mean_loss(p, x, t, setup))
    for step in range(setup.steps + 1):
        losses, slopes = _slopes(stacked, params, X, y)
        seen = {"loss": losses, "slope": sum(g.reshape(len(X), -1).square().sum(1) for g in slopes.values()).sqrt()}
        if setup.batch and step < setup.steps:
            rows = next(shuffles)[:, : setup.batch].to(device)
            few = X.gather(1, rows[..., None].expand(-1, -1, X.shape[2]))
            slopes = _slopes(stacked, params, few, y.gather(1, rows))[1]
        layers = [name for name in params if name.startswith("W")]
        seen |= {"norms": torch.stack([params[n].flatten(1).norm(dim=1) for n in layers], 1)}
        seen |= {"slopes": torch.stack([slopes[n].flatten(1).norm(dim=1) for n in layers], 1)}
        history.append(seen | {f"path_{name}": params[name] for name in keep})
        if step < setup.steps:
            params = {m: p - along(rates, p) * slopes[m] for m, p in params.items()}
    return {m: torch.stack([unfold(h[m], setup.shape) for h in history]) for m in history[0]} | {
        m: unfold(p, setup.shape) for m, p in params.items()
    }


def _slopes(stacked, params: Params, X: Tensor, y: Tensor) -> tuple[Tensor, Params]:
    graph = leaves(params)
    losses = stacked(graph, X, y)
    return losses.detach(), gradients(losses, graph)


def hessians(
    setup: Setup, params: Params, X: Float[Tensor, "k n d"], y: Float[Tensor, "k n"]
) -> Float[Tensor, "k D D"]:
    """Hessians of stacked networks, each on its own samples, over all parameters in their order, rows first."""
    names, sizes = list(params), [p[0].numel() for p in params.values()]
    flat = torch.cat([params[name].reshape(len(X), -1) for name in names], 1)
    shapes = [params[name].shape[1:] for name in names]

    def loss(v: Tensor, x: Tensor, t: Tensor) -> Tensor:
        parts = {m: p.reshape(s) for m, s, p in zip(names, shapes, v.split(sizes), strict=True)}
        return mean_loss(parts, x, t, setup)

    matrices = torch.stack([torch.func.hessian(loss)(*one) for one in zip(flat, X, y, strict=True)])
    return (matrices + matrices.mT) / 2


def blobs(
    seeds: Sequence[int], *, samples: int = 40, distance: float = 4.0, spread: float = 1.0
) -> tuple[Float[Tensor, "s n 2"], Float[Tensor, "s n"]]:
    """Two Gaussian classes in the plane for each seed, centres ``distance`` apart in a random direction, labels +-1.

    Draws are repeated until the classes are separable by a line through the origin with a margin.

    Raises:
        ValueError: A thousand draws were not separable: enlarge the distance.
    """
    sets = []
    for seed in seeds:
        for attempt in range(1000):
            angle = (
                torch.rand((), generator=torch.Generator().manual_seed(10_000 * seed + attempt)).item() * 2 * torch.pi
            )
            u = torch.tensor([torch.tensor(angle).cos(), torch.tensor(angle).sin()], dtype=torch.float64)
            X, labels = make_blobs(
                samples, centers=(distance / 2 * torch.stack([-u, u])).numpy(), cluster_std=spread,
                random_state=10_000 * seed + attempt,
            )  # fmt: skip
            X, y = torch.from_numpy(X), 2.0 * torch.from_numpy(labels).double() - 1
            if (y * (X @ u) > 0.1 * spread).all():
                sets.append((X, y))
                break
        else:
            raise ValueError(f"distance={distance} does not separate {samples} samples of spread {spread}: enlarge it")
    return torch.stack([X for X, _ in sets]), torch.stack([y for _, y in sets])


def moons(seeds: Sequence[int], *, samples: int = 64, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """Two interleaved half circles in the plane for each seed, ``(s, n, 2)``, standardised, and labels +-1."""
    sets = [make_moons(samples, noise=noise, random_state=seed) for seed in seeds]
    X = torch.stack([torch.from_numpy(x) for x, _ in sets])
    return (X - X.mean(1, keepdim=True)) / X.std(1, keepdim=True, correction=0), torch.stack(
        [2.0 * torch.from_numpy(labels).double() - 1 for _, labels in sets]
    )


def regression(
    seeds: Sequence[int], *, samples: int = 64, inputs: int = 2, noise: float = 0.0
) -> tuple[Float[Tensor, "s n d"], Float[Tensor, "s n"]]:
    r"""Gaussian inputs and standardised targets for each seed: :math:`\sin 2x_1` plus products of neighbours."""
    sets = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(1000 * seed + 2)
        X = torch.randn(samples, inputs, generator=generator, dtype=torch.float64)
        y = (2 * X[:, 0]).sin() + (X[:, 1:] * X[:, :-1]).sum(1) / 2
        y = (y - y.mean()) / y.std(correction=0)
        sets.append((X, y + noise * torch.randn(samples, generator=generator, dtype=torch.float64)))
    return torch.stack([X for X, _ in sets]), torch.stack([y for _, y in sets])
