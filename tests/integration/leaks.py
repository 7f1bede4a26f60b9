"""The search for secrets: in every form in which text carries text, and in files left open.

What enters: bytes that came out of somewhere, or a folder, and the secrets by name.
What leaves: the names of the secrets that stand there.
Called by the tests of what must show no secret; `test_secrets_nowhere` plants leaks to test it.
"""

from __future__ import annotations

import base64
import functools
import json
import stat
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from pathlib import Path

PIECE_CHARS: Final = 24
"""LIMIT: of a long secret this much in a row is a leak; a clipped text may hold only its begin."""


@functools.cache
def forms_of(secret: str) -> frozenset[bytes]:
    """Every form in which a text may hold `secret`, or enough of a long one."""
    raw = secret.encode()
    pieces = {raw}
    if len(raw) > PIECE_CHARS:
        pieces |= {raw[:PIECE_CHARS], raw[-PIECE_CHARS:]}
    found = set(pieces)
    for piece in pieces:
        text = piece.decode("utf-8", "ignore")
        for written in (quote(text, safe=""), quote(text), quote_plus(text)):
            found |= {written.encode(), written.lower().encode()}
        found.add(json.dumps(text)[1:-1].encode())
        found.add(repr(text)[1:-1].encode())
        found.add(repr(piece)[2:-1].encode())
        found |= {piece.hex().encode(), piece.hex().upper().encode()}
        for shift in range(3):
            # What stands before shares its characters; so does what stands behind.
            coded = base64.b64encode(b"\0" * shift + piece)
            body = coded[(0, 2, 3)[shift] :].rstrip(b"=")
            body = body[: len(body) - (1 if (shift + len(piece)) % 3 else 0)]
            found |= {body, body.replace(b"+", b"-").replace(b"/", b"_")}
    return frozenset(one for one in found if len(one) >= 8)


def find_leaks(text: bytes | str, secrets: dict[str, str]) -> list[str]:
    """Name the secrets that stand in a text, in whatever form."""
    data = text.encode() if isinstance(text, str) else text
    return sorted(
        name for name, secret in secrets.items() if any(form in data for form in forms_of(secret))
    )


def open_files(root: Path, secrets: dict[str, str]) -> list[tuple[str, list[str]]]:
    """Files below `root` that hold secrets and that group or others can reach and read."""
    found = []
    for path in root.rglob("*"):
        if not path.is_file() or path.is_symlink():
            continue
        folders = [folder for folder in path.parents if folder == root or root in folder.parents]
        for read, enter in ((stat.S_IRGRP, stat.S_IXGRP), (stat.S_IROTH, stat.S_IXOTH)):
            is_reached = all(folder.stat().st_mode & enter for folder in folders)
            if is_reached and path.stat().st_mode & read:
                leaks = find_leaks(path.read_bytes(), secrets)
                if leaks:
                    found.append((str(path), leaks))
    return found
