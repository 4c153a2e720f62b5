"""Limits of requests, and the tokens that requests need; `segzero serve` sets them by its options."""

import base64
import hashlib
import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from segzero.errors import UserError

TOKEN_VARIABLE = "SEGZERO_TOKENS"


@dataclass(frozen=True)
class Limits:
    """Bounds of one request, and of all requests together; a request above them is refused, never cut."""

    body: int = 32 << 20  # bytes
    pixels: int = 25_000_000  # of an image
    question: int = 2_000  # characters
    max_concurrent: int = 64  # requests at once, from their first byte to their answer: it bounds memory too
    seconds: float = 60.0  # from a request's first byte to its answer
    batch: int = 16  # requests that the models see at once
    cache: int = 1 << 30  # bytes of encoded images
    dialogues: int = 64  # kept at once, each with its image as it came and decoded
    dialogue_bytes: int = 2 << 30  # of those images; the encoded ones are in the cache
    steps: int = 100  # of one dialogue
    idle: float = 1800.0  # seconds without use after which a dialogue is forgotten
    flags: int = 1 << 30  # bytes of answers that people flagged


class Tokens:
    """Bearer tokens that requests need. Without any token every request is let in, and all have the same owner.

    A name may stand before a token, as in "anna one-secret": annotations say who made them.

    >>> tokens = Tokens(["one-secret", "another"])
    >>> tokens.owner("Bearer another") == Tokens(["another"]).owner("Bearer another")
    True
    >>> tokens.owner("Bearer guessed") is None
    True
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        split = [secret.rpartition(" ") for secret in dict.fromkeys(secrets)]
        self._names = {_digest(token): name.strip() for name, _, token in split}
        self._owners = list(self._names)

    def __len__(self) -> int:
        return len(self._owners)

    def name(self, owner: str) -> str:
        """Name of an owner that `owner` has identified, for people.

        >>> Tokens(["anna one-secret"]).name(Tokens(["one-secret"]).owner("Bearer one-secret"))
        'anna'
        """
        return self._names.get(owner) or (f"token {owner[:6]}" if owner else "anybody")

    def owner(self, authorization: str) -> str | None:
        """Identify the sender of an Authorization header, without giving the token away; None for an unknown token.

        Programs that know only names and passwords (Label Studio) send any name, and the token as the password.
        """
        if not self._owners:
            return ""
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() == "basic":
            secret = _password(secret)
        given = _digest(secret.strip())
        known = [hmac.compare_digest(given, owner) for owner in self._owners]  # all, so that timing reveals nothing
        return given if scheme.lower() in ("bearer", "basic") and any(known) else None


def read_tokens(file: Path | None) -> Tokens:
    """Read tokens from a file, one per line, or from $SEGZERO_TOKENS, separated by commas.

    A file or a variable without any token is refused: it was meant to keep others out.
    """
    if file is None:
        listed = os.environ.get(TOKEN_VARIABLE)
        secrets = [token.strip() for token in (listed or "").split(",") if token.strip()]
        if listed is not None and not secrets:
            raise UserError(f"{TOKEN_VARIABLE} is set and holds no token; set it to some, or unset it for no tokens")
    else:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the tokens in {file}: {error}") from error
        secrets = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not secrets:
            raise UserError(f"{file} holds no token; write one per line, or leave --tokens out to let everybody in")
    return Tokens(secrets)


def _password(credentials: str) -> str:
    """Extract the password of `base64(name:password)`."""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
