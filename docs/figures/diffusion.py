"""Draw the pictures of the page on diffusion, with the bundled model.

    python docs/figures/diffusion.py

All use the first seeds: 0, or 0 to n - 1.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jaxtyping import UInt8
from labelled import PICTURES, save_sheet
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from limner import Condition, Noise, load, open_data, text_condition
from limner.commands.pictures import write_sheet
from limner.commands.request import SamplingRequest
from limner.commands.sheets.edit import edit_sheet
from limner.commands.sheets.sample import paint_sheet
from limner.contract.codes import Encodes
from limner.contract.image import from_uint8, to_uint8
from limner.diffusion.cascade import Cascade
from limner.maths.schedules import (
    DiscreteSchedule,
    LinearPath,
    cosine_betas,
    linear_betas,
    sigmoid_betas,
)

PROMPTS = "a red apple", "a dog", "a crying face", "a pizza", "an astronaut", "a snowman"
PATHS = {
    "an apple": ("1F34E", "1F34F"),
    "an animal's face": ("1F436", "1F431"),
    "a heart": ("1F499", "1F49B"),
}
"""The code points at which each path starts and ends, by what both ends are."""
SCHEDULES = {
    "DDPM, linear betas": DiscreteSchedule(linear_betas()),
    "DDPM, cosine betas": DiscreteSchedule(cosine_betas()),
    "DDPM, sigmoid betas": DiscreteSchedule(sigmoid_betas()),
    "flow matching": LinearPath(),
}
SAMPLERS = "ancestral", "ddim", "euler", "heun", "dpm++", "unipc"


def paint(request: SamplingRequest, **options: float | str) -> UInt8[Tensor, "n c h w"]:
    return paint_sheet(replace(request, sampler=options))[0].images


def columns(sheets: Sequence[UInt8[Tensor, "n c h w"]]) -> UInt8[Tensor, "m c h w"]:
    """Return the pictures of sheets with one picture per row, such that each sheet becomes a
    column.
    """
    return torch.stack([*sheets], dim=1).flatten(0, 1)


def prompts() -> None:
    images = paint(SamplingRequest(prompts=PROMPTS, n=8))
    save_sheet(images, "prompts", PROMPTS, [f"seed {i}" for i in range(8)])


def forming() -> None:
    sheet, _ = paint_sheet(SamplingRequest(prompts=PROMPTS[:4]), forming=True)
    save_sheet(columns(sheet.frames), "forming", PROMPTS[:4], [""] * len(sheet.frames))


def guidance() -> None:
    scales = 0.0, 1.0, 1.5, 2.5, 4.0, 7.0
    images = columns([paint(SamplingRequest(prompts=PROMPTS), scale=scale) for scale in scales])
    save_sheet(images, "guidance", PROMPTS, [f"scale {scale:g}" for scale in scales])


def samplers() -> None:
    steps = 3, 5, 10, 20, 40
    request = SamplingRequest(prompts=PROMPTS[1:2])
    images = [paint(request, sampler=name, steps=n) for name in SAMPLERS for n in steps]
    save_sheet(torch.cat(images), "samplers", SAMPLERS, [f"{n} steps" for n in steps])


def few_steps() -> None:
    """Draw the bundled model with fewer and fewer steps, and its student."""
    request, uncleaned = SamplingRequest(prompts=PROMPTS), {"level": 0.1, "clean": 0}
    steps = (10, 5), (3, 2), (2, 2)
    sheets = [paint(request, steps=n, upsampler_steps=m, **uncleaned) for n, m in steps]
    sheets.append(paint(replace(request, model="emoji-fast")))
    names = ["10 + 5", "3 + 2", "2 + 2", "emoji-fast"]
    save_sheet(columns(sheets), "few-steps", PROMPTS, names)


def negative() -> None:
    rows = "", "red", "yellow"
    request = SamplingRequest(prompts=("a heart",), n=8)
    images = torch.cat([paint(replace(request, negative=row), scale=4.0) for row in rows])
    labels = [f'without "{row}"' if row else "a heart" for row in rows]
    save_sheet(images, "negative", labels, [f"seed {i}" for i in range(8)])


def variations() -> None:
    amounts = 0.1, 0.3, 0.6, 1.0
    request = SamplingRequest(prompts=("a house",), n=8)
    images = torch.cat([paint(replace(request, vary=amount)) for amount in amounts])
    save_sheet(images, "variations", [f"--vary {a:g}" for a in amounts], ["the picture", *[""] * 7])


def edits() -> None:
    """Draw a picture that is edited under a mask, and at several strengths, with another prompt."""
    apple, request = paint_sheet(SamplingRequest(prompts=("a red apple",)))
    with TemporaryDirectory() as folder:
        (file,) = write_sheet(apple, request, Path(folder) / "apple.png", enlarge=1)
        request = SamplingRequest(prompts=("a green apple",), n=4)
        half, _ = edit_sheet([file], request, keep=0.5)
        rows = [half.images[[0, *range(2, 6)]]]
        for strength in (0.3, 0.6, 0.9):
            sheet, _ = edit_sheet([file], request, strength=strength)
            rows.append(sheet.images)
    labels = ["--keep 0.5", *(f"--strength {s:g}" for s in (0.3, 0.6, 0.9))]
    save_sheet(torch.cat(rows), "edits", labels, ["given", *(f"seed {i}" for i in range(4))])


def interpolation() -> None:
    """Draw paths from one real picture to another through their codes, without a prompt and with
    the name of both.
    """
    data = open_data("emoji", size=32, style="3d", label="none")
    cascade = load("emoji")
    assert isinstance(cascade, Cascade)
    base = cascade.base
    assert isinstance(base, Encodes)
    number = {data.name(i): i for i in range(len(data))}
    a, b = (
        from_uint8(data.pixels(torch.tensor([number[f"3d/{code}.webp"] for code in codes])))
        for codes in zip(*PATHS.values())
    )
    rows: list[UInt8[Tensor, "n columns c h w"]] = []
    for c in (Condition(), text_condition(base.spec, list(PATHS))):
        path = base.interpolate(a, b, 6, c)
        rows.append(to_uint8(torch.cat([a[:, None], path, b[:, None]], 1)))
        for end, picture in ((path[:, 0], a), (path[:, -1], b)):
            print(f"mean squared error of an end: {float((end - picture).square().mean()):.2g}")
    labels = [label for prompt in PATHS for label in ("told nothing", f'told "{prompt}"')]
    columns = ["given", "its code's", "", "", "", "", "its code's", "given"]
    save_sheet(torch.stack(rows, 1).flatten(0, 2), "interpolation", labels, columns, 2)


def forward() -> None:
    """Draw a picture with increasing noise in each schedule; the noise is the same at all times."""
    data = open_data("emoji", size=32, style="3d", label="none")
    number = {data.name(i): i for i in range(len(data))}
    x = from_uint8(data.pixels(torch.tensor([number["3d/1F436.webp"]])))
    eps = Noise.sampling(0, 1).normal(*data.spec.shape)
    rows, times = (
        [],
        ["0", "T / 8", "T / 4", "3 T / 8", "T / 2", "5 T / 8", "3 T / 4", "7 T / 8", "T"],
    )
    for schedule in SCHEDULES.values():
        alphas, sigmas = schedule(schedule.times(len(times) - 1).flip(0))
        rows += [to_uint8(alpha * x + sigma * eps) for alpha, sigma in zip(alphas, sigmas)]
    save_sheet(torch.cat(rows), "forward", list(SCHEDULES), times, 2)


def schedules() -> None:
    """Plot how much of the picture and how much noise there is at each time."""
    figure = Figure(figsize=(11, 2.8), layout="constrained", dpi=100)
    FigureCanvasAgg(figure)
    for axis, (name, schedule) in zip(figure.subplots(1, 4, sharey=True), SCHEDULES.items()):
        t = schedule.times(200)
        alpha, sigma = schedule(t)
        axis.plot(t / t.max(), alpha, color="#d9663b", label="alpha, the picture's")
        axis.plot(t / t.max(), sigma, color="#3b7dd9", label="sigma, the noise's")
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("t / T")
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=8)
    PICTURES.mkdir(exist_ok=True)
    figure.savefig(PICTURES / "schedules.png", metadata={"Software": None})


def main() -> None:
    for figure in (
        prompts, forming, guidance, samplers, few_steps, negative, variations, edits, interpolation,
        forward, schedules,
    ):  # fmt: skip
        figure()


if __name__ == "__main__":
    main()
