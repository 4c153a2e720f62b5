"""Several trainings one after the other in a process, which imports verl and torch once: a third of a run's start."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.helpers.launching import kill

PROGRAM = """
import json, sys, traceback
from pathlib import Path
from segzero.errors import UserError
from segzero.training.launch import train

folder = Path(sys.argv[1])
for name, overrides in json.loads((folder / "jobs.json").read_text()).items():
    try:
        train("train", [*overrides, f"trainer.default_local_dir={folder / name}"])
        said = "trained"
    except UserError as error:
        said = f"segzero: {error}"
    except Exception:
        said = traceback.format_exc()
    sys.stdout.flush()
    (folder / f"{name}.end").write_text(said)
"""


class Runs:
    """The runs of `jobs`, overrides by name; each has its own folder, and a Ray of its own."""

    def __init__(self, folder: Path, jobs: Mapping[str, Sequence[str]]) -> None:
        self.folder = folder
        (folder / "jobs.json").write_text(json.dumps({name: list(overrides) for name, overrides in jobs.items()}))
        environment = {name: value for name, value in os.environ.items() if name != "VERL_PLATFORM"}
        with (folder / "output").open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(folder)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def wait(self, name: str, seconds: float = 600) -> str:
        """Wait until a run has ended; returns what all runs said until then, and how this one ended."""
        deadline, end = time.monotonic() + seconds, self.folder / f"{name}.end"
        while not end.exists():
            assert self.process.poll() is None, (self.folder / "output").read_text()[-3000:]
            assert time.monotonic() < deadline, (self.folder / "output").read_text()[-3000:]
            time.sleep(0.2)
        return (self.folder / "output").read_text() + end.read_text()

    def end(self) -> None:
        """Kill what still runs."""
        if self.process.poll() is None:
            kill(self.process)
