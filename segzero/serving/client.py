"""Client of a server; its answers are the same objects that the pipeline gives. Needs neither a model nor torch.

>>> client = Client("http://127.0.0.1:8000", token="secret")                         # doctest: +SKIP
>>> result = client.segment("street.jpg", "what keeps the rain off")                 # doctest: +SKIP
>>> result.think, result.union.shape                                                 # doctest: +SKIP
"""

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

from PIL import Image

from segzero.errors import TimedOut, UserError
from segzero.images import load_image
from segzero.io import png_bytes
from segzero.masks import RLE, Box, Point, check_rle, decode
from segzero.programs.trace import Trace
from segzero.result import InstanceMask, RefinementStep, Segmentation
from segzero.segmenter.everything import FoundMask

LONGEST_WAIT = 30.0  # seconds between two tries, even if the server asks for more
ImageLike = str | Path | bytes | Image.Image


class Client:
    """A client for any number of threads. A busy server is tried again up to `retries` times, when it says."""

    def __init__(self, url: str, token: str | None = None, timeout: float = 120.0, retries: int = 5) -> None:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"{url!r} is no server; write http://HOST:PORT")
        self.url, self.token, self.timeout, self.retries = url.rstrip("/"), token, timeout, retries

    def models(self) -> dict[str, Any]:
        """List the policies, segmenters, memories and limits of the server."""
        return self.send("GET", "/v1/models")

    def segment(
        self, image: ImageLike, question: str, policy: str | None = None, segmenter: str | None = None
    ) -> Segmentation:
        """Ask a question about an image; the names of models are those of `models`, a mask model's is a `policy`."""
        file = _read_file(image)
        fields = {"image": file, "question": question, **_model_fields(policy, segmenter)}
        answer = self.send("POST", "/v1/segment", fields)
        return _to_segmentation(answer, load_image(image if isinstance(image, Image.Image) else file))

    def draw(
        self,
        image: ImageLike,
        points: Sequence[Point] = (),
        labels: Sequence[int] = (),
        box: Box | None = None,
        mask: RLE | None = None,
        segmenter: str | None = None,
    ) -> list[InstanceMask]:
        """Draw the three masks of one object, best first; `mask` is an earlier one to improve on."""
        prompt = {**_click_fields(points, labels, box), "mask": mask}
        fields = {"image": _read_file(image), "prompts": json.dumps([prompt]), "all_masks": "true"}
        [drawn] = self.send("POST", "/v1/prompt", fields | _model_fields(None, segmenter))["objects"]
        return [_to_mask(each, points) for each in drawn["masks"]]

    def everything(
        self, image: ImageLike, preset: str = "sam2", segmenter: str | None = None, **settings: float
    ) -> list[FoundMask]:
        """Find all masks of an image, best first; settings are fields of `EverythingSettings` instead of a preset's."""
        fields = {"image": _read_file(image), "preset": preset, "settings": json.dumps(settings)}
        answer = self.send("POST", "/v1/everything", fields | _model_fields(None, segmenter))
        size = answer["size"]["width"], answer["size"]["height"]
        return [_to_found(each, size) for each in answer["masks"]]

    def words(
        self,
        image: ImageLike,
        phrases: Sequence[str],
        box_threshold: float = 0.30,
        text_threshold: float = 0.25,
        policy: str | None = None,
        segmenter: str | None = None,
        exemplars: Sequence[tuple[Box, int]] = (),
    ) -> list[Segmentation]:
        """Find all instances of each phrase; `exemplars` are boxes of what is meant (1) or not (0), for SAM3."""
        file = _read_file(image)
        fields = {"image": file, "phrases": json.dumps(list(phrases)), **_model_fields(policy, segmenter)}
        fields |= {"box_threshold": str(box_threshold), "text_threshold": str(text_threshold)}
        fields["exemplars"] = json.dumps([{"box": box, "label": label} for box, label in exemplars])
        answer = self.send("POST", "/v1/words", fields)
        picture = load_image(image if isinstance(image, Image.Image) else file)
        return [_to_phrase(each, picture) for each in answer["phrases"]]

    def program(
        self,
        image: ImageLike,
        program: str | None = None,
        question: str | None = None,
        policy: str | None = None,
        segmenter: str | None = None,
    ) -> Trace:
        """Run a program on an image, or let the server's language model write one for a question."""
        file = _read_file(image)
        given = {"program": program, "question": question}
        fields = {name: value for name, value in given.items() if value is not None}
        answer = self.send("POST", "/v1/programs", {"image": file, **fields, **_model_fields(policy, segmenter)})
        return Trace.from_dict(answer, load_image(image if isinstance(image, Image.Image) else file))

    def dialogue(
        self, image: ImageLike, memory: str | None = None, policy: str | None = None, segmenter: str | None = None
    ) -> "RemoteDialogue":
        """Begin a dialogue; used as a context manager, it is deleted at the end."""
        file = _read_file(image)
        fields = {"image": file, **({"memory": memory} if memory else {}), **_model_fields(policy, segmenter)}
        id = self.send("POST", "/v1/dialogues", fields)["id"]
        return RemoteDialogue(self, f"/v1/dialogues/{id}", load_image(file))

    def send(self, method: str, path: str, fields: dict[str, Any] | None = None) -> Any:
        """Send a request and parse the JSON of its response; fields that are bytes make the body multipart."""
        return json.loads(self.fetch(method, path, fields) or b"null")

    def fetch(
        self,
        method: str,
        path: str,
        fields: dict[str, Any] | None = None,
        read: Callable[[HTTPResponse], bytes] = HTTPResponse.read,
        accept: str = "*/*",
    ) -> bytes:
        """Send a request and return `read(response)`; waits and tries again while the server is busy."""
        body, content_type = _body(fields)
        headers = {"Accept": accept} | ({"Content-Type": content_type} if body is not None else {})
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        for attempt in range(self.retries + 1):
            try:
                return self._try(request, read)
            except _ServerBusy as busy:
                if attempt == self.retries:
                    raise UserError(f"{busy} ({attempt + 1} tries)") from None
                time.sleep(min(busy.seconds, LONGEST_WAIT))
        raise AssertionError("unreachable")

    def _try(self, request: urllib.request.Request, read: Callable[[HTTPResponse], bytes]) -> bytes:
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                return read(response)
        except urllib.error.HTTPError as error:
            raise self._error(error.code, _message(error), error.headers.get("Retry-After")) from None
        except _StreamError as error:
            raise self._error(error.status, str(error), error.retry_after) from None
        except TimeoutError:
            raise TimedOut(f"{self.url} did not answer within {self.timeout:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, TimeoutError):
                raise TimedOut(f"{self.url} did not answer within {self.timeout:g} s") from None
            raise UserError(f"no answer from {self.url}: {reason}; start a server: segzero serve") from None

    def _error(self, status: int, message: str, retry_after: str | None) -> Exception:
        """Convert an error response to an exception."""
        text = f"{self.url} answered {status}: {message}"
        if status in (429, 503):
            return _ServerBusy(text, _seconds(retry_after))
        return (TimedOut if status == 504 else UserError)(text)


@dataclass(frozen=True)
class RemoteDialogue:
    """A dialogue on the server, with the methods of `segzero.dialogue.Dialogue`."""

    client: Client
    path: str
    image: Image.Image

    def ask(
        self, question: str, about: int | None = None, on_text: Callable[[str], object] | None = None
    ) -> Segmentation:
        """Ask a question in a new round; it may refer to earlier ones by [REF:1], "instance 2" or "it".

        `on_text` is called with the full text so far while the policy writes.
        """
        fields = {"question": question, "about": about}
        if on_text is None:
            return self._round("ask", fields)
        round = self.client.fetch(
            "POST", f"{self.path}/ask", fields, lambda r: _read_stream(r, on_text), "text/event-stream"
        )
        return _to_segmentation(json.loads(round), self.image)

    def draw(
        self,
        points: Sequence[Point] = (),
        labels: Sequence[int] = (),
        box: Box | None = None,
        question: str = "",
        choice: int = 0,
    ) -> Segmentation:
        """Add a round by hand, from points, a box or both; `choice` is a place among the `candidates`."""
        return self._round("draw", {**_click_fields(points, labels, box), "question": question, "choice": choice})

    def refine(
        self,
        id: int,
        points: Sequence[Point] = (),
        labels: Sequence[int] = (),
        box: Box | None = None,
        choice: int = 0,
    ) -> Segmentation:
        """Correct the mask of an instance by points or another box; returns its round."""
        return self._round("refine", {"id": id, **_click_fields(points, labels, box), "choice": choice})

    def candidates(
        self,
        id: int | None = None,
        points: Sequence[Point] = (),
        labels: Sequence[int] = (),
        box: Box | None = None,
    ) -> list[InstanceMask]:
        """List the masks that `refine` (of instance `id`) or `draw` would choose from, best first; nothing changes."""
        fields = {"id": id, **_click_fields(points, labels, box)}
        answer = self.client.send("POST", f"{self.path}/candidates", fields)
        return [_to_mask(each, points) for each in answer["masks"]]

    def export(self, format: str = "json", round: int | None = None) -> bytes:
        """Export a file: coco, overlay (of one round, or all), masks (a zip), or json, which `Dialogue.load` reads."""
        query = {"format": format} | ({"round": round} if round is not None else {})
        return self.client.fetch("GET", f"{self.path}/export?{urllib.parse.urlencode(query)}")

    def flag(self, round: int, verdict: str, note: str = "") -> None:
        """Flag a round as good or bad; the server stores it."""
        self.client.send("POST", f"{self.path}/flag", {"round": round, "verdict": verdict, "note": note})

    def undo(self) -> None:
        """Take the last step back."""
        self.client.send("POST", f"{self.path}/undo")

    def clear(self) -> None:
        """Forget all rounds; undo brings them back."""
        self.client.send("POST", f"{self.path}/clear")

    def rounds(self) -> list[Segmentation]:
        """List all rounds as they stand."""
        return [_to_segmentation(each, self.image) for each in self.client.send("GET", self.path)["rounds"]]

    def delete(self) -> None:
        """Delete the dialogue on the server."""
        self.client.send("DELETE", self.path)

    def __enter__(self) -> "RemoteDialogue":
        return self

    def __exit__(self, *error: object) -> None:
        self.delete()

    def _round(self, step: str, fields: dict[str, Any]) -> Segmentation:
        return _to_segmentation(self.client.send("POST", f"{self.path}/{step}", fields), self.image)


class _ServerBusy(Exception):
    """A response that asks the client to try again in some seconds."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class _StreamError(Exception):
    """An error event, sent after the response had begun."""

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(content["error"]["message"])
        self.status, self.retry_after = content.get("status", 500), str(content.get("retry_after", ""))


def _read_stream(response: HTTPResponse, on_text: Callable[[str], object]) -> bytes:
    """Read events until the last, and return the JSON of the round."""
    name, text = b"", ""
    for line in response:
        field, _, value = line.rstrip(b"\r\n").partition(b": ")
        if field == b"event":
            name = value
        elif field == b"data" and name == b"text":
            text += json.loads(value)["text"]
            on_text(text)
        elif field == b"data" and name == b"error":
            raise _StreamError(json.loads(value))
        elif field == b"data" and name == b"round":
            return value
    raise http.client.IncompleteRead(b"")


def _model_fields(policy: str | None, segmenter: str | None) -> dict[str, str]:
    """Fields for the models that are named; in a multipart body nothing can be null."""
    return {name: model for name, model in (("policy", policy), ("segmenter", segmenter)) if model is not None}


def _click_fields(points: Sequence[Point], labels: Sequence[int], box: Box | None) -> dict[str, Any]:
    return {"points": list(points), "labels": list(labels), "box": box}


def _to_mask(answer: dict[str, Any], points: Sequence[Point]) -> InstanceMask:
    box = tuple(answer["box"] or (0.0, 0.0, 0.0, 0.0))
    return InstanceMask(decode(answer["rle"]), box, tuple(points), answer["score"])


def _to_found(answer: dict[str, Any], size: tuple[int, int]) -> FoundMask:
    box, point, crop = (tuple(answer[name]) for name in ("box", "point", "crop"))
    area, score, stability = (answer[name] for name in ("area", "score", "stability"))
    return FoundMask(check_rle(answer["rle"], size), area, box, score, stability, point, crop)


def _to_segmentation(answer: dict[str, Any], image: Image.Image) -> Segmentation:
    """Convert the answer to a question, or a round of a dialogue; `image` is the image it is about."""
    instances = tuple(
        InstanceMask(decode(each["rle"], image.size), tuple(each["box"]), _points_inside(each), each["score"])
        for each in answer.get("instances", answer.get("regions", ()))
    )
    fields = {key: answer[key] for key in ("think", "raw_text", "error")} | {"timings": answer.get("timings", {})}
    fields["undivided"] = answer.get("undivided", False)
    fields["steps"] = tuple(RefinementStep.from_dict(each, image.size) for each in answer.get("steps", ()))
    return Segmentation(image, answer["question"], instances, warnings=tuple(answer["warnings"]), **fields)


def _to_phrase(answer: dict[str, Any], image: Image.Image) -> Segmentation:
    """Convert the instances of a phrase."""
    instances = tuple(
        InstanceMask(decode(each["rle"], image.size), tuple(each["box"]), (), each["score"])
        for each in answer["instances"]
    )
    return Segmentation(image, answer["phrase"], instances, error=answer["error"], presence=answer["presence"])


def _points_inside(answer: dict[str, Any]) -> tuple[Point, ...]:
    labels = answer.get("labels", [1] * len(answer["points"]))
    return tuple((x, y) for (x, y), label in zip(answer["points"], labels, strict=True) if label)


def _read_file(image: ImageLike) -> bytes:
    """The bytes of an image file; an image in memory becomes a PNG."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, Image.Image):
        return png_bytes(load_image(image))
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise UserError(f"cannot open {image}: {error.strerror or error}") from error


def _body(fields: dict[str, Any] | None) -> tuple[bytes | None, str]:
    """Encode fields as JSON, or as multipart if one of them is bytes; returns the body and its content type."""
    if fields is None:
        return None, ""
    if not any(isinstance(value, bytes) for value in fields.values()):
        return json.dumps(fields).encode(), "application/json"
    boundary = uuid.uuid4().hex
    parts = []
    for name, value in fields.items():
        is_file = isinstance(value, bytes)
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{"; filename=" + name if is_file else ""}'
        parts += [head.encode() + b"\r\n\r\n", value if is_file else str(value).encode("utf-8", "replace"), b"\r\n"]
    return b"".join([*parts, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


def _seconds(retry_after: str | None) -> float:
    return float(retry_after) if retry_after and retry_after.isdigit() else 1.0


def _message(error: urllib.error.HTTPError) -> str:
    """The message of an error response, which may come from a proxy in another format."""
    text = error.read(100_000).decode(errors="replace")
    try:
        return json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return " ".join(text.split())[:300]
