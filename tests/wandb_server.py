"""A W&B server on this machine's loopback, as much of one as the real client needs to log runs and to read
them again.

GraphQL for runs and files, `file_stream` for history, PUT and GET for files. No accounts, no artifacts.
"""

import gzip
import json
import re
import threading
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


@dataclass
class Field:
    """One field that a query asks for, with its arguments and what it asks for below it."""

    name: str
    alias: str
    arguments: dict[str, Any] = field(default_factory=dict)
    below: "list[Field | str]" = field(default_factory=list)


class Query:
    """A parsed query: the operation's fields, and its fragments by name. Directives hold, variables are
    filled in.
    """

    def __init__(self, text: str, variables: dict[str, Any]) -> None:
        self.tokens, self.variables, self.place = TOKEN.findall(re.sub(r"#.*", "", text)), variables, 0
        self.fragments: dict[str, list[Field | str]] = {}
        self.fields: list[Field | str] = []
        while self.place < len(self.tokens):
            if self.peek() == "fragment":
                name = self.take(4)[1]
                self.fragments[name] = self.selection()
            else:
                while self.peek() != "{":
                    if self.take()[0] == "(":
                        self.defaults()
                self.fields = self.selection()

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self, count: int = 1) -> list[str]:
        self.place += count
        return self.tokens[self.place - count : self.place]

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

    def arguments(self) -> dict[str, Any]:
        out: dict[str, Any] = {}
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
            one = Field(name, alias, self.arguments())
            keep = self.included()
            one.below = self.selection() if self.peek() == "{" else []
            out += [one] if keep else []
        self.take()
        return out

    def answer(self, thing: Any, asked: "list[Field | str]") -> Any:
        if isinstance(thing, list):
            return [self.answer(one, asked) for one in thing]
        if thing is None:
            return None
        out: dict[str, Any] = {}
        for one in asked:
            if isinstance(one, str):
                out |= self.answer(thing, self.fragments[one])
            elif one.name == "__typename":
                out[one.alias] = "Any"
            else:
                value = thing[one.name]
                value = value(one.arguments) if callable(value) else value
                out[one.alias] = self.answer(value, one.below) if one.below else value
        return out


