"""Dead letters: what a schema refused, kept in another station with the reason, and sent again.

What enters: a refused message with its headers, and who sent it. What leaves: the header block of
the dead letter, whose payload is the message's own bytes; and dead letters read back.
The gateway calls `build_block` for each refused message; the command line lists and re-sends. A
dead letter is deleted only after its message is stored in the station, never before; and a header
of the client can neither pass for one of ours nor act on the dead-letter stream.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import re
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from fastgw.control.faults import broker_faults
from fastgw.control.station_config import check_subject, is_covered
from fastgw.errors import ClientFault, UpstreamFault, clip
from fastgw.nats.library import js_errors

if TYPE_CHECKING:
    from fastgw.control.station_config import StationRecord
    from fastgw.control.verdicts import Verdicts
    from fastgw.nats.client import ControlClient

PREFIX: Final = "Fastgw-Dead-Letter-"
STATION: Final = PREFIX + "Station"
REASON: Final = PREFIX + "Reason"
SCHEMA: Final = PREFIX + "Schema"
SCHEMA_VERSION: Final = PREFIX + "Schema-Version"
USER: Final = PREFIX + "User"
CLIENT: Final = PREFIX + "Client"
SUBJECT: Final = PREFIX + "Subject"
MESSAGE_ID: Final = PREFIX + "Message-Id"
CONTENT_TYPE: Final = PREFIX + "Content-Type"

VALUE_CHARS_MAX: Final = 512
"""LIMIT: a reason has at most 500 characters; names, addresses and subjects have less."""

REQUEST_TIMEOUT_S: Final = 5.0
NO_MESSAGE: Final = (10037, 10043)
DELETE_FAILED: Final = 10057
"""SOURCE: nats-server server/errors.json; the last says in its text only that there is none."""

_VERSION_LINE: Final = b"NATS/1.0\r\n"
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")
_OURS: Final = (PREFIX.lower().encode(), b"nats-")


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """One dead letter as it was read; `headers` are the original ones, as sent."""

    seq: int
    time: float
    station: str
    reason: str
    schema: str
    schema_version: str
    user: str
    client: str
    subject: str
    message_id: str
    sent_as: str
    headers: list[tuple[bytes, bytes]]
    payload: bytes

    @property
    def content_type(self) -> bytes | None:
        """The original Content-Type, which picks the form that the schema judges."""
        if self.sent_as:
            return self.sent_as.encode("utf-8", "surrogateescape")
        for name, value in self.headers:
            if name.lower() == b"content-type":
                return value
        return None


def build_headers(
    record: StationRecord,
    reason: str,
    *,
    user: str,
    client: str,
    subject: str | None = None,
    message_id: str | None = None,
    content_type: bytes | None = None,
) -> list[tuple[bytes, bytes]]:
    """Return the headers that a dead letter has beside the original ones.

    Args:
        record: the station that refused the message.
        reason: why, without "Schema validation has failed".
        user: who sent it.
        client: the address that it came from.
        subject: where it would have gone, when not to the station's own subject.
        message_id: its id; it must not stand as `Nats-Msg-Id`, where the second message refused
            under one id would be taken for a repetition of the first.
        content_type: its Content-Type, which judging it again needs where the station's headers
            policy keeps it out of the message.
    """
    found = (
        (STATION, record.name),
        (REASON, reason),
        (SCHEMA, record.schema),
        (SCHEMA_VERSION, record.schema_version),
        (USER, user),
        (CLIENT, client),
        (SUBJECT, subject if subject != record.subject else None),
        (MESSAGE_ID, message_id),
        (CONTENT_TYPE, None if content_type is None else content_type.decode("latin-1")),
    )
    return [(name.encode(), _safe(value)) for name, value in found if value is not None]


def build_block(headers: list[tuple[bytes, bytes]], original: bytes) -> bytes:
    """Return the whole NATS header block of a dead letter.

    Args:
        headers: from `build_headers`.
        original: the lines of the original message's headers, each ending with CR LF; a version
            line and the closing empty line may stand there too.
    """
    lines = [_VERSION_LINE]
    lines += [b"%b: %b\r\n" % header for header in headers]
    for line in original.removeprefix(_VERSION_LINE).split(b"\r\n"):
        name, colon, _ = line.partition(b":")
        if colon and name and not name.lower().startswith(_OURS):
            lines.append(line + b"\r\n")
    return b"".join([*lines, b"\r\n"])


def parse_block(block: bytes) -> list[tuple[bytes, bytes]]:
    """Return the headers of a NATS header block in order, names and values as they stand."""
    found = []
    for line in block.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon and name:
            found.append((name, value.strip(b" \t")))
    return found


class DeadLetters:
    """The dead letters of one station.

    Args:
        nc: the control-plane connection.
        origin: the station that refused them; None reads those of every station.
        place: the station that keeps them.
    """

    def __init__(
        self, nc: ControlClient, place: StationRecord, origin: StationRecord | None
    ) -> None:
        self._nc = nc
        self._place = place
        self._origin = origin

    async def read(self, after: int = 0) -> AsyncIterator[tuple[int, DeadLetter | None]]:
        """Yield the sequence of each message that is there now, with its dead letter or None.

        None stands for a message that is no dead letter of the station. Those that arrive while it
        reads are left for the next time.
        """
        last = await self.find_last()
        sequence = after
        while sequence < last:
            message = await self._get(sequence + 1)
            if message is None or message["seq"] > last:
                return
            sequence = message["seq"]
            letter = _parse(message)
            wanted = letter is not None and (
                self._origin is None or letter.station == self._origin.name
            )
            yield sequence, letter if wanted else None

    async def find_last(self) -> int:
        """Return the last sequence of the stream that keeps the dead letters."""
        answer = await self._ask(f"STREAM.INFO.{self._place.stream}", {})
        return int(answer["state"]["last_seq"])

    async def resend(self, letter: DeadLetter, verdicts: Verdicts | None) -> str | None:
        """Send a dead letter to the station that refused it, when it is good now.

        The message is stored and confirmed first, then the dead letter is deleted. When something
        fails in between, the next time repeats the message with the same id, and the stream keeps
        one of both within its duplicate window.

        Args:
            letter: what to send.
            verdicts: judges by the station's schema of now; None when it has none.

        Returns:
            None when it was sent, else why it was refused again.

        Raises:
            ClientFault: it cannot be published as it is.
            UpstreamFault: the broker is away or refused; the dead letter is still there.
        """
        origin = self._origin
        if origin is None or letter.station != origin.name:
            raise ClientFault("bad-request", "a dead letter goes back to its own station only")
        payload = letter.payload
        if verdicts is not None:
            judged = await verdicts.judge_one(letter.seq, payload, letter.content_type)
            if judged.reason is not None:
                return judged.reason
            payload = judged.stored
        await self._publish(letter, origin, payload)
        await self._delete(letter.seq)
        return None

    async def _publish(self, letter: DeadLetter, origin: StationRecord, payload: bytes) -> None:
        subject = origin.subject
        if letter.subject and origin.allow_suffix:
            check_subject(letter.subject)
            if is_covered(letter.subject, f"{subject}.>"):
                subject = letter.subject
        stamp = f"{letter.time:.6f}".replace(".", "")
        # WHY not the original id: the messages of one batch, and every try of one client, share it;
        # the stream would keep the first and we would delete the others' letters.
        message_id = f"dead-letter.{self._place.stream}.{letter.seq}.{stamp}"
        headers = [
            (b"Nats-Expected-Stream", origin.stream.encode()),
            (b"Nats-Msg-Id", message_id.encode()),
        ]
        block = _VERSION_LINE + b"".join(
            b"%b: %b\r\n" % header for header in [*headers, *letter.headers]
        )
        with broker_faults(f"publish dead letter {letter.seq} to station {origin.name}"):
            reply = await self._request_block(subject, block + b"\r\n", payload)
        answer = msgspec.json.decode(reply, type=dict[str, Any])
        if "error" in answer or answer.get("stream") != origin.stream:
            text = clip(answer.get("error", {}).get("description", "no confirmation"), 160)
            raise UpstreamFault(
                "broker-refused", f"cannot publish dead letter {letter.seq}: {text}"
            )

    async def _request_block(self, subject: str, block: bytes, payload: bytes) -> bytes:
        """Publish with a header block that is already built, and wait for the answer.

        WHY not nats-py's headers: they are a dict of text, which would lose repeated names and
        bytes that are not UTF-8.
        """
        if not self._nc.is_connected:
            # WHY: nats-py would keep the frame and send it after we have said that it failed.
            raise UpstreamFault("broker-away", "the broker is away")
        inbox = self._nc.new_inbox()
        subscription = await self._nc.subscribe(inbox, max_msgs=1)
        try:
            frame = b"HPUB %b %b %d %d\r\n" % (
                subject.encode(),
                inbox.encode(),
                len(block),
                len(block) + len(payload),
            )
            if len(block) + len(payload) > self._nc.max_payload:
                raise ClientFault("message-too-large", "the message exceeds the broker's bound")
            await self._nc._send_command(frame + block + payload + b"\r\n")
            await self._nc._flush_pending()
            message = await subscription.next_msg(REQUEST_TIMEOUT_S)
        finally:
            await subscription.unsubscribe()
        if (message.headers or {}).get("Status") == "503":
            raise UpstreamFault("broker-away", f"no stream captures {clip(subject)} now")
        return message.data

    async def _get(self, sequence: int) -> dict[str, Any] | None:
        """Return the first message at or behind a sequence."""
        order = {"seq": sequence, "next_by_subj": ">"}
        try:
            answer = await self._ask(f"STREAM.MSG.GET.{self._place.stream}", order)
        except _NoMessage:
            return None
        message: dict[str, Any] = answer["message"]
        return message

    async def _delete(self, sequence: int) -> None:
        order = {"seq": sequence, "no_erase": True}
        # WHY suppressed: another operator has sent and deleted the same one meanwhile.
        with contextlib.suppress(_NoMessage):
            await self._ask(f"STREAM.MSG.DELETE.{self._place.stream}", order, "delete from")

    async def _ask(
        self, what: str, order: Mapping[str, Any], doing: str = "read"
    ) -> dict[str, Any]:
        with broker_faults(f"{doing} the dead letters in {self._place.name}"):
            reply = await self._nc.request(
                f"$JS.API.{what}", msgspec.json.encode(order), REQUEST_TIMEOUT_S
            )
            answer = msgspec.json.decode(reply.data, type=dict[str, Any])
            error = answer.get("error")
            if error is not None:
                code, text = error.get("err_code"), error.get("description", "")
                if code in NO_MESSAGE or (code == DELETE_FAILED and "no message" in text):
                    raise _NoMessage
                js_errors.APIError.from_error(error)
        return answer


class _NoMessage(Exception):
    """There is no message at that sequence."""


def _safe(value: object) -> bytes:
    """Return a header value: one line, clipped, in UTF-8."""
    text = _UNSAFE.sub(" ", str(value)).strip()
    if len(text) > VALUE_CHARS_MAX:
        text = text[: VALUE_CHARS_MAX - 1] + "…"
    return text.encode("utf-8", "replace")


def _parse(message: dict[str, Any]) -> DeadLetter | None:
    """Read one message of the dead-letter stream; None when it is no dead letter."""
    ours: dict[str, str] = {}
    headers = []
    for name, value in parse_block(base64.b64decode(message.get("hdrs", ""))):
        text = name.decode("latin-1").lower()
        if text.startswith(PREFIX.lower()):
            ours.setdefault(text, value.decode("utf-8", "surrogateescape"))
        elif not text.startswith("nats-"):
            headers.append((name, value))
    if STATION.lower() not in ours:
        return None

    def take(name: str) -> str:
        return ours.get(name.lower(), "")

    return DeadLetter(
        seq=message["seq"],
        time=datetime.datetime.fromisoformat(message["time"]).timestamp(),
        station=take(STATION),
        reason=take(REASON),
        schema=take(SCHEMA),
        schema_version=take(SCHEMA_VERSION),
        user=take(USER),
        client=take(CLIENT),
        subject=take(SUBJECT),
        message_id=take(MESSAGE_ID),
        sent_as=take(CONTENT_TYPE),
        headers=headers,
        payload=base64.b64decode(message.get("data", "")),
    )
