"""Is a span's importance what it does to success? Drops against re-rolled success rates, of a run's policy.

    python -m mirrorpo.tools.span_value RUN --completions 64 --rolls 8

For spans of some completions of the policy (of the start model with --start), it writes to
RUN/credit_truth.jsonl (credit_truth_start.jsonl) what hiding the span does to the answer's and to all later
log-probability, and to the answer's when it is hidden from the answer alone, and the
success rate of continuations sampled from before the span and from behind it. Their difference is the
span's causal effect on the reward (the advantage of VinePPO, Kazemnejad et al. 2024,
https://arxiv.org/abs/2410.01679, section 4).
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from rich.progress import track

from mirrorpo.config.paths import command
from mirrorpo.config.renamed import upgraded
from mirrorpo.config.settings import UpdateSettings
from mirrorpo.core.batch import Completion, Prompt, RolloutBatch, RolloutRequest
from mirrorpo.core.cut import Cut, Masking
from mirrorpo.core.protocols import Config, Scorer
from mirrorpo.core.seeds import derive
from mirrorpo.core.span import Span
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.rollout.collate import collate
from mirrorpo.rollout.reroll import Beginning, Rerolls
from mirrorpo.run import checkpoint
from mirrorpo.run.folder import RunFolder
from mirrorpo.train.build import Components, build_components
from mirrorpo.train.loaded import corpus_of, render
from mirrorpo.train.old_policy import policy_scorer
from mirrorpo.train.questions import load_questions
from mirrorpo.weighting.reasoning import regions
from mirrorpo.weighting.spans import Arithmetic, Scaffolding

# What is scored, and from what a span is hidden.
READINGS: Mapping[str, tuple[str, Masking]] = {
    "answer": ("answer", "pad"),
    "downstream": ("downstream", "pad"),
    "direct": ("answer", "direct"),
}
KINDS = Arithmetic(max_spans=10, min_tokens=1, max_tokens=50, max_backslashes=0.3, unit_words=3)


def measure(
    components: Components,
    config: Config,
    policy: LanguageModel,
    *,
    completions: int,
    rolls: int,
    seed: int,
) -> list[dict[str, object]]:
    """One row a span: its kind, place and size, the drops, and the success rates before and behind it."""
    prompts = list(components.dataset.load("train"))[:completions]
    ids = [list(render(components, policy, prompt).ids) for prompt in prompts]
    request = RolloutRequest(
        prompts=prompts,
        prompt_ids=ids,
        group_size=1,
        seed=derive(seed, "evaluation", "truth"),
        max_new_tokens=config["max_new_tokens"],
        temperature=config["temperature"],
    )
    answers = components.eval_rollout.generate(policy, request)
    verdicts = components.reward([answer.text for answer in answers], prompts)
    rewards = [verdict.reward for verdict in verdicts]
    batch = collate(answers, rewards, pad_id=policy.pad_id, mask_truncated=False)
    spans = _spans(policy, answers)
    scorer = policy_scorer(policy, UpdateSettings.of(config))
    drops = {name: _drops(scorer, batch, spans, *reading) for name, reading in READINGS.items()}
    reroll = _rerolls(components, config, rolls)
    rows: list[dict[str, object]] = []
    scored_rows = sorted({row for row, _, _ in spans})
    for row in track(scored_rows, description="re-rolling", disable=not sys.stderr.isatty()):
        of_row = [(index, span) for index, (owner, span, _) in enumerate(spans) if owner == row]
        beginnings = _beginnings(prompts[row], ids[row], answers[row], [span for _, span in of_row])
        rolled = reroll(policy, beginnings, derive(seed, "sampling", "truth", row))
        rates = [_success_rate(rewards) for rewards in rolled.rewards]
        about = {"uid": prompts[row].uid, "right": rewards[row] == 1.0}
        rows += [about | span_row for span_row in _rows(of_row, drops, rates)]
    return rows


def _rerolls(components: Components, config: Config, rolls: int) -> Rerolls:
    return Rerolls(
        engine=components.eval_rollout,
        judge=components.reward,
        max_new_tokens=config["max_new_tokens"],
        temperature=config["temperature"],
        rolls=rolls,
    )


def _beginnings(
    prompt: Prompt, prompt_ids: Sequence[int], answer: Completion, spans: Sequence[Span]
) -> list[Beginning]:
    # What stands before each span, and with it.
    return [
        Beginning(prompt=prompt, prompt_ids=prompt_ids, ids=answer.ids[:end])
        for span in spans
        for end in (span.start, span.end)
    ]


def _success_rate(rewards: Sequence[float]) -> float:
    # No verdict counts as no success.
    return sum(reward if reward == reward else 0.0 for reward in rewards) / len(rewards)


def _rows(
    spans: Sequence[tuple[int, Span]], drops: Mapping[str, Sequence[float]], rates: Sequence[float]
) -> Iterator[dict[str, object]]:
    # Of one completion, with the success rates before and behind each span.
    counts: Counter[str] = Counter()
    last = {span.kind: index for index, span in spans}
    for number, (index, span) in enumerate(spans):
        counts[span.kind] += 1
        yield {
            "kind": span.kind,
            "position": counts[span.kind],
            "last": last[span.kind] == index,
            "tokens": span.end - span.start,
            **{name: row_drops[index] for name, row_drops in drops.items()},
            "before": rates[2 * number],
            "after": rates[2 * number + 1],
        }


def _spans(policy: LanguageModel, drawn: Sequence[Completion]) -> list[tuple[int, Span, tuple[int, int]]]:
    # Calculations and the words around them, of completions that mark an answer, with where the answer is
    # read.
    out: list[tuple[int, Span, tuple[int, int]]] = []
    for row, completion in enumerate(drawn):
        token_offsets = policy.with_offsets(completion.ids)
        bounds = regions(token_offsets)
        if bounds is not None:
            row_spans = [*KINDS(token_offsets), *Scaffolding(around=KINDS, min_tokens=2)(token_offsets)]
            out += [
                (row, span, (bounds.reasoned + 1, bounds.length))
                for span in sorted(row_spans, key=lambda span: span.start)
            ]
    return out


def _drops(
    scorer: Scorer,
    batch: RolloutBatch,
    spans: Sequence[tuple[int, Span, tuple[int, int]]],
    target: str,
    masking: Masking,
) -> list[float]:
    cuts = [
        Cut(
            row=row,
            start=span.start,
            end=span.end,
            first=first if target == "answer" else span.end,
            last=length,
        )
        for row, span, (first, length) in spans
    ]
    before, after = scorer.cut(batch, cuts, masking)
    return [
        float((before[cut.row] - after[index])[cut.first : cut.last].double().sum())
        for index, cut in enumerate(cuts)
    ]


def main() -> None:
    """Measure one run."""
    parser = argparse.ArgumentParser(
        prog=command("mirrorpo.tools.span_value"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument(
        "--completions",
        type=int,
        default=64,
        help="how many completions, one each of the first training questions",
    )
    parser.add_argument("--rolls", type=int, default=8, help="continuations from each place")
    parser.add_argument("--start", action="store_true", help="the start model in place of the run's policy")
    args = parser.parse_args()
    folder = RunFolder(args.run)
    config = upgraded(folder.manifest().get("config") or {})
    newest = checkpoint.newest(folder.checkpoints)
    if not config or not (args.start or newest):
        sys.exit(
            f"error: {args.run} is no finished run: it has no manifest.json with a config, or no checkpoint "
            f"(--start needs none)"
        )
    torch.set_num_threads(config["threads"])
    components = build_components(config)
    policy = components.model.load(
        torch.device("cpu"), config["seed"], lambda: corpus_of(load_questions(components))
    )
    if newest and not args.start:
        # As a resumed run does, so that adapters and models from scratch are what was trained.
        policy.network.load_state_dict(newest["weights"], strict=False)
    rows = measure(
        components, config, policy, completions=args.completions, rolls=args.rolls, seed=config["seed"]
    )
    path = args.run / ("credit_truth_start.jsonl" if args.start else "credit_truth.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(path)


if __name__ == "__main__":
    main()
