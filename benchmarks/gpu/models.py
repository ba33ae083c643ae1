"""Models of random weights, batches of random tokens, and learners around them; no file is read for them."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from hydra import compose, initialize_config_dir
from torch.optim.optimizer import StateDict
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from words import words

from mirrorpo.config import paths
from mirrorpo.config.schema import register, resolved
from mirrorpo.config.settings import UpdateSettings
from mirrorpo.core.batch import Completion, Prompt, RolloutBatch, RolloutRequest
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import Scratch, finish, reference
from mirrorpo.model.prompt import PlainPrompt
from mirrorpo.model.words import word_tokenizer
from mirrorpo.rollout.collate import collate
from mirrorpo.train.build import Components, build_components
from mirrorpo.train.credit import TokenCredit
from mirrorpo.train.learner import Learner, ScoredBatch

# Small enough for a CPU in milliseconds; every matrix has sizes of its own.
SMALL: Mapping[str, object] = {
    "model_type": "qwen3",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 160,
    "tie_word_embeddings": True,
    "max_position_embeddings": 256,
    # Logits that tell tokens apart.
    "initializer_range": 0.1,
}
SMALL_VOCABULARY = 300
# Ids below it have a meaning in the tokenizers made here.
FIRST_ID = 13


@dataclass(frozen=True, kw_only=True, slots=True)
class Width:
    """The sizes of a Qwen3.

    Attributes:
        name: in the table.
        hidden: width of the residual stream.
        layers: how many.
        heads: of queries.
        key_value_heads: of keys and values.
        head_dim: width of a head.
        intermediate: width of the feed-forward part.
        vocabulary: ids.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int

    def with_(self, *, layers: int | None = None, vocabulary: int | None = None) -> "Width":
        """The same width with fewer layers or ids."""
        return replace(self, layers=layers or self.layers, vocabulary=vocabulary or self.vocabulary)

    @property
    def per_layer(self) -> int:
        """Weights of a layer's matrices."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.key_value_heads)
        return attention + 3 * self.hidden * self.intermediate

    @property
    def multiplied(self) -> int:
        """Weights that a token is multiplied with: the matrices of the layers, and the head."""
        return self.layers * self.per_layer + self.hidden * self.vocabulary

    def config(self, **special: object) -> Any:
        """The `transformers` configuration."""
        return AutoConfig.for_model(
            "qwen3",
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_value_heads,
            head_dim=self.head_dim,
            intermediate_size=self.intermediate,
            vocab_size=self.vocabulary,
            tie_word_embeddings=True,
            max_position_embeddings=4096,
            **special,
        )


# The true sizes, and what stands for them on a CPU.
QWEN_06B = Width(
    name="0.6B", hidden=1024, layers=28, heads=16, key_value_heads=8, head_dim=128, intermediate=3072,
    vocabulary=151_936,
)  # fmt: skip
QWEN_17B = replace(QWEN_06B, name="1.7B", hidden=2048, intermediate=6144)
CUT = Width(
    name="cut", hidden=128, layers=2, heads=4, key_value_heads=2, head_dim=32, intermediate=384,
    vocabulary=8_192,
)  # fmt: skip


def small(device: torch.device, seed: int = 0, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A small Qwen3 of random weights, drawn on the CPU, so that they are the same on every device."""
    spec = Scratch(architecture=SMALL, prompt=PlainPrompt(instruct=False))
    model = spec.load(device, seed, lambda: words(SMALL_VOCABULARY - FIRST_ID))
    return replace(model, dtype=dtype)


