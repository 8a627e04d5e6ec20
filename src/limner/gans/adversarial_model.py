"""Base of the GANs: two players, batches of the critic, and warnings about training."""

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limner.contract.image import Batch, Condition, Images
from limner.contract.model import GenerativeModel
from limner.contract.noise import Noise
from limner.gans.losses import Scores

PROBLEM_LINES = 5  # consecutive log lines that must show a problem before it is reported
INITIAL_PROBLEM_LINES = 20  # the same for generated pictures that were alike from the start
MODES_PREFIX = "evaluate.modes"  # prefix of the log's names of mode counts
GAME_LOSS = "critic.game.loss"  # for a critic with additional losses
_SCORE_COLUMNS = "D(real)", "D(fake)", "s(real)", "s(fake)"  # in games that a critic can win
_MIN_CRITIC_LOSS = 0.05  # critic's loss below which the generator learns little from it
_MIN_VARIETY = 0.25  # variety below which modes are missing


class Adversarial(GenerativeModel):
    """Base of models with a critic and a generator, which take turns; the critic is first.

    A subclass has `critic` and `generator`, or players of its own.
    """

    takes = ("labels", "text")
    couples_batch = True
    generator: nn.Module
    critic: nn.Module

    def players(self) -> dict[str, nn.Module]:
        """Return the critic, which is first, and the generator."""
        return {"critic": self.critic, "generator": self.generator}

    def parts(self, batch: Batch, noise: Noise) -> list[tuple[Images, Condition, Noise]]:
        """Split a batch into one part per critic update: pictures, conditions and streams."""
        n = len(batch.x) // self.batches_per_round
        parts = [slice(start, start + n) for start in range(0, len(batch.x), n)]
        streams = [noise.rows(rows) for rows in parts]
        return [(batch.x[rows], batch.c.rows(rows), stream) for rows, stream in zip(parts, streams)]

    def remarks(self, rows: Sequence[Mapping[str, float | None]]) -> list[str]:
        """Return warnings, each once: that the critic has won, or that modes have collapsed."""
        messages: list[str] = []
        game = GAME_LOSS if rows and GAME_LOSS in rows[-1] else "critic.loss"
        opinions = [name for name in _SCORE_COLUMNS if rows and name in rows[-1]]
        if opinions and _lines_below(rows, game, _MIN_CRITIC_LOSS) == PROBLEM_LINES:
            means = ", ".join(f"{name} = {rows[-1][name]:.2g}" for name in opinions)
            messages.append(
                f"the critic has won ({means}): it is almost always right, so the generator learns "
                "little from it; try a smaller train.players.critic.lr, or more regularisation"
            )
        count = _lines_below(rows, "variety", _MIN_VARIETY)
        if count == (PROBLEM_LINES if count < len(rows) else INITIAL_PROBLEM_LINES):
            messages.append(
                "modes have collapsed: the distance between generated pictures is only "
                f"{rows[-1]['variety']:.2g} times that between real ones; try a larger "
                "train.batch, or another objective"
            )
        counts = _mode_counts(rows)
        if rows and counts != _mode_counts(rows[:-1]) and _has_lost_half(counts):
            messages.append(
                f"modes have collapsed: a classifier finds {counts[-1]:.0f} of them, and found "
                f"{max(counts):.0f} before; try fewer train.steps, or a smaller train.lr"
            )
        return messages


def _lines_below(rows: Sequence[Mapping[str, float | None]], name: str, limit: float) -> int:
    """Return the number of last lines in a row in which a value is from 0 to below a limit."""
    low = [(value := row.get(name)) is not None and 0 <= value < limit for row in rows]
    return len(list(takewhile(bool, reversed(low))))


def _mode_counts(rows: Sequence[Mapping[str, float | None]]) -> list[float]:
    """Return the mode counts in the log, which a recipe's [evaluate] requests."""
    counts = [row[name] for row in rows for name in row if name.startswith(MODES_PREFIX)]
    return [count for count in counts if count is not None]


def _has_lost_half(counts: Sequence[float]) -> bool:
    """Whether modes fell below half of their maximum at the last count, but not before it."""
    is_lost = [count < max(counts[: i + 1]) / 2 for i, count in enumerate(counts)]
    return is_lost[-1] and not any(is_lost[-2:-1])


def by_pixel(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Return a copy in the channels-last memory format, which is fastest for convolutions on CPUs.

    It also copies tensors with one channel, where torch cannot infer the format. All later layers
    keep the format.
    """
    return x.clone(memory_format=torch.channels_last)


def score_both(
    critic: Callable[[Images, Condition], Scores], real: Images, fake: Images, c: Condition
) -> tuple[Scores, Scores]:
    """Return the scores of real and of generated pictures of the same condition, in one pass.

    Scores are float32, even if the critic computes in bfloat16. The critic's score of a picture
    must not depend on other pictures.
    """
    on_real, on_fake = critic(torch.cat([real, fake]), Condition.cat([c, c])).float().chunk(2)
    return on_real, on_fake


@torch.no_grad()
def variety(real: Images, fake: Images) -> Float[Tensor, ""]:
    """Return the distance of a generated picture to its nearest neighbour, relative to real ones.

    Both distances are medians over the batch. The ratio is about 1 for the data's own variety,
    lower for blurred pictures, and near 0 if the generator repeats a few pictures. For a single
    picture it is 1.
    """
    if len(real) < 2:
        return torch.ones((), device=real.device)
    fake_distance, real_distance = (_nearest(x.float().flatten(1)).median() for x in (fake, real))
    return fake_distance / real_distance.clamp(min=1e-6)


def _nearest(x: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
    """Return the distance of each row to the nearest other row."""
    itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
    return torch.cdist(x, x).masked_fill(itself, float("inf")).amin(1)
