"""A server of the Hugging Face hub's form here: folders as repositories, gates and faults."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c" * 40


@dataclass
class Hub:
    """What the server gives out.

    Attributes
    ----------
    gated
        Repositories that want a token.
    granted
        The token that opens them.
    asked
        Every request's path.
    """

    root: Path
    url: str = ""
    gated: set[str] = field(default_factory=set)
    granted: str = "hf_granted"
    broken: int | None = None
    asked: list[str] = field(default_factory=list)


@contextmanager
def hub_server(root: Path) -> Iterator[Hub]:
    """Serve ``root/OWNER/NAME/FILE`` as the hub does."""
    hub = Hub(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, *_: object) -> None:
            pass

        def _answer(self, *, body: bool) -> None:
            hub.asked.append(self.path)
            owner, name, *rest = self.path.lstrip("/").split("?")[0].split("/")
            repo = f"{owner}/{name}"
            if hub.broken:
                return self._refuse(hub.broken, "", "broken")
            if not (root / repo).is_dir() or rest[:2] != ["resolve", "main"]:
                return self._refuse(401, "RepoNotFound", "Repository not found")
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if repo in hub.gated and token != hub.granted:
                status = 403 if token else 401
                return self._refuse(status, "GatedRepo", f"Access to model {repo} is restricted")
            file = root / repo / "/".join(rest[2:])
            if not file.is_file():
                return self._refuse(404, "EntryNotFound", "Entry not found")
            data = file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            if body:
                self.wfile.write(data)

        def _refuse(self, status: int, code: str, message: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", message)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