def wide(
    width: Width, device: torch.device, dtype: torch.dtype, *, checkpointing: bool = False
) -> LanguageModel:
    """A Qwen3 of these sizes with random weights, drawn where they will be."""
    tokenizer = word_tokenizer(["a b c d"])
    special = {
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    torch.manual_seed(0)
    with torch.device(device):
        network = cast(
            PreTrainedModel,
            AutoModelForCausalLM.from_config(
                width.config(**special), dtype=torch.float32, attn_implementation="sdpa"
            ),
        )
    return finish(network, tokenizer, dtype=dtype, device=device, checkpointing=checkpointing)


def components(*overrides: str) -> Components:
    """The parts of an arithmetic cell with some settings."""
    register()
    with initialize_config_dir(str(paths.conf()), version_base="1.3"):
        cell = compose("train", overrides=["tracking=none", *overrides])
    return build_components(resolved(cell))


def names(group: str) -> list[str]:
    """The files of a config group."""
    return sorted(path.stem for path in (paths.conf() / group).glob("*.yaml"))


@dataclass(slots=True)
class Kept:
    """Stands for an optimiser: keeps the gradient of each update and moves nothing.

    Attributes:
        network: whose gradients are kept.
        gradient: of the last update, flat, on the CPU.
    """

    network: torch.nn.Module
    gradient: torch.Tensor | None = None

    def step(self, lr: float) -> None:
        """Keep the gradient."""
        gradients = [p.grad.flatten() for p in self.network.parameters() if p.grad is not None]
        self.gradient = torch.cat(gradients).float().cpu()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self.network.zero_grad(set_to_none=True)

    def state_dict(self) -> StateDict:
        """Nothing."""
        return {}

    def load_state_dict(self, state: StateDict) -> None:
        """Nothing."""


def learner(
    policy: LanguageModel,
    parts: Components,
    *,
    start: LanguageModel | None = None,
    optimiser: Any = None,
    **settings: object,
) -> Learner:
    """A learner of some parts on a policy.

    Args:
        policy: that is trained.
        parts: algorithm, divergence, weighting.
        start: the reference, if the divergence reads one; None is a copy of the policy.
        optimiser: None is the parts' own.
        settings: of the update that differ from the parts'.
    """
    read = parts.penalty.reads_reference
    return Learner(
        policy=policy,
        reference=(start or reference(policy)) if read else None,
        optimiser=parts.optim.build(policy.network) if optimiser is None else optimiser,
        algo=parts.algo,
        penalty=parts.penalty,
        weighting=parts.weighting,
        settings=replace(UpdateSettings.of(parts.config), **settings),
    )


def batch_of(
    vocabulary: int, prompts: int, group: int, depth: int, length: int, *, pad_id: int, ragged: bool = False
) -> RolloutBatch:
    """Groups of completions of random tokens, every second one right.

    Args:
        vocabulary: ids are below it.
        prompts: how many.
        group: completions of a prompt.
        depth: tokens of a prompt.
        length: tokens of a completion, or their mean.
        pad_id: of the model.
        ragged: lengths from 0.3 to 1.7 times the mean.
    """
    draw, rows = random.Random(0), []

    def some(mean: int) -> list[int]:
        count = draw.randint(round(0.3 * mean), round(1.7 * mean)) if ragged else mean
        return [draw.randrange(FIRST_ID, vocabulary) for _ in range(max(count, 1))]

    for prompt in range(prompts):
        prompt_ids = some(depth)
        for _ in range(group):
            ids = some(length)
            logprobs = [-draw.random() for _ in ids]
            rows.append(
                Completion(
                    uid="", group=prompt, prompt_ids=prompt_ids, ids=ids, logprobs=logprobs, text="",
                    truncated=False,
                )
            )  # fmt: skip
    rewards = [float(index % 2) for index in range(len(rows))]
    return collate(rows, rewards, pad_id=pad_id, mask_truncated=False)


def request_of(
    vocabulary: int, prompts: int, group: int, depth: int, length: int, temperature: float = 1.0
) -> RolloutRequest:
    """What an engine is asked for, with prompts of random tokens."""
    draw = random.Random(0)
    return RolloutRequest(
        prompts=[Prompt(uid=str(index), question="", gold="", demonstration="") for index in range(prompts)],
        prompt_ids=[[draw.randrange(FIRST_ID, vocabulary) for _ in range(depth)] for _ in range(prompts)],
        group_size=group,
        max_new_tokens=length,
        temperature=temperature,
        seed=0,
    )


def credit_of(subject: Learner, scored: ScoredBatch) -> TokenCredit:
    """Advantages of the algorithm, and weights of one."""
    batch = scored.batch
    return TokenCredit(advantages=subject.algo.advantages(batch), weights=batch.mask.float())


def update(subject: Learner, batch: RolloutBatch, lrs: Sequence[float] = (1e-6,)) -> dict[str, float]:
    """Rescoring and learning, as a step does them."""
    scored = subject.rescore(batch)
    return subject.learn(scored, credit_of(subject, scored), list(lrs))
