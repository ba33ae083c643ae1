"""Every architecture of the table, read in every way, against `transformers`: exact, or refused in a line.

Gold everywhere: the network alone, one unpadded row at a time, no cache, no position ids; on more tokens than
the self-test at load has, which so is seen to let nothing wrong through.
"""

import copy
import inspect
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from completions import completion_of
from torch import Tensor

from mirrorpo.core.batch import Completion, Prompt, RolloutRequest
from mirrorpo.core.cut import Cut
from mirrorpo.distributed.fsdp import full_state_dict
from mirrorpo.model.adapter import with_adapter
from mirrorpo.model.cuts import read_cuts
from mirrorpo.model.forward import read_completions
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import Pretrained, reference
from mirrorpo.model.prompt import PlainPrompt
from mirrorpo.model.saliency import attention_received, gradient_times_embedding
from mirrorpo.rollout.collate import collate
from mirrorpo.rollout.native import Native
from mirrorpo.rollout.weights import merged
from mirrorpo.tools.model_table import ADAPTER, EOS, PAD, VOCABULARY, architectures, loaded
from mirrorpo.train.model_check import WAYS, checked, model_check

# Warnings of transformers and peft about what a small shape lacks.
pytestmark = pytest.mark.filterwarnings("ignore")

T = 0.7
PROMPTS = [[5, 2, 7], [9] * 8, [4, 6, 3, 12, 6]]
CUTS = [
    Cut(row=row, start=start, end=end, first=first, last=last)
    for row, start, end, first, last in (
        (0, 0, 1, 1, 9), (0, 3, 5, 6, 7), (2, 2, 9, 9, 14), (2, 4, 6, 10, 12), (5, 1, 4, 4, 11),
        (7, 1, 4, 8, 9), (1, 0, 1, 1, 2),
    )
]  # fmt: skip
LONGEST = 8 + 20


def completions() -> list[Completion]:
    draw = random.Random(0)
    return [
        completion_of(
            [draw.randrange(2, VOCABULARY - 6) for _ in range(length)],
            group=group,
            prompt_ids=PROMPTS[prompt],
        )
        for group, prompt, lengths in ((3, 0, (9, 2)), (0, 1, (14, 14, 5)), (7, 2, (11,)), (8, 0, (6, 9)))
        for length in lengths
    ]


def plain(network: Any, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
    ids = torch.tensor([[*prompt, *answer]])
    logits = (
        network(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0].float() / T
    )
    return logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None]).squeeze(1)


def naive_cut(network: Any, done: Completion, cut: Cut, masking: str) -> Tensor:
    prompt, answer = list(done.prompt_ids), list(done.ids)
    tokens = [(len(prompt) + i, token, i) for i, token in enumerate(answer)]
    if masking == "direct" and cut.first == cut.end:
        masking = "block"
    if masking == "pad":
        tokens = [(p, PAD if cut.start <= i < cut.end else token, i) for p, token, i in tokens]
    elif masking != "direct":
        tokens = [entry for entry in tokens if not cut.start <= entry[2] < cut.end]
    ids = torch.tensor([[*prompt, *(token for _, token, _ in tokens)]])
    mask, named = torch.ones_like(ids), {}
    if masking == "direct":
        seen = torch.ones(ids.shape[1], ids.shape[1]).tril().bool()
        seen[len(prompt) + cut.first - 1 :, len(prompt) + cut.start : len(prompt) + cut.end] = False
        mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
    takes_positions = "position_ids" in inspect.signature(type(network.get_decoder()).forward).parameters
    assert takes_positions or masking != "block"
    if takes_positions and masking in ("block", "direct"):
        named = {"position_ids": torch.tensor([[*range(len(prompt)), *(p for p, _, _ in tokens)]])}
    with torch.no_grad():
        logits = network(input_ids=ids, attention_mask=mask, use_cache=False, **named).logits[0].float() / T
    at = {i: len(prompt) + place - 1 for place, (_, _, i) in enumerate(tokens)}
    table = logits.log_softmax(-1)
    return torch.stack([table[at[i], answer[i]] for i in range(cut.first, cut.last)])


def gradient(network: Any, read: Callable[[], Tensor]) -> Tensor:
    trained = [p for p in network.parameters() if p.requires_grad]
    parts = torch.autograd.grad(read(), trained, allow_unused=True)
    pairs = zip(parts, trained, strict=True)
    return torch.cat([(torch.zeros_like(p) if part is None else part).flatten() for part, p in pairs])


