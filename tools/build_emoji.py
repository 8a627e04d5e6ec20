"""Build the bundled data set `emoji`: Microsoft's Fluent Emoji in three styles, with captions.

    python tools/build_emoji.py [--work DIR] [--out FILE]        (needs npm, pip install resvg-py)

The pictures come from npm: `@lobehub/fluent-emoji-3d` (WebP with alpha, named by code points) and
`fluentui-emoji` (flat and high-contrast SVG, under Microsoft's names); `emojibase-data` has the
name of each emoji. resvg-py draws the SVG: it contains resvg, which supports all of static SVG
(gradients, masks, clip paths, filters), and needs no system library, unlike Cairo's bindings.

A picture is included only if Microsoft released that emoji under MIT. The evidence is
`fluentui-emoji`, which repackages Microsoft's repository. `@lobehub/fluent-emoji-3d` contains more,
such as flags, families and kisses; these are left out, like the 3D pictures in `TRADEMARKS`.

Splits are drawn from a hash of the names, so a new package version moves no picture to another
split. `held-out-concept`: 5 % of the base concepts, whole; `held-out-pair`: 10 % of the other
concepts' tone, gender and hair variants, each in all styles; `train`: the rest, with every
concept's plainest picture. The archive depends only on the pinned packages and the tools named in
its report.json (names are sorted, times fixed): building twice gives the same SHA-256.
"""

import argparse
import hashlib
import io
import json
import re
import subprocess
import tarfile
import unicodedata
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from command_line import BuildError, mistakes_in_one_line
from PIL import Image, features

# Pixels, and WebP's quality: 90 would take 18 MB instead of 15, and gain 0.8 dB in 3d, 0.3 in flat.
SIZE, QUALITY = 128, 85
RENDER = 256  # SVG is drawn at the size of the 3D pictures, so that all styles are reduced alike
STYLES = {"flat": "flat", "high-contrast": "line"}  # folder in fluentui-emoji: our style
# Of the first twelve seeds, this one gives splits that are nearest to these shares in every group.
SEED, HELD_OUT_CONCEPTS, HELD_OUT_PAIRS = "limner-emoji-8", 0.05, 0.10
EMOJIBASE, SVG, WEBP = "emojibase-data", "fluentui-emoji", "@lobehub/fluent-emoji-3d"
PACKAGES = {  # name: (version, SHA-256 of the tarball, the members to read as (folder, stem))
    EMOJIBASE: (
        "17.0.0",
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        r"package/(en/|)(data|messages|LICENSE)(?:\.json)?",
    ),
    SVG: (
        "1.3.0",
        "ec892e607e854859b812c7d827801756adc19955b0ef56d4ae8afcddd19492c5",
        r"package/(?:icons/)?(flat/|high-contrast/|)(LICENSE|[a-z0-9-]+(?=\.svg))(?:\.svg)?",
    ),
    WEBP: (
        "1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        r"package/(assets/)([0-9a-f_-]+)\.webp",
    ),
}
MEMBER_LIMIT = 4 << 20  # bytes; emojibase's data.json, the largest member read, has 2 MB

# emojibase's label: fluentui-emoji's file name, if the two differ (older Unicode names, mistakes).
ALIASES = """
black-bird:blackbird phoenix:phoenix-bird enraged-face:pouting-face
smiling-face-with-open-hands:hugging-face face-with-crossed-out-eyes:knocked-out-face
red-triangle-pointed-up:red-triangle
stuffed-flatbread:stuffedbread stuffed-flatbread:stuffedbread-flat
person-blond-hair:person-blonde-hair woman-blond-hair:woman-blonde-hair
man-blond-hair:man-blonde-hair deaf-person:person-deaf deaf-woman:woman-deaf deaf-man:man-deaf
merperson:person-merpeople mermaid:woman-merpeople merman:man-merpeople
people-with-bunny-ears:person-with-bunny-ears women-with-bunny-ears:woman-with-bunny-ears
men-with-bunny-ears:man-with-bunny-ears people-wrestling:person-wrestling
women-wrestling:woman-wrestling men-wrestling:man-wrestling
elf:person-elf fairy:person-fairy genie:person-genie mage:person-mage zombie:person-zombie
superhero:person-superhero supervillain:person-supervillain vampire:person-vampire
"""
# Concepts that Microsoft first withheld because of their trademarks (Clippy, the Windows logo, the
# Xbox pad) and then released redrawn: the SVGs are the new drawings, the 3D pictures the old ones.
TRADEMARKS = {"paperclip", "technologist", "video-game"}

