"""Names that came from somebody else, made sure to stay where they are put."""

from __future__ import annotations

import re

from localllm.errors import UnsafeNameError

MAX_NAME_BYTES = 200
"""Of one part of a path: file systems take 255, and we put an ending of our own behind some."""

MAX_DEPTH = 12
"""Parts of a path at most: a guess, several times what any repository has."""

# https://learn.microsoft.com/windows/win32/fileio/naming-a-file: also with any ending, and with superscript digits.
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE | re.DOTALL)
_FORBIDDEN = frozenset('<>:"|?*\\/')


def safe_parts(name: str) -> tuple[str, ...]:
    """Return the parts of a relative path, each of which is a plain name on every system.

    Args:
        name: A path with "/" between its parts, as the Hub has them.

    Raises:
        UnsafeNameError: It is absolute, leads upwards, or holds what a system gives a meaning of its own.
    """
    parts = tuple(name.split("/"))
    if len(parts) > MAX_DEPTH:
        raise UnsafeNameError(f"the name {name!r:.200} has {len(parts)} parts; allowed: {MAX_DEPTH}")
    for part in parts:
        problem = _problem(part)
        if problem:
            raise UnsafeNameError(f"the name {name!r:.200} is not safe to write to: {problem}; nothing was written")
    return parts


def safe_name(name: str) -> str:
    """Return `name` if it is one plain name, without folders.

    Raises:
        UnsafeNameError: It is not.
    """
    parts = safe_parts(name)
    if len(parts) != 1:
        raise UnsafeNameError(f"the name {name!r:.200} is not safe to write to: it holds '/'; nothing was written")
    return parts[0]


def _problem(part: str) -> str:
    """Return what is wrong with one part of a path; empty if nothing."""
    if not part:
        return "a part of it is empty, or it is absolute"
    if part.strip(".") == "":
        return f"{part!r} leads to another folder"
    if part[-1] in ". " or part[0] == " ":
        return f"{part!r} begins with a space or ends with a dot or a space, which Windows drops"
    if _FORBIDDEN & set(part) or not part.isprintable():
        return f"{part!r} holds a character that file systems treat specially"
    if _DEVICE.fullmatch(part):
        return f"{part!r} is a device on Windows"
    try:
        size = len(part.encode())
    except UnicodeEncodeError:
        return f"{part!r} holds a lone surrogate"
    return f"{part!r:.40} is longer than {MAX_NAME_BYTES} bytes" if size > MAX_NAME_BYTES else ""
