"""Scenes written as training data."""

from segzero.data.check import check
from segzero.data.parquet import from_parquet
from segzero.tiny.questions import HELD_OUT_SEED, make_samples, make_training_samples
from segzero.tiny.scene_files import TRAIN_SEED, VALIDATION_SEED, write_scenes


def test_both_files_hold_their_samples_and_share_no_scene(tmp_path):
    train, val = write_scenes(tmp_path / "scenes", train=5, val=3)
    assert (train, val) == (tmp_path / "scenes/train.parquet", tmp_path / "scenes/val.parquet")
    for file, samples in ((train, make_training_samples(5, TRAIN_SEED)), (val, make_samples(3, VALIDATION_SEED))):
        stored = list(from_parquet(file))
        assert [(s.id, s.image, s.objects) for s in stored] == [(s.id, s.image, s.objects) for s in samples]
    assert TRAIN_SEED < HELD_OUT_SEED <= VALIDATION_SEED
    assert check(tmp_path / "scenes").ok
