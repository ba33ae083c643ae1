"""Which lines behind `####` are headings, and which state a number."""

import time

from mirrorpo.text.heading import is_heading, states_number

HEADINGS = """
Step 1
Step 12: Count the eggs
**Step 2:** Count
Step two
Part A
Case II: She sells
Phase 3 - Selling
1. Count the eggs
2) Count the eggs
(3) Count the eggs
**4. Count the eggs**
12. Total
1.2. Total Cost
3. Calculate the cost.
Calculate the cost of 18 eggs
Calculating the Cost
Let's count 18 eggs
Let\u2019s think
Find the total
Understanding the problem
Final Answer
**Final Answer**
The Final Answer:
Answer:
Solution
Conclusion
Verification
Step-by-Step Solution
Given Information
Cost of 18 eggs:
"""

ANSWERS = """
18
**18**
$18
18.
18. That is what she earns.
18. It follows.
180. Total Cost
18 dollars
18 in 2 days
18: the total
18 - the total
Answer: 18
Final answer: **18**
The answer is 18
The answer is 18:
Janet earns $18 a day
x = 18
Add 9 and 9 = 18
many
Evelyn
\\frac{1}{2}
[0, 1)
x + 1
Monday
"""

NUMBERS = [
    "18",
    " **18**",
    "$18",
    "-18",
    "\u221218",
    "(18)",
    r"\frac{1}{2}",
    r"$\frac12$",
    "\u00bd",
    ".5",
    "x = 18",
]
NUMBERS += [
    "Answer: 18",
    "The answer is 18",
    "negative 5",
    r"\text{18}",
    "9 + 9 = 18 dollars",
    "\uff11\uff18",
    "USD 18",
]
WORDS = ["", "many", "Cost of 18 apples", "x + 1", "Evelyn", "Conclusion: all 18", r"\sqrt{3}", "= none"]


def lines(table: str) -> list[str]:
    return [line for line in table.split("\n") if line]


def test_headings_are_told_from_answers() -> None:
    for heading in lines(HEADINGS):
        for line in (heading, f" {heading} ", f" **{heading}**" if "*" not in heading else heading):
            assert is_heading(line), line
    for answer in [*lines(ANSWERS), ""]:
        assert not is_heading(f" {answer}"), answer


def test_a_number_is_told_from_words_about_one() -> None:
    assert all(states_number(line) for line in NUMBERS), NUMBERS
    assert not any(states_number(line) for line in WORDS), WORDS


def test_a_line_is_read_up_to_a_limit() -> None:
    start = time.process_time()
    for piece in ("1. ", "*", "Step ", "= ", "1", "_ ", "\\left", "final "):
        is_heading(piece * 300_000)
        states_number(piece * 300_000)
    assert time.process_time() - start < 1.0
