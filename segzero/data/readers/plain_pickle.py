"""Pickles of lists, dicts, numbers and strings; anything else that one asks for is refused.

>>> import pickle
>>> loads(pickle.dumps([{"ref_id": 1, "sent": "the cat"}]))
[{'ref_id': 1, 'sent': 'the cat'}]
"""

import io
import pickle
from typing import Any, ClassVar

from segzero.errors import UserError


class _PlainUnpickler(pickle._Unpickler):
    """Python's unpickler in Python: its memo is a dict, where the one in C grows to whatever index a file names.

    Byte arrays are left out, as it makes them as large as the file says before it looks for the bytes.
    """

    dispatch: ClassVar = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]
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
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"it is no whole pickle of plain values: {reason}") from error
