"""Publishers' files of CIFAR-10, CIFAR-100 and MNIST: found, fetched if that is asked for, and read without trust.

Everything here is bytes and NumPy; :mod:`normdyn.data.sets` turns it into tensors. Expected layouts::

    cifar-10-batches-py/{data_batch_1..5,test_batch,batches.meta}
    cifar-100-python/{train,test,meta}
    MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]
"""

import dataclasses
import errno
import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from normdyn.extras import need

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "FULL",
    "MNIST",
    "RENEW",
    "Digests",
    "Directory",
    "Publisher",
    "check_labels",
    "locate",
    "read_cifar",
    "read_mnist",
]

Directory = str | os.PathLike[str] | None
Digests = dict[str, str]  # file -> sha256 of its bytes on the disk


@dataclasses.dataclass(frozen=True)
class Publisher:
    """Where a data set comes from: its folder in the layout, and the checksums of what lies at the address."""

    title: str
    folder: str
    url: str
    checksums: dict[str, str]
    size: str
    terms: str

    @property
    def remedy(self) -> str:
        """What to do where files are missing, as error messages say it."""
        return (
            f"put {self.title}'s files in DIRECTORY/{self.folder} and set NORMDYN_DATA=DIRECTORY (or pass directory=), "
            f"or pass download=True to fetch {self.size} from {self.url} ({self.terms})"
        )


CIFAR10 = Publisher(
    title="CIFAR-10",
    folder="cifar-10-batches-py",
    url="https://www.cs.toronto.edu/~kriz/",
    checksums={"cifar-10-python.tar.gz": "md5:c58f30108f718f92721af3b95e74349a"},
    size="170 MB",
    terms="no licence stated; cite Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
)
CIFAR100 = dataclasses.replace(
    CIFAR10,
    title="CIFAR-100",
    folder="cifar-100-python",
    checksums={"cifar-100-python.tar.gz": "md5:eb9058c3a382ffc7106e4002c42a8d85"},
    size="169 MB",
)
MNIST = Publisher(
    title="MNIST",
    folder="MNIST/raw",
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
    checksums={
        "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
    },
    size="at most 12 MB",
    terms="CC BY-SA 3.0; cite LeCun, Bottou, Bengio and Haffner, 1998",
)

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RENEW = "delete it and pass download=True, or copy it anew from its publisher"


# Finding and fetching


def locate(publisher: Publisher, names: Sequence[str], directory: Directory, download: bool) -> list[Path]:
    """Paths of the files named, gzipped or not; those missing are fetched if ``download``.

    Raises:
        FileNotFoundError: The directory or a file is missing.
        ConnectionError, ValueError: The publisher cannot be reached, or a checksum differs.
    """
    given = "NORMDYN_DATA" if directory is None else "directory"
    root = os.environ.get("NORMDYN_DATA") if directory is None else directory
    if not root:
        pooch = need("pooch", "data")  # here and below: only a download or its cache needs it
        given, root = "the cache", pooch.os_cache("normdyn")
        if not (download or root.is_dir()):
            raise FileNotFoundError(f"neither directory nor NORMDYN_DATA is given: {publisher.remedy}")
    root = Path(root).expanduser()
    if not (download or root.is_dir()):
        raise FileNotFoundError(f"{given}={str(root)!r} is not a directory: {publisher.remedy}")
    candidates = [(root / publisher.folder / f"{name}.gz", root / publisher.folder / name) for name in names]
    missing = [plain for zipped, plain in candidates if not (zipped.is_file() or plain.is_file())]
    if missing and not download:
        raise FileNotFoundError(f"missing {', '.join(map(str, missing))}: {publisher.remedy}")
    if missing:
        _download(publisher, [path.name for path in missing], root)
        return locate(publisher, names, root, download=False)
    return [zipped if zipped.is_file() else plain for zipped, plain in candidates]


def _download(publisher: Publisher, names: list[str], root: Path) -> None:
    """Fetch and check in a temporary folder, then move whole files that are not there yet; a failure leaves nothing."""
    try:
        _download_whole(publisher, names, root)
    except OSError as error:
        if error.errno not in FULL:
            raise
        text = f"no room for {publisher.title} ({error.strerror}); nothing was kept: make room, or name another folder"
        raise OSError(error.errno, text, str(root)) from error


