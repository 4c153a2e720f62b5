"""Pickles of lists, dicts, numbers and strings; anything else that one asks for is refused.

>>> import pickle
>>> loads(pickle.dumps([{"ref_id": 1, "sent": "the cat"}]))
[{'ref_id': 1, 'sent': 'the cat'}]
"""

import io
import pickle
from typing import Any, ClassVar

from segzero.errors import UserError

HASHED = (pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET)


class _PlainUnpickler(pickle._Unpickler):
    """Python's unpickler in Python: its memo is a dict, where the one in C grows to whatever index a file names.

    Byte arrays are left out, as it makes them as large as the file says before it looks for the bytes. So are sets,
    and names of fields must be text: sixty pairs in each other take ages to hash, and chosen numbers share a hash.
    """

    dispatch: ClassVar = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if code not in [left_out[0] for left_out in (pickle.BYTEARRAY8, *HASHED)]
    }

    def load_setitem(self) -> None:
        _check_names(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _check_names(self.stack[::2])  # what stands before the mark is elsewhere
        super().load_setitems()

    def load_dict(self) -> None:
        _check_names(self.stack[::2])
        super().load_dict()

    dispatch |= {pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems, pickle.DICT[0]: load_dict}

    def find_class(self, module: str, name: str) -> Any:
        raise UserError(f"it asks for {module[:40]}.{name[:40]}; only plain lists, dicts, numbers and strings are read")


def _check_names(names: list) -> None:
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"the name of a field must be text, not {type(name).__name__}")


def loads(raw: bytes) -> Any:
    """The value; strings of Python 2 are read as UTF-8."""
    try:
        return _PlainUnpickler(io.BytesIO(raw), encoding="utf-8", errors="replace").load()
    except UserError:
        raise
    except Exception as error:  # hostile bytes bring about nearly everything there
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"it is no whole pickle of plain values: {reason}") from error
