"""What autoregressive models have in common: p(x) = prod p(x_i | x_1 .. x_{i-1}), scanned row by
row.

A network looks at a picture and gives, for every pixel, the numbers theta of its law, for which it
may read nothing but earlier pixels. All of them at once are the likelihood; one after the other,
each drawn before the next is asked for, they are a sample.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from limner.autoregressive.causal_convolution import Walk
from limner.contract.abilities import Completes
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images, ImageSpec, from_levels, to_levels
from limner.contract.likelihood import Likelihood, LikelihoodModel
from limner.contract.noise import Blend, Noise
from limner.maths.pixel_laws import PixelLaw, draw
from limner.nn.condition import Conditioner


class AutoregressiveModel(LikelihoodModel, Completes):
    """Pixels one after the other, each given all before it.

    A subclass's constructor calls this one, and then sets `network` and `law`. The network is
    called as

        network(x, vector) -> theta            "b h w c", "b 1 1 v" -> "b h w p"
        network(x, vector, walk) -> theta      "b h w c", "n v" -> "n p", of the walk's front

    where x is the picture, as far as it is there, and vector says what it is of. The second form
    is handed the same walk again and again, at one front after the other, and must say the same as
    the first; it may keep in `walk.memory` what it will see again. The n pixels are the first one
    of the front in all pictures, then the next; but for models that have a `lag` it has only one.

    Args:
        spec: what the images are.
        vector: the length of the vector that labels and captions become.
        condition_dropout: how often training hides the condition.
    """

    takes = ("labels", "text")
    network: nn.Module
    law: PixelLaw
    whole_pixels: ClassVar[bool] = False
    """Whether theta is that of all channels of a pixel at once; else each channel is seen by those
    that follow it, and the network is asked again for each."""
    lag: ClassVar[int | None] = None
    """How many columns a row may be painted behind the row above it: a pixel sees nothing of the
    row r above that lies `lag` r or more columns to its right. None: it sees everything."""

    def __init__(self, spec: ImageSpec, vector: int, condition_dropout: float) -> None:
        super().__init__()
        self.conditioner = Conditioner(spec, vector)
        self.vector_size = vector if spec.labels or spec.text else 0
        self.condition_dropout = condition_dropout

    def formula(self) -> list[str]:
        """The factorisation, and the law of each factor."""
        what = "a pixel" if self.whole_pixels else "a channel of a pixel"
        c = ", c" if self.vector_size else ""
        return [
            f"p(x{c.replace(', ', ' | ')}) = prod_i p(x_i | x_1 .. x_(i-1){c}),  x_i is {what}",
            f"p(x_i | ..) = {type(self.law).__name__}(theta_i),"
            f"  theta_i = network(x_1 .. x_(i-1){c})",
        ]

    def log_prob(self, x: Images, c: Condition = Condition(), *, noise: Noise) -> Likelihood:
        """Exactly log p(x), the sum of log p(x_i | x_1 .. x_{i-1})."""
        k = to_levels(x, self.spec.levels)
        seen = from_levels(k, self.spec.levels).to(self._dtype).permute(0, 2, 3, 1)
        theta = self.network(seen, self._vector(c, len(x), (1, 1)))
        return Likelihood(self.law.log_prob(theta, k.permute(0, 2, 3, 1)).sum((1, 2)), "exact")

    def frames(
        self,
        n: int,
        c: Condition = Condition(),
        *,
        noise: Noise,
        preview: bool = True,
        upper: Images | None = None,
        temperature: Annotated[float, Field(gt=0, le=10)] = 1.0,
        top_p: Annotated[float, Field(gt=0, le=1)] = 1.0,
    ) -> Iterator[Images]:
        """Yield the pictures whenever a row is finished; what is not painted yet is grey.

        Args:
            n, c, noise, preview: see `GenerativeModel.frames`.
            upper: the first rows, where they are given; "n c rows w".
            temperature: of every choice; below 1 is more careful.
            top_p: every choice is among the most probable values that have this mass together.
        """
        (C, H, W), levels = self.spec.shape, self.spec.levels
        u = noise.uniform(C, H, W, dtype=torch.float64).permute(2, 3, 0, 1).contiguous()
        k = torch.zeros(H, W, n, C, dtype=torch.int64, device=u.device)
        x = torch.zeros(H, W, n, C, dtype=self._dtype, device=u.device)
        known = 0
        if upper is not None:
            known = upper.shape[2]
            x[:known] = upper.permute(2, 3, 0, 1)
        values = from_levels(torch.arange(levels, device=u.device).view(-1, 1, 1, 1), levels)
        values = values.flatten().to(x)
        look = self.looking(x.permute(2, 0, 1, 3), c)
        for walk in Walk(H, W, min(self.lag or W, W)).fronts():
            new = max(0, known - walk.row)
            u_here, k_here, x_here = (walk.front(each)[new:] for each in (u, k, x))
            theta = look(walk)
            for channel in range(C if new < walk.count else 0):
                if channel and not self.whole_pixels:
                    theta = look(walk)
                here = theta.view(walk.count, n, -1)[new:]
                log_p = self.law.log_probs(here, k_here, channel)
                chosen = draw(log_p, u_here[..., channel], temperature, top_p)
                k_here[..., channel] = chosen
                x_here[..., channel] = values[chosen]
            if walk.column == W - 1 and (preview or walk.row == H - 1):
                yield x.permute(2, 3, 0, 1)

    def looking(
        self, x: Float[Tensor, "b h w c"], c: Condition
    ) -> Callable[[Walk], Float[Tensor, "n p"]]:
        """What gives theta of a walk's front, front by front, while x is being painted."""
        vector = self._vector(c, len(x), ())

        def look(walk: Walk) -> Float[Tensor, "n p"]:
            each = None if vector is None else vector.repeat(walk.count, 1)
            return self.network(x, each, walk)

        return look

    def complete(
        self,
        upper: Images,
        c: Condition = Condition(),
        *,
        seed: int | Sequence[int | Blend] = 0,
        preview: bool = True,
        **options: Any,
    ) -> Iterator[Images]:
        """Go on from the first rows of pictures; see `Completes`.

        Raises:
            LimnerError: the rows are not of this model's pictures.
        """
        n, channels, rows, width = upper.shape
        C, H, W = self.spec.shape
        if (channels, width) != (C, W) or not rows < H:
            raise LimnerError(
                f"{rows} rows of {width} pixels with {channels} channels cannot be gone on from; "
                f"give this model up to {H - 1} of {W} with {C}"
            )
        levels = self.spec.levels
        seen = from_levels(to_levels(upper, levels), levels).to(self.device)
        yield from self.run_frames(partial(self.frames, upper=seen), n, c, seed, preview, options)

    def frame_count(self, **options: Any) -> int:
        """One for each row."""
        return self.spec.height

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.network.parameters()).dtype

    def _vector(
        self, c: Condition, n: int, places: tuple[int, ...]
    ) -> Float[Tensor, "b *places v"] | None:
        """What the pictures are of, shaped to be added at every place; None where nothing is."""
        vector = self.conditioner(c, n).vector
        return None if vector is None else vector.view(n, *places, -1)
