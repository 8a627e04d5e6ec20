"""Prompt-to-prompt with the attention processors of a pipeline of diffusers.

Hertz, Mokady, Tenenbaum, Aberman, Pritch, Cohen-Or (2022). Prompt-to-prompt image editing with
cross-attention control. arXiv:2208.01626; as in `limner.diffusion.prompt_to_prompt`, except that
the blend is in x_t, as in the paper, because not every scheduler returns x_hat.

The network is a U-Net with cross-attention, as in Stable Diffusion 1, 2 and XL. The first token
stands for no word, and the unconditional rows come first in a batch.
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
from limner.contract.rewording import Rewording, align_tokens
from limner.diffusion.diffusers.painter import PipelinePainter
from limner.diffusion.prompt_to_prompt import SharedAttention
from limner.nn.attention import Weights

Stepped = Callable[[Tensor, Any, Tensor, Any], Tensor]
_PLAIN_PROCESSORS = ("AttnProcessor", "AttnProcessor2_0")


def check_attention(pipeline: Any) -> None:
    """Refuse a pipeline with attention to words that cannot be shared.

    Raises:
        LimnerError: the network or its attention processors are of another kind.
    """
    unet: Any = getattr(pipeline, "unet", None)
    if type(unet).__name__ != "UNet2DConditionModel":
        raise LimnerError(
            "words can only be changed with a U-Net with cross-attention, as in Stable Diffusion; "
            f"{type(pipeline).__name__} has another network"
        )
    kinds = {type(processor).__name__ for processor in unet.attn_processors.values()}
    if unknown := sorted(kinds - {*_PLAIN_PROCESSORS}):
        raise LimnerError(
            f"words cannot be changed with the attention processor {unknown[0]} of this pipeline; "
            "give a pipeline without it"
        )


def of_tokens(tokenizer: Any, prompts: Sequence[str], change: Rewording) -> Rewording:
    """Convert a change between prompts from characters to a pipeline's tokens.

    Args:
        tokenizer: the pipeline's tokenizer; its first token is left out.
        prompts: the prompts before and after.
        change: the change, with gains for the characters of the second prompt.
    """
    length = tokenizer.model_max_length
    rows = [
        tokenizer(prompt, truncation=True, max_length=length).input_ids[1:] for prompt in prompts
    ]
    alignment = align_tokens(rows[0], rows[1], length - 1)
    for place in range(max(map(len, rows)), length - 1):  # padding, which also gets attention
        alignment.source[place, place] = 1
    gains, after = torch.ones(length - 1), prompts[1]
    spaces = [i for i, letter in enumerate(after) if letter == " "]
    for start, end in pairwise([0, *spaces, len(after)]):
        first, last = (
            len(tokenizer(after[:index].rstrip(), add_special_tokens=False).input_ids)
            for index in (start, end)
        )
        gains[first:last] = float(change.gains[end - 1])
    return replace(change, alignment=alignment, gains=gains)


class _Layer:
    """Attention layer of diffusers with edited weights."""

    def __init__(self, layer: Any, edit: Callable[[Tensor], Tensor]) -> None:
        self._layer, self._edit = layer, edit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def get_attention_scores(self, *args: Any) -> Tensor:
        """Return the layer's own weights, edited: "b*heads q k"."""
        weights = self._layer.get_attention_scores(*args)
        return self._edit(weights.unflatten(0, (-1, self._layer.heads))).flatten(0, 1)


class _Processor:
    """Plain attention processor that passes its weights through hooks.

    Args:
        shared: shared attention, which has the hooks.
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
        """Compute attention, with the arguments that diffusers gives."""
        hook = (
            self.shared.self_attention
            if encoder_hidden_states is None
            else self.shared.cross_attention
        )
        layer: Any = _Layer(attn, partial(self._edit_weights, hook))
        return self.plain(layer, hidden_states, encoder_hidden_states, attention_mask, temb)

    def _edit_weights(self, hook: Callable[[str, Weights], Weights], weights: Weights) -> Weights:
        rows = 2 * self.shared.n  # the conditional ones; unconditional rows come before them
        return torch.cat([weights[:-rows], hook("", weights[-rows:])])


@dataclass(frozen=True)
class RewordingPainter(PipelinePainter):
    """Pipeline that paints pictures before and after a change of their prompt.

    Args:
        change: change of the prompt's tokens.
    """

    change: Rewording

    def paint(self, call_arguments: dict[str, Any], noise: Noise, shape: tuple[int, ...]) -> Images:
        """Return the pipeline's pictures; the second half shares the first half's attention."""
        shared = SharedAttention(self.change, shape[0] // 2)

        def blend(F: Tensor, t: Any, x_t: Tensor, output: Any) -> Tensor:
            return shared.blend(output.prev_sample)

        with sharing(self.pipeline, shared, blend):
            return super().paint(call_arguments, noise, shape)


@contextmanager
def sharing(pipeline: Any, shared: SharedAttention, stepped: Stepped) -> Iterator[None]:
    """Share attention, and replace the scheduler's steps.

    Args:
        pipeline: pipeline of diffusers.
        shared: shared attention.
        stepped: function that returns the next x_t, from the network's output, t, x_t, and the
            scheduler's result for them.
    """
    unet, scheduler = pipeline.unet, pipeline.scheduler
    processors, step = dict(unet.attn_processors), scheduler.step
    is_watched = "step" in vars(scheduler)
    signature = inspect.signature(step)
    first = calls = 0

    @wraps(step)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal first, calls
        as_tuple = not kwargs.pop("return_dict", True)
        arguments = signature.bind(*args, **kwargs).arguments
        F, t, x_t = (arguments[name] for name in ("model_output", "timestep", "sample"))
        if not calls:
            first = int((scheduler.timesteps == t).nonzero()[0])
        output = step(*args, **kwargs)
        output.prev_sample = stepped(F, t, x_t, output)
        calls += 1
        shared.start_evaluation(calls / (len(scheduler.timesteps) - first))
        return output.to_tuple() if as_tuple else output

    unet.set_attn_processor(_Processor(shared))
    scheduler.step = wrapper
    try:
        yield
    finally:
        unet.set_attn_processor(processors)
        if is_watched:
            scheduler.step = step
        else:
            del scheduler.step
