"""The dataset's demonstrations in place of samples: what turns a trainer of policies into supervised
fine-tuning.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mirrorpo.core.batch import Completion, RolloutRequest
from mirrorpo.core.network import Tokenizer
from mirrorpo.core.protocols import GenerativeModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Demonstrations:
    """Each prompt's demonstration, closed by the end-of-sequence token, `group_size` times.

    Nothing is sampled: log-probabilities are NaN and the seed is not read. A demonstration longer
    than `max_new_tokens` is cut there and counts as truncated.
    """

    samples: ClassVar[bool] = False
    serves_remotely: ClassVar[bool] = False

    def generate(self, model: GenerativeModel, request: RolloutRequest) -> Sequence[Completion]:
        """The demonstrations, in order."""
        completions: list[Completion] = []
        for group in request.groups:
            prompt, ids = request.prompts[group], request.prompt_ids[group]
            target = demonstration_ids(model.tokenizer, prompt.demonstration)
            completion_ids = target[: request.max_new_tokens]
            completion = Completion(
                uid=prompt.uid,
                group=group,
                prompt_ids=ids,
                ids=completion_ids,
                logprobs=[math.nan] * len(completion_ids),
                text=model.decode(completion_ids),
                truncated=len(completion_ids) < len(target),
            )
            completions += [completion] * request.group_size
        return completions


def demonstration_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a demonstration, closed by the end-of-sequence token."""
    end = tokenizer.eos_token_id
    assert end is not None
    return [*tokenizer(text, add_special_tokens=False).input_ids, end]
