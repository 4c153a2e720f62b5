"""Records of candidates: source, origin, and what came of it; a pair of files each.

candidates/01-03.py     the source, readable
candidates/01-03.json   everything else
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rewards.search.prompts import JudgedAnswer
from rewards.search.term_statistics import Fit, TermStatistics
from segzero.errors import UserError
from segzero.evaluation.typed import typed
from segzero.io import write_atomically, write_json

FOLDER = "candidates"


@dataclass(frozen=True)
class SearchCandidate:
    """A candidate of the search. `problem` says why it can't be used."""

    id: str
    iteration: int
    parents: tuple[str, ...]
    origin: str  # "mutation", "mended", ...
    source: str
    problem: str = ""
    refused: bool = False  # by the parser or the gates; otherwise the problem is that it fails on answers
    findings: tuple[str, ...] = ()  # of the gates
    terms: tuple[TermStatistics, ...] = ()
    fit: Fit | None = None
    best: tuple[JudgedAnswer, ...] = ()
    worst: tuple[JudgedAnswer, ...] = ()
    seconds: float = 0.0  # that it took to judge it

    @property
    def score(self) -> float:
        """The number that candidates are selected by; below all others for one that can't be used."""
        return self.fit.score if self.fit is not None and not self.problem else -1.0


def write_record(out: Path, candidate: SearchCandidate) -> None:
    """Write both files, the source first."""
    rest = asdict(candidate)
    write_atomically(source_file(out, candidate.id), rest.pop("source").encode("utf-8", "backslashreplace"))
    write_json(out / FOLDER / f"{candidate.id}.json", rest, indent=1)


def read_record(out: Path, id: str) -> SearchCandidate | None:
    """Read a candidate; None if the search has not come to it."""
    file, source = out / FOLDER / f"{id}.json", source_file(out, id)
    if not (file.is_file() and source.is_file()):
        return None
    try:
        row = json.loads(file.read_bytes())
        row["terms"] = tuple(typed(TermStatistics, term) for term in row["terms"])
        row["fit"] = row["fit"] and typed(Fit, row["fit"])
        for name in ("best", "worst"):
            row[name] = tuple(typed(JudgedAnswer, one) for one in row[name])
        for name in ("parents", "findings"):
            row[name] = tuple(row[name])
        return typed(SearchCandidate, row | {"source": source.read_text(encoding="utf-8")})
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is no candidate of a search; remove it, and the search makes it again") from error


def source_file(out: Path, id: str) -> Path:
    """The path of a candidate's source."""
    return out / FOLDER / f"{id}.py"
