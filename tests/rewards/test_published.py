"""The presets of Seg-Zero and VisionReasoner give what the published functions give.

The numbers here, and those in published_scores.json (responses mutated at random), were computed by the
published functions themselves; `benchmarks/reward_speed.py --published` compares with a checkout again.
"""

import json
import time
from pathlib import Path

import pytest

from rewards import read_case, score
from rewards.published import objects_accuracy, objects_format, one_box_iou
from segzero.errors import UserError
from segzero.frames import relative, stretch
from segzero.sample import Object, Sample

SCORES = [json.loads(line) for line in Path(__file__).with_name("published_scores.jsonl").read_text().splitlines()]

ONE = "<box>(100,100),(300,300)</box><points>(150,150),(250,250)</points>"
GOOD = '{"bbox": [100,100,300,300], "points_1": [150,150], "points_2": [250,250]}'
SINGLE = [  # answer, seg_zero's format, IoU, L1 and points, seg_zero_strict's
    (GOOD, "1111", "1111"),
    (GOOD.replace("150,150", "250,250", 1), "1111", "1111"),  # the same point twice: 71 px off on average
    ('{"bbox": [100,100,300,300], "points_1": [250,250], "points_2": [150,150]}', "1111", "1111"),  # other order
    ('{"bbox": [109,109,309,309], "points_1": [150,150], "points_2": [250,250]}', "1111", "1111"),  # 9 px off
    ('{"bbox": [110,110,310,310], "points_1": [150,150], "points_2": [250,250]}', "1101", "1101"),  # 10 px off
    ('{"bbox": [100,100,300,200], "points_1": [150,150], "points_2": [250,180]}', "1101", "1101"),  # IoU 101/201
    ('{"bbox": [100,100,300,199], "points_1": [150,150], "points_2": [250,180]}', "1001", "1001"),  # IoU 100/201
    ('{"bbox": [100,100,300,300], "points_1": [90,150], "points_2": [250,250]}', "1110", "1110"),  # point outside
    ('{"bbox": [300,300,100,100], "points_1": [150,150], "points_2": [250,250]}', "1000", "1000"),  # inverted
    ('{"BBox_2d": [100,100,300,300], "my_points": [150,150], "points_b": [250,250]}', "1111", "0000"),
    ('{"bbox": [100,100,300,300], "point_1": [150,150], "point_2": [250,250]}', "1110", "0110"),  # no "points"
    ('{"bbox": [100,100,300,300], "points_1": [150,150]}', "0110", "0110"),
    ('{"bbox": "1234", "points_1": "12", "points_2": "34"}', "1000", "0000"),  # four characters are four things
    ('{"bbox": [100,100,300,300], "points_1": "99", "points_2": ["150","200"]}', "1110", "0110"),
    ('{"bbox": [100,100,300,300], "points_1": ["150","150"], "points_2": [250.9,250]}', "1111", "1111"),
    ('{"bbox": [100,100,300,300,1], "points_1": [150,150], "points_2": [250,250]}', "0000", "0000"),
    ('{"bbox": [NaN,100,300,300], "points_1": [150,150], "points_2": [250,250]}', "1000", "1000"),
    ('{"bbox": [100,NaN,300,300], "points_1": [150,150], "points_2": [250,250]}', "1000", "1000"),
    (GOOD.replace('"', "'"), "0000", "0000"),  # the prompt's own example is written like this
    ("{}" + GOOD, "1111", "1111"),  # "{}" is no object: there is nothing inside
    ("{1}" + GOOD, "0000", "0000"),
    ("[" + GOOD + "]", "1111", "1111"),
    ("[]", "0000", "0000"),
    ("", "0000", "0000"),
]


@pytest.mark.parametrize(("answer", "loose", "strict"), SINGLE)
def test_seg_zero_terms(answer, loose, strict):
    response = f"<think>the mug</think>\n<answer>{answer}</answer>"
    for preset, wanted in (("seg_zero", loose), ("seg_zero_strict", strict)):
        got = score(preset, response, ONE).terms
        assert got.pop("thinking") == 1
        assert "".join(f"{value:.0f}" for value in got.values()) == wanted, (preset, got)


