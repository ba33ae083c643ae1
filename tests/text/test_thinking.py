"""Where thinking ends, by its tags."""

import time

from mirrorpo.text.thinking import behind_thinking

# The answer's stretch stands between | |.
MARKED = [
    "|It is 18.|",
    "||",
    "<think>17</think>| 18|",
    "17</think>| 18|",
    "<think>17</think> 18 <think>19</think>| 20|",
    "||<think>17",
    "|18 |<think>17",
    "<think>17</think>| 18 |<think>19",
    "<think>a <think> b</think>| c|",
    "<thinking>17</thinking>| 18|",
    "[THINK]17[/THINK]| 18|",
    "|I think> so <thinker>|",
]


def test_the_answer_stands_behind_thinking() -> None:
    for marked in MARKED:
        start, end = marked.index("|"), marked.rindex("|") - 1
        assert behind_thinking(marked.replace("|", "")) == (start, end), marked


def test_tags_without_end_take_linear_time() -> None:
    start = time.process_time()
    for piece in ("<think>", "</think>", "<think></think>", "<"):
        behind_thinking(piece * 100_000)
    assert time.process_time() - start < 2.0
