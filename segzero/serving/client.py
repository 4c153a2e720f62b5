"""The other side: a server's answers as the same objects that the pipeline gives. Needs no model and no torch.

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
from segzero.masks import RLE, Box, Point, decode
from segzero.result import InstanceMask, Segmentation

LONGEST_WAIT = 30.0  # seconds between two tries, whatever the server says


class Client:
    """For any number of threads. A busy server is asked again `retries` times, when it says."""

    def __init__(self, url: str, token: str | None = None, timeout: float = 120.0, retries: int = 5) -> None:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"{url!r} is no server; write http://HOST:PORT")
        self.url, self.token, self.timeout, self.retries = url.rstrip("/"), token, timeout, retries

    def models(self) -> dict[str, Any]:
        """The policies, segmenters, memories and limits of the server."""
        return self.send("GET", "/v1/models")

    def segment(
        self,
        image: str | Path | bytes | Image.Image,
        question: str,
        policy: str | None = None,
        segmenter: str | None = None,
    ) -> Segmentation:
        """Ask a question about an image; the names are those of `models`."""
        data = _file(image)
        fields = {"image": data, "question": question, **_named(policy, segmenter)}
        answer = self.send("POST", "/v1/segment", fields)
        return _to_result(answer, load_image(image if isinstance(image, Image.Image) else data))

    def draw(
        self,
        image: str | Path | bytes | Image.Image,
        points: Sequence[Point] = (),
        labels: Sequence[int] = (),
        box: Box | None = None,
        mask: RLE | None = None,
        segmenter: str | None = None,
    ) -> list[InstanceMask]:
        """The three masks of one object, best first; `mask` is an earlier one to improve on."""
        prompt = {"points": list(points), "labels": list(labels), "box": box, "mask": mask}
        fields = {"image": _file(image), "prompts": json.dumps([prompt]), "all_masks": "true"}
        [drawn] = self.send("POST", "/v1/prompt", fields | _named(None, segmenter))["objects"]
        return [_reading(each, points) for each in drawn["masks"]]

    def dialogue(
        self,
        image: str | Path | bytes | Image.Image,
        memory: str = "text",
        policy: str | None = None,
        segmenter: str | None = None,
    ) -> "Conversation":
        """Begin a dialogue; as a context manager it is deleted in the end."""
        data = _file(image)
        fields = {"image": data, "memory": memory, **_named(policy, segmenter)}
        id = self.send("POST", "/v1/dialogues", fields)["id"]
        return Conversation(self, f"/v1/dialogues/{id}", load_image(data))

    def send(self, method: str, path: str, fields: dict[str, Any] | None = None) -> Any:
        """The JSON that the server answers; fields that hold bytes make the body multipart."""
        return json.loads(self.fetch(method, path, fields) or b"null")

    def fetch(
        self,
        method: str,
        path: str,
        fields: dict[str, Any] | None = None,
        read: Callable[[HTTPResponse], bytes] = HTTPResponse.read,
        accept: str = "*/*",
    ) -> bytes:
        """What the server answers, as `read` reads it."""
        body, kind = _body(fields)
        for attempt in range(self.retries + 1):
            try:
                return self._try(method, path, body, kind, read, accept)
            except _Again as again:
                if attempt == self.retries:
                    raise UserError(f"{again} ({attempt + 1} tries)") from None
                time.sleep(min(again.seconds, LONGEST_WAIT))
        raise AssertionError("unreachable")

    def _try(
        self,
        method: str,
        path: str,
        body: bytes | None,
        kind: str,
        read: Callable[[HTTPResponse], bytes],
        accept: str,
    ) -> bytes:
        headers = {"Accept": accept} | ({"Content-Type": kind} if body is not None else {})
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                return read(response)
        except urllib.error.HTTPError as error:
            raise self._refused(error.code, _message(error), error.headers.get("Retry-After")) from None
        except _Failed as failed:
            raise self._refused(failed.status, str(failed), failed.again) from None
        except TimeoutError:
            raise TimedOut(f"{self.url} did not answer within {self.timeout:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, TimeoutError):
                raise TimedOut(f"{self.url} did not answer within {self.timeout:g} s") from None
            raise UserError(f"no answer from {self.url}: {reason}; start a server: segzero serve") from None

    def _refused(self, status: int, message: str, again: str | None) -> Exception:
        said = f"{self.url} answered {status}: {message}"
        if status in (429, 503):
            return _Again(said, _seconds(again))
        return (TimedOut if status == 504 else UserError)(said)


@dataclass(frozen=True)
class Conversation:
    """A dialogue on the server, with the methods of `segzero.dialogue.Dialogue`."""

    client: Client
    path: str
    image: Image.Image

    def ask(
        self, question: str, about: int | None = None, on_text: Callable[[str], object] | None = None
    ) -> Segmentation:
        """A new round; it may refer to earlier ones by [REF:1], "instance 2" or "it".

        `on_text` is told all that the policy has written so far, again and again while it writes.
        """
        fields = {"question": question, "about": about}
        if on_text is None:
            return self._round("ask", fields)
        answer = self.client.fetch(
            "POST", f"{self.path}/ask", fields, lambda r: _follow(r, on_text), "text/event-stream"
        )
        return _to_result(json.loads(answer), self.image)

    def draw(
        self,
        points: Sequence[Point] = (),
        labels: Sequence[int] = (),
        box: Box | None = None,
        question: str = "",
        choice: int = 0,
    ) -> Segmentation:
        """A new round by hand, from points, a box or both; `choice` is a place among the `candidates`."""
        return self._round("draw", {**_clicks(points, labels, box), "question": question, "choice": choice})

    def refine(
        self,
        id: int,
        points: Sequence[Point] = (),
        labels: Sequence[int] = (),
        box: Box | None = None,
        choice: int = 0,
    ) -> Segmentation:
        """The round of that instance, its mask corrected by points or another box."""
        return self._round("refine", {"id": id, **_clicks(points, labels, box), "choice": choice})

    def candidates(
        self,
        id: int | None = None,
        points: Sequence[Point] = (),
        labels: Sequence[int] = (),
        box: Box | None = None,
    ) -> list[InstanceMask]:
        """What refine (of instance `id`) or draw would choose from, the best first; nothing changes."""
        fields = {"id": id, **_clicks(points, labels, box)}
        answer = self.client.send("POST", f"{self.path}/candidates", fields)
        return [_reading(each, points) for each in answer["masks"]]

    def export(self, format: str = "json", round: int | None = None) -> bytes:
        """A file: coco, overlay (of one round, or all), masks (a zip), or json, which `Dialogue.load` reads."""
        asked = {"format": format} | ({"round": round} if round is not None else {})
        return self.client.fetch("GET", f"{self.path}/export?{urllib.parse.urlencode(asked)}")

    def flag(self, round: int, verdict: str, note: str = "") -> None:
        """Say that a round is good or bad, for whoever runs the server."""
        self.client.send("POST", f"{self.path}/flag", {"round": round, "verdict": verdict, "note": note})

    def undo(self) -> None:
        """Take the last step back."""
        self.client.send("POST", f"{self.path}/undo")

    def clear(self) -> None:
        """Forget all rounds; undo brings them back."""
        self.client.send("POST", f"{self.path}/clear")

    def rounds(self) -> list[Segmentation]:
        """All rounds as they stand."""
        return [_to_result(each, self.image) for each in self.client.send("GET", self.path)["rounds"]]

    def delete(self) -> None:
        """Have the server forget it."""
        self.client.send("DELETE", self.path)

    def __enter__(self) -> "Conversation":
        return self

    def __exit__(self, *error: object) -> None:
        self.delete()

    def _round(self, step: str, fields: dict[str, Any]) -> Segmentation:
        return _to_result(self.client.send("POST", f"{self.path}/{step}", fields), self.image)


class _Again(Exception):
    """The server asks to be asked later."""

    def __init__(self, said: str, seconds: float) -> None:
        super().__init__(said)
        self.seconds = seconds


class _Failed(Exception):
    """An error that came after the answer had begun."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(told["error"]["message"])
        self.status, self.again = told.get("status", 500), str(told.get("retry_after", ""))


