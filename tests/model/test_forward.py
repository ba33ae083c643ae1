"""From padded batches to per-token quantities, against the network's logits on single unpadded sequences."""

from collections.abc import Sequence

import pytest
import torch
from completions import completion_of
from engines import tiny
from torch import Tensor

from mirrorpo.core.batch import OF_ANCHOR, RolloutBatch
from mirrorpo.model.anchored import VocabularyReader
from mirrorpo.model.forward import completion_hidden, per_token, read_completions
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.rollout.collate import collate

# Prompts and completions of unequal length; one completion contains the pad id, one is a single token.
SEQUENCES: Sequence[tuple[Sequence[int], Sequence[int]]] = [
    ([5, 6, 7, 8, 9], [10, 3, 1]),
    ([4], [9, 9, 0, 5, 12, 6]),
    ([11, 3, 8], [1]),
    ([7, 7], [2, 13]),
]
# Rotary positions are relative: only GPT-2's tell a shifted position.
NETWORKS = pytest.mark.parametrize(
    ("model_type", "attention"), [("qwen3", "sdpa"), ("qwen3", "eager"), ("gpt2", "sdpa")]
)


def batch_of(sequences: Sequence[tuple[Sequence[int], Sequence[int]]] = SEQUENCES) -> RolloutBatch:
    completions = [
        completion_of(ids, group=i, prompt_ids=prompt, uid=str(i))
        for i, (prompt, ids) in enumerate(sequences)
    ]
    return collate(completions, [0.0] * len(completions), pad_id=0, mask_truncated=False)


def wider(batch: RolloutBatch, *, left: int = 0, right: int = 0, fill: int = 0) -> RolloutBatch:
    """The batch with more padding, `fill` in every padded place."""

    def padded(values: Tensor, fill: int | float, where: tuple[int, int]) -> Tensor:
        return torch.nn.functional.pad(values, where, value=fill)

    prompt_present, present = (
        padded(batch.prompt_present, False, (left, 0)),
        padded(batch.present, False, (0, right)),
    )
    return batch.with_(
        prompt_present=prompt_present,
        prompt_ids=padded(batch.prompt_ids, fill, (left, 0)).masked_fill(~prompt_present, fill),
        present=present,
        completion_ids=padded(batch.completion_ids, fill, (0, right)).masked_fill(~present, fill),
        **{
            name: padded(getattr(batch, name), fill, (0, right))
            for name, fill in (
                ("mask", False),
                ("deciding", False),
                ("sampler_logprobs", 0.0),
                ("old_logprobs", 0.0),
                ("anchor_logprobs", 0.0),
            )
        },
        **{name: torch.nn.functional.pad(getattr(batch, name), (0, 0, 0, right)) for name in OF_ANCHOR},
    )


def logprobs(model: LanguageModel, batch: RolloutBatch, temperature: float = 1.0) -> Tensor:
    return per_token(
        read_completions(model, batch, temperature=temperature, logit_chunk=3)[0].logprobs, batch
    )


def single(
    model: LanguageModel, prompt: Sequence[int], ids: Sequence[int], temperature: float = 1.0
) -> Tensor:
    """Log-probabilities of a completion from the network's own logits on the bare sequence."""
    with torch.no_grad():
        logits = model.network(input_ids=torch.tensor([[*prompt, *ids]])).logits[0]
    out = []
    for index, token in enumerate(ids):
        predicted_by = len(prompt) + index - 1
        out.append(torch.log_softmax(logits[predicted_by] / temperature, dim=0)[token])
    return torch.stack(out)


def gradient(model: LanguageModel, batch: RolloutBatch) -> list[Tensor]:
    factors = torch.arange(1.0, 1 + int(batch.present.sum()))
    head_outputs, _ = read_completions(model, batch, temperature=1.0, logit_chunk=3)
    model.network.zero_grad()
    (head_outputs.logprobs * factors).sum().backward()
    return [parameter.grad.clone() for parameter in model.network.parameters()]


