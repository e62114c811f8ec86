"""The dummy hub's ears: HTTP/1.1, a thread for each connection, an exact Content-Length on every answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from hub.wire import Reply, Request


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, answer: Callable[[Request, bool], Reply], port: int, on_cdn: bool) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.answer, self.on_cdn = answer, on_cdn
        self.open: set[socket.socket] = set()
        self.thread = threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, address: Any) -> None:
        """A client that hung up is none of ours; `answer` itself raises nothing."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.open.add(self.connection)

    def finish(self) -> None:
        self.server.open.discard(self.connection)
        super().finish()

    def handle_one(self) -> None:
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        query = parse_qs(url.query, keep_blank_values=True)
        request = Request(self.command, headers.get("host", ""), url.path, query, headers, self.read(headers))
        reply = self.server.answer(request, self.server.on_cdn)
        if reply.cut == -1:
            self.close_connection = True
            return
        request.status = reply.status
        length = int(reply.headers.setdefault("Content-Length", str(len(reply.body))))
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            body = reply.body[: min(length, len(reply.body) if reply.cut is None else reply.cut)]
            self.wfile.write(body)
            self.close_connection |= len(body) != length

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_one

    def read(self, headers: Mapping[str, str]) -> bytes:
        """The request's body. Raises ConnectionError if the client is gone before its end."""
        if headers.get("transfer-encoding", "").lower() != "chunked":
            told = self.command in ("POST", "PUT")  # with neither header the request ends in the middle of its head
            return self.exactly(int(headers.get("content-length", -1 if told else 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0] or b"0", 16):
            chunks.append(self.exactly(size + 2)[:-2])
        self.exactly(2)
        return b"".join(chunks)

    def exactly(self, size: int) -> bytes:
        data = self.rfile.read(max(0, size))
        if len(data) != size:
            raise ConnectionError("the client hung up")
        return data

    def log_message(self, format: str, *args: Any) -> None:
        pass
