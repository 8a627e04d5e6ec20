"""Attention maps: the cross-attention of a picture's places to each word of a prompt.

A place of a picture spreads its attention over the tokens of the prompt, and over a null key:

    a_w(place) = mean over times, layers and heads of softmax(q k^T / sqrt(d)),   sum over w <= 1

References:
    Hertz, Mokady, Tenenbaum, Aberman, Pritch, Cohen-Or (2022). Prompt-to-prompt image editing with
    cross-attention control. arXiv:2208.01626.
    Tang, Liu, Pandey, Jiang, Yang, Kumar, Stenetorp, Lin, Ture (2022). What the DAAM: interpreting
    Stable Diffusion using cross attention. arXiv:2210.04885.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.abilities import Attends
from limner.contract.errors import LimnerError
from limner.contract.evaluation_mode import evaluation_mode
from limner.contract.image import Condition, Images, check_images, one_for_each
from limner.contract.noise import Noise
from limner.diffusion.controlled_network import Control
from limner.diffusion.sampling import Repaints
from limner.maths.schedules import Schedule
from limner.nn.attention import Attention, Edit, Weights

_NOISE_LEVELS = 10


class Attending(Repaints, Attends):
    """Denoiser D(x_t, t, c) with a `schedule` that has attention maps."""

    schedule: Schedule

    def attention_maps(self, x: Images, c: Condition) -> Float[Tensor, "b l h w"]:
        """Return the network's cross-attention to each token as it denoises pictures: `Attends`.

        Each picture is denoised once at each of several noise levels, with the same noise for all
        pictures. So maps depend on the picture, and not on how it was sampled.
        """
        check_images(x)
        return self.maps_of(x, c)

    def maps_of(self, x: Images, c: Condition) -> Float[Tensor, "b l h w"]:
        """Return `attention_maps` of pictures or of latent maps, which may have any range."""
        if c.text is None:
            raise LimnerError("there is no prompt, so there are no words to map; give a prompt")
        if tuple(x.shape[1:]) != self.spec.shape:
            expected, actual = (
                " x ".join(map(str, each)) for each in (self.spec.shape, x.shape[1:])
            )
            raise LimnerError(
                f"this model takes {expected} pictures, not {actual}; give such a picture"
            )
        layers = (each for each in self.modules() if isinstance(each, Attention))
        x = x.to(next((each.query.weight for each in layers), x))
        c = one_for_each(len(x), c)
        noise, c = Noise.sampling([0] * len(x), len(x), str(x.device)), c.to(x.device)
        with evaluation_mode(self), torch.no_grad(), looking(self) as recorder:
            z, _ = self.to_latent(x, None, noise)
            for t in self.schedule.times(_NOISE_LEVELS + 1)[1:-1]:
                alpha, sigma = map(float, self.schedule(t))
                self(alpha * z + sigma * noise.normal(*z.shape[1:]).to(z), t, c)
        return recorder.maps(*self.spec.shape[1:])


class Looks:
    """Recorder of a network's cross-attention weights, layer by layer."""

    def __init__(self) -> None:
        self.weights: list[Float[Tensor, "b q k"]] = []
        self.paused = False

    def keep(self, before: Edit | None, site: str, weights: Weights) -> Weights:
        """Record the weights unless paused; a hook that does not change them."""
        weights = weights if before is None else before(site, weights)
        if not self.paused:
            self.weights.append(weights.detach().float().mean(1))
        return weights

    def pause(self, *_: Any) -> None:
        """Pause before a control's forward pass, since its encoder is a copy; a hook."""
        self.paused = True

    def resume(self, *_: Any) -> None:
        """Resume after a control's forward pass; a hook."""
        self.paused = False

    def maps(self, height: int, width: int) -> Float[Tensor, "b l h w"]:
        """Return the mean of all layers, enlarged to one size, without the null key, the first.

        Raises:
            LimnerError: there was no cross-attention.
        """
        if not self.weights:
            raise LimnerError("this model's network has no cross-attention to words; give another")
        total = torch.zeros(())
        for weights in self.weights:
            factor = round((height * width / weights.shape[1]) ** 0.5)
            layer_maps = weights[:, :, 1:].mT.unflatten(2, (height // factor, width // factor))
            total = total + F.interpolate(layer_maps, (height, width), mode="bilinear")
        return total / len(self.weights)


@contextlib.contextmanager
def looking(network: nn.Module) -> Iterator[Looks]:
    """Record a network's cross-attention, without that of controls; its outputs do not change."""
    recorder = Looks()
    controls = [module for module in network.modules() if isinstance(module, Control)]
    hooks = [module.register_forward_pre_hook(recorder.pause) for module in controls]
    hooks += [module.register_forward_hook(recorder.resume) for module in controls]
    layers = [module for module in network.modules() if isinstance(module, Attention)]
    edits = {module: module.edit for module in layers if module.null is not None}
    for layer, edit in edits.items():
        layer.edit = lambda site, weights, edit=edit: recorder.keep(edit, site, weights)
    try:
        yield recorder
    finally:
        for hook in hooks:
            hook.remove()
        for layer, edit in edits.items():
            layer.edit = edit
