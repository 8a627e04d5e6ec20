"""A sheet for diagrams: pictures, networks, random numbers, and arrows of three kinds.

Positions are in pixels, from the lower left corner. Black arrows show how a model paints, grey ones
are used in training only, and dashed red ones lead to a loss from what it compares.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Shaped
from labelled import PICTURES
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.path import Path
from torch import Tensor

from limner.contract.image import to_uint8

WIDTH, HEIGHT, _DPI = 720, 220, 100
INK, GREY, RED, BLUE, ORANGE = "#222222", "#6f757b", "#c0392b", "#2f6fb2", "#d9663b"
_PALE_BLUE = "#dfeaf6"
_RANDOM = LinearSegmentedColormap.from_list("random", ["#ffffff", ORANGE, "#5c2410"])
_POINTS = 72 / _DPI  # points per pixel; matplotlib measures lines and letters in points
_GAP = 3  # pixels between an arrow and the things that it connects
Kind = Literal["paints", "trains", "compares"]
Point = tuple[float, float]
KINDS: dict[Kind, tuple[str, float, str, str]] = {
    "paints": (INK, 2.2, "-", "how it paints"),
    "trains": (GREY, 1.6, "-", "on the way in training"),
    "compares": (RED, 1.4, "--", "what its loss looks at"),
}
"""Colour, width in pixels, line style, and text of the legend."""


class Box(NamedTuple):
    """The position and size of a thing.

    Args:
        x, y: its lower left corner.
        width, height: its width and height.
    """

    x: float
    y: float
    width: float
    height: float

    def left(self, y: float | None = None) -> Point:
        """Return a point just left of the box, in the middle or at a height."""
        return self.x - _GAP, self.y + self.height / 2 if y is None else y

    def right(self, y: float | None = None) -> Point:
        """Return a point just right of the box, in the middle or at a height."""
        return self.x + self.width + _GAP, self.left(y)[1]

    def top(self, x: float | None = None) -> Point:
        """Return a point just above the box, in the middle or at a column."""
        return self.x + self.width / 2 if x is None else x, self.y + self.height + _GAP

    def bottom(self, x: float | None = None) -> Point:
        """Return a point just below the box, in the middle or at a column."""
        return self.top(x)[0], self.y - _GAP


class Canvas:
    """A sheet that is empty except for its legend."""

    def __init__(self) -> None:
        self.figure = Figure(figsize=(WIDTH / _DPI, HEIGHT / _DPI), dpi=_DPI)
        FigureCanvasAgg(self.figure)
        self.axis = self.figure.add_axes((0, 0, 1, 1))
        self.axis.set_axis_off()
        self._reset_limits()
        for (kind, (colour, _, _, text)), x in zip(KINDS.items(), (14, 166, 362)):
            self.arrow(kind, (x, 9), (x + 30, 9))
            self.words(text, x + 37, 9, colour, "left", 8)

    def _reset_limits(self) -> None:
        self.axis.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="auto")

    def words(
        self,
        text: str,
        x: float,
        y: float,
        colour: str = INK,
        align: Literal["left", "center", "right"] = "center",
        size: float = 9,
        ground: str = "white",
    ) -> None:
        """Write words or formulas, with their middle at the height y; lines below them are
        interrupted.
        """
        self.axis.text(
            x, y, text, color=colour, ha=align, va="center", size=size, math_fontfamily="cm",
            zorder=5, bbox={"fc": ground, "lw": 0, "pad": 1},
        )  # fmt: skip

    def picture(
        self,
        image: Float[Tensor, "c h w"],
        x: float,
        y: float,
        text: str = "",
        scale: int = 2,
    ) -> Box:
        """Draw a picture in a thin frame, each pixel as a square with sides of `scale`, with words
        below it.
        """
        pixels = to_uint8(image[None])[0].expand(3, -1, -1).permute(1, 2, 0)
        return self._tile(pixels, x, y, text, scale, GREY)

    def random(
        self, z: Float[Tensor, "h w"], x: float, y: float, text: str = "", scale: int = 2
    ) -> Box:
        """Draw numbers that are, or should look, normally distributed; -2.5 is white."""
        pixels = torch.from_numpy(_RANDOM(((z + 2.5) / 5).clamp(0, 1).numpy()))
        return self._tile(pixels, x, y, text, scale, ORANGE)

    def _tile(
        self,
        pixels: Shaped[Tensor, "h w colours"],
        x: float,
        y: float,
        text: str,
        scale: int,
        frame: str,
    ) -> Box:
        height, width = (scale * side for side in pixels.shape[:2])
        extent = (x, x + width, y, y + height)
        self.axis.imshow(pixels.numpy(), extent=extent, interpolation="nearest", zorder=2)
        self._reset_limits()
        self.frame(Box(x - 0.5, y - 0.5, width + 1, height + 1), frame)
        if text:
            size = 10 if text.startswith("$") else 9  # letters are smaller in formulas
            self.words(text, x + width / 2, y - 11, size=size)
        return Box(x, y, width, height)

    def frame(self, box: Box, colour: str) -> None:
        """Draw a thin line around a box."""
        corner, width, height = box[:2], box.width, box.height
        self.axis.add_patch(
            Rectangle(
                corner, width, height, fill=False, ec=colour, lw=_POINTS, zorder=3, snap=False
            )
        )

    def network(
        self, text: str, x: float, y: float, width: float, height: float, size: float = 9
    ) -> Box:
        """Draw a rounded box with words in it."""
        style = "round,pad=0,rounding_size=7"
        self.axis.add_patch(
            FancyBboxPatch((x, y), width, height, style, fc=_PALE_BLUE, ec=BLUE, lw=_POINTS)
        )
        self.words(text, x + width / 2, y + height / 2, size=size, ground=_PALE_BLUE)
        return Box(x, y, width, height)

    def bump(
        self,
        box: Box,
        mean: float = 0.0,
        deviation: float = 1.0,
        colour: str = ORANGE,
        top: float = 1.0,
    ) -> None:
        """Draw the density of a normal distribution from -3.2 to 3.2.

        Args:
            box: where to draw it.
            mean, deviation: mean and standard deviation of the distribution.
            colour: colour of the line and the area.
            top: height of the mode, as a share of the box's height.
        """
        z = torch.linspace(-3.2, 3.2, 200)
        p = (-0.5 * ((z - mean) / deviation) ** 2).exp()
        x = (box.x + (z + 3.2) / 6.4 * box.width).numpy()
        y = (box.y + p * top * box.height).numpy()
        self.axis.fill_between(x, y, box.y, color=colour, alpha=0.18, lw=0)
        self.axis.plot(x, y, color=colour, lw=1.4 * _POINTS)

    def bars(self, heights: list[float], chosen: int, box: Box) -> None:
        """Draw the probabilities of the values 0, 1, ..., and mark the chosen one."""
        step = box.width / len(heights)
        for i, p in enumerate(heights):
            corner = box.x + (i + 0.2) * step, box.y
            colour = ORANGE if i == chosen else "#f3cdbd"
            self.axis.add_patch(Rectangle(corner, 0.6 * step, p * box.height, fc=colour, lw=0))
            self.words(f"{i}: {p:.2f}", box.x + (i + 0.5) * step, box.y - 9, ORANGE, size=8)
        ends = [box.x, box.x + box.width], [box.y, box.y]
        self.axis.plot(*ends, color=GREY, lw=_POINTS)

    def arrow(self, kind: Kind, *points: Point, both: bool = False) -> None:
        """Draw an arrow along points, with its head at the last one; with `both`, also at the first
        one.
        """
        colour, width, line, _ = KINDS[kind]
        self.axis.add_patch(
            FancyArrowPatch(
                path=Path(points),
                arrowstyle="<|-|>" if both else "-|>",
                mutation_scale=9,
                color=colour,
                lw=width * _POINTS,
                ls=line,
                joinstyle="miter",
                capstyle="butt",
                zorder=1,
            )
        )

    def save(self, name: str) -> None:
        """Write docs/pictures/NAME.png."""
        PICTURES.mkdir(exist_ok=True)
        self.figure.savefig(PICTURES / f"{name}.png", metadata={"Software": None})
