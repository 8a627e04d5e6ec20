"""Settings of all tests: checked shapes, no network, one thread, seeds, no silent skips."""

import functools
import gc
import os
import random
import runpy
import sys
import threading
import types
import typing
from collections.abc import Callable, Generator, Hashable, Iterator
from pathlib import Path
from typing import Any

OFFLINE = Path(__file__).parent / "offline"

sys.path.insert(0, str(Path(__file__).parent / "helpers"))  # for `import toys` and the like
gc.disable()  # until all tests are collected
os.environ.setdefault("MPLBACKEND", "Agg")
# Two threads on small tensors took 13x as long on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PYTHONPATH"] = os.pathsep.join(
    part for part in (str(OFFLINE), os.environ.get("PYTHONPATH")) if part
)
# Otherwise each worker compiles all modules and checks again, and each program all of limner.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
runpy.run_path(str(OFFLINE / "sitecustomize.py"))

import jaxtyping  # noqa: E402
import torch  # noqa: E402
from beartype import BeartypeConf, beartype  # noqa: E402

assert not any(name == "limner" or name.startswith("limner.") for name in sys.modules), (
    "limner was imported before its shapes could be checked"
)
_beartyped = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as in Python


def _checked(target: Callable[..., Any]) -> Callable[..., Any]:
    """Apply beartype, after making all protocols in the hints checkable at run time."""
    waiting = list(getattr(target, "__annotations__", {}).values())
    for hint in waiting:
        waiting += typing.get_args(hint)
        if getattr(hint, "_is_protocol", False):
            typing.runtime_checkable(hint)
    return _beartyped(target)


_jaxtyped = jaxtyping.jaxtyped


def _kind(value: object, choices: bool) -> Hashable:
    """Return what the checks depend on: the type; shape and dtype of tensors; a choice itself."""
    cls = type(value)
    if issubclass(cls, torch.Tensor):
        return cls, value.shape, value.dtype  # type: ignore[attr-defined]
    if cls is str and choices:
        return value
    if issubclass(cls, (tuple, list)):
        return cls, *(_kind(v, choices) for v in value[:9])  # type: ignore[index]
    if issubclass(cls, dict):
        first = list(value.items())[:9]  # type: ignore[attr-defined]
        return cls, *(_kind(v, choices) for v in first)
    return cls


MOST_CHECKED = 8
"""Number of calls of a function that are checked in each test."""
_test = [0]


@functools.cache
def _known(checker: Hashable, code: types.CodeType, *hints: Hashable) -> set[Hashable]:
    """Return the set of calls already checked; shared, since inner functions are remade often."""
    return set()


def _jaxtyped_once(target: Any = None, *, typechecker: Callable[..., Any]) -> Any:
    """Replace jaxtyping's decorator, which took most of the time of tests.

    A call is not checked again if this function was checked with arguments and a result of the
    same kinds, or after its first `MOST_CHECKED` calls in a test. The checks are compiled when a
    call first needs them.
    """
    if target is None:
        return functools.partial(_jaxtyped_once, typechecker=typechecker)
    if not isinstance(target, types.FunctionType):
        return _jaxtyped(target, typechecker=typechecker)  # a class's methods follow one by one
    hints = " ".join(map(str, target.__annotations__.values()))
    if "{" in hints:
        return _jaxtyped(target, typechecker=typechecker)
    choices = "Literal" in hints
    try:
        known = _known(typechecker, target.__code__, *target.__annotations__.values())
    except TypeError:  # a hint that cannot be hashed
        known = set[Hashable]()
    results: dict[int, Any] = {}
    counts = [0, 0]  # number of the test, number of this function's calls in it

    @functools.cache
    def checked() -> Callable[..., Any]:
        return _jaxtyped(target, typechecker=typechecker)

    @functools.cache
    def replayed() -> Callable[..., Any]:
        replay = functools.wraps(target)(lambda *_, **__: results[threading.get_ident()])
        return _jaxtyped(replay, typechecker=typechecker)

    @functools.wraps(target)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if counts[0] != _test[0]:
            counts[:] = _test[0], 0
        counts[1] += 1
        if counts[1] > MOST_CHECKED:
            return target(*args, **kwargs)
        key = (
            *[_kind(value, choices) for value in args],
            *[(name, _kind(value, choices)) for name, value in kwargs.items()],
        )
        if key not in known:
            result = checked()(*args, **kwargs)
            if not jaxtyping.config.jaxtyping_disable:
                known.update((key, (key, _kind(result, choices))))
            return result
        result = target(*args, **kwargs)
        full_key = key, _kind(result, choices)
        if full_key not in known and not jaxtyping.config.jaxtyping_disable:
            results[threading.get_ident()] = result
            try:
                replayed()(*args, **kwargs)
            finally:
                del results[threading.get_ident()]
            known.add(full_key)
        return result

    return call


