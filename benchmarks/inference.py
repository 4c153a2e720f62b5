"""Images a second from question to mask: the pipeline against the published way, same weights, same machine.

The published way (Seg-Zero's and VisionReasoner's scripts): `generate` for one image at a time, then SAM2
once an object, with the image encoded at each call. Loading models and starting engines is left out of both
and reported by itself. The two ways take turns, so that a drift of the machine's speed hits both.

    python benchmarks/inference.py [--scenes 64] [--repeats 3] [--backend auto]
"""

import argparse
import statistics
import time
from collections import Counter

import numpy as np
from PIL import Image

from segzero import tiny
from segzero.answer import parse_answer
from segzero.images import load_image
from segzero.masks import mask_iou
from segzero.pipeline import SegZeroPipeline
from segzero.policy import Policy, Request, Sampling, load_policy
from segzero.prompts import get_prompt, render_messages
from segzero.segmenter import Prompt, Segmenter
from segzero.tiny.questions import HELD_OUT_SEED, make_samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backend", default="auto", help="the pipeline's policy backend")
    args = parser.parse_args()

    begin = time.perf_counter()
    one_by_one = load_policy(tiny.policy_path(), "transformers")
    theirs_start = time.perf_counter() - begin
    begin = time.perf_counter()
    pipeline = SegZeroPipeline.from_pretrained(policy_backend=args.backend)
    ours_start = time.perf_counter() - begin
    samples = make_samples(args.scenes, HELD_OUT_SEED + 2)
    images = [load_image(sample.image) for sample in samples]
    questions = [sample.question for sample in samples]
    pipeline(images[:2], questions[:2])  # warm up both
    published(one_by_one, pipeline.segmenter, images[:2], questions[:2], Counter())

    ours, theirs, shares, their_shares = [], [], Counter[str](), Counter[str]()
    for _ in range(args.repeats):
        begin = time.perf_counter()
        results = pipeline(images, questions)
        ours.append(time.perf_counter() - begin)
        for result in results:
            shares.update(result.timings)
        begin = time.perf_counter()
        unions = published(one_by_one, pipeline.segmenter, images, questions, their_shares)
        theirs.append(time.perf_counter() - begin)

    same = np.mean([mask_iou(r.union, union) for r, union in zip(results, unions, strict=True)])
    print(f"{args.scenes} scenes, {args.repeats} repeats; loading, left out of both:", end=" ")
    print(f"policy alone {theirs_start:.1f} s, pipeline {ours_start:.1f} s")
    report("published way", theirs, args.scenes, their_shares)
    report(f"pipeline ({pipeline.policy.name})", ours, args.scenes, shares)
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    print(f"ratio {statistics.median(ratios):.1f}x (from {min(ratios):.1f} to {max(ratios):.1f})")
    print(f"mean IoU between the two ways' masks: {same:.4f}")


def published(
    policy: Policy, segmenter: Segmenter, images: list[Image.Image], questions: list[str], shares: Counter[str]
) -> list[np.ndarray]:
    """Union masks, one image and one object at a time."""
    unions = []
    for image, question in zip(images, questions, strict=True):
        begin = time.perf_counter()
        [reply] = policy.generate([Request(policy.frame.fit(image), render_messages(question))], Sampling())
        answered = time.perf_counter()
        answer = parse_answer(reply.text, get_prompt(policy.prompt).format)
        union = np.zeros((image.height, image.width), bool)
        for instance in answer.instances:
            box = tuple(policy.frame.to_pixels(instance.box, image.size))
            point = tuple(policy.frame.to_pixels(instance.points[0], image.size))
            [[drawn]] = segmenter.decode(segmenter.embed([image]), [[Prompt(box=box, points=(point,), labels=(1,))]])
            union |= drawn.masks[0]
        unions.append(union)
        shares.update({"policy": answered - begin, "segmenter": time.perf_counter() - answered})
    return unions


def report(name: str, seconds: list[float], count: int, shares: Counter[str]) -> None:
    total = sum(shares.values())
    where = ", ".join(f"{part} {100 * value / total:.0f} %" for part, value in shares.items())
    rates = [count / s for s in seconds]
    print(f"{name:34}{statistics.median(rates):7.2f} images/s ({min(rates):.2f} to {max(rates):.2f}); {where}")


if __name__ == "__main__":
    main()