@dataclass
class Server:
    """What was logged to it.

    Attributes:
        runs: by run id.
        files: by run id and name.
        asked: names of the operations and paths that clients asked for.
    """

    url: str = ""
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    lock: Any = field(default_factory=threading.RLock)

    def execute(self, text: str, variables: dict[str, Any]) -> Any:
        query = Query(text, variables)
        self.asked.append("GraphQL " + " ".join(one.name for one in query.fields if isinstance(one, Field)))
        root: dict[str, Any] = {
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
            "createRunFiles": lambda arguments: self.places(arguments["input"]),
        }
        return query.answer(root, query.fields)

    def upsert(self, given: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            known = next(
                (
                    run
                    for run in self.runs.values()
                    if given.get("id") in (run["id"], run["name"]) or given.get("name") == run["name"]
                ),
                None,
            )
            run = known or self.runs.setdefault(
                given["name"],
                {
                    "id": f"r{len(self.runs)}",
                    "name": given["name"],
                    "displayName": given["name"],
                    "config": "{}",
                    "summaryMetrics": "{}",
                    "state": "running",
                }
                | {
                    "history": [],
                    "order": len(self.runs),
                    "group": None,
                    "jobType": None,
                    "host": None,
                    "notes": None,
                    "tags": [],
                },
            )
            renamed = {
                "displayName": "displayName",
                "config": "config",
                "summaryMetrics": "summaryMetrics",
                "state": "state",
                "groupName": "group",
            }
            run |= {to: given[name] for name, to in renamed.items() if given.get(name) is not None}
            return {"bucket": self.node(run), "inserted": known is None}

    def places(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [
            {"name": name, "uploadUrl": f"{self.url}/files/{given['runName']}/{name}"}
            for name in given["files"]
        ]
        return {"runID": given["runName"], "uploadHeaders": [], "files": files}

    def project(self, arguments: dict[str, Any]) -> dict[str, Any]:
        def chosen(asked: dict[str, Any]) -> list[Any]:
            filters = json.loads(asked.get("filters") or "{}")
            return [
                self.node(run)
                for run in sorted(self.runs.values(), key=lambda run: run["order"])
                if _matches(run, filters)
            ]

        def one(asked: dict[str, Any]) -> Any:
            return self.node(self.runs[asked["name"]]) if asked["name"] in self.runs else None

        name = arguments.get("name") or arguments.get("modelName")
        return {
            "id": "p1", "internalId": "1", "name": name, "entityName": ENTITY, "entity": {"id": "e1", "name": ENTITY}, "readOnly": False,
            "createdAt": NOW, "isBenchmark": False, "runCount": lambda asked: len(chosen(asked)),
            "runs": lambda asked: _connection(chosen(asked), asked), "run": one, "bucket": one,
        }  # fmt: skip

    def node(self, run: dict[str, Any]) -> dict[str, Any]:
        history = run["history"]

        def pages(asked: dict[str, Any]) -> list[str]:
            low, high = asked.get("minStep") or 0, asked.get("maxStep") or 1 << 60
            rows = [row for row in history if low <= row["_step"] < high]
            # As W&B does: who asks for a number of samples gets no more of them.
            wanted = asked.get("samples") or len(rows)
            kept = (
                rows
                if len(rows) <= wanted
                else [rows[index * len(rows) // wanted] for index in range(wanted)]
            )
            return [json.dumps(row) for row in kept]

        def files(asked: dict[str, Any]) -> dict[str, Any]:
            mine = [
                (name, len(data))
                for (owner, name), data in sorted(self.files.items())
                if owner == run["name"]
            ]
            nodes = [
                {
                    "id": name,
                    "name": name,
                    "url": f"{self.url}/files/{run['name']}/{name}",
                    "directUrl": f"{self.url}/files/{run['name']}/{name}",
                }
                | {"sizeBytes": size, "mimetype": "x", "updatedAt": NOW, "md5": None, "uploadUrl": None}
                for name, size in mine
            ]
            return _connection(nodes, asked)

        last = history[-1]["_step"] if history else -1
        keys = {
            key: {
                "typeCounts": [{"type": "number", "count": len(history)}],
                "monotonic": False,
                "previousValue": None,
            }
            for row in history
            for key in row
        }
        return run | {
            "createdAt": NOW, "heartbeatAt": NOW, "updatedAt": NOW, "sweepName": None, "commit": None, "readOnly": False, "description": None,
            "projectId": "1", "internalId": run["id"], "user": USER, "historyLineCount": len(history), "eventsLineCount": 0, "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in history[-1:]]), "eventsTail": "[]", "wandbConfig": json.dumps({"t": 1}), "stopped": False,
            "systemMetrics": "{}", "historyKeys": {"sets": [], "lastStep": last, "keys": keys},
            "project": {"id": "p1", "name": "tests", "entity": {"id": "e1", "name": ENTITY}}, "history": pages,
            "parquetHistory": {"parquetUrls": [], "liveData": history}, "events": [], "fileCount": 0, "files": files,
        }  # fmt: skip

    def stream(self, run_id: str, sent: dict[str, Any]) -> None:
        with self.lock:
            run = self.runs[run_id]
            for name, chunk in (sent.get("files") or {}).items():
                if name == "wandb-history.jsonl":
                    run["history"][chunk.get("offset", 0) :] = [json.loads(line) for line in chunk["content"]]
            if sent.get("complete"):
                run["state"] = "finished" if sent.get("exitcode") == 0 else "failed"


def _connection(nodes: list[Any], asked: dict[str, Any] | None = None) -> dict[str, Any]:
    start, count = int((asked or {}).get("after") or 0), (asked or {}).get("first") or 50
    page = nodes[start : start + count]
    edges = [{"node": node, "cursor": str(start + index + 1)} for index, node in enumerate(page)]
    return {
        "edges": edges,
        "pageInfo": {"endCursor": str(start + len(page)), "hasNextPage": start + len(page) < len(nodes)},
        "totalCount": len(nodes),
    }


def _matches(run: dict[str, Any], filters: dict[str, Any]) -> bool:
    config = {
        key: entry.get("value") if isinstance(entry, dict) else entry
        for key, entry in json.loads(run["config"]).items()
    }
    joins: dict[str, Callable[..., bool]] = {"$and": all, "$or": any}
    for key, wanted in filters.items():
        if key in joins:
            if not joins[key](_matches(run, one) for one in wanted):
                return False
        elif key.startswith("config."):
            if config.get(key.removeprefix("config.").removesuffix(".value")) != wanted:
                return False
        elif run[key] != wanted:
            return False
    return True


@contextmanager
def serve() -> Iterator[Server]:
    """A server on a free port, until the block ends."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None: ...

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
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            data = self.body()
            if self.path == "/graphql":
                asked = json.loads(data)
                try:
                    out = {"data": server.execute(asked["query"], asked.get("variables") or {})}
                except Exception as error:
                    out = {"data": None, "errors": [{"message": f"{type(error).__name__}: {error}"}]}
                    server.asked.append(f"ERROR {error!r}")
                return self.reply(200, json.dumps(out).encode())
            server.asked.append(self.path)
            if found := re.match(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path):
                server.stream(found[1], json.loads(data))
                return self.reply(200, b"{}")
            return self.reply(404, b"{}")

        def file(self) -> tuple[str, str]:
            _, _, run, name = self.path.split("?")[0].split("/", 3)
            return run, name

        def do_PUT(self) -> None:
            server.files[self.file()] = self.body()
            self.reply(200, b"{}")

        def do_GET(self) -> None:
            known = self.path.startswith("/files/") and server.files.get(self.file())
            self.reply(200 if known else 404, known or b"{}")

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            """A client that hangs up is no news."""

    with Quiet(("127.0.0.1", 0), Handler) as http:
        server.url = f"http://127.0.0.1:{http.server_port}"
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield server
        http.shutdown()
        thread.join()
