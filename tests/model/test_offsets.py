"""Which characters each token wrote, by byte-level, sentencepiece-like and word-level tokenizers."""

import json
import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import model_of
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import mirrorpo.model
from mirrorpo.core.token_offsets import TokenOffsets
from mirrorpo.model import offsets as module
from mirrorpo.model.offsets import OffsetFinder
from mirrorpo.model.words import word_tokenizer

CORPUS = [
    "Sam has 18 + 3 = <<18+3=21>>21 toys.\n#### 21",
    "Die Bäckerei verkauft 3 × 4 = 12 Brötchen für 2,50 €.",
    "日本語の文章です。😀 😀 👍🏽 naïve café ½ cup",
] * 3  # fmt: skip
EURO = ["<0xE2>", "<0x82>", "<0xAC>"]  # of a sentencepiece vocabulary
SPECIAL = ["<s>", "</s>", "<|im_end|>"]
TEXTS = [
    *CORPUS,
    "Sam's 18 cafés cost 2,50 €!",
    "😀😀 日本 😀",
    " leading",
    "  two",
    "trailing ",
    "\n\n",
    "a\u0301e\u0301",
    "👨‍👩‍👧",
    "don't . stop , now ?",
]


def wrapped(backend: Tokenizer, **options: Any) -> Any:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", **options
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    return tokenizer


def byte_level() -> Any:
    """Merges learnt over bytes, as GPT-2, Llama 3 and Qwen have them."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer = wrapped(backend)
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("日 本", special=False)])
    return tokenizer


def byte_fallback() -> Any:
    """Pieces with a leading space, and single bytes for what they do not know, as in Llama 2 and Gemma."""
    backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", *SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator(
        CORPUS[:1] * 3, trainers.BpeTrainer(vocab_size=330, special_tokens=special, show_progress=False)
    )
    # The trainer can only make bytes special tokens; in a real vocabulary they are none.
    made = json.loads(backend.to_str())
    made["added_tokens"] = made["added_tokens"][: 1 + len(SPECIAL)]
    return wrapped(Tokenizer.from_str(json.dumps(made)), unk_token="<unk>")


def metaspace() -> Any:
    """Unigram pieces with a leading space; what it does not know is lost."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(
            vocab_size=150, special_tokens=[*SPECIAL, "<unk>"], unk_token="<unk>", show_progress=False
        ),
    )
    return wrapped(backend, unk_token="<unk>")


def word_piece() -> Any:
    """Words without spaces, put together and cleaned up by rule."""
    backend = Tokenizer(models.WordPiece(unk_token="<unk>"))  # type: ignore[call-arg]
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    backend.train_from_iterator(
        [*CORPUS, "a . b , c ? don't"],
        trainers.WordPieceTrainer(vocab_size=200, special_tokens=[*SPECIAL, "<unk>"], show_progress=False),
    )
    return wrapped(backend, unk_token="<unk>", clean_up_tokenization_spaces=True)


def odd() -> Any:
    """A decoder that looks at the position of a token: the last one has no space."""
    backend = Tokenizer(
        models.WordLevel(
            {piece: index for index, piece in enumerate([*SPECIAL, "ab</w>", "a", "é</w>", "<unk>"])},
            unk_token="<unk>",
        )
    )
    backend.decoder = decoders.BPEDecoder(suffix="</w>")
    return wrapped(backend, unk_token="<unk>")


def tiny() -> Any:
    return AutoTokenizer.from_pretrained(Path(mirrorpo.model.__file__).parent / "tiny")


MAKERS: dict[str, Callable[[], Any]] = {
    "byte_level": byte_level,
    "byte_fallback": byte_fallback,
    "metaspace": metaspace,
    "word_piece": word_piece,
    "words": lambda: word_tokenizer(CORPUS),
    "tiny": tiny,
    "odd": odd,
}
_MADE: dict[str, Any] = {}


def made(name: str) -> Any:
    if name not in _MADE:
        _MADE[name] = MAKERS[name]()
    return _MADE[name]


def written(token_offsets: TokenOffsets) -> list[str]:
    """What each token wrote."""
    return [token_offsets.text[start:end] for start, end in token_offsets.offsets]


