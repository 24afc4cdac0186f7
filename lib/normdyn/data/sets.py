"""Data sets: readers of publishers' files, sets that need no file, and small functions that choose and scale samples.

Nothing is fetched unless ``download=True`` is given. A reader takes its folder from ``directory``, else from the
environment variable ``NORMDYN_DATA``, else from the user's cache; :mod:`normdyn.data.files` shows the layout.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from normdyn.data import files as datafiles
from normdyn.data.files import Directory
from normdyn.extras import need
from normdyn.shapes import Float, Int64

__all__ = [
    "Dataset",
    "cifar10",
    "cifar100",
    "digits",
    "draw_per_class",
    "draw_samples",
    "feature_statistics",
    "flatten",
    "gaussian_classes",
    "iris",
    "mnist",
    "select_classes",
    "separable",
    "standardize_dataset",
    "unit_norm",
]


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled samples on the CPU, and where they come from.

    Args:
        inputs: Samples are rows; images are ``(n, channels, height, width)`` with values in [0, 1].
        labels: The number of each sample's class in ``names``.
        names: One name a class.
        provenance: ``source``, a phrase, and ``files``, the sha256 of each file as read, or of the bytes of the arrays
            where no file was read. It describes the set before anything is chosen, scaled or rounded to float32.

    Raises:
        ValueError: Inputs and labels differ in number, or a label lies outside ``0..len(names) - 1``.
    """

    inputs: Float[Tensor, " n *feature"]
    labels: Int64[Tensor, " n"]
    names: tuple[str, ...]
    provenance: dict[str, Any]

    def __post_init__(self):
        datafiles.check_labels(self.labels.numpy(), len(self.inputs), len(self.names), "labels")


def cifar10(
    split: str = "train", *, directory: Directory = None, download: bool = False, dtype: torch.dtype = torch.float64
) -> Dataset:
    """CIFAR-10: 50,000 (train) or 10,000 (test) colour images of ten classes, ``(n, 3, 32, 32)``.

    Args:
        directory: Folder that holds ``cifar-10-batches-py``.
        download: Fetch files that are missing into that folder.
        dtype: float64 (the training images take 1.2 GB) or float32.

    Raises:
        FileNotFoundError: The folder or a file is missing.
        ConnectionError: The publisher cannot be reached.
        ValueError: An argument is unknown, or a file is truncated, corrupt, or of another shape or checksum.
    """
    batches = _choice("split", split, {"train": [f"data_batch_{k}" for k in range(1, 6)], "test": ["test_batch"]})
    keys = "labels", "label_names"
    _check_dtype(dtype)
    return _images(
        "CIFAR-10",
        dtype,
        *datafiles.read_cifar(datafiles.CIFAR10, batches, "batches.meta", keys, 10, directory, download),
    )


def cifar100(
    split: str = "train",
    *,
    classes: str = "fine",
    directory: Directory = None,
    download: bool = False,
    dtype: torch.dtype = torch.float64,
) -> Dataset:
    """CIFAR-100: as :func:`cifar10`, with 100 ``fine`` or 20 ``coarse`` classes; the folder is ``cifar-100-python``."""
    batches = _choice("split", split, {"train": ["train"], "test": ["test"]})
    count = _choice("classes", classes, {"fine": 100, "coarse": 20})
    keys = f"{classes}_labels", f"{classes}_label_names"
    _check_dtype(dtype)
    return _images(
        "CIFAR-100", dtype, *datafiles.read_cifar(datafiles.CIFAR100, batches, "meta", keys, count, directory, download)
    )


def mnist(
    split: str = "train", *, directory: Directory = None, download: bool = False, dtype: torch.dtype = torch.float64
) -> Dataset:
    """MNIST: 60,000 (train) or 10,000 (test) grey digits, ``(n, 1, 28, 28)``; a split needs only its own two files.

    As :func:`cifar10`; the folder is ``MNIST/raw`` and its files may be gzipped, as published, or not.
    """
    prefix = _choice("split", split, {"train": "train", "test": "t10k"})
    _check_dtype(dtype)
    pixels, labels, digests = datafiles.read_mnist(prefix, directory, download)
    return _images("MNIST", dtype, pixels, labels, [str(k) for k in range(10)], digests)


def digits(*, dtype: torch.dtype = torch.float64) -> Dataset:
    """1,797 grey digits of 8 x 8 pixels, embedded in scikit-learn, ``(1797, 1, 8, 8)`` in [0, 1].

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI 1998 (its test part).

    Example:
        >>> digits().inputs.shape, digits().names[3]
        (torch.Size([1797, 1, 8, 8]), '3')
    """
    _check_dtype(dtype)
    bunch = need("sklearn.datasets", "data").load_digits()  # costs a second, and only the embedded sets need it
    inputs, labels = torch.tensor(bunch.images[:, None]) / 16, torch.tensor(bunch.target)
    data = _from_arrays("digits, as embedded in scikit-learn", inputs, labels, range(10))
    return dataclasses.replace(data, inputs=inputs.to(dtype))


