"""Lines of the GPU check, which pass or fail independently and within a time limit, and the block of text they form."""

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
    """Failure of a line, with the reason in one line; `log` is the file with the details."""

    def __init__(self, reason: str, log: Path | None = None) -> None:
        super().__init__(" ".join(reason.split()))
        self.log = log


class Skipped(Exception):
    """Reason, in one line, why a line of the check does not apply here."""


@dataclass(frozen=True)
class CommandResult:
    """Result of a command."""

    name: str
    code: int | None  # exit code; None: it was stopped at its deadline
    log: Path
    seconds: float
    rows: list[float] = field(default_factory=list)  # seconds until each line of the watched file
    card: float = 0.0  # largest memory in use on the GPU by all processes, in GiB

    def output(self) -> str:
        """Read the command's log."""
        return self.log.read_text(errors="replace")

    def check(self) -> "CommandResult":
        """Return the result if the command succeeded; raise Failed with the decisive line of its output otherwise."""
        if self.code == 0:
            return self
        if self.code is None:
            raise Failed(f"{self.name} was stopped after {self.seconds:.0f} s", self.log)
        lines = [line.strip() for line in self.output().splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("segzero:")] or lines[-1:] or ["no output"]
        raise Failed(f"{self.name} ended with exit code {self.code}: {errors[-1][:300]}", self.log)


@dataclass(frozen=True)
class Figure:
    """Row of the table of figures."""

    name: str
    measured: str
    estimated: str = ""


@dataclass
class Setting:
    """Device, folder, models and results that the lines share."""

    device: str  # cuda or cpu
    folder: Path
    policy: str = ""  # a real checkpoint, if given
    segmenter: str = ""
    until: float = float("inf")  # time.monotonic() at which the whole check must end
    deadline: float = float("inf")  # time.monotonic() at which the current line must end
    ended: dict[str, CommandResult] = field(default_factory=dict)  # commands by name, which several lines may use
    figures: list[Figure] = field(default_factory=list)

    def run(
        self,
        name: str,
        command: Sequence[str | Path],
        watched: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> CommandResult:
        """Run a command in a session of its own, once for all lines; it is stopped at the line's deadline."""
        if name not in self.ended:
            if time.monotonic() >= self.deadline:
                raise Failed(f"no time was left for {name}")
            self.ended[name] = self._run(name, command, watched, environment or {})
        return self.ended[name]

    def module(
        self, name: str, module: str, *arguments: str | Path, environment: dict[str, str] | None = None
    ) -> CommandResult:
        """Run a module of this folder in a process of its own."""
        command = [sys.executable, "-m", f"{__package__}.{module}", *arguments]
        return self.run(name, command, environment=environment)

    def _run(
        self, name: str, command: Sequence[str | Path], watched: Path | None, environment: dict[str, str]
    ) -> CommandResult:
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
        return CommandResult(name, code, log, time.monotonic() - begin, rows, card)


def kill_session(process: subprocess.Popen) -> None:
    """Kill all processes of a session; groups are not enough, as Ray gives its workers groups of their own."""
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            if os.getsid(int(place.name)) == process.pid:
                os.kill(int(place.name), signal.SIGKILL)
    process.wait()


def memory_in_use() -> float:
    """Memory in use on the first visible GPU by all processes, in GiB."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0] or "0"
    query = ["nvidia-smi", "-i", first, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout
        return float(answer.split()[0]) / 1024
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return 0.0  # no nvidia-smi, or an answer that is not a number


@dataclass(frozen=True)
class Line:
    """A check with its time limit; `check` returns a summary, or raises Failed or Skipped."""

    name: str
    title: str
    seconds: float
    check: Callable[[Setting], str]


@dataclass(frozen=True)
class Outcome:
    """Outcome of a line."""

    line: str
    title: str
    verdict: str
    text: str  # summary, or reason
    seconds: float
    log: str = ""


def run_line(line: Line, setting: Setting) -> Outcome:
    """Run a line; whatever goes wrong in it does not affect the next one."""
    begin = time.monotonic()
    setting.deadline = min(begin + line.seconds, setting.until)
    log = ""
    try:
        if begin >= setting.until:
            raise Failed(f"no time was left; ONLY={line.name} runs it alone")
        verdict, text = PASSED, line.check(setting)
    except Skipped as reason:
        verdict, text = SKIPPED, str(reason)
    except Failed as failure:
        verdict, text, log = FAILED, str(failure), os.path.relpath(failure.log) if failure.log else ""
    except Exception as error:
        verdict, text = FAILED, " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return Outcome(line.name, line.title, verdict, text, time.monotonic() - begin, log)


def outcome_line(outcome: Outcome) -> str:
    """Format an outcome as a line of the block.

    >>> outcome_line(Outcome("lora", "LoRA", "FAIL", "no such file", 3.2, "build/lora.log"))
    'FAIL  LoRA: no such file; log build/lora.log (3 s)'
    """
    log = f"; log {outcome.log}" if outcome.log else ""
    return f"{outcome.verdict}  {outcome.title}: {outcome.text}{log} ({outcome.seconds:.0f} s)"


def render(head: Sequence[str], outcomes: Sequence[Outcome], figures: Sequence[Figure]) -> str:
    """Format head, outcomes and figures as Markdown."""
    counts = [f"{sum(o.verdict == verdict for o in outcomes)} {verdict}" for verdict in (PASSED, FAILED, SKIPPED)]
    lines = ["```", *head, "", *map(outcome_line, outcomes), "", f"{', '.join(counts)}", "```"]
    if figures:
        lines += ["", "| figure | measured | estimated |", "|---|---|---|"]
        lines += [f"| {figure.name} | {figure.measured} | {figure.estimated} |" for figure in figures]
    return "\n".join(lines)


def read_rows(run: Path) -> list[dict[str, float]]:
    """Read the steps of a run's metrics.jsonl."""
    return [json.loads(line)["data"] for line in (run / "metrics.jsonl").read_text().splitlines()]
