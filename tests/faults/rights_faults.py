"""What the gateway may do at the broker ends: its credentials, or one of its permissions.

What enters: a `Plan`. What leaves: an `Outcome` for each fault.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any, Final

from tests.faults.brokers import ConfiguredBroker
from tests.faults.operator_mode import Operator
from tests.faults.producers import BATCH_COUNT, MIXTURE, PIPELINE
from tests.faults.scene import RESUME_S_MAX, STATION, Scene, add_station

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.audit import Message
    from tests.faults.outcome import Outcome
    from tests.faults.scene import Plan

LIFE_S: Final = 4.0
RENEWED_EACH_S: Final = 1.0
"""A JWT ends at a whole second, so the file is good for 2 s more at any time."""

STALE_S: Final = LIFE_S + 2.0
GAP_S_MAX: Final = 1.0
RESUME_S_TARGET: Final = 2.0
LINES_MAX: Final = 12
"""LIMIT: what each end of credentials may add to the log: both planes lost, refused, connected."""

LOOK_S: Final = 0.02

DATA_USER: Final = "data"
DATA_PASSWORD: Final = "data-password-of-the-faults"
DENIED: Final = "denied"
"""The station that the data plane's user may not publish to, for a while."""

DENIED_S_MAX: Final = 10.0
DENIED_COUNT: Final = 100


async def credentials_expire(plan: Plan) -> Outcome:
    """Point 1: the broker ends the user's JWT every few seconds; the renewed file is taken."""
    operator = Operator()
    creds = plan.folder / "gateway.creds"
    audit = plan.folder / "audit.creds"
    operator.write_creds(creds, LIFE_S)
    operator.write_creds(audit)

    def make_broker(store: Path) -> ConfiguredBroker:
        return ConfiguredBroker(store, user="", options=operator.options())

    scene = Scene(
        plan,
        "credentials expire",
        make_broker=make_broker,
        env={"FASTGW_NATS_CREDS_FILE": str(creds)},
        connecting={"user_credentials": str(audit)},
    )
    renewing = asyncio.create_task(_renew(operator, creds))
    try:
        async with scene:
            for number in range(plan.rounds):
                if await _wait_expired(scene, number + 1) is None:
                    scene.problem(f"the broker did not end the credentials a {number + 1}. time")
                await scene.resume(f"expiry {number + 1}")
            gap_s = scene.ledger.longest_gap_s()
            scene.note(f"{gap_s:.2f} s without a 200 (longest) while the file was renewed")
            if gap_s > GAP_S_MAX * plan.patience:
                scene.problem(f"{gap_s:.2f} s without a 200, although the file was good")
            renewing.cancel()
            await asyncio.sleep(STALE_S)
            operator.write_creds(creds, 60.0)
            took_s = await scene.resume("the file was renewed late")
            scene.note(f"resumed {took_s:.2f} s after a file that was too old had been renewed")
            if took_s > RESUME_S_TARGET * plan.patience:
                scene.problem(f"resumed only {took_s:.2f} s after the file was renewed")
    finally:
        renewing.cancel()
    _check_log(scene, operator.secrets, plan.rounds + 1)
    return scene.outcome


async def _renew(operator: Operator, path: Path) -> None:
    while True:
        await asyncio.sleep(RENEWED_EACH_S)
        operator.write_creds(path, LIFE_S)


def _expired_count(scene: Scene) -> int:
    """How often the data plane was told that its credentials have ended."""
    return len(re.findall(r"data plane connected to", scene.gateway.log_text())) - 1


async def _wait_expired(scene: Scene, count: int) -> float | None:
    started = time.monotonic()
    while _expired_count(scene) < count:
        if time.monotonic() - started > RESUME_S_MAX:
            return None
        await asyncio.sleep(LOOK_S)
    return time.monotonic() - started


def _check_log(scene: Scene, secrets: list[str], ends: int) -> None:
    """The log tells of each end in a few lines, and holds no secret."""
    text = scene.gateway.log_text()
    if any(secret in text or secret.rpartition(".")[2] in text for secret in secrets):
        scene.problem("a secret is in the log")
    lines = [line for line in text.splitlines() if "plane" in line]
    scene.note(f"{len(lines)} log lines for {ends} ends of credentials")
    if len(lines) > LINES_MAX * (ends + 1):
        scene.problem(f"{len(lines)} log lines for {ends} ends of credentials")


