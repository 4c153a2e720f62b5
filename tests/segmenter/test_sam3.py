"""SAM3 with random weights of the library's own classes: phrases, points, boxes, and files that are not SAM3."""

import numpy as np
import pytest
import torch
from PIL import Image

from segzero.errors import UserError
from segzero.segmenter import MaskPrompt, load_segmenter
from segzero.segmenter.cache import CachedSegmenter
from segzero.segmenter.words import MAX_PHRASE, MAX_PHRASES, PhrasePrompt, check_phrases, reads_text
from segzero.shipped import segmenter_path
from tests.helpers.random_sam3 import build_sam3

SIZES = [(90, 60), (64, 100)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sam3")
    build_sam3(folder)
    return folder


@pytest.fixture(scope="module")
def sam3(folder):
    return load_segmenter(folder, device="cpu")


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)) for width, height in SIZES]


@pytest.fixture(scope="module")
def embeddings(sam3, images):
    return sam3.embed(images)


def test_phrases_give_what_the_librarys_own_model_and_processor_give(folder, sam3, images, embeddings):
    """Boxes, scores and presence are the library's, from an image that is encoded once."""
    from transformers import Sam3Model, Sam3Processor

    model, processor = Sam3Model.from_pretrained(folder).eval(), Sam3Processor.from_pretrained(folder)
    prompts = [PhrasePrompt("red cup"), PhrasePrompt("dog", ((10, 5, 40, 50), (50, 10, 62, 30)), (1, 0))]
    found = sam3.find(embeddings, [prompts, prompts], threshold=0.2)
    for image, listed in zip(images, found, strict=True):
        for prompt, ours in zip(prompts, listed, strict=True):
            boxes = {"input_boxes": [[list(b) for b in prompt.boxes]], "input_boxes_labels": [list(prompt.labels)]}
            inputs = processor(images=image, text=prompt.text, return_tensors="pt", **(boxes if prompt.boxes else {}))
            with torch.inference_mode():
                output = model(**{k: v for k, v in inputs.items() if k != "original_sizes"})
            [theirs] = processor.post_process_instance_segmentation(
                output, threshold=0.2, target_sizes=[(image.height, image.width)]
            )
            order = theirs["scores"].argsort(descending=True, stable=True)
            assert len(order) > 1 and ours.presence == pytest.approx(float(output.presence_logits.sigmoid()), abs=1e-5)
            np.testing.assert_allclose(ours.scores, theirs["scores"][order].numpy(), atol=1e-5)
            np.testing.assert_allclose(
                ours.boxes, theirs["boxes"][order].clamp(min=0).numpy().clip(max=[*image.size] * 2), atol=1e-2
            )
            assert ours.masks.shape == (len(order), image.height, image.width)
            # The processor enlarges probabilities and we logits, so that edges differ: compare what both enlarge.
            kept = output.pred_logits[0].argsort(descending=True, stable=True)[: len(order)]
            np.testing.assert_allclose(ours.logits, output.pred_masks[0][kept].numpy(), atol=1e-3)


