"""What a program to be judged needs of the source around it, and what it only shows of itself."""

import ast
import builtins
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mirrorpo.text.python_source import (
    bindings,
    indented,
    lines_of,
    module_names,
    parsed,
    replaced,
    salvaged,
    uses,
)

LONGEST_SOURCE = 50_000  # in characters; the parser's time has no bound worth having

DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_BUILT_IN = frozenset(vars(builtins))


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a program is to define.

    Attributes:
        entry_point: the function that is asked for.
        prefix: code that stands before the program; where it opens the function, the program may go on from
            there.
        names: all that its tests use of it, and the code that runs behind it.
    """

    entry_point: str
    prefix: str
    names: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """Source that parses."""

    source: str
    tree: ast.Module


def parsed_piece(source: str, *, salvage: bool) -> Piece | None:
    """Source as it stands or without its margin; with `salvage`, what of it parses. None where none does."""
    for form in (source, indented(source, "")) if source[:1].isspace() else (source,):
        tree = parsed(form)
        if tree is not None:
            return Piece(form, tree)
    if not salvage:
        return None
    source = salvaged(indented(source, ""))
    tree = parsed(source)
    return Piece(source, tree) if tree is not None and tree.body else None


def with_lacking(program: str, later: Sequence[Piece], wanted: Wanted, *, changes: bool) -> str:
    r"""A program with what it lacks of what stands behind it: statements that bind a name it uses, and so on.

    Args:
        program: the source that counts.
        later: what stands behind it.
        wanted: what it is to define.
        changes: whether statements come along too that act on what is bound by then, and show nothing.

    Example:
        >>> wanted = Wanted(entry_point="f", prefix="")
        >>> later = parsed_piece("import os\nprint(f())\ndef g(): return h\nh = 1", salvage=False)
        >>> with_lacking("def f(): return g()", [later], wanted, changes=True)
        'def f(): return g()\n\ndef g(): return h\nh = 1\n'
    """
    names = module_names(program) if later else None
    if names is None:
        return program
    bound, used = names
    known = bound | _BUILT_IN
    statements = [(owner, statement) for owner in later for statement in owner.tree.body]
    binders = {name: index for index, (_, statement) in enumerate(statements) for name in bindings(statement)}
    kept: set[int] = set()
    missing = [name for name in (used | set(wanted.names)) - known if name in binders]
    while missing:
        index = binders[missing.pop()]
        if index not in kept:
            kept.add(index)
            bound |= bindings(statements[index][1])
            missing += [name for name in uses(statements[index][1]) - known if name in binders]
    if changes:
        behind = [statement for _, statement in statements]
        kept |= _changing(parsed(program) or ast.Module([], []), behind, bound, wanted)
    parts = [program.rstrip("\n") + "\n"]
    for owner in later:
        of_owner = [node for i, (source, node) in enumerate(statements) if i in kept and source is owner]
        parts += [lines_of(owner.source, of_owner)] if of_owner else []
    return "\n".join(parts) + "\n" if len(parts) > 1 else program


def without_demonstrations(program: str, wanted: Wanted) -> str:
    r"""A program without what it shows of itself: what stands behind the last definition and calls it.

    Example:
        >>> wanted = Wanted(entry_point="f", prefix="")
        >>> without_demonstrations("def f(): pass\nf.n = 0\nx = f(); print(x)\nassert f() == 2", wanted)
        'def f(): pass\nf.n = 0\npass; print(x)\npass'
    """
    tree = parsed(program) if len(program) <= LONGEST_SOURCE else None
    if tree is None:
        return program
    shown = demonstrations(tree.body, wanted)
    return replaced(program, shown) if shown else program


def futures_first(program: str) -> str:
    """A program with its imports from `__future__` at its beginning, the one place where they are allowed."""
    tree = parsed(program) if "__future__" in program else None
    if tree is None:
        return program
    futures = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    head = "".join(ast.unparse(node) + "\n" for node in futures)
    return head + replaced(program, futures) if futures else program


def demonstrations(statements: Sequence[ast.stmt], wanted: Wanted) -> list[ast.stmt]:
    """What stands behind the last definition of the entry point, leads to a call and defines nothing."""
    entry = wanted.entry_point
    last = max((i for i, node in enumerate(statements) if entry in bindings(node)), default=len(statements))
    behind = statements[last + 1 :]
    if not behind:
        return []
    callers = _callers(statements, entry)
    return [node for node in behind if _shows(node, callers, {entry, *wanted.names})]


def _callers(statements: Sequence[ast.stmt], entry: str) -> set[str]:
    # The entry point, and the functions and classes that lead to it.
    led: dict[str, list[str]] = {}
    for node in statements:
        if isinstance(node, DEFINITIONS):
            for name in uses(node):
                led.setdefault(name, []).append(node.name)
    callers, left = {entry}, [entry]
    while left:
        fresh = [name for name in led.get(left.pop(), ()) if name not in callers]
        callers.update(fresh)
        left += fresh
    return callers


def _shows(node: ast.stmt, callers: set[str], kept: set[str]) -> bool:
    if isinstance(node, (*DEFINITIONS, ast.Import, ast.ImportFrom)) or not uses(node) & callers:
        return False
    if bindings(node) & kept or any(isinstance(inner, DEFINITIONS) for inner in ast.walk(node)):
        return False
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign | ast.AugAssign):
        targets = [node.target]
    if any(isinstance(target, ast.Attribute | ast.Subscript) for target in targets):
        return False
    # A name that merely stands for it is no call.
    return not targets or any(isinstance(inner, ast.Call) for inner in ast.walk(node))


def _changing(program: ast.Module, behind: Sequence[ast.stmt], bound: set[str], wanted: Wanted) -> set[int]:
    # Which statements behind a program bind nothing, read a name of it and none that is unknown.
    shown = set(map(id, demonstrations([*program.body, *behind], wanted)))
    out: set[int] = set()
    for index, node in enumerate(behind):
        touched = uses(node)
        if id(node) not in shown and not bindings(node) and touched & bound and touched <= bound | _BUILT_IN:
            out.add(index)
    return out