@NETWORKS
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_each_token_is_scored_by_the_position_before_it(
    model_type: str, attention: str, temperature: float
) -> None:
    model = tiny(model_type, attention)
    scored = logprobs(model, batch_of(), temperature)
    for row, (prompt, ids) in enumerate(SEQUENCES):
        torch.testing.assert_close(
            scored[row, : len(ids)].detach(), single(model, prompt, ids, temperature), rtol=1e-5, atol=1e-5
        )


def test_entropy_is_that_of_the_sampling_distribution() -> None:
    model = tiny()
    head_outputs, _ = read_completions(model, batch_of(), temperature=0.6, logit_chunk=3)
    prompt, ids = SEQUENCES[0]
    with torch.no_grad():
        logits = model.network(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    p = torch.softmax(logits / 0.6, dim=-1)
    torch.testing.assert_close(
        head_outputs.entropy[: len(ids)], -(p * p.log()).sum(dim=-1), rtol=1e-5, atol=1e-5
    )


@NETWORKS
@pytest.mark.parametrize(("left", "right"), [(4, 0), (0, 5), (3, 2)])
def test_more_padding_changes_no_logprob(model_type: str, attention: str, left: int, right: int) -> None:
    model, batch = tiny(model_type, attention), batch_of()
    padded = logprobs(model, wider(batch, left=left, right=right))
    torch.testing.assert_close(
        padded[:, : batch.present.shape[1]], logprobs(model, batch), rtol=1e-5, atol=1e-5
    )
    assert not padded[:, batch.present.shape[1] :].any()


@NETWORKS
def test_more_padding_changes_no_gradient(model_type: str, attention: str) -> None:
    model, batch = tiny(model_type, attention), batch_of()
    torch.testing.assert_close(
        gradient(model, wider(batch, left=3, right=2)), gradient(model, batch), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("fill", [0, 1, 12])
def test_the_ids_in_padded_places_are_not_read(fill: int) -> None:
    model, batch = tiny(), batch_of()
    torch.testing.assert_close(
        logprobs(model, wider(batch, left=2, right=2, fill=fill))[:, : batch.present.shape[1]],
        logprobs(model, batch),
        rtol=1e-5,
        atol=1e-5,
    )


def test_the_order_of_the_batch_changes_no_logprob() -> None:
    model, batch = tiny(), batch_of()
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        logprobs(model, batch_of([SEQUENCES[i] for i in order.tolist()])),
        logprobs(model, batch)[order],
        rtol=1e-5,
        atol=1e-5,
    )


def test_rows_taken_from_a_batch_score_as_in_the_batch() -> None:
    model, batch = tiny(), batch_of()
    index = torch.tensor([3, 0])
    taken = logprobs(model, batch.rows(index))
    torch.testing.assert_close(taken, logprobs(model, batch)[index, : taken.shape[1]], rtol=1e-5, atol=1e-5)


def test_a_pad_id_inside_a_completion_is_an_ordinary_token() -> None:
    batch = batch_of()
    assert int(batch.completion_ids[1, 2]) == 0
    assert float(logprobs(tiny(), batch)[1, 2].detach()) < 0


@NETWORKS
def test_pads_bring_no_nan_into_logprobs(model_type: str, attention: str) -> None:
    assert logprobs(tiny(model_type, attention), wider(batch_of(), left=6, right=6)).isfinite().all()


@NETWORKS
def test_pads_bring_no_nan_into_a_gradient(model_type: str, attention: str) -> None:
    assert all(
        part.isfinite().all()
        for part in gradient(tiny(model_type, attention), wider(batch_of(), left=6, right=6))
    )


def test_a_later_token_changes_no_earlier_logprob() -> None:
    model = tiny()
    prompt, ids = SEQUENCES[1]
    changed = [*ids[:3], 7, *ids[4:]]
    before, after = (
        logprobs(model, batch_of([(prompt, ids)]))[0],
        logprobs(model, batch_of([(prompt, changed)]))[0],
    )
    assert torch.equal(before[:3], after[:3])
    assert (before[3:] != after[3:]).all()


def test_hidden_states_predict_the_token_they_stand_at() -> None:
    model, batch = tiny(), batch_of()
    log_p = model.head(1.0)(completion_hidden(model, batch).flatten(0, 1)).view(*batch.present.shape, -1)
    at_tokens = log_p.gather(2, batch.completion_ids[:, :, None]).squeeze(2)
    torch.testing.assert_close(at_tokens[batch.present], logprobs(model, batch)[batch.present])


def test_read_completions_returns_the_hidden_states_behind_the_readings() -> None:
    model, batch = tiny(), batch_of()
    assert torch.equal(
        read_completions(model, batch, temperature=1.0, logit_chunk=3)[1], completion_hidden(model, batch)
    )


def test_only_real_tokens_are_projected() -> None:
    head_outputs, _ = read_completions(
        tiny(), wider(batch_of(), left=2, right=9), temperature=1.0, logit_chunk=3
    )
    assert head_outputs.logprobs.shape == (sum(len(ids) for _, ids in SEQUENCES),)


def exact_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def beside(anchor: LanguageModel, batch: RolloutBatch) -> VocabularyReader:
    hidden = completion_hidden(anchor, batch)[batch.present]
    return VocabularyReader(reader=exact_kl, gradient=None, head=anchor.head(0.6), hidden=hidden)


def test_a_reader_sees_the_anchor_at_the_same_token() -> None:
    policy, anchor, batch = tiny(), tiny(seed=1), batch_of()
    with torch.no_grad():
        head_outputs, _ = read_completions(
            policy, batch, temperature=0.6, logit_chunk=3, reader=beside(anchor, batch)
        )
        expected = []
        for prompt, ids in SEQUENCES:
            p, q = (
                torch.log_softmax(
                    m.network(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
                    / 0.6,
                    -1,
                )
                for m in (policy, anchor)
            )
            expected.append(exact_kl(p, q))
    torch.testing.assert_close(head_outputs.reader_output, torch.cat(expected), rtol=1e-4, atol=1e-5)


def test_a_policy_that_is_its_own_anchor_diverges_by_zero() -> None:
    model, batch = tiny(), batch_of()
    with torch.no_grad():
        head_outputs, _ = read_completions(
            model, batch, temperature=0.6, logit_chunk=3, reader=beside(model, batch)
        )
    assert not head_outputs.reader_output.any()


def test_per_token_puts_values_at_real_tokens_in_row_order() -> None:
    batch = batch_of([([3], [4, 5]), ([3], [4]), ([3], [4, 5, 6])])
    assert per_token(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), batch).tolist() == [
        [1, 2, 0],
        [3, 0, 0],
        [4, 5, 6],
    ]


def test_per_token_passes_the_gradient_to_the_value_it_placed() -> None:
    batch = batch_of([([3], [4, 5]), ([3], [4])])
    values = torch.zeros(3, requires_grad=True)
    (per_token(values, batch) * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1, 2, 3]


def test_a_completion_without_tokens_scores_nothing() -> None:
    model = tiny()
    scored = logprobs(model, batch_of([([3, 4], []), ([5], [6, 7])]))
    assert not scored[0].any()
    torch.testing.assert_close(scored[1].detach(), single(model, [5], [6, 7]), rtol=1e-5, atol=1e-5)


def test_a_batch_without_tokens_is_connected_with_a_zero_gradient() -> None:
    model, batch = tiny(), batch_of([([3, 4], [5])])
    batch = batch.with_(present=torch.zeros_like(batch.present))
    logprobs(model, batch).sum().backward()
    assert not any(
        parameter.grad.any() for parameter in model.network.parameters() if parameter.grad is not None
    )