def byte_ids(tokenizer: Any, data: bytes) -> list[int]:
    """One token a byte, of a byte-level vocabulary."""
    letters = {byte: letter for letter, byte in module._LETTERS.items()}
    return tokenizer.convert_tokens_to_ids([letters[byte] for byte in data])


def prefixes(tokenizer: Any, ids: Sequence[int]) -> TokenOffsets:
    """The slow way, which decodes every prefix."""
    text = tokenizer.decode(list(ids), skip_special_tokens=True)
    return TokenOffsets(text=text, offsets=OffsetFinder(tokenizer)._from_prefixes(list(ids), text))


@pytest.mark.parametrize("name", MAKERS)
def test_the_text_is_the_decoded_one(name: str) -> None:
    tokenizer = made(name)
    model = model_of(torch.nn.Identity(), tokenizer)
    for text in TEXTS:
        ids = [*tokenizer(text).input_ids, tokenizer.eos_token_id]
        token_offsets = OffsetFinder(tokenizer)(ids)
        assert token_offsets.text == model.decode(ids)
        assert len(token_offsets.offsets) == len(ids), text
        assert token_offsets.offsets[-1] == (len(token_offsets.text), len(token_offsets.text)), text


# Not where decoding cleans up: a prefix that ends in "don '" does not say yet which space will go.
@pytest.mark.parametrize("name", sorted(MAKERS.keys() - {"word_piece"}))
def test_both_ways_agree_on_a_text_that_the_tokenizer_encoded(name: str) -> None:
    tokenizer = made(name)
    for text in TEXTS:
        ids = [*tokenizer(text).input_ids, tokenizer.eos_token_id]
        assert OffsetFinder(tokenizer)(ids) == prefixes(tokenizer, ids), text


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_ids_have_offsets_that_cover_the_decoded_text(name: str, data: st.DataObject) -> None:
    tokenizer = made(name)
    # Some ids beyond the vocabulary too: a model's head may be wider than its tokenizer.
    ids = data.draw(st.lists(st.integers(0, len(tokenizer) + 3), max_size=30))
    offset_finder = OffsetFinder(tokenizer)
    token_offsets = offset_finder(ids)
    assert token_offsets.text == tokenizer.decode(ids, skip_special_tokens=True)
    assert len(token_offsets.offsets) == len(ids)
    for index, (start, end) in zip(ids, token_offsets.offsets, strict=True):
        alone = tokenizer.decode([index], skip_special_tokens=True)
        assert end > start or not alone.strip() or "\ufffd" in token_offsets.text or name == "odd"
    assert offset_finder(ids) == token_offsets == OffsetFinder(tokenizer)(tuple(ids))


@settings(max_examples=200, deadline=None)
@given(
    data=st.binary(max_size=24) | st.text(max_size=10).map(lambda text: text.encode(errors="surrogatepass"))
)
def test_single_bytes_that_share_a_character_make_it_up(data: bytes) -> None:
    token_offsets = OffsetFinder(made("byte_level"))(byte_ids(made("byte_level"), data))
    assert token_offsets.text == data.decode(errors="replace")
    assert all(end == start + 1 for start, end in token_offsets.offsets)
    for index, character in enumerate(token_offsets.text):
        starts = (start for start, _ in token_offsets.offsets)
        shared = bytes(byte for byte, start in zip(data, starts, strict=True) if start == index)
        assert shared.decode(errors="replace") == character


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_token_has_the_characters_of_all_its_bytes(data: st.DataObject) -> None:
    tokenizer = made("byte_level")
    vocabulary = sorted(
        set(range(len(tokenizer))) - set(tokenizer.all_special_ids) - set(tokenizer.added_tokens_decoder)
    )
    ids = data.draw(st.lists(st.sampled_from(vocabulary), max_size=12))
    pieces = [
        bytes(module._LETTERS[letter] for letter in token) for token in tokenizer.convert_ids_to_tokens(ids)
    ]
    single = OffsetFinder(tokenizer)(byte_ids(tokenizer, b"".join(pieces))).offsets
    at = 0
    for piece, interval in zip(pieces, OffsetFinder(tokenizer)(ids).offsets, strict=True):
        assert interval == (single[at][0], single[at + len(piece) - 1][1])
        at += len(piece)


