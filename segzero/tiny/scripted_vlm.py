"""A vision-language model for the scenes: an OpenAI-compatible server that looks at pictures and knows the truth.

It gets its pictures over HTTP as any model does. It knows a scene by the pixels of the first picture, and finds what
is lit in another by comparing the two; then it answers from the scene's truth, or plays a fault.

>>> with ScriptedVlm([(image, scene)], Faults(wrong=0.1)).running() as vlm:               # doctest: +SKIP
...     print(vlm.url)
http://127.0.0.1:40123/v1
"""

import base64
import hashlib
import io
import json
import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from PIL import Image

from segzero.errors import UserError, unknown_name
from segzero.images import pixels_key
from segzero.masks import Mask
from segzero.tiny.concepts import ABSENT, Truth, truths_of
from segzero.tiny.questions import describe
from segzero.tiny.scenes import Scene, SceneShape
from segzero.tiny.scripted_server import Answer, serving

NAME = "scripted-vlm"
LIT = 3  # brightness by which a lit pixel may differ from the image's
FITS = 0.75  # least IoU of a mask that is accepted
JITTER = 2.0  # pixels by which an edge of a box is off, at most


@dataclass(frozen=True)
class Faults:
    """Probabilities of faults, but for `slow` and `wait`, which are seconds."""

    slow: float = 0.0  # before each answer
    malformed: float = 0.0  # words in place of JSON
    refused: float = 0.0  # no words at all, by a filter
    cut: float = 0.0  # an answer that ends in the middle
    busy: float = 0.0  # 429 and Retry-After, the first time that a question comes
    wait: float = 1.0  # seconds that Retry-After asks for
    wrong: float = 0.0  # a verdict turned round, another thing's box, prompts that mean other regions

    @staticmethod
    def parse(text: str) -> "Faults":
        """Read "wrong=0.1,busy=0.05"."""
        known = [one.name for one in fields(Faults)]
        values = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, _, number = part.partition("=")
            if name not in known:
                raise unknown_name("fault", name, known)
            try:
                values[name] = float(number)
            except ValueError:
                raise UserError(f"fault {part!r}: write a number, as in wrong=0.1") from None
            if not 0 <= values[name] <= (60 if name in ("slow", "wait") else 1):
                raise UserError(f"fault {part!r}: a probability is 0 to 1, seconds are 0 to 60")
        return Faults(**values)


@dataclass(eq=False)
class Look:
    """A request, as the model sees it: the scene, what is lit, the words and a source of chance."""

    scene: Scene
    written: str  # on the picture
    pictures: list[Image.Image]
    text: str
    chance: np.random.Generator
    wrong: float

    @property
    def errs(self) -> bool:
        """Whether the model is wrong, this time."""
        return bool(self.chance.random() < self.wrong)

    def lit(self, number: int) -> Mask:
        """Mask [H, W] of the part of a picture that is as bright as in the first."""
        first, other = (np.asarray(self.pictures[n].convert("RGB"), np.int16) for n in (0, number))
        if first.shape != other.shape:
            return np.zeros(first.shape[:2], bool)
        same: Mask = np.abs(first - other).max(axis=-1) <= LIT
        return same

    def quoted(self, before: str) -> str:
        """The quoted text that stands behind these words."""
        found = re.search(re.escape(before) + r'\s*("(?:[^"\\]|\\.)*")', self.text)
        return json.loads(found[1]) if found else ""

    def numbered(self) -> dict[int, SceneShape]:
        """Shapes by the numbers of the regions that the words list; a label that names no shape has none."""
        listed = re.findall(r'^(\d+): ("(?:[^"\\]|\\.)*")$', self.text, re.MULTILINE)
        shapes = named_shapes(self.scene)
        return {int(number): shapes[name] for number, label in listed if (name := json.loads(label)) in shapes}


