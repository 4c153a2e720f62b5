"""Soak test of `segzero serve`: correct answers, latency and memory under attack.

A server with the shipped models, tokens and flags runs in a process of its own. Valid clients send questions about
images of their own: alone first, which gives the reference answers, then in a quiet minute, during the attack, and in
another quiet minute. All later answers are compared with the reference.

    python -m benchmarks.soak [--seconds 600] [--quiet 60] [--deadline 10] [--small] [--port 0] [--folder DIR]

Exit code 1: an answer was wrong or swapped, an acknowledged flag is lost, there was a 5xx other than 503 and 504, a
valid request got no answer at all, or the server did not stay healthy.
"""

import argparse
import json
import os
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.soak import bodies
from benchmarks.soak.attacks import Target, make_kinds
from benchmarks.soak.server import MemoryWatch, Server, serving
from benchmarks.soak.tally import NO_ANSWER, Tally, table, within
from benchmarks.soak.valid import CLIENTS, VALID, Client, make_clients

MIB = 1 << 20
GRACE = 10  # seconds beyond the server's own deadline, after which a client gives up


@dataclass(frozen=True)
class Phase:
    """Measurements of one phase of the soak."""

    name: str
    tally: Tally
    seconds: float
    memory: int  # bytes, the largest PSS of of_phase sampled each second
    peak: int  # bytes, the largest resident size
    server: float  # CPU seconds of the server
    clients: float  # CPU seconds of all clients and attackers

    def row(self) -> list[str]:
        """Format the phase as a line of the table."""
        valid, times = self.tally.total(VALID), self.tally.seconds
        cores = (os.cpu_count() or 1) * self.seconds
        return [
            self.name,
            f"{valid}",
            f"{len(times)}",
            f"{within(times, 0.5):.3f}",
            f"{within(times, 0.95):.3f}",
            f"{max(times, default=float('nan')):.3f}",
            f"{self.memory / MIB:.0f}",
            f"{self.peak / MIB:.0f}",
            f"{self.server / cores:.0%}",
            f"{self.clients / cores:.1%}",
        ]


HEAD = ["valid requests", "asked", "answered", "half, s", "95 %, s", "slowest"]
HEAD += ["PSS, MiB", "peak RSS", "server's CPU", "clients' CPU"]


@dataclass(frozen=True)
class Requirement:
    """A requirement, the value that was found, and whether it holds."""

    name: str
    found: str
    holds: bool


