"""Conversions between Label Studio's ML backend protocol and questions, prompts and masks.

POST predict {"tasks": [{"id", "data": {"image": ...}}], "label_config": "<View>...</View>", "params": {"context": ...}}
  -> {"results": [{"result": [region, ...], "score", "model_version"}, ...]}, one for each task

Without a context each label is a question: "find the cat". With one, a person has used a smart tool (`smart="true"`):
its regions are points and boxes for the segmenter, or a text for the policy. Regions are in per cent of the image's
sides.

>>> [tag.name for tag in read_config('<View><Image name="i" value="$image"/><BrushLabels name="m" toName="i">'
...     '<Label value="cat"/></BrushLabels></View>').controls]
['m']
"""

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit
from xml.etree import ElementTree

from segzero.data.exports.label_studio import brush
from segzero.errors import UserError, one_line
from segzero.frames import Size
from segzero.masks import Box, Point
from segzero.result import InstanceMask
from segzero.segmenter import MaskPrompt
from segzero.serving.image_fetch import fetch
from segzero.serving.schema import MAX_POINTS

URL, KEY = "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"  # environment variables
MAX_CONFIG = 1 << 20  # characters
MAX_CONTROLS = 100  # tags that regions are drawn with
CONTROLS = {  # tag -> type of its regions; answers use the first of these types that a labelling set-up has
    "BrushLabels": "brushlabels",
    "RectangleLabels": "rectanglelabels",
    "KeyPointLabels": "keypointlabels",
}


@dataclass(frozen=True)
class LabelStudioFiles:
    """Access to the files of one Label Studio server."""

    url: str
    key: str

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"{URL} is {self.url!r}; write http://HOST:PORT")

    def resolve(self, address: str) -> str | None:
        """Complete the address of a file that the server holds; None for anything else."""
        try:
            whole = urljoin(self.url + "/", address)
            there, here = urlsplit(whole), urlsplit(self.url)
        except ValueError:
            return None
        path = there.path
        for _ in range(3):  # a proxy on the way may unquote it, and would then ask for another path
            path = unquote(path)
        is_file = there.path.startswith("/data/") and ".." not in path and unquote(path) == path
        return whole if is_file and (there.scheme, there.netloc) == (here.scheme, here.netloc) else None

    def fetch(self, address: str, max_bytes: int) -> bytes:
        """Fetch a file with the key, following no redirect; the server may well have a private address."""
        headers = {"Authorization": f"Token {self.key}"} if self.key else {}
        return fetch(address, max_bytes, is_allowed=lambda ip: True, headers=headers, redirects=0)


def files_from_environment() -> LabelStudioFiles | None:
    """Read the Label Studio server and its key from the environment; None if no server is set."""
    url = os.environ.get(URL, "").rstrip("/")
    return LabelStudioFiles(url, os.environ.get(KEY, "")) if url else None


@dataclass(frozen=True)
class Control:
    """A tag whose regions carry labels."""

    name: str
    image: str  # the name of the tag it belongs to
    type: str  # of its regions
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Config:
    """Labelling set-up: where the image is, and the tags that draw on it."""

    variable: str  # the task's data of this name is the image's address
    controls: tuple[Control, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the tags that answers use."""
        return tuple(dict.fromkeys(label for control in self._answer_controls for label in control.labels))

    def control_for(self, label: str) -> Control:
        """The tag that answers of that label use."""
        for control in self._answer_controls:
            if label in control.labels:
                return control
        raise UserError(f"the labelling set-up has no label {label[:80]!r} for {self._answer_controls[0].type}")

    @property
    def _answer_controls(self) -> list[Control]:
        types = list(CONTROLS.values())
        best = min(self.controls, key=lambda control: types.index(control.type)).type
        return [control for control in self.controls if control.type == best]


@dataclass(frozen=True)
class SmartRequest:
    """A prompt that a person drew with a smart tool, or a text, and the label that the answer gets."""

    label: str
    prompt: MaskPrompt | None
    text: str = ""


def read_config(xml: str) -> Config:
    """Read a labelling set-up."""
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
    """Name a task for error messages, by its number in Label Studio."""
    return f"task {one_line(task.get('id'))[:40]}"


def image_address(task: dict[str, Any], config: Config) -> str:
    """Read the address of a task's image."""
    data = task.get("data")
    address = data.get(config.variable) if isinstance(data, dict) else None
    if not isinstance(address, str):
        raise UserError(f"{task_name(task)} has no {config.variable!r} with an image's address in its data")
    return address


def read_context(context: dict[str, Any], config: Config, size: Size) -> SmartRequest | None:
    """Read the regions of a smart tool; None if there is nothing in them to answer."""
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
                lines = value["text"]
                text = " ".join(lines) if isinstance(lines, list) else lines
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
        return SmartRequest(label or config.labels[0], None, text.strip())
    if box is None and not any(labels):
        return None
    return SmartRequest(label, MaskPrompt(box, tuple(points), tuple(labels)))


def regions_of(instances: Sequence[InstanceMask], label: str, config: Config, size: Size) -> list[dict[str, Any]]:
    """Convert instances to regions of the set-up's tag for that label; masks without pixels are left out."""
    control = config.control_for(label)
    return [
        {
            "id": uuid.uuid4().hex[:10],
            "from_name": control.name,
            "to_name": control.image,
            "type": control.type,
            "original_width": size[0],
            "original_height": size[1],
            "image_rotation": 0,
            "value": value | {control.type: [label]},
            "score": instance.score,
        }
        for instance in instances
        for value in _values(instance, control.type, size)
    ]


def _values(instance: InstanceMask, type: str, size: Size) -> list[dict[str, Any]]:
    width, height = size
    if type == "brushlabels":
        return [{"format": "rle", "rle": brush(instance.mask)}] if instance.mask.any() else []
    if type == "rectanglelabels":
        x0, y0, x1, y1 = instance.box
        place = {"x": 100 * x0 / width, "y": 100 * y0 / height}
        return [place | {"width": 100 * (x1 - x0) / width, "height": 100 * (y1 - y0) / height, "rotation": 0}]
    return [{"x": 100 * x / width, "y": 100 * y / height, "width": 0.5} for x, y in instance.points]


def _pixels(x: float, y: float, size: Size) -> Point:
    return float(x) * size[0] / 100, float(y) * size[1] / 100
