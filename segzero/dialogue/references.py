"""References in questions: `[REF:2]`, "instance 3", "it", "the first one" -> regions of earlier rounds.

`read_question` finds them with the help of a registry; `segzero.dialogue.memory` writes them for the policy.

>>> registry = Registry((100, 80)).add(Round(1, "the mug"))
>>> words, reference = read_question("what is left of [REF:1]", registry)
>>> words, reference.rounds, reference.empty
('what is left of ', (1,), True)
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from segzero.dialogue.registry import Region, Registry, Round
from segzero.errors import UserError
from segzero.frames import Frame, Size
from segzero.prompts import normalise

MAX_REFERENCES = 8  # references in one question
MAX_QUESTION = 10_000  # characters
ORDINALS = {"first": 0, "second": 1, "third": 2, "fourth": 3, "fifth": 4, "last": -1}

_REFERENCE = re.compile(
    r"""\[REF:\s*(?P<round>\d{1,4})\s*\]
      | (?<!for\s)\binstances?\s+(?P<ids>\d{1,4}(?:(?:\s*,\s*(?:and\s+)?|\s+and\s+)\d{1,4})*)\b
      | \bthe\s+(?P<ordinal>first|second|third|fourth|fifth|last)\s+one\b(?!\s+from\b)
      | \A(?:(?:what|where)\s+(?:is|are)\s+|find\s+|segment\s+|show\s+)?(?P<own>its|their)\b
      | \b(?P<pronoun>it|them|this\s+one|that\s+one|these\s+ones|those\s+ones)\b(?!')
    """,
    re.VERBOSE | re.IGNORECASE,
)
_INNER = re.compile(r"\bwith\s+(?!it\b|them\b)\S", re.IGNORECASE)  # "the cup with a spoon in it" means no earlier cup


class LostReference(UserError):
    """Raised for a question that refers to what no earlier round has, or to a round whose answer could not be read."""


@dataclass(frozen=True)
class Reference:
    """Words of a question that mean regions of one earlier round, or of several by their numbers."""

    words: str
    rounds: tuple[int, ...]
    regions: tuple[Region, ...]
    possessive: bool = False

    @property
    def empty(self) -> bool:
        """True when the rounds were answered, and nothing was there."""
        return not self.regions


Question = tuple[str | Reference, ...]  # in the order of the words


def read_question(text: str, registry: Registry, about: int | None = None) -> Question:
    """Split a question into words and references to earlier rounds.

    Pronouns mean all that the last round found, or round `about`; a question without a reference then gets one.
    In a first round they are words like any other. A reference to what does not exist raises LostReference.
    """
    normalise(text)  # refuses special tokens and empty questions
    if len(text) > MAX_QUESTION:
        raise UserError(f"the question has {len(text)} characters; at most {MAX_QUESTION} are read")
    text = text.strip()
    latest = registry.round(about) if about is not None else registry.rounds[-1] if registry.rounds else None
    parts: list[str | Reference] = []
    end = 0
    for match in _REFERENCE.finditer(text):
        try:
            reference = _resolve(match, registry, latest, inner=_INNER.search(text, 0, match.start()) is not None)
        except UserError as error:
            raise LostReference(str(error)) from None
        if reference is not None:
            own = match.start("own") if reference.possessive else match.start()
            parts += [text[end:own], reference]
            end = match.end()
    parts = [part for part in [*parts, text[end:]] if part]
    if any("[ref" in part.lower() for part in parts if isinstance(part, str)):
        raise UserError("a reference is written [REF:k], with the number of an earlier round")
    count = len(references_in(parts))
    if count > MAX_REFERENCES:
        raise UserError(f"the question has {count} references; ask with at most {MAX_REFERENCES}")
    if about is not None and latest is not None and not count:
        parts = [_whole(f"[REF:{about}]", latest), " ", *parts]
    return tuple(parts)


def references_in(question: Iterable[str | Reference]) -> tuple[Reference, ...]:
    """The references among the parts of a question."""
    return tuple(part for part in question if isinstance(part, Reference))


def write_boxes(boxes: Iterable[Sequence[float]], frame: Frame, size: Size) -> str:
    """Write boxes as a question names them; none are `<box>[]</box>`, as an answer writes that nothing is there."""
    written = [json.dumps(frame.to_frame([float(v) for v in box], size)) for box in boxes]
    return f"<box>{', '.join(written) or '[]'}</box>"


def _resolve(match: re.Match[str], registry: Registry, latest: Round | None, inner: bool) -> Reference | None:
    """Resolve matched words to a reference; None if they mean nothing earlier."""
    if match["round"]:
        return _whole(match[0], registry.round(int(match["round"])))
    if match["ids"]:
        regions = tuple(registry.region(int(id)) for id in re.findall(r"\d+", match["ids"]))
        return Reference(match[0], tuple(dict.fromkeys(region.round for region in regions)), regions)
    if latest is None or (inner and not match["ordinal"]):
        return None
    reference = _whole(match["own"] or match[0], latest, possessive=match["own"] is not None)
    if match["ordinal"] is None or reference.empty:
        return reference
    place = ORDINALS[match["ordinal"].lower()]
    if place >= len(reference.regions):
        raise UserError(f"{match[0]!r}: round {latest.number} found {len(reference.regions)}; name one by [REF:k]")
    return Reference(match[0], reference.rounds, (reference.regions[place],))


def _whole(words: str, round: Round, possessive: bool = False) -> Reference:
    """Refer to everything that a round found."""
    if round.state == "unread":
        raise UserError(
            f"{words!r} means round {round.number}, whose answer could not be read ({round.error}); name another "
            "round by [REF:k], or undo that one"
        )
    return Reference(words, (round.number,), round.regions, possessive)
