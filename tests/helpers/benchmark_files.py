"""A data root with a small fixture of every benchmark of configs/eval, each in the format that it is published in."""

import pickle
from pathlib import Path

from datasets import Dataset, Features, Image, List, Value

from segzero.data.parquet import to_parquet
from segzero.masks import encode
from segzero.tiny.compositional import compositional_samples
from segzero.tiny.questions import HELD_OUT_SEED
from tests.helpers.published_records import MMR_IMAGE, MUSE_IMAGE
from tests.helpers.reader_files import SIZE, box_mask, jpeg, mask_bytes, png, rectangle, write_json

WIDTH, HEIGHT = SIZE
COCO_NAME = "COCO_train2014_000000000042.jpg"
PICTURE = "coco/train2014/7.jpg"


def write_all(root: Path) -> Path:
    """Every benchmark's data below one root, laid out as configs/eval says."""
    for write in (_reason_seg, _refer, _grefcoco, _hub, _converseg, _coco, _dialogues, _scenes, _multi_target):
        write(root)
    return root


def _reason_seg(root: Path) -> None:
    def shape(label: str, x0: int, y0: int, x1: int, y1: int) -> dict:
        return {"label": label, "shape_type": "polygon", "points": [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]}

    for split in ("val", "test"):
        folder = root / "reason_seg/ReasonSeg" / split
        jpeg(folder / "1.jpg")
        shapes = [shape("target", 2, 1, 5, 4), shape("ignore", 8, 1, 9, 4), shape("flag", 0, 0, 1, 1)]
        texts = ["the thing to sit on", "what holds one up"]
        write_json(folder / "1.json", {"text": texts, "is_sentence": True, "shapes": shapes})


