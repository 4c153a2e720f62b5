"""The folder of flagged answers: lines stay whole, whatever happens to others, and its size is bounded."""

import json
import resource
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from segzero.dialogue import Registry, Round
from segzero.errors import UserError
from segzero.io import append_line
from segzero.serving.errors import ApiError
from segzero.serving.feedback import FILE, FeedbackStore

IMAGE = Image.new("RGB", (8, 6), "teal")
REGISTRY = Registry(IMAGE.size, (Round(1, "the mug"), Round(2, "the cup")))
FEEDBACK = {"verdict": "good", "note": ""}


def lines(folder) -> list[str]:
    return (folder / FILE).read_text().splitlines()


def test_a_line_that_was_cut_short_takes_no_other_with_it(tmp_path):
    (tmp_path / FILE).write_text('{"whole": 1}\n{"cut')
    FeedbackStore(tmp_path, 1 << 20).add(IMAGE, REGISTRY, 1, FEEDBACK)
    whole, cut, new = lines(tmp_path)
    assert (json.loads(whole), cut, json.loads(new)["question"]) == ({"whole": 1}, '{"cut', "the mug")


def test_lines_of_many_at_once_stay_whole(tmp_path):
    both = [FeedbackStore(tmp_path, 1 << 20), FeedbackStore(tmp_path, 1 << 20)]  # as if two servers had one folder
    with ThreadPoolExecutor(8) as people:
        feedback = [{"verdict": "bad", "note": "x" * 9000 + str(n)} for n in range(64)]
        list(people.map(lambda n: both[n % 2].add(IMAGE, REGISTRY, n % 2 + 1, feedback[n]), range(64)))
    assert {json.loads(line)["note"] for line in lines(tmp_path)} == {each["note"] for each in feedback}
    assert [path.name for path in (tmp_path / "images").iterdir()] == [json.loads(lines(tmp_path)[0])["image"][7:]]


def test_a_full_disk_and_then_room_cost_no_acknowledged_line(tmp_path):
    file = tmp_path / FILE
    append_line(file, b'{"first": 1}\n')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 7, hard))  # as a disk with 7 bytes left
    try:
        with pytest.raises(OSError):
            append_line(file, b'{"second": 2}\n')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert lines(tmp_path) == ['{"first": 1}']
    append_line(file, b'{"third": 3}\n')
    assert lines(tmp_path) == ['{"first": 1}', '{"third": 3}']


def test_a_line_torn_by_another_process_is_ended_first(tmp_path):
    flags = FeedbackStore(tmp_path, 1 << 20)
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"torn')
    flags.add(IMAGE, REGISTRY, 1, FEEDBACK)
    torn, whole = lines(tmp_path)
    assert torn == '{"torn' and json.loads(whole)["question"] == "the mug"


def test_the_folder_grows_up_to_its_limit(tmp_path):
    flags = FeedbackStore(tmp_path, 1000)
    flags.add(IMAGE, REGISTRY, 1, FEEDBACK)
    with pytest.raises(ApiError, match="no room") as caught:
        for _ in range(10):
            flags.add(IMAGE, REGISTRY, 1, FEEDBACK)
    assert caught.value.status == 507
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 1000
    with pytest.raises(UserError, match="no round 3"):
        flags.add(IMAGE, REGISTRY, 3, FEEDBACK)


def test_a_folder_that_cannot_be_written_is_the_servers_fault(tmp_path):
    flags = FeedbackStore(tmp_path, 1 << 20)
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    with pytest.raises(ApiError, match="tell whoever runs this server") as caught:
        flags.add(IMAGE, REGISTRY, 1, FEEDBACK)
    assert caught.value.status == 507 and str(tmp_path) not in str(caught.value)
