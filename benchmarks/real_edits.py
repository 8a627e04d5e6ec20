"""How much of a real picture does an edit by words keep, and how near does it come to the truth?

    python benchmarks/real_edits.py

Real emoji with skin tones: each is edited from "...: light skin tone" to "...: dark skin tone" by
the bundled model, at its own guidance, and compared with the artist's own picture in that tone.
First the ways to get a real picture back from the small stage, which paints 32 x 32:

    inversion              DDIM's steps backwards, one evaluation each, then painted with guidance
    fixed point            the same, each step solved by iteration, guidance within
    negative-prompt        the same, with the prompt in place of nothing, so that guidance is none
                           (Miyake et al. 2023, arXiv:2305.16807)
    followed               what `limner edit` does (FlowEdit, Kulikov et al. 2024, arXiv:2412.08629)

then the edits there, and those of the whole model, 64 x 64. Null-text optimisation (Mokady et al.
2022, arXiv:2211.09794) is not among them: what the model is told for no words has no tokens that
could be optimised. Errors are mean absolute differences, as shares of the range.
"""

import argparse
import random
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from timing import show

from limner.commands.request import Request, open_model
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
from limner.maths.samplers import SAMPLERS

BEFORE, AFTER = "light", "dark"
STRENGTHS = 0.4, 0.6, 0.8


def pairs(n: int) -> tuple[list[str], Images, Images]:
    """Captions, and their pictures before and after."""
    data = open_data("emoji", size=64)
    assert isinstance(data, Pictures)
    number = {entry.captions[0]: i for i, entry in enumerate(data.entries)}
    tone = f": {BEFORE} skin tone"
    after = {caption: caption.replace(BEFORE, AFTER) for caption in number}
    known = sorted(
        c for c in number if c.endswith(tone) and c.count(":") == 1 and after[c] in number
    )
    random.Random(0).shuffle(known)
    chosen = known[:n]
    before, true = (
        from_uint8(data.pixels(torch.tensor([number[c] for c in captions])))
        for captions in (chosen, [after[c] for c in chosen])
    )
    return chosen, before, true


@torch.no_grad()
def inverted(D: Denoiser, x: Images, c: Condition, steps: int, rounds: int) -> list[Images]:
    """Pictures under ever more noise, each of which an Euler step leads to the one before."""
    times = D.schedule.times(steps).flip(0)
    path = [x]
    for s, t in pairwise(times.tolist()):
        x_t = path[-1]
        for _ in range(rounds):
            at = max(s, float(D.schedule.ends[0])) if rounds == 1 else t
            x_hat = D(x_t, torch.tensor(at, dtype=torch.float64), c).x_hat
            x_t = path[-1] + (t - s) * (x_t - x_hat) / at
        path.append(x_t)
    return path[::-1]


def back(D: Denoiser, noise: Images, c: Condition, steps: int) -> Images:
    """The pictures of noise."""
    with torch.no_grad():
        streams = Noise.sampling(0, len(noise))
        return (
            Plan(SAMPLERS["euler"], D, D.schedule.times(steps)).end(noise, c, streams).clamp(-1, 1)
        )


@torch.no_grad()
def from_inversion(
    model: FlowMatching, D: Denoiser, x: Images, c: Condition, change: Rewording, steps: int
) -> Images:
    """Prompt-to-prompt beside the inverted path, which stays as it is (Ju et al. 2023, direct
    inversion, arXiv:2310.01506)."""
    times = model.schedule.times(steps)
    path = inverted(model, x, c.rows(slice(0, 1)), steps, 4)
    shared, y = _SharingDenoiser(D, model, change, times, 1), path[0]
    for x_t, (t, s) in zip(path, pairwise(times)):
        x_hat = shared(torch.cat([x_t, y]), t, c).x_hat[1:]
        if shared.passed >= 0.2:
            x_hat = torch.where(shared.changing(), x_hat, x)
        y = y + float(s - t) * (y - x_hat) / float(t)
    return y.clamp(-1, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=32)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model, options = open_model(Request("emoji"))
    assert isinstance(model, Cascade) and isinstance(model.base, FlowMatching)
    base, steps, scale = model.base.eval(), options["steps"], options["scale"]
    captions, x, true = pairs(asked.n)
    small, small_true = (resize(each, 32, 32) for each in (x, true))
    changes = [rewording(model.spec, c, [f"replace:{BEFORE}={AFTER}"]) for c in captions]
    longest = max(c.text.shape[1] for c, _, _ in changes if c.text is not None)
    c = Condition.cat([before.padded(longest) for before, _, _ in changes])
    guided = base.plan(scale=scale, clip=False).D
    rows: list[tuple[str, ...]] = []
    for name, D, D_back, rounds in (
        ("inversion", base, guided, 1),
        ("fixed point", guided, guided, 4),
        ("negative-prompt", base, base, 4),
    ):
        start = time.process_time()
        got = back(D_back, inverted(D, small, c, steps, rounds)[0], c, steps)
        rows.append((name, _share(small, got), f"{time.process_time() - start:.0f} s"))
    rows.append(("followed", _share(small, base.reconstruct_for_edit(small)), "0 s"))
    show(
        f"{asked.n} real emoji, 32 x 32, {steps} steps, guidance {scale:g}", ("", "error", ""), rows
    )

    plan = {"sampler": "euler", "steps": steps, "scale": scale}
    D = base.plan(**plan).D
    edits: dict[str, Callable[[int], Images]] = {
        "left as it is": lambda i: small[i : i + 1],
        "same seed": lambda i: base.sample(1, changes[i][1], seed=i, **plan),
        "inverted, then prompt-to-prompt": lambda i: from_inversion(
            base, D, small[i : i + 1], Condition.cat([*changes[i][:2]]), changes[i][2], steps
        ),
        "followed": lambda i: last(
            base.reword(*changes[i], image=small[i : i + 1], seed=i, **plan)
        )[1:],
    }
    for strength in STRENGTHS:
        edits[f"SDEdit {strength:g}"] = lambda i, strength=strength: last(
            base.edit(small[i : i + 1], changes[i][1], strength=strength, seed=i, **plan)
        )
    compare("32 x 32", edits, small_true)
    whole: dict[str, Callable[[int], Images]] = {
        "left as it is": lambda i: x[i : i + 1],
        "same seed": lambda i: model.sample(1, changes[i][1], seed=i, **options),
        "followed": lambda i: last(
            model.reword(*changes[i], image=x[i : i + 1], seed=i, **options)
        )[1:],
    }
    for strength in STRENGTHS:
        whole[f"SDEdit {strength:g}"] = lambda i, strength=strength: last(
            model.edit(x[i : i + 1], changes[i][1], strength=strength, seed=i, **options)
        )
    compare("64 x 64", whole, true)


def last(frames) -> Images:
    """The finished pictures."""
    *_, picture = frames
    return picture


def compare(title: str, edits: dict[str, Callable[[int], Images]], true: Images) -> None:
    """Show how far each way is from the artist's own picture."""
    rows: list[tuple[str, ...]] = []
    for name, edit in edits.items():
        start = time.process_time()
        made = torch.cat([edit(i) for i in range(len(true))])
        seconds = (time.process_time() - start) / len(true)
        rows.append((name, _share(true, made), f"{seconds:.2f} s"))
    show(f"edits of {len(true)} real emoji, {title}", ("", "from the truth", "each"), rows)


def _share(x: Images, y: Images) -> str:
    return f"{reconstruction_error(x, y):.1%}"


if __name__ == "__main__":
    main()
