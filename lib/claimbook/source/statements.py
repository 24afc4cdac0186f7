"""Statements of a chapter's code: what each one binds, reads and visibly changes, by syntax alone."""

import ast
import itertools
import symtable
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

SHOWING = {"glue", "show_figure", "print", "display", "assert"}  # statements that show and change nothing
CHANGING = set("append extend insert update setdefault pop popitem clear remove sort reverse add discard".split())
CHANGING |= {"backward", "step", "load_state_dict", "manual_seed", "send"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
IMPORTS = (ast.Import, ast.ImportFrom)
BLOCKS = (ast.If, ast.For, ast.While, ast.Try, ast.With)


@dataclass
class Statement:
    """One top-level statement: its text, and the names that it binds, reads, and uses when it is called later."""

    node: ast.stmt
    text: str
    cell: int
    source: str  # of the cell
    comment: str = ""  # the lines of comment right above it
    binds: set[str] = field(default_factory=set)
    reads: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)
    changes: set[str] = field(default_factory=set)
    needs: set[str] = field(default_factory=set)

    @property
    def certain(self) -> bool:
        """Whether what it binds is bound for sure, so that earlier values are gone."""
        return not isinstance(self.node, (*BLOCKS, ast.AugAssign))


def statements(cells: Iterable[str]) -> list[Statement]:
    """The top-level statements of the cells; an import of several names becomes one for each."""
    found = []
    for number, source in enumerate(cells):
        tree, lines = ast.parse(source), source.splitlines()
        end = 0  # of the statement before
        for node in tree.body:
            first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
            text, comment = _text(node, first, lines), _comment(lines[end : first - 1])
            for part in _parts(node):
                shown = text if part is node else ast.unparse(part)
                found.append(named(Statement(part, shown, number, source, comment)))
            end = node.end_lineno
    return found


def _text(node: ast.stmt, first: int, lines: list[str]) -> str:
    """The source of a statement, with its comment at the end of the line where it stands alone there."""
    whole = lines[first - 1 : node.end_lineno]
    before, after = whole[0].encode()[: node.col_offset], lines[node.end_lineno - 1].encode()[node.end_col_offset :]
    if (not before.strip() or first < node.lineno) and after.decode().strip().lstrip(";").strip()[:1] in ("", "#"):
        return "\n".join(whole)
    return ast.get_source_segment("\n".join(lines), node) or ast.unparse(node)


def _comment(lines: list[str]) -> str:
    """The comment that ends these lines."""
    above = itertools.takewhile(lambda line: line.startswith("#"), reversed(lines))
    return "".join(f"{line}\n" for line in reversed(list(above)))


def _parts(node: ast.stmt) -> Iterator[ast.stmt]:
    """An import, one name at a time; every other statement as it is."""
    if isinstance(node, IMPORTS) and len(node.names) > 1:
        for alias in node.names:
            one = ast.Import([alias]) if isinstance(node, ast.Import) else None
            part = one or ast.ImportFrom(node.module, [alias], node.level)
            yield ast.copy_location(part, node)
    else:
        yield node


def named(statement: Statement) -> Statement:
    """Fill in what it binds and reads, by Python's own rules of scope."""
    table = symtable.symtable(ast.unparse(statement.node), "<cell>", "exec")
    bound, reads, late = symbols(table)
    statement.binds, statement.reads, statement.late = bound, reads, late
    statement.changes = changed(statement.node)
    statement.reads |= statement.changes - statement.late
    return statement


def symbols(table: symtable.SymbolTable, later: bool = False) -> tuple[set[str], set[str], set[str]]:
    """Names of the page that a scope binds, reads at once, and reads when it is called."""
    bound, reads, late = set(), set(), set()
    for symbol in table.get_symbols():
        top = table.get_type() == "module"
        if top or symbol.is_global():
            if symbol.is_assigned() or symbol.is_imported():
                bound.add(symbol.get_name())
            if symbol.is_referenced():
                (late if later else reads).add(symbol.get_name())
    for child in table.get_children():
        at_once = child.get_type() == "class" or child.get_name() in ("listcomp", "setcomp", "dictcomp", "genexpr")
        parts = symbols(child, later or not at_once)
        for names, more in zip((bound, reads, late), parts, strict=True):
            names |= more
    return bound, reads, late


