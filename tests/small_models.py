"""Random-weight models of several architectures, and a ragged rollout for them."""

import random
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from completions import completion_of
from transformers import AutoConfig, AutoModelForCausalLM

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.rollout.collate import collate

VOCABULARY, PAD, EOS = 40, 0, 1
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


@cache
def model(kind: str, attention: str = "sdpa", windowed: bool = False, **settings: Any) -> LanguageModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if windowed:
            settings = {
                "use_sliding_window": True,
                "sliding_window": 4,
                "layer_types": ["sliding_attention", "full_attention"],
            }
        config = AutoConfig.for_model(
            kind,
            **ARCHITECTURES[kind],
            vocab_size=VOCABULARY,
            eos_token_id=EOS,
            pad_token_id=PAD,
            bos_token_id=None,
            **settings,
        )
        network = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=attention
        ).eval()
    return LanguageModel(
        network=network,
        tokenizer=None,
        eos_ids=frozenset({EOS}),
        pad_id=PAD,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


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
