"""Sharing the vision tower among trajectories changes no gradient; freezing it has its effect."""

import copy

import pytest
import torch
from transformers import AutoModelForImageTextToText
from verl.models.transformers.monkey_patch import apply_monkey_patch

from segzero.errors import UserError
from segzero.training.encoding import open_fitted
from segzero.training.engine import PixelCache, SharedFeatures, freeze_vision, vision_towers
from segzero.training.trainer import whole_groups


@pytest.fixture(scope="module")
def model(policy):
    return AutoModelForImageTextToText.from_pretrained(policy, dtype=torch.float32, attn_implementation="sdpa")


def pixels_of(encoder, paths):
    images = [open_fitted(path, encoder.checkpoint) for path in paths]
    processed = encoder.processor.image_processor(images=images, return_tensors="pt")
    return {name: processed[name] for name in ("pixel_values", "image_grid_thw")}


def test_shared_features_give_the_same_loss_and_gradients(model, encoder, samples):
    rows = [samples[0], samples[1], samples[0], samples[0], samples[1]]
    encoded = [encoder.encode(sample) for sample in rows]
    length = max(map(len, encoded))
    ids = torch.tensor([e.ids + [encoder.processor.tokenizer.pad_token_id] * (length - len(e)) for e in encoded])
    positions = torch.zeros(4, len(rows), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, e in enumerate(encoded):
        positions[:, row, : len(e)] = encoder.positions(e, 0)
        mask[row, : len(e)] = 1
    apply_monkey_patch(model=model, use_remove_padding=False)  # the forward that verl trains with

    def run(net, pixels):
        logits = net(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, **pixels).logits
        loss = (logits * mask[..., None]).float().log_softmax(-1)[..., 7].mean()
        loss.backward()
        return loss.item(), {name: p.grad for name, p in net.named_parameters()}

    expected, gradients = run(copy.deepcopy(model), pixels_of(encoder, [s.image for s in rows]))
    shared = SharedFeatures(model)
    assert shared.first_of_each([s.image for s in rows]) == {0, 1}
    loss, found = run(model, pixels_of(encoder, [samples[0].image, samples[1].image]))
    assert loss == pytest.approx(expected, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_rows_of_different_images_are_left_alone(model):
    shared = SharedFeatures(torch.nn.Module())
    assert shared.first_of_each(["a", "b"]) == {0, 1}
    assert shared.first_of_each([None, "a", "a"]) == {0, 1, 2}


def test_freezing_takes_the_vision_tower_out(model):
    net = copy.deepcopy(model)
    frozen = freeze_vision(net)
    [tower] = vision_towers(net)
    assert frozen == sum(p.numel() for p in tower.parameters())
    assert all(p.requires_grad == ("visual" not in name) for name, p in net.named_parameters())


def test_nothing_to_freeze_is_a_mistake():
    with pytest.raises(UserError, match="no part called 'visual'"):
        freeze_vision(torch.nn.Linear(2, 2))


def test_pixels_are_kept_up_to_a_number_of_bytes():
    cache = PixelCache(limit=100)
    for path in "abc":
        cache.put(path, {"pixel_values": torch.zeros(10)})  # 40 bytes
        cache.get("a")
    assert cache.get("b") is None
    assert cache.get("a") is not None
    assert cache.held == 80


def test_groups_stay_on_one_rank():
    groups = [g for _ in range(4) for g in "abcd"]
    lengths = [{"a": 9, "b": 8, "c": 2, "d": 1}[g] for g in groups]
    order = whole_groups(groups, lengths, 2)
    halves = [{groups[row] for row in order[:8]}, {groups[row] for row in order[8:]}]
    assert sorted(map(sorted, halves)) == [["a", "d"], ["b", "c"]]
    assert sorted(order) == list(range(16))
    assert whole_groups(["a", "a", "b"], [1, 1, 1], 2) == [0, 1, 2]
