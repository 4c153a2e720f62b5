"""Safe reader of pickles that hold lists, dicts, numbers and strings alone.

>>> import pickle
>>> loads(pickle.dumps([{"ref_id": 1, "sent": "the cat"}]))
[{'ref_id': 1, 'sent': 'the cat'}]
"""

import io
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

from segzero.errors import UserError, one_line

REFUSED = (pickle.BYTEARRAY8, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET)


def _with_text_names(code: bytes, names: slice) -> Callable[[Any], None]:
    """Make the unpickler's step that fills a dict, with a check that the names of its fields are text."""
    fill = pickle._Unpickler.dispatch[code[0]]

    def step(unpickler: Any) -> None:
        for name in unpickler.stack[names]:
            if not isinstance(name, str):
                raise UserError(f"the name of a field must be text, not {type(name).__name__}")
        fill(unpickler)

    return step


class _PlainUnpickler(pickle._Unpickler):
    """Unpickler in pure Python, whose memo is a dict; the one in C allocates up to any index that a file names.

    It refuses byte arrays, which are allocated in the stated size before the bytes are read. It refuses sets and
    names of fields that are not text, because nested pairs take exponential time to hash and chosen numbers collide.
    """

    dispatch: ClassVar[dict[int, Any]] = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if code not in [refused[0] for refused in REFUSED]
    } | {
        pickle.SETITEM[0]: _with_text_names(pickle.SETITEM, slice(-2, -1)),
        pickle.SETITEMS[0]: _with_text_names(pickle.SETITEMS, slice(0, None, 2)),
        pickle.DICT[0]: _with_text_names(pickle.DICT, slice(0, None, 2)),
    }

    def find_class(self, module: str, name: str) -> Any:
        raise UserError(f"it asks for {module[:40]}.{name[:40]}; only plain lists, dicts, numbers and strings are read")


def loads(raw: bytes) -> Any:
    """Load a value; strings of Python 2 are read as UTF-8."""
    try:
        return _PlainUnpickler(io.BytesIO(raw), encoding="utf-8", errors="replace").load()
    except UserError:
        raise
    except Exception as error:  # hostile bytes raise nearly anything
        reason = one_line(error, 200)
        raise UserError(f"it is not a whole pickle of plain values: {reason}") from error
