"""Slicing: of a chapter's code, the statements on which one claim rests.

A static backward slice over the top-level statements of the code cells. From the call that hands a claim to the ledger
it follows every name read to the statements that bind it or may change it, keeps these in their order, and no other.
What may change a name is judged with caution: assignment to items or attributes, augmented assignment, a method or
function called as a statement, a function that writes to its arguments or to names outside of it, aliases of all
these, and every use of a random generator, an optimizer, a module or an iterator, each of which moves on. Figures,
glued numbers and assertions change nothing. A doubt makes a slice longer; one that is too short is found by running it,
since it has to give the published numbers (:mod:`.counterexamples`).
"""

import ast
import symtable
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from claimbook.source.statements import (
    BLOCKS,
    FUNCTIONS,
    IMPORTS,
    SHOWING,
    Statement,
    called,
    changed_by,
    changed_later,
    local_aliases,
    named,
    parts_of,
    root,
    statements,
    symbols,
    within,
    written_arguments,
)

DECIDING = ("check", "correct", "refute", "observe", "leave_open", "not_checkable")
DRAWING = {"axes", "subplots", "figure"}  # what they return is a figure or part of one
STATEFUL = {"Generator", "default_rng", "RandomState", "Sobol", "BalancedDescent", "NormMonitor"}
ITERATORS = {"iter", "zip", "map", "filter", "enumerate", "reversed", "count", "cycle"}


class NoSlice(ValueError):
    """A page has no call that decides the claim."""


@dataclass
class Value:
    """What is known of the value behind a name."""

    late: frozenset[str] = frozenset()  # names outside that it reads when it is called
    carried: frozenset[str] = frozenset()  # the same of functions that went into it
    writes: frozenset[str] = frozenset()  # names outside that it writes to when it is called
    written: frozenset[int] = frozenset()  # arguments that it writes to, by position
    arguments: frozenset[str] = frozenset()  # and by name
    aliases: frozenset[str] = frozenset()
    stateful: bool = False
    makes_stateful: bool = False
    drawn: bool = False


class Page:
    """The code of a chapter, ready to be sliced.

    Example:
        >>> page = Page(["a = []", "b = 2", "a.append(1)", 'ledger.check("X-1", a[0], b=1)'])
        >>> [s.text for s in page.slice("X-1")]
        ['a = []', 'a.append(1)']
    """

    def __init__(self, cells: Iterable[str], parameters: int = -1):
        """Read the cells; ``parameters`` is the position of the cell that is kept whole."""
        self.statements, self.parameters = statements(cells), parameters
        self.deciding: dict[str, tuple[int, ast.Call]] = {}  # claim -> position of the statement, call
        self._known: dict[int, dict[str, Value]] = {}  # what is known where the ledger is called
        known: dict[str, Value] = {}
        imported = {name for s in self.statements if isinstance(s.node, IMPORTS) for name in s.binds}
        for position, statement in enumerate(self.statements):
            if "ledger" in statement.reads:
                self._known[position] = dict(known)
                for call in (node for node in ast.walk(statement.node) if _decides(node)):
                    self.deciding.setdefault(call.args[0].value, (position, call))
            statement.needs = _needs(statement.reads, known)
            statement.changes = set() if _shows(statement.node) else _effects(statement, known) - imported
            _learn(statement.node, statement, known)

    def find(self, claim: str) -> tuple[int, ast.Call]:
        """The position of the statement that decides a claim, and the deciding call in it.

        Raises:
            NoSlice: no statement does.
        """
        if claim not in self.deciding:
            raise NoSlice(f"no call to the ledger names {claim}")
        return self.deciding[claim]

    def slice(self, claim: str) -> list[Statement]:
        """The statements on which the deciding call rests, in their order, without itself."""
        end, call = self.find(claim)
        names = self.statements[end].reads
        if in_list(self.statements[end].node, call):
            names = set().union(*symbols(symtable.symtable(ast.unparse(call), "<call>", "exec"))[1:])
        kept = {i for i, s in enumerate(self.statements[:end]) if s.cell == self.parameters or _always(s.node)}
        todo = [(name, end) for name in _needs(names, self._known[end])]
        todo += [(name, i) for i in kept for name in self.statements[i].needs]
        seen: set[tuple[str, int]] = set()
        while todo:
            name, before = todo.pop()
            if (name, before) in seen:
                continue
            seen.add((name, before))
            for i in set(self._reaching(name, before)) - kept:
                kept.add(i)
                todo += [(n, i) for n in self.statements[i].needs]
        return [self.statements[i] for i in sorted(kept)]

    def _reaching(self, name: str, before: int) -> Iterator[int]:
        """The statements whose effect on a name is felt at a position, the last one first."""
        for i in range(before - 1, -1, -1):
            statement = self.statements[i]
            if name in statement.binds or name in statement.changes:
                yield i
            if name in statement.binds and statement.certain:
                return


