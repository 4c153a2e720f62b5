"""A manifest lists the files of a checkpoint; the first difference is reported in one line."""

import hashlib
import json

import pytest

from segzero.training import checkpoint_manifest as manifest
from segzero.training import checkpoints

SHARD = "actor/model_world_size_1_rank_0.pt"
HASH = manifest.HASH


@pytest.fixture
def sealed(tmp_path):
    """A whole checkpoint of one process; its shard is larger than one chunk of hashing."""
    place = checkpoints.new_unfinished(tmp_path, 3)
    (place / "actor" / "huggingface").mkdir(parents=True)
    (place / SHARD).write_bytes(b"shard" * 500_000)
    (place / "actor" / "fsdp_config.json").write_text('{"world_size": 1}')
    (place / "actor" / "huggingface" / "config.json").write_text("{}")
    (place / "data.pt").write_bytes(b"")
    return checkpoints.finish(tmp_path, 3, {"ranks": {}})


def rewrite(checkpoint, change) -> None:
    content = json.loads((checkpoint / "manifest.json").read_text())
    (checkpoint / "manifest.json").write_text(json.dumps(change(content)))


def test_every_file_is_listed(sealed):
    listed = manifest.read(sealed).files
    assert set(listed) == {
        SHARD,
        "actor/fsdp_config.json",
        "actor/huggingface/config.json",
        "data.pt",
        "state.json",
    }
    assert listed[SHARD]["bytes"] == 2_500_000
    assert not manifest.read(sealed).weights_only
    assert checkpoints.damage(sealed) is None


def test_the_hash_is_the_published_one(tmp_path):
    """XXH3's own test value for no input, and a check that chunks make no difference."""
    import xxhash

    (tmp_path / "empty").write_bytes(b"")
    assert manifest.hash_file(tmp_path / "empty", "xxh3_128") == "99aa06d3014798d86001c324468d497f"
    content = bytes(range(256)) * 10_000
    (tmp_path / "some").write_bytes(content)
    assert manifest.hash_file(tmp_path / "some", "xxh3_128") == xxhash.xxh3_128_hexdigest(content)
    assert manifest.hash_file(tmp_path / "some", "sha256") == hashlib.sha256(content).hexdigest()


def test_a_manifest_with_sha256_is_read(sealed):
    def older(content):
        listed = {
            name: {"bytes": entry["bytes"], "sha256": hashlib.sha256((sealed / name).read_bytes()).hexdigest()}
            for name, entry in content["files"].items()
        }
        return {"step": content["step"], "files": listed}  # as it was written before

    rewrite(sealed, older)
    assert checkpoints.damage(sealed) is None
    assert checkpoints.latest_whole(sealed.parent) == (sealed, [])
    (sealed / SHARD).write_bytes(b"shreds"[:5] * 500_000)
    assert checkpoints.damage(sealed) == f"{SHARD} has changed since it was saved"


def test_without_hashes_only_sizes_are_compared(sealed):
    (sealed / SHARD).write_bytes(b"SHARD" * 500_000)
    assert checkpoints.damage(sealed, hashes=False) is None
    assert checkpoints.find(sealed.parent, "auto", hashes=False) == (sealed, [])
    assert checkpoints.damage(sealed) == f"{SHARD} has changed since it was saved"
    assert checkpoints.find(sealed.parent, "auto")[0] is None
    (sealed / SHARD).write_bytes(b"SHARD")
    assert "5 bytes instead of 2500000" in checkpoints.damage(sealed, hashes=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: [m], "does not list files with their sizes and hashes"),
        (lambda m: None, "does not list files with their sizes and hashes"),
        (lambda m: {**m, "files": list(m["files"])}, "does not list files with their sizes and hashes"),
        (lambda m: {**m, "files": {**m["files"], "data.pt": 0}}, "does not list files with their sizes and hashes"),
        (lambda m: {**m, "files": {**m["files"], "data.pt": {"bytes": 0}}}, "does not list files with their sizes"),
        (lambda m: {**m, "files": {**m["files"], "data.pt": {"bytes": "0", HASH: ""}}}, "does not list files with"),
        (lambda m: {**m, "files": {**m["files"], "data.pt": {"bytes": 0, HASH: 7}}}, "data.pt has changed"),
        (lambda m: {**m, "files": {}}, "lists no files"),
        (lambda m: {**m, "files": {n: e for n, e in m["files"].items() if n != SHARD}}, f"{SHARD} is not listed"),
        (lambda m: {**m, "files": {**m["files"], "x" * 5000: {"bytes": 0, HASH: ""}}}, "can't be read: File name too"),
    ],
)
def test_an_unusable_manifest_is_damage_in_one_line(sealed, change, message):
    rewrite(sealed, change)
    problem = checkpoints.damage(sealed)
    assert message in problem and "\n" not in problem
    assert problem == checkpoints.damage(sealed, hashes=False) or "changed" in problem
    assert len(checkpoints.latest_whole(sealed.parent)[1]) == 1


def test_a_deeply_nested_manifest_is_damage(sealed):
    (sealed / "manifest.json").write_text("[" * 100_000)
    assert "can't be read" in checkpoints.damage(sealed)


@pytest.mark.parametrize("text", ['{"world_size": null}', "[]", '{"world_size": "1"}', '{"world_size": 0}', "{}"])
def test_an_unreadable_world_size_is_damage(sealed, text):
    (sealed / "actor" / "fsdp_config.json").write_text(text)
    rewrite(sealed, lambda m: {**m, "files": {**m["files"], "actor/fsdp_config.json": entry_of(sealed)}})
    assert checkpoints.damage(sealed) == "actor/fsdp_config.json is missing or can't be read"


def entry_of(checkpoint) -> dict:
    file = checkpoint / "actor" / "fsdp_config.json"
    return {"bytes": file.stat().st_size, HASH: manifest.hash_file(file, HASH)}


def test_hidden_files_of_desktops_are_not_damage(sealed):
    (sealed / "actor" / ".DS_Store").write_bytes(b"icons")
    assert checkpoints.damage(sealed) is None
    (sealed / "actor" / "more.pt").write_bytes(b"")
    assert checkpoints.damage(sealed) == "actor/more.pt is not listed in manifest.json"