def iris(*, dtype: torch.dtype = torch.float64) -> Dataset:
    """150 irises of three species by four lengths in centimetres, embedded in scikit-learn, ``(150, 4)``.

    Source: Fisher, The use of multiple measurements in taxonomic problems, 1936; scikit-learn's copy follows the paper.

    Example:
        >>> iris().names
        ('setosa', 'versicolor', 'virginica')
    """
    _check_dtype(dtype)
    bunch = need("sklearn.datasets", "data").load_iris()
    inputs, labels = torch.tensor(bunch.data), torch.tensor(bunch.target)
    data = _from_arrays("iris, as embedded in scikit-learn", inputs, labels, bunch.target_names)
    return dataclasses.replace(data, inputs=inputs.to(dtype))


def gaussian_classes(
    means: Float[Tensor, "k d"], *, per_class: int, deviation: float = 1.0, generator: Generator
) -> Dataset:
    """Isotropic normal clouds, one a class: ``per_class`` samples around each row of ``means``, class after class.

    Raises:
        ValueError: ``per_class`` is below 1.

    Example:
        >>> clouds = gaussian_classes(3 * torch.eye(2), per_class=5, generator=torch.Generator().manual_seed(0))
        >>> clouds.inputs.shape, clouds.labels.tolist()
        (torch.Size([10, 2]), [0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    """
    if per_class < 1:
        raise ValueError(f"per_class={per_class} must be at least 1")
    labels = torch.arange(len(means)).repeat_interleave(per_class)
    noise = torch.randn(len(labels), means.shape[1], generator=generator, dtype=means.dtype)
    return _from_arrays("gaussian_classes", means[labels] + deviation * noise, labels, range(len(means)))


def separable(direction: Float[Tensor, " d"], *, samples: int, margin: float, generator: Generator) -> Dataset:
    r"""Two classes that ``direction`` separates: :math:`y\,\langle x, u\rangle \ge` ``margin`` for every sample.

    Here ``u`` is ``direction`` at unit length and ``y = 2 * label - 1``. Labels alternate; a normal cloud's component
    along ``u`` is replaced by ``y (margin + |component|)``, so the bound holds up to rounding.

    Raises:
        ValueError: ``direction`` is zero, ``margin`` negative or ``samples`` below 1.

    Example:
        >>> u = torch.tensor([0.0, 2.0])
        >>> data = separable(u, samples=4, margin=0.5, generator=torch.Generator().manual_seed(0))
        >>> data.labels.tolist(), bool(((2 * data.labels - 1) * data.inputs[:, 1] > 0.499).all())
        ([0, 1, 0, 1], True)
    """
    if samples < 1 or not margin >= 0:
        raise ValueError(f"samples={samples} must be at least 1 and margin={margin} at least 0")
    if not 0 < direction.norm() < math.inf:
        raise ValueError(f"direction={direction.tolist()} must be finite and not zero")
    u, labels = direction / direction.norm(), torch.arange(samples) % 2
    cloud = torch.randn(samples, len(u), generator=generator, dtype=u.dtype)
    along, signs = cloud @ u, (2 * labels - 1).to(u.dtype)
    inputs = cloud + torch.outer(signs * (margin + along.abs()) - along, u)
    return _from_arrays("separable", inputs, labels, ("negative", "positive"))


def select_classes(data: Dataset, classes: Sequence[str | int]) -> Dataset:
    """Samples of the classes given, by name or number, in their old order; labels become 0, 1, ... in the order given.

    Raises:
        ValueError: A class is unknown or comes twice, or none is given.

    Example:
        >>> pair = select_classes(iris(), ("virginica", "setosa"))
        >>> pair.names, pair.labels.bincount().tolist()
        (('virginica', 'setosa'), [50, 50])
    """
    known = {key: k for k, name in enumerate(data.names) for key in (k, name)}
    unknown = [c for c in classes if c not in known]
    if unknown:
        raise ValueError(f"classes={classes!r}: {unknown[0]!r} is unknown, choose among {', '.join(data.names)}")
    old = torch.tensor([known[c] for c in classes], dtype=torch.int64)
    if len(old) == 0 or len(old.unique()) < len(old):
        raise ValueError(f"classes={classes!r}: give at least one class, and each once")
    member = data.labels[:, None] == old
    keep = member.any(dim=1)
    names = tuple(data.names[k] for k in old)
    labels = member[keep].to(torch.uint8).argmax(dim=1)
    return dataclasses.replace(data, inputs=data.inputs[keep], labels=labels, names=names)


def draw_samples(data: Dataset, samples: int, *, generator: Generator) -> Dataset:
    """``samples`` of the samples, drawn without replacement, in the order drawn.

    Raises:
        ValueError: ``samples`` is below 1 or above what there is.

    Example:
        >>> len(draw_samples(iris(), 7, generator=torch.Generator().manual_seed(0)).labels)
        7
    """
    _check_count("samples", samples, len(data.labels))
    return _take(data, torch.randperm(len(data.labels), generator=generator)[:samples])


