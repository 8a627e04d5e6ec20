"""Denoising diffusion probabilistic models.

Ho, Jain, Abbeel (2020). Denoising diffusion probabilistic models. arXiv:2006.11239.

A picture is destroyed in T small steps of noise, q(x_k | x_{k-1}) = N(sqrt(1 - beta_k) x_{k-1},
beta_k I); a network learns to undo them. Trained on L_simple (equation 14): the noise in x_k is
predicted, for a random k.

Kept: linear betas, epsilon prediction, ancestral sampling with the smaller of the paper's two fixed
variances, x_hat clipped. Also here: the cosine schedule of Nichol, Dhariwal (2021),
arXiv:2102.09672, and prediction of the picture or of v. Different: the U-Net works on 2 x 2
patches, and sampling visits 250 of the 1,000 steps unless told otherwise.
"""

from typing import Annotated, Literal

from pydantic import Field

from limner.denoising import DenoisingModel, Parametrisation, epsilon, picture, velocity
from limner.image import ImageSpec
from limner.nn.unet import UNet
from limner.noise import Noise
from limner.registry import Paper, register
from limner.schedules import DiscreteSchedule, Times, cosine_betas, linear_betas, sigmoid_betas

_BETAS = {"linear": linear_betas, "cosine": cosine_betas, "sigmoid": sigmoid_betas}
_PREDICTIONS = {"epsilon": epsilon, "x": picture, "v": velocity}


@register(
    "ddpm",
    family="diffusion",
    paper=Paper("Denoising diffusion probabilistic models", "Ho, Jain, Abbeel", 2020, "2006.11239"),
    tiny={"channels": (8, 16), "T": 20},
)
class DDPM(DenoisingModel):
    """Denoising diffusion: noise is removed in small random steps.

    Args:
        spec: what the images are.
        channels, blocks, attention, patch, dropout: of the `UNet`.
        T: how many steps destroy a picture.
        schedule: how the noise of the steps grows.
        prediction: what the network is asked for.
        condition_dropout: how often training hides the condition.
    """

    default_sampler = "ancestral"
    default_steps = 250

    def __init__(
        self,
        spec: ImageSpec,
        channels: tuple[int, ...] = (64, 128),
        blocks: Annotated[int, Field(ge=1)] = 1,
        attention: Annotated[int, Field(ge=0)] = 1,
        patch: Annotated[int, Field(ge=1)] = 2,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        T: Annotated[int, Field(ge=1)] = 1000,
        schedule: Literal["linear", "cosine", "sigmoid"] = "linear",
        prediction: Literal["epsilon", "x", "v"] = "epsilon",
        condition_dropout: Annotated[float, Field(ge=0, le=1)] = 0.1,
    ) -> None:
        network = UNet(spec, channels, blocks, attention, patch, dropout)
        super().__init__(spec, network, condition_dropout)
        self.schedule, self.T = DiscreteSchedule(_BETAS[schedule](T)), T
        self.prediction = prediction

    @property
    def parametrisation(self) -> Parametrisation:
        """As `prediction` says."""
        return _PREDICTIONS[self.prediction]

    def draw_times(self, noise: Noise) -> Times:
        """k / T with k uniform on 1 .. T."""
        return (noise.integers(self.T) + 1).double() / self.T
