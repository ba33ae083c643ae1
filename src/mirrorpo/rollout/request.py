"""A request in vLLM's words, in this process or over HTTP, and its answers as completions."""

from collections.abc import Sequence

from mirrorpo.core.batch import Completion, RolloutRequest
from mirrorpo.core.protocols import GenerativeModel
from mirrorpo.core.seeds import derive
from mirrorpo.rollout.weights import network_config

ABSENT = "is not installed in this environment; vLLM pins its own torch, so make one for it: docs/vllm.md"


def sampling_settings(
    request: RolloutRequest, model: GenerativeModel, group: int, top_p: float
) -> dict[str, object]:
    """Of one group, in the words that vLLM's `SamplingParams` and its HTTP API share.

    vLLM gives completion i of a request the seed + i, so that a completion depends on its place.
    """
    seed = derive(request.seed, "sampling", group)
    if request.seeds is not None:
        seed = derive(request.seeds[group], "sampling")
    greedy, vocabulary = request.temperature == 0, network_config(model).get_text_config().vocab_size
    return {
        # vLLM refuses several greedy completions of a prompt; they would be the same.
        "n": 1 if greedy else request.group_size,
        "max_tokens": request.max_new_tokens,
        "temperature": request.temperature,
        "top_p": 1.0 if greedy else top_p,
        # A model's generation config may cut the distribution further; the trainer would not know.
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        # One bit less, so that seed + i is still one of 63.
        "seed": seed >> 1,
        "logprobs": 0,
        # The ends are this project's, not those of vLLM's own tokenizer.
        "ignore_eos": True,
        "stop_token_ids": sorted(end for end in model.eos_ids if end < vocabulary),
    }


def group_completions(
    request: RolloutRequest,
    model: GenerativeModel,
    group: int,
    answers: Sequence[tuple[Sequence[int], Sequence[float]]],
) -> list[Completion]:
    """A group's completions from vLLM's ids and log-probabilities.

    Raises:
        ValueError: if one ends early without an end-of-sequence token: the engine's context is too short.
    """
    prompt, prompt_ids = request.prompts[group], request.prompt_ids[group]
    out: list[Completion] = []
    for ids, logprobs in answers:
        truncated = not (ids and ids[-1] in model.eos_ids)
        if truncated and len(ids) < request.max_new_tokens:
            raise ValueError(
                f"rollout.max_model_len: vLLM stopped a completion at {len(ids)} of "
                f"{request.max_new_tokens} tokens behind a prompt of {len(prompt_ids)}; its context is too "
                "short, set rollout.max_model_len (a server's --max-model-len) to the sum of both or more"
            )
        # The distribution that a greedy token was taken from has one token.
        scores = [0.0] * len(ids) if request.temperature == 0 else list(logprobs)
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
    return out * request.group_size if request.temperature == 0 else out
