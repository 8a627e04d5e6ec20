"""Base of the normalizing flows: an invertible map from pictures to normal numbers.

    log p(x) = log N(z; 0, I) + log C,   z = flow(dequantise(x))

The latent z has the picture's shape: values that are split off at a scale stay at the pixels that
they came from. Sampling scales z by the temperature and inverts the flow.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from limner.contract.code_editing import EditsCodes
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec, from_levels, to_levels
from limner.contract.likelihood import Likelihood, LikelihoodModel
from limner.contract.noise import Noise
from limner.flows.langevin import langevin
from limner.maths.couplings import Affine
from limner.maths.dequantisation import Dequantisation, Uniform, Variational
from limner.maths.transforms import (
    Chain,
    Logit,
    MaskedCoupling,
    NormalCDF,
    Squeeze,
    Transform,
    checkerboard,
    log_normal,
)
from limner.nn.condition import Conditioner, Signal

Shape = tuple[int, int, int]
Dequantised = Literal["uniform", "variational"]
_DEQUANTISATION_SIZES = 4, 32  # couplings of the dequantising flow, and features of their networks


class CouplingNetwork(nn.Module):
    """Three convolutions, 3 x 3, 1 x 1 and 3 x 3, with ReLU between; the last is initialised as 0.

    Kingma, Dhariwal (2018), arXiv:1807.03039, section 4.

    Args:
        channels: input channels, including those of the signal's planes.
        hidden: features of the two hidden layers.
        out: output channels.
        vector: length of the signal's vector, which shifts the features; 0 without one.
    """

    def __init__(self, channels: int, hidden: int, out: int, vector: int = 0) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, hidden, 3, padding=1)
        self.conv_hidden = nn.Conv2d(hidden, hidden, 1)
        self.conv_out = zero_layer(nn.Conv2d(hidden, out, 3, padding=1))
        self.condition_bias = nn.Linear(vector, hidden, bias=False) if vector else None
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Float[Tensor, "b c h w"], s: Signal) -> Float[Tensor, "b o h w"]:
        """Return theta of a coupling."""
        h = self.conv_in(x if s.planes is None else torch.cat([x, s.planes], 1))
        if self.condition_bias is not None and s.vector is not None:
            h = h + self.condition_bias(s.vector)[:, :, None, None]
        return self.conv_out(F.relu_(self.conv_hidden(F.relu_(h))))


def zero_layer(layer: nn.Conv2d) -> nn.Conv2d:
    """Set a convolution's weights and biases to 0, and return it."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class NormalizingFlow(LikelihoodModel, EditsCodes):
    """An invertible map between pictures and normal numbers.

    A subclass's constructor calls this one, and then sets `flow`, which maps "c h w" to the same
    shape.

    Args:
        spec: specification of the images.
        scales: L, the number of scales.
        alpha: alpha of the logit that is applied to the input; None leaves it out.
        dequantisation: distribution of the noise that is added to the levels.
        vector: length of the vector that encodes labels and captions.
        condition_dropout: probability of hiding the condition in training.
    """

    takes = ("labels", "text")
    inference_rounds = 300
    flow: Transform
    code_scales: Tensor

    def __init__(
        self,
        spec: ImageSpec,
        scales: int,
        alpha: float | None,
        dequantisation: Dequantised,
        vector: int,
        condition_dropout: float,
    ) -> None:
        super().__init__()
        self.conditioner = Conditioner(spec, vector)
        self.vector_size = vector if spec.labels or spec.text else 0
        self.condition_dropout = condition_dropout
        self.scales = scales
        self.preprocess = Chain() if alpha is None else Chain(Logit(alpha))
        self.dequantise: Dequantisation = Uniform(spec.levels)
        if dequantisation == "variational":
            self.dequantise = Variational(spec.levels, _dequantisation_flow(spec.shape))
        self.register_buffer("code_scales", scale_of(spec.shape, scales), persistent=False)

    def formula(self) -> list[str]:
        """Return the formulas of the bound on log p(x), and the chain of transforms."""
        prefix = f"{self.preprocess} -> " if len([*self.preprocess]) else ""
        return [
            "log p(x) >= E log N(z; 0, I) + log C - D log(levels) - log q(u | x)",
            f"z = flow((x + u) / levels),  u by {type(self.dequantise).__name__.lower()} q",
            f"flow = {prefix}{self.flow}",
        ]

    def likelihood_protocol(self) -> str:
        """Return the kind of dequantisation, for reports."""
        return self.dequantise.protocol

    def log_prob(self, x: Images, c: Condition = Condition(), *, noise: Noise) -> Likelihood:
        """Return a bound on log P(x) that is exact up to dequantisation: log p(y) of a y in x's
        bin, plus log C of the dequantisation."""
        s = self.signal(c, len(x))
        y, log_bins = self.dequantise(x, s, noise=noise)
        return Likelihood(self.log_density(y, s) + log_bins, "lower")

    def log_density(self, y: Float[Tensor, "b c h w"], s: Signal) -> Float[Tensor, "b"]:
        """Return the exact log p(y) of dequantised pictures in [0, 1]."""
        h, log_c_preprocess = self.preprocess(y, s)
        z, log_c = self.flow(h, s)
        return log_normal(z) + log_c + log_c_preprocess

    def prepare(self, batches: Iterator[Batch]) -> None:
        """Initialise every activation norm from the first batch."""
        x, c = next(batches)
        s = self.signal(c, len(x))
        y = self.dequantise.prepare(x, s, noise=Noise.sampling(0, len(x), str(x.device)))
        self.flow.prepare(self.preprocess.prepare(y, s), s)

    def encode(self, x: Images, c: Condition = Condition()) -> Float[Tensor, "b d"]:
        """Return the normal numbers z of pictures, dequantised to the centres of their bins."""
        s, levels = self.signal(c, len(x)), self.spec.levels
        y = (to_levels(x, levels).to(x.dtype) + 0.5) / levels
        return self.flow(self.preprocess(y, s)[0], s)[0].flatten(1)

    def decode(self, z: Float[Tensor, "b d"], c: Condition = Condition()) -> Images:
        """Return the pictures of normal numbers, on the grid of levels."""
        s = self.signal(c, len(z))
        h = self.flow.inverse(z.unflatten(1, self.spec.shape), s)
        return self.dequantise.inverse(self.preprocess.inverse(h, s))

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        temperature: Annotated[float, Field(ge=0, le=10)] = 1.0,
    ) -> Iterator[Images]:
        """Yield the pictures from coarse to fine; latents of finer scales are 0 at first.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            temperature: factor by which the normal numbers are scaled; below 1, pictures are more
                typical and less varied, and 0 gives the most probable z.
        """
        z = temperature * noise.normal(*self.spec.shape, dtype=self.dtype)
        for finest in range(self.scales if preview else 1, 0, -1):
            yield self.decode(z.masked_fill(self.code_scales < finest, 0).flatten(1), c)

    def chain(
        self,
        x: Images,
        mask: Float[Tensor, "b 1 h w"],
        c: Condition,
        noise: Noise,
        steps: int,
        **options: Any,
    ) -> Iterator[Images]:
        """Run a Langevin chain on dequantised pictures; see `EditsCodes.chain`."""
        s, levels = self.signal(c, len(x)), self.spec.levels
        y = (to_levels(x, levels) + noise.uniform(*self.spec.shape).to(x)) / levels
        for sample in langevin(lambda y: self.log_density(y, s), y.to(x), mask, noise, steps):
            yield from_levels((sample * levels).long().clamp(0, levels - 1), levels)

    def frame_count(self, **options: object) -> int:
        """Return one frame for each scale."""
        return self.scales

    def signal(self, c: Condition, n: int) -> Signal:
        """Return the condition as a signal with a vector; an empty signal without a condition."""
        return Signal(vector=self.conditioner(c, n).vector)


