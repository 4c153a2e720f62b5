"""Provenance: hashes of checkpoints and the settings that two evaluations must share."""

from segzero.evaluation.provenance import comparable, fingerprint, versions


def test_a_fingerprint_is_of_names_and_contents(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "sub/weights").write_bytes(b"12")
    same, other = fingerprint(tmp_path / "a"), fingerprint(tmp_path / "b")
    assert same == other and same is not None and len(same) == 64
    (tmp_path / "b/sub/weights").rename(tmp_path / "b/sub/renamed")
    assert fingerprint(tmp_path / "b") != same
    (tmp_path / "a/config.json").write_text("{ }")
    assert fingerprint(tmp_path / "a") != same
    assert fingerprint(str(tmp_path / "a/sub/weights")) not in (None, same)
    assert fingerprint("a-model-behind-a-server") is None


def test_a_checkpoint_in_another_place_is_the_same_model():
    here = {"policy": {"name": "here", "sha256": "5f2c"}, "prompt": "multi"}
    there = {"policy": {"name": "there", "sha256": "5f2c"}, "prompt": "multi"}
    assert comparable(here) == comparable(there) != comparable(there | {"prompt": "vision_reasoner"})
    served = {"policy": {"name": "m", "sha256": None}}
    assert comparable(served) == served  # a server's model is known by its name alone


def test_versions_are_those_of_installed_packages():
    assert {"segzero", "python", "torch", "numpy"} <= set(versions())
