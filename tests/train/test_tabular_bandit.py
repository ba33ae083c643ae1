"""Every algorithm with every divergence and every weighting trains, through the project's own step.

The policy is a pair of tables: the logits of five next tokens for the last token, and what each token
before that adds to them. A word is a line of reasoning or the mark of an answer, so that weightings find
something to weigh; an answer is right when it ends in time, with the mark behind a line that the question
asks for. What a policy earns is enumerated over all answers, not sampled. Two updates a rollout, so that
ratios act.

A pairwise cover of the axes' forms, and every file once, runs with every test run, the full product with the
slow ones; a new file of conf/ joins both by existing.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations, cycle, product
from types import SimpleNamespace
from typing import Any, NamedTuple

import jaxtyping
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from rows import CONF, forms, names, own_class, segment_weightings, settings_of, update_forms, weightings
from small_models import model_of
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from mirrorpo.config.schema import register, resolved
from mirrorpo.config.settings import UpdateSettings
from mirrorpo.core.batch import Completion, Prompt, RolloutBatch, RolloutRequest, Verdict, Visit
from mirrorpo.core.cut import Cut, Masking
from mirrorpo.core.masked import mean_one
from mirrorpo.core.protocols import SegmentCredit
from mirrorpo.core.seeds import derive
from mirrorpo.divergence.penalty import Penalty
from mirrorpo.divergence.potentials import HasPotential
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import reference
from mirrorpo.optim.adamw import AdamW
from mirrorpo.rollout.collate import collate
from mirrorpo.rollout.collector import Collector, Rollout
from mirrorpo.rollout.demonstrations import Demonstrations
from mirrorpo.rollout.prompt_order import DataOrder
from mirrorpo.tools.estimator_table import SHOWN, expectation
from mirrorpo.train.build import build_penalty, build_rollout, build_weighting
from mirrorpo.train.credit import TokenCredit, segment_credit
from mirrorpo.train.learner import Learner
from mirrorpo.train.old_policy import PolicyScorer
from mirrorpo.train.roller import StepRoller

AXES = ("algo", "divergence", "weighting")

ONE, TWO, TALK, MARK = "1 + 0 = 1\n", "1 + 1 = 2\n", "let me see\n", "####"
END, WORDS = 0, ("<eos>", ONE, TWO, TALK, MARK)
QUESTIONS = {"a": (ONE, TWO), "b": (TWO, TALK), "c": (TALK, ONE)}  # and what they ask for
PROMPTS = [
    Prompt(uid=name, question=name, gold="|".join(asked), demonstration=asked[0] + MARK)
    for name, asked in QUESTIONS.items()
]
PIECE = "|".join(map(re.escape, [*WORDS, *QUESTIONS]))
LONGEST = 4

SUBSETS = ("random_share", "random_share_of_spans", "random_share_stratified")
STEPS, UPDATES, GROUP, LR, SEED = 4, 2, 20, 1.2, 1
MUST_EARN, MUST_IMITATE = (
    0.5,
    0.8,
)  # at the start a question earns 0.32, and a demonstration has probability 0.12
# What a penalty holds: its expected gradient at the table's state, times beta, and steps short enough not to
# shoot past the anchor.
STRONG, SHORT_LR = 3.0, 0.4


@pytest.fixture(autouse=True, scope="module")
def unchecked() -> Iterator[None]:
    """Shapes are checked in every other suite; here that would be more than half of the time."""
    jaxtyping.config.update("jaxtyping_disable", True)
    with pytest.MonkeyPatch.context() as patch:
        # A function inside a function is decorated anew at every call.
        patch.setattr(jaxtyping, "jaxtyped", lambda **_: lambda function: function)
        yield
    jaxtyping.config.update("jaxtyping_disable", False)


# ---------------------------------------------------------------- the axes


class Arm(NamedTuple):
    algo: str
    divergence: str
    weighting: str


@cache
def choices() -> dict[tuple[str, str], Any]:
    """Every choice of every axis, and every algorithm's rollout engine. A composition takes as long as two
    trainings, so it serves all axes.
    """
    register()
    out: dict[tuple[str, str], Any] = {
        ("divergence", name): build_penalty(settings_of(name)) for name in names("divergence")
    }
    axes = {axis: names(axis) for axis in AXES if axis != "divergence"}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for index in range(max(map(len, axes.values()))):
            chosen = {axis: of_axis[index % len(of_axis)] for axis, of_axis in axes.items()}
            cfg = compose(
                "train", [*(f"{axis}={name}" for axis, name in chosen.items()), f"max_new_tokens={LONGEST}"]
            )
            nodes = resolved(cfg)
            out["algo", chosen["algo"]] = instantiate(nodes["algo"], _convert_="all")
            out["weighting", chosen["weighting"]] = build_weighting(nodes["weighting"])
            out["rollout", chosen["algo"]] = build_rollout(nodes["rollout"])[1]
    return out


def choice(axis: str, name: str) -> Any:
    return choices()[axis, name]


def engine(algo: str) -> Any:
    """The table's sampler, or what the algorithm has in a sampler's place."""
    own = choice("rollout", algo)
    return own if isinstance(own, Demonstrations) else TableSampler()


def pairwise_cover(axes: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Triples in which every two choices of different axes meet; as few as there can be.

    All pairs of the two longest axes, the third walked along the diagonals.
    """
    third, first, second = sorted(range(3), key=lambda axis: len(axes[axis]))
    out = []
    for (i, one), (j, other) in product(enumerate(axes[first]), enumerate(axes[second])):
        named = {first: one, second: other, third: axes[third][(i + j) % len(axes[third])]}
        out.append(tuple(named[axis] for axis in range(3)))
    return out


