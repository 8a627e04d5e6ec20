"""A run: a folder that holds a recipe, its log, sample sheets, the model, and a state to resume.

    recipe.toml          the recipe in effect, every training option written out
    data.json            the number of training pictures, and their digest
    log.jsonl            a line every `log_every` steps
    curves.png           the log as curves
    samples/             sample sheets with the same seeds, painted by the averaged weights
    model.safetensors    the averaged weights: the model
    averages/            averages of further widths at each saved state, see averages.py
    state/               everything needed to resume, see state.py

When a line, a sheet or a state is written depends only on the step. So a run that was killed and
resumed leaves the same files as an uninterrupted run, except for the first line of the log after
the interruption: this line has the means of the steps since the saved state.
"""

import contextlib
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from limner.contract.checkpoint import MODEL_FILE, read_header
from limner.contract.errors import LimnerError
from limner.contract.model import Learner
from limner.contract.package_errors import changed_package_hint
from limner.contract.registry import build, entry_of
from limner.contract.torch_defaults import usual_defaults
from limner.data.buckets import check_sizes
from limner.data.dataset import Dataset, check_dataset
from limner.data.sources import one_source, parts_of, source_types
from limner.data.stream import Stream
from limner.data.two_domains import check_pairs
from limner.nn.precision import has_bfloat16
from limner.runtime import processes
from limner.runtime.allocator import keep_freed_memory
from limner.runtime.folder_lock import lock_folder
from limner.runtime.progress import say
from limner.training.data_record import DataRecord, same_kind
from limner.training.loop import Loop
from limner.training.recipe import RECIPE_FILE, Recipe
from limner.training.session import OnStep, Session
from limner.training.state import load_state, remove_partial_states
from limner.training.torch_errors import is_lost_process
from limner.training.validation import with_held_out


def train(
    recipe: Recipe,
    run: Path | str,
    *,
    device: str = "auto",
    dataset: Dataset | None = None,
    on_step: OnStep | None = None,
) -> Path:
    """Train a model into a new run folder.

    Args:
        recipe: the model, the data and the training options.
        run: the folder.
        device: device to train on.
        dataset: data set to use instead of the recipe's source. The source then only names it, and
            is replaced by the data set's own name if it names a source of other data.
        on_step: function called after every step, which ends the run by returning True.

    Returns:
        the model file.

    Raises:
        LimnerError: a wrong recipe, a folder that already holds a run, a disk that cannot be
            written, or training that stays non-finite after all roll-backs.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after the step was finished and saved.
    """
    if not isinstance(recipe, Recipe):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LimnerError(
            f"{recipe!r} is not a Recipe; write Recipe.of('edm', 'emoji'), or Recipe.read(FILE)"
        )
    run = Path(run)
    recipe = recipe.effective()
    if dataset is None:
        _check_outside(run, one_source(recipe.data["source"]))
    data = recipe.data if dataset is None else _data_of(dataset, recipe)
    recipe = replace(recipe, data=with_held_out(data, recipe.options()))
    old = recipe_before_restart(run, device)
    if old is None:
        return _start_run(recipe, run, device, dataset, on_step)
    if old != recipe:
        raise _other_run_error(run)
    return _continue_run(run, (), device, dataset, on_step)


def recipe_before_restart(run: Path, device: str = "auto") -> Recipe | None:
    """Return the recipe of a run that torchrun has restarted; None if the folder holds no run.

    Args:
        run: folder of the run.
        device: device to train on.

    Raises:
        LimnerError: the folder holds a run, and torchrun has not restarted.
    """
    exists = (run / RECIPE_FILE).exists()
    has_restarted = processes.meet(processes.device(device), run, exists)
    if exists and not has_restarted:
        raise _other_run_error(run)
    return Recipe.read(run / RECIPE_FILE) if exists else None


def _other_run_error(run: Path) -> LimnerError:
    """Return the error for a folder that holds another run."""
    return LimnerError(
        f"{run} already holds a run; type: limner resume {shlex.quote(str(run))}, or give "
        "another --run"
    )


