"""What every preset promises, on any response."""

import json

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rewards import PRESETS, PromptBoxes, get_rubric, score
from segzero.answer import Answer, Instance, render_answer
from segzero.errors import UserError
from segzero.frames import native, relative, stretch
from segzero.sample import Object, Sample

OURS = ("soft", "phrase", "mask", "refine", "dialogue", "dr2seg")
SUCCESSORS = ("dr_seg", "star", "swim", "genseg_r1", "lens")
TEACH_NOTHING_THERE = (*OURS, *SUCCESSORS)
OF_TEXT = {"thinking", "format", "non_repetition", "cites", "brevity"}  # terms that no object changes
MULTI = ("vision_reasoner", *TEACH_NOTHING_THERE)
FORMAT = {preset: "multi" if preset in MULTI else "seg_zero" for preset in PRESETS}
HIGHEST = {
    "seg_zero": 5, "seg_zero_strict": 5, "vision_reasoner": 7, "soft": 7, "phrase": 5, "mask": 8, "dialogue": 9,
    "refine": 7, "dr2seg": 10, "dr_seg": 7, "star": 11, "swim": 4, "genseg_r1": 4, "lens": 3,
}  # fmt: skip


def write(preset, instances, think="the mug stands left"):
    return render_answer(Answer(think, tuple(instances)), FORMAT[preset])


def moved(instance, dx, dy=0):
    x0, y0, x1, y1 = instance.box
    return Instance((x0 + dx, y0 + dy, x1 + dx, y1 + dy), tuple((x + dx, y + dy) for x, y in instance.points))


@st.composite
def scenes(draw, least=1, most=4):
    """Objects that don't overlap: each in its own cell of 200x200, with two points inside."""
    cells = draw(st.lists(st.integers(0, 15), min_size=least, max_size=most, unique=True))
    found = []
    for cell in cells:
        x, y = 210 * (cell % 4), 210 * (cell // 4)
        x0, y0 = x + draw(st.integers(0, 60)), y + draw(st.integers(0, 60))
        w, h = draw(st.integers(60, 130)), draw(st.integers(60, 130))
        points = tuple((x0 + draw(st.integers(0, w)), y0 + draw(st.integers(0, h))) for _ in range(2))
        found.append(Instance((x0, y0, x0 + w, y0 + h), points))
    return found


def sample_of(instances, size=(840, 840)):
    return Sample("s", "a.png", "the mugs", *size, objects=tuple(Object(i.box, i.points) for i in instances))


def total(preset, predicted, truth, size=(840, 840), frame=None):
    response = predicted if isinstance(predicted, str) else write(preset, predicted)
    return score(preset, response, sample_of(truth, size), frame=frame).total


@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=60, deadline=None)
@given(scene=scenes(), dx=st.integers(15, 20), sign=st.sampled_from([-1, 1]))
def test_perfect_over_jittered_over_wrong_over_malformed(preset, scene, dx, sign):
    scene = scene if preset in MULTI else scene[:1]
    perfect = total(preset, scene, scene)
    jittered = total(preset, [moved(i, sign * dx, dx) for i in scene], scene)
    wrong = total(
        preset, [Instance((835 - k, 838, 838 - k, 840), ((836 - k, 839),) * 2) for k in range(len(scene))], scene
    )
    right = write(preset, scene)
    malformed = [
        right.replace("]}", "}").replace("},", "}").replace('"', "'"),
        right.split("</answer>")[0].rstrip("]}"),
        right.replace("[", ""),
        "I see none.",
        "",
    ]
    assert perfect == get_rubric(preset).highest == HIGHEST[preset]
    assert perfect > jittered > wrong > max(total(preset, text, scene) for text in malformed)


@pytest.mark.parametrize("preset", MULTI)
@settings(max_examples=60, deadline=None)
@given(scene=scenes(), shifts=st.lists(st.tuples(*[st.integers(-80, 80)] * 2), max_size=5), data=st.data())
def test_the_order_of_objects_does_not_matter(preset, scene, shifts, data):
    predicted = [moved(scene[k % len(scene)], *shift) for k, shift in enumerate(shifts)]
    assume(all(x1 > 0 and y1 > 0 and x0 < 840 and y0 < 840 for x0, y0, x1, y1 in (i.box for i in predicted)))
    before = total(preset, predicted, scene)
    assert total(preset, data.draw(st.permutations(predicted)), scene) == pytest.approx(before)
    assert total(preset, predicted, data.draw(st.permutations(scene))) == pytest.approx(before)


