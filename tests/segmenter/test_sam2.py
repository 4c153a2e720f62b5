"""Meta's package in its own process: the same masks as transformers, and no hang whatever happens to it."""

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segzero
from segzero.errors import UserError
from segzero.masks import mask_iou
from segzero.segmenter import MaskPrompt, load_segmenter
from segzero.tiny.scenes import make_scene
from tests.helpers import meta_weights

# Not importorskip: the tests' own process must stay free of it too.
pytestmark = [
    pytest.mark.slow,  # a process for each model
    pytest.mark.skipif(not importlib.util.find_spec("sam2"), reason="Meta's sam2 package is not installed"),
]
HOME = str(Path(segzero.__file__).parent.parent)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return meta_weights.make_meta(tmp_path_factory.mktemp("meta"))


@pytest.fixture(scope="module")
def meta(weights):
    return load_segmenter(weights, device="cpu")


def run(script: str, *arguments: object) -> subprocess.CompletedProcess:
    """A Python program of its own, as starting and importing are what these tests are about."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": HOME}
    return subprocess.run(command, stdout=subprocess.PIPE, env=environment, text=True, check=False)


def fifty_prompts(width, height):
    """Boxes, points inside and outside, in every mixture."""
    rng = np.random.default_rng(0)
    for i in range(50):
        x, y = rng.uniform(0, 0.6, 2) * (width, height)
        box = (x, y, x + rng.uniform(0.1, 0.4) * width, y + rng.uniform(0.1, 0.4) * height)
        points = [tuple(rng.uniform(0, 1, 2) * (width, height)) for _ in range(i % 3)]
        yield MaskPrompt(box=None if points and i % 5 == 0 else box, points=points, labels=[1, 0][: len(points)])


@pytest.mark.slow
def test_both_backends_draw_the_same_masks(meta, weights, tmp_path):
    image = Image.fromarray(make_scene(np.random.default_rng(3), size=1024).image).resize((800, 600))
    ours = load_segmenter(meta_weights.convert(weights, tmp_path), device="cpu")
    prompts = list(fifty_prompts(*image.size))
    [theirs] = meta.decode(meta.embed([image]), [prompts])
    embeddings = ours.embed([image])
    [mine] = ours.decode(embeddings, [prompts])
    areas = [d.masks.mean() for d in theirs]
    assert np.mean([0.05 < area < 0.95 for area in areas]) > 0.9  # or agreeing would mean nothing
    assert min(mask_iou(a.masks[0], b.masks[0]) for a, b in zip(mine, theirs, strict=True)) >= 0.99
    # The rest is rounding: transformers resizes in 8 bits. From the same features on, an earlier mask too is the same.
    again = [
        MaskPrompt(box=p.box, points=p.points, labels=p.labels, mask=d.logits[0])
        for p, d in zip(prompts[:8], mine[:8], strict=True)
    ]
    [a], [b] = ours.decode(embeddings, [again]), meta.decode(embeddings, [again])
    for one, other in zip(a, b, strict=True):
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-4)


def test_an_error_in_the_child_comes_through(meta):
    with pytest.raises(RuntimeError, match="in the process of the sam2 package"):
        meta._child.call("embed", {"image": np.zeros((2, 2), np.uint8)})
    assert meta._child._process.poll() is None  # and it goes on working


def test_a_child_that_dies_is_an_error_and_not_a_hang(meta):
    os.kill(meta._child._process.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="ended with code -9"):
            meta.embed([Image.new("RGB", (8, 8))])


@pytest.mark.slow
def test_the_child_ends_with_its_parent_which_never_sees_hydra(weights):
    script = """
import os, sys
from segzero.segmenter import load_segmenter
segmenter = load_segmenter(sys.argv[1], device="cpu")
assert "sam2" not in sys.modules and "hydra" not in sys.modules
print(segmenter._child._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    child = int(run(script, weights).stdout)
    deadline = time.monotonic() + 15
    while running(child):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.1)


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_used_gets_one_clear_line(tmp_path):
    (tmp_path / "notes.pt").write_text("not a checkpoint")
    script = """
import sys, torch
from segzero.errors import UserError
from segzero.segmenter.sam2_worker import _load
for name, config in (("notes.pt", ""), ("notes.pt", "configs/../../other.yaml"),
                     ("notes.pt", "configs/sam2.1/sam2.1_hiera_t.yaml"), ("folder", "")):
    try:
        _load(f"{sys.argv[1]}/{name}", torch.device("cpu"), config)
    except UserError as error:
        print(error)
"""
    lines = run(script, tmp_path).stdout.splitlines()
    expected = (
        "which architecture is .*/notes.pt. pass config=..., one of configs/sam2/",
        "which architecture is .*/notes.pt. pass config=",
        "can't load .*/notes.pt as configs/sam2.1/sam2.1_hiera_t.yaml: ",
        "loads .pt files and facebook/sam2-hiera-tiny",
    )
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.search(pattern, line), line


def test_a_users_mistake_is_reported_by_either_process(tmp_path):
    with pytest.raises(UserError, match="no such checkpoint"):  # seen before a process is started
        load_segmenter(tmp_path / "missing.pt")
    with pytest.raises(UserError, match="can't use device 'tpu:0'"):  # seen by the child
        load_segmenter("facebook/sam2.1-hiera-tiny", backend="sam2", device="tpu:0")
