"""What a manifest says of a run's questions: their sources, and of each set its reward and prompts."""

from collections.abc import Mapping

from mirrorpo.config.identity import digest
from mirrorpo.config.values import JsonObject
from mirrorpo.run.inputs import InputFiles
from mirrorpo.train.build import Components
from mirrorpo.train.inputs import input_files, loaded_inputs, set_files
from mirrorpo.train.loaded import LoadedSet
from mirrorpo.train.questions import Questions, SetQuestions


def set_records(
    components: Components, sets: Mapping[str, LoadedSet], questions: Mapping[str, SetQuestions]
) -> dict[str, JsonObject]:
    """Of each evaluation set: its split, its reward, its questions, and their prompts."""
    out: dict[str, JsonObject] = {}
    for name, eval_set in components.eval_sets.items():
        rendered, of_set = sets[name].rendered, questions[name]
        out[name] = {
            "split": eval_set.split,
            "reward_version": eval_set.reward.version,
            **eval_set.reward.provenance(),
            "questions": len(of_set.evaluation),
            "bad_data": dict(of_set.left_out),
            "prompt": {
                "example": rendered[0].text,
                "hash": digest({"prompts": [prompt.text for prompt in rendered]}),
            },
        }
    return out


def run_inputs(
    components: Components, questions: Questions, prompts: str, records: Mapping[str, JsonObject]
) -> tuple[dict[str, str], InputFiles]:
    """A run's inputs, and the files of its datasets where these say which they are.

    Args:
        components: of the run.
        questions: as they were loaded.
        prompts: the hash of the run's own prompts.
        records: of the evaluation sets.
    """
    config, sets = components.config, components.eval_sets
    of_sets = {sets[name].content_name: of_set.content for name, of_set in questions.sets.items()}
    hashes = {name: record["prompt"]["hash"] for name, record in records.items()}
    files = input_files(components.dataset, config, questions.content)
    if sets:
        files = {**(files or {}), **set_files(config, sets)}
    return loaded_inputs(config, {**questions.content, **of_sets}, prompts, hashes), files
