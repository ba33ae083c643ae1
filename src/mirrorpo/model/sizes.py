"""What a model's memory depends on: the sizes of its decoder, and how a run trains it."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Protocol, cast, runtime_checkable

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mirrorpo.core.network import CausalLM


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """A decoder's sizes.

    Attributes:
        vocabulary: rows of the embeddings.
        width: of the residual stream.
        layers: of the decoder.
        heads: of the queries.
        kv_heads: of keys and values.
        head_dim: of one head.
        intermediate: of the MLP; of a mixture of experts, of the experts that a token goes through.
        normed_heads: whether queries and keys are normalised.
        tied: whether the head is the embeddings.
        parameters: in all.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    normed_heads: bool
    tied: bool
    parameters: int

    @property
    def embeddings(self) -> int:
        """Parameters of embeddings and head."""
        return self.vocabulary * self.width * (1 if self.tied else 2)

    @property
    def hidden(self) -> int:
        """Parameters of the layers."""
        return self.parameters - self.embeddings

    @property
    def cached(self) -> int:
        """Numbers that a cache has of a token."""
        return 2 * self.layers * self.kv_heads * self.head_dim


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSizes:
    """A model as a run trains it.

    Attributes:
        shape: of its decoder.
        rank: of the adapters; 0 trains everything.
        adapters: their parameters, 0 without.
        dropout: whether adapters drop activations.
        compute: bytes of a number in the computation.
        checkpointing: whether layers are computed again in the backward pass.
    """

    shape: Shape
    rank: int
    adapters: int
    dropout: bool
    compute: int
    checkpointing: bool

    @property
    def trained(self) -> int:
        """Parameters that are trained."""
        return self.adapters if self.rank else self.shape.parameters

    @property
    def weight(self) -> int:
        """Bytes of a parameter of the network: those that are trained are in float32."""
        return self.compute if self.rank else 4

    def with_adapters(self, *, rank: int, dropout: bool) -> "ModelSizes":
        """The same model with adapters on all projections."""
        shape = self.shape
        heads, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        sides = 2 * (shape.width + heads) + 2 * (shape.width + keys) + 3 * (shape.width + shape.intermediate)
        return replace(self, rank=rank, adapters=rank * shape.layers * sides, dropout=dropout)


@runtime_checkable
class HasSizes(Protocol):
    """A model that knows its sizes before it is loaded; any may."""

    def sizes(self, device: torch.device) -> ModelSizes: ...


def shape_of(network: PreTrainedModel) -> Shape:
    """The sizes of a network, which may be on the meta device."""
    config = network.config.get_text_config()
    heads = config.num_attention_heads
    head, inputs = network.get_output_embeddings(), cast(CausalLM, network).get_input_embeddings()
    experts = getattr(config, "num_experts_per_tok", None)
    # Not every architecture names all of them.
    intermediate = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    if experts:
        intermediate = experts * (getattr(config, "moe_intermediate_size", None) or intermediate)
    return Shape(
        vocabulary=config.vocab_size,
        width=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        intermediate=intermediate,
        normed_heads=any(name.endswith("q_norm") for name, _ in network.named_modules()),
        tied=bool(head is not None and head.weight is inputs.weight),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
    )


def adapter_size(network: PreTrainedModel, rank: int, targets: Collection[str] | None) -> int:
    """Parameters of adapters on some projections of a network, or on all."""
    head, sides = network.get_output_embeddings(), 0
    for name, module in network.named_modules():
        matrix = isinstance(module, torch.nn.Linear | Conv1D) and module is not head
        if matrix and (targets is None or any(f".{name}".endswith(f".{target}") for target in targets)):
            assert isinstance(module.weight, torch.Tensor)
            sides += sum(module.weight.shape)
    return rank * sides