THREE = json.dumps([
    {"bbox_2d": [0, 0, 99, 99], "point_2d": [50, 50]},
    {"bbox_2d": [200, 200, 399, 399], "point_2d": [300, 300]},
    {"bbox_2d": [500, 0, 599, 599], "point_2d": [550, 300]},
])  # fmt: skip
FIRST = '{"bbox_2d": [0,0,99,99], "point_2d": [50,50]}'
SECOND = '{"bbox_2d": [200,200,399,399], "point_2d": [300,300]}'
THIRD = '{"bbox_2d": [500,0,599,599], "point_2d": [550,300]}'
MULTI = [  # answer, format, accuracy
    (f"[{FIRST},{SECOND},{THIRD}]", 2, 3),
    (f"[{THIRD},{FIRST},{SECOND}]", 2, 3),
    (f"[{FIRST},{SECOND}]", 2, 2),
    (f"[{FIRST},{FIRST},{FIRST},{SECOND},{THIRD}]", 2, 9 / 5),
    (f"[{FIRST},{SECOND},{THIRD.replace('550,300', '550,329')}]", 2, 3),
    (f"[{FIRST},{SECOND},{THIRD.replace('550,300', '550,330')}]", 2, 8 / 3),  # 30 px off
    (f"[{FIRST},{SECOND},{THIRD.replace('550,300', '550,700')}]", 2, 8 / 3),
    (f"[{FIRST},{SECOND},{THIRD.replace('0,599', '0,630')}]", 2, 3),  # one edge of four 31 px off
    (f"[{FIRST},{SECOND},{THIRD.replace('0,599', '0,640')}]", 2, 8 / 3),  # 41 px off
    (
        f'[{FIRST},{SECOND},{{"bbox_2d": [500,0,599], "point_2d": [550,300]}}]',
        2 / 3 + 2 / 3 + 1 / 3,
        0,
    ),  # one bad box loses all
    (f'[{FIRST},{SECOND},{{"bbox_2d": [500,0,599,599]}}]', 2 / 3 + 2 / 3 + 1 / 3, 0),
    (f"[{FIRST},null,{SECOND}]", 2 / 3, 0),  # what stands before the null keeps its format
    (f'[{FIRST},"bbox_2d"]', 1, 0),
    (f"[{FIRST},[{SECOND}]]", 1, 0),
    (FIRST, 0, 0),  # no list
    ('[{"bbox_2d": ["0","0","99","99"], "point_2d": [50,50]}]', 2, 0),
    ('[{"bbox_2d": [NaN,0,99,99], "point_2d": [50,50]}]', 2, 0),
    ('[{"bbox_2d": [true,true,true,true], "point_2d": [1,1]}]', 2, 0),
    ('[{"bbox_2d": [0,0,1e400,1e400], "point_2d": [50,50]}]', 2, 1 / 3),  # infinity holds the point
    ('[{"bbox_2d": [0,0,4294967295,4294967295], "point_2d": [9,9]}]', 2, 1 / 3),  # 2**64 wraps round to no area
    ('[{"bbox_2d": [0,0,99,49], "point_2d": [50,45]}]', 2, 1 / 3),  # an IoU of 1/2 is not above it
    ("[]", 0, 0),
    ("{}", 0, 0),
    ("null", 0, 0),
    ("", 0, 0),
    ("[" * 3000, 0, 0),
    (f"```json\n[{FIRST}]\n```", 0, 0),
]


@pytest.mark.parametrize(("answer", "format", "accuracy"), MULTI)
def test_vision_reasoner_terms(answer, format, accuracy):
    got = score("vision_reasoner", f"<think>three</think><answer> {answer}\n</answer>", THREE).terms
    assert got == {"thinking": 1, "format": format, "accuracy": accuracy, "non_repetition": 1}


def test_whatever_was_mutated_scores_as_published():
    assert len(SCORES) >= 150
    for row in SCORES:
        assert score(row["preset"], row["response"], row["truth"]).total == row["total"], row


def test_nothing_there_cannot_be_learnt():
    predicted = "<think>no mug</think><answer>[]</answer>"
    assert score("vision_reasoner", predicted, "[]").total == 2  # thinking and non-repetition
    assert score("seg_zero", predicted, []).total == 1


