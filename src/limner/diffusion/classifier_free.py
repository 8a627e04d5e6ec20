"""Classifier-free guidance, with the training and the sampler of its paper.

Ho, Salimans (2022). Classifier-free diffusion guidance. arXiv:2207.12598.

One network learns the conditional model and, where the condition is hidden, the unconditional one
(algorithm 1). Sampling evaluates both, and enlarges the difference that the condition makes
(algorithm 2, `denoising.Guided`; its scale is 1 + w). The network's time is the log signal-to-noise
ratio l, drawn in training from l = -2 ln tan(a u + b), u uniform (`schedules.LogSNR`). A step from
l to l' > l has the mean of q(z_l' | z_l, x~) and the variance small^(1 - v) large^v; the last one
returns x~.

Every denoising model of this library has this guidance; this one is the paper's own model.

Kept: the schedule, noise prediction, the sampler with v = 0.3, x~ clipped. Also here: prediction of
the picture or of v, and the likelihood of the probability flow (`probability_flow`). Different: the
U-Net works on 2 x 2 patches; T steps evaluate the network at u = 1, 1 - 1/T, ..., 1/T, and x~ at
1/T is the picture, where the paper's steps continue to u = 0. The greatest l is so far from the
previous one that the multistep solvers, which share these times, would be inaccurate.
"""

from typing import Unpack

import torch

from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images, ImageSpec
from limner.contract.noise import Noise
from limner.contract.options import Share
from limner.contract.registry import Paper, register
from limner.diffusion.probability_flow import FlowLikelihood
from limner.maths.denoisers import PREDICTIONS, Estimate, Parametrisation, Prediction
from limner.maths.schedules import LogSNR, Times
from limner.nn.unet import PatchOptions, UNet


@register(
    "classifier-free",
    family="diffusion",
    paper=Paper("Classifier-free diffusion guidance", "Ho, Salimans", 2022, "2207.12598"),
    tiny={"channels": (4,), "prediction": "v"},
    train={"lr": 5e-4, "clip": 1.0},
)
class ClassifierFree(FlowLikelihood):
    """Classifier-free guidance: continuous-time diffusion, guided by its own unconditional model.

    Args:
        spec: specification of the images.
        least, greatest: ends of the log signal-to-noise ratio.
        variance: v, which sets the variance of a reverse step: from 0, the posterior variance, to
            1, the largest variance.
        prediction: what the network predicts: the noise, the picture or v.
        condition_dropout: probability that training hides the condition, the paper's p_uncond.
        unet: see `PatchOptions`.

    Raises:
        LimnerError: least is not below greatest.
    """

    default_sampler = "ancestral"
    default_steps = 128

    def __init__(
        self,
        spec: ImageSpec,
        least: float = -20.0,
        greatest: float = 20.0,
        variance: Share = 0.3,
        prediction: Prediction = "epsilon",
        condition_dropout: Share = 0.1,
        **unet: Unpack[PatchOptions],
    ) -> None:
        if not least < greatest:
            raise LimnerError(f"model.least={least:g} must be below model.greatest={greatest:g}")
        network = UNet(spec, **unet)
        super().__init__(spec, network, condition_dropout)
        self.schedule, self.variance = LogSNR(least, greatest), variance
        self.prediction: Prediction = prediction

    @property
    def parametrisation(self) -> Parametrisation:
        """Parametrisation that belongs to `prediction`."""
        return PREDICTIONS[self.prediction]

    def draw_times(self, noise: Noise) -> Times:
        """Draw u, uniform on (0, 1)."""
        return noise.uniform(dtype=torch.float64).clamp_(min=1e-6)

    def __call__(self, x_t: Images, t: Times, c: Condition) -> Estimate:
        """Return x_hat, and v."""
        return Estimate(
            super().__call__(x_t, t, c).x_hat, x_t.new_full((1, 1, 1, 1), self.variance)
        )
