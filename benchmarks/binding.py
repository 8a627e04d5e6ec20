"""Whether a painter of scenes reads the order of words, or captions as bags of them.

    python benchmarks/binding.py checkpoints/scenes128 -n 192

The denoising loss is read with true captions, with captions in which the two colours (attribution)
or the two things (position) have changed places, and without any. Only order tells the first two
apart: where they cost the same, the model cannot paint a red apple beside a green car but by luck.
"""

import argparse
import re
from pathlib import Path

import torch
from timing import show

from limner.contract.bundled import bundled
from limner.contract.checkpoint import load
from limner.contract.image import Batch, Condition, from_uint8
from limner.contract.model import Learner
from limner.contract.noise import Noise
from limner.contract.text import Tokenizer
from limner.data.scenes import ComposedScenes, Scenes
from limner.diffusion.denoising_model import DenoisingModel

SKILLS = {"attribution": "", "position": "left of,right of,above,below"}
TIMES = (0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)


def exchange(a: str, b: str, text: str) -> str:
    """The text with each of two terms in place of the other."""
    longer, shorter = sorted((a, b), key=len, reverse=True)
    either = rf"\b(?:{re.escape(longer)}|{re.escape(shorter)})\b"
    return re.sub(either, lambda found: b if found[0] == a else a, text)


def exchanged(data: ComposedScenes, index: int, caption: str) -> str:
    """A caption of two things with their colours or their names exchanged."""
    scene = data.scene(index)
    assert scene is not None
    a, b = scene.things[:2]
    if scene.skill == "attribution":
        return exchange(str(a.colour), str(b.colour), caption)
    return exchange(a.name, b.name, caption)


def loss(model: Learner, t: float, batch: Batch) -> float:
    """The denoising loss at one time; the noise is the same for every condition."""
    denoiser = next(each for each in model.modules() if isinstance(each, DenoisingModel))
    at = torch.full((len(batch.x),), t, dtype=torch.float64)
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
    if spec.text is None:
        raise SystemExit(f"{asked.model} reads no captions")
    tokenizer, rows = Tokenizer(spec.text), torch.arange(asked.n)
    for skill, relations in SKILLS.items():
        source = Scenes(
            split="test", size=spec.height, vocabulary=asked.vocabulary, grid=16,
            skills=skill, relations=relations,
        )  # fmt: skip
        data = source.open("scenes")
        true = data.captions(rows, Noise.sampling(0, asked.n))
        turned = [exchanged(data, i, caption) for i, caption in enumerate(true)]
        x = from_uint8(data.pixels(rows))
        conditions = [Condition(text=tokenizer.encode(said)) for said in (true, turned)]
        table: list[tuple[str, ...]] = []
        for t in TIMES:
            right, wrong, none = (loss(model, t, Batch(x, c)) for c in (*conditions, Condition()))
            table.append(
                (f"{t:g}", f"{right:.4f}", f"{wrong - right:+.4f}", f"{none - right:+.4f}")
            )
        show(f"{skill}, n = {asked.n}", ("t", "true caption", "exchanged", "none"), table)


if __name__ == "__main__":
    main()
