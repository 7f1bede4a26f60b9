"""The shape of a GraphQL document: its tokens, with literals replaced by kind and number.

What enters: the bytes of a document. What leaves: a key that is equal only for documents that
GraphQL's validation cannot tell apart, or None where that is not sure. Called by `graphql` for each
message that was not seen byte for byte. It must never give a key to what it does not understand:
comments, escapes, block strings, exponents, long numbers and bytes beyond ASCII have none.

WHY it is sound: validation looks at a literal's kind and at which literals are the same (two uses
of one response name must have equal arguments), never at its text, when integers are within 32 bits
and strings are plain. Equal literals get equal numbers, in order of their first use.
"""

from __future__ import annotations

import re
from typing import Final

SHAPE_BYTES_MAX: Final = 16_384
"""LIMIT: longer documents have no key; one of them would fill much of the cache."""

LITERALS_MAX: Final = 500

# SOURCE: GraphQL specification, section 2.1: a number must not run into a name or a dot. Nine
# digits are within 32 bits. Strings are printable ASCII; a third quote would begin a block string.
# WHY: the first character is a set, which `re` looks for much faster than for a lookbehind.
_LITERALS: Final = re.compile(
    rb'(["\-0-9](?:(?<=")[ !#-\[\]-~]*"(?!")|(?<![\w.].)'
    rb"(?:(?<=[1-9])[0-9]{0,8}|(?<=0)|(?<=-)(?:0|[1-9][0-9]{0,8}))"
    rb"(?:\.[0-9]{1,15})?(?![\w.])))",
    re.DOTALL,
)
_BLANKS: Final = bytes.maketrans(b",\x0b\x0c", b" \x03\x03")
"""Commas are blanks in GraphQL; two of those that `split` knows are not, and are never sure."""

# What may be left between literals. `-`, `"`, `#` and digits outside of names may not.
_REST: Final = re.compile(
    rb"(?:[ ]|[A-Za-z_][A-Za-z0-9_]*+|[!$&():=@\[\]{|}]|\.\.\.|\x01[a-z0-9]+\x02)*+"
)
_MARKS: Final = {
    kind: [b"\x01%c%d\x02" % (ord(kind), number) for number in range(LITERALS_MAX)]
    for kind in "sif"
}


def find_shape(document: bytes) -> bytes | None:
    """Return the candidate key of a document; it is a key only if `is_sure` says so.

    A document whose candidate equals a sure key is understood as well: all that `is_sure` looks at
    is in the candidate.
    """
    if len(document) > SHAPE_BYTES_MAX or b"\x01" in document:
        return None
    parts = _LITERALS.split(document)
    count = len(parts)
    if count > 1:
        if count > 2 * LITERALS_MAX:
            return None
        seen: dict[bytes, bytes] = {}
        for index in range(1, count, 2):
            literal = parts[index]
            mark = seen.get(literal)
            if mark is None:
                kind = "s" if literal[0] == 34 else "f" if b"." in literal else "i"
                seen[literal] = mark = _MARKS[kind][len(seen)]
            parts[index] = mark
        document = b"".join(parts)
    return b" ".join(document.translate(_BLANKS).split())


def is_sure(shape: bytes) -> bool:
    """Tell whether all of a candidate is understood."""
    return _REST.fullmatch(shape) is not None
