"""The variables of one operation: a quick decoder that accepts only what GraphQL would accept.

What enters: the types of an operation's variables, as the worker process describes them, then the
JSON text of variables. What leaves: whether they are surely good. Called by `graphql` for messages
whose document is known to be valid. It is one-sided: what it refuses goes to the worker, which
decides, so it must never accept what graphql-core's coercion refuses.

A description is `"Int"` (and the other built-in scalars), `"*"` (a scalar of the schema's own,
which takes any value), `["!", type]`, `["[]", type]`, `{"enum": [name, ...]}` or
`{"input": [[name, type, has default], ...]}`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, Union

import msgspec

Accepts = Callable[[bytes], bool]

KEPT_MAX: Final = 1_024
"""LIMIT: decoders kept, some 10 KiB each; operations with the same variables share one."""

DEPTH_MAX: Final = 16

# SOURCE: GraphQL specification, section 3.5. Integers beyond 2^53 are left to the worker.
_INT32: Final = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
_SAFE: Final = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
_SCALARS: Final[dict[str, Any]] = {
    "Int": _INT32,
    "Float": Union[_SAFE, float],  # noqa: UP007 - made at run time
    "String": str,
    "Boolean": bool,
    "ID": Union[str, _SAFE],  # noqa: UP007
    "*": Union[str, int, float, bool, list[Any], dict[str, Any]],  # noqa: UP007
}


class _Beyond(Exception):
    """A description that the decoder cannot express."""


def compile_variables(description: bytes) -> Accepts | None:
    """Compile the JSON description of variables; None when only the worker can judge them."""
    return _compile(description)


@lru_cache(maxsize=KEPT_MAX)
def _compile(description: bytes) -> Accepts | None:
    try:
        model = _build_object(msgspec.json.decode(description), 0, closed=False)
        decode = msgspec.json.Decoder(model).decode
    except (_Beyond, TypeError, ValueError, RecursionError):
        return None

    def accepts(variables: bytes) -> bool:
        try:
            decode(variables)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return False
        return True

    return accepts


def _build_object(fields: list[Any], depth: int, *, closed: bool) -> Any:
    """Build a Struct: unknown variables are ignored, unknown fields of an input are refused."""
    built: list[Any] = []
    renamed: dict[str, str] = {}
    for index, (name, kind, has_default) in enumerate(fields):
        own, optional = _build(kind, depth + 1)
        # WHY: a name of GraphQL can be a keyword of Python.
        renamed[f"f{index}"] = name
        if optional or has_default:
            built.append((f"f{index}", own | msgspec.UnsetType, msgspec.UNSET))
        else:
            built.append((f"f{index}", own))
    return msgspec.defstruct(
        "Variables", built, rename=renamed, forbid_unknown_fields=closed, kw_only=True
    )


def _build(kind: Any, depth: int) -> tuple[Any, bool]:
    """Return the type of a value, and whether it may be left out."""
    if depth > DEPTH_MAX:
        raise _Beyond
    if isinstance(kind, list) and kind[0] == "!":
        return _build_bare(kind[1], depth), False
    return Union[_build_bare(kind, depth), None], True  # noqa: UP007


def _build_bare(kind: Any, depth: int) -> Any:
    if isinstance(kind, str):
        return _SCALARS[kind]
    if isinstance(kind, list):
        inner, _ = _build(kind[1], depth + 1)
        return list[inner]  # type: ignore[valid-type]
    if "enum" in kind:
        return Literal[tuple(kind["enum"])]
    return _build_object(kind["input"], depth, closed=True)
