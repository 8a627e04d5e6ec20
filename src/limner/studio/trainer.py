"""The process that trains, or checks data: the command line, which ends when its input does.

    python -m limner.studio.trainer check SOURCE FILE   -> FILE.json and FILE.png
    python -m limner.studio.trainer train ...           as `limner train`
    python -m limner.studio.trainer resume ...          as `limner resume`

The server holds standard input open. When it is closed, or the server dies, training is interrupted
as with Ctrl-C: the step is finished and the training saved. Painting has priority.
"""

import _thread
import contextlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from limner.runtime.sigterm import hold_sigterm

_NICENESS = 15
JSON, PNG = ".json", ".png"


def main(arguments: list[str]) -> None:
    """Run the command in the arguments, until it is done or the input ends."""
    hold_sigterm()
    with contextlib.suppress(AttributeError, OSError):  # os.nice does not exist on Windows
        os.nice(_NICENESS)
    threading.Thread(target=_stop_with_input, daemon=True).start()
    if arguments[0] == "check":
        write_check(arguments[1], Path(arguments[2]))
        return
    from limner.__main__ import main as command_line

    command_line()


def _stop_with_input() -> None:
    while os.read(sys.stdin.fileno(), 1):  # unbuffered: a buffer's lock would disturb Python's exit
        pass
    _thread.interrupt_main()


def write_check(source: str, file: Path) -> None:
    """Write the report of `limner data check` on a source, and its contact sheet.

    Args:
        source: source as typed on the command line.
        file: path of both files, without suffix; the JSON file is written last, and atomically.
    """
    from limner.contract.atomic_files import atomic_file
    from limner.contract.errors import LimnerError
    from limner.data import check

    document: dict[str, Any]
    try:
        photos = source.startswith(("folder:", "zip:"))  # a budget gives these one size
        report = check(source, **({"size": 32} if photos else {}))
        report.sheet(file.with_suffix(PNG))
        document = {
            "text": report.text(),
            "pictures": report.pictures,
            "labels": len(report.labels),
            "captioned": report.captioned,
            "refused": report.refused_by_training,
        }
    except LimnerError as error:
        document = {"text": str(error), "refused": True}
    # Names and captions may not be UTF-8, which the API's responses are.
    document["text"] = document["text"].encode(errors="backslashreplace").decode()
    with atomic_file(file.with_suffix(JSON)) as partial:
        partial.write_text(json.dumps({"pictures": 0, "labels": 0, "captioned": 0} | document))


if __name__ == "__main__":
    main(sys.argv[1:])
