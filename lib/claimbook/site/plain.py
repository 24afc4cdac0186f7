"""A chapter's prose as plain Markdown, for notebooks that leave the site: numbers and links in place of directives.

What a role or directive shows is asked from a :class:`Book`, so that this module needs neither Sphinx nor a site.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

ROLE = re.compile(r"\{([a-z][\w:-]*)\}`([^`]+)`")
TARGET = re.compile(r"(?s)(.*?)\s*<([^<>]+)>")
FENCE = re.compile(r"^(\s*)(`{3,}|:{3,}|~{3,})\{([\w:-]+)\}\s*(.*)$")
OPTION = re.compile(r"^\s*:([\w-]+):\s*(.*)$")
LABEL = re.compile(r"(?m)^\([\w:-]+\)=\n")
NAMES = {
    "prf:theorem": "Theorem", "prf:lemma": "Lemma", "prf:proposition": "Proposition", "prf:corollary": "Corollary",
    "prf:definition": "Definition", "prf:algorithm": "Algorithm", "prf:remark": "Remark", "prf:example": "Example",
    "prf:conjecture": "Conjecture", "prf:assumption": "Assumption", "prf:observation": "Observation",
    "prf:property": "Property", "prf:criterion": "Criterion", "prf:axiom": "Axiom",
}  # fmt: skip


@dataclass(frozen=True)
class Book:
    """What a page says of numbers and places.

    Args:
        numbers: Label -> how it is spoken of: ``Figure 3.2``, ``(3.4)``, ``Theorem 3.1``, or a section's title.
        places: Label -> address of what it names.
        glued: Name -> value of a number in prose.
        claim: Id -> its verdict and the address of its page.
        cited: Key -> authors and year.
    """

    numbers: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    glued: Mapping[str, str] = field(default_factory=dict)
    claim: Callable[[str], tuple[str, str]] = lambda claim: (claim, "")
    cited: Callable[[str], str] = lambda key: key


def plain(text: str, book: Book) -> str:
    """Markdown that any notebook viewer shows as it is meant.

    Example:
        >>> plain("It falls by {glue:text}`gap`, see {eq}`eq-law`.", Book({"eq-law": "(3.1)"}, {}, {"gap": "2 %"}))
        'It falls by 2 %, see (3.1).'
    """
    return _roles("\n".join(_blocks(LABEL.sub("", text).split("\n"), book)), book)


def _roles(text: str, book: Book) -> str:
    return ROLE.sub(lambda found: _role(found[1], found[2], book), text)


def _role(name: str, content: str, book: Book) -> str:
    target = TARGET.fullmatch(content)
    shown, label = (target[1], target[2]) if target else ("", content)
    match name:
        case "glue:text":
            return book.glued.get(label.partition(":")[0], label)
        case "claim":
            verdict, href = book.claim(label)
            return _link(f"{label}: {verdict}", href)
        case "cite:p" | "cite":
            return f"({'; '.join(book.cited(key.strip()) for key in content.split(','))})"
        case "cite:t":
            return " and ".join(book.cited(key.strip()) for key in content.split(","))
        case "math":
            return f"${content}$"
        case "eq" | "numref" | "ref" | "prf:ref" | "doc":
            return _link(shown.replace("%s", "") or book.numbers.get(label, label), book.places.get(label, ""))
        case _:
            return shown or label


def _link(text: str, href: str) -> str:
    return f"[{text}]({href})" if href else text


def _blocks(lines: list[str], book: Book) -> list[str]:
    """The lines of a text with its directives written out."""
    out: list[str] = []
    position = 0
    while position < len(lines):
        opened = FENCE.match(lines[position])
        if not opened:
            out.append(lines[position])
            position += 1
            continue
        end = _closing(lines, position, opened[2])
        out += _directive(opened[3], opened[4].strip(), lines[position + 1 : end], book)
        position = end + 1
    return out


def _closing(lines: list[str], start: int, fence: str) -> int:
    """Where a fence is closed: by one of its own kind and length, those of fences inside left out."""
    depth = 0
    for position in range(start + 1, len(lines)):
        line = lines[position].strip()
        if line.startswith(fence) and line.strip(fence[0]):
            depth += FENCE.match(lines[position]) is not None and len(fence) == len(line) - len(line.lstrip(fence[0]))
        elif line.startswith(fence) and not line.strip(fence[0]):
            if not depth:
                return position
            depth -= 1
    return len(lines)


def _directive(name: str, title: str, lines: list[str], book: Book) -> list[str]:
    options, body = _options(lines)
    if name == "math":
        number = book.numbers.get(options.get("label", ""), "")
        tag = [rf"\tag{{{number.strip('()')}}}"] if number else []
        return ["$$", *[line for line in body if line.strip()], *tag, "$$"]
    body = _blocks(body, book)
    if name in NAMES:
        heading = book.numbers.get(options.get("label", ""), NAMES[name])
        return [f"> **{heading}**{f' ({title})' if title else ''}.", *_quoted(body)]
    if name == "prf:proof":
        return ["*Proof.* " + (body[0] if body else ""), *body[1:], "∎"]
    if name in ("admonition", "dropdown", "note", "tip", "warning", "important", "seealso"):
        return [f"> **{title or name.capitalize()}**", ">", *_quoted(body)]
    return body


def _options(lines: list[str]) -> tuple[dict[str, str], list[str]]:
    """The options at the head of a directive, and what follows them."""
    options: dict[str, str] = {}
    for position, line in enumerate(lines):
        found = OPTION.match(line)
        if not found:
            return options, lines[position + (not line.strip() and bool(options)) :]
        options[found[1]] = found[2]
    return options, []


def _quoted(lines: list[str]) -> list[str]:
    return [f"> {line}".rstrip() for line in lines]
