"""Sharing the vision tower among trajectories changes no gradient; freezing it has its effect; log-probs straight from
the hidden states, with a head that FSDP2 shards by itself, are those of ordinary logits."""

import pytest
import torch
from PIL import Image
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForImageTextToText
from verl.models.transformers.monkey_patch import apply_monkey_patch

from segzero.errors import UserError
from segzero.policy.adapters import keep_in_float32
from segzero.sample import Sample
from segzero.training.engine import (
    SharedFeatures,
    freeze_vision,
    gather_head,
    vision_towers,
)
from segzero.training.tokenization import open_picture, picture_of
from segzero.training.trainer import whole_groups
from tests.helpers.engines import keep_forwards
from tests.helpers.random_checkpoints import FAMILIES


@pytest.fixture
def load(checkpoints, monkeypatch):
    """load(family) -> a model with verl's forward; the library's own forward is restored afterwards."""
    keep_forwards(monkeypatch)

    def load(family):
        net = AutoModelForImageTextToText.from_pretrained(
            checkpoints[family], dtype=torch.float32, attn_implementation="sdpa"
        )
        apply_monkey_patch(model=net, use_remove_padding=False)
        net.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return net.train()

    return load


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two samples whose images differ in size and in content."""
    folder, made = tmp_path_factory.mktemp("pictures"), []
    for name, size in (("wide", (130, 70)), ("tall", (64, 96))):
        path = folder / f"{name}.png"
        Image.linear_gradient("L").rotate(len(made) * 90).resize(size).convert("RGB").save(path)
        made.append(Sample(name, str(path), f"the {name} one", *size))
    return made


def as_inputs(encoder, rows):
    """Ids, mask and positions as verl pads them."""
    encoded = [encoder.encode(sample) for sample in rows]
    length = max(map(len, encoded))
    pad = encoder.processor.tokenizer.pad_token_id
    positions = torch.zeros(4, len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    for row, e in enumerate(encoded):
        positions[:, row, : len(e)] = encoder.positions(e, 0)
        mask[row, : len(e)] = 1
    ids = torch.tensor([e.ids + [pad] * (length - len(e)) for e in encoded])
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}


def pixels_of(encoder, samples):
    images = [open_picture(picture_of(sample), encoder.checkpoint) for sample in samples]
    processed = encoder.processor.image_processor(images=images, return_tensors="pt")
    return {name: processed[name] for name in ("pixel_values", "image_grid_thw")}


def loss_and_gradients(net, inputs, pixels):
    logits = net(**inputs, **pixels, use_cache=False).logits
    chosen = logits.log_softmax(-1)[:, :-1].gather(2, inputs["input_ids"][:, 1:, None])[..., 0]
    loss = -(chosen * inputs["attention_mask"][:, 1:]).mean()
    net.zero_grad()
    loss.backward()
    return loss.item(), {name: p.grad for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_features_give_the_same_loss_and_gradients(family, load, encoders, pictures):
    net, encoder = load(family), encoders[family]
    wide, tall = pictures
    rows = [wide, tall, wide, wide, tall]
    inputs = as_inputs(encoder, rows)
    expected, gradients = loss_and_gradients(net, inputs, pixels_of(encoder, rows))
    assert any("visual" in name and gradient.abs().max() > 0 for name, gradient in gradients.items())

    seen = []
    shared = SharedFeatures(net)
    net.model.visual.register_forward_pre_hook(lambda tower, args: seen.append(len(args[0])))
    assert shared.first_of_each([sample.image for sample in rows]) == {0, 1}
    pixels = pixels_of(encoder, [wide, tall])
    loss, found = loss_and_gradients(net, inputs, pixels)
    assert seen == [len(pixels["pixel_values"])]
    assert loss == pytest.approx(expected, rel=1e-6)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_freezing_takes_the_vision_tower_out(family, load, encoders, pictures):
    net, encoder = load(family), encoders[family]
    frozen = freeze_vision(net)
    [tower] = vision_towers(net)
    assert frozen == sum(p.numel() for p in tower.parameters())
    SharedFeatures(net).first_of_each([sample.image for sample in [*pictures, *pictures]])
    _, gradients = loss_and_gradients(net, as_inputs(encoder, [*pictures, *pictures]), pixels_of(encoder, pictures))
    assert gradients.keys() == {name for name, _ in net.named_parameters() if ".visual." not in name}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory):
    store = f"file://{tmp_path_factory.mktemp('store') / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def shard(net, mesh):
    """A model whose head and embedding are not tied, wrapped as verl does."""
    for part in (net.model.language_model.embed_tokens, net.lm_head, net):
        fully_shard(part, mesh=mesh)


def gradients(net):
    return {name: p.grad.full_tensor() for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_values_and_gradients_are_those_of_ordinary_logits(family, load, encoders, pictures, mesh):
    encoder = encoders[family]
    inputs, pixels = as_inputs(encoder, pictures), pixels_of(encoder, pictures)
    inside = inputs["attention_mask"][:, 1:] * torch.linspace(0.5, 1.5, inputs["input_ids"].shape[1] - 1)
    labels = inputs["input_ids"][:, 1:, None]

    net = load(family)
    shard(net, mesh)
    of_all = net(**inputs, **pixels, use_cache=False).logits.log_softmax(-1)[:, :-1]
    expected, entropy = of_all.gather(2, labels)[..., 0], -(of_all.exp() * of_all).sum(-1)
    ((expected + 0.1 * entropy) * inside).sum().backward()
    wanted = gradients(net)

    net = load(family)
    apply_monkey_patch(model=net, use_remove_padding=False, use_fused_kernels=True, fused_kernels_backend="torch")
    shard(net, mesh)
    gather_head(net)
    for _ in range(2):  # the head is gathered anew for each pass
        net.zero_grad()
        output = net(**inputs, **pixels, use_cache=False, temperature=1.0, return_dict=True)
        found = output.log_probs[:, :-1]
        ((found + 0.1 * output.entropy[:, :-1]) * inside).sum().backward()

    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(output.entropy[:, :-1], entropy, rtol=1e-4, atol=1e-5)
    grown = gradients(net)
    assert grown.keys() == wanted.keys() and "lm_head.weight" in grown
    for name, gradient in wanted.items():
        torch.testing.assert_close(grown[name], gradient, rtol=1e-3, atol=1e-4, msg=name)


def test_without_gather_head_a_sharded_head_is_not_gathered(load, encoders, pictures, mesh):
    """The reason for `gather_head`: if verl fixes this, the test fails, and both can be removed."""
    net = load("qwen2_5_vl")
    apply_monkey_patch(model=net, use_remove_padding=False, use_fused_kernels=True, fused_kernels_backend="torch")
    shard(net, mesh)
    encoder = encoders["qwen2_5_vl"]
    with pytest.raises(RuntimeError, match="DTensor"):
        net(**as_inputs(encoder, pictures), **pixels_of(encoder, pictures), use_cache=False, temperature=1.0)


def test_a_frozen_tower_is_not_differentiated_for_adapters(load, encoders, pictures):
    """With LoRA, transformers asks its first layer for gradients, which train nothing."""
    from peft import LoraConfig, get_peft_model

    net, encoder = load("qwen2_5_vl"), encoders["qwen2_5_vl"]
    freeze_vision(net)
    net.enable_input_require_grads()  # as verl does for LoRA
    net = get_peft_model(net, LoraConfig(r=4, target_modules="all-linear", exclude_modules=".*visual.*"))
    seen = []
    [tower] = vision_towers(net)
    tower.register_forward_hook(lambda *_: seen.append(_[-1].pooler_output.requires_grad))
    loss_and_gradients(net, as_inputs(encoder, pictures), pixels_of(encoder, pictures))
    assert seen == [False]
    assert all(p.grad is not None for name, p in net.named_parameters() if "lora_" in name)


def test_adapters_on_a_half_precision_base_are_in_float32():
    from peft import LoraConfig, get_peft_model

    base = torch.nn.Sequential(torch.nn.Linear(8, 8)).to(torch.bfloat16)
    net = get_peft_model(base, LoraConfig(r=2, target_modules=["0"]), autocast_adapter_dtype=False)
    keep_in_float32(net)
    kinds = {(p.requires_grad, p.dtype) for p in net.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}


def test_rows_of_different_images_are_left_alone():
    shared = SharedFeatures(torch.nn.Module())
    assert shared.first_of_each(["a", "b"]) == {0, 1}
    assert shared.first_of_each([None, "a", "a"]) == {0, 1, 2}


def test_a_model_without_vision_tower_cannot_be_frozen():
    with pytest.raises(UserError, match="no part called 'visual'"):
        freeze_vision(torch.nn.Linear(2, 2))


def test_groups_stay_on_one_rank():
    groups = [g for _ in range(4) for g in "abcd"]
    lengths = [{"a": 9, "b": 8, "c": 2, "d": 1}[g] for g in groups]
    order = whole_groups(groups, lengths, 2)
    halves = [{groups[row] for row in order[:8]}, {groups[row] for row in order[8:]}]
    assert sorted(map(sorted, halves)) == [["a", "d"], ["b", "c"]]
    assert sorted(order) == list(range(16))
    assert whole_groups(["a", "a", "b"], [1, 1, 1], 2) == [0, 1, 2]
