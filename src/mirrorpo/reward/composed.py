"""What rewards that are made of other rewards pass on from their parts."""

from collections.abc import Iterator, Mapping, Sequence

from mirrorpo.core.batch import Prompt
from mirrorpo.core.protocols import (
    Assembly,
    DeclaresOutcomes,
    DeclaresSources,
    ListsRightAnswers,
    StatesNotes,
    StatesRequirements,
    Verifier,
)
from mirrorpo.reward.plain import verifier


def part(reward: object, setting: str) -> Verifier:
    """A part as the trainer uses it.

    Raises:
        ValueError: naming the setting, for what is no reward.
    """
    try:
        return verifier(reward)
    except ValueError as error:
        raise ValueError(str(error).replace("reward:", f"{setting}:", 1)) from error


def unjudgeable(parts: Mapping[str, Verifier], prompts: Sequence[Prompt]) -> dict[str, str]:
    """The prompts that some part cannot judge, with that part's reason."""
    out = dict[str, str]()
    for name, reward in parts.items():
        faults = reward.unjudgeable(prompts)
        out |= {uid: f"{name}: {fault}" for uid, fault in faults.items() if uid not in out}
    return out


def provenance(parts: Mapping[str, Verifier]) -> dict[str, object]:
    """What keeps programs in, in whichever part runs them, and what each part says of itself."""
    of_parts = {name: dict(reward.provenance()) for name, reward in parts.items()}
    sandboxes = [entry["sandbox"] for entry in of_parts.values() if entry.get("sandbox") is not None]
    return {
        "sandbox": sandboxes[0] if sandboxes else None,
        "reward_parts": {
            name: {"version": reward.version, **of_parts[name]} for name, reward in parts.items()
        },
    }


def version(parts: Mapping[str, Verifier]) -> str:
    """The versions of all parts in a text."""
    return ", ".join(f"{name}={reward.version}" for name, reward in parts.items())


def notes(parts: Mapping[str, Verifier], group: str, assembly: Assembly) -> Iterator[str]:
    """The notes of all parts; `parts` are by the setting below `group`."""
    for setting, reward in parts.items():
        if isinstance(reward, StatesNotes):
            yield from reward.notes(f"{group}.{setting}", assembly)


def requirements(parts: Mapping[str, Verifier], group: str, assembly: Assembly) -> Iterator[str]:
    """The refusals of all parts; `parts` are by the setting below `group`."""
    for setting, reward in parts.items():
        if isinstance(reward, StatesRequirements):
            yield from reward.requirements(f"{group}.{setting}", assembly)


def sources(parts: Mapping[str, Verifier]) -> dict[str, str]:
    """The sources of all parts, by the setting of each."""
    return {
        f"{setting}.{name}": says
        for setting, reward in parts.items()
        if isinstance(reward, DeclaresSources)
        for name, says in reward.sources().items()
    }


def outcomes(reward: object) -> Sequence[str]:
    """Those that a reward says its verdicts have; empty where it does not say."""
    return reward.outcomes if isinstance(reward, DeclaresOutcomes) else ()


def right_answers(reward: object, prompt: Prompt) -> Sequence[str]:
    """A question's right answers in their normal form; empty where the reward does not list them."""
    return reward.right_answers(prompt) if isinstance(reward, ListsRightAnswers) else ()
