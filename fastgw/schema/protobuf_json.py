"""What json_format takes though ProtoJSON does not: an empty list or string for a message.

What enters: the decoded JSON of a body that json_format took, and its message's type. What leaves:
the path of a value that should be an object, or an empty text. Called by `protobuf` for bodies that
hold an empty list or string. SOURCE: the ProtoJSON format, "message: object".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

WELL_KNOWN: Final = "google.protobuf."
"""The types of this package have JSON forms of their own, which json_format checks."""


def find_non_object(value: object, descriptor: Descriptor, path: str = "") -> str:
    """Return the path of the first message that is no object; its depth was bounded before."""
    if descriptor.full_name.startswith(WELL_KNOWN):
        return ""
    if not isinstance(value, dict):
        return path or "(the body)"
    fields = _index(descriptor)
    for name, inner in value.items():
        field = fields.get(name)
        if field is None or inner is None:
            continue
        here = f"{path}.{name}" if path else name
        kind = field.message_type
        if kind.GetOptions().map_entry:
            if not isinstance(inner, dict):
                return here
            kind = kind.fields_by_name["value"].message_type
            messages = list(inner.values()) if kind is not None else []
        elif not field.is_repeated:
            messages = [inner]
        elif isinstance(inner, list):
            messages = inner
        else:
            return here
        for each in messages:
            found = find_non_object(each, kind, here)
            if found:
                return found
    return ""


def _index(descriptor: Descriptor) -> dict[str, Any]:
    """List the fields that hold messages or maps, by both their names."""
    found: dict[str, Any] = {}
    for field in descriptor.fields:
        if field.message_type is not None:
            found[field.name] = found[str(field.json_name)] = field
    return found