# Pictures that have another emoji's name in the 3D package, found by eye: a pattern of names (the
# first pattern that matches is used), then each unit as it is written and as it should be.
MISNAMED = [
    (pattern, dict(pair.split("=") for pair in pairs))
    for pattern, *pairs in map(
        str.split,
        r"""1F6B5-1F3F. 1F3FB=1F3FF 1F3FC=1F3FD 1F3FD=1F3FE 1F3FE=1F3FC 1F3FF=1F3FB
        1F9CF.* 2640=2642 2642=2640 1F3FC=1F3FD 1F3FD=1F3FC
        .* 1F3FC=1F3FD 1F3FD=1F3FC""".splitlines(),
    )
]
# Microsoft's SVGs of these show something else: a yellow bather, and a black square (twice).
WRONG = {("flat", "1F6C0-1F3FE"), ("flat", "1F533"), ("line", "1F533")}

TONES = {
    "1F3FB": "light",
    "1F3FC": "medium-light",
    "1F3FD": "medium",
    "1F3FE": "medium-dark",
    "1F3FF": "dark",
}
# Units after a zero-width joiner that describe the person: unit, facet, value.
MODIFIERS = """2640 gender woman, 2642 gender man, 27A1 facing right, 1F9B0 hair red,
1F9B1 hair curly, 1F9B2 hair bald, 1F9B3 hair white"""
# First units that name a person of one gender or hair: unit, unit of the concept, facet, value.
KIN = """1F468 1F9D1 gender man, 1F469 1F9D1 gender woman, 1F471 1F9D1 hair blond,
1F9D4 1F9D1 hair beard, 1F466 1F9D2 gender boy, 1F467 1F9D2 gender girl, 1F474 1F9D3 gender man,
1F475 1F9D3 gender woman, 1F934 1FAC5 gender man, 1F478 1FAC5 gender woman,
1F385 1F9D1-200D-1F384 gender man, 1F936 1F9D1-200D-1F384 gender woman, 1FAC3 1FAC4 gender man,
1F930 1FAC4 gender woman, 1F57A 1F483 gender man, 1F483 1F483 gender woman,
1F9D5 1F9D5 gender woman"""
MODIFIER_OF, KIN_OF = (
    {unit: rest for unit, *rest in map(str.split, table.split(","))} for table in (MODIFIERS, KIN)
)
FACETS = ("style", "split", "group", "skin_tone", "gender", "hair")  # counted in the report
CONCEPT_NAMES = {"1F483": "person-dancing", "1F9D1-200D-1F384": "santa-claus"}  # else: the label


class Emoji(NamedTuple):
    """An emoji as described by emojibase; tones, genders, hair and directions share a `concept`."""

    code: str
    caption: str
    tags: list[str]
    group: str
    subgroup: str
    concept: str
    skin_tone: str
    gender: str
    hair: str

    @property
    def variant(self) -> str:
        """What a held-out pair holds out; a mirrored picture has the variant of its original."""
        return f"{self.gender}/{self.hair}/{self.skin_tone}"


def slug(label: str) -> str:
    """`keycap: #` -> `keycap-hashtag`, `woman's hat` -> `womans-hat`, `piñata` -> `pinata`."""
    for mark, word in {"#": " hashtag", "*": " asterisk", "&": " and ", "’": "", "'": ""}.items():
        label = label.replace(mark, word)
    ascii_label = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_label.replace(".", "")).strip("-")


def plain(code: str) -> str:
    """Return code points in four digits or more, without variation selectors: the key of joins."""
    return "-".join(p.zfill(4) for p in code.upper().split("-") if p != "FE0F")


def analyse(code: str) -> tuple[str, str, dict[str, str]]:
    """Split plain code points into the concept's code points, skin tone and other facets."""
    parts = code.split("-")
    tone = "+".join(TONES[p] for p in parts if p in TONES)  # "+": a couple of two tones
    first, *rest = "-".join(p for p in parts if p not in TONES).split("-200D-")
    facets = {"gender": "none", "hair": "none"}
    values = [MODIFIER_OF[unit] for unit in rest if unit in MODIFIER_OF]
    if first in KIN_OF:
        first, *value = KIN_OF[first]
        values.append(value)
    facets.update((facet, value) for facet, value in values)
    return (
        "-200D-".join([first] + [u for u in rest if u not in MODIFIER_OF]),
        tone or "none",
        facets,
    )


