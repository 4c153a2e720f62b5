"""What a request may ask for, before any model is asked."""

import pytest

from segzero.serving.errors import Problem
from segzero.serving.requests import check_masks


def test_large_images_take_fewer_prompts():
    check_masks(64, (1600, 1200))
    check_masks(8, (5000, 5000))
    check_masks(1, (40_000, 40_000))
    with pytest.raises(Problem) as refused:
        check_masks(9, (5000, 5000))
    assert refused.value.status == 422
    assert refused.value.body()["error"]["message"] == ("9 prompts about an image of 5000x5000; send at most 8 at once")
