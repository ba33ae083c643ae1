import math
import random
import time
from decimal import Decimal
from fractions import Fraction

import pytest
from answer_forms import COMPLETIONS, LATEX_FORMS, RIGHT, WRONG
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mirrorpo.core.batch import Prompt, Verdict
from mirrorpo.reward.math import math_answer, verifier
from mirrorpo.reward.math.math_answer import MathAnswer, flexible_answer, strict_answer
from mirrorpo.reward.math.number import plain_number

TRUE, FALSE = True, False


def prompt(gold: str, uid: str = "q1") -> Prompt:
    return Prompt(uid=uid, question="?", gold=gold, demonstration="")


def judge(text: str, gold: str, extraction: str = "strict") -> Verdict:
    reward = MathAnswer(extraction=extraction, latex_timeout_s=20.0, latex_workers=1)  # type: ignore[arg-type]
    return reward([text], [prompt(gold)])[0]


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a plain number must not start a worker")

    monkeypatch.setattr(verifier, "Worker", refuse)


# text, gold, strict, flexible
PLAIN = [
    # the mark and where it stands
    ("#### 18", "18", TRUE, TRUE),
    ("####18", "18", TRUE, TRUE),
    ("It is 18.", "18", FALSE, TRUE),
    ("####\n18", "18", FALSE, TRUE),
    ("### 18", "18", FALSE, TRUE),
    ("##### 18", "18", FALSE, TRUE),
    ("#### 18\r\nso 19", "18", TRUE, FALSE),
    (r"\boxed{18}", "18", TRUE, TRUE),
    (r"\boxed {18}", "18", TRUE, TRUE),
    (r"\boxed{\boxed{18}}", "18", TRUE, TRUE),
    (r"\boxed{18", "18", FALSE, TRUE),
    (r"\boxed{18} and then \boxed{19", "18", TRUE, FALSE),
    (r"\boxed{ {18}", "18", FALSE, TRUE),
    (r"{ \boxed{18}", "18", TRUE, TRUE),
    (r"} \boxed{18}", "18", TRUE, TRUE),
    (r"#### $\boxed{18}$", "18", TRUE, TRUE),
    (r"\boxed{#### 18}", "18", TRUE, TRUE),
    # several answers: the final one counts, however many came before
    ("#### 17\n#### 18", "18", TRUE, TRUE),
    ("#### 18\n#### 17", "18", FALSE, FALSE),
    ("#### 17 #### 18", "18", TRUE, TRUE),
    ("\n".join(f"#### {n}" for n in range(100)), "18", FALSE, FALSE),
    ("#### 18\n####", "18", FALSE, TRUE),
    (r"#### 17 \boxed{18}", "18", TRUE, TRUE),
    (r"\boxed{18} #### 17", "18", FALSE, FALSE),
    (r"\boxed{17}, \boxed{18}", "18", TRUE, TRUE),
    (r"\boxed{17, 18}", "18", FALSE, TRUE),
    (r"\boxed{17, 18}", "17", FALSE, FALSE),
    (r"\boxed{17 \text{ or } 18}", "18", FALSE, TRUE),
    # sentences after the mark
    ("#### 18 in 2 days", "18", TRUE, FALSE),
    ("#### 18 in 2 days", "2", FALSE, TRUE),
    ("#### Janet earns $18 per day.", "18", TRUE, TRUE),
    ("#### **18** apples in 2 bags", "18", TRUE, FALSE),
    (r"#### \$18 for 2 days", "18", TRUE, FALSE),
    ("#### 18 (12 + 6 = 18)", "18", TRUE, TRUE),
    ("#### 18 - the total", "18", TRUE, TRUE),
    ("#### eighteen", "18", FALSE, FALSE),
    ("#### x = 18", "18", TRUE, TRUE),
    ("#### 12 + 6 = 18", "18", TRUE, TRUE),
    (r"\boxed{x=18}", "18", TRUE, TRUE),
    (r"\boxed{x \le 18}", "18", FALSE, TRUE),
    (r"\boxed{x <= 18}", "18", FALSE, TRUE),
    # a question copied is no answer
    ("#### 12+7", "19", FALSE, FALSE),
    ("#### 12+7", "12", FALSE, FALSE),
    ("#### 12-7", "12", FALSE, FALSE),
    ("#### 12 * 7", "12", FALSE, FALSE),
    (r"#### 12 \times 7", "84", FALSE, FALSE),
    (r"\boxed{12+7}", "19", FALSE, FALSE),
    (r"\boxed{2^{10}}", "1024", FALSE, FALSE),
    (r"\boxed{\sqrt{4}}", "2", FALSE, FALSE),
    ("#### 2^3", "2", FALSE, FALSE),
    (r"#### 2\sqrt{3}", "2", FALSE, FALSE),
    ("#### 38/2", "19", FALSE, FALSE),
    (r"\boxed{\frac{38}{2}}", "19", FALSE, FALSE),
    (r"\boxed{5!}", "5", FALSE, TRUE),
    ("#### 5!", "5", FALSE, TRUE),
    ("#### 18 million", "18", FALSE, TRUE),
    (r"\boxed{18 million}", "18", FALSE, TRUE),
    (r"\boxed{3\mathrm{i}}", "3", FALSE, TRUE),
    (r"\boxed{3x}", "3", FALSE, TRUE),
    (r"\boxed{3 ab}", "3", FALSE, TRUE),
    # thousands, lists, dots
    ("#### 1,000", "1000", TRUE, TRUE),
    ("#### 1000", "1,000", TRUE, TRUE),
    ("#### 1,000.50", "1000.5", TRUE, TRUE),
    ("#### 1,234,567", "1234567", TRUE, TRUE),
    (r"#### $1{,}000$", "1000", TRUE, TRUE),
    (r"\boxed{1,\!000}", "1000", TRUE, TRUE),
    (r"\boxed{1\,000}", "1000", TRUE, TRUE),
    ("#### 1\u202f000", "1000", TRUE, TRUE),
    ("1,2,3", "123", FALSE, FALSE),
    ("1,2,3", "3", FALSE, TRUE),
    ("#### 1,2,3", "123", FALSE, FALSE),
    (r"\boxed{1,2,3}", "123", FALSE, FALSE),
    ("#### 12,3456", "123456", FALSE, FALSE),
    ("He has 18, of course, and , too", "18", FALSE, TRUE),
    ("18 ...", "18", FALSE, TRUE),
    ("#### 18.", "18", TRUE, TRUE),
    ("#### 18.00", "18", TRUE, TRUE),
    ("#### 18", "18.0", TRUE, TRUE),
    ("#### .5", "0.5", TRUE, TRUE),
    ("#### 007", "7", TRUE, TRUE),
    ("#### 18.0000000000000000000000001", "18", FALSE, FALSE),
    ("#### 9007199254740993", "9007199254740992", FALSE, FALSE),
    ("#### 0.3", "0.30000000000000004", FALSE, FALSE),
    # signs
    ("#### -5", "-5", TRUE, TRUE),
    ("#### \u22125", "-5", TRUE, TRUE),
    ("#### -5", "\u22125", TRUE, TRUE),
    ("#### -$5", "-5", TRUE, TRUE),
    ("#### $-5", "-5", TRUE, TRUE),
    (r"#### -\$5", "-5", TRUE, TRUE),
    ("#### - 5", "-5", TRUE, FALSE),
    ("#### +5", "5", TRUE, TRUE),
    ("#### \u22125 in 2 days", "-5", TRUE, FALSE),
    ("#### -5", "5", FALSE, FALSE),
    ("the difference 10-5", "5", FALSE, TRUE),
    ("10 \u2212 5 = x, x = -5", "-5", FALSE, TRUE),
    ("- 5 apples", "5", FALSE, TRUE),
    ("x=(-5)", "-5", FALSE, TRUE),
    # money, percent, units
    ("#### $18", "18", TRUE, TRUE),
    ("#### 18$", "18", TRUE, TRUE),
    ("#### $1,800.00", "1800", TRUE, TRUE),
    ("#### \u20ac18", "18", TRUE, TRUE),
    ("#### 18 \u20ac", "18", TRUE, TRUE),
    ("#### 50%", "50", TRUE, TRUE),
    (r"\boxed{50\%}", "50", TRUE, TRUE),
    ("#### 50", "50%", TRUE, TRUE),
    ("#### 50%", "0.5", FALSE, FALSE),
    (r"\boxed{18 \text{ apples}}", "18", TRUE, TRUE),
    (r"\boxed{18\,\mathrm{cm}^2}", "18", TRUE, FALSE),
    (r"\boxed{18 cm}", "18", TRUE, TRUE),
    (r"\boxed{18cm^2}", "18", TRUE, FALSE),
    (r"\boxed{90^\circ}", "90", TRUE, TRUE),
    ("#### 90\u00b0C", "90", TRUE, TRUE),
    ("#### 60 km/h", "60", TRUE, TRUE),
    ("#### 18 dollars/day", "18", TRUE, TRUE),
    ("#### 18", "18 dollars", TRUE, TRUE),
    (r"\(18\)", "18", FALSE, TRUE),
    (r"\boxed{$18$}", "18", TRUE, TRUE),
    # fractions
    ("#### 3/4", "0.75", TRUE, TRUE),
    ("#### 3 / 4", "3/4", TRUE, TRUE),
    ("#### 6/8", "3/4", TRUE, TRUE),
    (r"\boxed{\frac{3}{4}}", "3/4", TRUE, TRUE),
    (r"\boxed{-\dfrac{3}{4}}", "-0.75", TRUE, TRUE),
    (r"\boxed{\frac{-3}{4}}", "-3/4", TRUE, TRUE),
    (r"\boxed{\frac34}", "0.75", TRUE, TRUE),
    (r"\boxed{\tfrac{1{,}001}{2}}", "500.5", TRUE, TRUE),
    ("#### 0.75", r"\frac{3}{4}", TRUE, TRUE),
    ("#### 0.33", "1/3", FALSE, FALSE),
    ("#### 1/0", "1", FALSE, FALSE),
    (r"\boxed{\frac{1}{0}}", "1", FALSE, FALSE),
    ("#### 2 1/4", "2.25", TRUE, TRUE),
    (r"\boxed{-2\frac{1}{4}}", "-2.25", TRUE, TRUE),
    (r"\boxed{2 \frac{1}{4}}", "9/4", TRUE, TRUE),
    (r"\boxed{2\frac{5}{4}}", "3.25", FALSE, FALSE),
    # exponents and sizes
    ("#### 1e3", "1000", TRUE, TRUE),
    ("#### 1.5E-3", "0.0015", TRUE, TRUE),
    (r"\boxed{3 \times 10^{5}}", "300000", TRUE, TRUE),
    (r"\boxed{3\cdot10^{-2}}", "0.03", TRUE, TRUE),
    ("#### 3\u00d710^5", "300000", TRUE, TRUE),
    ("#### 1e999999999", "1", FALSE, FALSE),
    ("#### 1e-999999999", "0", FALSE, FALSE),
    (r"#### 3 \times 10^{999999999}", "3", FALSE, FALSE),
    ("#### NaN", "18", FALSE, FALSE),
    ("#### inf", "18", FALSE, FALSE),
    ("#### \u0661\u0668", "18", FALSE, FALSE),  # Arabic digits, which int() would take
    # nothing there
    ("", "18", FALSE, FALSE),
    (",", "18", FALSE, FALSE),
    ("####", "18", FALSE, FALSE),
    (r"\boxed{}", "18", FALSE, FALSE),
    ("#### \ud800", "18", FALSE, FALSE),
]


