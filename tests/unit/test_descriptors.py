"""Descriptors: the limit is raised to what is needed, and want of them is told once."""

from __future__ import annotations

import logging
import os
import resource
from collections.abc import Iterator

import pytest

from fastgw.door.descriptors import SPARE_FILES, Descriptors, raise_limit

LIMITS = resource.getrlimit(resource.RLIMIT_NOFILE)


@pytest.fixture(autouse=True)
def limits() -> Iterator[None]:
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, LIMITS)


def test_raise_limit_to_what_the_connections_need() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, LIMITS[1]))
    assert raise_limit(100) is None
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 100 + SPARE_FILES


def test_raise_limit_never_lowers_it() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert raise_limit(1) is None
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


def test_raise_limit_above_the_hard_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda what: (256, 1000))
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: raised.append(limits))
    told = raise_limit(20_000)
    assert raised == [(1000, 1000)]
    assert told is not None
    assert "1000 files" in told
    assert str(20_000 + SPARE_FILES) in told


def test_look_tells_once_when_there_are_none_and_when_there_are_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "fastgw.door")
    descriptors = Descriptors()
    assert not descriptors.look()
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, LIMITS[1]))
    assert descriptors.look()
    assert descriptors.look()
    assert descriptors.is_exhausted
    resource.setrlimit(resource.RLIMIT_NOFILE, LIMITS)
    assert not descriptors.look()
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2
    assert "cannot accept new clients" in texts[0]
    assert "accepted again" in texts[1]
