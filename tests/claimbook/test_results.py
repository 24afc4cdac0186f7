"""Stored results: round trip, provenance, code keys, damage, and the page's key."""

import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from claimbook.show import checks, results
from claimbook.source.keys import page_key
from claimbook.source.parameters import Parameters


@dataclass(frozen=True)
class Setup:
    steps: int = 3
    widths: tuple = (4, 2)


def keep(folder, result=None, name="toy", **changes):
    options = {"setup": Setup(), "seeds": [0, 1], "seconds": 200.0, "device": "cpu", "data_sha256": "f" * 64}
    options |= {"sources": [checks], "folder": folder} | changes
    return results.save({"loss": torch.arange(3.0)} if result is None else result, name, **options)


def test_round_trip_keeps_values_dtypes_and_shapes(tmp_path):
    given = {
        "a": torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
        "b": np.arange(5, dtype=np.int32),
        "c": torch.tensor(True),
        "d": [1.5, 2.5],
    }
    path = keep(tmp_path, given)
    assert path == tmp_path / "paper" / "toy.npz" and [p.name for p in path.parent.iterdir()] == ["toy.npz"]
    arrays, _ = results.load("toy", "paper", folder=tmp_path)
    assert set(arrays) == set(given)
    for key, value in given.items():
        expected = torch.as_tensor(value)
        expected = expected.double() if key == "d" else expected
        assert arrays[key].dtype == expected.dtype and torch.equal(arrays[key], expected)


def test_provenance_says_what_was_run(tmp_path):
    keep(tmp_path)
    _, origin = results.load("toy", "paper", folder=tmp_path)
    assert origin.setup == {"steps": 3, "widths": [4, 2]} and origin.seeds == [0, 1] and origin.is_current
    assert origin.versions["torch"] == torch.__version__ and origin.sources == ["claimbook.show.checks"]
    assert origin.summary() == (
        f"Stored result toy (paper profile): seeds 0, 1, computed in 3 min on cpu with torch {torch.__version__}, "
        "by the code as it is now."
    )


def test_the_file_is_read_by_plain_numpy_and_json(tmp_path):
    with np.load(keep(tmp_path), allow_pickle=False) as file:
        assert json.loads(str(file["provenance"]))["data_sha256"] == "f" * 64


