"""What `limner sample` does: from wishes to pictures that say how they were made."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import UInt8
from pydantic import Field
from torch import Tensor

import limner
from limner.contract.bundled import find_model
from limner.contract.checkpoint import load, model_file, read_header, write_durably
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec, to_uint8
from limner.contract.model import GenerativeModel
from limner.contract.noise import Blend
from limner.contract.options import Share, validated
from limner.contract.text import prompted
from limner.data import png
from limner.runtime import processes
from limner.runtime.allocator import keep_freed_memory
from limner.runtime.progress import painting_progress, say

Pictures = UInt8[Tensor, "n c h w"]
_ROW = 8  # so many pictures stand in one row
_SHOWN_SIDE = 128  # small pictures are enlarged to about this, pixel by pixel
_GAP = 8
_STRIP = 12  # frames of a strip
_GIF_MS = 80  # a frame of an animation; the last one stays ten times as long
_Text = Annotated[str, Field(max_length=100_000)]


@dataclass(frozen=True)
class Wish:
    """Everything that decides a sheet of pictures, as a PNG remembers it.

    Args:
        model: as it was named; None for the bundled default.
        prompts: what to paint; a row of the sheet for each.
        negative: what to keep away from, by guidance.
        labels: class names, or "all"; a row for each.
        n: pictures of each row.
        seed: picture i of a row is drawn from seed + i, so that rows can be compared.
        vary: for above 0, the pictures after a row's first are variations of it, this far away.
        sampler: the model's own options.
        dtype: what the networks compute in. "bfloat16" is quicker where the machine has it, and
            paints slightly other pictures, which may depend on what else is in the batch.
    """

    model: str | None = None
    prompts: tuple[_Text, ...] = ()
    negative: _Text = ""
    labels: tuple[str, ...] = ()
    n: Annotated[int, Field(ge=1, le=10_000)] = 1
    seed: Annotated[int, Field(ge=-(2**62), le=2**62)] = 0
    vary: Share = 0.0
    sampler: dict[str, Any] = field(default_factory=dict[str, Any])
    dtype: Literal["float32", "bfloat16"] = "float32"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Wish":
        """A wish from plain values, checked."""
        return cls(**validated(cls, values, kind="setting"))

    @classmethod
    def read(cls, path: Path | str) -> "Wish":
        """The wish that a picture of limner remembers.

        Raises:
            LimnerError: not a PNG file, or one that does not say how it was made.
        """
        settings = png.read_settings(path)
        if settings is None:
            raise LimnerError(
                f"{path} does not say how it was made; limner writes PNG files that do"
            )
        known = {name: settings[name] for name in cls.__dataclass_fields__ if name in settings}
        return cls.of(known)

    def condition(self, spec: ImageSpec, report: Callable[[str], None] = say) -> Condition:
        """One row for each row of the sheet; no parts when nothing is asked for.

        Args:
            spec: the model's.
            report: told, in a line each, what of the prompts is left out.
        """
        labels = spec.labels if "all" in self.labels and "all" not in spec.labels else self.labels
        indices = torch.tensor([spec.label_index(name) for name in labels], dtype=torch.int64)
        if not self.prompts and not self.negative:
            return Condition(label=indices) if len(indices) else Condition()
        asked = prompted(spec, self.prompts or ("",), report)
        if self.negative:
            avoid = prompted(spec, self.negative, report).text
            assert avoid is not None
            asked = replace(asked, avoid=avoid.expand(len(asked), -1))
        if not len(indices):
            return asked
        each = asked.repeat(len(indices))
        return replace(each, label=indices.repeat(len(asked)))

    def seeds(self) -> list[int | Blend]:
        """The seeds of one row."""
        numbers = range(self.seed, self.seed + self.n)
        if not self.vary:
            return list(numbers)
        return [self.seed, *(Blend(self.seed, other, self.vary) for other in numbers[1:])]

    def alone(self, i: int) -> "Wish":
        """The wish for picture i of the sheet alone; a variation needs its row."""
        row, column = divmod(i, self.n)
        prompts, labels = self.prompts, self.labels
        if len(prompts) > 1 and not labels:
            prompts = prompts[row : row + 1]
        if len(labels) > 1 and not prompts:
            labels = labels[row : row + 1]
        wish = replace(self, prompts=prompts, labels=labels)
        return wish if wish.vary else replace(wish, n=1, seed=wish.seed + column)

    def settings(self) -> dict[str, Any]:
        """What a PNG remembers; the prompt also where other programs look for it."""
        values = {key: value for key, value in asdict(self).items() if value not in ((), "", None)}
        return {"prompt": "; ".join(self.prompts), "version": limner.__version__} | values


@dataclass(frozen=True)
class Sheet:
    """What was painted.

    Args:
        images: row by row.
        frames: how they formed, where that was asked for.
        columns: pictures in a row of the sheet.
    """

    images: Pictures
    frames: list[Pictures]
    columns: int


def open_model(wish: Wish, device: str = "auto") -> tuple[GenerativeModel, dict[str, Any]]:
    """The model that is to paint, and its options: those asked for over those of its recipe.

    Raises:
        LimnerError: no such model, one that does not paint, or options that it does not have.
    """
    path = find_model(wish.model)
    model = load(path, str(processes.device(device)))
    if not isinstance(model, GenerativeModel):
        raise LimnerError(f"'{path}' is a {model.name}, which paints nothing")
    usual = read_header(model_file(path)).recipe.get("sampler", {})
    return model, model.sampler_options(usual | wish.sampler)


def paint(wish: Wish, *, device: str = "auto", forming: bool = False) -> tuple[Sheet, Wish]:
    """Paint a sheet with a progress bar.

    Args:
        wish: what.
        device: where.
        forming: whether to keep frames of how the pictures form.

    Returns:
        the sheet, and the wish with every option written out.
    """
    keep_freed_memory()
    model, options = open_model(wish, device)
    if wish.negative and (options.get("scale") or 1.0) <= 1:
        raise LimnerError(
            "a negative prompt works through guidance; give sampler.scale=3, and a model that is "
            "not distilled"
        )
    rows = wish.condition(model.spec)
    c = rows.repeat(wish.n)
    seeds = wish.seeds() * max(len(rows), 1)
    total, count = len(seeds), model.frame_count(**options)
    kept = {round(i * (count - 1) / (_STRIP - 1)) for i in range(_STRIP)} if forming else set()
    parts: list[list[Pictures]] = []
    precision = torch.autocast(model.device.type, torch.bfloat16, enabled=wish.dtype == "bfloat16")
    with painting_progress(total) as advance, precision:
        for first in range(0, total, model.at_once):
            own = seeds[first : first + model.at_once]
            cut = c.rows(slice(first, first + len(own)))
            frames: list[Pictures] = []
            for i, frame in enumerate(model.watch(len(own), cut, seed=own, **options)):
                advance(len(own) / count)
                if i in kept or i == count - 1:
                    frames.append(to_uint8(frame).cpu())
            parts.append(frames)
    joined = [torch.cat(same) for same in zip(*parts, strict=True)]
    columns = wish.n if len(rows) > 1 or wish.n <= _ROW else _ROW
    chosen = {key: value for key, value in options.items() if value is not None}
    return Sheet(joined[-1], joined if forming else [], columns), replace(wish, sampler=chosen)


def write(
    sheet: Sheet,
    wish: Wish,
    out: Path,
    *,
    separate: bool = False,
    enlarge: int | None = None,
    strip: bool = False,
    gif: bool = False,
) -> list[Path]:
    """Write a sheet as PNG files that say how they were made.

    Args:
        sheet: what was painted.
        wish: from what.
        out: the PNG file.
        separate: a file for each picture, NAME-0.png, NAME-1.png, ..., in place of one grid.
        enlarge: so many pixels a side stand for one; as many as make about 128 if None.
        strip: how the pictures form, as NAME-strip.png too.
        gif: the same as an animation, NAME.gif.

    Returns:
        the files.
    """
    scale = enlarge or max(1, _SHOWN_SIDE // max(sheet.images.shape[-2:]))
    settings = wish.settings()
    written: list[Path] = []
    try:
        if separate:
            for i, image in enumerate(sheet.images):
                path = out.with_stem(f"{out.stem}-{i}")
                one = png.grid(image[None], 1, scale=scale, gap=0)
                png.save_png(one, path, wish.alone(i).settings())
                written.append(path)
        else:
            png.save_png(_laid_out(sheet.images, sheet.columns, scale), out, settings)
            written.append(out)
        if strip:
            path = out.with_stem(f"{out.stem}-strip")
            png.save_png(png.strip(sheet.frames, scale=max(1, scale // 2)), path, settings)
            written.append(path)
        if gif:
            path = out.with_suffix(".gif")
            stages = [_laid_out(frame, sheet.columns, scale) for frame in sheet.frames]
            write_durably(path, _animation(stages))
            written.append(path)
    except OSError as error:
        raise LimnerError(f"cannot write {out}: {error.strerror or error}") from None
    return written


def _laid_out(images: Pictures, columns: int, scale: int) -> UInt8[Tensor, "c hh ww"]:
    return png.grid(images, columns, scale=scale, gap=_GAP if len(images) > 1 else 0)


def _animation(stages: Sequence[UInt8[Tensor, "c h w"]]) -> bytes:
    """Frames as a GIF that loops."""
    images = [png.to_pil(stage).convert("RGB") for stage in stages]
    times = [_GIF_MS] * (len(images) - 1) + [10 * _GIF_MS]
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=times, loop=0)
    return file.getvalue()
