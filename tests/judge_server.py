"""A verifier behind HTTP, in a thread of this process; tests break it in the ways that servers break."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = Mapping[str, Any]


def by_gold(body: Body) -> Mapping[str, object]:
    """1 for a text that ends in its gold, and words of its own."""
    right = [text.strip().endswith(gold) for text, gold in zip(body["texts"], body["golds"], strict=True)]
    return {
        "rewards": [1.0 if ok else 0.25 for ok in right],
        "correct": right,
        "outcomes": ["bravo" if ok else "alas" for ok in right],
    }


@dataclass
class Judge:
    """The server's state, which a test may change while it runs.

    Attributes:
        version: what it calls itself.
        judge: the reply to a POST, or a fault.
        faults: of the next POSTs, in order: a status, "drop" (the connection is closed), "drip" (bytes come
            too slowly to end), or a text that is sent in place of JSON. The last one stays where `broken`.
        broken: whether the last fault stays.
        requests: every body that came, with its headers.
        at_once: the most POSTs that were in the server together.
    """

    version: str = "judge/1"
    judge: Callable[[Body], object] = by_gold
    faults: list[int | str] = field(default_factory=list)
    broken: bool = False
    requests: list[tuple[Body, Mapping[str, str]]] = field(default_factory=list)
    at_once: int = 0
    delay_s: float = 0.0
    url: str = ""

    def next_fault(self) -> int | str | None:
        if not self.faults:
            return None
        return self.faults[0] if self.broken and len(self.faults) == 1 else self.faults.pop(0)

    @property
    def sizes(self) -> Sequence[int]:
        """Texts of each request."""
        return [len(body["texts"]) for body, _ in self.requests]


@contextmanager
def judge_server() -> Iterator[Judge]:
    """A server on a free port of the loopback."""
    judge, lock, inside = Judge(), threading.Lock(), [0]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(json.dumps({"version": judge.version}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                judge.requests.append((body, dict(self.headers)))
                fault = judge.next_fault()
                inside[0] += 1
                judge.at_once = max(judge.at_once, inside[0])
            time.sleep(judge.delay_s)
            with lock:
                inside[0] -= 1
            self._answer(fault, body)

        def _answer(self, fault: int | str | None, body: Body) -> None:
            reply = judge.judge(body) if fault is None else fault
            if not isinstance(reply, int | str):
                self._send(json.dumps(reply).encode())
            elif isinstance(reply, int):
                self.send_error(reply)
            elif reply == "drop":
                self.close_connection = True
            elif reply == "drip":
                self._drip()
            else:
                self._send(reply.encode())

        def _send(self, content: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _drip(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            try:
                for _ in range(1000):
                    self.wfile.write(b" ")
                    time.sleep(0.02)
            except OSError:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    judge.url = f"http://127.0.0.1:{server.server_address[1]}/judge"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
