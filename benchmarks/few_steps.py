"""How much faster than the prompt model is the one that was distilled from it?

    python benchmarks/few_steps.py

Both paint the same prompts and seeds, a batch after the other, all contestants in turns.

    emoji-fast       two steps of the distilled first stage, two of the second: 4 evaluations
    dpm++ S + U      `emoji` with S guided steps, which cost two evaluations each, and U
    ddim 50 + 20     the same with the sampler that many compare with

How to read it: `emoji-fast is` compares the seconds of each round, so many times as fast as this
row: median (least-greatest). Seconds are those that the process computes, so that one thread can be
timed beside other work.
"""

import argparse
import time
from functools import partial
from typing import Any

import torch
from timing import Call, interleaved, ratio, show

from limner.commands.request import Request, open_model

PROMPTS = "a red apple", "a dog", "a crying face", "a pizza", "an astronaut", "a snowman", "a bus"
FAST = "emoji-fast"
DDIM = {"sampler": "ddim", "upsampler_sampler": "ddim"}
OTHERS: dict[str, dict[str, Any]] = {
    "dpm++ 2 + 2": {"steps": 2, "upsampler_steps": 2},
    "dpm++ 3 + 2": {"steps": 3, "upsampler_steps": 2},
    "dpm++ 10 + 5": {},
    "ddim 50 + 20": {"steps": 50, "upsampler_steps": 20} | DDIM,
}


def painting(model: str, batch: int, options: dict[str, Any]) -> Call:
    """A batch of pictures, by the model's own habits but for some options."""
    request = Request(
        model, tuple(PROMPTS[i % len(PROMPTS)] for i in range(batch)), sampler=options
    )
    opened, settled = open_model(request)
    return partial(opened.sample, batch, request.condition(opened.spec), **settled)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    calls = {FAST: painting(FAST, asked.batch, {})}
    calls |= {name: painting("emoji", asked.batch, options) for name, options in OTHERS.items()}
    seconds = interleaved(calls, asked.rounds, 1.0, time.process_time)
    rows = [
        (name, f"{asked.batch / min(own):.1f}", ratio(own, seconds[FAST]))
        for name, own in seconds.items()
    ]
    title = f"64 x 64, batch {asked.batch}, {asked.threads} threads, float32"
    show(title, ("", "img/s", f"{FAST} is"), rows)


if __name__ == "__main__":
    main()
