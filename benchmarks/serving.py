"""Requests per second of `segzero serve`: many clients at once against one request after the other.

A server with the shipped models runs in a process of its own. Every answer must equal that of a single request about
the same image; the two methods take turns. Then follow the latency of requests at a constant rate, whether or not
earlier ones were answered, and the server's memory over many more requests.

    python -m benchmarks.serving [--backend vllm] [--clients 16] [--requests 20] [--repeats 3] [--pace 12]
"""

import argparse
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import psutil

from segzero.tiny.questions import HELD_OUT_SEED, make_samples

SCENES = make_samples(16, HELD_OUT_SEED + 3)
TIMEOUT = 120  # seconds until the server is ready, and for one request


@dataclass(frozen=True)
class TimedAnswer:
    """TimedAnswer to one request, with its latency."""

    scene: int
    text: str
    seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["transformers", "vllm"], default="transformers")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=20, help="requests per client")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--pace", type=float, help="constant rate, requests per second (default: half the rate of the clients)"
    )
    parser.add_argument("--more", type=int, default=2000, help="requests over which memory is measured")
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "segzero", "serve", "--port", str(port), "--policy-backend", options.backend]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT) as client:
            wait_for(client, server)
            measure(client, psutil.Process(server.pid), options)
    finally:
        server.terminate()
        print(f"the server's exit code: {server.wait(TIMEOUT)}")


def measure(client: httpx.Client, server: psutil.Process, options: argparse.Namespace) -> None:
    truth = {scene: request(client, scene) for scene in range(len(SCENES))}
    alone, together, waits, evenly, ratios = [], [], [], [], []
    for _ in range(options.repeats):
        one, _ = run(client, truth, 1, 3 * len(SCENES))
        many, seconds = run(client, truth, options.clients, options.clients * options.requests)
        alone.append(one)
        together.append(many)
        waits += seconds
        ratios.append(many / one)
        evenly += run_evenly(client, truth, options.pace or many / 2, options.clients * options.requests // 2)
    print(f"one after the other: {spread(alone)} requests/s")
    print(f"{options.clients} clients at once: {spread(together)} requests/s; {shares(waits)}")
    pace = f"{options.pace:g} per second" if options.pace else "half that rate"
    print(f"at a constant rate, {pace}: {shares(evenly)}")
    print(
        f"ratio {statistics.median(ratios):.1f}x (from {min(ratios):.1f} to {max(ratios):.1f}); no answer was swapped"
    )
    before = server.memory_info().rss
    run(client, truth, options.clients, options.more)
    grown = server.memory_info().rss - before
    print(f"memory: {before / 2**20:.0f} MiB, and {grown / 2**20:+.0f} MiB after {options.more} requests more")


def run(client: httpx.Client, truth: dict[int, TimedAnswer], clients: int, count: int) -> tuple[float, list[float]]:
    """Send requests from so many clients; returns requests per second and the latency of each."""
    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        answers = list(pool.map(lambda number: request(client, number % len(SCENES)), range(count)))
    rate = count / (time.perf_counter() - begin)
    for answer in answers:
        assert answer.text == truth[answer.scene].text, f"scene {answer.scene} got another answer"
    return rate, [answer.seconds for answer in answers]


def run_evenly(client: httpx.Client, truth: dict[int, TimedAnswer], rate: float, count: int) -> list[float]:
    """Send requests at a constant rate, whether or not earlier ones were answered; returns their latencies."""
    begin = time.perf_counter()

    def request_in_time(number: int) -> TimedAnswer:
        time.sleep(max(0.0, begin + number / rate - time.perf_counter()))
        return request(client, number % len(SCENES))

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(request_in_time, range(count)))
    for answer in answers:
        assert answer.text == truth[answer.scene].text, f"scene {answer.scene} got another answer"
    return [answer.seconds for answer in answers]


def request(client: httpx.Client, scene: int) -> TimedAnswer:
    sample = SCENES[scene]
    begin = time.perf_counter()
    reply = client.post("/v1/segment", files={"image": sample.image}, data={"question": sample.question})
    seconds = time.perf_counter() - begin
    reply.raise_for_status()
    return TimedAnswer(scene, reply.json()["raw_text"], seconds)


def wait_for(client: httpx.Client, server: subprocess.Popen) -> None:
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise SystemExit("the server did not become ready")


def shares(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"half within {ordered[len(ordered) // 2]:.2f} s, 95 % within {ordered[int(0.95 * len(ordered))]:.2f} s"


def spread(rates: list[float]) -> str:
    return f"{statistics.median(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})"


if __name__ == "__main__":
    main()