def halving(shape: Shape) -> Squeeze:
    """Return the squeeze that halves the sides that are even."""
    _, h, w = shape
    return Squeeze(2 - h % 2, 2 - w % 2)


def half_shape(shape: Shape) -> Shape:
    """Return the shape after `halving`."""
    c, h, w = shape
    rows, columns = 2 - h % 2, 2 - w % 2
    return c * rows * columns, h // rows, w // columns


def check_scales(shape: Shape, scales: int) -> None:
    """Refuse pictures that cannot be halved at every scale.

    Raises:
        LimnerError: both sides are odd at a scale, or there are too few channels to couple.
    """
    remaining = shape
    for scale in range(1, scales + 1):
        c, h, w = half_shape(remaining)
        if scale > 1 and (h, w) == remaining[1:]:
            raise LimnerError(
                f"pictures of {shape[1]} x {shape[2]} have {scale - 1} scales at most; "
                f"type model.L={scale - 1}"
            )
        if c < 2:
            raise LimnerError(
                f"a flow of grey pictures needs an even height or width, not {h} x {w}; "
                "choose another data.size"
            )
        remaining = c // 2, h, w


def scale_of(shape: Shape, scales: int) -> Float[Tensor, "c h w"]:
    """Return the scale at which each value leaves the flow, from 1 (finest) to `scales`."""
    if scales == 1:
        return torch.ones(shape)
    c, h, w = half_shape(shape)
    done = torch.ones(1, c, h, w)
    done[0, : c // 2] += scale_of((c // 2, h, w), scales - 1)
    return halving(shape).inverse(done)[0]


def _dequantisation_flow(shape: Shape) -> Chain:
    """Return a flow from normal numbers to u, conditioned on the picture: checkerboard couplings
    that are initialised as the identity, so that u is uniform at first."""
    (c, h, w), (couplings, hidden) = shape, _DEQUANTISATION_SIZES
    return Chain(
        *(
            MaskedCoupling(
                CouplingNetwork(2 * c, hidden, 2 * c), Affine(), checkerboard(h, w, i % 2 == 1)
            )
            for i in range(couplings)
        ),
        NormalCDF(),
    )
