"""Implementation of `limner upscale`: enlarge pictures, and show them before and after."""

import html
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import Annotated, Any

import torch
from jaxtyping import UInt8
from PIL import Image
from pydantic import Field
from torch import Tensor

from limner.commands.arguments import free_file
from limner.commands.pictures import Sheet
from limner.commands.request import SamplingRequest, load_painter, sampler_options
from limner.commands.task import Task, Work, able_task
from limner.contract.atomic_files import write_durably
from limner.contract.bundled import bundled_models, find_model
from limner.contract.errors import LimnerError, writing
from limner.contract.image import Condition, Images, from_uint8, one_for_each, to_uint8
from limner.contract.model import GenerativeModel
from limner.contract.options import validate_options
from limner.contract.text import text_condition
from limner.contract.upscaling import Upscales, check_enlargement
from limner.data import png
from limner.data.picture_files import Animation, picture_files, read_frames
from limner.runtime import processes
from limner.runtime.progress import painting_progress

UPSCALER = "upscaler"
"""Name of the bundled model that enlarges by default."""
Factor = Annotated[float, Field(ge=1, le=64)]


def upscale(work: Work, *, factor: Factor = 4.0) -> Iterator[Images]:
    """Enlarge a picture of any size.

    Args:
        factor: scale factor of width and height, from 1 to 64.
    """
    model = work.model
    assert isinstance(model, Upscales)
    c = work.c.rows(slice(0, 1)) if len(work.c) else work.c
    yield model.upscale(work.pictures["image"], factor, c, seed=work.seed, **work.sampler)


UPSCALE = Task(
    "Make larger",
    upscale,
    Upscales,
    refusal="do not enlarge pictures; these do",
    example="limner train srgan emoji data.size=96 data.hint=bicubic data.reduction=4",
    inputs={"image": True},
    several=False,
    whole=True,
)


def open_upscaler(
    request: SamplingRequest, device: str = "auto"
) -> tuple[Upscales, dict[str, Any]]:
    """Load a model that enlarges, and check its sampler options.

    Args:
        request: names a bundled model, a run or a model folder; the bundled upscaler if None.
        device: device to run on.

    Raises:
        LimnerError: there is no such model, it does not enlarge, or it has no such option.
    """
    if request.model is None and UPSCALER not in bundled_models():
        raise LimnerError(
            "no model that enlarges is bundled; train one with "
            "recipes/gans/upscaler-pictures256.toml, and give the run"
        )
    path = find_model(request.model or UPSCALER)
    model: GenerativeModel = load_painter(path, str(processes.device(device)))
    able_task(model, UPSCALE)
    assert isinstance(model, Upscales)
    return model, sampler_options(model, path, request)


@dataclass(frozen=True)
class Enlargement:
    """Settings for the enlargement of painted pictures, as stored in a PNG file.

    Args:
        upscale: scale factor of width and height; 1 leaves pictures unchanged.
        upscaler: name of the model, as it was typed; None for the bundled one.
    """

    upscale: Factor = 1.0
    upscaler: str | None = None

    @classmethod
    def of(cls, upscale: float | None, upscaler: str | None, like: Path | None) -> "Enlargement":
        """Combine the typed settings with those stored in a picture.

        Args:
            upscale, upscaler: as typed; a model without a factor enlarges 4 times.
            like: a picture painted by limner, to repeat.
        """
        settings = (png.read_settings(like) if like else None) or {}
        values = {name: settings[name] for name in cls.__dataclass_fields__ if name in settings}
        values |= {"upscaler": upscaler} if upscaler else {}
        values |= {"upscale": upscale or values.get("upscale", 4.0)} if upscale or upscaler else {}
        return cls(**validate_options(cls, values, kind="setting"))

    def open(self, device: str = "auto") -> Callable[[Sheet, SamplingRequest], Sheet]:
        """Return a function that enlarges the pictures of a sheet, but not its frames.

        The model is loaded immediately, so that errors are raised before anything is painted.

        Raises:
            LimnerError: see `open_upscaler`.
        """
        if self.upscale == 1:
            return lambda sheet, request: sheet
        model, sampler = open_upscaler(SamplingRequest(model=self.upscaler), device)

        def enlarge(sheet: Sheet, request: SamplingRequest) -> Sheet:
            count = len(sheet.images)
            rows = count // request.n
            firsts = [request.first_seed(row, rows) for row in range(rows)]
            seeds = [first + column for first in firsts for column in range(request.n)]
            c = Condition()
            if request.prompts and model.spec.text:  # the painter reported unknown words already
                of_prompts = torch.arange(count) * len(request.prompts) // count
                c = text_condition(model.spec, request.prompts, lambda line: None).rows(of_prompts)
            images = upscale_pictures(
                sheet.images, self.upscale, model, seed=seeds, sampler=sampler, c=c
            )
            return replace(sheet, images=images)

        return enlarge

    def settings(self) -> dict[str, Any]:
        """Return the settings to store in a PNG file."""
        if self.upscale == 1:
            return {}
        return {"upscale": self.upscale, "upscaler": self.upscaler or UPSCALER}