class Matrix:
    """The columns of one architecture, each the largest gap; a column that is closed is not asked for."""

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.alone = model, copy.deepcopy(model.causal_lm).eval()
        self.done = completions()
        self.batch = collate(self.done, [0.0] * len(self.done), pad_id=PAD, mask_truncated=False)
        self.factors = torch.linspace(-1, 1, int(self.batch.present.sum()))
        with torch.no_grad():
            self.gold = [plain(self.alone, c.prompt_ids, c.ids) for c in self.done]

    def read(self, **settings: Any) -> Tensor:
        return read_completions(self.model, self.batch, temperature=T, logit_chunk=5, **settings)[0].logprobs

    def padded(self) -> float:
        with torch.no_grad():
            gap = float((self.read() - torch.cat(self.gold)).abs().max())
        return max(gap, self.gradient_gap(self.batch, self.factors, ()))

    def train(self) -> float:
        self.model.network.train()
        with torch.no_grad():
            ours = self.read()
        self.model.network.eval()
        return float((ours - torch.cat(self.gold)).abs().max())

    def gradient_gap(self, batch: Any, factors: Tensor, rows: Sequence[int]) -> float:
        network, alone = self.model.network, self.alone
        ours = gradient(
            network,
            lambda: (
                read_completions(self.model, batch, temperature=T, logit_chunk=5, rows_per_forward=rows)[
                    0
                ].logprobs
                * factors
            ).sum(),
        )
        parts = self.factors.split([len(c.ids) for c in self.done])
        pairs = list(zip(self.done, parts, strict=True))
        theirs = gradient(
            alone,
            lambda: torch.stack([(plain(alone, c.prompt_ids, c.ids) * f).sum() for c, f in pairs]).sum(),
        )
        return float((ours - theirs).norm() / theirs.norm())

    def shared(self) -> float:
        order = self.batch.present.sum(1).argsort(descending=True, stable=True)
        placed = torch.zeros(self.batch.present.shape)
        placed[self.batch.present] = self.factors
        batch = self.batch.rows(order)
        factors = placed[order][:, : batch.present.shape[1]][batch.present]
        return max(self.gradient_gap(batch, factors, rows) for rows in ((8,), (3, 5)))

    def sample(self) -> float:
        engine = Native(rows_at_once=4, compact_at=0.25, check_every=3, cache_block=5, top_p=1.0)
        request = RolloutRequest(
            prompts=[Prompt(uid=str(i), question="", gold="", demonstration="") for i in range(3)],
            prompt_ids=PROMPTS, group_size=3, max_new_tokens=20, temperature=T, seed=0,
        )  # fmt: skip
        with torch.no_grad():
            return max(
                float((plain(self.alone, c.prompt_ids, list(c.ids)) - torch.tensor(c.logprobs)).abs().max())
                for c in engine.generate(self.model, request)
            )

    def cut(self, masking: Any) -> float:
        before, after = read_cuts(self.model, self.batch, CUTS, masking=masking, temperature=T, logit_chunk=5)
        gaps = []
        for n, cut in enumerate(CUTS):
            read = slice(cut.first, cut.last)
            gaps.append(
                (after[n, read] - naive_cut(self.alone, self.done[cut.row], cut, masking)).abs().max()
            )
            gaps.append((before[cut.row, read] - self.gold[cut.row][read]).abs().max())
        return float(torch.stack(gaps).max())

    def firsts(self) -> list[int]:
        return [max(len(c.ids) - 2, 0) for c in self.done]

    def gradient(self) -> float:
        ours = gradient_times_embedding(self.model, self.batch, self.firsts(), temperature=T, logit_chunk=5)
        gaps = []
        for row, (done, first) in enumerate(zip(self.done, self.firsts(), strict=True)):
            kept: list[Tensor] = []

            def leaf(_m: Any, _i: Any, output: Tensor, kept: list[Tensor] = kept) -> Tensor:
                kept.append(output.detach().requires_grad_())
                return kept[-1]

            with self.alone.get_input_embeddings().register_forward_hook(leaf):
                score = plain(self.alone, done.prompt_ids, done.ids)[first:].sum()
            (slope,) = torch.autograd.grad(score, kept)
            theirs = (slope * kept[0]).sum(-1).abs()[0, -len(done.ids) :]
            gaps.append((ours[row, : len(done.ids)] - theirs).abs().max() / theirs.max().clamp(min=1e-6))
        return float(torch.stack(gaps).max())

    def attention(self) -> float:
        ours = attention_received(self.model, self.batch, self.firsts())
        implementation, gaps = self.alone.config._attn_implementation, []
        self.alone.set_attn_implementation("eager")
        for row, (done, first) in enumerate(zip(self.done, self.firsts(), strict=True)):
            ids = torch.tensor([[*done.prompt_ids, *done.ids]])
            start, stop = len(done.prompt_ids), ids.shape[1] - 1
            with torch.no_grad():
                layers = self.alone(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    output_attentions=True,
                    use_cache=False,
                ).attentions
            layers = [
                layer[0].mean(0)[start + first - 1 : stop, start:].mean(0)
                for layer in layers
                if layer is not None
            ]
            gaps.append((ours[row, : len(done.ids)] - torch.stack(layers).mean(0)).abs().max())
        self.alone.set_attn_implementation(implementation)
        return float(torch.stack(gaps).max())

    def merge(self) -> float:
        adapted = with_adapter(loaded_copy(self.model), ADAPTER, 0)
        ids = torch.tensor([[5, 9, 4, 7, 13, 2]])
        with torch.no_grad():
            for name, parameter in adapted.network.named_parameters():
                if "lora_B" in name:
                    parameter.add_(
                        0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
                    )
            off = reference(adapted)
            with off.computing():
                start = float(
                    (off.network(input_ids=ids).logits - self.alone(input_ids=ids).logits).abs().max()
                )
            live = adapted.network(input_ids=ids).logits
            other = copy.deepcopy(self.alone)
            result = other.load_state_dict(dict(merged(adapted)), strict=False)
            assert not result.unexpected_keys
            # A head that is tied goes by its first name.
            weights = other.state_dict()
            pointers = [tensor.data_ptr() for tensor in weights.values()]
            assert all(pointers.count(weights[name].data_ptr()) > 1 for name in result.missing_keys)
            assert float((live - self.alone(input_ids=ids).logits).abs().max()) > 1e-3, "no effect"
            return max(start, float((other(input_ids=ids).logits - live).abs().max()))

    def saved(self, folder: Path) -> float:
        ids, model = torch.tensor([[5, 9, 4, 7, 13, 2]]), loaded_copy(self.model)
        with torch.no_grad():
            for parameter in model.network.parameters():
                parameter.add_(
                    0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
                )
            live = model.network(input_ids=ids).logits
            model.save(folder, full_state_dict(model.network))
            again = Pretrained(
                path=str(folder), revision=None, dtype="float32", lora=None, gradient_checkpointing=False,
                attention=model.causal_lm.config._attn_implementation, prompt=PlainPrompt(instruct=False),
            ).load(torch.device("cpu"), 0, lambda: [])  # fmt: skip
            return float((again.network(input_ids=ids).logits - live).abs().max())


