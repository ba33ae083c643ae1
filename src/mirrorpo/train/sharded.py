"""A model, an engine and a verifier divided among ranks, and where each rank writes."""

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mirrorpo.core.batch import Completion, Prompt, RolloutRequest, Verdict
from mirrorpo.core.protocols import AnswersBoth, GenerativeModel, RolloutEngine, Verifier
from mirrorpo.distributed.collectives import Ranks
from mirrorpo.distributed.fsdp import Sharded
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.reward.composed import outcomes
from mirrorpo.run.folder import RunFolder


def sharded_model(model: LanguageModel, ranks: Ranks) -> LanguageModel:
    """The model with its parameters divided among the ranks, each of which has it whole."""
    return (
        model
        if ranks.world_size == 1
        else replace(model, shards=Sharded(model.network, ranks.mesh(model.device.type)))
    )


def sharded_engine(engine: RolloutEngine, ranks: Ranks) -> RolloutEngine:
    """The engine with its prompts divided among the ranks."""
    return engine if ranks.world_size == 1 else ShardedEngine(engine=engine, ranks=ranks)


def sharded_reward(reward: Verifier, ranks: Ranks) -> Verifier:
    """The verifier with its completions divided among the ranks."""
    return reward if ranks.world_size == 1 else ShardedReward(reward=reward, ranks=ranks)


@contextmanager
def writable_folder(folder: RunFolder, ranks: Ranks) -> Generator[RunFolder]:
    """Where this rank writes: rank 0 to the run's folder, which it locks, the others to one that is removed.

    The others print nothing either.
    """
    if ranks.first:
        with folder.locked():
            yield folder
    else:
        with TemporaryDirectory() as path, Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            yield RunFolder(Path(path))


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardedEngine:
    """An engine that answers each rank's share of the prompts."""

    engine: RolloutEngine
    ranks: Ranks

    @property
    def samples(self) -> bool:
        """As the engine says."""
        return self.engine.samples

    @property
    def serves_remotely(self) -> bool:
        """As the engine says."""
        return self.engine.serves_remotely

    @property
    def answers_both(self) -> bool:
        """As the engine says."""
        return isinstance(self.engine, AnswersBoth) and self.engine.answers_both

    def generate(self, model: GenerativeModel, request: RolloutRequest) -> Sequence[Completion]:
        """The completions of all ranks, on every rank."""
        # A server is asked by rank 0, whose weights it has.
        share = (
            slice(len(request.groups) * self.ranks.first)
            if self.serves_remotely
            else self.ranks.span(len(request.groups))
        )
        completions = self.engine.generate(model, replace(request, only=request.groups[share]))
        return [completion for part in self.ranks.all_gather(completions) for completion in part]


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardedReward:
    """A verifier that judges each rank's share of the completions."""

    reward: Verifier
    ranks: Ranks

    @property
    def version(self) -> str:
        """The verifier's."""
        return self.reward.version

    @property
    def outcomes(self) -> Sequence[str]:
        """As the verifier says."""
        return outcomes(self.reward)

    def unjudgeable(self, prompts: Sequence[Prompt]) -> Mapping[str, str]:
        """As the verifier says."""
        return self.reward.unjudgeable(prompts)

    def provenance(self) -> Mapping[str, object]:
        """As the verifier says."""
        return self.reward.provenance()

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> Sequence[Verdict]:
        """The verdicts of all ranks, on every rank."""
        share = self.ranks.span(len(texts))
        verdicts = self.reward(texts[share], prompts[share])
        return [verdict for part in self.ranks.all_gather(verdicts) for verdict in part]
