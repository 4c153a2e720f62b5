"""Clients that mean harm, or leave, or dawdle. What they send was built before; most of the time they wait.

Each attack is a function that does one round of it and gives what became of it: a status, or how it was hung up on.
"""

import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from benchmarks.soak import bodies
from benchmarks.soak.bodies import JSON, MULTIPART, Sized
from benchmarks.soak.tally import Tally

PIECE = 1 << 20  # bytes that are handed to the system at once
LARGE_SIDE = 1500  # of the image whose answers are read slowly: 7 MB
SLOWLY = 0.5  # seconds between two bytes, sent or read

Attack = Callable[[], str]


@dataclass(frozen=True)
class Target:
    """Where the attackers strike, and with what."""

    address: tuple[str, int]
    token: str  # a known one: not only strangers do harm
    greedy: str  # the token of whoever opens more and more dialogues
    patience: float  # seconds after which no answer will come
    slow: float  # seconds that slow clients keep at it
    silent: int  # connections that say nothing
    over: threading.Event

    def head(self, path: str, kind: str, length: int, token: str | None = None, method: str = "POST") -> bytes:
        """The head of a request, the last on its connection."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Length: {length}"]
        lines += [f"Authorization: Bearer {token or self.token}", f"Content-Type: {kind}", "", ""]
        return "\r\n".join(lines).encode()

    def connect(self) -> socket.socket:
        """A connection."""
        return socket.create_connection(self.address, timeout=self.patience)

    def send(self, pieces: Iterable[bytes]) -> str:
        """Send it all, or as much as is taken; gives the status of the answer."""
        return self.exchange(pieces)[0]

    def exchange(self, pieces: Iterable[bytes]) -> tuple[str, bytes]:
        """The status, and the answer itself."""
        try:
            connection = self.connect()
        except OSError:
            return "refused", b""
        with connection:
            try:
                with suppress(BrokenPipeError, ConnectionResetError):
                    for piece in pieces:
                        connection.sendall(piece)
                return _answer(connection)
            except TimeoutError:
                return "no answer", b""


@dataclass(frozen=True)
class Kind:
    """An attack, how many do it at once, and how long each waits between two rounds."""

    name: str
    attack: Attack
    clients: int
    pause: float  # seconds

    def run(self, tally: Tally, over: threading.Event, number: int) -> None:
        """Until it is over."""
        chance = random.Random(f"{self.name} {number}")
        over.wait(self.pause * chance.random())
        while not over.is_set():
            begin = time.monotonic()
            try:
                status = self.attack()
            except OSError:
                status = "refused"
            tally.add(self.name, status, time.monotonic() - begin)
            over.wait(self.pause * chance.uniform(0.5, 1.5))


def make_kinds(target: Target, sized: Sized) -> list[Kind]:
    """All attacks, their bodies built."""

    def about(image: bytes) -> Attack:
        return posted(target, "/v1/segment", MULTIPART, bodies.question_about(image))

    large, small = bodies.noise(LARGE_SIDE), bodies.noise(64)
    asked = bodies.question_about(small)
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    return [
        Kind("image: JPEG of repeated scans", about(bodies.repeated_scans()), 6, 1),
        Kind("image: TIFF of floats", about(bodies.floats()), 6, 8),
        Kind("image: BMP of runs", about(bodies.runs_of_one(sized.runs)), 1, 4),
        Kind("image: GIF with a comment", about(bodies.long_comment(sized.comment)), 1, 4),
        Kind("image: random bytes", about(b"\xff\xd8\xff" + os.urandom(50_000)), 1, 1),
        Kind("body: empty lists", posted(target, "/v1/segment", JSON, bodies.empty_lists(sized.lists)), 1, 4),
        Kind("body: counts of a mask", posted(target, "/v1/prompt", JSON, bodies.long_mask(sized.counts)), 1, 4),
        Kind("head: one long line", partial(target.send, line_of(head, sized.header)), 1, 6),
        Kind("head: many lines", partial(target.send, lines_of(head, sized.headers)), 1, 6),
        Kind("head: comes slowly", partial(slow_head, target), 8, 1),
        Kind("bytes: random", lambda: target.send([os.urandom(5_000), b"\r\n\r\n"]), 1, 1),
        Kind("silent connections", partial(say_nothing, target), 1, 1),
        Kind("leaves while sending", partial(leave, target, asked, len(asked) // 2), 2, 0.5),
        Kind("leaves while waiting", partial(leave, target, asked, len(asked)), 2, 0.5),
        Kind("leaves while reading", partial(read_large, target, large, 1 << 16, 0.0), 1, 3),
        Kind("reads slowly", partial(read_large, target, large, 1, SLOWLY), 6, 3),
        Kind("sends slowly", partial(slow_body, target, asked), 8, 1),
        Kind("bad token", posted(target, "/v1/segment", MULTIPART, asked, "guessed"), 2, 0.5),
        Kind("greedy: opens dialogues", Greedy(target, small), 1, 0.5),
    ]


def posted(target: Target, path: str, kind: str, body: bytes, token: str | None = None) -> Attack:
    """A whole request."""
    head = target.head(path, kind, len(body), token)
    pieces = [head, *(body[begin : begin + PIECE] for begin in range(0, len(body), PIECE))]
    return lambda: target.send(pieces)


class _Repeated:
    """Pieces that need no memory, as often as somebody goes through them."""

    def __init__(self, head: bytes, piece: bytes, times: int, tail: bytes) -> None:
        self.head, self.piece, self.times, self.tail = head, piece, times, tail

    def __iter__(self) -> Iterator[bytes]:
        yield self.head
        for _ in range(self.times):
            yield self.piece
        yield self.tail


def line_of(head: bytes, size: int) -> Iterable[bytes]:
    """A head with one line of that many bytes."""
    return _Repeated(head + b"X-Long: ", PIECE * b"a", size // PIECE, b"\r\n\r\n")


def lines_of(head: bytes, count: int) -> Iterable[bytes]:
    """A head of so many lines."""
    return _Repeated(head, 10_000 * b"a: b\r\n", count // 10_000, b"\r\n")


def slow_head(target: Target) -> str:
    """A head whose bytes come one by one."""
    head = target.head("/v1/segment", JSON, 10_000)
    return _dawdle(target, b"", head)


def slow_body(target: Target, body: bytes) -> str:
    """A body whose bytes come one by one."""
    return _dawdle(target, target.head("/v1/segment", MULTIPART, len(body)), body)


def _dawdle(target: Target, first: bytes, rest: bytes) -> str:
    with target.connect() as connection:
        connection.sendall(first)
        connection.settimeout(SLOWLY)
        until, sent = time.monotonic() + target.slow, 0
        while time.monotonic() < until and not target.over.is_set():
            try:
                connection.sendall(rest[sent : sent + 1])
                sent += 1
                begin = connection.recv(1 << 12)
                return _status(begin) if begin else "closed"
            except TimeoutError:
                continue
            except OSError:
                return "closed"
    return "left"


def say_nothing(target: Target) -> str:
    """Many connections, until all of them are closed or it has lasted long enough."""
    with suppress(OSError):
        connections: list[socket.socket] = []
        try:
            for _ in range(target.silent):
                connections.append(target.connect())
            for connection in connections:
                connection.settimeout(0.01)
            until = time.monotonic() + 2 * target.slow
            held = list(connections)
            while held and time.monotonic() < until and not target.over.wait(0.5):
                held = [connection for connection in held if _is_open(connection)]
            return f"{len(connections) - len(held)} of {len(connections)} closed" if held else "all closed"
        finally:
            for connection in connections:
                connection.close()
    return "refused"


def _is_open(connection: socket.socket) -> bool:
    try:
        connection.setblocking(False)
        return bool(connection.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False


def leave(target: Target, body: bytes, sent: int) -> str:
    """Send that many bytes of a question, wait a moment, and be gone."""
    with target.connect() as connection:
        connection.sendall(target.head("/v1/segment", MULTIPART, len(body)) + body[:sent])
        time.sleep(0.05)
    return "left"


def read_large(target: Target, image: bytes, piece: int, pause: float) -> str:
    """Begin a dialogue about a large image and ask for it back: read a piece and leave, or read byte by byte."""
    path, status = _begin(target, image, target.token)
    if path is None:
        return status
    try:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(target.patience)
            connection.connect(target.address)
            what = random.choice(["image", "export?format=overlay"])
            connection.sendall(target.head(f"{path}/{what}", JSON, 0, method="GET"))
            begin = connection.recv(max(piece, 16))
            until = time.monotonic() + target.slow
            while pause and time.monotonic() < until and not target.over.wait(pause):
                if not connection.recv(piece):
                    return "closed"
            return f"{_status(begin)}, left" if begin else "closed"
    except TimeoutError:
        return "no answer"
    except OSError:
        return "closed"
    finally:
        target.send([target.head(path, JSON, 0, method="DELETE")])


class Greedy:
    """Opens more and more dialogues, and looks at all of them now and then, so that they stay."""

    def __init__(self, target: Target, image: bytes) -> None:
        self.target, self.image = target, image
        self.paths: list[str] = []

    def __call__(self) -> str:
        path, status = _begin(self.target, self.image, self.target.greedy)
        if path is not None:
            self.paths.append(path)
        if self.paths and random.random() < 0.3:
            path = random.choice(self.paths)
            self.target.send([self.target.head(path, JSON, 0, self.target.greedy, "GET")])
        return status


def _begin(target: Target, image: bytes, token: str) -> tuple[str | None, str]:
    """A new dialogue's path, and the status."""
    asked = bodies.PREFIX + image + b"\r\n--cut--\r\n"
    status, answer = target.exchange([target.head("/v1/dialogues", MULTIPART, len(asked), token), asked])
    with suppress(ValueError, KeyError, IndexError, TypeError):
        body = answer.partition(b"\r\n\r\n")[2]
        return f"/v1/dialogues/{json.loads(body)['id']}", status
    return None, status


def _answer(connection: socket.socket) -> tuple[str, bytes]:
    parts: list[bytes] = []
    with suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            parts.append(part)
    answer = b"".join(parts)
    return (_status(answer) if answer else "closed"), answer


def _status(begin: bytes) -> str:
    words = begin.split(b" ", 2)
    return words[1].decode("ascii", "replace") if len(words) > 1 and begin.startswith(b"HTTP/") else "closed"
