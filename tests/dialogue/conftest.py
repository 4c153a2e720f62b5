"""Registries made by hand."""

import numpy as np
import pytest

from segzero.dialogue import Registry, Round
from segzero.result import InstanceMask

SIZE = (100, 80)


@pytest.fixture
def make_registry():
    """make_registry([box, box], [], None): a round for each; None is one whose answer could not be read."""

    def make(*rounds, size=SIZE) -> Registry:
        registry = Registry(size)
        for number, boxes in enumerate(rounds, 1):
            question = f"question {number}"
            found = tuple(_found(box, size) for box in boxes or ())
            error = "truncated" if boxes is None else None
            registry = registry.add(Round(number, question, registry.number(question, found), error=error))
        return registry

    return make


def _found(box, size) -> InstanceMask:
    x0, y0, x1, y1 = box
    mask = np.zeros(size[::-1], bool)
    mask[y0:y1, x0:x1] = True
    return InstanceMask(mask, tuple(map(float, box)), (((x0 + x1) / 2, (y0 + y1) / 2),), 0.9)
