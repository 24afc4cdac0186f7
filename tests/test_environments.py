"""Ready-made environments: the development container, and what Binder opens a published notebook with."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from claimbook.show import results

ROOT = Path(__file__).parents[1]
CONTAINER = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PYTHONS = SpecifierSet(PROJECT["project"]["requires-python"])


def commands():
    """What the container runs, command by command."""
    texts = [text for name, text in CONTAINER.items() if name.endswith("Command")]
    return [command.split() for text in texts for command in text.split("&&")]


def test_the_container_runs_targets_that_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    made = [target for command in commands() if command[0] == "make" for target in command[1:]]
    assert "environment" in made and set(made) <= set(targets)


def test_the_container_has_a_python_that_the_library_takes_and_its_editor_uses_ours():
    assert re.search(r":(\d+\.\d+)-", CONTAINER["image"])[1] in PYTHONS
    settings = CONTAINER["customizations"]["vscode"]["settings"]
    assert settings["python.defaultInterpreterPath"].endswith("/.venv/bin/python")
    assert settings["editor.rulers"] == [PROJECT["tool"]["ruff"]["line-length"]]


@pytest.fixture(scope="module")
def binder(tmp_path_factory):
    """The folder that is written beside a published site, by the command of the workflow."""
    site = tmp_path_factory.mktemp("site")
    words = publishing()[0].replace('"', "").split()[1:]
    given = {"site": str(site), "$GITHUB_REPOSITORY": "owner/book", "$GITHUB_SHA": "0" * 40}
    subprocess.run([sys.executable, *(given.get(word, word) for word in words)], cwd=ROOT, check=True)
    return site / "binder"


def publishing():
    """The lines by which the workflow publishes, from the one that writes for Binder on."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text(encoding="utf-8"))
    lines = workflow["jobs"]["publish"]["steps"][-1]["run"].splitlines()
    return lines[[line.startswith("python3 requirements/binder.py site ") for line in lines].index(True) :]


def test_what_binder_needs_is_published_where_the_launch_links_lead(binder):
    assert {path.name for path in binder.iterdir()} == {"requirements.txt", "runtime.txt"}
    repository = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
    assert repository["path_to_book"] == "_sources"
    assert any(f"--initial-branch {repository['branch']}" in line for line in publishing())
    assert "git add --all" in publishing()


def test_binder_has_a_python_that_the_library_takes(binder):
    name, version = (binder / "runtime.txt").read_text().strip().split("-")
    assert name == "python" and version in PYTHONS


def test_binder_installs_what_chapters_import_at_the_versions_they_ran_with(binder):
    index, *lines, library = (binder / "requirements.txt").read_text().splitlines()
    assert index.startswith("--extra-index-url https://")
    pinned = {r.name: str(r.specifier) for r in map(Requirement, lines)}
    needed = {Requirement(text).name for text in PROJECT["project"]["dependencies"]}
    named = (ROOT / "requirements" / "run.in").read_text(encoding="utf-8").splitlines()
    needed |= {line for line in named if not line.startswith("#")} - {"ipykernel"}
    assert pinned.keys() == needed
    locked = "".join((ROOT / "requirements" / name).read_text(encoding="utf-8") for name in ("run.txt", "torch.txt"))
    assert all(re.search(rf"^{name}{version}\s", locked, flags=re.MULTILINE) for name, version in pinned.items())
    # As a checkout, so that data/ lies where the library looks for stored results.
    assert library == f"-e git+https://github.com/owner/book@{'0' * 40}#egg=normdyn"
    assert results.ROOT == Path(results.__file__).parents[3] and PROJECT["tool"]["setuptools"]["package-dir"] == {
        "": "lib"
    }
