"""How a studio is set up."""

import errno
import ipaddress
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path

from limner.contract.errors import LimnerError

PORT = 8420
MAX_PICTURES = 16
"""Of one job."""
MAX_PROMPT = 2_000
"""Letters of a prompt."""
MAX_JSON_BYTES = 256 * 2**10
MAX_UPLOAD_BYTES = 16 * 2**20
MAX_DATA_BYTES = 4 * 2**30 - 1
"""Of an archive to train on."""
MAX_UPLOAD_PIXELS = 32 * 2**20
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Of the system's errors, those that say that a disk is full."""
MAX_ATTEMPTS = 2
"""How often a job is begun when its worker dies; it may be the job that kills."""


@dataclass(frozen=True)
class Settings:
    """Where a studio listens, what it keeps where, and how much.

    Args:
        host, port: where it listens; port 0 for any that is free.
        token: what a client must know; needed beyond this machine.
        names: by which it may be called, besides this machine's own.
        folder: of its pictures and its database.
        root: below which runs are looked for.
        database: an SQLAlchemy URL; SQLite in the folder if None.
        device: of the first worker; "auto" takes every accelerator that there is.
        queue: how many jobs may wait.
        keep: how many pictures are kept, favourites aside.
        worker: the command that starts a worker; this Python's own if empty.
        files: a folder, or a URL that fsspec knows, where pictures are kept; `pictures` in `folder`
            if None.
        paints: whether the studio has a worker that takes jobs; else only those on other hosts do.
        lease: seconds after which a worker on another host that says nothing has lost its jobs.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    token: str = ""
    names: tuple[str, ...] = ()
    folder: Path = Path("studio")
    root: Path = field(default_factory=Path.cwd)
    database: str | None = None
    device: str = "auto"
    queue: int = 200
    keep: int = 10_000
    worker: tuple[str, ...] = ()
    files: str | None = None
    paints: bool = True
    lease: float = 30.0

    def __post_init__(self) -> None:
        if not self.token and not is_loopback(self.host):
            raise LimnerError(
                f"host {self.host} can be reached from other machines; give --token SECRET, "
                "which they must then know, or leave --host out"
            )

    @property
    def url(self) -> str:
        """The database's URL, by the drivers that limner installs."""
        url = self.database or f"sqlite:///{(self.folder / 'studio.db').resolve()}"
        return re.sub("^postgres(ql)?://", "postgresql+pg8000://", url)

    @property
    def shared(self) -> bool:
        """Whether workers on other hosts can take jobs."""
        return self.url.startswith("postgresql")

    def answers_to(self, host: str) -> bool:
        """Whether a request's Host header names this studio, and no other site's page.

        A page elsewhere can point a name of its own at this machine, but not a number.
        """
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        name = name.strip("[]").lower()
        if name == "localhost" or name in map(str.lower, self.names):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return not is_loopback(self.host) and name == socket.gethostname().lower()
        return address.is_loopback or not is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hint_inputs(count: int) -> list[str]:
    """What the inputs are called that several controls follow, in their order."""
    return ["hint", *(f"hint_{i}" for i in range(2, count + 1))]
