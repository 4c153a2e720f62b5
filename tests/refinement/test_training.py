"""Training on masks to judge: its checks, and the picture that the policy sees."""

from itertools import islice

import numpy as np
import pytest

from segzero.data.parquet import to_parquet
from segzero.errors import UserError
from segzero.masks import decode
from segzero.policy.checkpoint import read_checkpoint
from segzero.refinement.corruption import CorruptionCounts, judging_samples
from segzero.refinement.observation import mark
from segzero.shipped import policy_path
from segzero.tiny.questions import make_shared_samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judging")
    samples = list(islice(make_shared_samples(2, 47), 8))
    to_parquet(judging_samples(samples, (0,), CorruptionCounts()), folder / "train.parquet")
    to_parquet(samples, folder / "val.parquet")
    return folder


def test_a_dry_run_shows_right_actions_and_a_reward_without_a_term_for_them_is_refused(
    folder, tmp_path, monkeypatch, capsys
):
    from segzero.training.launch import train

    monkeypatch.setenv("DATA", str(folder))
    wanted = ["model=tiny", "data=scenes", f"trainer.default_local_dir={tmp_path}", "data.train_batch_size=4"]
    train(overrides=[*wanted, "reward=refine", "dry_run=true"])
    shown = capsys.readouterr().out
    assert '{"keep": true}' in shown and "the truth itself earns 7.00 of 7" in shown
    with pytest.raises(UserError, match="has masks to judge, for which reward=mask has no term; set reward=refine"):
        train(overrides=[*wanted, "reward=mask", "dry_run=true"])


def test_the_policy_sees_the_marked_picture_and_each_mask_has_its_own(judged):
    from segzero.training.tokenization import open_picture, picture_key, picture_of

    checkpoint = read_checkpoint(policy_path())
    half, true = judged["half"], judged["true"]
    seen = open_picture(picture_of(half), checkpoint)
    assert (np.asarray(seen) == np.asarray(mark(half.open(), decode(half.current_mask), checkpoint.frame))).all()
    keys = {picture_key(picture_of(sample)) for sample in (half, true)}
    assert len(keys) == 2 and None not in keys and picture_key({}) is None