def resume(
    run: Path | str,
    assignments: Iterable[str] = (),
    *,
    device: str = "auto",
    dataset: Dataset | None = None,
    on_step: OnStep | None = None,
    new_data: bool = False,
) -> Path:
    """Continue a run from its newest undamaged state; other arguments and result as for `train`.

    Args:
        assignments: values to change, e.g. "train.steps=20000"; model and optimiser cannot change.
        new_data: whether to continue although the data have changed since the run started.
    """
    run = Path(run)
    exists = (run / RECIPE_FILE).is_file()
    processes.meet(processes.device(device), run, exists)
    if not exists:
        raise LimnerError(f"{run} holds no run; `limner train` makes one")
    return _continue_run(run, assignments, device, dataset, on_step, new_data)


def _continue_run(
    run: Path,
    assignments: Iterable[str],
    device: str,
    dataset: Dataset | None,
    on_step: OnStep | None,
    new_data: bool = False,
) -> Path:
    old = Recipe.read(run / RECIPE_FILE)
    entry_of(old.model["name"], run)
    recipe = old.with_values(assignments).effective()
    if dataset is None:
        _check_known(run, old.data["source"], recipe.data["source"])
    for key in ("optimizer", "seed", "init", "frozen", "widths"):
        if getattr(recipe.options(), key) != getattr(old.options(), key):
            raise LimnerError(
                f"train.{key} cannot change in a run that is resumed; train a new one"
            )
    if recipe.model != old.model:
        raise LimnerError("a model cannot change in a run that is resumed; train a new one")
    images_seen = (run / MODEL_FILE).exists() and read_header(run / MODEL_FILE).images_seen
    if not images_seen and not any((run / "state").glob("step-*")):  # killed before its first state
        return _start_run(recipe, run, device, dataset, on_step)
    with _process(recipe, device) as torch_device, _exclusive(run, torch_device):
        state = load_state(run / "state", say)
        if state is None:
            raise LimnerError(
                f"all states of {run} are damaged; train again, into another --run, from its "
                f"weights with train.init.model={shlex.quote(str(run))}"
            )
        try:
            stream = open_stream(recipe, dataset)
        except LimnerError as error:
            raise LimnerError(f"{error}; for data that moved, add data.source=...") from None
        model = _rebuild(run, stream.dataset, new_data)
        check_sizes(model, stream.dataset)
        loop = Loop(model, stream.batch, recipe.options(), torch_device)
        loop.restore(state)
        session = Session(run, recipe, loop, stream, dataset, on_step)
        session.forget_later()
        return session.go()


def _rebuild(run: Path, dataset: Dataset, new_data: bool) -> Learner:
    """Build a run's model for its data, with initial weights.

    Raises:
        LimnerError: the data have changed and `new_data` is False, or they do not fit the model;
            or the model's code no longer takes its options.
    """
    header, record = read_header(run / MODEL_FILE), DataRecord.of(dataset)
    old_record, model = DataRecord.read(run), None
    changes = old_record.changes(record) if old_record else []
    try:
        model = build(header.model, dataset.spec, **header.config)
    except LimnerError as error:
        if not changes:  # otherwise it may be of these, such as a teacher for other data
            advice = changed_package_hint(entry_of(header.model, run).model)
            raise LimnerError(f"{run}: {error}{advice}") from None
    if model is None or not same_kind(model.spec, header.spec):
        changes = changes or DataRecord("", 0, "", header.spec).changes(replace(record, pictures=0))
        raise LimnerError(
            f"the data do not fit the model of {run}: {'; '.join(changes)}; give the data that it "
            "started with, or train a new one"
        )
    if changes and not new_data:
        raise LimnerError(
            f"the data of {run} have changed: {'; '.join(changes)}; give the data that it started "
            "with, or, to continue with the new data, add --new-data to the command"
        )
    return model


def _check_outside(run: Path, source: str) -> None:
    """Check that a run is outside the folders of its data, which would contain its sheets.

    Raises:
        LimnerError: it is inside one of them.
    """
    path = run.resolve()
    for part in parts_of(source):
        kind, _, address = part.partition(":")
        if kind == "folder" and Path(address).expanduser().resolve() in (path, *path.parents):
            raise LimnerError(
                f"{run} is inside {part}, so its sample sheets would become pictures of the data; "
                "give a --run outside"
            )


