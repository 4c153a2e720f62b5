"""Edges from masks: they lie on the outlines of a scene's shapes, and are one pixel wide."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_edt

from segzero.segmenter import load_segmenter
from segzero.segmenter.edges import find_edges, thinned
from segzero.shipped import segmenter_path
from segzero.tiny.scenes import make_scene


@pytest.fixture(scope="module")
def segmenter():
    return load_segmenter(segmenter_path(), device="cpu")


def test_edges_lie_on_the_outlines(segmenter):
    scene = make_scene(np.random.default_rng(11), max_shapes=2)
    edges = find_edges(segmenter, Image.fromarray(scene.image))
    assert edges.shape == (224, 224) and edges.min() == 0 and edges.max() == 1
    inside = np.any([shape.mask for shape in scene.shapes], axis=0)
    to_outline = np.where(inside, distance_transform_edt(inside), distance_transform_edt(~inside))
    strong = edges > 0.5
    assert strong.sum() > 100 and np.mean(to_outline[strong] < 4) > 0.6
    outline = inside & (distance_transform_edt(inside) <= 1)
    assert np.mean(distance_transform_edt(~strong)[outline] < 4) > 0.85
    thick = find_edges(segmenter, Image.fromarray(scene.image), thin=False)
    assert np.count_nonzero(thick) > 1.5 * np.count_nonzero(edges) and (edges <= thick).all()


def test_an_image_without_masks_has_no_edges(segmenter):
    flat = find_edges(segmenter, Image.new("RGB", (60, 40), "white"))
    assert flat.shape == (40, 60) and np.isfinite(flat).all()


@pytest.mark.parametrize("angle", [0, 30, 45, 90, 135])
def test_thinning_keeps_the_crest_of_a_ridge(angle):
    """A straight ridge through the middle, three times as high on its crest as two pixels beside it."""
    y, x = np.indices((61, 61)) - 30.0
    across = x * np.sin(np.radians(angle)) - y * np.cos(np.radians(angle))
    along = x * np.cos(np.radians(angle)) + y * np.sin(np.radians(angle))
    ridge = np.exp(-(across**2) / 4).astype(np.float32)
    middle = np.abs(along) < 15
    kept = (thinned(ridge) > 0.2) & middle
    assert np.abs(across[kept]).max() <= 1
    for place in range(-14, 15):
        assert kept[np.abs(along - place) <= 0.75].any()
