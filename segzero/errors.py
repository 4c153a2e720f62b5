"""Exceptions that the user can do something about."""


class UserError(ValueError):
    """Mistake of the user's, in one line that says what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2.

    >>> raise UserError("no such image: cat.jpg; check the path")
    Traceback (most recent call last):
    segzero.errors.UserError: no such image: cat.jpg; check the path
    """


class TimedOut(UserError):
    """Another program did not answer in time; this one request may be the cause."""


class Unavailable(UserError):
    """Another server can't be reached, or can't answer now; a later try may succeed."""


def one_line(error: object, limit: int = 300) -> str:
    """Text of another library's error, or of any value, in one line of at most `limit` characters.

    >>> one_line(OSError("no space left\\n  on the disk"))
    'no space left on the disk'
    >>> one_line(KeyError("x" * 50), 10)
    "'xxxxxxxxx ..."
    """
    try:
        text = " ".join(str(error).split()) or type(error).__name__
    except RecursionError:  # lists in lists without end
        text = type(error).__name__
    return text if len(text) <= limit else text[:limit] + " ..."


def unknown_name(kind: str, name: str, known: list[str]) -> UserError:
    """Make the error for a name that is not on a list, with the nearest one that is.

    >>> str(unknown_name("prompt", "mutli", ["multi", "seg_zero"]))
    "unknown prompt 'mutli'; did you mean 'multi'? known: multi, seg_zero"
    """
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return UserError(f"unknown {kind} {name!r}{hint} known: {', '.join(known)}")
