"""The interface of a sampler, and the registry of all samplers by name."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

from jaxtyping import Float64
from torch import Tensor

from limner.contract.choices import Choices
from limner.contract.editing import Completes, Edits, Rewords
from limner.contract.image import Images
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise
from limner.contract.options import option_names
from limner.contract.upscaling import Upscales
from limner.maths.denoisers import Conditional

Time = Float64[Tensor, ""]


class State(NamedTuple):
    """The state between two steps of sampling.

    Args:
        x: x_t.
        sketch: the denoiser's clean picture in the step before.
        memory: what a multistep sampler keeps from earlier steps.
    """

    x: Images
    sketch: Images
    memory: Any = None


@dataclass(frozen=True)
class Sampler(ABC):
    """A method to get from noise to a picture, step by step; its fields are its options."""

    @abstractmethod
    def step(self, D: Conditional, at: State, t: Time, s: Time, noise: Noise) -> State:
        """Go from time t to time s < t.

        Args:
            D: the denoiser.
            at: the state at the start of the step.
            t, s: the times of the start and the end of the step.
            noise: random streams, one for each picture.
        """

    def for_steps(self, steps: int) -> "Sampler":
        """Return the sampler for a given number of steps: itself, unless an option depends on that
        number."""
        return self


_FUNCTIONS_WITH_OPTIONS = (
    GenerativeModel.watch,
    Completes.complete,
    Edits.edit,
    Rewords.reword,
    Upscales.upscale,
)
_RESERVED_NAMES = {name for function in _FUNCTIONS_WITH_OPTIONS for name in option_names(function)}
"""Names that no sampler's option may have: those of the other arguments of the functions that take
such options."""
SAMPLERS = Choices("sampler", Sampler, _RESERVED_NAMES)
"""All samplers by name; the options of `frames` contain theirs."""
SamplerName = Annotated[str, SAMPLERS]
"""The name of a sampler."""
sampler = SAMPLERS.register
"""Decorator that registers a sampler: every model that denoises then has it as
`sampler.sampler=NAME`."""
