"""Optional parts of a server: further models, examples, feedback, images by address, and the page.

>>> ServerOptions(flags=Path("flags")).examples is None
True
"""

from dataclasses import dataclass
from pathlib import Path

from segzero.data.annotation import AnnotationProject
from segzero.mask_model.protocol import MaskModel
from segzero.policy import Policy
from segzero.programs.writer import ProgramWriter
from segzero.segmenter import Segmenter
from segzero.serving.examples import Example
from segzero.serving.image_fetch import Fetch


@dataclass(frozen=True)
class ServerOptions:
    """Optional parts of a server; the defaults leave them out, except the page."""

    policies: tuple[Policy, ...] = ()  # beside the pipeline's own, which is the default
    segmenters: tuple[Segmenter, ...] = ()
    mask_models: tuple[MaskModel, ...] = ()  # that clients may choose in place of a policy
    examples: tuple[Example, ...] | None = None  # None: synthetic scenes
    flags: Path | None = None  # folder for answers that people flag; None: they can't be flagged
    fetch: Fetch | None = None  # how images given by their address are fetched; None: they are refused
    annotation: AnnotationProject | None = None  # that annotators fill through the page
    writer: ProgramWriter | None = None  # the language model that writes programs; None: programs come whole
    page: bool = True  # the web page at /ui
