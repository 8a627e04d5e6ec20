"""Trainings started in the page: `limner train` in a process of its own, one at a time.

The output of the command goes to `trainings/ID.log` in the studio's folder; its first line is the
command itself. The process is stopped by closing its input, which also happens when the server
dies. It then finishes its step, saves, and ends.
"""

import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limner.runtime.folder_lock import is_locked
from limner.studio import runs
from limner.studio.problems import Problem, RefusedError
from limner.studio.settings import Settings

_PROGRESS = re.compile(r"step ([\d,]+)/([\d,]+)  ")
_ERROR_PREFIX = "limner: "
_NEXT_STEP_WORDS = (
    "trained",
    "paint with",
    "finishing this step",
    "stopped at step",
    "stopped before",
)
"""Starts of lines that say how to continue in a terminal; the page has buttons for it."""
_MAX_REMARKS = 6
_MAX_LETTERS = 20_000  # letters of a log to read, from its end
_STOPPED_EXIT_CODE = 130
_MARKER_FILE = "studio.txt"
"""A file in a run that was started here, with the id of the run. It is deleted with the folder."""
_UNKNOWN_TRAINING: dict[str, Any] = {"model": "", "source": "", "steps": 0, "step": 0, "changed": 0}


@dataclass
class _Process:
    id: str
    run: Path
    process: "subprocess.Popen[bytes]"

    @property
    def is_stopping(self) -> bool:
        """Whether the process was told to stop, and has not ended yet."""
        stdin = self.process.stdin
        return stdin is not None and stdin.closed and self.process.poll() is None


@dataclass(frozen=True)
class _Log:
    """The output of a training since it was last started or resumed.

    Args:
        command: command that started it, as typed.
        lines: lines of the output that are not blank.
    """

    command: str
    lines: Sequence[str]

    @property
    def progress(self) -> "re.Match[str] | None":
        """The last line with the number of steps."""
        matches = [match for line in self.lines if (match := _PROGRESS.match(line))]
        return matches[-1] if matches else None

    @property
    def remarks(self) -> list[str]:
        """The last of the other lines, without those that say how to continue in a terminal."""
        lines = [line for line in self.lines if not _PROGRESS.match(line)]
        return [line for line in lines if not line.startswith(_NEXT_STEP_WORDS)][-_MAX_REMARKS:]


