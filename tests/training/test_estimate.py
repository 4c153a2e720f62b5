"""Estimates of memory and time: their arithmetic, and that every preset holds the model it is for."""

import pytest

from segzero import shipped
from segzero.training import answer_head, memory
from segzero.training.batch import batch_sizes
from segzero.training.config import compose
from segzero.training.dry_run import describe_estimates
from segzero.training.launch import resolve_config
from segzero.training.memory import check_memory, estimate_memory
from segzero.training.model_shape import shape_of
from segzero.training.step_time import estimate_step_time
from tests.helpers.released_shapes import RELEASED, write_released

PRESETS = [("qwen2_5_vl_7b", name) for name in ("gpu8_46g", "gpu4", "gpu8_80g", "gpu8", "multinode")]
PRESETS += [("qwen2_5_vl_3b", "gpu1"), ("qwen2_5_vl_3b", "gpu4")]
SEVEN_B = 8_292_166_656  # parameters of the released Qwen2.5-VL-7B


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    for name in RELEASED:
        write_released(name, folder / name)
    return folder


@pytest.fixture
def estimated(released, monkeypatch):
    """Configuration, batch, shape and memory of a choice of groups."""

    def work_out(model: str, hardware: str, *overrides: str):
        monkeypatch.setenv("MODEL_PATH", str(shipped.policy_path() if model == "tiny" else released / model))
        config = resolve_config(compose("train", [f"model={model}", f"hardware={hardware}", *overrides]))
        batch, shape = batch_sizes(config), shape_of(config.actor_rollout_ref.model.path)
        return config, batch, shape, estimate_memory(config, batch, shape)

    return work_out


def seconds(found, prompt_tokens: float = 1000):
    config, batch, shape, _ = found
    return estimate_step_time(config, batch, shape, prompt_tokens)


def test_pinned_memory_is_rounded_to_powers_of_two_tensor_by_tensor():
    tensors = ((1024, 256), (1025, 256), (7, 1))  # 1 MiB, a little more, 28 bytes
    assert memory.pinned(tensors, 1, 4) == 2**20 + 2**21 + 32
    # On two ranks the fullest has 512 rows, 513 and 4.
    assert memory.pinned(tensors, 2, 4) == 2 * (2**19 + 2**20 + 16)
    assert memory.pinned(tensors, 1, 2) == 2**19 + 2**20 + 16


def test_rounding_nearly_doubles_the_7b(estimated):
    """An MLP's share on four cards is 67.9 MB, and takes 134."""
    _, _, shape, _ = estimated("qwen2_5_vl_7b", "gpu4")
    every = (*shape.language, *shape.vision)
    assert shape.parameters == SEVEN_B
    assert memory.pinned(((18944, 3584),), 4, 4) == 4 * 2**27
    assert memory.pinned(every, 4, 4) / (4 * shape.parameters) == pytest.approx(1.89, abs=0.01)


@pytest.mark.parametrize(("model", "hardware"), PRESETS)
def test_every_preset_holds_its_model(estimated, model, hardware):
    config, batch, shape, found = estimated(model, hardware)
    check_memory(config, found)
    assert found.updating + found.segmenter < config.segzero.accelerator.memory_gb * 1e9
    output = "\n".join(describe_estimates(config, shape, found, estimate_step_time(config, batch, shape, 1000), 443))
    assert "may not fit" not in output and "vLLM" in output


@pytest.mark.parametrize("hardware", ["gpu4", "cpu"])
def test_logits_of_a_whole_pass_are_counted_only_without_fused_kernels(estimated, hardware):
    short = ["data.max_prompt_length=1024", "data.max_response_length=976", "segzero.shared_prompt=false"]
    config, batch, shape, fused = estimated("qwen2_5_vl_3b", hardware, *short)
    more = estimated("qwen2_5_vl_3b", hardware, *short, "actor_rollout_ref.model.use_fused_kernels=false")[-1]
    width = {"cuda": 2, "cpu": 4}[config.trainer.device]
    logits = batch.max_tokens * shape.vocabulary * {2: 10, 4: 24}[width]
    blocks = 512 * shape.vocabulary * 4 * 7 + 2 * shape.vocabulary * shape.hidden * width
    where = "updating" if hardware == "gpu4" else "host"
    assert getattr(more, where) - getattr(fused, where) == pytest.approx(logits - blocks, rel=0.01)


