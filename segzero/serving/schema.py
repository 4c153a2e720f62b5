"""Bodies of requests and responses, which pydantic checks and OpenAPI describes.

The names of the classes are those of the components in /openapi.json.
"""

import base64
import binascii
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, WithJsonSchema

from segzero.answer import MAX_PHRASE, MAX_PHRASES
from segzero.programs.parser import MOST_CHARACTERS
from segzero.segmenter.words import BOX_THRESHOLD, MAX_EXEMPLARS, TEXT_THRESHOLD

CIRCLE = (  # red on white, 64x64
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAEAAAABAAQMAAACQp+OdAAAABlBMVEX////IHh7kMBY6AAAAc0lEQVR42t3QsQ3CQBSD4e9ekEjJ"
    "CGzCsfmNwAgZ4coIoRxFgpSTUlBQ4crybzfmZzrXzdwWGJhSKoREXiutVYSREfHZhgsnhOsa71Am9cmmQUEqB+gbM5C5H3cKrU8m"
    "FoTKq0czM8KTB0Kj7N/Y//NPegNCThcH8MjSBwAAAABJRU5ErkJggg=="
)
SHAPE: dict[str, Any] = {
    "size": [64, 64],
    "counts": "h`01j1:I4L4M2N2N2N2O0O2O0O2O0000000O20N100000001N101N101N2N2N2N3L4L7F]]1",
}


def read_data_url(value: object) -> bytes | str:
    """Decode `data:image/...;base64,...`; bytes (of a multipart body) and addresses are returned as they are."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        return value
    if not isinstance(value, str) or not value.startswith("data:"):
        raise ValueError("send the image itself as data:image/png;base64,...; files are not fetched by a path")
    head, comma, body = value.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ValueError("a data URL begins with data:image/png;base64,")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"the data URL's base64 is damaged: {error}") from None


_BINARY = {
    "type": "string",
    "description": "data:image/png;base64,... or another format's; https://... where the server fetches images.",
}
ImageBytes = Annotated[bytes | str, BeforeValidator(read_data_url), WithJsonSchema(_BINARY)]
Format = Annotated[
    Literal["rle", "png"], Field(description="How masks are written: COCO RLE, or PNG data URLs of 0 and 255.")
]
Point = tuple[FiniteFloat, FiniteFloat]
Box = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]


MAX_PROMPTS = 64  # objects or questions of one request
MAX_POINTS = 64  # of one object
MAX_NAME = 1000  # characters


class Body(BaseModel):
    """A request's body; an unknown field is refused, as it would be a typing error."""

    model_config = ConfigDict(extra="forbid")
    as_json: ClassVar[tuple[str, ...]] = ()  # fields that are JSON texts in a multipart body
    example: ClassVar[dict[str, Any]] = {}


class ModelsBody(Body):
    """Names of the models to use; by default the first ones of /v1/models."""

    policy: str | None = Field(default=None, max_length=MAX_NAME, description="A policy or mask model of /v1/models.")
    segmenter: str | None = Field(default=None, max_length=MAX_NAME, description="A segmenter of /v1/models.")


class SegmentBody(ModelsBody):
    """A question about an image."""

    image: ImageBytes
    question: str
    format: Format = "rle"
    example: ClassVar = {"image": CIRCLE, "question": "the largest shape", "format": "rle"}


class ClicksBody(Body):
    """Points, a box, or both, in the image's pixels."""

    points: list[Point] = Field(default=[], max_length=MAX_POINTS)
    labels: list[Literal[0, 1]] = Field(
        default=[], max_length=MAX_POINTS, description="1 inside, 0 outside, one for each; none given: all inside."
    )
    box: Box | None = Field(default=None, description="x0, y0, x1, y1")


class ObjectBody(ClicksBody):
    """One object to draw, perhaps from an earlier mask of it."""

    mask: dict[str, Any] | None = Field(default=None, description="An earlier mask of the same image, as RLE.")


class PromptBody(ModelsBody):
    """Objects to draw in an image, without a question."""

    image: ImageBytes
    prompts: list[ObjectBody] = Field(min_length=1, max_length=MAX_PROMPTS)
    all_masks: bool = Field(default=False, description="All three readings of each prompt, the best first.")
    format: Format = "rle"
    as_json: ClassVar = ("prompts",)
    example: ClassVar = {
        "image": CIRCLE,
        "prompts": [{"points": [[24, 24], [60, 60]], "labels": [1, 0]}, {"box": [8, 8, 41, 41]}],
        "all_masks": True,
    }


