"""How much of a real picture does an edit by words keep, and how close does it come to the truth?

    python benchmarks/real_edits.py

Real emoji with skin tones: each is edited from "...: light skin tone" to "...: dark skin tone" with
the bundled model, at its own guidance scale, and compared with the artist's own picture in that
tone. First, these ways to recover a real picture from the small stage, which paints 32 x 32, are
compared:

    inversion              DDIM's steps backwards, one evaluation each, then painting with guidance
    fixed point            the same, but each step is solved by iteration, with guidance in it
    negative-prompt        the same, with the prompt also in place of the empty prompt, so that
                           guidance has no effect (Miyake et al. 2023, arXiv:2305.16807)
    FlowEdit               what `limner edit` does (Kulikov et al. 2024, arXiv:2412.08629)

Then the edits with that stage are compared, and those with the whole model, 64 x 64. Null-text
optimisation (Mokady et al. 2022, arXiv:2211.09794) is not included, because the model's condition
for no words has no tokens that could be optimised. Errors are mean absolute differences, as shares
of the range.
"""

import random
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from timing import count, options_parser, show

from limner.commands.request import SamplingRequest, open_model
from limner.commands.sheets.reword import rewording
from limner.contract.editing import reconstruction_error
from limner.contract.image import Condition, Images, from_uint8
from limner.contract.noise import Noise
from limner.contract.rewording import Rewording
from limner.contract.upscaling import resize
from limner.data.pictures import Pictures
from limner.data.sources import open_data
from limner.diffusion.cascade import Cascade
from limner.diffusion.flow_matching import FlowMatching
from limner.diffusion.prompt_to_prompt import _SharingDenoiser
from limner.diffusion.sampling import Plan
from limner.maths.denoisers import Denoiser
from limner.maths.samplers.euler import Euler

BEFORE, AFTER = "light", "dark"
STRENGTHS = 0.4, 0.6, 0.8


def pairs(n: int) -> tuple[list[str], Images, Images]:
    """Return captions, and their pictures before and after the change of tone."""
    data = open_data("emoji", size=64)
    assert isinstance(data, Pictures)
    index = {entry.captions[0]: i for i, entry in enumerate(data.entries)}
    tone = f": {BEFORE} skin tone"
    after = {caption: caption.replace(BEFORE, AFTER) for caption in index}
    usable = sorted(
        c for c in index if c.endswith(tone) and c.count(":") == 1 and after[c] in index
    )
    random.Random(0).shuffle(usable)
    chosen = usable[:n]
    before, target = (
        from_uint8(data.pixels(torch.tensor([index[c] for c in captions])))
        for captions in (chosen, [after[c] for c in chosen])
    )
    return chosen, before, target


@torch.no_grad()
def invert(D: Denoiser, x: Images, c: Condition, steps: int, rounds: int) -> list[Images]:
    """Return pictures from noise to x, such that an Euler step leads from each to the next."""
    times = D.schedule.times(steps).flip(0)
    path = [x]
    for s, t in pairwise(times.tolist()):
        x_t = path[-1]
        for _ in range(rounds):
            t_eval = max(s, float(D.schedule.ends[0])) if rounds == 1 else t
            x_hat = D(x_t, torch.tensor(t_eval, dtype=torch.float64), c).x_hat
            x_t = path[-1] + (t - s) * (x_t - x_hat) / t_eval
        path.append(x_t)
    return path[::-1]


def paint_from_noise(D: Denoiser, noise: Images, c: Condition, steps: int) -> Images:
    """Return the pictures that Euler's sampler paints from this noise."""
    with torch.no_grad():
        streams = Noise.sampling(0, len(noise))
        return Plan(Euler(), D, D.schedule.times(steps)).end(noise, c, streams).clamp(-1, 1)


