"""Prompt-to-prompt through the attention processors of a pipeline of diffusers.

Hertz, Mokady, Tenenbaum, Aberman, Pritch, Cohen-Or (2022). Prompt-to-prompt image editing with
cross-attention control. arXiv:2208.01626; as in `limner.diffusion.prompt_to_prompt`, but that the
blend is of x_t, as in the paper, for a scheduler tells no network what it expects.

The network is a U-Net with cross-attention, as that of Stable Diffusion 1, 2 and XL; the first
token stands for no word, and what is guided away from comes first in a batch.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial, wraps
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.contract.image import Images
from limner.contract.noise import Noise
from limner.contract.rewording import Rewording, aligned
from limner.diffusion.diffusers.painter import Painter
from limner.diffusion.prompt_to_prompt import SharedAttention
from limner.nn.attention import Weights

Stepped = Callable[[Tensor, Any, Tensor, Any], Tensor]
_PLAIN = ("AttnProcessor", "AttnProcessor2_0")


def check_attention(pipeline: Any) -> None:
    """Refuse a pipeline whose network looks at words in a way that cannot be shared.

    Raises:
        LimnerError: which way that is.
    """
    unet: Any = getattr(pipeline, "unet", None)
    if type(unet).__name__ != "UNet2DConditionModel":
        raise LimnerError(
            "words change in pipelines of a U-Net with cross-attention, as Stable Diffusion has "
            f"it; {type(pipeline).__name__} has another network"
        )
    kinds = {type(each).__name__ for each in unet.attn_processors.values()}
    if other := sorted(kinds - {*_PLAIN}):
        raise LimnerError(f"this pipeline looks at words by {other[0]}; words change without that")


def of_tokens(tokenizer: Any, prompts: Sequence[str], change: Rewording) -> Rewording:
    """A change between prompts, told of a pipeline's tokens and not of characters.

    Args:
        tokenizer: the pipeline's; its first token is left out.
        prompts: before and after.
        change: whose gains are of the characters of the second prompt.
    """
    length = tokenizer.model_max_length
    rows = [tokenizer(each, truncation=True, max_length=length).input_ids[1:] for each in prompts]
    alignment = aligned(rows[0], rows[1], length - 1)
    for place in range(max(map(len, rows)), length - 1):  # padding, which is looked at, too
        alignment.source[place, place] = 1
    gains, after = torch.ones(length - 1), prompts[1]
    spaces = [i for i, letter in enumerate(after) if letter == " "]
    for start, end in pairwise([0, *spaces, len(after)]):
        first, last = (
            len(tokenizer(after[:at].rstrip(), add_special_tokens=False).input_ids)
            for at in (start, end)
        )
        gains[first:last] = float(change.gains[end - 1])
    return replace(change, alignment=alignment, gains=gains)


class _Layer:
    """An attention layer of diffusers whose weights are edited."""

    def __init__(self, layer: Any, edit: Callable[[Tensor], Tensor]) -> None:
        self._layer, self._edit = layer, edit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def get_attention_scores(self, *args: Any) -> Tensor:
        """The layer's own, edited: "b*heads q k"."""
        weights = self._layer.get_attention_scores(*args)
        return self._edit(weights.unflatten(0, (-1, self._layer.heads))).flatten(0, 1)


class _Processor:
    """The plain attention processor, whose weights go through hooks.

    Args:
        shared: with the hooks.
    """

    def __init__(self, shared: SharedAttention) -> None:
        from diffusers.models.attention_processor import AttnProcessor

        self.shared, self.plain = shared, AttnProcessor()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """As diffusers calls it."""
        hook = self.shared.own if encoder_hidden_states is None else self.shared.cross
        layer: Any = _Layer(attn, partial(self._edited, hook))
        return self.plain(layer, hidden_states, encoder_hidden_states, attention_mask, temb)

    def _edited(self, hook: Callable[[str, Weights], Weights], weights: Weights) -> Weights:
        told = 2 * self.shared.n  # rows; those of guidance come before them
        return torch.cat([weights[:-told], hook("", weights[-told:])])


@dataclass(frozen=True)
class RewordingPainter(Painter):
    """A pipeline that paints pictures before and after a change of their prompt.

    Args:
        change: of tokens.
    """

    change: Rewording

    def painted(self, asked: dict[str, Any], noise: Noise, shape: tuple[int, ...]) -> Images:
        """The pipeline's own pictures, the second half of which share the first half's attention:
        `Painter`."""
        shared = SharedAttention(self.change, shape[0] // 2)

        def blended(F: Tensor, t: Any, x_t: Tensor, made: Any) -> Tensor:
            return shared.blended(made.prev_sample)

        with sharing(self.pipeline, shared, blended):
            return super().painted(asked, noise, shape)


@contextmanager
def sharing(pipeline: Any, shared: SharedAttention, stepped: Stepped) -> Iterator[None]:
    """Share attention, and go another step than the scheduler's.

    Args:
        pipeline: of diffusers.
        shared: attention.
        stepped: what x_t becomes in a step, told the network's output, t, x_t, and what the
            scheduler makes of them.
    """
    unet, scheduler = pipeline.unet, pipeline.scheduler
    processors, step = dict(unet.attn_processors), scheduler.step
    watched = "step" in vars(scheduler)
    takes = inspect.signature(step)
    first = calls = 0

    @wraps(step)
    def changed(*args: Any, **kwargs: Any) -> Any:
        nonlocal first, calls
        as_tuple = not kwargs.pop("return_dict", True)
        given = takes.bind(*args, **kwargs).arguments
        F, t, x_t = (given[name] for name in ("model_output", "timestep", "sample"))
        if not calls:
            first = int((scheduler.timesteps == t).nonzero()[0])
        made = step(*args, **kwargs)
        made.prev_sample = stepped(F, t, x_t, made)
        calls += 1
        shared.go_on(calls / (len(scheduler.timesteps) - first))
        return made.to_tuple() if as_tuple else made

    unet.set_attn_processor(_Processor(shared))
    scheduler.step = changed
    try:
        yield
    finally:
        unet.set_attn_processor(processors)
        if watched:
            scheduler.step = step
        else:
            del scheduler.step
