"""Pictures through the API.

POST   /api/v1/assets               upload a picture -> its id
GET    /api/v1/assets/{id}          its pixels; ?w= for another width
GET    /api/v1/archive              several pictures as a zip archive
GET    /api/v1/history              painted pictures: search, favourites
GET    /api/v1/history/{id}/edits   the tree of its edits
PATCH, DELETE /api/v1/history/{id}  make it a favourite or not; delete it
POST   /api/v1/history/{id}/restore restore it
"""

import asyncio
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.responses import FileResponse

from limner.contract.errors import LimnerError
from limner.studio import api_types, assets, edits, gallery
from limner.studio.background import in_slow_thread, in_store_thread, in_thread
from limner.studio.common_files import CommonFiles
from limner.studio.lifecycle import Studio
from limner.studio.problems import RefusedError, check_is_file, errors
from limner.studio.tables import Picture

_CACHE_CONTROL = "private, max-age=31536000, immutable"
_FETCH_SECONDS = 10.0
_RETRY_HINT = "paint it again, or send it again"


async def _picture(id: api_types.PathId, request: Request) -> Picture:
    picture = await in_thread(request.app.state.studio.store.picture, id)
    if picture is None:
        raise RefusedError(404, "unknown", "there is no such picture", "it may have been deleted")
    return picture


KnownPicture = Annotated[Picture, Depends(_picture)]


async def _file(request: Request, picture: Picture) -> Path:
    """Return the path of a picture's file, after copying it from the store if necessary.

    Raises:
        RefusedError: the store does not answer.
    """
    common: CommonFiles = request.app.state.studio.store.common
    path = common.path(picture.sha256)
    if path.exists():
        return path
    request.state.free_place()  # so that other requests do not wait for the store
    try:
        return await asyncio.wait_for(in_store_thread(common.fetch, picture.sha256), _FETCH_SECONDS)
    except TimeoutError:
        message = "the store of the pictures does not answer"
        raise RefusedError(503, "store", message, "try again in a moment", 5) from None