def _options(*denied: str) -> dict[str, Any]:
    """Two users, as deploy/nats-server.conf has them; the data plane's is denied some subjects."""
    control = {"user": ConfiguredBroker.user, "password": ConfiguredBroker.password}
    publish: dict[str, Any] = {"allow": [">"], "deny": ["$JS.API.STREAM.>", *denied]}
    permissions = {"publish": publish, "subscribe": {"allow": ["_INBOX.>"]}}
    data = {"user": DATA_USER, "password": DATA_PASSWORD, "permissions": permissions}
    return {
        "authorization": {"users": [control, data]},
        # WHY: each ack takes as long as a sync, so that refusals overtake many of them.
        "jetstream": {"sync_interval": "always"},
    }


async def permission_lost(plan: Plan) -> Outcome:
    """Point 1: the broker forbids one subject under load; that station alone is answered 403."""
    return await _lose_permission(plan, "permission lost", "stored")


async def group_permission_lost(plan: Plan) -> Outcome:
    """Point 1 with group commit: as above, on stations whose messages are synced together."""
    return await _lose_permission(plan, "permission lost, fsync", "fsync")


async def _lose_permission(plan: Plan, name: str, ack: str) -> Outcome:
    brokers: list[ConfiguredBroker] = []

    def make_broker(store: Path) -> ConfiguredBroker:
        brokers.append(ConfiguredBroker(store, options=_options()))
        return brokers[0]

    env = {"FASTGW_NATS_DATA_USER": DATA_USER, "FASTGW_NATS_DATA_PASSWORD": DATA_PASSWORD}

    def make(scene: Scene) -> None:
        for station in (STATION, DENIED):
            add_station(scene, station, "--ack", ack)

    scene = Scene(plan, name, make_broker=make_broker, env=env, before=make)
    async with scene:
        scene.start_load((*MIXTURE, *(PIPELINE,) * 4), DENIED)
        denied = scene.ledgers[DENIED]
        for number in range(plan.rounds):
            if await denied.wait_stored(50, RESUME_S_MAX) is None:
                scene.problem(f"the station is not served before round {number + 1}")
            await scene.run_load()
            before = denied.words["forbidden"]
            await asyncio.to_thread(brokers[0].reload, _options(DENIED))
            if not await denied.wait_word("forbidden", before + DENIED_COUNT, DENIED_S_MAX):
                scene.problem(f"no {DENIED_COUNT} answers 403 in round {number + 1}")
            await scene.resume(f"the reload {number + 1}")
            await asyncio.to_thread(brokers[0].reload, _options())
        if await denied.wait_stored(50, RESUME_S_MAX) is None:
            scene.problem("the station is not served again")
    others = set(scene.ledger.words) - {"bad-subject"}
    if others:
        scene.problem(f"the other station was answered {sorted(others)}")
    wrong = set(denied.words) - {"bad-subject", "forbidden"}
    if wrong and not (wrong == {"bad-batch"} and are_mixed(denied.messages)):
        told = {word: denied.words[word] for word in sorted(wrong)}
        scene.problem(f"the forbidden station was answered {told}")
    gap_s = scene.ledger.longest_gap_s()
    if gap_s > GAP_S_MAX * plan.patience:
        scene.problem(f"the other station was not served for {gap_s:.2f} s")
    scene.note(f"{denied.words['forbidden']} requests were forbidden, none of the other station")
    return scene.outcome


def are_mixed(messages: list[Message]) -> bool:
    """Whether each batch that was answered `bad-batch` was stored in part.

    WHY: the right may end between two messages of a batch, and one status has to do for both.
    """
    batches: dict[tuple[str, int], list[Message]] = {}
    for one in messages:
        batches.setdefault((one.producer, one.number // BATCH_COUNT), []).append(one)
    for batch in batches.values():
        for answers in zip(*(one.answers for one in batch), strict=False):
            is_bad = any(answer.word == "bad-batch" for answer in answers)
            if is_bad and not any(answer.is_stored for answer in answers):
                return False
    return True
