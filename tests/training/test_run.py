"""A run's folder: its files, resuming after a kill at any point, and errors.

This file is also a script that the tests run and kill: python test_run.py MODE RUN.
"""

import errno
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_loop import SPEC, ToyDenoiser, _one_thread, images  # noqa: F401
from torch import Tensor

from limner.contract.checkpoint import load, load_tensors, read_header
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec, to_uint8
from limner.data import Dataset, Stream
from limner.evaluate.evaluation import evaluate
from limner.runtime import processes
from limner.runtime.log import read_log
from limner.training import estimate, soap
from limner.training.estimate import dry_run
from limner.training.loop import Loop
from limner.training.recipe import Recipe
from limner.training.run import resume, train

pytestmark = pytest.mark.usefixtures("undrawn_curves")  # except in the fixture `finished`


class Ramps(Dataset):
    """A data set of smooth pictures in memory."""

    def __init__(self, labels: tuple[str, ...] = (), n: int = 32) -> None:
        self.spec = ImageSpec(*SPEC.shape, labels=labels)
        self.labels = torch.arange(n) % len(labels) if labels else None
        self._pixels = to_uint8(images(0, n).x)

    def __len__(self) -> int:
        return len(self._pixels)

    def pixels(self, indices: Tensor) -> Tensor:
        return self._pixels[indices]


STEPS = 36
SHORT = {
    "steps": STEPS,
    "batch": 4,
    "lr": 1e-2,
    "ema": 0.9,
    "log_every": 4,
    "sample_every": 12,
    "samples": 6,
    "save_every": 3,
    "average": "warmup",
}


def recipe(model: str, **changes: object) -> Recipe:
    config = {"width": 4, "dropout": 0.1} if model == "toy-denoiser" else {}
    return Recipe({"name": model} | config, {"source": "ramps"}, SHORT | changes)


