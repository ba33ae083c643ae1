"""The page of all answers: by arm, seed, evaluation, outcome and question, side by side."""

import base64
import hashlib
import html
import json
from pathlib import Path
from urllib.parse import urlencode

from analysis.report.answers_data import LONGEST, MOST_BYTES, SHOWN_STEPS, Pages, answers_data
from analysis.report.html import DARK, STYLE, document
from analysis.study.study import Study

NAME = "answers.html"
HERE = Path(__file__).parent
TOKENS_STYLE = (
    """
:root { --depth: .8 }
@media """
    + DARK
    + """ { :root { --depth: .6 } }
.tokens { white-space: pre-wrap; overflow-wrap: anywhere; font-family: ui-monospace, monospace;
  font-size: .88em; line-height: 1.9 }
.token { border-radius: 2px; cursor: pointer }
.token.up { background: rgb(230 129 30 / calc(var(--s) * var(--depth))) }
.token.down { background: rgb(60 120 190 / calc(var(--s) * var(--depth))) }
.token.span { border-bottom: 2px solid var(--quiet); padding-bottom: 1px }
.token.chosen { outline: 2px solid var(--link) }
#readout { position: fixed; inset: auto 0 0; padding: .5rem 1rem; background: var(--wash);
  border-top: 1px solid var(--line); font-family: ui-monospace, monospace; font-size: .88em;
  white-space: pre-wrap; overflow-wrap: anywhere }
#readout:empty { display: none }
"""
)
ANSWERS_STYLE = """
body { max-width: 100rem }
form { display: flex; flex-wrap: wrap; gap: .6rem 1rem; margin: 1rem 0 .6rem; align-items: end }
form label { display: grid; font-size: .85rem; color: var(--quiet); min-width: 0 }
form label.check { display: flex; gap: .4rem; align-items: center; min-height: 2.1rem }
[hidden], form label[hidden] { display: none }
select, input[type=search], button { font: inherit; color: var(--ink); background: var(--paper);
  border: 1px solid var(--quiet); border-radius: 4px; padding: .3rem .5rem; min-height: 2.1rem;
  max-width: 100% }
button { cursor: pointer }
button:disabled { opacity: .4; cursor: default }
.explorer { display: grid; grid-template-columns: minmax(0, 20rem) minmax(0, 1fr); gap: 1.5rem;
  align-items: start }
.listing { position: sticky; top: 0; max-height: 100vh; display: flex; flex-direction: column;
  padding: .5rem 0 }
#list { list-style: none; padding: 0; margin: 0; overflow-y: auto; max-height: 70vh;
  border: 1px solid var(--line); border-radius: 4px }
#list button { display: grid; grid-template-columns: 1fr auto; gap: 0 .5rem; width: 100%; text-align: left;
  border: 0; border-bottom: 1px solid var(--line); border-radius: 0; font-size: .85rem }
#list button:hover { background: var(--wash) }
#list button:focus-visible { outline-offset: -2px }
#list [aria-current] { background: var(--wash); box-shadow: inset 3px 0 var(--link) }
.start { grid-column: 1 / 3; color: var(--quiet); white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis }
.marks { letter-spacing: .1em }
.turn { display: flex; gap: .5rem; align-items: center; margin: .5rem 0; font-size: .85rem }
#panel h2 { border: 0; margin: .4rem 0; padding: 0 }
.question { white-space: pre-wrap }
@media (min-width: 700px) { .answers.pairs { grid-template-columns: 1fr 1fr } }
.answer.picked { outline: 2px solid var(--link) }
@media (max-width: 700px) {
  form { display: grid; grid-template-columns: 1fr 1fr }
  form label.broad { grid-column: 1 / 3 }
  form select, form input[type=search] { width: 100% }
  .explorer { grid-template-columns: minmax(0, 1fr) }
  .listing { position: static }
  #list { max-height: 15rem }
}
"""
CONTROLS = """
<form id='choose'>
<label class='broad'>show<select id='mode'></select></label>
<label>%s<select id='block'></select></label>
<label>%s<select id='arm'></select></label>
<label>seed<select id='seed'></select></label>
<label>evaluation<select id='evaluation'></select></label>
<label>outcome<select id='outcome'></select></label>
<label class='broad'>question contains<input type='search' id='search' autocomplete='off'></label>
<label class='check broad'><input type='checkbox' id='beside' checked> all arms side by side</label>
</form>
<div class='explorer'>
<section class='listing' aria-label='questions'>
<p id='count' class='quiet' role='status'></p>
<ol id='list'></ol>
<div class='turn'><button type='button' id='earlier'>earlier</button>
<button type='button' id='later'>later</button><span id='pages'></span></div>
</section>
<main><div class='turn'><button type='button' id='before'>previous question</button>
<button type='button' id='next'>next question</button></div>
<div id='panel'></div></main>
</div>
<output id='readout' aria-live='polite'></output>
<noscript><p>The answers are chosen by a script, which this browser does not run.
They are in questions.parquet of an export, and in eval/ of each run.</p></noscript>
"""


def answers_page(study: Study, name: str) -> str | None:
    """The page; None where no run has an answer or a shown completion.

    Args:
        study: with its answers; training completions come from the run folders, where they are there.
        name: of the sweep.
    """
    made = answers_data(study)
    if made is None:
        return None
    title = f"<h1>Answers of {html.escape(name)}</h1>"
    head = f"{title}<p class='quiet'><a href='report.html'>report</a> · {html.escape(_held(made))}</p>"
    blocks = [
        f"<script type='text/plain' id='{place}'>{packed}</script>" for place, packed in made.blocks.items()
    ]
    index = f"<script type='application/json' id='index'>{_json(made.index)}</script>"
    scripts = [(HERE / f"{file}.js").read_text() for file in ("tokens", "answers")]
    code = "".join(f"<script>{script}</script>" for script in scripts)
    names = (", ".join(study.design.others), study.design.axis)
    controls = CONTROLS % tuple(html.escape(part) for part in names)
    body = "\n".join([head, controls, index, *blocks, code])
    style = STYLE + TOKENS_STYLE + ANSWERS_STYLE
    return document(f"{name}: answers", body, style, policy(*scripts))


def policy(*scripts: str) -> str:
    """What a browser may do for a page with these scripts: run them, and load nothing."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}"


def _json(value: object) -> str:
    # Nothing that a question says can end the script element that it stands in.
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _held(made: Pages) -> str:
    """What the page holds, and what it leaves out."""
    questions, runs = len(made.index["questions"]["uid"]), made.index["runs"]
    evaluations = ("no", "last", "first and last")[max(len(run["evaluations"]) for run in runs)]
    held = [f"{len(runs)} run{'s' if len(runs) > 1 else ''}, {evaluations} evaluation"]
    if made.full < questions:
        most = f"{MOST_BYTES // 10**6} MB"
        held.append(
            f"texts of the first {made.full:,} of {questions:,} questions (the page ends at {most} of texts; "
            "verdicts and lengths are of all)"
        )
    held.append(f"answers beyond {LONGEST:,} characters without their middle")
    if rows := made.index["shown"]["rows"]:
        held.append(
            f"token weights of {len(rows):,} training completions, at most {SHOWN_STEPS} steps of a run"
        )
    else:
        held.append("no token weights: the run folders are not here, or the runs had shown_completions at 0")
    return "; ".join(held) + "."


def link(uid: str, seed: int | None = None) -> str:
    """The address of a question, as an attribute's value."""
    chosen = {} if seed is None else {"seed": str(seed)}
    return html.escape(f"{NAME}#{urlencode({**chosen, 'question': uid})}")
