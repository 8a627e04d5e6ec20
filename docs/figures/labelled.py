"""A sheet of pictures with words next to its rows and columns."""

from collections.abc import Sequence
from pathlib import Path

from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from limner.data.png import grid

PICTURES = Path(__file__).parents[1] / "pictures"
_GAP, _DPI = 4, 100


def save_sheet(
    images: UInt8[Tensor, "n c h w"],
    name: str,
    rows: Sequence[str],
    columns: Sequence[str],
    scale: int = 1,
) -> None:
    """Write docs/pictures/NAME.png: images row by row, each pixel as a square with sides of
    `scale`.
    """
    sheet = grid(images, len(columns), scale=scale, gap=_GAP)
    _, height, width = sheet.shape
    left = 12 + 7 * max(map(len, rows))  # room for the words, in pixels
    top = 22
    figure = Figure(figsize=((left + width) / _DPI, (top + height) / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    total_width, total_height = left + width, top + height
    axis = figure.add_axes((left / total_width, 0, width / total_width, height / total_height))
    axis.imshow(sheet.expand(3, -1, -1).permute(1, 2, 0).numpy(), interpolation="nearest")
    step_x, step_y = (width - _GAP) / len(columns), (height - _GAP) / len(rows)
    axis.set_xticks([(i + 0.5) * step_x for i in range(len(columns))], columns, fontsize=9)
    axis.set_yticks([(i + 0.5) * step_y for i in range(len(rows))], rows, fontsize=9)
    axis.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False, pad=3)
    axis.spines[:].set_visible(False)
    PICTURES.mkdir(exist_ok=True)
    figure.savefig(PICTURES / f"{name}.png", metadata={"Software": None})


def shrink(name: str) -> None:
    """Rewrite a picture with 256 colours, which takes a third of the bytes."""
    file = PICTURES / f"{name}.png"
    Image.open(file).convert("RGB").quantize(256).save(file, optimize=True)
