"""The built site in a browser: pages open, load nothing from elsewhere, typeset, fit a phone, and are accessible."""

import functools
import os
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from claimbook.command import bars
from site_checks import pages

ROOT = Path(__file__).parents[1]
SITE = Path(os.environ.get("CLAIMBOOK_SITE") or ROOT / "build" / "quick" / "html").resolve()
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
AXE = {
    "resultTypes": ["violations"],
    "preload": False,  # it would fetch style sheets by itself, some under wrong names
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
}
UNTYPESET = r"""() => {
  const bad = [...document.querySelectorAll("mjx-merror, [data-mjx-error]")].map((node) => node.textContent);
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode())
    if (/\\\(|\\\[|\$\$|Math input error/.test(node.data) && !node.parentElement.closest("pre, code, script, style"))
      bad.push(node.data.trim().slice(0, 80));
  const formulas = document.querySelectorAll(".math").length;
  const typeset = document.querySelectorAll("mjx-container").length;
  if (typeset < formulas) bad.push(`${typeset} of ${formulas} formulas are typeset`);
  return bad;
}"""
WIDER = """() => [...document.querySelectorAll("main *")]
  .filter((node) => node.getBoundingClientRect().right > innerWidth + 1 && node.checkVisibility())
  .slice(0, 3).map((node) => `${node.tagName}.${node.className}`)"""