def add_pictures(app: FastAPI, studio: Studio) -> None:
    """Add the routes for uploading, listing and deleting pictures."""

    @app.post(
        "/api/v1/assets",
        status_code=201,
        dependencies=[Depends(check_is_file)],
        responses=errors(413, 415),
        response_model=api_types.Uploaded,
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
            }
        },
    )
    async def upload(request: Request) -> Any:
        """Upload a picture, which is the request's body; it is decoded and encoded again."""
        content = await request.body()
        try:
            painted = await in_slow_thread(assets.store_upload, content, studio.store.files)
            await in_store_thread(studio.store.common.publish, painted.sha256)
        except LimnerError as error:
            message, _, hint = str(error).partition("; ")
            raise RefusedError(415, "no-picture", message, hint) from None
        picture = await in_thread(studio.store.upload, painted)
        return api_types.upload_answer(picture)

    @app.get("/api/v1/assets", responses=errors(404), response_model=api_types.Uploaded)
    async def find(sha256: Annotated[str, Query(pattern=r"^[0-9a-f]{64}$")]) -> Any:
        """Find the picture of a file by its hash; settings name source pictures in this way."""
        picture = await in_thread(studio.store.picture_of_file, sha256)
        if picture is None:
            reason = "the source of this picture is not here any more"
            raise RefusedError(404, "unknown", reason, "choose it again")
        return api_types.upload_answer(picture)

    @app.get(
        "/api/v1/assets/{id}",
        responses=errors(404) | {200: {"content": {"image/png": {}}}},
        response_class=Response,
    )
    async def pixels(
        picture: KnownPicture,
        request: Request,
        w: Annotated[int | None, Query(ge=16, le=2048, description="width in pixels")] = None,
        download: Annotated[bool, Query(description="as a file to save")] = False,
    ) -> Response:
        """Return a picture as a PNG file, or at another width, enlarged pixel by pixel."""
        path = await _file(request, picture)
        headers = {"Cache-Control": _CACHE_CONTROL}
        if download:
            headers["Content-Disposition"] = f'attachment; filename="limner-{picture.number}.png"'
        if w is None:
            if not path.is_file():
                raise RefusedError(404, "unknown", "this picture's file is gone", _RETRY_HINT)
            return FileResponse(path, media_type="image/png", headers=headers)
        try:
            content = await in_slow_thread(assets.resize_png, path, w)
        except LimnerError as error:
            raise RefusedError(404, "unknown", str(error), _RETRY_HINT) from None
        return Response(content, media_type="image/png", headers=headers)

    @app.get(
        "/api/v1/archive",
        responses=errors(404) | {200: {"content": {"application/zip": {}}}},
        response_class=Response,
    )
    async def archive(
        request: Request,
        id: Annotated[list[api_types.Id], Query(min_length=1, max_length=200)],
    ) -> Response:
        """Return several pictures, with their settings, as one zip archive."""
        rows = await in_thread(studio.store.pictures_with, id)
        if not rows:
            raise RefusedError(404, "unknown", "there are no such pictures")
        files = [(row.number, await _file(request, row)) for row in rows]
        content = await in_slow_thread(gallery.archive, files)
        headers = {"Content-Disposition": 'attachment; filename="limner-pictures.zip"'}
        return Response(content, media_type="application/zip", headers=headers)

    @app.get("/api/v1/history", responses=errors(), response_model=api_types.History)
    async def history(
        search: Annotated[str, Query(max_length=200)] = "",
        model: Annotated[str, Query(max_length=400)] = "",
        favourite: bool = False,
        since: Annotated[
            float | None, Query(ge=0, le=1e12, description="seconds since 1970")
        ] = None,
        oldest: Annotated[bool, Query(description="the oldest first")] = False,
        before: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 60,
    ) -> Any:
        """List painted pictures, the newest first."""
        rows, total = await in_thread(
            studio.store.history,
            search=search.replace("\0", ""),
            model=model.replace("\0", ""),
            favourite=favourite,
            since=since,
            oldest=oldest,
            before=before,
            limit=limit,
        )
        jobs = await in_thread(studio.store.job_ids, rows)
        pictures = [api_types.picture_answer(row, jobs.get(row.job or 0)) for row in rows]
        return api_types.History(pictures=pictures, total=total)

    @app.get("/api/v1/history/{id}", responses=errors(404), response_model=api_types.PicturePage)
    async def one(picture: KnownPicture) -> Any:
        """Return a picture, and the job that painted it."""
        job = await in_thread(studio.store.job_of, picture)
        if job is None:
            return api_types.PicturePage(picture=api_types.picture_answer(picture, None), job=None)
        pictures = (await in_thread(studio.store.pictures_of, [job]))[job.number]
        return api_types.PicturePage(
            picture=api_types.picture_answer(picture, job.id),
            job=api_types.job_answer(job, pictures),
        )

    @app.get("/api/v1/history/{id}/edits", responses=errors(404), response_model=api_types.EditTree)
    async def edits_of(picture: KnownPicture) -> Any:
        """Return the picture at the root of a chain of edits, and all pictures made from it."""
        return api_types.EditTree(pictures=await in_thread(edits.tree, studio.store, picture))

    @app.patch(
        "/api/v1/history/{id}", responses=errors(404), response_model=api_types.PictureAnswer
    )
    async def favour(picture: KnownPicture, body: api_types.Favour) -> Any:
        """Make a picture a favourite, or no longer; favourites are kept forever."""
        changed = await in_thread(studio.store.set_favourite, picture.id, body.favourite)
        return api_types.picture_answer(changed or picture, None)

    @app.delete("/api/v1/history/{id}", status_code=204, responses=errors(404))
    async def forget(picture: KnownPicture) -> None:
        """Delete a picture; it can be restored for an hour."""
        await in_thread(studio.store.delete, picture.id)

    @app.post(
        "/api/v1/history/{id}/restore",
        responses=errors(404),
        response_model=api_types.PictureAnswer,
    )
    async def restore(id: api_types.PathId) -> Any:
        """Restore a deleted picture."""
        picture = await in_thread(studio.store.restore, id)
        if picture is None:
            raise RefusedError(404, "unknown", "this picture is gone", "it was deleted long ago")
        return api_types.picture_answer(picture, None)