def root(node: ast.AST | None) -> str:
    """The name at the bottom of an expression such as ``a.b[0].c()``; empty if there is none."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Starred, ast.NamedExpr, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def within(node: ast.AST, *, functions: bool = False) -> Iterator[ast.AST]:
    """A node and those below it, without the bodies of functions unless they are asked for."""
    yield node
    for child in ast.iter_child_nodes(node):
        if functions or not isinstance(child, FUNCTIONS):
            yield from within(child, functions=functions)


def changed(node: ast.AST) -> set[str]:
    """The names whose values a statement visibly changes when it runs: what a definition holds runs later."""
    return set() if isinstance(node, FUNCTIONS) else changed_by(within(node))


def changed_by(nodes: Iterable[ast.AST]) -> set[str]:
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, (ast.Subscript, ast.Attribute)) and isinstance(node.ctx, (ast.Store, ast.Del)):
            names.add(root(node))
        elif isinstance(node, ast.AugAssign):
            names.add(root(node.target))
        elif isinstance(node, ast.Call):
            names |= _changed_by_call(node)
        elif isinstance(node, ast.Expr):
            names |= set().union(*map(_changed_by_statement, calls(node.value)))
    return names - {""}


def calls(node: ast.AST) -> Iterator[ast.Call]:
    """The calls that stand as a statement, alone or in a tuple."""
    for part in node.elts if isinstance(node, (ast.Tuple, ast.List)) else [node]:
        if isinstance(part, ast.Call):
            yield part


def _changed_by_call(call: ast.Call) -> set[str]:
    """A call whose name says that it changes something: ``a.append``, ``a.mul_``, ``f(..., out=a)``."""
    names = {root(word.value) for word in call.keywords if word.arg == "out"}
    if isinstance(call.func, ast.Attribute):
        name = call.func.attr
        if name in CHANGING or (name.endswith("_") and not name.startswith("_")):
            names.add(root(call.func.value))
        if name.endswith("_") and root(call.func) in ("torch", "nn", "init"):
            names |= {root(argument) for argument in call.args}
    elif isinstance(call.func, ast.Name) and call.func.id in ("next", "setattr", "delattr"):
        names |= {root(argument) for argument in call.args[:1]}
    return names


def _changed_by_statement(call: ast.Call) -> set[str]:
    """A call as a statement is there for what it changes: its object, or the arguments of a function."""
    if root(call.func) in SHOWING | {"ledger", "plt"}:
        return set()
    if isinstance(call.func, ast.Attribute):
        return {root(call.func.value)}
    return {root(argument) for argument in [*call.args, *(word.value for word in call.keywords)]}


def parts_of(node: ast.AST | None) -> Iterator[ast.AST]:
    """The expressions of which a value may be a part or a view."""
    if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
        yield from itertools.chain.from_iterable(map(parts_of, node.elts))
    elif isinstance(node, ast.Dict):
        yield from itertools.chain.from_iterable(map(parts_of, node.values))
    elif isinstance(node, ast.IfExp):
        yield from itertools.chain(parts_of(node.body), parts_of(node.orelse))
    elif isinstance(node, ast.Call):
        yield from parts_of(node.func.value if isinstance(node.func, ast.Attribute) else None)
        if isinstance(node.func, ast.Name) and node.func.id in ("zip", "enumerate", "list", "dict", "reversed"):
            yield from itertools.chain.from_iterable(map(parts_of, node.args))
    elif isinstance(node, (ast.Name, ast.Attribute, ast.Subscript, ast.Starred)):
        yield node


def local_aliases(node: ast.AST) -> dict[str, set[str]]:
    """Inside a block: the names that stand for parts of others, such as the variable of a loop."""
    found: dict[str, set[str]] = {}
    for part in within(node):
        pairs = []
        if isinstance(part, (ast.For, ast.comprehension)):
            pairs = [(part.target, part.iter)]
        elif isinstance(part, ast.Assign) and part is not node:
            pairs = [(target, part.value) for target in part.targets]
        elif isinstance(part, ast.withitem) and part.optional_vars:
            pairs = [(part.optional_vars, part.context_expr)]
        for target, value in pairs:
            roots = set(filter(None, map(root, parts_of(value))))
            for name in (n.id for n in ast.walk(target) if isinstance(n, ast.Name)):
                found.setdefault(name, set()).update(*(found.get(r, ()) for r in roots), roots)
    return found


def changed_later(node: ast.AST) -> set[str]:
    """What the functions written inside a statement change when they are called."""
    inside = [n for n in ast.walk(node) if isinstance(n, FUNCTIONS)]
    return set().union(*(changed_by(within(n, functions=True)) for n in inside))


def written_arguments(node: ast.AST) -> tuple[frozenset[int], frozenset[str]]:
    """Which of its arguments a function changes, by position and by name."""
    function = node if isinstance(node, FUNCTIONS) else getattr(node, "value", None)
    if not isinstance(function, FUNCTIONS):
        return frozenset(), frozenset()
    body = function.body if isinstance(function.body, list) else [function.body]
    names = set().union(*(changed_by(within(part, functions=True)) for part in body))
    aliases: dict[str, set[str]] = {}
    for part in body:
        for name, roots in (local_aliases(part) | _own_alias(part)).items():
            aliases.setdefault(name, set()).update(roots)
    for _ in range(3):
        names |= set().union(*(aliases.get(name, ()) for name in names))
    places = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    every = {*places, *(a.arg for a in function.args.kwonlyargs)}
    return frozenset(i for i, a in enumerate(places) if a in names), frozenset(every & names)


def _own_alias(node: ast.AST) -> dict[str, set[str]]:
    if not isinstance(node, ast.Assign):
        return {}
    roots = set(filter(None, map(root, parts_of(node.value))))
    return {n.id: roots for target in node.targets for n in ast.walk(target) if isinstance(n, ast.Name)}


def called(node: ast.AST | None) -> str:
    """The last name of what is called: ``Generator`` of ``torch.Generator()``."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
