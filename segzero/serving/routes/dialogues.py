"""/v1/dialogues: create, look at, ask, draw, refine, undo, clear, flag and delete.

Steps of different dialogues share batches; those of one dialogue run one after the other.
"""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from segzero.dialogue import Dialogue, Round
from segzero.images import media_type
from segzero.pipeline import Pipeline
from segzero.serving.errors import ERRORS, ApiError
from segzero.serving.feedback import FeedbackStore
from segzero.serving.requests import (
    OwnSession,
    ServerState,
    State,
    check_question,
    describe_body,
    feedback_store,
    image_file,
    open_image,
    read_body,
)
from segzero.serving.responses import candidates_json, dialogue_json, json_response, round_json, wait_for_models
from segzero.serving.schema import (
    AskBody,
    Body,
    CandidatesAnswer,
    CandidatesBody,
    DialogueAnswer,
    DialogueBody,
    DrawBody,
    FlagBody,
    RefineBody,
    RoundAnswer,
)
from segzero.serving.sessions import Session
from segzero.serving.streaming import MEDIA_TYPE, EventStream, TextStream, wants_events
from segzero.serving.threads import reading, writing

Step = Callable[[Dialogue, Pipeline], Round]
EmptyBody = Annotated[Body, Depends(read_body(Body))]
ROUND_OR_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}, "description": "The round, or its stream."}
}

router = APIRouter(prefix="/v1/dialogues", tags=["dialogues"], responses=ERRORS)


async def check_room(request: Request, state: State) -> None:
    """Refuse one more dialogue if there is no room for it, before its body is read."""
    state.sessions.make_room(request.scope["segzero.owner"])


@router.post(
    "",
    status_code=201,
    response_model=DialogueAnswer,
    openapi_extra=describe_body(DialogueBody),
    dependencies=[Depends(check_room)],
)
async def create(
    request: Request, state: State, body: Annotated[DialogueBody, Depends(read_body(DialogueBody))]
) -> Response:
    """Begin a dialogue about an image."""
    models = state.pool.choose(body.policy, body.segmenter)
    file = await image_file(request, body.image, state.limits, state.options.fetch)
    image = await open_image(request, file, state.limits, state.options.fetch)
    dialogue = await reading.run(request.scope, Dialogue, image, models.pipeline, body.memory)
    session = state.sessions.add(dialogue, file, request.scope["segzero.owner"], models)
    return await _dialogue_response(request, state, session, status=201)


@router.get("/{id}", response_model=DialogueAnswer)
async def look(request: Request, state: State, session: OwnSession) -> Response:
    """All rounds so far."""
    return await _dialogue_response(request, state, session)


@router.get("/{id}/image", response_class=Response)
async def image(session: OwnSession) -> Response:
    """The image as it came: a page that is loaded again has nothing else to show it by."""
    headers = {"Cache-Control": "private, no-store", "X-Content-Type-Options": "nosniff"}
    return Response(session.file, media_type=media_type(session.file), headers=headers)


@router.post("/{id}/ask", response_model=RoundAnswer, responses=ROUND_OR_STREAM, openapi_extra=describe_body(AskBody))
async def ask(
    request: Request, state: State, session: OwnSession, body: Annotated[AskBody, Depends(read_body(AskBody))]
) -> Response:
    """Ask a question, which begins a new round.

    With `Accept: text/event-stream` the answer is server-sent events: `text` with {"text": the new part} while the
    policy writes, then one `round` (as without streaming) or one `error`.
    """
    question = check_question(body.question, state.limits)
    text = TextStream() if wants_events(request) else None

    def step(dialogue: Dialogue, pipeline: Pipeline) -> Round:
        dialogue.ask(question, body.about, text.on_text if text else None, pipeline)
        return dialogue.registry.rounds[-1]

    if text is None:
        return await _add_round(request, state, session, step, body.format)
    _check_steps(session, state)
    run = partial(state.pool.run_step, partial(session.take_step, step), session.lock, session.models)
    return EventStream(text, run, lambda round: round_json(round, body.format))


@router.post("/{id}/draw", response_model=RoundAnswer, openapi_extra=describe_body(DrawBody))
async def draw(
    request: Request, state: State, session: OwnSession, body: Annotated[DrawBody, Depends(read_body(DrawBody))]
) -> Response:
    """Draw an instance by hand, in a new round; it can be referred to and refined like any other."""
    question = check_question(body.question, state.limits)

    def step(dialogue: Dialogue, pipeline: Pipeline) -> Round:
        dialogue.draw(body.points, body.labels, body.box, question, body.choice, pipeline)
        return dialogue.registry.rounds[-1]

    return await _add_round(request, state, session, step, body.format)


