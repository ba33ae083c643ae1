"""A question as the tokens a model is given: with its chat template, or as plain text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jinja2 import TemplateError

from mirrorpo.core.batch import Example
from mirrorpo.core.network import Tokenizer

# What chat templates call to have the time, and a definition that stands before a template in its place.
CLOCK = "strftime_now"
SET_CLOCK = "{% macro strftime_now(format) %}{{ clock_reading }}{% endmacro %}\n"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """A prompt as text and as ids."""

    text: str
    ids: Sequence[int]


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatPrompt:
    """System and user turn through the tokenizer's chat template, ending where the answer begins.

    Attributes:
        template: variables of the template, passed on as they are: `enable_thinking: false` for
            Qwen3, `date_string` for Llama 3.2, whose template otherwise prints today's date.
            `strftime_now` is a text that stands wherever the template would ask the clock.
    """

    template: Mapping[str, object]

    def __call__(
        self, tokenizer: Tokenizer, *, system: str, user: str, question: str, examples: Sequence[Example] = ()
    ) -> Rendered:
        if not tokenizer.chat_template:
            raise ValueError(
                "model.prompt is ChatPrompt, but the tokenizer has no chat template: use "
                "mirrorpo.model.prompt.PlainPrompt"
            )
        # A tokenizer may have several templates, by name.
        unused = sorted(name for name in self.template if name not in str(tokenizer.chat_template))
        if unused:
            raise ValueError(
                f"model.prompt.template: this tokenizer's chat template reads no {', '.join(unused)}; it "
                f"would be ignored silently"
            )
        turns = [{"role": "system", "content": system}] if system else []
        for example in examples:
            turns.append({"role": "user", "content": user.replace("{question}", example.question)})
            turns.append({"role": "assistant", "content": example.answer})
        turns.append({"role": "user", "content": user.replace("{question}", question)})
        try:
            text = self._rendered(tokenizer, turns)
        except TemplateError as error:
            cure = "set dataset.system='', which has the dataset's words" if system else "give another model"
            raise ValueError(
                f"model.prompt: the tokenizer's chat template refuses the prompt ({error}); {cure}, or use "
                "model.prompt._target_=mirrorpo.model.prompt.PlainPrompt"
            ) from error
        # The template has written the special tokens already; adding them again would double the BOS.
        ids = tokenizer(text, add_special_tokens=False).input_ids
        shown = Rendered(text=text, ids=ids)
        return _verified(shown, system=system, question=question, user=user, examples=examples)

    def _rendered(self, tokenizer: Tokenizer, turns: Sequence[Mapping[str, str]]) -> str:
        def render(**variables: object) -> str:
            return tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, **variables
            )

        if CLOCK not in str(tokenizer.chat_template):
            return render(**self.template)
        template = SET_CLOCK + tokenizer.get_chat_template()
        variables = {name: value for name, value in self.template.items() if name != CLOCK}
        readings = [self.template[CLOCK]] * 2 if CLOCK in self.template else ["1999", "2077"]
        text, later = (
            render(chat_template=template, clock_reading=reading, **variables) for reading in readings
        )
        if text != later:
            raise ValueError(
                "model.prompt.template: this tokenizer's chat template reads the clock, so that another day "
                "gives other prompts; set the date, by a variable of the template such as date_string or by "
                "'+model.prompt.template.strftime_now=\"26 July 2024\"'"
            )
        return text


@dataclass(frozen=True, kw_only=True, slots=True)
class PlainPrompt:
    """Plain text and a line break, for models without a template.

    Attributes:
        instruct: put the dataset's system and user texts in; False gives the bare question.
    """

    instruct: bool

    def __call__(
        self, tokenizer: Tokenizer, *, system: str, user: str, question: str, examples: Sequence[Example] = ()
    ) -> Rendered:
        turn = user if self.instruct else "{question}"
        parts = [system if self.instruct else ""]
        for example in examples:
            parts.append(f"{turn.replace('{question}', example.question)}\n{example.answer}")
        parts.append(turn.replace("{question}", question))
        text = "\n\n".join(part for part in parts if part) + "\n"
        ids = list(tokenizer(text).input_ids)
        if ids and ids[-1] == tokenizer.eos_token_id:
            # Some tokenizers close every text; a prompt stays open.
            ids = ids[:-1]
        if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
            unknown = tokenizer.decode(ids)
            raise ValueError(
                f"this model's vocabulary lacks words of the prompt {text!r} (reads it as {unknown!r}): "
                "choose another model or dataset"
            )
        shown = Rendered(text=text, ids=ids)
        return _verified(shown, system=parts[0], question=question, user=user, examples=examples)


def _verified(
    rendered: Rendered, *, system: str, question: str, user: str, examples: Sequence[Example]
) -> Rendered:
    # A template may want its content in another form, or have no place for a system text, and say nothing.
    text = " ".join(rendered.text.split())
    if " ".join(question.split()) not in text:
        cure = (
            "give another model.prompt"
            if "{question}" in user
            else "write {question} into dataset.user, where the question is to stand"
        )
        raise ValueError(f"model.prompt: the prompt {rendered.text!r} leaves the question out; {cure}")
    if " ".join(system.split()) not in text:
        raise ValueError(
            f"dataset.system={system!r}: the chat template leaves it out; set dataset.system='' and put the "
            "text into dataset.user, or give another model.prompt"
        )
    answers = [example.answer for example in examples]
    if lost := [answer for answer in answers if " ".join(answer.split()) not in text]:
        raise ValueError(
            f"dataset.shots: the chat template leaves the answer {lost[0]!r} out; shorten it to what is no "
            "thinking, or put the examples into dataset.user"
        )
    if not rendered.ids:
        raise ValueError(
            f"model.prompt: the prompt {rendered.text!r} has no tokens; give another model.prompt or question"
        )
    return rendered
