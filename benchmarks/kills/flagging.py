"""Kills of `segzero serve` while clients flag answers: each acknowledged flag is kept whole."""

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx

from benchmarks.kills.killing import Kill, Lengths, again, hold, kill, segzero
from benchmarks.soak.server import Server, start, wait_until_ready
from segzero.errors import UserError
from segzero.images import load_image
from segzero.tiny.questions import make_training_samples

CLIENTS = 3
FLAGGING = 3.0  # seconds of flagging before the kill, at most
MAX_IMAGES = 20  # images per client
FLAGS_PER_IMAGE = 8


def kill_serving(folder: Path, chance: random.Random, count: int) -> Iterator[Kill]:
    """Kill servers that share one folder of flags, so that each continues where the previous one was killed."""
    flags, known, lengths = folder / "flags", list[str](), Lengths()
    for number in range(count):
        server, begin = start(folder, ["--flags", str(flags)]), time.monotonic()
        notes: list[str] = []
        flagging = threading.Event()
        names = [f"kill {number}, client {client}" for client in range(CLIENTS)]
        threads = [threading.Thread(target=_flag, args=(server, name, notes, flagging), daemon=True) for name in names]
        writing, moment = lengths.draw(chance, number, flagging.is_set, often=3)
        for thread in threads:
            thread.start()
        moment(server.process)
        hold(server.process)
        lived, took = kill(server.process), time.monotonic() - begin
        for thread in threads:
            thread.join()
        known += notes  # of earlier servers too: none may be lost later
        if writing:
            lengths = Lengths(took, FLAGGING)
        found = f"{len(notes)} flags acknowledged"
        yield Kill("serving", writing, took, found, tuple(lost(flags, known)), lived)
    if known:
        prepare = segzero("data", "prepare", flags, "--format", "flags", "--out", folder / "prepared")
        yield Kill("flags read", False, 0.0, f"all {len(known)} flags", again(prepare, folder / "log"), False)


def _flag(server: Server, name: str, notes: list[str], flagging: threading.Event) -> None:
    """Begin dialogues about images of one client and flag their answers until the server is gone."""
    with suppress(SystemExit):
        wait_until_ready(server)
    made = make_training_samples(MAX_IMAGES, random.Random(name).randrange(1000, 1_000_000))
    number = 0
    with suppress(httpx.TransportError), httpx.Client(base_url=server.url, timeout=20) as http:
        for sample in (sample for sample in made if sample.objects):
            path = f"/v1/dialogues/{http.post('/v1/dialogues', files={'image': sample.image}).json()['id']}"
            click = {"points": [sample.objects[0].points[0]], "question": sample.question}
            if http.post(f"{path}/draw", json=click).status_code != 200:
                continue
            for _ in range(FLAGS_PER_IMAGE):
                note, number = f"{name}, {number}", number + 1
                flagging.set()
                if http.post(f"{path}/flag", json={"round": 1, "verdict": "good", "note": note}).status_code == 204:
                    notes.append(note)
            http.delete(path)


def lost(flags: Path, notes: list[str]) -> list[str]:
    """List the problems: acknowledged flags that are lost, and flags whose line or image is not whole."""
    rows = {}
    lines = (flags / "flags.jsonl").read_bytes().splitlines() if notes else []
    for line in lines:
        with suppress(ValueError):  # a line that was not acknowledged may be torn
            row = json.loads(line)
            rows[row["note"]] = row
    gone = [note for note in notes if note not in rows]
    problems = [f"{len(gone)} of {len(notes)} flags are lost, the first {gone[0]!r}"] if gone else []
    for row in rows.values():
        try:
            size = load_image(flags / row["image"]).size
        except UserError as error:
            problems.append(f"the image of the flag {row['note']!r}: {error}")
            continue
        if size != (row["width"], row["height"]) or not row["objects"]:
            problems.append(f"the flag {row['note']!r} is of another image, or without its objects")
    return problems
