"""A vLLM server as the sampler: what is said when it is not as it should be, and, where vLLM is installed, a real one."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from engines import RAGGED, gap, ids, sample, wide

from mirrorpo.rollout.vllm_server import Served

ENGINE = Served(url="", weights="", top_p=1.0, connections=4, timeout=60.0, sleep=False)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Closed(BaseHTTPRequestHandler):
    """A server of the same protocol on a CPU, without its development routes, or with other log-probabilities."""

    mode: str | None = None

    def do_GET(self) -> None:
        config = {"vllm_config": {"model_config": {"logprobs_mode": self.mode}, "device_config": {"device_type": "cpu"}}}
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
def test_a_server_that_was_started_otherwise_is_refused_with_what_is_missing(mode: str | None, message: str, tmp_path: Path) -> None:
    with HTTPServer(("127.0.0.1", 0), type("Handler", (Closed,), {"mode": mode})) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(ValueError, match=rf"^rollout\.url=http://127\.0\.0\.1:{server.server_port}: .*{message}"):
                sample(replace(ENGINE, url=f"http://127.0.0.1:{server.server_port}", weights=str(tmp_path)), wide(tie_word_embeddings=True))
        finally:
            server.shutdown()
            thread.join()


def test_a_server_that_is_not_there_is_named_with_the_command_that_starts_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^rollout\.url=http://127\.0\.0\.1:\d+: /server_info.* is not answered .*start `vllm serve`"):
        sample(replace(ENGINE, url=f"http://127.0.0.1:{free_port()}", weights=str(tmp_path)), wide())


def test_no_prompts_need_no_server() -> None:
    assert list(sample(ENGINE, wide(), [])) == []


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that was started with another policy's weights."""
    if find_spec("vllm") is None:
        pytest.skip("NOT TESTED: rollout=vllm_server; vLLM is not installed in this environment (docs/vllm.md)")
    folder, port, other = tmp_path_factory.mktemp("server"), free_port(), wide(seed=1)
    other.network.save_pretrained(folder / "start")
    other.tokenizer.save_pretrained(folder / "start")
    program = shutil.which("vllm", path=str(Path(sys.executable).parent)) or "vllm"
    command = [program, "serve", folder / "start", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"]
    command += ["--generation-config", "vllm", "--logprobs-mode", "processed_logprobs"]
    environment = os.environ | {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with (folder / "log").open("w") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server:
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


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore")
def test_a_real_server_samples_from_the_policy_it_is_given(served: Served) -> None:
    model = wide()
    drawn = sample(served, model, group_size=6, temperature=0.7)
    assert gap(model, drawn, 0.7) < 1e-5
    assert [completion.group for completion in drawn] == [group for group in range(4) for _ in range(6)]
    assert ids(sample(served, model, group_size=6, temperature=0.7)) == ids(drawn)
    assert ids(sample(served, model, RAGGED[:2], group_size=6, temperature=0.7)) == ids(drawn)[:12]
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.mul_(0.7)
    drawn = sample(served, model)
    assert gap(model, drawn) < 1e-5
    assert {completion.truncated for completion in drawn} == {completion.ids[-1] != 1 for completion in drawn}
    with pytest.raises(ValueError, match=r"400|max_model_len"):
        sample(served, model, max_new_tokens=80)
