"""A Qwen2.5-VL-3B of random weights, and the estimate of a run on it.

Shapes, vocabulary, tokenizer and processor are the released model's, so that memory and speed are as well. On a CPU
the layers are narrow and everything else is the same.

    python -m benchmarks.gpu_check.large build FOLDER DEVICE
    python -m benchmarks.gpu_check.large estimate OUT.json key=value ...
"""

import json
import sys
from pathlib import Path

FAMILY, NAME = "qwen2_5_vl", "qwen2_5_vl_3b"
BYTES = 8e9  # of the checkpoint, in bfloat16
SECTIONS = [16, 24, 24]  # of the released models' rotary positions, for heads of 128


def main() -> None:
    what, out, *rest = sys.argv[1:]
    if what == "build":
        build(Path(out), rest[0])
    else:
        Path(out).write_text(json.dumps(estimate(rest)))


def build(folder: Path, device: str) -> None:
    """Save the checkpoint; a GPU draws its 3.8 billion weights in seconds, a CPU gets narrow layers."""
    from tests.helpers.random_checkpoints import build_checkpoint

    build_checkpoint(FAMILY, folder, real_vocabulary=True, tied=True)
    if device == "cuda":
        widen(folder)


def widen(folder: Path) -> None:
    """Replace the narrow model by one of the released shapes."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig

    from tests.helpers.released_shapes import RELEASED

    narrow = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    kind, text, vision, patch, millions = RELEASED[NAME]
    rope = {"rope_type": "default", "mrope_section": SECTIONS, "rope_theta": 1e6}
    tokens = {key: getattr(narrow.text_config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    marks = ("image_token_id", "video_token_id", "vision_start_token_id")
    config = kind(
        text_config=text | tokens | {"rope_parameters": rope},
        vision_config=vision | {"patch_size": patch},
        tie_word_embeddings=True,
        **{key: getattr(narrow, key) for key in marks},
    )
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert abs(count - millions) < 1, f"{count:.0f} M parameters, and the released model has {millions} M"
    model.generation_config = GenerationConfig.from_pretrained(folder)
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    model.save_pretrained(folder)


def estimate(overrides: list[str]) -> dict[str, float]:
    """Estimate bytes of memory and seconds per step, as dry_run does."""
    from segzero.data.parquet import from_parquet
    from segzero.policy.checkpoint import read_checkpoint
    from segzero.training.batch import batch_sizes
    from segzero.training.config import compose, data_files
    from segzero.training.launch import resolve_config
    from segzero.training.memory import estimate_memory
    from segzero.training.model_shape import shape_of
    from segzero.training.step_time import estimate_step_time
    from segzero.training.tokenization import Encoder, load_processor

    config = resolve_config(compose("train", overrides))
    batch, shape = batch_sizes(config), shape_of(config.actor_rollout_ref.model.path)
    memory = estimate_memory(config, batch, shape)
    checkpoint = read_checkpoint(config.data.checkpoint, config.data.frame, config.data.prompt)
    sample = next(iter(from_parquet(data_files(config, "train")[0])))
    prompt = len(Encoder(checkpoint, load_processor(config.data.checkpoint)).encode(sample))
    seconds = estimate_step_time(config, batch, shape, prompt)
    return {
        "parameters": float(shape.parameters),
        "updating": memory.updating + memory.segmenter,
        "writing": memory.resting + memory.engine + memory.segmenter,
        "seconds": seconds.total,
        "prompt": float(prompt),
    }


if __name__ == "__main__":
    main()
