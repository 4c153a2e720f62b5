"""/v1/annotation: an annotation project, whose images annotators take one after the other.

An annotator is the name of a token. An image is named by its id alone; each save names the revision that was seen.
"""

from dataclasses import asdict
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field, FiniteFloat

from segzero.data.annotation import (
    MAX_INSTANCES,
    MAX_LABEL,
    STAGES,
    AnnotationProject,
    Draft,
    ImageAnnotation,
    ImageEntry,
    ImageLent,
    SaveConflict,
)
from segzero.errors import UserError
from segzero.images import load_image, media_type
from segzero.segmenter.protocol import best_first
from segzero.serving.errors import ERRORS, ApiError
from segzero.serving.requests import State, describe_body, mask_prompt, read_body
from segzero.serving.responses import candidates_json, json_response, wait_for_models
from segzero.serving.schema import Body, CandidatesAnswer, ErrorAnswer, ObjectBody, RLEAnswer
from segzero.serving.threads import reading, writing

router = APIRouter(
    prefix="/v1/annotation",
    tags=["annotation"],
    responses=ERRORS
    | {
        404: {"model": ErrorAnswer, "description": "No project, or no such image in it."},
        409: {"model": ErrorAnswer, "description": "Somebody else has saved the image, or is working on it."},
    },
)


class NextBody(Body):
    """A request for the next image, searched from behind another one on."""

    after: str = Field(default="", max_length=64, description="The id of an image.")
    example: ClassVar = {"after": ""}


class InstanceBody(Body):
    """An instance as an annotator leaves it; `id` is that of a saved one."""

    id: int | None = None
    label: str = Field(default="", max_length=MAX_LABEL)
    rle: dict[str, Any]
    how: str = Field(description="click, box, brush, everything or automatic.", max_length=20)
    score: FiniteFloat | None = Field(default=None, description="The IoU that the segmenter expected.")


class SaveBody(Body):
    """All instances of an image, in place of those of the revision that was seen."""

    revision: int
    instances: list[InstanceBody] = Field(max_length=MAX_INSTANCES)
    done: bool = Field(default=False, description="Nothing is left to annotate.")
    example: ClassVar = {"revision": 0, "instances": [], "done": True}


class ProgressAnswer(BaseModel):
    """Progress of a project, and who asks."""

    annotator: str
    stage: str = Field(description=f"One of {', '.join(STAGES)}.")
    images: int
    begun: int
    done: int
    instances: int
    unlabelled: int
    labels: dict[str, int] = Field(description="Label -> instances, the most frequent first.")


class AnnotatedAnswer(BaseModel):
    """A saved instance."""

    id: int
    label: str
    rle: RLEAnswer
    box: tuple[float, float, float, float]
    how: str
    score: float | None
    who: str
    when: str
    stage: str


class ImageAnswer(BaseModel):
    """An image of the project with its annotations."""

    id: str
    name: str
    width: int
    height: int
    revision: int
    done: bool
    instances: list[AnnotatedAnswer]


class NextAnswer(BaseModel):
    """The next image; None if all are done or lent to others."""

    image: ImageAnswer | None


async def open_annotation(state: State) -> AnnotationProject:
    """The server's project; without one the routes do not exist."""
    if state.options.annotation is None:
        raise ApiError(404, "no_project", "this server has no annotation project; start it with segzero data annotate")
    return state.options.annotation


async def asking_annotator(request: Request) -> str:
    """Name of the token that the request came with."""
    name: str = request.scope["segzero.annotator"]
    return name


async def image_entry(id: str, project: Annotated[AnnotationProject, Depends(open_annotation)]) -> ImageEntry:
    """The image that the path names."""
    try:
        return project.entry(id)
    except UserError as error:
        raise ApiError(404, "no_image", str(error)) from None


Project = Annotated[AnnotationProject, Depends(open_annotation)]
Annotator = Annotated[str, Depends(asking_annotator)]
Entry = Annotated[ImageEntry, Depends(image_entry)]


@router.get("", response_model=ProgressAnswer)
async def progress(request: Request, project: Project, who: Annotator) -> Response:
    """The project's stage, progress and labels."""
    counted = await reading.run(request.scope, project.progress)

    def content() -> dict[str, Any]:
        names = ("stage", "images", "begun", "done", "instances", "unlabelled")
        labels = dict(counted.labels.most_common(100))
        return {"annotator": who, **{name: getattr(counted, name) for name in names}, "labels": labels}

    return await json_response(request, content)


