"""predictions.jsonl: whole lines, each once; what is torn, foreign or another's is not taken."""

import json
from pathlib import Path

import pytest

from segzero.errors import UserError
from segzero.evaluation.metrics import Score
from segzero.evaluation.predictions import Prediction, Predictions
from segzero.evaluation.scoring import PredictedObject
from segzero.masks import encode

CAT = Prediction(
    "katze/1",
    "wo ist die Katze 🐈",
    raw_text="<think>half a \ud83d</think>\n<answer>[]</answer>",
    objects=(PredictedObject((1, 2, 3, 4), encode([[0, 1], [1, 1]]), ((1.5, 2.0),), 0.25),),
    score=Score(1, 2),
    seconds={"policy": 0.1},
)
DOG = Prediction("dog", "the dog", error="not_json", score=Score(0, 4, failed=True))


@pytest.fixture
def path(tmp_path) -> Path:
    with Predictions.open(tmp_path / "predictions.jsonl") as predictions:
        predictions.append([CAT])
        predictions.append([DOG])
    return tmp_path / "predictions.jsonl"


def test_lines_come_back_as_they_were(path):
    with Predictions.open(path, write=False) as predictions:
        assert list(predictions) == [CAT, DOG] and predictions.get("dog") == DOG
        assert len(predictions) == 2 and "dog" in predictions and "cow" not in predictions
        assert predictions.giou == 0.25 and predictions.torn == 0
    assert path.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("cut", [1, 2, 40, 100])
def test_a_torn_last_line_is_dropped_and_written_again(path, cut):
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with Predictions.open(path, write=False) as predictions:
        assert len(predictions) == 1  # reading changes nothing
    assert path.read_bytes() == whole[:-cut]
    with Predictions.open(path) as predictions:
        assert predictions.torn == len(DOG.to_line()) + 1 - cut
        predictions.append([DOG])
    assert path.read_bytes() == whole


def test_a_second_writer_is_refused(path):
    with Predictions.open(path), pytest.raises(UserError, match="is being written by another process"):
        Predictions.open(path)
    Predictions.open(path).close()


BAD = json.loads(DOG.to_line()) | {"id": "x"}


@pytest.mark.parametrize(
    "line",
    [
        b"[]\n",
        b"{}\n",
        b"nonsense\n",
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        *(
            json.dumps(BAD | change).encode() + b"\n"
            for change in (
                {"id": 7},
                {"question": None},
                {"error": 3},
                {"union": "many"},
                {"objects": {}},
                {"objects": [{"box": [1, 2, 3], "points": [], "score": 0, "rle": None}]},
                {"objects": [{"box": [1, 2, 3, float("nan")], "points": [], "score": 0, "rle": None}]},
                {"objects": [{"box": [1, 2, 3, 4], "points": [], "score": 0, "rle": "122"}]},
                {"objects": [{"box": [1, 2, 3, 4], "points": [], "score": 0, "rle": {}}]},
            )
        ),
    ],
)
def test_malformed_lines_are_refused(path, line):
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(UserError, match=r"predictions\.jsonl, line 3: it is no line of predictions") as caught:
        Predictions.open(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_a_sample_with_two_lines_is_refused(path):
    path.write_bytes(path.read_bytes() + DOG.to_line().encode() + b"\n")
    with pytest.raises(UserError, match="line 3: the sample 'dog' has a line already"):
        Predictions.open(path)


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(UserError, match=r"no evaluation in .*: there is no predictions\.jsonl"):
        Predictions.open(tmp_path / "predictions.jsonl", write=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot open"):
        Predictions.open(tmp_path / "file" / "predictions.jsonl")


def test_a_full_disk_loses_nothing(tmp_path):
    """A file may grow to a limit here; the line that does not fit leaves no trace."""
    import resource
    import signal

    path = tmp_path / "predictions.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with Predictions.open(path) as predictions:
            predictions.append([CAT])
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 30, before[1]))
            with pytest.raises(UserError, match="its 1 lines are whole"):
                predictions.append([DOG])
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            assert path.read_text() == CAT.to_line() + "\n"
            predictions.append([DOG])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    with Predictions.open(path) as predictions:
        assert list(predictions) == [CAT, DOG]