@pytest.mark.usefixtures("no_process")
def test_plain_golds() -> None:
    for text, gold, strict, flexible in PLAIN:
        verdict = judge(text, gold)
        assert (verdict.strict, verdict.flexible) == (strict, flexible), (text, gold)


# Goldens of math-verify through our door, in both forms: it misses plain numbers left to its own settings.
LATEX = [
    (r"\boxed{\frac{\sqrt{3}}{2}}", r"\frac{\sqrt{3}}{2}", TRUE, FALSE),
    (r"#### $\frac{\sqrt{3}}{2}$.", r"$\frac{\sqrt{3}}{2}$", TRUE, FALSE),
    (r"\boxed{\sqrt{3}/2}", r"\frac{\sqrt{3}}{2}", TRUE, FALSE),
    (r"\boxed{\frac{\sqrt{2}}{2}}", r"\frac{\sqrt{3}}{2}", FALSE, FALSE),
    ("#### 1 + x", "x+1", TRUE, FALSE),
    ("#### y = x+1", "x+1", TRUE, FALSE),
    ("#### x+2", "x+1", FALSE, FALSE),
    ("#### x \u2212 1", "x-1", TRUE, FALSE),
    ("#### x - 1", "x\u22121", TRUE, FALSE),
    ("#### 2", "x+1", FALSE, FALSE),
    (r"\boxed{[0, 1)}", "[0,1)", TRUE, FALSE),
    (r"\boxed{[0, 1]}", "[0,1)", FALSE, FALSE),
    (r"\boxed{4, 3}", r"\{3, 4\}", TRUE, FALSE),
    (r"\boxed{3}", r"\{3, 4\}", FALSE, FALSE),
    ("#### 3, 4", "3, 4", TRUE, FALSE),
    ("#### 1024", "2^{10}", TRUE, TRUE),
    ("#### 1,024.00", "2^{10}", TRUE, TRUE),
    ("It is 1024", "2^{10}", FALSE, TRUE),
    ("#### 1025", "2^{10}", FALSE, FALSE),
    (r"\boxed{x=5}", "x = 5", TRUE, TRUE),
    (r"\boxed{5}", "x = 5", TRUE, TRUE),
    (r"\boxed{3\pi}", r"3\pi", TRUE, FALSE),
    (r"\boxed{\text{Evelyn}}", r"\text{Evelyn}", TRUE, FALSE),
    ("#### (B)", r"\text{(B)}", TRUE, FALSE),
    (r"\boxed{\frac{}", "x+1", FALSE, FALSE),
    (r"\boxed{18}}{", "x+1", FALSE, FALSE),
    ("#### " + "(" * 5000, "x+1", FALSE, FALSE),
    ("", "x+1", FALSE, FALSE),
    ("\ud800 #### \ud800", "x+1", FALSE, FALSE),
]


