"""An operator of NATS with its account, and users whose JWTs end when a fault wants it.

What enters: how long a user may live. What leaves: the broker's configuration, and creds files.
SOURCE: NATS decentralized JWT authentication, as `nsc` makes it.
"""

from __future__ import annotations

import base64
import json
import os
import time
from typing import TYPE_CHECKING, Any, Final

import nkeys

if TYPE_CHECKING:
    from pathlib import Path

UNLIMITED: Final = {
    **dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1),
    **dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1),
    "wildcards": True,
}


class Operator:
    """One operator with a system account, an account with JetStream, and one user."""

    def __init__(self) -> None:
        self._operator, _ = _pair(nkeys.PREFIX_BYTE_OPERATOR)
        self._system, _ = _pair(nkeys.PREFIX_BYTE_ACCOUNT)
        self._account, _ = _pair(nkeys.PREFIX_BYTE_ACCOUNT)
        self._user, self._seed = _pair(nkeys.PREFIX_BYTE_USER)
        self.secrets = [self._seed]
        """What no log may hold; every JWT is added."""

    def options(self) -> dict[str, Any]:
        """The broker's configuration."""
        kind = {"type": "account", "version": 2, "limits": UNLIMITED}
        bare = {**UNLIMITED, **dict.fromkeys(("mem_storage", "disk_storage"), 0)}
        accounts = {
            _name(self._system): _sign(self._operator, self._system, {**kind, "limits": bare}),
            _name(self._account): _sign(self._operator, self._account, kind),
        }
        itself = _sign(self._operator, self._operator, {"type": "operator", "version": 2})
        return {
            "operator": itself,
            "system_account": _name(self._system),
            "resolver": "MEMORY",
            "resolver_preload": accounts,
        }

    def write_creds(self, path: Path, life_s: float | None = None) -> None:
        """Write a user's creds file, which ends after `life_s`, in place of the one before."""
        nats = {"type": "user", "version": 2, "pub": {}, "sub": {}}
        nats |= dict.fromkeys(("subs", "data", "payload"), -1)
        ends = {} if life_s is None else {"exp": int(time.time() + life_s)}
        jwt = _sign(self._account, self._user, nats, **ends)
        self.secrets.append(jwt)
        fresh = path.with_suffix(".fresh")
        fresh.touch(0o600)
        fresh.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self._seed}\n------END USER NKEY SEED------\n"
        )
        fresh.replace(path)


def _pair(prefix: int) -> tuple[Any, str]:
    seed = nkeys.encode_seed(os.urandom(32), prefix)
    return nkeys.from_seed(bytearray(seed)), seed.decode()


def _name(pair: Any) -> str:
    return str(pair.public_key.decode())


def _sign(signer: Any, subject: Any, nats: dict[str, Any], **claims: int) -> str:
    def part(value: dict[str, Any]) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")

    body = {"jti": os.urandom(8).hex(), "iat": int(time.time()), "iss": _name(signer)}
    body |= {"name": "faults", "sub": _name(subject), "nats": nats, **claims}
    text = part({"typ": "JWT", "alg": "ed25519-nkey"}) + b"." + part(body)
    signature = base64.urlsafe_b64encode(signer.sign(text)).rstrip(b"=")
    return (text + b"." + signature).decode()
