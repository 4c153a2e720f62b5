"""Malicious checkpoints: their code does not run, and absurd sizes are one line, at once and in little memory."""

import io
import json
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForImageTextToText, AutoProcessor

from segzero.cli.main import main
from segzero.errors import UserError
from segzero.training.merge import merge
from segzero.training.shards import Shards, actor_folder
from tests.helpers.shards import light_copy, save_shards


@pytest.fixture(scope="module")
def checkpoint(policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "global_step_7"
    model = AutoModelForImageTextToText.from_pretrained(policy, dtype=torch.float32)
    save_shards(model, AutoProcessor.from_pretrained(policy), folder)
    return folder


CODE = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\n"
UNKNOWN = {
    "model_type": "never_seen",
    "architectures": ["Model"],
    "auto_map": dict.fromkeys(("AutoConfig", "AutoModelForImageTextToText"), "own_code.Config"),
}


@pytest.mark.parametrize("kind", ["never_seen", "qwen2_5_vl"])
def test_no_code_of_a_checkpoint_runs_even_if_a_prompt_is_answered_yes(checkpoint, tmp_path, monkeypatch, capsys, kind):
    place = light_copy(checkpoint, tmp_path) / "huggingface"
    config = json.loads((place / "config.json").read_text()) if kind == "qwen2_5_vl" else {}
    (place / "config.json").write_text(json.dumps({**config, **UNKNOWN, "model_type": kind}))
    (place / "own_code.py").write_text(CODE)
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 5))
    monkeypatch.setattr(sys, "argv", ["segzero", "merge", str(place.parents[1]), "--out", str(tmp_path / "merged")])
    if kind == "never_seen":
        with pytest.raises(SystemExit) as stop:
            main()
        err = capsys.readouterr().err
        assert stop.value.code == 2 and err.count("\n") == 1
        assert "holds a 'never_seen' model; a policy is one of" in err and not (tmp_path / "merged").exists()
    else:  # transformers has its own class for it
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code in (0, None)
    assert not list(tmp_path.rglob("ran")) and not (tmp_path / "modules").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_config": 5}, "text_config should hold an object"),
        ({"text_config": {"num_hidden_layers": 10_000_000}}, r"num_hidden_layers is 1e\+07, more than the 1000"),
        ({"text_config": {"vocab_size": 10**12}}, r"vocab_size is 1e\+12, more than the 4194304"),
        ({"text_config": {"num_hidden_layers": "two"}}, "makes no model"),
        ({"text_config": {"hidden_size": -96}}, "makes no model"),
    ],
)
def test_a_config_that_makes_no_model_is_one_line(checkpoint, tmp_path, change, message):
    actor = light_copy(checkpoint, tmp_path)
    file = actor / "huggingface" / "config.json"
    config = json.loads(file.read_text())
    text = change["text_config"]
    config["text_config"] = config["text_config"] | text if isinstance(text, dict) else text
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=message) as caught:
        merge(actor.parent, tmp_path / "merged")
    assert "\n" not in str(caught.value)


def test_only_links_of_the_hub_are_followed(checkpoint, tmp_path):
    model = tmp_path / "models--owner--name"
    actor = light_copy(checkpoint, model / "snapshots" / "0af3")
    place = actor / "huggingface"
    (tmp_path / "secret").write_text("key")
    (place / "notes.txt").symlink_to(tmp_path / "secret")
    (model / "blobs").mkdir()
    (place / "tokenizer_config.json").rename(model / "blobs" / "abc")
    (place / "tokenizer_config.json").symlink_to("../../../../../blobs/abc")
    (model / "blobs" / "def").symlink_to(tmp_path / "secret")
    (place / "more.txt").symlink_to(model / "blobs" / "def")
    out = merge(actor.parent, tmp_path / "merged")
    assert not (out / "notes.txt").exists() and not (out / "more.txt").exists()
    assert json.loads((out / "tokenizer_config.json").read_text())
    assert not any(file.is_symlink() for file in out.iterdir())


def one_shard(folder: Path, state: dict, name: str = "model_world_size_1_rank_0.pt") -> Path:
    torch.save(state, folder / name)
    return folder


@pytest.mark.parametrize("name", ["model_world_size_999999999_rank_0.pt", f"model_world_size_{'9' * 200}_rank_0.pt"])
def test_absurd_world_sizes_are_one_line(tmp_path, name):
    folder = one_shard(tmp_path, {"weight": torch.ones(2)}, name)
    with pytest.raises(
        UserError, match=r"lacks the shards of ranks \[1, 2, 3, 4, 5, 6, 7, 8\] of 999999999|no shards in"
    ):
        Shards(actor_folder(folder))


def sharded(piece: torch.Tensor, shape, placements, mesh_shape=(2,), ranks=None):
    """A DTensor that another program may have written."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=torch.Size(mesh_shape).numel())
    try:
        mesh = init_device_mesh("cpu", mesh_shape)
        stride = torch.empty(shape, device="meta").stride()
        made = DTensor.from_local(piece, mesh, placements, run_check=False, shape=torch.Size(shape), stride=stride)
        if placements[0].is_shard():
            made._spec.placements = placements
        return made
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("piece", "shape", "dim", "mesh", "message"),
    [
        (torch.ones(2, 3), (4, 3), 7, (2,), "cut along dimension 7 of 2"),
        (torch.ones(2, 3), (4, 3), -1, (2,), "cut along dimension -1 of 2"),
        (torch.ones(2, 3), (4, 3), 0, (2, 1, 1, 1, 3), "lies on 6 ranks of 2"),
        (torch.ones(1).expand(1 << 40), (1 << 41,), 0, (2,), "more elements than bytes in the file"),
        (torch.ones(2, 3), (1 << 40, 3), 0, (2,), r"do not make up \(1099511627776, 3\)"),
        (torch.ones(2, 5), (4, 3), 0, (2,), r"do not make up \(4, 3\)"),
    ],
)
def test_absurd_pieces_are_one_line(tmp_path, piece, shape, dim, mesh, message):
    placements = (Shard(dim), *[Replicate()] * (len(mesh) - 1))
    state = {"weight": sharded(piece, shape, placements, mesh)}
    for rank in range(2):
        one_shard(tmp_path, state, f"model_world_size_2_rank_{rank}.pt")
    with pytest.raises(UserError, match=message) as caught:
        Shards(tmp_path).whole("weight", torch.float32)
    assert "\n" not in str(caught.value)


def test_values_that_are_not_tensors_are_one_line(tmp_path):
    with pytest.raises(UserError, match="should hold named tensors"):
        Shards(one_shard(tmp_path, {7: torch.ones(2)}))
    for absurd in (torch.ones(1).expand(1 << 40), torch.ones(8, device="meta")):
        with pytest.raises(UserError, match="more elements than bytes in the file"):
            Shards(one_shard(tmp_path, {"weight": absurd})).whole("weight", torch.float32)


@pytest.mark.parametrize("repeats", [0, 64 << 20])
def test_a_packed_description_is_not_unpacked(tmp_path, repeats):
    """Both a file that torch wrote, packed again, and one whose description grows to 64 MiB."""
    file = one_shard(tmp_path, {"weight": torch.ones(2)}) / "model_world_size_1_rank_0.pt"
    with zipfile.ZipFile(file) as parts:
        content = {name: parts.read(name) for name in parts.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in content.items():
            packed.writestr(name, data + b"\x80" * repeats if name.endswith(".pkl") else data)
    with pytest.raises(UserError, match="its parts are packed, which torch does not do"):
        Shards(tmp_path)
