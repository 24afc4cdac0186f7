"""The built site, read from its files: links, figures, data, notebooks, ledger."""

import json
import os
import re
from pathlib import Path

import pytest

from claimbook.command import bars
from site_checks import anchors, broken_links, figures_without_data, pages, parse, unpublishable, weak_alternatives

ROOT = Path(__file__).parents[1]
SITE = Path(os.environ.get("CLAIMBOOK_SITE") or ROOT / "build" / "quick" / "html").resolve()
BESIDE = {name: SITE.parent / f"{name}.json" for name in ("verdicts", "runs", "history")}


@pytest.fixture(scope="module")
def site() -> Path:
    assert (SITE / "index.html").is_file(), f"no site in {SITE}: run make book first, or name one by CLAIMBOOK_SITE"
    return SITE


def problems(site, checker):
    return [f"{page.relative_to(site)}: {problem}" for page in pages(site) for problem in checker(page)]


@pytest.mark.parametrize("checker", [broken_links, weak_alternatives, figures_without_data, unpublishable])
def test_pages(site, checker):
    assert problems(site, checker) == []


def test_every_executed_page_offers_its_notebook(site):
    for page in json.loads(BESIDE["runs"].read_text()):
        notebook = json.loads((site / "_sources" / f"{page}.ipynb").read_text())
        assert "normdyn" in notebook["cells"][0]["source"], page  # installs the library on a cloud machine
        hrefs = [a.get("href", "") for a in parse(site / f"{page}.html").select("a.btn, a.dropdown-item")]
        launches = [h for h in hrefs if "colab.research.google.com" in h or "mybinder.org" in h]
        assert len(launches) == 2, (page, launches)
        assert all(h.endswith(f"_sources/{page}.ipynb") and "/gh-pages" in h for h in launches), (page, launches)
        assert any(h.endswith(f"_sources/{page}.ipynb") and "://" not in h for h in hrefs), (page, hrefs)


def test_every_executed_page_says_what_made_it(site):
    for page, run in json.loads(BESIDE["runs"].read_text()).items():
        block = parse(site / f"{page}.html").select_one("div.provenance").get_text()
        for fact in (run["profile"], run["device"], run["commit"], *run["versions"].values()):
            assert str(fact) in block, (page, fact)
        assert page.split("/")[-1].split("-")[0] in parse(site / "status.html").get_text()


def test_claims_page_has_every_row_and_the_verdicts_of_the_ledger(site):
    ledger = json.loads(BESIDE["verdicts"].read_text())
    rows = {row["id"]: row for row in parse(site / "claims.html").select("table.ledger tbody tr")}
    registry = sum((ROOT / "data" / "claims" / f"{p}.yaml").read_text().count("\n- id: ") for p in "ABCDEO")
    assert len(rows) == registry
    for claim, entry in ledger.items():
        row = rows[f"claim-{claim}"]
        assert row["data-verdict"] == entry["verdict"], claim
        assert row.select_one(f'a[href$="{entry["page"]}.html#evidence-{claim}"]'), claim
    undecided = [row for claim, row in rows.items() if claim.removeprefix("claim-") not in ledger]
    assert all("not yet written" in row.get_text() for row in undecided)


def test_errata_name_exactly_what_does_not_hold_as_printed(site):
    wrong = {
        claim
        for claim, entry in json.loads(BESIDE["verdicts"].read_text()).items()
        if entry["verdict"] in ("fails", "holds-with-correction")
    }
    listed = [entry["id"].removeprefix("erratum-") for page in pages(site) for entry in parse(page).select(".erratum")]
    assert sorted(listed) == sorted(wrong)


def test_front_page_counts_come_from_the_ledger(site):
    recorded = json.loads(BESIDE["verdicts"].read_text())
    verdicts = [entry["verdict"] for claim, entry in recorded.items() if not claim.startswith("O-")]
    sentence = parse(site / "index.html").select_one(".ledger-sentence").get_text()
    assert f"{len(verdicts)} have a verdict" in sentence
    for verdict in set(verdicts):
        assert f"{verdicts.count(verdict)} {verdict.replace('-', ' ')}" in sentence


def test_status_page_has_the_history_of_the_verdicts(site):
    changes = json.loads(BESIDE["history"].read_text())
    rows = parse(site / "status.html").select("table.verdict-history tbody tr")
    assert [row.code.get_text() for row in rows] == [change["commit"] for change in changes]
    for row, change in zip(rows, changes, strict=True):
        assert str(sum(change["count"].values())) in [cell.get_text() for cell in row.select("td")]


def test_figures_have_lasting_addresses(site):
    """Each leads to an anchor that is there; every captioned figure of a cell has one."""
    targets = {}
    for page in (site / "figures").glob("*.html"):
        link = parse(page).select_one("body a")["href"]
        assert f"url={link}" in page.read_text(encoding="utf-8")
        file, anchor = (page.parent / link.split("#")[0]).resolve(), link.split("#")[1]
        assert anchor in anchors(file), link
        targets[page.stem] = file, anchor
    drawn = {(page, figure["id"]) for page in pages(site) for figure in parse(page).select("figure[id^=fig-]")}
    assert drawn == set(targets.values())


