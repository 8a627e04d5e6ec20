"""Build pictures of 256 pixels for training and evaluating models that enlarge pictures.

    python tools/build_enlargements.py FOLDER [--work DIR] [--clip-art DIR] [--scenes N]

The pictures are not bundled. They come from three sources: emoji of the bundled data, drawn again
at twice the size, each concept in its plainest form and all styles; scenes, four of 128 pixels in
one picture, because their objects are sharp only at that size; and every seventh of the
public-domain drawings of the Debian package openclipart-svg. In FOLDER:

    train/     emoji, scenes and clip art to train on
    emoji/     emoji of held-out concepts
    clip-art/  every twentieth of the drawings that are used

It needs npm and pip install resvg-py, like `build_emoji.py`. The clip art needs the folder
usr/share/openclipart/svg, which `apt-get download openclipart-svg; dpkg -x *.deb DIR` unpacks.
"""

import hashlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from build_emoji import EMOJIBASE, build_parser, catalogue, draw_svg, join, plain, read
from build_noto import drawings as noto_drawings
from build_noto import metadata, on_white
from command_line import BuildError, count, mistakes_in_one_line
from PIL import Image

from limner.data import open_data, png

SIDE = 256
CLIP_ART_SHARE, HELD_OUT_SHARE = 7, 20  # one in 7 drawings is used, one in 20 of these is held out
LIMIT = 1 << 20  # largest drawing, in bytes
ASSETS = Path(__file__).resolve().parents[1] / "src/limner/data/assets"


def hash_of(name: str) -> int:
    """Return a fixed number for a name: a hash."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6])


def render(svg: str) -> Image.Image:
    """Return a drawing with its transparency, 256 pixels wide or high."""
    data = draw_svg(svg, width=SIDE, height=SIDE)
    return Image.open(io.BytesIO(data)).convert("RGBA")


def emoji(work: Path) -> Iterator[tuple[str, str, Image.Image]]:
    """Yield folder, name and picture of each emoji in its plainest form."""
    rows = []
    for name in ("emoji", "noto"):
        rows += metadata(ASSETS / f"{name}.zip")
    catalogued, names = catalogue(read(EMOJIBASE, work))
    drawings, _ = join(catalogued, names, work)
    noto = noto_drawings(work)
    for row in rows:
        if row.get("skin_tone", "none") != "none" or row.get("gender", "none") != "none":
            continue
        code, style = plain(row["code"]), row["style"]
        if style == "noto":
            picture = render(noto[code])
        elif style == "3d":
            picture = Image.open(io.BytesIO(drawings[style, code])).convert("RGBA")
        else:
            picture = render(drawings[style, code].decode())
        folder = "train" if row["split"] == "train" else "emoji"
        if row["split"] != "held-out-pair":
            yield folder, f"{style}-{row['code']}", on_white(picture, SIDE)


def clip_art(folder: Path) -> Iterator[tuple[str, str, Image.Image]]:
    """Yield folder, name and picture of some drawings; skip those that cannot be rendered."""
    for path in sorted(folder.rglob("*.svg")):
        name = path.relative_to(folder).as_posix()
        if hash_of(name) % CLIP_ART_SHARE or path.stat().st_size > LIMIT:
            continue
        try:
            picture = on_white(render(path.read_text(encoding="utf-8")), SIDE)
        except (ValueError, OSError) as error:
            print(f"{name}: {str(error)[:80]}", file=sys.stderr)
            continue
        grey = np.asarray(picture.convert("L"))
        if np.ptp(grey) < 32:  # an empty page
            continue
        held_out = hash_of(f"held-out {name}") % HELD_OUT_SHARE == 0
        yield "clip-art" if held_out else "train", "clip-" + name[:-4].replace("/", "-"), picture


def scenes(count: int) -> Iterator[tuple[str, str, Image.Image]]:
    """Yield folder, name and picture of composed scenes."""
    data = open_data("scenes", size=SIDE // 2, text=False)
    for i in range(count):
        pixels = data.pixels(torch.arange(4 * i, 4 * i + 4))
        yield "train", f"scenes-{i:05}", png.to_pil(png.grid(pixels, 2, gap=0))


def main() -> None:
    """Build the folder; print the number of pictures in each part."""
    parser = build_parser(__doc__)
    parser.add_argument("out", type=Path, metavar="FOLDER", help="folder to write")
    parser.add_argument(
        "--clip-art",
        type=Path,
        metavar="DIR",
        help="folder usr/share/openclipart/svg; default: none",
    )
    parser.add_argument(
        "--scenes", type=count, default=400, metavar="N", help="number of pictures with four scenes"
    )
    args = parser.parse_args()
    counts: dict[str, int] = {}
    with mistakes_in_one_line():
        if args.clip_art and not args.clip_art.is_dir():
            raise BuildError(f"there is no folder {args.clip_art}; give one with --clip-art")
        args.work.mkdir(parents=True, exist_ok=True)
        sources = [emoji(args.work), scenes(args.scenes)]
        sources += [clip_art(args.clip_art)] if args.clip_art else []
        for source in sources:
            for folder, name, picture in source:
                (args.out / folder).mkdir(parents=True, exist_ok=True)
                picture.save(args.out / folder / f"{name}.png", compress_level=1)
                counts[folder] = counts.get(folder, 0) + 1
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
