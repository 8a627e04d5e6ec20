"""`limner` and `python -m limner`: run the command line, and report an error in one line."""

import errno
import io
import signal
import sys
from pathlib import Path

import typer

from limner.contract.errors import LimnerError, is_utf8
from limner.contract.package_errors import package_traceback, place_of_error

# The base class of typer's errors of usage. Newer releases have their own copy of click, older ones
# import it.
_Wrong: type[Exception] = next(
    base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException"
)


def main() -> None:
    """Run the command line.

    An error in the code of an installed package is shown with the lines of that code only.

    Exit codes: 0 done, 2 wrong use or bad input, 1 anything else, 130 interrupted (after saving).
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name in the data may not be UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        from limner.commands.app import app

        _check_names(sys.argv[1:])
        code = app(standalone_mode=False)
    except _Wrong as error:
        print(_one_line(error), file=sys.stderr)
        code = 2
    except LimnerError as error:
        print(f"limner: {error}", file=sys.stderr)
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:  # the reader of standard output, such as head, has gone
        if hasattr(signal, "SIGPIPE"):  # Windows has none
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        code = 0
    except (Exception, SystemExit) as error:  # a package may raise anything
        code = 2
        why = _wrong_name(error) if isinstance(error, OSError) else None
        if why is None and (why := place_of_error(error)):
            print(package_traceback(error), file=sys.stderr)
            code = 1
        if not why:
            raise
        print(f"limner: {why}", file=sys.stderr)
    sys.stdout.flush()
    sys.exit(code)


def _check_names(arguments: list[str]) -> None:
    """Refuse names that are not UTF-8: they could be read, but not written into any file."""
    for each in arguments:
        if not is_utf8(each):
            shown = each.encode("ascii", "backslashreplace").decode()
            raise LimnerError(f"'{shown}' is not valid UTF-8; rename the file or folder")


def _wrong_name(error: OSError) -> str | None:
    """Return what to do about the name of a file that cannot be used; None for other errors."""
    if error.errno == errno.ENAMETOOLONG:
        start = max(Path(str(error.filename)).parts, key=len)[:40]
        return f"the name '{start}...' is too long; give a shorter one"
    if isinstance(error, PermissionError) and error.filename is not None:
        return f"no permission for '{error.filename}'; give it with chmod, or name another file"
    return None


def _one_line(error: Exception) -> str:
    """Return the message as one line, without a capital and a full stop; or the help, if a command
    is missing."""
    message = error.format_message()  # pyright: ignore[reportAttributeAccessIssue]
    if type(error).__name__ == "NoArgsIsHelpError":
        return message
    line = " ".join(message.split()).rstrip(".").replace(": Value error, ", ": ")
    return f"limner: {line[:1].lower()}{line[1:]}"


if __name__ == "__main__":
    main()
