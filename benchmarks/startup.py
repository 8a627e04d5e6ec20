"""How long until limner answers, and until it has painted?

    python benchmarks/startup.py
    python benchmarks/startup.py --runs 15

Each command runs in a new Python, all of them in turns. The first turn, which may read files from
the disk, is left out unless --cold is given.

How to read it: `best` is the least disturbed run, `median` the usual one; `torch is` is how many
times as long `import torch` takes (median over median), which everything that loads torch must wait
for. `import limner` and `limner --help` do without it: their budget is 0.3 s. `limner sample`
paints four pictures with the bundled model and writes its PNG: its budget is 2.6 times `import
torch`, plus one second.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from timing import show, timed

COMMANDS = {
    "python": ("-c", "pass"),
    "import limner": ("-c", "import limner"),
    "limner --help": ("-m", "limner", "--help"),
    "import torch": ("-c", "import torch"),
    "limner sample": ("-m", "limner", "sample", "a red apple", "-n", "4"),
}


def run(arguments: tuple[str, ...], folder: Path) -> None:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise SystemExit(f"python {' '.join(arguments)} failed: {last}")


def main() -> None:
    summary, _, rest = __doc__.partition("\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5, help="of each command")
    parser.add_argument("--cold", action="store_true", help="count the first run too")
    args = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(args.runs + (not args.cold)):
            for name, arguments in COMMANDS.items():
                seconds = timed(lambda arguments=arguments: run(arguments, Path(folder)))
                if turn or args.cold:
                    found[name].append(seconds)
    median = {name: statistics.median(times) for name, times in found.items()}
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
            for name, times in found.items()
        ],
    )


if __name__ == "__main__":
    main()
