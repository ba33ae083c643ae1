"""Single-turn tasks of the `verifiers` package, as texts that are asked and answers that are scored.

The package has a taskset, whose tasks each hold a prompt and its own rewards. A task is single-turn here when
its prompt is text, and its rewards read the answer and nothing else: no tools, no box, no second agent.
"""

import asyncio
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, Literal

Part = Literal["train", "test"]

# What the package calls a taskset's tasks; it has no types where it is not installed.
Task = Any


@dataclass(frozen=True, slots=True)
class Score:
    """What a task's rewards say of an answer.

    Attributes:
        reward: their weighted sum; None where they failed.
        parts: each before its weight.
        fault: why there is no reward.
    """

    reward: float | None
    parts: Mapping[str, float]
    fault: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSource:
    """Which tasks a run reads.

    Attributes:
        taskset: the installed package that has them, as `verifiers` names it.
        settings: of the taskset's config.
        train: settings of the tasks of training, in addition.
        test: of those of the test; None where these are held out of training.
        limit: tasks that are read at most; None reads all.
    """

    taskset: str | None
    settings: Mapping[str, Any]
    train: Mapping[str, Any]
    test: Mapping[str, Any] | None
    limit: int | None

    @property
    def module(self) -> str:
        """The module that the package loads the taskset from."""
        # A name of the hub is OWNER/NAME@VERSION, and installs NAME.
        return (self.taskset or "").rsplit("/", 1)[-1].split("@", 1)[0].replace("-", "_").lower()

    def tasks(self, part: Part) -> Mapping[str, Task]:
        """The tasks by a name that is of their content.

        Raises:
            ValueError: if the package or the taskset is not there, or its tasks are not single-turn.
        """
        if not self.taskset:
            raise ValueError(
                f"dataset.taskset={self.taskset}: name an installed taskset of the verifiers package"
            )
        added = self.test if part == "test" else self.train
        settings = {**self.settings, **(added or {})}
        return _tasks(self.taskset, json.dumps(settings, sort_keys=True), self.limit)

    def all_tasks(self) -> Mapping[str, Task]:
        """Those of training and of the test."""
        test = {} if self.test is None else self.tasks("test")
        return {**self.tasks("train"), **test}


def question(task: Task) -> str:
    """What a task asks: its system prompt, if it has one, and its user turn."""
    data = task.data
    turns = [] if data.system_prompt is None else [data.system_prompt]
    if isinstance(data.prompt, str):
        return "\n\n".join([*turns, data.prompt])
    return "\n\n".join([*turns, *(turn.content for turn in data.prompt)])


def scores(tasks: Sequence[Task], texts: Sequence[str], timeout_s: float) -> list[Score]:
    """The rewards of answers to tasks, in order, all at once; each has so many seconds by the clock."""

    async def of_all() -> list[Score]:
        pairs = zip(tasks, texts, strict=True)
        return list(await asyncio.gather(*(_score(task, text, timeout_s) for task, text in pairs)))

    return asyncio.run(of_all())


async def _score(task: Task, text: str, timeout_s: float) -> Score:
    library = _library()
    trace = _trace(library, task, text)
    try:
        async with asyncio.timeout(timeout_s):
            await task.score(trace)
    except TimeoutError:
        return Score(None, {}, f"no score within {timeout_s:g} s")
    except library.RolloutError as error:
        return Score(None, {}, str(error))
    parts = {name: float(reward.score) for name, reward in trace.rewards.items() if reward is not None}
    return Score(float(trace.reward), parts)


def _trace(library: ModuleType, task: Task, text: str) -> Any:
    # A rollout as the package records one: the turns of the prompt, and the answer.
    user = task.data.prompt
    turns = [library.UserMessage(content=user)] if isinstance(user, str) else list(user)
    if task.data.system_prompt is not None:
        turns.insert(0, library.SystemMessage(content=task.data.system_prompt))
    nodes = [
        library.MessageNode(parent=index - 1 if index else None, message=turn)
        for index, turn in enumerate(turns)
    ]
    answer = library.AssistantMessage(content=text)
    nodes.append(library.MessageNode(parent=len(nodes) - 1, message=answer, sampled=True))
    return library.Trace(
        task=library.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
        agent=library.AgentInfo(config=library.AgentConfig()),
        state=import_module("verifiers.v1.state").state_cls(type(task))(),
        nodes=nodes,
        is_completed=True,
        ok=True,
        stop_condition="agent_completed",
    )


@cache
def _library() -> ModuleType:
    try:
        return import_module("verifiers.v1")
    except ImportError as error:
        raise ValueError(
            f"dataset=verifiers: the package verifiers cannot be imported ({error}); "
            "pip install 'mirrorpo[verifiers]'"
        ) from error


@cache
def _tasks(taskset: str, settings: str, limit: int | None) -> Mapping[str, Task]:
    library = _library()
    try:
        config = library.taskset_config_type(taskset).model_validate({**json.loads(settings), "id": taskset})
        loaded = library.load_taskset(config)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"dataset.taskset={taskset}: {reason}") from error
    if fault := _taskset_fault(library, loaded, config):
        raise ValueError(f"dataset.taskset={taskset}: {fault}; only single-turn tasks can be read")
    if limit is None and not loaded.bounded:
        raise ValueError(f"dataset.taskset={taskset} has no last task; give dataset.limit")
    by_name = {}
    for task in loaded if limit is None else loaded.take(limit):
        if fault := _task_fault(library, task):
            name = f"dataset.taskset={taskset}, task {task.data.idx}"
            raise ValueError(f"{name}: {fault}; only single-turn tasks can be read")
        by_name[f"{taskset}/{task.hash[:12]}"] = task
    return by_name


def _taskset_fault(library: ModuleType, taskset: Any, config: Any) -> str:
    """Why tasks of a taskset want more than an answer; empty where they do not."""
    environment = library.environment_class(config.id)
    kind = type(taskset).task_type()
    faults = {
        f"its environment is {environment.__name__}": environment is not library.SingleAgentEnv,
        "its tasks need a container": kind.NEEDS_CONTAINER,
        "its tasks have tools": bool(taskset.toolsets(config) or kind.toolsets(config.task)),
        "its tasks prepare a box (setup)": kind.setup is not library.Task.setup,
        "its tasks read a box (finalize)": kind.finalize is not library.Task.finalize,
    }
    return next((fault for fault, applies in faults.items() if applies), "")


def _task_fault(library: ModuleType, task: Task) -> str:
    judges = [judge.score for judge in task.plugged_judges()]
    rewards = [*task.hooks("reward"), *judges]
    if boxed := [reward.__name__ for reward in rewards if _wants_box(reward)]:
        return f"its reward {boxed[0]} reads a box (runtime)"
    if not rewards:
        return "it has no reward"
    return _prompt_fault(library, task.data.prompt)


def _wants_box(reward: Any) -> bool:
    parameter = inspect.signature(reward).parameters.get("runtime")
    return parameter is not None and parameter.default is inspect.Parameter.empty


def _prompt_fault(library: ModuleType, prompt: object) -> str:
    if isinstance(prompt, str):
        return ""
    turns = list(prompt) if isinstance(prompt, Iterable) else []
    kinds = [type(turn) for turn in turns]
    if kinds not in ([library.UserMessage], [library.SystemMessage, library.UserMessage]):
        return "its prompt is not one user turn"
    return "" if all(isinstance(turn.content, str) for turn in turns) else "its prompt holds images or parts"
