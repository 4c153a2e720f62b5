"""SegLLM's conversations, with masks in every published form."""

import copy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segzero.data.parquet import from_parquet, to_parquet
from segzero.data.readers import read
from segzero.errors import UserError
from segzero.masks import decode, encode
from tests.helpers.published_records import SEG_LLM_IMAGE, lisa_annotation, lisa_shape, seg_llm_conversation
from tests.helpers.reader_files import SIZE, box_mask, jpeg, rectangle, write_json

REFCOCO = {"images": [], "annotations": [{"id": 3, "segmentation": [rectangle(2, 1, 6, 4)]}]}
CONVERSATION = {
    "task": "referential",
    "base": "coco",
    "conv_id": "mr_refcoco_7",
    "conversations": [
        {"from": "human", "value": f"[IMAGE256:{SEG_LLM_IMAGE}] Segment the man.", "ind": [-1]},
        {"from": "gpt", "value": f"[MASK-DECODE:{SEG_LLM_IMAGE}|refcoco|3]"},
        {
            "from": "human",
            "value": f"[MASK-ENCODE:{SEG_LLM_IMAGE}|refcoco|3][BOX-ENCODE:{SEG_LLM_IMAGE}|refcoco|3] what he holds",
            "ind": [1],
        },
        {"from": "gpt", "value": f"[MASK-DECODE:interactional:3:7_1:{SEG_LLM_IMAGE}:visual_genome]"},
        {
            "from": "human",
            "value": f"between [MASK-ENCODE:{SEG_LLM_IMAGE}|refcoco|3][BOX-ENCODE:{SEG_LLM_IMAGE}|refcoco|3] and "
            f"[MASK-ENCODE:{SEG_LLM_IMAGE}|visual_genome|7_1][BOX-ENCODE:{SEG_LLM_IMAGE}|visual_genome|7_1]",
            "ind": [1, 2],
        },
        {"from": "gpt", "value": f"[MASK-DECODE:positional:3:7_1:2:{SEG_LLM_IMAGE}:ade20k]"},
    ],
}


@pytest.fixture
def file(tmp_path) -> Path:
    masks = tmp_path / "annotations_folder"
    write_json(masks / "refcoco/instances.json", REFCOCO)
    write_json(masks / "visual_genome/vg_masks_train_new.json", {"7_1": encode(box_mask(7, 4, 10, 7))})
    write_json(masks / "pascal/pascal_labels_val.json", {"2010-arm": encode(box_mask(0, 0, 3, 3))})
    described = [{"image_dim": [8, 12], "segmentation": {"size": [8, 12], "counts": [0, 8, 88]}}]
    write_json(masks / "description_based_coco/seg_mask_per_instance.json", described)
    write_json(masks / "reason_seg/annotations/train/7.json", lisa_annotation(lisa_shape("target", 2, 1, 5, 4)))
    for folder, value in (("ade20k/annotations/training", 3), ("cocostuff/train2017", 2)):
        (masks / folder).mkdir(parents=True)
        Image.fromarray(box_mask(0, 6, 12, 8).astype(np.uint8) * value).save(masks / folder / "7.png")
    jpeg(tmp_path / "images_folder" / SEG_LLM_IMAGE)
    return write_json(tmp_path / "conversations_folder/all_data_mix_train/mr_refcoco_train.json", [CONVERSATION])


def test_rounds_know_the_rounds_before_them(file, tmp_path):
    man, held, between = read(file, "seg_llm")
    assert (man.id, man.question, man.size, man.turns) == ("0-1", "Segment the man.", SIZE, ())
    assert (decode(man.objects[0].rle) == box_mask(2, 1, 6, 4)).all()
    assert held.question == "[REF:1] what he holds"
    assert held.objects[0].box == (7, 4, 10, 7)
    assert between.question == "between [REF:1] and [REF:2]"
    assert between.objects[0].box == (0, 6, 12, 8)
    assert [turn["boxes"] for turn in between.turns] == [[[2, 1, 6, 4]], [[7, 4, 10, 7]]]
    assert {tuple(turn) for turn in between.turns} == {("question", "boxes", "points", "masks")}
    assert between.meta == {
        "dialogue": 0,
        "conversation": "mr_refcoco_7",
        "task": "referential",
        "base": "coco",
        "round": 3,
        "references": [1, 2],
    }
    assert list(from_parquet(to_parquet([man, held, between], tmp_path / "x.parquet"))) == [man, held, between]


