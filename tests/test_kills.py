"""A few kills -9 at random moments; `python -m benchmarks.kills` does many, and kills training too."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.kills.__main__ import kill_all, summary
from benchmarks.kills.killing import bytes_of, differences

COUNTS = {"evaluation": 1, "serving": 1, "prepare": 2, "merge": 1}


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_and_nothing_half_written_taken_for_whole(tmp_path):
    with ThreadPoolExecutor(2) as beside:
        done = beside.map(lambda name: kill_all(tmp_path, {name: COUNTS[name]}), COUNTS)
        kills = [each for kills in done for each in kills]
    assert not [each for each in kills if each.wrong], kills
    assert sum(each.lived for each in kills) == sum(COUNTS.values()), summary(kills)


def test_what_differs_from_an_undisturbed_run_is_told(tmp_path):
    for name, text in (("same", "commit: 0123456789abcdef-dirty"), ("cut", "hal"), ("more", ""), (".lock", "")):
        (tmp_path / name).write_text(text)
    wanted = {"same": b"commit", "cut": b"half", "absent": b""}
    assert bytes_of(tmp_path / "same") == b"commit" and bytes_of(tmp_path / "none") == b""
    assert differences(tmp_path, wanted) == (
        "absent is missing",
        "more was left behind",
        "cut is not what it should be",
    )
