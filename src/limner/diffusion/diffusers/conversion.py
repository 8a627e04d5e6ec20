"""Convert models of this library to pipelines of diffusers that have the same network.

A `PlainUNet` is a `UNet2DModel`: it has the same layers in the same order, so weights are copied.
diffusers counts steps from 0, and limner from 1; so the sinusoids of every step are written into a
table.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from limner.contract.errors import LimnerError, install_command
from limner.diffusion.denoising_model import DenoisingModel
from limner.maths.denoisers import PREDICTIONS
from limner.maths.schedules import DiscreteSchedule
from limner.nn.attention import Attention
from limner.nn.embed import sinusoidal
from limner.nn.plain_unet import PlainUNet
from limner.nn.residual import ResidualBlock
from limner.nn.unet import Stage

_PREDICTIONS: Any = {"epsilon": "epsilon", "x": "sample", "v": "v_prediction"}
_VARIANCES: Any = {"small": "fixed_small", "large": "fixed_large", "learned": "learned_range"}


def ddpm_pipeline(model: DenoisingModel, variance: str) -> Any:
    """Return a `DDPMPipeline` that paints the same pictures as a model.

    Args:
        model: model with a discrete schedule and a `PlainUNet`.
        variance: variance of a reverse step: "small", "large" or "learned".

    Raises:
        LimnerError: diffusers is not installed, or has no such network or pipeline.
    """
    network, schedule, spec = model.network, model.schedule, model.spec
    if not isinstance(network, PlainUNet) or not isinstance(schedule, DiscreteSchedule):
        raise LimnerError(
            "diffusers has no U-Net on patches, which enlarges by shuffling pixels; train with "
            "model.network=plain to export"
        )
    conditions = [name for name in ("labels", "text", "hint") if getattr(spec, name)]
    if conditions:
        raise LimnerError(
            f"diffusers' pipeline for this network takes no {conditions[0]}; train without, as in "
            "data.label=none data.text=false"
        )
    try:
        from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    except ModuleNotFoundError:
        raise LimnerError(
            f"exporting needs diffusers; type: {install_command('diffusers')}"
        ) from None
    prediction = next(name for name, value in PREDICTIONS.items() if value is model.parametrisation)
    scheduler = DDPMScheduler(
        num_train_timesteps=schedule.T,
        trained_betas=schedule.betas.tolist(),
        variance_type=_VARIANCES[variance],
        prediction_type=_PREDICTIONS[prediction],
        timestep_spacing="trailing",
        clip_sample=True,
    )
    sides = (spec.height, spec.width)
    unet = unet_2d(network, sides[0] if sides[0] == sides[1] else sides, schedule)
    return DDPMPipeline(unet, scheduler)


def unet_2d(network: PlainUNet, size: int | tuple[int, int], schedule: DiscreteSchedule) -> Any:
    """Return a network as a `UNet2DModel`, with the steps of a schedule, from 0, as its times.

    Args:
        network: network without classes, text or conditioning images.
        size: size of the pictures, for the configuration.
        schedule: schedule that gives the network's time input at each step.
    """
    from diffusers.models.unets.unet_2d import UNet2DModel

    levels, plain = len(network.channels), len(network.channels) - network.attention
    down = tuple("DownBlock2D" if i < plain else "AttnDownBlock2D" for i in range(levels))
    unet = UNet2DModel(
        sample_size=size,
        in_channels=network.conv_in.in_channels,
        out_channels=network.conv_out.out_channels,
        time_embedding_type="learned",
        num_train_timesteps=schedule.T,
        down_block_types=down,
        up_block_types=tuple(block.replace("Down", "Up") for block in reversed(down)),
        block_out_channels=network.channels,
        layers_per_block=network.blocks,
        attention_head_dim=network.head_dim,
        norm_num_groups=network.groups,
        attn_norm_num_groups=network.groups,
        resnet_time_scale_shift="scale_shift",
        add_attention=network.attention > 0,
        dropout=network.after.dropout.p,
    )
    steps = torch.arange(1, schedule.T + 1, dtype=torch.float64) / schedule.T
    weights = {"time_proj.weight": sinusoidal(schedule.label(steps), network.channels[0])}
    weights |= dict(_weights(network))
    unet.load_state_dict({name: weight.contiguous() for name, weight in weights.items()})
    return unet.eval()


def _weights(network: PlainUNet) -> Iterator[tuple[str, Tensor]]:
    """Yield all weights except the table of times, by their names in diffusers."""
    yield from _of("conv_in", network.conv_in)
    yield from _of("time_embedding.linear_1", network.time.perceptron[0])
    yield from _of("time_embedding.linear_2", network.time.perceptron[2])
    for direction, levels in (("down", network.down), ("up", network.up)):
        for i, stages in enumerate(levels):
            for j, stage in enumerate(stages.children()):
                yield from _stage(f"{direction}_blocks.{i}", j, stage)
    for i, downsample in enumerate(network.downsample):
        yield from _of(f"down_blocks.{i}.downsamplers.0.conv", downsample)
    for i, upsample in enumerate(network.upsample):
        yield from _of(f"up_blocks.{i}.upsamplers.0.conv", upsample)
    yield from _stage("mid_block", 0, network.middle)
    yield from _block("mid_block.resnets.1", network.after)
    yield from _of("conv_norm_out", network.norm)
    yield from _of("conv_out", network.conv_out)


def _of(name: str, layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for part, weight in layer.state_dict().items():
        yield f"{name}.{part}", weight


def _stage(name: str, i: int, stage: nn.Module) -> Iterator[tuple[str, Tensor]]:
    assert isinstance(stage, Stage)
    yield from _block(f"{name}.resnets.{i}", stage.block)
    if stage.self_attention is not None:
        yield from _attention(f"{name}.attentions.{i}", stage.self_attention)


def _block(name: str, block: ResidualBlock) -> Iterator[tuple[str, Tensor]]:
    parts: Mapping[str, nn.Module | None] = {
        "norm1": block.norm_1,
        "conv1": block.conv_1,
        "time_emb_proj": block.film,
        "norm2": block.norm_2,
        "conv2": block.conv_2,
        "conv_shortcut": block.skip,  # without weights where both widths are the same
    }
    for part, layer in parts.items():
        if layer is not None:
            yield from _of(f"{name}.{part}", layer)


def _attention(name: str, attention: Attention) -> Iterator[tuple[str, Tensor]]:
    yield from _of(f"{name}.group_norm", attention.norm)
    yield from _of(f"{name}.to_q", attention.query)
    yield from _of(f"{name}.to_out.0", attention.out)
    for part, weight in attention.key_value.state_dict().items():
        for key, half in zip(("to_k", "to_v"), weight.chunk(2)):
            yield f"{name}.{key}.{part}", half