def test_latex_golds() -> None:
    for text, gold, strict, flexible in LATEX:
        verdict = judge(text, gold)
        assert (verdict.strict, verdict.flexible) == (strict, flexible), (text, gold)
        assert verdict.outcome != "unverifiable", (text, gold)


@pytest.mark.parametrize(
    ("text", "extraction", "reward", "outcome"),
    [
        ("#### 18 in 2 days", "strict", 1.0, "right"),
        ("#### 18 in 2 days", "flexible", 0.0, "wrong"),
        ("It is 18", "strict", 0.0, "no_answer"),
        ("It is 18", "flexible", 1.0, "right"),
        ("#### many", "strict", 0.0, "wrong"),
        ("#### many", "flexible", 0.0, "no_answer"),
        ("####", "strict", 0.0, "no_answer"),
    ],
)
def test_the_trained_extraction_pays(text: str, extraction: str, reward: float, outcome: str) -> None:
    verdict = judge(text, "18", extraction)
    assert (verdict.reward, verdict.outcome) == (reward, outcome)


def test_equal_answers_have_one_form_by_which_they_are_counted() -> None:
    # Each line reads as one answer, and no two lines as the same; the gold is none of them.
    alike = [
        ["#### 1,000", r"\boxed{1000.00}", "#### $1000 dollars", r"so \boxed{\text{1000}}"],
        [r"\boxed{\frac12}", "#### 0.5", r"\boxed{\dfrac{1}{2}}"],
        [r"\boxed{\dfrac{ x }{2}}", r"\boxed{$\frac{x}{2}$}", r"#### \tfrac{x}{2}."],
        [r"\boxed{\text{Evelyn}}", "#### Evelyn", r"\boxed{ evelyn }"],
        ["#### -1000"],
        [r"\boxed{x = 3}", "#### 3"],
        ["no answer", "", r"\boxed{}", r"\boxed{12"],
    ]
    forms = [{judge(text, "77").answer for text in texts} for texts in alike]
    assert [len(line) for line in forms] == [1] * len(alike), forms
    assert len(set.union(*forms)) == len(alike) and forms[-1] == {""}
    # Of the extraction that is trained on.
    assert [judge(r"\boxed{3} of 5", "77", way).answer for way in ("strict", "flexible")] == ["3", "5"]