def files(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> dict[str, Path]:
    """Train both toy models without interruption."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("straight")
    for model in ("toy-denoiser", "toy-gan"):
        train(recipe(model), folder / model, dataset=Ramps(), device="cpu")
    torch.set_num_threads(threads)
    return {model: folder / model for model in ("toy-denoiser", "toy-gan")}


def test_the_folder_has_all_files(finished):
    run = finished["toy-denoiser"]
    state = {f"state/step-{s:08d}/{n}" for s in (33, 36) for n in ("manifest.json",)}
    groups = ("model", "average", "optimizer", "counters")
    state |= {f"state/step-{s:08d}/{g}.safetensors" for s in (33, 36) for g in groups}
    sheets = {f"samples/step-{s:06d}.png" for s in (12, 24, 36)}
    assert files(run) == state | sheets | {
        "recipe.toml",
        "data.json",
        "log.jsonl",
        "curves.png",
        "model.safetensors",
    }
    rows = read_log(run)
    assert [row["step"] for row in rows] == list(range(4, STEPS + 1, 4))
    assert rows[-1]["images"] == STEPS * 4
    assert {"loss", "norm", "lr", "power", "images_per_second"} <= rows[0].keys()
    header = read_header(run / "model.safetensors")
    assert (header.model, header.images_seen) == ("toy-denoiser", STEPS * 4)
    assert header.recipe["train"]["micro_batches"] == 1
    assert load(run).sample(2).shape == (2, 1, 4, 4)


def test_a_models_remarks_are_printed_when_a_line_is_logged(tmp_path, capsys, monkeypatch):
    def remarks(self: ToyDenoiser, rows: list[dict[str, float]]) -> list[str]:
        return [f"{len(rows)} lines"] if len(rows) == 2 else []

    monkeypatch.setattr(ToyDenoiser, "remarks", remarks)
    train(recipe("toy-denoiser", steps=12), tmp_path / "run", dataset=Ramps(), device="cpu")
    output = capsys.readouterr().err
    assert output.count("step 8: 2 lines") == 1 and "3 lines" not in output


@pytest.mark.parametrize(
    ("remarks", "kind"), [("a text", "str"), ([1], "a list with other things than texts")]
)
def test_remarks_that_are_not_a_list_of_texts_are_refused(remarks, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(ToyDenoiser, "remarks", lambda model, rows: remarks)
    with pytest.raises(LimnerError, match=f"remarks of ToyDenoiser returns {kind}; return a list"):
        train(recipe("toy-denoiser", steps=4), tmp_path / "run", dataset=Ramps(), device="cpu")


@pytest.mark.parametrize(
    "mode",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.device("meta"),
        lambda: torch.autocast("cpu", torch.bfloat16),
    ],
)
def test_a_run_trains_alike_in_any_mode_of_torch(mode, tmp_path):
    data, short = Ramps(), recipe("vae", steps=3)
    expected = load_tensors(train(short, tmp_path / "usual", dataset=data, device="cpu"))
    with mode():
        file = train(short, tmp_path / "run", dataset=data, device="cpu")
    actual = load_tensors(file)
    assert all(torch.equal(actual[name], weight) for name, weight in expected.items())


SCRIPT = [sys.executable, __file__]


def start(mode: str, run: Path) -> subprocess.Popen:
    return subprocess.Popen([*SCRIPT, mode, str(run)], stderr=subprocess.PIPE, text=True)


def wait_for_steps(process: subprocess.Popen, run: Path, after: int) -> None:
    """Wait until the run has saved a step after the given one."""
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and process.poll() is None:
        if newest(run) > after:
            return
        time.sleep(0.005)
    raise AssertionError(f"no progress: {process.communicate()[1]}")


def newest(run: Path) -> int:
    # No rglob, since it enters folders that the run may be removing.
    return max((int(path.name[5:]) for path in (run / "state").glob("step-????????")), default=-1)


@pytest.mark.parametrize(
    ("model", "asked"), [("toy-denoiser", signal.SIGINT), ("toy-gan", signal.SIGTERM)]
)
def test_a_run_killed_anywhere_ends_with_the_same_bytes(model, asked, finished, tmp_path):
    run, chance = tmp_path / model, random.Random(model)
    for number in (signal.SIGKILL, signal.SIGKILL, asked):
        before = newest(run)
        process = start(model, run)
        wait_for_steps(process, run, before)
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(number)
        output = process.communicate(timeout=400)[1]
        if number == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 130, output
            assert f"limner resume {run}" in output
            assert f"at step {newest(run)};" in output
        assert newest(run) < STEPS, "the run ended before it was killed; make the steps slower"
    resume(run, dataset=Ramps(), device="cpu")
    for name in ("model.safetensors", "samples/step-000012.png", "samples/step-000036.png"):
        assert (run / name).read_bytes() == (finished[model] / name).read_bytes(), name
    steps = [row["step"] for row in read_log(run)]
    assert steps == sorted(set(steps))
    assert not list((run / "state").glob(".partial-*"))


def test_a_damaged_state_is_named_and_skipped(finished, tmp_path, capsys):
    run = tmp_path / "run"
    stop_at(run, 10)
    damaged = run / "state" / "step-00000010" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    resume(run, dataset=Ramps(), device="cpu")
    assert "step-00000010 is damaged" in capsys.readouterr().err
    expected = finished["toy-denoiser"] / "model.safetensors"
    assert (run / "model.safetensors").read_bytes() == expected.read_bytes()


def test_a_run_with_only_damaged_states_is_refused(tmp_path):
    run = tmp_path / "run"
    stop_at(run, 4)
    for manifest in run.rglob("manifest.json"):
        manifest.write_text("{")
    with pytest.raises(LimnerError, match=r"all states of .* are damaged"):
        resume(run, dataset=Ramps(), device="cpu")


def test_without_a_state_a_trained_model_is_not_trained_from_scratch(tmp_path):
    run = tmp_path / "run"
    stop_at(run, 4)
    content = (run / "model.safetensors").read_bytes()
    shutil.rmtree(run / "state")
    with pytest.raises(LimnerError, match=f"train.init.model={run}"):
        resume(run, dataset=Ramps(), device="cpu")
    assert (run / "model.safetensors").read_bytes() == content


def test_the_error_of_an_unregistered_model_states_how_to_register_it(tmp_path):
    recipe("mine").write(tmp_path / "recipe.toml")
    with pytest.raises(LimnerError, match="model 'mine' is not known here; install the package"):
        resume(tmp_path, dataset=Ramps(), device="cpu")


def test_a_model_that_cannot_paint_samples_is_still_trained(tmp_path, capsys, monkeypatch):
    def refusing(*args: object, **options: object) -> None:
        raise LimnerError("too few steps")

    monkeypatch.setattr(ToyDenoiser, "sample", refusing)
    run = tmp_path / "run"
    train(recipe("toy-denoiser", steps=4, sample_every=2), run, dataset=Ramps(), device="cpu")
    assert newest(run) == 4 and not (run / "samples").exists()
    output = capsys.readouterr().err
    assert all(f"no sample sheet at step {step}: too few steps" in output for step in (2, 4))


def test_errors_of_sampler_and_metric_do_not_end_a_training(tmp_path, capsys, monkeypatch):
    def broken(*args: object, **options: object) -> None:
        raise ZeroDivisionError("it broke")

    monkeypatch.setattr(ToyDenoiser, "sample", broken)
    monkeypatch.setattr("limner.training.evaluation.evaluate", broken)
    run, evaluated = tmp_path / "run", recipe("toy-denoiser", steps=2)
    evaluated.evaluate["every"] = 100
    train(evaluated, run, dataset=Ramps(), device="cpu")
    assert newest(run) == 2
    output = capsys.readouterr().err
    assert "in broken" in output  # the traceback, which an author needs
    assert "no sample sheet at step 2: ZeroDivisionError: it broke" in output
    assert "not evaluated: ZeroDivisionError: it broke" in output


def test_an_interruption_at_a_saved_step_saves_only_once(tmp_path, monkeypatch):
    saved: list[int] = []
    monkeypatch.setattr("limner.training.session.save_state", lambda *args: saved.append(args[1]))

    def on_step(loop: Loop, logs: dict[str, float]) -> None:
        if loop.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(
            recipe("toy-denoiser", save_every=2),
            tmp_path / "run",
            dataset=Ramps(),
            device="cpu",
            on_step=on_step,
        )
    assert saved == [0, 2, 4]


def stop_at(run: Path, step: int, **changes: object) -> None:
    def on_step(loop: Loop, logs: dict[str, float]) -> bool:
        return loop.step == step

    train(recipe("toy-denoiser", **changes), run, dataset=Ramps(), device="cpu", on_step=on_step)


@pytest.mark.parametrize("has", [True, False])
def test_missing_support_of_bfloat16_is_reported(has, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("limner.training.run.has_bfloat16", lambda device: has)
    stop_at(tmp_path / "run", 1, dtype="bfloat16")
    assert ("has no bfloat16" in capsys.readouterr().err) != has


def test_on_step_can_end_a_run_with_all_files(tmp_path):
    stop_at(tmp_path / "run", 5)
    assert read_header(tmp_path / "run" / "model.safetensors").images_seen == 20
    assert [row["step"] for row in read_log(tmp_path / "run")] == [4, 5]
    assert (tmp_path / "run/samples/step-000005.png").exists()


def test_resuming_can_change_some_options(tmp_path, capsys):
    run = tmp_path / "run"
    stop_at(run, 3)
    resume(run, ["train.steps=5", "train.lr=1e-3"], dataset=Ramps(), device="cpu")
    assert read_header(run / "model.safetensors").images_seen == 20
    assert read_log(run)[-1]["lr"] == pytest.approx(1e-3)
    assert Recipe.read(run / "recipe.toml").train["steps"] == 5
    resume(run, dataset=Ramps(), device="cpu")
    resume(run, ["train.steps=2"], dataset=Ramps(), device="cpu")
    output = capsys.readouterr().err
    assert output.count("has 5 steps; to continue, give train.steps=MORE") == 2
    for change, message in (
        ("model.width=8", "a model cannot change"),
        ("train.optimizer=rmsprop", "train.optimizer cannot change"),
        ("train.seed=3", "train.seed cannot change"),
        ("train.stepz=3", "did you mean 'train.steps'"),
    ):
        with pytest.raises(LimnerError, match=message):
            resume(run, [change], dataset=Ramps(), device="cpu")
    with pytest.raises(LimnerError, match=r"data of .* have changed.* add --new-data"):
        resume(run, ["train.steps=9"], dataset=Ramps(n=31), device="cpu")
    with pytest.raises(LimnerError, match=r"do not fit the model of .*'a' is new.*train a new"):
        resume(run, ["train.steps=9"], dataset=Ramps(("a", "b")), device="cpu")
    with pytest.raises(LimnerError, match=r"for data that moved, add data.source=\.\.\."):
        resume(run, ["train.steps=9", f"data.source=folder:{tmp_path}/away"], device="cpu")


def test_a_folder_with_a_run_is_not_overwritten(finished, tmp_path):
    run = finished["toy-denoiser"]
    with pytest.raises(LimnerError, match=rf"limner resume {run}"):
        train(recipe("toy-denoiser"), run, dataset=Ramps())
    with pytest.raises(LimnerError, match="holds no run"):
        resume(tmp_path)


def test_a_run_is_never_inside_its_own_data(tmp_path):
    for run in (tmp_path, tmp_path / "runs" / "a"):
        r = Recipe.of("edm", f"mixed:emoji,folder:{tmp_path}/../{tmp_path.name}")
        with pytest.raises(LimnerError, match="would become pictures of the data; give a --run"):
            train(r, run, device="cpu")
    assert not [*tmp_path.iterdir()]


def test_a_run_on_a_data_set_records_the_data_sets_source(tmp_path):
    unnamed, named = Ramps(), Ramps()
    named.source = "folder:ramps"
    for dataset, name in ((unnamed, "Ramps"), (named, "folder:ramps")):
        run = tmp_path / name
        other = replace(recipe("toy-denoiser", steps=1), data={"source": "emoji", "size": 16})
        train(other, run, dataset=dataset, device="cpu")
        assert Recipe.read(run / "recipe.toml").data == {"source": name}
        assert read_header(run / "model.safetensors").recipe["data"] == {"source": name}
    with pytest.raises(LimnerError, match=r"'Ramps' of .* is not known here; install the pack"):
        resume(tmp_path / "Ramps", ["train.steps=2"], device="cpu")
    with pytest.raises(LimnerError, match=r"which real pictures to judge .*Ramps by: --against"):
        evaluate(tmp_path / "Ramps", device="cpu")


def test_nothing_is_written_when_the_recipe_is_wrong(tmp_path):
    name, data = {"name": "toy-denoiser"}, {"source": "ramps"}
    wrong = [
        (Recipe(name, data, sampler={"scal": 2}), "did you mean 'scale'"),
        (Recipe({"name": "toy-denoizer"}, data), "did you mean 'toy-denoiser'"),
        (Recipe(name | {"widht": 3}, data), r"did you mean 'model\.width'"),
        (Recipe(name, data, {"lr": -1}), r"train\.lr=-1"),
        (Recipe(name, data, {"batch": 9, "micro_batches": 2}), "cannot be split evenly"),
    ]
    for r, message in wrong:
        with pytest.raises(LimnerError, match=message):
            train(r, tmp_path / "run", dataset=Ramps())
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("recipe", ["toy-denoiser", "recipe.toml", None])
def test_only_a_recipe_can_be_trained(recipe: Any, tmp_path):
    with pytest.raises(LimnerError, match=r"is not a Recipe; write Recipe\.of"):
        train(recipe, tmp_path)


def test_an_unwritable_folder_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LimnerError, match="cannot write"):
        train(recipe("toy-denoiser"), tmp_path / "file" / "run", dataset=Ramps())


def test_a_full_disk_keeps_the_previous_state(tmp_path, monkeypatch):
    run = tmp_path / "run"

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(run))

    def on_step(loop: Loop, logs: dict[str, float]) -> None:
        if loop.step == 6:
            monkeypatch.setattr("limner.training.state.write_durably", full)

    message = r"No space left on device; the last saved state stays; .*limner resume"
    with pytest.raises(LimnerError, match=message):
        train(recipe("toy-denoiser"), run, dataset=Ramps(), on_step=on_step)
    monkeypatch.undo()
    assert newest(run) == 3
    assert not list((run / "state").glob(".partial-*"))
    resume(run, ["train.steps=7"], dataset=Ramps())
    assert newest(run) == 7


@pytest.mark.parametrize(
    ("written", "then"),
    [
        ("training.state.write_durably", "limner resume"),
        ("training.data_record.write_durably", "limner resume"),
        ("training.recipe.write_durably", "train again"),
    ],
)
def test_a_full_disk_before_the_first_state_is_reported(written, then, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run")

    run, r = tmp_path / "run", recipe("toy-denoiser", steps=3, samples=0)
    monkeypatch.setattr(f"limner.{written}", full)
    with pytest.raises(LimnerError, match=f"nothing is saved yet; make room, then .*{then}"):
        train(r, run, dataset=Ramps())
    monkeypatch.undo()
    command = resume if then == "limner resume" else partial(train, r)
    command(run, dataset=Ramps())
    assert newest(run) == 3


def test_a_run_whose_last_steps_are_not_finite_is_rolled_back_too(tmp_path, capsys):
    poisoned, run = recipe("toy-gan", steps=8, rollbacks=1), tmp_path / "run"
    poisoned.model["poison"] = 7
    with pytest.raises(LimnerError, match=r"not finite at step 8, after 1 roll-backs; try"):
        train(poisoned, run, dataset=Ramps(), device="cpu")
    assert newest(run) == 6
    assert "step 8 was not finite; continuing from step 6 with 0.5" in capsys.readouterr().err


def test_a_run_that_stays_not_finite_is_rolled_back_and_stopped(tmp_path, capsys):
    impatient = recipe("toy-gan", patience=1, rollbacks=2)
    impatient.model["poison"] = 7
    with pytest.raises(LimnerError, match=r"player 'generator'.*2 roll-backs"):
        train(impatient, tmp_path / "run", dataset=Ramps())
    output = capsys.readouterr().err
    assert "continuing from step 6 with 0.5 of" in output
    assert "continuing from step 6 with 0.25 of" in output
    assert newest(tmp_path / "run") == 6
    patient = recipe("toy-gan", patience=2, steps=12)
    patient.model["poison"] = 7
    train(patient, tmp_path / "patient", dataset=Ramps())
    assert None not in [row["critic.loss"] for row in read_log(tmp_path / "patient")]


def test_sample_sheets_have_a_column_for_each_class(tmp_path, monkeypatch):
    conditions = []

    def sample(model: ToyDenoiser, n: int, c: Condition, **_: object) -> Tensor:
        conditions.append(c)
        return torch.zeros(n, 1, 4, 4)

    monkeypatch.setattr(ToyDenoiser, "sample", sample)
    train(recipe("toy-denoiser", steps=1), tmp_path / "run", dataset=Ramps(("a", "b", "c")))
    assert conditions[0].label.tolist() == [0, 1, 2, 0, 1, 2]


def test_a_terminal_gets_a_live_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    train(recipe("toy-gan", steps=2), tmp_path / "run", dataset=Ramps())
    output = capsys.readouterr().err
    assert "step 2/2" in output
    assert "img/s" in output


def test_without_a_terminal_few_lines_are_printed(tmp_path, monkeypatch, capsys):
    train(recipe("toy-gan", steps=9), tmp_path / "quiet", dataset=Ramps())
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("limner.runtime.progress._QUIET_SECONDS", 0.0)
    train(recipe("toy-gan", steps=2), tmp_path / "run", dataset=Ramps())
    first, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith("step 1/2  critic.loss ")
    assert first.endswith(" left")


def test_a_dry_run_writes_nothing_and_prints_the_cost(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cost = dry_run(recipe("toy-denoiser", micro_batches=2), dataset=Ramps(), device="cpu")
    kernels = 4 * 9 + 4 * 9
    assert cost.parameters == {"model": kernels + 4 + 1}
    # Forward, and backward for both weights and the second input: 2 FLOP per multiply-add.
    assert cost.flops == 2 * 16 * (2 * kernels + 4 * 9)
    assert cost.moments == 2 * 4 * (kernels + 5) + 4 * 4
    assert cost.gradients == 4 * (kernels + 5)
    assert cost.activations >= 2 * (16 + 2 * 64) * 4
    assert cost.images == STEPS * 4
    assert "GFLOP an image" in str(cost)
    gan = dry_run(recipe("toy-gan"), dataset=Ramps(), device="cpu")
    assert gan.parameters.keys() == {"critic", "generator"}
    assert gan.frozen == 2
    assert not list(tmp_path.iterdir())


def test_the_speed_of_a_dry_run_is_that_of_its_timed_steps(monkeypatch):
    monkeypatch.setattr(estimate, "time", SimpleNamespace(perf_counter=iter([5.0, 7.0]).__next__))
    cost = dry_run(recipe("toy-gan"), dataset=Ramps(), device="cpu")
    images = 4 * 2  # a batch for each of two turns of the critic
    assert cost.images == STEPS * images
    loop = Loop(
        recipe("toy-gan").build(Ramps().spec), Stream(Ramps()).batch, recipe("toy-gan").options()
    )
    loop.prepare()
    with estimate.count_flops() as counter:
        loop.advance()
    assert cost.flops == counter.get_total_flops() / images
    assert cost.images_per_second == pytest.approx(estimate._MIN_TIMED_STEPS * images / 2)
    assert cost.seconds == pytest.approx(cost.images / cost.images_per_second)


def test_products_of_an_optimiser_are_not_counted_for_the_networks():
    adamw_cost, soap_cost = (
        dry_run(recipe("toy-denoiser", optimizer=name), dataset=Ramps(), device="cpu")
        for name in ("adamw", "soap")
    )
    assert soap_cost.flops == adamw_cost.flops and soap_cost.moments > adamw_cost.moments


def test_a_dry_run_times_occasional_work_of_an_optimiser(monkeypatch):
    improved = []
    monkeypatch.setattr(soap, "_improve_basis", lambda *args: improved.append(args))
    dry_run(recipe("toy-denoiser", optimizer="soap"), dataset=Ramps(), device="cpu")
    assert improved


def test_importing_the_loop_is_light():
    code = (
        "import sys, limner.training.loop, limner.training.run; "
        "print({'matplotlib', 'rich'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


def test_two_processes_equal_one(tmp_path):
    """With torchrun, each process takes its share of the batch; then one process resumes alone."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    subprocess.run(
        [sys.executable, *torchrun, "--nproc-per-node=2", __file__, "pair", str(tmp_path / "pair")],
        env=environment,
        check=True,
        capture_output=True,
        timeout=400,
    )
    for model in ("toy-denoiser", "toy-gan"):
        train(paired(model, widths=(0.1, 0.2)), tmp_path / "one" / model, dataset=Ramps())
        expected = load(tmp_path / "one" / model).state_dict()
        averages = load_tensors(tmp_path / "one" / model / "averages" / "step-00000006.safetensors")
        for parallel, tolerance in (("ddp", 1e-6), ("fsdp", 1e-5)):
            run = tmp_path / "pair" / parallel / model
            weights = load(run).state_dict()
            for name, weight in expected.items():
                actual = weights[name].double()
                torch.testing.assert_close(actual, weight.double(), atol=tolerance, rtol=0)
            stored = load_tensors(run / "averages" / "step-00000006.safetensors")
            assert stored.keys() == averages.keys()
            for name, weight in averages.items():
                # Averaged over halves of the batch.
                torch.testing.assert_close(stored[name], weight, atol=1e-3, rtol=0)
            assert newest(run) == 6
            resume(run, ["train.steps=7"], dataset=Ramps())
            row = read_log(run)[-1]
            resume(tmp_path / "one" / model, ["train.steps=7"], dataset=Ramps())
            for name, value in read_log(tmp_path / "one" / model)[-1].items():
                if name not in ("images_per_second", "seconds"):
                    assert row[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_a_lost_process_costs_the_steps_since_the_last_state(tmp_path):
    """One of two processes is killed; torchrun restarts both, and they resume."""
    place = ["--standalone", "--local-addr", "127.0.0.1", "--max-restarts=1"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *place]
    result = subprocess.run(
        [*torchrun, "--nproc-per-node=2", __file__, "lose", str(tmp_path / "pair")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert result.returncode == 0, result.stderr
    steps = [row["step"] for row in read_log(tmp_path / "pair")]
    assert steps == [4, 6], "a line is missing or duplicated"
    train(paired("toy-denoiser"), tmp_path / "one", dataset=Ramps())
    pair, single = load(tmp_path / "pair"), load(tmp_path / "one")
    for name, weight in single.state_dict().items():
        actual = pair.state_dict()[name]
        torch.testing.assert_close(actual.double(), weight.double(), atol=1e-6, rtol=0)


def start_two(runs: list[Path]) -> list[tuple[int, str]]:
    """Return exit codes and output of two processes; only the second torchrun has restarted."""
    from ports import free_port  # only the tests find it, not the processes that run this file

    with free_port() as port:
        common = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        workers = [
            subprocess.Popen(
                [sys.executable, __file__, "lose", str(run)],
                env=os.environ | common | {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": "0"}
                | {"TORCHELASTIC_RESTART_COUNT": str(rank)},
                stderr=subprocess.PIPE, text=True,
            )
            for rank, run in enumerate(runs)
        ]  # fmt: skip
        outputs = [process.communicate(timeout=400)[1] for process in workers]
    return [(process.returncode, text) for process, text in zip(workers, outputs)]


def test_all_machines_resume_if_one_was_restarted(tmp_path):
    stop = lambda loop, _: loop.step == 3  # noqa: E731
    run = tmp_path / "run"
    train(paired("toy-denoiser"), run, dataset=Ramps(), device="cpu", on_step=stop)
    for code, output in start_two([run, tmp_path / "elsewhere"]):
        assert code == 1 and "on a disk that all of them share" in output, output
    for code, output in start_two([run, run]):
        assert code == 0, output
    assert newest(run) == 6


def test_a_store_with_addresses_of_lost_processes_is_refused(monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("TORCHELASTIC_RESTART_COUNT", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with pytest.raises(LimnerError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before it"):
        processes.join(torch.device("cpu"))


def test_a_run_of_an_older_version_of_a_package_is_named(tmp_path, monkeypatch):
    def refuse(*_: object, **options: object) -> None:
        raise LimnerError("unknown model option 'model.width'")

    run = tmp_path / "run"
    stop_at(run, 1)
    monkeypatch.setattr("limner.training.run.build", refuse)
    expected = "run: unknown model option 'model.width'; if the package of this model has changed"
    with pytest.raises(LimnerError, match=expected):
        resume(run, ["train.steps=2"], dataset=Ramps(), device="cpu")


def test_a_run_of_another_recipe_is_not_resumed_after_a_restart(tmp_path, monkeypatch):
    run = tmp_path / "my run"
    stop_at(run, 1)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with pytest.raises(LimnerError, match=r"type: limner resume '.*/my run'"):
        stop_at(run, 2, batch=8)
    stop_at(run, 2)
    assert newest(run) == 2


def _lose(loop: Loop, logs: dict[str, float]) -> None:
    if loop.step == 5 and not processes.has_restarted() and not processes.first():
        os.kill(os.getpid(), signal.SIGKILL)


def paired(model: str, **changes: object) -> Recipe:
    """Return a recipe without dropout, since dropout masks depend on the shares."""
    r = recipe(model, steps=6, lr=1e-3, micro_batches=2, **changes)
    if model == "toy-denoiser":
        r.model["dropout"] = 0.0
    return r


def _slowly(loop: Loop, logs: dict[str, float]) -> None:
    time.sleep(0.03 if loop.step < STEPS / 2 else 0.5)  # also a late signal finds the run at work


def main(mode: str, run: Path) -> None:
    torch.set_num_threads(1)
    if mode == "pair":
        for parallel, model in itertools.product(("ddp", "fsdp"), ("toy-denoiser", "toy-gan")):
            r = paired(model, parallel=parallel, widths=(0.1, 0.2))
            folder = run / parallel / model
            stop = lambda loop, _: loop.step == 3  # noqa: E731
            train(r, folder, dataset=Ramps(), device="cpu", on_step=stop)
            resume(folder, dataset=Ramps(), device="cpu")
    elif mode == "lose":
        train(paired("toy-denoiser"), run, dataset=Ramps(), device="cpu", on_step=_lose)
        group = weakref.ref(torch.distributed.group.WORLD)
        processes.leave()
        assert group() is None, "somebody keeps the group, and with it its threads"
    elif (run / "recipe.toml").exists():
        resume(run, dataset=Ramps(), device="cpu", on_step=_slowly)
    else:
        train(recipe(mode), run, dataset=Ramps(), device="cpu", on_step=_slowly)


if __name__ == "__main__":
    try:
        main(sys.argv[1], Path(sys.argv[2]))
    except KeyboardInterrupt:
        sys.exit(130)
