"""A verifier behind HTTP: answers go out as JSON, rewards come back.

GET of the URL says what judges: `{"version": "my-judge/3"}`. POST judges some answers:

    {"texts": [...], "questions": [...], "golds": [...], "uids": [...]}

    {"rewards": [1.0, null], "correct": [true, false], "outcomes": ["right", "unverifiable"]}

A list of the reply has an entry for each text, in order. `correct` and `outcomes` may be absent: from 1 on a
reward is then correct. A null reward is no verdict. A reply may repeat `version`.
"""

import json
import logging
import math
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from mirrorpo.core.batch import Prompt, Verdict
from mirrorpo.reward.plain import plain_verdict

log = logging.getLogger(__name__)

TRY_AGAIN = (408, 429)  # of the statuses below 500
TRIED = 2  # golds that the server judges before a run begins


class Unanswered(Exception):
    """A request without a usable reply; the text says why."""


class _Passing(Unanswered):
    # One that may be answered when it is sent again.
    pass


class _OtherVersion(RuntimeError):
    pass


@dataclass(frozen=True, kw_only=True)
class HttpVerifier:
    """Verdicts of a server.

    A request that fails is sent again, after a wait that doubles each time, where the reason was the
    connection, the clock, or a status of 408, 429, 500 or above. What stays without a usable reply has no
    verdict: the reward is NaN and the outcome "unverifiable", and more than half of such stops the run. A
    server that cannot judge golds is refused before a run begins, and one that changes its version stops it.

    Attributes:
        url: of the verifier.
        batch: answers of a request.
        connections: requests at once.
        timeout_s: seconds of a request, by the clock, from the connection to the last byte.
        retries: of a request.
        backoff_s: seconds before the first of them.
        token_variable: the environment variable with a bearer token, or None.
    """

    url: str
    batch: int
    connections: int
    timeout_s: float
    retries: int
    backoff_s: float
    token_variable: str | None

    def __post_init__(self) -> None:
        if not _is_address(self.url):
            raise ValueError(f"reward.url={self.url}: give an address such as http://127.0.0.1:8001/judge")
        least = min(self.batch, self.connections)
        if least < 1 or self.retries < 0 or not self.timeout_s > 0 or not self.backoff_s >= 0:
            raise ValueError(
                f"reward.batch={self.batch}, reward.connections={self.connections}, "
                f"reward.timeout_s={self.timeout_s}, reward.retries={self.retries}, "
                f"reward.backoff_s={self.backoff_s}: give at least 1, 1, seconds above 0, 0 and 0"
            )
        if self.token_variable and not os.environ.get(self.token_variable):
            raise ValueError(f"reward.token_variable={self.token_variable}: this variable is not set")

    @property
    def version(self) -> str:
        """The server's, once it has been asked, as it is before a run begins; to read it asks nobody."""
        known = vars(self).get("server_version")
        return f"http/1 {known}" if known else "http/1"

    def __call__(self, texts: Sequence[str], prompts: Sequence[Prompt]) -> list[Verdict]:
        answers = list(zip(texts, prompts, strict=True))
        pairs = [answers[start : start + self.batch] for start in range(0, len(answers), self.batch)]
        with ThreadPoolExecutor(max_workers=self.connections) as pool:
            return [verdict for verdicts in pool.map(self._judged, pairs) for verdict in verdicts]

    def unjudgeable(self, prompts: Sequence[Prompt]) -> dict[str, str]:
        """None; but the server is tried, on the first golds.

        Raises:
            ValueError: if it does not answer, or not as the contract says.
        """
        try:
            self._post([(prompt.gold, prompt) for prompt in prompts[:TRIED]])
        except Unanswered as error:
            raise ValueError(self._refusal(error)) from error
        return {}

    def provenance(self) -> dict[str, object]:
        """Where verdicts come from, and what the server calls itself."""
        return {"sandbox": None, "verifier": {"url": self.url, "version": self.server_version}}

    def sources(self) -> dict[str, str]:
        """What the server calls itself."""
        return {"url": self.server_version}

    @cached_property
    def server_version(self) -> str:
        """What the server calls itself.

        Raises:
            ValueError: if it does not answer, or not as the contract says.
        """
        try:
            reply = self._reply("GET", None)
            if not isinstance(version := reply.get("version"), str) or not version:
                raise Unanswered(f"GET gave {_shown(reply)}; wanted is a text under `version`")
        except Unanswered as error:
            raise ValueError(self._refusal(error)) from error
        return version

    def _refusal(self, error: Unanswered) -> str:
        return f"reward.url={self.url}: {error}; start the verifier there, or mend it (docs/rewards.md)"

    def _judged(self, pairs: Sequence[tuple[str, Prompt]]) -> list[Verdict]:
        try:
            return self._post(pairs)
        except Unanswered as error:
            log.warning("reward.url=%s: no verdict on %d answers: %s", self.url, len(pairs), error)
            return [plain_verdict(math.nan)] * len(pairs)

    def _post(self, pairs: Sequence[tuple[str, Prompt]]) -> list[Verdict]:
        body = {
            "texts": [text for text, _ in pairs],
            "questions": [prompt.question for _, prompt in pairs],
            "golds": [prompt.gold for _, prompt in pairs],
            "uids": [prompt.uid for _, prompt in pairs],
        }
        known = self.server_version
        reply = self._reply("POST", json.dumps(body).encode())
        if (now := reply.get("version", known)) != known:
            raise _OtherVersion(
                f"reward.url={self.url}: the verifier was {known} when the run began and is {now} now; "
                "restore it and launch again"
            )
        return _verdicts(reply, len(pairs))

    def _reply(self, method: str, body: bytes | None) -> Mapping[str, object]:
        for attempt in range(self.retries):
            with suppress(_Passing):
                return self._once(method, body)
            time.sleep(self.backoff_s * 2**attempt)
        return self._once(method, body)

    def _once(self, method: str, body: bytes | None) -> Mapping[str, object]:
        parts = urlsplit(self.url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.token_variable:
            headers["Authorization"] = f"Bearer {os.environ[self.token_variable]}"
        with self._connection() as connection:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            status, text = response.status, response.read()
        if status >= 500 or status in TRY_AGAIN:
            raise _Passing(f"{method} gave status {status}")
        if status != 200:
            raise Unanswered(f"{method} gave status {status}: {_shown(text)}")
        try:
            reply = json.loads(text)
        except ValueError as error:
            raise Unanswered(f"{method} gave no JSON: {_shown(text)}") from error
        if not isinstance(reply, dict):
            raise Unanswered(f"{method} gave {_shown(reply)}; wanted is a JSON object")
        return reply

    @contextmanager
    def _connection(self) -> Iterator[HTTPConnection]:
        # Timeouts of a socket are of each read: a server that drips is cut off by the clock.
        parts = urlsplit(self.url)
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self.timeout_s)
        late, start = threading.Event(), time.monotonic()
        try:
            connection.connect()
            left = max(self.timeout_s - (time.monotonic() - start), 0.0)
            with _cut_off(connection.sock, left, late):
                yield connection
            if late.is_set():
                raise TimeoutError
        except (OSError, HTTPException) as error:
            timed_out = late.is_set() or isinstance(error, TimeoutError)
            reason = f"no reply within reward.timeout_s={self.timeout_s:g}" if timed_out else _reason(error)
            raise _Passing(reason) from error
        finally:
            connection.close()


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        # Reading the port is what checks it.
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