def test_pixels_are_those_of_the_840_frame():
    sample = Sample("s", "cat.jpg", "the cat", 420, 84, objects=(Object((100, 10, 200, 50), ((150, 30),)),))
    predicted = '<think></think><answer>[{{"bbox_2d": [{}], "point_2d": [300,300]}}]</answer>'
    assert score("vision_reasoner", predicted.format("200,100,400,500"), sample).total == 7
    # 9 px off in x and y of the frame is 4.5 and 0.9 px of the image
    assert score("vision_reasoner", predicted.format("209,109,409,509"), sample).total == 7
    assert score("vision_reasoner", predicted.format("210,110,410,510"), sample).total == 6


@pytest.mark.parametrize("frame", [stretch(840), stretch(420), relative(1000)])
def test_responses_of_any_frame(frame):
    sample = Sample("s", "cat.jpg", "a cat", 640, 480, objects=(Object((64, 48, 320, 240), ((160, 96), (200, 192))),))
    [truth] = sample.objects
    box, a, b = (frame.to_frame(v, sample.size) for v in (truth.box, *truth.points))
    multi = f'<think>cat</think><answer>[{{"bbox_2d": {box}, "point_2d": {a}}}]</answer>'
    assert score("vision_reasoner", multi, sample, frame=frame).total == 7
    single = f'<think>cat</think><answer>{{"bbox": {box}, "points_1": {b}, "points_2": {a}}}</answer>'
    for preset in ("seg_zero", "seg_zero_strict"):
        assert score(preset, single, sample, frame=frame).total == 5
    strings = multi.replace(str(box), '["64","48","320","240"]')
    assert objects_accuracy(read_case(strings, sample, frame=frame)) == 0


def test_one_true_point_counts_as_two():
    truth = [{"bbox_2d": [100, 100, 300, 300], "point_2d": [200, 200]}]
    assert score("seg_zero", f"<think></think><answer>{GOOD}</answer>", truth).total == 5
    far = GOOD.replace("150,150", "101,101").replace("250,250", "299,299")
    assert score("seg_zero", f"<think></think><answer>{far}</answer>", truth).terms["points"] == 0


def test_more_than_120_objects_are_cut():
    boxes = [{"bbox_2d": [7 * i, 0, 7 * i + 5, 5], "point_2d": [7 * i, 0]} for i in range(130)]
    case = read_case(f"<answer>{json.dumps(boxes)}</answer>", boxes)
    assert objects_accuracy(case) == 3
    assert objects_format(case) == pytest.approx(2)
    assert objects_accuracy(read_case(f"<answer>{json.dumps(boxes[:60])}</answer>", boxes)) == 1.5


def test_truth_that_a_preset_cannot_use_is_a_clear_error():
    with pytest.raises(UserError, match="score one object, this truth has 3"):
        score("seg_zero", "", THREE)
    for preset in ("seg_zero", "vision_reasoner"):
        with pytest.raises(UserError, match="a true object has no point"):
            score(preset, "", [{"bbox_2d": [1, 2, 3, 4]}])


@pytest.mark.parametrize(
    "hostile",
    [
        "{" * 1_000_000,
        "{}" * 500_000,
        "{}" * 400_000 + "}",
        "<answer>" * 120_000,
        "<think>" + "</think><answer>" * 60_000,
        "<think></think>" + " " * 1_000_000 + "x",
        "<answer>" + " " * 1_000_000 + "x",
        "<answer>" + "[" * 1_000_000 + "</answer>",
        "<think>" * 140_000 + "</answer>",
        "a." * 500_000,
    ],
    ids=lambda text: text[:20],
)
def test_a_megabyte_takes_no_second(hostile):
    begin = time.process_time()
    for preset in ("seg_zero", "seg_zero_strict", "vision_reasoner"):
        assert score(preset, hostile, ONE).total <= 2
    assert time.process_time() - begin < 1


def test_areas_count_the_last_pixel():
    truth = [{"bbox_2d": [0, 0, 10, 0], "point_2d": [0, 0]}]  # one row of pixels
    assert objects_accuracy(read_case('<answer>[{"bbox_2d": [0,0,10,0], "point_2d": [0,0]}]</answer>', truth)) == 3
    assert one_box_iou(read_case('{"bbox": [0,0,10,0]}', truth)) == 0  # Seg-Zero wants more than a row in common
