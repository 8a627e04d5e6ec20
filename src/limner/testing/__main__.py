"""Check what one file registers: `python -m limner.testing FILE.py`."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from limner.contract.errors import LimnerError, error_in_file
from limner.contract.model import GenerativeModel
from limner.contract.registry import build, entry, models
from limner.data import Dataset, Stream, open_data
from limner.evaluate.extractors.choose import openers
from limner.evaluate.metric import metrics
from limner.maths.samplers.sampler import SAMPLERS
from limner.testing import check_model
from limner.testing.cases import Case, case_of, cases
from limner.testing.extractor_checks import check_extractor
from limner.testing.metric_checks import check_metric
from limner.testing.sampler_checks import check_sampler
from limner.training.loop import Loop
from limner.training.options import TrainOptions

_STEPS = 400
_USAGE = "name one file: python -m limner.testing FILE.py"


def _registered_items() -> dict[str, dict[str, Any]]:
    """Return what is registered, by kind and name."""
    return {
        "model": {name: e.model for name, e in models().items()},
        "metric": dict(metrics()),
        "sampler": SAMPLERS.classes,
        "extractor": openers(),
    }


def names_in(file: Path) -> dict[str, list[str]]:
    """Return the names under which a file registers anything, by kind.

    Raises:
        LimnerError: there is no such file, or it registers nothing.
    """
    if not file.is_file() or file.suffix != ".py":
        raise LimnerError(f"there is no Python file '{file}'; {_USAGE}")
    known = _registered_items()
    module = _module_name(file)  # of a file of the library or of an installed package
    if not module:
        _run(file)
    names = {
        kind: [
            name
            for name, registered in of_kind.items()
            if (registered.__module__ == module if module else name not in known[kind])
        ]
        for kind, of_kind in _registered_items().items()
    }
    if not any(names.values()):
        raise LimnerError(
            f"{file} registers no model, metric, sampler or extractor; write @register(...), "
            "@metric(...) or @sampler(...) above its class, or @extractor(...) above a function; "
            "limner data check NAME checks a source of an installed package"
        )
    return names


def _module_name(file: Path) -> str:
    """Return the name of the module that a file was imported as; empty if it was not."""
    files = ((name, getattr(module, "__file__", None)) for name, module in [*sys.modules.items()])
    named = ((name, Path(at)) for name, at in files if at and at.endswith(file.name))
    return next((name for name, at in named if at.resolve() == file.resolve()), "")


def _run(file: Path) -> None:
    """Run a file as a module.

    Raises:
        LimnerError: it ends the program.
    """
    taken = file.stem in sys.modules or file.stem in sys.stdlib_module_names
    name = f"{file.stem}_of_your_own" if taken else file.stem  # so that it replaces no other module
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.append(str(file.resolve().parent))  # as for a script, but after all others
    try:
        spec.loader.exec_module(module)
    except SystemExit:
        raise LimnerError(
            f"{file} ends the program when it is imported; put that below "
            'if __name__ == "__main__":'
        ) from None


def _small_emoji(name: str) -> Dataset:
    """Return emoji that a model takes: at its smallest size, with the classes and hints that it
    learns."""
    kinds = cases(entry(name))
    spec = kinds[0].spec
    options: dict[str, Any] = {"size": spec.height, "levels": spec.levels}
    if not any(case.spec.labels for case in kinds):
        options["label"] = "none"
    if spec.hint:
        reduction = spec.height // spec.hint.height
        smaller = {"hint": "lowres", "reduction": reduction}
        options |= smaller if reduction > 1 else {"hint": "edges"}
    return open_data("emoji", **options)


def train_briefly(name: str) -> str:
    """Train a model on small emoji, and return a line with its first and last loss.

    Nested models are those of its `tiny`, with initial weights.
    """
    stream = Stream(_small_emoji(name))
    spec, options = stream.dataset.spec, TrainOptions.of({"lr": 2e-3, **entry(name).train})
    parts = case_of(entry(name), "emoji", spec).config.items()
    nested = {option: part.build() for option, part in parts if isinstance(part, Case)}
    loop = Loop(build(name, spec, **nested), stream.batch, options)
    logs = [loop.advance() for _ in range(_STEPS)]
    key = "bits_per_dim" if "bits_per_dim" in logs[0] else next(k for k in logs[0] if "loss" in k)
    first, last = logs[0][key], logs[-1][key]
    size = f"{stream.dataset.spec.height} x {stream.dataset.spec.width}"
    return f"{name}: {key} of {size} emoji {first:.2f}, after {_STEPS} steps {last:.2f}"


def main(arguments: list[str]) -> int:
    """Check each promise, then train; return 1 if a promise is broken, 2 if the file is
    unusable."""
    try:
        if len(arguments) != 1:
            raise LimnerError(_USAGE)
        names = names_in(Path(arguments[0]))
        for name in names["sampler"]:
            print(*check_sampler(name), sep="\n", flush=True)
        for name in names["extractor"]:
            print(*check_extractor(name), sep="\n", flush=True)
        for name in names["metric"]:
            print(*check_metric(name), sep="\n", flush=True)
        for name in names["model"]:
            print(*check_model(name), sep="\n", flush=True)
            if issubclass(models()[name].model, GenerativeModel):
                print(train_briefly(name))
    except LimnerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except AssertionError as error:
        print(f"broken: {error}", file=sys.stderr)
        return 1
    except (Exception, SystemExit) as error:  # the file's own code may raise anything
        print(f"error: {error_in_file(error, Path(arguments[0]))}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
