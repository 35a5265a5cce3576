"""A web server that holds its answer back, so that a job can be caught in the middle of its work."""

from __future__ import annotations

import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Held:
    """Serves ``body`` under every name, once ``release`` was called; ``asked`` counts the requests for it."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.asked = 0
        self._free = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/cells.h5ad"

    def release(self) -> None:
        self._free.set()

    def until_asked(self, run: subprocess.Popen[str], times: int = 1, seconds: float = 120) -> None:
        """Wait for the request of a job that is at work."""
        end = time.monotonic() + seconds
        while self.asked < times:
            assert run.poll() is None, f"the run ended with {run.returncode}"
            assert time.monotonic() < end, f"asked {self.asked} times, not {times}, within {seconds} s"
            time.sleep(0.1)

    def __enter__(self) -> Held:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        held = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                held.asked += 1
                held._free.wait(300)
                start = 0
                if said := self.headers.get("Range"):
                    start = int(said.removeprefix("bytes=").split("-")[0])
                try:
                    self.send_response(206 if start else 200)
                    self.send_header("Content-Length", str(len(held.body) - start))
                    if start:
                        self.send_header("Content-Range", f"bytes {start}-{len(held.body) - 1}/{len(held.body)}")
                    self.end_headers()
                    self.wfile.write(held.body[start:])
                except OSError:
                    pass  # who asked is gone: that is what is tested

            def log_message(self, *_: object) -> None:
                pass

        return Handler
