"""Draw the pictures of latent diffusion, from two runs:

    limner train recipes/autoencoders/kl-emoji64.toml --run runs/kl-emoji64
    limner train recipes/diffusion/latent-emoji64.toml --run runs/latent-emoji64
    python docs/figures/latent.py runs/latent-emoji64

One sheet shows emoji that were not used in training, and their reconstructions from maps with a
sixteenth of the positions. The other one shows the first draws of six prompts.
"""

import sys

import torch
from labelled import save_sheet

from diffusion import PROMPTS
from limner import Noise, open_data
from limner.commands.request import SamplingRequest, open_model
from limner.commands.sheets.sample import paint_sheet
from limner.contract.image import to_uint8
from limner.diffusion.latent_diffusion import LatentDiffusion

SHOWN = 10
DRAWS = 5


def maps(model: LatentDiffusion) -> None:
    """Draw pictures, the first three channels of their maps as colours, and the decoded maps."""
    data = open_data("emoji", size=model.spec.height, style="3d", split="held-out-concept")
    numbers = torch.linspace(0, len(data) - 1, SHOWN).long()
    x = data.images(numbers, Noise.keyed(0, 0, numbers))
    with torch.no_grad():
        z = model.stage.latents(x, Noise.sampling(0, SHOWN))
        reconstructed = model.stage.pictures(z).clamp(-1, 1)
    normalised = (z - model.latent_mean) / model.latent_deviation
    colours = (normalised[:, :3] / 3).clamp(-1, 1)
    enlarged = colours.repeat_interleave(x.shape[2] // z.shape[2], 2)
    enlarged = enlarged.repeat_interleave(x.shape[3] // z.shape[3], 3)
    images = to_uint8(torch.cat([x, enlarged, reconstructed]))
    save_sheet(images, "latent-maps", ["emoji", "its map", "what is left"], [""] * SHOWN)


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("pass a run: python docs/figures/latent.py runs/latent-emoji64")
    model, _ = open_model(SamplingRequest(model=sys.argv[1]), "cpu")
    assert isinstance(model, LatentDiffusion)
    maps(model)
    sheet, _ = paint_sheet(SamplingRequest(model=sys.argv[1], prompts=PROMPTS, n=DRAWS))
    save_sheet(sheet.images, "latent-draws", PROMPTS, [f"seed {i}" for i in range(DRAWS)])


if __name__ == "__main__":
    main()
