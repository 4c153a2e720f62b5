"""Child process of the sam2 backend: `python -m segzero.segmenter.sam2_worker FD PATH DEVICE DTYPE CONFIG`."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load, save

from segzero.device import find_device
from segzero.errors import UserError, one_line

Arrays = dict[str, np.ndarray]


def main() -> None:
    """Load the model, report that, then serve calls until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, with which this process ends
    pipe = Connection(int(sys.argv[1]))
    parent = os.getppid()
    models: list[Model] = []

    def start() -> Arrays:
        models.append(Model(*sys.argv[2:6]))
        return {}

    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        reply(pipe, start)
        while models:
            # A fork of the parent may hold the pipe open after the parent's end.
            while not pipe.poll(5):
                if os.getppid() != parent:
                    return
            method, arrays = pipe.recv_bytes(), load(pipe.recv_bytes())
            function = models[0].embed if method == b"embed" else models[0].decode
            reply(pipe, partial(function, **arrays))


def pack(arrays: Arrays) -> bytes:
    """Serialise arrays. safetensors writes their memory as it is, so a view must become contiguous first."""
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def reply(pipe: Connection, function: Callable[[], Arrays]) -> None:
    """Call a function and send its result or its error, so that the parent never waits in vain."""
    try:
        status, body = b"done", pack(function())
    except UserError as error:
        status, body = b"user error", str(error).encode()
    except Exception:
        status, body = b"error", traceback.format_exc().encode()
    pipe.send_bytes(status)
    pipe.send_bytes(body)


class Model:
    """Meta's predictor, used for features and for masks of many images at once."""

    def __init__(self, path: str, device: str, dtype: str, config: str) -> None:
        self.device = find_device(device)
        self.half = dtype == "bfloat16" or (dtype == "auto" and self.device.type == "cuda")
        self.predictor = _load(path, self.device, config)

    @torch.inference_mode()
    def embed(self, image: np.ndarray) -> Arrays:
        """Encode an image, uint8 [H, W, 3], into features, the finest first, each [1, C, h, w]."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            self.predictor.set_image(Image.fromarray(image))
        features = self.predictor._features
        levels = [*features["high_res_feats"], features["image_embed"]]
        return {f"level{i}": level.float().cpu().numpy() for i, level in enumerate(levels)}

    @torch.inference_mode()
    def decode(
        self,
        images: np.ndarray,
        points: np.ndarray,
        labels: np.ndarray,
        masks: np.ndarray | None = None,
        **levels: np.ndarray,
    ) -> Arrays:
        """Predict masks for prompts as in `batching.Rows`, given the features [N, C, h, w] of their images."""
        sam = self.predictor.model
        *fine, coarse = (torch.from_numpy(levels[f"level{i}"][images]).to(self.device) for i in range(len(levels)))
        places = torch.from_numpy(points).to(self.device) * sam.image_size
        sparse, dense = sam.sam_prompt_encoder(
            points=(places, torch.from_numpy(labels).to(self.device)),
            boxes=None,
            masks=None if masks is None else torch.from_numpy(masks)[:, None].to(self.device),
        )
        logits, scores, _, _ = sam.sam_mask_decoder(
            image_embeddings=coarse,
            image_pe=sam.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=False,
            high_res_features=fine,
        )
        return {"logits": logits.float().cpu().numpy(), "scores": scores.float().cpu().numpy()}


def _load(path: str, device: torch.device, config: str):
    """Load a `.pt` file with the architecture that its name or `config` says, or a hub name of Meta's releases."""
    try:
        from sam2.build_sam import HF_MODEL_ID_TO_FILENAMES, _hf_download, build_sam2
        from sam2.sam2_image_predictor import SAM2ImagePredictor
    except ImportError as error:
        reason = f"Meta's sam2 package can't be imported ({error}); install it or use backend='transformers'"
        raise UserError(reason) from error
    configs = {file: name for name, file in HF_MODEL_ID_TO_FILENAMES.values()}
    if path in HF_MODEL_ID_TO_FILENAMES:
        config, file = _download(_hf_download, path)
    elif not path.endswith(".pt"):
        raise UserError(f"the sam2 backend loads .pt files and {', '.join(HF_MODEL_ID_TO_FILENAMES)}; not {path}")
    else:
        file = path
        config = config or configs.get(Path(path).name, "")
    if config not in configs.values():
        raise UserError(f"which architecture is {path}? pass config=..., one of {', '.join(configs.values())}")
    try:
        return SAM2ImagePredictor(build_sam2(config, file, device=device))
    except Exception as error:  # an unreadable file, or weights of another architecture
        raise UserError(f"can't load {path} as {config}: {one_line(error)}") from error


def _download(download, name: str) -> tuple[str, str]:
    try:
        return download(name)
    except Exception as error:  # no connection, no space, no such file: the hub's client has an exception for each
        raise UserError(f"can't download {name}: {one_line(error)}") from error


if __name__ == "__main__":
    main()
