"""SAM2 through Meta's own package, in a process of its own.

Importing the package sets up hydra globally, which would break a training that is configured with hydra too. Parent
and child exchange arrays as safetensors through a pipe. The child ends with its parent; when the child dies, the next
call here raises an error.
"""

import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load

import segzero
from segzero.errors import UserError
from segzero.segmenter.batching import Rows, decode_in_batches
from segzero.segmenter.protocol import Embeddings, Logits, MaskPrediction, MaskPrompt
from segzero.segmenter.sam2_worker import Arrays, pack


class MetaSegmenter:
    """A segmenter of Meta's package; features are held in this process, the child keeps nothing."""

    reads_text = False

    def __init__(self, path: str | Path, device: str = "auto", dtype: str = "auto", config: str | None = None) -> None:
        self.name = str(path)
        if self.name.endswith(".pt") and not Path(path).is_file():
            raise UserError(f"no such checkpoint: {path}")
        self._child = _Child([str(path), device, dtype, config or ""])

    def embed(self, images: Sequence[Image.Image]) -> Embeddings:
        """Encode images; the features are in main memory."""
        encoded = [self._child.call("embed", {"image": np.array(image.convert("RGB"))}) for image in images]
        levels = sorted(encoded[0]) if encoded else []
        features = tuple(torch.from_numpy(np.concatenate([each[level] for each in encoded])) for level in levels)
        return Embeddings(features, tuple(image.size for image in images))

    def decode(
        self, embeddings: Embeddings, prompts: Sequence[Sequence[MaskPrompt]], all_masks: bool = False
    ) -> list[list[MaskPrediction]]:
        """Predict three masks for each prompt and keep the best by its own score, or all of them."""
        return decode_in_batches(lambda rows: self._predict(embeddings, rows), embeddings, prompts, all_masks)

    def _predict(self, embeddings: Embeddings, rows: Rows) -> tuple[Logits, Logits]:
        used, rank = np.unique(rows.images, return_inverse=True)  # send each image once
        sent = {f"level{i}": level[used].cpu().numpy() for i, level in enumerate(embeddings.features)}
        sent |= {"images": rank, "points": rows.points, "labels": rows.labels}
        if rows.masks is not None:
            sent["masks"] = rows.masks
        received = self._child.call("decode", sent)
        return received["logits"], received["scores"]


class _Child:
    """The child process that holds the model."""

    def __init__(self, arguments: list[str]) -> None:
        self._pipe, theirs = Pipe()
        # A plain program rather than multiprocessing's spawn, which would run the user's script a second time.
        command = [sys.executable, "-P", "-m", "segzero.segmenter.sam2_worker", str(theirs.fileno()), *arguments]
        home = str(Path(segzero.__file__).parent.parent)
        places = [home, *filter(None, [os.environ.get("PYTHONPATH")])]  # an empty one would be the current folder
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        theirs.close()  # else the death of the child would go unnoticed
        self._lock = threading.Lock()
        weakref.finalize(self, _stop, self._process, self._pipe, os.getpid())
        self._receive()

    def call(self, method: str, arrays: Arrays) -> Arrays:
        """Call a method of the model and wait for its result."""
        with self._lock:
            try:
                with suppress(OSError):  # the child has died: `_receive` says how
                    self._pipe.send_bytes(method.encode())
                    self._pipe.send_bytes(pack(arrays))
                return self._receive()
            except KeyboardInterrupt:
                self._process.kill()  # else its late result would be taken for that of the next call
                raise

    def _receive(self) -> Arrays:
        try:
            status, body = self._pipe.recv_bytes(), self._pipe.recv_bytes()
        except (EOFError, OSError):
            code = self._process.wait()
            raise RuntimeError(f"the process of the sam2 package ended with code {code}; its output is above") from None
        if status == b"user error":
            raise UserError(body.decode())
        if status == b"error":
            raise RuntimeError(f"in the process of the sam2 package:\n{body.decode()}")
        return load(body)


def _stop(process: subprocess.Popen[bytes], pipe: Connection, owner: int) -> None:
    if os.getpid() == owner:  # not in a fork, which has a copy of this object
        pipe.close()
        process.terminate()
        process.wait()
