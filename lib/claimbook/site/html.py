"""Figures for light and for dark ground, and what the theme leaves undone for accessibility."""

import re
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

SIZE = re.compile(r'<svg[^>]*?\bwidth="([\d.]+)pt" height="([\d.]+)pt"', re.DOTALL)

# Ink and grid of claimbook.show.figures.STYLE, and what stands for them on a dark ground. Curves keep their colours.
DARK = {"#1b1e23": "#e6e8eb", "#c9ced6": "#4a505a"}


def darken(svg: str) -> str:
    """The same drawing for a dark ground.

    Example:
        >>> darken('<path style="stroke: #1b1e23"/><path style="stroke: #2b7bba"/>')
        '<path style="stroke: #e6e8eb"/><path style="stroke: #2b7bba"/>'
    """
    return re.sub("|".join(DARK), lambda found: DARK[found[0].lower()], svg, flags=re.IGNORECASE)


class Twins(SphinxTransform):
    """Give every figure that a cell has drawn a twin for dark mode."""

    default_priority = 870  # before Sphinx collects the images of the page, at 880

    def apply(self, **_: Any) -> None:
        drawn = Path(self.app.outdir).parent / "jupyter_execute"
        for image in list(self.document.findall(nodes.image)):
            uri = image["uri"]
            file = (
                Path(self.env.srcdir, uri.lstrip("/"))
                if uri.startswith("/")
                else Path(self.env.doc2path(self.env.docname)).parent / uri
            )
            if file.suffix != ".svg" or drawn.resolve() not in file.resolve().parents:
                continue
            twin = file.with_name(f"{file.stem}-dark.svg")
            twin.write_text(darken(file.read_text(encoding="utf-8")), encoding="utf-8")
            dark = image.deepcopy()
            dark["uri"] = uri.removesuffix(".svg") + "-dark.svg"
            # Names of our own, as the theme's only-dark hides the caption too; its dark-light turns off its dimming.
            image["classes"] += ["light-ground", "dark-light"]
            dark["classes"] += ["dark-ground", "dark-light"]
            image.parent.insert(image.parent.index(image) + 1, dark)


# What the theme and docutils write, and what it has to be for a screen reader.
MENDED = (
    # The sidebar holds the title and the search field outside of any landmark.
    (
        '<div id="pst-primary-sidebar" class=',
        '<div id="pst-primary-sidebar" role="complementary" aria-label="Book" class=',
    ),
    # The arrow that unfolds part of the table of contents has no name.
    ('<summary><span class="toctree-toggle"', '<summary aria-label="Pages below"><span class="toctree-toggle"'),
    # This role is deprecated, and not allowed in a list.
    ('role="doc-biblioentry"', 'role="listitem"'),
)

# A drawing for light ground and its twin for dark ground, which follows it.
DRAWINGS = re.compile(r'(?<!<div class="drawing">)<img\b[^>]*\blight-ground\b[^>]*>\s*<img\b[^>]*\bdark-ground\b[^>]*>')
# A formula or a verdict in a sentence, with the parenthesis before and the punctuation after it.
IN_TEXT = re.compile(
    r'(?<![(\[])(?<!<span class="unbroken">)([(\[]*)'
    r'(<span class="math notranslate nohighlight">[^<]*</span>|<a class="verdict-mark[^>]*>(?:(?!</a>).)*</a>'
    r'|<span class="verdict-mark[^>]*>[^<]*</span>)([)\],.;:!?]*)'
)

WIDE = ('<table class="ledger"', '<table class="run-status', 'class="erratum ')

# Scripts of the theme that no page needs: icons come from a font already, the search dialog opens search.html.
IDLE = re.compile(
    r'\s*<script [^>]*src="[^"]*(?:scripts/fontawesome|_static/searchtools|_static/language_data|/?searchindex)\.js'
    r"[^>]*></script>"
)
# Scripts that may wait until the page is read. Lines of script in the page use documentation_options.js at once.
BLOCKING = re.compile(r'<script ((?:data-[^ ]* )?src="[^"]*_static/(?!documentation_options)[^"]*")>')


def lighten(page: str) -> str:
    """A page that loads what it uses, and shows its text before the scripts arrive.

    Example:
        >>> lighten('<script src="_static/doctools.js?v=1"></script> <script src="searchindex.js"></script>')
        '<script defer src="_static/doctools.js?v=1"></script>'
    """
    return BLOCKING.sub(r"<script defer \1>", IDLE.sub("", page))


def mend(page: str) -> str:
    """A page of the site with the roles and names that the theme leaves out; mending twice changes nothing.

    Example:
        >>> mend('<div class="citation" id="id5" role="doc-biblioentry">')
        '<div class="citation" id="id5" role="listitem">'
    """
    for wrong, right in MENDED:
        page = page.replace(wrong, right)
    page = re.sub(r'<th class="head[^"]*">\s*(?:<p>\s*</p>)?\s*</th>', '<td class="head"></td>', page)  # no header
    return re.sub(r'(<section class="\w+-content") id="\w+-content"', r"\1", page)  # the same for every theorem


