"""Build the objects that `scenes` are composed of: a few hundred, by several artists, cut out.

    python tools/build_sprites.py [--work DIR] [--out FILE]     (needs npm, pip install resvg-py)

`scene_objects.txt` lists the objects and their names. Their pictures are Fluent's three styles and
Noto (see `build_emoji.py` and `build_noto.py`), on a transparent background, cropped to their
visible part. `objects.jsonl` gives the main colour of each picture: the hue of most of its surface,
so that it can be recoloured; a picture of many hues keeps its own colours.
"""

import io
import json
from pathlib import Path

import numpy as np
from build_emoji import EMOJIBASE, build_parser, catalogue, join, plain, read
from build_noto import ASSETS, as_webp, drawings, render, write_archive
from command_line import BuildError, mistakes_in_one_line
from PIL import Image

from limner.data.recolouring import dominant_colour

SIDE = 112  # pixels of the longer side: the largest size of an object in a 128 x 128 scene
OBJECTS = Path(__file__).with_name("scene_objects.txt")
ALIASES = {"1F9DC": "1F9DC-200D-2640"}  # the mermaid


def vocabulary() -> list[tuple[str, str, str]]:
    """Return (code points, name, plural) of every object, in order."""
    objects = []
    for line in OBJECTS.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            code, words = line.split(maxsplit=1)
            name, _, plural = (part.strip() for part in words.partition("/"))
            objects.append((code, name, plural or regular(name)))
    names = [name for _, name, _ in objects]
    if len(set(names)) < len(names):
        raise BuildError(
            f"objects with the same name: {sorted({n for n in names if names.count(n) > 1})}"
        )
    return objects


def regular(name: str) -> str:
    """Return the regular plural; if there is an "of", the plural of the word before it."""
    head, of, rest = name.partition(" of ")
    end = "es" if head.endswith(("s", "x", "ch", "sh")) else "s"
    return f"{head}{end}{of}{rest}"


def cut_out(image: Image.Image) -> Image.Image:
    """Crop a picture to its visible part, and reduce its longer side to `SIDE`."""
    box = image.getchannel("A").point([255 * (a > 8) for a in range(256)]).getbbox()
    image = image.crop(box)
    factor = SIDE / max(image.size)
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def main() -> None:
    """Build the archive; print its size and hash."""
    args = build_parser(__doc__, ASSETS / "sprites.zip").parse_args()
    with mistakes_in_one_line():
        for folder in (args.work, args.out.parent):
            folder.mkdir(parents=True, exist_ok=True)
        fluent, _ = join(*catalogue(read(EMOJIBASE, args.work)), args.work)
        noto = drawings(args.work)
        rows, files = [], {}
        for listed_code, name, plural in vocabulary():
            code = plain(ALIASES.get(listed_code, listed_code))
            if ("3d", code) not in fluent:
                raise BuildError(f"there is no 3D picture of {listed_code} {name}")
            pictures = {"3d": Image.open(io.BytesIO(fluent["3d", code])).convert("RGBA")}
            for style in ("flat", "line"):
                if (style, code) in fluent:
                    pictures[style] = render(fluent[style, code].decode())
            if code in noto:
                pictures["noto"] = render(noto[code])
            colours = {}
            for style, image in pictures.items():
                sprite = cut_out(image)
                files[f"{style}/{name.replace(' ', '-')}.webp"] = as_webp(sprite)
                colour = None if style == "line" else dominant_colour(np.asarray(sprite))
                colours[style] = colour and [round(part, 4) for part in colour]
            if missing := {"flat", "line", "noto"} - set(pictures):
                raise BuildError(f"{name} is missing in {', '.join(sorted(missing))}")
            rows.append({"name": name, "plural": plural, "code": code, "colours": colours})
        write_archive(args.out, files)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        args.out.with_name("objects.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
