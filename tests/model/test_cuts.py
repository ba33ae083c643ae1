"""Shared prefixes, suffixes side by side and the attention mask against one plain forward pass a cut, without
a cache.
"""

import random
from dataclasses import replace

import pytest
import torch
from small_models import PAD, model, rollout

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.core.cut import Cut, Masking
from mirrorpo.model.cuts import read_cuts
from mirrorpo.model.forward import completion_hidden
from mirrorpo.model.language_model import LanguageModel


def cuts(batch: RolloutBatch) -> list[Cut]:
    """At the edges, next to what is read, overlapping, many in one completion, none in others; unordered."""
    out = [
        Cut(row=0, start=0, end=1, first=1, last=9),
        Cut(row=0, start=0, end=8, first=8, last=9),
        Cut(row=0, start=3, end=5, first=6, last=7),
        Cut(row=1, start=0, end=1, first=1, last=2),
        Cut(row=2, start=12, end=13, first=13, last=14),
        Cut(row=2, start=2, end=9, first=9, last=14),
        Cut(row=2, start=4, end=6, first=10, last=12),
        Cut(row=5, start=1, end=4, first=4, last=11),
        Cut(row=7, start=1, end=4, first=8, last=9),
    ]
    random.Random(1).shuffle(out)
    return out


def naive(
    model: LanguageModel, batch: RolloutBatch, cut: Cut, masking: Masking | None, temperature: float
) -> torch.Tensor:
    prompt = batch.prompt_ids[cut.row][batch.prompt_present[cut.row]].tolist()
    answer = batch.completion_ids[cut.row][batch.present[cut.row]].tolist()
    tokens = [(len(prompt) + place, token, place) for place, token in enumerate(answer)]
    if masking == "direct" and cut.first == cut.end:
        # Nothing stands between.
        masking = "block"
    if masking == "pad":
        tokens = [
            (position, PAD if cut.start <= place < cut.end else token, place)
            for position, token, place in tokens
        ]
    elif masking == "block" or masking == "delete":
        tokens = [entry for entry in tokens if not cut.start <= entry[2] < cut.end]
    if masking == "delete":
        tokens = [(len(prompt) + index, token, place) for index, (_, token, place) in enumerate(tokens)]
    ids = torch.tensor([[*prompt, *(token for _, token, _ in tokens)]])
    positions = torch.tensor([[*range(len(prompt)), *(position for position, _, _ in tokens)]])
    sees = torch.ones_like(ids)
    if masking == "direct":
        # The token before the first one read, and all behind it, do not see the span.
        seen = torch.ones(ids.shape[1], ids.shape[1]).tril().bool()
        seen[len(prompt) + cut.first - 1 :, len(prompt) + cut.start : len(prompt) + cut.end] = False
        sees = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
    with torch.no_grad():
        # Without a mask, transformers takes a jump in the positions for the start of another sequence.
        table = (
            model.network(input_ids=ids, attention_mask=sees, position_ids=positions, use_cache=False).logits[
                0
            ]
            / temperature
        ).log_softmax(dim=-1)
    at = {place: len(prompt) + index - 1 for index, (_, _, place) in enumerate(tokens)}
    return torch.stack([table[at[place], answer[place]] for place in range(cut.first, cut.last)])


@pytest.mark.parametrize("masking", ["pad", "block", "delete", "direct"])
@pytest.mark.parametrize(
    ("kind", "attention"), [("llama", "sdpa"), ("llama", "eager"), ("qwen3", "sdpa"), ("gpt2", "eager")]
)
def test_every_cut_reads_what_a_forward_pass_of_its_own_gives(
    kind: str, attention: str, masking: Masking
) -> None:
    batch = rollout()
    before, after = read_cuts(
        model(kind, attention), batch, cuts(batch), masking=masking, temperature=0.7, logit_chunk=5
    )
    for index, cut in enumerate(cuts(batch)):
        here = slice(cut.first, cut.last)
        torch.testing.assert_close(
            after[index, here], naive(model(kind), batch, cut, masking, 0.7), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            before[cut.row, here], naive(model(kind), batch, cut, None, 0.7), rtol=1e-4, atol=1e-4
        )
        assert not bool(after[index, : cut.first].any()) and not bool(after[index, cut.last :].any())


