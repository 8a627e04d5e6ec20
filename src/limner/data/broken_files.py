"""Broken picture files, and the share of them that is tolerated."""

import shlex

from limner.contract.errors import LimnerError

Reasons = list[tuple[str, str]]
"""Names of files, each with the reason why it is broken."""


def too_many(broken: int, total: int, share: float) -> bool:
    """Whether too many pictures are broken for training, or all of them.

    Args:
        broken: number of broken pictures.
        total: number of all pictures.
        share: largest share that may be broken; one picture may always be.
    """
    return broken == total or broken > max(1, share * total)


def check_broken(broken: Reasons, total: int, typed: str, share: float) -> None:
    """Check that only few pictures are broken.

    Raises:
        LimnerError: too many pictures are broken, or all of them.
    """
    if too_many(len(broken), total, share):
        first = ", ".join(f"'{name}' ({reason})" for name, reason in broken[:3])
        more = f"; to allow more, give data.broken (now {share:g})" if len(broken) < total else ""
        raise LimnerError(
            f"{len(broken)} of {total} pictures of {typed} are broken: {first}"
            f"{', ...' if len(broken) > 3 else ''}; to see all, type: limner data check "
            f"{shlex.quote(typed)}{more}"
        )
