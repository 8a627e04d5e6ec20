"""Priors p(z) of a code: standard normal, or a learned flow.

    log p(z) = log N(e; 0, 1) + log C,   e = flow(z)

Without a flow, p(z) = N(0, 1), and training draws the posteriors of pictures to this prior. A
learned prior is trained on the same bound as the rest of the model, and moves to the posteriors
instead. So the KL term falls, and draws from p(z) resemble the codes of pictures more closely.

Dinh, Sohl-Dickstein, Bengio (2016). Density estimation using Real NVP. arXiv:1605.08803. Chen,
Kingma, Salimans, Duan, Dhariwal, Schulman, Sutskever, Abbeel (2016). Variational lossy autoencoder.
arXiv:1611.02731, section 3.2.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.errors import LimnerError
from limner.maths.couplings import Affine
from limner.maths.transforms import Chain, Coupling, Permutation, log_normal
from limner.nn.condition import Signal

_COUPLINGS, _HIDDEN = 6, 128


class Network(nn.Module):
    """An MLP with two hidden layers and a zero-initialised output, for a coupling's theta.

    Args:
        inputs: number of inputs.
        outputs: number of outputs.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear_in = nn.Linear(inputs, _HIDDEN)
        self.linear_hidden = nn.Linear(_HIDDEN, _HIDDEN)
        self.linear_out = nn.Linear(_HIDDEN, outputs)
        nn.init.zeros_(self.linear_out.weight)
        nn.init.zeros_(self.linear_out.bias)

    def forward(self, x: Float[Tensor, "b c 1 1"], _: Signal) -> Float[Tensor, "b o 1 1"]:
        """Return theta of a coupling."""
        h = self.linear_hidden(F.silu(self.linear_in(x.flatten(1))))
        return self.linear_out(F.silu(h))[:, :, None, None]


class Prior(nn.Module):
    """A prior of codes.

    Args:
        flow: flow from codes, as pictures of one pixel, to standard normal numbers; an empty one
            leaves the prior standard normal.
    """

    def __init__(self, flow: Chain) -> None:
        super().__init__()
        self.flow = flow

    @classmethod
    def normal(cls) -> "Prior":
        """Return the standard normal prior."""
        return cls(Chain())

    @classmethod
    def realnvp(cls, latent: int) -> "Prior":
        """Return a prior of alternating affine couplings, initialised as standard normal.

        Args:
            latent: dimension of a code.

        Raises:
            LimnerError: the code has one dimension only, so it cannot be split in halves.
        """
        if latent < 2:
            raise LimnerError(
                "model.prior=realnvp couples the halves of a code, and this code has only one "
                "dimension; give model.latent=2 or more"
            )
        half, f = latent // 2, Affine()
        reverse = range(latent - 1, -1, -1)
        layers = [
            layer
            for _ in range(_COUPLINGS)
            for layer in (
                Coupling(Network(half, f.size * (latent - half)), f),
                Permutation(reverse),
            )
        ]
        return cls(Chain(*layers))

    @property
    def is_learned(self) -> bool:
        """Whether the prior has a flow."""
        return len(list(self.flow)) > 0

    def log_prob(self, z: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """Return log p(z) in nats."""
        e, log_c = self.flow(z.reshape(-1, z.shape[-1], 1, 1))
        return (log_normal(e) + log_c).view(z.shape[:-1])

    def to_normal(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Return e = flow(z), the standard normal numbers of codes."""
        return self.flow(z[:, :, None, None])[0].flatten(1)

    def code(self, e: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """Return the codes of standard normal numbers e; for e from N(0, 1), draws from p(z)."""
        return self.flow.inverse(e[:, :, None, None]).flatten(1)
