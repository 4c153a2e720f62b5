"""Settings of a checkpoint, read from its small files: family, limits of its processor, coordinates and prompt.

Coordinates and prompt come from the first of three sources that has them: the caller's arguments, a `segzero.json`
beside the weights, the table of released checkpoints. Otherwise the frame is the family's and the prompt `multi`.

>>> read_checkpoint("Ricky06662/VisionReasoner-7B").frame  # doctest: +SKIP
Frame(kind='stretch', side=840, ...)
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segzero.errors import UserError
from segzero.frames import FAMILY_FRAMES, Frame, frame_for, parse_frame, stretch
from segzero.io import write_atomically
from segzero.prompts import REFINE, get_prompt

CARD = "segzero.json"  # {"prompt": "multi", "frame": "stretch(840)", "name": "..."}, each of which is optional
DEFAULT_PROMPT = "multi"

MOST_BYTES = 16 << 20  # per small file of a checkpoint
MOST_LAYERS = 1000
TILED = "internvl"  # of fixed tiles; read by mask models
FAMILIES_READ = (*FAMILY_FRAMES, TILED)
_MOST = {"num_hidden_layers": MOST_LAYERS, "depth": MOST_LAYERS, "vocab_size": 1 << 22}

# Checkpoints that carry no card: the last part of their name -> prompt. All were trained in stretch(840).
RELEASED = {
    "Seg-Zero-3B": "seg_zero",
    "Seg-Zero-7B": "seg_zero",
    "Seg-Zero-7B-Best-on-ReasonSegTest": "seg_zero",
    "VisionReasoner-7B": "vision_reasoner",
}


@dataclass(frozen=True)
class Checkpoint:
    """A Qwen2-VL, Qwen2.5-VL or Qwen3-VL checkpoint, before its weights are loaded."""

    path: str  # a folder or a hub name
    family: str  # model_type of its config.json
    factor: int  # one visual token stands for factor x factor pixels
    min_pixels: int  # images between these limits are not resized by its processor
    max_pixels: int
    max_length: int  # tokens of prompt and answer together
    frame: Frame
    prompt: str

    def image_tokens(self, size: tuple[int, int]) -> int:
        """Number of visual tokens of an image of that width and height."""
        return size[0] * size[1] // self.factor**2


def read_checkpoint(
    path: str | Path,
    frame: str | Frame | None = None,
    prompt: str | None = None,
    families: Sequence[str] = tuple(FAMILY_FRAMES),
) -> Checkpoint:
    """Read the small files of a checkpoint folder, or of a model on the hub (its cache is enough)."""
    path = str(Path(path).expanduser())
    config = read_config(path, families)
    family = config["model_type"]
    factor, min_pixels, max_pixels = _processor_limits(path)
    if family == TILED:
        default = stretch(_tile_side(config, path))
    else:
        default = frame_for(family, min_pixels, max_pixels, factor)

    own_prompt, own_frame = _read_card(path) or released(path)
    frame = frame or own_frame or default
    checkpoint = Checkpoint(
        path=path,
        family=family,
        factor=factor,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
        max_length=_max_length(config, path),
        frame=parse_frame(frame, default) if isinstance(frame, str) else frame,
        prompt=prompt or own_prompt or DEFAULT_PROMPT,
    )
    if get_prompt(checkpoint.prompt).format == REFINE:
        raise UserError(f"the prompt {REFINE} is for looks at a mask, which refining asks for by itself; leave it out")
    _check_frame(checkpoint)
    return checkpoint


def read_config(path: str | Path, families: Sequence[str] = tuple(FAMILY_FRAMES)) -> dict[str, Any]:
    """Read the config.json of a model of these families; refuse numbers with which none could be built."""
    path = str(path)
    config = _read_json(path, "config.json")
    if config is None:
        raise UserError(f"no checkpoint at {path}: no config.json there; give the folder that save_pretrained wrote")
    family = config.get("model_type")
    if not isinstance(family, str) or family not in families:
        known = ", ".join(families)
        raise UserError(f"{path} holds a {str(family)[:100]!r} model; a policy is one of {known}")
    for name in ("text_config", "vision_config"):
        if not isinstance(config.get(name, {}), dict):
            raise UserError(f"config.json in {path}: {name} should hold an object")
    for name, value in _values(config):
        length = len(value) if isinstance(value, list) else 0
        if length > MOST_LAYERS:
            raise UserError(f"config.json in {path}: {name} has {length} entries, more than the {MOST_LAYERS} allowed")
        most = _MOST.get(name, 2**31)
        if isinstance(value, int | float) and abs(value) > most:
            raise UserError(f"config.json in {path}: {name} is {value:.3g}, more than the {most} that a model can have")
    return config


def _values(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Values at any depth of a configuration, each with the nearest name above it."""
    waiting: list[tuple[str, Any]] = list(config.items())
    while waiting:
        name, value = waiting.pop()
        yield name, value
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(name, each) for each in value]


def released(path: str) -> tuple[str | None, str | None]:
    """Prompt and frame of a released checkpoint, known by its name; None, None for any other.

    >>> released("pretrained_models/VisionReasoner-7B")
    ('vision_reasoner', 'stretch(840)')
    """
    names = "|".join(re.escape(name) for name in RELEASED)
    # A hub name, a folder called like it, or the hub cache's models--OWNER--NAME/snapshots/REVISION.
    match = re.search(rf"(?:^|/|--)({names})(?:/snapshots/[^/]+)?/*$", path)
    return (RELEASED[match[1]], str(stretch(840))) if match else (None, None)


