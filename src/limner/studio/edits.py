"""The tree of the pictures that were made from a picture."""

from limner.studio import api_types
from limner.studio.store import Store
from limner.studio.tables import Job, Picture

_MAX_PICTURES = 200  # pictures of a tree


def parent_of(job: Job | None) -> str | None:
    """Return the id of a job's source picture; None if it has none."""
    return (job.inputs.get("parent") or job.inputs.get("image")) if job else None


def tree(store: Store, picture: Picture) -> list[api_types.EditAnswer]:
    """Return the picture at the root of a chain of edits, and all pictures made from it. The oldest
    is first, and a parent comes before its children.

    Args:
        store: store of the studio.
        picture: any picture of the tree.
    """
    root, job = picture, store.job_of(picture)
    ancestors: set[str] = set()
    while (id := parent_of(job)) and id not in ancestors and len(ancestors) < _MAX_PICTURES:
        ancestors.add(id)
        parent = store.picture(id)
        if parent is None:  # deleted: the tree starts below it
            break
        root, job = parent, store.job_of(parent)
    edits = [_edit(root, job, None)]
    parents = [root.id]
    while parents and len(edits) < _MAX_PICTURES:
        jobs = store.jobs(of=parents)
        pictures = store.pictures_of(jobs)
        children = [
            _edit(each, job, parent_of(job))
            for job in jobs
            for each in pictures[job.number]
            if each.painted
        ]
        edits += children
        parents = [each.id for each in children]
    return edits[:_MAX_PICTURES]


def _edit(picture: Picture, job: Job | None, parent: str | None) -> api_types.EditAnswer:
    fields = api_types.picture_answer(picture, job.id if job else None).model_dump()
    changes = job.params.get("changes", []) if job else []
    return api_types.EditAnswer(
        **fields, parent=parent, changes=changes, task=job.task if job else ""
    )
