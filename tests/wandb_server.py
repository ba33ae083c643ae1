"""A W&B server on the loopback, as much of one as the real client needs to log runs and to read them.

GraphQL for runs and files, `file_stream` for history, PUT and GET for files. No accounts, no artifacts.
"""

import gzip
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "local"
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\.\.\.|[$@]?\w+|-?\d+(?:\.\d+)?|[{}()\[\]:!=]')
NOW = "2026-11-25T00:00:00Z"
USER = {
    "id": "u1",
    "name": "Local",
    "username": ENTITY,
    "email": "",
    "admin": False,
    "flags": "{}",
    "entity": ENTITY,
    "deletedAt": None,
}
# What a mutation of a run may set, and the field that it sets.
UPSERTED = {
    "displayName": "displayName",
    "config": "config",
    "summaryMetrics": "summaryMetrics",
    "state": "state",
    "groupName": "group",
}
PROJECT = {
    "id": "p1",
    "internalId": "1",
    "entityName": ENTITY,
    "entity": {"id": "e1", "name": ENTITY},
    "readOnly": False,
    "createdAt": NOW,
    "isBenchmark": False,
}
# What every run says alike.
NODE = {
    "createdAt": NOW,
    "heartbeatAt": NOW,
    "updatedAt": NOW,
    "sweepName": None,
    "commit": None,
    "readOnly": False,
    "description": None,
    "projectId": "1",
    "user": USER,
    "eventsLineCount": 0,
    "logLineCount": 0,
    "eventsTail": "[]",
    "wandbConfig": json.dumps({"t": 1}),
    "stopped": False,
    "systemMetrics": "{}",
    "project": {"id": "p1", "name": "tests", "entity": {"id": "e1", "name": ENTITY}},
    "events": [],
    "fileCount": 0,
}
Json = dict[str, Any]


@dataclass
class Field:
    """One field that a query asks for, with its arguments and what it asks for below it."""

    name: str
    alias: str
    arguments: Json = field(default_factory=dict)
    below: "list[Field | str]" = field(default_factory=list)


class Query:
    """A parsed query: the operation's fields, and its fragments by name.

    Directives hold, variables are filled in.
    """

    def __init__(self, text: str, variables: Json) -> None:
        self.tokens, self.variables, self.position = TOKEN.findall(re.sub(r"#.*", "", text)), variables, 0
        self.fragments: dict[str, list[Field | str]] = {}
        self.fields: list[Field | str] = []
        while self.position < len(self.tokens):
            if self.peek() == "fragment":
                name = self.take(4)[1]
                self.fragments[name] = self.selection()
            else:
                while self.peek() != "{":
                    if self.take()[0] == "(":
                        self.defaults()
                self.fields = self.selection()

    def peek(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self, count: int = 1) -> list[str]:
        self.position += count
        return self.tokens[self.position - count : self.position]

    def defaults(self) -> None:
        name = ""
        while (token := self.take()[0]) != ")":
            name = token[1:] if token.startswith("$") else name
            if token == "=" and self.variables.get(name) is None:
                self.variables[name] = self.value()
            elif token == "=":
                self.value()

    def value(self) -> Any:
        token = self.take()[0]
        if token.startswith("$"):
            return self.variables.get(token[1:])
        if token in ("{", "["):
            out: list[Any] = []
            while self.peek() not in ("}", "]"):
                out.append((self.take(2)[0], self.value()) if token == "{" else self.value())
            self.take()
            return dict(out) if token == "{" else out
        try:
            return json.loads(token)
        except json.JSONDecodeError:
            return token

    def arguments(self) -> Json:
        out: Json = {}
        if self.peek() == "(":
            self.take()
            while self.peek() != ")":
                name = self.take(2)[0]
                out[name] = self.value()
            self.take()
        return out

    def included(self) -> bool:
        keep = True
        while self.peek().startswith("@"):
            which = self.take()[0]
            keep &= bool(self.arguments()["if"]) == (which == "@include")
        return keep

    def selection(self) -> "list[Field | str]":
        out: list[Field | str] = []
        self.take()
        while self.peek() != "}":
            if self.peek() == "...":
                self.take()
                if self.peek() == "on":
                    self.take(2)
                    keep, inline = self.included(), self.selection()
                    out += inline if keep else []
                else:
                    name = self.take()[0]
                    out += [name] if self.included() else []
                continue
            alias = name = self.take()[0]
            if self.peek() == ":":
                name = self.take(2)[1]
            chosen = Field(name, alias, self.arguments())
            keep = self.included()
            chosen.below = self.selection() if self.peek() == "{" else []
            out += [chosen] if keep else []
        self.take()
        return out

    def answer(self, thing: Any, fields: "list[Field | str]") -> Any:
        if isinstance(thing, list):
            return [self.answer(item, fields) for item in thing]
        if thing is None:
            return None
        out: Json = {}
        for wanted in fields:
            if isinstance(wanted, str):
                out |= self.answer(thing, self.fragments[wanted])
            elif wanted.name == "__typename":
                out[wanted.alias] = "Any"
            else:
                value = thing[wanted.name]
                value = value(wanted.arguments) if callable(value) else value
                out[wanted.alias] = self.answer(value, wanted.below) if wanted.below else value
        return out


