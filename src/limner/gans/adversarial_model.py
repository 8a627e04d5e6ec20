"""Base of the GANs: two players, the critic's moves, and warnings about training."""

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.image import Batch, Condition, Images
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise
from limner.gans.losses import Scores

LINES = 5  # of the log that must all show a trouble before it is one
FIRST_LINES = 20  # before paintings that were alike from the beginning are one
MODES = "evaluate.modes"  # how the log's names of counted modes begin
GAME = "critic.game.loss"  # of a critic whose moves have other losses, too
_OPINIONS = "D(real)", "D(fake)", "s(real)", "s(fake)"  # of games that a critic can win
_LOST = 0.05  # a critic's loss below which the generator hears little from it
_ALIKE = 0.25  # a variety below which modes are missing


class Adversarial(GenerativeModel):
    """A critic, which moves first, and a generator.

    A subclass has `critic` and `generator`, or players of its own.
    """

    takes = ("labels", "text")
    couples_batch = True
    generator: nn.Module
    critic: nn.Module

    def players(self) -> dict[str, nn.Module]:
        """The critic, which moves first, and the generator."""
        return {"critic": self.critic, "generator": self.generator}

    def moves(self, batch: Batch, noise: Noise) -> list[tuple[Images, Condition, Noise]]:
        """A round's batches, a move of the critic's each: pictures, what they are of, streams."""
        n = len(batch.x) // self.batches_per_round
        parts = [slice(first, first + n) for first in range(0, len(batch.x), n)]
        streams = [noise.rows(rows) for rows in parts]
        return [(batch.x[rows], batch.c.rows(rows), own) for rows, own in zip(parts, streams)]

    def remarks(self, rows: Sequence[Mapping[str, float | None]]) -> list[str]:
        """Once it is so: that the critic has won, or that modes have collapsed."""
        found: list[str] = []
        game = GAME if rows and GAME in rows[-1] else "critic.loss"
        opinions = [name for name in _OPINIONS if rows and name in rows[-1]]
        if opinions and _lines_below(rows, game, _LOST) == LINES:
            last = ", ".join(f"{name} = {rows[-1][name]:.2g}" for name in opinions)
            found.append(
                f"the critic has won ({last}): it is almost never wrong, and the generator learns "
                "little from it; try a smaller train.players.critic.lr, or more regularisation"
            )
        alike = _lines_below(rows, "variety", _ALIKE)
        if alike == (LINES if alike < len(rows) else FIRST_LINES):
            found.append(
                f"modes have collapsed: paintings are {rows[-1]['variety']:.2g} times as far from "
                "one another as pictures are; try a larger train.batch, or another objective"
            )
        counted = _mode_counts(rows)
        if rows and counted != _mode_counts(rows[:-1]) and _lost_half(counted):
            found.append(
                f"modes have collapsed: a classifier finds {counted[-1]:.0f} of them, and found "
                f"{max(counted):.0f} before; try an earlier state, or a smaller train.lr"
            )
        return found


def _lines_below(rows: Sequence[Mapping[str, float | None]], name: str, limit: float) -> int:
    """In how many of the last lines a number was from 0 to a limit."""
    low = [(value := row.get(name)) is not None and 0 <= value < limit for row in rows]
    return len(list(takewhile(bool, reversed(low))))


def _mode_counts(rows: Sequence[Mapping[str, float | None]]) -> list[float]:
    """How many modes were found whenever they were counted, as a recipe's [evaluate] asks for."""
    found = [row[name] for row in rows for name in row if name.startswith(MODES)]
    return [count for count in found if count is not None]


def _lost_half(counted: Sequence[float]) -> bool:
    """Whether fewer than half of the most modes are left, for the first time in a row."""
    lost = [count < max(counted[: i + 1]) / 2 for i, count in enumerate(counted)]
    return lost[-1] and not any(lost[-2:-1])


def by_pixel(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The same in memory pixel by pixel, which convolutions on CPUs like best.

    Those with one channel, too, of which torch cannot tell how they are laid out; and all that
    follows takes its layout from there.
    """
    return x.clone(memory_format=torch.channels_last)


def score_both(
    critic: Callable[[Images, Condition], Scores], real: Images, fake: Images, c: Condition
) -> tuple[Scores, Scores]:
    """Scores of pictures and of paintings, both of c, in one pass: as float32 numbers, though the
    critic may compute in bfloat16.

    It is for critics whose score of a picture depends on no painting, and the other way round.
    """
    on_real, on_fake = critic(torch.cat([real, fake]), Condition.cat([c, c])).float().chunk(2)
    return on_real, on_fake


@torch.no_grad()
def variety(real: Images, fake: Images) -> Float[Tensor, ""]:
    """How far a painting is from the nearest other one, as a share of the same among pictures.

    Medians over the batch. It is about 1 for the data's own variety, lower for blurred pictures,
    and near 0 where the same few are painted again and again. Of one picture it is 1.
    """
    if len(real) < 2:
        return torch.ones((), device=real.device)
    apart = [_nearest(x.float().flatten(1)).median() for x in (fake, real)]
    return apart[0] / apart[1].clamp(min=1e-6)


def _nearest(x: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
    """The distance of each row to the nearest other."""
    itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
    return torch.cdist(x, x).masked_fill(itself, float("inf")).amin(1)