@pytest.mark.parametrize("preset", MULTI)
@settings(max_examples=60, deadline=None)
@given(scene=scenes(), data=st.data(), shift=st.integers(-3, 3), copies=st.integers(1, 5))
def test_copies_never_gain(preset, scene, data, shift, copies):
    predicted = data.draw(st.lists(st.sampled_from(scene), min_size=1, unique=True))
    copy = moved(data.draw(st.sampled_from(predicted)), shift)
    assert total(preset, [*predicted, *[copy] * copies], scene) <= total(preset, predicted, scene) + 1e-9
    assert total(preset, [*scene, *[copy] * copies], scene) < HIGHEST[preset]


@pytest.mark.parametrize("side", [840, 841, 5000, 10**6])
@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=20, deadline=None)
@given(scene=scenes(), data=st.data())
def test_giant_boxes_never_gain(preset, scene, side, data):
    scene = scene if preset in MULTI else scene[:1]
    place = data.draw(st.integers(0, len(scene) - 1))
    giant = Instance((0, 0, side, side), scene[place].points)
    assert total(preset, [*scene[:place], giant, *scene[place + 1 :]], scene) < HIGHEST[preset]
    if preset in MULTI:
        assert total(preset, [*scene, giant], scene) < HIGHEST[preset]


PIECES = [
    *("<think>", "</think>", "<answer>", "</answer>", '[{"bbox_2d": ', '{"bbox": ', '"point_2d": ', '"points_1":'),
    *("[1,2,300,400]", "[5,6]", "[0,0,1e400,NaN]", "[[]]", "9" * 30, "-1", "null", "}", "]", ",", ".", "a. a."),
]


@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=200, deadline=None)
@given(
    text=st.one_of(st.text(st.characters(exclude_categories=())), st.lists(st.sampled_from(PIECES)).map("".join)),
    objects=st.integers(0, 2),
)
def test_any_text_scores_within_bounds(preset, text, objects):
    truth = [Instance((1, 2, 300, 400), ((5, 6), (50, 60))), Instance((400, 2, 700, 400), ((500, 6), (550, 60)))]
    rubric = get_rubric(preset)
    reward = score(preset, text, sample_of(truth[: objects if preset in MULTI else min(objects, 1)]))
    assert rubric.lowest <= reward.total <= rubric.highest
    for term in rubric.terms:
        assert term.low <= reward.terms[term.name] <= term.high


NUMBERS = st.one_of(st.floats(), st.integers(-(10**30), 10**30), st.sampled_from([0, 420, 840, 1e308, -1e308]))
LISTS = st.lists(NUMBERS, min_size=1, max_size=5)
BOXES = st.one_of(st.lists(NUMBERS, min_size=4, max_size=4), st.lists(NUMBERS, min_size=4, max_size=4).map(sorted))
POINTS = st.one_of(st.lists(NUMBERS, min_size=2, max_size=2), LISTS)


@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=60, deadline=None)
@given(
    predicted=st.lists(st.tuples(st.one_of(BOXES, LISTS), POINTS, POINTS), max_size=3),
    true=st.lists(st.sampled_from([(1, 2, 300, 400), (400, 2, 840, 840), (5, 5, 5, 5), (0, 7, 840, 7)]), max_size=3),
)
def test_any_numbers_score_within_bounds(preset, predicted, true):
    """NaN, infinity, boxes inside out and boxes without area among them."""
    keys = ("bbox_2d", "point_2d") if preset in MULTI else ("bbox", "points_1", "points_2")
    objects = [dict(zip(keys, values, strict=False)) for values in predicted]
    written = json.dumps(objects if preset in MULTI else (objects[:1] or [{}])[0])
    true = true if preset in MULTI else true[:1]
    truth = sample_of([Instance(box, (box[:2], box[2:])) for box in true])
    rubric = get_rubric(preset)
    reward = score(preset, f"<think>a mug</think><answer>{written}</answer>", truth)
    assert rubric.lowest <= reward.total <= rubric.highest
    for term in rubric.terms:
        assert term.low <= reward.terms[term.name] <= term.high


