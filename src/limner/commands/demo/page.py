"""The page of the demo: a single, self-contained HTML file."""

import html
import io
import platform
import time
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import UInt8
from torch import Tensor

import limner
from limner.commands.system_checks import usable_cores
from limner.contract.atomic_files import write_durably
from limner.data.png import data_uri, grid

if TYPE_CHECKING:
    from limner.commands.demo.run import Findings


def write_page(findings: "Findings", path: Path, run: Path, total_seconds: float) -> Path:
    """Fill the template, write it to `path`, and return that."""
    labels, recipe = findings.labels, findings.recipe
    assert findings.samples is not None and findings.real is not None
    template = (files("limner.commands.demo") / "page.html").read_text(encoding="utf-8")
    page = Template(template).substitute(
        prompts=_prompts(findings.prompt_pictures),
        compositions=_prompts(findings.compositions),
        images=f"{findings.images:,}",
        seconds=f"{findings.seconds:.0f}",
        total=f"{total_seconds:.0f}",
        rate=f"{findings.images / findings.seconds:,.0f}",
        parameters=f"{findings.parameters / 1e6:.1f}",
        scale=f"{recipe.sampler['scale']:g}",
        steps=f"{recipe.sampler['steps']}",
        painted=_beside(labels, findings.samples, findings.real),
        learning=_rows(
            labels,
            [(f"{images:,}", sheet) for images, sheet in findings.sheets],
        ),
        forming=_rows(labels, [(str(i + 1), x) for i, x in _some(findings.frames)]),
        scales=_rows(labels, [(f"{scale:g}", x) for scale, x in findings.scales.items()]),
        curve=_curve(findings.log),
        recipe=html.escape(recipe.to_toml()),
        machine=html.escape(_machine()),
        run=html.escape(str(run)),
        date=time.strftime("%Y-%m-%d"),
        version=limner.__version__,
    )
    write_durably(path, page.encode())
    return path


def _some(frames: list[Any]) -> list[tuple[int, Any]]:
    """Return every fourth frame and the last, with their indices."""
    return [(i, x) for i, x in enumerate(frames) if i % 4 == 0 or i == len(frames) - 1]


def _picture(image: UInt8[Tensor, "c h w"], alt: str) -> str:
    return f'<img src="{data_uri(image)}" alt="{html.escape(alt)}">'


def _prompts(pictures: dict[str, UInt8[Tensor, "n c h w"]]) -> str:
    """Return figures of pictures, each with its prompt as the caption."""
    figures = []
    for prompt, images in pictures.items():
        picture = _picture(grid(images, gap=4), prompt)
        figures.append(f"<figure>{picture}<figcaption>{html.escape(prompt)}</figcaption></figure>")
    return "".join(figures)


def _rows(labels: tuple[str, ...], columns: list[tuple[str, UInt8[Tensor, "n c h w"]]]) -> str:
    """Return a table with a row for each class and a column for each sheet."""
    head = "".join(f"<th scope=col>{html.escape(name)}</th>" for name, _ in columns)
    body = []
    for i, label in enumerate(labels):
        cells = []
        for name, sheet in columns:
            n = len(sheet) // len(labels)
            images = sheet[i * n : (i + 1) * n]
            cells.append(f"<td>{_picture(grid(images, n, gap=1), f'{label}, {name}')}</td>")
        body.append(f"<tr><th scope=row>{html.escape(label)}</th>{''.join(cells)}</tr>")
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _beside(
    labels: tuple[str, ...], painted: UInt8[Tensor, "n c h w"], real: UInt8[Tensor, "n c h w"]
) -> str:
    return _rows(labels, [("painted", painted), ("real", real)])


def _curve(log: list[dict[str, Any]]) -> str:
    """Plot the loss against images seen, as inline SVG."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    FigureCanvasSVG(figure)
    axis = figure.subplots()
    axis.plot([row["images"] for row in log], [row["loss"] for row in log], color="#d9663b", lw=1.6)
    axis.set_xlabel("images seen")
    axis.set_ylabel("loss")
    axis.set_yscale("log")
    axis.grid(color="#8883", lw=0.6)
    axis.spines[["top", "right"]].set_visible(False)
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    return svg[svg.index("<svg") :]


def _machine() -> str:
    cores = f"{usable_cores()} cores"
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else cores
    return f"{device}, {platform.system()} {platform.machine()}, torch {torch.__version__}"
