"""What the tokens of a text encoder know: which word comes first, and which thing is on the left.

    python benchmarks/reading.py scenes

A linear probe reads the last token of each thing's name in captions of scenes ("a dog to the right
of a cat"). Names come first in half of the cases for either side, so that a bag of words, or of
words and their places, tells left from right in 50 %.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limner.contract.bundled import bundled
from limner.contract.checkpoint import load
from limner.contract.noise import Noise
from limner.contract.text import Tokenizer
from limner.data.scenes import Scenes
from limner.nn.text import TextEncoder

_TRAINED = 0.8  # of the names


def names(encoder: TextEncoder, tokenizer: Tokenizer, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens of names, whether each comes first in its caption, and whether it is on the left."""
    source = Scenes(
        split="train", size=128, vocabulary=120, grid=16,
        skills="position", relations="left of,right of",
    )  # fmt: skip
    data, tokens, first, left = source.open("scenes"), list[Tensor](), list[bool](), list[bool]()
    for i, said in enumerate(data.captions(torch.arange(n), Noise.sampling(0, n))):
        scene, text = data.scene(i), tokenizer.encode([said])
        assert scene is not None
        found: list[tuple[int, float, Tensor]] = []
        for thing in scene.things[:2]:
            name, row = list(tokenizer.read(thing.name).tokens), text[0].tolist()
            at = [j for j in range(len(row)) if row[j : j + len(name)] == name]
            if at:
                last = at[0] + len(name) - 1
                found.append((last, thing.box.left, encoder(text).tokens[0, last]))
        if len(found) == 2:
            for place, x, token in found:
                tokens.append(token)
                first.append(place == min(other for other, _, _ in found))
                left.append(x == min(other for _, other, _ in found))
    return torch.stack(tokens), torch.tensor(first), torch.tensor(left)


@torch.enable_grad()
def probed(tokens: Float[Tensor, "n d"], truth: Bool[Tensor, "n"]) -> float:
    """The share of held-out names of which a linear map of the token tells the truth."""
    known = int(_TRAINED * len(tokens))
    scaled = (tokens - tokens[:known].mean(0)) / (tokens[:known].std(0) + 1e-5)
    probe = nn.Linear(tokens.shape[1], 1)
    optimizer = torch.optim.Adam(probe.parameters(), 1e-2, weight_decay=1e-4)
    for _ in range(400):
        logits = probe(scaled[:known])[:, 0]
        loss = F.binary_cross_entropy_with_logits(logits, truth[:known].float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(((probe(scaled[known:])[:, 0] > 0) == truth[known:]).float().mean())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a run, a model file, or a bundled model")
    parser.add_argument("-n", type=int, default=3000, help="captions")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = load(bundled().get(asked.model, Path(asked.model)))
    encoders = [each for each in model.modules() if isinstance(each, TextEncoder)]
    if not encoders or model.spec.text is None:
        raise SystemExit(f"{asked.model} reads no captions")
    tokens, first, left = names(encoders[0].eval(), Tokenizer(model.spec.text), asked.n)
    held_out = len(tokens) - int(_TRAINED * len(tokens))
    print(f"of {held_out} held-out names, which comes first: {probed(tokens, first):.3f}")
    print(f"of {held_out} held-out names, which is on the left: {probed(tokens, left):.3f}")


if __name__ == "__main__":
    main()