def test_verdicts_keep_the_order_of_mixed_golds() -> None:
    reward = MathAnswer(extraction="strict", latex_timeout_s=20.0, latex_workers=2)
    texts = ["#### 18", "#### x+1", "#### 1+x", "no", "#### x+1", "#### 17"]
    golds = ["18", "x+1", "x+1", "18", "x-1", "18"]
    outcomes = [verdict.outcome for verdict in reward(texts, [prompt(gold) for gold in golds])]
    assert outcomes == ["right", "right", "right", "no_answer", "wrong", "wrong"]


@pytest.mark.usefixtures("no_process")
def test_the_forms_that_chat_models_give_a_number() -> None:
    tables = [(form, gold, True) for gold, forms in RIGHT.items() for form in forms]
    tables += [(form, gold, False) for gold, forms in WRONG.items() for form in forms]
    for form, gold, right in tables:
        for text in (f"So it is \\boxed{{{form}}}.", f"So\n#### {form}"):
            assert (judge(text, gold).strict, text) == (right, text), gold
    for text, gold, right in COMPLETIONS:
        assert (judge(text, gold).strict, text) == (right, text), gold


def test_the_forms_that_chat_models_give_latex() -> None:
    for gold, form, right in LATEX_FORMS:
        verdict = judge(f"\\boxed{{{form}}}", gold)
        assert (verdict.outcome, form) == ("right" if right else "wrong", form), gold


