"""How strong a divergence's penalty is beside the policy term, at a policy that has been trained.

    python benchmarks/penalty.py outputs/single/<cell>/seed=0 --divergence kl,probl2,neural_mirror

Samples one rollout from the run's final policy and prints, for each divergence at its configured beta:
the penalty per token, the mean size of the advantage per token, and the norm of the penalty's gradient
over that of the policy term's (both before clipping, over all parameters).
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor

from mirrorpo.config.schema import register
from mirrorpo.core.batch import Prompt, RolloutBatch
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.rollout.collate import collate
from mirrorpo.rollout.collector import Collector
from mirrorpo.rollout.prompt_order import DataOrder
from mirrorpo.train.build import Components, build_components
from mirrorpo.train.learner import Learner
from mirrorpo.train.metrics import RunningMeans

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Print one row a divergence."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument(
        "--divergence", default="kl,kl_exact,probl2,probl2_exact,neural_mirror,neural_mirror_exact"
    )
    args = parser.parse_args()
    config = json.loads((args.run / "manifest.json").read_text())["config"]
    torch.set_num_threads(config["threads"])
    register()
    print(
        "| divergence | beta | penalty a token | mean abs advantage "
        "| |gradient of penalty| / |gradient of policy term| |\n|---|---|---|---|---|"
    )
    for name in args.divergence.split(","):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            chosen = OmegaConf.to_container(
                compose("train", overrides=[f"divergence={name}"]).divergence, resolve=True
            )
        components = build_components({**config, "divergence": chosen})
        values = " | ".join(f"{value:.3g}" for value in strength(components, config, args.run))
        print(f"| {name} | {components.divergence.beta:g} | {values} |", flush=True)


def rollout(components: Components, config: dict[str, Any], policy: LanguageModel) -> RolloutBatch:
    """One step's completions of the policy."""
    train, data = components.dataset.load("train"), components.dataset

    def render(prompt: Prompt) -> tuple[str, Sequence[int]]:
        rendered = components.model.prompt(
            policy.tokenizer, system=data.system, user=data.user, question=prompt.question
        )
        return rendered.text, rendered.ids

    settings = ("prompts_per_step", "group_size", "max_new_tokens", "temperature", "seed")
    collector = Collector(
        engine=components.rollout,
        reward=components.reward,
        rule=components.algo.rollout_rule,
        render=render,
        prompts=train,
        order=DataOrder(size=len(train), seed=config["seed"], order=config["data_order"]),
        **{name: config[name] for name in settings},
    )
    answers = collector(policy, 1, 0).answers
    return collate(
        [answer.completion for answer in answers],
        [answer.reward for answer in answers],
        pad_id=policy.pad_id,
        mask_truncated=False,
    )


def strength(components: Components, config: dict[str, Any], run: Path) -> tuple[float, float, float]:
    """Penalty a token, mean absolute advantage, ratio of gradient norms."""
    device, seed = torch.device("cpu"), config["seed"]
    start = components.model.load(device, seed, lambda: ())
    trained = replace(components.model, path=str(run / "policy"), lora=None)  # type: ignore[type-var]
    policy = trained.load(device, seed, lambda: ())
    settings = ("temperature", "logit_chunk", "tokens_per_micro_batch", "shared_prefix", "max_grad_norm")
    learner = Learner(
        policy=policy, reference=start, optimiser=components.optim.build(policy.network),
        algo=components.algo, divergence=components.divergence, weighting=components.weighting,
        updates_per_rollout=1, update_window="whole", **{name: config[name] for name in settings},
    )  # fmt: skip
    batch, anchor_head = learner.rescore(rollout(components, config, policy))
    advantages = components.algo.advantage(batch.rewards, batch.group)

    def gradient(learner: Learner, advantages: Tensor) -> tuple[float, float]:
        means, rows, weights = RunningMeans(), torch.arange(len(batch)), batch.mask.float()
        everything = torch.ones_like(rows, dtype=torch.bool)
        learner._accumulate(batch, rows, everything, advantages, weights, anchor_head, means, first=True)
        gradients = (parameter.grad for parameter in policy.network.parameters() if parameter.requires_grad)
        norm = float(torch.stack([grad.norm() for grad in gradients if grad is not None]).norm())
        learner.optimiser.zero_grad()
        return norm, means.read()["divergence/value"]

    penalty, value = gradient(learner, torch.zeros_like(advantages))
    term, _ = gradient(replace(learner, divergence=components.divergence_at(0.0)), advantages)
    size = float((advantages.abs()[:, None] * batch.mask).sum() / batch.mask.sum())
    return components.divergence.beta * value, size, penalty / term


if __name__ == "__main__":
    main()
