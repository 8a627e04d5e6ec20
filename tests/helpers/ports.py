"""Ports that are free until a process of a test listens on them."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def free_port() -> Iterator[int]:
    """Yield a port of this machine that no other program is given meanwhile.

    It is bound but nobody listens, so a server that sets SO_REUSEADDR, as most do, can have it.
    """
    with socket.socket() as keeper:
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.bind(("127.0.0.1", 0))
        yield keeper.getsockname()[1]
