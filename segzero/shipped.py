"""Paths of what ships with the package: tiny models, configuration files and the pages of the documentation.

The tiny models are a Qwen2.5-VL policy, a SAM2 and a mask model made of both, trained on synthetic scenes. They are
ordinary checkpoints; `python -m segzero.tiny` makes them again.

>>> policy_path().name, segmenter_path().name, mask_model_path().name
('policy', 'sam2', 'prompt_head')
"""

from pathlib import Path

from segzero.errors import UserError

PACKAGE = Path(__file__).parent


def weights_path() -> Path:
    """Folder of the shipped checkpoints and their manifest."""
    return PACKAGE / "tiny" / "weights"


def policy_path() -> Path:
    """Folder of the shipped policy's checkpoint."""
    return weights_path() / "policy"


def segmenter_path() -> Path:
    """Folder of the shipped segmenter's checkpoint."""
    return weights_path() / "sam2"


def mask_model_path() -> Path:
    """Folder of the shipped mask model."""
    return weights_path() / "prompt_head"


def reference_run_path() -> Path:
    """File of the metrics of full trainings of the shipped policy."""
    return PACKAGE / "tiny" / "reference_run.json"


def is_shipped(path: str | Path) -> bool:
    """Whether a checkpoint is one of those that come with the package, which know synthetic scenes alone."""
    return Path(path).is_absolute() and Path(path).is_relative_to(weights_path())


def model_path(name: str) -> str:
    """Path of the shipped `policy` or `segmenter`, as the configuration files name them."""
    return str({"policy": policy_path, "segmenter": segmenter_path}[name]())


def config_dir() -> Path:
    """The folder of the YAML files."""
    return _folder("configs", "train.yaml")


def docs_dir() -> Path:
    """The folder of the documentation's Markdown pages."""
    return _folder("docs", "install.md")


def _folder(name: str, file: str) -> Path:
    """A folder with this file: beside the package in a clone, inside it when installed."""
    for place in (PACKAGE / name, PACKAGE.parent / name):
        if (place / file).is_file():
            return place
    raise UserError(f"the {name} are not where they belong, {PACKAGE / name}; install segzero again")
