"""Whether a painter of scenes reads the order of words, or captions as bags of them.

    python benchmarks/binding.py scenes

The denoising loss is read with true captions, with captions in which the two colours (attribution)
or the two things (position) have changed places, and without any. Only order tells the first two
apart: where they cost the same, the model cannot paint a red apple beside a green car but by luck.
Times are those of flow matching, t = sigma / (alpha + sigma), whatever the model's own are.
"""

import argparse
import random
from dataclasses import replace
from pathlib import Path

import torch
from timing import show

from limner.contract.bundled import bundled
from limner.contract.checkpoint import load
from limner.contract.image import Batch, Condition, from_uint8
from limner.contract.model import Learner
from limner.contract.noise import Noise
from limner.contract.text import Tokenizer
from limner.data.captions import caption
from limner.data.scenes import ComposedScenes, Scenes
from limner.diffusion.denoising_model import DenoisingModel
from limner.diffusion.latent_diffusion import LatentDiffusion

SKILLS = {"attribution": "", "position": "left of,right of,above,below"}
TIMES = (0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)


def captions(data: ComposedScenes, index: int) -> tuple[str, str]:
    """The caption of a scene of two things, and the same with their colours or names exchanged."""
    options = data.options
    chance = random.Random(f"{options.seed}/{index}")
    scene = data.composer.draw(options.split, chance)
    a, b, *rest = scene.things
    if scene.relation is None:
        colours = replace(a, colour=b.colour), replace(b, colour=a.colour)
        other = replace(scene, things=(*colours, *rest))
    else:
        kind, i, j = scene.relation
        other = replace(scene, relation=(kind, j, i))
    state = chance.getstate()
    true = caption(scene, data.objects, chance)
    chance.setstate(state)
    return true, caption(other, data.objects, chance)


def loss(model: Learner, t: float, batch: Batch) -> float:
    """The denoising loss at one time; the noise is the same for every condition."""
    denoiser = model.denoiser if isinstance(model, LatentDiffusion) else model
    assert isinstance(denoiser, DenoisingModel)
    at = denoiser.schedule.time_of(torch.full((len(batch.x),), t / (1 - t), dtype=torch.float64))
    denoiser.draw_times = lambda noise: at  # pyright: ignore[reportAttributeAccessIssue]
    noise = Noise.keyed(0, 0, range(len(batch.x)))
    (turn,) = model.turns(batch, 0, noise)
    return float(turn.loss)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a run, a model file, or a bundled model")
    parser.add_argument("-n", type=int, default=192, help="scenes of each skill")
    parser.add_argument("--vocabulary", type=int, default=120, help="objects of the scenes")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = load(bundled().get(asked.model, Path(asked.model)))
    spec = model.spec
    if spec.text is None or not isinstance(model, (DenoisingModel, LatentDiffusion)):
        raise SystemExit(f"{asked.model} is no denoising model that reads captions")
    tokenizer, rows = Tokenizer(spec.text), torch.arange(asked.n)
    for skill, relations in SKILLS.items():
        source = Scenes(
            split="test", size=spec.height, vocabulary=asked.vocabulary, grid=16,
            skills=skill, relations=relations,
        )  # fmt: skip
        data = source.open("scenes")
        true, turned = zip(*(captions(data, i) for i in range(asked.n)))
        assert [*true] == data.captions(rows, Noise.sampling(0, asked.n))
        x = from_uint8(data.pixels(rows))
        conditions = [Condition(text=tokenizer.encode([*said])) for said in (true, turned)]
        table: list[tuple[str, ...]] = []
        for t in TIMES:
            right, wrong, none = (loss(model, t, Batch(x, c)) for c in (*conditions, Condition()))
            table.append(
                (f"{t:g}", f"{right:.4f}", f"{wrong - right:+.4f}", f"{none - right:+.4f}")
            )
        show(f"{skill}, n = {asked.n}", ("t", "true caption", "exchanged", "none"), table)


if __name__ == "__main__":
    main()
