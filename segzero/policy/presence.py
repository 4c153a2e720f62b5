"""The probability with which a policy's answer says that something is there, from those of its own tokens."""

import math
import re
from collections.abc import Sequence

START = "<answer>"
_DECISION = re.compile(r"[{\]]")  # the first object, or the end of an empty list


def presence_of(pieces: Sequence[str], probabilities: Sequence[float]) -> float | None:
    """Probability of an answer with an object, from the tokens' texts and the probabilities they were chosen with.

    An answer begins with an object or with the end of an empty list. What follows `<answer>` up to there decides, and
    the product of these tokens' probabilities is how surely it was decided so. None if the text has no such place.

    >>> presence_of(["<think>", "</think>", "<answer>", '[{"', "bbox"], [1.0, 1.0, 1.0, 0.75, 0.9])
    0.75
    >>> presence_of(["<answer>", "[]", "</answer>"], [1.0, 0.75, 1.0])
    0.25
    """
    text = "".join(pieces)
    start = text.rfind(START)
    if start < 0:
        return None
    start += len(START)
    decision = _DECISION.search(text, start)
    if decision is None:
        return None
    product, place = 1.0, 0
    for piece, probability in zip(pieces, probabilities, strict=False):
        if start < place + len(piece) and place < decision.end():
            product *= probability
        place += len(piece)
    if not math.isfinite(product):
        return None
    product = min(max(product, 0.0), 1.0)
    return product if decision[0] == "{" else 1.0 - product
