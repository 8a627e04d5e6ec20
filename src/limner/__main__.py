"""`limner` and `python -m limner`: run the command line, and say in one line what went wrong."""

import signal
import sys

import click

from limner.errors import LimnerError


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 2 wrong use or bad input, 1 anything else, 130 interrupted (after saving).
    """
    from limner.cli import app

    try:
        code = app(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.ctx.get_help() if error.ctx else "")
        code = 2
    except click.ClickException as error:
        print(f"limner: {_lowered(error.format_message())}", file=sys.stderr)
        code = 2
    except LimnerError as error:
        print(f"limner: {error}", file=sys.stderr)
        code = 2
    except (KeyboardInterrupt, click.Abort):
        code = 130
    except BrokenPipeError:  # the reader of standard output, such as head, has gone
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        code = 0
    sys.stdout.flush()
    sys.exit(code)


def _lowered(message: str) -> str:
    """One line without a capital and a full stop."""
    line = " ".join(message.split()).rstrip(".")
    return line[:1].lower() + line[1:]


if __name__ == "__main__":
    main()