@dataclass
class Server:
    """What was logged to it.

    Attributes:
        runs: by run id.
        files: by run id and name.
        requests: names of the operations and paths that clients asked for.
        delay_s: that every answer takes.
    """

    url: str = ""
    runs: dict[str, Json] = field(default_factory=dict)
    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    lock: Any = field(default_factory=threading.RLock)
    delay_s: float = 0.0

    def execute(self, text: str, variables: Json) -> Any:
        query = Query(text, variables)
        names = [field.name for field in query.fields if isinstance(field, Field)]
        self.requests.append("GraphQL " + " ".join(names))
        root: Json = {
            "viewer": {**USER, "apiKeys": _connection([]), "teams": _connection([])},
            "serverInfo": {
                "cliVersionInfo": {"max_cli_version": "99.0.0"},
                "latestLocalVersionInfo": None,
                "features": [],
            },
            "entity": {"id": "e1", "name": ENTITY, "organization": None, "isTeam": False},
            "project": self.project,
            "model": self.project,
            "upsertBucket": lambda arguments: self.upsert(arguments["input"]),
            "createRunFiles": lambda arguments: self.upload_urls(arguments["input"]),
        }
        return query.answer(root, query.fields)

    def upsert(self, given: Json) -> Json:
        with self.lock:
            matching = (
                run
                for run in self.runs.values()
                if given.get("id") in (run["id"], run["name"]) or given.get("name") == run["name"]
            )
            known = next(matching, None)
            run = known or self.runs.setdefault(given["name"], _new_run(given["name"], len(self.runs)))
            run |= {to: given[name] for name, to in UPSERTED.items() if given.get(name) is not None}
            return {"bucket": self.node(run), "inserted": known is None}

    def upload_urls(self, given: Json) -> Json:
        files = [
            {"name": name, "uploadUrl": f"{self.url}/files/{given['runName']}/{name}"}
            for name in given["files"]
        ]
        return {"runID": given["runName"], "uploadHeaders": [], "files": files}

    def project(self, arguments: Json) -> Json:
        def matching(arguments: Json) -> list[Json]:
            filters = json.loads(arguments.get("filters") or "{}")
            runs = sorted(self.runs.values(), key=lambda run: run["order"])
            return [self.node(run) for run in runs if _matches(run, filters)]

        def run(arguments: Json) -> Json | None:
            return self.node(self.runs[arguments["name"]]) if arguments["name"] in self.runs else None

        return {
            **PROJECT,
            "name": arguments.get("name") or arguments.get("modelName"),
            "runCount": lambda arguments: len(matching(arguments)),
            "runs": lambda arguments: _connection(matching(arguments), arguments),
            "run": run,
            "bucket": run,
        }

    def node(self, run: Json) -> Json:
        history = run["history"]
        count = {"typeCounts": [{"type": "number", "count": len(history)}]}
        keys = {key: {**count, "monotonic": False, "previousValue": None} for row in history for key in row}
        last = history[-1]["_step"] if history else -1
        return {
            **run,
            **NODE,
            "internalId": run["id"],
            "historyLineCount": len(history),
            "historyTail": json.dumps([json.dumps(row) for row in history[-1:]]),
            "historyKeys": {"sets": [], "lastStep": last, "keys": keys},
            "history": lambda arguments: _sampled(history, arguments),
            "parquetHistory": {"parquetUrls": [], "liveData": history},
            "files": lambda arguments: self.files_of(run["name"], arguments),
        }

    def files_of(self, run: str, arguments: Json) -> Json:
        nodes = []
        for (owner, name), data in sorted(self.files.items()):
            if owner == run:
                url = f"{self.url}/files/{run}/{name}"
                node = {"id": name, "name": name, "url": url, "directUrl": url, "sizeBytes": len(data)}
                nodes.append({**node, "mimetype": "x", "updatedAt": NOW, "md5": None, "uploadUrl": None})
        return _connection(nodes, arguments)

    def stream(self, run_id: str, sent: Json) -> None:
        with self.lock:
            run = self.runs[run_id]
            for name, chunk in (sent.get("files") or {}).items():
                if name == "wandb-history.jsonl":
                    run["history"][chunk.get("offset", 0) :] = [json.loads(line) for line in chunk["content"]]
            if sent.get("complete"):
                run["state"] = "finished" if sent.get("exitcode") == 0 else "failed"


