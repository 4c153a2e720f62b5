"""Records of published data sets, as the tests of readers write them into files."""

import numpy as np

from segzero.masks import encode
from tests.helpers.reader_files import SIZE, box_mask, rectangle

# COCO

COCO_IMAGE = {"id": 5, "file_name": "5.jpg", "width": SIZE[0], "height": SIZE[1]}

COCO_CAT = {"id": 1, "image_id": 5, "category_id": 17, "bbox": [2, 1, 4, 3], "segmentation": [rectangle(2, 1, 6, 4)]}

COCO_FILE = {
    "images": [COCO_IMAGE, {"id": 6, "file_name": "6.jpg", "width": 12, "height": 8}],
    "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "stuffed_dog"}, {"id": 19, "name": "person"}],
    "annotations": [
        COCO_CAT | {"iscrowd": 0},
        COCO_CAT | {"id": 2, "bbox": [7, 4, 3, 3], "segmentation": [rectangle(7, 4, 10, 7)], "iscrowd": 0},
        COCO_CAT | {"id": 3, "bbox": [0, 0, 2, 2], "segmentation": encode(box_mask(0, 0, 2, 2)), "iscrowd": 1},
        {"id": 4, "image_id": 5, "category_id": 18, "bbox": [-1.0, 0.0, 6.0, 4.0]},  # detection only
        COCO_CAT | {"id": 5, "category_id": 19, "segmentation": encode(box_mask(0, 0, 2, 2)), "iscrowd": 1},
    ],
}


# ConverSeg

CONVERSEG_ITEM = {
    "id": "0001",
    "image": "images/0001.jpg",
    "mask": "masks/0001.png",
    "prompt": "a rail",
    "concept": "affordances",
}


# MUSE and MMR

MUSE_IMAGE = {
    "id": 7,
    "width": SIZE[0],
    "height": SIZE[1],
    "coco_url": "http://images.cocodataset.org/train2017/7.jpg",
    "ann_list": [],
    "questions": ["what could one sit on?", "Which animal sleeps?"],
    "answers": [
        [
            {
                "id": 11,
                "bbox": [2, 1, 4, 3],
                "segmentation": [rectangle(2, 1, 6, 4)],
                "category_name": "chair",
                "rephrased_name": "the red chair",
            },
            {"id": 12, "bbox": [7, 4, 3, 3], "segmentation": [rectangle(7, 4, 10, 7)], "category_name": "sofa"},
        ],
        [{"id": 13, "bbox": [0, 0, 2, 2], "segmentation": [rectangle(0, 0, 2, 2)], "rephrased_name": "the cat"}],
    ],
}

MMR_IMAGE = {
    "file_name": "train2017/7.jpg",
    "coco_url": "http://images.cocodataset.org/train2017/7.jpg",
    "width": SIZE[0],
    "height": SIZE[1],
    "image_id": 7,
    "not_exhaustive_category_ids": [],
    "neg_category_ids": [],
    "questions": ["where does one hold it?"],
    "annotations": [],
    "answers": [
        [
            {
                "bbox": [2, 1, 4, 3],
                "segmentation": encode(box_mask(2, 1, 6, 4)),
                "image_id": 7,
                "category_name": "mug_handle",
                "category_id": 3,
                "sorted_category_id": 1,
            }
        ]
    ],
    "text_answers": ["By its {seg}."],
    "raw_answers": ["By its handle."],
}


# Label Studio


def brush_code(mask: np.ndarray, runs: bool = True) -> list[int]:
    """Encode a stroke as Label Studio's editor does: 8-bit values, lengths in 3, 4, 8 or 16 bits."""
    widths = (3, 4, 8, 16)
    values = np.repeat(mask.astype(int).ravel() * 255, 4)
    bits = f"{len(values):032b}{7:05b}" + "".join(f"{width - 1:04b}" for width in widths)
    start = 0
    while start < len(values):
        same = int(np.argmax(np.append(values[start:] != values[start], True)))
        count = min(same, 1 << 16) if runs else min(len(values) - start, 11)
        which = next(i for i, width in enumerate(widths) if count <= 1 << width)
        bits += f"{int(runs)}{which:02b}{count - 1:0{widths[which]}b}"
        bits += "".join(f"{v:08b}" for v in values[start : start + (1 if runs else count)])
        start += count
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def studio_region(kind: str, value: dict, label: str = "cat", **changes) -> dict:
    """Make a region of an annotation."""
    return {
        "id": "a1",
        "type": kind,
        "from_name": "tag",
        "to_name": "image",
        "original_width": SIZE[0],
        "original_height": SIZE[1],
        "image_rotation": 0,
        "value": value | {kind: [label]},
    } | changes


POLYGON = studio_region("polygonlabels", {"points": [[25, 25], [50, 25], [50, 75], [25, 75]]})

RECTANGLE = studio_region("rectanglelabels", {"x": 50, "y": 0, "width": 50, "height": 50, "rotation": 0})

BRUSH = studio_region("brushlabels", {"format": "rle", "rle": brush_code(box_mask(1, 1, 5, 3))}, "the sofa's left arm")


