"""Attacking clients: hostile bodies, broken heads, slow or silent connections, and connections that are dropped.

Each attack is a function that does one round and returns its outcome: a status, or how the connection ended. Bodies
are built beforehand, so that the attackers wait most of the time.
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

PIECE = 1 << 20  # bytes per call of send
LARGE_SIDE = 1500  # side of the image whose answers are read slowly: 7 MB
SLOW_INTERVAL = 0.5  # seconds between two bytes that are sent or read slowly

Attack = Callable[[], str]


@dataclass(frozen=True)
class Target:
    """The server under attack, and the settings of the attackers."""

    address: tuple[str, int]
    token: str  # a valid one, as authorised clients may attack too
    greedy: str  # token of the client that opens more and more dialogues
    patience: float  # seconds to wait for an answer
    slow: float  # seconds that a slow client goes on
    silent: int  # number of silent connections
    over: threading.Event  # set when the attack ends

    def head(self, path: str, kind: str, length: int, token: str | None = None, method: str = "POST") -> bytes:
        """Build the head of a request that is the last on its connection."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Length: {length}"]
        lines += [f"Authorization: Bearer {token or self.token}", f"Content-Type: {kind}", "", ""]
        return "\r\n".join(lines).encode()

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection(self.address, timeout=self.patience)

    def send(self, pieces: Iterable[bytes]) -> str:
        """Send the pieces, or as many as are accepted; returns the status of the answer."""
        return self.exchange(pieces)[0]

    def exchange(self, pieces: Iterable[bytes]) -> tuple[str, bytes]:
        """Send the pieces; returns the status and the answer itself."""
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
    """An attack with the number of its clients and the pause between two rounds of each."""

    name: str
    attack: Attack
    clients: int
    pause: float  # seconds

    def run(self, tally: Tally, over: threading.Event, number: int) -> None:
        """Repeat the attack until `over` is set."""
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
    """Build the bodies of all attacks; returns the attacks."""

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
        Kind("silent connections", partial(stay_silent, target), 1, 1),
        Kind("leaves while sending", partial(leave, target, asked, len(asked) // 2), 2, 0.5),
        Kind("leaves while waiting", partial(leave, target, asked, len(asked)), 2, 0.5),
        Kind("leaves while reading", partial(read_large, target, large, 1 << 16, 0.0), 1, 3),
        Kind("reads slowly", partial(read_large, target, large, 1, SLOW_INTERVAL), 6, 3),
        Kind("sends slowly", partial(slow_body, target, asked), 8, 1),
        Kind("bad token", posted(target, "/v1/segment", MULTIPART, asked, "guessed"), 2, 0.5),
        Kind("greedy: opens dialogues", Greedy(target, small), 1, 0.5),
    ]


def posted(target: Target, path: str, kind: str, body: bytes, token: str | None = None) -> Attack:
    """Make the attack that sends a whole request."""
    head = target.head(path, kind, len(body), token)
    pieces = [head, *(body[begin : begin + PIECE] for begin in range(0, len(body), PIECE))]
    return lambda: target.send(pieces)


class _Repeated:
    """Repeatable stream of pieces that takes no memory."""

    def __init__(self, head: bytes, piece: bytes, times: int, tail: bytes) -> None:
        self.head, self.piece, self.times, self.tail = head, piece, times, tail

    def __iter__(self) -> Iterator[bytes]:
        yield self.head
        for _ in range(self.times):
            yield self.piece
        yield self.tail


def line_of(head: bytes, size: int) -> Iterable[bytes]:
    """Stream a head with one line of that many bytes."""
    return _Repeated(head + b"X-Long: ", PIECE * b"a", size // PIECE, b"\r\n\r\n")


def lines_of(head: bytes, count: int) -> Iterable[bytes]:
    """Stream a head of so many lines."""
    return _Repeated(head, 10_000 * b"a: b\r\n", count // 10_000, b"\r\n")


def slow_head(target: Target) -> str:
    """Send a head byte by byte."""
    head = target.head("/v1/segment", JSON, 10_000)
    return _send_slowly(target, b"", head)


def slow_body(target: Target, body: bytes) -> str:
    """Send a body byte by byte."""
    return _send_slowly(target, target.head("/v1/segment", MULTIPART, len(body)), body)


def _send_slowly(target: Target, first: bytes, rest: bytes) -> str:
    with target.connect() as connection:
        connection.sendall(first)
        connection.settimeout(SLOW_INTERVAL)
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


def stay_silent(target: Target) -> str:
    """Open many connections and send nothing, until all are closed or the time is over."""
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
    """Send that many bytes of a question, wait a moment, and close the connection."""
    with target.connect() as connection:
        connection.sendall(target.head("/v1/segment", MULTIPART, len(body)) + body[:sent])
        time.sleep(0.05)
    return "left"


def read_large(target: Target, image: bytes, piece: int, pause: float) -> str:
    """Begin a dialogue about a large image and request the image: read a piece and leave, or read byte by byte."""
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
    """Attack that opens more and more dialogues, and requests some of them now and then, so that they stay."""

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
    """Begin a dialogue; returns its path, or None, and the status."""
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
