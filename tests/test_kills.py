"""A few kills at random moments; `python -m benchmarks.kills` does many, and kills training too."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from benchmarks.kills.__main__ import kill_all, summary
from benchmarks.kills.flagging import lost
from benchmarks.kills.killing import bytes_of, differences, hold, kill, start
from benchmarks.kills.training import Saves, damage, lost_rows

COUNTS = {"evaluation": 1, "serving": 1, "prepare": 2, "merge": 1}


@pytest.mark.slow
@pytest.mark.alone
def test_nothing_acknowledged_is_lost_and_nothing_half_written_taken_for_whole(tmp_path):
    with ThreadPoolExecutor(2) as beside:
        done = beside.map(lambda name: kill_all(tmp_path, {name: COUNTS[name]}), COUNTS)
        kills = [each for kills in done for each in kills]
    assert not [each for each in kills if each.wrong], kills
    assert sum(each.lived for each in kills) == sum(COUNTS.values()), summary(kills)


def test_differences_from_an_undisturbed_run_are_listed(tmp_path):
    for name, text in (("same", "commit: 0123456789abcdef-dirty"), ("cut", "hal"), ("more", ""), (".lock", "")):
        (tmp_path / name).write_text(text)
    wanted = {"same": b"commit", "cut": b"half", "absent": b""}
    assert bytes_of(tmp_path / "same") == b"commit" and bytes_of(tmp_path / "none") == b""
    assert differences(tmp_path, wanted) == (
        "absent is missing",
        "more was left behind",
        "cut is not what it should be",
    )


def test_a_flag_that_is_lost_or_torn_is_noticed(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (6, 4)).save(tmp_path / "images" / "a.png")
    row = {"note": "first", "image": "images/a.png", "width": 6, "height": 4, "objects": [{}]}
    lines = [row, row | {"note": "second", "image": "images/b.png"}, row | {"note": "third", "width": 5}]
    (tmp_path / "flags.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"note": "torn"')
    found = lost(tmp_path, ["first", "torn"])
    assert [line.split(":")[0] for line in found] == [
        "1 of 2 flags are lost, the first 'torn'",
        "the image of the flag 'second'",
        "the flag 'third' is of another image, or without its objects",
    ]


def test_a_checkpoint_that_is_not_whole_and_lost_rows_are_noticed(tmp_path):
    assert damage(tmp_path, []) == [] and lost_rows(tmp_path, []) == []
    (tmp_path / "global_step_4").mkdir()
    assert damage(tmp_path, []) == ["step 4 has its name and is not whole: manifest.json is missing or can't be read"]
    assert damage(tmp_path, [4]) == ["step 4 was sealed, but None is the newest whole one"]
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    assert lost_rows(tmp_path, [{"step": 1}]) == [] and lost_rows(tmp_path, [{"step": 1}, {"step": 2}])


class SavingRun:
    """Stand-in for a process that saves two checkpoints, a change of its folder at each poll."""

    def __init__(self, folder):
        self.changes = iter(
            [
                (folder / ".global_step_0.unfinished").mkdir,
                lambda: None,
                lambda: (folder / ".global_step_0.unfinished").rename(folder / "global_step_0"),
                (folder / ".global_step_1.unfinished").mkdir,
            ]
        )

    def poll(self):
        next(self.changes)()


def test_the_moment_is_within_the_save_that_was_waited_for(tmp_path):
    (tmp_path / ".global_step_9.unfinished").mkdir()  # left by a kill
    saves = Saves(tmp_path)
    saves.wait(SavingRun(tmp_path), 2)
    names = sorted(path.name for path in tmp_path.glob("*global*"))
    assert names == [".global_step_1.unfinished", ".global_step_9.unfinished", "global_step_0"]
    assert saves.last > 0


def test_a_process_is_held_and_killed_once(tmp_path):
    process = start(["sh", "-c", "sleep 60"], tmp_path / "log")
    hold(process)
    assert kill(process) and not kill(process)
