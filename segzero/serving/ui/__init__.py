"""The web page: plain files, without a build step, mounted at /ui of the server.

>>> add_ui(app)                                                                                    # doctest: +SKIP
"""

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).with_name("static")
HEADERS = {
    # Nothing comes from elsewhere; blob: and data: are pictures that the page made or was given.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # kept, but asked for again: a new version is seen at once
}


def add_ui(app: FastAPI) -> None:
    """Show the page at /ui/; / leads there."""

    @app.get("/", include_in_schema=False)
    async def front() -> Response:
        return RedirectResponse("ui/")  # relative, so that it works behind a proxy's prefix too

    app.mount("/ui", _Page(directory=STATIC, html=True), name="ui")


class _Page(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response