def module(tmp_path, monkeypatch, text):
    (tmp_path / "somewhere_of_its_own.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "somewhere_of_its_own"


def test_edited_or_removed_code_makes_a_result_old(tmp_path, monkeypatch):
    name = module(tmp_path, monkeypatch, "x = 1\n")
    keep(tmp_path, sources=["claimbook.show.checks", name])
    origin = results.load("toy", "paper", folder=tmp_path)[1]
    assert origin.is_current and "as it is now" in origin.summary()
    (tmp_path / f"{name}.py").write_text("x = 2\n")
    assert not origin.is_current and origin.summary().endswith("by older code.")
    (tmp_path / f"{name}.py").unlink()
    assert not origin.is_current


def test_a_long_run_keeps_the_key_it_began_with(tmp_path):
    keep(tmp_path, key="0" * 64)
    origin = results.load("toy", "paper", folder=tmp_path)[1]
    assert origin.code_key == "0" * 64 and not origin.is_current


def test_code_key_is_the_same_in_any_order_and_imports_nothing(tmp_path, monkeypatch):
    name = module(tmp_path, monkeypatch, "raise RuntimeError('imported')\n")
    assert results.code_key([name, "claimbook.show.checks"]) == results.code_key([checks, name, name])
    assert results.code_key([name]) != results.code_key([checks])


@pytest.mark.parametrize("name", ["claimbook.no_such_module", "nowhere.at.all", "sys"])
def test_a_source_must_be_a_module_with_a_source(tmp_path, name):
    with pytest.raises(ValueError, match=f"sources names '{name}'.*full name"):
        keep(tmp_path, sources=[name])


@pytest.mark.parametrize("name", ["", "Loss", "a b", "../x", "a/b", "x.npz/", "-x"])
def test_bad_names(tmp_path, name):
    with pytest.raises(ValueError, match="name=.* is not allowed: use lower-case"):
        keep(tmp_path, name=name)


@pytest.mark.parametrize("result", [{"a": np.array([object()])}, {"a": np.array(["text"])}, {"a": [1, [2, 3]]}])
def test_only_numbers_are_stored(tmp_path, result):
    with pytest.raises(ValueError, match="store numbers|inhomogeneous"):
        keep(tmp_path, result)


@pytest.mark.parametrize("key", ["provenance", "two words"])
def test_bad_keys(tmp_path, key):
    with pytest.raises(ValueError, match=f"the key '{key}'"):
        keep(tmp_path, {key: torch.ones(1)})


def test_unknown_profile(tmp_path):
    with pytest.raises(ValueError, match="profile='full' is unknown, choose among quick, paper"):
        keep(tmp_path, profile="full")


def test_a_missing_result_lists_those_that_are_there(tmp_path):
    keep(tmp_path)
    assert results.stored("toy", "paper", folder=tmp_path) and not results.stored("toy", "quick", folder=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no stored result 'other' in profile 'paper', there is: \['toy'\]"):
        results.load("other", "paper", folder=tmp_path)


def test_a_page_names_the_path_and_a_bare_name_needs_its_profile(tmp_path):
    keep(tmp_path)
    assert results.load("data/results/paper/toy.npz", folder=tmp_path)[1].name == "toy"
    for name in ("toy", "/data/results/paper/toy.npz", "data/results/toy.npz", "data/results/paper/toy.json"):
        with pytest.raises(ValueError, match=r"give profile=, or the path data/results/PROFILE/NAME\.npz"):
            results.load(name, folder=tmp_path)


def damaged(path, how):
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "other":
        np.savez(path, loss=np.ones(3))
    elif how == "flipped":
        with zipfile.ZipFile(path) as file:
            start = file.getinfo("loss.npy").header_offset
        path.write_bytes(content[: start + 60] + bytes([content[start + 60] ^ 255]) + content[start + 61 :])


@pytest.mark.parametrize("how", ["cut", "empty", "other", "flipped"])
def test_damage_is_named(tmp_path, how):
    damaged(keep(tmp_path), how)
    with pytest.raises(ValueError, match="toy.npz is damaged or was not written by save.*run its study again"):
        results.load("toy", "paper", folder=tmp_path)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = keep(tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(results.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        keep(tmp_path, {"loss": torch.zeros(2)})
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_changed_result_changes_the_key_of_the_page_that_names_it(tmp_path):
    page = tmp_path / "chapters" / "one.md"
    page.parent.mkdir()
    (tmp_path / "lib" / "tiny").mkdir(parents=True)
    head = "---\njupytext:\n  text_representation:\n    format_name: myst\n---\n\n"
    head += "```{code-cell} python3\n:tags: [parameters]\n\nprofile = 'quick'\n```\n\n"
    page.write_text(f'{head}```{{code-cell}} python3\nresults.load("data/results/paper/toy.npz")\n```\n')
    key = lambda: page_key(tmp_path, "one", Parameters()).parts
    folder = tmp_path / "data" / "results"
    before = key()
    assert before["data/results/paper/toy.npz"] == "absent"
    keep(folder)
    first = key()
    keep(folder, {"loss": torch.zeros(2)})
    assert len({p["data/results/paper/toy.npz"] for p in (before, first, key())}) == 3


def test_the_folder_of_the_book_is_found_from_any_working_directory(tmp_path):
    code = "from claimbook.show import results; print(results.locate('x', 'quick'))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(shown.stdout.strip()) == Path(__file__).parents[2] / "data" / "results" / "quick" / "x.npz"
