"""Fixtures of the wire tests: one gateway for the session, one station for each test."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tests.wire.gateway import Gateway, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with its embedded broker; its exit code is checked at the end."""
    with serving(tmp_path_factory.mktemp("wire") / "data") as running:
        yield running


@pytest.fixture
def station() -> str:
    """The name of a station that no other test uses; auto-create makes it."""
    return f"wire-{next(_numbers)}"
