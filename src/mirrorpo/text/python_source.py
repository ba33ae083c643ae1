"""Python source as a tree, without a word to the log, and the names that it binds and uses."""

import ast
import re
import symtable
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from itertools import accumulate

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# What the parser raises on text that is no Python; SystemError is Python 3.13.0's.
_NOT_PYTHON = (SyntaxError, ValueError, RecursionError, MemoryError, SystemError)
# Lines at the margin that go on with what stands above.
_GOES_ON = re.compile(r"[#)\]}]|(?:else|elif|except|finally)\b")
_CODE = re.compile(r"[=(:]|\b(?:import|return|del|pass|raise)\b")
_SCOPES = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def parsed(source: str) -> ast.Module | None:
    r"""The tree of some source; None where it is no Python, however it fails to be.

    Example:
        >>> parsed("x = '\\.'") is None, parsed("x =") is None
        (False, True)
    """
    with warnings.catch_warnings():
        # A dataset's or a model's "\." is no concern of the trainer's log.
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except _NOT_PYTHON:
            return None


def bindings(statement: ast.AST) -> set[str]:
    r"""The names that a statement binds where it stands, in the bodies of `if`, `try` and their like too.

    Example:
        >>> tree = parsed("if x:\n import a.b\nelse:\n def f(y): z = 1\n c.d = g[0] = [h for h in y]")
        >>> sorted(bindings(tree))
        ['a', 'f']
    """
    names: set[str] = set()
    left = [statement]
    while left:
        node = left.pop()
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
                continue
            case ast.AnnAssign(value=None):
                continue
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.alias(name=name, asname=alias):
                names.add((alias or name).partition(".")[0])
            case (
                ast.ExceptHandler(name=str(name))
                | ast.MatchAs(name=str(name))
                | ast.MatchStar(name=str(name))
            ):
                names.add(name)
        if not isinstance(node, _SCOPES):
            left += ast.iter_child_nodes(node)
    return names


def uses(node: ast.AST) -> set[str]:
    r"""The names that are read anywhere below a node.

    Example:
        >>> sorted(uses(parsed("def f(x): return g(x)\nh += 1")))
        ['g', 'h', 'x']
    """
    names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name) and _is_read(inner)}
    changed = (inner.target for inner in ast.walk(node) if isinstance(inner, ast.AugAssign))
    return names | {target.id for target in changed if isinstance(target, ast.Name)}


def module_names(source: str) -> tuple[set[str], set[str]] | None:
    r"""The names that a program binds at its top level, and those that it reads from there.

    None where it is no program, which the parser does not always see.

    Example:
        >>> bound, read = module_names("import a.b\ndef f(x): return g(x) + len(h)\nh = 1")
        >>> sorted(bound), sorted(read)
        (['a', 'f', 'h'], ['g', 'h', 'len'])
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            top = symtable.symtable(source, "program", "exec")
    except _NOT_PYTHON:
        return None
    bound: set[str] = set()
    read: set[str] = set()
    left = [top]
    while left:
        table = left.pop()
        left += table.get_children()
        for symbol in table.get_symbols():
            if table is not top and not symbol.is_global():
                continue
            if symbol.is_assigned() or symbol.is_imported() or (table is top and symbol.is_namespace()):
                bound.add(symbol.get_name())
            if symbol.is_referenced():
                read.add(symbol.get_name())
    return bound, read


def returns(function: ast.AST) -> bool:
    """Whether a function gives a value back: by a return or a yield that is its own."""
    left = list(ast.iter_child_nodes(function))
    while left:
        node = left.pop()
        if isinstance(node, ast.Return | ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Lambda)):
            left += ast.iter_child_nodes(node)
    return False


def lines_of(source: str, statements: Iterable[ast.stmt]) -> str:
    """The lines on which some statements of a source stand, in order."""
    lines = source.split("\n")
    rows: set[int] = set()
    for statement in statements:
        decorators = getattr(statement, "decorator_list", [])
        first = min([statement.lineno, *(decorator.lineno for decorator in decorators)])
        rows |= set(range(first - 1, statement.end_lineno or first))
    return "\n".join(lines[row] for row in sorted(rows))


def indented(source: str, margin: str) -> str:
    """Source at another margin, whatever its own is."""
    return textwrap.indent(textwrap.dedent(source), margin)


def replaced(source: str, statements: Sequence[ast.stmt]) -> str:
    r"""Source with `pass` in the place of some of its statements, which share no part.

    Example:
        >>> source = "x = 'é'; y = 2\nif x:\n    z = 3\n"
        >>> replaced(source, parsed(source).body[1:])
        "x = 'é'; pass\npass\n"
    """
    # The parser counts bytes.
    data = source.encode()
    starts = list(accumulate((len(line) + 1 for line in data.split(b"\n")), initial=0))
    for node in sorted(statements, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        assert node.end_lineno is not None and node.end_col_offset is not None
        first = starts[node.lineno - 1] + node.col_offset
        data = data[:first] + b"pass" + data[starts[node.end_lineno - 1] + node.end_col_offset :]
    return data.decode()


def salvaged(source: str, *, leading: bool = False) -> str:
    r"""The parts of a text that are Python, a part being the lines from one at the margin to the next.

    Each is parsed alone. Words and values that stand alone are none. With `leading`, only the run of parts
    before the first that does not parse.

    Example:
        >>> salvaged("def f():\n    return 1\n\n>>> f()\n1\nIt works.\ny = 2\n")
        'def f():\n    return 1\n\ny = 2\n'
        >>> salvaged("x = 1\nreturn x\nIt works.\ny = 2\n", leading=True)
        'x = 1\nreturn x\n'
    """
    parts = _parts(source)
    fits = _is_python if leading else _is_code
    kept: list[str] = []
    index = 0
    while index < len(parts):
        part, behind = parts[index], index + 1
        fit = fits(part)
        if not fit and (quote := _open_quote(part)):
            # A text in three quotes may have lines at the margin; it ends with the next part that has such.
            while behind < len(parts) and quote not in parts[behind]:
                behind += 1
            part, behind = "".join(parts[index : behind + 1]), behind + 1
            fit = fits(part)
        if not fit and leading:
            break
        if fit:
            kept.append(part)
        index = behind if fit else index + 1
    return "".join(kept)


def _parts(source: str) -> list[str]:
    parts: list[list[str]] = [[]]
    decorated = False
    for line in _lines(source):
        at_margin = bool(line.strip()) and not line[0].isspace() and not _GOES_ON.match(line)
        if at_margin and not decorated and parts[-1]:
            parts.append([])
        parts[-1].append(line)
        decorated = line.startswith("@") if at_margin else decorated and not line.strip()
    return ["".join(part) for part in parts]


def _is_python(part: str) -> bool:
    return parsed(part) is not None


def _is_code(part: str) -> bool:
    tree = parsed(part) if _CODE.search(part) else None
    return tree is not None and any(not _says_only(node) for node in tree.body)


def _says_only(node: ast.stmt) -> bool:
    # A word, a value, "Output: 5": what prose and printed values look like where they parse.
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, ast.Call)
    return isinstance(node, ast.AnnAssign) and node.value is None


def _open_quote(part: str) -> str:
    return next((quote for quote in ('"""', "'''") if part.count(quote) % 2), "")


def _lines(source: str) -> list[str]:
    lines = source.split("\n")
    return [*(line + "\n" for line in lines[:-1]), *lines[-1:]]


def _is_read(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Load)