def test_a_shared_prompt_is_counted_once_and_logits_by_the_block(estimated):
    short = ["data.max_prompt_length=1024", "data.max_response_length=128"]
    separate = estimated("qwen2_5_vl_3b", "gpu4", *short, "segzero.shared_prompt=false")
    shared = estimated("qwen2_5_vl_3b", "gpu4", *short)
    assert memory.BLOCK_LOGITS == answer_head.LOGITS
    assert memory.tokens_of_pass(*separate[:2]) == (12000 / 1152, 12000, 12000 / 1152)
    assert memory.tokens_of_pass(*shared[:2]) == (32, 4 * 1024 + 32 * 128, 4)  # all of a GPU's answers fit
    assert shared[-1].updating < separate[-1].updating
    cut = estimated("qwen2_5_vl_3b", "gpu4", "data.max_prompt_length=1000", "data.max_response_length=2000")
    assert memory.tokens_of_pass(*cut[:2]) == (5.5, 12000, 1)  # a prompt and as many of its answers as fit
    assert seconds(shared).update < seconds(separate).update / 3


def test_parts_of_a_tiny_run(estimated):
    _, batch, shape, found = estimated("tiny", "cpu")
    assert found.host == sum(found.parts.values())
    assert found.parts["training state"] == 12 * shape.parameters  # weights and Adam's two moments, float32
    assert found.parts["reference"] == 0  # no KL loss
    assert found.parts["vLLM"] == 4 * shape.parameters + 2**30
    assert found.parts["trajectories"] == batch.total * ((384 + 128) * 64 + 4096)
    with_kl = estimated("tiny", "cpu", "actor_rollout_ref.actor.use_kl_loss=true")[-1]
    assert with_kl.parts["reference"] == 4 * shape.parameters
    bounded = estimated("tiny", "cpu", "trainer.total_training_steps=1")[-1]
    assert bounded.parts["pixels"] == 16 * 12544 * 3 * 2 * 4 < found.parts["pixels"]  # 112 by 112 pixels at most


def test_main_memory_holds_what_is_offloaded(estimated):
    _, _, shape, resident = estimated("qwen2_5_vl_7b", "gpu4")
    offloading = [f"actor_rollout_ref.actor.fsdp_config.{part}_offload=true" for part in ("param", "optimizer")]
    offloaded = estimated("qwen2_5_vl_7b", "gpu4", *offloading)[-1]
    assert resident.parts["pinned offload"] == 0
    assert offloaded.parts["pinned offload"] == 3 * memory.pinned((*shape.language, *shape.vision), 4, 4)
    assert resident.parts["pinned reference"] == offloaded.parts["pinned reference"] > 2 * shape.parameters
    assert offloaded.resting == 0 and resident.resting == 12 * shape.parameters / 4
    assert offloaded.updating == resident.updating


def test_a_tied_model_is_loaded_by_every_rank(estimated):
    _, _, shape, tied = estimated("qwen2_5_vl_3b", "gpu4")
    assert tied.parts["loading"] + tied.parts["pinned reference"] == 4 * 4 * shape.parameters
    _, _, shape, untied = estimated("qwen2_5_vl_7b", "gpu4")
    assert untied.parts["loading"] + untied.parts["pinned reference"] == 4 * shape.parameters


def test_adapters_and_their_optimizer_are_float32_and_vllm_sleeps_on_the_host(estimated):
    _, _, shape, found = estimated("qwen2_5_vl_3b", "gpu1")
    adapters = shape.adapters(32)
    assert found.checkpoint == 2 * shape.parameters + 12 * adapters
    assert found.resting == 8 * adapters  # the weights are offloaded
    assert found.parts["vLLM asleep"] == memory.pinned((*shape.language, *shape.vision), 1, 2)
    assert found.parts["pinned reference"] == 0


