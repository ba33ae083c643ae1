"""Random-weight models of several architectures, and a ragged rollout for them."""

import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from completions import completion_of
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.words import word_tokenizer
from mirrorpo.rollout.collate import collate

VOCABULARY, PAD, EOS = 40, 0, 1
# One head of keys and values for two of queries; rows of logits that differ enough to tell tokens apart.
TINY: Mapping[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
}
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "initializer_range": 0.4,
}
ARCHITECTURES: Mapping[str, dict[str, Any]] = {
    "llama": SMALL,
    "qwen3": SMALL | {"head_dim": 8},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "initializer_range": 0.4},
}


def network_of(
    model_type: str,
    seed: int = 0,
    *,
    attention: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    **settings: Any,
) -> PreTrainedModel:
    """A random network in eval mode, of a shape that the settings give."""
    special = {"eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": None}
    config = AutoConfig.for_model(model_type, **(special | settings))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    return network.eval()


def model_of(
    network: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase | None = None,
    eos_ids: frozenset[int] = frozenset({EOS}),
    pad_id: int = PAD,
) -> LanguageModel:
    """A network as the policy, in its own precision; without a tokenizer it has one that knows four words."""
    return LanguageModel(
        network=network,
        tokenizer=word_tokenizer(["a b c d"]) if tokenizer is None else tokenizer,
        eos_ids=eos_ids,
        pad_id=pad_id,
        # That is without autocast; a network in float64 computes in float64.
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


@cache
def model(kind: str, attention: str = "sdpa", windowed: bool = False, **settings: Any) -> LanguageModel:
    if windowed:
        settings = {
            "use_sliding_window": True,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention"],
        }
    shape = ARCHITECTURES[kind] | {"vocab_size": VOCABULARY}
    return model_of(network_of(kind, attention=attention, **shape, **settings))


def rollout() -> RolloutBatch:
    # Prompts of three lengths, one of them asked in two groups; pads and ends of sequence inside prompts and
    # answers.
    draw = random.Random(0)
    prompts = [[5, PAD, 7], [9] * 8, [4, EOS, 3, 12, 6]]
    completions = []
    for group, prompt, lengths in [(3, 0, (9, 2)), (0, 1, (14, 14, 5)), (7, 2, (11,)), (8, 0, (6, 9))]:
        for length in lengths:
            ids = [draw.randrange(VOCABULARY) for _ in range(length)]
            completions.append(completion_of(ids, group=group, prompt_ids=prompts[prompt]))
    return collate(completions, [0.0] * len(completions), pad_id=PAD, mask_truncated=False)


TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)


def write_qwen3(path: Path) -> Path:
    """A Qwen3 of small width with random weights and a byte-level tokenizer, as a folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    letters = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(letters, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.chat_template = TEMPLATE
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        intermediate_size=64,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Qwen3ForCausalLM(config)
    network.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    network.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