@contextmanager
def _cut_off(connection: socket.socket, seconds: float, late: threading.Event) -> Iterator[None]:
    # The socket itself: the connection forgets it once a reply has begun that ends it.
    def cut() -> None:
        late.set()
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    clock = threading.Timer(seconds, cut)
    clock.daemon = True
    clock.start()
    try:
        yield
    finally:
        clock.cancel()


def _reason(error: OSError | HTTPException) -> str:
    words = error.strerror if isinstance(error, OSError) else str(error)
    return f"the connection failed ({words or type(error).__name__})"


def _verdicts(reply: Mapping[str, object], count: int) -> list[Verdict]:
    rewards = [
        math.nan if reward is None else float(reward)
        for reward in _entries(reply, "rewards", count, (int, float, type(None)))
    ]
    plain = [plain_verdict(reward) for reward in rewards]
    correct = [verdict.correct for verdict in plain]
    outcomes = [verdict.outcome for verdict in plain]
    if "correct" in reply:
        correct = _entries(reply, "correct", count, (bool,))
        outcomes = ["right" if right else "wrong" for right in correct]
    if "outcomes" in reply:
        outcomes = _entries(reply, "outcomes", count, (str,))
    return [
        _verdict(reward, right, outcome)
        for reward, right, outcome in zip(rewards, correct, outcomes, strict=True)
    ]


def _verdict(reward: float, correct: bool, outcome: str) -> Verdict:
    if math.isnan(reward):
        return plain_verdict(reward)
    return Verdict(reward=reward, strict=correct, flexible=correct, correct=correct, outcome=outcome)


def _entries(reply: Mapping[str, object], key: str, count: int, kinds: tuple[type, ...]) -> list:
    entries = reply.get(key)
    names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
    if not isinstance(entries, list) or len(entries) != count:
        raise Unanswered(f"`{key}` of the reply is {_shown(entries)}; wanted is a list of {count}")
    wrong = [entry for entry in entries if type(entry) not in kinds or entry in (math.inf, -math.inf)]
    if wrong:
        raise Unanswered(f"`{key}` of the reply holds {_shown(wrong[0])}; wanted is {names} in each place")
    return entries


def _shown(value: object) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 80 else text[:80] + "..."
