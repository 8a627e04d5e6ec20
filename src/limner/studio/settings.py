"""The settings of a studio, and the limits of requests."""

import ipaddress
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path

from limner.contract.errors import LimnerError

PORT = 8420
MAX_PICTURES = 16
"""The largest number of pictures of one job."""
MAX_PROMPT = 2_000
"""The largest number of letters of a prompt."""
MAX_JSON_BYTES = 256 * 2**10
MAX_UPLOAD_BYTES = 16 * 2**20
MAX_DATA_BYTES = 4 * 2**30 - 1
"""The largest size of an archive to train on."""
MAX_UPLOAD_PIXELS = 32 * 2**20
MAX_ATTEMPTS = 2
"""How often a job is started at most; it may itself be the cause of its worker's death."""


@dataclass(frozen=True)
class Settings:
    """The settings of a studio.

    Args:
        host, port: interface and port to listen on; port 0 for any free one.
        token: secret that clients must send; required if other machines can reach the studio.
        names: host names to accept besides this machine's own.
        folder: folder of the pictures and the database.
        root: folder below which runs are searched.
        database: SQLAlchemy URL of the database; SQLite in the folder if None.
        device: device of the first worker; "auto" uses every accelerator of the machine.
        queue: largest number of waiting jobs.
        keep: number of pictures to keep, not counting favourites.
        worker: command that starts a worker; this Python's own if empty.
        files: folder, or URL that fsspec knows, for the pictures; `pictures` in `folder` if None.
        paints: whether the studio's own worker takes jobs; otherwise only those on other hosts do.
        lease: time in seconds after which a silent worker on another host loses its jobs.
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
                "which clients must then send, or leave --host out"
            )
        for name in self.names:
            if "/" in name or name.count(":") == 1:  # more colons are an IPv6 address
                raise LimnerError(
                    f"'{name}' is not a host name; give it without http:// and without a port, as "
                    "in --name studio.example"
                )
        if not (self.paints or self.shared):
            raise LimnerError(
                "with --no-paint only workers on other hosts paint, and they need a database that "
                "all can reach; give --db postgresql://..., or leave --no-paint out"
            )

    @property
    def url(self) -> str:
        """The URL of the database, with the drivers that limner installs."""
        url = self.database or f"sqlite:///{(self.folder / 'studio.db').resolve()}"
        return re.sub("^postgres(ql)?://", "postgresql+pg8000://", url)

    @property
    def shared(self) -> bool:
        """Whether workers on other hosts can take jobs."""
        return self.url.startswith("postgresql")

    def answers_to(self, host: str) -> bool:
        """Whether a request's Host header names this studio, and not another site.

        Another site can point a host name of its own at this machine, but not an IP address.
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
    """Whether only this machine can reach a server that listens on a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def hint_inputs(count: int) -> list[str]:
    """Return the names of the inputs that hold the hints of several controls, in their order."""
    return ["hint", *(f"hint_{i}" for i in range(2, count + 1))]
