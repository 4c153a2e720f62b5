"""The transformers backend with the shipped tiny SAM2, and with random models of the other families it reads."""

import io
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Sam2Model

from segzero.errors import UserError
from segzero.masks import mask_iou
from segzero.segmenter import MaskPrompt, load_segmenter
from segzero.shipped import policy_path, segmenter_path
from segzero.tiny.questions import HELD_OUT_SEED
from segzero.tiny.scenes import make_scene


@pytest.fixture(scope="module")
def segmenter():
    return load_segmenter(segmenter_path(), device="cpu")


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(HELD_OUT_SEED + 7)
    return [make_scene(rng) for _ in range(12)]


@pytest.fixture(scope="module")
def embeddings(segmenter, scenes):
    return segmenter.embed([Image.fromarray(scene.image) for scene in scenes])


def boxes_and_points(scenes):
    return [[MaskPrompt(box=s.box, points=[s.point]) for s in scene.shapes] for scene in scenes]


def test_box_and_point_give_the_shape(segmenter, scenes, embeddings):
    drawn = segmenter.decode(embeddings, boxes_and_points(scenes))
    pairs = [(d, s) for row, scene in zip(drawn, scenes, strict=True) for d, s in zip(row, scene.shapes, strict=True)]
    reached = [mask_iou(d.masks[0], s.mask) for d, s in pairs]
    assert np.mean(reached) > 0.88 and min(reached) > 0.5
    assert np.mean([abs(d.scores[0] - iou) for (d, _), iou in zip(pairs, reached, strict=True)]) < 0.06


