"""Bundle the few-step prompt model: its changed weights in half precision, and sheets.

    limner train recipes/flows/emoji32.toml --run runs/emoji32
    limner train recipes/diffusion/distilled-emoji32.toml --run runs/distilled-emoji32
    python tools/bundle_emoji_fast.py runs/distilled-emoji32

The first stage comes from the run, the second from the bundled prompt model. Weights that the two
models share stay in the prompt model's file. The sheets show the prompts of that model's sheets.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch
from bundle_emoji import FREE, SHOWN, captions, sheet
from command_line import BuildError, mistakes_in_one_line

from limner.contract.bundled import bundled_models
from limner.contract.checkpoint import load, model_file, read_header, save_model, sha256
from limner.diffusion.cascade import Cascade
from limner.diffusion.progressive_distillation import Distilled

ZOO = bundled_models()["emoji"].parent / "emoji-fast"
RECIPE = "recipes/diffusion/distilled-emoji32.toml"
SHARED = {"base.teacher.": "emoji:base.", "upsampler.": "emoji:upsampler."}
SAMPLER = {"upsampler_sampler": "dpm++", "upsampler_steps": 2}


def main() -> None:
    """Write the model and its sheets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help=f"run of {RECIPE}")
    run = parser.parse_args().run
    with mistakes_in_one_line():
        teacher = bundled_models()["emoji"]
        student, prompt_model = load(run), load(teacher)
        assert isinstance(prompt_model, Cascade)
        if not isinstance(student, Distilled):
            raise BuildError(f"{run} is not a run of {RECIPE}; give one")
        try:
            student.teacher.load_state_dict(prompt_model.base.state_dict())
        except RuntimeError:
            raise BuildError(f"the teacher of {run} is not like the base of emoji") from None
        model = Cascade(prompt_model.spec, **dict[str, Any](prompt_model.config, base=student))
        model.upsampler.load_state_dict(prompt_model.upsampler.state_dict())
        header, data = read_header(model_file(run)), read_header(model_file(teacher)).recipe["data"]
        save_model(
            model,
            ZOO,
            images_seen=header.images_seen,
            recipe=header.recipe | {"data": data, "sampler": SAMPLER},
            shared=SHARED,
            dtype=torch.float16,
        )
        file = ZOO / "model.safetensors"
        size = file.stat().st_size
        print(f"{student.parameter_count():,} parameters, {size:,} bytes, {sha256(file)}")
        shutil.copy(run / "log.jsonl", ZOO / "log.jsonl")
        for name, prompts in {"train": captions("train")[:SHOWN], "free": FREE}.items():
            sheet(prompts, ZOO / f"{name}.png", "emoji-fast")


if __name__ == "__main__":
    main()
