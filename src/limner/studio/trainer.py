"""The process that trains, or looks at data: the command line, which ends when its input does.

    python -m limner.studio.trainer check SOURCE FILE   -> FILE.json and FILE.png
    python -m limner.studio.trainer train ...           as `limner train`
    python -m limner.studio.trainer resume ...          as `limner resume`

Standard input is held open by the server. When it is closed, or the server dies, training is
interrupted as by Ctrl-C: the step is finished and saved. Painting has priority.
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

_NICE = 15
JSON, PNG = ".json", ".png"


def main(arguments: list[str]) -> None:
    """Do what the arguments say, until it is done or the input ends."""
    hold_sigterm()
    with contextlib.suppress(AttributeError, OSError):  # Windows has no such thing
        os.nice(_NICE)
    threading.Thread(target=_stop_with_input, daemon=True).start()
    if arguments[0] == "check":
        write_check(arguments[1], Path(arguments[2]))
        return
    from limner.__main__ import main as command_line

    command_line()


def _stop_with_input() -> None:
    while os.read(
        sys.stdin.fileno(), 1
    ):  # not by a buffer, whose lock Python would miss as it ends
        pass
    _thread.interrupt_main()


def write_check(source: str, file: Path) -> None:
    """Write what `limner data check` says of a source, and its contact sheet.

    Args:
        source: as it is typed.
        file: the path of both, without suffix; the JSON comes last, and whole.
    """
    from limner.contract.errors import LimnerError
    from limner.data import check

    document: dict[str, Any]
    try:
        photos = source.startswith(("folder:", "zip:"))  # to which a budget gives one size
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
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps({"pictures": 0, "labels": 0, "captioned": 0} | document))
    partial.replace(file.with_suffix(JSON))


if __name__ == "__main__":
    main(sys.argv[1:])
