"""Start the server and end it."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import uvicorn

from weft.errors import Interrupted, UserError
from weft.pretrained import check_folder
from weft.serve.app import build_app
from weft.serve.guard import Guard, is_loopback
from weft.serve.limits import Limits
from weft.serve.served import load_run

BACKLOG = 128
GRACE_SECONDS = 3


def serve(
    run: Path, *, host: str, port: int, limits: Limits, tell: Callable[[str], None], memory: bool | None = None
) -> None:
    """Serve ``run`` until it is interrupted; ``tell`` is given one sentence after another, for people.

    ``memory`` says whether its memory of text counts: None where it has one. Port 0 takes a free one. Raises UserError
    where the run is not whole or the address cannot be had, and Interrupted at the end.
    """
    check_folder(run)
    with listen(host, port) as listener:
        address, port = listener.getsockname()[:2]
        loopback = is_loopback(address)
        if not loopback:
            tell(f"Warning: whoever reaches {address} can use this server; it asks for no password.")
        app = build_app(load_run(run, memory), limits, loopback=loopback)
        shown = f"[{address}]" if ":" in address else address  # IPv6, as addresses of pages have it
        tell(f"Serving '{run}' at http://{shown}:{port} (Ctrl-C ends it).")
        _run(app, listener)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; UserError where that cannot be."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise UserError(
            f"The server cannot listen at {host}, port {port} ({reason}): choose another port or host."
        ) from None


def _run(app: Guard, listener: socket.socket) -> None:
    """Run until a signal comes; Interrupted then."""
    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = _Server(config, app)
    server.run(sockets=[listener])
    raise Interrupted("The server has ended.", server.ended_by)


class _Server(uvicorn.Server):
    """Cuts answers short when it ends, instead of waiting until they are written, and remembers which signal came."""

    def __init__(self, config: uvicorn.Config, app: Guard) -> None:
        super().__init__(config)
        self.ended_by = signal.SIGTERM
        self._guard = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """End; at the second signal, without waiting for anything."""
        self.force_exit = self.should_exit  # True where this is not the first signal
        self.should_exit = True
        self.ended_by = signal.Signals(sig)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End all answers, then the server."""
        self._guard.end()
        await super().shutdown(sockets)
