"""Which training prompts have to be tokenised to know that they fit into the model."""

from collections.abc import Sequence

from mirrorpo.core.batch import Prompt
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.prompt import Rendered

# A tokenizer may normalise: the character that grows most, U+FDFA, becomes 33 bytes of its 3.
GROWTH = 11


def to_measure(
    policy: LanguageModel, prompts: Sequence[Prompt], example: Rendered, user: str, answer: int
) -> list[Prompt]:
    """Prompts that could leave no room for an answer; of the others no tokenizer makes that many tokens.

    A token is a byte at least. Where the tokenizer has a token for what it does not know, every prompt has to
    be read anyway, to refuse those that it does not know.

    Args:
        policy: the model.
        prompts: to choose from.
        example: the first of them as the model sees it.
        user: turn of the dataset.
        answer: the most tokens of an answer.
    """
    if not prompts or policy.tokenizer.unk_token_id is not None:
        return list(prompts)
    frame = most_tokens(example.text) - most_tokens(prompts[0].question) + len(example.ids)
    times = max(1, user.count("{question}"))
    return [p for p in prompts if not _fits(policy, frame + times * most_tokens(p.question) + answer)]


def most_tokens(text: str) -> int:
    """No tokenizer makes more tokens of a text than this."""
    return len(text) if text.isascii() else GROWTH * len(text.encode())


def _fits(policy: LanguageModel, tokens: int) -> bool:
    try:
        policy.check_context(tokens)
    except ValueError:
        return False
    return True
