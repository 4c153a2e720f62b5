"""SegZero: teach a vision-language model to segment by reasoning.

>>> from segzero import SegZeroPipeline          # doctest: +SKIP
>>> pipeline = SegZeroPipeline.from_pretrained()
>>> [result] = pipeline([image], ["the largest shape"])
>>> result.plot().show()
"""

from typing import TYPE_CHECKING

__all__ = ["SegZeroPipeline", "Segmentation", "__version__"]

__version__ = "0.1.0"

if TYPE_CHECKING:
    from segzero.pipeline import SegZeroPipeline
    from segzero.result import Segmentation
else:
    # Imported when first used: `import segzero` is quick, and needs neither NumPy nor Pillow.
    _MODULES = {"SegZeroPipeline": "segzero.pipeline", "Segmentation": "segzero.result"}

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
