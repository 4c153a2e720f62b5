"""Terms that depend on the response's text alone."""

import re
from collections.abc import Callable

from rewards.case import Case

_OPEN, _CLOSE = "<think>", "</answer>"
_BETWEEN = re.compile(r"</think>\s*<answer>")
_SENTENCE_END = re.compile(r"[.!?\n]+")


def thinking_format(case: Case) -> float:
    """1 if the whole response is `<think>...</think> <answer>...</answer>`, else 0. Source: Seg-Zero."""
    text = case.response
    if not (text.startswith(_OPEN) and text.endswith(_CLOSE)):
        return 0.0
    return float(_BETWEEN.search(text, len(_OPEN), len(text) - len(_CLOSE)) is not None)


def non_repetition(case: Case) -> float:
    """1, or 0 once two pieces of the response, split at ".", repeat an earlier one. Source: VisionReasoner.

    Decimal points split too: an answer in fractions of pixels may look repetitive to this term.
    """
    pieces = [piece for part in case.response.split(".") if (piece := part.strip())]
    return float(len(pieces) - len(set(pieces)) < 2)


def fresh_thinking(case: Case) -> float:
    """Share of the think-chain's sentences that repeat no earlier one, 0 to 1; an empty chain is 1. Source: ours."""
    pieces = [piece for part in _SENTENCE_END.split(case.answer.think) if (piece := part.strip().lower())]
    return len(set(pieces)) / len(pieces) if pieces else 1.0


def length_bounds(fewest: int, most: int) -> Callable[[Case], float]:
    """Make a term: 1 for a think-chain of `fewest` to `most` words, falling to 0 at no words and at twice the most.

    0 to 1. Source: ours, after the length penalties of DAPO.
    """
    assert 0 <= fewest <= most > 0, (fewest, most)

    def length(case: Case) -> float:
        words = len(case.answer.think.split())
        if words < fewest:
            return words / fewest
        return 1.0 if words <= most else max(0.0, 2.0 - words / most)

    return length