def _check_known(run: Path, old: str, source: str) -> None:
    """Check that the source of a run is known, if it is the one that the run started with.

    Raises:
        LimnerError: a package that is no longer installed had it, or a Python program gave it.
    """
    if source == old and len(source_types(source)) < len(parts_of(source)):
        raise LimnerError(
            f"the data source '{source}' of {run} is not known here; install the package that has "
            "it, continue with a Python program that gives the data, or add data.source=..."
        )


def _data_of(dataset: Dataset, recipe: Recipe) -> dict[str, Any]:
    """Return the section [data] of a run on a data set.

    The source is the recipe's, or the data set's name if the recipe's is a source of other data.
    """
    check_dataset(dataset)
    name, source = dataset.source or type(dataset).__name__, str(recipe.data["source"])
    return {"source": name} if source != name and source_types(source) else recipe.data


def open_stream(recipe: Recipe, dataset: Dataset | None = None) -> Stream:
    """Open a recipe's training images, in the order that its seed gives them."""
    from limner.data import open_data

    options = recipe.options()
    dataset = open_data(**recipe.data) if dataset is None else dataset
    stream = Stream(dataset, options.seed, options.batch)
    if dataset.skipped:
        name, reason = dataset.skipped[0]
        count = len(dataset.skipped)
        more = f" and {count - 1} more" if count > 1 else ""
        say(
            f"left out: {name} ({reason}){more}; to see all, type: "
            f"limner data check {shlex.quote(dataset.source)}"
        )
    stream.check_captions()
    return stream


def _start_run(
    recipe: Recipe, run: Path, device: str, dataset: Dataset | None, on_step: OnStep | None
) -> Path:
    with _process(recipe, device) as torch_device:
        options = recipe.options()
        stream = open_stream(recipe, dataset)
        model = recipe.build(stream.dataset.spec)
        check_sizes(model, stream.dataset)
        check_pairs(model, stream.dataset)
        loop = Loop(model, stream.batch, options, torch_device)
        session = Session(run, recipe, loop, stream, dataset, on_step)
        with _exclusive(run, torch_device):
            loop.prepare()
            session.save()
            return session.go()


@contextlib.contextmanager
def _exclusive(run: Path, torch_device: torch.device) -> Iterator[None]:
    """Lock a run's folder against other commands, and remove what a killed one left half written.

    Raises:
        LimnerError: on all processes, if another command writes to the folder, or if it cannot be
            written.
    """
    in_use = f"another command is training in {run}; wait for it, or give another --run"
    failure = None
    with contextlib.ExitStack() as stack:
        if processes.first():
            try:
                stack.enter_context(lock_folder(run, in_use))
                remove_partial_states(run / "state")
            except LimnerError as error:
                failure = error
        if processes.anyone(failure is not None, torch_device):
            raise failure or LimnerError("another process stopped; its message says why")
        yield


@contextlib.contextmanager
def _process(recipe: Recipe, device: str) -> Iterator[torch.device]:
    """Set up this process for training, and yield its device."""
    keep_freed_memory()
    torch_device, threads = processes.device(device), torch.get_num_threads()
    if recipe.options().dtype == "bfloat16" and not has_bfloat16(torch_device):
        say(f"this {torch_device.type} has no bfloat16: it trains in float32, which is faster here")
    if recipe.options().threads:
        torch.set_num_threads(recipe.options().threads)
    processes.join(torch_device)
    try:
        precise = torch.autocast(torch_device.type, enabled=False)  # `train.dtype` chooses
        with usual_defaults(), precise, torch.enable_grad():
            yield torch_device
    except RuntimeError as error:
        if processes.size() == 1 or not is_lost_process(error):
            raise
        raise LimnerError(
            "another process of this training was lost; to continue, type: limner resume RUN "
            "(torchrun --max-restarts=3 does so by itself from the last state, docs/training.md)"
        ) from None
    finally:
        torch.set_num_threads(threads)
