"""A vLLM server as the sampler: what is said when it is not as it should be, and, where vLLM is installed, a
real one.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from engines import LONG, RAGGED, gap, ids, sample, wide

from mirrorpo.model.load import Lora, reference, with_adapter
from mirrorpo.rollout.vllm_server import Served

ENGINE = Served(url="", weights="", top_p=1.0, connections=4, timeout=60.0, sleep=False)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Closed(BaseHTTPRequestHandler):
    """A server of the same protocol on a CPU, without its development routes, or with other
    log-probabilities.
    """

    mode: str | None = None

    def do_GET(self) -> None:
        config = {
            "vllm_config": {"model_config": {"logprobs_mode": self.mode}, "device_config": {"device": "cpu"}}
        }
        body = b"" if self.mode is None else json.dumps(config).encode()
        self.send_response(404 if self.mode is None else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (None, r"/server_info.* 404.*VLLM_SERVER_DEV_MODE=1"),
        ("raw_logprobs", r"reports raw_logprobs.*--logprobs-mode processed_logprobs$"),
        ("processed_logprobs", r"vLLM's CPU build keeps a tied head"),
    ],
)
def test_a_server_that_was_started_otherwise_is_refused_with_what_is_missing(
    mode: str | None, message: str, tmp_path: Path
) -> None:
    with HTTPServer(("127.0.0.1", 0), type("Handler", (Closed,), {"mode": mode})) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(
                ValueError, match=rf"^rollout\.url=http://127\.0\.0\.1:{server.server_port}: .*{message}"
            ):
                sample(
                    replace(ENGINE, url=f"http://127.0.0.1:{server.server_port}", weights=str(tmp_path)),
                    wide(tie_word_embeddings=True),
                )
        finally:
            server.shutdown()
            thread.join()


def test_a_server_that_is_not_there_is_named_with_the_command_that_starts_it(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"^rollout\.url=http://127\.0\.0\.1:\d+: /server_info.* is not answered .*start `vllm serve`",
    ):
        sample(replace(ENGINE, url=f"http://127.0.0.1:{free_port()}", weights=str(tmp_path)), wide())


def test_no_prompts_need_no_server() -> None:
    assert list(sample(ENGINE, wide(), [])) == []


# What `vllm serve` runs; that command itself looks for a package `vllm`, which the CPU build is not called.
SERVER = (
    "-m vllm.entrypoints.openai.api_server --host 127.0.0.1 --dtype float32 --enforce-eager "
    "--generation-config vllm --logprobs-mode processed_logprobs --no-enable-chunked-prefill"
)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that was started with another policy's weights."""
    if find_spec("vllm") is None:
        pytest.skip(
            "NOT TESTED: rollout=vllm_server; vLLM is not installed in this environment (docs/vllm.md)"
        )
    folder, port, other = tmp_path_factory.mktemp("server"), free_port(), wide(seed=1)
    other.network.save_pretrained(folder / "start")
    other.tokenizer.save_pretrained(folder / "start")
    command = [sys.executable, *SERVER.split(), "--model", folder / "start", "--port", str(port)]
    environment = os.environ | {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(280):
                assert server.poll() is None, (folder / "log").read_text()[-3000:]
                try:
                    urllib.request.urlopen(f"{url}/health", timeout=5).close()
                    break
                except OSError:
                    time.sleep(1)
            yield replace(ENGINE, url=url, weights=str(folder / "weights"))
        finally:
            server.terminate()


# The first of them waits until the server is up.
real = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]


def opted_in(test: Callable[..., None]) -> Callable[..., None]:
    for mark in real:
        test = mark(test)
    return test


@opted_in
def test_a_real_server_samples_from_the_policy_it_is_given_also_behind_prompts_it_has_seen(
    served: Served,
) -> None:
    model = wide()
    for temperature in (0.7, 1.0):
        assert (
            gap(
                model,
                sample(served, model, [*RAGGED, LONG], group_size=6, temperature=temperature),
                temperature,
            )
            < 1e-5
        )
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(0.7)
    drawn = sample(served, model, [*RAGGED, LONG])
    assert gap(model, drawn) < 1e-5
    assert {completion.truncated for completion in drawn} == {completion.ids[-1] != 1 for completion in drawn}


@opted_in
def test_a_real_servers_completions_depend_on_seed_and_place(served: Served) -> None:
    model = wide()
    first = sample(served, model, group_size=6, seed=7)
    assert [completion.group for completion in first] == [group for group in range(4) for _ in range(6)]
    assert (
        ids(sample(served, model, group_size=6, seed=7))
        == ids(first)
        != ids(sample(served, model, group_size=6, seed=8))
    )
    assert ids(sample(served, model, RAGGED[:2], group_size=6, seed=7)) == ids(first)[:12]
    assert (
        len({tuple(completion.ids) for completion in sample(served, model, [RAGGED[0]] * 2, group_size=6)})
        > 6
    )


@opted_in
def test_a_real_server_samples_with_the_policys_adapter_and_for_its_reference_without(served: Served) -> None:
    model = with_adapter(
        wide(), Lora(rank=2, alpha=4, dropout=0.0, targets=["q_proj", "v_proj", "down_proj"]), 0
    )
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.5)
    drawn = sample(served, model)
    assert gap(model, drawn) < 1e-5 < 0.1 < gap(reference(model), drawn)
    assert gap(reference(model), sample(served, reference(model))) < 1e-5


@opted_in
def test_a_real_server_whose_context_is_too_short_is_an_error(served: Served) -> None:
    with pytest.raises(ValueError, match=r"400|max_model_len"):
        sample(served, replace(wide(), eos_ids=frozenset({999})), max_new_tokens=510)
