"""Each patch fixes a failure that occurs without it."""

import importlib
import os
import socket
from datetime import timedelta

import psutil
import pytest
import torch
from transfer_queue.storage.managers.simple_storage_manager import AsyncSimpleStorageManager

from segzero.training.verl_glue import patches, plugin
from segzero.training.verl_glue.patches import ragged_last


def positions(*lengths: int) -> list[torch.Tensor]:
    """mRoPE position ids, one row of 4 for each sequence."""
    return [torch.arange(4 * length).reshape(4, length) for length in lengths]


def pad(packed: torch.Tensor, length: int) -> torch.Tensor:
    """The same steps as in verl's engine."""
    return torch.nested.to_padded_tensor(packed, padding=0, output_size=(packed.shape[0], 4, length))


def test_equal_lengths_are_packed_wrongly_by_torch():
    packed = torch.nested.as_nested_tensor(positions(5, 5, 5), layout=torch.jagged)
    packed._ragged_idx = 2  # verl's own mend, which cures unequal lengths only
    with pytest.raises(RuntimeError):
        pad(packed, 5)


@pytest.mark.parametrize("lengths", [(5, 5, 5), (5,), (3, 7, 2), (4, 4)])
def test_packing_is_ragged_along_the_sequence(lengths):
    assert "pack_equal_lengths" in plugin.installed
    values = positions(*lengths)
    packed = AsyncSimpleStorageManager._pack_field_values(values)
    assert packed._ragged_idx == 2
    padded = pad(packed, max(lengths))
    for row, value in zip(padded, values, strict=True):
        assert torch.equal(row[:, : value.shape[1]], value)
    for row, value in zip(packed.unbind(), values, strict=True):
        assert torch.equal(row, value)


def test_one_dimension_and_mixtures_are_left_alone():
    packed = AsyncSimpleStorageManager._pack_field_values([torch.arange(3), torch.arange(3)])
    assert packed._ragged_idx == 1
    assert AsyncSimpleStorageManager._pack_field_values(["a", "b"]).tolist() == ["a", "b"]


def test_equal_tensors_keep_their_values():
    values = positions(6, 6)
    assert all(torch.equal(a, b) for a, b in zip(ragged_last(values).unbind(), values, strict=True))


def test_micro_batches_of_equal_lengths_can_be_cut():
    from tensordict import TensorDict
    from verl.utils.tensordict_utils import chunk_tensordict, index_select_tensor_dict

    packed = AsyncSimpleStorageManager._pack_field_values(positions(5, 5, 5, 5))
    batch = TensorDict({"position_ids": packed}, batch_size=4)
    assert [len(chunk) for chunk in chunk_tensordict(batch, 2)] == [2, 2]
    chosen = index_select_tensor_dict(batch, [0, 3])["position_ids"]
    assert torch.equal(pad(chosen, 5)[1], positions(5)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probs_in_blocks_are_those_of_single_tokens(dtype, monkeypatch):
    from verl.utils import torch_functional

    monkeypatch.setattr(patches, "BLOCK", 64)  # several blocks, the last one shorter
    monkeypatch.setattr(torch_functional, "logprobs_from_logits_v2", None)  # set back afterwards
    patches.log_probs_in_blocks()
    logits = torch.randn(3, 7, 20, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    labels = torch.arange(21).reshape(3, 7) % 20
    found = torch_functional.logprobs_from_logits_v2(logits, labels)
    assert found.shape == labels.shape
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    rows = [row.log_softmax(-1)[label] for row, label in zip(logits.reshape(-1, 20), labels.flatten(), strict=True)]
    expected = torch.stack(rows).reshape(3, 7)
    (wanted,) = torch.autograd.grad(expected.sum(), logits)
    near = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(found, expected, **near)
    torch.testing.assert_close(gradient, wanted, **near)


def test_a_store_listens_on_loopback_alone(monkeypatch):
    rendezvous = importlib.import_module("torch.distributed.rendezvous")
    monkeypatch.setattr(rendezvous, "TCPStore", rendezvous.TCPStore)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def addresses():
        sockets = psutil.Process(os.getpid()).net_connections("inet")
        return {c.laddr.ip for c in sockets if c.status == psutil.CONN_LISTEN and c.laddr.port == port}

    patches.stores_on_loopback()
    options = {"rank": 0, "world_size": 1, "timeout": timedelta(seconds=10)}
    first = rendezvous._create_c10d_store("127.0.0.1", port, **options)
    second = rendezvous._create_c10d_store("127.0.0.1", port, **options)  # torch shares one server in a process
    first.set("key", "value")
    assert second.get("key") == b"value"
    assert addresses() == {"127.0.0.1"}


def test_jobs_of_two_runs_on_one_machine_have_two_names(monkeypatch):
    import ray
    from ray.runtime_context import RuntimeContext

    class FirstJob:
        current_job_id = ray.JobID.from_int(1)  # in both runs, as each has a Ray of its own

    assert "tell_runs_apart" in plugin.installed
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    names = set()
    for run in ("one", "other"):
        monkeypatch.setenv("SEGZERO_RUN", run)
        names.add(RuntimeContext(FirstJob()).get_job_id())
    assert names == {"01000000-one", "01000000-other"}