# Bytes, a string a token, and the characters that each token has.
SPLIT = {
    "a character in three": ([b"a", b"\xe2", b"\x82", b"\xac", b"b"], ["a", "€", "€", "€", "b"]),
    "with a neighbour on either side": ([b"a\xe2", b"\x82", b"\xacb"], ["a€", "€", "€b"]),
    "an end and the next start": ([b"\xe2\x82\xac\xf0", b"\x9f\x98\x80"], ["€😀", "😀"]),
    "two in one": ([b"\xe2\x82\xac" * 2], ["€€"]),
    "never finished, then a letter": ([b"\xe2", b"\x82", b"A"], ["\ufffd", "\ufffd", "A"]),
    "started twice": ([b"\xe2", b"\xe2", b"\x82\xac"], ["\ufffd", "€", "€"]),
    "cut off by the end": ([b"a", b"\xe2", b"\x82"], ["a", "\ufffd", "\ufffd"]),
    "bytes that never occur": ([b"\xc0", b"\x80"], ["\ufffd", "\ufffd"]),
    "a surrogate": ([b"\xed", b"\xa0", b"\x80"], ["\ufffd", "\ufffd", "\ufffd"]),
    "three of four, then rubbish": ([b"\xf0\x9f", b"\x98", b"\xff"], ["\ufffd", "\ufffd", "\ufffd"]),
}


def test_characters_over_several_tokens() -> None:
    alphabet = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    letters = {byte: letter for letter, byte in module._LETTERS.items()}
    for name, (pieces, expected) in SPLIT.items():
        tokens = ["".join(letters[byte] for byte in piece) for piece in pieces]
        vocabulary = {
            token: index for index, token in enumerate(dict.fromkeys([*SPECIAL, *alphabet, *tokens]))
        }
        backend = Tokenizer(models.BPE(vocabulary, []))
        backend.decoder = decoders.ByteLevel()
        token_offsets = OffsetFinder(wrapped(backend))([vocabulary[token] for token in tokens])
        assert token_offsets.text == b"".join(pieces).decode(errors="replace"), name
        assert written(token_offsets) == expected, name


def test_the_two_halves_of_an_invalid_sequence_share_its_replacement() -> None:
    tokenizer = made("byte_level")
    assert OffsetFinder(tokenizer)(byte_ids(tokenizer, b"a\xe2\x82A")).offsets == [
        (0, 1),
        (1, 2),
        (1, 2),
        (2, 3),
    ]


def test_the_letters_of_the_byte_alphabet_are_those_of_the_library() -> None:
    assert set(module._LETTERS) == set(pre_tokenizers.ByteLevel.alphabet())
    decoder = decoders.ByteLevel()
    assert all(
        decoder.decode([letter]) == chr(byte) for letter, byte in module._LETTERS.items() if byte < 0x80
    )
    assert sorted(module._LETTERS.values()) == list(range(256))


def test_special_tokens_and_unknown_ids_have_empty_intervals_and_added_words_their_text() -> None:
    tokenizer = made("byte_level")
    think, name = tokenizer.convert_tokens_to_ids(["<think>", "日 本"])
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids = [
        tokenizer.bos_token_id,
        think,
        name,
        end,
        len(tokenizer) + 9,
        *byte_ids(tokenizer, b"x"),
        tokenizer.eos_token_id,
    ]
    token_offsets = OffsetFinder(tokenizer)(ids)
    assert token_offsets.text == "<think>日 本x"
    assert written(token_offsets) == ["", "<think>", "日 本", "", "", "x", ""]
    assert token_offsets.offsets[3] == token_offsets.offsets[4] == (10, 10)


def test_a_special_token_inside_a_character_has_that_character() -> None:
    tokenizer = made("byte_level")
    first, second, third = byte_ids(tokenizer, "€".encode())
    assert written(OffsetFinder(tokenizer)([first, second, tokenizer.eos_token_id, third])) == ["€"] * 4


def test_pieces_that_the_tokenizer_would_not_choose_are_read_as_they_stand() -> None:
    tokenizer = made("byte_level")
    ids = byte_ids(tokenizer, b" Sam has 18")
    assert ids != tokenizer(" Sam has 18").input_ids
    assert written(OffsetFinder(tokenizer)(ids)) == list(" Sam has 18")


