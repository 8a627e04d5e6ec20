"""EDM: the design space of diffusion, put in order.

Karras, Aittala, Aila, Laine (2022). Elucidating the design space of diffusion-based generative
models. arXiv:2206.00364.

Time is the noise's standard deviation sigma. The network's input and target have unit variance at
every sigma (table 1); training draws ln sigma from a normal distribution; sampling uses Heun's
method on few, well chosen sigmas.

The likelihood is that of the probability flow (`probability_flow`), from sigma_min to sigma_max.

Kept: preconditioning, loss, noise distribution, times, the stochastic and the deterministic
sampler. Different: sigma_data is measured on the data unless it is given; no augmentation pipeline;
the U-Net works on 2 x 2 patches.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Unpack

import torch

from limner.contract.image import Batch, ImageSpec
from limner.contract.noise import Noise
from limner.contract.options import Positive, Share
from limner.contract.registry import Paper, register
from limner.diffusion.probability_flow import FlowLikelihood
from limner.maths.denoisers import Parametrisation, edm
from limner.maths.schedules import Times, VarianceExploding
from limner.nn.unet import PatchOptions, UNet

_MEASURED_BATCHES = 16


@register(
    "edm",
    family="diffusion",
    paper=Paper(
        "Elucidating the design space of diffusion-based generative models",
        "Karras, Aittala, Aila, Laine",
        2022,
        "2206.00364",
    ),
    tiny={"channels": (8, 16)},
    train={"lr": 5e-4, "clip": 1.0},
)
class EDM(FlowLikelihood):
    """EDM: preconditioned denoising over log-normal noise levels, sampled by Heun's method.

    Args:
        spec: specification of the images.
        sigma_data: the standard deviation of the pictures' values; measured on the data when not
            given.
        mean, deviation: mean and standard deviation of ln sigma in training (the paper's P_mean and
            P_std).
        condition_dropout: probability that training hides the condition.
        unet: see `PatchOptions`.
    """

    default_sampler = "heun"
    default_steps = 18
    sigma_data: torch.Tensor

    def __init__(
        self,
        spec: ImageSpec,
        sigma_data: Positive | None = None,
        mean: float = -1.2,
        deviation: Positive = 1.2,
        condition_dropout: Share = 0.1,
        **unet: Unpack[PatchOptions],
    ) -> None:
        network = UNet(spec, **unet)
        super().__init__(spec, network, condition_dropout)
        self.schedule = VarianceExploding()
        self.measure = sigma_data is None
        self.mean, self.deviation = mean, deviation
        self.register_buffer("sigma_data", torch.tensor(sigma_data or 0.5, dtype=torch.float64))

    def prepare(self, batches: Iterator[Batch]) -> None:
        """Measure sigma_data, unless it was given."""
        if self.measure:
            values = torch.cat(
                [batch.x.double().flatten() for batch in islice(batches, _MEASURED_BATCHES)]
            )
            self.sigma_data.copy_(values.std().clamp_(min=1e-3))

    @property
    def parametrisation(self) -> Parametrisation:
        """EDM's preconditioning with the data's standard deviation."""
        is_exporting = torch.compiler.is_exporting()  # a graph cannot turn a tensor into a number
        return edm(self.sigma_data if is_exporting else float(self.sigma_data))

    def draw_times(self, noise: Noise) -> Times:
        """Draw sigma with ln sigma ~ N(mean, deviation^2)."""
        return (self.mean + self.deviation * noise.normal(dtype=torch.float64)).exp()
