"""A question in tokens: chat templates without a second BOS, plain text, and prompts that must be refused."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from mirrorpo.core.batch import Example
from mirrorpo.model.prompt import ChatPrompt, PlainPrompt
from mirrorpo.model.words import word_tokenizer

CONF = Path(__file__).parents[2] / "conf/model"
SYSTEM, USER, QUESTION = "Work step by step.", "Solve: {question}", "What is 2 + 2?"

# The shape of Qwen3's template: the flag is on unless it is switched off, and off means an empty block.
QWEN = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + "
    "'<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- if "
    "enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif "
    "%}{%- endif %}"
)
# The shape of Llama 3.2's: a BOS, and today's date unless one is given.
LLAMA = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') "
    "%}{%- endif %}{{- '<|im_start|>system\\nToday Date: ' + date_string + '\\n' }}{%- if messages[0].role "
    "== 'system' %}{{- messages[0].content }}{%- set messages = messages[1:] %}{%- endif %}{{- "
    "'<|im_end|>\\n' }}{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + "
    "message.content + '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{- "
    "'<|im_start|>assistant\\n' }}{%- endif %}"
)


def byte_tokenizer(template: str | None = None, single: str = "$A") -> Any:
    """One token a byte; `single` says which special tokens it puts around a text."""
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({piece: index for index, piece in enumerate([*special, *alphabet])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", additional_special_tokens=special[2:]
    )
    tokenizer.chat_template = template
    return tokenizer


def chat(
    tokenizer: Any, template: dict[str, Any], system: str = SYSTEM, user: str = USER, question: str = QUESTION
) -> Any:
    return ChatPrompt(template=template)(tokenizer, system=system, user=user, question=question)


def plain(
    tokenizer: Any, instruct: bool, system: str = SYSTEM, user: str = USER, question: str = QUESTION
) -> Any:
    return PlainPrompt(instruct=instruct)(tokenizer, system=system, user=user, question=question)


def test_chat_ids_hold_one_bos_though_the_tokenizer_would_add_another() -> None:
    tokenizer = byte_tokenizer(LLAMA, single="<s> $A")
    ids = chat(tokenizer, {"date_string": "26 Jul 2024"}).ids
    assert list(ids).count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer("a").input_ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize(
    ("template", "variables"),
    [(QWEN, {"enable_thinking": False}), (LLAMA, {"date_string": "26 Jul 2024"})],
    ids=["qwen", "llama"],
)
def test_chat_ids_are_those_of_the_template(template: str, variables: dict[str, Any]) -> None:
    tokenizer = byte_tokenizer(template, single="<s> $A </s>")
    turns = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"Solve: {QUESTION}"}]
    expected = tokenizer.apply_chat_template(
        turns, tokenize=True, add_generation_prompt=True, return_dict=False, **variables
    )
    assert chat(tokenizer, variables).ids == expected


def test_chat_text_and_ids_say_the_same() -> None:
    tokenizer = byte_tokenizer(QWEN)
    rendered = chat(tokenizer, {})
    assert tokenizer.decode(rendered.ids) == rendered.text


def test_a_chat_ends_where_the_answer_begins() -> None:
    assert chat(byte_tokenizer(QWEN), {}).text == (
        "<|im_start|>system\nWork step by step.<|im_end|>\n<|im_start|>user\nSolve: What is 2 + "
        "2?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_turn_marks_are_single_tokens() -> None:
    tokenizer = byte_tokenizer(QWEN)
    assert list(chat(tokenizer, {}).ids).count(2) == 3


EXAMPLES = [Example(question="1 + 1?", answer="#### 2"), Example(question="1 + 2?", answer="#### 3")]


def test_examples_are_turns_of_a_chat_and_paragraphs_of_plain_text() -> None:
    tokenizer = byte_tokenizer(QWEN)
    prompt = {"system": SYSTEM, "user": USER, "question": QUESTION, "examples": EXAMPLES}
    turns = [{"role": "system", "content": SYSTEM}]
    for user, answer in (("1 + 1?", "#### 2"), ("1 + 2?", "#### 3"), (QUESTION, "")):
        turns.append({"role": "user", "content": USER.replace("{question}", user)})
        turns += [{"role": "assistant", "content": answer}] if answer else []
    expected = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert ChatPrompt(template={})(tokenizer, **prompt).text == expected
    assert PlainPrompt(instruct=False)(tokenizer, **prompt).text == (
        f"1 + 1?\n#### 2\n\n1 + 2?\n#### 3\n\n{QUESTION}\n"
    )
    assert PlainPrompt(instruct=True)(tokenizer, **prompt).text.startswith(
        f"{SYSTEM}\n\n{USER.replace('{question}', '1 + 1?')}\n#### 2\n\n"
    )


def test_an_example_whose_answer_the_template_drops_is_refused() -> None:
    silent = byte_tokenizer(
        "{% for m in messages %}{% if m.role != 'assistant' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    with pytest.raises(ValueError, match=r"dataset\.shots: the chat template leaves the answer '#### 2' out"):
        ChatPrompt(template={})(silent, system="", user=USER, question=QUESTION, examples=EXAMPLES)


def test_without_a_system_text_there_is_no_system_turn() -> None:
    assert "system" not in chat(byte_tokenizer(QWEN), {}, system="").text


def test_thinking_off_puts_in_the_empty_block() -> None:
    assert chat(byte_tokenizer(QWEN), {"enable_thinking": False}).text.endswith(
        "assistant\n<think>\n\n</think>\n\n"
    )


@pytest.mark.parametrize("variables", [{}, {"enable_thinking": True}])
def test_thinking_is_on_unless_it_is_switched_off(variables: dict[str, Any]) -> None:
    assert chat(byte_tokenizer(QWEN), variables).text.endswith("assistant\n")


@pytest.mark.parametrize("name", ["qwen", "qwen3_0_6b"])
def test_the_qwen3_configs_switch_thinking_off(name: str) -> None:
    prompt = instantiate(OmegaConf.load(CONF / f"{name}.yaml").prompt, _convert_="all")
    assert prompt(byte_tokenizer(QWEN), system="", user=USER, question=QUESTION).text.endswith(
        "<think>\n\n</think>\n\n"
    )


def test_a_given_date_stands_in_for_todays() -> None:
    assert "Today Date: 26 Jul 2024\n" in chat(byte_tokenizer(LLAMA), {"date_string": "26 Jul 2024"}).text


# The shape of SmolLM3's: the date is the clock's, whatever variables are given.
ALWAYS_TODAY = "\n {{- '<s>' }}Today: {{ strftime_now('%d %B %Y') }}\n{{ messages[-1].content }}"


@pytest.mark.parametrize("template", [LLAMA, ALWAYS_TODAY, {"default": LLAMA, "rag": QWEN}])
def test_a_template_that_reads_the_clock_is_refused(template: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^model\.prompt\.template: .* reads the clock.*strftime_now"
    ) as error:
        chat(byte_tokenizer(template), {})
    assert "\n" not in str(error.value)


def test_a_text_may_stand_for_the_clock() -> None:
    assert "Today Date: 26 July 2024\n" in chat(byte_tokenizer(LLAMA), {"strftime_now": "26 July 2024"}).text
    text = chat(byte_tokenizer(ALWAYS_TODAY), {"strftime_now": "{{ 26 }}"}, system="").text
    # But for the date it is what the template writes anyway, blanks included.
    todays = byte_tokenizer(ALWAYS_TODAY).apply_chat_template(
        [{"role": "user", "content": f"Solve: {QUESTION}"}], tokenize=False
    )
    assert text == todays.replace(f"{datetime.now().astimezone():%d %B %Y}", "{{ 26 }}")


def test_a_template_whose_text_does_not_depend_on_the_clock_is_no_matter() -> None:
    unused = "{% if strftime_now is defined %}{% set today = strftime_now('%Y') %}{% endif %}" + QWEN
    assert chat(byte_tokenizer(unused), {}).text == chat(byte_tokenizer(QWEN), {}).text


@pytest.mark.parametrize("name", ["llama", "llama3_2_1b"])
def test_the_llama_configs_fix_the_date(name: str) -> None:
    prompt = instantiate(OmegaConf.load(CONF / f"{name}.yaml").prompt, _convert_="all")
    assert (
        "Today Date: 26 Jul 2024\n"
        in prompt(byte_tokenizer(LLAMA), system="", user=USER, question=QUESTION).text
    )


@pytest.mark.parametrize("question", ["Is {x} in {1, 2}?", "{question}", "{"])
def test_braces_of_a_question_are_text(question: str) -> None:
    assert f"Solve: {question}<|im_end|>" in chat(byte_tokenizer(QWEN), {}, question=question).text


@pytest.mark.parametrize(
    "render",
    [lambda t, user: chat(t, {}, user=user), lambda t, user: plain(t, True, user=user)],
    ids=["chat", "plain"],
)
def test_other_braces_of_the_users_text_are_text(render: Any) -> None:
    assert (
        r"2 + 2? Put the answer in \boxed{}."
        in render(byte_tokenizer(QWEN), r"{question} Put the answer in \boxed{}.").text
    )


def test_chat_without_a_template_is_refused_naming_plain_prompt() -> None:
    with pytest.raises(ValueError, match=r"model\.prompt.*mirrorpo\.model\.prompt\.PlainPrompt"):
        chat(byte_tokenizer(None), {})


def test_a_plain_question_is_the_question_and_a_line_break() -> None:
    tokenizer = byte_tokenizer()
    rendered = plain(tokenizer, instruct=False)
    assert rendered.text == "What is 2 + 2?\n"
    assert tokenizer.decode(rendered.ids) == rendered.text


def test_plain_instructions_come_before_the_answer_separated_by_blank_lines() -> None:
    assert plain(byte_tokenizer(), instruct=True).text == "Work step by step.\n\nSolve: What is 2 + 2?\n"


def test_plain_instructions_without_a_system_text_leave_no_blank_lines() -> None:
    assert plain(byte_tokenizer(), instruct=True, system="").text == "Solve: What is 2 + 2?\n"


def test_a_bare_question_ignores_the_instructions() -> None:
    assert (
        plain(byte_tokenizer(), instruct=False, system="a", user="b").ids
        == plain(byte_tokenizer(), instruct=False).ids
    )


def test_plain_text_uses_no_template() -> None:
    assert plain(byte_tokenizer(QWEN), instruct=True).ids == plain(byte_tokenizer(None), instruct=True).ids


def closed(single: str) -> Sequence[int]:
    return plain(byte_tokenizer(single=single), instruct=False).ids


def test_plain_text_keeps_the_tokenizers_bos() -> None:
    assert closed("<s> $A") == [0, *closed("$A")]


def test_a_closing_eos_is_dropped() -> None:
    assert closed("$A </s>") == closed("$A")


def test_a_closing_eos_is_dropped_and_the_bos_kept() -> None:
    assert closed("<s> $A </s>") == closed("<s> $A")


@pytest.mark.parametrize("instruct", [True, False])
def test_unknown_words_are_refused_naming_the_prompt_and_what_was_read(instruct: bool) -> None:
    tokenizer = word_tokenizer(["Sam has 2 toys\n"])
    with pytest.raises(ValueError, match=r"vocabulary lacks words.*Zoe has 2 toys.*<unk> has 2 toys"):
        plain(tokenizer, instruct, system="", user="{question}", question="Zoe has 2 toys")


def test_known_words_are_not_refused() -> None:
    tokenizer = word_tokenizer(["Sam has 2 toys\n"])
    assert tokenizer.decode(plain(tokenizer, False, question="Sam has 2 toys").ids) == "Sam has 2 toys\n"


# As they are found: content wanted as a list, no place for a system text, a system role refused.
LISTS = (
    "{% for m in messages %}{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}{% endif %}"
    "{% endfor %}{% endfor %}"
)
NO_SYSTEM = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content | trim }}{% endif %}{% endfor %}"
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"


@pytest.mark.parametrize(
    ("template", "changes", "said"),
    [
        (LISTS, {"system": ""}, r"model\.prompt: the prompt .* leaves the question out; give another"),
        (NO_SYSTEM, {}, r"dataset\.system='Work step by step\.': the chat template leaves it out"),
        (REFUSES + NO_SYSTEM, {}, r"model\.prompt: .*System role not supported.*dataset\.system=''"),
        (
            "{{ nothing.at_all }}" + NO_SYSTEM,
            {"system": ""},
            r"model\.prompt: .* template refuses the prompt",
        ),
        (QWEN, {"user": "Solve it."}, r"leaves the question out; write \{question\} into dataset\.user"),
    ],
)
def test_a_prompt_that_lacks_what_was_put_in_is_refused(template: str, changes: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        chat(byte_tokenizer(template), {}, **changes)


def test_a_template_may_lay_white_space_as_it_likes() -> None:
    text = chat(byte_tokenizer(NO_SYSTEM), {}, system="", question="What is\n  2 + 2? ").text
    assert text == "Solve: What is\n  2 + 2?"


def test_a_plain_prompt_without_tokens_is_refused() -> None:
    tokenizer = byte_tokenizer(single="$A")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex(r"[\s\S]"), "")
    with pytest.raises(ValueError, match=r"model\.prompt: the prompt .* has no tokens"):
        plain(tokenizer, instruct=False)
