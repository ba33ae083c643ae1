"""How far a step is from what the machine could do: FLOPs and bytes counted, over the rates measured here.

    python benchmarks/floor.py --model tiny
    python benchmarks/floor.py --model 25m

Groups of 8, random tokens, prompts and completions each of one length; the engine's end-of-sequence token is
taken away, so that it samples as many tokens as are learned from. No divergence.

needed: the least that any program computes. Each prompt goes through the network once, each completion token
once more, three times as much in the update (forward, and two products backward); two FLOPs a weight and
token, and attention's 4 H d a pair of positions. In sampling a step reads every weight and the keys and
values of all rows. Floor: for the products and for attention, whichever is longer, FLOPs over the rate of a
large product, or bytes over the rate of reading; activations count as free.

done: the operations that the step really calls, counted as they run. FLOPs of products and attention, and the
bytes that all other operations read and write, views aside, over the rate of a sum of two tensors of 2 MiB,
which the cache holds; one after the other. What is left between that and the time measured is calling them,
and products that are too small for the rate of a large one. Seconds are of processor.
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

# As train.py, before torch is there.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
from timing import Seconds, timed, typical
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from update import built, rollout, update

from mirrorpo.config.schema import register
from mirrorpo.core.batch import Prompt, RolloutRequest
from mirrorpo.distributed.device import prepare
from mirrorpo.model.language_model import LanguageModel
from mirrorpo.rollout.native import Native

GROUP = 8
# Prompts, their tokens, tokens of a completion: what benchmarks/grpo.py has on average.
SHAPES = {"tiny": (16, 31, 40), "25m": (4, 51, 96)}
ENGINE = Native(rows_at_once=256, compact_at=0.1, check_every=1, cache_block=64, top_p=1.0)
# FLOPs of attention's backward pass over those of the forward one: five products, the scores' own made again,
# in place of two.
BACKWARD = 2.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What this machine does in a second of processor.

    Attributes:
        flops: of a product of 1,024 x 1,024 matrices.
        read: bytes, of a tensor of 256 MiB.
        cached: bytes read and written, of tensors of 2 MiB.
    """

    flops: float
    read: float
    cached: float


def rates() -> Rates:
    """The best of several."""
    square, long, short = torch.randn(1024, 1024), torch.ones(2**26), torch.ones(2**19)
    out = torch.empty_like(short)

    def best(work: Callable[[], Any]) -> float:
        found: list[float] = []
        for _ in range(20):
            start = time.process_time()
            work()
            found.append(time.process_time() - start)
        return min(found)

    return Rates(
        flops=2 * 1024**3 / best(lambda: square @ square),
        read=4 * 2**26 / best(lambda: long.sum()),
        cached=10 * 3 * 4 * 2**19 / best(lambda: [torch.add(short, short, out=out) for _ in range(10)]),
    )