def soak(
    folder: Path,
    seconds: float = 600,
    quiet: float = 60,
    deadline: float = 10,
    sized: bodies.Sized = bodies.LARGE,
    port: int = 0,
    silent: int = 400,
    tell: Callable[[str], None] = lambda line: print(line, flush=True),
) -> list[Requirement]:
    """Run all phases, print the tables, and return the requirements."""
    tokens = [f"{secrets.token_hex(12)}" for _ in range(CLIENTS + 2)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokens").write_text("\n".join(tokens) + "\n")
    arguments = ["--tokens", str(folder / "tokens"), "--flags", str(folder / "flags"), "--seconds", str(deadline)]
    with serving(folder, arguments, port) as server:
        clients = make_clients(tokens[:CLIENTS], deadline + GRACE)
        reference, over = Tally(), threading.Event()
        for client in clients:
            client.learn(server.url, reference)
        if len(reference.seconds) < reference.total(VALID):
            raise SystemExit(f"the server does not answer while it is quiet: {reference.lines()}")
        target = Target(server.address, tokens[-2], tokens[-1], deadline + GRACE, 1.5 * deadline, silent, over)
        kinds = make_kinds(target, sized)
        tell(f"{len(kinds)} attacks by {sum(kind.clients for kind in kinds)} clients; {len(clients)} valid clients")
        attackers = [(kind.run, number) for kind in kinds for number in range(kind.clients)]
        phases = []
        for name, length, of_phase in (("quiet", quiet, []), ("attack", seconds, attackers), ("afterwards", quiet, [])):
            phases.append(_run_phase(name, length, server, clients, of_phase, over))
            tell(f"{name}: {phases[-1].seconds:.0f} s, {phases[-1].tally.total(VALID)} valid requests")
        again = Tally()
        for client in clients:
            client.learn(server.url, again)
        after, healthy, code = server.memory(), server.healthy(), server.stop()
    tell("\n" + table(HEAD, [phase.row() for phase in phases]))
    tell("\n" + table(["kind, under attack", "requests", "statuses"], phases[1].tally.lines()))
    tell(f"\nmemory at the end {after / MIB:.0f} MiB; the slowest 504 came after {phases[1].tally.latest:.1f} s")
    found = _requirements([reference, *(phase.tally for phase in phases), again], healthy, code)
    traces = server.log.read_text().count("Traceback")
    found.append(Requirement("no traceback in its log", str(traces), not traces))
    found.append(_flags_kept([note for client in clients for note in client.flagged], folder / "flags" / "flags.jsonl"))
    tell("\n" + table(["must", "found", ""], [[m.name, m.found, "ok" if m.holds else "FAILED"] for m in found]))
    return found


def _run_phase(
    name: str,
    seconds: float,
    server: Server,
    clients: Sequence[Client],
    attackers: Sequence[tuple[Callable[..., None], int]],
    over: threading.Event,
) -> Phase:
    """Run valid clients and attackers for so many seconds."""
    tally = Tally()
    over.clear()
    threads = [threading.Thread(target=each.run, args=(server.url, tally, over, 0.6)) for each in clients]
    threads += [threading.Thread(target=run, args=(tally, over, number), daemon=True) for run, number in attackers]
    threads.append(threading.Thread(target=_monitor, args=(server, tally, over)))
    begin, before, own = time.monotonic(), server.processor(), time.process_time()
    with MemoryWatch(server) as memory:
        for thread in threads:
            thread.start()
        while time.monotonic() - begin < seconds and server.process.poll() is None:
            time.sleep(0.2)
        over.set()
        for thread in threads:
            thread.join()
    took = time.monotonic() - begin
    used = server.processor() - before, time.process_time() - own
    return Phase(name, tally, took, memory.most, server.peak(), *used)


def _monitor(server: Server, tally: Tally, over: threading.Event) -> None:
    """Check the server's health every second, as a supervisor does."""
    while not over.wait(1):
        begin = time.monotonic()
        tally.add("watched: healthz, readyz", "well" if server.healthy() else "not well", time.monotonic() - begin)


def _requirements(tallies: Sequence[Tally], healthy: bool, code: int) -> list[Requirement]:
    wrong = [line for tally in tallies for line in tally.wrong]
    failures = sum(tally.failures for tally in tallies)
    unanswered = sum(tally.count(NO_ANSWER, VALID) for tally in tallies)
    first = f"; the first: {wrong[0]}" if wrong else ""
    return [
        Requirement("no answer wrong or swapped", f"{len(wrong)}{first}", not wrong),
        Requirement("no 5xx but 503 and 504", str(failures), not failures),
        Requirement("each valid request has an answer", f"{unanswered} without", not unanswered),
        Requirement("the server is alive and healthy", "healthy" if healthy else "not healthy", healthy),
        Requirement("it ends well", f"exit code {code}", code == 0),
    ]


def _flags_kept(notes: Sequence[str], file: Path) -> Requirement:
    """Require that each flag that was answered with 204 is in the file, in a whole line."""
    kept = {json.loads(line)["note"] for line in file.read_text().splitlines()}
    lost = [note for note in notes if note not in kept]
    return Requirement("each acknowledged flag is kept", f"{len(lost)} of {len(notes)} lost", not lost)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak and return the exit code."""
    parser = argparse.ArgumentParser("soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="length of the attack")
    parser.add_argument("--quiet", type=float, default=60, help="length of the quiet phases before and after it")
    parser.add_argument("--deadline", type=float, default=10, help="the server's --seconds")
    parser.add_argument("--silent", type=int, default=400, help="number of silent connections")
    parser.add_argument("--small", action="store_true", help="smaller bodies")
    parser.add_argument("--port", type=int, default=0, help="port of the server (default: a free one)")
    parser.add_argument("--folder", type=Path, help="folder of the server's log and flags (default: a temporary one)")
    options = parser.parse_args(arguments)
    sized = bodies.SMALL if options.small else bodies.LARGE
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        settings = (options.seconds, options.quiet, options.deadline, sized, options.port, options.silent)
        return 0 if all(must.holds for must in soak(folder, *settings)) else 1


if __name__ == "__main__":
    sys.exit(main())