def fetch(name: str, number: str, digest: str, work: Path) -> Path:
    """Return the tarball of an npm package; download it with `npm pack` if it is missing."""
    path = work / f"{name.lstrip('@').replace('/', '-')}-{number}.tgz"
    if not path.exists():
        command = ["npm", "pack", "--silent", "--pack-destination", str(work), f"{name}@{number}"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise BuildError(
                "npm is missing; install it, because the pictures come from npm packages"
            ) from None
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.strip().splitlines() or ["no reason given"])[0]
            raise BuildError(f"npm pack {name}@{number} failed: {reason}") from None
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise BuildError(f"{path} is not the pinned {name}@{number}; delete it and try again")
    return path


def read(name: str, work: Path) -> dict[tuple[str, str], bytes]:
    """Return the members of a package that are used, by (folder, stem)."""
    number, digest, pattern = PACKAGES[name]
    path = fetch(name, number, digest, work)
    members: dict[tuple[str, str], bytes] = {}
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            match = re.fullmatch(pattern, member.name)
            if match and (stream := archive.extractfile(member)):
                if member.size > MEMBER_LIMIT:
                    raise BuildError(f"{path}: {member.name} is too large: {member.size} bytes")
                members[match[1].strip("/"), match[2]] = stream.read()
    return members


def catalogue(base: dict[tuple[str, str], bytes]) -> tuple[dict[str, Emoji], dict[str, str]]:
    """Return each emoji by its plain code points, and the code points by Microsoft's file names."""
    groups, subgroups = (
        {entry["order"]: entry["message"] for entry in json.loads(base["en", "messages"])[kind]}
        for kind in ("groups", "subgroups")
    )
    aliases: dict[str, list[str]] = defaultdict(list)
    for label, name in (pair.split(":") for pair in ALIASES.split()):
        aliases[label].append(name)
    parents = [entry for entry in json.loads(base["en", "data"]) if "group" in entry]
    labels = {plain(entry["hexcode"]): entry["label"] for entry in parents}
    emoji: dict[str, Emoji] = {}
    names: dict[str, str] = {}
    for parent in parents:
        group, subgroup = groups[parent["group"]], subgroups[parent["subgroup"]]
        for entry in [parent, *parent.get("skins", [])]:
            code = plain(entry["hexcode"])
            root, tone, facets = analyse(code)
            concept = CONCEPT_NAMES.get(root) or slug(labels.get(root, parent["label"]))
            fields = (entry["label"].lower(), parent.get("tags", []), group, subgroup, concept)
            emoji[code] = Emoji(entry["hexcode"], *fields, tone, facets["gender"], facets["hair"])
            for stem in [slug(parent["label"]), *aliases[slug(parent["label"])]]:
                for suffix in ["", "-default"] if tone == "none" else [f"-{tone}"]:
                    names[stem + suffix] = code
    return emoji, names


def join(
    emoji: dict[str, Emoji], names: dict[str, str], work: Path
) -> tuple[dict[tuple[str, str], bytes], dict[str, list[str]]]:
    """Return the pictures' bytes by (style, plain code points), and what is left out, by reason."""
    drawings: dict[tuple[str, str], bytes] = {}
    left_out: dict[str, list[str]] = defaultdict(list)
    for (folder, name), data in read(SVG, work).items():
        if folder not in STYLES:
            continue
        if name not in names:
            left_out["SVG without a label in emojibase"].append(f"{folder}/{name}")
        elif (key := (STYLES[folder], names[name])) in drawings:
            raise BuildError(f"{SVG}: {folder}/{name} is the second picture of {key[1]}")
        else:
            drawings[key] = data
    released = {code for _, code in drawings}
    # Some occur twice (`23-fe0f-20e3`, `0023-fe0f-20e3`): the longest spelling comes last and wins.
    for (_, name), data in sorted(read(WEBP, work).items(), key=lambda item: len(item[0][1])):
        code = plain(name)
        units = next(units for pattern, units in MISNAMED if re.fullmatch(pattern, code))
        code = "-".join(units.get(unit, unit) for unit in code.split("-"))
        description = f"{code} {emoji[code].caption if code in emoji else ''}"
        if re.match(r"1F1(E[6-9A-F]|F[0-9A-F])|1F3F4-E00", code):
            left_out["country and subdivision flags (3d)"].append(description)
        elif code not in released:
            left_out["3d pictures not in Microsoft's release"].append(description)
        elif emoji[code].concept in TRADEMARKS:
            left_out["3d pictures of trademarks"].append(description)
        else:
            drawings["3d", code] = data
    for style, code in WRONG:
        left_out["SVG of another thing"].append(f"{style} {code} {emoji[code].caption}")
        del drawings[style, code]
    left_out["SVG emoji without a 3d picture"] = [
        f"{code} {emoji[code].caption}" for code in released if ("3d", code) not in drawings
    ]
    return drawings, {reason: sorted(set(left_out[reason])) for reason in sorted(left_out)}


