"""What is asked of vLLM for a prompt, in this process or over HTTP, and its answers as completions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mirrorpo.core.batch import Completion, Prompt
from mirrorpo.core.protocols import GenerativeModel
from mirrorpo.core.seeds import derive
from mirrorpo.rollout.weights import plain

ABSENT = "is not installed in this environment; vLLM pins its own torch, so make one for it: docs/vllm.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One rollout's settings.

    Attributes:
        group_size: completions of a prompt.
        max_new_tokens: longest completion.
        temperature: 0 is greedy.
        top_p: nucleus sampling.
        seed: of the call.
    """

    group_size: int
    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int

    def settings(self, model: GenerativeModel, group: int) -> dict[str, Any]:
        """Of group `group`, in the words that vLLM's `SamplingParams` and its HTTP API share.

        vLLM gives completion i of a request the seed + i, so that a completion depends on its place.
        """
        greedy, vocabulary = self.temperature == 0, plain(model).config.get_text_config().vocab_size
        return {
            # vLLM refuses several greedy completions of a prompt; they would be the same.
            "n": 1 if greedy else self.group_size,
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": 1.0 if greedy else self.top_p,
            # A model's generation config may cut the distribution further; the trainer would not know.
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            # One bit less, so that seed + i is still one of 63.
            "seed": derive(self.seed, "sampling", group) >> 1,
            "logprobs": 0,
            # The ends are this project's, not those of vLLM's own tokenizer.
            "ignore_eos": True,
            "stop_token_ids": sorted(end for end in model.eos_ids if end < vocabulary),
        }

    def completions(
        self,
        model: GenerativeModel,
        prompt: Prompt,
        prompt_ids: Sequence[int],
        group: int,
        answers: Sequence[tuple[Sequence[int], Sequence[float]]],
    ) -> list[Completion]:
        """A group's completions from vLLM's ids and log-probabilities.

        Raises:
            ValueError: if one ends early without an end-of-sequence token: the engine's context is too short.
        """
        out: list[Completion] = []
        for ids, logprobs in answers:
            truncated = not (ids and ids[-1] in model.eos_ids)
            if truncated and len(ids) < self.max_new_tokens:
                raise ValueError(
                    f"rollout.max_model_len: vLLM stopped a completion at {len(ids)} of "
                    f"{self.max_new_tokens} tokens "
                    f"behind a prompt of "
                    f"{len(prompt_ids)}; its context is too short, set rollout.max_model_len (a server's "
                    f"--max-model-len) to the sum of "
                    f"both or more"
                )
            # The distribution that a greedy token was taken from has one token.
            scores = [0.0] * len(ids) if self.temperature == 0 else list(logprobs)
            out.append(
                Completion(
                    uid=prompt.uid,
                    group=group,
                    prompt_ids=prompt_ids,
                    ids=list(ids),
                    logprobs=scores,
                    text=model.decode(ids),
                    truncated=truncated,
                )
            )
        return out * self.group_size if self.temperature == 0 else out
