"""What the policy is told of earlier rounds, in each mode."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from segzero.dialogue.memory import MEMORIES, OLDER, get_memory
from segzero.dialogue.references import read_question
from segzero.errors import UserError
from segzero.frames import native, relative, stretch
from segzero.viz.overlay import MAX_DRAWN, draw_overlay

CUP, SPOON, PLATE = (10, 20, 60, 70), (5, 5, 15, 25), (40, 40, 90, 75)
GREY = Image.new("RGB", (100, 80), (90, 90, 90))


def prepare(mode, question, registry, frame=stretch(200), rounds=4, image=GREY):
    return get_memory(mode)(read_question(question, registry), registry, image, frame, rounds)


@pytest.mark.parametrize("mode", MEMORIES)
def test_a_question_without_references_is_asked_alone(make_registry, mode):
    prepared = prepare(mode, "the largest shape", make_registry([CUP], [SPOON]))
    assert (prepared.question, prepared.notes, prepared.image) == ("the largest shape", "", None)


@pytest.mark.parametrize(
    ("frame", "box", "point"),
    [
        (stretch(200), "[20, 50, 120, 175]", "[70, 113]"),
        (relative(1000), "[100, 250, 600, 875]", "[350, 563]"),
        (native(factor=20), "[10, 20, 60, 70]", "[35, 45]"),
    ],
)
def test_text_writes_in_the_policys_own_numbers(make_registry, frame, box, point):
    prepared = prepare("text", "its handle, beside [REF:1]", make_registry([CUP], [SPOON, PLATE]), frame)
    assert prepared.question.endswith(f" handle, beside <box>{box}</box>")
    assert prepared.question.startswith("<box>[") and "</box>'s handle" in prepared.question
    assert f'round 1, "question 1": <box>{box}</box> <point>{point}</point>' in prepared.notes.splitlines()
    assert prepared.image is None


def test_points_outside_a_region_are_not_told(make_registry):
    registry = make_registry([CUP])
    [region] = registry.regions
    corrected = registry.correct(replace(region, points=((1.0, 1.0), (30.0, 40.0)), labels=(0, 1)))
    assert "<point>[60, 100]</point>" in prepare("text", "it", corrected).notes


@pytest.mark.parametrize("mode", MEMORIES)
def test_a_long_dialogue_has_a_short_prompt(make_registry, mode):
    registry = make_registry(*[[CUP, SPOON]] * 100)
    lines = prepare(mode, "left of [REF:3]", registry).notes.splitlines()
    assert "rounds 1 to 84 are left out" in lines and len(lines) <= 4 + OLDER + 2
    assert 'round 96, "question 96": 2 found' in lines
    assert ('round 97, "question 97": 2 found' in lines) == (mode == "crop")


@pytest.mark.parametrize("mode", MEMORIES)
def test_states_are_told_apart(make_registry, mode):
    prepared = prepare(mode, "what is near [REF:1] or [REF:2]", make_registry([CUP], [], None))
    assert 'round 2, "question 2": nothing there' in prepared.notes
    assert 'round 3, "question 3": no answer' in prepared.notes
    assert ("<box>[]</box>" if mode == "text" else "nothing (round 2 found nothing)") in prepared.question


def test_marks_draw_what_is_meant_and_the_last_rounds(make_registry):
    registry = make_registry([CUP], [PLATE], [SPOON])
    prepared = prepare("marks", "left of [REF:1]", registry, rounds=1)
    assert prepared.question == "left of the object marked 1 in the second image"
    assert prepared.image.size == (200, 200)  # as large as the policy sees images
    changed = np.asarray(prepared.image).std(axis=2) > 5  # the picture is grey
    assert changed[100, 40] and changed[30, 20]  # inside the cup and the spoon
    assert not changed[150, 170]  # inside the plate, whose round is older
    assert 'round 3, "question 3": mark 3' in prepared.notes


def test_marks_are_the_numbers_of_the_instances(make_registry):
    registry = make_registry([CUP], [PLATE], [SPOON])
    alone = prepare("marks", "left of it", registry, rounds=1)
    assert alone.question == "left of the object marked 3 in the second image"
    drawn = draw_overlay(GREY, [registry.region(3).instance], (200, 200))
    unnumbered = replace(registry.region(3).instance, number=None)
    assert (np.asarray(drawn) != draw_overlay(GREY, [unnumbered], (200, 200))).any()


def test_more_than_can_be_marked_is_refused(make_registry):
    registry = make_registry([CUP] * 101, [SPOON] * 101)
    with pytest.raises(UserError, match=f"202 instances; at most {MAX_DRAWN} can be marked"):
        prepare("marks", "[REF:1] and [REF:2]", registry)
    assert "marked 1, 2, " in prepare("marks", "[REF:1]", registry).question


def test_a_crop_shows_the_region_with_a_margin(make_registry):
    picture = Image.fromarray(np.indices((80, 100)).sum(0).astype(np.uint8)).convert("RGB")
    frame = native(min_pixels=1, factor=1)  # resizes nothing
    prepared = prepare("crop", "what is printed on it", make_registry([(20, 20, 60, 60)]), frame, image=picture)
    assert prepared.question == "what is printed on the object shown in the second image"
    assert prepared.image.size == (65, 52)  # the height is 40 and 15 % on either side, the shape is the image's
    shown = np.asarray(prepared.image)
    assert (shown[0, 0, 0], shown[-1, -1, 0]) == (14 + 8, 65 + 72)


@pytest.mark.parametrize("box", [(0, 0, 100, 1), (99, 0, 100, 80), (99, 79, 100, 80), (0, 0, 100, 80), (0, 0, 1, 1)])
def test_crops_keep_to_the_image_and_its_shape(make_registry, box):
    width, height = prepare("crop", "its end", make_registry([box]), native(min_pixels=1, factor=1)).image.size
    assert 8 <= height <= 80 and width == round(height * 1.25)


def test_several_crops_stand_side_by_side(make_registry):
    registry = make_registry([(10, 10, 30, 70)], [(50, 10, 90, 30)])
    one = prepare("crop", "left of [REF:1]", registry, native(min_pixels=1, factor=1))
    both = prepare("crop", "between [REF:1] and [REF:2], not [REF:1]", registry, native(min_pixels=1, factor=1))
    assert "2 parts of it from left to right" in both.notes and "parts" not in one.notes
    assert both.question.startswith(
        "between the object shown in part 1 of the second image and the object shown in part 2"
    )
    assert both.question.endswith("not the object shown in part 1 of the second image")
    assert one.image.size < both.image.size == (100, 80)
    dark = np.asarray(both.image).max(axis=2) < 200
    assert dark[40, :48].all() and not dark[40, 49] and dark[40, 50:98].all() and not dark[0].any()


def test_an_unknown_mode_is_refused():
    with pytest.raises(UserError, match="unknown memory mode 'mark'; did you mean 'marks'"):
        get_memory("mark")