def _closure(names: Iterable[str], known: dict[str, Value], what: str = "late") -> set[str]:
    """Names, with those that they lead to: used by functions behind them when called, or their ``aliases``."""
    found, todo = set(), set(names)
    while todo:
        name = todo.pop()
        found.add(name)
        todo |= getattr(known.get(name, Value()), what) - found
    return found


def _needs(names: Iterable[str], known: dict[str, Value]) -> set[str]:
    """Names, with those that functions behind them, or inside of the values behind them, use."""
    used = _closure(names, known)
    return used | _closure(_gathered("carried", used, known), known)


def _gathered(what: str, names: Iterable[str], known: dict[str, Value]) -> frozenset[str]:
    return frozenset().union(*(getattr(known[name], what) for name in names if name in known))


def _effects(statement: Statement, known: dict[str, Value]) -> set[str]:
    """The names whose values a statement may change."""
    node = statement.node
    if isinstance(node, (*FUNCTIONS, *IMPORTS)):
        return set()
    used, explicit = _closure(statement.reads, known), set(statement.changes)
    drawn = {name for name in used if name in known and known[name].drawn}
    if drawn and not isinstance(node, (ast.Assign, ast.AugAssign)):
        sure = changed_by(part for part in within(node) if not isinstance(part, ast.Expr))
        explicit = sure | (explicit & drawn)
    local = local_aliases(node)
    explicit = explicit.union(*(local.get(name, ()) for name in explicit))
    moved = {name for name in used if name in known and known[name].stateful}
    changed = explicit | moved | _gathered("writes", used, known) | _by_arguments(node, known)
    return _closure(changed, known, "aliases")


def _learn(node: ast.stmt, statement: Statement, known: dict[str, Value]) -> None:
    """Note what the names that a statement binds stand for from now on; inside a block, maybe."""
    if isinstance(node, BLOCKS):
        before = dict(known)
        for name in statement.binds:
            drawn = _is_drawn(getattr(node, "iter", None), known)
            known[name] = Value(carried=_gathered("carried", statement.reads, known), drawn=drawn)
        inner = (
            n for n in within(node, functions=True) if n is not node and isinstance(n, (ast.Assign, *FUNCTIONS[:2]))
        )
        for part in inner:
            _learn(part, named(Statement(part, "", 0, "")), known)
        for name in statement.binds & before.keys():
            known[name] = _either(before[name], known[name])
        return
    value, function = getattr(node, "value", None), isinstance(node, FUNCTIONS)
    body = changed_by(within(node, functions=True)) if function else changed_later(node)
    used, late = _closure(statement.reads, known), frozenset(statement.late)
    written, arguments = written_arguments(node)
    same = statement.reads if isinstance(value, ast.Name) or called(value) == "partial" else set()  # another name of it
    late |= _gathered("late", same, known)
    unpacked = isinstance(node, ast.Assign) and isinstance(node.targets[0], (ast.Tuple, ast.List))
    stateful = _is_stateful(value, known, unpacked)
    aliases = frozenset(filter(None, map(root, parts_of(value))))
    if stateful:
        aliases |= {name for name in used if name in known and known[name].stateful}
    found = Value(
        late=late,
        carried=late | _gathered("carried", used, known),
        writes=frozenset(body & statement.late) | _gathered("writes", same, known),
        written=written | _gathered("written", same, known),
        arguments=arguments | _gathered("arguments", same, known),
        aliases=aliases - statement.binds,
        stateful=stateful,
        makes_stateful=_makes_stateful(node, known),
        drawn=_is_drawn(value, known),
    )
    known.update(dict.fromkeys(statement.binds, found))