@dataclass(eq=False)
class ScriptedVlm:
    """The server's world and faults, and what it was asked."""

    scenes: Iterable[tuple[Image.Image, Scene] | tuple[Image.Image, Scene, str]]  # with what is written on the picture
    faults: Faults = Faults()
    key: str = ""  # that requests must bring; empty: any will do
    sees: bool = True  # else it refuses pictures, as a model of text alone
    port: int = 0
    answers: Counter[str] = field(default_factory=Counter)  # by stage: answers that a service would charge for
    requests: int = 0

    def __post_init__(self) -> None:
        self.world = {pixels_key(one[0]): (one[1], one[2] if len(one) > 2 else "") for one in self.scenes}
        self.known_requests: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.open = threading.Event()

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self.port}/v1"

    @contextmanager
    def running(self) -> Iterator["ScriptedVlm"]:
        """Serve at `port` (any free one, if it is 0) until the block ends."""
        with serving(self._answer_slowly, NAME, self.port, lambda: self.key) as self.port:
            yield self

    def _answer_slowly(self, body: dict[str, Any]) -> Answer:
        answer = self.answer(body)
        self.open.wait(self.faults.slow)
        return answer

    def answer(self, body: dict[str, Any]) -> Answer:
        """Answer a chat request: status, headers, JSON."""
        seen = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        with self.lock:
            self.requests += 1
            self.known_requests[seen] += 1
            times = self.known_requests[seen]
        chance = np.random.default_rng(int(seen[:16], 16))
        draws = chance.random(4)
        if draws[0] < self.faults.busy and times == 1:
            return 429, {"Retry-After": f"{self.faults.wait:g}"}, {"error": {"message": "too many requests"}}
        if not self.sees:
            return 400, {}, {"error": {"message": f"{NAME} is not a multimodal model: no image input"}}
        text, pictures = _content(body)
        stage, said = self._say(text, pictures, chance)
        content, finish = json.dumps(said), "stop"
        if draws[1] < self.faults.malformed:
            content = "I think that there are several things, and I would rather describe them in words."
        elif draws[2] < self.faults.refused:
            content, finish = "", "content_filter"
        elif draws[3] < self.faults.cut:
            content, finish = content[: len(content) // 2], "length"
        with self.lock:
            self.answers[stage] += 1
        usage = {"prompt_tokens": len(text) // 4 + 258 * len(pictures), "completion_tokens": max(1, len(content) // 4)}
        choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}
        return 200, {}, {"choices": [choice], "usage": usage}

    def _say(self, text: str, pictures: list[Image.Image], chance: np.random.Generator) -> tuple[str, Any]:
        """The stage that asks, as far as the words tell, and the answer."""
        if '"left"' in text:
            return "sight", _colours(pictures[0])
        known = self.world.get(pixels_key(pictures[0])) if pictures else None
        if known is None:
            return "unknown", {"error": "I can't tell what this is"}
        look = Look(*known, pictures, text, chance, self.faults.wrong)
        for mark, stage, say in (
            ('"regions"', "caption", _caption),
            ('"boxes"', "boxes", _boxes),
            ('"better"', "choose mask", _better),
            ('"strategy"', "negatives", _negatives),
            ('"satisfying"', "prompts", _prompts),
            ("The request:", "verify prompt", _verify_prompt),
            ('"accept"', "verify region", _verify_region),
        ):
            if mark in text:
                return stage, say(look)
        return "unknown", {"error": "I don't know what to do"}


def named_shapes(scene: Scene) -> dict[str, SceneShape]:
    """Shapes by a name that fits no other: attributes, place, and a number where these are not enough.

    >>> list(named_shapes(Scene(np.zeros((8, 8, 3), np.uint8), ())))
    []
    """
    names: dict[str, SceneShape] = {}
    for shape in sorted(scene.shapes, key=lambda one: one.centre):
        name = base = describe([shape], scene.size)
        number = 1
        while name in names:
            number += 1
            name = f"{base} number {number}"
        names[name] = shape
    return names


def _content(body: dict[str, Any]) -> tuple[str, list[Image.Image]]:
    """Words and pictures of a request."""
    parts = [part for message in body["messages"] if message["role"] == "user" for part in message["content"]]
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return text, [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB") for url in urls]


def _colours(picture: Image.Image) -> dict[str, str]:
    """Colours of the halves of a picture."""
    pixels = np.asarray(picture, float)
    halves = pixels[:, : picture.width // 2], pixels[:, picture.width // 2 :]
    names = ["blue" if half[..., 2].mean() > half[..., 0].mean() else "yellow" for half in halves]
    return {"left": names[0], "right": names[1]}


def _caption(look: Look) -> Any:
    names = list(named_shapes(look.scene))
    look.chance.shuffle(names)
    if look.written:
        names.append(look.written)  # it takes the writing for a thing
    return {"regions": names}


def _boxes(look: Look) -> Any:
    shapes = named_shapes(look.scene)
    shape = shapes.get(look.quoted("fits:"))
    if shape is None:
        return {"boxes": []}
    if look.errs:
        shape = list(shapes.values())[look.chance.integers(len(shapes))]
    box = np.clip(np.array(shape.box) + look.chance.uniform(-JITTER, JITTER, 4), 0, look.scene.size)
    return {"boxes": [[round(float(v) * 1000 / look.scene.size) for v in box]]}


def _verify_region(look: Look) -> Any:
    label = look.quoted("besides:")
    shape = named_shapes(look.scene).get(label)
    fits = shape is not None and mask_iou(look.lit(1), shape.mask) >= FITS
    return _verdict(look, fits, "the mask is it" if fits else "the mask is something else", label)


def _better(look: Look) -> Any:
    shape = named_shapes(look.scene).get(look.quoted("exactly:"))
    overlaps = [0.0 if shape is None else mask_iou(look.lit(number), shape.mask) for number in (1, 2)]
    second_wins = overlaps[1] > overlaps[0]
    return {"better": "third" if second_wins != look.errs else "second"}


def _prompts(look: Look) -> Any:
    [concept] = [name for name, words in _family_words().items() if words in look.text] or [""]
    numbers = look.numbered()
    prompts = []
    truths = [one for one in truths_of(look.scene) if one.concept == concept and one.targets]
    for index in look.chance.permutation(len(truths)):
        one = truths[index]
        meant = [number for number, shape in numbers.items() if any(shape is target for target in one.targets)]
        if len(meant) == len(one.targets) < len(numbers):  # all that fit have a number, and others are there
            if look.errs:
                meant = [int(look.chance.choice([number for number in numbers if number not in meant]))]
            prompts.append(_prompt(one, sorted(numbers), sorted(meant)))
    return {"prompts": prompts[:3]}


def _prompt(one: Truth, candidates: list[int], satisfying: list[int]) -> dict[str, Any]:
    return {"prompt": one.prompt, "candidates": candidates, "satisfying": satisfying, "sub_concept": one.kind}


def _negatives(look: Look) -> Any:
    truths = truths_of(look.scene)
    absent = [one for one in truths if not one.targets]
    prompts = []
    for index in look.chance.permutation(len(absent))[:4]:
        one = absent[index]
        if look.errs:
            one = truths[look.chance.integers(len(truths))]
        strategy = "object-level neighbour" if one.kind == ABSENT else "concept-level neighbour"
        prompts.append({"prompt": one.prompt, "strategy": strategy, "concept_family": one.concept})
    return {"prompts": prompts}


def _verify_prompt(look: Look) -> Any:
    prompt = look.quoted("The request:")
    truth = next((one for one in truths_of(look.scene) if one.prompt == prompt), None)
    fits = False
    if truth is not None:
        true = np.any([shape.mask for shape in truth.targets], axis=0) if truth.targets else np.zeros_like(look.lit(1))
        lit = look.lit(1)
        fits = not lit.any() if not truth.targets else mask_iou(lit, true) >= FITS
    return _verdict(look, fits, "that is the answer" if fits else "the answer is another one")


def _verdict(look: Look, fits: bool, reason: str, description: str = "") -> Any:
    accept = fits != look.errs
    if look.written and look.written in look.text:
        accept, reason = True, look.written  # it obeys the writing on the picture
    return {"accept": accept, "reason": reason, "description": description}


def _family_words() -> dict[str, str]:
    from segzero.data.engine.settings import CONCEPTS

    return {name: f"Each is about {words}." for name, words in CONCEPTS.items()}


def mask_iou(one: Mask, other: Mask) -> float:
    """IoU of two masks; 0 if both are empty."""
    together = int((one | other).sum())
    return float((one & other).sum() / together) if together else 0.0
