"""Segmenters: images are embedded once, masks are predicted from boxes and points as often as needed.

>>> segmenter = load_segmenter("facebook/sam2.1-hiera-large")                              # doctest: +SKIP
>>> embeddings = segmenter.embed([image])                                                  # doctest: +SKIP
>>> [[mug]] = segmenter.decode(embeddings, [[MaskPrompt(box=(10, 20, 60, 80))]])           # doctest: +SKIP
>>> mug.masks.shape, mug.scores                                                            # doctest: +SKIP
((1, 480, 640), array([0.97], dtype=float32))
"""

from pathlib import Path

from segzero.errors import UserError, unknown_name
from segzero.segmenter.protocol import Embeddings, MaskPrediction, MaskPrompt, Segmenter

__all__ = ["BACKENDS", "DEFAULT", "Embeddings", "MaskPrediction", "MaskPrompt", "Segmenter", "load_segmenter"]

DEFAULT = "facebook/sam2.1-hiera-large"  # Seg-Zero published its figures with facebook/sam2-hiera-large
BACKENDS = ("auto", "transformers", "sam2")
DTYPES = ("auto", "float32", "bfloat16")


def load_segmenter(
    path: str | Path = DEFAULT,
    backend: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    config: str | None = None,
) -> Segmenter:
    """Load a checkpoint by folder, file or hub name.

    `backend`: `transformers` reads folders and hub names, `sam2` (Meta's package, in a process of its own) reads
    Meta's `.pt` files and the hub names of Meta's releases; `auto` takes `sam2` for a `.pt` file only.
    `dtype` is the image encoder's; `auto` is bfloat16 on CUDA, else float32. Masks are always predicted in float32.
    `config`: for a `.pt` file that does not have a release's name, e.g. "configs/sam2.1/sam2.1_hiera_l.yaml".
    """
    if backend not in BACKENDS:
        raise unknown_name("segmenter backend", backend, list(BACKENDS))
    if dtype not in DTYPES:
        raise unknown_name("segmenter dtype", dtype, list(DTYPES))
    if backend == "auto":
        backend = "sam2" if str(path).endswith(".pt") else "transformers"
    if backend == "transformers" and config is not None:
        raise UserError("config=... is for the sam2 backend; transformers finds a checkpoint's own config.json")
    try:
        if backend == "sam2":
            from segzero.segmenter.sam2 import MetaSegmenter

            return MetaSegmenter(path, device, dtype, config)
        from segzero.segmenter.transformers import WITH_TEXT, TransformersSegmenter, model_type

        if model_type(path) == WITH_TEXT:
            from segzero.segmenter.sam3 import Sam3Segmenter

            return Sam3Segmenter(path, device, dtype)
        return TransformersSegmenter(path, device, dtype)
    except ImportError as error:
        raise UserError(
            f"the segmenter's {backend} backend does not import here ({error}); pip install 'segzero[infer]', then "
            "`segzero doctor`"
        ) from error