def loaded_copy(model: LanguageModel) -> LanguageModel:
    return replace(model, network=copy.deepcopy(model.network))


TOLERANCES = {"padded": 2e-3, "merge": 2e-3, "pad": 5e-3, "block": 5e-3, "delete": 5e-3, "direct": 5e-3}


def verdicts(name: str, folder: Path) -> dict[str, str]:
    """Of each column: ok, refused with the reason, WRONG with the gap, or CRASH."""
    try:
        model = loaded(name)
        model.check_context(LONGEST)
        checked(model, [], shared_prefix="never", train_noise=None)
    except ValueError as error:
        return {way: f"refused: {error}" for way in (*WAYS, "saved")}
    matrix, closed = Matrix(model), dict(model_check(model, WAYS).closed)
    if "merge" not in closed:
        closed |= model_check(with_adapter(loaded_copy(model), ADAPTER, 0), ["merge"]).closed
    maskings = ("pad", "block", "delete", "direct")
    columns: dict[str, Callable[[], float]] = {
        "padded": matrix.padded, "train": matrix.train, "shared": matrix.shared, "sample": matrix.sample,
        "gradient": matrix.gradient, "attention": matrix.attention, "merge": matrix.merge,
        "saved": partial(matrix.saved, folder),
    } | {masking: partial(matrix.cut, masking) for masking in maskings}  # fmt: skip
    out = {}
    for way, column in columns.items():
        if way in closed:
            out[way] = f"refused: {closed[way]}"
            continue
        try:
            gap = column()
            out[way] = "ok" if gap < TOLERANCES.get(way, 1e-3) else f"WRONG {gap:.1e}"
        except Exception as error:
            out[way] = f"CRASH {type(error).__name__}: {error}"
    return out


NAMES = list(architectures())


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if n % 10 == 3 else pytest.mark.slow) for n, name in enumerate(NAMES)],
)
def test_an_architecture_is_read_exactly_or_refused_in_a_line(name: str, tmp_path: Path) -> None:
    table = verdicts(name, tmp_path)
    assert set(table) == {*WAYS, "saved"}
    assert not {way: verdict for way, verdict in table.items() if verdict.startswith(("WRONG", "CRASH"))}
    assert all("\n" not in verdict for verdict in table.values())


def test_the_special_ids_of_the_table_are_those_of_the_models() -> None:
    model = loaded("llama")
    assert model.eos_ids == {EOS} and model.pad_id == PAD
