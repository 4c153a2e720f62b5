"""`segzero data annotate`: stages, status, and what is refused in one line."""

import numpy as np
import pytest

from segzero.cli import serve
from segzero.data.annotation import open_project
from segzero.tiny.scenes import make_scene


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for seed in (2, 4):
        (tmp_path / "images" / f"{seed}.png").write_bytes(make_scene(np.random.default_rng(seed)).png())
    return tmp_path / "images"


@pytest.fixture
def served(monkeypatch):
    """What would be served, in place of a server that runs until a signal comes."""
    calls = []
    monkeypatch.setattr(serve, "run_server", lambda options, page, annotation: calls.append((options, annotation)))
    return calls


def test_a_project_is_made_filled_and_served(run_segzero, images, served):
    code, out, err = run_segzero("data", "annotate", "p", "--images", "images", "--port", "8123")
    assert (code, err) == (0, "") and "stage manual: 0 of 2 images done, 0 begun" in out
    assert "annotate at http://127.0.0.1:8123/ui/annotate.html" in out
    [(options, project)] = served
    assert options.port == 8123 and len(project.entries) == 2
    code, out, _ = run_segzero("data", "annotate", "p", "--stage", "semi")
    assert code == 0 and "masks into 2 images" in out and "made by: everything" in out and len(served) == 2
    assert open_project("p")[0].stage == "semi"


def test_automatic_annotation_asks_nobody_and_becomes_samples(run_segzero, images, served):
    code, out, _ = run_segzero("data", "annotate", "p", "--images", "images", "--stage", "auto", "--confidence", "0.85")
    assert code == 0 and "stage auto: 2 of 2 images done" in out and not served
    prepare = ["data", "prepare", "p", "--format", "annotation", "--option", "label=object", "--option", "val=0"]
    assert run_segzero(*prepare, "--out", "data")[0] == 0
    code, out, _ = run_segzero("data", "check", "data")
    assert code == 0 and "nothing is wrong" in out
    code, _, err = run_segzero(*prepare[:5], "--out", "bare")
    assert code == 2 and "have no label; give them some, or --option label=object" in err


def test_status_prints_and_changes_nothing(run_segzero, images, served):
    run_segzero("data", "annotate", "p", "--images", "images")
    code, out, _ = run_segzero("data", "annotate", "p", "--status")
    assert code == 0 and out.startswith("stage manual: 0 of 2 images done") and len(served) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["images"], "is no annotation project; name the folder of its images"),
        (["p", "--images", "absent"], "no such folder of images: absent"),
        (["p", "--images", "images", "--stage", "third"], "unknown stage 'third'"),
        (["p", "--images", "images", "--confidence", "0.5"], "--confidence is for the stages semi and auto"),
        (["p", "--images", "images", "--preset", "sam"], "--preset is for the stages semi and auto"),
        (["p", "--images", "images", "--stage", "auto", "--preset", "sma"], "unknown preset 'sma'"),
        (["p", "--status", "--stage", "semi"], "--status only looks; leave out --stage"),
    ],
    ids=["project", "images", "stage", "confidence", "preset", "unknown", "status"],
)
def test_mistakes_are_one_line(run_segzero, images, served, options, message):
    code, _, err = run_segzero("data", "annotate", *options)
    assert code == 2 and message in err and not served
    assert len(err.strip().splitlines()) == 1