@router.post("/{id}/refine", response_model=RoundAnswer, openapi_extra=describe_body(RefineBody))
async def refine(
    request: Request, state: State, session: OwnSession, body: Annotated[RefineBody, Depends(read_body(RefineBody))]
) -> Response:
    """Correct an instance; the answer is its round."""

    def step(dialogue: Dialogue, pipeline: Pipeline) -> Round:
        dialogue.refine(body.id, body.points, body.labels, body.box, body.choice, pipeline)
        return dialogue.registry.round(dialogue.registry.region(body.id).round)

    return await _add_round(request, state, session, step, body.format)


@router.post("/{id}/candidates", response_model=CandidatesAnswer, openapi_extra=describe_body(CandidatesBody))
async def candidates(
    request: Request,
    state: State,
    session: OwnSession,
    body: Annotated[CandidatesBody, Depends(read_body(CandidatesBody))],
) -> Response:
    """List the masks that refine (of an instance) or draw could give; nothing changes."""

    def step(dialogue: Dialogue, pipeline: Pipeline) -> Any:
        return dialogue.candidates(body.id, body.points, body.labels, body.box, pipeline)

    masks = await _take_step(request, state, session, step)
    return await json_response(request, candidates_json, masks, body.format)


@router.post("/{id}/clear", response_model=DialogueAnswer)
async def clear(request: Request, state: State, session: OwnSession, body: EmptyBody) -> Response:
    """Forget all rounds; undo brings them back."""
    _check_steps(session, state)
    await _take_step(request, state, session, lambda dialogue, _: dialogue.clear())
    return await _dialogue_response(request, state, session)


@router.post("/{id}/undo", response_model=DialogueAnswer)
async def undo(request: Request, state: State, session: OwnSession, body: EmptyBody) -> Response:
    """Take the last step back."""
    await wait_for_models(request, state.pool.run_step, lambda _: session.undo(), session.lock)
    return await _dialogue_response(request, state, session)


@router.post("/{id}/leave", status_code=204, openapi_extra=describe_body(Body))
async def leave(body: EmptyBody, session: OwnSession) -> Response:
    """Say that the client has left: it may come back to the dialogue, until another needs its place."""
    session.is_left = True
    return Response(status_code=204)


@router.delete("/{id}", status_code=204)
async def delete(state: State, session: OwnSession) -> Response:
    """Forget a dialogue."""
    state.sessions.delete(session)
    return Response(status_code=204)


@router.post("/{id}/flag", status_code=204, openapi_extra=describe_body(FlagBody))
async def flag(
    request: Request,
    store: Annotated[FeedbackStore, Depends(feedback_store)],
    session: OwnSession,
    body: Annotated[FlagBody, Depends(read_body(FlagBody))],
) -> Response:
    """Flag a round as good or bad; it is stored with the image, as data to train on."""
    feedback = {"verdict": body.verdict, "note": body.note}
    feedback |= {"policy": session.models.policy, "segmenter": session.models.segmenter}
    dialogue = session.dialogue
    await writing.run(request.scope, store.add, dialogue.image, dialogue.registry, body.round, feedback)
    return Response(status_code=204)


async def _dialogue_response(request: Request, state: ServerState, session: Session, status: int = 200) -> Response:
    registry, steps = session.dialogue.registry, session.steps  # taken now: a step may change them meanwhile
    return await json_response(request, dialogue_json, session, registry, steps, state.limits.idle, status=status)


async def _add_round(request: Request, state: ServerState, session: Session, step: Step, format: str) -> Response:
    """Take a step that gives a round. If the client does not wait for it, it has not happened, or can be undone."""
    _check_steps(session, state)
    round = await _take_step(request, state, session, step)
    return await json_response(request, round_json, round, format)


async def _take_step(
    request: Request, state: ServerState, session: Session, step: Callable[[Dialogue, Pipeline], Any]
) -> Any:
    """Run a step of the session's dialogue with its models, in a thread."""
    run = partial(session.take_step, step)
    return await wait_for_models(request, state.pool.run_step, run, session.lock, session.models)


def _check_steps(session: Session, state: ServerState) -> None:
    """Refuse a step if the dialogue has had as many as it may."""
    most = state.limits.steps
    if session.steps >= most:
        raise ApiError(409, "too_long", f"a dialogue has at most {most} steps; undo some, or begin another")
