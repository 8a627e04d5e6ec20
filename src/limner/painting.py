"""What `limner sample` does: find a model, paint, write one PNG with its settings."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

import limner
from limner import dist, pictures
from limner.allocator import keep_freed_memory
from limner.checkpoint import load
from limner.errors import LimnerError
from limner.image import Condition, ImageSpec, to_uint8
from limner.model import SAMPLE_BATCH, GenerativeModel
from limner.options import parse_assignments
from limner.progress import painting_progress

_ROW = 8  # so many pictures stand in one row
_SHOWN_SIDE = 128  # small pictures are enlarged to about this, pixel by pixel


def load_generator(path: str, device: str = "cpu") -> GenerativeModel:
    """A model that paints, from a run or model folder or a model file.

    Raises:
        LimnerError: nothing there, or a model that does not paint.
    """
    if not Path(path).exists():
        raise LimnerError(f"there is no run, model folder or model file '{path}'")
    model = load(path, device)
    if not isinstance(model, GenerativeModel):
        raise LimnerError(f"'{path}' is a {model.name}, which paints nothing")
    return model


def conditions(spec: ImageSpec, labels: Sequence[str], n: int) -> Condition:
    """n rows of each label that is named, or of every one for "all"; no parts when none is."""
    if not labels:
        return Condition()
    names = spec.labels if "all" in labels and "all" not in spec.labels else labels
    indices = torch.tensor([spec.label_index(name) for name in names])
    return Condition(label=indices.repeat_interleave(n))


def paint(
    path: str,
    labels: Sequence[str],
    n: int,
    seed: int,
    assignments: Sequence[str],
    out: Path,
    device: str = "auto",
) -> UInt8[Tensor, "n c h w"]:
    """Paint, and write a grid (one row a label) as a PNG that says how it was made.

    Args:
        path: of the model.
        labels: class names, or "all"; empty leaves the model free.
        n: pictures of each.
        seed: picture i is drawn from seed + i.
        assignments: `sampler.key=value` as typed.
        out: the PNG file.
        device: where.
    """
    if out.suffix.lower() != ".png":
        raise LimnerError(f"'{out}' is no PNG file; give -o NAME.png")
    keep_freed_memory()
    model = load_generator(path, str(dist.device(device)))
    options = parse_assignments(assignments, ["sampler"]).get("sampler", {})
    options = model.sampler_options(options)
    c = conditions(model.spec, labels, n)
    total = len(c) or n
    with painting_progress(total) as advance:
        parts = []
        for first in range(0, total, SAMPLE_BATCH):
            rows = slice(first, min(first + SAMPLE_BATCH, total))
            size = rows.stop - first
            frames = model.frame_count(**options)
            frame = None
            for frame in model.watch(size, c.rows(rows), seed=seed + first, **options):  # noqa: B007
                advance(size / frames)
            assert frame is not None
            parts.append(to_uint8(frame).cpu())
    images = torch.cat(parts)
    settings = {
        "model": model.name,
        "labels": list(labels),
        "n": n,
        "seed": seed,
        "size": f"{model.spec.width}x{model.spec.height}",
        "sampler": {key: value for key, value in options.items() if value is not None},
        "version": limner.__version__,
    }
    scale = max(1, _SHOWN_SIDE // max(images.shape[-2:]))
    columns = n if len(c) > n or n <= _ROW else None
    sheet = pictures.grid(images, columns, scale=scale, gap=0 if total == 1 else 8)
    try:
        pictures.save_png(sheet, out, settings)
    except OSError as error:
        raise LimnerError(f"cannot write {out}: {error.strerror or error}") from None
    return images
