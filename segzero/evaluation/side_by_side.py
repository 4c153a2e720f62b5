"""Two evaluations of the same dialogues, with true and with predicted history: round by round, never as one figure.

>>> both = write_side_by_side(Path("evaluation/mr_refcoco"))                                    # doctest: +SKIP
>>> both["by_round"]["2"]["predicted"]["figures"]["giou"]                                       # doctest: +SKIP
{'value': 0.58, 'low': 0.54, 'high': 0.61, 'of': 1200}

Each history is an evaluation in a folder of its own; beside them stand a metrics.json and a report.html of both.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segzero.errors import UserError
from segzero.evaluation.html_report import histories_page
from segzero.evaluation.predict import HISTORIES
from segzero.io import read_json, write_atomically, write_json

FOLDERS = {history: f"{history}_history" for history in HISTORIES}


def folder_of(out: Path, history: str | None) -> Path:
    """Folder of the evaluation with that history; `out` itself without one."""
    return out / FOLDERS[history] if history else out


def histories_in(out: Path) -> dict[str, Path]:
    """Folders of the evaluations that were begun in `out`, by history."""
    return {history: out / name for history, name in FOLDERS.items() if (out / name / "run.json").is_file()}


def pairs_of(first: Path, second: Path) -> dict[str, tuple[Path, Path]]:
    """Pairs of folders to compare, by history; the two themselves, under no name, if neither holds histories."""
    one, other = histories_in(first), histories_in(second)
    if not one and not other:
        return {"": (first, second)}
    pairs = {history: (one[history], other[history]) for history in one if history in other}
    if not pairs:
        held = (
            f"{out}: {', '.join(folder.name for folder in histories.values()) or 'none'}"
            for out, histories in ((first, one), (second, other))
        )
        raise UserError(f"no history is in both folders ({'; '.join(held)}); name what to compare")
    return pairs


def write_side_by_side(out: Path) -> dict[str, Any]:
    """Write metrics.json and report.html of the finished histories in `out`; returns the content of metrics.json."""
    finished = {
        history: _read_metrics(folder / "metrics.json")
        for history, folder in histories_in(out).items()
        if (folder / "metrics.json").is_file()
    }
    if not finished:
        raise UserError(f"no finished evaluation in {out}: run the same `segzero eval` to the end")
    try:
        both = _combine(finished)
        html = histories_page(both, {history: f"{FOLDERS[history]}/report.html" for history in finished})
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        where = " and ".join(str(folder / "metrics.json") for folder in histories_in(out).values())
        raise UserError(
            f"{where} are not as they were written ({error}); `segzero eval rescore {out}` writes them anew"
        ) from error
    write_json(out / "metrics.json", both, indent=1)
    write_atomically(out / "report.html", html.encode("utf-8", "replace"))
    return both


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, "benchmark", "by_round", "figures", "errors", "resampling", "published", "protocol")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}; `segzero eval rescore {path.parent}` writes it anew") from error


def _combine(finished: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    first = next(iter(finished.values()))
    rounds = sorted({number for metrics in finished.values() for number in metrics["by_round"]}, key=_round_order)
    return {
        "benchmark": first["benchmark"],
        "histories": {history: _all_rounds(metrics) for history, metrics in finished.items()},
        "by_round": {
            number: {
                history: metrics["by_round"][number]
                for history, metrics in finished.items()
                if number in metrics["by_round"]
            }
            for number in rounds
        },
        "resampling": first["resampling"],
        "published": first["published"],
        "protocol": {name: value for name, value in first["protocol"].items() if name != "history"},
    }


def _all_rounds(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of one history over all rounds, with its failures by code and without their ids."""
    kept = {name: metrics[name] for name in ("samples", "dialogues", "failed", "figures") if name in metrics}
    return kept | {"errors": {code: each["count"] for code, each in metrics["errors"].items()}}


def _round_order(number: str) -> tuple[bool, int]:
    """Sort key: rounds by number, then records that could not be read, which have none."""
    return (False, int(number)) if number.isdecimal() else (True, 0)
