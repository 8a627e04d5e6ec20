"""What multistep samplers remember."""

import math
from typing import Annotated, NamedTuple

from pydantic import Field

from limner.contract.image import Images

Order = Annotated[int, Field(ge=1, le=3)]
"""The number of estimates of the picture that a step combines."""


class View(NamedTuple):
    """The denoiser's clean picture at lambda = `at`."""

    x_hat: Images
    at: float


def newest_views(
    views: tuple[View, ...] | None, x_hat: Images, at: float, order: int
) -> tuple[View, ...]:
    """Return the newest views, this one first: at most `order`, and none of pure noise except this
    one."""
    earlier = [view for view in views or () if math.isfinite(view.at)]
    return (View(x_hat, at), *earlier)[: order if math.isfinite(at) else 1]
