"""The algorithm box of the papers, in the order of the data, and the life of a run around it."""

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from signal import Signals
from typing import Any

import torch

from mirrorpo.config.cell import Cell
from mirrorpo.config.identity import digest
from mirrorpo.core.batch import Prompt, RolloutBatch
from mirrorpo.core.seeds import derive, global_state, restore_global_state, seed_globals
from mirrorpo.distributed.collectives import ALONE, Ranks
from mirrorpo.distributed.device import device_name, named_device, peak_memory_mb, prepare, stopwatch
from mirrorpo.distributed.fsdp import full_state_dict
from mirrorpo.model.load import reference
from mirrorpo.rollout.collate import collate
from mirrorpo.rollout.collector import Collector, Rollout
from mirrorpo.rollout.prompt_order import DataOrder
from mirrorpo.run import checkpoint
from mirrorpo.run.folder import RunFolder, timestamp, write_atomic
from mirrorpo.run.lifecycle import enter, finish, lifecycle
from mirrorpo.run.preemption import Preempted, StopRequest
from mirrorpo.run.provenance import provenance
from mirrorpo.run.tracking import NoTracker
from mirrorpo.train.build import Components, judged_by, mirror_map, notes, questions
from mirrorpo.train.credit_metrics import credit_metrics, gradient_shares
from mirrorpo.train.display import Display, write_completions
from mirrorpo.train.drift import draw_probe
from mirrorpo.train.evaluate import Evaluator
from mirrorpo.train.learner import SETTINGS, Learner, NotFinite
from mirrorpo.train.metrics import finite, rollout_metrics
from mirrorpo.train.sharded import sharded_engine, sharded_model, sharded_reward

log = logging.getLogger(__name__)