def upscale_pictures(
    images: UInt8[Tensor, "n k h w"],
    factor: float,
    model: Upscales,
    *,
    seed: int | Sequence[int] = 0,
    sampler: dict[str, Any] | None = None,
    c: Condition = Condition(),
) -> UInt8[Tensor, "n k hh ww"]:
    """Enlarge pictures, one after the other, with a progress bar.

    Args:
        images: pictures of one size, with or without alpha as the last channel.
        factor: scale factor of width and height.
        model: model that enlarges.
        seed: picture i uses the random stream of seed + i; or one seed for each picture.
        sampler: sampler options of the model.
        c: condition, if known: one row for all pictures, or one for each.
    """
    seeds = [seed + i for i in range(len(images))] if isinstance(seed, int) else seed
    outputs, conditions = [], one_for_each(len(images), c)
    with painting_progress(len(images)) as advance:
        for i, (image, image_seed) in enumerate(zip(images, seeds, strict=True)):
            small, image_c = from_uint8(image[None]), conditions.rows(slice(i, i + 1))
            x = model.upscale(small, factor, image_c, seed=image_seed, **sampler or {})
            outputs.append(to_uint8(x).cpu())
            advance(1)
    return torch.cat(outputs)


def upscale_files(
    paths: Sequence[Path],
    request: SamplingRequest,
    factor: float = 4.0,
    *,
    out: Path | None = None,
    page: bool = False,
    device: str = "auto",
) -> list[Path]:
    """Enlarge picture files; alpha and the frames of animations are kept.

    Args:
        paths: files, and folders of files.
        request: model, seed and options, and what the pictures show.
        factor: scale factor of width and height.
        out: File for one picture, or a folder; the current folder if None. In a folder, files are
            named NAME-4x.png or, if that exists, NAME-4x-2.png, ...
        page: whether to write upscale.html, which shows each picture before and after.
        device: device to run on.

    Returns:
        the files that were written.

    Raises:
        LimnerError: a file is not a picture, would become too large or cannot be written, one file
            is given for several pictures, or see `open_upscaler`.
    """
    files = picture_files(paths)
    if not files:
        raise LimnerError("no pictures to enlarge are given; type limner upscale IMAGE")
    target = out if out and out.suffix and not out.is_dir() else None
    folder = target.parent if target else out or Path()
    if target and len(files) > 1:
        raise LimnerError(f"'{target}' is one file for {len(files)} pictures; give a folder")
    inputs = [read_frames(file) for file in files]
    for file, animated in zip(files, inputs):
        _check_goal(file, animated, factor, target)
    upscaler, options = open_upscaler(request, device)
    c = request.condition(upscaler.spec)
    if "all" in request.labels and len(c) != 1:
        raise LimnerError("--label all is not possible here; name the class of the pictures")
    request = replace(request, model=request.model or UPSCALER)
    settings = request.settings() | {"task": "upscale", "options": {"factor": factor}}
    outputs: list[Path] = []
    pictures: list[tuple[str, Tensor, Tensor]] = []
    for file, animated in zip(files, inputs):
        images = upscale_pictures(
            animated.frames, factor, upscaler, seed=request.seed, sampler=options, c=c
        )
        path = target or folder / f"{file.stem}-{factor:g}x{animated.suffix}"
        if target is None or (target.exists() and target.samefile(file)):
            path = _free(path)
        _write(path, _content(images, animated, settings))
        outputs.append(path)
        pictures.append((file.name, animated.frames[0], images[0]))
    if page:
        path = _free(folder / "upscale.html")
        _write(path, slider_page(pictures).encode())
        outputs.append(path)
    return outputs


