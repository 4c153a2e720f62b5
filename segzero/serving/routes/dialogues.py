"""/v1/dialogues: create, look, ask, draw, refine, undo, clear, delete. Rounds of different dialogues share batches."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response

from segzero.dialogue import Dialogue, Round
from segzero.images import kind_of
from segzero.pipeline import SegZeroPipeline
from segzero.serving import responses
from segzero.serving.errors import ERRORS, Problem
from segzero.serving.limits import Limits
from segzero.serving.model_pool import Models
from segzero.serving.options import Extras
from segzero.serving.requests import check_question, describe_body, image_file, open_image, read_body
from segzero.serving.responses import answer_of, json_answer
from segzero.serving.routes.exports import add_exports
from segzero.serving.routes.feedback import add_flags
from segzero.serving.schema import (
    AskBody,
    Body,
    CandidatesAnswer,
    CandidatesBody,
    DialogueAnswer,
    DialogueBody,
    DrawBody,
    RefineBody,
    RoundAnswer,
)
from segzero.serving.sessions import Dialogues, Kept
from segzero.serving.streaming import EventStream, Heard, wants_events
from segzero.serving.threads import reading

Step = Callable[[Dialogue, SegZeroPipeline], Round | None]
EVENTS: dict[str, Any] = {"text/event-stream": {"schema": {"type": "string"}}}


def add_dialogues(app: FastAPI, models: Models, limits: Limits, extras: Extras, owners: int = 1) -> Dialogues:
    """Add the routes; gives what keeps the dialogues."""
    dialogues = Dialogues(limits, owners)
    common: dict[str, Any] = {"tags": ["dialogues"], "responses": ERRORS}
    state: dict[str, Any] = common | {"response_model": DialogueAnswer}
    round: dict[str, Any] = common | {"response_model": RoundAnswer}
    streamed = round | {"responses": {**ERRORS, 200: {"content": EVENTS, "description": "The round, or its stream."}}}

    def kept_for(request: Request, id: str) -> Kept:
        return dialogues.find(id, request.scope["segzero.owner"])

    async def tell(request: Request, kept: Kept, status: int = 200) -> Response:
        dialogue, chosen = kept.dialogue, kept.chosen
        told = (kept.id, dialogue.registry, chosen.policy, chosen.segmenter, dialogue.memory, limits.idle, kept.steps)
        return await json_answer(request, responses.dialogue_state, *told, status=status)

    def with_models(kept: Kept, step: Callable[[Dialogue, SegZeroPipeline], Any]) -> Callable[[SegZeroPipeline], Any]:
        """The step, for a thread in which the dialogue's models are shared with others."""

        def work(pipeline: SegZeroPipeline) -> Any:
            before = kept.dialogue.registry
            try:
                return step(kept.dialogue, pipeline)
            finally:
                kept.steps += kept.dialogue.registry is not before

        return work

    def room(kept: Kept) -> None:
        if kept.steps >= limits.steps:
            raise Problem(409, "too_long", f"a dialogue has at most {limits.steps} steps; undo some, or begin another")

    async def take(request: Request, kept: Kept, step: Step, format: str) -> Response:
        """A step forward. One that the client did not wait for has not happened, or can be undone."""
        room(kept)
        done = await answer_of(request, models, models.run, with_models(kept, step), kept.alone, kept.chosen)
        return (
            await tell(request, kept)
            if done is None
            else await json_answer(request, responses.dialogue_round, done, format)
        )

    @app.post("/v1/dialogues", status_code=201, openapi_extra=describe_body(DialogueBody), **state)
    async def create(request: Request) -> Response:
        """Begin a dialogue about an image."""
        dialogues.room(request.scope["segzero.owner"])
        body = await read_body(request, DialogueBody)
        chosen = models.choose(body.policy, body.segmenter)
        file = await image_file(request, body.image, limits, extras.fetch)
        image = await open_image(request, file, limits, extras.fetch)
        dialogue = await reading.run(request.scope, Dialogue, image, chosen.pipeline, body.memory)
        return await tell(request, dialogues.add(dialogue, file, request.scope["segzero.owner"], chosen), 201)

    @app.get("/v1/dialogues/{id}", **state)
    async def look(request: Request, id: str) -> Response:
        """All rounds so far."""
        return await tell(request, kept_for(request, id))

    @app.get("/v1/dialogues/{id}/image", response_class=Response, **common)
    async def image(request: Request, id: str) -> Response:
        """The image as it came: a page that is loaded again has nothing else to show it by."""
        file = kept_for(request, id).file
        headers = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}
        return Response(file, media_type=kind_of(file), headers=headers)

    @app.post("/v1/dialogues/{id}/ask", openapi_extra=describe_body(AskBody), **streamed)
    async def ask(request: Request, id: str) -> Response:
        """A new round.

        With `Accept: text/event-stream` the answer is server-sent events: `text` with {"text": what is new} while the
        policy writes, then one `round` (as without streaming) or one `error`.
        """
        kept = kept_for(request, id)
        body = await read_body(request, AskBody)
        question = check_question(body.question, limits)
        heard = Heard() if wants_events(request) else None

        def step(dialogue: Dialogue, pipeline: SegZeroPipeline) -> Round:
            dialogue.ask(question, body.about, heard.on_text if heard else None, pipeline)
            return dialogue.registry.rounds[-1]

        if heard is None:
            return await take(request, kept, step, body.format)
        room(kept)
        return EventStream(
            heard,
            lambda: models.run(with_models(kept, step), kept.alone, kept.chosen),
            lambda done: responses.dialogue_round(done, body.format),
            models.wait,
        )

    @app.post("/v1/dialogues/{id}/draw", openapi_extra=describe_body(DrawBody), **round)
    async def draw(request: Request, id: str) -> Response:
        """A new round by hand; its instance can be referred to and refined like any other."""
        kept = kept_for(request, id)
        body = await read_body(request, DrawBody)
        question = check_question(body.question, limits)

        def step(dialogue: Dialogue, pipeline: SegZeroPipeline) -> Round:
            dialogue.draw(body.points, body.labels, body.box, question, body.choice, pipeline)
            return dialogue.registry.rounds[-1]

        return await take(request, kept, step, body.format)

    @app.post("/v1/dialogues/{id}/refine", openapi_extra=describe_body(RefineBody), **round)
    async def refine(request: Request, id: str) -> Response:
        """Correct an instance; gives its round."""
        kept = kept_for(request, id)
        body = await read_body(request, RefineBody)

        def step(dialogue: Dialogue, pipeline: SegZeroPipeline) -> Round:
            dialogue.refine(body.id, body.points, body.labels, body.box, body.choice, pipeline)
            return dialogue.registry.round(dialogue.registry.region(body.id).round)

        return await take(request, kept, step, body.format)

    @app.post(
        "/v1/dialogues/{id}/candidates",
        openapi_extra=describe_body(CandidatesBody),
        response_model=CandidatesAnswer,
        **common,
    )
    async def candidates(request: Request, id: str) -> Response:
        """The masks that refine (of an instance) or draw could give; nothing changes."""
        kept = kept_for(request, id)
        body = await read_body(request, CandidatesBody)

        def step(dialogue: Dialogue, pipeline: SegZeroPipeline) -> Any:
            return dialogue.candidates(body.id, body.points, body.labels, body.box, pipeline)

        work = with_models(kept, step)
        masks = await answer_of(request, models, models.run, work, kept.alone, kept.chosen)
        return await json_answer(request, responses.candidates, masks, body.format)

    @app.post("/v1/dialogues/{id}/clear", **state)
    async def clear(request: Request, id: str) -> Response:
        """Forget all rounds; undo brings them back."""
        kept = kept_for(request, id)
        await read_body(request, Body)
        return await take(request, kept, lambda dialogue, _: dialogue.clear(), "rle")

    @app.post("/v1/dialogues/{id}/undo", **state)
    async def undo(request: Request, id: str) -> Response:
        """Take the last step back."""
        kept = kept_for(request, id)
        await read_body(request, Body)

        def work(pipeline: SegZeroPipeline) -> None:
            kept.dialogue.undo()
            kept.steps -= 1

        await answer_of(request, models, models.run, work, kept.alone)
        return await tell(request, kept)

    @app.post("/v1/dialogues/{id}/leave", status_code=204, openapi_extra=describe_body(Body), **common)
    async def leave(request: Request, id: str) -> Response:
        """Say that nobody looks at it any more: it can be come back to, until another needs its place."""
        await read_body(request, Body)
        dialogues.leave(id, request.scope["segzero.owner"])
        return Response(status_code=204)

    @app.delete("/v1/dialogues/{id}", status_code=204, **common)
    async def delete(request: Request, id: str) -> Response:
        """Forget a dialogue."""
        dialogues.drop(id, request.scope["segzero.owner"])
        return Response(status_code=204)

    add_exports(app, models, kept_for, common)
    add_flags(app, kept_for, extras.flags, limits, common)
    return dialogues
