"""Check and train the models of one file: `python -m limner.testing FILE.py`."""

import importlib.util
import sys
from pathlib import Path

from limner.contract.errors import LimnerError
from limner.contract.model import GenerativeModel
from limner.contract.registry import build, models
from limner.data import Stream, open_data
from limner.testing import check_model
from limner.training.loop import Loop
from limner.training.options import TrainOptions

_STEPS, _SIZE = 400, 8
_USAGE = "say which file: python -m limner.testing FILE.py"


def models_of(file: Path) -> list[str]:
    """The names under which a file registers models, when it is run.

    Raises:
        LimnerError: there is no such file, or it registers nothing.
    """
    if not file.is_file() or file.suffix != ".py":
        raise LimnerError(f"there is no Python file '{file}'; {_USAGE}")
    known = set(models())
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    found = [name for name in models() if name not in known]
    if not found:
        raise LimnerError(f"{file} registers no model; write @register(...) above its class")
    return found


def train_briefly(name: str) -> str:
    """Train a model on small emoji; how its loss went, in a line."""
    stream = Stream(open_data("emoji", size=_SIZE))
    loop = Loop(build(name, stream.dataset.spec), stream.batch, TrainOptions(lr=2e-3))
    logs = [loop.advance() for _ in range(_STEPS)]
    key = "bits_per_dim" if "bits_per_dim" in logs[0] else next(k for k in logs[0] if "loss" in k)
    first, last = logs[0][key], logs[-1][key]
    return f"{name}: {key} of {_SIZE} x {_SIZE} emoji {first:.2f}, after {_STEPS} steps {last:.2f}"


def main(arguments: list[str]) -> int:
    """Check each promise, then train; 1 if a promise is broken, 2 if the file is no model's."""
    try:
        if len(arguments) != 1:
            raise LimnerError(_USAGE)
        for name in models_of(Path(arguments[0])):
            print(*check_model(name), sep="\n", flush=True)
            if issubclass(models()[name].model, GenerativeModel):
                print(train_briefly(name))
    except LimnerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except AssertionError as error:
        print(f"broken: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
