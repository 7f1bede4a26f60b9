"""The fast path accepts nothing that the authority refuses: hypothesis chooses the seeds."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgw.schema.base import REASON_CHARS_MAX, SchemaError
from fastgw.schema.json import compile_json
from tests.property.json_differential import COUNTS, Maker, compare, compare_schema

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8, alphabet=st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(
        max_size=4, alphabet=st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=QUIET)
@given(seed=st.integers(0, 2**40))
def test_fast_path_made_documents_accepts_only_valid(seed: int) -> None:
    compare_schema(seed, 40)


def test_fast_path_many_seeds_accepts_only_valid() -> None:
    for seed in range(1500):
        compare_schema(seed, 20)
    assert COUNTS["schemas with a fast path"] > 500
    assert COUNTS["accepted by the fast path"] > 5_000
    print(f"documents in the differential test: {dict(COUNTS)}")


@settings(max_examples=150, deadline=None, suppress_health_check=QUIET)
@given(seed=st.integers(0, 2**40), value=json_values, junk=st.binary(max_size=30))
def test_check_any_bytes_never_raises(seed: int, value: Any, junk: bytes) -> None:
    schema = Maker(random.Random(seed)).make_schema()
    try:
        validator = compile_json(msgspec.json.encode(schema).decode(), resolve=lambda _: None)
    except SchemaError:
        return
    for body in (msgspec.json.encode(value), junk):
        assert compare(validator, body)
        reason = validator.check(body, None)
        assert reason is None or ("\n" not in reason and 0 < len(reason) <= REASON_CHARS_MAX)


def test_comparison_of_a_wrong_fast_path_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Yes:
        is_surely_good = staticmethod(lambda _body: True)

    def accept_everything(_: object, **__: object) -> object:
        return Yes

    monkeypatch.setattr("fastgw.schema.json.compile_fast", accept_everything)
    with pytest.raises(AssertionError, match="accepts"):
        _compare_seeds(50)


def _compare_seeds(count: int) -> None:
    for seed in range(count):
        compare_schema(seed, 40)
