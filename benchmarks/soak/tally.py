"""Thread-safe counts of requests and answers, and tables of them."""

import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

NO_ANSWER = ("closed", "no answer", "refused")  # outcomes without a status


class Tally:
    """Statuses by kind of request, latencies of good answers, and wrong answers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.statuses: dict[str, Counter[str]] = defaultdict(Counter)
        self.seconds: list[float] = []  # latencies of valid requests with an answer
        self.wrong: list[str] = []  # a line for each answer that differs from its reference
        self.latest: float = 0.0  # latency of the slowest 504 in seconds

    def add(self, kind: str, status: str, seconds: float, good: bool = False) -> None:
        """Count a request; `good` means that it was valid and was answered."""
        with self._lock:
            self.statuses[kind][status] += 1
            if good:
                self.seconds.append(seconds)
            if status == "504":
                self.latest = max(self.latest, seconds)

    def note(self, wrong: str) -> None:
        """Record a wrong answer."""
        with self._lock:
            self.wrong.append(wrong)

    def count(self, statuses: Iterable[str], kinds: str = "") -> int:
        """Count the requests with one of the statuses, among the kinds whose names begin with `kinds`."""
        wanted = set(statuses)
        found = (counts for kind, counts in self.statuses.items() if kind.startswith(kinds))
        return sum(number for counts in found for status, number in counts.items() if status in wanted)

    def total(self, kinds: str = "") -> int:
        """Count the requests, among the kinds whose names begin with `kinds`."""
        return sum(counts.total() for kind, counts in self.statuses.items() if kind.startswith(kinds))

    @property
    def failures(self) -> int:
        """Number of server errors other than 503 and 504."""
        found = {status for counts in self.statuses.values() for status in counts if status.startswith("5")}
        return self.count(status for status in found if not status.startswith(("503", "504")))

    def lines(self) -> list[list[str]]:
        """Format a line per kind: its name, number of requests, and statuses from the most to the least frequent."""
        return [
            [kind, str(counts.total()), ", ".join(f"{status}: {number}" for status, number in counts.most_common())]
            for kind, counts in sorted(self.statuses.items())
        ]


def within(seconds: Sequence[float], share: float) -> float:
    """Compute the time within which that share of the requests was answered."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table whose columns are as wide as their widest cell."""
    lines = [head, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)
