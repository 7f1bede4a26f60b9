"""Who we are to the broker: from the configuration to the fields of a CONNECT line.

What enters: a `NatsConfig`, the plane that dials, and the nonce of the server's INFO.
What leaves: the authentication fields of one CONNECT. Key and creds files are read again for each
connection, so that a rotated file is picked up by the next dial and no seed stays in memory.
Called by both planes of `connection.py`. It must never put a secret in a text.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from fastgw import __version__
from fastgw.errors import clip

if TYPE_CHECKING:
    from fastgw.config_types import NatsConfig

Plane = Literal["control", "data"]

KEY_FILE_BYTES_MAX: Final = 65_536
"""LIMIT: a creds file is about 1 KiB; more than this is some other file named by mistake."""

_JWT: Final = re.compile(rb"-{3,}BEGIN NATS USER JWT-{3,}\s+(\S+)\s+-{3,}END NATS USER JWT-{3,}")
_SEED: Final = re.compile(rb"-{3,}BEGIN USER NKEY SEED-{3,}\s+(\S+)\s+-{3,}END USER NKEY SEED-{3,}")


class CredentialsError(Exception):
    """The configured credentials cannot be used; the text names the file and the reason."""


class UserInfo(msgspec.Struct, frozen=True):
    """The part of a broker URL before '@': a user with a password, or a token alone."""

    user: str
    password: str | None

    def __repr__(self) -> str:
        """Hide both: a lone user is a token."""
        return "UserInfo(********)"

    def fields(self) -> dict[str, str]:
        """Return the fields of CONNECT for it."""
        if self.password is None:
            return {"auth_token": self.user}
        return {"user": self.user, "pass": self.password}


class Credentials:
    """The identity of one plane.

    Args:
        config: the broker's table of the configuration.
        plane: the data plane logs in with `data_user` where one is set.

    Raises:
        CredentialsError: when a named file cannot be read or holds no key.
    """

    __slots__ = ("_creds_file", "_password", "_seed_file", "_token", "_user")

    def __init__(self, config: NatsConfig, plane: Plane = "control") -> None:
        second = plane == "data" and config.data_user is not None
        self._user = config.data_user if second else config.user
        self._password = config.data_password if second else config.password
        self._token = None if second else config.token
        self._creds_file = None if second else config.creds_file
        self._seed_file = None if second else config.nkey_seed_file
        # WHY: a wrong file name must stop the start with one clear line, not fill the log later.
        if self._creds_file is not None or self._seed_file is not None:
            self.connect_fields("start", None)

    def connect_fields(self, nonce: str | None, userinfo: UserInfo | None) -> dict[str, str]:
        """Return the authentication fields of CONNECT.

        The strongest identity that is configured wins: creds file, nkey, token, user and password,
        and last the URL's own user.

        Args:
            nonce: what the server's INFO asks to be signed, if it does.
            userinfo: of the server's URL.

        Raises:
            CredentialsError: a file is unreadable, or the server asks for no signature.
        """
        if self._creds_file is not None:
            jwt, seed = _read_creds(self._creds_file)
            _, signature = _sign(seed, nonce, self._creds_file)
            return {"jwt": jwt, "sig": signature}
        if self._seed_file is not None:
            seed = bytearray(_read_file(self._seed_file).strip())
            public_key, signature = _sign(seed, nonce, self._seed_file)
            return {"nkey": public_key, "sig": signature}
        if self._token is not None:
            return {"auth_token": self._token}
        if self._user is not None:
            return {"user": self._user, "pass": self._password or ""}
        return {} if userinfo is None else userinfo.fields()


def build_connect(
    credentials: Credentials, info: dict[str, object], userinfo: UserInfo | None, name: str
) -> bytes:
    """Return the CONNECT line for a server that sent `info`.

    SOURCE: NATS client protocol, CONNECT. `no_responders` turns a publish that no stream takes into
    an answer instead of silence; `echo` off keeps our own messages from coming back.

    Raises:
        CredentialsError: see `Credentials.connect_fields`.
    """
    nonce = info.get("nonce")
    fields: dict[str, object] = {
        "verbose": False,
        "pedantic": False,
        "headers": True,
        "no_responders": True,
        "protocol": 1,
        "echo": False,
        "lang": "python-fastgw",
        "version": __version__,
        "name": name,
        "tls_required": bool(info.get("tls_required")),
        **credentials.connect_fields(nonce if isinstance(nonce, str) else None, userinfo),
    }
    return b"CONNECT " + msgspec.json.encode(fields) + b"\r\n"


def _read_file(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(KEY_FILE_BYTES_MAX + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise CredentialsError(f"cannot read the key file {path}: {reason}") from error
    if len(content) > KEY_FILE_BYTES_MAX:
        raise CredentialsError(f"the key file {path} is larger than {KEY_FILE_BYTES_MAX} bytes")
    return content


def _read_creds(path: str) -> tuple[str, bytearray]:
    content = _read_file(path)
    jwt, seed = _JWT.search(content), _SEED.search(content)
    if jwt is None or seed is None:
        missing = "user JWT" if jwt is None else "nkey seed"
        raise CredentialsError(f"the creds file {path} holds no {missing}")
    return jwt[1].decode("ascii", "replace"), bytearray(seed[1])


def _sign(seed: bytearray, nonce: str | None, path: str) -> tuple[str, str]:
    # WHY here: it brings libsodium, and few brokers ask for a signature. Where a key file is
    # configured it is loaded before the first dial, which is when the file is checked.
    import nkeys

    if nonce is None:
        raise CredentialsError("the broker asks for no signature: it has no nkey or JWT users")
    try:
        pair = nkeys.from_seed(seed)
        public_key = bytes(pair.public_key).decode("ascii")
        signature = bytes(pair.sign(nonce.encode()))
    except (nkeys.NkeysError, ValueError) as error:
        reason = clip(type(error).__name__)
        raise CredentialsError(f"the key file {path} holds no valid user seed ({reason})") from None
    finally:
        # WHY: the seed lives in memory only for the moment of signing.
        seed[:] = bytes(len(seed))
    if not public_key.startswith("U"):
        raise CredentialsError(f"the key file {path} holds no user seed, but that of another role")
    return public_key, base64.urlsafe_b64encode(signature).rstrip(b"=").decode("ascii")