def draw(*key: str) -> float:
    """Return a number in [0, 1) that depends on the seed and the key alone."""
    return int.from_bytes(hashlib.sha256("/".join([SEED, *key]).encode()).digest()[:8]) / 2**64


def splits(emoji: Iterable[Emoji]) -> dict[tuple[str, str], str]:
    """Return the split of every (concept, variant)."""
    variants: dict[str, set[str]] = defaultdict(set)
    for e in emoji:
        variants[e.concept].add(e.variant)
    result: dict[tuple[str, str], str] = {}
    for concept, members in variants.items():
        # The plainest variant is in `train`: the one without any facet, or at least without a tone.
        plainest = min(members, key=lambda v: (-v.count("none"), not v.endswith("none"), v))
        for variant in members:
            pair = variant != plainest and draw("pair", concept, variant) < HELD_OUT_PAIRS
            result[concept, variant] = "held-out-pair" if pair else "train"
            if draw("concept", concept) < HELD_OUT_CONCEPTS:
                result[concept, variant] = "held-out-concept"
    return result


def draw_svg(svg: str, width: int, height: int | None = None) -> bytes:
    """Draw SVG with this many pixels, at most, and return it as PNG."""
    try:
        import resvg_py
    except ModuleNotFoundError:
        raise BuildError("resvg-py is missing; type: pip install resvg-py") from None
    return bytes(resvg_py.svg_to_bytes(svg, width=width, height=height))


def picture(style: str, data: bytes) -> bytes:
    """Draw a picture on a white square, centred, reduce it, and return it as WebP."""
    if style != "3d":
        data = draw_svg(data.decode(), width=RENDER, height=RENDER)
    image = Image.open(io.BytesIO(data)).convert("RGBA")
    side = max(image.size)
    canvas = Image.new("RGBA", (side, side), "white")
    canvas.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    small = canvas.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    small.save(buffer := io.BytesIO(), "WEBP", quality=QUALITY, method=6)
    return buffer.getvalue()


def report(rows: list[dict[str, Any]], left_out: dict[str, list[str]]) -> dict[str, Any]:
    """Return the counts of the data set, and the packages and tools that made it."""
    styles_of: dict[str, dict[str, set[str]]] = {
        "concept": defaultdict(set),
        "code": defaultdict(set),
    }
    for row in rows:
        for key, styles in styles_of.items():
            styles[row[key]].add(row["style"])
    full = {k: sum(len(styles) == 3 for styles in s.values()) for k, s in styles_of.items()}
    held_out = {row["concept"] for row in rows if row["split"] == "held-out-concept"}
    return {
        "packages": {name: number for name, (number, _, _) in PACKAGES.items()},
        "tools": {name: version(name) for name in ("pillow", "resvg-py")}
        | {"libwebp": features.version("webp")},
        "pictures": len(rows),
        "emoji": len(styles_of["code"]),
        "concepts": len(styles_of["concept"]),
        "concepts in all three styles": full["concept"],
        "emoji in all three styles": full["code"],
        "pictures of emoji in all three styles": 3 * full["code"],
        "held-out concepts": sorted(held_out),
        **{key: dict(sorted(Counter(r[key] for r in rows).items())) for key in FACETS},
        "left out": {reason: len(names) for reason, names in left_out.items()},
        "left out, by name": left_out,
    }