class EverythingFields(Body):
    """Settings of everything mode; those left out are the preset's."""

    points_per_side: int | None = Field(default=None, ge=1, le=64, description="Points in a row of the grid.")
    pred_iou_thresh: float | None = Field(default=None, ge=0, le=1, description="Masks of no more are dropped.")
    stability_thresh: float | None = Field(default=None, ge=0, le=1, description="Masks of less are dropped.")
    stability_offset: float | None = Field(default=None, ge=0, le=100, description="In logits.")
    box_nms_thresh: float | None = Field(default=None, ge=0, le=1, description="Box IoU of duplicates.")
    crop_layers: int | None = Field(default=None, ge=0, le=1, description="1: the image, and 2x2 crops of it.")
    crop_overlap: float | None = Field(default=None, ge=0, le=0.9, description="Share of the image's shorter side.")
    crop_downscale: int | None = Field(default=None, ge=1, le=128, description="Divides the points of crops.")
    crop_nms_thresh: float | None = Field(default=None, ge=0, le=1, description="Box IoU of duplicates among crops.")
    min_area: int | None = Field(default=None, ge=0, le=1 << 28, description="Of holes and islands, in pixels.")
    skip_covered: bool | None = Field(default=None, description="Skip points in masks that are found already.")


class EverythingBody(Body):
    """An image of which all masks are wanted."""

    image: ImageBytes
    segmenter: str | None = Field(default=None, max_length=MAX_NAME, description="A segmenter of /v1/models.")
    preset: Literal["sam2", "sam", "scenes"] = Field(
        default="sam2", description="SAM2's or SAM's published settings, or those for the shipped segmenter."
    )
    settings: EverythingFields = EverythingFields()
    format: Format = "rle"
    as_json: ClassVar = ("settings",)
    example: ClassVar = {"image": CIRCLE, "preset": "sam2", "settings": {"points_per_side": 8, "min_area": 20}}


class ExemplarBody(Body):
    """A box that shows what a phrase means, or what not."""

    box: Box
    label: Literal[0, 1] = Field(default=1, description="1 like this, 0 unlike this.")


class WordsBody(ModelsBody):
    """Phrases, all instances of which are wanted."""

    image: ImageBytes
    phrases: list[Annotated[str, Field(max_length=MAX_PHRASE)]] = Field(min_length=1, max_length=MAX_PHRASES)
    box_threshold: float = Field(default=BOX_THRESHOLD, ge=0, le=1, description="Lowest score of an instance.")
    text_threshold: float = Field(default=TEXT_THRESHOLD, ge=0, le=1, description="Lowest presence of a phrase.")
    exemplars: list[ExemplarBody] = Field(
        default=[], max_length=MAX_EXEMPLARS, description="For a segmenter that reads text."
    )
    format: Format = "rle"
    as_json: ClassVar = ("phrases", "exemplars")
    example: ClassVar = {"image": CIRCLE, "phrases": ["red circle", "dog"], "box_threshold": 0.3}


class ProgramBody(ModelsBody):
    """A program to run on an image, or a question for which the server's language model writes one."""

    image: ImageBytes
    program: str | None = Field(default=None, max_length=MOST_CHARACTERS, description="Its lines.")
    question: str | None = Field(default=None, description="Instead, where /v1/models names a program_writer.")
    format: Format = "rle"
    example: ClassVar = {"image": CIRCLE, "program": 'A=FIND("all circles")\nRESULT(LARGEST(A))'}


class WordsFlagBody(ModelsBody):
    """A person's verdict on the instances of a phrase, as they stand on the page."""

    image: ImageBytes
    phrase: str = Field(min_length=1, max_length=MAX_PHRASE)
    masks: list[dict[str, Any]] = Field(default=[], max_length=MAX_PROMPTS, description="RLEs of the image's size.")
    verdict: Literal["good", "bad"]
    note: str = Field(default="", max_length=2_000)
    as_json: ClassVar = ("masks",)
    example: ClassVar = {"image": CIRCLE, "phrase": "red circle", "verdict": "bad", "note": "it is orange"}


class DialogueBody(ModelsBody):
    """An image to begin a dialogue about."""

    image: ImageBytes
    memory: Literal["text", "marks", "crop", "masks"] | None = Field(
        default=None, description="How earlier rounds are shown: text (default), marks or crop; masks to a mask model."
    )
    example: ClassVar = {"image": CIRCLE, "memory": "text"}


class AskBody(Body):
    """A question that may refer to earlier ones: [REF:1], instance 2, it, the first one."""

    question: str
    about: int | None = Field(default=None, description='The round that "it" means, if not the last.')
    format: Format = "rle"
    example: ClassVar = {"question": "the shape left of [REF:1]"}


_CHOICE: Any = Field(default=0, ge=0, le=2, description="Which of the candidates, the best being 0.")


