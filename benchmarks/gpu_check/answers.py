"""A policy's greedy answers to held-out scenes, through one backend, in a process of its own.

python -m benchmarks.gpu_check.answers POLICY BACKEND DEVICE OUT.json
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

QUESTIONS = 8


def main() -> None:
    from segzero.images import load_image
    from segzero.policy import Request, Sampling, load_policy
    from segzero.prompts import render_messages
    from segzero.tiny.questions import HELD_OUT_SEED, make_samples

    path, backend, device, out = sys.argv[1:]
    options: dict[str, Any] = {"gpu_memory": 0.3} if backend == "vllm" and device == "cuda" else {}
    # In bfloat16, rounding would decide between words that are about equally likely.
    policy = load_policy(path, backend, device=device, dtype="float32", **options)
    requests = [
        Request(policy.frame.fit(load_image(sample.image)), render_messages(sample.question, policy.prompt))
        for sample in make_samples(QUESTIONS, HELD_OUT_SEED + 77)
    ]
    begin = time.perf_counter()
    texts = [reply.text for reply in policy.generate(requests, Sampling(max_tokens=120))]
    Path(out).write_text(json.dumps({"texts": texts, "seconds": time.perf_counter() - begin}))
    policy.close()


if __name__ == "__main__":
    main()
