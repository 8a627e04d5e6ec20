"""How long does limner take until it responds, and until it has painted?

    python benchmarks/startup.py
    python benchmarks/startup.py --runs 15

Each command runs in a new Python process; all take turns. The first turn may read files from the
disk, so it is not counted unless --cold is given.

How to read it: `best` is the least disturbed run, `median` the usual one. `torch is` says how many
times as long `import torch` takes as this row (median over median); everything that loads torch
must wait for that. `import limner` and `limner --help` do not load torch: their budget is 0.3 s.
`limner sample` paints four pictures with the bundled model and writes its PNG: its budget is 2.6
times `import torch`, plus one second.
"""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from timing import count, options_parser, show, time_call

COMMANDS = {
    "python": ("-c", "pass"),
    "import limner": ("-c", "import limner"),
    "limner --help": ("-m", "limner", "--help"),
    "import torch": ("-c", "import torch"),
    "limner sample": ("-m", "limner", "sample", "a red apple", "-n", "4"),
}


def run(arguments: tuple[str, ...], folder: Path) -> None:
    command = [sys.executable, *arguments]
    completed = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if completed.returncode:
        last = (completed.stderr.strip().splitlines() or ["no message"])[-1]
        raise SystemExit(f"python {' '.join(arguments)} failed: {last}")


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--runs", type=count, default=5, help="timed runs of each command")
    parser.add_argument("--cold", action="store_true", help="include the first run")
    args = parser.parse_args()
    seconds_of: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(args.runs + (not args.cold)):
            for name, arguments in COMMANDS.items():
                seconds = time_call(lambda arguments=arguments: run(arguments, Path(folder)))
                if turn or args.cold:
                    seconds_of[name].append(seconds)
    median = {name: statistics.median(times) for name, times in seconds_of.items()}
    show(
        f"start-up, {args.runs} runs, Python {sys.version.split()[0]}",
        ("", "best", "median", "torch is"),
        [
            (
                name,
                f"{min(times):.3f} s",
                f"{median[name]:.3f} s",
                f"{median['import torch'] / median[name]:.1f} x",
            )
            for name, times in seconds_of.items()
        ],
    )


if __name__ == "__main__":
    main()
