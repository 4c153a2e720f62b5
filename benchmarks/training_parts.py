"""Direct measurements of two parts of training: SAM2 in the reward, and the size of a trajectory."""

import asyncio
import json
import pickle
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from segzero.images import load_image
from segzero.masks import encode, mask_iou
from segzero.sample import Object, Sample
from segzero.segmenter import MaskPrompt, Segmenter, load_segmenter
from segzero.training.segmenter_actor import Masks, Prompts, SegmenterActor

ANSWERS = 8
SIDE, LONGEST = 840, 2000  # side of a published training image in pixels, longest answer in tokens
REPEATS = {"tiny": 3, "hiera-t": 1}
IMAGES = {"tiny": 16, "hiera-t": 1}  # prompts per step


def segmenter_phase(models: list[str]) -> None:
    """Compare the reward's masks by the actor's service with encoding the image for every rollout."""
    from benchmarks.segmenter import random_hiera_t
    from segzero import shipped

    print(f"\nSAM2 in the reward: {ANSWERS} answers per image; CPU seconds, median (fastest to slowest)", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in models:
            path = shipped.segmenter_path() if model == "tiny" else random_hiera_t(folder / model)
            compare_ways(model, load_segmenter(path, device="cpu"), make_requests(folder, IMAGES[model]))


def compare_ways(model: str, segmenter: Segmenter, requests: list[tuple[str, Prompts]]) -> None:
    each_rollout(segmenter, requests[0][0], requests[0][1][:1])  # warm up
    ours, theirs = [], []
    for _ in range(REPEATS[model]):
        begin = time.process_time()
        drawn = asyncio.run(draw_all(segmenter, requests))
        ours.append(time.process_time() - begin)
        begin = time.process_time()
        expected = [each_rollout(segmenter, path, answers) for path, answers in requests]
        theirs.append(time.process_time() - begin)
    ratio = statistics.median(theirs) / statistics.median(ours)
    print(f"  {model:8} {len(requests):2} images   encoded for every rollout {spread(theirs)}", end="   ")
    print(f"once, with the service {spread(ours)}   ratio {ratio:.1f}x")
    pairs = zip((m for a in drawn for b in a for m in b), (m for a in expected for b in a for m in b), strict=True)
    same = [mask_iou(a, b) for a, b in pairs]
    print(f"  {'':8} {len(same)} masks, IoU between the two ways: mean {np.mean(same):.4f}, lowest {min(same):.4f}")


async def draw_all(segmenter: Segmenter, requests: list[tuple[str, Prompts]]) -> list[Masks]:
    """Answer the requests of a step, as the rollouts send them; the cache starts empty."""
    service = SegmenterActor(lambda: segmenter)
    return await asyncio.gather(*(service.draw(path, answers) for path, answers in requests))


def each_rollout(segmenter: Segmenter, path: str, answers: Prompts) -> Masks:
    """Predict the masks as a reward function that is called with one answer at a time."""
    masks = []
    for answer in answers:
        predictions = segmenter.decode(segmenter.embed([load_image(path)]), [answer])[0] if answer else []
        masks.append([encode(prediction.masks[0]) for prediction in predictions])
    return masks


def make_requests(folder: Path, count: int) -> list[tuple[str, Prompts]]:
    """Make scenes as files, each with the prompts of several answers, which differ a little."""
    from segzero.tiny.questions import HELD_OUT_SEED, make_samples

    rng = np.random.default_rng(HELD_OUT_SEED + 5)
    requests = []
    for sample in [s for s in make_samples(3 * count, HELD_OUT_SEED + 5) if s.objects][:count]:
        path = folder / f"{sample.id}.png"
        path.write_bytes(sample.image)
        boxes = [np.array(o.box) for o in sample.objects]
        answers = [
            [
                MaskPrompt(box=tuple((box + rng.uniform(-3, 3, 4)).tolist()), points=o.points[:1])
                for box, o in zip(boxes, sample.objects, strict=True)
            ]
            for _ in range(ANSWERS)
        ]
        requests.append((str(path), answers))
    return requests


def trajectory_memory() -> None:
    """Measure one trajectory about an 840x840 image with the longest answer, as processes exchange it."""
    from segzero.policy.checkpoint import read_checkpoint
    from segzero.training.rollouts import as_batch, trajectory
    from segzero.training.tokenization import Encoder, load_processor, open_fitted

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = read_checkpoint(published_processor(folder / "policy"))
        encoder = Encoder(checkpoint, load_processor(checkpoint.path))
        image = folder / "image.png"
        noise = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
        from PIL import Image

        Image.fromarray(noise).save(image)
        question = "the mug " * 60  # about the longest prompt that is trained on
        sample = Sample("s", str(image), question, SIDE, SIDE, objects=(Object((10, 10, 99, 99), ((50, 50),)),))
        encoded = encoder.encode(sample)
        row = trajectory(encoded, [5] * LONGEST, [-0.5] * LONGEST, 1.0, encoder, sample.image)
        ours = len(pickle.dumps(as_batch([{**row, "uid": "0" * 36, "index": 0}])))
        pixels = encoder.processor.image_processor(images=[open_fitted(sample.image, checkpoint)], return_tensors="pt")
        theirs = ours + len(pickle.dumps(dict(pixels)))
    print(f"\na trajectory: image {SIDE}x{SIDE}, prompt {len(encoded)} tokens, answer {LONGEST} tokens")
    print(
        f"  ours, with the image's path {ours / 1e6:.3f} MB   with its pixels, as verl {theirs / 1e6:.1f} MB", end="   "
    )
    print(f"ratio {theirs / ours:.0f}x")
    print("  promised: under 1 MB; " + ("kept" if ours < 1e6 else "BROKEN"))


def published_processor(folder: Path) -> Path:
    """Copy the shipped policy's small files, with the patch size and the frame of Seg-Zero's Qwen2.5-VL."""
    from segzero import shipped
    from segzero.frames import stretch
    from segzero.policy.checkpoint import write_card

    shutil.copytree(shipped.policy_path(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["patch_size"] = 14
    (folder / "config.json").write_text(json.dumps(config))
    file = folder / "processor_config.json"
    processor = json.loads(file.read_text())
    processor["image_processor"] |= {"patch_size": 14, "size": {"shortest_edge": 3136, "longest_edge": 12_845_056}}
    file.write_text(json.dumps(processor))
    write_card(folder, "vision_reasoner", stretch(SIDE))
    return folder


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    sys.exit("run python -m benchmarks.training --only sam2,memory")
