"""The web page: static files without a build step, mounted at /ui of the server.

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
    # Nothing is loaded from other servers. blob: and data: are images that the page made or the user gave.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # the browser revalidates its copy, so that a new version is seen at once
}


def add_ui(app: FastAPI) -> None:
    """Mount the page at /ui/ and redirect / to it."""

    @app.get("/", include_in_schema=False)
    async def redirect_to_page() -> Response:
        return RedirectResponse("ui/")  # relative, so that it also works behind a proxy that adds a prefix

    app.mount("/ui", _PageFiles(directory=STATIC, html=True), name="ui")


class _PageFiles(StaticFiles):
    """Static files that are sent with the page's security headers."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response
