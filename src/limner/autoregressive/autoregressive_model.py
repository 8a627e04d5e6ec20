"""Base of the autoregressive models: p(x) = prod p(x_i | x_1 .. x_{i-1}), scanned row by row.

A network takes a picture and returns, for every pixel, the parameters theta of its distribution,
which may depend on earlier pixels only. For the likelihood all of them are computed at once. For a
sample they are computed one after the other, and each pixel is drawn before the next is computed.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from limner.autoregressive.causal_convolution import Walk
from limner.contract.editing import Completes, check_mask
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images, ImageSpec, from_levels, to_levels
from limner.contract.likelihood import Likelihood, LikelihoodModel
from limner.contract.model import finish_frames
from limner.contract.noise import Noise, Seeds
from limner.contract.options import Count
from limner.maths.pixel_distributions import PixelDistribution, draw
from limner.nn.condition import Conditioner

_CANDIDATES = 8  # per picture and round of resampling
_ROUNDS = 10
_BAND_DIVISOR = 4  # a later round draws up to 1 / 4 of the rows


class KnownPart(NamedTuple):
    """Pictures with a part that is kept.

    Args:
        image: the pictures, on the grid of levels; "n c h w".
        mask: 1 where to paint, 0 where to keep; "n 1 h w".
    """

    image: Images
    mask: Float[Tensor, "n 1 h w"]

    @property
    def is_prefix(self) -> bool:
        """Whether in each picture all pixels to paint come after those to keep, in the order of
        painting."""
        is_painted = self.mask.flatten(1) > 0
        return bool((is_painted.cummax(1).values == is_painted).all())


class AutoregressiveModel(LikelihoodModel, Completes):
    """A model that generates pixels one after the other, each given all pixels before it.

    A subclass's constructor calls this one, and then sets `network` and `law`. The network is
    called as

        network(x, vector) -> theta            "b h w c", "b 1 1 v" -> "b h w p"
        network(x, vector, walk) -> theta      "b h w c", "n v" -> "n p", of the walk's front

    where x is the picture as far as it is painted, and vector encodes the condition. In the second
    form the same walk is passed again and again, at one front after the other. The results must
    equal those of the first form; the network may cache in `walk.memory` what it needs again. The n
    pixels are the front's first pixel in all pictures, then the next; without a `lag`, a front has
    a single pixel.

    Args:
        spec: specification of the images.
        vector: length of the vector that encodes labels and captions.
        condition_dropout: probability of hiding the condition in training.
    """

    takes = ("labels", "text")
    network: nn.Module
    law: PixelDistribution
    whole_pixels: ClassVar[bool] = False
    """Whether theta describes all channels of a pixel at once. If not, each channel depends on the
    channels before it, and the network is called again for each."""
    lag: ClassVar[int | None] = None
    """How many columns behind the row above it a row may be painted: a pixel does not depend on
    pixels r rows above it that are r * `lag` or more columns to its right. None: it depends on all
    pixels above."""

    def __init__(self, spec: ImageSpec, vector: int, condition_dropout: float) -> None:
        super().__init__()
        self.conditioner = Conditioner(spec, vector)
        self.vector_size = vector if spec.labels or spec.text else 0
        self.condition_dropout = condition_dropout

    def formula(self) -> list[str]:
        """Return the formulas of the factorisation and of each factor."""
        unit = "a pixel" if self.whole_pixels else "a channel of a pixel"
        c = ", c" if self.vector_size else ""
        return [
            f"p(x{c.replace(', ', ' | ')}) = prod_i p(x_i | x_1 .. x_(i-1){c}),  x_i is {unit}",
            f"p(x_i | ..) = {type(self.law).__name__}(theta_i),"
            f"  theta_i = network(x_1 .. x_(i-1){c})",
        ]

    def log_prob(self, x: Images, c: Condition = Condition(), *, noise: Noise) -> Likelihood:
        """Return the exact log p(x), the sum of log p(x_i | x_1 .. x_{i-1})."""
        k = to_levels(x, self.spec.levels)
        theta = self.theta(from_levels(k, self.spec.levels), c)
        return Likelihood(self.law.log_prob(theta, k.permute(0, 2, 3, 1)).sum((1, 2)), "exact")

    def theta(self, x: Images, c: Condition = Condition()) -> Float[Tensor, "b h w p"]:
        """Return the parameters of every pixel's distribution given the pixels before it.

        Args:
            x: pictures, on the grid of levels.
            c: their condition.
        """
        vector = self._vector(c, len(x), (1, 1))
        return self.network(x.to(self.dtype).permute(0, 2, 3, 1), vector)

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        given: KnownPart | None = None,
        temperature: Annotated[float, Field(gt=0, le=10)] = 1.0,
        top_p: Annotated[float, Field(gt=0, le=1)] = 1.0,
    ) -> Iterator[Images]:
        """Yield the pictures whenever a row is finished; pixels that are not painted yet are grey.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            given: pictures with a part that is kept, where nothing is drawn.
            temperature: divisor of the logits of a value; below 1, likely values are chosen more
                often, with less variety.
            top_p: probability mass of nucleus sampling: each value is drawn among the most probable
                ones that together have this mass.
        """
        (C, H, W), levels = self.spec.shape, self.spec.levels
        u = noise.uniform(C, H, W, dtype=torch.float64).permute(2, 3, 0, 1).contiguous()
        k = torch.zeros(H, W, n, C, dtype=torch.int64, device=u.device)
        x = torch.zeros(H, W, n, C, dtype=self.dtype, device=u.device)
        mask = torch.ones(H, W, n, dtype=torch.bool, device=u.device)
        if given is not None:
            mask = (given.mask[:, 0] > 0).permute(1, 2, 0).contiguous()
            k = to_levels(given.image, levels).permute(2, 3, 0, 1)
            k = k.masked_fill(mask[..., None], 0).contiguous()
            x = from_levels(k, levels).to(x).masked_fill(mask[..., None], 0).contiguous()
        values = from_levels(torch.arange(levels, device=u.device).view(-1, 1, 1, 1), levels)
        values = values.flatten().to(x)
        front_theta = self.front_network(x.permute(2, 0, 1, 3), c)
        for walk in Walk(H, W, min(self.lag or W, W)).fronts():
            u_front, k_front, x_front, mask_front = (
                walk.front(tensor) for tensor in (u, k, x, mask)
            )
            theta = front_theta(walk)
            for channel in range(C if given is None or bool(mask_front.any()) else 0):
                if channel and not self.whole_pixels:
                    theta = front_theta(walk)
                theta_front = theta.view(walk.count, n, -1)
                log_p = self.law.log_probs(theta_front, k_front, channel)
                k_new = draw(log_p, u_front[..., channel], temperature, top_p)
                k_new = torch.where(mask_front, k_new, k_front[..., channel])
                k_front[..., channel] = k_new
                x_front[..., channel] = values[k_new]
            if walk.column == W - 1 and (preview or walk.row == H - 1):
                yield x.permute(2, 3, 0, 1)

    def front_network(
        self, x: Float[Tensor, "b h w c"], c: Condition
    ) -> Callable[[Walk], Float[Tensor, "n p"]]:
        """Return a function that computes theta of a walk's front, while x is being painted."""
        vector = self._vector(c, len(x), ())

        def front_theta(walk: Walk) -> Float[Tensor, "n p"]:
            vectors = None if vector is None else vector.repeat(walk.count, 1)
            return self.network(x, vectors, walk)

        return front_theta

    def complete(
        self,
        image: Images,
        c: Condition = Condition(),
        *,
        mask: Float[Tensor, "b 1 h w"],
        rounds: Count | None = None,
        seed: Seeds = 0,
        preview: bool = True,
        **options: Any,
    ) -> Iterator[Images]:
        """Draw a part of pictures given the rest; see `Completes`.

        If all pixels to paint come after those to keep, row by row and from left to right, the draw
        is exact, and as fast as a sample. If not, it takes `rounds` of importance resampling, whose
        distribution tends to the exact one.

        Raises:
            LimnerError: the pictures or masks do not fit this model, or an option does not work
                with a mask.
        """
        check_mask(self.spec, image, mask)
        levels = self.spec.levels
        x = from_levels(to_levels(image, levels), levels).to(self.device)
        given = KnownPart(x, (mask > 0.5).to(x))
        frames = partial(self.frames, given=given)
        if not given.is_prefix:
            frames = partial(self._resample, given=given, rounds=rounds or _ROUNDS)
        yield from self.run_frames(frames, len(image), c, seed, preview, options)

    def complete_count(
        self, mask: Float[Tensor, "b 1 h w"], rounds: int | None = None, **options: Any
    ) -> int:
        """Return one frame for each row if the draw is exact, else one for each round."""
        return self.spec.height if KnownPart(mask, mask).is_prefix else rounds or _ROUNDS

    @finish_frames
    def _resample(
        self,
        n: int,
        c: Condition,
        *,
        noise: Noise,
        preview: bool,
        given: KnownPart,
        rounds: int,
        temperature: float,
        top_p: float,
    ) -> Iterator[Images]:
        """Yield the pictures after each round of iterated sampling importance resampling.

        A round draws K candidates for some painted rows, each value given those before it. The
        weight of a candidate is the likelihood of all other pixels under it,

            w = p(x) / prod_{i drawn} p(x_i | x_<i) = prod_{i not drawn} p(x_i | x_<i).

        One candidate is drawn with probability proportional to its weight. The current picture is
        one of them, so the distribution given the rest is invariant. The first round draws all
        rows.

        Andrieu, Lee, Vihola (2018). Uniform ergodicity of the iterated conditional SMC and
        geometric ergodicity of particle Gibbs samplers. Bernoulli 24. arXiv:1312.6432.
        """
        if (temperature, top_p) != (1, 1):
            raise LimnerError(
                "this mask keeps pixels after painted ones, so leave temperature and top_p out"
            )
        (image, mask), H = given, self.spec.height
        indices = torch.arange(n, device=image.device).repeat_interleave(_CANDIDATES)
        conditions = c.repeat(_CANDIDATES)
        for round_number in range(rounds):
            region = mask
            if round_number:
                first = draw(mask.amax((1, 3)).log(), noise.uniform(dtype=torch.float64))
                last = first + noise.integers(max(1, H // _BAND_DIVISOR))
                row = torch.arange(H, device=first.device)
                band = (row >= first[:, None]) & (row <= last[:, None])
                region = mask * band[:, None, :, None]
            streams = Noise(noise.bits(_CANDIDATES).flatten())
            context = KnownPart(image[indices], region[indices])
            (*_, candidates) = self.frames(
                n * _CANDIDATES, conditions, noise=streams, preview=False, given=context
            )
            candidates = candidates.unflatten(0, (n, _CANDIDATES))
            if round_number:
                candidates[:, 0] = image
            log_w = self._log_weights(
                candidates.flatten(0, 1), region[indices], conditions
            ).unflatten(0, (n, -1))
            choice = draw(log_w, noise.uniform(dtype=torch.float64))
            image = candidates[torch.arange(n, device=choice.device), choice]
            if preview or round_number == rounds - 1:
                yield image

    def _log_weights(
        self, x: Images, region: Float[Tensor, "b 1 h w"], c: Condition
    ) -> Float[Tensor, "b"]:
        """Return the sum of log p(x_i | x_<i) over the pixels that were not drawn."""
        levels, parts = self.spec.levels, list[Tensor]()
        for start in range(0, len(x), self.at_once):
            rows = slice(start, start + self.at_once)
            k = to_levels(x[rows], levels).permute(0, 2, 3, 1)
            y = from_levels(k, levels).to(self.dtype)
            theta = self.network(y, self._vector(c.rows(rows), len(k), (1, 1)))
            log_p = self.law.log_prob(theta, k).double()
            parts.append((log_p * (1 - region[rows, 0])).sum((1, 2)))
        return torch.cat(parts)

    def frame_count(self, **options: Any) -> int:
        """Return one frame for each row."""
        return self.spec.height

    def _vector(
        self, c: Condition, n: int, shape: tuple[int, ...]
    ) -> Float[Tensor, "b *places v"] | None:
        """Return the condition's vector, shaped to broadcast over positions; None without one."""
        vector = self.conditioner(c, n).vector
        return None if vector is None else vector.view(n, *shape, -1)
