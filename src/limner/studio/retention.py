"""What the studio deletes: old pictures and jobs, and the files that no picture uses any more."""

import time
from collections.abc import Collection

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from limner.studio.tables import FINAL_STATES, RUNNING, WAITING, Job, Picture, UnusedFile

_RESTORE_SECONDS = 3600.0


def delete_old(session: Session, keep: int, uploads_before: float) -> set[str]:
    """Delete old pictures and jobs. The sources of a picture stay as long as it does.

    These are deleted: painted pictures beyond the newest `keep`, except favourites; uploads beyond
    the newest `keep`, and old ones; pictures marked as deleted more than an hour ago; and old jobs
    without pictures.

    Args:
        session: session of the database.
        keep: number of painted pictures, and of uploads, to keep.
        uploads_before: uploads and jobs older than this are old, in seconds since 1970.

    Returns:
        the hashes of the pictures' files.
    """
    history = select(Picture).where(Picture.painted, ~Picture.favourite)
    old_pictures = history.order_by(Picture.number.desc()).offset(keep)
    uploads = select(Picture).where(~Picture.painted)
    old_uploads = uploads.order_by(Picture.number.desc()).offset(keep)
    uploads = uploads.where(Picture.created < uploads_before)
    painted_jobs = select(Picture.job).where(Picture.painted)
    inputs_in_use = select(Job.inputs).where(
        Job.state.in_((WAITING, RUNNING)) | Job.number.in_(painted_jobs)
    )
    needed = {id for inputs in session.scalars(inputs_in_use) for id in inputs.values()}
    rows = [p for q in (old_pictures, old_uploads, uploads) for p in session.scalars(q)]
    old = {p.id: p for p in rows if p.id not in needed}
    deleted = select(Picture).where(Picture.deleted < time.time() - _RESTORE_SECONDS)
    old = (old | {p.id: p for p in session.scalars(deleted)}).values()
    for picture in old:
        session.delete(picture)
    session.flush()
    kept = select(Picture.job).where(Picture.job.is_not(None))
    conditions = (
        Job.state.in_(FINAL_STATES),
        Job.finished < uploads_before,
        Job.number.not_in(kept),
    )
    session.execute(delete(Job).where(*conditions))
    return {picture.sha256 for picture in old}


def add_unused_files(session: Session, names: Collection[str]) -> list[str]:
    """Store the hashes of files to delete, which survive a restart. Returns all of them."""
    for name in names:
        session.merge(UnusedFile(sha256=name))
    session.flush()
    return list(session.scalars(select(UnusedFile.sha256)))


def remove_unused_file(session: Session, name: str) -> None:
    """Remove the hash of a file that is deleted, or is in use again."""
    session.execute(delete(UnusedFile).where(UnusedFile.sha256 == name))


def is_in_use(session: Session, name: str) -> bool:
    """Whether a picture uses a file."""
    query = select(Picture.id).where(Picture.sha256 == name).limit(1)
    return session.scalar(query) is not None
