"""The pages of docs/ against the code: configuration keys, threat model, and the links between."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Final

import msgspec
import pytest
from msgspec import inspect

from fastgw.config import TYPES, load
from fastgw.config_types import Config, IssuerConfig, ListenerConfig, RateConfig, TlsConfig
from fastgw.errors import KINDS

ROOT: Final = Path(__file__).parents[2]
DOCS: Final = ROOT / "docs"
HEADING: Final = re.compile(r"## (?:\[{1,2}(?P<table>\w+)\]{1,2}|Top level)$")
ROW: Final = re.compile(r"\| `(\w+)` \| (.+) \| (.+) \| (.+) \|$")
LINK: Final = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
PAGES: Final = [*sorted(DOCS.glob("*.md")), ROOT / "README.md"]


def read_tables() -> dict[str, dict[str, tuple[str, str]]]:
    """Return each table of the page, "" for the top level: key -> its default and its range."""
    tables: dict[str, dict[str, tuple[str, str]]] = {}
    table = None
    for line in (DOCS / "configuration.md").read_text().splitlines():
        if line.startswith("## "):
            heading = HEADING.fullmatch(line)
            assert heading is not None, line
            table = tables.setdefault(heading["table"] or "", {})
        elif table is not None and (row := ROW.fullmatch(line)):
            assert row[1] not in table, line
            table[row[1]] = (row[3], row[4])
    return tables


TABLES: Final = read_tables()


def keys_of(struct: type[msgspec.Struct], table: str) -> list[tuple[str, inspect.Field]]:
    kind = inspect.type_info(struct)
    assert isinstance(kind, inspect.StructType)
    return [(table, field) for field in kind.fields]


def every_key() -> list[tuple[str, inspect.Field]]:
    """Return (table, field) of each key that the page must have."""
    keys = [*keys_of(ListenerConfig, "listeners"), *keys_of(IssuerConfig, "issuers")]
    for _, field in keys_of(Config, ""):
        if isinstance(field.type, inspect.StructType):
            keys += keys_of(field.type.cls, field.name)
        else:
            keys.append(("", field))
    return keys


def show(value: object) -> str:
    """Write a default as the page does: as TOML, or "unset"."""
    if value is None:
        return "unset"
    if isinstance(value, TlsConfig):
        assert value == TlsConfig()
        return "`{}`"
    return f"`{json.dumps(value)}`"


def default_of(field: inspect.Field) -> str:
    if field.required:
        return "required"
    if field.default is not msgspec.NODEFAULT:
        return show(field.default)
    return show(field.default_factory())


def words_of(kind: inspect.Type) -> list[str]:
    """Return what the cell with the range must hold for a type."""
    match kind:
        case inspect.IntType():
            return [f"{kind.ge} to {kind.le}"]
        case inspect.LiteralType():
            return [
                f'`"{value}"`' if kind.values != ("auto",) else '"auto"' for value in kind.values
            ]
        case inspect.BoolType():
            return ["true or false"]
        case inspect.FloatType(ge=float() as low):
            return [f"{low} to {kind.le}"]
        case inspect.FloatType():
            return ["above 0", f"to {kind.le:g}".replace("e+", "e")]
        case inspect.UnionType():
            return [word for part in kind.types for word in words_of(part)]
        case inspect.ListType() if kind.max_length is not None:
            return [str(kind.max_length)]
        case inspect.ListType():
            return words_of(kind.item_type)
    return []


@pytest.mark.parametrize(
    ("table", "field"), every_key(), ids=lambda part: getattr(part, "name", part or "top")
)
def test_configuration_page_key_has_its_true_default_and_range(
    table: str, field: inspect.Field
) -> None:
    default, told = TABLES[table][field.name]
    assert default == default_of(field)
    for word in words_of(field.type):
        assert word in told, (word, told)


def test_configuration_page_names_no_key_that_is_none() -> None:
    known = {(table, field.name) for table, field in every_key()}
    assert {(table, key) for table, keys in TABLES.items() for key in keys} == known
    # The same keys as the loader knows, so that neither list can be short.
    flat = {f"{table}.{name}" if table else name for table, name in known}
    arrays = ("listeners.", "issuers.")
    assert {key for key in flat if not key.startswith(arrays)} == set(TYPES)
    assert {key.name for _, key in keys_of(RateConfig, "rate")} == set(TABLES["rate"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_toml_is_a_configuration(page: Path, tmp_path: Path) -> None:
    """Each TOML block loads; the files that it names are made first."""
    blocks = re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
    for block in blocks:
        file = tmp_path / "some.pem"
        file.touch()
        text = re.sub(r'"/[^"]+\.(pem|creds|json|seed)"', f'"{file}"', block)
        assert tomllib.loads(text)
        config = tmp_path / "fastgw.toml"
        config.write_text(text)
        config.chmod(0o600)
        passwords = {"FASTGW_NATS_PASSWORD": "p1", "FASTGW_NATS_DATA_PASSWORD": "p2"}
        loaded = load(str(config), passwords if "data_user" in text else {}, {})
        assert set(loaded.origins.values()) > {"default"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), target


def test_security_page_names_tests_that_exist() -> None:
    """Each `file: test, test` of the threat model stands in that file of tests/."""
    files = {path.stem: path for path in (ROOT / "tests").rglob("test_*.py")}
    page = " ".join((DOCS / "security.md").read_text().split())
    found = re.findall(r"`(test_\w+)`: ((?:`\w+`(?:, )?)+)", page)
    assert len(found) > 20
    for stem, names in found:
        text = files[stem].read_text()
        for name in re.findall(r"`(\w+)`", names):
            assert f"def test_{name}(" in text, (stem, name)


def test_http_page_lists_every_error_word_with_its_status() -> None:
    text = (DOCS / "http.md").read_text()
    rows = re.findall(r"^\| (\d{3}) \| ((?:`[a-z-]+`(?:, )?)+) \|", text, re.MULTILINE)
    told = {word: int(status) for status, words in rows for word in re.findall(r"`([^`]+)`", words)}
    assert told == {word: kind.status for word, kind in KINDS.items()}
