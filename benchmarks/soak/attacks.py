"""Attacks: clients that send hostile requests, leave, or are slow. Bodies are built before; mostly they wait.

Each attack is a function that runs once and returns its outcome: a status, or how the connection ended.
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
from benchmarks.soak.bodies import JSON, MULTIPART, Sizes
from benchmarks.soak.tally import Tally

PIECE = 1 << 20  # bytes that are sent at once
LARGE_SIDE = 1500  # of the image whose answers are read slowly: 7 MB
SLOW_PAUSE = 0.5  # seconds between two bytes, sent or read

Action = Callable[[], str]  # runs once, and returns its outcome


@dataclass(frozen=True)
class Target:
    """The server under attack, and what the attackers know of it."""

    address: tuple[str, int]
    token: str  # a known one: valid users may attack too
    greedy: str  # another token, for the attack that opens more and more dialogues
    patience: float  # seconds after which an attacker stops waiting for a response
    slow: float  # seconds that slow clients keep at it
    silent: int  # connections that send nothing
    over: threading.Event

    def head(self, path: str, kind: str, length: int, token: str | None = None, method: str = "POST") -> bytes:
        """Build the head of a request, the last on its connection."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", f"Content-Length: {length}"]
        lines += [f"Authorization: Bearer {token or self.token}", f"Content-Type: {kind}", "", ""]
        return "\r\n".join(lines).encode()

    def connect(self) -> socket.socket:
        """Open a connection."""
        return socket.create_connection(self.address, timeout=self.patience)

    def send(self, pieces: Iterable[bytes]) -> str:
        """Send all pieces, or as many as are accepted; returns the status of the response."""
        return self.exchange(pieces)[0]

    def exchange(self, pieces: Iterable[bytes]) -> tuple[str, bytes]:
        """Send all pieces; returns the status and the whole response."""
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
class Attack:
    """An action, how many clients run it at once, and the pause of each between two runs."""

    name: str
    action: Action
    clients: int
    pause: float  # seconds

    def run(self, tally: Tally, over: threading.Event, number: int) -> None:
        """Repeat the action until the phase is over."""
        chance = random.Random(f"{self.name} {number}")
        over.wait(self.pause * chance.random())
        while not over.is_set():
            begin = time.monotonic()
            try:
                status = self.action()
            except OSError:
                status = "refused"
            tally.add(self.name, status, time.monotonic() - begin)
            over.wait(self.pause * chance.uniform(0.5, 1.5))


def make_attacks(target: Target, sizes: Sizes) -> list[Attack]:
    """Make all attacks, and build their bodies."""

    def about(image: bytes) -> Action:
        return posted(target, "/v1/segment", MULTIPART, bodies.question_about(image))

    large, small = bodies.noise(LARGE_SIDE), bodies.noise(64)
    question = bodies.question_about(small)
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    return [
        Attack("image: JPEG of repeated scans", about(bodies.repeated_scans()), 6, 1),
        Attack("image: TIFF of floats", about(bodies.floats()), 6, 8),
        Attack("image: BMP of runs", about(bodies.runs_of_one(sizes.runs)), 1, 4),
        Attack("image: GIF with a comment", about(bodies.long_comment(sizes.comment)), 1, 4),
        Attack("image: random bytes", about(b"\xff\xd8\xff" + os.urandom(50_000)), 1, 1),
        Attack("body: empty lists", posted(target, "/v1/segment", JSON, bodies.empty_lists(sizes.lists)), 1, 4),
        Attack("body: counts of a mask", posted(target, "/v1/prompt", JSON, bodies.long_mask(sizes.counts)), 1, 4),
        Attack("head: one long line", partial(target.send, line_of(head, sizes.header)), 1, 6),
        Attack("head: many lines", partial(target.send, lines_of(head, sizes.headers)), 1, 6),
        Attack("head: comes slowly", partial(slow_head, target), 8, 1),
        Attack("bytes: random", lambda: target.send([os.urandom(5_000), b"\r\n\r\n"]), 1, 1),
        Attack("silent connections", partial(stay_silent, target), 1, 1),
        Attack("leaves while sending", partial(leave, target, question, len(question) // 2), 2, 0.5),
        Attack("leaves while waiting", partial(leave, target, question, len(question)), 2, 0.5),
        Attack("leaves while reading", partial(read_large, target, large, 1 << 16, 0.0), 1, 3),
        Attack("reads slowly", partial(read_large, target, large, 1, SLOW_PAUSE), 6, 3),
        Attack("sends slowly", partial(slow_body, target, question), 8, 1),
        Attack("bad token", posted(target, "/v1/segment", MULTIPART, question, "guessed"), 2, 0.5),
        Attack("greedy: opens dialogues", OpenDialogues(target, small), 1, 0.5),
    ]


def posted(target: Target, path: str, kind: str, body: bytes, token: str | None = None) -> Action:
    """Make an action that sends a whole request."""
    head = target.head(path, kind, len(body), token)
    pieces = [head, *(body[begin : begin + PIECE] for begin in range(0, len(body), PIECE))]
    return lambda: target.send(pieces)


class _Repeated:
    """Pieces of a request that are made anew in each iteration, so that they need no memory."""

    def __init__(self, head: bytes, piece: bytes, times: int, tail: bytes) -> None:
        self.head, self.piece, self.times, self.tail = head, piece, times, tail

    def __iter__(self) -> Iterator[bytes]:
        yield self.head
        for _ in range(self.times):
            yield self.piece
        yield self.tail


def line_of(head: bytes, size: int) -> Iterable[bytes]:
    """Make a head with one line of that many bytes."""
    return _Repeated(head + b"X-Long: ", PIECE * b"a", size // PIECE, b"\r\n\r\n")


def lines_of(head: bytes, count: int) -> Iterable[bytes]:
    """Make a head of so many lines."""
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
        connection.settimeout(SLOW_PAUSE)
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
    """Open many connections and send nothing, until all are closed or enough time has passed."""
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
    """Begin a dialogue about a large image and request it back: read a piece and leave, or read byte by byte."""
    path, status = _begin(target, image, target.token)
    if path is None:
        return status
    try:
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(target.patience)
            connection.connect(target.address)
            route = random.choice(["image", "export?format=overlay"])
            connection.sendall(target.head(f"{path}/{route}", JSON, 0, method="GET"))
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


class OpenDialogues:
    """Action that opens more and more dialogues, and uses them now and then, so that they do not expire."""

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
    """Begin a dialogue; returns its path, if it has one, and the status."""
    content = bodies.PREFIX + image + b"\r\n--cut--\r\n"
    status, answer = target.exchange([target.head("/v1/dialogues", MULTIPART, len(content), token), content])
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