# Its comparison would take minutes: too much for the guards, which see no tower and no integral in it.
ENDLESS = r"(x+1)^{900}=(x-\sqrt{2})^{900}+x^{901}"


def test_an_answer_that_cannot_be_compared_is_wrong_and_spares_the_others() -> None:
    reward = MathAnswer(extraction="strict", latex_timeout_s=0.5, latex_workers=1)
    golds = ["x^2=y+10^{10}"] * 3 + ["10^{10}+x"]
    texts = [rf"\boxed{{{ENDLESS}}} or so", "#### 10^{10}+y=x^2", "#### 9", r"\boxed{x+10^{10}}"]
    stuck, fine, wrong, other = reward(texts, [prompt(gold) for gold in golds])
    assert (stuck.reward, stuck.outcome) == (0.0, "wrong") and not stuck.strict
    assert (fine.outcome, wrong.outcome, other.outcome) == ("right", "wrong", "right")


def test_hopeless_answers_never_reach_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    reward = MathAnswer(extraction="strict", latex_timeout_s=5.0, latex_workers=1)
    pairs: list[tuple[str, str]] = []

    def verify(asked: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
        pairs.extend(asked)
        return dict.fromkeys(asked, "right")

    monkeypatch.setattr(MathAnswer, "_verify", lambda _, asked: verify(asked))
    answers = [r"\int_0^1 x\,dx", "x^{" * 30 + "2" + "}" * 30, "(" * 60 + "x", "x" * 5000, "17_3", "Monday"]
    texts = [rf"\boxed{{{answer}}}" for answer in answers]
    verdicts = reward(texts, [prompt("x+1")] * 5 + [prompt("Tuesday")])
    assert {verdict.outcome for verdict in verdicts} == {"wrong"}
    # What is left is the golds' own check, and the last numbers of the texts.
    assert {form for _, form in pairs} <= {"", "1", "2", "17", "_3", "3"}
    # Nor does an answer that reads as its gold does.
    assert reward([r"\boxed{ \dfrac{x}{2} }"], [prompt(r"\frac{x}{2}")])[0].outcome == "right"
    assert pairs[-2:] == [(r"\frac{x}{2}", ""), (r"\frac{x}{2}", "2")]


def test_only_a_broken_verifier_gives_no_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    reward = MathAnswer(extraction="strict", latex_timeout_s=5.0, latex_workers=1)
    monkeypatch.setattr(MathAnswer, "_verify", lambda _, pairs: dict.fromkeys(pairs, "unverifiable"))
    verdict = reward(["#### x+2"], [prompt("x+1")])[0]
    assert math.isnan(verdict.reward) and verdict.outcome == "unverifiable"
    assert not verdict.strict and not verdict.flexible


def test_thinking_is_read_on_request() -> None:
    draft = "<think>Is it \\boxed{18}? Or 17?</think> I cannot say."
    skips = MathAnswer(extraction="strict", latex_timeout_s=5.0, latex_workers=1)
    reads = MathAnswer(extraction="strict", thinking="read", latex_timeout_s=5.0, latex_workers=1)
    assert [reward([draft], [prompt("18")])[0].outcome for reward in (skips, reads)] == ["no_answer", "right"]
    assert not skips(["<think>17, 18"], [prompt("18")])[0].flexible


def test_a_decimal_comma_is_a_setting() -> None:
    comma = MathAnswer(extraction="strict", decimal_mark="comma", latex_timeout_s=5.0, latex_workers=1)
    point = MathAnswer(extraction="strict", latex_timeout_s=5.0, latex_workers=1)
    forms = [
        (r"\boxed{2,5}", "2.5", True, False),
        (r"\boxed{1.000,50 \text{ km}}", "1000.5", True, False),
        (r"\boxed{2.5}", "2.5", True, True),
        (r"\boxed{1.500}", "1500", True, False),
        (r"\boxed{1.500}", "1.5", False, True),
        ("#### 2,5 km in 2 h", "2.5", True, False),
        ("#### 18", "18", True, True),
    ]
    for text, gold, with_comma, with_point in forms:
        verdicts = [reward([text], [prompt(gold)])[0].strict for reward in (comma, point)]
        assert (verdicts, text) == ([with_comma, with_point], text)
    assert flexible_answer("etwa 2,5 km", decimal_mark="comma").number == Fraction(5, 2)  # type: ignore[union-attr]


def test_golds_are_checked_and_named_before_any_answer_is() -> None:
    reward = MathAnswer(extraction="strict", latex_timeout_s=5.0, latex_workers=1)
    good = [
        "18",
        "1,000",
        r"\frac{\sqrt{3}}{2}",
        "12:00",
        "52_8",
        r"\text{Evelyn}",
        r"1 - \frac{1}{\mathrm{e}}",
    ]
    good += ["9" * 450, "-1./3", r"x = \frac{1}{2}, x = \frac{-1 \pm \sqrt{13}}{4}", "x" + "+x" * 300]
    assert reward.unjudgeable([prompt(gold, uid=gold) for gold in good]) == {}
    for gold in good:
        assert judge(f"\\boxed{{{gold}}}", gold).strict, gold
    bad = {
        "": "no gold",
        "n/a": "no gold",
        r"\frac{": "neither a number nor LaTeX",
        r"\frac{1}{0}": "neither a number nor LaTeX",
        "9" * 5000: "5000 characters",
    }
    faults = reward.unjudgeable([prompt(gold, uid=gold) for gold in ["18", *bad]])
    assert list(faults) == list(bad)
    for gold, reason in bad.items():
        assert reason in faults[gold]


@pytest.mark.parametrize("text", ["#### 18", ""])
def test_a_gold_nobody_can_read_is_named(text: str) -> None:
    reward = MathAnswer(extraction="strict", latex_timeout_s=20.0, latex_workers=1)
    for gold in ("", "  ", "nan", "None", "N/A", r"\frac{", "}{", r"\frac{1}{0}"):
        with pytest.raises(ValueError, match=r"train/7") as error:
            reward(["#### 1", text], [prompt("1"), prompt(gold, uid="train/7")])
        assert repr(gold) in str(error.value)


@pytest.mark.parametrize(
    ("knob", "value"),
    [("extraction", "last"), ("latex_timeout_s", 0.0), ("latex_timeout_s", math.nan), ("latex_workers", 0)],
)
def test_a_knob_out_of_range_is_named(knob: str, value: object) -> None:
    knobs = {"extraction": "strict", "latex_timeout_s": 5.0, "latex_workers": 1} | {knob: value}
    with pytest.raises(ValueError, match=knob):
        MathAnswer(**knobs)  # type: ignore[arg-type]


def test_version_is_that_of_the_module() -> None:
    reward = MathAnswer(extraction="strict", latex_timeout_s=5.0, latex_workers=1)
    assert reward.version == math_answer.VERSION == "math_answer/2"
    assert reward.provenance() == {"sandbox": None} and reward.unjudgeable([prompt("1")]) == {}


# Alphabets that meet the patterns more often than free text does.
PIECES = [
    "#### ",
    "\\boxed{",
    "{",
    "}",
    "\\",
    "$",
    "-",
    "\u2212",
    ",",
    ".",
    "/",
    "e",
    "E9",
    "=",
    "^",
    "\n",
    " ",
    "  ",
]
PIECES += [
    "\\frac",
    "{,}",
    "\\,",
    "\\text{",
    "\\times 10^",
    "0",
    "1",
    "12",
    "000",
    "999",
    "%",
    "\u20ac",
    "cm",
    "apples",
]


@settings(max_examples=300, deadline=None)
@given(st.text() | st.lists(st.sampled_from(PIECES), max_size=60).map("".join))
@example("1/" * 50)
@example("\\frac{1}{0}")
def test_no_text_raises(text: str) -> None:
    for answer in (strict_answer(text), flexible_answer(text)):
        assert answer is None or answer.text
    plain_number(text)
    assert judge(text, "18").outcome in ("right", "wrong", "no_answer")


LONG = [
    "9",
    "1,",
    ",000",
    "1,000",
    "1 ",
    "1/",
    "1 1/",
    "1{,}",
    "1e9",
    "\\frac{1}",
    "- ",
    "$",
    "=",
    "**",
    "cm ",
    " a",
    " ",
]
LONG += ["#### ", "####\n", "\\boxed{", "\\boxed{1", "\\text{", "{", "}", "\\", "1" + " " * 99]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", LONG)
def test_long_texts_end(piece: str) -> None:
    # Quadratic work takes minutes here, linear work a fraction of a second.
    long = piece * (100_000 // len(piece))
    start = time.process_time()
    for text in (long, "#### 1" + long, "#### " + long + "x", f"\\boxed{{{long}}}"):
        judge(text, "18")
        plain_number(text)
    assert time.process_time() - start < 4.0


DOUBLED = [
    ("1 000", "1½", "\\text{1}", "\\mathbf{\\text{", "#### 1. A\n", "<think>", "x=", "or="),
    ("</think>", "-(", "not ", "negative ", "\u200b", "\u00b2", "18 of ", "\\,", "\\boxed{}#### a\n"),
]


def seconds_to_read(long: str) -> float:
    start = time.process_time()
    for text in (long, "#### 1" + long, f"\\boxed{{1{long}}}"):
        strict_answer(text)
        flexible_answer(text)
    return time.process_time() - start


@pytest.mark.timeout(60)
@pytest.mark.parametrize("pieces", DOUBLED)
def test_twice_the_text_costs_twice_the_time(pieces: tuple[str, ...]) -> None:
    for piece in pieces:
        seconds = []
        for size in (20_000, 40_000):
            long = piece * (size // len(piece))
            seconds.append(min(seconds_to_read(long) for _ in range(2)))
        # Quadratic work takes four times as long; the floor keeps what takes milliseconds out of it.
        assert seconds[1] < 2.5 * max(seconds[0], 0.1), piece


def test_a_million_digits_are_not_a_number() -> None:
    assert plain_number("9" * 1_000_000) is None
    assert judge("#### " + "9" * 1_000_000, "18").outcome == "wrong"


FRACTIONS = st.fractions(min_value=-(10**12), max_value=10**12, max_denominator=10**6)
DECIMALS = st.decimals(min_value=-(10**12), max_value=10**12, allow_nan=False, places=4)


def dressed(body: str, draw: random.Random) -> str:
    return draw.choice(
        ["{}", "${}$", "**{}**", " {} ", "{}.", r"\({}\)", r"{}\text{{ km}}", "{} apples"]
    ).format(body)


@settings(deadline=None)
@given(FRACTIONS.filter(lambda value: value.denominator > 1), st.randoms(use_true_random=False))
def test_fractions_round_trip(value: Fraction, draw: random.Random) -> None:
    sign, n, d = "-" if value < 0 else "", abs(value.numerator), value.denominator
    forms = [
        f"{sign}{n}/{d}",
        f"{sign}\\frac{{{n}}}{{{d}}}",
        f"\\dfrac{{{sign}{n}}}{{{d}}}",
        f"{sign}{n:,}/{d:,}",
    ]
    if n > d:
        forms += [f"{sign}{n // d} {n % d}/{d}", f"{sign}{n // d}\\frac{{{n % d}}}{{{d}}}"]
    for form in forms:
        text = dressed(form, draw).replace("-", draw.choice(["-", "\u2212"]))
        assert plain_number(text) == value
        assert strict_answer(f"#### {text}").number == strict_answer(f"\\boxed{{{text}}}").number == value  # type: ignore[union-attr]
        assert flexible_answer(f"so it is {form}.").number == value  # type: ignore[union-attr]


@settings(deadline=None)
@given(DECIMALS, st.randoms(use_true_random=False))
def test_decimals_round_trip(decimal: Decimal, draw: random.Random) -> None:
    value = Fraction(decimal)
    sign, size = "-" if value < 0 else "", f"{abs(decimal):.4f}"
    whole, part = size.split(".")
    grouped = f"{int(whole):,}"
    forms = [
        sign + size,
        f"{sign}{grouped}.{part}",
        f"{sign}${size}",
        f"${sign}{size}",
        f"{sign}{size}%",
        f"{sign}{size}e0",
    ]
    forms += [
        f"{sign}{grouped.replace(',', '{,}')}.{part}",
        f"{sign}{grouped.replace(',', chr(92) + '!')}.{part}",
    ]
    forms += [f"{sign}{whole}{part} \\times 10^{{-4}}", f"{sign}{whole}{part}E-4", f"{sign}{size}00"]
    for form in forms:
        text = dressed(form, draw)
        assert plain_number(text) == value
        assert strict_answer(f"#### 3 #### {text}").number == value  # type: ignore[union-attr]
        assert flexible_answer(f"first 7, then {form}").number == value  # type: ignore[union-attr]


@settings(deadline=None)
@given(st.lists(st.integers(min_value=0, max_value=99), min_size=2, max_size=6))
def test_lists_never_fuse(numbers: list[int]) -> None:
    text = ",".join(map(str, numbers))
    assert plain_number(text) is None
    assert flexible_answer(text).number == numbers[-1]  # type: ignore[union-attr]
