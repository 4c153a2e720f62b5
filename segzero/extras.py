"""Packages that a command needs and `pip install segzero` alone does not bring."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from segzero.errors import UserError

OURS = ("segzero", "rewards")
INSTALL = {"train": "pip install 'segzero[train]', or 'segzero[train-cpu]' without a GPU"}


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Turn the failed import of a package into one line that names SegZero's extra; also a command's decorator.

    >>> with needs("serve"):
    ...     raise ModuleNotFoundError("No module named 'fastapi'", name="fastapi")
    Traceback (most recent call last):
    segzero.errors.UserError: fastapi does not import here (No module named 'fastapi'); pip install 'segzero[serve]'
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package in OURS:  # a mistake in SegZero's own code
            raise
        raise UserError(f"{package or 'a package'} does not import here ({error}); {install(extra)}") from error


def install(extra: str) -> str:
    """The command that installs an extra."""
    return INSTALL.get(extra, f"pip install 'segzero[{extra}]'")


def require(package: str) -> None:
    """Raise the error of a failed import, without importing the package: before long work that ends with it."""
    if find_spec(package) is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
