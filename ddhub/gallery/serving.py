"""A site shown to this machine alone, until it is interrupted.

with server(Path("site")) as (address, running): ...      # 'http://127.0.0.1:40123/'
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click

from ddhub.gallery.templates import POLICY


class _Quiet(SimpleHTTPRequestHandler):
    """Files of the site, with its policy, and no line for each request."""

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", f"{POLICY}; frame-ancestors 'none'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def server(folder: Path) -> Iterator[tuple[str, threading.Thread]]:
    """The address of a running server of the site, at a free port of 127.0.0.1, and the thread that it runs in."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_address[1]}/", thread
        finally:
            running.shutdown()
            thread.join()


def serve(folder: Path, *, opens: bool) -> None:
    """Serve the site until an interrupt, and show it in the browser where asked."""
    with server(folder) as (address, thread):
        click.echo(f"{address} (Ctrl-C ends)")
        if opens:
            click.launch(address)
        with contextlib.suppress(KeyboardInterrupt):
            thread.join()
