"""What the registry checks and reads of a schema by itself."""

from __future__ import annotations

import pytest

from fastgw.control.schema_record import SchemaRecord, Version, check_options, find_uri
from fastgw.control.verdicts import line_type, number_lines, split_lines
from fastgw.errors import ClientFault


@pytest.mark.parametrize(
    ("kind", "text", "uri"),
    [
        ("json", '{"$id":"https://e/x#"}', "https://e/x"),
        ("json", '{"id":"urn:x"}', "urn:x"),
        ("json", '{"$id":5}', ""),
        ("json", "true", ""),
        ("json", "[" * 5000, ""),
        ("json", "{", ""),
        ("avro", '{"name":"R","namespace":"a.b"}', "a.b.R"),
        ("avro", '{"name":"a.b.R","namespace":"c"}', "a.b.R"),
        ("avro", '{"name":"R","namespace":""}', "R"),
        ("avro", '{"type":"map"}', ""),
        ("avro", '"string"', ""),
        ("protobuf", '{"$id":"x"}', ""),
        ("graphql", "type Query", ""),
    ],
)
def test_find_uri(kind: str, text: str, uri: str) -> None:
    assert find_uri(kind, text) == uri  # type: ignore[arg-type]


def test_options_are_sorted_and_empty_ones_left_out() -> None:
    options = {"unknown_fields": "refuse", "message": "M"}
    assert list(check_options("protobuf", options)) == ["message", "unknown_fields"]
    assert check_options("json", {"message": "", "unknown_fields": ""}) == {}
    with pytest.raises(ClientFault, match="a schema of type graphql has no option message"):
        check_options("graphql", {"message": "M"})


def test_record_finds_versions_by_number() -> None:
    versions = [
        Version(number=number, key="k", sha256="", bytes=0, created_at=0.0) for number in (1, 2)
    ]
    record = SchemaRecord(name="s", type="json", created_at=0.0, versions=versions)
    assert record.latest is record.find(None) is record.find(0) is record.find(2) is versions[1]
    assert record.find(1) is versions[0]
    assert record.find(3) is None


def test_lines_are_numbered_and_blank_ones_left_out() -> None:
    assert split_lines(b"\xef\xbb\xbf1\r\n\n \t\n2") == [(1, b"1"), (4, b"2")]
    assert split_lines(b"") == []
    assert list(number_lines([b"\n", b"x\n"])) == [(2, b"x")]
    assert (line_type("protobuf"), line_type("json")) == (b"application/json", None)
