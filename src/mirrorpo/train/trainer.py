"""The life of a run around its steps: load, resume, step, record, save, finish."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import Signals

import torch

from mirrorpo.config.cell import Cell
from mirrorpo.config.identity import EVAL_SETS, digest
from mirrorpo.config.settings import DriftSettings, EvaluationSettings, RunSettings
from mirrorpo.core.protocols import CatchesUp, LimitsCalls
from mirrorpo.core.seeds import seed_globals
from mirrorpo.distributed.collectives import ALONE, Ranks
from mirrorpo.distributed.determinism import naming_the_setting
from mirrorpo.distributed.device import device_name, named_device, prepare, stopwatch
from mirrorpo.distributed.fsdp import full_state_dict
from mirrorpo.divergence.anchor import moving_parts
from mirrorpo.model.adapter import adaptation
from mirrorpo.run import checkpoint
from mirrorpo.run.attempt import enter_attempt
from mirrorpo.run.disk import write_atomic, writing_to
from mirrorpo.run.energy import energy_meter
from mirrorpo.run.folder import RunFolder, timestamp
from mirrorpo.run.inputs import refuse_other_inputs
from mirrorpo.run.lifecycle import enter, finish, lifecycle
from mirrorpo.run.mirror import LIMIT_S, Mirror
from mirrorpo.run.model_run import model_run, other_prompt_note
from mirrorpo.run.preemption import Preempted, StopRequest, strongest
from mirrorpo.run.provenance import provenance
from mirrorpo.run.tracking import NoTracker
from mirrorpo.train.build import Components, notes
from mirrorpo.train.display import Display
from mirrorpo.train.eval_records import run_inputs, set_records
from mirrorpo.train.loaded import LoadedRun, Loader, circumstances, render
from mirrorpo.train.model_card import CARD, model_card
from mirrorpo.train.questions import few_questions_notes
from mirrorpo.train.recorder import Recorder
from mirrorpo.train.state import Checkpoints, Resumed
from mirrorpo.train.step import TrainStep


def train_step(components: Components, loaded: LoadedRun, *, ranks: Ranks, folder: Path) -> TrainStep:
    """One step of a loaded run.

    Args:
        components: its parts.
        loaded: what they load.
        ranks: that train together.
        folder: where a batch is dumped that made a number infinite.
    """
    config = components.config
    run, evaluation = RunSettings.of(config), EvaluationSettings.of(config)
    drift = DriftSettings.of(config)
    return TrainStep(
        learner=loaded.learner,
        sampling=loaded.sampling,
        collector=loaded.collector,
        dataset=components.dataset,
        drift=loaded.drift,
        drift_due=lambda step: drift.due(step, evaluated=evaluation.due(step, run.steps)),
        beta_schedule=components.beta_schedule,
        anchor=components.anchor,
        schedule=components.schedule,
        lr=run.lr,
        steps=run.steps,
        seed=run.seed,
        ranks=ranks,
        folder=folder,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Trainer:
    """Runs one cell from wherever its folder stands to its last step.

    Attributes:
        cell: what runs.
        components: its parts.
        folder: where this rank writes, which is the cell's folder for the first rank alone.
        root: of the code.
        stop_request: asked for between two steps.
        ranks: that train together; each has a trainer of its own.
    """

    cell: Cell
    components: Components
    folder: RunFolder
    root: Path
    stop_request: StopRequest
    ranks: Ranks = ALONE

    def run(self) -> None:
        """Train, or go on training, and leave the folder done or failed with its reason.

        Raises:
            Preempted: if it was asked to stop and has; the folder is requeued then.
        """
        self.folder.refuse_other_config(self.cell)
        device = named_device(self.cell.config["device"], self.ranks)
        made_by = provenance(self.root)
        launch = {
            "time": timestamp(),
            "device": device_name(device),
            "ranks": self.ranks.world_size,
            **made_by,
        }
        mirror = self._mirror()
        requeues = self.stop_request if self.ranks.first else None
        with (
            lifecycle(self.cell, self.folder, launch, mirror, requeues),
            self.ranks.propagate_failure(Preempted),
            naming_the_setting(),
        ):
            run = RunSettings.of(self.cell.config)
            prepare(threads=run.threads, deterministic=run.deterministic)
            seed_globals(run.seed)
            loaded = self._loader(device).load()
            self._identify(loaded)
            self._train(loaded, run, mirror, made_by["code"])

    def _loader(self, device: torch.device) -> Loader:
        # A run that goes on splits its batches as it did, whatever a call costs now.
        resumes = checkpoint.complete_names(RunFolder(self.cell.folder).checkpoints)
        return Loader(
            components=self.components,
            device=device,
            ranks=self.ranks,
            recorded_cost=self.folder.manifest().get("tokens_per_call") if resumes else None,
        )

    def _train(self, loaded: LoadedRun, run: RunSettings, mirror: Mirror, code: str) -> None:
        evaluation = EvaluationSettings.of(self.cell.config)
        checkpoints = self._checkpoints(loaded, run, evaluation)
        had_got_further = self._has_progress()
        resumed = checkpoints.resume(self.folder, code)
        launches = self.folder.manifest()["launches"]
        enter(self.folder, resumed.step, resumed.codes)
        self._start(mirror, restarted=resumed.step == 0 and had_got_further)
        with Display(run.steps, resumed.step, enabled=run.progress) as display:
            self._say(display, loaded, resumed, launches)
            recorder = Recorder(
                folder=self.folder,
                tracker=mirror,
                display=display,
                loaded=loaded,
                evaluation=evaluation,
                run=run,
            )
            if resumed.step == 0:
                recorder.start(resumed.progress)
            with checkpoints.saving():
                self._steps(loaded, run, checkpoints, recorder, resumed)
        self._finish(loaded, resumed, display)

    def _steps(
        self,
        loaded: LoadedRun,
        run: RunSettings,
        checkpoints: Checkpoints,
        recorder: Recorder,
        resumed: Resumed,
    ) -> None:
        step_of = train_step(self.components, loaded, ranks=self.ranks, folder=self.folder.path)
        saved, progress = resumed.step, resumed.progress
        energy = energy_meter(gpus=loaded.policy.device.type == "cuda")
        for step in range(resumed.step + 1, run.steps + 1):
            checkpoints.background.check()
            if signum := self._requested_stop():
                if step - 1 > saved:
                    checkpoints.save(step - 1, progress, resumed.codes)
                checkpoints.background.wait()
                raise Preempted(step - 1, signum)
            energy.joules()
            with stopwatch() as clock:
                result = step_of(step, progress)
            progress = result.progress.lasting(clock() * self.ranks.world_size, energy.joules())
            recorder.step(step, result, progress, clock())
            if checkpoints.due(step):
                saved = checkpoints.save(step, progress, resumed.codes)

    def _requested_stop(self) -> Signals | None:
        return strongest(self.ranks.all_gather(self.stop_request.signum))

    def _checkpoints(
        self, loaded: LoadedRun, run: RunSettings, evaluation: EvaluationSettings
    ) -> Checkpoints:
        return Checkpoints(
            path=RunFolder(self.cell.folder).checkpoints,
            config_hash=self.cell.hash,
            learner=loaded.learner,
            sampling=loaded.sampling,
            ranks=self.ranks,
            run=run,
            evaluation=evaluation,
            moving=moving_parts(self.components.anchor),
            keeps_prompts=self.components.algo.tracks_prompts,
        )

    def _mirror(self) -> Mirror:
        spec = self.components.tracking if self.ranks.first else NoTracker()
        tracker = spec.build()
        return Mirror(
            tracker,
            limit_s=spec.limit_s if isinstance(spec, LimitsCalls) else LIMIT_S,
            catch_up=tracker.catch_up if isinstance(tracker, CatchesUp) else None,
        )

    def _has_progress(self) -> bool:
        if checkpoint.complete_names(RunFolder(self.cell.folder).checkpoints):
            return True
        return "files" in self.folder.manifest()

    def _start(self, mirror: Mirror, *, restarted: bool) -> None:
        attempt = enter_attempt(self.cell, self.folder, restarted=restarted)
        name = f"{self.cell.label}/seed={self.cell.config['seed']}"
        mirror.start(run_id=attempt.run_id, name=name, config=self.cell.config, folder=str(self.folder.path))
        # Steps that were taken before this attempt are part of it where a shorter run was extended.
        for row in self.folder.metrics.stream() if attempt.new else ():
            mirror.log(row["step"], {name: value for name, value in row.items() if name != "step"})

    def _identify(self, loaded: LoadedRun) -> None:
        # What the numbers depend on beside the config is written down; a resumed run has to find the same.
        depends_on = circumstances(self.components, loaded, loaded.policy.device, self.ranks)
        questions, reward = loaded.questions, self.components.reward
        first = render(self.components, loaded.policy, [*questions.train, *questions.evaluation][0])
        prompts = digest({"prompts": [*(prompt.text for prompt in loaded.rendered), first.text]})
        sets = set_records(self.components, loaded.sets, questions.sets)
        origin = model_run(self.cell.config)
        inputs, files = self.ranks.broadcast_from_rank0(
            lambda: run_inputs(self.components, questions, prompts, sets)
        )
        if checkpoint.complete_names(RunFolder(self.cell.folder).checkpoints):
            self.folder.refuse_other_circumstances(depends_on)
            refuse_other_inputs(self.folder, inputs)
        parameters = list(loaded.policy.network.parameters())
        self.folder.update_manifest(
            **depends_on,
            reward_version=reward.version,
            **reward.provenance(),
            bad_data=dict(questions.left_out),
            questions={"train": len(questions.train), "evaluated": len(questions.evaluation)},
            prompt={
                "example": first.text,
                "ids": first.ids,
                "hash": prompts,
            },
            model_check=loaded.model_check.record(),
            tokens_per_call=loaded.call_cost,
            deterministic=loaded.deterministic,
            memory=None if loaded.memory is None else loaded.memory.table,
            adapter=adaptation(loaded.policy.network),
            **({EVAL_SETS: sets} if sets else {}),
            **({"model_run": origin} if origin else {}),
            inputs=inputs,
            input_files=files,
            parameters={
                "all": sum(parameter.numel() for parameter in parameters),
                "trained": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
            },
        )
        write_atomic(self.folder.path / "prompt.txt", first.text)

    def _say(
        self, display: Display, loaded: LoadedRun, resumed: Resumed, launches: Sequence[Mapping[str, object]]
    ) -> None:
        questions = loaded.questions
        lines = [
            *notes(self.components),
            *loaded.policy.notes,
            *loaded.notes(),
            *other_prompt_note(self.cell.config, model_run(self.cell.config)),
            *few_questions_notes(self.cell.config, questions),
            *(f"{uid} is left out: {fault}" for uid, fault in questions.left_out.items()),
            *(
                f"{uid} of {name} is left out: {fault}"
                for name, of_set in questions.sets.items()
                for uid, fault in of_set.left_out.items()
            ),
        ]
        for note in lines:
            display.say(f"note: {note}")
        if resumed.step > 0:
            display.say(f"resuming after step {resumed.step} of {self.cell.config['steps']}")
            if any(launch.get("ranks", 1) != self.ranks.world_size for launch in launches):
                display.say(
                    "note: begun by another number of processes; from here on numbers are what they "
                    "would have been up to rounding"
                )

    def _finish(self, loaded: LoadedRun, resumed: Resumed, display: Display) -> None:
        weights = full_state_dict(loaded.policy.network)
        if self.ranks.first:
            with writing_to(self.folder.path):
                loaded.policy.save(self.folder.policy, weights)
            rows = self.folder.metrics.stream()
            card = model_card(self.cell, self.components, self.folder.manifest(), rows)
            write_atomic(self.folder.policy / CARD, card)
            finish(self.folder, resumed.codes)
            display.conclude(self.folder)
