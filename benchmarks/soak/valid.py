"""Clients that do nothing wrong: each asks about images of its own, and knows what the answers were in quiet times.

An answer that differs from the one known is wrong, or another client's. Texts must be the same, masks too but for
their edges: who shares a batch may change the last bits of a number.
"""

import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.soak.tally import Tally
from segzero.masks import decode, mask_iou
from segzero.sample import Sample
from segzero.tiny.questions import HELD_OUT_SEED, make_samples

CLIENTS = 4
SCENES = 4  # images of each client
ALIKE = 0.99  # IoU of two masks that are the same
BY_HAND = "by hand"  # the question of a round that is drawn
STREAMED = {"Accept": "text/event-stream"}
VALID = "valid: "  # what their kinds begin with

Read = Callable[[httpx.Response], Any]
PromptBoxes = dict[str, Any]  # what is compared: text, and the masks


@dataclass
class Client:
    """One client, its token, its images, and what it knows of them."""

    number: int
    token: str
    samples: Sequence[Sample]
    patience: float  # seconds for one request
    known: dict[tuple[str, int], PromptBoxes] = field(default_factory=dict)
    flagged: list[str] = field(default_factory=list)  # notes that the server said it has

    def run(self, url: str, tally: Tally, over: threading.Event, pause: float) -> None:
        """Ask, compare and wait a little, until it is over."""
        chance = random.Random(self.number)
        with self._http(url) as http:
            turn = self.number
            while not over.is_set():
                scene, turn = turn % len(self.samples), turn + 1
                visit = Visit(self, http, tally, scene)
                (visit.dialogue if turn % 4 == 0 else visit.prompt if turn % 4 == 2 else visit.segment)()
                over.wait(pause * chance.uniform(0.5, 1.5))

    def learn(self, url: str, tally: Tally) -> None:
        """Ask everything once; the first time, alone, what is answered is what is right."""
        with self._http(url) as http:
            for scene in range(len(self.samples)):
                visit = Visit(self, http, tally, scene)
                visit.segment()
                visit.prompt()
                visit.dialogue()

    def _http(self, url: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=url, headers=headers, timeout=self.patience)


def make_clients(tokens: Sequence[str], patience: float) -> list[Client]:
    """A client for each token, none with an image of another's."""
    samples = make_samples(SCENES * len(tokens), HELD_OUT_SEED + 12)
    return [
        Client(number, token, samples[number * SCENES : (number + 1) * SCENES], patience)
        for number, token in enumerate(tokens)
    ]


@dataclass
class Visit:
    """Requests of one client about one of its images."""

    client: Client
    http: httpx.Client
    tally: Tally
    scene: int

    @property
    def sample(self) -> Sample:
        """The image, and a question about it."""
        return self.client.samples[self.scene]

    @property
    def inside(self) -> list[float]:
        """A point in the first object, or in the middle."""
        points = [point for each in self.sample.objects for point in each.points]
        return list(points[0]) if points else [self.sample.width / 2, self.sample.height / 2]

    def segment(self) -> None:
        """Ask a question."""
        fields: dict[str, Any] = {"files": {"image": self.sample.image}, "data": {"question": self.sample.question}}
        answer = self._ask("segment", "POST", "/v1/segment", **fields)
        if answer is not None:
            self.compare("segment", _told(answer.json()))

    def prompt(self) -> None:
        """Click on an object."""
        fields = {"prompts": json.dumps([{"points": [self.inside]}]), "all_masks": "true"}
        answer = self._ask("prompt", "POST", "/v1/prompt", files={"image": self.sample.image}, data=fields)
        if answer is not None:
            [drawn] = answer.json()["objects"]
            self.compare("prompt", {"text": "", "masks": [each["rle"] for each in drawn["masks"]]})

    def dialogue(self) -> None:
        """Begin, ask (followed while it is written), draw, flag, take the image and an export, delete."""
        begun = self._ask("dialogue", "POST", "/v1/dialogues", files={"image": self.sample.image})
        if begun is None:
            return
        path = f"/v1/dialogues/{begun.json()['id']}"
        asked: dict[str, Any] = {"json": {"question": self.sample.question}, "headers": STREAMED}
        spoken = self._ask("ask", "POST", f"{path}/ask", read=_last_event, **asked)
        if spoken is not None:
            self.compare("ask", _told(spoken))
        drawn = self._ask("draw", "POST", f"{path}/draw", json={"points": [self.inside], "question": BY_HAND})
        if drawn is not None:
            self.compare("draw", _told(drawn.json()))
            self._flag(path, drawn.json()["number"])
        image = self._ask("image", "GET", f"{path}/image")
        if image is not None and image.content != self.sample.image:
            self.tally.note(f"client {self.client.number} was given another image than its own")
        export = self._ask("export", "GET", f"{path}/export?format=coco")
        if None not in (spoken, drawn, export):  # both rounds are in it
            self.compare("export", _exported(export.json()))
        self._ask("delete", "DELETE", path)

    def _flag(self, path: str, number: int) -> None:
        note = f"client {self.client.number}, {time.monotonic_ns()}"
        body = {"round": number, "verdict": "good", "note": note}
        if self._ask("flag", "POST", f"{path}/flag", json=body) is not None:
            self.client.flagged.append(note)

    def _ask(
        self,
        kind: str,
        method: str,
        path: str,
        read: Read = lambda answer: answer,
        **fields: Any,
    ) -> Any:
        """What was answered, or None where the server had no time or no room."""
        begin = time.monotonic()
        try:
            answer = self.http.request(method, path, **fields)
            status, found = str(answer.status_code), read(answer) if answer.is_success else None
        except httpx.TimeoutException:
            status, found = "no answer", None
        except httpx.ConnectError:
            status, found = "refused", None
        except httpx.TransportError:
            status, found = "closed", None
        except _Told as told:
            status, found = str(told), None
        self.tally.add(VALID + kind, status, time.monotonic() - begin, good=found is not None)
        return found

    def compare(self, kind: str, told: PromptBoxes) -> None:
        """Note an answer that is not the one known; the first is known from then on."""
        known = self.client.known.setdefault((kind, self.scene), told)
        if not _same(known, told):
            said = f"{kind} of client {self.client.number}, scene {self.scene}: {told['text']!r}, not {known['text']!r}"
            self.tally.note(said)


class _Told(Exception):
    """The status of an error that came after the answer had begun."""


def _last_event(answer: httpx.Response) -> dict[str, Any]:
    """The round of a stream of events."""
    name = ""
    for line in answer.text.splitlines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: ") and name == "round":
            return json.loads(line.removeprefix("data: "))
        elif line.startswith("data: ") and name == "error":
            raise _Told(json.loads(line.removeprefix("data: "))["status"])
    raise _Told("closed")


def _told(answer: dict[str, Any]) -> PromptBoxes:
    found = answer["instances"] if "instances" in answer else answer["regions"]
    return {"text": answer["raw_text"], "masks": [each["rle"] for each in found]}


def _exported(file: dict[str, Any]) -> PromptBoxes:
    questions = {each["id"]: each["name"] for each in file["categories"]}
    found = file["annotations"]
    text = "; ".join(questions[each["category_id"]] for each in found)
    return {"text": text, "masks": [each["segmentation"] for each in found]}


def _same(known: PromptBoxes, told: PromptBoxes) -> bool:
    if known["text"] != told["text"] or len(known["masks"]) != len(told["masks"]):
        return False
    pairs = zip(known["masks"], told["masks"], strict=True)
    return all(a == b or mask_iou(decode(a), decode(b)) > ALIKE for a, b in pairs)