def _new_run(name: str, order: int) -> Json:
    return {
        "id": f"r{order}",
        "name": name,
        "displayName": name,
        "config": "{}",
        "summaryMetrics": "{}",
        "state": "running",
        "history": [],
        "order": order,
        "group": None,
        "jobType": None,
        "host": None,
        "notes": None,
        "tags": [],
    }


def _sampled(history: list[Json], arguments: Json) -> list[str]:
    """Rows between two steps, as W&B gives them: who names a number of samples gets no more of them."""
    low, high = arguments.get("minStep") or 0, arguments.get("maxStep") or 1 << 60
    rows = [row for row in history if low <= row["_step"] < high]
    samples = min(arguments.get("samples") or len(rows), len(rows))
    return [json.dumps(rows[index * len(rows) // samples]) for index in range(samples)]


def _connection(nodes: list[Json], arguments: Json | None = None) -> Json:
    start, count = int((arguments or {}).get("after") or 0), (arguments or {}).get("first") or 50
    page = nodes[start : start + count]
    end, total = start + len(page), len(nodes)
    return {
        "edges": [{"node": node, "cursor": str(start + index + 1)} for index, node in enumerate(page)],
        "pageInfo": {"endCursor": str(end), "hasNextPage": end < total},
        "totalCount": total,
    }


def _matches(run: Json, filters: Json) -> bool:
    config = {
        key: entry.get("value") if isinstance(entry, dict) else entry
        for key, entry in json.loads(run["config"]).items()
    }
    joins: dict[str, Callable[..., bool]] = {"$and": all, "$or": any}
    for key, wanted in filters.items():
        if key in joins:
            if not joins[key](_matches(run, alternative) for alternative in wanted):
                return False
        elif key.startswith("config."):
            if config.get(key.removeprefix("config.").removesuffix(".value")) != wanted:
                return False
        elif run[key] != wanted:
            return False
    return True


class Handler(BaseHTTPRequestHandler):
    """Requests to the one `Server` that a subclass has."""

    protocol_version = "HTTP/1.1"
    logged: Server

    def log_message(self, *_: object) -> None: ...

    def body(self) -> bytes:
        if self.headers.get("transfer-encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            data = self.rfile.read(int(self.headers.get("content-length") or 0))
        return gzip.decompress(data) if self.headers.get("content-encoding") == "gzip" else data

    def reply(self, status: int, data: bytes) -> None:
        time.sleep(self.logged.delay_s)
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        data = self.body()
        if self.path == "/graphql":
            query = json.loads(data)
            try:
                out = {"data": self.logged.execute(query["query"], query.get("variables") or {})}
            except Exception as error:
                # The client would hang on a broken connection; the test looks for ERROR among the requests.
                out = {"data": None, "errors": [{"message": f"{type(error).__name__}: {error}"}]}
                self.logged.requests.append(f"ERROR {error!r}")
            return self.reply(200, json.dumps(out).encode())
        self.logged.requests.append(self.path)
        if match := re.match(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
            self.logged.stream(match[1], json.loads(data))
            return self.reply(200, b"{}")
        return self.reply(404, b"{}")

    def file(self) -> tuple[str, str]:
        _, _, run, name = self.path.split("?")[0].split("/", 3)
        return run, name

    def do_PUT(self) -> None:
        self.logged.files[self.file()] = self.body()
        self.reply(200, b"{}")

    def do_GET(self) -> None:
        known = self.path.startswith("/files/") and self.logged.files.get(self.file())
        self.reply(200 if known else 404, known or b"{}")


class Quiet(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no news."""


@contextmanager
def serve(delay_s: float = 0.0) -> Iterator[Server]:
    """A server on a free port, until the block ends; every answer takes its delay."""
    server = Server()
    server.delay_s = delay_s
    handler = type("OneServer", (Handler,), {"logged": server})
    with Quiet(("127.0.0.1", 0), handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        http.shutdown()
        thread.join()


def main() -> None:
    """A server as a process, every answer of which takes the seconds that it is given.

    Prints its address, then every run's state and steps for each line that it reads.
    """
    with serve(delay_s=float(sys.argv[1])) as server:
        print(server.url, flush=True)
        for _ in sys.stdin:
            for run in server.runs.values():
                print(run["state"], *(row["_step"] for row in run["history"]), flush=True)


if __name__ == "__main__":
    main()