def draw_per_class(data: Dataset, per_class: int, *, generator: Generator) -> Dataset:
    """``per_class`` samples of every class, drawn without replacement, class after class.

    Raises:
        ValueError: ``per_class`` is below 1 or above what a class has; the message names the class.

    Example:
        >>> draw_per_class(iris(), 2, generator=torch.Generator().manual_seed(0)).labels.tolist()
        [0, 0, 1, 1, 2, 2]
    """
    rows = [(data.labels == k).nonzero().flatten() for k in range(len(data.names))]
    for name, members in zip(data.names, rows, strict=True):
        _check_count("per_class", per_class, len(members), f"samples of class {name!r}")
    drawn = [members[torch.randperm(len(members), generator=generator)[:per_class]] for members in rows]
    return _take(data, torch.cat(drawn))


def flatten(data: Dataset) -> Dataset:
    """Each sample as one row, ``(n, d)``.

    Example:
        >>> flatten(digits()).inputs.shape
        torch.Size([1797, 64])
    """
    return dataclasses.replace(data, inputs=data.inputs.flatten(start_dim=1))


def unit_norm(data: Dataset) -> Dataset:
    """Each sample divided by its Frobenius norm.

    Raises:
        ValueError: A sample is zero; the message gives its row.

    Example:
        >>> bool(torch.allclose(unit_norm(iris()).inputs.norm(dim=1), torch.ones(150, dtype=torch.float64)))
        True
    """
    norms = data.inputs.flatten(start_dim=1).norm(dim=1)
    if (norms == 0).any():
        raise ValueError(f"data: sample {int((norms == 0).nonzero()[0])} is zero and has no direction; leave it out")
    return dataclasses.replace(data, inputs=data.inputs / norms.reshape(-1, *[1] * (data.inputs.ndim - 1)))


def feature_statistics(data: Dataset) -> dict[str, Tensor]:
    """``mean`` and ``deviation`` (of the population, with ``1/n``) of each feature; a constant feature has deviation 1.

    Example:
        >>> [round(mean, 2) for mean in feature_statistics(iris())["mean"].tolist()]
        [5.84, 3.06, 3.76, 1.2]
    """
    low, high = data.inputs.amin(dim=0), data.inputs.amax(dim=0)
    constant = low == high  # decided by equality, since rounding leaves a constant a deviation of 1e-17
    deviation = data.inputs.std(dim=0, correction=0)
    return {
        "mean": torch.where(constant, low, data.inputs.mean(dim=0)),
        "deviation": torch.where(constant, torch.ones_like(deviation), deviation),
    }


def standardize_dataset(data: Dataset, statistics: dict[str, Tensor]) -> Dataset:
    """Subtract ``statistics["mean"]``, divide by ``statistics["deviation"]``; pass the training set's to both splits.

    Raises:
        ValueError: The statistics are of samples of another shape.

    Example:
        >>> data = standardize_dataset(iris(), feature_statistics(iris()))
        >>> bool(data.inputs.mean(dim=0).abs().max() < 1e-14)
        True
    """
    mean, deviation = statistics["mean"], statistics["deviation"]
    if mean.shape != data.inputs.shape[1:] or deviation.shape != mean.shape:
        shapes = tuple(mean.shape), tuple(deviation.shape), tuple(data.inputs.shape[1:])
        raise ValueError("statistics of shapes {} and {} do not fit samples of shape {}".format(*shapes))
    return dataclasses.replace(data, inputs=(data.inputs - mean) / deviation)


def _images(source: str, dtype: torch.dtype, pixels, labels, names: list[str], digests: datafiles.Digests) -> Dataset:
    images, labels = torch.tensor(pixels, dtype=dtype).div_(255), torch.tensor(labels, dtype=torch.int64)
    return Dataset(images, labels, tuple(names), {"source": source, "files": digests})


def _from_arrays(source: str, inputs: Tensor, labels: Tensor, names: Iterable) -> Dataset:
    arrays = {"inputs": inputs, "labels": labels}
    files = {name: hashlib.sha256(array.numpy().tobytes()).hexdigest() for name, array in arrays.items()}
    return Dataset(inputs, labels, tuple(str(n) for n in names), {"source": source, "files": files})


def _take(data: Dataset, rows: Tensor) -> Dataset:
    return dataclasses.replace(data, inputs=data.inputs[rows], labels=data.labels[rows])


def _choice(argument: str, value: str, choices: dict[str, Any]):
    if value not in choices:
        raise ValueError(f"{argument}={value!r} is unknown, choose among {', '.join(choices)}")
    return choices[value]


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype={dtype} is not supported, choose torch.float32 or torch.float64")


def _check_count(argument: str, value: int, available: int, of: str = "samples") -> None:
    if not 1 <= value <= available:
        raise ValueError(f"{argument}={value} must lie between 1 and the {available} {of} available")