@torch.no_grad()
def from_inversion(
    model: FlowMatching, D: Denoiser, x: Images, c: Condition, change: Rewording, steps: int
) -> Images:
    """Edit with prompt-to-prompt along the inverted path, which stays fixed (Ju et al. 2023, direct
    inversion, arXiv:2310.01506).
    """
    times = model.schedule.times(steps)
    path = invert(model, x, c.rows(slice(0, 1)), steps, 4)
    denoiser, y = _SharingDenoiser(D, model, change, times, 1), path[0]
    for x_t, (t, s) in zip(path, pairwise(times)):
        x_hat = denoiser(torch.cat([x_t, y]), t, c).x_hat[1:]
        if denoiser.progress >= 0.2:
            x_hat = torch.where(denoiser.changing(), x_hat, x)
        y = y + float(s - t) * (y - x_hat) / float(t)
    return y.clamp(-1, 1)


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("-n", type=count, default=32, help="number of emoji")
    args = parser.parse_args()
    torch.set_num_threads(1)
    measured = {"upsampler_steps": 5, "level": 0.1, "clean": 0}
    model, options = open_model(SamplingRequest("emoji", sampler=measured))
    assert isinstance(model, Cascade) and isinstance(model.base, FlowMatching)
    base, steps, scale = model.base.eval(), options["steps"], options["scale"]
    captions, x, target = pairs(args.n)
    small, small_target = (resize(images, 32, 32) for images in (x, target))
    changes = [rewording(model.spec, c, [f"replace:{BEFORE}={AFTER}"]) for c in captions]
    tokens = max(c.text.shape[1] for c, _, _ in changes if c.text is not None)
    c = Condition.cat([before.pad(tokens) for before, _, _ in changes])
    guided = base.plan(scale=scale, clip=False).D
    rows: list[tuple[str, ...]] = []
    for name, D, D_paint, rounds in (
        ("inversion", base, guided, 1),
        ("fixed point", guided, guided, 4),
        ("negative-prompt", base, base, 4),
    ):
        start = time.process_time()
        reconstruction = paint_from_noise(D_paint, invert(D, small, c, steps, rounds)[0], c, steps)
        rows.append((name, _error(small, reconstruction), f"{time.process_time() - start:.0f} s"))
    rows.append(("FlowEdit", _error(small, base.reconstruct_for_edit(small)), "0 s"))
    show(
        f"{args.n} real emoji, 32 x 32, {steps} steps, guidance {scale:g}", ("", "error", ""), rows
    )

    plan = {"sampler": "euler", "steps": steps, "scale": scale}
    D = base.plan(**plan).D
    edits: dict[str, Callable[[int], Images]] = {
        "unchanged": lambda i: small[i : i + 1],
        "same seed": lambda i: base.sample(1, changes[i][1], seed=i, **plan),
        "inversion, then prompt-to-prompt": lambda i: from_inversion(
            base, D, small[i : i + 1], Condition.cat([*changes[i][:2]]), changes[i][2], steps
        ),
        "FlowEdit": lambda i: last_frame(
            base.reword(*changes[i], image=small[i : i + 1], seed=i, **plan)
        )[1:],
    }
    for strength in STRENGTHS:
        edits[f"SDEdit {strength:g}"] = lambda i, strength=strength: last_frame(
            base.edit(small[i : i + 1], changes[i][1], strength=strength, seed=i, **plan)
        )
    compare("32 x 32", edits, small_target)
    full_edits: dict[str, Callable[[int], Images]] = {
        "unchanged": lambda i: x[i : i + 1],
        "same seed": lambda i: model.sample(1, changes[i][1], seed=i, **options),
        "FlowEdit": lambda i: last_frame(
            model.reword(*changes[i], image=x[i : i + 1], seed=i, **options)
        )[1:],
    }
    for strength in STRENGTHS:
        full_edits[f"SDEdit {strength:g}"] = lambda i, strength=strength: last_frame(
            model.edit(x[i : i + 1], changes[i][1], strength=strength, seed=i, **options)
        )
    compare("64 x 64", full_edits, target)


def last_frame(frames) -> Images:
    """Return the finished pictures."""
    *_, picture = frames
    return picture


def compare(title: str, edits: dict[str, Callable[[int], Images]], target: Images) -> None:
    """Print the error of each way of editing against the artist's own pictures."""
    rows: list[tuple[str, ...]] = []
    for name, edit in edits.items():
        start = time.process_time()
        edited = torch.cat([edit(i) for i in range(len(target))])
        seconds = (time.process_time() - start) / len(target)
        rows.append((name, _error(target, edited), f"{seconds:.2f}"))
    show(f"edits of {len(target)} real emoji, {title}", ("", "error", "seconds each"), rows)


def _error(x: Images, y: Images) -> str:
    return f"{reconstruction_error(x, y):.1%}"


if __name__ == "__main__":
    main()
