r"""Small two-class networks under the square loss, many initial norms, decays and seeds trained together.

The networks are those of paper B, Figures 1 to 12: four layers without biases, ReLUs, inputs of unit norm, labels
+-1, mini-batches with momentum, every layer scaled to a given Frobenius norm at the start. The mean square loss has no
factor one half, as in the paper and in torch's ``MSELoss``. Scales, decays and seeds are one stacked dimension.

With batch normalisation the output :math:`g` is homogeneous in the last layer only. Three norms are on the books, and
``f = g / rho`` for each of them (:func:`norm_products`).
"""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F

from companion.studies.stacks import Device, Params, along, gradients, leaves, move, orders, require, unfold


@dataclasses.dataclass(frozen=True)
class Setup:
    """An ensemble: one network for each scale, decay and seed, in this order.

    Args:
        scales: Frobenius norm of every layer at the start.
        decays: Weight decays ``d``; each adds ``d * W`` to the gradient, as torch does, in all layers.
        seeds: One draw of the directions and one order of the samples for each; shared by all scales and decays.
        width: Units of a hidden layer, or channels.
        layers: Linear maps, the output's included.
        convolutional: Hidden layers are convolutions of kernel 3 and stride 2 on images.
        batch_norm: Normalise each hidden layer before its ReLU, without trained parameters.
        output_scale: Normalise the output as well and multiply it by a trained number that starts at zero.
        epsilon: Of the normalisation.
        learning_rate, momentum, batch, epochs: Of stochastic descent; a short last batch is left out.
        evaluations: Number of records after the first, evenly spread over the epochs, which they must divide.
    """

    scales: tuple[float, ...] = (0.1, 1.0, 5.0)
    decays: tuple[float, ...] = (0.01,)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    width: int = 32
    layers: int = 4
    convolutional: bool = False
    batch_norm: bool = True
    output_scale: bool = False
    epsilon: float = 1e-5
    learning_rate: float = 0.1
    momentum: float = 0.9
    batch: int = 128
    epochs: int = 1000
    evaluations: int = 50

    def __post_init__(self):
        numbers = ("width", "layers", "batch", "epochs", "evaluations")
        require(self, filled=("scales", "decays", "seeds"), at_least_one=numbers)
        if not min(self.scales) > 0:
            raise ValueError(f"scales must be positive, got {self.scales}")
        if self.epochs % self.evaluations:
            raise ValueError(f"evaluations must divide the {self.epochs} epochs, got {self.evaluations}")
        if self.output_scale and not self.batch_norm:
            raise ValueError("output_scale=True needs batch_norm=True: it belongs to a normalisation of the output")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of scales, decays and seeds: what the stacked dimension unfolds to."""
        return len(self.scales), len(self.decays), len(self.seeds)


def initialize(setup: Setup, inputs: int, dtype: torch.dtype = torch.float64) -> Params:
    """Stacked weights ``W1`` on, Gaussian directions scaled to the given norms; ``gain`` (zero) if the output has one.

    Args:
        inputs: Features of a sample, or channels of an image.
    """
    generators = [torch.Generator().manual_seed(1000 * seed + 1) for seed in setup.seeds]
    scales = torch.tensor(setup.scales, dtype=torch.float64)[:, None, None]
    params, fan_in, kernel = {}, inputs, (3, 3) if setup.convolutional else ()
    for l in range(1, setup.layers + 1):
        last = l == setup.layers
        shape = (1 if last else setup.width, fan_in) + (() if last else kernel)
        draws = [torch.randn(shape, generator=g, dtype=torch.float64) for g in generators]
        unit = torch.stack([W.flatten() / W.norm() for W in draws])
        stacked = (scales[..., None] * unit).expand(*setup.shape, -1)
        params[f"W{l}"] = stacked.reshape(-1, *shape).to(dtype)
        fan_in = setup.width
    if setup.output_scale:
        params["gain"] = torch.zeros(len(params["W1"]), dtype=dtype)
    return params


def output(
    params: Params, inputs: Float[Tensor, "n ..."], setup: Setup, reference: Float[Tensor, "m ..."] | None = None
) -> tuple[Float[Tensor, " n"], Float[Tensor, " layers"]]:
    """Output of one network, and the Frobenius norm of each layer with its normalisation folded in.

    Rows of a folded layer are divided by the standard deviation that normalises them; without normalisation it is the
    layer itself. Statistics are those of ``reference``, else of ``inputs``.
    """
    count = len(inputs)
    z = inputs if reference is None or not setup.batch_norm else torch.cat([inputs, reference])
    folded = []
    for l in range(1, setup.layers + 1):
        W, last = params[f"W{l}"], l == setup.layers
        if last:
            z = z.flatten(2).mean(2) if z.ndim > 2 else z
        z = F.conv2d(z, W, stride=2, padding=1) if W.ndim == 4 else z @ W.mT
        deviation = None
        if setup.batch_norm and (not last or setup.output_scale):
            source, axes = z[count:] if len(z) > count else z, (0, *range(2, z.ndim))
            variance, mean = torch.var_mean(source, axes, keepdim=True, correction=0)
            deviation = (variance + setup.epsilon).sqrt()
            z = (z - mean) / deviation
        folded.append((W.flatten(1) / (1.0 if deviation is None else deviation.reshape(-1, 1))).norm())
        z = z if last else z.relu()
    g = z[:count, 0]
    if setup.output_scale:
        g, folded[-1] = params["gain"] * g, params["gain"].abs()
    return g, torch.stack(folded)


def losses(params: Params, X: Float[Tensor, "k n ..."], y: Float[Tensor, "k n"], setup: Setup) -> Float[Tensor, " k"]:
    """Mean square loss of all stacked networks, each on its own batch: :func:`output` without its norms, and faster."""
    if setup.convolutional:
        g = vmap(lambda p, z: _convolutional_output(p, z, setup))(params, X)
    else:
        g = _stacked_output(params, X, setup)
    if setup.output_scale:
        g = params["gain"][:, None] * g
    return (g - y).square().mean(1)


def _stacked_output(params: Params, X: Float[Tensor, "k n d"], setup: Setup) -> Float[Tensor, "k n"]:
    """Samples come last, so units of all networks are the channels of one normalisation and nothing is copied."""
    z = X.mT
    for l in range(1, setup.layers + 1):
        last = l == setup.layers
        z = params[f"W{l}"] @ z
        if setup.batch_norm and (not last or setup.output_scale):
            channels = z.reshape(1, -1, z.shape[2])
            z = F.batch_norm(channels, None, None, training=True, eps=setup.epsilon).view(z.shape)
        z = z if last else z.relu()
    return z[:, 0]


def _convolutional_output(p: Params, z: Float[Tensor, "n c h w"], setup: Setup) -> Float[Tensor, " n"]:
    for l in range(1, setup.layers + 1):
        W, last = p[f"W{l}"], l == setup.layers
        z = z.flatten(2).mean(2) @ W.mT if last else F.conv2d(z, W, stride=2, padding=1)
        if setup.batch_norm and (not last or setup.output_scale):
            z = F.batch_norm(z, None, None, training=True, eps=setup.epsilon)
        z = z if last else z.relu()
    return z[:, 0]


def run(
    setup: Setup,
    train: tuple[Float[Tensor, "n ..."], Float[Tensor, " n"]],
    test: tuple[Float[Tensor, "m ..."], Float[Tensor, " m"]],
    *,
    device: Device = "cpu",
) -> dict[str, Tensor]:
    """Train all networks together on a device, in the inputs' precision; labels are +-1.

    Returns:
        On the processor:
        ``epochs``; with leading dimensions ``(records, scales, decays, seeds)``: ``outputs`` on the training set
        ``(..., n)`` by statistics of the whole set, ``train_loss`` (mean square), ``test_error`` (share), ``norms`` and
        ``folded``, Frobenius norms of the layers as stored and with their normalisation ``(..., layers)``, ``gain`` if
        the output has one; and the final weights ``W1`` on, ``(scales, decays, seeds, ...)``.

    Raises:
        ValueError: Fewer samples than a batch, or labels that are not +-1.
    """
    (X, y), (X_test, y_test) = train, test
    if len(X) < setup.batch:
        raise ValueError(f"batch must not exceed the {len(X)} training samples, got {setup.batch}")
    if not torch.equal(y.abs(), torch.ones_like(y)):
        raise ValueError("labels must be +1 or -1")
    X, y, X_test, y_test = (t.to(device) for t in (X, y, X_test, y_test))
    params = move(initialize(setup, X.shape[1], X.dtype), device)
    momenta = {name: torch.zeros_like(W) for name, W in params.items()}
    scales, decays, seeds = setup.shape
    decay = torch.tensor(setup.decays, dtype=X.dtype).repeat_interleave(seeds).repeat(scales).to(device)
    evaluate = vmap(lambda p, x: output(p, x, setup, X), in_dims=(0, None))
    shuffles, history = orders(setup.seeds, len(X), scales * decays), []

    def record():
        (g, folded), (held, _) = evaluate(params, X), evaluate(params, X_test)
        norms = [W.flatten(1).norm(dim=1) for name, W in params.items() if name != "gain"]
        seen = {"outputs": g, "folded": folded, "norms": torch.stack(norms, 1)}
        seen |= {"train_loss": (g - y).square().mean(1), "test_error": (held * y_test <= 0).double().mean(1)}
        seen |= {"gain": params["gain"].clone()} if setup.output_scale else {}
        history.append({name: unfold(v, setup.shape) for name, v in seen.items()})

    record()
    for epoch in range(1, setup.epochs + 1):
        for rows in next(shuffles).to(device).split(setup.batch, 1):
            if rows.shape[1] < setup.batch:
                continue
            graph = leaves(params)
            slopes = gradients(losses(graph, X[rows], y[rows], setup), graph)
            for n, W in params.items():
                momenta[n].mul_(setup.momentum).add_(slopes[n]).add_(along(decay, W) * W)
                W.sub_(momenta[n], alpha=setup.learning_rate)
        if epoch % (setup.epochs // setup.evaluations) == 0:
            record()
    final = {name: unfold(W, setup.shape) for name, W in params.items() if name != "gain"}
    epochs = torch.linspace(0, setup.epochs, setup.evaluations + 1, dtype=torch.float64)
    return {k: torch.stack([h[k] for h in history]) for k in history[0]} | final | {"epochs": epochs}


def norm_products(result: dict[str, Tensor]) -> dict[str, Tensor]:
    r"""Three meanings of :math:`\rho` for one network, each ``(records, scales, decays, seeds)``.

    ``all``: product of the Frobenius norms of the weights as stored; ``last``: that of the last layer (the paper's
    :math:`\rho_k=1` for :math:`k<L`), or the gain; ``folded``: product with every normalisation folded in.
    """
    last = result["gain"].abs() if "gain" in result else result["norms"][..., -1]
    return {"all": result["norms"].prod(-1), "last": last, "folded": result["folded"].prod(-1)}


def equilibrium_ratio(outputs: Float[Tensor, "*s n"], labels: Float[Tensor, " n"]) -> Float[Tensor, "*s"]:
    r""":math:`\sum y_nf_n/(\rho\sum f_n^2)=\sum y_ng_n/\sum g_n^2`, whatever :math:`\rho` means."""
    return (outputs @ labels) / outputs.square().sum(-1)


def two_classes(dataset, *, samples: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[tuple, tuple]:
    """Training set of ``samples`` and the rest for testing: unit inputs, labels +-1, from a set of two classes."""
    if len(dataset.names) != 2:
        raise ValueError(f"dataset must have two classes, got {len(dataset.names)}: choose with data.select_classes")
    if not 0 < samples < len(dataset.inputs):
        raise ValueError(f"samples must lie between 1 and {len(dataset.inputs) - 1}, got {samples}")
    X = dataset.inputs / dataset.inputs.flatten(1).norm(dim=1).reshape(-1, *[1] * (dataset.inputs.ndim - 1))
    y = 2.0 * dataset.labels - 1
    order = torch.randperm(len(X), generator=torch.Generator().manual_seed(seed))
    cut = lambda rows: (X[rows].to(dtype), y[rows].to(dtype))
    return cut(order[:samples]), cut(order[samples:])
