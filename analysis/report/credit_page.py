"""The credit page: a run's completions, tokens coloured by weight, in one HTML file without a network."""

import html
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.data.runs import load_metrics, read_rows
from analysis.data.schema import Json

STYLE = """
body { font: 15px/1.55 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem;
  color: #1b1b1b; background: #fff }
h1 { font-size: 1.3rem }
p { overflow-wrap: anywhere }
h2 { font-size: 1.05rem; margin-top: 2.2rem }
.quiet { color: #555 }
table { border-collapse: collapse; margin: .6rem 0 }
th, td { padding: .15rem .7rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
.answer { white-space: pre-wrap; font-family: ui-monospace, monospace; border: 1px solid #ddd;
  padding: .6rem .8rem; line-height: 1.9 }
.token { border-radius: 2px }
.span { border-bottom: 2px solid #555; padding-bottom: 1px }
.legend span { padding: .1rem .5rem; margin-right: .3rem; font-family: ui-monospace, monospace }
summary { cursor: pointer; margin: .4rem 0 }
"""
LEGEND = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)


def credit_page(run: Path) -> str:
    """The page of one run.

    Raises:
        ValueError: if the run left no weights to look at.
    """
    steps = sorted((run / "credit").glob("step_*.jsonl"))
    if not steps:
        raise ValueError(f"{run}: no credit/ in it; runs leave it with shown_completions above 0")
    manifest = json.loads((run / "manifest.json").read_text())
    choices = ", ".join(f"{axis}={name}" for axis, name in manifest.get("choices", {}).items())
    swatches = "".join(f"<span style='background:{colour(weight)}'>{weight:g}</span>" for weight in LEGEND)
    where = f"{html.escape(str(run))}<br>{html.escape(choices)}"
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        f"<title>Credit: {html.escape(choices)}</title><style>{STYLE}</style>",
        f"<h1>Which tokens got credit</h1><p class='quiet'>{where}",
        f", commit {html.escape(str(manifest.get('commit')))}</p>",
        f"<p class='legend'>weight of a token: {swatches} (mean one in each completion); underlined: a "
        "scored span, its drop in the tooltip</p>",
        summary(load_metrics(run)),
    ]
    for index, path in enumerate(reversed(steps)):
        rows = read_rows(path)
        opened = " open" if index == 0 else ""
        step = int(path.stem.split("_")[1])
        parts.append(f"<details{opened}><summary><b>step {step}</b>, {len(rows)} completions</summary>")
        parts += [completion(row) for row in rows]
        parts.append("</details>")
    return "\n".join(parts) + "</html>\n"


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
    cells = "".join(f"<tr><td>{html.escape(name)}</td><td>{a}</td><td>{b}</td></tr>" for name, a, b in rows)
    heads = ("mean over", f"first {quarter} steps", f"last {quarter} steps")
    return f"<table><tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>{cells}</table>"


def completion(row: Json) -> str:
    """One completion: its question, verdict and coloured tokens."""
    reward = "no verdict" if row["reward"] is None else f"reward {row['reward']:g}"
    uid, outcome, gold, question = (html.escape(row[name]) for name in ("uid", "outcome", "gold", "question"))
    text = tokens(row["text"], row["offsets"], row["weights"], row["spans"])
    return (
        f"<h2>{uid}: {outcome}, {reward}, gold {gold}</h2><p>{question}</p><div class='answer'>{text}</div>"
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
    written = 0
    for token, ((_, end), weight) in enumerate(zip(offsets, weights, strict=True)):
        piece, written = text[written : max(end, written)], max(end, written)
        if not piece:
            continue
        span = inside.get(token)
        title = f"weight {weight:.2f}" + (f"; {span['kind']}, drop {span['drop']:.2f}" if span else "")
        kind = "token span" if span else "token"
        style = f"class='{kind}' style='background:{colour(weight)}' title='{html.escape(title)}'"
        out.append(f"<span {style}>{html.escape(piece)}</span>")
    return "".join(out)


def colour(weight: float) -> str:
    """White at one, towards blue below and orange above: a pair that colour-blind readers tell apart."""
    strength = min(abs(weight - 1), 1.0)
    target = (230, 129, 30) if weight > 1 else (60, 120, 190)
    return "#" + "".join(f"{round(255 + (channel - 255) * strength * 0.8):02x}" for channel in target)