def write_card(folder: str | Path, prompt: str, frame: Frame) -> None:
    """Write prompt and frame beside a checkpoint's weights, where `read_checkpoint` finds them."""
    write_atomically(Path(folder, CARD), card_text(prompt, frame).encode())


def card_text(prompt: str, frame: Frame) -> str:
    """Text of a checkpoint's card, `segzero.json`."""
    get_prompt(prompt)
    return json.dumps({"prompt": prompt, "frame": str(frame)}) + "\n"


def shown_name(path: str) -> str:
    """Public name of a policy or a segmenter.

    For a folder the name in its card, else its last part: the path to it is private. Hub names stay as they are.

    >>> shown_name("/models/mine/merged"), shown_name("Qwen/Qwen2.5-VL-7B-Instruct")
    ('merged', 'Qwen/Qwen2.5-VL-7B-Instruct')
    """
    if not Path(path).is_absolute():
        return path
    card = _read_json(path, CARD) if Path(path).is_dir() else None
    name = (card or {}).get("name")
    return name if isinstance(name, str) and name else Path(path).name


def _read_card(path: str) -> tuple[str | None, str | None] | None:
    card = _read_json(path, CARD)
    if card is None:
        return None
    values = card.get("prompt"), card.get("frame")
    if not all(value is None or isinstance(value, str) for value in values):
        raise UserError(f"{CARD} in {path}: prompt and frame must be strings, such as 'multi' and 'stretch(840)'")
    return values


def _processor_limits(path: str) -> tuple[int, int, int]:
    """Factor, fewest and most pixels of the processor, with the precedence of the transformers library."""
    together = _read_json(path, "processor_config.json") or {}
    config = together.get("image_processor") or _read_json(path, "preprocessor_config.json")
    if config is None:
        raise UserError(f"no preprocessor_config.json in {path}; save the checkpoint's processor beside its weights")
    size = (config.get("size") if isinstance(config, dict) else None) or {}
    if not isinstance(config, dict) or not isinstance(size, dict):
        raise UserError(f"the processor in {path}: image_processor and size should hold objects")
    fewest = config.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels") or 56 * 56
    most = config.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels") or 28 * 28 * 1280
    patch, merged = config.get("patch_size", 14), config.get("merge_size", 2)
    limits = {"min_pixels": fewest, "max_pixels": most, "patch_size": patch, "merge_size": merged}
    for name, value in limits.items():
        _check_whole(value, f"the processor in {path}: {name}")
    return patch * merged, fewest, most


def _max_length(config: dict[str, Any], path: str) -> int:
    text = config.get("text_config") or config  # older configs keep the language model's numbers at the top
    length = text.get("max_position_embeddings", 32768)
    _check_whole(length, f"config.json in {path}: max_position_embeddings")
    return length


def _tile_side(config: dict[str, Any], path: str) -> int:
    """Side of the one tile that InternVL sees, in pixels."""
    side = config.get("vision_config", {}).get("image_size", 448)
    side = side[0] if isinstance(side, list) and side else side
    _check_whole(side, f"config.json in {path}: image_size")
    return int(side)


def _check_whole(value: Any, where: str) -> None:
    if not isinstance(value, int) or not 0 < value < 2**31:
        raise UserError(f"{where} is {str(value)[:100]}; it should be a whole number above 0")


def _check_frame(checkpoint: Checkpoint) -> None:
    """Refuse a frame whose images the checkpoint's own processor would resize again: coordinates would be off."""
    frame, factor = checkpoint.frame, checkpoint.factor
    low, high = checkpoint.min_pixels, checkpoint.max_pixels
    if frame.kind == "stretch":
        fits = frame.side % factor == 0 and low <= frame.side**2 <= high
    else:
        fits = frame.factor == factor and low <= frame.min_pixels and frame.max_pixels <= high
    if not fits:
        limits = f"sides in multiples of {factor}, {low} to {high} pixels"
        raise UserError(f"the frame {frame} is not for {checkpoint.path}: its processor keeps {limits}")


def _read_json(path: str, name: str) -> dict[str, Any] | None:
    """A small JSON file of a folder or a hub model, or None where there is none."""
    file = Path(path, name) if Path(path).is_dir() else _hub_file(path, name)
    if file is None or not file.is_file():
        return None
    if file.stat().st_size > MOST_BYTES:
        raise UserError(f"{file} has more than {MOST_BYTES >> 20} MiB; it should be a small file")
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} can't be read: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} should hold a JSON object")
    return content


def _hub_file(path: str, name: str) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError

    try:
        return Path(hf_hub_download(path, name))
    except EntryNotFoundError as error:  # says the hub, or the cache when the hub is out of reach
        if isinstance(error, FileNotFoundError) and name == "config.json":
            raise UserError(
                f"no checkpoint {path!r}: no such folder, and the hub is out of reach; check the path, or fetch it "
                f"first: hf download {path}"
            ) from None
        return None
    except (RepositoryNotFoundError, HFValidationError):
        raise UserError(f"no checkpoint {path!r}: neither a folder nor a model the hub shows you; check it") from None
