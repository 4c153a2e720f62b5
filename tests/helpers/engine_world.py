"""A small world for tests of the data engine: scenes as files, and the scripted model that knows them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segzero.data.engine.runs import EngineRun, plan, prepare, run_engine
from segzero.data.engine.settings import EngineLimits, EngineSettings
from segzero.data.engine.vlm import VisionModel
from segzero.io import png_bytes
from segzero.segmenter.protocol import Segmenter
from segzero.tiny.scenes import Scene, make_scene
from segzero.tiny.scripted_vlm import NAME, Faults, ScriptedVlm

QUICK: dict[str, Any] = {"pause": 0.01, "timeout": 20.0, "price": (0.30, 2.50)}


@dataclass
class EngineWorld:
    """Images in a folder, the model that knows them, and a folder for runs."""

    images: Path
    out: Path
    vlm: ScriptedVlm
    scenes: list[Scene]
    segmenter: Segmenter

    def settings(self, **changed: Any) -> EngineSettings:
        """Settings that are quick."""
        return EngineSettings(**({"model": NAME, "points_per_side": 8, "prompts": 2, "negatives": 2} | changed))

    def model(self, settings: EngineSettings | None = None, **limits: Any) -> VisionModel:
        """The model behind its server."""
        return prepare(self.vlm.url, self.out, settings or self.settings(), EngineLimits(**(QUICK | limits)))

    def run(self, settings: EngineSettings | None = None, **limits: Any) -> EngineRun:
        """Take all images through the engine."""
        model = self.model(settings, **limits)
        return run_engine(plan(self.images, self.out), self.out, model, self.segmenter)

    @property
    def folders(self) -> list[Path]:
        """The images' folders."""
        return sorted(self.out.glob("out_region_refine_*"))

    @property
    def paid(self) -> int:
        """Answers that a service would have charged for."""
        return sum(self.vlm.answers.values())


@contextmanager
def engine_world(
    folder: Path, segmenter: Segmenter, count: int = 2, faults: Faults = Faults(), written: str = "", seed: int = 31
) -> Iterator[EngineWorld]:
    """Write scenes of two or three shapes into a folder, and serve the model that knows them."""
    scenes, pairs = [], []
    (folder / "images").mkdir(parents=True)
    for index in range(count):
        scene = make_scene(np.random.default_rng((seed, index)), max_shapes=3)
        image = Image.fromarray(scene.image)
        (folder / "images" / f"scene {index}.png").write_bytes(png_bytes(image))
        scenes.append(scene)
        pairs.append((image, scene, written))
    with ScriptedVlm(pairs, faults).running() as vlm:
        yield EngineWorld(folder / "images", folder / "runs", vlm, scenes, segmenter)
