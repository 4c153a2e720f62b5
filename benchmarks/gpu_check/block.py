"""Lines that pass or fail by themselves, each within its time, and the block of text that they make together."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PASSED, FAILED, SKIPPED = "pass", "FAIL", "skip"


class Failed(Exception):
    """Why a line fails, in one line; `log` is the file that says more."""

    def __init__(self, reason: str, log: Path | None = None) -> None:
        super().__init__(" ".join(reason.split()))
        self.log = log


class Skipped(Exception):
    """Why a line does not apply here, in one line."""


@dataclass(frozen=True)
class Ended:
    """A command that has run, well or not."""

    name: str
    code: int | None  # None: it was stopped at its deadline
    log: Path
    seconds: float
    rows: list[float] = field(default_factory=list)  # when each line of the watched file came, in seconds
    card: float = 0.0  # GiB in use on the GPU at the fullest moment, by every process

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def demand(self) -> "Ended":
        """Itself, if all went well; Failed otherwise, with the line that says why."""
        if self.code == 0:
            return self
        if self.code is None:
            raise Failed(f"{self.name} was stopped after {self.seconds:.0f} s", self.log)
        lines = [line.strip() for line in self.said().splitlines() if line.strip()]
        told = [line for line in lines if line.startswith("segzero:")] or lines[-1:] or ["it said nothing"]
        raise Failed(f"{self.name} ended with exit code {self.code}: {told[-1][:300]}", self.log)


@dataclass(frozen=True)
class Figure:
    """A row of the table."""

    name: str
    measured: str
    estimated: str = ""


@dataclass
class Setting:
    """Where the lines run, and what they share."""

    device: str  # cuda or cpu
    folder: Path
    policy: str = ""  # a real checkpoint, if there is one to try
    segmenter: str = ""
    until: float = float("inf")  # time.monotonic() at which everything has to be over
    deadline: float = float("inf")  # the same of the line that runs now
    ended: dict[str, Ended] = field(default_factory=dict)  # commands that several lines look at
    figures: list[Figure] = field(default_factory=list)

    def run(
        self,
        name: str,
        command: Sequence[str | Path],
        watched: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> Ended:
        """A command in a session of its own, once for all lines; it does not outlive the line's deadline."""
        if name not in self.ended:
            if time.monotonic() >= self.deadline:
                raise Failed(f"no time was left for {name}")
            self.ended[name] = self._run(name, command, watched, environment or {})
        return self.ended[name]

    def module(
        self, name: str, module: str, *arguments: str | Path, environment: dict[str, str] | None = None
    ) -> Ended:
        """A program of this folder, in a process of its own."""
        command = [sys.executable, "-m", f"{__package__}.{module}", *arguments]
        return self.run(name, command, environment=environment)

    def _run(
        self, name: str, command: Sequence[str | Path], watched: Path | None, environment: dict[str, str]
    ) -> Ended:
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / f"{name.replace(' ', '_')}.log"
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("VERL_", "VLLM_"))}
        given = inherited | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"} | environment
        rows: list[float] = []
        begin, card, looked = time.monotonic(), 0.0, 0.0
        with log.open("w") as out:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env=given,
                start_new_session=True,
            )
            try:
                while process.poll() is None and time.monotonic() < self.deadline:
                    if watched is not None:
                        lines = watched.read_bytes().count(b"\n") if watched.exists() else 0
                        rows += [time.monotonic() - begin] * (lines - len(rows))
                    if self.device == "cuda" and time.monotonic() > looked + 1:
                        card, looked = max(card, memory_in_use()), time.monotonic()
                    time.sleep(0.1)
                code = process.poll()
            finally:
                kill_session(process)
        return Ended(name, code, log, time.monotonic() - begin, rows, card)


def kill_session(process: subprocess.Popen) -> None:
    """End a process and all that it has started, whatever they are doing: Ray gives its workers groups of their own."""
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            if os.getsid(int(place.name)) == process.pid:
                os.kill(int(place.name), signal.SIGKILL)
    process.wait()


def memory_in_use() -> float:
    """GiB in use on the first GPU that this process may see, by every process."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    query = ["nvidia-smi", "-i", first, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout
        return float(told.split()[0]) / 1024
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return 0.0  # no nvidia-smi, or an answer that is no number


@dataclass(frozen=True)
class Line:
    """One thing to prove. `check` returns what it found, or raises Failed or Skipped."""

    name: str
    title: str
    seconds: float
    check: Callable[[Setting], str]


@dataclass(frozen=True)
class Outcome:
    """What became of a line."""

    line: str
    title: str
    verdict: str
    said: str
    seconds: float
    log: str = ""


def run_line(line: Line, setting: Setting) -> Outcome:
    """The line's outcome; nothing that goes wrong in it reaches the next one."""
    begin = time.monotonic()
    setting.deadline = min(begin + line.seconds, setting.until)
    log = ""
    try:
        if begin >= setting.until:
            raise Failed(f"no time was left; ONLY={line.name} runs it alone")
        verdict, said = PASSED, line.check(setting)
    except Skipped as reason:
        verdict, said = SKIPPED, str(reason)
    except Failed as failure:
        verdict, said, log = FAILED, str(failure), os.path.relpath(failure.log) if failure.log else ""
    except Exception as error:
        verdict, said = FAILED, " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return Outcome(line.name, line.title, verdict, said, time.monotonic() - begin, log)


def told(outcome: Outcome) -> str:
    """
    >>> told(Outcome("lora", "LoRA", "FAIL", "no such file", 3.2, "build/lora.log"))
    'FAIL  LoRA: no such file; log build/lora.log (3 s)'
    """
    log = f"; log {outcome.log}" if outcome.log else ""
    return f"{outcome.verdict}  {outcome.title}: {outcome.said}{log} ({outcome.seconds:.0f} s)"


def render(head: Sequence[str], outcomes: Sequence[Outcome], figures: Sequence[Figure]) -> str:
    """All of it as Markdown."""
    counts = [f"{sum(o.verdict == verdict for o in outcomes)} {verdict}" for verdict in (PASSED, FAILED, SKIPPED)]
    lines = ["```", *head, "", *map(told, outcomes), "", f"{', '.join(counts)}", "```"]
    if figures:
        lines += ["", "| figure | measured | estimated |", "|---|---|---|"]
        lines += [f"| {figure.name} | {figure.measured} | {figure.estimated} |" for figure in figures]
    return "\n".join(lines)


def read_rows(run: Path) -> list[dict[str, float]]:
    """The steps of a run's metrics.jsonl."""
    return [json.loads(line)["data"] for line in (run / "metrics.jsonl").read_text().splitlines()]
