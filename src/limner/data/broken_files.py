"""Files that are no sound pictures: how many of them data may have."""

import shlex

from limner.contract.errors import LimnerError

Reasons = list[tuple[str, str]]
"""Names of files, and what is wrong with each."""


def too_many(broken: int, total: int, share: float) -> bool:
    """Whether so many pictures are broken that the data are refused, or there are none at all.

    Args:
        broken: how many are.
        total: of so many.
        share: of these may be, or one.
    """
    return broken == total or broken > max(1, share * total)


def few(broken: Reasons, total: int, typed: str, share: float) -> None:
    """Let some pictures be broken.

    Raises:
        LimnerError: too many are, or all.
    """
    if too_many(len(broken), total, share):
        first = ", ".join(f"'{name}' ({reason})" for name, reason in broken[:3])
        raise LimnerError(
            f"{len(broken)} of {total} pictures of {typed} are broken: {first}"
            f"{', ...' if len(broken) > 3 else ''}; to see all, type: limner data check "
            f"{shlex.quote(typed)}; to allow more, give data.broken (now {share:g})"
        )
