"""A run with a candidate, a reward that is parsed and runs in a sandbox."""

import pytest
import yaml

from tests.helpers.launching import logged, start, wait

pytestmark = pytest.mark.training

# Pays for masks and for words, so that groups are not flat.
SOURCE = '''"""Masks, and some words."""

WORDS = 0.1


def reward(answer, truth):
    return {"masks": 3.0 * mask_iou(answer, truth), "words": min(5.0, WORDS * answer.words)}
'''


def test_two_steps_with_a_candidate(scenes, tmp_path):
    run, file = tmp_path / "run", tmp_path / "words.py"
    file.write_text(SOURCE)
    process = start(scenes, run, "reward=candidate", f"reward.path={file}", "trainer.total_training_steps=2")
    output = wait(process)
    assert process.returncode == 0, output[-3000:]
    first, second = (row["data"] for row in logged(run))
    for row in (first, second):
        assert row["reward/words/mean"] > 0 and 0 <= row["reward/masks/mean"] <= 3
        assert row["actor/grad_norm"] > 0
    assert (run / "candidate.py").read_text() == SOURCE
    assert yaml.safe_load((run / "config.yaml").read_text())["reward"]["name"] == str(file)
