"""How strong a divergence's penalty is beside the policy term, at a policy that has been trained.

    python benchmarks/penalty.py outputs/single/<cell>/seed=0 --divergence kl,probl2,neural_mirror

Samples one rollout from the run's final policy and prints, for each divergence at its configured beta:
the penalty per token, the mean size of the advantage per token, and the norm of the penalty's gradient
over that of the policy term's (both before clipping, over all parameters).
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from mirrorpo.config.schema import register
from mirrorpo.config.settings import UpdateSettings
from mirrorpo.rollout.collate import collate
from mirrorpo.rollout.collector import Collector
from mirrorpo.rollout.prompt_order import DataOrder
from mirrorpo.train.build import Components, build_components
from mirrorpo.train.learner import Learner, TokenCredit

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Print one row a divergence."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("run", type=Path, help="folder of a finished run")
    arguments.add_argument(
        "--divergence", default="kl,kl_exact,probl2,probl2_exact,neural_mirror,neural_mirror_exact"
    )
    asked = arguments.parse_args()
    config = json.loads((asked.run / "manifest.json").read_text())["config"]
    torch.set_num_threads(config["threads"])
    register()
    print(
        "| divergence | beta | penalty a token | mean abs advantage | |gradient of penalty| / |gradient of "
        "policy term| "
        "|\n|---|---|---|---|---|"
    )
    for name in asked.divergence.split(","):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            chosen = OmegaConf.to_container(
                compose("train", overrides=[f"divergence={name}"]).divergence, resolve=True
            )
        components = build_components({**config, "divergence": chosen})
        print(
            f"| {name} | {components.penalty.beta:g} | "
            + " | ".join(f"{value:.3g}" for value in strength(components, config, asked.run))
            + " |",
            flush=True,
        )


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


def strength(components: Components, config: dict, run: Path) -> tuple[float, float, float]:
    """Penalty a token, mean absolute advantage, ratio of gradient norms."""
    device = torch.device("cpu")
    start = components.model.load(device, config["seed"], lambda: iter(()))
    policy = replace(components.model, path=str(run / "policy"), lora=None).load(
        device, config["seed"], lambda: iter(())
    )  # type: ignore[type-var]
    train, data = components.dataset.load("train"), components.dataset

    def render(prompt):
        rendered = components.model.prompt(
            policy.tokenizer, system=data.system, user=data.user, question=prompt.question
        )
        return rendered.text, rendered.ids

    wanted = ("prompts_per_step", "group_size", "max_new_tokens", "temperature", "seed")
    order = DataOrder(size=len(train), seed=config["seed"], order=config["data_order"])
    collector = Collector(
        engine=components.rollout,
        reward=components.reward,
        rule=components.algo.rollout_rule,
        render=render,
        prompts=train,
        order=order,
        **{k: config[k] for k in wanted},
    )
    answers = collector(policy, 1, 0).answers
    batch = collate(
        [a.completion for a in answers],
        [a.reward for a in answers],
        pad_id=policy.pad_id,
        mask_truncated=False,
    )
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
    scored = learner.rescore(batch)
    advantages = components.algo.advantage(batch.rewards, batch.group)
    weights = batch.mask.float()
    of_penalty = learner.learn(
        scored, TokenCredit(advantages=torch.zeros_like(advantages), weights=weights), [0.0]
    )
    value, penalty = of_penalty["divergence/value"], of_penalty["grad/norm"]
    free = replace(learner, penalty=replace(components.penalty, beta=0.0))
    term = free.learn(scored, TokenCredit(advantages=advantages, weights=weights), [0.0])["grad/norm"]
    size = float((advantages.abs()[:, None] * batch.mask).sum() / batch.mask.sum())
    return components.penalty.beta * value, size, penalty / term


if __name__ == "__main__":
    main()
