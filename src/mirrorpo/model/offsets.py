"""Which characters each generated token wrote, from the ids themselves.

The text is never encoded again: a policy may write a word in pieces that the tokenizer would not choose.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

from mirrorpo.core.network import Tokenizer
from mirrorpo.core.token_offsets import Interval, TokenOffsets

# The letters that stand for bytes in a byte-level vocabulary (GPT-2's table): printable bytes for
# themselves, the others for the characters from 256 on.
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_LETTERS = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(256 + index): byte for index, byte in enumerate(sorted({*range(256)} - {*_PRINTABLE}))
}
_BYTE = re.compile("<0x([0-9A-F]{2})>")  # a byte in a sentencepiece vocabulary
# Bytes of a character in UTF-8, by its first byte.
_LENGTHS = {
    **dict.fromkeys(range(0xC2, 0xE0), 2),
    **dict.fromkeys(range(0xE0, 0xF0), 3),
    **dict.fromkeys(range(0xF0, 0xF5), 4),
}


class OffsetFinder:
    """The text of generated ids, and the characters that each of them wrote.

    The text is `tokenizer.decode(ids, skip_special_tokens=True)`, whatever the ids. Token t's interval
    holds every character that any of its bytes went into, so that
    - tokens that share a character (a byte-level vocabulary splits "€" in up to three) all have it,
    - U+FFFD belongs to all the tokens whose bytes make up the invalid sequence it stands for,
    - a special token, an id outside the vocabulary and a space that decoding drops (the first of a
      sentencepiece text, those before punctuation in a cleaned-up one) have an empty interval; inside a
      character they have that character.

    Each token's bytes are looked up once and put together, in time linear in the length. If that does not
    give the decoded text (a decoder of another kind, an invalid run of sentencepiece's byte tokens), every
    prefix is decoded instead, in quadratic time. A token's interval then reaches from what the prefix
    before it settled of the text to what the prefix with it did, with the next character if it has
    written a part of that.

    Args:
        tokenizer: a `transformers` tokenizer.

    Example:
        >>> from mirrorpo.model.words import word_tokenizer
        >>> tokenizer = word_tokenizer(["Sam has 18 toys"])
        >>> OffsetFinder(tokenizer)([*tokenizer("Sam has 8 toys").input_ids, tokenizer.eos_token_id])
        TokenOffsets(text='Sam has 8 toys', offsets=[(0, 3), (3, 8), (8, 9), (9, 14), (14, 14)])
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
        # What a decoder makes of a known piece says of which kind it is, however it is put together.
        self._letters = self._decoder is not None and self._decoder.decode(["\u00c3", "\u00a9"]) == "\u00e9"
        self._bytes = self._decoder is not None and self._decoder.decode(["<0x41>"]) == "A"
        self._pieces: dict[int, bytes] = {}

    def __call__(self, ids: Sequence[int]) -> TokenOffsets:
        ids = list(ids)
        text = self._decode(ids)
        offsets = _from_pieces([self._piece(index) for index in ids], text)
        return TokenOffsets(text=text, offsets=self._from_prefixes(ids, text) if offsets is None else offsets)

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def _piece(self, index: int) -> bytes:
        if index not in self._pieces:
            self._pieces[index] = self._look_up(index)
        return self._pieces[index]

    def _look_up(self, index: int) -> bytes:
        token = self._tokenizer.convert_ids_to_tokens(index)
        if token is None or index in self._special:
            return b""
        if self._letters and all(letter in _LETTERS for letter in token):
            return bytes(_LETTERS[letter] for letter in token)
        if self._bytes and (match := _BYTE.fullmatch(token)):
            return bytes.fromhex(match[1])
        # Behind another piece, because decoders strip the space of the first.
        if self._decoder is not None and not self._letters:
            token = self._decoder.decode(["a", token])[1:]
        return token.encode()

    def _from_prefixes(self, ids: list[int], text: str) -> list[Interval]:
        intervals, settled, reached = [], 0, 0
        for count in range(1, len(ids) + 1):
            prefix = self._decode(ids[:count])
            start = settled
            settled = max(settled, _common(prefix, text))
            reached = min(max(reached, settled + (len(prefix) > settled)), len(text))
            intervals.append((start, reached))
        return intervals


def _from_pieces(pieces: list[bytes], text: str) -> list[Interval] | None:
    # The intervals of pieces that make up the text but for spaces left out; None when they do not.
    data = b"".join(pieces)
    positions = _positions(data.decode(errors="replace"), text)
    if positions is None:
        return None
    starts = _character_starts(data)
    bounds = pairwise(accumulate(map(len, pieces), initial=0))
    # The character that the first byte is in, and the one behind the last byte's.
    return [
        (
            positions[bisect_right(starts, low) - 1 if low < len(data) else len(starts)],
            positions[bisect_left(starts, high)],
        )
        for low, high in bounds
    ]


def _positions(raw: str, text: str) -> Sequence[int] | None:
    # Where each character of `raw`, and its end, stands in `text`, which may lack some of its spaces.
    lead = len(raw) - len(text)
    if raw == " " * lead + text:
        return [*[0] * lead, *range(len(text) + 1)]
    positions, at = [], 0
    for character in raw:
        positions.append(at)
        if text[at : at + 1] == character:
            at += 1
        elif character != " ":
            return None
    return [*positions, at] if at == len(text) else None


def _character_starts(data: bytes) -> list[int]:
    # Where each character of data.decode(errors="replace") starts, in bytes.
    if "\ufffd" not in data.decode(errors="replace"):
        return [index for index, byte in enumerate(data) if byte & 0xC0 != 0x80]
    starts, start = [], 0
    while start < len(data):
        starts.append(start)
        # Two decoders agree here: an invalid sequence is replaced up to the byte that makes it so.
        length = _LENGTHS.get(data[start], 1)
        try:
            data[start : start + length].decode()
        except UnicodeDecodeError as error:
            length = error.end
        start += length
    return starts


def _common(left: str, right: str) -> int:
    # Length of the common beginning.
    if right.startswith(left):
        return len(left)
    pairs = enumerate(zip(left, right, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(left), len(right)))
