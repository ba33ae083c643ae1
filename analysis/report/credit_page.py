"""The credit page: a run's completions, tokens coloured by weight, in one HTML file without a network."""

import html
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.data.runs import load_metrics
from analysis.data.schema import Json
from analysis.data.shown_completions import shown_completions, shown_steps
from analysis.report import html as look
from analysis.report.answers_data import pieces
from analysis.report.answers_page import TOKENS_STYLE, policy

STYLE = """
body { max-width: 60rem }
summary { padding: .35rem 0 }
details h2 { font-size: 1.05rem; border: 0; margin: 1.6rem 0 .4rem; padding: 0 }
.answer.tokens { border-left-width: 1px; padding: .6rem .8rem }
.legend .token { padding: .1rem .5rem; margin-right: .3rem; cursor: default; display: inline-block }
"""
LEGEND = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


def credit_page(run: Path) -> str:
    """The page of one run.

    Raises:
        ValueError: if the run left no weights to look at.
    """
    rows_of: dict[int, list[Json]] = {}
    for step, row in shown_completions(run, shown_steps(run)):
        rows_of.setdefault(step, []).append(row)
    if not rows_of:
        raise ValueError(f"{run}: no credit.jsonl in it; runs leave it with shown_completions above 0")
    manifest = json.loads((run / "manifest.json").read_text())
    choices = ", ".join(f"{axis}={name}" for axis, name in manifest.get("choices", {}).items())
    swatches = "".join(
        f"<span class='{kind(weight)}' style='{shade(weight)}'>{weight:g}</span>" for weight in LEGEND
    )
    parts = [
        f"<h1>Which tokens got credit</h1><p class='quiet'>{html.escape(str(run))}<br>"
        f"{html.escape(choices)}, commit {html.escape(str(manifest.get('commit')))}</p>",
        f"<p class='legend'>weight of a token: {swatches} (mean one in each completion); underlined: a "
        "scored span. A token's weight and drop: point at it, tap it, or go through a completion with the "
        "arrow keys.</p>",
        summary(load_metrics(run)),
    ]
    for index, (step, rows) in enumerate(reversed(rows_of.items())):
        opened = " open" if index == 0 else ""
        parts.append(f"<details{opened}><summary><b>step {step}</b>, {len(rows)} completions</summary>")
        parts += [completion(row) for row in rows]
        parts.append("</details>")
    script = (Path(__file__).parent / "tokens.js").read_text()
    parts.append(f"<output id='readout' aria-live='polite'></output><script>{script}</script>")
    style = look.STYLE + TOKENS_STYLE + STYLE
    return look.document(f"Credit: {choices}", "\n".join(parts), style, policy(script))


def summary(metrics: pd.DataFrame) -> str:
    """Means of the credit metrics over the first and the last quarter of the steps, as a table."""
    names = [
        name for name in metrics.columns if name.startswith("credit/") or name == "weight/effective_tokens"
    ]
    stepped = metrics[metrics.index > 0]
    if len(names) <= 1 or stepped.empty:
        return "<p>No span was scored in this run: its weighting asks for no score.</p>"
    quarter = max(len(stepped) // 4, 1)
    first, last = stepped.head(quarter), stepped.tail(quarter)
    rows = [(name, f"{first[name].mean():.3f}", f"{last[name].mean():.3f}") for name in names]
    cells = "".join(f"<tr><th>{html.escape(name)}</th><td>{a}</td><td>{b}</td></tr>" for name, a, b in rows)
    heads = ("mean over", f"first {quarter} steps", f"last {quarter} steps")
    head = "".join(f"<th>{text}</th>" for text in heads)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table>"
    return look.scrolled(table, "credit metrics")


def completion(row: Json) -> str:
    """One completion: its question, verdict and coloured tokens."""
    reward = "no verdict" if row["reward"] is None else f"reward {row['reward']:g}"
    uid, outcome, gold, question = (html.escape(row[name]) for name in ("uid", "outcome", "gold", "question"))
    text = tokens(row["text"], row["offsets"], row["weights"], row["spans"])
    return (
        f"<h2>{uid}: {outcome}, {reward}, gold {gold}</h2><p>{question}</p>"
        f"<div class='answer tokens' role='group' tabindex='0' aria-label='tokens'>{text}</div>"
    )


def tokens(
    text: str, offsets: Sequence[Sequence[int]], weights: Sequence[float], spans: Sequence[Json]
) -> str:
    """The text, each token's characters on the colour of its weight.

    A character that several tokens wrote together stands in the first of them.

    Args:
        text: of the completion.
        offsets: first and last character of each token.
        weights: of each token.
        spans: with the first token and the one after the last, a kind and a drop.
    """
    inside = {token: span for span in spans for token in range(span["start"], span["end"])}
    out: list[str] = []
    for token, (piece, weight) in enumerate(zip(pieces(text, offsets), weights, strict=True)):
        if not piece:
            continue
        span = inside.get(token)
        title = f"weight {weight:.2f}" + (f"; {span['kind']}, drop {span['drop']:.2f}" if span else "")
        look_of = f"class='{kind(weight)}{' span' if span else ''}' style='{shade(weight)}'"
        out.append(f"<span {look_of} title='{html.escape(title)}'>{html.escape(piece)}</span>")
    return "".join(out)


def kind(weight: float) -> str:
    """A token's class: orange above one, blue below, a pair that colour-blind readers tell apart."""
    return f"token {'up' if weight > 1 else 'down'}"


def shade(weight: float) -> str:
    """How strong the colour of a weight is, as CSS: nothing at one, in full one away from it.

    Example:
        >>> shade(1.0), shade(0.75), shade(9.0)
        ('--s:0.00', '--s:0.25', '--s:1.00')
    """
    return f"--s:{min(abs(weight - 1), 1.0):.2f}"
