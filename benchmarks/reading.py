"""What do the tokens of a text encoder say: which word comes first, and which thing is on the left?

    python benchmarks/reading.py scenes

A linear probe reads the last token of each thing's name in captions of scenes ("a dog to the right
of a cat"). On either side, half of the names come first in their caption. So a bag of words, or of
words and their positions, distinguishes left from right with an accuracy of 50 %.

    python benchmarks/reading.py runs/caption-reader

A caption reader also reads by queries: which of two things it places on the left, from all tokens.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from timing import count, model_name, options_parser
from torch import Tensor, nn

from limner.contract.bundled import load
from limner.contract.layout import NO_OBJECT, read_layout
from limner.contract.noise import Noise
from limner.contract.text import Tokenizer
from limner.data.scenes import Scenes
from limner.diffusion.caption_reader import CaptionReader, sides
from limner.nn.text import TextEncoder

_TRAINED = 0.8  # share of the names that the probe is trained on
SIDES = Scenes(
    split="train", size=128, vocabulary=120, grid=16, hint="objects",
    skills="position", relations="left of,right of",
)  # fmt: skip


def names(encoder: TextEncoder, tokenizer: Tokenizer, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens of names, whether each comes first in its caption, and whether it is on the
    left.
    """
    data = SIDES.open("scenes")
    tokens, first, left = list[Tensor](), list[bool](), list[bool]()
    for i, caption in enumerate(data.captions(torch.arange(n), Noise.sampling(0, n))):
        scene, text = data.scene(i), tokenizer.encode([caption])
        assert scene is not None
        positions: list[tuple[int, float, Tensor]] = []
        for thing in scene.things[:2]:
            name, row = list(tokenizer.read(thing.name).tokens), text[0].tolist()
            starts = [j for j in range(len(row)) if row[j : j + len(name)] == name]
            if starts:
                last = starts[0] + len(name) - 1
                positions.append((last, thing.box.left, encoder(text).tokens[0, last]))
        if len(positions) == 2:
            for position, x, token in positions:
                tokens.append(token)
                first.append(position == min(other for other, _, _ in positions))
                left.append(x == min(other for _, other, _ in positions))
    return torch.stack(tokens), torch.tensor(first), torch.tensor(left)


def query_accuracy(reader: CaptionReader, tokenizer: Tokenizer, n: int) -> float:
    """Return the share of things in `n` scenes of the test set that a reader puts on their side."""
    data, indices = replace(SIDES, split="test").open("scenes"), torch.arange(n)
    text = tokenizer.encode(data.captions(indices, Noise.sampling(0, n)))
    objects = read_layout(data.truth(indices), reader.kinds)
    present = objects.kind != NO_OBJECT
    centre = (objects.box[..., :2] + objects.box[..., 2:]) / 2
    is_right = reader.sides(text, objects.kind) == sides(centre, present)
    return float(is_right[..., 0][present].float().mean())


@torch.enable_grad()
def probe_accuracy(tokens: Float[Tensor, "n d"], truth: Bool[Tensor, "n"]) -> float:
    """Return the share of held-out names for which a linear map of the token predicts the truth."""
    n_train = int(_TRAINED * len(tokens))
    scaled = (tokens - tokens[:n_train].mean(0)) / (tokens[:n_train].std(0) + 1e-5)
    probe = nn.Linear(tokens.shape[1], 1)
    optimizer = torch.optim.Adam(probe.parameters(), 1e-2, weight_decay=1e-4)
    for _ in range(400):
        logits = probe(scaled[:n_train])[:, 0]
        loss = F.binary_cross_entropy_with_logits(logits, truth[:n_train].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(((probe(scaled[n_train:])[:, 0] > 0) == truth[n_train:]).float().mean())


@torch.no_grad()
def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument(
        "model", type=model_name, help="run, model file, or name of a bundled model"
    )
    parser.add_argument("-n", type=count, default=3000, help="number of captions")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = load(args.model)
    encoders = [module for module in model.modules() if isinstance(module, TextEncoder)]
    if not encoders or model.spec.text is None:
        raise SystemExit(f"{args.model} has no text encoder; pass a model that reads captions")
    tokens, first, left = names(encoders[0].eval(), Tokenizer(model.spec.text), args.n)
    held_out = len(tokens) - int(_TRAINED * len(tokens))
    print(f"of {held_out} held-out names, which comes first: {probe_accuracy(tokens, first):.3f}")
    print(f"of {held_out} held-out names, which is on the left: {probe_accuracy(tokens, left):.3f}")
    if isinstance(model, CaptionReader):
        accuracy = query_accuracy(model, Tokenizer(model.spec.text), held_out // 2)
        print(f"by queries, of {held_out} things of the test set: {accuracy:.3f}")


if __name__ == "__main__":
    main()
