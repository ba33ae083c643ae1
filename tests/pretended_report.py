"""What a step asks of a device, counted on the pretended one, in bfloat16 and with one decoder layer.

    python tests/pretended_report.py

The cost of one more token, micro-batch, update or compaction is the difference between two runs that differ
by it, so that it depends on no name in the package. The ceilings are in `test_pretended.py`.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from pretended import Tally, counting, pretended
from pretended_cells import LR, Arm, World, questions, run_cell, world, write_model

from mirrorpo.core.batch import Completion, RolloutRequest
from mirrorpo.rollout.native import Native
from mirrorpo.train.step import PhaseTimer

PHASES = ("rollout_s", "score_s", "update_s", "drift_s")
# No id: rows that end nowhere.
NEVER = frozenset({10**6})


def measured(folder: Path) -> Mapping[str, Tally]:
    """A tally for each unit of work; those of several units are divided."""
    with pretended() as device:
        lower = world(device).in_bfloat16()
        return {
            "a sampled token": sampled_token(lower),
            "a compaction": compaction(lower),
            "a micro-batch": micro_batch(lower),
            "an update of one micro-batch": update(lower),
            **phases_of_a_step(folder, device),
        }


def sample(
    world: World, tokens: int, ends: frozenset[int], compact_at: float
) -> tuple[Sequence[Completion], Tally]:
    """Four completions of so many tokens, and what they took."""
    prompts = questions()
    engine = Native(rows_at_once=8, compact_at=compact_at, check_every=1, cache_block=64, top_p=1.0)
    request = RolloutRequest(
        prompts=prompts,
        prompt_ids=[world.policy.tokenizer(prompt.question + "\n").input_ids for prompt in prompts],
        group_size=2,
        max_new_tokens=tokens,
        temperature=1.0,
        seed=5,
    )
    world.restore()
    with counting() as tally:
        completions = engine.generate(replace(world.policy, eos_ids=ends), request)
    return completions, tally


def sampled_token(world: World, more: int = 8) -> Tally:
    """One more token of a call, all rows together."""
    _, few = sample(world, 4, NEVER, 1.0)
    _, many = sample(world, 4 + more, NEVER, 1.0)
    return many.beyond(few).over(more)


def compaction(world: World) -> Tally:
    """Rows dropped once, on the way to as many tokens."""
    tokens = 16
    rows, _ = sample(world, tokens, NEVER, 1.0)
    ends = frozenset({_end_of_some([row.ids for row in rows])})
    _, kept = sample(world, tokens, ends, 1.0)
    _, dropped = sample(world, tokens, ends, 0.01)
    return dropped.beyond(kept)


def _end_of_some(rows: Sequence[Sequence[int]]) -> int:
    # A token at which some rows end together, early, and the others never do.
    for token in sorted({token for ids in rows for token in ids}):
        ends = [list(ids).index(token) if token in ids else None for ids in rows]
        reached = {end for end in ends if end is not None}
        if None in ends and len(reached) == 1 and max(reached) < len(rows[0]) - 4:
            return token
    raise AssertionError(f"no token ends some of these rows at one place: {rows}")


def learned(world: World, arm: Arm, tokens_per_micro_batch: int, updates: int) -> Tally:
    """What the updates of an arm take."""
    world.restore()
    learner = arm.learner(world)
    settings = replace(learner.settings, tokens_per_micro_batch=tokens_per_micro_batch)
    learner = replace(learner, settings=settings)
    scored = learner.rescore(world.batch)
    advantages = learner.algo.advantages(scored.batch)
    credit = learner.weigh(scored.batch, advantages, 7)
    with counting() as tally:
        learner.learn(scored, credit, [LR] * updates)
    return tally


def micro_batch(world: World) -> Tally:
    """One more micro-batch of the first update: the same rows by themselves and all together."""
    together, apart = (learned(world, Arm(), tokens, 1) for tokens in (10**6, 1))
    return apart.beyond(together).over(len(world.batch) - 1)


def update(world: World) -> Tally:
    """A second update on a rollout."""
    one, two = (learned(world, Arm(updates=2), 10**6, updates) for updates in (1, 2))
    return two.beyond(one)


def phases_of_a_step(folder: Path, device: torch.device) -> dict[str, Tally]:
    """The phases of the second step of a cell, and all of them."""
    tallies: list[tuple[str, Tally]] = []
    timed = PhaseTimer.__call__

    @contextmanager
    def counted(timer: PhaseTimer, phase: str) -> Iterator[None]:
        with counting() as tally, timed(timer, phase):
            yield
        tallies.append((phase, tally))

    with patch.object(PhaseTimer, "__call__", counted):
        model = write_model(folder / "model")
        run_cell(folder / "cell", [f"model.path={model}", "model.dtype=bfloat16"], device)
    phases = dict(tallies)
    assert set(phases) == set(PHASES), f"the phases of a step are other ones: {sorted(phases)}"
    step = Tally()
    for tally in phases.values():
        step.update(tally)
    return {f"a step: {phase.removesuffix('_s')}": tally for phase, tally in phases.items()} | {
        "a step": step
    }


def printed(name: str, tally: Tally, most: int = 12) -> str:
    """A unit of work with its lines, by kind."""
    lines = [f"\n{name}"]
    for kind in tally.kinds():
        lines.append(f"  {tally.of(kind):g} {kind}")
        owned = tally.lines(kind)
        lines += [f"    {count:8g}  {line}" for line, count in list(owned.items())[:most]]
        lines += [f"              and {len(owned) - most} lines more"] if len(owned) > most else []
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        for name, tally in measured(Path(root)).items():
            print(printed(name, tally))
