"""Errors in the code of installed packages: its author needs a traceback of that code alone."""

import importlib.util
import sys
import traceback
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from limner.contract.errors import LimnerError, error_in_file, first_line
from limner.contract.names import is_builtin

ENTRY_POINT_GROUP = "limner"
"""The group of entry points with which packages name their modules."""
_OUT_OF_MEMORY = ("MemoryError", "OutOfMemoryError")  # Python's and torch's


def package_name(point: EntryPoint) -> str:
    """Return the name with which `pip uninstall` removes the package of an entry point."""
    return point.dist.name if point.dist else point.name


def package_places(module: str) -> list[Path]:
    """Return the folders, or the file, with the code of a module's package; none if it is absent.

    Args:
        module: the name of a module, which need not be imported.
    """
    package = importlib.util.find_spec(module.partition(".")[0])
    if package is None:
        return []
    places = package.submodule_search_locations or [package.origin]
    return [Path(place) for place in places if place]


def file_in_places(error: BaseException, places: Mapping[Path, str]) -> tuple[Path, str] | None:
    """Return the innermost file of a traceback that is in one of several places, and the name of
    its place; None if there is no such file.

    Args:
        error: the error.
        places: folders or files, with their names.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        name = next((name for place, name in places.items() if file.is_relative_to(place)), None)
        if name is not None:
            return file, name
    return None


def failed_modules(error: Exception | SystemExit) -> set[str]:
    """Return the names of the modules whose import an error ended."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = {f.f_globals["__name__"] for f in frames if f.f_code.co_name == "<module>"}
    return names - sys.modules.keys()


def describe(error: Exception | SystemExit) -> str:
    """Return an error as one line: a user error's message, the place in an installed package, or
    the type and the message."""
    if isinstance(error, LimnerError):
        return str(error)
    kind, message = type(error).__name__, first_line(error)
    return place_of_error(error) or (kind if message == kind else f"{kind}: {message}")


def place_of_error(error: Exception | SystemExit) -> str:
    """Return where in the code of an installed package an error is, such as "FILE, line 7: ..."
    with the message, and what to do; an empty text if it is not in such code, or if memory ran out.
    """
    if type(error).__name__ in _OUT_OF_MEMORY:
        return ""
    found = file_in_places(error, _places_of_packages())
    return f"{error_in_file(error, found[0])}; correct the package '{found[1]}'" if found else ""


def package_traceback(
    error: Exception | SystemExit, places: Mapping[Path, str] | None = None
) -> str:
    """Return an error's traceback with the lines of certain code, and the line that raised it.

    Args:
        error: the error.
        places: folders or files with that code; by default those of installed packages.
    """
    places = _places_of_packages() if places is None else places
    shown: traceback.TracebackException | None
    top = shown = traceback.TracebackException.from_exception(error)
    while shown is not None:
        stack = list(shown.stack)
        own = [f for f in stack if any(Path(f.filename).is_relative_to(p) for p in places)]
        if own:
            last = [frame for frame in stack[-1:] if frame not in own]
            shown.stack = traceback.StackSummary.from_list([*own, *last])
        shown = shown.__cause__ or shown.__context__
    return "".join(top.format()).rstrip()


def changed_package_hint(of: type) -> str:
    """Return the end of a message for a file that does not fit its model's code: what to do if the
    package of that model has changed; empty for a model of limner.

    Args:
        of: the model's class.
    """
    if is_builtin(of):
        return ""
    return "; if the package of this model has changed, install the version that wrote the file"


def _places_of_packages() -> dict[Path, str]:
    return {
        place: package_name(point)
        for point in entry_points(group=ENTRY_POINT_GROUP)
        for place in package_places(point.module)
    }
