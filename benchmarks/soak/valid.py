"""Valid clients: each sends questions about images of its own and compares the answers with its reference answers.

An answer that differs is wrong, or another client's. Texts must be equal, and masks nearly so, because the other
requests of a batch may change the last bits of a number.
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
SCENES = 4  # images per client
SAME_IOU = 0.99  # IoU above which two masks are the same
BY_HAND = "by hand"  # question of a round that is drawn from a click
STREAMED = {"Accept": "text/event-stream"}
VALID = "valid: "  # prefix of the kinds of valid requests

Read = Callable[[httpx.Response], Any]
AnswerContent = dict[str, Any]  # the parts of an answer that are compared: text and masks


@dataclass
class Client:
    """A client with its token, its images and its reference answers."""

    number: int
    token: str
    samples: Sequence[Sample]
    patience: float  # seconds for one request
    known: dict[tuple[str, int], AnswerContent] = field(default_factory=dict)
    flagged: list[str] = field(default_factory=list)  # notes of the flags that the server acknowledged

    def run(self, url: str, tally: Tally, over: threading.Event, pause: float) -> None:
        """Send requests, compare the answers and pause, until `over` is set."""
        chance = random.Random(self.number)
        with self._http(url) as http:
            turn = self.number
            while not over.is_set():
                scene, turn = turn % len(self.samples), turn + 1
                visit = Visit(self, http, tally, scene)
                (visit.dialogue if turn % 4 == 0 else visit.prompt if turn % 4 == 2 else visit.segment)()
                over.wait(pause * chance.uniform(0.5, 1.5))

    def learn(self, url: str, tally: Tally) -> None:
        """Send every request once; the answers of the first time are the reference."""
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
    """Make a client for each token; no two share an image."""
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
        """Sample whose image and question are sent."""
        return self.client.samples[self.scene]

    @property
    def inside(self) -> list[float]:
        """Point in the first object, or the image's centre."""
        points = [point for each in self.sample.objects for point in each.points]
        return list(points[0]) if points else [self.sample.width / 2, self.sample.height / 2]

    def segment(self) -> None:
        """Ask a question."""
        fields: dict[str, Any] = {"files": {"image": self.sample.image}, "data": {"question": self.sample.question}}
        answer = self._ask("segment", "POST", "/v1/segment", **fields)
        if answer is not None:
            self.compare("segment", _content(answer.json()))

    def prompt(self) -> None:
        """Click on an object."""
        fields = {"prompts": json.dumps([{"points": [self.inside]}]), "all_masks": "true"}
        answer = self._ask("prompt", "POST", "/v1/prompt", files={"image": self.sample.image}, data=fields)
        if answer is not None:
            [drawn] = answer.json()["objects"]
            self.compare("prompt", {"text": "", "masks": [each["rle"] for each in drawn["masks"]]})

    def dialogue(self) -> None:
        """Begin a dialogue, ask with streaming, draw, flag, get the image and an export, and delete it."""
        begun = self._ask("dialogue", "POST", "/v1/dialogues", files={"image": self.sample.image})
        if begun is None:
            return
        path = f"/v1/dialogues/{begun.json()['id']}"
        question: dict[str, Any] = {"json": {"question": self.sample.question}, "headers": STREAMED}
        streamed = self._ask("ask", "POST", f"{path}/ask", read=_last_event, **question)
        if streamed is not None:
            self.compare("ask", _content(streamed))
        drawn = self._ask("draw", "POST", f"{path}/draw", json={"points": [self.inside], "question": BY_HAND})
        if drawn is not None:
            self.compare("draw", _content(drawn.json()))
            self._flag(path, drawn.json()["number"])
        image = self._ask("image", "GET", f"{path}/image")
        if image is not None and image.content != self.sample.image:
            self.tally.note(f"client {self.client.number} got another image than its own")
        export = self._ask("export", "GET", f"{path}/export?format=coco")
        if None not in (streamed, drawn, export):  # both rounds are in it
            self.compare("export", _export_content(export.json()))
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
        """Send a request; returns its answer, or None if the server had no time or no room."""
        begin = time.monotonic()
        try:
            answer = self.http.request(method, path, **fields)
            status, content = str(answer.status_code), read(answer) if answer.is_success else None
        except httpx.TimeoutException:
            status, content = "no answer", None
        except httpx.ConnectError:
            status, content = "refused", None
        except httpx.TransportError:
            status, content = "closed", None
        except _StreamError as error:
            status, content = str(error), None
        self.tally.add(VALID + kind, status, time.monotonic() - begin, good=content is not None)
        return content

    def compare(self, kind: str, answer: AnswerContent) -> None:
        """Record an answer that differs from the reference; the first answer becomes the reference."""
        known = self.client.known.setdefault((kind, self.scene), answer)
        if not _same(known, answer):
            place = f"{kind} of client {self.client.number}, scene {self.scene}"
            self.tally.note(f"{place}: {answer['text']!r}, not {known['text']!r}")


class _StreamError(Exception):
    """Error event of a stream; the message is its status."""


def _last_event(answer: httpx.Response) -> dict[str, Any]:
    """Find the round in a stream of events."""
    name = ""
    for line in answer.text.splitlines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: ") and name == "round":
            return json.loads(line.removeprefix("data: "))
        elif line.startswith("data: ") and name == "error":
            raise _StreamError(json.loads(line.removeprefix("data: "))["status"])
    raise _StreamError("closed")


def _content(answer: dict[str, Any]) -> AnswerContent:
    objects = answer["instances"] if "instances" in answer else answer["regions"]
    return {"text": answer["raw_text"], "masks": [each["rle"] for each in objects]}


def _export_content(file: dict[str, Any]) -> AnswerContent:
    questions = {category["id"]: category["name"] for category in file["categories"]}
    annotations = file["annotations"]
    text = "; ".join(questions[annotation["category_id"]] for annotation in annotations)
    return {"text": text, "masks": [annotation["segmentation"] for annotation in annotations]}


def _same(known: AnswerContent, answer: AnswerContent) -> bool:
    if known["text"] != answer["text"] or len(known["masks"]) != len(answer["masks"]):
        return False
    pairs = zip(known["masks"], answer["masks"], strict=True)
    return all(a == b or mask_iou(decode(a), decode(b)) > SAME_IOU for a, b in pairs)
