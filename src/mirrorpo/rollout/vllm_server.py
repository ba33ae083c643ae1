"""A vLLM server as the sampler: another process, other devices, weights handed over through a folder that
both can read.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypedDict, cast

from safetensors.torch import save_file

from mirrorpo.core.batch import Completion, RolloutRequest
from mirrorpo.core.protocols import Assembly, GenerativeModel
from mirrorpo.rollout.nucleus import cut_distribution_notes
from mirrorpo.rollout.request import group_completions, sampling_settings
from mirrorpo.rollout.weights import fingerprint, merged, network_config

# What each server was given last, by this process; another process's server is no concern of it.
_SERVER_WEIGHTS: dict[str, tuple[int, ...]] = {}


class _Logprobs(TypedDict):
    token_logprobs: list[float]


class _Choice(TypedDict):
    index: int
    token_ids: list[int]
    logprobs: _Logprobs


class _Completions(TypedDict):
    # What is read of the answer of /v1/completions.
    choices: list[_Choice]


class _ServerInfo(TypedDict):
    # What is read of the answer of /server_info.
    vllm_config: dict[str, dict[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """`vllm serve` behind its OpenAI-compatible HTTP API, one run to a server.

    Before a rollout whose policy has changed, the weights are written to `weights/model.safetensors`
    and the server reloads that folder (vLLM's collective_rpc, which VLLM_SERVER_DEV_MODE=1 opens).

    Attributes:
        url: of the server, without /v1.
        weights: folder that trainer and server both see; overwritten.
        top_p: nucleus sampling; below 1 the sampler is not the policy that is trained.
        connections: prompts that are asked at once.
        timeout: seconds until a request counts as lost.
        sleep: have the server give its memory back between rollouts; it needs --enable-sleep-mode.
    """

    samples: ClassVar[bool] = True
    serves_remotely: ClassVar[bool] = True

    url: str
    weights: str
    top_p: float
    connections: int
    timeout: float
    sleep: bool

    def __post_init__(self) -> None:
        if self.connections < 1 or not self.timeout > 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"rollout.connections={self.connections}, rollout.timeout={self.timeout}, "
                f"rollout.top_p={self.top_p}: give at least 1, seconds above 0, and a share in (0, 1]"
            )

    def notes(self, group: str, assembly: Assembly) -> Iterable[str]:
        """A cut distribution is not the policy that is trained."""
        return cut_distribution_notes(group, self.top_p)

    def generate(self, model: GenerativeModel, request: RolloutRequest) -> Sequence[Completion]:
        """`group_size` completions for each prompt, in order.

        Raises:
            ValueError: if the server cannot be reached, was started with other settings, or refuses a
                request.
        """
        groups = request.groups
        if not groups:
            return []
        self._send_weights(model)

        def sample(group: int) -> list[tuple[list[int], list[float]]]:
            body = sampling_settings(request, model, group, self.top_p) | {
                "prompt": list(request.prompt_ids[group]),
                "add_special_tokens": False,
                "return_token_ids": True,
            }
            reply = cast("_Completions", self._post("/v1/completions", body))
            choices = sorted(reply["choices"], key=lambda choice: choice["index"])
            return [(choice["token_ids"], choice["logprobs"]["token_logprobs"]) for choice in choices]

        with ThreadPoolExecutor(self.connections) as pool:
            answers = list(pool.map(sample, groups))
        if self.sleep:
            self._post("/sleep?level=1", {})
        completions: list[Completion] = []
        for group, drawn in zip(groups, answers, strict=True):
            completions += group_completions(request, model, group, drawn)
        return completions

    def _send_weights(self, model: GenerativeModel) -> None:
        if self.url not in _SERVER_WEIGHTS:
            self._refuse_other_settings(model)
        elif self.sleep:
            self._post("/wake_up", {})
        current = fingerprint(model)
        if current == _SERVER_WEIGHTS.get(self.url):
            return
        folder = Path(self.weights).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        written = folder / "model.safetensors.part"
        save_file(
            {name: tensor.detach().contiguous().cpu() for name, tensor in merged(model)},
            written,
            metadata={"format": "pt"},
        )
        written.replace(folder / "model.safetensors")
        self._post("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
        # Keys and values of the prompts are the old weights'.
        self._post("/reset_prefix_cache", {})
        _SERVER_WEIGHTS[self.url] = current

    def _refuse_other_settings(self, model: GenerativeModel) -> None:
        config = cast("_ServerInfo", self._post("/server_info?config_format=json", None))["vllm_config"]
        mode, device = config["model_config"]["logprobs_mode"], config["device_config"]["device"]
        if mode != "processed_logprobs":
            raise ValueError(
                f"rollout.url={self.url}: the server reports {mode}, which are not of the distribution it "
                f"samples from; "
                "start it with --logprobs-mode processed_logprobs"
            )
        if device == "cpu" and network_config(model).get_text_config().tie_word_embeddings:
            raise ValueError(
                f"rollout.url={self.url}: vLLM's CPU build keeps a tied head as it was when weights are "
                f"reloaded, so it would not "
                f"sample from the policy; "
                "use rollout=vllm, which packs it again, or a server on GPUs"
            )

    def _post(self, path: str, body: Mapping[str, object] | None) -> object:
        data = None if body is None else json.dumps(body).encode()
        call = urllib.request.Request(
            self.url.rstrip("/") + path, data=data, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(call, timeout=self.timeout) as reply:
                answer = reply.read()
        except urllib.error.HTTPError as error:
            hint = (
                "; start the server with VLLM_SERVER_DEV_MODE=1, on a network that only you reach"
                if error.code == 404
                else ""
            )
            raise ValueError(
                f"rollout.url={self.url}: {path} is answered by {error.code}: "
                f"{error.read().decode(errors='replace')[:500]}{hint}"
            ) from error
        except OSError as error:
            raise ValueError(
                f"rollout.url={self.url}: {path} is not answered ({error}); start `vllm serve` there, "
                f"docs/vllm.md has the command"
            ) from error
        return json.loads(answer) if answer else None
