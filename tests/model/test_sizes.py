"""The sizes that memory is counted by: against the network itself."""

from small_models import model_of, network_of

from mirrorpo.model.adapter import with_adapter
from mirrorpo.model.lora import Lora
from mirrorpo.model.sizes import ModelSizes, adapter_size, shape_of

SETTINGS = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 96,
}  # fmt: skip


def test_a_shape_is_that_of_the_network() -> None:
    for kind, tied in (("qwen3", True), ("qwen3", False), ("llama", True)):
        shape = shape_of(network_of(kind, tie_word_embeddings=tied, **SETTINGS))
        of_layer = 2 * 32 * 64 + 2 * 32 * 32 + 3 * 32 * 96 + 2 * 32 + (2 * 16 if kind == "qwen3" else 0)
        assert shape.hidden == 2 * of_layer + 32 and shape.embeddings == 64 * 32 * (1 if tied else 2)
        assert (shape.normed_heads, shape.tied, shape.cached) == (kind == "qwen3", tied, 2 * 2 * 2 * 16)
    experts = shape_of(
        network_of("qwen3_moe", num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, **SETTINGS)
    )
    # A token goes through two of the four.
    assert experts.intermediate == 48
    assert shape_of(network_of("gpt2", n_embd=16, n_layer=2, n_head=2, n_positions=64)).intermediate == 64


def test_adapters_are_counted_as_peft_makes_them() -> None:
    network = network_of("qwen3", **SETTINGS)
    expected = adapter_size(network, 4, None)
    shape = shape_of(network)
    everything = ModelSizes(
        shape=shape, rank=0, adapters=0, dropout=False, compute=4, checkpointing=False
    ).with_adapters(rank=4, dropout=False)
    few = adapter_size(network, 4, ["q_proj", "down_proj"])
    model = with_adapter(model_of(network), Lora(rank=4, alpha=8, dropout=0.0, targets=None), 0)
    made = {name: p.numel() for name, p in model.network.named_parameters() if "lora" in name}
    assert sum(made.values()) == expected == everything.trained
    chosen = ("q_proj", "down_proj")
    assert few == sum(count for name, count in made.items() if any(target in name for target in chosen))
