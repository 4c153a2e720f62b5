"""Recorded answers: kept, read again, taken from a run's file, and sampled from the shipped policy."""

import json
from dataclasses import replace

import pytest

from segzero import shipped
from segzero.data.parquet import from_parquet, to_parquet
from segzero.errors import UserError
from segzero.policy import Sampling
from segzero.reward_search.preparation import prepare_data, record_answers
from segzero.reward_search.rollouts import (
    draw_answers,
    prepare_samples,
    read_groups,
    recorded_texts,
    sample_answers,
    write_groups,
)
from segzero.reward_search.settings import SearchSettings
from segzero.sample import Object
from segzero.tiny.questions import HELD_OUT_SEED, make_samples
from tests.helpers.recorded_answers import FAULTS, WRITTEN, recorded_groups

SETTINGS = SearchSettings("task", "soft", str(shipped.policy_path()), str(shipped.segmenter_path()), held_out=4)


def test_answers_have_the_iou_of_their_masks():
    for group in recorded_groups(5):
        ious = dict(zip(FAULTS, group.ious, strict=True))
        if group.sample.objects:
            assert ious[0.0] >= ious[0.15] >= ious[0.4] >= ious[1.5] and ious[None] == 0
        else:
            assert ious[0.0] == ious[None] == 1 and ious[0.4] == 0
        assert ious["unreadable"] == 0  # a failure, even where nothing is there


def test_answers_are_kept_and_read_again(tmp_path):
    groups = recorded_groups(3)
    write_groups(tmp_path / "rollouts.jsonl", groups)
    again = read_groups(tmp_path / "rollouts.jsonl", [group.sample for group in groups], WRITTEN)
    assert [(one.sample, one.texts, one.masks) for one in again] == [(g.sample, g.texts, g.masks) for g in groups]
    assert [one.ious for one in again] == [one.ious for one in groups]


@pytest.mark.parametrize("line", ["[]", '{"sample": "other", "answers": []}', "{", '{"sample": "%s", "answers": [{}]}'])
def test_odd_lines_are_refused(tmp_path, line):
    [group] = recorded_groups(1)
    (tmp_path / "rollouts.jsonl").write_text(line.replace("%s", group.sample.id))
    with pytest.raises(UserError, match="line 1: no recorded answers"):
        read_groups(tmp_path / "rollouts.jsonl", [group.sample], WRITTEN)


def test_texts_of_a_run_are_taken_by_question(tmp_path):
    file = tmp_path / "rollouts.jsonl"
    rows = [
        {"sample": "a", "best": {"text": "x"}, "worst": {"text": "y"}},
        {"sample": "a", "best": {"text": "x"}, "worst": {"text": "z"}},
        {"sample": "b", "best": {"text": "x"}, "worst": {"text": "x"}},  # nothing to compare
        {"sample": "c", "best": {"text": "x"}, "worst": {"text": "y"}, "notes": "an earlier round"},
        {"sample": ["d"], "best": {"text": 3}, "worst": None},
    ]
    file.write_text("\n".join(map(json.dumps, rows)) + '\n{"sample": "e", "be')
    assert recorded_texts(file) == {"a": ["x", "y", "z"]}
    file.write_text("\n")
    with pytest.raises(UserError, match="is it the rollouts"):
        recorded_texts(file)
    with pytest.raises(UserError, match="cannot read"):
        recorded_texts(tmp_path / "none")


def test_samples_without_masks_and_later_rounds_are_passed_over():
    samples = make_samples(4, 3)
    without = replace(samples[0], objects=(Object((0, 0, 9, 9)),))
    later = replace(samples[1], turns=({"question": "the mug"},))
    assert prepare_samples([without, later, samples[2], samples[3]], 1) == [samples[2]]
    with pytest.raises(UserError, match="no sample has masks"):
        prepare_samples([without, later], 1)


def test_questions_to_choose_by_and_to_compare_on_differ(tmp_path):
    made = make_samples(12, HELD_OUT_SEED + 2)
    to_parquet(make_samples(5, 3), tmp_path / "data" / "train.parquet")
    to_parquet(made, tmp_path / "data" / "val.parquet")
    training = prepare_data(tmp_path / "out", tmp_path / "data", SETTINGS)
    choose = [sample.id for sample in from_parquet(tmp_path / "out" / "data" / "val.parquet")]
    compare = [sample.id for sample in from_parquet(tmp_path / "out" / "test")]
    assert (
        len(training) == 5 and choose == [one.id for one in made[:8:2]] and compare == [one.id for one in made[1:8:2]]
    )
    rows = [{"sample": "tiny-3-4", "best": {"text": "x"}, "worst": {"text": "y"}}]
    (tmp_path / "run.jsonl").write_text("\n".join(map(json.dumps, rows)))
    training = prepare_data(tmp_path / "recorded", tmp_path / "data", SETTINGS, tmp_path / "run.jsonl")
    assert [sample.id for sample in training] == ["tiny-3-4", *(f"tiny-3-{number}" for number in range(4))]
    with pytest.raises(UserError, match="two samples at least"):
        to_parquet(made[:1], tmp_path / "few" / "val.parquet")
        to_parquet(made, tmp_path / "few" / "train.parquet")
        prepare_data(tmp_path / "again", tmp_path / "few", SETTINGS)


def test_answers_of_a_run_are_drawn(tmp_path, pipeline):
    samples = make_samples(3, HELD_OUT_SEED + 4)
    groups = recorded_groups(3, HELD_OUT_SEED + 4)
    rows = [{"sample": g.sample.id, "best": {"text": g.texts[0]}, "worst": {"text": g.texts[3]}} for g in groups]
    (tmp_path / "run.jsonl").write_text("\n".join(map(json.dumps, rows)))
    taken = record_answers(tmp_path, samples, SETTINGS, tmp_path / "run.jsonl")
    assert [group.texts for group in taken] == [(group.texts[0], group.texts[3]) for group in groups]
    for one, group in zip(taken, groups, strict=True):
        assert [len(each) for each in one.masks] == [len(group.masks[0]), len(group.masks[3])]
        assert one.ious[0] > 0.8 and (one.ious[0] > one.ious[1] or one.sample.empty)
    assert record_answers(tmp_path, samples, SETTINGS)[0].masks == taken[0].masks  # read again, without a model
    (tmp_path / "rollouts.jsonl").unlink()
    with pytest.raises(UserError, match="answers to none of the training samples"):
        record_answers(tmp_path, make_samples(2, 77), SETTINGS, tmp_path / "run.jsonl")
    unread = draw_answers(pipeline.segmenter, samples[0], ["nothing to read"], WRITTEN)
    assert unread.masks == ((),) and unread.ious == [0.0]


@pytest.mark.slow
def test_answers_of_the_policy_are_sampled(pipeline):
    samples = make_samples(3, HELD_OUT_SEED + 5)
    sampled = replace(pipeline, sampling=Sampling(temperature=1.0, max_tokens=128, seed=1))
    groups = list(sample_answers(sampled, samples, 4))
    assert [group.sample for group in groups] == samples
    assert all(len(group.texts) == 4 for group in groups) and any(len(set(group.texts)) > 1 for group in groups)
    assert [group.texts for group in sample_answers(sampled, samples, 4)] == [group.texts for group in groups]
    for group in groups:
        for case, masks in zip(group.cases, group.masks, strict=True):
            assert len(masks) == len(case.answer.instances)
    assert max(iou for group in groups for iou in group.ious) > 0.5
