"""The card of prepared data: its counts and the settings that made it, as card.json and as README.md."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from segzero.data.readers.fields import read_json
from segzero.errors import UserError
from segzero.io import write_atomically

CARD = "card.json"
COUNTERS = ("splits", "kinds", "objects", "left_out")  # fields of the card; all but the first are in a shard's note too


@dataclass
class Card:
    """Counts of prepared data, and the settings that make the same files again."""

    settings: dict[str, Any]
    read: int = 0
    samples: int = 0
    splits: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)  # "as read", "joined", "nothing there", ... -> samples
    objects: Counter[str] = field(default_factory=Counter)  # number of objects -> samples
    left_out: Counter[str] = field(default_factory=Counter)  # reason -> samples
    problems: int = 0  # lines in problems.txt
    files: list[str] = field(default_factory=list)

    def add(self, note: Mapping[str, Any]) -> None:
        """Count a finished shard by its note."""
        self.read += note["read"]
        self.samples += note["samples"]
        self.splits[note["split"]] += note["samples"]
        for name in COUNTERS[1:]:
            getattr(self, name).update(note[name])
        self.files += [note["file"]] if note["samples"] else []

    def write(self, folder: Path, problems: Sequence[str]) -> None:
        """Write problems.txt, README.md and last card.json, whose presence means that everything is there."""
        self.problems = len(problems)
        if problems:
            write_atomically(folder / "problems.txt", "".join(f"{line}\n" for line in problems).encode())
        write_atomically(folder / "README.md", self.readme().encode())
        write_atomically(folder / CARD, json.dumps(vars(self), indent=1, ensure_ascii=False).encode())

    def readme(self) -> str:
        """README.md, with the header by which `datasets` and the hub find the splits."""
        splits = "".join(f"  - split: {name}\n    path: {name}-*.parquet\n" for name in sorted(self.splits))
        rows = [("read", self.read), ("samples", self.samples)]
        rows += [(f"split {name}", count) for name, count in sorted(self.splits.items())]
        rows += [*self.kinds.items()]
        rows += [(f"with {objects} objects", count) for objects, count in sorted(self.objects.items(), key=_number)]
        rows += [(f"left out: {reason}", count) for reason, count in self.left_out.most_common()]
        rows += [("problems, in problems.txt", self.problems)]
        table = "".join(f"| {name} | {count} |\n" for name, count in rows if count)
        settings = "".join(f"- {name}: `{value}`\n" for name, value in self.settings.items())
        return (
            f"---\nconfigs:\n- config_name: default\n  data_files:\n{splits}---\n\n# Training samples for SegZero\n\n"
            f"| | |\n|---|---|\n{table}\nMade by `segzero data prepare` with\n\n{settings}"
        )

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items() if count)
        lines = [f"{self.samples} samples ({kinds}) from {self.read}, in {len(self.files)} files"]
        lines += [f"left out: {count}: {reason}" for reason, count in self.left_out.most_common()]
        lines += [self._shortfall("join", "joined", "few images have several questions")]
        lines += [
            self._shortfall("no_target", "nothing there", "few questions can be borrowed; see `segzero docs data`")
        ]
        lines = [line for line in lines if line]
        return "\n".join(lines + ([f"{self.problems} problems, listed in problems.txt"] if self.problems else []))

    def _shortfall(self, setting: str, kind: str, reason: str) -> str:
        """A line that says why a wanted share was missed by more than rounding; empty if it was reached."""
        wanted, reached = self.settings.get(setting) or 0.0, self.kinds[kind] / max(1, self.samples)
        return f"{kind}: {reached:.1%} of the samples, not {wanted:.1%}: {reason}" if reached < 0.9 * wanted else ""


def read_card(folder: Path) -> Card | None:
    """Read the card of a finished folder; None if there is none."""
    if not (folder / CARD).is_file():
        return None
    content = read_json(folder / CARD)
    if not _is_card(content):
        raise UserError(f"{folder / CARD} is not a card of prepared data; choose another folder, or remove it")
    return Card(**(content | {name: Counter(content[name]) for name in COUNTERS}))


def is_shard_note(value: Any) -> bool:
    """True for a shard's note that `Card.add` can count."""
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(name), str) for name in ("digest", "file", "split"))
        and all(isinstance(value.get(name), int) for name in ("read", "samples"))
        and all(_are_counts(value.get(name)) for name in COUNTERS[1:])
        and _are_texts(value.get("problems"))
    )


def _is_card(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {known.name for known in fields(Card)}
        and all(isinstance(value[name], int) for name in ("read", "samples", "problems"))
        and all(_are_counts(value[name]) for name in COUNTERS)
        and _are_texts(value["files"])
    )


def _are_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(count, int) for count in value.values())


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _number(item: tuple[str, int]) -> int:
    return int(item[0]) if item[0].isdecimal() else 0