def test_what_stands_between_the_span_and_what_is_read_or_behind_it_cannot_see_the_cut_of_another_span() -> (
    None
):
    # The same cut, alone and beside others of its completion.
    batch = rollout()
    _, together = read_cuts(
        model("llama"), batch, cuts(batch), masking="pad", temperature=1.0, logit_chunk=64
    )
    for index, cut in enumerate(cuts(batch)):
        _, alone = read_cuts(model("llama"), batch, [cut], masking="pad", temperature=1.0, logit_chunk=64)
        torch.testing.assert_close(together[index], alone[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masking", ["pad", "block", "delete", "direct"])
def test_rows_and_padding_change_nothing_beyond_rounding(masking: Masking) -> None:
    batch = rollout()
    _, after = read_cuts(model("qwen3"), batch, cuts(batch), masking=masking, temperature=1.0, logit_chunk=64)
    for index, cut in enumerate(cuts(batch)):
        alone = batch.rows(torch.tensor([cut.row]))
        moved = Cut(row=0, start=cut.start, end=cut.end, first=cut.first, last=cut.last)
        _, single = read_cuts(
            model("qwen3"), alone, [moved], masking=masking, temperature=1.0, logit_chunk=64
        )
        torch.testing.assert_close(single[0], after[index, : single.shape[1]], rtol=1e-5, atol=1e-5)


def test_it_runs_without_dropout_and_leaves_the_mode_and_the_gradients_as_they_were() -> None:
    dropping = model("llama", attention_dropout=0.5)
    dropping.network.train()
    batch = rollout()
    one = read_cuts(dropping, batch, cuts(batch), masking="pad", temperature=1.0, logit_chunk=64)
    two = read_cuts(dropping, batch, cuts(batch), masking="pad", temperature=1.0, logit_chunk=64)
    assert torch.equal(one[1], two[1]) and not one[1].requires_grad
    assert dropping.network.training


def test_log_probabilities_are_of_the_float32_head_where_the_rest_computes_in_bfloat16() -> None:
    half = replace(model("llama"), dtype=torch.bfloat16)
    before, _ = read_cuts(half, rollout(), cuts(rollout()), masking="pad", temperature=1.0, logit_chunk=64)
    with half.computing():
        states = completion_hidden(half, rollout())
    cut = cuts(rollout())[0]
    expected = (
        half.head(1.0)(states[cut.row])[cut.first : cut.last]
        .gather(1, rollout().completion_ids[cut.row, cut.first : cut.last, None])
        .squeeze(1)
    )
    torch.testing.assert_close(before[cut.row, cut.first : cut.last], expected, rtol=0, atol=0.05)
    # In bfloat16 every number would be one of a few.
    intact = before[before != 0]
    assert not torch.equal(intact.to(torch.bfloat16).float(), intact)


def test_a_model_that_forgets_what_is_outside_a_window_is_refused() -> None:
    windowed = model("qwen3", windowed=True)
    batch = rollout()
    with pytest.raises(ValueError, match="window"):
        read_cuts(windowed, batch, cuts(batch), masking="pad", temperature=1.0, logit_chunk=64)


@pytest.mark.parametrize("masking", ["pad", "block", "delete", "direct"])
def test_no_pass_is_wider_than_the_batch_or_leaves_the_places_of_its_tokens(masking: Masking) -> None:
    batch, seen = rollout(), []
    decoder = model("llama").causal_lm.get_decoder()
    handle = decoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((kwargs["input_ids"], kwargs["position_ids"])), with_kwargs=True
    )
    many = [cut for cut in cuts(batch) for _ in range(2)]
    _, after = read_cuts(model("llama"), batch, many, masking=masking, temperature=1.0, logit_chunk=64)
    handle.remove()
    longest = int((batch.prompt_present.sum(dim=1) + batch.present.sum(dim=1)).max())
    assert len(seen) > 4
    for ids, positions in seen:
        assert len(ids) <= len(batch) and ids.shape[1] <= batch.present.shape[1]
        assert int(positions.min()) >= 0 and int(positions.max()) < longest
    torch.testing.assert_close(after[::2], after[1::2], rtol=1e-5, atol=1e-5)
