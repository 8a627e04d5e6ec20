"""Small pipelines of diffusers with random weights, in folders as `save_pretrained` writes them."""

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

CODEC = {
    "block_out_channels": (8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
    "latent_channels": 4,
}
SCHEDULERS: dict[str, Callable[[], Any]] = {
    "ddim": lambda: diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
    "pndm": lambda: diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1),
    "euler": lambda: diffusers.EulerDiscreteScheduler(steps_offset=1),
    "noisy": lambda: diffusers.EulerAncestralDiscreteScheduler(steps_offset=1),
}


def saved(pipeline: Any, folder: Path) -> Path:
    """Save a pipeline without the progress bars of both libraries; return the folder."""
    bars = (diffusers.utils.logging, transformers.utils.logging)
    for library in bars:
        library.disable_progress_bar()
    pipeline.save_pretrained(folder)
    for library in bars:
        library.enable_progress_bar()
    return folder


def unconditional(folder: Path) -> Path:
    """Save a DDPM on grey 8 x 8 pictures; return the folder."""
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
    )
    return saved(diffusers.DDPMPipeline(network, diffusers.DDPMScheduler()), folder)


def tokenizer(folder: Path) -> Any:
    """Return a CLIP tokenizer of single letters."""
    letters = string.ascii_lowercase
    tokens = [*letters, *(f"{a}</w>" for a in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    files = (str(folder / "vocab.json"), str(folder / "merges.txt"))
    return transformers.CLIPTokenizer(*files, model_max_length=12)


def stable_diffusion(folder: Path, scheduler: Any) -> Path:
    """Save a Stable Diffusion model of 16 x 16 pictures in latents of 8 x 8; return the folder."""
    torch.manual_seed(0)
    text_tokenizer = tokenizer(folder.with_name(f"{folder.name}-words"))
    config = transformers.CLIPTextConfig(
        vocab_size=len(text_tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=len(text_tokenizer) - 2,
        eos_token_id=len(text_tokenizer) - 1,
        pad_token_id=len(text_tokenizer) - 1,
    )
    network = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    pipeline = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(**CODEC),
        text_encoder=transformers.CLIPTextModel(config),
        tokenizer=text_tokenizer,
        unet=network,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return saved(pipeline, folder)


def classes(folder: Path) -> Path:
    """Save a DiT with 1,000 classes on 8 x 8 pictures in latents of 4 x 4; return the folder."""
    torch.manual_seed(0)
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=4,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_num_groups=4,
    )
    for name, weight in network.named_parameters():
        if "proj_out" in name or "norm1" in name:  # initialised at or near 0
            torch.nn.init.normal_(weight, std=0.5)
    parts = (network, diffusers.AutoencoderKL(**CODEC), diffusers.DDIMScheduler())
    index = saved(diffusers.DiTPipeline(*parts), folder) / "model_index.json"
    names = {str(i): f"thing {i:03}" for i in range(1000)}  # as in published folders
    index.write_text(json.dumps(json.loads(index.read_text()) | {"id2label": names}))
    return folder


def control_over(pipeline: Any, channels: int = 1, seed: int = 2) -> Any:
    """Return a ControlNet with a visible effect for a Stable Diffusion pipeline."""
    torch.manual_seed(seed)
    control = diffusers.ControlNetModel.from_unet(
        pipeline.unet, conditioning_channels=channels, conditioning_embedding_out_channels=(8, 16)
    )
    with torch.no_grad():
        for p in control.parameters():
            p += 0.1 * torch.randn_like(p)
    return control


def controlled(folder: Path, source: Path) -> Path:
    """Save the pipeline of `source` with a ControlNet that has a visible effect."""
    base = diffusers.StableDiffusionPipeline.from_pretrained(source, low_cpu_mem_usage=False)
    control = control_over(base)
    pipeline = diffusers.StableDiffusionControlNetPipeline(**base.components, controlnet=control)
    return saved(pipeline, folder)


def opened(folder: Path) -> Any:
    """Load the pipeline in a folder as a limner model."""
    from limner.contract.checkpoint import load

    return load(folder)