class RefineBody(ClicksBody):
    """A correction of one instance: more points, or another box."""

    id: int
    choice: int = _CHOICE
    format: Format = "rle"
    example: ClassVar = {"id": 1, "points": [[24, 24]], "labels": [1]}


class DrawBody(ClicksBody):
    """A new round made by hand, without the policy."""

    question: str = Field(default="", description="A name for the object.")
    choice: int = _CHOICE
    format: Format = "rle"
    example: ClassVar = {"points": [[24, 24], [60, 60]], "labels": [1, 0]}


class CandidatesBody(ClicksBody):
    """A request for the masks that refine (of instance `id`) or draw (without it) would choose from."""

    id: int | None = None
    format: Format = "rle"
    example: ClassVar = {"points": [[24, 24]]}


class FlagBody(Body):
    """A person's verdict on a round."""

    round: int
    verdict: Literal["good", "bad"]
    note: str = Field(default="", max_length=2_000)
    example: ClassVar = {"round": 1, "verdict": "bad", "note": "the mask holds its shadow too"}


class Size(BaseModel):
    """Size of the image in pixels; a picture that its EXIF turns is measured upright."""

    width: int
    height: int


class RLEAnswer(BaseModel):
    """A mask in COCO's format; pycocotools.mask.decode reads it."""

    size: list[int] = Field(description="height, width")
    counts: str


class FoundAnswer(BaseModel):
    """One object; its mask is `rle` or `png`, by the request's `format`."""

    box: Box
    points: list[Point]
    score: float = Field(description="The IoU that the segmenter expects of its mask.")
    rle: RLEAnswer | None = None
    png: str | None = None


_SEGMENTED: dict[str, Any] = {
    "question": "the largest shape",
    "size": {"width": 64, "height": 64},
    "error": None,
    "warnings": [],
    "think": "The red circle is wider and higher than the others.",
    "raw_text": "<think>The red circle ...</think><answer>[...]</answer>",
    "instances": [{"box": [8, 8, 40, 40], "points": [[24, 24]], "score": 0.93, "rle": SHAPE}],
    "timings": {"queue": 0.01, "policy": 0.05, "segmenter": 0.01},
    "undivided": False,
}


_STEPS = "Looks of the policy at its mask, where the server refines masks."


class StepAnswer(BaseModel):
    """One look of the policy at its mask."""

    action: str = Field(description="keep, correct, nothing or unreadable.")
    points: list[Point] = Field(description="What the next mask was drawn from; none where this one was kept.")
    labels: list[int] = Field(description="Of each point: 1 inside the object, 0 outside.")
    think: str
    error: str | None
    rle: RLEAnswer = Field(description="The mask that was looked at.")


class SegmentAnswer(BaseModel):
    """Answer with masks. No instances and no error: the object is absent. An error: the answer could not be read."""

    question: str
    size: Size
    error: str | None = Field(description="None, or a code of `segzero docs answers`.")
    warnings: list[str]
    think: str
    raw_text: str
    instances: list[FoundAnswer]
    timings: dict[str, float] = Field(description="Seconds: in the queue, and shares of the batch's time.")
    undivided: bool = Field(description="A mask model's: the one instance is all that was asked for, in its own box.")
    steps: list[StepAnswer] = Field(default=[], description=_STEPS)

    model_config = ConfigDict(json_schema_extra={"example": _SEGMENTED})


class MaskAnswer(BaseModel):
    """One reading of a prompt."""

    score: float = Field(description="Predicted IoU.")
    box: Box | None = Field(description="The tightest box; None for an empty mask.")
    rle: RLEAnswer | None = None
    png: str | None = None


class ObjectAnswer(BaseModel):
    """Masks of one prompt: the best one, or all three, best first."""

    masks: list[MaskAnswer]


class PromptAnswer(BaseModel):
    """Objects in the order of the prompts."""

    size: Size
    objects: list[ObjectAnswer]


class EverythingMaskAnswer(BaseModel):
    """A mask of everything mode."""

    box: Box
    area: int = Field(description="Pixels.")
    score: float = Field(description="Predicted IoU.")
    stability: float
    point: Point = Field(description="The point of the grid that gave it.")
    crop: Box = Field(description="The part of the image in which that point was.")
    rle: RLEAnswer | None = None
    png: str | None = None


class EverythingAnswer(BaseModel):
    """All masks, the best first."""

    size: Size
    masks: list[EverythingMaskAnswer]


class WordInstanceAnswer(BaseModel):
    """An instance of a phrase."""

    box: Box
    score: float = Field(description="SAM3's score, or the IoU that SAM2 expects of its mask.")
    rle: RLEAnswer | None = None
    png: str | None = None


