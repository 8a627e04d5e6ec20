"""`limner studio`: listen, print the address, and serve until stopped."""

import asyncio
import errno
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from types import FrameType
from urllib.parse import urlencode

import uvicorn

from limner.contract.errors import LimnerError, writing
from limner.runtime.folder_lock import lock_folder
from limner.studio.database_lock import locked_database
from limner.studio.server import build, drain_and_stop
from limner.studio.settings import Settings
from limner.studio.workers import Process, WorkerDiedError

_SHUTDOWN_SECONDS = 3  # seconds for open requests to finish when the server stops


class _Server(uvicorn.Server):
    """A server that lets running jobs end at the first signal, and stops at the second."""

    signal_count = 0
    on_stop: Callable[[], None] = staticmethod(lambda: None)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle SIGINT or SIGTERM."""
        self.signal_count += 1
        if self.signal_count == 1:
            self.on_stop()
        else:
            self.should_exit = self.force_exit = True


def serve(settings: Settings, say: Callable[[str], None] = print) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        settings: settings of the studio.
        say: function that is called with the address, once the studio answers.

    Raises:
        LimnerError: the port is taken, another studio is open on the folder or uses the database,
            the folder or the common files cannot be written, the database cannot be opened, or the
            device cannot be used.
    """
    message = (
        f"another studio is open on the folder {settings.folder}; use that one, or give another "
        "--data"
    )
    with (
        lock_folder(settings.folder, message),
        locked_database(settings.url),
        _listening_socket(settings) as listener,
    ):
        if settings.device not in ("auto", "cpu"):
            asyncio.run(_check_device(settings))
        with writing(settings.folder, "give another --data"):
            app = build(settings)
        asyncio.run(_serve_app(app, listener, settings, say))


async def _check_device(settings: Settings) -> None:
    """Check that a worker starts on the requested device.

    Raises:
        LimnerError: no worker starts there.
    """
    process = Process(settings.worker, settings.device)
    try:
        await process.start()
    except WorkerDiedError as error:
        message = str(error) or f"no worker can start on {settings.device}; see what it printed"
        raise LimnerError(message) from None
    finally:
        await process.end()


async def _serve_app(
    app: object, listener: socket.socket, settings: Settings, say: Callable[[str], None]
) -> None:
    config = uvicorn.Config(
        app,  # pyright: ignore[reportArgumentType]
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        backlog=2048,
    )
    server, loop = _Server(config), asyncio.get_running_loop()
    stopping: set[asyncio.Task[None]] = set()

    def stop() -> None:
        server.should_exit = True

    def drain() -> None:
        studio = app.state.studio  # pyright: ignore[reportAttributeAccessIssue]
        stopping.add(loop.create_task(drain_and_stop(studio, stop)))

    server.on_stop = lambda: loop.call_soon_threadsafe(drain)  # pyright: ignore
    say(address(settings, listener.getsockname()[1]))
    await server.serve([listener])
    if server.force_exit:
        # Otherwise uvicorn leaves the studio's tasks to be cancelled, with a traceback.
        await server.lifespan.shutdown()


def show(address: str) -> None:
    """Open the page in a browser, if this machine has a screen and the output is a terminal."""
    screen = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if screen and sys.stdout.isatty():  # a text browser would take over the terminal
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


def address(settings: Settings, port: int) -> str:
    """Return the address to open in a browser."""
    host = settings.host
    host = socket.gethostname() if host in ("0.0.0.0", "::") else host
    host = f"[{host}]" if ":" in host else host
    query = f"/?{urlencode({'token': settings.token})}" if settings.token else ""
    return f"http://{host}:{port}{query}"


def _listening_socket(settings: Settings) -> socket.socket:
    """Return a socket that listens already, so that early requests wait instead of failing."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # With an explicit protocol, asyncio sets TCP_NODELAY: packets do not wait for a receipt.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        message = f"cannot listen on {settings.host}:{settings.port} ({error.strerror})"
        foreign = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
        hint = (
            "give --host an address of this machine" if foreign else "give --port 0 for a free port"
        )
        raise LimnerError(f"{message}; {hint}") from None
    return listener