class Trainer:
    """Runs one cell from wherever its folder stands to its last step.

    Each rank has a trainer of its own; `folder` is where this one writes, which is the cell's for the first
    rank alone.
    """

    def __init__(
        self,
        cell: Cell,
        components: Components,
        folder: RunFolder,
        root: Path,
        stop_request: StopRequest,
        ranks: Ranks = ALONE,
    ) -> None:
        self.cell, self.components, self.folder, self.stop_request, self.ranks = (
            cell,
            components,
            folder,
            stop_request,
            ranks,
        )
        self.config, self.checkpoints = cell.config, RunFolder(cell.folder).checkpoints
        self.device = named_device(self.config["device"], ranks)
        self.launch = {
            "time": timestamp(),
            "device": device_name(self.device),
            "ranks": ranks.world_size,
            **provenance(root),
        }

    def run(self) -> None:
        """Train, or go on training, and leave the folder done or failed with its reason.

        Raises:
            Preempted: if it was asked to stop and has; the folder is requeued then.
        """
        self.folder.refuse_other_config(self.cell)
        tracker = (self.components.tracking if self.ranks.first else NoTracker()).build()
        with lifecycle(self.cell, self.folder, self.launch, tracker), self.ranks.propagate_failure(Preempted):
            self._run(tracker)

    def _run(self, tracker: Any) -> None:
        prepare(threads=self.config["threads"], deterministic=self.config["deterministic"])
        seed_globals(self.config["seed"])
        self._load()
        tracker.start(
            run_id=self.cell.run_id,
            name=f"{self.cell.label}/seed={self.config['seed']}",
            config=self.config,
            folder=str(self.folder.path),
        )
        done = saved = self._resume()
        launches = self.folder.manifest()["launches"]
        enter(self.folder, done, self.codes)
        steps = self.config["steps"]
        with Display(steps, done, enabled=self.config["progress"]) as display:
            for note in (
                *notes(self.components, self.config),
                *(f"{uid} is left out: {fault}" for uid, fault in self.faults.items()),
            ):
                display.say(f"note: {note}")
            if done > 0:
                display.say(f"resuming after step {done} of {steps}")
                if any(launch.get("ranks", 1) != self.ranks.world_size for launch in launches):
                    display.say(
                        "note: begun by another number of processes; from here on numbers are what they "
                        "would have been up to rounding"
                    )
            elif self._evaluates(0):
                display.say(f"evaluating the start model on {len(self.evaluator.prompts)} held-out questions")
                self._record(tracker, display, 0, self._drift(), {"seconds": 0.0})
            for step in range(done + 1, steps + 1):
                self._hand_over(step - 1, saved)
                with stopwatch() as clock:
                    metrics, timings = self.train_step(step)
                self._record(tracker, display, step, metrics, timings | {"seconds": clock()})
                if step % self.config["checkpoint_every"] == 0 or step == steps:
                    saved = self._save(step)
        self._finish(display)

    def _hand_over(self, step: int, saved: int) -> None:
        # SIGTERM, which stands over SIGUSR2, is the larger number.
        asked = max(self.ranks.all_gather(self.stop_request.asked or 0))
        if asked:
            if step > saved:
                self._save(step)
            raise Preempted(step, Signals(asked))

    def _save(self, step: int) -> int:
        checkpoint.save(
            self.checkpoints, step, self._state(step), self.config["keep_checkpoints"], self.ranks
        )
        return step

    def _load(self) -> None:
        config, components = self.config, self.components
        train, asked_of, self.faults = self.ranks.broadcast_from_rank0(lambda: questions(components, config))
        policy = components.model.load(
            self.device,
            config["seed"],
            lambda: (text for prompt in train for text in (prompt.question + "\n", prompt.demonstration)),
        )
        reads = components.divergence.reads != "nothing" and components.divergence.anchor == "reference"
        start = reference(policy) if reads else None
        self.policy = sharded_model(policy, self.ranks)
        self.position, self.beta = 0, float(components.divergence.beta)
        reward, eval_engine = (
            sharded_reward(components.reward, self.ranks),
            sharded_engine(components.eval_rollout, self.ranks),
        )
        self.collector = Collector(
            engine=sharded_engine(components.rollout, self.ranks),
            reward=reward,
            rule=components.algo.rollout_rule,
            render=self._render,
            prompts=train,
            order=DataOrder(size=len(train), seed=config["seed"], order=config["data_order"]),
            **{
                name: config[name]
                for name in ("prompts_per_step", "group_size", "max_new_tokens", "temperature", "seed")
            },
        )
        self.learner = Learner(
            policy=self.policy,
            # An adapter that is switched off is the policy's own network.
            reference=start if start is None or start.adapter_off else sharded_model(start, self.ranks),
            optimiser=components.optim.build(self.policy.network),
            algo=components.algo,
            divergence=components.divergence,
            weighting=components.weighting,
            importance_correction=components.importance_correction,
            ranks=self.ranks,
            **{name: config[name] for name in SETTINGS},
        )
        rendered = [self._render(prompt) for prompt in asked_of]
        self.evaluator = Evaluator(
            engine=eval_engine,
            reward=reward,
            prompts=asked_of,
            prompt_ids=[ids for _, ids in rendered],
            max_new_tokens=config["eval_max_new_tokens"],
            sampled_questions=config["eval_sampled_questions"],
            samples=config["eval_samples"],
            temperature=config["eval_temperature"],
            seed=config["seed"],
        )
        lengths = [len(ids) for _, ids in rendered] + [len(self._render(prompt)[1]) for prompt in train]
        longest = max(lengths) + max(config["eval_max_new_tokens"], config["max_new_tokens"])
        self.policy.check_context(longest)
        asked = train[: config["drift_questions"]]
        settings = {name: config[name] for name in ("max_new_tokens", "temperature", "drift_positions")}
        with self.policy.shards.gathered():
            self.probe = draw_probe(
                self.policy, eval_engine, asked, [self._render(prompt)[1] for prompt in asked], **settings
            )
        self._identify([*train, *asked_of], [text for text, _ in rendered])

    def _identify(self, prompts: Sequence[Prompt], asked: Sequence[str]) -> None:
        """Write down what the numbers depend on beside the config; a resumed run has to find the same."""
        components, split = self.components, self.config["eval_split"]
        found = {
            "data": self.ranks.broadcast_from_rank0(
                lambda: {
                    name: components.dataset.fingerprint(name) for name in dict.fromkeys(("train", split))
                }
            ),
            "computed_in": f"{self.policy.dtype} on {self.device.type}".removeprefix("torch."),
            "mirror_map": mirror_map(components.divergence),
            "model_commit": getattr(self.policy.causal_lm.config, "_commit_hash", None),
        }
        if checkpoint.complete_names(self.checkpoints):
            self.folder.refuse_other_circumstances(found)
        first, ids = self._render(prompts[0])
        self.folder.update_manifest(
            **found,
            **judged_by(components.reward),
            bad_data=self.faults,
            prompt={"example": first, "ids": ids, "hash": digest({"prompts": [*asked, first]})},
            parameters={
                "all": sum(p.numel() for p in self.policy.network.parameters()),
                "trained": sum(p.numel() for p in self.policy.network.parameters() if p.requires_grad),
            },
        )
        write_atomic(self.folder.path / "prompt.txt", first)

    def train_step(self, step: int) -> tuple[dict[str, float], dict[str, float]]:
        """One rollout and its updates: metrics that are deterministic, and timings that are not."""
        algo = self.components.algo
        if not self.ranks.first:
            # What the global generators are for, dropout, is of this rank's own rows; only rank 0's state is
            # kept.
            seed_globals(derive(self.config["seed"], "ranks", self.ranks.rank, step))
        with self.policy.shards.gathered():
            with stopwatch() as rollout_clock:
                rollout = self.collector(self.policy, step, self.position)
                batch = self._collated(rollout)
            with stopwatch() as score_clock:
                learner = replace(self.learner, divergence=self.components.divergence_at(self.beta))
                batch, anchor_head = learner.rescore(batch)
                advantages = algo.advantage(batch.rewards, batch.group)
                weights, spans = learner.weigh(
                    batch, advantages, derive(self.config["seed"], "weighting", step)
                )
        with stopwatch() as update_clock:
            try:
                learned = learner.learn(batch, advantages, weights, anchor_head, self._learning_rates(step))
            except NotFinite as error:
                dump = self.folder.path / f"not_finite_step_{step:06d}.pt"
                if self.ranks.first:
                    torch.save(
                        {name: getattr(batch, name) for name in batch.__dataclass_fields__}
                        | {"advantages": advantages, "weights": weights},
                        dump,
                    )
                raise NotFinite(
                    f"step {step}: {error}. The batch is in {dump}; a lower lr, or float32, is the usual cure"
                ) from error
        with stopwatch() as drift_clock:
            drift = self._drift()
        self.position = rollout.position
        metrics = (
            rollout_metrics([answer.verdict for answer in rollout.answers], batch, advantages, weights)
            | learned
            | drift
        )
        all_offsets = [self.policy.with_offsets(answer.completion.ids) for answer in rollout.answers]
        write_completions(
            self.folder.path,
            step,
            rollout.answers,
            all_offsets,
            weights,
            spans,
            self.config["shown_completions"],
        )
        metrics |= credit_metrics(spans, batch, advantages, weights) | gradient_shares(
            all_offsets, batch, advantages, weights
        )
        metrics["divergence/beta"] = self.beta
        self.beta = self.components.beta_schedule.after(self.beta, drift)
        sampled = {
            "rollout/draws": float(rollout.draws),
            "rollout/completions": float(rollout.completions),
            "rollout/tokens": float(rollout.tokens),
        }
        seconds = {
            "rollout_s": rollout_clock(),
            "score_s": score_clock(),
            "update_s": update_clock(),
            "drift_s": drift_clock(),
        }
        speed = {
            "tokens_per_s": rollout.tokens / sum(seconds.values()),
            "rollout_tokens_per_s": rollout.tokens / seconds["rollout_s"],
        }
        return metrics | sampled, seconds | speed | {"peak_memory_mb": peak_memory_mb(self.device)}

    def _drift(self) -> dict[str, float]:
        with self.policy.shards.gathered():
            # It steers a coefficient, which must not differ from rank to rank by rounding.
            return self.ranks.broadcast_from_rank0(lambda: self.probe(self.policy))

    def _collated(self, rollout: Rollout) -> RolloutBatch:
        return collate(
            [answer.completion for answer in rollout.answers],
            [answer.reward for answer in rollout.answers],
            pad_id=self.policy.pad_id,
            mask_truncated=self.components.algo.rollout_rule.mask_truncated,
        )

    def _learning_rates(self, step: int) -> list[float]:
        updates = self.config["updates_per_rollout"]
        first, last = (step - 1) * updates, self.config["steps"] * updates
        return [
            self.config["lr"] * self.components.schedule.factor(first + update, last)
            for update in range(updates)
        ]

    def _render(self, prompt: Prompt) -> tuple[str, Sequence[int]]:
        system, user = self.components.dataset.system, self.components.dataset.user
        rendered = self.components.model.prompt(
            self.policy.tokenizer, system=system, user=user, question=prompt.question
        )
        return rendered.text, rendered.ids

    def _evaluates(self, step: int) -> bool:
        all_gather, last = self.config["eval_every"], self.config["steps"]
        return self.config["eval_questions"] > 0 and (
            step in (0, last) or (all_gather > 0 and step % all_gather == 0)
        )

    def _record(
        self, tracker: Any, display: Display, step: int, metrics: dict[str, float], timings: dict[str, float]
    ) -> None:
        if self._evaluates(step):
            with stopwatch() as clock, self.policy.shards.gathered():
                evaluation = self.evaluator(self.policy, step)
            path = self.folder.evaluation(step)
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, "".join(json.dumps(row) + "\n" for row in evaluation.rows))
            metrics, timings = metrics | evaluation.metrics, timings | {"eval_s": clock()}
        metrics = finite(metrics)
        self.folder.metrics.append({"step": step} | metrics)
        self.folder.timings.append({"step": step} | timings)
        tracker.log(step, metrics)
        display.step(step, metrics | timings, sum(timings.get(name, 0.0) for name in ("seconds", "eval_s")))

    def _state(self, step: int) -> dict[str, Any]:
        trained = {
            name for name, parameter in self.policy.network.named_parameters() if parameter.requires_grad
        }
        weights = {
            name: tensor for name, tensor in self.policy.network.state_dict().items() if name in trained
        }
        return {
            "step": step,
            "position": self.position,
            "beta": self.beta,
            "config_hash": self.cell.hash,
            "codes": self.codes,
            "weights": weights,
            "optimiser": self.learner.optimiser.state_dict(),
            "random": global_state(),
        }

    def _resume(self) -> int:
        state = checkpoint.newest(self.checkpoints, self.ranks, self.device.type)
        step, self.codes = -1, [self.launch["code"]]
        if state is not None and self.ranks.broadcast_from_rank0(
            lambda: self.folder.recorded(state["step"], self._evaluates)
        ):
            step = state["step"]
            self.policy.network.load_state_dict(state["weights"], strict=False)
            self.learner.optimiser.load_state_dict(state["optimiser"])
            self.position, self.beta = state["position"], state["beta"]
            self.codes = [
                *state.get("codes", []),
                *(code for code in self.codes if code not in state.get("codes", [])),
            ]
            restore_global_state(state["random"])
        elif state is not None or "files" in self.folder.manifest():
            # It once got further than this; what it measured is kept, since on CUDA it may not come back the
            # same.
            for file in (self.folder.metrics, self.folder.timings):
                aside = file.path.with_suffix(".before_restart.jsonl")
                if file.path.exists() and not aside.exists():
                    file.path.replace(aside)
            log.warning(
                "%s: rows, evaluations or checkpoints are gone; starting over, old rows are in "
                "*.before_restart.jsonl",
                self.folder.path,
            )
        for file in (self.folder.metrics, self.folder.timings):
            file.cut_after(step)
        return max(step, 0)

    def _finish(self, display: Display) -> None:
        weights = full_state_dict(self.policy.network)
        if self.ranks.first:
            self.policy.network.save_pretrained(self.folder.policy, state_dict=weights)
            self.policy.tokenizer.save_pretrained(self.folder.policy)
            finish(self.folder, self.codes)
            display.conclude(self.folder)
