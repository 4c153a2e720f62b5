"""/v1/programs: a program over the models, given or written for a question, and its trace; nothing is stored."""

import threading
import time
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from segzero.pipeline import Pipeline
from segzero.programs.parser import parse_program
from segzero.programs.pipeline import unwritten
from segzero.programs.run import ProgramLimits, check_pipeline, run_program
from segzero.programs.trace import Trace
from segzero.programs.writer import ProgramWriter, WrittenProgram
from segzero.segmenter.everything import PRESETS
from segzero.serving.errors import ERRORS, ApiError
from segzero.serving.requests import State, check_question, describe_body, open_image, read_body
from segzero.serving.responses import json_response, program_json, wait_for_models
from segzero.serving.schema import ProgramAnswer, ProgramBody

MASK_PIXELS = 1 << 29  # of all masks of a step: some seconds
router = APIRouter(prefix="/v1", tags=["programs"], responses=ERRORS)


@router.post("/programs", response_model=ProgramAnswer, openapi_extra=describe_body(ProgramBody))
async def programs(
    request: Request, state: State, body: Annotated[ProgramBody, Depends(read_body(ProgramBody))]
) -> Response:
    """Run a program, or let the language model write one for a question, and return its steps and its result."""
    models = state.pool.choose(body.policy, body.segmenter)
    check_pipeline(models.pipeline)
    given = _given(body, state)
    image = await open_image(request, body.image, state.limits, state.options.fetch)
    everything = PRESETS["scenes" if models.segmenter in state.pool.shipped else "sam2"]
    deadline: float = request.scope["segzero.deadline"]

    def step(pipeline: Pipeline) -> Trace:
        """Write and run the program in a thread of its own; each call of a model waits in the models' queue."""
        question = "" if isinstance(given, WrittenProgram) else given[1]
        written = given if isinstance(given, WrittenProgram) else given[0].write(question)
        if written.program is None:
            return unwritten(image, question, written)
        limits = ProgramLimits(max(0.0, deadline - time.monotonic()), MASK_PIXELS)
        return run_program(
            pipeline,
            image,
            written.program,
            question,
            limits=limits,
            everything=everything,
            attempts=written.attempts,
        )

    trace = await wait_for_models(request, state.pool.run_step, step, threading.Lock(), models)
    return await json_response(request, program_json, trace, body.format)


def _given(body: ProgramBody, state: State) -> WrittenProgram | tuple[ProgramWriter, str]:
    """The program of a request, or its question and who writes a program for it."""
    if (body.program is None) == (body.question is None):
        raise ApiError(422, "bad_request", "send a program or a question, and not both")
    if body.program is not None:
        return WrittenProgram(parse_program(body.program), ())
    if state.options.writer is None:
        message = "this server has no language model to write programs; send a program, or start it with --llm"
        raise ApiError(422, "no_writer", message)
    return state.options.writer, check_question(str(body.question), state.limits)
