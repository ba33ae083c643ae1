"""A small random policy that vLLM's CPU kernels take, and what sampling from it needs."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from mirrorpo.core.batch import Completion, Prompt
from mirrorpo.core.protocols import RolloutEngine
from mirrorpo.model.forward import per_token, read_completions
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import finish
from mirrorpo.model.words import word_tokenizer
from mirrorpo.rollout.collate import collate

RAGGED = [[5, 6, 7, 8, 9], [4], [11, 3, 8], [7, 7]]
LENGTH = 12


def policy(seed: int = 0, tied: bool = False) -> LanguageModel:
    tokenizer = word_tokenizer(["a b c d"])
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 32}
    special = {"vocab_size": len(tokenizer), "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}
    config = AutoConfig.for_model("qwen3", **shape, **special, max_position_embeddings=64, initializer_range=0.4, tie_word_embeddings=tied)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="sdpa").eval()
    return finish(network, tokenizer, dtype=torch.float32, device=torch.device("cpu"), checkpointing=False)


def sample(
    engine: RolloutEngine,
    model: LanguageModel,
    prompt_ids: Sequence[Sequence[int]] = RAGGED,
    *,
    group_size: int = 3,
    max_new_tokens: int = LENGTH,
    temperature: float = 1.0,
    seed: int = 0,
) -> Sequence[Completion]:
    prompts = [Prompt(uid=f"question/{i}", question="", gold="", demonstration="") for i in range(len(prompt_ids))]
    return engine.generate(model, prompts, prompt_ids, group_size=group_size, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)


def ids(completions: Sequence[Completion]) -> list[list[int]]:
    return [list(completion.ids) for completion in completions]


def next_probabilities(model: LanguageModel, context: Sequence[int], temperature: float = 1.0) -> Tensor:
    """The exact distribution of the token after `context`."""
    with torch.no_grad():
        return torch.softmax(model.network(input_ids=torch.tensor([list(context)])).logits[0, -1].double() / temperature, dim=0)


def gap(model: LanguageModel, completions: Sequence[Completion], temperature: float = 1.0) -> float:
    """Largest difference between the engine's log-probabilities and the trainer's own."""
    batch = collate(completions, [0.0] * len(completions), pad_id=model.pad_id, mask_truncated=False)
    with torch.no_grad():
        readings, _ = read_completions(model, batch, temperature=temperature, tile=64)
    return float((per_token(readings.logprobs, batch) - batch.sampler_logprobs)[batch.present].abs().max())
