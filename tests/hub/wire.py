"""What goes over the wire to and from the dummy hub, and the faults that tests put in between."""

from __future__ import annotations

import fnmatch
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote


@dataclass
class Request:
    method: str
    host: str  # as the client named it, with the port
    path: str  # as it was sent, without the query
    query: dict[str, list[str]]
    headers: dict[str, str]  # by lower-case name
    body: bytes = field(default=b"", repr=False)
    route: str = "unknown"
    file: str = ""  # the path in its repository of the file asked for, if it is one
    status: int = 0  # of the answer; 0 while there is none

    def json(self) -> Any:
        return json.loads(self.body)

    def option(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]

    def flag(self, name: str) -> bool:
        return self.option(name).lower() in ("1", "true")


@dataclass
class Reply:
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None  # bytes of the body before the connection is closed; -1: not even a status

    @classmethod
    def json(cls, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
        kind = {"Content-Type": "application/json; charset=utf-8"}
        return cls(json.dumps(value).encode(), status, {**kind, **(headers or {})})


class Refusal(Exception):
    """An answer that is not 2xx: its status, and the X-Error-Code that the client goes by."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status = status
        shown = " ".join(message.split()).encode("ascii", "replace").decode()
        self.headers = {"X-Error-Message": shown, **({"X-Error-Code": code} if code else {}), **(headers or {})}

    def reply(self) -> Reply:
        return Reply.json({"error": str(self)}, self.status, self.headers)


@dataclass(eq=False)
class Fault:
    """One thing that goes wrong with the requests it matches; `DummyHub.fault` says what the kinds are."""

    kind: str
    route: str
    method: str
    path: str
    times: int | None
    after: int
    options: dict[str, Any]

    def matches(self, request: Request) -> bool:
        paths = (request.file, unquote(request.path))
        named = fnmatch.fnmatchcase(request.route, self.route) and fnmatch.fnmatchcase(request.method, self.method)
        return named and any(fnmatch.fnmatchcase(path, self.path) for path in paths)

    def due(self) -> bool:
        """Count one request that it could have happened to; whether it happens to this one."""
        if self.after > 0:
            self.after -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return self.times is None or self.times >= 0

    def before(self, request: Request) -> Reply | None:
        """Instead of what the hub would do: its answer, if that is the fault."""
        if self.kind == "status":
            status = self.options.get("status", 500)
            return Refusal(status, f"injected {status}", self.options.get("code"), self.options.get("headers")).reply()
        if self.kind == "rate":
            return Refusal(429, "injected", headers={"Retry-After": str(self.options.get("retry_after", 0))}).reply()
        if self.kind == "delay":
            time.sleep(self.options["seconds"])
        if self.kind == "call":
            self.options["function"]()
        if self.kind == "ignore_range":
            request.headers.pop("range", None)
        return Reply(cut=-1) if self.kind == "cut" and self.options.get("bytes", 0) < 0 else None

    def early(self, request: Request) -> bool:
        """Whether it happens before the hub does what it was asked to."""
        if self.kind == "ignore_range":
            return "range" in request.headers
        return self.kind in ("status", "rate", "delay", "call") or (
            self.kind == "cut" and self.options.get("bytes", 0) < 0
        )

    def spoilt(self, request: Request, reply: Reply) -> Reply | None:
        """The answer with the fault in it; None where there is nothing to spoil."""
        body, headers, bodied = reply.body, dict(reply.headers), request.method != "HEAD" and reply.status in (200, 206)
        if self.kind == "cut" and bodied and len(body) > self.options.get("bytes", 0):
            return Reply(body, reply.status, headers, cut=self.options.get("bytes", 0))
        if self.kind == "flip" and bodied and body:
            bit = self.options.get("bit", 0) % (8 * len(body))
            flipped = body[bit // 8] ^ (1 << bit % 8)
            return Reply(body[: bit // 8] + bytes([flipped]) + body[bit // 8 + 1 :], reply.status, headers)
        if self.kind == "size":
            delta = self.options["delta"]
            if "json" in headers.get("Content-Type", "") and reply.status == 200:
                body = json.dumps(_grown(json.loads(body), delta)).encode()
            elif "X-Linked-Size" in headers:
                headers["X-Linked-Size"] = str(int(headers["X-Linked-Size"]) + delta)
            elif "ETag" in headers:
                headers["Content-Length"] = str(max(0, len(body) + delta))
        if self.kind == "etag":
            value = self.options.get("value")
            for name in {"ETag", "X-Linked-ETag"} & headers.keys():
                headers[name] = f'"{value or headers[name].strip(chr(34))[::-1]}"'
        if self.kind == "commit":
            value = self.options.get("value", 40 * "f")
            headers |= dict.fromkeys({"X-Repo-Commit"} & headers.keys(), value)
            if request.route == "info" and reply.status == 200:
                body = json.dumps({**json.loads(body), "sha": value}).encode()
        changed = Reply(body, reply.status, headers, reply.cut)
        return None if changed == reply else changed


KINDS = ("status", "delay", "cut", "ignore_range", "flip", "size", "etag", "commit", "rate", "call")


def _grown(value: Any, delta: int) -> Any:
    """JSON with `delta` added to every size."""
    if isinstance(value, list):
        return [_grown(one, delta) for one in value]
    if isinstance(value, dict):
        return {k: max(0, v + delta) if k == "size" else _grown(v, delta) for k, v in value.items()}
    return value
