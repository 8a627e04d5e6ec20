"""The importance-weighted bound equals pythae's, given equal networks and draws."""

from typing import Any

import torch
from pythae import models as pythae
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from torch import Tensor, nn

from limner.autoencoders.vae import VAE
from limner.contract.image import ImageSpec, from_levels
from limner.contract.noise import Noise

SPEC = ImageSpec(1, 6, 5, levels=2)
LATENT, DRAWS, PICTURES = 3, 40, 7


class Encoder(BaseEncoder):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> ModelOutput:
        mean, log_deviation = self.network(2 * x - 1).chunk(2, 1)
        return ModelOutput(embedding=mean, log_covariance=2 * log_deviation)


class Decoder(BaseDecoder):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.network(z).sigmoid().permute(0, 3, 1, 2))


@torch.no_grad()
def test_the_bound_with_k_draws_equals_pythaes():
    """`VAE.get_nll` of pythae 0.1.2 returns the mean over pictures, so each is passed alone."""
    torch.manual_seed(0)
    model: Any = VAE(SPEC, latent=LATENT, hidden=(16,), importance_samples=DRAWS).double()
    for p in model.parameters():
        p += 0.3 * torch.randn_like(p)
    levels = torch.randint(2, (PICTURES, *SPEC.shape))
    x = from_levels(levels, 2).double()
    bound = model.log_prob(x, noise=Noise.sampling(0, PICTURES))

    drawing = Noise.sampling(0, PICTURES)
    draws = [drawing.normal(LATENT, dtype=torch.float64) for _ in range(DRAWS)]
    config = pythae.VAEConfig(input_dim=SPEC.shape, latent_dim=LATENT, reconstruction_loss="bce")
    peer: Any = pythae.VAE(config, Encoder(model.encoder), Decoder(model.decoder))
    for i, epsilon in enumerate(torch.stack(draws, 1)):
        peer._sample_gauss = lambda mean, deviation, e=epsilon: (mean + deviation * e, e)
        theirs = peer.get_nll(levels[i : i + 1].double(), DRAWS, DRAWS)
        torch.testing.assert_close(bound.nats[i].item(), theirs, rtol=1e-9, atol=0)