@pytest.mark.parametrize("name", ["metaspace", "byte_fallback"])
def test_a_leading_space_is_dropped_once_and_belongs_to_its_word_elsewhere(name: str) -> None:
    tokenizer = made(name)
    ids = tokenizer.convert_tokens_to_ids(["▁", "▁", "S", "a", "m", "▁", "h"])
    token_offsets = OffsetFinder(tokenizer)(ids)
    assert written(token_offsets) == ["", " ", "S", "a", "m", " ", "h"]


def test_sentencepiece_bytes_share_their_character() -> None:
    tokenizer = made("byte_fallback")
    ids = tokenizer.convert_tokens_to_ids(["S", "<0xE2>", "<0x82>", "<0xAC>", "<0x41>", "▁"])
    assert written(OffsetFinder(tokenizer)(ids)) == ["S", "€", "€", "€", "A", " "]


@pytest.mark.parametrize("pieces", [["<0xE2>", "S"], [*EURO, "<0xFF>"], [*EURO, *EURO, "<0xFF>", "S"]])
def test_an_invalid_run_of_sentencepiece_bytes_is_covered(pieces: list[str]) -> None:
    # The decoder then replaces every byte of the run, where Python replaces some.
    tokenizer = made("byte_fallback")
    token_offsets = OffsetFinder(tokenizer)(tokenizer.convert_tokens_to_ids(pieces))
    assert token_offsets.text == "".join("\ufffd" if piece.startswith("<") else piece for piece in pieces)


def test_spaces_that_are_cleaned_up_have_no_token() -> None:
    tokenizer = made("word_piece")
    ids = tokenizer.convert_tokens_to_ids(["a", ".", "b", ",", "c"])
    token_offsets = OffsetFinder(tokenizer)(ids)
    assert token_offsets.text == "a. b, c"
    assert written(token_offsets) == ["a", ".", " b", ",", " c"]


def test_a_decoder_that_looks_at_positions_decodes_every_prefix() -> None:
    tokenizer = made("odd")
    ids = tokenizer.convert_tokens_to_ids(["a", "ab</w>", "é</w>", "ab</w>", "</s>"])
    assert OffsetFinder(tokenizer)(ids).text == "aab é ab"
    assert written(OffsetFinder(tokenizer)(ids)) == ["a", "ab", " é", " ab", ""]


class Counting:
    """A tokenizer that counts how often it decodes."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.decoded = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def decode(self, *args: Any, **kwargs: Any) -> str:
        self.decoded += 1
        return self._tokenizer.decode(*args, **kwargs)


@pytest.mark.parametrize("name", sorted(MAKERS.keys() - {"odd"}))
def test_a_long_completion_is_decoded_once(name: str) -> None:
    tokenizer = made(name)
    rng = random.Random(0)
    known = sorted(set(range(len(tokenizer))) - set(tokenizer.added_tokens_decoder))
    # Sentencepiece's single bytes are put in as whole characters, and a word does not begin with a WordPiece
    # ending.
    plain = [
        index for index in known if not str(tokenizer.convert_ids_to_tokens(index)).startswith(("<0x", "##"))
    ]
    euro = tokenizer.convert_tokens_to_ids(EURO) if name == "byte_fallback" else []
    ids = [
        *rng.choices(plain, k=5_000),
        *euro,
        tokenizer.eos_token_id,
        *rng.choices(plain, k=5_000),
        tokenizer.eos_token_id,
    ]
    counting = Counting(tokenizer)
    assert len(OffsetFinder(counting)(ids).offsets) == len(ids)
    assert counting.decoded == 1


def test_pieces_that_do_not_make_up_the_text_are_refused() -> None:
    assert module._from_pieces([b"a"], "ab") is None
    assert module._from_pieces([b"ab"], "a") is None
    assert module._from_pieces([b"a ", b" b"], "a b") == [(0, 2), (2, 3)]


def test_no_ids_are_no_text() -> None:
    for name in MAKERS:
        assert OffsetFinder(made(name))([]) == TokenOffsets(text="", offsets=[]), name


def test_offsets_reach_from_each_token_to_the_next_where_no_character_is_split() -> None:
    token_offsets = OffsetFinder(made("tiny"))(made("tiny")(CORPUS[0]).input_ids)
    assert all(left[1] == right[0] for left, right in pairwise(token_offsets.offsets))
