"""Settings from the text `parameters` in PNG files of Stable Diffusion web UI (A1111) and its kin.

a red apple
Negative prompt: blurry
Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 123, Size: 512x512, Model: name
"""

import re
from typing import Any

_LAST_LINE = re.compile(r"Steps: \d+(?:, |$)")
_FIELD = re.compile(r'([A-Z][\w ]*): ("(?:[^"\\]|\\.)*"|[^,]*)(?:, |$)')
_NEGATIVE = "Negative prompt: "


def read_parameters(text: str) -> dict[str, Any]:
    """Return the settings in such a text, with limner's names; empty for any other text."""
    *lines, last = text.strip().split("\n")
    if not _LAST_LINE.match(last):
        return {}
    prompt, _, negative = "\n".join(lines).partition(_NEGATIVE)
    fields = dict(_FIELD.findall(last))
    sampler = {
        name: value
        for name, field in {"steps": "Steps", "scale": "CFG scale"}.items()
        if (value := _number(fields.get(field, ""))) is not None
    }
    settings = {"prompt": prompt.strip(), "negative": negative.strip(), "sampler": sampler}
    return settings | {"seed": _number(fields.get("Seed", "")) or 0, "program": "another"}


def _number(text: str) -> int | float | None:
    if re.fullmatch(r"-?\d{1,15}", text):
        return int(text)
    return float(text) if re.fullmatch(r"\d{1,9}\.\d{1,9}", text) else None