class PhraseAnswer(BaseModel):
    """Instances of a phrase, those of SAM3 best first; none and no error: nothing is there."""

    phrase: str
    presence: float | None = Field(description="How surely it is in the picture; null: the answer was not readable.")
    error: str | None
    instances: list[WordInstanceAnswer]


class WordsAnswer(BaseModel):
    """Phrases in the order in which they were asked."""

    size: Size
    phrases: list[PhraseAnswer]


class ProgramMaskAnswer(BaseModel):
    """An object of a step."""

    box: Box
    score: float = Field(description="The IoU that the segmenter expects of the mask it was cut from.")
    area: int = Field(description="In pixels.")
    rle: RLEAnswer | None = None
    png: str | None = None


ProgramValue = Annotated[
    list[ProgramMaskAnswer] | list[list[float]] | dict[str, list[int]] | float | str | None,
    Field(description="Masks, boxes or points, the box of a part of the picture, a number or words, by the type."),
]


class ProgramStepAnswer(BaseModel):
    """A call of an operator, and its value; a call inside another one is a step before it."""

    line: int
    name: str = Field(description="That the line gives it; empty for a call inside another one.")
    text: str
    operator: str
    type: Literal["Image", "Masks", "Boxes", "Points", "Number", "Text"]
    summary: str
    value: ProgramValue
    milliseconds: float
    note: str = Field(description="The policy's thinking.")


class ProgramFailure(BaseModel):
    """The reason why a program has no result, and the line that is to blame; 0 if none is."""

    message: str
    line: int


class ProgramAttemptAnswer(BaseModel):
    """A program that the language model wrote; the last one was run, if it could be read."""

    program: str
    error: str | None


class ProgramAnswer(BaseModel):
    """A program's run: its steps, up to the one that failed, and its result."""

    question: str
    program: str
    width: int
    height: int
    steps: list[ProgramStepAnswer]
    type: str = Field(description="Of the result; empty if the program failed.")
    result: ProgramValue
    error: ProgramFailure | None
    attempts: list[ProgramAttemptAnswer]
    seconds: float


class RegionAnswer(BaseModel):
    """One object of a dialogue; later questions name it by its id: "instance 2"."""

    id: int
    box: Box
    points: list[Point]
    labels: list[int] = Field(description="For each point: 1 inside, 0 outside.")
    score: float
    color: list[int]
    rle: RLEAnswer | None = None
    png: str | None = None


class RoundAnswer(BaseModel):
    """A question of a dialogue; later questions name it by its number: [REF:1]."""

    number: int
    question: str
    refers: list[int] = Field(description="The rounds that the question refers to.")
    state: Literal["found", "nothing", "unread"]
    error: str | None
    warnings: list[str]
    think: str
    raw_text: str
    regions: list[RegionAnswer]
    steps: list[StepAnswer] = Field(default=[], description=_STEPS)


class DialogueAnswer(BaseModel):
    """A dialogue as it stands."""

    id: str
    size: Size
    policy: str
    segmenter: str
    memory: str
    idle: float = Field(description="Seconds without use after which it is forgotten.")
    steps: int = Field(description="How many undo can take back.")
    rounds: list[RoundAnswer]


class CandidatesAnswer(BaseModel):
    """Masks to choose from; `choice` of refine and draw is a place in this list."""

    masks: list[MaskAnswer] = Field(description="The best first.")


class PolicyAnswer(BaseModel):
    """A policy, a mask model or a segmenter, by the name that bodies choose it with."""

    name: str
    default: bool
    mask_model: bool = Field(description="Whether it answers with one mask at once, without thinking and boxes.")
    shipped: bool = Field(description="Whether it comes with SegZero, and knows synthetic scenes alone.")


class LimitsAnswer(BaseModel):
    """Limits of requests; a request above them is refused."""

    megabytes: float = Field(description="Largest body of a request.")
    pixels: int = Field(description="Largest image.")
    question: int = Field(description="Longest question, in characters.")


class ModelsAnswer(BaseModel):
    """Models, memories and limits of this server."""

    policies: list[PolicyAnswer]
    segmenters: list[PolicyAnswer]
    memories: list[str]
    flags: bool = Field(description="Whether rounds can be flagged.")
    program_writer: str | None = Field(description="The language model that writes programs, if there is one.")
    limits: LimitsAnswer


class ExampleAnswer(BaseModel):
    """A picture to begin with."""

    name: str
    question: str
    followups: list[str]
    image: str = Field(description="Its address on this server.")


class ErrorDetail(BaseModel):
    """An error's code for programs and message for people."""

    code: str
    message: str


class ErrorAnswer(BaseModel):
    """An error response."""

    error: ErrorDetail
