"""Prompts become even batches and answers come back in order; wrong prompts are refused. No model takes part."""

import numpy as np
import pytest
import torch

from segzero.errors import UserError
from segzero.segmenter import Embeddings, MaskPrompt
from segzero.segmenter.batching import MASK_LIMIT, MAX_ROWS, ROW_BYTES, Rows, check, decode_in_batches
from tests.helpers.recording import RecordingFunction

SIZES = ((200, 100), (50, 80))


@pytest.fixture
def embeddings():
    return Embeddings((torch.zeros(2, 4, 8, 8), torch.zeros(2, 8, 4, 4)), SIZES)


def echo(rows: Rows):
    """Answers that show what was asked: the first pixel is the first point's x, the scores favour the second mask."""
    logits = np.zeros((len(rows.images), 3, 8, 8), np.float32)
    logits[:, :, 0, 0] = rows.points[:, :1, 0] + [0, 10, 20]
    return logits, np.tile(np.float32([0.1, 0.9, 0.5]), (len(rows.images), 1))


def test_answers_keep_the_order_of_unequal_prompts(embeddings):
    prompts = [
        [
            MaskPrompt(points=[(20, 1)]),
            MaskPrompt(box=(40, 1, 90, 9)),
            MaskPrompt(points=[(60, 1), (3, 3)]),
            MaskPrompt(points=[(80, 1)]),
        ],
        [MaskPrompt(points=[(25, 1)])],
    ]
    drawn = decode_in_batches(echo, embeddings, prompts, all_masks=False)
    assert [[round(float(d.logits[0, 0, 0]) - 10, 3) for d in row] for row in drawn] == [[0.1, 0.2, 0.3, 0.4], [0.5]]
    assert [d.size for row in drawn for d in row] == [SIZES[0]] * 4 + [SIZES[1]]
    assert drawn[0][0].scores.tolist() == [np.float32(0.9)]


def test_all_three_masks_on_request(embeddings):
    [[drawn], []] = decode_in_batches(echo, embeddings, [[MaskPrompt(points=[(0, 1)])], []], all_masks=True)
    assert drawn.logits.shape == (3, 8, 8) and drawn.masks.shape == (3, 100, 200) and drawn.masks.dtype == bool
    assert drawn.scores.tolist() == [np.float32(s) for s in (0.1, 0.9, 0.5)]


def test_only_prompts_alike_share_a_batch_and_none_is_padded(embeddings):
    spy = RecordingFunction(echo)
    mask = np.full((8, 8), 99.0)
    prompts = [
        [MaskPrompt(points=[(1, 1)])] * (MAX_ROWS + 1),
        [
            MaskPrompt(box=(1, 1, 2, 2), points=[(1, 1)]),
            MaskPrompt(points=[(1, 1)], mask=mask),
            MaskPrompt(points=[(1, 1)] * 3),
        ],
    ]
    decode_in_batches(spy, embeddings, prompts, all_masks=False)
    batches = [(len(rows.images), rows.points.shape[1], getattr(rows.masks, "shape", None)) for [rows] in spy.calls]
    # A box is two points; with one point more it is not the same as three points inside.
    assert sorted(batches, key=str) == [
        (1, 1, (1, 8, 8)),
        (1, 1, None),
        (1, 3, None),
        (1, 3, None),
        (MAX_ROWS, 1, None),
    ]


def test_a_batch_copies_no_more_features_than_allowed():
    features = torch.zeros(1).expand(1, 1, 1024, ROW_BYTES // 4 // 1024 // 3)  # a third of the limit for one image
    spy = RecordingFunction(echo)
    decode_in_batches(spy, Embeddings((features,), SIZES[:1]), [[MaskPrompt(points=[(1, 1)])] * 7], all_masks=False)
    assert [len(rows.images) for [rows] in spy.calls] == [3, 3, 1]


def test_prompts_as_sam2_expects_them(embeddings):
    mask = np.full((8, 8), 99.0)
    prompt = MaskPrompt(box=(20, 10, 100, 50), points=[(40, 30), (50, 50)], labels=[1, 0], mask=mask)
    spy = RecordingFunction(echo)
    decode_in_batches(spy, embeddings, [[prompt], []], all_masks=False)
    [[rows]] = spy.calls
    assert rows.images.tolist() == [0]
    assert rows.points.tolist() == np.float32([[[0.1, 0.1], [0.5, 0.5], [0.2, 0.3], [0.25, 0.5]]]).tolist()
    assert rows.labels.tolist() == [[2, 3, 1, 0]]
    assert rows.masks.min() == rows.masks.max() == MASK_LIMIT


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (MaskPrompt(), "needs a box or at least one point"),
        (MaskPrompt(mask=np.zeros((8, 8))), "needs a box or at least one point"),
        (MaskPrompt(points=[(1, 1)], labels=[1, 0]), "1 points but 2 labels"),
        (MaskPrompt(points=[(1, 1)], labels=[2]), "1 .inside. or 0 .outside."),
        (MaskPrompt(points=[(201, 1)]), "outside the image of 200x100"),
        (MaskPrompt(points=[(float("nan"), 1)]), "outside the image"),
        (MaskPrompt(box=(30, 1, 20, 9)), "not x0,y0,x1,y1"),
        (MaskPrompt(box=(1, float("nan"), 20, 9)), "not x0,y0,x1,y1"),
        (MaskPrompt(box=(1, 1, float("inf"), 9)), "outside the image"),
        (MaskPrompt(box=(201, 1, 210, 9)), "outside the image"),
        (MaskPrompt(box=(1, 1, 5, 5), mask=np.zeros((3, 8, 8))), "finite logits .8, 8."),
        (MaskPrompt(box=(1, 1, 5, 5), mask=np.zeros((16, 16))), "not .16, 16."),
        (MaskPrompt(box=(1, 1, 5, 5), mask=np.full((8, 8), np.nan)), "finite logits"),
    ],
)
def test_wrong_prompts_get_one_clear_line(prompt, message):
    with pytest.raises(UserError, match=message) as caught:
        check(prompt, (200, 100), (8, 8))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("box", [(-50, -5, 300, 150), (200, 10, 200, 10)])
def test_boxes_may_reach_beyond_the_image_or_be_flat_and_are_not_clipped(embeddings, box):
    spy = RecordingFunction(echo)
    [[prediction], []] = decode_in_batches(spy, embeddings, [[MaskPrompt(box=box)], []], all_masks=False)
    [[rows]] = spy.calls
    x0, y0, x1, y1 = np.divide(box, (200, 100, 200, 100)).tolist()
    assert rows.points == pytest.approx(np.float32([[[x0, y0], [x1, y1]]]))
    assert prediction.size == (200, 100)


def test_as_many_lists_of_prompts_as_embeddings(embeddings):
    with pytest.raises(UserError, match="prompts for 1 images, but 2 embeddings"):
        decode_in_batches(echo, embeddings, [[]], all_masks=False)


def test_embeddings_are_counted_indexed_and_measured(embeddings):
    assert len(embeddings) == 2 and embeddings.nbytes == 2 * 4 * (4 * 64 + 8 * 16)
    assert embeddings[-1].sizes == SIZES[1:] and embeddings[:1].features[0].shape == (1, 4, 8, 8)
    assert [each.sizes[0] for each in embeddings] == list(SIZES)
    with pytest.raises(IndexError):
        embeddings[2]
