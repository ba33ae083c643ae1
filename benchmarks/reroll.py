"""What re-rolls cost: a pass of a completion for all its cuts, a pass for each cut, a pass for each roll.

    python benchmarks/reroll.py --completions 32 --cuts 4 --rolls 4 --rounds 3

Completions of a start model are cut evenly and rolled from every cut by the native sampler in three forms, in
turns: `shared`, the cuts of a completion read off one pass of it; `of a cut`, each beginning computed once
for its rolls; `naive`, once for every roll. Printed are processor seconds (the least of the rounds) and
arithmetic (by count, of the same tokens), as shares of `naive`, and whether the first two draw the same
tokens.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from hydra import compose, initialize_config_dir

from mirrorpo.config.paths import conf
from mirrorpo.config.schema import register, resolved
from mirrorpo.core.batch import Completion, RolloutRequest
from mirrorpo.core.protocols import RolloutEngine
from mirrorpo.model.cost import network_cost, sampling
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.train.build import Components, build_components
from mirrorpo.train.loaded import render

FORMS = ("shared", "of a cut", "naive")


def start(name: str) -> tuple[Components, LanguageModel]:
    """A start model and its world."""
    register()
    with initialize_config_dir(str(conf()), version_base="1.3"):
        components = build_components(resolved(compose("train", overrides=[f"model={name}"])))
    train = components.dataset.load("train")
    corpus = (text for prompt in train for text in (prompt.question, prompt.demonstration))
    return components, components.model.load(torch.device("cpu"), 0, lambda: corpus)


def sampled(
    components: Components, model: LanguageModel, count: int
) -> tuple[RolloutRequest, list[Completion]]:
    """Completions of the first questions, and what was requested."""
    prompts = list(components.dataset.load("train"))[:count]
    request = RolloutRequest(
        prompts=prompts,
        prompt_ids=[render(components, model, prompt).ids for prompt in prompts],
        group_size=1,
        max_new_tokens=components.config["max_new_tokens"],
        temperature=1.0,
        seed=0,
    )
    return request, list(components.rollout.generate(model, request))


def beginnings(
    request: RolloutRequest, answers: Sequence[Completion], cuts: int, rolls: int
) -> RolloutRequest:
    """Rolls from evenly spread cuts of each completion."""
    rows = [
        (answer.group, cut)
        for answer in answers
        for cut in sorted({len(answer.ids) * index // (cuts + 1) for index in range(1, cuts + 1)} - {0})
    ]
    return replace(
        request,
        prompts=[request.prompts[row] for row, _ in rows],
        prompt_ids=[[*request.prompt_ids[row], *answers[row].ids[:cut]] for row, cut in rows],
        group_size=rolls,
        seeds=list(range(len(rows))),
        nested=True,
    )


def forms(shared: RolloutRequest) -> dict[str, RolloutRequest]:
    """The same rolls in three forms."""
    rolls, numbers = shared.group_size, range(len(shared.prompts))
    every = [number for number in numbers for _ in range(rolls)]
    naive = replace(
        shared,
        prompts=[shared.prompts[number] for number in every],
        prompt_ids=[shared.prompt_ids[number] for number in every],
        group_size=1,
        seeds=list(range(len(every))),
        nested=False,
    )
    return dict(zip(FORMS, (shared, replace(shared, nested=False), naive), strict=True))


def seconds(
    engine: RolloutEngine, model: LanguageModel, requests: dict[str, RolloutRequest], rounds: int
) -> tuple[dict[str, float], dict[str, Sequence[Completion]]]:
    """Processor seconds of each form, the least of the rounds, and what it drew."""
    least = dict.fromkeys(FORMS, float("inf"))
    drawn: dict[str, Sequence[Completion]] = {}
    for turn in range(rounds):
        for name in (*FORMS[turn % 3 :], *FORMS[: turn % 3]):
            begin = time.process_time()
            drawn[name] = engine.generate(model, requests[name])
            least[name] = min(least[name], time.process_time() - begin)
    return least, drawn


def mean_length(rows: Sequence[Sequence[int]]) -> float:
    """Tokens of a row."""
    return sum(map(len, rows)) / len(rows)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny")
    for name, default in (("completions", 32), ("cuts", 4), ("rolls", 4), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    components, model = start(args.model)
    request, answers = sampled(components, model, args.completions)
    requests = forms(beginnings(request, answers, args.cuts, args.rolls))
    least, drawn = seconds(components.rollout, model, requests, args.rounds)
    of_cut, cost = drawn["of a cut"], network_cost(model)
    apart = [replace(completion, group=number) for number, completion in enumerate(of_cut)]
    flops = {
        "shared": cost.forward(sampling(of_cut, nested=True)),
        "of a cut": cost.forward(sampling(of_cut)),
        "naive": cost.forward(sampling(apart)),
    }
    prompt, begun = (mean_length(each.prompt_ids) for each in (request, requests["shared"]))
    rolled = mean_length([completion.ids for completion in of_cut])
    print(f"{args.model}: prompts {prompt:.0f} tokens, with beginnings {begun:.0f}, rolls {rolled:.0f}")
    for name in FORMS:
        shares = (least[name] / least["naive"], flops[name] / flops["naive"])
        print(f"{name:>9} {least[name]:7.2f} s {shares[0]:5.2f} {flops[name]:11.3g} flops {shares[1]:5.2f}")
    print(f"the same tokens: {[c.ids for c in drawn['shared']] == [c.ids for c in of_cut]}")


if __name__ == "__main__":
    main()
