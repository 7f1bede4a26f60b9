"""The small fuzzer: a seeded mutator over the corpus, for where the guided one is not installed.

What enters: a target, seeds, words, a number. What leaves: how many inputs ran; a violation comes
out as the target's own exception, its input kept by the caller. The same number gives the same
inputs on every machine.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

INPUT_BYTES_MAX: Final = 4096
"""LIMIT: longer inputs find no more here, since the bounds of the targets are small."""
CHANGES_MAX: Final = 6
BYTES: Final = b"\r\n\0 \t:;,/?#%*>.-+\"'{}[]\\\x7f\x80\xff09azAZ@"


def mutations(
    seeds: Sequence[bytes], words: Sequence[bytes], number: int, runs: int
) -> Iterator[bytes]:
    """Every seed as it is, then `runs` changed ones in all."""
    dice = random.Random(number)
    yield from seeds[:runs]
    for _ in range(runs - len(seeds)):
        data = bytearray(dice.choice(seeds))
        for _ in range(dice.randint(1, CHANGES_MAX)):
            change(data, dice, seeds, words)
        yield bytes(data[:INPUT_BYTES_MAX])


def change(
    data: bytearray, dice: random.Random, seeds: Sequence[bytes], words: Sequence[bytes]
) -> None:
    """Change `data` in one place."""
    at = dice.randrange(len(data) + 1)
    kind = dice.randrange(9)
    if kind == 0 and data:
        data[min(at, len(data) - 1)] = dice.choice(BYTES)
    elif kind == 1 and data:
        data[min(at, len(data) - 1)] ^= 1 << dice.randrange(8)
    elif kind == 2:
        del data[at : at + dice.randint(1, 9)]
    elif kind == 3:
        data[at:at] = bytes(dice.choice(BYTES) for _ in range(dice.randint(1, 9)))
    elif kind == 4:
        data[at:at] = data[at : at + dice.randint(1, 200)]
    elif kind in (5, 6):
        data[at:at] = dice.choice(words)
    elif kind == 7:
        other = dice.choice(seeds)
        data[at:] = other[dice.randrange(len(other) + 1) :]
    elif data:
        data[0:2] = bytes((dice.randrange(256), dice.randrange(256)))


def run(
    target: Callable[[bytes], None],
    seeds: Sequence[bytes],
    words: Sequence[bytes],
    *,
    number: int,
    runs: int,
) -> Iterator[bytes]:
    """Give each input to the target; yields it first, so that a caller can keep what broke."""
    for data in mutations(seeds, words, number, runs):
        yield data
        target(data)
