"""Tokens, one by one, become text for somebody who reads along: only whole characters, and no token decoded often.

>>> heard = []
>>> speaking = Speaking(lambda tokens: bytes(tokens).decode(errors="replace"), heard.append)
>>> for byte in "aé".encode():
...     speaking.add(byte)
>>> heard
['a', 'aé']
"""

from collections.abc import Callable


class Speaking:
    """`text` decodes tokens; `hear` is told all that is whole so far."""

    def __init__(self, text: Callable[[list[int]], str], hear: Callable[[str], object]) -> None:
        self._text, self._hear = text, hear
        self._said = ""
        self._known: list[int] = []  # the tokens that were said last: how a token reads depends on those before it
        self._new: list[int] = []

    def add(self, token: int) -> None:
        """The next one."""
        self._new.append(token)
        before, now = self._text(self._known), self._text([*self._known, *self._new])
        if len(now) > len(before) and not now.endswith("\ufffd"):
            self._said += now[len(before) :]
            self._known, self._new = self._new, []
            self._hear(self._said)