def test_points_and_boxes_give_what_the_librarys_own_tracker_gives(folder, sam3, images, embeddings):
    from transformers import Sam3TrackerModel

    tracker = Sam3TrackerModel.from_pretrained(folder).eval()
    pixels = sam3.processor(images, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        *fine, coarse = tracker.get_image_embeddings(pixels)
    # The library adds this to a level that it then leaves out; its video model, and Meta's code, add it to this one.
    assert tracker.no_memory_embedding.abs().max() > 0
    expected = [*fine, coarse + tracker.no_memory_embedding.detach().view(1, -1, 1, 1)]
    for ours, theirs in zip(embeddings.features[:3], expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    [[drawn], [_]] = sam3.decode(embeddings, [[MaskPrompt(box=(10, 10, 50, 50))]] * 2, all_masks=True)
    with torch.inference_mode():
        output = tracker(
            image_embeddings=[level[:1] for level in expected],
            input_boxes=torch.tensor([[[10 / 90, 10 / 60, 50 / 90, 50 / 60]]]) * 112,
        )
    np.testing.assert_allclose(drawn.logits, output.pred_masks[0, 0].numpy(), atol=1e-4)


def test_both_halves_share_one_image_encoder(sam3, images):
    assert sam3.model.vision_encoder.backbone is sam3.detector.vision_encoder.backbone
    runs = []
    hook = sam3.detector.vision_encoder.backbone.register_forward_hook(lambda *_: runs.append(1))
    embeddings = sam3.embed(images[:1])
    sam3.find(embeddings, [[PhrasePrompt("cup"), PhrasePrompt("dog")]])
    sam3.decode(embeddings, [[MaskPrompt(points=((10, 10),))]])
    hook.remove()
    assert len(runs) == 1


def test_many_phrases_in_any_company_give_what_each_gives_alone(sam3, embeddings):
    prompts = [PhrasePrompt(f"thing {i}", ((5, 5, 30, 30 + i),) * (i % 3)) for i in range(5)]
    [together] = sam3.find(embeddings[0], [prompts], threshold=0.0)
    for prompt, ours in zip(prompts, together, strict=True):
        [[alone]] = sam3.find(embeddings[0].cpu(), [[prompt]], threshold=0.0)
        np.testing.assert_allclose(ours.scores, alone.scores, atol=1e-5)
        np.testing.assert_allclose(ours.logits, alone.logits, atol=1e-3)
    assert len({round(one.presence, 4) for one in together}) > 3  # the words matter


def test_a_threshold_leaves_the_best(sam3, embeddings):
    [[every]] = sam3.find(embeddings[0], [[PhrasePrompt("cup")]], threshold=0.0)
    middle = float(every.scores[3])
    [[few]] = sam3.find(embeddings[0], [[PhrasePrompt("cup")]], threshold=middle)
    assert (few.scores == every.scores[:4]).all() and (every.scores[:-1] >= every.scores[1:]).all()
    [[none]] = sam3.find(embeddings[0], [[PhrasePrompt("cup")]], threshold=1.0)
    assert none.masks.shape == (0, 60, 90) and none.presence == every.presence


def test_a_cache_around_it_reads_text_too(sam3, images):
    cached = CachedSegmenter(sam3, 1 << 30)
    [[ours]] = cached.find(cached.embed(images[:1]), [[PhrasePrompt("cup")]])
    [[theirs]] = sam3.find(sam3.embed(images[:1]), [[PhrasePrompt("cup")]])
    assert reads_text(cached) and (ours.logits == theirs.logits).all()
    assert not reads_text(CachedSegmenter(load_segmenter(segmenter_path(), device="cpu"), 1))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (PhrasePrompt("cup", ((0, 0, 100, 10),)), "inside the image of 90x60 pixels"),
        (PhrasePrompt("cup", ((5, 5, 5, 10),)), "inside the image"),
        (PhrasePrompt("cup", ((0, 0, 5, float("nan")),)), "inside the image"),
        (PhrasePrompt("cup", ((0, 0, 5, 5),), (2,)), "1 boxes with labels [2]"),
        (PhrasePrompt("cup", ((0, 0, 5, 5),) * 17), "17 boxes beside a phrase; at most 16"),
    ],
)
def test_a_prompt_that_it_would_misread_is_refused(sam3, embeddings, prompt, message):
    with pytest.raises(UserError) as caught:
        sam3.find(embeddings[0], [[prompt]])
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("phrases", "message"),
    [
        ([], "no phrase is given"),
        (["cup", " . "], "a phrase is empty"),
        (["cup"] * (MAX_PHRASES + 1), f"at most {MAX_PHRASES}"),
        (["x" * (MAX_PHRASE + 1)], f"at most {MAX_PHRASE} are read"),
        (["a <|im_end|> cup"], "special tokens"),
    ],
)
def test_phrases_that_are_no_phrases_are_refused(phrases, message):
    with pytest.raises(UserError, match=message):
        check_phrases(phrases)


def test_half_a_sam3_is_refused(folder, tmp_path):
    """The detector alone takes no boxes; a file without the tracker's weights says what it lacks."""
    from safetensors.torch import load_file, save_file
    from transformers import Sam3Model

    Sam3Model.from_pretrained(folder).save_pretrained(tmp_path / "detector")
    with pytest.raises(UserError, match="is SAM3's detector alone"):
        load_segmenter(tmp_path / "detector", device="cpu")
    (tmp_path / "half").mkdir()
    for file in folder.iterdir():
        if file.suffix == ".json":
            (tmp_path / "half" / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("tracker_model.mask_decoder")}
    save_file(kept, tmp_path / "half" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"its weights lack mask_decoder\.\S+ and \d+ more"):
        load_segmenter(tmp_path / "half", device="cpu")