def _follow(response: HTTPResponse, on_text: Callable[[str], object]) -> bytes:
    """Read events until the last; gives the round."""
    name, text = b"", ""
    for line in response:
        field, _, value = line.rstrip(b"\r\n").partition(b": ")
        if field == b"event":
            name = value
        elif field == b"data" and name == b"text":
            text += json.loads(value)["text"]
            on_text(text)
        elif field == b"data" and name == b"error":
            raise _Failed(json.loads(value))
        elif field == b"data" and name == b"round":
            return value
    raise http.client.IncompleteRead(b"")


def _named(policy: str | None, segmenter: str | None) -> dict[str, str]:
    """In a multipart body nothing can be null."""
    return {name: model for name, model in (("policy", policy), ("segmenter", segmenter)) if model is not None}


def _clicks(points: Sequence[Point], labels: Sequence[int], box: Box | None) -> dict[str, Any]:
    return {"points": list(points), "labels": list(labels), "box": box}


def _reading(answer: dict[str, Any], points: Sequence[Point]) -> InstanceMask:
    box = tuple(answer["box"] or (0.0, 0.0, 0.0, 0.0))
    return InstanceMask(decode(answer["rle"]), box, tuple(points), answer["score"])


def _to_result(answer: dict[str, Any], image: Image.Image) -> Segmentation:
    """An answer to a question, or a dialogue's round, with the image it is about."""
    found = tuple(
        InstanceMask(decode(each["rle"], image.size), tuple(each["box"]), _inside(each), each["score"])
        for each in answer.get("instances", answer.get("regions", ()))
    )
    told = {key: answer[key] for key in ("think", "raw_text", "error")} | {"timings": answer.get("timings", {})}
    return Segmentation(image, answer["question"], found, warnings=tuple(answer["warnings"]), **told)


def _inside(each: dict[str, Any]) -> tuple[Point, ...]:
    labels = each.get("labels", [1] * len(each["points"]))
    return tuple((x, y) for (x, y), label in zip(each["points"], labels, strict=True) if label)


def _file(image: str | Path | bytes | Image.Image) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, Image.Image):
        return png_bytes(load_image(image))
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise UserError(f"cannot open {image}: {error.strerror or error}") from error


def _body(fields: dict[str, Any] | None) -> tuple[bytes | None, str]:
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
    text = error.read(100_000).decode(errors="replace")
    try:
        return json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return " ".join(text.split())[:300]
