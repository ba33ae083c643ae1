"""Gradient and attention importances against finite differences and a plain pass."""

import pytest
import torch
from small_models import model, rollout

from mirrorpo.core.batch import RolloutBatch
from mirrorpo.model.saliency import attention_received, gradient_times_embedding

FIRSTS = [5, 1, 10, 13, 2, 6, 99, 0]


def score(
    network: torch.nn.Module, embeddings: torch.Tensor, prompt: int, answer: list[int], first: int
) -> torch.Tensor:
    table = (network(inputs_embeds=embeddings[None], use_cache=False).logits[0] / 0.7).log_softmax(dim=-1)
    return torch.stack(
        [table[prompt + position - 1, answer[position]] for position in range(first, len(answer))]
    ).sum()


def one(batch: RolloutBatch, row: int) -> tuple[list[int], list[int]]:
    return batch.prompt_ids[row][batch.prompt_present[row]].tolist(), batch.completion_ids[row][
        batch.present[row]
    ].tolist()


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_gradient_times_embedding_is_the_slope_of_the_score_as_a_tokens_embedding_is_scaled(
    kind: str,
) -> None:
    batch, lm = rollout(), model(kind)
    computed = gradient_times_embedding(lm, batch, FIRSTS, temperature=0.7, logit_chunk=5)
    for row in (0, 2, 4):
        prompt, answer = one(batch, row)
        embeddings = lm.network.get_input_embeddings()(torch.tensor(prompt + answer)).detach()
        for position in range(len(answer)):
            ends = []
            for step in (1e-2, -1e-2):
                moved = embeddings.clone()
                moved[len(prompt) + position] *= 1 + step
                with torch.no_grad():
                    ends.append(float(score(lm.network, moved, len(prompt), answer, FIRSTS[row])))
            slope = abs(ends[0] - ends[1]) / 2e-2
            assert float(computed[row, position]) == pytest.approx(slope, rel=2e-2, abs=2e-3)


def test_the_last_token_and_pads_have_no_importance_and_a_completion_without_an_answer_none_at_all() -> None:
    batch = rollout()
    computed = gradient_times_embedding(model("llama"), batch, FIRSTS, temperature=1.0, logit_chunk=64)
    lengths = batch.present.sum(dim=1)
    assert not any(bool(computed[row, length - 1 :].any()) for row, length in enumerate(lengths.tolist()))
    assert not bool(computed[6].any())


def test_no_gradient_is_left_on_the_parameters_and_the_mode_stays() -> None:
    lm = model("llama")
    lm.network.train()
    gradient_times_embedding(lm, rollout(), FIRSTS, temperature=1.0, logit_chunk=64)
    attention_received(lm, rollout(), FIRSTS)
    assert lm.network.training and all(parameter.grad is None for parameter in lm.network.parameters())
    assert lm.network.config._attn_implementation == "sdpa"
    lm.network.eval()


def test_attention_received_is_the_mean_over_layers_heads_and_the_places_that_predict_the_answer() -> None:
    batch, eager = rollout(), model("llama", "eager")
    computed = attention_received(model("llama"), batch, FIRSTS)
    for row in range(len(batch)):
        prompt, answer = one(batch, row)
        with torch.no_grad():
            layers = eager.network(
                torch.tensor([prompt + answer]), output_attentions=True, use_cache=False
            ).attentions
        queries = range(len(prompt) + FIRSTS[row] - 1, len(prompt) + len(answer) - 1)
        for token in range(len(answer)):
            expected = sum(
                float(layer[0, :, position, len(prompt) + token].mean())
                for layer in layers
                for position in queries
            ) / max(len(layers) * len(queries), 1)
            assert float(computed[row, token]) == pytest.approx(expected, abs=1e-5)
