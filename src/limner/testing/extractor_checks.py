"""The promises of every extractor, as checks that run on any extractor.

from limner.testing.extractor_checks import check_extractor
check_extractor("my-extractor")
"""

from collections.abc import Callable

import torch
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.evaluate.extractors.choose import open_extractor
from limner.evaluate.extractors.extractor import Extractor, Features, Pixels, extract
from limner.testing.kept_promises import kept_promises

_SIZES = ((32, 32), (48, 80))
_PICTURES = 5
_MAX_ERROR = 1e-3  # of the largest feature: float32 in another order of summation


def _pictures(channels: int, height: int, width: int) -> Pixels:
    """Return smooth random pictures."""
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(256, (_PICTURES, channels, 8, 8), generator=generator).float()
    large = torch.nn.functional.interpolate(small, (height, width), mode="bilinear")
    return large.round().to(torch.uint8)


def _accepted_pictures(extractor: Extractor) -> list[Pixels]:
    """Return pictures of each kind that an extractor accepts, grey or RGB, in two sizes."""
    accepted: list[Pixels] = []
    refusals: list[str] = []
    for channels in (1, 3):
        for height, width in _SIZES:
            try:
                extractor(images := _pictures(channels, height, width))
                accepted.append(images)
            except LimnerError as error:
                refusals.append(str(error))
    assert accepted, f"it refuses grey and RGB pictures: {refusals[-1]}"
    channels = {images.shape[1] for images in accepted}
    assert len(accepted) == len(channels) * len(_SIZES), (
        f"it refuses pictures of a certain size ({refusals[-1]}); let it resize them"
    )
    return accepted


def check_output(name: str) -> None:
    """1. It takes grey or RGB pictures of any size, and returns as many numbers as it says."""
    opened = _open(name)
    for images in _accepted_pictures(opened):
        try:
            output = extract(opened, images)
        except LimnerError as error:
            raise AssertionError(str(error)) from error
        for part in (output.features, output.logits):
            assert part is None or part.isfinite().all(), "some features or scores are not finite"
            assert part is None or part.dtype == torch.float32, f"its output is {part.dtype}"


def check_batch(name: str) -> None:
    """2. Features and scores of a picture do not depend on the other pictures of its batch."""
    opened = _open(name)
    for images in _accepted_pictures(opened):
        together, alone = opened(images), [opened(image[None]) for image in images]
        features = torch.cat([output.features for output in alone])
        error = _distance(together.features, features)
        assert error < _MAX_ERROR, f"in a batch, features differ by {error:.2g} of the largest one"
        if together.logits is not None:
            logits = torch.cat([_logits(output) for output in alone])
            error = _distance(together.logits, logits)
            assert error < _MAX_ERROR, (
                f"in a batch, scores differ by {error:.2g} of the largest one"
            )


def check_repeats(name: str) -> None:
    """3. Opened again, it has the same fingerprint and the same features."""
    first, second = _open(name), _open(name)
    assert first.fingerprint == second.fingerprint, (
        f"its fingerprint changes from {first.fingerprint} to {second.fingerprint}, so that cached "
        "features are never found"
    )
    for images in _accepted_pictures(first):
        error = _distance(first(images).features, second(images).features)
        assert error < _MAX_ERROR, f"features differ by {error:.2g} of the largest one"


def check_tells_apart(name: str) -> None:
    """4. Different pictures have different features."""
    opened = _open(name)
    for images in _accepted_pictures(opened):
        features = opened(images).features
        assert torch.pdist(features.double()).min() > 0, "two pictures have the same features"


CHECKS: tuple[Callable[[str], None], ...] = (
    check_output,
    check_batch,
    check_repeats,
    check_tells_apart,
)


def check_extractor(name: str) -> list[str]:
    """Run all checks on a registered extractor, and return a line for each, see `kept_promises`."""
    return kept_promises(name, name, CHECKS)


def _open(name: str) -> Extractor:
    return open_extractor(name, ImageSpec(3, 32, 32))


def _logits(output: Features) -> Tensor:
    assert output.logits is not None, "it returns scores only for some batches"
    return output.logits


def _distance(first: Tensor, second: Tensor) -> float:
    """Return the largest difference, as a share of the largest number."""
    return float((first - second).abs().max() / first.abs().max().clamp(min=1e-12))