@router.post("/next", response_model=NextAnswer, openapi_extra=describe_body(NextBody))
async def next_image(
    request: Request, project: Project, who: Annotator, body: Annotated[NextBody, Depends(read_body(NextBody))]
) -> Response:
    """Take the next image that is not done, which is lent to the annotator for some minutes."""
    entry = await writing.run(request.scope, project.next_image, who, body.after)
    if entry is None:
        return await json_response(request, lambda: {"image": None})
    annotation = await reading.run(request.scope, project.read, entry.id)
    return await json_response(request, lambda: {"image": image_json(entry, annotation)})


@router.get("/images/{id}", response_model=ImageAnswer)
async def image(request: Request, project: Project, who: Annotator, entry: Entry) -> Response:
    """Take a certain image."""
    await _alone(request, project.lend, entry.id, who)
    annotation = await reading.run(request.scope, project.read, entry.id)
    return await json_response(request, image_json, entry, annotation)


@router.get("/images/{id}/file", response_class=Response)
async def image_file(request: Request, project: Project, entry: Entry) -> Response:
    """The image itself."""
    content = await reading.run(request.scope, project.image_file, entry.id)
    return Response(content, media_type=media_type(content))


@router.post("/images/{id}/candidates", response_model=CandidatesAnswer, openapi_extra=describe_body(ObjectBody))
async def candidates(
    request: Request,
    state: State,
    project: Project,
    who: Annotator,
    entry: Entry,
    body: Annotated[ObjectBody, Depends(read_body(ObjectBody))],
) -> Response:
    """Draw three masks from points, a box and an earlier mask; the image is encoded once."""
    await _alone(request, project.lend, entry.id, who)
    content = await reading.run(request.scope, project.image_file, entry.id)
    picture = await reading.run(request.scope, load_image, content, state.limits.pixels, entry.file)
    prompt, earlier = await reading.run(request.scope, mask_prompt, body, picture.size)
    models = state.pool.choose()
    [found] = await wait_for_models(request, state.pool.draw, picture, [prompt], [earlier], models)

    def content_of() -> dict[str, Any]:
        masks = found.masks
        return candidates_json([(masks[place], float(found.scores[place])) for place in best_first(found)], "rle")

    return await json_response(request, content_of)


@router.post("/images/{id}/save", response_model=ImageAnswer, openapi_extra=describe_body(SaveBody))
async def save(
    request: Request,
    project: Project,
    who: Annotator,
    entry: Entry,
    body: Annotated[SaveBody, Depends(read_body(SaveBody))],
) -> Response:
    """Save an image's instances; 409 if somebody else has saved it since the revision that was seen."""
    drafts = [Draft(each.label, each.rle, each.how, each.score, each.id) for each in body.instances]  # type: ignore[arg-type]
    saved = await _alone(request, project.save, entry.id, body.revision, drafts, body.done, who)
    return await json_response(request, image_json, entry, saved)


@router.post("/images/{id}/leave", status_code=204, openapi_extra=describe_body(Body))
async def leave(
    request: Request,
    project: Project,
    who: Annotator,
    entry: Entry,
    body: Annotated[Body, Depends(read_body(Body))],
) -> Response:
    """Give an image back, so that others may take it."""
    await writing.run(request.scope, project.give_back, entry.id, who)
    return Response(status_code=204)


def image_json(entry: ImageEntry, annotation: ImageAnnotation) -> dict[str, Any]:
    """Convert an image and its annotations."""
    content = {"id": entry.id, "name": entry.file, "width": entry.width, "height": entry.height}
    instances = [asdict(instance) for instance in annotation.instances]
    return content | {"revision": annotation.revision, "done": annotation.done, "instances": instances}


async def _alone(request: Request, work: Any, *arguments: Any) -> Any:
    """Run work that another annotator may stand in the way of."""
    try:
        return await writing.run(request.scope, work, *arguments)
    except SaveConflict as error:
        raise ApiError(409, "conflict", str(error)) from None
    except ImageLent as error:
        raise ApiError(409, "lent", str(error)) from None