# ---------------------------------------------------------------- the world


def tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate([*WORDS, *QUESTIONS])}, unk_token="<eos>")
    )
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")


TOKENIZER = tokenizer()


class Tables(torch.nn.Module):
    """A causal language model whose hidden states are its logits, last[y_t] + sum_{s < t} before[y_s]."""

    def __init__(self) -> None:
        super().__init__()
        draw, (tokens, words) = torch.Generator().manual_seed(SEED), (len(WORDS) + len(QUESTIONS), len(WORDS))
        last, before = 0.3 * torch.randn(2, tokens, words, generator=draw)
        # A line, the mark, the end is likelier than any other order.
        last[: WORDS.index(MARK), WORDS.index(MARK)] += 1.5
        last[WORDS.index(MARK), END] += 2.5
        last[len(WORDS) :, [END, WORDS.index(MARK)]] -= 1.5
        self.config = PretrainedConfig()
        self.last, self.before = (
            torch.nn.Embedding.from_pretrained(table, freeze=False) for table in (last, before)
        )
        self.head = torch.nn.Linear(words, words, bias=False).requires_grad_(False)
        self.head.weight.copy_(torch.eye(words))

    def forward(self, *, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> Any:
        added = self.before(input_ids) * attention_mask[..., None]
        return SimpleNamespace(last_hidden_state=self.last(input_ids) + added.cumsum(dim=1) - added)

    def get_decoder(self) -> Any:
        return self

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self.last

    def get_output_embeddings(self) -> torch.nn.Linear:
        return self.head

    def set_attn_implementation(self, attn_implementation: str | None) -> None:
        pass


def fresh() -> LanguageModel:
    return model_of(Tables(), TOKENIZER, eos_ids=frozenset({END}), pad_id=END)


def log_p(model: LanguageModel, ids: Tensor) -> Tensor:
    """[rows, tokens, words]: what may follow each token."""
    with torch.no_grad():
        return model.hidden(ids, torch.ones_like(ids, dtype=torch.bool), ids).log_softmax(-1)


class TableSampler:
    """A rollout engine that draws all completions of prompts of one length side by side."""

    samples = True
    serves_remotely = False

    def generate(self, model: Any, request: RolloutRequest) -> list[Completion]:
        draw = torch.Generator().manual_seed(request.seed)
        of_length: dict[int, list[int]] = {}
        for group, prompt_ids in enumerate(request.prompt_ids):
            of_length.setdefault(len(prompt_ids), []).append(group)
        drawn = [self._drawn(model, request, groups, draw) for groups in of_length.values()]
        return sorted((completion for part in drawn for completion in part), key=lambda one: one.group)

    def _drawn(
        self, model: Any, request: RolloutRequest, groups: Sequence[int], draw: torch.Generator
    ) -> Iterator[Completion]:
        prompt_ids = [list(request.prompt_ids[group]) for group in groups]
        rows, logprobs = torch.tensor(prompt_ids).repeat_interleave(request.group_size, dim=0), []
        for _ in range(request.max_new_tokens):
            following = (log_p(model, rows)[:, -1] / request.temperature).log_softmax(-1)
            token = torch.multinomial(following.exp(), 1, generator=draw)
            rows = torch.cat([rows, token], dim=1)
            logprobs.append(following.gather(1, token))
        sampled = rows[:, len(prompt_ids[0]) :].tolist()
        for row, (ids, logs) in enumerate(zip(sampled, torch.cat(logprobs, dim=1).tolist(), strict=True)):
            group, kept = groups[row // request.group_size], until_end(ids)
            yield Completion(
                ids=kept,
                logprobs=logs[: len(kept)],
                uid=request.prompts[group].uid,
                group=group,
                prompt_ids=request.prompt_ids[group],
                text=model.decode(kept),
                truncated=END not in kept,
            )


def until_end(ids: Sequence[int]) -> list[int]:
    return list(ids[: ids.index(END) + 1] if END in ids else ids)


def is_right(text: str, question: str) -> bool:
    words = re.findall(PIECE, text)
    # Longer ones did not end in time.
    return len(words) in range(2, LONGEST) and words[-1] == MARK and words[-2] in QUESTIONS[question]


def judge(texts: Sequence[str], prompts: Sequence[Prompt]) -> list[Verdict]:
    right = [is_right(text, prompt.question) for text, prompt in zip(texts, prompts, strict=True)]
    return [
        Verdict(reward=float(ok), strict=ok, flexible=ok, correct=ok, outcome="right" if ok else "wrong")
        for ok in right
    ]


class Scorer(PolicyScorer):
    """The old policy; what a span or a token does is seen with pads in its place, for the tables have no
    attention to hide it from.
    """

    def cut(self, batch: RolloutBatch, cuts: Sequence[Cut], masking: Masking) -> tuple[Tensor, Tensor]:
        rows = batch.rows(torch.tensor([cut.row for cut in cuts]))
        ids = rows.completion_ids.clone()
        for row, cut in enumerate(cuts):
            ids[row, cut.start : cut.end] = END
        after = self.logprobs(rows.with_(completion_ids=ids))
        return self.logprobs(batch), torch.nn.functional.pad(
            after, (0, batch.present.shape[1] - after.shape[1])
        )

    def importance(self, batch: RolloutBatch, firsts: Sequence[int], signal: str) -> Tensor:
        lengths = batch.present.sum(dim=1).tolist()
        cuts = [
            Cut(row=row, start=t, end=t + 1, first=first, last=lengths[row])
            for row, first in enumerate(firsts)
            for t in range(first)
        ]
        before, after = self.cut(batch, cuts, "pad")
        out = torch.zeros(batch.present.shape)
        for index, cut in enumerate(cuts):
            out[cut.row, cut.start] = (before[cut.row] - after[index])[cut.first :].sum().abs()
        return out


def scorer(learner: Learner) -> Scorer:
    return Scorer(policy=learner.policy, forward=learner.old_policy.forward)


# ---------------------------------------------------------------- what a policy does, by enumeration

ANSWERS = sorted({tuple(until_end(ids)) for ids in product(range(len(WORDS)), repeat=LONGEST)})


@cache
def paths() -> tuple[Tensor, Tensor]:
    """Every question with every answer, as rows of tokens; and which tokens of the answer are there."""
    starts = [TOKENIZER(question).input_ids for question in QUESTIONS]
    rows = torch.tensor(
        [[*start, *ids, *[END] * (LONGEST - len(ids))] for start in starts for ids in ANSWERS]
    )
    return rows, torch.tensor([[place < len(ids) for place in range(LONGEST)] for ids in ANSWERS]).repeat(
        len(starts), 1
    )


def chances(model: LanguageModel) -> Tensor:
    """[questions, answers]: the probability of every answer."""
    rows, there = paths()
    of_tokens = log_p(model, rows[:, :-1]).gather(2, rows[:, 1:, None])[..., 0]
    return torch.where(there, of_tokens, 0.0).sum(dim=1).exp().view(-1, len(ANSWERS))


@cache
def rewards() -> Tensor:
    texts = [TOKENIZER.decode(ids, skip_special_tokens=True) for ids in ANSWERS]
    return torch.tensor(
        [[verdict.reward for verdict in judge(texts, [prompt] * len(texts))] for prompt in PROMPTS]
    )


def earned(model: LanguageModel) -> float:
    """Expected reward of a question."""
    return float((chances(model) * rewards()).sum(dim=1).mean())


def demonstrated(model: LanguageModel) -> float:
    """Mean probability of the demonstrations."""
    shown = [ANSWERS.index((*TOKENIZER(prompt.demonstration).input_ids, END)) for prompt in PROMPTS]
    return float(chances(model)[range(len(PROMPTS)), shown].mean())


def drift(model: LanguageModel) -> float:
    """Total variation of the answers from the start policy's, mean over questions."""
    return float((chances(model) - chances(fresh())).abs().sum(dim=1).mean() / 2)


# ---------------------------------------------------------------- training


def student(arm: Arm, penalty: Penalty) -> Learner:
    """A learner with fresh tables."""
    policy = fresh()
    return Learner(
        policy=policy,
        reference=reference(policy) if penalty.reads_reference else None,
        # An epsilon as large as a gradient: noise alone does not become a full step.
        optimiser=AdamW(betas=(0.9, 0.99), epsilon=0.03, weight_decay=0.0).build(policy.network),
        algo=choice("algo", arm.algo),
        penalty=penalty,
        weighting=choice("weighting", arm.weighting),
        settings=UpdateSettings(
            temperature=1.0,
            logit_chunk=1024,
            tokens_per_micro_batch=4096,
            tokens_per_call=None,
            shared_prefix="never",
            updates_per_rollout=UPDATES,
            update_window="whole",
            max_grad_norm=1.0,
        ),
    )


def rollouts(learner: Learner, engine: Any, steps: int = STEPS) -> Iterator[tuple[Rollout, RolloutBatch]]:
    """The rollout of every step and its batch, sampled from the tables as they then are."""
    collect, position = collector(learner, engine), 0
    for step in range(steps):
        rollout = collect(learner.policy, step, position)
        position = rollout.position
        yield rollout, collated(learner, rollout)


def collector(
    learner: Learner,
    engine: Any,
    order: Any = "shuffled",
    prompts_per_step: int = len(PROMPTS),
    group_size: int = GROUP,
) -> Collector:
    return Collector(
        engine=engine,
        reward=judge,
        rule=learner.algo.rollout_rule,
        render=lambda prompt: (prompt.question, TOKENIZER(prompt.question).input_ids),
        prompts=PROMPTS,
        order=DataOrder(size=len(PROMPTS), seed=SEED, order=order),
        prompts_per_step=prompts_per_step,
        group_size=group_size,
        max_new_tokens=LONGEST,
        temperature=1.0,
        seed=SEED,
    )


def collated(learner: Learner, rollout: Rollout) -> RolloutBatch:
    return collate(
        [answer.completion for answer in rollout.answers],
        [answer.reward for answer in rollout.answers],
        pad_id=learner.policy.pad_id,
        mask_truncated=learner.algo.rollout_rule.mask_truncated,
        # The first token decides, for a weighting that reads what does.
        deciding=[[(0, 1)]] * len(rollout.answers),
    )


def steps_of(arm: Arm) -> int:
    """A random subset leaves three of four tokens without credit, a different one each time."""
    return 3 * STEPS if arm.weighting in SUBSETS else STEPS


def train(arm: Arm, penalty: Penalty | None = None, lr: float = LR) -> LanguageModel:
    """The steps of `Trainer.train_step`; `Learner` raises if a loss, a gradient or a weight is not finite."""
    learner = student(arm, choice("divergence", arm.divergence) if penalty is None else penalty)
    for step, (rollout, sampled) in enumerate(rollouts(learner, engine(arm.algo), steps_of(arm))):
        scored = learner.rescore(sampled)
        learner.learn(scored, credited(learner, scored.batch, rollout, step), lrs=[lr] * UPDATES)
    return learner.policy


def credited(learner: Learner, batch: RolloutBatch, rollout: Rollout, step: int) -> TokenCredit:
    """As the learner credits, by this suite's scorer."""
    seed = derive(SEED, "weighting", step)
    if isinstance(learner.weighting, SegmentCredit):
        roller = StepRoller.of(learner.policy, collector(learner, TableSampler()), rollout, learner.meter)
        return segment_credit(learner.weighting, batch, scorer(learner), roller, seed)
    weights = mean_one(learner.weighting(batch, scorer(learner), seed), batch.mask)
    return TokenCredit(advantages=learner.algo.advantages(batch), weights=weights)


def shortfall(arm: Arm) -> str:
    """What an arm did not learn; empty if it did."""
    model = train(arm)
    if isinstance(engine(arm.algo), Demonstrations):
        likelihood = demonstrated(model)
        return (
            ""
            if likelihood > MUST_IMITATE
            else (
                f"{arm}: demonstrations have probability {likelihood:.2f}, at the start "
                f"{demonstrated(fresh()):.2f}"
            )
        )
    return (
        ""
        if earned(model) > MUST_EARN
        else f"{arm}: earns {earned(model):.2f}, at the start {earned(fresh()):.2f}"
    )


SINGLES, VISITS = 15, 20


@pytest.mark.parametrize(
    ("algo", "order"), [("spo", "shuffled"), ("kalman_baseline", "informative"), ("rloo", "shuffled")]
)
def test_a_tracked_baseline_learns_from_groups_of_one_and_tracks_what_is_earned(
    algo: str, order: str
) -> None:
    learner = student(Arm(algo, "none", "uniform"), choice("divergence", "none"))
    collect = collector(learner, TableSampler(), order=order, prompts_per_step=SINGLES, group_size=1)
    position, memory, start = 0, {}, earned(learner.policy)
    for step in range(VISITS):
        rollout = collect(learner.policy, step, position, learner.algo.value_of(memory))
        position = rollout.position
        scored = learner.rescore(collated(learner, rollout))
        visit = Visit(
            uids=[answer.prompt.uid for answer in rollout.answers], step=step, drift=0.0, memory=memory
        )
        credit = learner.credit(scored, step, visit)
        memory = credit.memory
        learner.learn(scored, credit, lrs=[LR / 2] * UPDATES)
    if algo == "rloo":
        # Its baseline is of the group's others.
        assert memory == {} and earned(learner.policy) == pytest.approx(start, abs=1e-6)
        return
    assert earned(learner.policy) > MUST_EARN
    of_questions = (chances(learner.policy) * rewards()).sum(dim=1).tolist()
    value_of = learner.algo.value_of(memory)
    assert value_of is not None
    for name, truth in zip(QUESTIONS, of_questions, strict=True):
        assert value_of(name) == pytest.approx(truth, abs=0.25), name


def test_the_answers_are_all_there_are_and_the_start_policy_earns_little():
    torch.testing.assert_close(chances(fresh()).sum(dim=1), torch.ones(len(QUESTIONS)))
    assert earned(fresh()) < 0.35 < MUST_EARN
    assert demonstrated(fresh()) < 0.13 < MUST_IMITATE


@pytest.mark.parametrize("name", weightings())
def test_every_weighting_has_something_to_weigh_here(name):
    learner = student(Arm("grpo", "none", name), choice("divergence", "none"))
    _, batch = next(rollouts(learner, TableSampler()))
    weights = mean_one(learner.weighting(batch, scorer(learner), 0), batch.mask)
    uneven = ((weights - 1).abs() > 1e-6) & batch.mask
    # No answer here is a program, so statements have nothing to weigh; tests/weighting has them.
    assert bool(uneven.any()) == (name not in ("uniform", "counterfactual_code")), (
        f"{name} never acts in this world: give WORDS something that it weighs"
    )


def test_what_is_earned_is_what_samples_earn_on_average():
    ids = [TOKENIZER(prompt.question).input_ids for prompt in PROMPTS]
    drawn = TableSampler().generate(
        fresh(),
        RolloutRequest(
            prompts=PROMPTS, prompt_ids=ids, group_size=4000, max_new_tokens=LONGEST, temperature=1.0, seed=0
        ),
    )
    judged = judge(
        [completion.text for completion in drawn], [PROMPTS[completion.group] for completion in drawn]
    )
    mean = sum(verdict.reward for verdict in judged) / len(judged)
    # 12000 draws: three standard errors are 0.0135.
    assert mean == pytest.approx(earned(fresh()), abs=0.0135)


FORMS = forms(names("divergence"))
UPDATES_OF = update_forms(names("algo"))
# Controls that are another's class with another setting, or that need more steps, meet one algorithm.
ALONE = [*SUBSETS, "permuted_within_spans"]
WEIGHTINGS = [name for name in weightings() if name not in ALONE]
# So do other settings of another file's class, but that they meet one each.
WEIGHTING_FORMS = [name for name in WEIGHTINGS if own_class("weighting", name)]
SIGNED = segment_weightings()
# Demonstrations are not rolled, and what changes an advantage between updates has none to change.
SIGNING = [name for name in UPDATES_OF if name not in ("sft", "mirror_descent")]
COVERED = [UPDATES_OF, FORMS, WEIGHTING_FORMS]
OTHERS = [name for name in names("divergence") if name not in FORMS]
COVER = [
    *(Arm(*triple) for triple in pairwise_cover(COVERED)),
    # A divergence of another's form is trained with once, and so is an advantage with another's update.
    *map(Arm, cycle(names("algo", set(names("algo")) - {"sft"})), OTHERS, cycle(WEIGHTINGS)),
    *(Arm(name, "kl", "uniform") for name in names("algo") if name not in UPDATES_OF),
    *(Arm("grpo", "none", name) for name in ALONE),
    *map(Arm, cycle(UPDATES_OF), cycle(FORMS), (name for name in WEIGHTINGS if name not in WEIGHTING_FORMS)),
    # Signed credit takes the advantage's place, so that an algorithm is its update alone.
    *map(Arm, cycle(SIGNING), cycle(FORMS), SIGNED),
]


def test_in_the_cover_every_two_choices_of_different_axes_meet():
    for one, other in combinations(range(3), 2):
        assert {(arm[one], arm[other]) for arm in COVER} >= set(product(COVERED[one], COVERED[other]))
    assert {arm.divergence for arm in COVER} == set(names("divergence"))
    assert {arm.algo for arm in COVER} == set(names("algo"))
    assert {arm.weighting for arm in COVER} == set(names("weighting"))


@pytest.mark.parametrize("sizes", list(product((1, 2, 3, 5), repeat=3)))
def test_a_pairwise_cover_of_any_axes_is_one_and_is_as_small_as_can_be(sizes):
    axes = [[f"{axis}{index}" for index in range(size)] for axis, size in enumerate(sizes)]
    cover = pairwise_cover(axes)
    for one, other in combinations(range(3), 2):
        assert {(triple[one], triple[other]) for triple in cover} == set(product(axes[one], axes[other]))
    assert len(cover) == max(a * b for a, b in combinations(sizes, 2))


@pytest.mark.parametrize("arm", COVER, ids="-".join)
def test_an_arm_learns(arm):
    assert not shortfall(arm)


@pytest.mark.slow
@pytest.mark.parametrize("algo", names("algo"))
def test_an_algorithm_learns_with_every_divergence_and_every_weighting(algo):
    signed = SIGNED if algo in SIGNING else []
    arms = product(names("divergence"), [*WEIGHTINGS, *signed])
    failed = [shortfall(Arm(algo, *others)) for others in arms]
    assert not any(failed), "\n".join(filter(None, failed))


# ---------------------------------------------------------------- what a divergence holds


@cache
def free_drift() -> float:
    return drift(train(Arm("grpo", "none", "uniform"), lr=SHORT_LR))


@pytest.mark.parametrize("name", sorted(set(names("divergence")) - {"none"}))
def test_a_strong_divergence_holds_the_policy_near_its_anchor_if_its_expected_gradient_pulls(name):
    penalty = choice("divergence", name)
    divergence = penalty.divergence
    if isinstance(divergence, HasPotential) and not divergence.potential.convex:
        pytest.skip("of a potential that is not convex nothing is promised")
    pull = float(expectation(divergence, SHOWN.on_policy()).gradient.norm())
    pulls = pull > 1e-9
    strong = replace(penalty, beta=STRONG / pull if pulls else STRONG, anchor="reference")
    held = drift(train(Arm("grpo", name, "uniform"), strong, SHORT_LR)) / free_drift()
    assert held < 0.4 if pulls else held > 0.6


def test_the_pull_of_the_classics_is_seen_and_k1_has_none():
    pulls = {
        name
        for name in names("divergence")
        if float(expectation(choice("divergence", name).divergence, SHOWN.on_policy()).gradient.norm()) > 1e-9
    }
    assert pulls.isdisjoint({"none", "kl_k1"})
    assert pulls >= {"kl_k2", "kl_k3", "kl_exact", "kl_corrected", "probl2", "probl2_exact", "chi2_exact"}
    assert pulls >= {"js", "js_exact", "alpha_exact", "hellinger_exact", "tv_exact", "renyi_exact", "kl_topk"}
