"""/v1/dialogues: create, look at, ask, refine, undo, clear, delete. Rounds of different dialogues share batches."""

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response

from segzero.dialogue import Dialogue, Round
from segzero.pipeline import SegZeroPipeline
from segzero.serving import writing
from segzero.serving.dialogues import Dialogues, Kept
from segzero.serving.limits import Limits
from segzero.serving.models import Models
from segzero.serving.problems import Problem
from segzero.serving.reading import check_question, describe_body, open_image, read_body
from segzero.serving.schema import AskBody, Body, DialogueAnswer, DialogueBody, RefineBody, RoundAnswer
from segzero.serving.waiting import answer_of, json_answer


def add_dialogues(app: FastAPI, models: Models, limits: Limits, errors: dict[int | str, dict[str, Any]]) -> Dialogues:
    """Add the routes; gives what keeps the dialogues."""
    dialogues = Dialogues(limits)
    common: dict[str, Any] = {"tags": ["dialogues"], "responses": errors}
    state: dict[str, Any] = common | {"response_model": DialogueAnswer}
    round: dict[str, Any] = common | {"response_model": RoundAnswer}

    def kept_for(request: Request, id: str) -> Kept:
        return dialogues.find(id, request.scope["segzero.owner"])

    async def tell(kept: Kept, status: int = 200) -> Response:
        dialogue = kept.dialogue
        told = (kept.id, dialogue.registry, dialogue.memory, limits.idle)
        return await json_answer(writing.dialogue_state, *told, status=status)

    async def take(request: Request, kept: Kept, step: Callable[[Dialogue], Round | None], format: str) -> Response:
        """A step forward. One that the client did not wait for has not happened, or can be undone."""
        if kept.steps >= limits.steps:
            raise Problem(409, "too_long", f"a dialogue has at most {limits.steps} steps; undo some, or begin another")

        def work(pipeline: SegZeroPipeline) -> Round | None:
            before, kept.dialogue.pipeline = kept.dialogue.registry, pipeline
            try:
                return step(kept.dialogue)
            finally:
                kept.dialogue.pipeline = models.pipeline
                kept.steps += kept.dialogue.registry is not before

        done = await answer_of(request, models, models.run, work, kept.alone)
        return await tell(kept) if done is None else await json_answer(writing.dialogue_round, done, format)

    @app.post("/v1/dialogues", status_code=201, openapi_extra=describe_body(DialogueBody), **state)
    async def create(request: Request) -> Response:
        """Begin a dialogue about an image."""
        dialogues.room()
        body = await read_body(request, DialogueBody)
        image = await open_image(body.image, limits)
        dialogue = await asyncio.to_thread(Dialogue, image, models.pipeline, body.memory)
        return await tell(dialogues.add(dialogue, request.scope["segzero.owner"]), 201)

    @app.get("/v1/dialogues/{id}", **state)
    async def look(request: Request, id: str) -> Response:
        """All rounds so far."""
        return await tell(kept_for(request, id))

    @app.post("/v1/dialogues/{id}/ask", openapi_extra=describe_body(AskBody), **round)
    async def ask(request: Request, id: str) -> Response:
        """A new round."""
        kept = kept_for(request, id)
        body = await read_body(request, AskBody)
        question = check_question(body.question, limits)

        def step(dialogue: Dialogue) -> Round:
            dialogue.ask(question, body.about)
            return dialogue.registry.rounds[-1]

        return await take(request, kept, step, body.format)

    @app.post("/v1/dialogues/{id}/refine", openapi_extra=describe_body(RefineBody), **round)
    async def refine(request: Request, id: str) -> Response:
        """Correct an instance; gives its round."""
        kept = kept_for(request, id)
        body = await read_body(request, RefineBody)

        def step(dialogue: Dialogue) -> Round:
            dialogue.refine(body.id, body.points, body.labels, body.box)
            return dialogue.registry.round(dialogue.registry.region(body.id).round)

        return await take(request, kept, step, body.format)

    @app.post("/v1/dialogues/{id}/clear", **state)
    async def clear(request: Request, id: str) -> Response:
        """Forget all rounds; undo brings them back."""
        kept = kept_for(request, id)
        await read_body(request, Body)
        return await take(request, kept, Dialogue.clear, "rle")

    @app.post("/v1/dialogues/{id}/undo", **state)
    async def undo(request: Request, id: str) -> Response:
        """Take the last step back."""
        kept = kept_for(request, id)
        await read_body(request, Body)

        def work(pipeline: SegZeroPipeline) -> None:
            kept.dialogue.undo()
            kept.steps -= 1

        await answer_of(request, models, models.run, work, kept.alone)
        return await tell(kept)

    @app.delete("/v1/dialogues/{id}", status_code=204, **common)
    async def delete(request: Request, id: str) -> Response:
        """Forget a dialogue."""
        dialogues.drop(id, request.scope["segzero.owner"])
        return Response(status_code=204)

    return dialogues
