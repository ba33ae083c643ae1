"""A causal language model with what the rest needs to know of it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mirrorpo.core.network import Adapted, CausalLM, Saveable, Tokenizer
from mirrorpo.core.token_offsets import TokenOffsets
from mirrorpo.distributed.fsdp import Unsharded
from mirrorpo.model.compiled import compiling
from mirrorpo.model.head import Head
from mirrorpo.model.modes import evaluating
from mirrorpo.model.offsets import OffsetFinder
from mirrorpo.model.past import PAST
from mirrorpo.model.product import HeadPrecision

# What an architecture that is read in a way it does not allow may raise.
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
# The adapter that is trained, where there is one: peft's own name for it.
ADAPTER = "default"


def recomputes(network: torch.nn.Module | CausalLM) -> bool:
    """Whether a `transformers` model makes its activations again in the backward pass."""
    # transformers below 5.20, which vLLM pins, has the older name.
    named = getattr(network, "is_activation_checkpointing", None)
    return bool(getattr(network, "is_gradient_checkpointing", False) if named is None else named)


def embedded(causal_lm: CausalLM) -> int:
    """How many ids have an embedding."""
    weight = causal_lm.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return len(weight)


@cache
def _offset_finder(tokenizer: Tokenizer) -> OffsetFinder:
    # It remembers what it has looked up, and a frozen model cannot hold it.
    return OffsetFinder(tokenizer)


@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageModel:
    """A Hugging Face causal LM, its tokenizer and its special ids.

    Attributes:
        network: the `transformers` model, or a `peft` model around one.
        tokenizer: its tokenizer.
        eos_ids: every id that ends a completion.
        pad_id: id that fills padded places; never read, masks come from lengths.
        dtype: of the computation; trained parameters stay in float32.
        device: where it runs.
        adapter_off: read the network without the adapter that is trained; the reference policy under LoRA.
        start_adapter: the frozen adapter that is on when that one is off, where an adapter goes on training.
        head_precision: of the operands of the head's product.
        prefix_fault: why prompts are not shared among completions, where the self-test found that.
        notes: what loading changed.
        compiled: whether decoder layers run compiled where a batch is read.
        shards: whether the parameters lie in this process alone, or have to be gathered from several.
    """

    network: torch.nn.Module
    tokenizer: Tokenizer
    eos_ids: frozenset[int]
    pad_id: int
    dtype: torch.dtype
    device: torch.device
    adapter_off: bool = False
    start_adapter: str | None = None
    head_precision: HeadPrecision = "float32"
    prefix_fault: str = ""
    notes: Sequence[str] = ()
    compiled: bool = False
    shards: Unsharded = Unsharded()  # noqa: RUF009 - it keeps nothing

    @property
    def causal_lm(self) -> CausalLM:
        """The `transformers` model, unwrapped from an adapter."""
        network = self.network.get_base_model() if isinstance(self.network, Adapted) else self.network
        return cast("CausalLM", network)

    @property
    def exact(self) -> bool:
        """Whether nothing is rounded to less than float32 in reading it."""
        return self.dtype == torch.float32 and self.head_precision == "float32"

    def head_dtype(self, hidden: Tensor) -> torch.dtype:
        """The narrowest dtype in which the head reads the same off hidden states."""
        return hidden.dtype if self.head_precision == "float32" else torch.bfloat16

    @contextmanager
    def computing(self) -> Iterator[None]:
        """The compute dtype, and the adapter switched off where this is the reference."""
        mixed = self.dtype != torch.float32
        autocast = torch.autocast(self.device.type, dtype=self.dtype) if mixed else nullcontext()
        with autocast, self._adapter():
            yield

    @contextmanager
    def reading(self) -> Iterator[None]:
        """`computing` with compiled layers, if there are: for a batch, whose cache grows no further."""
        layers = compiling(self.causal_lm) if self.compiled else nullcontext()
        with self.computing(), layers:
            yield

    @contextmanager
    def _adapter(self) -> Iterator[None]:
        if not self.adapter_off:
            yield
            return
        assert isinstance(self.network, Adapted)
        if self.start_adapter is None:
            with self.network.disable_adapter():
                yield
            return
        self.network.set_adapter(self.start_adapter, inference_mode=True)
        try:
            yield
        finally:
            self.network.set_adapter(ADAPTER)

    @property
    def decoder(self) -> torch.nn.Module:
        """The network without its head, unwrapped from an adapter that is on inside it."""
        return self.causal_lm.get_decoder()

    @property
    def cache_argument(self) -> str:
        """The network's name of its keys and values, as argument and in its output."""
        return PAST

    def evaluating(self) -> AbstractContextManager[None]:
        """Eval mode inside the block, and the mode it had before after it."""
        return evaluating(self.network)

    def hidden(
        self, ids: Int[Tensor, "B L"], present: Bool[Tensor, "B L"], positions: Int[Tensor, "B L"]
    ) -> Float[Tensor, "B L D"]:
        """The last hidden states, before the head.

        Args:
            ids: tokens of each row.
            present: True where a token counts; others are attended by none.
            positions: of each token in its own row, from 0.
        """
        with self.reading():
            output = self.decoder(
                input_ids=ids, attention_mask=present.to(torch.long), position_ids=positions, use_cache=False
            )
        return output.last_hidden_state

    def head(self, temperature: float) -> Head:
        """The output head at a sampling temperature."""
        config = self.causal_lm.config.get_text_config()
        multiplier = getattr(config, "logit_scale", None) or 1.0
        divisor = getattr(config, "logits_scaling", None) or 1.0
        return Head(
            projection=self.causal_lm.get_output_embeddings(),
            softcap=getattr(config, "final_logit_softcapping", None),
            scale=float(multiplier) / float(divisor),
            temperature=temperature,
            precision=self.head_precision,
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a completion, special tokens left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def with_offsets(self, ids: Sequence[int]) -> TokenOffsets:
        """Text of a completion, and which of its characters each id wrote."""
        return _offset_finder(self.tokenizer)(ids)

    def save(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write network and tokenizer into a folder, in the format of their library.

        Args:
            folder: made where it is missing.
            weights: the full parameters by name, which this process need not hold all of.
        """
        assert isinstance(self.network, Saveable)
        settings: dict[str, object] = {}
        if isinstance(self.network, Adapted):
            # No adapter is on the embeddings, for which peft would otherwise look up the base's config.
            settings = {"selected_adapters": [ADAPTER], "save_embedding_layers": False}
        self.network.save_pretrained(folder, state_dict=weights, **settings)
        self.tokenizer.save_pretrained(folder)

    def without_adapter(self) -> "LanguageModel":
        """The same network read with its adapter off."""
        return replace(self, adapter_off=True)

    def check_context(self, tokens: int) -> None:
        """Refuse a prompt and answer of `tokens` tokens that the model has no positions for.

        Raises:
            ValueError: with both lengths and the fix.
        """
        config = self.causal_lm.config.get_text_config()
        context = getattr(config, "max_position_embeddings", None)
        if context is not None and tokens > context:
            raise ValueError(
                f"max_new_tokens: a prompt and its answer may take {tokens} tokens, the model has {context} "
                "positions; lower max_new_tokens or eval_max_new_tokens"
            )
        for kind, fixed in _rescaled_positions(config):
            if tokens > fixed:
                raise ValueError(
                    f"max_new_tokens: a prompt and its answer may take {tokens} tokens; beyond {fixed} this "
                    f"model's {kind} positions depend on the longest row of a batch, so that no two passes "
                    "would agree; lower max_new_tokens or eval_max_new_tokens"
                )

    def check_head(self) -> None:
        """Compare our head with the model's own logits on a few tokens.

        Raises:
            ValueError: if the architecture transforms its logits in a way `Head` does not know.
        """
        name = type(self.causal_lm).__name__
        try:
            ours, theirs = self._two_logits()
        except torch.OutOfMemoryError:
            raise
        except FAILURES as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise ValueError(
                f"model.path: {name} cannot be read as a decoder with a head ({reason}); choose another model"
            ) from error
        if theirs.isnan().any():
            raise ValueError(
                f"model.path: {name} gives logits that are no numbers (NaN); its weights are damaged, or do "
                f"not compute in {str(self.dtype).removeprefix('torch.')}: get the files again, or set "
                "model.dtype=float32"
            )
        # A token that the model rules out has the logit minus infinity in both.
        gap = float(torch.where(ours == theirs, 0.0, (ours - theirs).abs()).max())
        if not gap <= (1e-3 if self.exact else 0.25):
            raise ValueError(
                f"model.path: {name} transforms its logits in a way mirrorpo.model.head.Head does not "
                f"(largest gap {gap:.3g}); add the transform there"
            )

    def _two_logits(self) -> tuple[Tensor, Tensor]:
        # Of a few tokens, by our head and by the network.
        ids = torch.arange(8, device=self.device)[None] % self.causal_lm.config.get_text_config().vocab_size
        present = torch.ones_like(ids, dtype=torch.bool)
        positions = torch.arange(8, device=self.device)[None]
        with torch.no_grad(), evaluating(self.network), self.computing():
            output = self.network(input_ids=ids, attention_mask=present.long(), use_cache=False)
            ours = self.head(1.0).logits(self.hidden(ids, present, positions)[0])
        return ours, output.logits[0].float()


def _rescaled_positions(config: object) -> Iterator[tuple[str, int]]:
    # Rotary embeddings that are others in a longer batch: their kind, and up to where they are not.
    settings = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    # Some models have one for each kind of layer.
    for rope in (settings, *(part for part in settings.values() if isinstance(part, Mapping))):
        kind = rope.get("rope_type", rope.get("type"))
        if kind in ("dynamic", "longrope"):
            original = rope.get("original_max_position_embeddings")
            original = original or getattr(config, "original_max_position_embeddings", None)
            yield kind, int(original or getattr(config, "max_position_embeddings", 0))