@pytest.mark.parametrize("preset", TEACH_NOTHING_THERE)
def test_nothing_there_can_be_learnt(preset):
    nothing, one = [], [Instance((100, 100, 200, 200), ((150, 150),))]
    assert total(preset, nothing, nothing) == HIGHEST[preset]
    false = score(preset, write(preset, one), sample_of(nothing))
    assert {false.terms[name] for name in false.terms.keys() - OF_TEXT} == {0}
    unreadable = "<think>no mug</think><answer>there is none</answer>"
    assert total(preset, unreadable, nothing) < false.total
    missed, elsewhere = total(preset, nothing, one), total(preset, [moved(one[0], 300)], one)
    assert missed < elsewhere or (missed == elsewhere and preset in ("star", "swim", "lens"))  # no term for presence


@pytest.mark.parametrize("preset", PRESETS)
def test_length_alone_earns_nothing(preset):
    scene = [Instance((100, 100, 200, 200), ((150, 150), (120, 120)))]
    predicted = [moved(scene[0], 30)]
    long = " ".join(f"word{k}" for k in range(2000))
    assert total(preset, write(preset, predicted, long), scene) <= total(preset, predicted, scene)


@pytest.mark.parametrize("frame", [stretch(840), stretch(420), native(56 * 56, 500_000), relative(1000)], ids=str)
@pytest.mark.parametrize("preset", PRESETS)
@settings(max_examples=20, deadline=None)
@given(scene=scenes(), width=st.integers(200, 2000), height=st.integers(200, 2000))
def test_the_truth_as_an_answer_scores_the_maximum(preset, frame, scene, width, height):
    size = (width, height)
    scene = [in_image(i, size) for i in (scene if preset in MULTI else scene[:1])]
    predicted = [in_frame(i, frame, size) for i in scene]
    got = total(preset, predicted, scene, size, frame)
    # Written in whole numbers, so that what is continuous loses a little.
    assert 0.9 * HIGHEST[preset] < got <= HIGHEST[preset] if preset in TEACH_NOTHING_THERE else got == HIGHEST[preset]


def in_image(instance, size):
    """From the 840 frame to an image of that size."""
    sx, sy = size[0] / 840, size[1] / 840
    x0, y0, x1, y1 = instance.box
    return Instance((x0 * sx, y0 * sy, x1 * sx, y1 * sy), tuple((x * sx, y * sy) for x, y in instance.points))


def in_frame(instance, frame, size):
    """As a policy writes it."""
    return Instance(frame.to_frame(instance.box, size), [frame.to_frame(point, size) for point in instance.points])


def test_in_a_dialogue_citing_is_one_ninth():
    """Beside what `mask` pays; without a reference it is a constant."""
    [cup] = scene = [Instance((100, 100, 200, 200), ((150, 150),))]
    prompt_boxes = PromptBoxes(referred=frozenset({(10, 20, 30, 40)}))
    for think, worth in (("beside [10, 20, 30, 40]", 1.0), ("beside it", 0.0)):
        text, truth = write("mask", [cup], think), sample_of(scene)
        assert score("dialogue", text, truth, prompt_boxes=prompt_boxes).total == total("mask", text, scene) + worth
        assert score("dialogue", text, truth).total == total("mask", text, scene) + 1.0


def test_names():
    assert set(HIGHEST) == set(PRESETS)
    assert {preset for preset, rubric in PRESETS.items() if rubric.needs_masks} == {
        *("mask", "refine", "dialogue", "dr2seg", "star", "swim", "genseg_r1", "lens")
    }
    ranked = {preset: rubric.rank_normalized for preset, rubric in PRESETS.items() if rubric.rank_normalized}
    assert ranked == {"soft": ("box_iou", "box_l1", "points"), "dr_seg": ("box_iou", "count", "points")}
    with pytest.raises(UserError, match="unknown reward preset 'seg_zro'; did you mean 'seg_zero'"):
        score("seg_zro", "", [])