def _check_goal(file: Path, animated: Animation, factor: float, target: Path | None) -> None:
    """Check that a picture can be written, before any work.

    Raises:
        LimnerError: the picture would be too large, or the name has the suffix of another format.
    """
    height, width = animated.frames.shape[-2:]
    try:
        check_enlargement((height, width), factor)
    except LimnerError as error:
        raise LimnerError(f"'{file}': {error}") from None
    if target and target.suffix.lower() != (kind := animated.suffix):
        raise LimnerError(f"'{target}' does not end in {kind}; give -o NAME{kind}")


def _write(path: Path, content: bytes) -> None:
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, content)


def _free(path: Path) -> Path:
    return free_file(path) if path.exists() else path


def _content(
    images: UInt8[Tensor, "n k h w"], animated: Animation, settings: dict[str, Any]
) -> bytes:
    """Return the bytes of a PNG picture, or of an animation in its original format."""
    if len(images) == 1:
        return png.png(images[0], settings)
    frames: list[Image.Image] = [png.to_pil(frame) for frame in images]
    file = io.BytesIO()
    options: dict[str, Any] = {"lossless": True} if animated.format == "WEBP" else {}
    options |= {"disposal": 2} if animated.format == "GIF" and images.shape[1] == 4 else {}
    frames[0].save(
        file,
        animated.format,
        save_all=True,
        append_images=frames[1:],
        duration=list(animated.milliseconds),
        loop=animated.loop,
        **options,
    )
    return file.getvalue()


_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Before and after</title>
<style>
body { font: 16px system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem }
figure { margin: 0 0 2rem }
div { display: grid; max-width: 100%; width: max-content }
img, input { grid-area: 1 / 1; max-width: 100% }
.before { image-rendering: pixelated; width: 100%; height: 100% }
.after { clip-path: inset(0 0 0 var(--at, 50%)) }
input { opacity: 0; cursor: ew-resize; width: 100%; height: 100%; margin: 0 }
input:focus-visible { opacity: .4 }
</style>
<h1>Before and after</h1>
$figures
<script>
for (const input of document.querySelectorAll("input"))
  input.oninput = () => input.parentElement.style.setProperty("--at", input.value + "%")
</script>
</html>
""")
_FIGURE = Template("""<figure>
<div><img class="before" src="$before" alt="$name before">
<img class="after" src="$after" alt="$name after" width="$width">
<input type="range" min="0" max="100" step="0.1" aria-label="How much of $name is shown before">
</div>
<figcaption>$name, $small, then $large</figcaption>
</figure>""")


def slider_page(
    pictures: Sequence[tuple[str, UInt8[Tensor, "k h w"], UInt8[Tensor, "k hh ww"]]],
) -> str:
    """Return a self-contained web page that shows pictures before and after, with a slider.

    Args:
        pictures: (name, before, after) of each picture.
    """
    figures = [
        _FIGURE.substitute(
            name=html.escape(name, quote=True),
            before=png.data_uri(before),
            after=png.data_uri(after),
            width=after.shape[2],
            small=f"{before.shape[2]} x {before.shape[1]}",
            large=f"{after.shape[2]} x {after.shape[1]}",
        )
        for name, before, after in pictures
    ]
    return _PAGE.substitute(figures="\n".join(figures))
