"""Write `translation.json`: outputs of the authors' own code for weights that are drawn here.

    git clone https://github.com/taesungp/contrastive-unpaired-translation
    git -C contrastive-unpaired-translation checkout b3ac297
    PYTHONPATH=contrastive-unpaired-translation python tests/gans/golden/translation.py

The repository is the authors' CUT. It also has CycleGAN's networks, losses and model, and pix2pix's
U-Net, as in their repository pytorch-CycleGAN-and-pix2pix. Weights and pictures are drawn with
`limner.contract.noise`.
"""

import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from limner.contract.noise import Noise

HERE = Path(__file__).parent
SIDE = 64


def fill(network: nn.Module) -> None:
    """Fill the weights of the i-th convolution or linear layer from streams that depend on i."""
    kinds = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
    layers = [layer for layer in network.modules() if isinstance(layer, kinds)]
    with torch.no_grad():
        for i, layer in enumerate(layers):
            for kind, p in enumerate((layer.weight, layer.bias)):
                if p is not None:
                    p.copy_(0.03 * Noise.keyed(7, kind, [i]).normal(p.numel()).view(p.shape))


def pictures(n: int, channels: int, side: int = SIDE) -> Tensor:
    """Return smooth random pictures in [-1, 1]."""
    coarse = Noise.keyed(7, 2, range(n)).uniform(channels, side // 8, side // 8) * 2 - 1
    return nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(-1, 1)


def shown(x: Tensor) -> list[float]:
    """Return mean, deviation, and ten numbers of a tensor."""
    entries = x.flatten()[torch.linspace(0, x.numel() - 1, 10).long()]
    return [round(v, 7) for v in [float(x.mean()), float(x.std()), *entries.tolist()]]


def main() -> None:
    """Write the file."""
    from models import networks
    from models.cycle_gan_model import CycleGANModel
    from models.patchnce import PatchNCELoss
    from util.image_pool import ImagePool

    norm = partial(nn.InstanceNorm2d, affine=False, track_running_stats=False)
    plain: dict[str, Any] = {"no_antialias": True, "no_antialias_up": True}
    values: dict[str, Any] = {}
    x = pictures(2, 3)
    with torch.no_grad():
        residual = networks.ResnetGenerator(3, 3, 8, norm, n_blocks=6, **plain)
        fill(residual)
        values["residual"] = shown(residual(x))
        smooth = networks.ResnetGenerator(3, 3, 8, norm, n_blocks=6)
        fill(smooth)
        values["smooth residual"] = shown(smooth(x))
        unet = networks.UnetGenerator(3, 3, 6, 4, norm)
        fill(unet)
        values["unet"] = shown(unet(x))
        for layers in (2, 3):
            critic = networks.NLayerDiscriminator(3, 8, layers, norm, no_antialias=True)
            fill(critic)
            values[f"critic-{layers}"] = shown(critic(x))
            critic = networks.NLayerDiscriminator(3, 8, layers, norm)
            fill(critic)
            values[f"smooth critic-{layers}"] = shown(critic(x))
        query, key = (
            nn.functional.normalize(Noise.keyed(7, step, range(2)).normal(16, 8), dim=-1)
            for step in (3, 4)
        )
        options = SimpleNamespace(
            nce_includes_all_negatives_from_minibatch=False, batch_size=2, nce_T=0.07
        )
        loss = PatchNCELoss(options)(query.flatten(0, 1), key.flatten(0, 1))
        values["contrast"] = round(float(loss.mean()), 6)
    model: Any = CycleGANModel.__new__(CycleGANModel)
    model.device = torch.device("cpu")
    model.opt = SimpleNamespace(lambda_identity=0.5, lambda_A=10.0, lambda_B=10.0, amp=False)
    for name in ("netG_A", "netG_B"):
        setattr(model, name, networks.ResnetGenerator(3, 3, 8, norm, n_blocks=1, **plain))
    for name in ("netD_A", "netD_B"):
        setattr(model, name, networks.NLayerDiscriminator(3, 8, 2, norm, no_antialias=True))
    for i, name in enumerate(("netG_A", "netG_B", "netD_A", "netD_B")):
        fill(getattr(model, name))
        with torch.no_grad():
            for p in getattr(model, name).parameters():
                p.mul_(1 + i / 10)  # makes the four different
    model.criterionGAN = networks.GANLoss("lsgan")
    model.criterionCycle = model.criterionIdt = nn.L1Loss()
    model.fake_A_pool, model.fake_B_pool = ImagePool(50), ImagePool(50)
    real = pictures(4, 3)
    model.real_A, model.real_B = real[:2], real[2:]
    model.forward()
    model.backward_G()
    values["generators"] = round(float(model.loss_G.detach()), 5)
    model.backward_D_A()
    model.backward_D_B()
    values["critics"] = round(float((model.loss_D_A + model.loss_D_B).detach()), 5)
    (HERE / "translation.json").write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
