"""The parsing canonical form of an Avro schema, and its 64-bit fingerprint.

What enters: the graph of types from `avro_parse`. What leaves: the form as text, which is the same
for all spellings of a schema, and the fingerprint that stands in front of single-object data.
SOURCE: Apache Avro 1.12, "Parsing Canonical Form for Schemas", "Schema Fingerprints".
"""

from __future__ import annotations

from typing import Final

from fastgw.schema.avro_parse import AvroType

_EMPTY: Final = 0xC15D213AA4D7A795


def _make_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        entry = byte
        for _ in range(8):
            entry = (entry >> 1) ^ (_EMPTY if entry & 1 else 0)
        table.append(entry)
    return tuple(table)


_TABLE: Final = _make_table()


def fingerprint_of(text: str) -> int:
    """Return the CRC-64-AVRO of a canonical form."""
    crc = _EMPTY
    for byte in text.encode():
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc


def canonical_form(root: AvroType) -> str:
    """Write the parsing canonical form, each registered type where it is first used."""
    return _write(root, set())


def _write(item: AvroType, written: set[str]) -> str:
    if item.kind == "union":
        return "[" + ",".join(_write(branch, written) for branch in item.children) + "]"
    if item.kind in ("array", "map"):
        word = "items" if item.kind == "array" else "values"
        return f'{{"type":"{item.kind}","{word}":{_write(item.children[0], written)}}}'
    if not item.name or item.name in written:
        return f'"{item.label}"'
    written.add(item.name)
    head = f'{{"name":"{item.name}","type":"{item.kind}",'
    if item.kind == "enum":
        return head + '"symbols":[' + ",".join(f'"{s}"' for s in item.symbols) + "]}"
    if item.kind == "fixed":
        return f'{head}"size":{item.size}}}'
    fields = (
        f'{{"name":"{name}","type":{_write(child, written)}}}'
        for name, child in zip(item.fields, item.children, strict=True)
    )
    return head + '"fields":[' + ",".join(fields) + "]}"
