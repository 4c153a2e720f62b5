"""A short soak of a real server; `python -m benchmarks.soak` does ten minutes of it with larger bodies."""

import json

import httpx
import pytest

from benchmarks.soak import bodies
from benchmarks.soak.__main__ import soak
from benchmarks.soak.tally import Tally, table, within
from benchmarks.soak.valid import Visit, make_clients
from segzero.images import load_image, measure_image
from segzero.masks import check_rle, decode, encode


@pytest.mark.slow
@pytest.mark.alone
def test_answers_stay_right_and_the_server_healthy_under_attack(tmp_path):
    requirements = soak(tmp_path, seconds=25, quiet=4, deadline=5, sized=bodies.SMALL)
    assert all(requirement.holds for requirement in requirements), requirements


def test_hostile_files_are_valid_files():
    """Small ones are read: only their size is harmful."""
    assert load_image(bodies.repeated_scans(5, 64)).size == (64, 64)
    assert bodies.repeated_scans(5, 64).count(b"\xff\xda") == bodies.repeated_scans(0, 64).count(b"\xff\xda") + 5
    assert load_image(bodies.floats(64)).size == (64, 64)
    assert load_image(bodies.long_comment(50)).size == (64, 64)
    assert measure_image(bodies.noise(64)) == (64, 64) and len(bodies.noise(64)) > 3 * 64 * 64
    assert json.loads(bodies.empty_lists(30)) == [[]] * 11
    [prompt] = json.loads(bodies.long_mask(1000))["prompts"]
    assert check_rle(prompt["mask"])["size"] == [16384, 16384]


def test_failures_are_counted():
    tally = Tally()
    for kind, status in (("ask", "200"), ("ask", "504"), ("draw", "closed")):
        tally.add(f"valid: {kind}", status, 2.0, good=status == "200")
    tally.add("head", "500, left", 1.0)
    tally.note("another's answer")
    assert tally.failures == 1 and tally.count(["closed"], "valid: ") == 1 and tally.total("valid: ") == 3
    assert tally.seconds == [2.0] and tally.latest == 2.0 and tally.wrong == ["another's answer"]
    assert tally.lines()[1] == ["valid: ask", "2", "200: 1, 504: 1"]
    assert within([3.0, 1.0, 2.0], 0.5) == 2.0 and table(["a", "b"], [["cc", "d"]]) == "a   b\ncc  d"


def test_an_answer_that_differs_from_the_known_one_is_noticed():
    [client], tally = make_clients(["token"], 1.0), Tally()
    visit = Visit(client, httpx.Client(), tally, 0)
    mask = client.samples[0].objects[0].rle
    for text, masks in (("a", [mask]), ("a", [mask]), ("b", [mask]), ("a", []), ("a", [encode(~decode(mask))])):
        visit.compare("ask", {"text": text, "masks": masks})
    assert len(tally.wrong) == 3 and "client 0, scene 0: 'b', not 'a'" in tally.wrong[0]