def test_features_are_the_librarys_own(segmenter, scenes, embeddings):
    pixels = segmenter.processor([scene.image for scene in scenes[:4]], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = Sam2Model.from_pretrained(segmenter_path()).eval().get_image_embeddings(pixels)
    for ours, theirs in zip(embeddings.features, expected, strict=True):
        torch.testing.assert_close(ours[:4], theirs, atol=1e-6, rtol=0)


def test_images_of_any_shape_keep_their_size_and_place(segmenter, scenes):
    """A wide image is squeezed for the model; boxes and masks stay in its own pixels."""
    wide = [Image.fromarray(scene.image).resize((448, 224)) for scene in scenes[:4]]
    prompts = [[MaskPrompt(box=tuple(np.multiply(s.box, (2, 1, 2, 1)))) for s in scene.shapes] for scene in scenes[:4]]
    for scene, row in zip(scenes, segmenter.decode(segmenter.embed(wide), prompts), strict=False):
        for shape, drawn in zip(scene.shapes, row, strict=True):
            assert drawn.masks.shape == (1, 224, 448)
            assert mask_iou(drawn.masks[0][:, ::2], shape.mask) > 0.6


def test_a_batch_of_unequal_images_equals_one_by_one(segmenter, scenes, embeddings):
    rng = np.random.default_rng(0)
    prompts = [
        [
            MaskPrompt(box=s.box if i % 3 else None, points=[s.point] * (1 + i % 2), labels=[1] * (1 + i % 2))
            for i, s in enumerate(scene.shapes)
        ]
        for scene in scenes
    ]
    prompts[3] = []
    together = segmenter.decode(embeddings, prompts, all_masks=True)
    assert together[3] == []
    for i in rng.permutation(len(scenes))[:5]:
        for j, prompt in enumerate(prompts[i]):
            [[alone]] = segmenter.decode(embeddings[int(i)], [[prompt]], all_masks=True)
            np.testing.assert_allclose(alone.logits, together[i][j].logits, atol=1e-4)
            np.testing.assert_allclose(alone.scores, together[i][j].scores, atol=1e-5)


def test_embeddings_can_be_used_again_exactly(segmenter, scenes, embeddings):
    prompts = boxes_and_points(scenes)
    first, second = segmenter.decode(embeddings, prompts), segmenter.decode(embeddings.cpu(), prompts)
    pairs = [pair for rows in zip(first, second, strict=True) for pair in zip(*rows, strict=True)]
    for a, b in pairs:
        assert (a.logits == b.logits).all() and (a.scores == b.scores).all()


def test_boxes_are_what_the_models_own_box_argument_means(segmenter, scenes, embeddings):
    scene = scenes[0]
    scale = segmenter.model.prompt_encoder.input_image_size / scene.size
    with torch.inference_mode():
        output = segmenter.model(
            image_embeddings=list(embeddings[0].features),
            input_boxes=torch.tensor([[s.box for s in scene.shapes]]) * scale,
            input_points=torch.tensor([[[s.point] for s in scene.shapes]]) * scale,
        )
    [drawn] = segmenter.decode(embeddings[0], boxes_and_points([scene]), all_masks=True)
    ours = np.stack([d.logits for d in drawn])
    np.testing.assert_allclose(ours, output.pred_masks[0].numpy(), atol=1e-4)


def test_an_earlier_mask_with_points_becomes_the_whole(segmenter):
    """From the mask of the emblem, points on both pieces lead to the whole; and the earlier mask is heeded."""
    rng = np.random.default_rng(HELD_OUT_SEED + 9)
    reached, changed = [], []
    while len(reached) < 8:
        scene = make_scene(rng)
        for shape in (s for s in scene.shapes if s.part is not None):
            embeddings = segmenter.embed([Image.fromarray(scene.image)])
            [[three]] = segmenter.decode(embeddings, [[MaskPrompt(points=[shape.point])]], all_masks=True)
            rows, columns = np.nonzero(shape.mask & ~shape.part)
            points = [shape.point, (float(columns[0]), float(rows[0]))]
            earlier = MaskPrompt(points=points, mask=three.logits[1])
            [[with_mask, without]] = segmenter.decode(embeddings, [[earlier, MaskPrompt(points=points)]])
            reached.append(mask_iou(with_mask.masks[0], shape.mask))
            changed.append(np.abs(with_mask.logits - without.logits).max())
    assert np.mean(reached) > 0.85 and min(changed) > 0


def test_thousands_of_prompts_for_one_image(segmenter, scenes, embeddings):
    count = 1500
    box = scenes[0].shapes[0].box
    [drawn] = segmenter.decode(embeddings[0], [[MaskPrompt(box=box)] * count])
    assert len(drawn) == count
    assert sum(d.logits.nbytes for d in drawn) < 30e6 and all(d.logits.base is None for d in drawn[:10])
    assert (drawn[0].masks == drawn[-1].masks).all()


def test_nothing_to_embed_and_nothing_to_draw(segmenter):
    embeddings = segmenter.embed([])
    assert len(embeddings) == 0 and segmenter.decode(embeddings, []) == []


def test_random_models_of_the_other_families(tmp_path):
    """SAM2's video checkpoints and SAM3's tracker load and draw; what they draw is noise."""
    from transformers import Sam2VideoConfig, Sam2VideoModel, Sam3TrackerConfig, Sam3TrackerModel
    from transformers.models.sam2.image_processing_sam2 import Sam2ImageProcessor
    from transformers.models.sam3.image_processing_sam3 import Sam3ImageProcessor

    tiny = load_segmenter(segmenter_path(), device="cpu").model.config
    parts = {
        name: getattr(tiny, name).to_dict()
        for name in ("vision_config", "prompt_encoder_config", "mask_decoder_config")
    }
    side = tiny.prompt_encoder_config.image_size
    video = Sam2VideoModel(
        Sam2VideoConfig(
            **parts,
            memory_attention_hidden_size=64,
            memory_attention_rope_feat_sizes=[12, 12],
            memory_attention_feed_forward_hidden_size=64,
            memory_encoder_hidden_size=64,
        )
    )
    video.save_pretrained(tmp_path / "video")
    Sam2ImageProcessor(size={"height": side, "width": side}).save_pretrained(tmp_path / "video")
    tracker = Sam3TrackerModel(
        Sam3TrackerConfig(
            vision_config={
                "backbone_config": {
                    "hidden_size": 32,
                    "intermediate_size": 64,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "image_size": 112,
                    "patch_size": 14,
                    "window_size": 4,
                    "global_attn_indexes": [1],
                    "pretrain_image_size": 56,
                },
                "fpn_hidden_size": 32,
                "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
            },
            prompt_encoder_config={"hidden_size": 32, "image_size": 112, "patch_size": 14},
            mask_decoder_config={"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
        )
    )
    tracker.save_pretrained(tmp_path / "tracker")
    Sam3ImageProcessor(size={"height": 112, "width": 112}).save_pretrained(tmp_path / "tracker")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    for name, grid in (("video", tiny.vision_config.backbone_feature_sizes[0][0]), ("tracker", 32)):
        segmenter = load_segmenter(tmp_path / name, device="cpu")
        [[drawn]] = segmenter.decode(segmenter.embed([image]), [[MaskPrompt(box=(10, 10, 50, 50))]], all_masks=True)
        assert drawn.logits.shape == (3, grid, grid) and drawn.masks.shape == (3, 60, 90)
        assert np.isfinite(drawn.logits).all() and drawn.logits.std() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "no/such/folder"}, "no such segmenter: no/such/folder"),
        ({"path": "nobody/nothing"}, "can't load the segmenter nobody/nothing"),
        ({"path": policy_path()}, "is a 'qwen2_5_vl' model, not a segmenter"),
        ({"path": segmenter_path(), "backend": "transformer"}, "did you mean 'transformers'"),
        ({"path": segmenter_path(), "dtype": "float8"}, "unknown segmenter dtype 'float8'"),
        ({"path": segmenter_path(), "device": "tpu:0"}, "can't use device 'tpu:0'"),
        ({"path": segmenter_path(), "config": "configs/sam2/sam2_hiera_l.yaml"}, "is for the sam2 backend"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_gets_one_clear_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        load_segmenter(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("backend", "module"), [("transformers", "segzero.segmenter.transformers"), ("sam2", "segzero.segmenter.sam2")]
)
def test_a_backend_that_does_not_import_is_one_line(monkeypatch, backend, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"{backend} backend does not import here .*pip install 'segzero\[infer\]'"):
        load_segmenter("facebook/sam2.1-hiera-tiny", backend)


def test_a_broken_checkpoint_is_not_filled_with_noise(tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(segmenter_path(), broken)
    weights = load_file(broken / "model.safetensors")
    save_file({name: w for name, w in weights.items() if "mask_tokens" not in name}, broken / "model.safetensors")
    with pytest.raises(UserError, match=r"its weights lack mask_decoder\.mask_tokens"):
        load_segmenter(broken)
    (broken / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match="can't load the segmenter"):
        load_segmenter(broken)


def test_no_code_of_a_checkpoint_runs_even_if_somebody_says_yes(tmp_path, monkeypatch):
    names = ("AutoConfig", "AutoModelForMaskGeneration", "AutoImageProcessor")
    config = {"model_type": "never_seen", "auto_map": dict.fromkeys(names, "own_code.Config")}
    for kind in ("never_seen", "sam2_video"):
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config | {"model_type": kind}))
        (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "Own", **config}))
        (folder / "own_code.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\n")
        monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
        monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 5))
        with pytest.raises(UserError, match="can't load the segmenter") as caught:
            load_segmenter(folder)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("ran")) and not (tmp_path / "modules").exists()
