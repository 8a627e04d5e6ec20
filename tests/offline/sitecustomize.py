"""A network guard: a Python that starts with this folder on PYTHONPATH reaches only loopback
addresses.

`tests/conftest.py` imports it and passes it on to every subprocess of the suite. Sockets of the
local machine (AF_UNIX, 127.0.0.0/8, ::1) stay open, since torchrun and the studio use them.
"""

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

_INTERNET = (socket.AF_INET, socket.AF_INET6)
_LOCAL_NAMES = ("localhost", "", None)


class NetworkBlockedError(OSError):
    """Raised when a test tries to reach another machine."""


def _is_local(host: Any) -> bool:
    if host in _LOCAL_NAMES or host == socket.gethostname():
        return True
    try:
        return ipaddress.ip_address(str(host).split("%")[0]).is_loopback
    except ValueError:
        return False


def _guarded(call: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(self: socket.socket, address: Any, *rest: Any) -> Any:
        if self.family in _INTERNET and not _is_local(address[0]):
            raise NetworkBlockedError(f"the tests may not reach {address[0]}")
        return call(self, address, *rest)

    return guarded


def _guarded_lookup(lookup: Callable[..., Any]) -> Callable[..., Any]:
    def guarded(host: Any, *rest: Any, **options: Any) -> Any:
        if not _is_local(host.decode() if isinstance(host, bytes) else host):
            raise NetworkBlockedError(f"the tests may not look up {host}")
        return lookup(host, *rest, **options)

    return guarded


if not hasattr(socket, "limner_is_offline"):
    socket.limner_is_offline = True  # type: ignore[attr-defined]
    for _name in ("connect", "connect_ex"):
        setattr(socket.socket, _name, _guarded(getattr(socket.socket, _name)))
    socket.getaddrinfo = _guarded_lookup(socket.getaddrinfo)
