"""The screen finds the questions that a model was made to know by heart, and no others."""

from collections.abc import Sequence

import pytest
import torch
from completions import completion_of
from small_models import model_of, network_of

from mirrorpo.core.batch import Completion, Prompt, RolloutRequest
from mirrorpo.core.protocols import GenerativeModel
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.words import word_tokenizer
from mirrorpo.rollout.native import Native
from mirrorpo.train.contamination import SPARE_TOKENS, screen, split_question

KNOWN = ["ann has two red pears and eats one now", "bob sells nine old hats to four tall men"]
UNKNOWN = ["bob eats two old pears and sells four hats", "ann has four tall men now to nine red one"]


def prompts(questions: Sequence[str]) -> list[Prompt]:
    return [Prompt(uid=text, question=text, gold="", demonstration="") for text in questions]


def taught(questions: Sequence[str]) -> LanguageModel:
    """A network that was trained on some texts until it could say them."""
    tokenizer = word_tokenizer([*KNOWN, *UNKNOWN])
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    network = network_of("llama", vocab_size=len(tokenizer), **shape)
    ids = torch.tensor([tokenizer(text).input_ids for text in questions])
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        network(input_ids=ids, labels=ids).loss.backward()
        optimiser.step()
    return model_of(network, tokenizer, frozenset({tokenizer.eos_token_id}), tokenizer.pad_token_id)


def test_what_was_learned_by_heart_is_completed_and_nothing_else() -> None:
    engine = Native(rows_at_once=8, compact_at=0.5, check_every=1, cache_block=8, top_p=1.0)
    screening = screen(taught(KNOWN), engine, prompts([*KNOWN, *UNKNOWN]))
    assert [row["exact"] for row in screening.rows] == [True, True, False, False]
    assert screening.metrics["contamination/exact"] == 0.5
    assert screening.metrics["contamination/questions"] == 4
    overlaps = [row["overlap"] for row in screening.rows]
    assert overlaps[:2] == [1.0, 1.0] and max(overlaps[2:]) < 1
    assert screening.metrics["contamination/overlap"] == sum(overlaps) / 4


class Parrot:
    """An engine that writes what it was given, and keeps what it was asked."""

    samples, serves_remotely = True, False

    def __init__(self, *texts: str) -> None:
        self.texts, self.request = texts, None

    def generate(self, model: GenerativeModel, request: RolloutRequest) -> Sequence[Completion]:
        self.request = request
        return [completion_of([3], group=group, text=text) for group, text in enumerate(self.texts)]


def test_the_rest_is_compared_letter_by_letter_up_to_the_first_difference() -> None:
    question = "Tom has 3 pears and eats 1. How many are left?"
    written = {
        " How many are left? Answer: 2": (True, 1.0),
        "How many are left?": (True, 1.0),
        "\nHow many are there?": (False, 13 / 18),
        "How  many are left?": (False, 4 / 18),
        "": (False, 0.0),
    }
    model, engine = model_of(network_of("gpt2", n_embd=8, n_layer=1, n_head=1)), Parrot(*written)
    # A question without a rest has nothing to be completed.
    rows = screen(model, engine, prompts([*[question] * len(written), "?"])).rows
    assert [(row["exact"], row["overlap"]) for row in rows] == list(written.values())
    assert {(row["given"], row["rest"]) for row in rows} == {split_question(question)}
    request = engine.request
    assert request is not None and request.temperature == 0 and request.group_size == 1
    # In the tokens of the model's own tokenizer, which has five words here, without a template.
    assert request.max_new_tokens == len(model.tokenizer("How many are left?").input_ids) + SPARE_TOKENS
    assert list(request.prompt_ids[0]) == model.tokenizer("Tom has 3 pears and eats 1.").input_ids


def test_a_question_is_cut_at_a_word_and_without_words_at_a_letter() -> None:
    cases = {
        "one two three four five": ("one two three", "four five"),
        "  one\ntwo three\n\nfour five ": ("one\ntwo three", "four five"),
        "甲乙丙丁戊己庚辛壬癸": ("甲乙丙丁戊己", "庚辛壬癸"),
        "a bcdefghijklmnopqrs": ("a bcdefghijk", "lmnopqrs"),
        "?": ("", "?"),
        "": ("", ""),
    }
    for text, halves in cases.items():
        assert split_question(text) == halves, text


def test_questions_of_which_none_can_be_cut_are_refused_by_the_setting() -> None:
    model = model_of(network_of("gpt2", n_embd=8, n_layer=1, n_head=1))
    with pytest.raises(ValueError, match="contamination_questions=1: none of these"):
        screen(model, Parrot(), prompts(["?"]))
