"""Images per second from question to mask: the pipeline against the published method, with the same weights.

The published method (Seg-Zero's and VisionReasoner's scripts) calls `generate` for one image at a time, then SAM2 once
per object, with the image encoded at each call. Loading models and starting engines is left out of both and reported
separately. The two methods take turns, so that a drift of the machine's speed affects both. CPU time, which depends
less on what else the machine does, is that of all threads: the pipeline encodes images in a second one.

    python -m benchmarks.inference [--scenes 64] [--repeats 3] [--backend auto]
"""

import argparse
import statistics
import time
from collections import Counter

import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, Sam2Model, Sam2Processor

from segzero import shipped
from segzero.answer import parse_answer
from segzero.images import load_image
from segzero.masks import mask_iou
from segzero.pipeline import SegZeroPipeline, in_pixels
from segzero.policy.checkpoint import read_checkpoint
from segzero.prompts import get_prompt, render_messages
from segzero.tiny.questions import HELD_OUT_SEED, make_samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backend", default="auto", help="the pipeline's policy backend")
    args = parser.parse_args()

    begin = time.perf_counter()
    published = Published()
    theirs_start = time.perf_counter() - begin
    begin = time.perf_counter()
    pipeline = SegZeroPipeline.from_pretrained(policy_backend=args.backend)
    ours_start = time.perf_counter() - begin
    samples = make_samples(args.scenes, HELD_OUT_SEED + 2)
    images = [load_image(sample.image) for sample in samples]
    questions = [sample.question for sample in samples]
    pipeline(images[:2], questions[:2])  # warm up both
    published(images[:2], questions[:2])

    ours, theirs, shares = [], [], Counter[str]()
    for _ in range(args.repeats):
        before = clocks()
        results = pipeline(images, questions)
        ours.append(clocks() - before)
        for result in results:
            shares.update(result.timings)
        before = clocks()
        unions = published(images, questions)
        theirs.append(clocks() - before)

    same = np.mean([mask_iou(r.union, union) for r, union in zip(results, unions, strict=True)])
    print(f"{args.scenes} scenes, {args.repeats} repeats; loading, left out of both:", end=" ")
    print(f"published method {theirs_start:.1f} s, pipeline {ours_start:.1f} s")
    report("published method", theirs, args.scenes, published.shares)
    report(f"pipeline ({pipeline.policy.name})", ours, args.scenes, shares)
    for clock, name in enumerate(("wall time", "CPU time")):
        ratios = [b[clock] / a[clock] for a, b in zip(ours, theirs, strict=True)]
        print(f"ratio of {name} {statistics.median(ratios):.1f}x (from {min(ratios):.1f} to {max(ratios):.1f})")
    print(f"mean IoU between both methods' masks: {same:.4f}")


class Published:
    """Published method: the libraries as documented, with this project's prompt and parser alone."""

    def __init__(self) -> None:
        self.checkpoint = read_checkpoint(shipped.policy_path())
        self.processor = AutoProcessor.from_pretrained(self.checkpoint.path, trust_remote_code=False)
        self.policy = AutoModelForImageTextToText.from_pretrained(self.checkpoint.path, trust_remote_code=False).eval()
        self.sam_processor = Sam2Processor.from_pretrained(shipped.segmenter_path())
        self.sam = Sam2Model.from_pretrained(shipped.segmenter_path()).eval()
        self.shares = Counter[str]()

    def __call__(self, images: list[Image.Image], questions: list[str]) -> list[np.ndarray]:
        """Predict union masks, one image and one object at a time."""
        return [self.segment(image, question) for image, question in zip(images, questions, strict=True)]

    @torch.inference_mode()
    def segment(self, image: Image.Image, question: str) -> np.ndarray:
        begin = time.perf_counter()
        frame, prompt = self.checkpoint.frame, get_prompt(self.checkpoint.prompt)
        messages = render_messages(question, self.checkpoint.prompt)
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        inputs = self.processor(text=[text], images=[frame.fit(image)], return_tensors="pt")
        tokens = self.policy.generate(**inputs, do_sample=False, max_new_tokens=1024)
        reply = self.processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
        answered = time.perf_counter()
        union = np.zeros((image.height, image.width), bool)
        for instance in parse_answer(reply, prompt.format, extent=frame.extent(image.size)).instances:
            box, points = in_pixels(instance, frame, image.size)
            points = [list(point) for point in points]
            prompts = {"input_boxes": [[list(box)]], "input_points": [[points]], "input_labels": [[[1] * len(points)]]}
            inputs = self.sam_processor(images=image, **prompts, return_tensors="pt")
            output = self.sam(**inputs, multimask_output=True)
            masks = self.sam_processor.post_process_masks(output.pred_masks, inputs["original_sizes"])[0][
                0
            ]  # [3, H, W]
            union |= masks[output.iou_scores[0, 0].argmax()].numpy()
        self.shares.update({"policy": answered - begin, "segmenter": time.perf_counter() - answered})
        return union


def clocks() -> np.ndarray:
    """Wall time and CPU time of all threads, in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def report(name: str, seconds: list[np.ndarray], count: int, shares: Counter[str]) -> None:
    total = sum(shares.values())
    where = ", ".join(f"{part} {100 * value / total:.0f} %" for part, value in shares.items())
    wall, cpu = np.array(seconds).T  # each [repeats]
    rates = count / wall
    print(f"{name:34}{np.median(rates):7.2f} images/s ({rates.min():.2f} to {rates.max():.2f}); {where};", end=" ")
    print(f"{1000 * np.median(cpu) / count:.1f} ms of CPU time per image")


if __name__ == "__main__":
    main()
