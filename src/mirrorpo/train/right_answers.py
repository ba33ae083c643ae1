"""How likely a policy finds right answers that it did not write: a smoother measure than accuracy.

    eval/right_answer_log_prob       = mean over answers y of log pi(y, end of sequence | x), in nats
    eval/right_answer_token_log_prob = the same sum over all of their tokens

The answers are the dataset's demonstrations of held-out questions, those that the run's own reward judges
right. A demonstration is one right answer of many: a policy that is always right in other words scores low.
"""

from collections.abc import Callable, Sequence

from mirrorpo.core.batch import Completion, Prompt, RolloutRequest
from mirrorpo.core.protocols import RewardFn
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.rollout.collate import collate
from mirrorpo.rollout.demonstrations import Demonstrations
from mirrorpo.train.old_policy import PolicyScorer


def right_answers(
    scorer: PolicyScorer,
    reward: RewardFn,
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
) -> Callable[[], dict[str, float]]:
    """What measures the policy of a scorer on the right demonstrations of some questions.

    Without prompts nothing is measured.

    Args:
        scorer: of the policy, at the temperature of its training.
        reward: that says which demonstrations are right.
        prompts: the questions.
        prompt_ids: them rendered.
        max_new_tokens: a longer demonstration is left out.

    Raises:
        ValueError: if no demonstration is right.
    """
    if not prompts:
        return dict
    right = _right(scorer.policy, reward, prompts, prompt_ids, max_new_tokens)
    batch = collate(right, [0.0] * len(right), pad_id=scorer.policy.pad_id, mask_truncated=False)
    tokens = int(batch.present.sum())

    def measured() -> dict[str, float]:
        total = float(scorer.logprobs(batch).double().sum())
        return {
            "eval/right_answers": float(len(right)),
            "eval/right_answer_log_prob": total / len(right),
            "eval/right_answer_token_log_prob": total / tokens,
        }

    return measured


def _right(
    model: LanguageModel,
    reward: RewardFn,
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[Sequence[int]],
    max_new_tokens: int,
) -> list[Completion]:
    request = RolloutRequest(
        prompts=prompts,
        prompt_ids=prompt_ids,
        group_size=1,
        max_new_tokens=max_new_tokens,
        temperature=0.0,
        seed=0,
    )
    answers = Demonstrations().generate(model, request)
    verdicts = reward([answer.text for answer in answers], prompts)
    right = [
        answer
        for answer, verdict in zip(answers, verdicts, strict=True)
        if verdict.correct and not answer.truncated
    ]
    if not right:
        raise ValueError(
            f"right_answer_questions={len(prompts)}: of their demonstrations of at most "
            f"eval_max_new_tokens={max_new_tokens} tokens the reward calls none right; set "
            "right_answer_questions=0"
        )
    return right
