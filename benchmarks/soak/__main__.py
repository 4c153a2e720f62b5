"""Soak test of `segzero serve`: right answers, latency and memory while other clients attack it.

A server with the shipped models, tokens and flags runs in a process of its own. Valid clients ask about images of
their own: alone first, so that the answers are known, then through a quiet minute, through the attack, and through
another quiet minute. Every answer is compared with the known one.

    python -m benchmarks.soak [--seconds 600] [--quiet 60] [--deadline 10] [--small] [--port 0] [--folder DIR]

Exit code 1: an answer was wrong or swapped, an acknowledged flag is lost, there was a 5xx other than 503 and 504, a
valid request got no answer at all, or the server did not stay alive and well.
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
from benchmarks.soak.attacks import Target, make_attacks
from benchmarks.soak.server import MemoryWatch, Server, serving
from benchmarks.soak.tally import NO_ANSWER, Tally, table, within
from benchmarks.soak.valid import CLIENTS, VALID, Client, make_clients

MIB = 1 << 20
CLIENT_GRACE = 10  # seconds beyond the server's own deadline, after which a client gives up


@dataclass(frozen=True)
class Phase:
    """Measurements of one phase of the test."""

    name: str
    tally: Tally
    seconds: float
    memory: int  # bytes, the most of those measured each second
    peak: int  # bytes, resident
    server: float  # processor seconds of the server
    clients: float  # processor seconds of all clients

    def row(self) -> list[str]:
        """Format a row of the table."""
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


HEAD = ["valid requests", "sent", "answered", "half, s", "95 %, s", "slowest"]
HEAD += ["PSS, MiB", "peak RSS", "server's CPU", "clients' CPU"]


@dataclass(frozen=True)
class Requirement:
    """A condition that the test checks, and what was measured."""

    name: str
    measured: str
    holds: bool


def soak(
    folder: Path,
    seconds: float = 600,
    quiet: float = 60,
    deadline: float = 10,
    sizes: bodies.Sizes = bodies.LARGE,
    port: int = 0,
    silent: int = 400,
    report: Callable[[str], None] = lambda line: print(line, flush=True),
) -> list[Requirement]:
    """Run all phases, report the tables, and return the requirements."""
    tokens = [f"{secrets.token_hex(12)}" for _ in range(CLIENTS + 2)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokens").write_text("\n".join(tokens) + "\n")
    arguments = ["--tokens", str(folder / "tokens"), "--flags", str(folder / "flags"), "--seconds", str(deadline)]
    with serving(folder, arguments, port) as server:
        clients = make_clients(tokens[:CLIENTS], deadline + CLIENT_GRACE)
        learned, over = Tally(), threading.Event()
        for client in clients:
            client.learn(server.url, learned)
        if len(learned.seconds) < learned.total(VALID):
            raise SystemExit(f"the server does not answer while it is quiet: {learned.lines()}")
        target = Target(server.address, tokens[-2], tokens[-1], deadline + CLIENT_GRACE, 1.5 * deadline, silent, over)
        attacks = make_attacks(target, sizes)
        attackers = [(attack.run, number) for attack in attacks for number in range(attack.clients)]
        report(f"{len(attacks)} attacks by {len(attackers)} clients; {len(clients)} valid clients")
        phases = []
        for name, length, threads in (("quiet", quiet, []), ("attack", seconds, attackers), ("afterwards", quiet, [])):
            phases.append(_run_phase(name, length, server, clients, threads, over))
            report(f"{name}: {phases[-1].seconds:.0f} s, {phases[-1].tally.total(VALID)} valid requests")
        again = Tally()
        for client in clients:
            client.learn(server.url, again)
        after, healthy, code = server.memory(), server.healthy(), server.stop()
    report("\n" + table(HEAD, [phase.row() for phase in phases]))
    report("\n" + table(["kind, under attack", "requests", "statuses"], phases[1].tally.lines()))
    report(f"\nmemory at the end {after / MIB:.0f} MiB; the slowest 504 came after {phases[1].tally.latest:.1f} s")
    requirements = _check([learned, *(phase.tally for phase in phases), again], healthy, code)
    traces = server.log.read_text().count("Traceback")
    requirements.append(Requirement("no traceback in its log", str(traces), not traces))
    notes = [note for client in clients for note in client.flagged]
    requirements.append(_check_flags(notes, folder / "flags" / "flags.jsonl"))
    rows = [[each.name, each.measured, "ok" if each.holds else "FAILED"] for each in requirements]
    report("\n" + table(["requirement", "measured", ""], rows))
    return requirements


def _run_phase(
    name: str,
    seconds: float,
    server: Server,
    clients: Sequence[Client],
    attackers: Sequence[tuple[Callable[..., None], int]],
    over: threading.Event,
) -> Phase:
    """Run the valid clients and the attackers for so many seconds."""
    tally = Tally()
    over.clear()
    threads = [threading.Thread(target=each.run, args=(server.url, tally, over, 0.6)) for each in clients]
    threads += [threading.Thread(target=run, args=(tally, over, number), daemon=True) for run, number in attackers]
    threads.append(threading.Thread(target=_watch, args=(server, tally, over)))
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


def _watch(server: Server, tally: Tally, over: threading.Event) -> None:
    """Check the health of the server every second, as a supervisor does."""
    while not over.wait(1):
        begin = time.monotonic()
        status = "healthy" if server.healthy() else "not healthy"
        tally.add("watched: healthz, readyz", status, time.monotonic() - begin)


def _check(tallies: Sequence[Tally], healthy: bool, code: int) -> list[Requirement]:
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


def _check_flags(notes: Sequence[str], file: Path) -> Requirement:
    """Check that each flag that was answered with 204 is in the file, in a whole line."""
    notes_in_file = {json.loads(line)["note"] for line in file.read_text().splitlines()}
    lost = [note for note in notes if note not in notes_in_file]
    return Requirement("each acknowledged flag is kept", f"{len(lost)} of {len(notes)} lost", not lost)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak test, and return the exit code."""
    parser = argparse.ArgumentParser("soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="of the attack")
    parser.add_argument("--quiet", type=float, default=60, help="seconds before it, and after it")
    parser.add_argument("--deadline", type=float, default=10, help="the server's --seconds")
    parser.add_argument("--silent", type=int, default=400, help="connections that send nothing")
    parser.add_argument("--small", action="store_true", help="smaller bodies where they take long to send")
    parser.add_argument("--port", type=int, default=0, help="of the server; any free one if not given")
    parser.add_argument("--folder", type=Path, help="for the server's log and flags; a temporary one otherwise")
    options = parser.parse_args(arguments)
    sizes = bodies.SMALL if options.small else bodies.LARGE
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        settings = (options.seconds, options.quiet, options.deadline, sizes, options.port, options.silent)
        return 0 if all(requirement.holds for requirement in soak(folder, *settings)) else 1


if __name__ == "__main__":
    sys.exit(main())