# axe takes node by node and seconds for a thousand. The rows of the table of claims are made by one function, the
# tokens of code have one style a class: it is shown two of each.
THIN = """() => {
  const seen = {};
  const again = (look) => (seen[look] = (seen[look] ?? 0) + 1) > 2;
  for (const row of document.querySelectorAll("table.ledger tbody tr")) {
    const corrected = row.querySelector(".ledger-correction") !== null;
    if (again([row.dataset.verdict, row.dataset.core, corrected])) row.remove();
  }
  for (const token of document.querySelectorAll("pre span[class]"))
    if (!token.children.length && again(["token", token.className])) token.replaceWith(token.textContent);
}"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        """Say nothing about requests."""


@pytest.fixture(scope="module")
def host():
    """The site, served from this machine."""
    assert (SITE / "index.html").is_file(), f"no site in {SITE}: run make book first, or name one by CLAIMBOOK_SITE"
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    program = os.environ.get("CLAIMBOOK_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    assert program, f"no browser on the PATH: install one of {', '.join(BROWSERS)}, or name one by CLAIMBOOK_BROWSER"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def context(browser):
    context = browser.new_context(viewport=DESK, color_scheme="light", reduced_motion="reduce")
    yield context
    context.close()


@pytest.fixture
def tab(context, host):
    """A page of the browser that remembers what went wrong on it."""
    page = context.new_page()
    page.set_viewport_size(DESK)
    page.wrong = []
    page.on("console", lambda m: page.wrong.append(f"console: {m.text}") if m.type == "error" else None)
    page.on("pageerror", lambda error: page.wrong.append(f"error: {error}"))
    page.on("response", lambda r: page.wrong.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
    page.on("requestfailed", lambda request: page.wrong.append(f"failed: {request.url}"))
    page.on(
        "request",
        lambda r: None if r.url.startswith((host, "data:", "blob:")) else page.wrong.append(f"leaves: {r.url}"),
    )
    yield page
    page.close()


def open_typeset(tab, host, name):
    """Open a page and wait until its mathematics is typeset."""
    answer = tab.goto(f"{host}/{name}")
    assert answer.ok, f"{name}: {answer.status}"
    tab.evaluate("async () => { await window.MathJax?.startup?.promise; }")


def open_page(tab, host, name):
    """Open a page, wait until its mathematics is typeset, and unfold what is folded."""
    open_typeset(tab, host, name)
    tab.evaluate("() => { for (const box of document.querySelectorAll('details')) box.open = true; }")
    tab.evaluate("() => window.dispatchEvent(new Event('resize'))")


def violations(tab, options=AXE):
    """What axe finds, in a line a rule."""
    found = Axe().run(tab, options=options).response["violations"]
    return [f"{v['id']}: {v['help']} ({len(v['nodes'])}x, {v['nodes'][0]['html'][:160]})" for v in found]


def set_theme(tab, theme):
    tab.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)


NAMES = [str(page.relative_to(SITE)) for page in pages(SITE)] if SITE.is_dir() else ["index.html"]


@pytest.mark.parametrize("name", NAMES)
def test_page(tab, host, name):
    look_at(tab, host, name)


def look_at(tab, host, name):
    open_page(tab, host, name)
    assert tab.evaluate(UNTYPESET) == []
    tab.set_viewport_size(PHONE)
    width = tab.evaluate("document.documentElement.scrollWidth")
    assert width <= PHONE["width"], (width, tab.evaluate(WIDER))
    tab.set_viewport_size(DESK)
    tab.evaluate(THIN)
    for theme in ("light", "dark"):
        set_theme(tab, theme)
        assert violations(tab) == [], theme
    assert tab.wrong == []


ESSAYS = [f"{page}.html" for page in bars.pages_of_claims(ROOT)]


@pytest.mark.parametrize("name", ESSAYS)
def test_the_headline_figure_of_an_essay_is_on_its_first_screen(tab, host, name):
    tab.goto(f"{host}/{name}")
    tab.evaluate("async () => { await window.MathJax?.startup?.promise; }")
    top = tab.locator("article figure").first.evaluate("node => node.getBoundingClientRect().top")
    assert top < DESK["height"] - 100, "its head is not to be seen without scrolling"


@pytest.mark.parametrize("name", ESSAYS)
def test_cards_are_closed_to_a_line_and_formulas_fit(tab, host, name):
    tab.goto(f"{host}/{name}")
    tab.evaluate("async () => { await window.MathJax?.startup?.promise; }")
    heights = tab.evaluate(
        "() => [...document.querySelectorAll('details.verdict')].map((n) => [n.open, n.getBoundingClientRect().height])"
    )
    assert heights and not any(opened for opened, _ in heights) and max(height for _, height in heights) < 120
    for size in (DESK, PHONE):
        tab.set_viewport_size(size)
        tab.evaluate("() => window.dispatchEvent(new Event('resize'))")
        cut = tab.evaluate(
            "() => [...document.querySelectorAll('div.math')].filter((n) => n.scrollWidth > n.clientWidth + 1)"
            ".map((n) => [n.id, n.scrollWidth, n.clientWidth])"
        )
        assert cut == [], size


CLAIM_PAGES = sorted(page.stem for page in (SITE / "claims").glob("[EO]-*.html"))[::9] + ["A-thm1", "C-prop4.3"]


@pytest.mark.parametrize("claim", CLAIM_PAGES)
def test_the_page_of_a_claim(tab, host, claim):
    look_at(tab, host, f"claims/{claim}.html")


def test_claims_can_be_filtered(tab, host):
    open_page(tab, host, "claims.html?paper=E")
    shown = "() => [...document.querySelectorAll('table.ledger tbody tr:not([hidden])')].map((row) => row.dataset)"
    rows = tab.evaluate(shown)
    assert rows and {row["paper"] for row in rows} == {"E"}
    kind = rows[0]["kind"]
    tab.select_option("select[name=kind]", kind)
    fewer = tab.evaluate(shown)
    assert 0 < len(fewer) < len(rows) and {row["kind"] for row in fewer} == {kind}
    tab.fill("input[name=text]", "no claim says this")
    assert tab.evaluate(shown) == []
    assert tab.inner_text("output.ledger-found") == "0 claims"


def test_a_link_to_a_claim_shows_its_row(tab, host):
    """Nothing is unfolded by the test: boxes above the table that open would push the row out of the window."""
    open_typeset(tab, host, "claims.html?paper=A#claim-E-fig1")
    row = tab.locator("#claim-E-fig1")
    assert row.is_visible()
    top, bottom = row.evaluate("node => [node.getBoundingClientRect().top, innerHeight]")
    assert 0 <= top < bottom


def test_dark_mode_shows_the_dark_drawing(tab, host):
    name = next(n for n in NAMES if (SITE / n).read_text().find("dark-ground") > 0)
    open_page(tab, host, name)
    for theme, visible in (("light", "light-ground"), ("dark", "dark-ground")):
        set_theme(tab, theme)
        images = tab.locator("figure img")
        for i in range(images.count()):
            image = images.nth(i)
            assert image.is_visible() == (visible in image.get_attribute("class"))
        style = tab.locator(f"figure img.{visible}").first.evaluate(
            "node => [getComputedStyle(node).filter, getComputedStyle(node).backgroundColor]"
        )
        assert style == ["none", "rgba(0, 0, 0, 0)"]


def test_a_drawing_is_readable_on_a_phone(tab, host):
    """It keeps a width for its labels and scrolls in its own box, which a key can reach; on a desk it does not."""
    name = next(n for n in NAMES if (SITE / n).read_text().find("dark-ground") > 0)
    box, measure = tab.locator("article .drawing").first, "node => [node.scrollWidth - node.clientWidth, node.tabIndex]"
    for size, theme in ((PHONE, "light"), (PHONE, "dark"), (DESK, "light")):
        tab.set_viewport_size(size)
        open_page(tab, host, name)
        set_theme(tab, theme)
        box.scroll_into_view_if_needed()
        over, focusable = box.evaluate(measure)
        width = box.locator("img:visible").evaluate("node => node.getBoundingClientRect().width")
        if size is DESK:
            assert over <= 0 and focusable == -1
            continue
        assert over > 0 and focusable == 0 and width >= 500, (over, focusable, width)
        assert tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        box.focus()
        tab.keyboard.press("ArrowRight")
        tab.wait_for_function("document.activeElement.scrollLeft > 0")
        assert violations(tab) == [], theme
    tab.emulate_media(media="print")
    assert box.evaluate("node => getComputedStyle(node).overflowX") == "visible"
    tab.emulate_media(media="screen")


BAD = """data:text/html,<html><body><main><h1>Bad</h1><div class="math">\\(x\\)</div><img src="data:,">
<div style="width:900px">wide</div>
<p style="color:%23ccc;background:%23fff">pale</p></main></body></html>"""


def test_the_checkers_see_a_bad_page(tab):
    tab.goto(BAD)
    assert len(tab.evaluate(UNTYPESET)) == 2
    found = [violation.split(":")[0] for violation in violations(tab)]
    assert {"image-alt", "color-contrast", "html-has-lang"} <= set(found)
    tab.set_viewport_size(PHONE)
    assert tab.evaluate("document.documentElement.scrollWidth") > PHONE["width"]
    assert tab.evaluate(WIDER) != []