@pytest.mark.parametrize(
    ("mark", "split", "box"),
    [
        (f"{SEG_LLM_IMAGE}|ade20k|2", "train", (0, 6, 12, 8)),
        (f"{SEG_LLM_IMAGE}|cocostuff|2", "train", (0, 6, 12, 8)),
        (f"{SEG_LLM_IMAGE}|reason_seg|", "train", (2, 1, 6, 5)),
        (f"{SEG_LLM_IMAGE}|pascal|2010-arm", "val", (0, 0, 3, 3)),
        (f"{SEG_LLM_IMAGE}|description_based_coco|0", "train", (0, 0, 1, 8)),
    ],
)
def test_masks_of_every_kind(file, mark, split, box):
    write_json(file, [seg_llm_conversation(f"[MASK-DECODE:{mark}]")])
    [sample] = read(file, "seg_llm", split=split)
    assert sample.objects[0].box == box


def test_an_answer_of_several_masks_and_folders_elsewhere(file, tmp_path):
    answer = f"A body [MASK-DECODE:{SEG_LLM_IMAGE}|refcoco|3], a sky [MASK-DECODE:{SEG_LLM_IMAGE}|ade20k|2]."
    elsewhere = write_json(tmp_path / "x.json", [seg_llm_conversation(answer, "coco/val2014/new_7.jpg")])
    folders = {"annotations": tmp_path / "annotations_folder", "images": tmp_path / "images_folder"}
    [sample] = read(elsewhere, "seg_llm", **folders)
    assert [o.box for o in sample.objects] == [(2, 1, 6, 4), (0, 6, 12, 8)]
    assert sample.image == str(tmp_path / "images_folder" / SEG_LLM_IMAGE)
    with pytest.raises(UserError, match="annotations: no such folder"):
        list(read(elsewhere, "seg_llm"))
    with pytest.raises(UserError, match="unknown split 'test'"):
        list(read(elsewhere, "seg_llm", split="test", **folders))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (seg_llm_conversation("[MASK-DECODE:a.jpg|refcoco|4]"), "refcoco has no mask '4'"),
        (seg_llm_conversation("[MASK-DECODE:a.jpg|imagenet|4]"), "unknown data set of SegLLM 'imagenet'"),
        (seg_llm_conversation("[MASK-DECODE:a.jpg|lvis|4]"), "no file 'lvis/lvis_v1_train.json'"),
        (seg_llm_conversation("[MASK-DECODE:a.jpg|ade20k|-1]"), "is not a class of ade20k"),
        (seg_llm_conversation("[MASK-DECODE:a.jpg|ade20k|9]"), "no pixels"),
        (seg_llm_conversation("[MASK-DECODE:3]"), "names no mask: '3'"),
        (seg_llm_conversation("Here it is."), "round 1 names no mask"),
        (seg_llm_conversation("[MASK-DECODE:a.jpg|refcoco|3]", "gone.jpg"), "no file 'gone.jpg'"),
        (seg_llm_conversation("[MASK-DECODE:a.jpg|refcoco|3]", "../../x.jpg"), "lies outside"),
        ({"conversations": [{"value": "a"}, {"value": "b"}]}, "names no image"),
        ({"conversations": [{"value": "a"}]}, "an answer for each question"),
        ({"conversations": CONVERSATION["conversations"][:2] + [{"value": ""}] * 2}, "round 2 names no mask"),
        (
            {
                "conversations": [
                    {"value": f"[IMAGE256:{SEG_LLM_IMAGE}] [MASK-ENCODE:a|refcoco|3] left of it"},
                    {"value": "[MASK-DECODE:a|refcoco|3]"},
                ]
            },
            "refers to a mask that no earlier round has",
        ),
        (7, "must be an object"),
    ],
)
def test_bad_conversations_are_listed(file, bad, message):
    write_json(file, [bad, copy.deepcopy(CONVERSATION)])
    problems: list[str] = []
    assert [s.id for s in read(file, "seg_llm", problems)] == ["1-1", "1-2", "1-3"]
    [problem] = problems
    assert "conversation 0: " in problem
    assert message in problem


@pytest.mark.parametrize("masks", [{"7_1": 3}, {"7_1": {}}, {"7_1": {"size": [9, 12], "counts": [108]}}, 3, {}])
def test_bad_mask_files_are_listed(file, tmp_path, masks):
    write_json(tmp_path / "annotations_folder/visual_genome/vg_masks_train_new.json", masks)
    problems: list[str] = []
    assert not list(read(file, "seg_llm", problems))
    assert len(problems) == 1
    assert "\n" not in problems[0]