jaxtyping.jaxtyped = jaxtyping._decorator.jaxtyped = _jaxtyped_once
checker = types.ModuleType("limner_checker")
checker.check = _checked
sys.modules[checker.__name__] = checker
jaxtyping.install_import_hook("limner", f"{checker.__name__}.check")

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

# An example may take long, because the first call of a function compiles its checks.
PATIENT = hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
# Every run has the same examples; `pytest --hypothesis-profile random` draws new ones.
hypothesis.settings.register_profile("random", PATIENT)
hypothesis.settings.register_profile("same", PATIENT, derandomize=True, database=None)
hypothesis.settings.load_profile("same")

MAY_SKIP = "may_skip"
SLOW = Path(__file__).parent / "slow.txt"


def pytest_collection_finish() -> None:
    """Start to collect garbage, but not among the million objects that all tests share.

    Looking through these again and again took much of the time of tests.
    """
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{MAY_SKIP}(reason): stays a skip when LIMNER_NO_SKIP=1 turns skips into failures",
    )
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.option.markexpr:
        config.option.markexpr = "not slow"  # a named file runs completely


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests of `tests/slow.txt`, which run only with `pytest -m slow`."""
    slow = set(SLOW.read_text(encoding="utf-8").splitlines())
    for item in items:
        if item.nodeid in slow:
            item.add_marker("slow")
    if any("::" in arg for arg in config.args):
        return
    names = {item.nodeid for item in items}
    files = {name.split("::")[0] for name in names}
    if missing := [name for name in slow - names if name.split("::")[0] in files]:
        raise pytest.UsageError(f"tests/slow.txt names tests that are gone: {', '.join(missing)}")


def _seed() -> None:
    """Seed the global generators, which only peers and tests use: limner's own draws are keyed."""
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)  # torch.manual_seed formats a stack trace each time
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed before each test."""
    _test[0] += 1
    _seed()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> None:
    """Seed before each fixture that tests share: it must not depend on the test before it."""
    if fixturedef.scope != "function":
        _seed()


@pytest.hookimpl(tryfirst=True)
def pytest_collectstart(collector: pytest.Collector) -> None:
    """Seed before the import of each file: its models must not depend on the files before it."""
    if isinstance(collector, pytest.Module):
        _seed()


@pytest.fixture(scope="session", autouse=True)
def users_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the tests a cache of their own, which other runs neither fill nor read; return the
    user's.
    """
    from limner.runtime.cache import cache_folder

    users = cache_folder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMNER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield users


@pytest.fixture(scope="session", autouse=True)
def _no_terminal() -> Iterator[None]:
    """Hide what the user's shell says about the terminal: the output of tests goes to none."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """Disable shape checks, as outside the tests, to see the library's own messages."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def undrawn_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out curves.png, since drawing it takes longer than a short run."""
    from limner.training import log_curves

    monkeypatch.setattr(log_curves, "draw_curves", lambda *_: None)


@pytest.fixture(scope="session")
def mnist() -> str:
    """Return the name of the MNIST source; skip if its files are not in the folder LIMNER_DATA."""
    folder = os.environ.get("LIMNER_DATA")
    if not folder:
        pytest.skip("LIMNER_DATA, the folder of MNIST's files, is not set")
    if not any(Path(folder).rglob("train-images*")):
        pytest.skip(f"the folder LIMNER_DATA={folder} has no MNIST in it")
    return "mnist"


def _skips_fail() -> bool:
    return os.environ.get("LIMNER_NO_SKIP") == "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report a skipped test as failed if LIMNER_NO_SKIP=1, unless it is marked `may_skip`."""
    report = yield
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and _skips_fail() and item.get_closest_marker(MAY_SKIP) is None:
        report.outcome = "failed"
        report.longrepr = f"skipped, though LIMNER_NO_SKIP=1: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    """Do the same for a whole file that skips itself."""
    report = yield
    if report.outcome == "skipped" and _skips_fail():
        report.outcome = "failed"
        report.longrepr = f"skipped, though LIMNER_NO_SKIP=1: {report.longrepr}"
    return report