def _instances(*images: dict) -> dict:
    shared = {"image_id": 42, "iscrowd": 0}
    return {
        "images": [*images] or [{"id": 42, "file_name": COCO_NAME, "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
        "annotations": [
            shared | {"id": 900, "category_id": 17, "bbox": [2, 1, 4, 3], "segmentation": [rectangle(2, 1, 6, 4)]},
            shared
            | {"id": 901, "category_id": 18, "bbox": [7, 4, 3, 3], "segmentation": encode(box_mask(7, 4, 10, 7))},
        ],
    }


def _ref(ref_id: int, ann_id: int | list[int], text: str, split: str) -> dict:
    sentences = [{"tokens": text.split(), "raw": text, "sent_id": ref_id, "sent": text}]
    return {"ref_id": ref_id, "ann_id": ann_id, "image_id": 42, "split": split, "sentences": sentences}


def _refer(root: Path) -> None:
    for name, by, splits in (
        ("refcoco", "unc", ("val", "testA", "testB")),
        ("refcoco+", "unc", ("val", "testA", "testB")),
        ("refcocog", "umd", ("val", "test")),
    ):
        folder = root / "refer_seg" / name
        write_json(folder / "instances.json", _instances())
        refs = [_ref(number, 900, "the cat", split) for number, split in enumerate(splits)]
        (folder / f"refs({by}).p").write_bytes(pickle.dumps(refs, protocol=2))
    jpeg(root / "refer_seg/images/mscoco/images/train2014" / COCO_NAME)


def _grefcoco(root: Path) -> None:
    folder = root / "refer_seg/grefcoco"
    write_json(folder / "instances.json", _instances())
    refs = [
        _ref(10 * number + at, ann_id, text, split)
        for number, split in enumerate(("val", "testA", "testB"))
        for at, (ann_id, text) in enumerate((([900, 901], "both animals"), ([-1], "the bird")))
    ]
    write_json(folder / "grefs(unc).json", refs)


def _hub(root: Path) -> None:
    common = {"image": Image(), "text": Value("string"), "img_height": Value("int64"), "img_width": Value("int64")}
    ids = {"image_id": Value("string"), "ann_id": Value("string")}
    mask = {"mask": List(List(Value("bool")))}
    row = {"image": {"bytes": png(), "path": None}, "text": "the cat", "img_height": HEIGHT, "img_width": WIDTH}
    row |= {"image_id": "42", "ann_id": "900"}
    masked = row | {"mask": box_mask(2, 1, 6, 4).tolist()}
    nothing = row | {"text": "the bird", "mask": box_mask(0, 0, 0, 0).tolist()}
    for name in (
        "ReasonSeg_val", "ReasonSeg_test", "refcoco_val", "refcoco_testA", "refcocoplus_val", "refcocoplus_testA",
        "refcocog_val", "refcocog_test", "refcoco_val_all",
    ):  # fmt: skip
        _parquet(root, name, [masked], Features(common | ids | mask))
    _parquet(root, "grefcoco_val_all", [masked, nothing], Features(common | ids | mask))
    boxes = row | {"bbox": [[2.0, 1.0, 6.0, 4.0]], "cat_id": 17}
    where = {"bbox": List(List(Value("float64"))), "cat_id": Value("int64")}
    _parquet(root, "coco_val", [boxes], Features(common | ids | where))
    for name in (
        "ReasonSeg_refine", "MUSE_val", "MUSE_test_few", "MUSE_test_many", "MMR_val", "MMR_test_mixed", "MMR_test_obj",
        "MMR_test_part",
    ):  # fmt: skip
        _parquet(root, name, [masked], Features(common | ids | mask), "sj9909")
    for name in ("ReasonSegX_val", "ReasonSegX_test"):
        kinds = [masked | {"reasoning_type": "C/R"}, nothing | {"reasoning_type": "P/F"}]
        features = Features(common | ids | mask | {"reasoning_type": Value("string")})
        _parquet(root, name, kinds, features, "sj9909")
    for name in ("counting_pixmo_validation", "counting_pixmo_test", "counting_countbench"):
        _parquet(root, name, [row | {"count": 2}], Features(common | ids | {"count": Value("int64")}))


def _parquet(root: Path, name: str, rows: list[dict], features: Features, owner: str = "Ricky06662") -> None:
    folder = root / owner / name / "data"
    folder.mkdir(parents=True)
    Dataset.from_list(rows, features=features).to_parquet(str(folder / "test-00000-of-00001.parquet"))


def _converseg(root: Path) -> None:
    features = Features(
        {
            "id": Value("string"),
            "image": Image(),
            "mask": Image(),
            "prompt": Value("string"),
            "concept": Value("string"),
        }
    )
    row = {"id": "0001", "prompt": "the cat", "concept": "entities", "image": {"bytes": png(), "path": None}}
    row["mask"] = {"bytes": mask_bytes(box_mask(2, 1, 6, 4)), "path": None}
    folder = root / "aadarsh99/ConverSeg"
    folder.mkdir(parents=True)
    for split in ("sam_seeded", "human_annotated"):
        file = folder / f"{split}-00000-of-00001.parquet"
        Dataset.from_list([row], features=features).to_parquet(str(file))


def _coco(root: Path) -> None:
    image = {"id": 42, "width": WIDTH, "height": HEIGHT}
    write_json(root / "coco/annotations/instances_val2017.json", _instances(image | {"file_name": "42.jpg"}))
    jpeg(root / "coco/val2017/42.jpg")
    address = "http://images.example.org/val2017/42.jpg"
    lvis = _instances(image | {"coco_url": address, "neg_category_ids": [19], "not_exhaustive_category_ids": []})
    lvis["categories"].append({"id": 19, "name": "stuffed_bear"})
    for annotation in lvis["annotations"]:
        annotation.pop("iscrowd")
    write_json(root / "lvis/lvis_v1_val.json", lvis)


def _scenes(root: Path) -> None:
    to_parquet(compositional_samples(1, HELD_OUT_SEED), root / "compositional.parquet")


def _multi_target(root: Path) -> None:
    jpeg(root / "refer_seg/images/mscoco/images/train2017/7.jpg")
    for name in ("val", "test_less", "test_many"):
        write_json(root / f"muse/muse_{name}.json", [MUSE_IMAGE])
    for name in ("val", "test_mixed", "test_obj_only", "test_part_only"):
        write_json(root / f"MMR/MMR_{name}.json", [MMR_IMAGE])


def _dialogues(root: Path) -> None:
    segllm = root / "segllm"
    masks = {"annotations": [{"id": 3, "segmentation": [rectangle(2, 1, 6, 4)]}]}
    for name in ("refcoco", "refcoco+", "refcocog"):
        write_json(segllm / "annotations_folder" / name / "instances.json", masks | {"images": []})
        turns = [
            {"from": "human", "value": f"[IMAGE256:{PICTURE}] the cat", "ind": [-1]},
            {"from": "gpt", "value": f"[MASK-DECODE:{PICTURE}|{name}|3]"},
            {
                "from": "human",
                "value": f"[MASK-ENCODE:{PICTURE}|{name}|3][BOX-ENCODE:{PICTURE}|{name}|3] again",
                "ind": [1],
            },
            {"from": "gpt", "value": f"[MASK-DECODE:interactional:3:3:{PICTURE}:{name}]"},
        ]
        conversation = {"task": "referential", "base": "coco", "conv_id": "c7", "conversations": turns}
        write_json(segllm / f"conversations_folder/all_data_mix_val/mr_{name}_val.json", [conversation])
    jpeg(segllm / "images_folder" / PICTURE)
    mask = box_mask(2, 1, 6, 4).tolist()
    dialogue = {
        "image_id": 7,
        "image_path": "/somebody/coco/train2014/7.jpg",
        "conversational_turns": [
            {"question": "the cat", "bboxes": [[2, 1, 6, 4]], "masks": [mask], "ann_ids": [3]},
            {
                "question": "what <box>{context_bbox}</box> holds",
                "bboxes": [[2, 1, 6, 4]],
                "masks": [mask],
                "context_from_turn": 0,
            },
        ],
    }
    for name in ("refcocoplus", "refcocog"):
        write_json(root / f"regiondial/{name}.json", [dialogue])
    jpeg(root / "regiondial/images/7.jpg")
