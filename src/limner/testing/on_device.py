"""A comparison of a device with the CPU, and its speed, as a table for an issue report.

Each registered model, tiny and with random weights, makes the same pictures on both, which are
compared in levels of 0 .. 255, and its first training step, of which the first loss is compared.
On the device, a training that was stopped and restored is compared with one that was not. At the
end is the number of images per second that a U-Net trains on, and paints.
"""

import copy
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec, to_uint8
from limner.contract.model import GenerativeModel, Learner
from limner.contract.registry import ModelEntry, build, models
from limner.evaluate.tables import markdown
from limner.nn.precision import has_bfloat16
from limner.testing.cases import Case, cases, conditions_for, paint, toy_data
from limner.training.loop import Loop
from limner.training.options import TrainOptions

MAX_LEVEL_DIFFERENCE = 8
MAX_LOSS_DIFFERENCE = 0.01
"""Largest accepted differences of float32 on another device: levels of a pixel, and share of a
loss."""
_CPU = torch.device("cpu")
_SIDE, _BATCH, _SECONDS = 32, 64, 3.0


@dataclass(frozen=True)
class DeviceResult:
    """The result of one model on the device.

    Args:
        model: its registered name.
        levels: the largest difference of a pixel from the CPU's; None for a model that paints
            nothing.
        loss: the difference of the first loss, as a share of it.
        resumes: whether a restored training continued like the original one.
        error: the error that stopped it; empty if there was none.
    """

    model: str
    levels: int | None = None
    loss: float = 0.0
    resumes: bool = True
    error: str = ""

    @property
    def is_accepted(self) -> bool:
        """Whether all results are within the accepted differences."""
        is_near = (self.levels or 0) <= MAX_LEVEL_DIFFERENCE and self.loss <= MAX_LOSS_DIFFERENCE
        return is_near and self.resumes and not self.error

    def cells(self) -> tuple[str, ...]:
        """Return its row of the table."""
        if self.error:
            return (f"! {self.model}", self.error, "", "")
        levels = "-" if self.levels is None else str(self.levels)
        mark = "" if self.is_accepted else "! "
        return (mark + self.model, levels, f"{self.loss:.1e}", "yes" if self.resumes else "no")


def compare(of: ModelEntry, device: torch.device) -> DeviceResult:
    """Compare a model on the device and on the CPU, on the first data that it takes."""
    case = cases(of)[0]
    try:
        levels = None
        if issubclass(of.model, GenerativeModel):
            levels = _levels_apart(case, device)
        on_device, on_cpu = (_loop(case, place) for place in (device, _CPU))
        losses = [_first_loss(loop.advance()) for loop in (on_device, on_cpu)]
        loss = abs(losses[0] - losses[1]) / max(abs(losses[1]), 1e-3)
        return DeviceResult(of.name, levels, loss, _resumes(case, on_device, device))
    except (RuntimeError, TypeError, LimnerError) as error:
        return DeviceResult(of.name, error=str(error).strip().splitlines()[0][:100])


def rows(device: torch.device, names: Sequence[str] = ()) -> Iterator[DeviceResult]:
    """Yield the results of one model after the other: the named ones, or all."""
    with _exact():
        for name, entry in models().items():
            if not names or name in names:
                yield compare(entry, device)


def table(results: Sequence[DeviceResult]) -> str:
    """Return the rows as a Markdown table."""
    head = ("model", "levels apart", "loss apart", "resumes")
    return "\n".join(markdown([head, *(row.cells() for row in results)]))


def machine(device: torch.device) -> str:
    """Return the software versions and the device of the measurement."""
    parts = [f"torch {torch.__version__}", f"Python {platform.python_version()}"]
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        size = f"{gpu.total_memory / 2**30:.0f} GiB"
        parts += [f"{gpu.name}, {size}", f"CUDA {torch.version.cuda}"]
    else:
        parts.append(f"device {device}")
    return ", ".join(parts)


def speeds(device: torch.device, seconds: float = _SECONDS) -> str:
    """Return the images per second that a U-Net for 32 x 32 pictures trains on and paints, by
    precision."""
    dtypes = ["float32", *(["bfloat16"] if has_bfloat16(device) else [])]
    spec = ImageSpec(3, _SIDE, _SIDE)
    head = ("flow-matching, 32 x 32, channels 64, 128", *dtypes)
    training_row, painting_row = (
        ["training, images a second"],
        ["painting in 20 steps, images a second"],
    )
    for dtype in dtypes:
        options = TrainOptions(batch=_BATCH, dtype=dtype)  # pyright: ignore[reportArgumentType]
        model = build("flow-matching", spec, channels=(64, 128))
        loop = Loop(model, lambda first, n: toy_data(spec, first, n), options, device)
        training_row.append(f"{_rate(lambda loop=loop: loop.advance(), seconds, device):,.0f}")
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            painting_row.append(f"{_rate(lambda m=loop.average: _paint(m), seconds, device):,.0f}")
    return "\n".join(markdown([head, tuple(training_row), tuple(painting_row)]))


def _levels_apart(case: Case, device: torch.device) -> int:
    model = case.ready()
    other = copy.deepcopy(model).to(device)
    c = conditions_for(model, 3)
    expected, actual = paint(model, 3, c), paint(other, 3, c.to(device)).cpu()
    return int((to_uint8(expected).int() - to_uint8(actual).int()).abs().max())


def _loop(case: Case, device: torch.device) -> Loop:
    options = TrainOptions(steps=8, batch=4, lr=1e-3, ema=0.9)
    loop = Loop(case.build(), lambda first, n: toy_data(case.spec, first, n), options, device)
    loop.prepare()
    return loop


def _first_loss(logs: dict[str, float]) -> float:
    return next(value for name, value in logs.items() if name.endswith("loss"))


def _resumes(case: Case, loop: Loop, device: torch.device) -> bool:
    """Return whether a loop and one restored from its state continue alike."""
    other = _loop(case, device)
    other.restore(loop.state())
    loop.advance()
    other.advance()
    weights = zip(loop.model.parameters(), other.model.parameters())
    return all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in weights)


def _paint(model: Learner) -> None:
    assert isinstance(model, GenerativeModel)
    model.sample(_BATCH, steps=20)


def _rate(work: Callable[[], object], seconds: float, device: torch.device) -> float:
    """Return images per second; the first batch is not counted."""
    work()
    _wait_for(device)
    count, start = 0, time.perf_counter()
    while not count or time.perf_counter() - start < seconds:
        work()
        _wait_for(device)
        count += 1
    return count * _BATCH / (time.perf_counter() - start)


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@contextmanager
def _exact() -> Iterator[None]:
    """Compute CUDA's matrix products and convolutions with all digits of float32, within a
    `with`."""
    cudnn = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with cudnn:
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