def test_every_claim_has_a_page_that_says_what_is_known(site):
    claims = {row["id"].removeprefix("claim-") for row in parse(site / "claims.html").select("tr[id^=claim-]")}
    shown = {page.stem: parse(page) for page in (site / "claims").glob("*.html")}
    assert shown.keys() == claims and len(claims) >= 608
    records = json.loads((site.parent / "evidence.json").read_text(encoding="utf-8"))
    for claim, page in shown.items():
        assert page.select_one("h1 .verdict-mark") and page.select_one("h2").find_next("p").get_text(strip=True), claim
        assert f"Dispute%20{claim}" in page.select_one("a[href*='issues/new']")["href"]
        where = page.select_one("header a[href*='#evidence-']")["href"]
        assert where.endswith(f"#evidence-{claim}") and "evidence-" + claim in anchors(
            (site / "claims" / where.split("#")[0]).resolve()
        ), claim
        if claim in records:
            assert records[claim]["function"] in page.get_text(), claim
            stored = (ROOT / "data" / "audit" / f"{claim}.json").is_file()
            assert page.select("dl.probes dt") if stored else "not made yet" in page.get_text(), claim
        for problem in broken_links(site / "claims" / f"{claim}.html"):
            raise AssertionError(f"{claim}: {problem}")


def test_notebooks_that_leave_the_site_have_no_raw_directive(site):
    raw = re.compile(r"(?m)^\s*(?:`{3,}|:{3,})\{|\{(?:glue:text|numref|eq|ref|cite:[pt]|prf:ref|claim)\}`")
    notebooks = sorted((site / "_sources").rglob("*.ipynb"))
    assert len(notebooks) > 60
    for file in notebooks:
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            if cell["cell_type"] == "markdown":
                assert not raw.search("".join(cell["source"])), (file.name, "".join(cell["source"])[:200])


def test_essays_reach_their_bars():
    """Pages whose claims are functions: lines, share of code, lengths of cells, the headline figure."""
    names = bars.pages_of_claims(ROOT)
    assert len(names) >= 9
    assert {name: missed for name in names if (missed := bars.measure(ROOT, name).missed())} == {}


def test_pages_describe_themselves_and_drawings_say_their_size(site):
    for page in pages(site):
        name = str(page.relative_to(site))
        for image in parse(page).select('article img[src$=".svg"]'):
            assert int(image["width"]) > 100 and int(image["height"]) > 50, (name, image["src"])
        if name not in ("search.html", "genindex.html"):
            description = parse(page).select_one('meta[name="description"]')
            assert description is not None and 40 <= len(description["content"]) <= 160, name


def test_text_waits_for_formulas_from_the_first_one_on(site):
    for page in pages(site):
        name = str(page.relative_to(site))
        article = parse(page).select_one("article")
        for formula in article.select("section .math") if article else ():
            around = [formula, *formula.parents]
            assert any(tag.find_previous_sibling("template", "formulas") for tag in around), (name, formula)
        for mark in article.select("template.formulas") if article else ():
            assert mark.parent.select(".math"), (name, mark.parent["id"])


def test_a_page_with_a_wide_table_says_so_where_it_begins(site):
    wide = set()
    for page in pages(site):
        if parse(page).select("table.ledger, table.run-status, section.erratum"):
            wide.add(str(page.relative_to(site)))
            assert "wide" in parse(page).select_one("article section")["class"], page
    assert {"claims.html", "status.html"} < wide


def test_a_chapter_says_how_to_cite_it(site):
    for page in pages(site):
        entries = parse(page).select("details.cite-page")
        name = str(page.relative_to(site).with_suffix(""))
        assert len(entries) == ("/" in name), name  # not under the pages that belong to no paper
        if entries:
            text = entries[0].pre.get_text()
            assert f"note      = {{Page {name}}}" in text and text.count("{") == text.count("}")


def test_figures_have_a_twin_for_dark_ground(site):
    for page in pages(site):
        light = [image["src"] for image in parse(page).select("figure img.light-ground")]
        dark = [image["src"] for image in parse(page).select("figure img.dark-ground")]
        assert [src.replace(".svg", "-dark.svg") for src in light] == dark
        assert len(light) == len(parse(page).select("figure > .drawing > img.light-ground + img.dark-ground"))
        for src in dark:
            drawing = (page.parent / src).read_text()
            assert "#1b1e23" not in drawing and "#c9ced6" not in drawing, src


def test_no_line_begins_with_punctuation_after_a_formula_or_a_verdict(site):
    for page in pages(site):
        if parse(page).select("table.ledger"):
            continue
        for node in parse(page).select("article p span.math, article p .verdict-mark"):
            following = node.next_sibling if isinstance(node.next_sibling, str) else ""
            assert not following.startswith((",", ".", ";", ":", ")")) or node.find_parent("span", "unbroken"), node


BAD = """<html lang="en"><body><main><article><h1>Bad</h1>
<a href="gone.html">a</a><a href="#nowhere">b</a><a href="#here">c</a><script src="https://cdn.example.org/x.js"></script>
<p id="here">Traceback (most recent call last)</p>
<div class="cell_output"><figure id="one"><img src="bad.html"><figcaption>
<span class="caption-text">The gap closes in a few passes, then stays.</span></figcaption></figure></div>
<figure><img src="bad.html" alt="_images/0123456789abcdef.svg"><figcaption>
<span class="caption-text">A</span></figcaption></figure>
<figure><img src="bad.html" alt="The gap closes in a few passes, then stays."><figcaption>
<span class="caption-text">The gap closes in a few passes,
then stays.</span></figcaption></figure>
<div class="cell_output"><img src="bad.html" alt="A curve that falls"></div>
<h1>Twice</h1></article></main></body></html>"""


def test_the_checkers_see_a_bad_page(tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(BAD)
    links, pictures = broken_links(page), weak_alternatives(page)
    assert [p.split(":")[0] for p in links] == ["gone.html", "#nowhere", "script is loaded from elsewhere"]
    for said in ("no alternative text", "is a path", "repeats the caption", "no caption"):
        assert sum(said in problem for problem in pictures) == 1, pictures
    assert figures_without_data(page) == ["one: no line with its data"]
    assert unpublishable(page) == ["an error is shown", "2 headings of the first level"]
