"""Label Studio's ML backend: what its tasks ask, and answers as its regions.

POST predict {"tasks": [{"id", "data": {"image": ...}}], "label_config": "<View>...</View>", "params": {"context": ...}}
  -> {"results": [{"result": [region, ...], "score", "model_version"}, ...]}, one for each task

Without a context each label is a question: "find the cat". With one, a person has clicked (`smart="true"`): its regions
are points and boxes for the segmenter, or a text to ask the policy for. Regions are in per cent of the image's sides.

>>> [tag.name for tag in read_config('<View><Image name="i" value="$image"/><BrushLabels name="m" toName="i">'
...     '<Label value="cat"/></BrushLabels></View>').controls]
['m']
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from segzero.data.exports.label_studio import brush
from segzero.errors import UserError, one_line
from segzero.frames import Size
from segzero.masks import Box, Point
from segzero.result import InstanceMask
from segzero.segmenter import MaskPrompt
from segzero.serving.schema import MAX_POINTS

MAX_CONFIG = 1 << 20  # characters
MAX_CONTROLS = 100  # tags that regions are drawn with
CONTROLS = {  # tag -> type of its regions; the first kind that a labelling set-up has is what answers are written as
    "BrushLabels": "brushlabels",
    "RectangleLabels": "rectanglelabels",
    "KeyPointLabels": "keypointlabels",
}


@dataclass(frozen=True)
class Control:
    """A tag whose regions carry labels."""

    name: str
    image: str  # the name of the tag it belongs to
    type: str  # of its regions
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Config:
    """Of a labelling set-up: where the image is, and what can be drawn on it."""

    variable: str  # the task's data of this name is the image's address
    controls: tuple[Control, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """All that can be found."""
        return tuple(dict.fromkeys(label for control in self._best for label in control.labels))

    def control_for(self, label: str) -> Control:
        """The tag that answers of that label are written for."""
        for control in self._best:
            if label in control.labels:
                return control
        raise UserError(f"the labelling set-up has no label {label[:80]!r} for {self._best[0].type}")

    @property
    def _best(self) -> list[Control]:
        types = list(CONTROLS.values())
        best = min(self.controls, key=lambda control: types.index(control.type)).type
        return [control for control in self.controls if control.type == best]


@dataclass(frozen=True)
class Clicks:
    """What a person has drawn or written, and the label it is to have."""

    label: str
    prompt: MaskPrompt | None
    text: str = ""


def read_config(xml: str) -> Config:
    """The parts of a labelling set-up that matter here."""
    if len(xml) > MAX_CONFIG or "<!" in xml.replace("<!--", ""):  # entities could grow without end
        raise UserError("the labelling set-up is too long, or declares something; it is plain tags alone")
    try:
        tags = list(ElementTree.fromstring(xml).iter())
    except ElementTree.ParseError as error:
        raise UserError(f"the labelling set-up is not XML: {error}") from None
    images = {tag.get("name", ""): tag.get("value", "") for tag in tags if tag.tag == "Image"}
    drawing = [tag for tag in tags if tag.tag in CONTROLS and tag.get("toName") in images]
    if len(drawing) > MAX_CONTROLS:
        raise UserError(f"the labelling set-up has {len(drawing)} tags to draw with; at most {MAX_CONTROLS} are read")
    controls = tuple(
        Control(
            tag.get("name", ""),
            tag.get("toName", ""),
            CONTROLS[tag.tag],
            tuple(label.get("value", "") for label in tag.iter("Label") if label.get("value")),
        )
        for tag in drawing
    )
    if not controls:
        raise UserError(f"the labelling set-up has none of {', '.join(CONTROLS)} for an Image")
    config = Config(images[controls[0].image].removeprefix("$"), controls)
    if not config.labels:
        raise UserError(f"the labelling set-up has no labels for {config.controls[0].type}; add a Label with a value")
    return config


def task_name(task: dict[str, Any]) -> str:
    """A task as errors call it, by its number in Label Studio."""
    return f"task {one_line(task.get('id'))[:40]}"


def image_address(task: dict[str, Any], config: Config) -> str:
    """Where a task says its image is."""
    data = task.get("data")
    address = data.get(config.variable) if isinstance(data, dict) else None
    if not isinstance(address, str):
        raise UserError(f"{task_name(task)} has no {config.variable!r} with an image's address in its data")
    return address


def read_context(context: dict[str, Any], config: Config, size: Size) -> Clicks | None:
    """What was clicked; None if there is nothing in it to answer."""
    points: list[Point] = []
    labels: list[int] = []
    box: Box | None = None
    label = text = ""
    regions = context.get("result") or []
    if not isinstance(regions, list) or len(regions) > MAX_POINTS:
        raise UserError(f"the context's result is no list, or one of more than {MAX_POINTS} regions")
    for region in regions:
        try:
            kind, value = region["type"], region["value"]
            if kind == "textarea":
                written = value["text"]
                text = " ".join(written) if isinstance(written, list) else written
            elif kind in ("keypointlabels", "rectanglelabels"):
                x, y = _pixels(value["x"], value["y"], size)
                label = value[kind][0]
                if kind == "keypointlabels":
                    points.append((x, y))
                    labels.append(int(bool(region.get("is_positive", True))))
                else:
                    x1, y1 = _pixels(value["x"] + value["width"], value["y"] + value["height"], size)
                    box = (x, y, x1, y1)
            if not isinstance(label, str) or not isinstance(text, str):
                raise TypeError
        except (KeyError, IndexError, TypeError, AttributeError, ValueError):
            raise UserError("a region of the context is none that Label Studio writes") from None
    if text.strip():
        return Clicks(label or config.labels[0], None, text.strip())
    if box is None and not any(labels):
        return None
    return Clicks(label, MaskPrompt(box, tuple(points), tuple(labels)))


def regions_of(found: Sequence[InstanceMask], label: str, config: Config, size: Size) -> list[dict[str, Any]]:
    """What was found, as the set-up's tags take it. Masks without pixels are left out."""
    control = config.control_for(label)
    regions = []
    for one in found:
        for value in _values(one, control.type, size):
            regions.append(
                {
                    "id": uuid.uuid4().hex[:10],
                    "from_name": control.name,
                    "to_name": control.image,
                    "type": control.type,
                    "original_width": size[0],
                    "original_height": size[1],
                    "image_rotation": 0,
                    "value": value | {control.type: [label]},
                    "score": one.score,
                }
            )
    return regions


def _values(found: InstanceMask, type: str, size: Size) -> list[dict[str, Any]]:
    width, height = size
    if type == "brushlabels":
        return [{"format": "rle", "rle": brush(found.mask)}] if found.mask.any() else []
    if type == "rectanglelabels":
        x0, y0, x1, y1 = found.box
        place = {"x": 100 * x0 / width, "y": 100 * y0 / height}
        return [place | {"width": 100 * (x1 - x0) / width, "height": 100 * (y1 - y0) / height, "rotation": 0}]
    return [{"x": 100 * x / width, "y": 100 * y / height, "width": 0.5} for x, y in found.points]


def _pixels(x: float, y: float, size: Size) -> Point:
    return float(x) * size[0] / 100, float(y) * size[1] / 100
