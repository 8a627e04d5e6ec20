"""The workers as the server sees them: started, given jobs, listened to, started again."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

Document = dict[str, Any]
_LONGEST_LINE = 32 * 2**20


class WorkerDiedError(Exception):
    """The process ended before it had done its jobs."""


class Process:
    """A worker's process.

    Args:
        command: how it is started; the device is added.
        device: where it paints.
    """

    def __init__(self, command: Sequence[str], device: str) -> None:
        self._command = [*(command or (sys.executable, "-m", "limner.studio.worker")), device]
        self._process: asyncio.subprocess.Process | None = None
        self.device = device

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        alive = self._process is not None and self._process.returncode is None
        return self._process.pid if alive and self._process else None

    async def start(self) -> Document:
        """Start it, and wait for its first word.

        Raises:
            WorkerDiedError: it said none.
        """
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
            start_new_session=True,  # Ctrl-C is for the server, which then ends its workers
        )
        hello = await self._hear()
        self.device = hello["device"]
        return hello

    async def tell(self, document: Mapping[str, Any]) -> None:
        """Give it something to do.

        Raises:
            WorkerDiedError: it cannot hear any more.
        """
        if self._process is None or self._process.stdin is None:
            raise WorkerDiedError
        try:
            self._process.stdin.write(json.dumps(document).encode() + b"\n")
            await self._process.stdin.drain()
        except (ConnectionError, RuntimeError):
            raise WorkerDiedError from None

    async def _hear(self) -> Document:
        if self._process is None or self._process.stdout is None:
            raise WorkerDiedError
        line = await self._process.stdout.readline()
        if not line:
            raise WorkerDiedError
        return json.loads(line)

    async def ask(self, document: Mapping[str, Any]) -> Document:
        """Give it something to do that has one answer."""
        await self.tell(document)
        return await self._hear()

    async def hear_until_idle(self) -> AsyncIterator[Document]:
        """What it says while it works."""
        while (said := await self._hear())["is"] != "idle":
            yield said

    async def end(self, patience: float = 1.0) -> None:
        """End the process; it stops by itself when its input ends, or is killed."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), patience)
        except TimeoutError:
            process.kill()
            await process.wait()
