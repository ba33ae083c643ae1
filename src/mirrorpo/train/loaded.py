"""Everything heavy that a run holds: the model, what trains and asks it, and the questions."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch

from mirrorpo.config.identity import EVAL_SETS
from mirrorpo.config.settings import (
    AnswerSettings,
    DriftSettings,
    EvaluationSettings,
    ModelSettings,
    RolloutSettings,
    RunSettings,
    UpdateSettings,
)
from mirrorpo.core.batch import Prompt
from mirrorpo.core.protocols import (
    DeclaresSources,
    GivesExamples,
    RolloutEngine,
    SegmentCredit,
    Verifier,
)
from mirrorpo.distributed.collectives import Ranks
from mirrorpo.distributed.determinism import strict_where_possible
from mirrorpo.model.adapter import START
from mirrorpo.model.compile_layers import with_compiled_layers
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.model.load import reference
from mirrorpo.model.prompt import Rendered
from mirrorpo.rollout.collector import Collector
from mirrorpo.rollout.prompt_order import DataOrder
from mirrorpo.train.build import Components, model_needs
from mirrorpo.train.call_cost import CallCost, call_cost
from mirrorpo.train.demonstration_lengths import cut_demonstrations
from mirrorpo.train.drift import draw_probe
from mirrorpo.train.entropy import EntropyTerm
from mirrorpo.train.evaluate import Evaluator
from mirrorpo.train.learner import Learner
from mirrorpo.train.memory_check import Memory, checked_memory
from mirrorpo.train.model_check import ModelCheck, checked, try_passes
from mirrorpo.train.old_policy import policy_scorer
from mirrorpo.train.prompt_lengths import to_measure
from mirrorpo.train.questions import Questions, SetQuestions, load_questions
from mirrorpo.train.right_answers import right_answers
from mirrorpo.train.sampling_policy import SamplingPolicy
from mirrorpo.train.sharded import sharded_engine, sharded_model, sharded_reward
from mirrorpo.train.step import Drift


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedSet:
    """An evaluation set beside the run's own.

    Attributes:
        evaluator: of its questions.
        rendered: its prompts, as text and ids.
    """

    evaluator: Evaluator
    rendered: Sequence[Rendered]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedRun:
    """The objects of a run that is about to train.

    Attributes:
        learner: with the policy.
        sampling: the policy as the sampler has it.
        collector: of the training rollouts.
        evaluator: of held-out questions.
        drift: distance from the start model.
        right_answers: log-probability of right answers of held-out questions.
        questions: of training and evaluation.
        rendered: the evaluation's prompts, as text and ids.
        model_check: in which ways the model was seen to be read rightly.
        call_cost: what a call of the network costs beside its tokens.
        deterministic: what of `deterministic` holds on this device.
        memory: what the run will hold on its card, where it has one.
        cut: what there is to say of demonstrations that are too long.
        sets: the evaluation sets beside the run's own, by name.
    """

    learner: Learner
    sampling: SamplingPolicy
    collector: Collector
    evaluator: Evaluator
    drift: Drift
    right_answers: Callable[[], dict[str, float]]
    questions: Questions
    rendered: Sequence[Rendered]
    model_check: ModelCheck
    call_cost: CallCost
    deterministic: Mapping[str, object]
    memory: Memory | None
    cut: Sequence[str] = ()
    sets: Mapping[str, LoadedSet] = field(default_factory=dict[str, LoadedSet])

    def evaluators(self) -> dict[str, Evaluator]:
        """Of each set that has questions to answer, by its name, which is empty of the run's own."""
        own = {"": self.evaluator} if self.evaluator.prompts else {}
        return {**own, **{name: loaded.evaluator for name, loaded in self.sets.items()}}

    @property
    def policy(self) -> LanguageModel:
        """The model that is trained."""
        return self.learner.policy

    def notes(self) -> list[str]:
        """What the device has to say to the settings."""
        kept = not self.deterministic["requested"] or str(self.deterministic["holds"]).startswith("yes")
        out = [] if kept else [f"deterministic=true holds: {self.deterministic['holds']}"]
        out += [*self.sampling.notes(), *self.cut]
        return out if self.memory is None else [*out, self.memory.note]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Models:
    # The policy, the references that somebody reads, at most two, and what there is to know of them.
    policy: LanguageModel
    references: Sequence[LanguageModel]
    check: ModelCheck
    call_cost: CallCost
    deterministic: Mapping[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Loader:
    """Loads what the components describe.

    Attributes:
        components: the parts.
        device: where the model runs.
        ranks: that train together.
        recorded_cost: of a call, as the manifest of a run that goes on has it.
    """

    components: Components
    device: torch.device
    ranks: Ranks
    recorded_cost: CallCost | None = None

    def load(self) -> LoadedRun:
        """Read the questions, load the model and put everything around it.

        Raises:
            ValueError: naming the setting, if data, model and settings do not fit.
        """
        components, config, ranks = self.components, self.components.config, self.ranks
        questions = ranks.broadcast_from_rank0(lambda: load_questions(components))
        memory = checked_memory(components, questions, self.device, ranks.world_size)
        loaded = self._models(lambda: questions)
        policy = loaded.policy
        engine = sharded_engine(components.eval_rollout, ranks)
        reward = sharded_reward(components.reward, ranks)
        rendered = [render(components, policy, prompt) for prompt in questions.evaluation]
        evaluator = self._evaluator(engine, reward, AnswerSettings.of(config), questions.evaluation, rendered)
        cut = self._check_lengths(policy, questions, rendered)
        return LoadedRun(
            learner=Learner(
                policy=policy,
                reference=next(iter(loaded.references), None),
                second_reference=next(iter(loaded.references[1:]), None),
                optimiser=components.optim.build(policy.network),
                algo=components.algo,
                penalty=components.penalty,
                weighting=components.weighting,
                importance_correction=components.importance_correction,
                trust_region=components.trust_region,
                entropy=EntropyTerm(control=components.entropy),
                settings=replace(UpdateSettings.of(config), tokens_per_call=loaded.call_cost["tokens"]),
                ranks=ranks,
            ),
            sampling=SamplingPolicy(sampler=components.sampler, policy=policy),
            collector=self._collector(policy, reward, questions),
            evaluator=evaluator,
            drift=self._drift(policy, engine, questions),
            right_answers=self._right_answers(policy, reward, loaded.call_cost, evaluator),
            questions=questions,
            rendered=rendered,
            model_check=loaded.check,
            call_cost=loaded.call_cost,
            deterministic=loaded.deterministic,
            memory=memory,
            cut=cut,
            sets=self._sets(policy, engine, questions.sets),
        )

    def load_answering(
        self, questions: Mapping[str, SetQuestions]
    ) -> tuple[LanguageModel, Mapping[str, LoadedSet]]:
        """The start model as a run has it, and its evaluation sets; nothing to train it with.

        Raises:
            ValueError: naming the setting, if data, model and settings do not fit.
        """
        components = self.components
        # Only a model that is made from its data reads them.
        policy = self._models(lambda: load_questions(components)).policy
        engine = sharded_engine(components.eval_rollout, self.ranks)
        return policy, self._sets(policy, engine, questions)

    def _models(self, questions: Callable[[], Questions]) -> "_Models":
        def corpus() -> Iterable[str]:
            return corpus_of(questions())

        needs, config = model_needs(self.components), self.components.config
        policy = self.components.model.load(self.device, config["seed"], corpus)
        settings = ModelSettings.of(config)
        policy = replace(policy, head_precision=settings.head_precision)
        if settings.compile == "layers":
            policy = with_compiled_layers(policy)
        deterministic = strict_where_possible(
            config["deterministic"], self.device, lambda: try_passes(policy, needs)
        )
        policy, check = checked(
            policy,
            needs,
            shared_prefix=config["shared_prefix"],
            train_noise=config["model"].get("train_noise"),
        )
        measured = partial(
            call_cost, policy, config["tokens_per_call"], self.recorded_cost, config["tokens_per_micro_batch"]
        )
        cost = self.ranks.broadcast_from_rank0(measured)
        references = self._references(policy)
        policy = sharded_model(policy, self.ranks)
        # An adapter that is switched off is the policy's own network.
        references = [
            start if start.adapter_off else sharded_model(start, self.ranks) for start in references
        ]
        return _Models(
            policy=policy, references=references, check=check, call_cost=cost, deterministic=deterministic
        )

    def _references(self, policy: LanguageModel) -> list[LanguageModel]:
        # Of the anchor's parts that are no old policy; an adapter for each that moves.
        if not self.components.penalty.reads_reference:
            return []
        parts, seed = self.components.anchor.parts, self.components.config["seed"]
        return [
            reference(policy, moves=part.moves, seed=seed, adapter=START if len(parts) == 1 else name)
            for name, part in zip(("first", "second"), parts, strict=False)
            if part.source == "reference"
        ]

    def _collector(self, policy: LanguageModel, reward: Verifier, questions: Questions) -> Collector:
        components, run = self.components, RunSettings.of(self.components.config)
        settings = RolloutSettings.of(components.config)

        def rendered(prompt: Prompt) -> tuple[str, Sequence[int]]:
            out = render(components, policy, prompt)
            return out.text, out.ids

        return Collector(
            engine=sharded_engine(components.rollout, self.ranks),
            reward=reward,
            rule=components.algo.rollout_rule,
            render=rendered,
            prompts=questions.train,
            order=DataOrder(size=len(questions.train), seed=run.seed, order=run.data_order),
            prompts_per_step=settings.prompts_per_step,
            group_size=settings.group_size,
            max_new_tokens=settings.max_new_tokens,
            temperature=components.sampler.temperature(settings.temperature),
            seed=run.seed,
        )

    def _evaluator(
        self,
        engine: RolloutEngine,
        reward: Verifier,
        settings: AnswerSettings,
        prompts: Sequence[Prompt],
        rendered: Sequence[Rendered],
    ) -> Evaluator:
        return Evaluator(
            engine=engine,
            reward=reward,
            prompts=prompts,
            prompt_ids=[prompt.ids for prompt in rendered],
            max_new_tokens=settings.eval_max_new_tokens,
            sampled_questions=settings.sampled,
            samples=settings.eval_samples,
            temperature=settings.eval_temperature,
            seed=self.components.config["seed"],
        )

    def _sets(
        self, policy: LanguageModel, engine: RolloutEngine, questions: Mapping[str, SetQuestions]
    ) -> dict[str, LoadedSet]:
        out: dict[str, LoadedSet] = {}
        for name, eval_set in self.components.eval_sets.items():
            prompts, settings = questions[name].evaluation, eval_set.settings
            seen = replace(self.components, dataset=eval_set.dataset)
            try:
                rendered = [render(seen, policy, prompt) for prompt in prompts]
                longest = max(len(prompt.ids) for prompt in rendered)
                policy.check_context(longest + settings.eval_max_new_tokens)
            except ValueError as error:
                raise ValueError(f"{EVAL_SETS}.{name}: {error}") from error
            reward = sharded_reward(eval_set.reward, self.ranks)
            evaluator = self._evaluator(engine, reward, settings, prompts, rendered)
            out[name] = LoadedSet(evaluator=replace(evaluator, prefix=f"eval/{name}"), rendered=rendered)
        return out

    def _check_lengths(
        self, policy: LanguageModel, questions: Questions, rendered: Sequence[Rendered]
    ) -> list[str]:
        # What there is to say of demonstrations, where all else fits.
        config, components = self.components.config, self.components
        cut = cut_demonstrations(components.rollout, policy, questions.train, config)
        answer = max(config["eval_max_new_tokens"], config["max_new_tokens"])
        if isinstance(components.weighting, SegmentCredit):
            # Rolls from the last cut go on for as long as those from the first.
            answer = max(answer, 2 * config["max_new_tokens"] - 1)
        lengths = [len(prompt.ids) for prompt in rendered]
        if questions.train:
            example = render(components, policy, questions.train[0])
            long = to_measure(policy, questions.train, example, components.dataset.user, answer)
            lengths += [len(example.ids), *(len(render(components, policy, prompt).ids) for prompt in long)]
        try:
            policy.check_context(max(lengths) + answer)
        except ValueError as error:
            if "architecture" not in config["model"]:
                raise
            # It is made here, with as many as it is told to have.
            tokens = max(lengths) + answer
            raise ValueError(
                f"{error}, or set model.architecture.max_position_embeddings={tokens} or more"
            ) from error
        return cut

    def _drift(self, policy: LanguageModel, engine: RolloutEngine, questions: Questions) -> Drift:
        config = self.components.config
        settings = DriftSettings.of(config)
        prompts = questions.train[: settings.drift_questions]
        with policy.shards.gathered():
            probe = draw_probe(
                policy,
                engine,
                prompts,
                [render(self.components, policy, prompt).ids for prompt in prompts],
                max_new_tokens=config["max_new_tokens"],
                temperature=config["temperature"],
                positions=settings.drift_positions,
            )

        def measured() -> dict[str, float]:
            with policy.shards.gathered():
                # It steers a coefficient, which must not differ from rank to rank by rounding.
                return self.ranks.broadcast_from_rank0(lambda: probe(policy))

        return measured

    def _right_answers(
        self, policy: LanguageModel, reward: Verifier, cost: CallCost, evaluator: Evaluator
    ) -> Callable[[], dict[str, float]]:
        settings = EvaluationSettings.of(self.components.config)
        # Every rank reads all of them, with the weights gathered.
        update = replace(UpdateSettings.of(self.components.config), tokens_per_call=cost["tokens"])
        chosen = slice(settings.right_answer_questions)
        return right_answers(
            policy_scorer(policy, update),
            reward,
            evaluator.prompts[chosen],
            evaluator.prompt_ids[chosen],
            max_new_tokens=settings.eval_max_new_tokens,
        )


def corpus_of(questions: Questions) -> Iterator[str]:
    """What a model that is made from its data has words for: all questions, and the demonstrations."""
    for prompt in questions.train:
        yield prompt.question + "\n"
        yield prompt.demonstration
    for prompt in questions.evaluation:
        yield prompt.question + "\n"


def render(components: Components, policy: LanguageModel, prompt: Prompt) -> Rendered:
    """A question as the model sees it."""
    dataset = components.dataset
    return components.model.prompt(
        policy.tokenizer,
        system=dataset.system,
        user=dataset.user,
        question=prompt.question,
        # Of classes from outside only those that are needed have to know of examples.
        **({"examples": dataset.examples} if isinstance(dataset, GivesExamples) and dataset.examples else {}),
    )


def circumstances(
    components: Components, loaded: LoadedRun, device: torch.device, ranks: Ranks
) -> Mapping[str, object]:
    """What a run's numbers depend on beside its config; a resumed run has to find the same."""
    splits = dict.fromkeys(("train", components.config["eval_split"]))
    causal_lm = loaded.policy.causal_lm
    return {
        "data": ranks.broadcast_from_rank0(
            lambda: (
                {split: components.dataset.fingerprint(split) for split in splits}
                | {
                    eval_set.content_name: eval_set.dataset.fingerprint(eval_set.split)
                    for eval_set in components.eval_sets.values()
                }
            )
        ),
        "computed_in": f"{loaded.policy.dtype} on {device.type}".removeprefix("torch."),
        "mirror_map": components.penalty.mirror_map,
        # transformers sets it on configs that come from a hub.
        "model_commit": getattr(causal_lm.config, "_commit_hash", None),
        **_sources(components),
    }


def _sources(components: Components) -> Mapping[str, object]:
    """Where rewards' verdicts come from, if from elsewhere; empty where they judge by themselves."""
    rewards = {"": components.reward}
    rewards |= {f"{EVAL_SETS}.{name}.": eval_set.reward for name, eval_set in components.eval_sets.items()}
    sources = {
        prefix + setting: source
        for prefix, reward in rewards.items()
        if isinstance(reward, DeclaresSources)
        for setting, source in reward.sources().items()
    }
    return {"reward_sources": sources} if sources else {}