def notice(summary: dict[str, Any], work: Path) -> str:
    """Return the notice: licences that copies must include, counts, and what is left out."""
    emojibase, repackager = (read(name, work)["", "LICENSE"].decode() for name in (EMOJIBASE, SVG))
    _, holder, permission = emojibase.strip().split("\n\n", 2)
    packages = ", ".join(f"`{name}` {number}" for name, number in summary["packages"].items())
    counts = [f"* {k}: {v}" for k, v in summary.items() if isinstance(v, int)]
    counts += [f"* {key}: {summary[key]}" for key in ("style", "split")]
    reasons = [f"* {reason}: {count}" for reason, count in summary["left out"].items()]
    return f"""# The bundled data set `emoji`

`emoji.zip` is built by `tools/build_emoji.py` from the npm packages {packages}.

The pictures are Microsoft's Fluent Emoji (https://github.com/microsoft/fluentui-emoji), here
reduced to {SIZE} pixels on white. The names, tags and groups are emojibase's
(https://emojibase.dev). Both are under the MIT License, as are the packages of the pictures:

Copyright (c) Microsoft Corporation.
{repackager.split(chr(10) * 2)[1]} (the package {SVG})
Copyright (c) 2023 LobeHub (the package {WEBP})
{holder} (emojibase)

{permission.strip()}

emojibase takes its English names and tags from Unicode's CLDR (Copyright (c) Unicode, Inc.,
Unicode License v3, https://www.unicode.org/license.txt).

## What it holds

{chr(10).join(counts)}

Skin tones exist in `3d` and `flat` only, so no tone joins in all three styles.

## What it leaves out or lacks

{chr(10).join(reasons)}

Each is named in the archive's `report.json`.
"""


def build_parser(text: str | None, out: Path | None = None) -> argparse.ArgumentParser:
    """Return a parser with the folder for downloads, and the archive to write if it has a default.

    Args:
        text: docstring of the script; its first line describes it.
        out: default of the archive.
    """
    parser = argparse.ArgumentParser(description=(text or "").split("\n")[0])
    work = Path("/tmp/limner-emoji")
    parser.add_argument(
        "--work", type=Path, default=work, metavar="DIR", help="folder for downloads"
    )
    if out is not None:
        parser.add_argument(
            "--out", type=Path, default=out, metavar="FILE", help="archive to write"
        )
    return parser


def main() -> None:
    """Build the archive, and the notice next to it; print the counts."""
    assets = Path(__file__).resolve().parents[1] / "src/limner/data/assets"
    args = build_parser(__doc__, assets / "emoji.zip").parse_args()
    with mistakes_in_one_line():
        args.work.mkdir(parents=True, exist_ok=True)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        emoji, names = catalogue(read(EMOJIBASE, args.work))
        drawings, left_out = join(emoji, names, args.work)
        split_of = splits(emoji[code] for _, code in drawings)
        rows: list[dict[str, Any]] = []
        files: dict[str, bytes] = {}
        for (style, code), data in drawings.items():
            e = emoji[code]
            name = f"{style}/{e.code}.webp"
            split = split_of[e.concept, e.variant]
            rows.append({"file_name": name, **e._asdict(), "style": style, "split": split})
            files[name] = picture(style, data)
        # Microsoft used one drawing for some pairs (dvd and optical disk, in line): a held-out
        # picture that is also a train picture would test memorisation, so it is left out.
        train_files = {files[row["file_name"]] for row in rows if row["split"] == "train"}
        duplicates = {
            row["file_name"]
            for row in rows
            if row["split"] != "train" and files[row["file_name"]] in train_files
        }
        left_out["held-out pictures equal to a train picture"] = sorted(duplicates)
        files = {name: data for name, data in files.items() if name not in duplicates}
        rows = sorted((r for r in rows if r["file_name"] in files), key=lambda r: r["file_name"])
        summary = report(rows, left_out)
        text = notice(summary, args.work)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        texts = {
            "metadata.jsonl": lines,
            "report.json": json.dumps(summary, indent=1),
            "NOTICE.md": text,
        }
        with zipfile.ZipFile(args.out, "w") as archive:
            for name, body in [*texts.items(), *sorted(files.items())]:
                entry = zipfile.ZipInfo(name)  # always dated 1980
                entry.create_system, entry.external_attr = 3, 0o644 << 16
                # WebP is already compressed; the metadata become twenty times smaller.
                method = zipfile.ZIP_DEFLATED if name in texts else zipfile.ZIP_STORED
                archive.writestr(entry, body, method)
        (args.out.parent / "EMOJI-NOTICE.md").write_text(text, encoding="utf-8")
    brief = {k: v for k, v in summary.items() if k != "left out, by name"}
    print(json.dumps(brief, indent=1))
    digest = hashlib.sha256(args.out.read_bytes()).hexdigest()
    print(f"{args.out}: {args.out.stat().st_size} bytes, sha256 {digest}")


if __name__ == "__main__":
    main()
