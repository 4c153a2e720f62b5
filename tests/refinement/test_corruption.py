"""Data for judging masks: what is shown, that it is clear, and that files keep it."""

from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pyarrow.parquet as pq
import pytest

from rewards.refinement import good_enough
from segzero.answer import parse_answer
from segzero.data.check import check
from segzero.data.parquet import from_parquet, to_parquet
from segzero.errors import UserError
from segzero.masks import decode, encode, mask_iou
from segzero.refinement.corruption import BAD, DAMAGES, CorruptionCounts, judging_samples
from segzero.refinement.files import JudgingRecipe, corrupt_files
from segzero.refinement.judgement import right_answer
from segzero.supervised.answers import answer_text
from segzero.tiny.questions import make_samples, make_shared_samples


@pytest.fixture(scope="module")
def shared():
    return list(islice(make_shared_samples(3, 41), 150))


@pytest.fixture(scope="module")
def damaged(shared):
    return list(judging_samples(shared, (0,), CorruptionCounts()))


def test_every_kind_of_mask_is_shown(damaged):
    kinds = Counter(sample.meta["corruption"] for sample in damaged)
    assert {*DAMAGES, "good"} <= kinds.keys() and len(damaged) == 300 == 2 * kinds["good"]
    assert all(one.id.endswith("-good") for one in damaged[::2])  # a good and a bad one for each question


def test_a_mask_is_clearly_good_or_clearly_bad(damaged):
    for sample in damaged:
        true, current = decode(sample.mask()), decode(sample.current_mask)
        good = good_enough(current, true)
        assert good == (sample.meta["corruption"] == "good")
        assert good or mask_iou(current, true) < BAD


def test_the_right_answer_follows_from_the_mask(damaged, pipeline):
    for sample in damaged:
        answer = parse_answer(right_answer(sample, pipeline.frame, "t"), "refine")
        assert answer.error is None and not answer.warnings
        if sample.empty:
            assert not answer.count
            assert decode(sample.current_mask).any() == (sample.meta["corruption"] != "good")
        else:
            assert answer.keeps == (sample.meta["corruption"] == "good")
            assert len(answer.instances) == (0 if answer.keeps else len(sample.objects))


def test_supervision_teaches_the_ordinary_answer_whatever_the_mask(damaged, pipeline):
    for sample in damaged[:20]:
        plain = replace(sample, current_mask=None)
        assert answer_text(sample, pipeline.frame, "multi") == answer_text(plain, pipeline.frame, "multi")


def test_the_same_seed_gives_the_same_masks(shared, damaged):
    again = list(judging_samples(shared, (0,), CorruptionCounts()))
    other = list(judging_samples(shared, (1,), CorruptionCounts()))
    assert again == damaged != other


def test_masks_that_a_policy_drew_are_shown_as_they_are(shared):
    asked = [sample for sample in shared if sample.objects][:20]
    drawn = {sample.id: encode(np.eye(224, dtype=bool)) for sample in asked}
    counts = CorruptionCounts()
    shown = list(judging_samples(asked, (0,), counts, drawn, share=1.0))
    assert all(bad.current_mask == drawn[sample.id] for bad, sample in zip(shown[1::2], asked, strict=True))
    assert counts.kinds == {"good": 20, "drawn": 20} and counts.met == 20


def test_files_keep_the_masks_and_leave_validation_alone(tmp_path, run_segzero):
    to_parquet(islice(make_shared_samples(2, 43), 40), tmp_path / "data" / "train.parquet")
    to_parquet(make_samples(5, 44), tmp_path / "data" / "val.parquet")
    code, out, _ = run_segzero("data", "corrupt", tmp_path / "data", "--out", tmp_path / "judging", "--plain", 0.25)
    assert code == 0 and "2 files" in out
    train = list(from_parquet(tmp_path / "judging" / "train.parquet"))
    judged = [sample for sample in train if sample.current_mask is not None]
    assert 40 < len(judged) < 80 and len(train) == 40 + len(judged) // 2
    assert [*from_parquet(tmp_path / "judging" / "val.parquet")] == [*from_parquet(tmp_path / "data" / "val.parquet")]
    assert check(tmp_path / "judging").ok


def test_predictions_of_other_data_are_refused(tmp_path):
    to_parquet(make_samples(3, 44), tmp_path / "data" / "train.parquet")
    drawn = {"elsewhere": encode(np.zeros((224, 224), bool))}
    with pytest.raises(UserError, match="none of the 1 predictions is of a sample"):
        corrupt_files(tmp_path / "data", tmp_path / "judging", JudgingRecipe(), drawn)
    with pytest.raises(UserError, match="choose another --out"):
        corrupt_files(tmp_path / "data", tmp_path / "data", JudgingRecipe())


@pytest.mark.parametrize("values", [{"plain": 1.5}, {"drawn": -0.1}, {"drawn": float("nan")}])
def test_shares_are_shares(values):
    with pytest.raises(UserError, match="must be 0 to 1"):
        JudgingRecipe(**values)


def test_a_file_without_the_column_is_read_and_a_malformed_mask_is_named(tmp_path, held_out):
    file = to_parquet(held_out[:2], tmp_path / "old.parquet")
    written = list(from_parquet(file))
    pq.write_table(pq.read_table(file).drop_columns(["current_mask"]), file)
    assert list(from_parquet(file)) == written
    wrong = replace(held_out[0], current_mask=encode(np.zeros((3, 3), bool)))
    to_parquet([wrong], tmp_path / "wrong" / "train.parquet")
    assert "its current mask is malformed or of another size" in str(check(tmp_path / "wrong"))
