"""Files that survive a kill or a power cut, and folders that one process has for itself."""

import json
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest

from segzero.errors import UserError
from segzero.io import finite_or_zero, lock, new_folder, write_atomically
from tests.helpers.recording import record_syncs

HOLD = """
import sys, time
from pathlib import Path
from segzero.io import lock
with lock(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_file_is_on_the_disk_before_it_gets_its_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    steps = record_syncs(monkeypatch, "replace")
    write_atomically(tmp_path / "inner/file", b"12345")
    file, name, folder = steps
    assert stat.S_ISREG(file.st_mode) and file.st_size == 5
    assert name == "name" and folder.st_ino == (tmp_path / "inner").stat().st_ino
    assert [path.name for path in (tmp_path / "inner").iterdir()] == ["file"]


def test_a_folder_is_locked_until_its_process_ends_however_it_ends(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another run is here"), lock(tmp_path, "another run is here"):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    for _ in range(2):  # neither the file that stays nor an earlier lock of this process is in the way
        with lock(tmp_path, "another run is here"):
            pass


def test_a_lock_passes_on_what_goes_wrong_inside(tmp_path):
    with pytest.raises(BlockingIOError), lock(tmp_path, "busy"):
        raise BlockingIOError


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*file/inner"), lock(tmp_path / "file/inner", "busy"):
        pass


def test_a_folder_appears_whole_and_on_the_disk(tmp_path):
    place = tmp_path / "out"
    place.mkdir()
    with new_folder(place) as unfinished:
        (unfinished / "deep").mkdir()
        (unfinished / "deep" / "file").write_text("1")
        assert not any(place.iterdir())
    assert (place / "deep" / "file").read_text() == "1" and [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("error", "shown"), [(UserError("no"), "no"), (OSError(28, "No space left"), "cannot write .*: No")]
)
def test_of_a_folder_that_fails_nothing_is_left(tmp_path, error, shown):
    with pytest.raises(UserError, match=shown), new_folder(tmp_path / "new" / "out") as unfinished:
        (unfinished / "file").write_text("1")
        raise error
    assert not any((tmp_path / "new").iterdir())


def test_a_folder_that_is_in_use_is_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "theirs").touch()
    with pytest.raises(UserError, match="cannot write"), new_folder(tmp_path / "out"):
        pass
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs"]


@pytest.mark.parametrize(
    ("value", "written"), [(0.25, 0.25), (-1, -1.0), (np.float32("nan"), 0.0), (float("inf"), 0.0)]
)
def test_numbers_for_json_are_finite(value, written):
    assert finite_or_zero(value) == written and json.loads(json.dumps(finite_or_zero(value))) == written