@dataclass
class Count(TorchDispatchMode):
    """Sums FLOPs of products and attention, and bytes of everything else."""

    flops: float = 0
    bytes: float = 0
    calls: int = 0
    attention: float = field(default=0)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Runs the operation and counts it."""
        named = dict(kwargs or {})
        name = func._overloadpacket
        if name not in flop_registry and "._scaled_dot_product" not in str(name):
            with self:
                found = func.decompose(*args, **named)
            if found is not NotImplemented:
                return found
        out = func(*args, **named)
        if "._scaled_dot_product" in str(name):
            query, key = (args[1], args[2]) if "backward" in str(name) else (args[0], args[1])
            self.attention += 4 * query.numel() * key.shape[2] * (BACKWARD if "backward" in str(name) else 1)
        elif name in flop_registry:
            self.flops += flop_registry[name](*args, **named, out_val=out)
        elif not func.is_view:
            self.bytes += sum(
                each.numel() * each.element_size()
                for each in tree_leaves((args, named, out))
                if isinstance(each, Tensor)
            )
        self.calls += 1
        return out


def needed(model: LanguageModel, prompts: int, depth: int, length: int, speed: Rates) -> dict[str, float]:
    """Seconds of sampling and of an update, at the least."""
    config = model.causal_lm.config.get_text_config()
    layers, heads, kept = config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    inside = sum(
        module.weight.numel()
        for module in model.causal_lm.get_decoder().modules()
        if isinstance(module, torch.nn.Linear)
    )
    head, rows = config.vocab_size * config.hidden_size, prompts * GROUP
    # Pairs of a position and one that it sees.
    above, beside = prompts * depth * depth / 2, rows * (length * depth + length * length / 2)
    pair = 4 * layers * heads * size
    asked, written = prompts * depth, rows * length
    # A prompt's last state predicts the first token, so the last token is never computed.
    taken = rows * (length - 1)
    reads = 4 * (length - 1) * (inside + head)
    cache = 4 * 2 * layers * kept * size * rows * sum(depth + step for step in range(1, length))
    sampling = max((2 * inside * (asked + taken) + 2 * head * written) / speed.flops, reads / speed.read)
    sampling += max(pair * (above + beside) / speed.flops, cache / speed.read)
    learning = 3 * (2 * inside * (asked + taken) + 2 * head * written) + (1 + BACKWARD) * pair * (
        above + beside
    )
    return {"sampling": sampling, "update": learning / speed.flops}


def main() -> None:
    """Measure, count and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        choices=list(SHAPES),
        default="tiny",
        help="the shipped tiny model, or a Llama of 25M random weights",
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch (1)")
    parser.add_argument("--rounds", type=int, default=5, help="of each that are timed (5)")
    asked = parser.parse_args()
    prepare(threads=asked.threads, deterministic=True)
    register()
    speed = rates()
    learner = built(asked.model)
    count, depth, length = SHAPES[asked.model]
    batch = rollout(learner, count, GROUP, depth, length, ragged=False)
    endless = replace(learner.policy, eos_ids=frozenset({-1}))
    prompts = [Prompt(uid=str(index), question="", gold="", demonstration="") for index in range(count)]
    ids = [batch.prompt_ids[index * GROUP].tolist() for index in range(count)]
    work: dict[str, Callable[[], Any]] = {
        "sampling": lambda: ENGINE.generate(
            endless,
            RolloutRequest(
                prompts=prompts,
                prompt_ids=ids,
                group_size=GROUP,
                max_new_tokens=length,
                temperature=1.0,
                seed=0,
            ),
        ),
        "update": lambda: update(learner, batch),
    }
    least = needed(learner.policy, count, depth, length, speed)
    print(
        f"{asked.model}: {count} prompts of {depth} tokens x {GROUP} completions of {length}, "
        f"{asked.threads} thread(s), "
        f"torch {torch.__version__}"
    )
    print(
        f"matrix products {speed.flops / 1e9:.0f} GFLOP/s, reading {speed.read / 1e9:.1f} GB/s, in the cache "
        f"{speed.cached / 1e9:.0f} "
        f"GB/s\n"
    )
    print(
        f"{'':10}{'needed, s':>11}{'GFLOP':>8}{'attention':>11}{'other GB':>10}{'calls':>8}{'done, s':>9}{'measured':>10}{'/ needed':>10}{'/ done':>8}"
    )
    for name, run in work.items():
        run()
        times: list[Seconds] = []
        for _ in range(asked.rounds):
            with timed(times):
                run()
        with Count() as counted:
            run()
        done = (counted.flops + counted.attention) / speed.flops + counted.bytes / speed.cached
        spent = typical(times).processor
        row = f"{name:10}{least[name]:11.3f}{counted.flops / 1e9:8.1f}{counted.attention / 1e9:11.1f}{counted.bytes / 1e9:10.2f}{counted.calls:8}"
        print(f"{row}{done:9.3f}{spent:10.3f}{spent / least[name]:10.2f}{spent / done:8.2f}", flush=True)


if __name__ == "__main__":
    main()
