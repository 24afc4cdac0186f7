"""The crosswalk and the page of the one principle: every name in them can be imported, every mark and link exists."""

import importlib
import re
from pathlib import Path

import pytest

from claimbook.registry import verdicts

ROOT = Path(__file__).parents[1]
CHAPTERS = ROOT / "chapters"
PAGES = ("crosswalk", "one-principle")
ROLE = re.compile(r"\{(\w+)\}`([^`]*)`")


def prose(page: str) -> str:
    """A page without its code cells."""
    text = (CHAPTERS / f"{page}.md").read_text(encoding="utf-8")
    return re.sub(r"```\{code-cell\}.*?^```$", "", text, flags=re.S | re.M)


def library_names(text: str) -> list[str]:
    """Code spans that are not the argument of a role, in the tables' last columns or elsewhere."""
    spans = re.findall(r"(?<!\})`([^`\n]+)`", ROLE.sub("", text))
    return [span for span in spans if re.fullmatch(r"[a-z_]+(\.\w+)+", span)]


def resolve(name: str):
    """The object behind ``folder.module.object`` of the library, or ``studies.module.object`` of the companion."""
    package = "companion" if name.startswith("studies.") else "normdyn"
    module, attribute = f"{package}.{name}".rsplit(".", 1)
    return getattr(importlib.import_module(module), attribute)


def labels() -> set[str]:
    """Targets of ``{ref}``, ``{eq}`` and ``{prf:ref}`` anywhere in the book."""
    found = set()
    for path in CHAPTERS.rglob("*.md"):
        text = path.read_text(encoding="utf-8")
        found |= set(re.findall(r"^\(([\w-]+)\)=$", text, flags=re.M))
        found |= set(re.findall(r"^\s*:label: ([\w-]+)$", text, flags=re.M))
        found |= set(re.findall(r"^\s*name: ([\w-]+)$", text, flags=re.M))
    return found


CROSSWALK = library_names(prose("crosswalk"))


def test_the_crosswalk_names_the_library():
    assert len(set(CROSSWALK)) > 50


@pytest.mark.parametrize("name", sorted(set(CROSSWALK)))
def test_every_library_name_can_be_imported(name):
    assert callable(resolve(name))


def test_a_name_that_does_not_exist_would_be_noticed():
    assert library_names("`norms.laws.no_such_law` but not {claim}`A-thm1`") == ["norms.laws.no_such_law"]
    with pytest.raises(AttributeError, match="no_such_law"):
        resolve("norms.laws.no_such_law")


@pytest.mark.parametrize("page", PAGES)
def test_every_claim_is_in_the_registry(page):
    claims = verdicts.read_claims(ROOT)
    used = {target for role, target in ROLE.findall(prose(page)) if role == "claim"}
    assert len(used) > 30 and used <= set(claims), used - set(claims)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_has_a_target(page):
    used = {target for role, target in ROLE.findall(prose(page)) if role in ("ref", "eq", "ref", "numref")}
    used |= set(re.findall(r"\{prf:ref\}`([^`]*)`", prose(page)))
    assert used and used <= labels(), used - labels()


def test_tables_have_rectangular_rows():
    for block in re.findall(r"(?:^\|.*\n)+", prose("crosswalk"), flags=re.M):
        columns = {len(re.findall(r"(?<!\\)\|", row)) for row in block.splitlines()}
        assert len(columns) == 1, block.splitlines()[0]