def _download_whole(publisher: Publisher, names: list[str], root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as temporary:
        for name, checksum in publisher.checksums.items():
            if name.endswith(".tar.gz"):
                _unpack(_fetch(publisher.url + name, name, checksum, temporary, publisher.remedy), publisher.folder)
            elif name.removesuffix(".gz") in names:
                _fetch(publisher.url + name, name, checksum, temporary, publisher.remedy)
        folder = root / publisher.folder
        folder.mkdir(parents=True, exist_ok=True)
        for path in Path(temporary).iterdir():
            if not (folder / path.name).exists():
                path.replace(folder / path.name)


def _fetch(url: str, name: str, checksum: str, folder: str, remedy: str) -> Path:
    pooch = need("pooch", "data")
    try:
        return Path(pooch.retrieve(url, known_hash=checksum, fname=name, path=folder))
    except OSError as error:  # requests' errors are OSErrors, and so is a full disk
        if error.errno in FULL:
            raise
        raise ConnectionError(f"could not fetch {url} ({error}). Without a network, {remedy}") from error
    except ValueError as error:
        raise ValueError(f"{url} has not the checksum {checksum} ({error}); nothing was kept, try again") from error


def _unpack(path: Path, folder: str) -> None:
    """Put the files of an archive's folder beside it and remove it; no other path inside the archive is followed."""
    with tarfile.open(path) as archive:
        for member in archive:
            parent, name = os.path.split(member.name)
            if member.isfile() and parent == folder:
                content = archive.extractfile(member)
                assert content is not None  # a file, as was asked
                (path.parent / name).write_bytes(content.read())
    path.unlink()


# Reading


def read_cifar(
    publisher: Publisher,
    batches: Sequence[str],
    meta: str,
    keys: tuple[str, str],
    classes: int,
    directory: Directory,
    download: bool,
) -> tuple[np.ndarray, np.ndarray, list[str], Digests]:
    """Pixels ``(n, 3, 32, 32)``, labels, class names and hashes; ``keys`` name the labels and the class names.

    Raises:
        ValueError: A file is truncated, corrupt, or of another shape. Missing files: see :func:`locate`.
    """
    *paths, meta_path = locate(publisher, [*batches, meta], directory, download)
    images, labels, digests = [], [], {}
    for path in paths:
        batch, digests[f"{publisher.folder}/{path.name}"] = _read_pickle(path)
        pixels, numbers = (np.asarray(_entry(batch, key, path)) for key in ("data", keys[0]))
        if pixels.dtype != np.uint8 or pixels.ndim != 2 or pixels.shape[1] != 3072:
            raise ValueError(f"{path} holds {pixels.dtype} {pixels.shape}, expected uint8 (n, 3072); {RENEW}")
        check_labels(numbers, len(pixels), classes, str(path))
        images.append(pixels.reshape(-1, 3, 32, 32))
        labels.append(numbers)
    content, digests[f"{publisher.folder}/{meta_path.name}"] = _read_pickle(meta_path)
    names = _entry(content, keys[1], meta_path)
    if not (isinstance(names, list) and len(names) == classes and all(isinstance(n, str | bytes) for n in names)):
        raise ValueError(f"{meta_path} must list {classes} class names as {keys[1]!r}, got {names!r:.80}; {RENEW}")
    names = [n.decode() if isinstance(n, bytes) else n for n in names]
    return np.concatenate(images), np.concatenate(labels), names, digests


def read_mnist(prefix: str, directory: Directory, download: bool) -> tuple[np.ndarray, np.ndarray, Digests]:
    """Pixels ``(n, 1, 28, 28)``, labels and hashes of the split whose files start with ``prefix``.

    Raises:
        ValueError: A file is truncated, corrupt, or of another shape. Missing files: see :func:`locate`.
    """
    names = [f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"]
    image_path, label_path = locate(MNIST, names, directory, download)
    (images, image_hash), (labels, label_hash) = _read_idx(image_path, 3), _read_idx(label_path, 1)
    if images.shape[1:] != (28, 28):
        raise ValueError(f"{image_path} holds images of {images.shape[1:]} pixels, expected (28, 28); {RENEW}")
    check_labels(labels, len(images), 10, str(label_path))
    digests = {f"{MNIST.folder}/{image_path.name}": image_hash, f"{MNIST.folder}/{label_path.name}": label_hash}
    return images[:, None], labels, digests


def check_labels(labels: np.ndarray, samples: int, classes: int, where: str) -> None:
    """Check that there is one label a sample, each in 0..classes-1.

    Raises:
        ValueError: They are not so; the message starts with ``where``.
    """
    if labels.dtype.kind not in "iu" or labels.shape != (samples,):
        raise ValueError(f"{where}: expected {samples} integer labels, got {labels.dtype} of shape {labels.shape}")
    if samples and not 0 <= labels.min() <= labels.max() < classes:
        raise ValueError(f"{where}: labels must lie in 0..{classes - 1}, got {labels.min()}..{labels.max()}")


def _read_bytes(path: Path) -> tuple[bytes, str]:
    raw = path.read_bytes()
    try:
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw), hashlib.sha256(raw).hexdigest()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is a truncated or corrupt gzip file ({error}); {RENEW}") from error


def _read_idx(path: Path, axes: int) -> tuple[np.ndarray, str]:
    """An array in the idx format: two zeros, 8 for unsigned bytes, the number of axes, big-endian sizes, values."""
    raw, digest = _read_bytes(path)
    magic, start = bytes([0, 0, 8, axes]), 4 + 4 * axes
    if raw[:4] != magic:
        raise ValueError(f"{path} starts with {raw[:4].hex()!r}, not with the magic {magic.hex()!r}; {RENEW}")
    if len(raw) < start:
        raise ValueError(f"{path} is truncated inside its header; {RENEW}")
    shape = struct.unpack_from(f">{axes}I", raw, 4)
    expected = start + int(np.prod(shape, dtype=object))  # Python's integers, since a forged header overflows int64
    if len(raw) != expected:
        raise ValueError(f"{path} is truncated or damaged: {len(raw)} bytes, its header says {expected}; {RENEW}")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape), digest


_RECONSTRUCT = np.empty(0).__reduce__()[
    0
]  # the function by which NumPy pickles an array; its module's name has changed
_NEEDED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArraysOnly(pickle.Unpickler):
    """A pickle can call whatever it names; this one knows only the names of which an array is made."""

    def find_class(self, module, name):
        if (module, name) not in _NEEDED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")
        return _NEEDED[module, name]


def _read_pickle(path: Path) -> tuple[dict, str]:
    raw, digest = _read_bytes(path)
    try:
        content = _ArraysOnly(io.BytesIO(raw), encoding="bytes").load()
        return {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}, digest
    except Exception as error:  # damaged pickles raise nearly anything
        raise ValueError(f"{path} is a truncated, corrupt or unsafe pickle ({error}); {RENEW}") from error


def _entry(content: dict, key: str, path: Path):
    if key not in content:
        raise ValueError(f"{path} has no entry {key!r}; {RENEW}")
    return content[key]
