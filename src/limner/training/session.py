"""A training session: the loop with its log, sample sheets, evaluations and saved states."""

import contextlib
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from limner.contract.atomic_files import write_durably
from limner.contract.checkpoint import MODEL_FILE, save_model
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, to_uint8
from limner.contract.model import GenerativeModel
from limner.contract.turns import checked_remarks
from limner.data import png
from limner.data.dataset import Dataset
from limner.data.stream import Stream
from limner.runtime import processes
from limner.runtime.interrupts import Interrupts
from limner.runtime.log import LOG_FILE, append_line, line, read_log
from limner.runtime.progress import TrainingProgress, say, say_error
from limner.training import log_curves
from limner.training.data_record import DataRecord
from limner.training.evaluation import Evaluations
from limner.training.log_window import LogWindow
from limner.training.loop import Loop
from limner.training.recipe import RECIPE_FILE, Recipe
from limner.training.sharding import own_shard
from limner.training.state import load_state, save_state
from limner.training.validation import Validation, no_better

_MAX_COLUMNS = 10  # largest number on a sample sheet

OnStep = Callable[[Loop, dict[str, float]], bool | None]
"""Function called after every step; a true result ends the run there, and everything is saved."""


class Session:
    """Training from the current step to the last one, or to an interruption."""

    def __init__(
        self,
        run: Path,
        recipe: Recipe,
        loop: Loop,
        stream: Stream,
        dataset: Dataset | None,
        on_step: OnStep | None,
    ) -> None:
        self.run, self.recipe, self.loop, self.stream = run, recipe, loop, stream
        self.on_step = on_step
        self.options = loop.options
        self.painting = {}
        if isinstance(loop.model, GenerativeModel):
            self.painting = loop.model.sampler_options(recipe.sampler)
        elif recipe.sampler:
            raise LimnerError(
                f"model '{loop.model.name}' generates no pictures; leave [sampler] out"
            )
        elif recipe.evaluate:
            raise LimnerError(
                f"model '{loop.model.name}' generates no pictures; leave [evaluate] out"
            )
        self.evaluations = Evaluations(recipe.evaluate, recipe.data, recipe.sampler, dataset)
        is_in_memory = dataset is not None  # a data set in memory holds nothing out
        self.validation = Validation({} if is_in_memory else recipe.data, loop.options, loop.model)
        self.window = LogWindow()

    def go(self) -> Path:
        """Train to the end."""
        loop, options = self.loop, self.options
        if loop.step >= options.steps:
            say(f"{self.run} has {loop.step:,} steps; to continue, give train.steps=MORE")
        with Interrupts() as interrupts, TrainingProgress(options.steps, loop.step) as progress:
            while loop.step < options.steps:
                start = time.perf_counter()
                logs = loop.advance()
                self.window.add(logs, time.perf_counter() - start)
                patience = options.patience if loop.step < options.steps else 1
                if loop.unlucky >= patience:
                    self.roll_back()
                    continue
                ends = bool(self.on_step and self.on_step(loop, logs))
                ends = processes.anyone(ends, loop.device) or loop.step == options.steps
                progress.show(loop.step, logs, self.window.seconds_a_step, self.images_per_step)
                is_evaluated = self.evaluate(ends)
                if ends or is_evaluated or self.due(options.log_every):
                    self.log()
                if ends or self.due(options.sample_every):
                    self.paint()
                if ends or is_evaluated or self.due(options.sample_every):
                    self.draw()
                is_stopped = processes.anyone(interrupts.is_interrupted, loop.device)
                if ends or is_stopped or (self.due(options.save_every) and not loop.unlucky):
                    self.save()
                if ends:
                    break
                if is_stopped:
                    run = shlex.quote(str(self.run))
                    say(f"stopped at step {loop.step:,}; to continue, type: limner resume {run}")
                    raise KeyboardInterrupt
        return self.run / MODEL_FILE

    @property
    def images_per_step(self) -> int:
        """Number of images in a step, over all processes."""
        return self.options.batch * self.loop.model.batches_per_round

    def due(self, every: int) -> bool:
        """Return whether something that happens every `every` steps is due now."""
        return every > 0 and self.loop.step % every == 0

    def roll_back(self) -> None:
        """Return to the newest state with half the learning rate."""
        state, step = load_state(self.run / "state", say), self.loop.step
        others = self.loop.unlucky - 1
        before = f", and {others} before it" if others else ""
        if state is None:
            raise LimnerError(
                f"all states of {self.run} are damaged; train again, into another --run"
            )
        self.loop.roll_back(state)
        self.forget_later()
        self.window = LogWindow()
        say(
            f"step {step:,} was not finite{before}; continuing from step {self.loop.step:,} with "
            f"{self.loop.lr_scale:g} of the learning rate"
        )

    def forget_later(self) -> None:
        """Drop the log's lines after the current step, which will be written again."""
        if processes.first():
            rows = [row for row in read_log(self.run) if row["step"] <= self.loop.step]
            with self.writing():
                write_durably(self.run / LOG_FILE, "".join(map(line, rows)).encode())

    def evaluate(self, ends: bool) -> bool:
        """Evaluate the averaged model if that is due, for the next line of the log."""
        images = self.loop.images_seen
        if not self.evaluations.due(images, self.images_per_step, ends):
            return False
        model = self.loop.calibrated_model()
        assert isinstance(model, GenerativeModel)
        self.window.note(self.evaluations.numbers(model, self.loop.device))
        return True

    def log(self) -> None:
        """Append a line to the log: means since the last line, and the held-out loss."""
        loop = self.loop
        self.window.note(self.validation.numbers(loop.whole_average(), loop.step))
        row = {"step": loop.step, "images": loop.images_seen}
        row |= self.window.means(self.images_per_step)
        self.window = LogWindow()
        if processes.first():
            with self.writing():
                append_line(self.run / LOG_FILE, row)
            rows = read_log(self.run)
            warning = no_better(rows) if loop.model.loss_compares else None
            for remark in filter(None, [*checked_remarks(loop.model, rows), warning]):
                say(f"step {loop.step:,}: {remark}")

    def paint(self) -> None:
        """Write a sample sheet, always with the same seeds and conditions.

        If that fails, say why, and continue.
        """
        n, model = self.options.samples, self.loop.calibrated_model()
        if not n or not isinstance(model, GenerativeModel) or not processes.first():
            return
        c, columns = self.sheet_conditions(n)
        n = len(c) or n
        try:
            x = to_uint8(model.sample(n, c.to(self.loop.device), seed=0, **self.painting))
        except Exception as error:  # a sampler of another package may raise anything
            say_error(f"no sample sheet at step {self.loop.step:,}", error)
            return
        sheet = png.grid(x, columns, scale=max(1, 64 // max(x.shape[-2:])))
        with self.writing():
            file = self.run / "samples" / f"step-{self.loop.step:06d}.png"
            png.save_png(sheet, file, {"step": self.loop.step, "seed": 0} | self.painting)

    def sheet_conditions(self, n: int) -> tuple[Condition, int]:
        """Return the conditions of a sheet's pictures, and its columns: one per class if any."""
        spec = self.loop.model.spec
        if spec.text or spec.hint:
            return self.stream.preview(n).c, min(n, _MAX_COLUMNS)
        if not spec.labels:
            return Condition(), min(n, _MAX_COLUMNS)
        columns = min(n, len(spec.labels), _MAX_COLUMNS)
        labels = torch.arange(columns) * len(spec.labels) // columns
        return Condition(label=labels.repeat(n // columns)), columns

    def save(self) -> None:
        """Write the model and the state; after an error, the previous ones are still there."""
        loop = self.loop
        model, state = loop.calibrated_model(), loop.state(own_shard)  # on all processes
        with self.writing():
            if processes.first():
                self.run.mkdir(parents=True, exist_ok=True)
                self.recipe.write(self.run / RECIPE_FILE)
                DataRecord.of(self.stream.dataset).write(self.run)  # the data of this recipe
                images_seen, sections = loop.images_seen, self.recipe.sections()
                save_model(model, self.run / MODEL_FILE, images_seen=images_seen, recipe=sections)
            loop.power_averages.save(self.run, loop.step, loop.updates, loop.images_seen)
            save_state(self.run / "state", loop.step, state, self.options.keep)
        processes.barrier()

    def draw(self) -> None:
        """Draw the log so far as curves."""
        if processes.first() and (rows := read_log(self.run)):
            title = f"{self.recipe.model['name']} on {self.recipe.data['source']}"
            with self.writing():
                log_curves.draw_curves(rows, self.run / "curves.png", title)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turn an operating system's error into one line that says what to do."""
        try:
            yield
        except OSError as error:
            has_state = any((self.run / "state").glob("step-*"))
            has_recipe = (self.run / RECIPE_FILE).is_file()  # without it, the run starts anew
            advice = (
                f"type: limner resume {shlex.quote(str(self.run))}" if has_recipe else "train again"
            )
            raise LimnerError(
                f"cannot write {error.filename or self.run}: {error.strerror or error}; "
                + ("the last saved state stays; " if has_state else "nothing is saved yet; ")
                + f"make room, then {advice}"
            ) from None
