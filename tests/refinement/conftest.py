"""Samples with a mask to judge, one of every kind."""

from dataclasses import replace

import numpy as np
import pytest

from segzero.masks import decode, encode


@pytest.fixture(scope="session")
def judged(held_out):
    """Samples by what their current mask is: the true one, half of it, nothing, or one where nothing is the answer."""
    sample = next(each for each in held_out if len(each.objects) == 1)
    absent = next(each for each in held_out if each.empty)
    true = decode(sample.mask())
    half = true & (np.arange(true.shape[1]) < np.nonzero(true)[1].mean())
    shown = {"true": true, "half": half, "nothing": np.zeros_like(true)}
    samples = {name: replace(sample, current_mask=encode(mask)) for name, mask in shown.items()}
    return samples | {"absent": replace(absent, current_mask=encode(true))}
