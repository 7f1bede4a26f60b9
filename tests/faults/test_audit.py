"""The audit finds each planted defect, and nothing where nothing is wrong; no process runs."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.faults.audit import BROKEN, SHOWN_MAX, Answer, Findings, Found, Message, judge

OK = Answer(200)
UNKNOWN = Answer(503, "outcome-unknown")
LATE = Answer(504, "ack-timeout")
GONE = Answer(BROKEN)
AWAY = Answer(503, "broker-away")
BAD = Answer(400, "bad-json")

World = tuple[list[Message], list[Found]]


def well(count: int = 30, producers: int = 3) -> World:
    """A run without a fault: every message acknowledged and there once, producers interleaved."""
    messages: list[Message] = []
    found: list[Found] = []
    for number in range(count):
        for name in range(producers):
            seq = len(found) + 1
            key = f"p{name}:{number}"
            msg_id = f"id-{key}" if name == 0 else None
            messages.append(
                Message(key, f"p{name}", number, msg_id, answers=[Answer(200, "", seq)])
            )
            found.append(Found(seq, key, msg_id))
    return messages, found


def kinds(findings: Findings) -> set[str]:
    return {text.split()[1].rstrip(":") for text in findings.texts()}


def without_answers_sequences(messages: list[Message]) -> list[Message]:
    return [replace(one, answers=[OK for _ in one.answers]) for one in messages]


def renumbered(found: list[Found]) -> list[Found]:
    return [one._replace(seq=seq) for seq, one in enumerate(found, 1)]


def test_a_run_without_a_fault_is_clean() -> None:
    findings = judge(*well())
    assert findings == Findings()
    assert findings.is_clean
    assert judge([], []).is_clean


@pytest.mark.parametrize("place", [0, 1, 44, 88, 89])
def test_a_planted_loss_is_found(place: int) -> None:
    messages, found = well()
    gone = found.pop(place)
    findings = judge(messages, found)
    assert findings.lost == [gone.key]
    assert kinds(findings) == {"lost"}


def test_a_stream_that_lost_its_tail_is_found() -> None:
    messages, found = well()
    assert len(judge(messages, found[:-7]).lost) == 7
    assert len(judge(messages, []).lost) == 90


@pytest.mark.parametrize("place", [0, 1, 44, 89])
def test_a_planted_duplicate_is_found(place: int) -> None:
    messages, found = well()
    found.append(found[place]._replace(seq=len(found) + 1))
    findings = judge(messages, found)
    assert findings.doubled[0] == f"{found[place].key} (2 times)"
    assert kinds(findings) == {"doubled"}


def test_two_payloads_under_one_id_are_found() -> None:
    messages, found = well()
    found[3] = found[3]._replace(id="id-p0:0")
    assert judge(messages, found).doubled == ["id id-p0:0 (2 payloads)"]


@pytest.mark.parametrize("answers", [[OK], [UNKNOWN], [GONE], [LATE], [AWAY, OK], [UNKNOWN] * 3])
def test_a_duplicate_is_found_whatever_the_answers_were(answers: list[Answer]) -> None:
    message = Message("a", "p", 0, "id", answers=answers)
    assert judge([message], [Found(1, "a", "id"), Found(2, "a", "id")]).doubled


def test_a_repeat_without_an_id_may_be_there_as_often_as_it_may_have_been_stored() -> None:
    twice = [Found(1, "a"), Found(2, "a")]
    assert judge([Message("a", "p", 0, None, answers=[GONE, OK])], twice).is_clean
    assert judge([Message("a", "p", 0, None, answers=[AWAY, OK])], twice).doubled
    assert judge([Message("a", "p", 0, None, answers=[UNKNOWN])], twice).doubled


@pytest.mark.parametrize(
    "answers",
    [
        [BAD],
        [AWAY],
        [Answer(429, "rate-limited")],
        [Answer(503, "overloaded")],
        [Answer(503, "stream-full")],
        [Answer(503, "draining")],
        [AWAY, AWAY, BAD],
    ],
)
def test_a_refused_message_that_is_there_is_found(answers: list[Answer]) -> None:
    messages, found = well()
    messages.append(Message("x", "p9", 0, "id-x", answers=answers))
    assert judge(messages, found).is_clean
    found.append(Found(len(found) + 1, "x", "id-x"))
    findings = judge(messages, found)
    assert len(findings.phantom) == 1
    assert findings.phantom[0].startswith("x (")
    assert kinds(findings) == {"phantom"}


def test_a_message_that_nobody_sent_is_found() -> None:
    messages, found = well()
    found.append(Found(len(found) + 1, "stranger"))
    assert judge(messages, found).phantom == ["stranger (nobody sent it)"]


@pytest.mark.parametrize("answer", [UNKNOWN, LATE, GONE, Answer(500, "internal"), Answer(503)])
@pytest.mark.parametrize("is_there", [True, False])
def test_an_unknown_outcome_may_be_either_and_is_counted(answer: Answer, is_there: bool) -> None:
    message = Message("a", "p", 0, None, answers=[answer])
    findings = judge([message], [Found(1, "a")] if is_there else [])
    assert findings.is_clean
    assert (findings.unknown, findings.unknown_found) == (1, int(is_there))


def test_an_unknown_message_that_was_then_acknowledged_must_be_there() -> None:
    message = Message("a", "p", 0, "id", answers=[GONE, LATE, Answer(200, "", 1)])
    assert judge([message], [Found(1, "a", "id")]).is_clean
    assert judge([message], []).lost == ["a"]


def test_a_message_that_was_never_answered_is_unknown() -> None:
    assert judge([Message("a", "p", 0)], []).unknown == 1


@pytest.mark.parametrize("distance", [3, 30, 87])
def test_a_planted_reordering_is_found(distance: int) -> None:
    messages, found = well()
    early = found.pop(distance)
    findings = judge(without_answers_sequences(messages), renumbered([early, *found]))
    assert findings.disordered == [early.key]
    assert kinds(findings) == {"disordered"}


def test_the_order_between_producers_and_of_unknown_messages_is_free() -> None:
    messages, found = well()
    shuffled = sorted(found, key=lambda one: one.key.partition(":")[0])
    assert judge(without_answers_sequences(messages), renumbered(shuffled)).is_clean
    messages[0].answers = [UNKNOWN]
    found.append(found.pop(0))
    findings = judge(without_answers_sequences(messages[1:]) + messages[:1], renumbered(found))
    assert findings.is_clean
    assert findings.unknown_found == 1


def test_the_order_of_messages_that_were_repeated_side_by_side_is_free() -> None:
    messages, found = well()
    early = found.pop(30)
    free = [replace(one, is_ordered=False) for one in without_answers_sequences(messages)]
    assert judge(free, renumbered([early, *found])).is_clean


def test_a_wrong_sequence_in_an_answer_is_found() -> None:
    messages, found = well()
    messages[5].answers, messages[6].answers = messages[6].answers, messages[5].answers
    findings = judge(messages, found)
    assert len(findings.misnamed) == 2
    assert kinds(findings) == {"misnamed"}


def test_many_planted_defects_are_all_found() -> None:
    """Any mixture: what is planted is found, one by one, and nothing else is."""
    random_ = random.Random(5)
    for _ in range(50):
        messages, found = well()
        keys = [one.key for one in found]
        gone = set(random_.sample(keys, 4))
        twice = set(random_.sample(sorted(set(keys) - gone), 4))
        found = [one for one in found if one.key not in gone]
        found += [one for one in found if one.key in twice]
        found.append(Found(0, "stranger"))
        findings = judge(without_answers_sequences(messages), renumbered(found))
        assert set(findings.lost) == gone
        assert set(findings.doubled) == {f"{key} (2 times)" for key in twice}
        assert len(findings.phantom) == 1
        assert not findings.disordered


def test_the_texts_name_a_few_cases_and_count_the_rest() -> None:
    messages, found = well()
    (text,) = judge(messages, found[SHOWN_MAX + 1 :]).texts()
    assert text == "6 lost: p0:0, p1:0, p2:0, p0:1, p1:1 …"
