"""/v1/dialogues/ID/flag: a person says whether a round is right, where the server was started with --flags."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response

from segzero.serving.errors import Problem
from segzero.serving.feedback import Flags
from segzero.serving.limits import Limits
from segzero.serving.requests import describe_body, read_body
from segzero.serving.schema import FlagBody
from segzero.serving.sessions import Kept
from segzero.serving.threads import writing


def add_flags(
    app: FastAPI,
    kept_for: Callable[[Request, str], Kept],
    folder: Path | None,
    limits: Limits,
    common: dict[str, Any],
) -> None:
    """Add the route."""
    flags = None if folder is None else Flags(folder, limits.flags)

    @app.post("/v1/dialogues/{id}/flag", status_code=204, openapi_extra=describe_body(FlagBody), **common)
    async def flag(request: Request, id: str) -> Response:
        """Keep a round, the image and a person's word on it, for whoever runs the server to train on."""
        if flags is None:
            raise Problem(404, "no_flags", "this server keeps no flags; start it with --flags FOLDER")
        kept = kept_for(request, id)
        body = await read_body(request, FlagBody)
        said = {"verdict": body.verdict, "note": body.note}
        said |= {"policy": kept.chosen.policy, "segmenter": kept.chosen.segmenter}
        dialogue = kept.dialogue
        await writing.run(request.scope, flags.add, dialogue.image, dialogue.registry, body.round, said)
        return Response(status_code=204)