@dataclass
class Trainings:
    """The trainings of a studio, and all runs below its root.

    Args:
        settings: settings of the studio.
    """

    settings: Settings
    _latest: _Process | None = field(default=None, init=False)
    _earlier: dict[str, _Process] = field(default_factory=dict[str, _Process], init=False)
    _is_closed: bool = field(default=False, init=False)
    _start_lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    @property
    def running_id(self) -> str | None:
        """The id of the running training; None if there is none."""
        latest = self._latest
        return latest.id if latest and latest.process.poll() is None else None

    def all(self) -> list[dict[str, Any]]:
        """Return every training, the latest one of this studio first."""
        folders = dict(runs.find_runs(self.settings.root))
        if self._latest:
            folders = {self._latest.id: self._latest.run} | folders
        descriptions = [self._description(id, run) for id, run in folders.items()]
        return [description for description in descriptions if description]

    def get(self, id: str) -> dict[str, Any] | None:
        """Return a training, with its curves and the steps of its sheets; None if there is none."""
        run = self.run(id)
        description = run and self._description(id, run)
        if not run or not description:
            return None
        return description | {"curves": runs.curves(run), "samples": runs.sheets(run)}

    def run(self, id: str) -> Path | None:
        """Return the folder of a training; None if there is none."""
        if self._latest and self._latest.id == id:
            return self._latest.run
        earlier = self._earlier.get(id)  # it may have ended before it saved
        return runs.find_runs(self.settings.root).get(id) or (earlier.run if earlier else None)

    def begin(self, name: str, arguments: Sequence[str]) -> str:
        """Start a training.

        Args:
            name: name of the run's folder below `runs`; a number is added if it is taken.
            arguments: arguments of `limner train`, without --run and --device.

        Returns:
            The id of the training.

        Raises:
            RefusedError: another training runs.
        """
        with self._one_at_a_time():
            self._delete_if_empty(self._latest)
            folder, number = self.settings.root / "runs" / name, 1
            while folder.exists():
                number += 1
                folder = self.settings.root / "runs" / f"{name}-{number}"
            folder.mkdir(parents=True)
            (folder / _MARKER_FILE).write_text(self._id(folder), encoding="ascii")
            return self._start(folder, ["train", *arguments, "--run", self._relative_path(folder)])

    def resume(self, id: str, options: Sequence[str] = ()) -> None:
        """Resume a training.

        Raises:
            RefusedError: there is no such training, or another one runs.
        """
        with self._one_at_a_time():
            run = self.run(id)
            if run is None or not (run / runs.RECIPE).is_file():
                raise RefusedError(404, "unknown", "there is no such training", "it may be deleted")
            self._start(run, ["resume", self._relative_path(run), *options])

    def stop(self, id: str) -> None:
        """Stop a training: it finishes its step, saves, and ends."""
        latest = self._latest
        if latest and latest.id == id and latest.process.stdin:
            latest.process.stdin.close()

    def delete(self, id: str) -> None:
        """Delete a training that was started here: its run and its log.

        Raises:
            RefusedError: there is no such training, it is running, or the command line started it.
        """
        run = self.run(id)
        if run is None:
            raise RefusedError(404, "unknown", "there is no such training", "it may be deleted")
        if self.running_id == id or is_locked(run):
            raise RefusedError(409, "training", "this training is running", "stop it first")
        if run.exists() and not self._is_own(run):
            message = "this training was started on the command line"
            raise RefusedError(409, "training", message, "delete its folder there")
        if self._latest and self._latest.id == id:
            self._latest = None
        self._earlier.pop(id, None)
        shutil.rmtree(run, ignore_errors=True)
        self._log(id).unlink(missing_ok=True)

    def close(self) -> None:
        """Stop the running training, without waiting for it, and refuse new ones."""
        self._is_closed = True
        if self._latest:
            self.stop(self._latest.id)

    def _relative_path(self, run: Path) -> str:
        return str(run.relative_to(self.settings.root))

    def _id(self, run: Path) -> str:
        return runs.id_of(run, self.settings.root)

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Allow one training to start at a time.

        Raises:
            RefusedError: another training runs, or the studio stops.
        """
        with self._start_lock:
            if self._is_closed:
                message = "the studio is being stopped"
                raise RefusedError(503, "draining", message, "try again later", 10)
            if self.running_id:
                message = "another training is running"
                raise RefusedError(
                    409, "training", message, "stop it first, or wait until it is done"
                )
            yield

    def _log(self, id: str) -> Path:
        return self.settings.folder.resolve() / "trainings" / f"{id}.log"

    def _is_own(self, run: Path) -> bool:
        """Whether a training was started here, and not on the command line."""
        try:
            return (run / _MARKER_FILE).read_text(encoding="ascii") == self._id(run)
        except (OSError, ValueError):
            return False

    def _start(self, run: Path, arguments: list[str]) -> str:
        id, device = self._id(run), self.settings.device
        path = self._log(id)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as output:
            output.write(f"limner {shlex.join(arguments)}\n".encode())
            output.flush()
            process = subprocess.Popen(
                [sys.executable, "-m", "limner.studio.trainer", *arguments, "--device", device],
                cwd=self.settings.root,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C goes to the server, which then closes the input
            )
        if self._latest:
            self._earlier[self._latest.id] = self._latest
        self._latest = _Process(id, run, process)
        return id

    def _description(self, id: str, run: Path) -> dict[str, Any] | None:
        """Return the description of a training; None if its recipe is damaged."""
        latest = self._latest if self._latest and self._latest.id == id else None
        record = runs.describe_run(run)
        if record is None and latest is None:
            latest = self._earlier.get(id)
        if record is None and latest is None:
            return None
        record = record or _UNKNOWN_TRAINING
        code = latest.process.poll() if latest else 0
        runs_here = code is None
        runs_elsewhere = not runs_here and is_locked(run)
        log = self._read_log(id)
        step, text = record["step"], ""
        if runs_elsewhere:
            step = max(step, runs.logged_step(run))
        elif runs_here and (progress := log.progress):
            step = int(progress[1].replace(",", ""))
            text = progress.string[progress.end() :]
        error = _error(code, log.lines)
        return record | {
            "id": id,
            "name": self._relative_path(run),
            "step": step,
            "state": _state(runs_here or runs_elsewhere, error, step, record["steps"]),
            "elsewhere": runs_elsewhere,
            "stopping": latest is not None and latest.is_stopping,
            "said": text,
            "remarks": [] if error else log.remarks,
            "error": error,
            "own": self._is_own(run) or not run.exists(),
            "command": log.command or f"limner resume {shlex.quote(self._relative_path(run))}",
        }

    def _delete_if_empty(self, ended: _Process | None) -> None:
        """Delete the folder of a training that ended before it saved, such as one with a wrong
        option; its log stays.
        """
        if not ended or not self._is_own(ended.run) or is_locked(ended.run):
            return
        if [file.name for file in ended.run.iterdir()] == [_MARKER_FILE]:
            shutil.rmtree(ended.run, ignore_errors=True)

    def _read_log(self, id: str) -> _Log:
        try:
            text = self._log(id).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return _Log("", [])
        command, _, rest = text.partition("\n")
        return _Log(command, [line for line in rest[-_MAX_LETTERS:].splitlines() if line.strip()])


def _state(running: bool, error: Problem | None, step: int, steps: int) -> str:
    """Return the state of a training, in a word."""
    if running:
        return "running"
    if error is not None:
        return "failed"
    return "done" if step >= steps > 0 else "stopped"


def _error(code: int | None, lines: Sequence[str]) -> Problem | None:
    """Return the error with which a training ended, in one line; None if there was none."""
    if code is None or code == _STOPPED_EXIT_CODE:
        return None
    last = lines[-1] if lines else ""
    if last.startswith(_ERROR_PREFIX):
        message, _, hint = last.removeprefix(_ERROR_PREFIX).partition("; ")
        return Problem(code="training", message=message, hint=hint)
    if code < 0:
        message = "the process that trained was ended from outside"
        hint = "it may have taken too much memory: resume it, or choose smaller pictures"
        return Problem(code="training", message=message, hint=hint)
    if code > 0:
        return Problem(code="training", message=last[:300] or "training failed", hint="")
    return None