def boxed(page: str) -> str:
    """A page whose drawings stand in a box that can scroll, as on a phone (``claimbook.css``); twice changes nothing.

    Example:
        >>> boxed('<img class="light-ground" src="a.svg"><img class="dark-ground" src="b.svg">')
        '<div class="drawing"><img class="light-ground" src="a.svg"><img class="dark-ground" src="b.svg"></div>'
    """
    return DRAWINGS.sub(r'<div class="drawing">\g<0></div>', page)


def unbroken(page: str) -> str:
    """A page where no line ends between a formula, or a verdict, and its punctuation; twice changes nothing.

    A browser may break a line at every box in it, and leaves a parenthesis at its end, or begins one with a comma.

    Example:
        >>> unbroken('decay (<a class="verdict-mark" href="#c">holds</a>), and')
        'decay <span class="unbroken">(<a class="verdict-mark" href="#c">holds</a>),</span> and'
    """

    def joined(found: re.Match) -> str:
        return f'<span class="unbroken">{found[0]}</span>' if found[1] or found[3] else found[0]

    return IN_TEXT.sub(joined, page)


def sized(page: str, images: Path) -> str:
    """A page whose drawings say how large they are, so that text below them does not jump when they arrive.

    Args:
        images: The folder of the site's drawings.
    """

    @cache
    def size(name: str) -> str:
        file = images / name
        found = SIZE.search(file.read_text(encoding="utf-8")[:2000]) if file.is_file() else None
        return (
            ' width="{:.0f}" height="{:.0f}"'.format(*(float(points) * 4 / 3 for points in found.groups()))
            if found
            else ""
        )

    def tag(found: re.Match) -> str:
        if " width=" in found[0] or " height=" in found[0]:
            return found[0]
        return found[0].replace("<img", f"<img{size(found[1])}", 1)

    return re.sub(r'<img\b[^>]*\bsrc="[^"]*_images/([^"/]+\.svg)"[^>]*>', tag, page)


def describe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """The first paragraph of a page is its description for search engines and previews."""
    paragraphs = doctree.findall(nodes.paragraph) if doctree is not None else ()
    texts = (" ".join(p.astext().split()) for p in paragraphs if isinstance(p.parent, nodes.section))
    title = app.env.titles[page].astext() if page in app.env.titles else page
    book = app.config.html_title or app.config.project
    first = next((text for text in texts if len(text) > 40), f"{title}: a page of {book}, an executable book")
    if doctree is not None:
        text = first if len(first) <= 160 else first[:157].rsplit(" ", 1)[0] + " ..."
        context["metatags"] = context.get("metatags", "") + f'<meta name="description" content="{escape(text)}">'


def has_formula(node: nodes.Node) -> bool:
    """Whether a part of a page holds mathematics, of its own or inside our HTML."""
    if any(True for _ in node.findall(nodes.math)) or any(True for _ in node.findall(nodes.math_block)):
        return True
    return any('class="math ' in raw.astext() for raw in node.findall(nodes.raw))


def mark_formulas(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Mark in every section where mathematics begins; what follows the mark waits for it (``claimbook.css``).

    The style sheet could find the place by itself, with ``:has``, but the browser would look for it at each change of
    the page, and style a chapter three times slower.
    """
    for section in list(doctree.findall(nodes.section)):
        first = next((child for child in section.children if has_formula(child)), None)
        if first is None:
            continue
        place = section.index(first) + isinstance(first, nodes.section)  # a section has a mark of its own
        if place < len(section):
            section.insert(place, nodes.raw("", '<template class="formulas"></template>', format="html"))


def mark_wide(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Mark a page with a wide table, of ours or of many columns, where it begins: known later, the text would jump."""
    columns = max((group["cols"] for group in doctree.findall(nodes.tgroup)), default=0)
    if columns > 6 or any(part in raw.astext() for raw in doctree.findall(nodes.raw) for part in WIDE):
        doctree.next_node(nodes.section)["classes"].append("wide")


def mend_pages(app: Sphinx, error: Exception | None) -> None:
    """Mend every page of the finished site that needs it."""
    if error is not None or app.builder.format != "html":
        return
    for file in (path for path in sorted(Path(app.outdir).rglob("*.html")) if "_static" not in path.parts):
        page = file.read_text(encoding="utf-8")
        mended = boxed(sized(mend(page), Path(app.outdir, "_images")))
        if WIDE[0] not in mended:  # the table of claims is long, and has no sentence with a verdict in it
            mended = unbroken(mended)
        if file.name != "search.html":
            mended = lighten(mended)
        if mended != page:
            file.write_text(mended, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Register transforms and events."""
    app.add_transform(Twins)
    app.connect("doctree-resolved", mark_formulas)
    app.connect("doctree-resolved", mark_wide)
    app.connect("html-page-context", describe)
    app.connect("build-finished", mend_pages)