def studio_task(*regions: dict, id: int = 3, image: str = "/data/upload/1/cat.jpg") -> dict:
    """Make a task whose second annotation has these regions; the first was cancelled."""
    annotation = {"id": 1, "was_cancelled": False, "result": list(regions)}
    return {"id": id, "data": {"image": image}, "annotations": [{"was_cancelled": True, "result": []}, annotation]}


# ReasonSeg, in LISA's form


def lisa_shape(label: str, x0: float, y0: float, x1: float, y1: float) -> dict:
    """Make a rectangle whose last column and row are inside, as the published loader paints it."""
    points = [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
    return {"label": label, "labels": [label], "shape_type": "polygon", "points": points, "group_id": None, "flags": {}}


def lisa_annotation(*shapes: dict, text=("the thing to sit on",), is_sentence: bool = True) -> dict:
    """Make the annotation of an image."""
    return {"text": list(text), "is_sentence": is_sentence, "shapes": list(shapes)}


# REFER

REFER_IMAGE = "COCO_train2014_000000000042.jpg"

REFER_INSTANCES = {
    "info": {},
    "licenses": [],
    "images": [{"id": 42, "file_name": REFER_IMAGE, "width": SIZE[0], "height": SIZE[1], "license": 1}],
    "categories": [{"id": 17, "name": "cat", "supercategory": "animal"}, {"id": 18, "name": "dog"}],
    "annotations": [
        {
            "id": 900,
            "image_id": 42,
            "category_id": 17,
            "bbox": [2.0, 1.0, 4.0, 3.0],
            "segmentation": [rectangle(2, 1, 6, 3), rectangle(2, 2, 6, 4), [1.0, 1.0, 2.0, 2.0]],  # the last: 2 points
            "iscrowd": 0,
            "area": 12.0,
        },
        {
            "id": 901,
            "image_id": 42,
            "category_id": 18,
            "bbox": [7, 4, 3, 3],
            "segmentation": {"size": [8, 12], "counts": np.diff([0, *(60, 63, 68, 71, 76, 79), 96]).tolist()},
        },
        {  # refCLEF's way: RLEs in a list
            "id": 902,
            "image_id": 42,
            "category_id": 18,
            "bbox": [0, 0, 2, 2],
            "segmentation": [encode(box_mask(0, 0, 2, 2))],
        },
    ],
}


def refer_ref(ref_id: int, ann_id, texts: list[str], split: str = "val", **changes) -> dict:
    """Make a ref with these sentences."""
    sentences = [
        {"tokens": text.split(), "raw": text, "sent_id": 10 * ref_id + i, "sent": text} for i, text in enumerate(texts)
    ]
    return {
        "sent_ids": [s["sent_id"] for s in sentences],
        "file_name": REFER_IMAGE.replace(".jpg", f"_{ref_id}.jpg"),
        "ann_id": ann_id,
        "ref_id": ref_id,
        "image_id": 42,
        "split": split,
        "sentences": sentences,
        "category_id": 17,
    } | changes


REFER_REFS = [
    refer_ref(1, 900, ["the cat", "katze links 🐈"]),
    refer_ref(2, 901, ["dog on the right"], "testA"),
    refer_ref(3, 902, ["corner"]),
]


# RegionReasoner

REGION_DIALOGUE = {
    "image_id": 7,
    "image_path": "/somebody/coco/train2014/7.jpg",
    "conversational_turns": [
        {
            "question": "the man",
            "bboxes": [[2, 1, 6, 4], [7, 4, 10, 7]],
            "masks": [box_mask(2, 1, 6, 4).tolist(), encode(box_mask(7, 4, 10, 7))],
            "ann_ids": [3, 4],
        },
        {"question": "what <box>{context_bbox}</box> holds", "bboxes": [[0, 0, 2, 2]], "context_from_turn": 0},
        {"question": "the sky", "masks": [box_mask(0, 0, 12, 1).tolist()]},
    ],
}


# SegLLM

SEG_LLM_IMAGE = "coco/train2014/7.jpg"


def seg_llm_conversation(mark: str, picture: str = SEG_LLM_IMAGE) -> dict:
    """Make a conversation of one round, whose answer is the mark."""
    turns = [{"from": "human", "value": f"[IMAGE256:{picture}] Segment it."}, {"from": "gpt", "value": mark}]
    return {"task": "segmentation", "conversations": turns}


# Answers flagged on a server

FLAG_TURN = {
    "question": "the mug",
    "boxes": [[1, 1, 4, 4]],
    "points": [[[2, 2]]],
    "masks": [encode(box_mask(1, 1, 4, 4))],
}
FLAG = {
    "id": "f",
    "verdict": "good",
    "note": "",
    "policy": "p",
    "segmenter": "s",
    "image": "cat.jpg",
    "width": SIZE[0],
    "height": SIZE[1],
    "question": "the cup",
    "state": "found",
    "error": None,
    "think": "",
    "raw_text": "",
    "turns": [FLAG_TURN],
    "objects": [{"box": [1, 1, 4, 4], "points": [[2, 2]], "rle": FLAG_TURN["masks"][0]}],
}
