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

from mirrorpo.config.schema import register
from mirrorpo.config.settings import UpdateSettings
from mirrorpo.core.batch import Prompt, RolloutBatch
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.rollout.collate import collate
from mirrorpo.rollout.collector import Collector
from mirrorpo.rollout.prompt_order import DataOrder
from mirrorpo.train.build import Components, build_components
from mirrorpo.train.credit import TokenCredit
from mirrorpo.train.learner import Learner

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
        print(f"| {name} | {components.penalty.beta:g} | {values} |", flush=True)


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
    learner = Learner(
        policy=policy,
        reference=start,
        optimiser=Unmoved(policy.network),
        algo=components.algo,
        penalty=components.penalty,
        weighting=components.weighting,
        settings=replace(
            UpdateSettings.of(config), updates_per_rollout=1, update_window="whole", max_grad_norm=0.0
        ),
    )
    scored = learner.rescore(rollout(components, config, policy))
    mask, weights = scored.batch.mask, scored.batch.mask.float()
    advantages = components.algo.advantages(scored.batch)
    none = TokenCredit(advantages=torch.zeros_like(advantages), weights=weights)
    of_penalty = learner.learn(scored, none, [0.0])
    free = replace(learner, penalty=replace(components.penalty, beta=0.0))
    of_policy = free.learn(scored, TokenCredit(advantages=advantages, weights=weights), [0.0])
    size = float((advantages.abs()[:, None] * mask).sum() / mask.sum())
    value = components.penalty.beta * of_penalty["divergence/value"]
    return value, size, of_penalty["grad/norm"] / of_policy["grad/norm"]


class Unmoved:
    """An optimiser that leaves the policy as it is."""

    def __init__(self, network: torch.nn.Module) -> None:
        self._network = network

    def step(self, lr: float) -> None:
        """Nothing."""

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self._network.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


if __name__ == "__main__":
    main()
