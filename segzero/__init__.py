"""SegZero: teach a vision-language model to segment by reasoning.

>>> from segzero.pipeline import SegZeroPipeline          # doctest: +SKIP
>>> pipeline = SegZeroPipeline.from_pretrained()
>>> [result] = pipeline([image], ["the largest shape"])
>>> result.plot().show()
"""

__version__ = "0.1.0"
