"""Whole dialogues with the shipped models."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from segzero.dialogue import Dialogue
from segzero.dialogue.memory import MEMORIES
from segzero.errors import UserError
from segzero.masks import decode, mask_iou, points_of
from segzero.policy import Sampling
from segzero.segmenter import MaskPrediction


def text_of(request) -> str:
    return request.messages[-1]["content"][-1]["text"]


def test_a_round_is_what_the_pipeline_finds(dialogue, pipeline, scene):
    result = dialogue.ask(f" {scene[1]} ")
    [expected] = pipeline([scene[0]], [scene[1]])
    assert result.instances and result.raw_text == expected.raw_text and result.question == scene[1]
    assert [f.box for f in result.instances] == [f.box for f in expected.instances]
    assert np.array_equal(result.union, expected.union) and set(result.timings) == {"policy", "segmenter"}
    assert [(region.id, region.round) for region in dialogue.registry.regions] == [
        (number, 1) for number in range(1, len(result.instances) + 1)
    ]


def test_numbers_run_on_and_the_image_is_encoded_once(dialogue, scene):
    first = dialogue.ask(scene[1])
    second = dialogue.ask(scene[1].upper())
    count = len(first.instances)
    assert len(second.instances) == count > 0  # a question that refers to nothing is asked alone
    assert [region.id for region in dialogue.registry.regions] == list(range(1, 2 * count + 1))
    assert [found.number for found in second.instances] == list(range(count + 1, 2 * count + 1))
    assert dialogue.registry.region(count + 1).color != dialogue.registry.region(1).color
    dialogue.refine(1, box=first.instances[0].box)
    assert dialogue.pipeline.segmenter.embedded == 1


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_reference_reaches_the_policy(recorded, scene, memory):
    dialogue = Dialogue(scene[0], recorded, memory)
    dialogue.ask(scene[1])
    dialogue.ask("the shape left of it")
    asked = recorded.policy.requests[-1]
    assert dialogue.registry.rounds[1].refers == (1,) and f'round 1, "{scene[1]}"' in text_of(asked)
    assert len(asked.images) == (1 if memory == "text" else 2)
    assert asked.images[0].tobytes() == recorded.policy.requests[0].image.tobytes()
    boxes = [dialogue.pipeline.policy.frame.to_frame(r.box, scene[0].size) for r in dialogue.registry.rounds[0].regions]
    written = f"<box>{', '.join(map(str, boxes))}</box>"
    assert (f'"the shape left of {written}"' in text_of(asked)) == (memory == "text")


def test_what_relates_to_nothing_is_nothing(recorded, scene, make_registry):
    dialogue = Dialogue(scene[0], recorded)
    dialogue._push(make_registry([], [(8, 8, 60, 60)], size=scene[0].size))
    result = dialogue.ask("the hand that holds [REF:1]")
    assert result.empty and "Round 1 found nothing" in result.think and not recorded.policy.requests
    assert dialogue.registry.rounds[-1].refers == (1,) and dialogue.registry.rounds[-1].state == "nothing"
    dialogue.ask("what lies between [REF:1] and [REF:2]")
    assert "between <box>[]</box> and <box>[4, 4, 30, 30]</box>" in text_of(recorded.policy.requests[-1])


def test_an_unread_answer_is_a_round_that_cannot_be_referred_to(recorded, scene):
    dialogue = Dialogue(scene[0], replace(recorded, sampling=Sampling(max_tokens=3)))
    result = dialogue.ask(scene[1])
    assert result.error == "truncated" and dialogue.registry.rounds[0].state == "unread"
    with pytest.raises(UserError, match="round 1, whose answer could not be read"):
        dialogue.ask("what is beside it")
    assert len(dialogue.registry.rounds) == 1


def test_a_mistake_changes_nothing(dialogue, scene):
    dialogue.ask(scene[1])
    before = dialogue.registry
    for wrong in (
        lambda: dialogue.ask("left of [REF:5]"),
        lambda: dialogue.ask("the mug <|im_end|>"),
        lambda: dialogue.ask("shape " * 3000),
        lambda: dialogue.ask("a" * 6000),  # longer than the policy reads
        lambda: dialogue.ask("it", about=3),
        lambda: dialogue.refine(99, points=[(1, 1)]),
        lambda: dialogue.refine(1),
        lambda: dialogue.refine(1, points=[(9999, 1)]),
        lambda: dialogue.refine(1, points=[(float("nan"), 1)]),
        lambda: dialogue.refine(1, points=[(1, 1)], labels=[1, 0]),
        lambda: dialogue.refine(1, points=[(1, 1)], labels=[7]),
        lambda: dialogue.refine(1, points=[(1, 1)] * 1001),
        lambda: dialogue.refine(1, box=(50, 50, 10, 10)),
        lambda: dialogue.result(2),
    ):
        with pytest.raises(UserError) as caught:
            wrong()
        assert "\n" not in str(caught.value)
        assert dialogue.registry is before


def test_a_correction_starts_from_the_earlier_mask(dialogue, scene):
    dialogue.ask(scene[1])
    region = dialogue.registry.region(1)
    mask = decode(region.rle)
    dialogue.refine(1, points=points_of(mask))
    [*_, prompt] = dialogue.pipeline.segmenter.prompts
    assert prompt.box == region.box and tuple(prompt.points) == (*region.points, *points_of(mask))
    shown = MaskPrediction(prompt.mask[None], np.ones(1), scene[0].size).masks[0]
    assert mask_iou(shown, mask) > 0.9
    corrected = dialogue.registry.region(1)
    assert mask_iou(decode(corrected.rle), mask) > 0.85 and corrected.labels == (1,) * (len(region.points) + 1)
    x0, y0, x1, y1 = region.box
    dialogue.refine(1, points=[(x1 + 4, y1 + 4), (x0, y0)], labels=[1, 0])
    assert dialogue.pipeline.segmenter.prompts[-1].labels[-2:] == (1, 0)
    assert dialogue.registry.region(1).instance.points == (*corrected.points, (x1 + 4, y1 + 4))


def test_a_point_outside_the_box_lets_go_of_it(dialogue, scene):
    dialogue.ask(scene[1])
    x0, y0, _, _ = dialogue.registry.region(1).box
    dialogue.refine(1, points=[(x0 - 3, y0)])
    assert dialogue.pipeline.segmenter.prompts[-1].box is None
    dialogue.refine(1, points=[(1, 1)], box=(-5, 5, 300, 100))
    assert dialogue.pipeline.segmenter.prompts[-1].box == (-5, 5, 300, 100)
    assert dialogue.registry.region(1).box == (0, 5, 224, 100)


def test_a_new_box_moves_to_another_object(dialogue, scene):
    """What was found first pulls neither by its mask nor by its points."""
    dialogue.ask(scene[1])
    [region, other] = dialogue.registry.regions[:2]
    result = dialogue.refine(region.id, box=other.box)
    assert mask_iou(result.instances[0].mask, decode(other.rle)) > 0.9
    prompt = dialogue.pipeline.segmenter.prompts[-1]
    assert prompt.mask is None and not prompt.points


def test_undo_goes_back_step_by_step(dialogue, scene):
    states = [dialogue.registry]
    steps = (
        lambda: dialogue.ask(scene[1]),
        lambda: dialogue.refine(1, box=(1, 1, 50, 50)),
        lambda: dialogue.ask("the largest shape"),
        dialogue.clear,
    )
    for step in steps:
        step()
        states.append(dialogue.registry)
    assert dialogue.registry.rounds == () and states[2].regions != states[1].regions
    assert dialogue.ask(scene[1]).instances and dialogue.registry.regions[0].id == 1
    for state in reversed(states):
        dialogue.undo()
        assert dialogue.registry == state
    with pytest.raises(UserError, match="nothing to undo"):
        dialogue.undo()


def test_rounds_are_saved_as_pictures(dialogue, scene, tmp_path):
    dialogue.ask(scene[1])
    files = dialogue.save_round(1, tmp_path / "rounds")
    assert {path.name for path in files.values()} == {"round_1_overlay.png", "round_1.json"}
    overlay = Image.open(files["overlay"]).convert("RGB")
    assert overlay.tobytes() == dialogue.result(1).plot().tobytes()


def test_a_narrow_image_is_refused_at_once(recorded):
    with pytest.raises(UserError, match="crop it"):
        Dialogue(Image.new("RGB", (3000, 3)), recorded)
    with pytest.raises(UserError, match="recent 0"):
        Dialogue(Image.new("RGB", (30, 30)), recorded, recent=0)
