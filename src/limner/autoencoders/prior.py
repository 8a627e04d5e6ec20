"""What codes are like before any picture is seen: standard normal, or so after a learned flow.

    log p(z) = log N(e; 0, 1) + log C,   e = flow(z)

With no flow at all, p(z) = N(0, 1). A learned one, trained on the same bound as the rest, goes to
where the posteriors of pictures are, which a standard normal one makes come to it: the KL term
falls, and what is drawn from p(z) is more like the codes of pictures.

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
    """A perceptron of two hidden layers that ends in zeros, from numbers to theta of others.

    Args:
        seen: how many numbers it sees.
        out: numbers of theta, all together.
    """

    def __init__(self, seen: int, out: int) -> None:
        super().__init__()
        self.linear_in = nn.Linear(seen, _HIDDEN)
        self.linear_hidden = nn.Linear(_HIDDEN, _HIDDEN)
        self.linear_out = nn.Linear(_HIDDEN, out)
        nn.init.zeros_(self.linear_out.weight)
        nn.init.zeros_(self.linear_out.bias)

    def forward(self, x: Float[Tensor, "b c 1 1"], _: Signal) -> Float[Tensor, "b o 1 1"]:
        """theta of a coupling."""
        h = self.linear_hidden(F.silu(self.linear_in(x.flatten(1))))
        return self.linear_out(F.silu(h))[:, :, None, None]


class Prior(nn.Module):
    """The law of codes.

    Args:
        flow: from codes, as pictures of one pixel, to standard normal numbers.
    """

    def __init__(self, flow: Chain) -> None:
        super().__init__()
        self.flow = flow

    @classmethod
    def normal(cls) -> "Prior":
        """The standard normal one."""
        return cls(Chain())

    @classmethod
    def realnvp(cls, latent: int) -> "Prior":
        """Affine couplings that take turns; at first the standard normal law.

        Args:
            latent: how many numbers a code has.

        Raises:
            LimnerError: a code of one number has no other half.
        """
        if latent < 2:
            raise LimnerError(
                "model.prior=realnvp couples the numbers of a code, and there is one; "
                "give model.latent=2 or more"
            )
        seen, f = latent // 2, Affine()
        reverse = range(latent - 1, -1, -1)
        layers = [
            layer
            for _ in range(_COUPLINGS)
            for layer in (
                Coupling(Network(seen, f.size * (latent - seen)), f),
                Permutation(reverse),
            )
        ]
        return cls(Chain(*layers))

    @property
    def learned(self) -> bool:
        """Whether there is a flow."""
        return len(list(self.flow)) > 0

    def log_prob(self, z: Float[Tensor, "*n d"]) -> Float[Tensor, "*n"]:
        """log p(z) in nats."""
        e, log_c = self.flow(z.reshape(-1, z.shape[-1], 1, 1))
        return (log_normal(e) + log_c).view(z.shape[:-1])

    def normalised(self, z: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """The standard normal numbers e of codes."""
        return self.flow(z[:, :, None, None])[0].flatten(1)

    def code(self, e: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        """The codes of standard normal numbers: draws from p(z), if these are drawn."""
        return self.flow.inverse(e[:, :, None, None]).flatten(1)
