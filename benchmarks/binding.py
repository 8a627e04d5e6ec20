"""Does a model of scenes read the order of words, or does it treat a caption as a bag of words?

    python benchmarks/binding.py scenes

The denoising loss is computed with true captions, with captions in which the two colours
(attribution) or the two things (position) are exchanged, and without captions. Only the order of
words distinguishes the first two. If their losses are equal, the model paints a red apple beside a
green car only by chance. Times are those of flow matching, t = sigma / (alpha + sigma), for every
model.
"""

import random
from dataclasses import replace

import torch
from timing import count, model_name, options_parser, show

from limner.contract.bundled import load
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
    """Return the caption of a two-thing scene, and the same with colours or names exchanged."""
    options = data.options
    rng = random.Random(f"{options.seed}/{index}")
    scene = data.composer.draw(options.split, rng)
    a, b, *rest = scene.things
    if scene.relation is None:
        colours = replace(a, colour=b.colour), replace(b, colour=a.colour)
        swapped = replace(scene, things=(*colours, *rest))
    else:
        kind, i, j = scene.relation
        swapped = replace(scene, relation=(kind, j, i))
    state = rng.getstate()
    true = caption(scene, data.objects, rng)
    rng.setstate(state)
    return true, caption(swapped, data.objects, rng)


def loss(model: Learner, t: float, batch: Batch) -> float:
    """Return the denoising loss at one time; the noise is the same for every condition."""
    denoiser = model.denoiser if isinstance(model, LatentDiffusion) else model
    assert isinstance(denoiser, DenoisingModel)
    times = denoiser.schedule.time_of(torch.full((len(batch.x),), t / (1 - t), dtype=torch.float64))
    denoiser.draw_times = lambda noise: times  # pyright: ignore[reportAttributeAccessIssue]
    noise = Noise.keyed(0, 0, range(len(batch.x)))
    (turn,) = model.turns(batch, 0, noise)
    return float(turn.loss)


@torch.no_grad()
def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument(
        "model", type=model_name, help="run, model file, or name of a bundled model"
    )
    parser.add_argument("-n", type=count, default=192, help="scenes for each skill")
    parser.add_argument(
        "--vocabulary", type=count, default=120, help="objects that scenes may have"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load(args.model)
    spec = model.spec
    if spec.text is None or not isinstance(model, (DenoisingModel, LatentDiffusion)):
        raise SystemExit(f"{args.model} is not a denoising model that reads captions")
    tokenizer, rows = Tokenizer(spec.text), torch.arange(args.n)
    for skill, relations in SKILLS.items():
        source = Scenes(
            split="test", size=spec.height, vocabulary=args.vocabulary, grid=16,
            skills=skill, relations=relations,
        )  # fmt: skip
        data = source.open("scenes")
        true, exchanged = zip(*(captions(data, i) for i in range(args.n)))
        assert [*true] == data.captions(rows, Noise.sampling(0, args.n))
        x = from_uint8(data.pixels(rows))
        conditions = [Condition(text=tokenizer.encode([*texts])) for texts in (true, exchanged)]
        table: list[tuple[str, ...]] = []
        for t in TIMES:
            right, wrong, none = (loss(model, t, Batch(x, c)) for c in (*conditions, Condition()))
            table.append(
                (f"{t:g}", f"{right:.4f}", f"{wrong - right:+.4f}", f"{none - right:+.4f}")
            )
        show(f"{skill}, n = {args.n}", ("t", "true caption", "exchanged", "none"), table)


if __name__ == "__main__":
    main()