def _either(one: Value, other: Value) -> Value:
    """What is known of a value that is one of two."""
    pairs = ((name, getattr(one, name), getattr(other, name)) for name in Value.__dataclass_fields__)
    return Value(**{name: a | b for name, a, b in pairs})


def _is_drawn(value: ast.AST | None, known: dict[str, Value]) -> bool:
    """Whether a value is a figure or a part of one."""
    parts = map(root, parts_of(value))
    return called(value) in DRAWING or any(name in known and known[name].drawn for name in parts)


def _by_arguments(node: ast.AST, known: dict[str, Value]) -> set[str]:
    """The names that are handed to functions of the page which write to that argument."""
    names: set[str] = set()
    for call in (n for n in within(node) if isinstance(n, ast.Call)):
        function = known.get(call.func.id) if isinstance(call.func, ast.Name) else None
        if function is not None:
            names |= {root(a) for i, a in enumerate(call.args) if i in function.written}
            names |= {root(w.value) for w in call.keywords if w.arg in function.arguments}
    return names - {""}


def _is_stateful(node: ast.AST | None, known: dict[str, Value], unpacked: bool = False) -> bool:
    """Whether a value moves on when it is used: a generator, an iterator, a module, an optimizer, or some of these."""
    if isinstance(node, ast.Call):
        if unpacked and called(node) in ITERATORS:
            return any(root(a) in known and known[root(a)].makes_stateful for a in node.args)
        name = called(node)
        torch_object = name[:1].isupper() and ("nn." in ast.unparse(node.func) or "optim." in ast.unparse(node.func))
        if name in STATEFUL | ITERATORS or torch_object:
            return True
        if isinstance(node.func, ast.Name):
            return known.get(node.func.id, Value()).makes_stateful
        return isinstance(node.func, ast.Attribute) and _is_stateful(node.func.value, known)
    if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        return any(_is_stateful(part, known) for part in node.elts)
    if isinstance(node, ast.Dict):
        return any(_is_stateful(part, known) for part in node.values)
    if isinstance(node, ast.DictComp):
        return _is_stateful(node.value, known)
    if isinstance(node, (ast.ListComp, ast.SetComp)) or (unpacked and isinstance(node, ast.GeneratorExp)):
        return _is_stateful(node.elt, known)
    if isinstance(node, ast.IfExp):
        return _is_stateful(node.body, known) or _is_stateful(node.orelse, known)
    if isinstance(node, ast.Name):
        return known.get(node.id, Value()).stateful
    return isinstance(node, ast.GeneratorExp)


def _makes_stateful(node: ast.AST, known: dict[str, Value]) -> bool:
    """Whether a function returns something stateful."""
    function = getattr(node, "value", node)
    if isinstance(function, ast.Lambda):
        return _is_stateful(function.body, known)
    if isinstance(function, ast.FunctionDef):
        results = (n.value for n in ast.walk(function) if isinstance(n, ast.Return))
        return any(_is_stateful(value, known) for value in results)
    return False


def _shows(node: ast.stmt) -> bool:
    """Whether a statement only shows: glued numbers, figures, evidence."""
    if not isinstance(node, ast.Expr):
        return False
    parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
    return all(isinstance(p, ast.Call) and root(p.func) in SHOWING | {"ledger", "plt"} for p in parts)


def _always(node: ast.stmt) -> bool:
    """Whether a statement sets up the process: threads, types, warnings."""
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return True
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        return False
    name = called(node.value)
    return (name.startswith("set_") and root(node.value) == "torch") or name in ("filterwarnings", "manual_seed")


def _decides(node: ast.AST) -> bool:
    """Whether a node is a call that hands evidence about a claim to the ledger."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and root(node.func) == "ledger"):
        return False
    return node.func.attr in DECIDING and bool(node.args) and isinstance(node.args[0], ast.Constant)


def in_list(statement: ast.stmt, call: ast.Call) -> bool:
    """Whether a call can be taken out of its statement: it is the statement, or an item of its literal table."""
    value = getattr(statement, "value", None)
    if value is call:
        return True
    arguments = getattr(value, "args", [])
    return bool(arguments) and isinstance(arguments[0], (ast.List, ast.Tuple)) and call in arguments[0].elts
