"""Pickles of lists, dicts, numbers and strings; anything else that one asks for is refused.

>>> import pickle
>>> loads(pickle.dumps([{"ref_id": 1, "sent": "the cat"}]))
[{'ref_id': 1, 'sent': 'the cat'}]
"""

import io
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

from segzero.errors import UserError, one_line

LEFT_OUT = (pickle.BYTEARRAY8, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET)


def _with_text_names(code: bytes, names: slice) -> Callable[[Any], None]:
    """The step of the unpickler that fills a dict, where the names of its fields must be text."""
    fill = pickle._Unpickler.dispatch[code[0]]

    def step(unpickler: Any) -> None:
        for name in unpickler.stack[names]:
            if not isinstance(name, str):
                raise UserError(f"the name of a field must be text, not {type(name).__name__}")
        fill(unpickler)

    return step


class _PlainUnpickler(pickle._Unpickler):
    """Python's unpickler in Python: its memo is a dict, where the one in C grows to whatever index a file names.

    Byte arrays are left out, as it makes them as large as the file says before it looks for the bytes. Sets are, and
    only text names a field, as sixty pairs in each other take ages to hash, and chosen numbers share a hash.
    """

    dispatch: ClassVar[dict[int, Any]] = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if code not in [left_out[0] for left_out in LEFT_OUT]
    } | {
        pickle.SETITEM[0]: _with_text_names(pickle.SETITEM, slice(-2, -1)),
        pickle.SETITEMS[0]: _with_text_names(pickle.SETITEMS, slice(0, None, 2)),
        pickle.DICT[0]: _with_text_names(pickle.DICT, slice(0, None, 2)),
    }

    def find_class(self, module: str, name: str) -> Any:
        raise UserError(f"it asks for {module[:40]}.{name[:40]}; only plain lists, dicts, numbers and strings are read")


def loads(raw: bytes) -> Any:
    """The value; strings of Python 2 are read as UTF-8."""
    try:
        return _PlainUnpickler(io.BytesIO(raw), encoding="utf-8", errors="replace").load()
    except UserError:
        raise
    except Exception as error:  # hostile bytes bring about nearly everything there
        reason = one_line(error, 200)
        raise UserError(f"it is no whole pickle of plain values: {reason}") from error
