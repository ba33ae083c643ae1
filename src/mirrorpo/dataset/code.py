"""Programming problems: what a row of any dataset becomes, with its fault if it can judge nothing."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mirrorpo.core.batch import Checks, Prompt
from mirrorpo.text.python_source import parsed


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How a problem is put to the model.

    Attributes:
        question: the problem's text, with `{text}` and where wanted `{signature}` and `{tests}`, the visible
            ones.
        system: system turn.
        user: user turn, with `{question}` where that goes.
        fenced: whether a demonstration stands in a Markdown fence, as the instruction then has to ask for.
    """

    question: str
    system: str
    user: str
    fenced: bool

    def shows_tests(self) -> bool:
        """Whether the prompt shows the visible tests."""
        return "{tests}" in self.question

    def shown(self, source: str) -> str:
        """Code of the dataset as the prompt has it."""
        return plain(source)

    def asks(self, text: str, tests: Sequence[str], signature: str) -> str:
        """The question of a problem."""
        shown = "\n".join(map(self.shown, tests))
        question = self.question.replace("{signature}", signature).replace("{tests}", shown)
        return question.replace("{text}", text.strip())

    def worked_problems(self) -> Sequence[int]:
        """Numbers of the problems that stand before the question, with their programs."""
        return ()

    def works(self, question: str, code: str) -> str:
        """A worked problem as it stands before the question."""
        return ""

    def ends(self) -> str:
        """What a program ends with in a worked problem; an answer ends there too."""
        return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class FewShot(Style):
    r"""A style with worked problems before the question, for models that take no instructions.

    Code and tests are shown with the line ends and blanks that the dataset has.

    Attributes:
        example: a worked problem, with `{question}` and `{code}`.
        end: what its program ends with.
        shots: numbers of the problems, of those that are in no split.

    Example:
        >>> style = FewShot(question="{text}", system="", user="{question}", fenced=False,
        ...     example="{question}\n{code}\n[DONE]\n\n", end="[DONE]", shots=[2])
        >>> style.works("Double.", "def twice(n): return 2 * n")
        'Double.\ndef twice(n): return 2 * n\n[DONE]\n\n'
    """

    example: str
    end: str
    shots: Sequence[int]

    def __post_init__(self) -> None:
        if self.example.count("{question}") != 1 or self.example.count("{code}") != 1 or not self.end:
            raise ValueError(
                f"example={self.example!r}, end={self.end!r} of a few-shot style: the example must hold "
                "{question} and {code} once, and programs must end with something"
            )

    def shown(self, source: str) -> str:
        return source

    def worked_problems(self) -> Sequence[int]:
        return self.shots

    def works(self, question: str, code: str) -> str:
        return self.example.replace("{code}", self.shown(code)).replace("{question}", question)

    def ends(self) -> str:
        return self.end


def chosen(styles: Mapping[str, Style], style: str, visible_tests: int) -> Style:
    """The style of that name.

    Raises:
        ValueError: if there is none, or it does not go with the number of visible tests.
    """
    if style not in styles:
        raise ValueError(f"dataset.style={style}: choose one of {', '.join(styles)}")
    named = styles[style]
    if "{text}" not in named.question or named.user.count("{question}") != 1:
        raise ValueError(
            f"dataset.styles.{style}: its question must hold {{text}} and its user turn {{question}} once"
        )
    if visible_tests < 0 or named.shows_tests() != (visible_tests > 0):
        needed = "1 or more" if named.shows_tests() else "0, since it shows none"
        fix = f"set dataset.visible_tests={needed}"
        raise ValueError(f"dataset.visible_tests={visible_tests} with dataset.style={style}: {fix}")
    return named


def problem(
    uid: str,
    text: str,
    reference: str,
    tests: Sequence[str],
    *,
    visible: int,
    setup: str,
    prelude: str,
    style: Style,
) -> Prompt:
    """A prompt from a row; one that cannot judge anything carries its fault, so that it is reported.

    Args:
        uid: the problem's name.
        text: what is to be written.
        reference: a program that is right.
        tests: each a piece of code that raises unless a program is right.
        visible: how many of the tests, from the first on, the prompt may show.
        setup: code that runs after a program, in its process.
        prelude: code that the tests need, run where they are.
        style: how the problem is put to the model.

    Example:
        >>> style = Style(question="{text} {signature}", system="", user="{question}", fenced=False)
        >>> code = "def twice(n): return 2 * n"
        >>> rest = {"visible": 0, "setup": "", "prelude": "", "style": style}
        >>> prompt = problem("a/1", "Double.", code, ["assert twice(1) == 2"], **rest)
        >>> prompt.question, prompt.checks.entry_point, prompt.checks.fault
        ('Double. def twice(n):', 'twice', '')
        >>> problem("a/2", "Double.", code, ["assert twice(1) = 2"], **rest).checks.fault
        'test 1 does not parse'
    """
    shown = tests[:visible]
    reference, setup, prelude = plain(reference), plain(setup), plain(prelude)
    tests = [plain(test) for test in tests]
    entry, fault = "", ""
    try:
        entry = entry_point(tests, reference)
    except ValueError as error:
        fault = str(error)
    written = style.asks(text, shown, signature(reference, entry))
    demonstration = f"```python\n{reference}\n```" if style.fenced else reference
    return Prompt(
        uid=uid,
        question=written,
        gold=reference,
        demonstration=f"{demonstration}\n{style.ends()}" if style.ends() else demonstration,
        checks=Checks(
            entry_point=entry,
            prefix="",
            setup=setup,
            prelude=prelude,
            visible=tests[:visible],
            hidden=tests[visible:],
            fault=fault,
            end=style.ends(),
        ),
    )


def plain(source: str) -> str:
    """Source with plain line ends and no blank ones around it."""
    return source.replace("\r\n", "\n").replace("\r", "\n").strip()


def imports(source: str) -> str:
    """The top-level import statements of some source, which its tests may rely on.

    None where it does not parse.
    """
    tree = parsed(source)
    statements = tree.body if tree else []
    return "\n".join(
        ast.unparse(node) for node in statements if isinstance(node, ast.Import | ast.ImportFrom)
    )


def entry_point(tests: Sequence[str], reference: str) -> str:
    """The reference's function that the first test calls, the outermost one.

    Raises:
        ValueError: if a test or the reference does not parse, or no such function is there.

    Example:
        >>> entry_point(["assert set(common((1, 2), (2,))) == {2}"], "def common(a, b): ...")
        'common'
    """
    for number, test in enumerate(tests, 1):
        if parsed(test) is None:
            raise ValueError(f"test {number} does not parse")
    tree = parsed(reference)
    if tree is None:
        raise ValueError("the reference does not parse")
    if not tests:
        raise ValueError("there are no tests")
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    # Breadth first: the outer call of a nested one comes first.
    for node in ast.walk(parsed(tests[0]) or ast.Module([], [])):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
            return node.func.id
    defined = ", ".join(sorted(functions)) or "none"
    raise ValueError(f"the first test calls no function of the reference (it defines {defined})")


def signature(source: str, name: str) -> str:
    """The line that opens a function, without what it returns; empty where there is none of that name."""
    tree = parsed(source)
    for node in tree.body if tree else ():
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return f"def {name}({ast.unparse(node.args)}):"
    return ""
