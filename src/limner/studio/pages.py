"""The page, and the reports of `limner evaluate` and `limner compare` for it."""

from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from limner.studio import api_types, reports
from limner.studio.background import in_slow_thread
from limner.studio.lifecycle import Studio
from limner.studio.middleware import came_by_https, cookie, without_token
from limner.studio.problems import RefusedError, errors
from limner.studio.settings import Settings

_PAGE_FOLDER = str(files("limner.studio") / "page")


def add_reports(app: FastAPI, studio: Studio) -> None:
    """Add the routes for evaluations and comparisons."""

    @app.get("/api/v1/reports", responses=errors(404), response_model=api_types.Reports)
    async def list_reports(model: Annotated[str | None, Query(max_length=400)] = None) -> Any:
        """List the evaluations of a model, or those of all models and all comparisons."""
        if model is not None and model not in studio.models.folders:
            raise RefusedError(404, "unknown", "there is no such model", "see /api/v1/models")
        evaluations = [
            {"model": name} | report
            for name in ([*studio.models.descriptions] if model is None else [model])
            for report in await in_slow_thread(reports.reports, studio.models.folders[name])
        ]
        folders = (
            await in_slow_thread(reports.comparisons, studio.settings.root) if model is None else {}
        )
        return api_types.Reports(
            reports=evaluations, comparisons=await in_slow_thread(reports.summaries, folders)
        )

    @app.get(
        "/api/v1/comparisons/{id}",
        responses=errors(404) | {200: {"content": {"text/html": {}}}},
        response_class=Response,
    )
    async def comparison(id: api_types.PathId) -> Response:
        """Return the page that `limner compare` wrote, in a sandbox."""
        folder = (await in_slow_thread(reports.comparisons, studio.settings.root)).get(id)
        path = folder and await in_slow_thread(reports.page, folder)
        if not path:
            raise RefusedError(404, "unknown", "there is no such comparison", "see /api/v1/reports")
        headers = {"Cache-Control": "no-cache", "Content-Security-Policy": reports.policy()}
        return FileResponse(path, media_type="text/html", headers=headers)


def page_answer(status: int = 200) -> Response:
    """Return the page."""
    headers = {"Cache-Control": "no-cache"}
    return FileResponse(f"{_PAGE_FOLDER}/index.html", status, headers, media_type="text/html")


def wants_page(request: Request) -> bool:
    """Whether a browser opens an address as a page, rather than a program that calls the API."""
    is_view = not request.url.path.startswith(("/api/", "/page/"))
    return request.method == "GET" and is_view and "text/html" in request.headers.get("accept", "")


def add_page(app: FastAPI, settings: Settings) -> None:
    """Add the routes for the page and its files."""
    app.mount("/page", StaticFiles(directory=_PAGE_FOLDER), name="page")

    async def page(request: Request) -> Response:
        """Return the page, which chooses its view by the address."""
        if request.url.path == "/" and "token" in request.query_params and settings.token:
            query = without_token(request.url.query)
            location = "/" + (f"?{query}" if query else "")
            token_cookie = cookie(settings.token, encrypted=came_by_https(request.headers))
            return Response(
                status_code=303, headers={"Location": location, "Set-Cookie": token_cookie}
            )
        return page_answer()

    routes: tuple[str, ...] = (
        "/", "/p/{id}", "/edit/{id}", "/grid/{id}", "/reports", "/reports/{id}", "/train",
        "/train/{id}",
    )  # fmt: skip
    for path in routes:
        app.add_api_route(path, page, methods=["GET"], include_in_schema=False)

    async def icon() -> Response:
        """Return the page's icon at the address where browsers expect it."""
        return FileResponse(f"{_PAGE_FOLDER}/icon.svg", media_type="image/svg+xml")

    app.add_api_route("/favicon.ico", icon, methods=["GET"], include_in_schema=False)
