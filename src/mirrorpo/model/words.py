"""A small lossless word-level tokenizer, for models that are made here from nothing.

Pieces are words with their leading space, single digits, the calculator marks `<<` and `>>`, `####`, and
single other characters of any script, so that decode(encode(text)) == text for every text whose
pieces are in the vocabulary; other pieces become `<unk>`.
"""

import re
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

# A word takes the space before it, and the one after it when a digit follows, so that "has 18" is
# " has " + "1" + "8" and digits stay one token each.
PIECES = r" ?[A-Za-z]+(?: (?=\d))?|#### ?|<<|>>| ?[+\-*/=] ?|\d|[\s\S]"
SPECIAL = ("<pad>", "<eos>", "<unk>")


def word_tokenizer(corpus: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose vocabulary is the pieces of `corpus`, in sorted order after the special tokens.

    Example:
        >>> tokenizer = word_tokenizer(["Sam has 18 + 3 = <<18+3=21>>21 toys.\\n#### 21"])
        >>> tokenizer.decode(tokenizer("Sam has 38 toys.").input_ids)
        'Sam has 38 toys.'
    """
    pieces = {piece for text in corpus for piece in re.findall(PIECES, text)} | set("0123456789")
    vocabulary = {piece: index for index, piece in enumerate([*SPECIAL, *sorted(pieces)])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
