"""Passwords: hashed with scrypt, checked off the event loop, at equal cost for unknown users.

What enters: a password and, for a check, the stored hash. What leaves: a hash text or a verdict.
Called by `Users`. A password must never be logged, stored or compared as it is; a check must never
run on the event loop, nor queue without a bound.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeVar

from fastgw.errors import ClientFault, UpstreamFault

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

# SOURCE: OWASP password storage cheat sheet, scrypt with N=2^14, r=8, p=5: 16 MiB, about 0.2 s.
LOG_N: Final = 14
BLOCK: Final = 8
PARALLEL: Final = 5
SALT_BYTES: Final = 16
HASH_BYTES: Final = 32

PASSWORD_BYTES_MAX: Final = 1024
LOG_N_MAX: Final = 17
BLOCK_MAX: Final = 16
PARALLEL_MAX: Final = 16
"""LIMIT: a stored hash may ask for at most 256 MiB; a damaged record cannot exhaust the machine."""

CHECKS_WAITING_MAX: Final = 16
"""LIMIT: at 0.2 s each on two threads the last one waits under two seconds."""

THREADS: Final = 2
_TEXT: Final = re.compile(
    r"scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]{16,88})\$([A-Za-z0-9+/]{22,88})"
)


def hash_password(password: str) -> str:
    """Return the text to store: `scrypt$ln=14,r=8,p=5$<salt>$<hash>`; takes about 0.2 s.

    Raises:
        ClientFault: the password is empty or longer than `PASSWORD_BYTES_MAX` bytes.
    """
    size = len(password.encode("utf-8", "surrogatepass"))
    if not 0 < size <= PASSWORD_BYTES_MAX:
        raise ClientFault(
            "bad-request", f"a password of {size} bytes is not 1 to {PASSWORD_BYTES_MAX} bytes long"
        )
    salt = secrets.token_bytes(SALT_BYTES)
    digest = _derive(password, salt, LOG_N, BLOCK, PARALLEL)
    return f"scrypt$ln={LOG_N},r={BLOCK},p={PARALLEL}${_base64(salt)}${_base64(digest)}"


def verify_password(password: str, stored: str) -> bool:
    """Tell whether `password` is the one that `stored` was made of; takes about 0.2 s."""
    match = _TEXT.fullmatch(stored)
    if match is None:
        return False
    log_n, block, parallel = int(match[1]), int(match[2]), int(match[3])
    if not (1 <= log_n <= LOG_N_MAX and 1 <= block <= BLOCK_MAX and 1 <= parallel <= PARALLEL_MAX):
        return False
    if len(password.encode("utf-8", "surrogatepass")) > PASSWORD_BYTES_MAX:
        return False
    try:
        salt, digest = _unbase64(match[4]), _unbase64(match[5])
    except ValueError:
        return False
    return hmac.compare_digest(_derive(password, salt, log_n, block, parallel), digest)


class PasswordChecker:
    """Runs the slow work on threads of its own.

    Args:
        waiting_max: how many may run or wait at once.
    """

    def __init__(self, waiting_max: int = CHECKS_WAITING_MAX) -> None:
        self._waiting_max = waiting_max
        self._waiting = 0
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fastgw-password")
        # WHY: an unknown user costs one check of this hash, so that time tells nothing.
        self._decoy = (
            f"scrypt$ln={LOG_N},r={BLOCK},p={PARALLEL}"
            f"${_base64(secrets.token_bytes(SALT_BYTES))}${_base64(secrets.token_bytes(HASH_BYTES))}"
        )

    async def verify(self, password: str, stored: str | None) -> bool:
        """Check off the loop; None, for an unknown user, costs the same and is False.

        Raises:
            UpstreamFault: "overloaded", when too many checks wait already.
        """
        return await self._run(verify_password, password, stored or self._decoy) and bool(stored)

    async def hash(self, password: str) -> str:
        """Hash off the loop; see `hash_password`."""
        return await self._run(hash_password, password)

    def close(self) -> None:
        """Drop what waits and end the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Callable[..., T], *arguments: str) -> T:
        if self._waiting >= self._waiting_max:
            raise UpstreamFault(
                "overloaded", f"{self._waiting} password checks wait already; try again"
            )
        self._waiting += 1
        work_done = asyncio.wrap_future(self._pool.submit(work, *arguments))
        # WHY a callback: a caller that is cancelled leaves its work running on the thread.
        work_done.add_done_callback(self._on_done)
        return await asyncio.shield(work_done)

    def _on_done(self, work_done: asyncio.Future[Any]) -> None:
        self._waiting -= 1
        if not work_done.cancelled():
            work_done.exception()


def _derive(password: str, salt: bytes, log_n: int, block: int, parallel: int) -> bytes:
    return hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"),
        salt=salt,
        n=1 << log_n,
        r=block,
        p=parallel,
        maxmem=(128 * block * (1 << log_n)) + (128 * block * parallel) + (1 << 20),
        dklen=HASH_BYTES,
    )


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).rstrip(b"=").decode("ascii")


def _unbase64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
