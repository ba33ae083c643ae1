"""How large the page of all answers is, how long it takes to make, and to open in a browser.

python benchmarks/answers_page.py                     # 10 arms x 5 seeds x 1,000 questions x 2 evaluations
python benchmarks/answers_page.py --length 300 --keep answers.html

Answers are random words, a third of which all answers to a question share: real ones pack no worse.
"""

import argparse
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"arms": 10, "seeds": 5, "questions": 1000, "length": 1500}
SHARED, WORDS = 0.3, 3000
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


def make(arms: int, seeds: int, questions: int, length: int) -> str:
    """The page, its seconds and the peak of memory printed."""
    from planted import manifest, metrics

    from analysis.data.export import assembled
    from analysis.data.runs import RunTables
    from analysis.data.schema import questions_table, rows_table, run_row
    from analysis.report.answers_page import answers_page
    from analysis.study.study import study

    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(WORDS)]
    runs: list[RunTables] = []
    for arm in range(arms):
        for seed in range(seeds):
            made = manifest(seed, {"divergence": f"d{arm}"}, **{"config.eval_questions": questions})
            tables = [evaluation(rng, words, questions, length) for _ in range(2)]
            shares = [sum(table["right"].to_pylist()) / questions for table in tables]
            numbers = rows_table(metrics(4, [shares[0], 0.5, shares[1]], questions=questions))
            row = run_row(
                made, numbers, run=made["wandb_id"], sweep="s", came_from="folder", source=f"{arm}/{seed}"
            )
            answered = [questions_table(table, step) for table, step in zip(tables, (0, 4), strict=True)]
            runs.append(RunTables(row, numbers, pa.concat_tables(answered)))
    planted = study(assembled(runs, "planted"), baseline="d0")
    began = time.process_time()
    page = answers_page(planted, "planted")
    assert page is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{time.process_time() - began:.1f} s of processor, peak {peak:.2f} GiB with the answers themselves"
    )
    return page


def evaluation(rng: random.Random, words: list[str], questions: int, length: int) -> pa.Table:
    """One evaluation's rows."""
    right = [rng.random() < 0.6 for _ in range(questions)]
    texts: list[str] = []
    for question in range(questions):
        shared = random.Random(question)
        count = length // 7
        text = " ".join((shared if rng.random() < SHARED else rng).choice(words) for _ in range(count))
        texts.append(f"{text}\n#### {question}")
    return pa.table(
        {
            "uid": [f"q/{question:05d}" for question in range(questions)],
            "question": [f"What is {question} + 1?" for question in range(questions)],
            "gold": [str(question + 1) for question in range(questions)],
            "right": pa.array(right),
            "outcome": ["right" if correct else "wrong" for correct in right],
            "tokens": pa.array([length // 4] * questions, pa.int64()),
            "truncated": pa.array([rng.random() < 0.05 for _ in range(questions)]),
            "completion": texts,
        }
    )


def opened(page: Path) -> None:
    """Seconds until the first answers are on the screen, and until a later block of them is."""
    from browser import browser

    with browser() as tab:
        tab.view(1280)
        began = time.perf_counter()
        tab.open(page)
        tab.until("document.querySelectorAll('#panel article').length > 0")
        first = time.perf_counter() - began
        full = tab.value("JSON.parse(document.getElementById('index').textContent).full")
        began = time.perf_counter()
        before = tab.value("document.querySelector('#panel h2').textContent")
        tab.value("document.getElementById('later').click()")
        tab.until(f"document.querySelector('#panel h2').textContent !== {before!r}")
        later = time.perf_counter() - began
        print(
            f"texts of {full} questions; first answers after {first:.2f} s, a later page after {later:.2f} s"
        )


def main() -> None:
    """Make a page and open it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in SIZES.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--keep", type=Path, help="where the page stays")
    args = parser.parse_args()
    page = make(args.arms, args.seeds, args.questions, args.length)
    with tempfile.TemporaryDirectory() as folder:
        path = args.keep or Path(folder) / "answers.html"
        path.write_text(page, encoding="utf-8")
        print(f"{path.stat().st_size / 1e6:.1f} MB")
        opened(path)


if __name__ == "__main__":
    main()
