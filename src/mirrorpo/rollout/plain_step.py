"""A token's pass through a decoder of Llama's kind: its operations alone, without the modules around them.

A small model's token is hundreds of operations of a few microseconds, and the modules that call them take as
long again. Here are the same operations on the same numbers, so that no digit of a completion changes: before
a decoder is read so, both ways are compared on a few tokens, bit for bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import Embedding, Linear, Module
from torch.nn.functional import embedding, linear, scaled_dot_product_attention
from transformers import PreTrainedConfig

from mirrorpo.core.protocols import GenerativeModel
from mirrorpo.rollout.cache import Blocks, Rows, in_blocks

# Decoders of `transformers` that compute as this module does; others keep their modules.
KINDS = frozenset(
    (f"transformers.models.{kind}.modeling_{kind}", f"{name}Model")
    for kind, name in (("llama", "Llama"), ("mistral", "Mistral"), ("qwen2", "Qwen2"), ("qwen3", "Qwen3"))
)
Product = Callable[[Tensor], Tensor]
# What the comparison of a decoder came to.
_compared: "WeakKeyDictionary[Module, bool]" = WeakKeyDictionary()


class _Norm(Protocol):
    weight: Tensor
    variance_epsilon: float


class _Attention(Protocol):
    head_dim: int
    scaling: float


class _Decoder(Protocol):
    config: PreTrainedConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class _Layer:
    # Norms are weight and epsilon; the one of queries and keys has a row for each of their heads.
    of_attention: tuple[Tensor, float]
    query: Product
    key: Product
    value: Product
    of_heads: tuple[Tensor, float] | None
    scale: float
    out: Product
    of_mlp: tuple[Tensor, float]
    gate: Product
    activation: Product
    up: Product
    down: Product


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainStep:
    """A decoder's parameters, in the order in which a token meets them.

    Attributes:
        table: the embeddings.
        rotary: cosines and sines of positions.
        layers: of the decoder.
        norm: behind the last layer.
        heads: of queries, and of keys.
        size: of a head.
    """

    table: Tensor
    rotary: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    layers: Sequence[_Layer]
    norm: tuple[Tensor, float]
    heads: tuple[int, int]
    size: int

    @classmethod
    def of(cls, model: GenerativeModel) -> "PlainStep | None":
        """Of a float32 decoder on a CPU that is known, has no hooks, and computes the same bits both ways."""
        decoder = model.decoder
        if (type(decoder).__module__, type(decoder).__name__) not in KINDS or _is_hooked(decoder):
            return None
        table = decoder.get_submodule("embed_tokens")
        attention = cast("_Decoder", decoder).config._attn_implementation
        if type(table) is not Embedding or attention != "sdpa":
            return None
        mixed = torch.is_autocast_enabled(model.device.type)
        if mixed or table.weight.device.type != "cpu" or table.weight.dtype != torch.float32:
            return None
        try:
            step = cls._read(decoder, table.weight)
        except AttributeError:
            # A part that was put in another's place does not have what is read here.
            return None
        if decoder not in _compared:
            _compared[decoder] = step._agrees_with(model)
        return step if _compared[decoder] else None

    @classmethod
    def _read(cls, decoder: Module, table: Tensor) -> "PlainStep":
        config = cast("_Decoder", decoder).config
        heads = config.num_attention_heads, config.num_key_value_heads
        layers = list(decoder.get_submodule("layers").children())
        return cls(
            table=table,
            rotary=decoder.get_submodule("rotary_emb"),
            layers=[_layer(layer, heads) for layer in layers],
            norm=_norm(decoder.get_submodule("norm")),
            heads=heads,
            size=cast("_Attention", layers[0].get_submodule("self_attn")).head_dim,
        )

    def __call__(self, token: Tensor, mask: Tensor, position: Tensor, cache: Rows) -> Tensor:
        """The last hidden state of each row, [N, D]; keys and values go to the cache.

        Args:
            token: [N].
            mask: [N, 1, 1, L], additive, over what is in the cache and the token itself.
            position: [N, 1], of the token in its row.
            cache: whose layers are all `Blocks`.
        """
        hidden, (queries, keys) = embedding(token, self.table), self.heads
        rows, half = len(token), self.size // 2
        cos, sin = self.rotary(hidden, position)
        for layer, kept in zip(self.layers, _blocks(cache), strict=True):
            normed = _normed(hidden, layer.of_attention)
            # Queries and keys together, a head a row: what is done to them is done to each number or row.
            both = torch.cat([layer.query(normed), layer.key(normed)], dim=-1)
            both = both.view(rows, queries + keys, self.size)
            if layer.of_heads is not None:
                both = _normed(both, layer.of_heads)
            turned = torch.cat([-both[..., half:], both[..., :half]], dim=-1)
            both = both * cos + turned * sin
            value = layer.value(normed).view(rows, keys, 1, self.size)
            seen_keys, seen_values = kept.update(both[:, queries:, None], value)
            query = both[:, :queries].reshape(rows, keys, queries // keys, self.size)
            read = scaled_dot_product_attention(
                query, seen_keys, seen_values, attn_mask=mask, scale=layer.scale
            )
            hidden = hidden + layer.out(read.reshape(rows, queries * self.size))
            normed = _normed(hidden, layer.of_mlp)
            hidden = hidden + layer.down(layer.activation(layer.gate(normed)) * layer.up(normed))
        return _normed(hidden, self.norm)

    def _agrees_with(self, model: GenerativeModel) -> bool:
        # Three rows of four tokens, and a fifth behind them by either way.
        decoder, argument = model.decoder, model.cache_argument
        ids = torch.arange(15).reshape(3, 5) % len(self.table)
        filled = decoder(input_ids=ids[:, :4], use_cache=True)[argument]
        theirs, ours = (in_blocks(filled, 3, 1, 1) for _ in range(2))
        if len(_blocks(ours)) < len(self.layers):
            # Some layers slide.
            return False
        mask, position = torch.zeros(3, 1, 1, 5), torch.full((3, 1), 4)
        mask[0, ..., 0] = torch.finfo(mask.dtype).min
        inputs = {"input_ids": ids[:, 4:], "attention_mask": mask, "position_ids": position}
        expected = decoder(**inputs, use_cache=True, **{argument: theirs}).last_hidden_state[:, 0]
        same = torch.equal(self(ids[:, 4], mask, position, ours), expected)
        kept = zip(*(_keys_and_values(cache) for cache in (ours, theirs)), strict=True)
        return same and all(torch.equal(*tensors) for tensors in kept)


def _blocks(cache: Rows) -> list[Blocks]:
    return [layer for layer in cache.layers if isinstance(layer, Blocks)]


def _keys_and_values(cache: Rows) -> list[Tensor]:
    tensors = [tensor for layer in _blocks(cache) for tensor in (layer.keys, layer.values)]
    return [tensor for tensor in tensors if tensor is not None]


def _layer(layer: Module, heads: tuple[int, int]) -> _Layer:
    attention, mlp = layer.get_submodule("self_attn"), layer.get_submodule("mlp")
    return _Layer(
        of_attention=_norm(layer.get_submodule("input_layernorm")),
        query=_product(attention.get_submodule("q_proj")),
        key=_product(attention.get_submodule("k_proj")),
        value=_product(attention.get_submodule("v_proj")),
        of_heads=_norm_of_heads(attention, heads),
        scale=cast("_Attention", attention).scaling,
        out=_product(attention.get_submodule("o_proj")),
        of_mlp=_norm(layer.get_submodule("post_attention_layernorm")),
        gate=_product(mlp.get_submodule("gate_proj")),
        activation=mlp.get_submodule("act_fn"),
        up=_product(mlp.get_submodule("up_proj")),
        down=_product(mlp.get_submodule("down_proj")),
    )


def _norm_of_heads(attention: Module, heads: tuple[int, int]) -> tuple[Tensor, float] | None:
    parts = dict(attention.named_children())
    if "q_norm" not in parts:
        return None
    (query, epsilon), (key, _) = (_norm(parts[name]) for name in ("q_norm", "k_norm"))
    return torch.cat([query.expand(heads[0], -1), key.expand(heads[1], -1)]), epsilon


def _norm(module: Module) -> tuple[Tensor, float]:
    norm = cast("_Norm", module)
    return norm.weight, norm.variance_epsilon


def _normed(hidden: Tensor, norm: tuple[Tensor, float]) -> Tensor:
    weight, epsilon = norm
    return weight * (hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + epsilon))


def _product(module: Module) -> Product:
    # An adapter's module computes what it does itself.
    if type(module) is not Linear:
        return module
    weight, bias = module.weight, module.bias
    return lambda hidden: linear(hidden, weight, bias)


def _is_hooked(decoder: Module) -> bool:
    # Also by a `forward` of its own, which is how other libraries reach into one.
    return any(
        module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
        for module in decoder.modules()
    )
