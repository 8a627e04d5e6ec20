"""Build the pictures of a second artist for the bundled data: Noto Emoji, matched by code points.

    python tools/build_noto.py [--work DIR] [--out FILE]        (needs npm, pip install resvg-py)

The drawings come from npm, `@iconify-json/noto`: Google's Noto Emoji as SVG, Apache-2.0. An emoji
is included if Fluent Emoji has it in 3D (`emoji.zip`) in its plain form, without a skin tone, so
that captions, tags, groups and splits are the same for both artists. The archive has the form of
`emoji.zip`.
"""

import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from build_emoji import QUALITY, SIZE, build_parser, draw_svg, fetch, plain
from command_line import BuildError, mistakes_in_one_line
from PIL import Image

PACKAGE, VERSION = "@iconify-json/noto", "1.2.9"
DIGEST = "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"
RENDER = 256  # drawn at twice the size, then reduced as the other styles are
ASSETS = Path(__file__).resolve().parents[1] / "src/limner/data/assets"


def drawings(work: Path) -> dict[str, str]:
    """Return the SVG of each emoji, by plain code points."""
    with tarfile.open(fetch(PACKAGE, VERSION, DIGEST, work), "r:gz") as archive:
        icons, characters = (
            json.load(archive.extractfile(f"package/{name}.json"))  # pyright: ignore
            for name in ("icons", "chars")
        )
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}">{body}</svg>'
    svgs = {}
    for code, name in characters.items():
        icon = icons["icons"].get(name)
        if icon is None:  # an alias has no drawing of its own
            continue
        w, h = (icon.get(side, icons[side]) for side in ("width", "height"))
        svgs[plain(code)] = head.format(w=w, h=h, body=icon["body"])
    return svgs


def metadata(archive: Path) -> list[dict[str, Any]]:
    """Return the rows of a bundled archive, one for each picture."""
    try:
        with zipfile.ZipFile(archive) as opened:
            lines = opened.read("metadata.jsonl").decode().splitlines()
    except (zipfile.BadZipFile, KeyError):
        raise BuildError(f"{archive} is damaged; restore it, as with git checkout") from None
    return [json.loads(line) for line in lines]


def render(svg: str, size: int = RENDER) -> Image.Image:
    """Return a drawing with its transparency."""
    return Image.open(io.BytesIO(draw_svg(svg, width=size))).convert("RGBA")


def on_white(image: Image.Image, side: int) -> Image.Image:
    """Return the picture centred in a white square, reduced to `side` pixels."""
    longer_side = max(image.size)
    canvas = Image.new("RGBA", (longer_side, longer_side), "white")
    canvas.alpha_composite(
        image, ((longer_side - image.width) // 2, (longer_side - image.height) // 2)
    )
    return canvas.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)


def as_webp(image: Image.Image) -> bytes:
    """Return a picture as the bytes of a WebP file."""
    image.save(buffer := io.BytesIO(), "WEBP", quality=QUALITY, method=4)
    return buffer.getvalue()


def write_archive(path: Path, files: dict[str, bytes | str]) -> None:
    """Write an archive that depends only on its files; print its size and hash."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, body in files.items():
            entry = zipfile.ZipInfo(name)  # always dated 1980
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            compression = zipfile.ZIP_STORED if name.endswith(".webp") else zipfile.ZIP_DEFLATED
            archive.writestr(entry, body, compression)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    print(f"{path}: {len(files)} files, {path.stat().st_size} bytes, sha256 {digest}")


def main() -> None:
    """Build the archive; print its size and hash."""
    args = build_parser(__doc__, ASSETS / "noto.zip").parse_args()
    with mistakes_in_one_line():
        for folder in (args.work, args.out.parent):
            folder.mkdir(parents=True, exist_ok=True)
        svgs = drawings(args.work)
        rows, pictures = [], {}
        for row in metadata(ASSETS / "emoji.zip"):
            code = plain(row["code"])
            if row["style"] != "3d" or row["skin_tone"] != "none" or code not in svgs:
                continue
            name = f"noto/{row['code']}.webp"
            rows.append(row | {"file_name": name, "style": "noto"})
            pictures[name] = as_webp(on_white(render(svgs[code]), SIZE))
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_archive(args.out, {"metadata.jsonl": lines, **dict(sorted(pictures.items()))})


if __name__ == "__main__":
    main()