def test_time_of_generating_follows_the_expected_answer(estimated):
    limit = seconds(estimated("qwen2_5_vl_7b", "gpu8"))
    usual = seconds(estimated("qwen2_5_vl_7b", "gpu8", "segzero.expected_answer_tokens=250"))
    assert limit.generate / 9 < usual.generate < limit.generate / 7
    assert usual.update < limit.update and usual.move == limit.move
    # A token takes the weights' way through the card, 16.6 GB by two cards of 3.5 TB/s, and 4 ms.
    assert limit.generate == pytest.approx(2000 * (2 * SEVEN_B / 2 / 3.5e12 + 0.004), rel=0.02)


def test_time_follows_the_links_and_what_is_saved(estimated):
    near = seconds(estimated("qwen2_5_vl_7b", "gpu8", "segzero.accelerator.link_gb_per_s=200"))
    far = seconds(estimated("qwen2_5_vl_7b", "gpu8", "segzero.accelerator.link_gb_per_s=2"))
    # Two passes of 20,000 tokens for 2 prompts of 1,000 and 16 answers of 2,000: weights gathered twice in bfloat16,
    # summed in float32.
    assert far.update == pytest.approx(2 * (2 * 2 + 4) * SEVEN_B * 7 / 8 / 2e9, rel=0.01)
    assert near.update < far.update / 5 and near.generate == far.generate
    found = estimated("qwen2_5_vl_7b", "gpu8")
    assert seconds(found).save == found[-1].checkpoint / 50 / 1e9
    assert seconds(estimated("qwen2_5_vl_7b", "gpu8", "trainer.save_freq=-1")).save == 0


def test_a_teacher_costs_a_pass_forward(estimated):
    """A third of an update without gradient checkpointing, and a longer prompt beside each trajectory."""
    chosen = ["actor_rollout_ref.model.enable_gradient_checkpointing=false", "segzero.accelerator.link_gb_per_s=1e9"]
    alone = estimated("qwen2_5_vl_7b", "gpu8", *chosen)
    taught = estimated("qwen2_5_vl_7b", "gpu8", *chosen, "segzero.self_distillation.weight=0.1")
    off = estimated("qwen2_5_vl_7b", "gpu8", *chosen, "segzero.self_distillation.attempts=3")
    assert seconds(off) == seconds(alone) and off[-1] == alone[-1]
    assert 1.33 < seconds(taught).update / seconds(alone).update < 1.37
    assert seconds(taught).generate == seconds(alone).generate
    assert taught[-1].updating == alone[-1].updating  # it keeps nothing for a backward pass
    extra = taught[-1].trajectories - alone[-1].trajectories
    assert extra == 128 * ((1300 + 512) * 8 + (1300 + 512 + 2000) * 4 * 8)
    gathering = [
        estimated("qwen2_5_vl_7b", "gpu8", *each, "segzero.accelerator.link_gb_per_s=2")
        for each in ([], ["segzero.self_distillation.weight=0.1"])
    ]
    assert seconds(gathering[1]).update / seconds(gathering[0]).update == pytest.approx((3 * 2 + 4) / (2 * 2 + 4))


def test_rollouts_beside_the_update(estimated):
    """The longer of both sets the pace; vLLM keeps its memory, and reading prompts is arithmetic, as the update is."""
    awake = ["segzero.one_step_off=true", "actor_rollout_ref.rollout.free_cache_engine=false"]
    in_turns, beside = estimated("qwen2_5_vl_3b", "gpu8_80g"), estimated("qwen2_5_vl_3b", "gpu8_80g", *awake)
    time, before = seconds(beside), seconds(in_turns)
    assert before.total == before.in_turns and time.move == before.move - 1
    assert time.total == time.generate + time.move > time.update + time.score + time.save + time.prefill + time.move
    short = seconds(estimated("qwen2_5_vl_3b", "gpu8_80g", *awake, "segzero.expected_answer_tokens=50"))
    assert short.total == pytest.approx(short.prefill + short.score + short.update + short.save + short.move)
    assert beside[-1].updating - in_turns[-1].updating == 0.5 * 80e9 - memory.ASLEEP_BYTES
