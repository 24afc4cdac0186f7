"""Readers on tiny files in the publishers' layouts, embedded and synthetic sets, and the choices among samples."""

import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import socket
import struct
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch

from normdyn.data import files as datafiles
from normdyn.data import sets as data

REAL = os.environ.get("NORMDYN_DATA")
TEN = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]


@pytest.fixture(autouse=True)
def no_data_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.delenv("NORMDYN_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


# Tiny files as the publishers lay them out


def python2_pickle(content):
    """Protocol 2 as Python 2 wrote it, which is what CIFAR's publisher offers: every string is a byte string."""

    class Writer(pickle._Pickler):
        dispatch = dict(pickle._Pickler.dispatch)

        def save_string(self, value):
            value = value.encode() if isinstance(value, str) else value
            self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

        dispatch[bytes] = dispatch[str] = save_string

    stream = io.BytesIO()
    Writer(stream, protocol=2).dump(content)
    return stream.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def random_bytes(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_cifar10(root, dump=python2_pickle, samples=4):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for k, name in enumerate(["test_batch", *(f"data_batch_{j}" for j in range(1, 6))]):
        pixels, labels = random_bytes(samples, 3072, seed=k), [(k + j) % 10 for j in range(samples)]
        (folder / name).write_bytes(dump({b"data": pixels, b"labels": labels, b"batch_label": name.encode()}))
    (folder / "batches.meta").write_bytes(dump({b"label_names": TEN, b"num_vis": 3072}))
    return folder


def write_cifar100(root, samples=4):
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    for k, name in enumerate(["train", "test"]):
        labels = {b"fine_labels": [99 - j for j in range(samples)], b"coarse_labels": [19 - j for j in range(samples)]}
        (folder / name).write_bytes(python2_pickle({b"data": random_bytes(samples, 3072, seed=k)} | labels))
    names = {
        f"{kind}_label_names".encode(): [b"%d" % k for k in range(n)] for kind, n in [("fine", 100), ("coarse", 20)]
    }
    (folder / "meta").write_bytes(python2_pickle(names))
    return folder


def write_mnist(root, prefixes=("train", "t10k"), zipped=True, samples=4):
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    pack, suffix = (gzip.compress, ".gz") if zipped else (bytes, "")
    for k, prefix in enumerate(prefixes):
        images, labels = random_bytes(samples, 28, 28, seed=k), np.arange(samples, dtype=np.uint8)
        (folder / f"{prefix}-images-idx3-ubyte{suffix}").write_bytes(pack(idx(images)))
        (folder / f"{prefix}-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(labels)))
    return folder


def write_all(root):
    write_cifar10(root)
    write_cifar100(root)
    write_mnist(root)
    return root


# Reading


@pytest.mark.parametrize("dump", [python2_pickle, pickle.dumps])
def test_cifar10_puts_every_pixel_where_the_publisher_says(tmp_path, dump):
    write_cifar10(tmp_path, dump)
    got = data.cifar10("test", directory=tmp_path)
    raw = random_bytes(4, 3072, seed=0)
    assert got.inputs.shape == (4, 3, 32, 32) and got.inputs.dtype == torch.float64
    for i, channel, row, column in [(0, 0, 0, 0), (1, 0, 0, 31), (2, 1, 5, 7), (3, 2, 31, 31)]:
        assert got.inputs[i, channel, row, column] == raw[i, channel * 1024 + row * 32 + column] / 255
    assert got.labels.tolist() == [0, 1, 2, 3] and got.labels.dtype == torch.int64
    assert got.names[3] == "cat" and len(got.names) == 10


def test_cifar10_train_joins_the_five_batches_in_order(tmp_path):
    write_cifar10(tmp_path)
    got = data.cifar10("train", directory=tmp_path)
    raw = np.concatenate([random_bytes(4, 3072, seed=k) for k in range(1, 6)])
    assert torch.equal(got.inputs.flatten(1), torch.tensor(raw) / torch.tensor(255.0, dtype=torch.float64))
    assert got.labels.tolist() == [k + j for k in range(1, 6) for j in range(4)]
    assert len(got.provenance["files"]) == 6


@pytest.mark.parametrize("classes, labels, count", [("fine", [99, 98, 97, 96], 100), ("coarse", [19, 18, 17, 16], 20)])
def test_cifar100_has_two_sets_of_classes(tmp_path, classes, labels, count):
    write_cifar100(tmp_path)
    got = data.cifar100("test", classes=classes, directory=tmp_path)
    assert got.labels.tolist() == labels and got.names == tuple(str(k) for k in range(count))


@pytest.mark.parametrize("zipped", [True, False])
def test_mnist_test_split_needs_only_its_own_files(tmp_path, zipped):
    write_mnist(tmp_path, prefixes=["t10k"], zipped=zipped)
    got = data.mnist("test", directory=tmp_path)
    raw = random_bytes(4, 28, 28, seed=0)
    assert got.inputs.shape == (4, 1, 28, 28)
    assert got.inputs[2, 0, 5, 20] == raw[2, 5, 20] / 255
    assert got.labels.tolist() == [0, 1, 2, 3] and got.names[9] == "9"
    with pytest.raises(FileNotFoundError, match="missing .*train-images-idx3-ubyte, .*train-labels-idx1-ubyte"):
        data.mnist("train", directory=tmp_path)


def test_provenance_is_the_hash_of_the_files_on_the_disk_and_names_no_folder_of_this_machine(tmp_path):
    folder = write_mnist(tmp_path)
    files = data.mnist("train", directory=tmp_path).provenance["files"]
    assert files == {
        f"MNIST/raw/{name}": hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
    }
    assert str(tmp_path) not in str(data.mnist("train", directory=tmp_path).provenance)


def test_the_argument_wins_over_the_environment_which_wins_over_the_cache(tmp_path, monkeypatch):
    write_mnist(tmp_path / "cache" / "normdyn", samples=1)
    assert len(data.mnist().labels) == 1
    write_mnist(tmp_path / "environment", samples=2)
    monkeypatch.setenv("NORMDYN_DATA", str(tmp_path / "environment"))
    assert len(data.mnist().labels) == 2
    write_mnist(tmp_path / "argument", samples=3)
    assert len(data.mnist(directory=tmp_path / "argument").labels) == 3


def test_float32_is_the_float64_value_rounded_once(tmp_path):
    write_mnist(tmp_path)
    double, single = (data.mnist(directory=tmp_path, dtype=dtype).inputs for dtype in (torch.float64, torch.float32))
    assert single.dtype == torch.float32 and torch.equal(single, double.float())


# Errors: arguments, missing, damaged


@pytest.mark.parametrize("read", [data.cifar10, data.cifar100, data.mnist])
def test_unknown_arguments_are_named(read):
    with pytest.raises(ValueError, match="split='valid' is unknown, choose among train, test"):
        read("valid")
    with pytest.raises(ValueError, match=r"dtype=torch.int64 is not supported, choose torch.float32 or torch.float64"):
        read("test", dtype=torch.int64)


def test_unknown_kind_of_classes():
    with pytest.raises(ValueError, match="classes='medium' is unknown, choose among fine, coarse"):
        data.cifar100("test", classes="medium")


HOW = "set NORMDYN_DATA=DIRECTORY .or pass directory=., or pass download=True to fetch .* MB from https://"


@pytest.mark.parametrize("read", [data.cifar10, data.cifar100, data.mnist])
def test_without_a_directory_nothing_is_fetched_and_the_error_says_how(read, monkeypatch, tmp_path):
    monkeypatch.setattr(pooch, "retrieve", lambda *_, **__: pytest.fail("went to the network unasked"))
    with pytest.raises(FileNotFoundError, match=f"neither directory nor NORMDYN_DATA is given: .*{HOW}"):
        read("test")
    with pytest.raises(FileNotFoundError, match=f"directory='.*nowhere' is not a directory: .*{HOW}"):
        read("test", directory=tmp_path / "nowhere")
    monkeypatch.setenv("NORMDYN_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(FileNotFoundError, match=f"NORMDYN_DATA='.*elsewhere' is not a directory: .*{HOW}"):
        read("test")
    monkeypatch.setenv("NORMDYN_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"missing .*{HOW}"):
        read("test")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["data_batch_3", "batches.meta"])
def test_a_missing_file_is_named(tmp_path, name):
    (write_cifar10(tmp_path) / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"missing .*cifar-10-batches-py/{name}: put CIFAR-10's files in"):
        data.cifar10("train", directory=tmp_path)


class Calls:
    """Pickles as a call of the function given."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def batch(**changes):
    return pickle.dumps(
        {b"data": random_bytes(2, 3072), b"labels": [0, 1]} | {k.encode(): v for k, v in changes.items()}
    )


def zipped_idx(*shape, fill=0):
    return gzip.compress(idx(np.full(shape, fill, dtype=np.uint8)))


CIFAR = "cifar-10-batches-py/test_batch"
META = "cifar-10-batches-py/batches.meta"
IMAGES, LABELS = "MNIST/raw/t10k-images-idx3-ubyte.gz", "MNIST/raw/t10k-labels-idx1-ubyte.gz"
UNSAFE = "is a truncated, corrupt or unsafe pickle"
DAMAGES = {
    "pickle empty": (data.cifar10, CIFAR, lambda raw: b"", UNSAFE),
    "pickle truncated": (data.cifar10, CIFAR, lambda raw: raw[:-500], UNSAFE),
    "pickle is text": (data.cifar10, CIFAR, lambda raw: b"<html>404</html>", UNSAFE),
    "pickle is a list": (data.cifar10, CIFAR, lambda raw: pickle.dumps([1]), UNSAFE),
    "pickle calls": (data.cifar10, CIFAR, lambda raw: batch(labels=Calls(os.mkdir, "made")), "it asks for posix.mkdir"),
    "pickle evaluates": (data.cifar10, CIFAR, lambda raw: batch(data=Calls(eval, "1")), "it asks for builtins.eval"),
    "pickle of objects": (data.cifar10, CIFAR, lambda raw: batch(data=Path("x")), "it asks for pathlib"),
    "no labels": (data.cifar10, CIFAR, lambda raw: pickle.dumps({b"data": random_bytes(2, 3072)}), "no entry 'labels'"),
    "grey images": (data.cifar10, CIFAR, lambda raw: batch(data=random_bytes(2, 1024)), r"uint8 \(2, 1024\), expected"),
    "float images": (
        data.cifar10,
        CIFAR,
        lambda raw: batch(data=np.zeros((2, 3072))),
        r"float64 \(2, 3072\), expected",
    ),
    "ragged images": (data.cifar10, CIFAR, lambda raw: batch(data=b"abc"), "expected uint8"),
    "label too large": (data.cifar10, CIFAR, lambda raw: batch(labels=[0, 10]), "labels must lie in 0..9, got 0..10"),
    "label negative": (data.cifar10, CIFAR, lambda raw: batch(labels=[-1, 0]), "labels must lie in 0..9, got -1..0"),
    "label fractional": (
        data.cifar10,
        CIFAR,
        lambda raw: batch(labels=[0.5, 1]),
        "expected 2 integer labels, got float64",
    ),
    "label too few": (
        data.cifar10,
        CIFAR,
        lambda raw: batch(labels=[1]),
        "expected 2 integer labels, got int64 of shape",
    ),
    "nine names": (data.cifar10, META, lambda raw: pickle.dumps({b"label_names": TEN[:9]}), "must list 10 class names"),
    "fine label too large": (
        data.cifar100,
        "cifar-100-python/test",
        lambda raw: batch(fine_labels=[0, 100]),
        "labels must lie in 0..99, got 0..100",
    ),
    "gzip truncated": (data.mnist, IMAGES, lambda raw: raw[:-500], "is a truncated or corrupt gzip file"),
    "gzip damaged": (
        data.mnist,
        IMAGES,
        lambda raw: raw[:40] + b"!!!!" + raw[44:],
        "is a truncated or corrupt gzip file",
    ),
    "gzip is text": (data.mnist, IMAGES, lambda raw: b"<html>404</html>", "is a truncated or corrupt gzip file"),
    "idx empty": (data.mnist, IMAGES, lambda raw: gzip.compress(b""), "starts with ''"),
    "idx header short": (
        data.mnist,
        IMAGES,
        lambda raw: gzip.compress(bytes([0, 0, 8, 3, 0])),
        "truncated inside its he",
    ),
    "idx truncated": (
        data.mnist,
        IMAGES,
        lambda raw: gzip.compress(gzip.decompress(raw)[:-1]),
        "is truncated or damaged: 3151 bytes, its header says 3152",
    ),
    "idx too long": (
        data.mnist,
        LABELS,
        lambda raw: gzip.compress(gzip.decompress(raw) + b"0"),
        "13 bytes, .* says 12",
    ),
    "idx forged size": (
        data.mnist,
        IMAGES,
        lambda raw: gzip.compress(bytes([0, 0, 8, 3]) + b"\xff" * 12),
        "is truncated or damaged: 16 bytes, its header says 79228162458924105385300197391",
    ),
    "files swapped": (
        data.mnist,
        IMAGES,
        lambda raw: zipped_idx(4),
        "starts with '00000801', not with the magic '00000803'",
    ),
    "images of 8 x 8": (
        data.mnist,
        IMAGES,
        lambda raw: zipped_idx(4, 8, 8),
        r"of \(8, 8\) pixels, expected \(28, 28\)",
    ),
    "digit ten": (data.mnist, LABELS, lambda raw: zipped_idx(4, fill=10), "labels must lie in 0..9, got 10..10"),
    "digits too few": (
        data.mnist,
        LABELS,
        lambda raw: zipped_idx(3),
        r"expected 4 integer labels, got uint8 of shape \(3,",
    ),
}


@pytest.mark.parametrize("read, name, damage, message", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_named(tmp_path, monkeypatch, read, name, damage, message):
    path = write_all(tmp_path) / name
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        read("test", directory=tmp_path)
    assert set(tmp_path.iterdir()) == before, "a pickle was obeyed"


def test_a_truncated_file_raises_wherever_it_ends(tmp_path):
    path = write_cifar10(tmp_path) / "test_batch"
    whole = path.read_bytes()
    for length in np.linspace(0, len(whole) - 1, 60, dtype=int):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="test_batch .*; delete it and pass download=True, or copy it anew"):
            data.cifar10("test", directory=tmp_path)


# Downloads, from a server on this machine


@pytest.fixture
def server(tmp_path):
    """Address of a server, and the folder that it serves."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            """Requests are not news."""

    served = tmp_path / "served"
    served.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=served)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/", served
        running.shutdown()


def md5(path):
    return "md5:" + hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def mnist_server(server, monkeypatch):
    url, served = server
    for path in write_mnist(served).iterdir():
        path.replace(served / path.name)
    checksums = {path.name: md5(path) for path in served.glob("*.gz")}
    monkeypatch.setattr(datafiles, "MNIST", dataclasses.replace(datafiles.MNIST, url=url, checksums=checksums))
    return served


@pytest.fixture
def cifar_server(server, monkeypatch):
    url, served = server
    archive = served / "cifar-10-python.tar.gz"
    outside = served / "outside"
    outside.write_text("a path that leaves the archive's folder")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(write_cifar10(served), "cifar-10-batches-py")
        tar.add(outside, "cifar-10-batches-py/../../outside")
    changes = {"url": url, "checksums": {archive.name: md5(archive)}}
    monkeypatch.setattr(datafiles, "CIFAR10", dataclasses.replace(datafiles.CIFAR10, **changes))
    return served


def files_under(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_mnist_download_fetches_the_split_asked_for_and_only_once(tmp_path, mnist_server):
    target = tmp_path / "new" / "data"
    got = data.mnist("test", directory=target, download=True)
    assert got.labels.tolist() == [0, 1, 2, 3]
    assert files_under(target) == ["MNIST/raw/t10k-images-idx3-ubyte.gz", "MNIST/raw/t10k-labels-idx1-ubyte.gz"]
    for path in mnist_server.glob("t10k*"):
        path.unlink()
    assert torch.equal(data.mnist("test", directory=target, download=True).inputs, got.inputs)
    assert torch.equal(data.mnist("test", directory=target).inputs, got.inputs)


def test_download_without_a_directory_goes_to_the_cache(tmp_path, mnist_server):
    data.mnist("test", download=True)
    assert len(files_under(tmp_path / "cache" / "normdyn")) == 2
    assert len(data.mnist("test").labels) == 4


def test_cifar_download_unpacks_every_split_and_nothing_outside_its_folder(tmp_path, cifar_server):
    target = tmp_path / "a" / "b" / "data"
    data.cifar10("test", directory=target, download=True)
    (cifar_server / "cifar-10-python.tar.gz").unlink()
    assert len(data.cifar10("train", directory=target, download=True).labels) == 20
    expected = sorted(["batches.meta", "test_batch", *(f"data_batch_{k}" for k in range(1, 6))])
    assert files_under(tmp_path / "a") == [f"b/data/cifar-10-batches-py/{name}" for name in expected]


def test_download_keeps_the_files_that_are_there(tmp_path, cifar_server):
    folder = write_cifar10(tmp_path / "own", samples=7)
    (folder / "data_batch_5").unlink()
    data.cifar10("train", directory=tmp_path / "own", download=True)
    assert len(data.cifar10("test", directory=tmp_path / "own").labels) == 7


def test_checksum_mismatch_keeps_nothing(tmp_path, mnist_server):
    path = mnist_server / "t10k-labels-idx1-ubyte.gz"
    expected = md5(path)
    path.write_bytes(zipped_idx(4))
    with pytest.raises(ValueError, match=f"http://.*/{path.name} has not the checksum {expected} .*nothing was kept"):
        data.mnist("test", directory=tmp_path / "target", download=True)
    assert list((tmp_path / "target").iterdir()) == []


@pytest.mark.parametrize(
    "read, publisher", [(data.cifar10, "CIFAR10"), (data.cifar100, "CIFAR100"), (data.mnist, "MNIST")]
)
def test_no_network(tmp_path, monkeypatch, read, publisher):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/"  # closed again, so nobody answers there
    monkeypatch.setattr(datafiles, publisher, dataclasses.replace(getattr(datafiles, publisher), url=url))
    with pytest.raises(
        ConnectionError, match=f"could not fetch {url}.*Without a network, put .* and set NORMDYN_DATA="
    ):
        read("test", directory=tmp_path / "target", download=True)
    assert list((tmp_path / "target").iterdir()) == []


def test_missing_at_the_publisher(tmp_path, mnist_server):
    (mnist_server / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(ConnectionError, match="could not fetch .*t10k-labels-idx1-ubyte.gz .*404"):
        data.mnist("test", directory=tmp_path / "target", download=True)
    assert list((tmp_path / "target").iterdir()) == []


def test_an_interrupted_download_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(url, known_hash, fname, path):
        (Path(path) / fname).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch, "retrieve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data.mnist("test", directory=tmp_path / "target", download=True)
    assert list((tmp_path / "target").iterdir()) == []


# Embedded and synthetic sets


def test_importing_is_cheap():
    heavy = "{'sklearn', 'pooch', 'requests', 'scipy', 'matplotlib'}"
    code = f"import sys, normdyn.data.sets; print(*sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == ""


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    got, features = data.digits(), load_digits().data
    assert torch.equal(data.flatten(got).inputs * 16, torch.tensor(features))
    assert got.inputs.min() == 0 and got.inputs.max() == 1
    assert got.labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # UCI's documentation
    assert got.provenance["files"]["inputs"] == hashlib.sha256((features / 16).tobytes()).hexdigest()


def test_iris_is_fishers():
    got = data.iris()
    assert got.inputs[0].tolist() == [5.1, 3.5, 1.4, 0.2] and got.labels.bincount().tolist() == [50, 50, 50]


@pytest.mark.parametrize("embedded", [data.digits, data.iris])
def test_embedded_sets_keep_their_provenance_in_float32(embedded):
    single = embedded(dtype=torch.float32)
    assert single.inputs.dtype == torch.float32
    assert single.provenance == embedded().provenance
    with pytest.raises(ValueError, match="dtype=torch.float16 is not supported"):
        embedded(dtype=torch.float16)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_gaussian_classes_have_the_means_and_deviation_asked_for():
    means = torch.tensor([[1.0, -2.0, 0.0], [0.0, 3.0, 5.0]], dtype=torch.float64)
    got = data.gaussian_classes(means, per_class=4000, deviation=0.5, generator=seeded())
    for k in range(2):
        cloud = got.inputs[got.labels == k]
        assert (cloud.mean(dim=0) - means[k]).abs().max() < 5 * 0.5 / 4000**0.5  # five standard errors
        assert (cloud.T.cov() - 0.25 * torch.eye(3)).abs().max() < 5 * 0.25 * (2 / 4000) ** 0.5
    with pytest.raises(ValueError, match="per_class=0 must be at least 1"):
        data.gaussian_classes(means, per_class=0, generator=seeded())


@pytest.mark.parametrize("seed", range(5))
def test_separable_keeps_its_margin_and_reaches_it(seed):
    direction = torch.randn(6, generator=seeded(seed), dtype=torch.float64)
    got = data.separable(direction, samples=2000, margin=0.3, generator=seeded(seed + 100))
    margins = (2 * got.labels - 1) * (got.inputs @ direction) / direction.norm()
    assert 0.3 - 1e-14 < margins.min() < 0.31  # the least of 2000 half-normal values is about 6e-4
    assert abs((margins - 0.3).square().mean() - 1) < 5 * (2 / 2000) ** 0.5  # a normal value's square
    assert got.labels.bincount().tolist() == [1000, 1000]
    across = got.inputs - torch.outer(got.inputs @ direction, direction) / direction.square().sum()
    assert abs(across.square().sum(dim=1).mean() - 5) < 5 * (10 / 2000) ** 0.5  # a normal cloud in five dimensions


def test_separable_rejects_what_cannot_separate():
    one = torch.ones(2)
    with pytest.raises(ValueError, match="samples=0 must be at least 1 and margin=0.1 at least 0"):
        data.separable(one, samples=0, margin=0.1, generator=seeded())
    with pytest.raises(ValueError, match="margin=-1.0 at least 0"):
        data.separable(one, samples=2, margin=-1.0, generator=seeded())
    with pytest.raises(ValueError, match=r"direction=\[0.0, 0.0\] must be finite and not zero"):
        data.separable(0 * one, samples=2, margin=1.0, generator=seeded())


def test_equal_seeds_give_equal_hashes_and_others_do_not():
    def provenance(seed):
        return data.separable(torch.ones(3), samples=5, margin=0.1, generator=seeded(seed)).provenance

    assert provenance(0) == provenance(0) != provenance(1)


# Choosing and scaling


def numbered(labels, names=("a", "b", "c")):
    """A set whose only feature is the row's number, so that rows can be recognised."""
    rows = torch.arange(len(labels), dtype=torch.float64)[:, None]
    return data.Dataset(rows, torch.tensor(labels), names, {"source": "made here", "files": {}})


def test_dataset_rejects_labels_without_a_name():
    with pytest.raises(ValueError, match="labels must lie in 0..2, got 0..3"):
        numbered([0, 3])
    with pytest.raises(ValueError, match="labels must lie in 0..2, got -1..0"):
        numbered([0, -1])


def test_select_classes_keeps_rows_and_renumbers_labels_in_the_order_given():
    got = data.select_classes(numbered([2, 0, 1, 2, 0]), ("c", 0))
    assert got.inputs.flatten().tolist() == [0, 1, 3, 4]
    assert got.labels.tolist() == [0, 1, 0, 1] and got.names == ("c", "a")


@pytest.mark.parametrize(
    "classes, message",
    [
        (("a", "z"), "'z' is unknown, choose among a, b, c"),
        ((0, 3), "3 is unknown"),
        (("a", 0), "each once"),
        ((), "one"),
    ],
)
def test_select_classes_rejects(classes, message):
    with pytest.raises(ValueError, match=rf"classes=\(.*{message}"):
        data.select_classes(numbered([0, 1, 2]), classes)


def test_draws_are_without_replacement_and_belong_to_their_generator():
    whole = numbered([k % 3 for k in range(30)])
    once, again, other = (
        data.draw_samples(whole, 20, generator=seeded(s)).inputs.flatten().tolist() for s in (0, 0, 1)
    )
    assert once == again != other and len(set(once)) == 20
    per_class = data.draw_per_class(whole, 4, generator=seeded())
    rows = per_class.inputs.flatten().long()
    assert per_class.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert torch.equal(rows % 3, per_class.labels) and len(rows.unique()) == 12


def test_every_row_is_drawn_equally_often():
    whole, generator = numbered([0, 0, 0, 1, 1, 2]), seeded()
    drawn = torch.cat([data.draw_samples(whole, 2, generator=generator).inputs.flatten() for _ in range(3000)])
    expected, spread = 1000, (3000 * (1 / 3) * (2 / 3)) ** 0.5
    assert (drawn.long().bincount() - expected).abs().max() < 5 * spread


@pytest.mark.parametrize("samples", [0, 6])
def test_more_samples_than_there_are(samples):
    with pytest.raises(ValueError, match=f"samples={samples} must lie between 1 and the 5 samples available"):
        data.draw_samples(numbered([0, 0, 1, 1, 2]), samples, generator=seeded())


@pytest.mark.parametrize("per_class", [0, 2])
def test_more_samples_than_a_class_has(per_class):
    with pytest.raises(ValueError, match=f"per_class={per_class} must lie between 1 and the . samples of class '.'"):
        data.draw_per_class(numbered([0, 0, 1, 1, 2]), per_class, generator=seeded())


def test_unit_norm_scales_samples_and_refuses_zero():
    images = data.draw_samples(data.digits(), 10, generator=seeded())
    scaled = data.unit_norm(images)
    for image, unit in zip(images.inputs, scaled.inputs, strict=True):
        assert torch.allclose(unit, image / image.square().sum().sqrt(), rtol=1e-14, atol=0)
    images.inputs[3] = 0
    with pytest.raises(ValueError, match="sample 3 is zero"):
        data.unit_norm(images)


def test_standardise_gives_mean_zero_and_deviation_one_and_leaves_constants_at_zero():
    whole = data.digits()
    statistics = data.feature_statistics(whole)
    scaled = data.flatten(data.standardize_dataset(whole, statistics)).inputs
    constant = (whole.inputs == whole.inputs[0]).all(dim=0).flatten()
    assert constant.sum() > 0  # corners that no digit reaches
    assert scaled.mean(dim=0).abs().max() < 1e-13 and scaled[:, constant].abs().max() == 0
    assert ((scaled.square().mean(dim=0) - 1)[~constant]).abs().max() < 1e-12
    tenths = dataclasses.replace(whole, inputs=torch.full_like(whole.inputs, 0.1))  # whose mean is 0.1 but for rounding
    assert data.standardize_dataset(tenths, data.feature_statistics(tenths)).inputs.abs().max() == 0


def test_statistics_of_another_shape():
    with pytest.raises(
        ValueError, match=r"statistics of shapes \(4,\) and \(4,\) do not fit samples of shape \(1, 8, 8\)"
    ):
        data.standardize_dataset(data.digits(), data.feature_statistics(data.iris()))


def test_choices_compose_and_leave_their_input_alone():
    whole = data.digits()
    before = whole.inputs.clone()
    pair = data.draw_per_class(data.select_classes(whole, (3, 8)), 20, generator=seeded())
    ready = data.unit_norm(data.flatten(data.standardize_dataset(pair, data.feature_statistics(pair))))
    assert ready.inputs.shape == (40, 64) and ready.names == ("3", "8") and ready.provenance == whole.provenance
    assert torch.equal(whole.inputs, before)


# The real files, where NORMDYN_DATA names a directory that holds them


def present(read, split, name):
    return [(read, split)] if REAL and (Path(REAL) / name).exists() else []


FOUND = [
    *present(data.cifar10, "train", "cifar-10-batches-py/data_batch_1"),
    *present(data.cifar10, "test", "cifar-10-batches-py/test_batch"),
    *present(data.cifar100, "train", "cifar-100-python/train"),
    *present(data.cifar100, "test", "cifar-100-python/test"),
    *present(data.mnist, "train", "MNIST/raw/train-images-idx3-ubyte.gz"),
    *present(data.mnist, "test", "MNIST/raw/t10k-images-idx3-ubyte.gz"),
]
if FOUND:

    @pytest.mark.parametrize("read, split", FOUND)
    def test_real_files(read, split):
        got = read(split, directory=REAL, dtype=torch.float32)
        size = {"train": 60_000 if read is data.mnist else 50_000, "test": 10_000}[split]
        assert len(got.labels) == size and got.inputs.min() == 0 and got.inputs.max() == 1
        counts = got.labels.bincount()
        if read is not data.mnist:
            assert (counts == size // len(got.names)).all()
            means = got.inputs.mean(dim=(0, 2, 3), dtype=torch.float64)
            assert (means - torch.tensor([0.50, 0.48, 0.45])).abs().max() < 0.02  # 0.49 and 0.51, 0.48 and 0.49, 0.44
        elif split == "test":
            assert counts.tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
