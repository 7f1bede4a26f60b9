"""The text of an Avro schema, parsed into a graph of types that the other Avro modules read.

What enters: schema text, and a way to find other registered schemas by name. What leaves: the root
`AvroType`; named types are shared, so a recursive schema is a graph with cycles. Called by
`fastgw.schema.avro` when a schema is stored or loaded, off the event loop. It must never fetch
anything, nor take more than its bounds in size, depth and number of types.
SOURCE: Apache Avro 1.12 specification, "Schema Declaration", "Names", "Logical Types".
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Final, TypeGuard

import msgspec

from fastgw.errors import clip
from fastgw.schema.base import Resolve, SchemaError

SCHEMA_BYTES_MAX: Final = 262_144
"""LIMIT: real schemas stay far below; the same bound holds for all types of schemas."""
SCHEMAS_BYTES_MAX: Final = 1_048_576
"""LIMIT: a schema together with all registered schemas that it refers to."""
SCHEMA_DEPTH_MAX: Final = 100
"""LIMIT: types within types; the walker holds no more values open than that either."""
PRECISION_MAX: Final = 10_000
"""LIMIT: digits of a decimal; its largest number is computed and kept."""
FIXED_SIZE_MAX: Final = 2**31 - 1
"""LIMIT: sizes and lengths of most readers are 32-bit."""

PRIMITIVES: Final = frozenset(
    ("null", "boolean", "int", "long", "float", "double", "bytes", "string")
)
INT_RANGE: Final = (-(2**31), 2**31 - 1)
LONG_RANGE: Final = (-(2**63), 2**63 - 1)
DAY_MS: Final = 86_400_000
NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
# Logical types that only annotate, with the types that they may annotate.
ANNOTATIONS: Final = frozenset(
    (
        ("int", "date"),
        ("int", "time-millis"),
        ("long", "time-micros"),
        ("long", "timestamp-millis"),
        ("long", "timestamp-micros"),
        ("long", "timestamp-nanos"),
        ("long", "local-timestamp-millis"),
        ("long", "local-timestamp-micros"),
        ("long", "local-timestamp-nanos"),
        ("string", "uuid"),
    )
)


JSON_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "int": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "bytes": (str,),
    "string": (str,),
    "fixed": (str,),
    "enum": (str,),
    "array": (list,),
    "map": (dict,),
    "record": (dict,),
}


@dataclass(slots=True, eq=False)
class AvroType:
    """One type of a schema.

    Args:
        kind: `record`, `enum`, `fixed`, `array`, `map`, `union`, or the name of a primitive.
        name: the full name of a record, enum or fixed; "" for the others.
        children: types of a record's fields, a union's branches, an array's or map's items.
        fields: names of a record's fields, one for each child.
        required: those of them that have no default.
        by_name: types of a record's fields by their names.
        by_label: branches of a union by the names that tag them.
        by_json: branches of a union by the Python type of the JSON that they are written as.
        symbols: of an enum, in their order.
        size: of a fixed, in bytes.
        logical: the logical type; "" where it has none, or one that the specification ignores.
        precision: of a decimal, in digits.
    """

    kind: str
    name: str = ""
    children: list[AvroType] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)
    required: list[str] = field(default_factory=list)
    by_name: dict[str, AvroType] = field(default_factory=dict)
    by_label: dict[str, AvroType] = field(default_factory=dict)
    by_json: dict[type, list[AvroType]] = field(default_factory=dict)
    symbols: dict[str, None] = field(default_factory=dict)
    size: int = 0
    logical: str = ""
    precision: int = 0

    @property
    def label(self) -> str:
        """The name that a tagged union gives this branch."""
        return self.name or self.kind

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and the largest number of an int or long."""
        if self.logical == "time-millis":
            return 0, DAY_MS - 1
        if self.logical == "time-micros":
            return 0, DAY_MS * 1000 - 1
        return INT_RANGE if self.kind == "int" else LONG_RANGE


@dataclass(frozen=True, slots=True)
class Default:
    """A default value, to be checked once all types are known."""

    type: AvroType
    value: object
    place: str


def parse_avro(text: str, resolve: Resolve) -> tuple[AvroType, list[Default]]:
    """Parse one schema with all that it refers to.

    Args:
        text: the schema, as JSON.
        resolve: finds the text of a registered schema by the full name of a type.

    Returns:
        The root, and the defaults, which the caller must check.

    Raises:
        SchemaError: with a JSON pointer, behind the registered schema's name where there is one.
    """
    parser = _Parser(resolve)
    root = parser.parse_text(text, "", 0)
    return root, parser.defaults


def show_json(value: object) -> str:
    """Spell a JSON value for an error text."""
    if isinstance(value, dict | list):
        kind = "object" if isinstance(value, dict) else "array"
        return f"an {kind} of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return clip(msgspec.json.encode(value[:60] if isinstance(value, str) else value))


class _Parser:
    """One compilation: the names that it knows, and how much it has read."""

    def __init__(self, resolve: Resolve) -> None:
        self.resolve: Final = resolve
        self.names: Final[dict[str, AvroType]] = {}
        self.primitives: Final = {kind: AvroType(kind) for kind in PRIMITIVES}
        self.defaults: Final[list[Default]] = []
        self.bytes_left = SCHEMAS_BYTES_MAX

    def parse_text(self, text: str, place: str, depth: int) -> AvroType:
        """Parse a whole schema text, the root's or a registered one."""
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise SchemaError("not UTF-8: a lone surrogate", place) from error
        if len(data) > SCHEMA_BYTES_MAX:
            raise SchemaError(f"schema of {len(data)} bytes exceeds {SCHEMA_BYTES_MAX}", place)
        self.bytes_left -= len(data)
        if self.bytes_left < 0:
            raise SchemaError(f"schemas together exceed {SCHEMAS_BYTES_MAX} bytes", place)
        try:
            schema = msgspec.json.decode(data)
        except (msgspec.DecodeError, ValueError) as error:
            raise SchemaError(f"not JSON: {clip(error, 200)}", place) from error
        except RecursionError as error:
            raise SchemaError("JSON is nested too deep", place) from error
        return self.parse(schema, "", place, depth)

    def parse(self, schema: object, namespace: str, place: str, depth: int) -> AvroType:
        """Parse the schema of one type; `namespace` is that of the definition around it."""
        if depth > SCHEMA_DEPTH_MAX:
            raise SchemaError(f"types are nested deeper than {SCHEMA_DEPTH_MAX}", place)
        if isinstance(schema, str):
            return self.find(schema, namespace, place, depth)
        if isinstance(schema, list):
            return self.parse_union(schema, namespace, place, depth)
        if not isinstance(schema, dict):
            raise SchemaError(f"expected a type, got {show_json(schema)}", place)
        kind = schema.get("type")
        if kind in ("record", "enum", "fixed"):
            return self.parse_named(schema, kind, namespace, place, depth)
        if kind in ("array", "map"):
            word = "items" if kind == "array" else "values"
            if word not in schema:
                raise SchemaError(f'an {kind} needs "{word}"', place)
            item = self.parse(schema[word], namespace, f"{place}/{word}", depth + 1)
            return AvroType(kind, children=[item])
        if "type" not in schema:
            raise SchemaError('a type needs "type"', place)
        found = self.parse(kind, namespace, f"{place}/type", depth + 1)
        if found.kind in PRIMITIVES and not found.logical:
            return self.annotate(AvroType(found.kind), schema, place)
        return found

    def find(self, name: str, namespace: str, place: str, depth: int) -> AvroType:
        """Find the type of a name: a primitive, one defined before, or a registered one."""
        if name in PRIMITIVES:
            return self.primitives[name]
        full = name if "." in name or not namespace else f"{namespace}.{name}"
        full = full.removeprefix(".")
        if full not in self.names:
            self.check_full_name(full, place)
            text = self.resolve(full)
            if text is None:
                raise SchemaError(f"{clip(full, 80)} is no type and no registered schema", place)
            self.parse_text(text, f"{clip(full, 80)}#", depth + 1)
            if full not in self.names:
                raise SchemaError(
                    f"the registered schema {clip(full, 80)} defines no such type", place
                )
        return self.names[full]

    def parse_union(
        self, branches: list[object], namespace: str, place: str, depth: int
    ) -> AvroType:
        if not branches:
            raise SchemaError("a union needs at least one branch", place)
        union = AvroType("union")
        for number, branch in enumerate(branches):
            where = f"{place}/{number}"
            found = self.parse(branch, namespace, where, depth + 1)
            if found.kind == "union":
                raise SchemaError("a union may not hold a union directly", where)
            if found.label in union.by_label:
                raise SchemaError(f"the union holds {clip(found.label, 80)} twice", where)
            union.by_label[found.label] = found
            for json_type in JSON_TYPES[found.kind]:
                union.by_json.setdefault(json_type, []).append(found)
            union.children.append(found)
        return union

    def parse_named(
        self, schema: dict[str, object], kind: str, namespace: str, place: str, depth: int
    ) -> AvroType:
        """Parse a definition. Its name is known before its fields are, which may refer to it."""
        named = AvroType(kind, name=self.define(schema, namespace, place))
        space = named.name.rpartition(".")[0]
        self.check_aliases(schema, place)
        self.names[named.name] = named
        if kind == "record":
            self.parse_fields(named, schema, space, place, depth)
        elif kind == "enum":
            self.parse_symbols(named, schema, place)
        else:
            size = schema.get("size")
            if not _is_int(size) or not 0 <= size <= FIXED_SIZE_MAX:
                raise SchemaError(
                    f'"size" must be 0 to {FIXED_SIZE_MAX}, got {show_json(size)}', place
                )
            named.size = size
            self.annotate(named, schema, place)
        return named

    def define(self, schema: dict[str, object], namespace: str, place: str) -> str:
        """Read the full name of a definition. SOURCE: Avro 1.12, "Names"."""
        name, space = schema.get("name"), schema.get("namespace")
        if not isinstance(name, str):
            raise SchemaError(f'"name" must be a string, got {show_json(name)}', place)
        if space is not None and not isinstance(space, str):
            raise SchemaError(f'"namespace" must be a string, got {show_json(space)}', place)
        if "." in name:
            full = name.removeprefix(".")
        else:
            space = namespace if space is None else space
            full = f"{space}.{name}" if space else name
        self.check_full_name(full, place)
        if full.rpartition(".")[2] in PRIMITIVES:
            raise SchemaError(f"{clip(full, 80)} has the name of a primitive type", place)
        if full in self.names:
            raise SchemaError(f"{clip(full, 80)} is defined twice", place)
        return full

    def check_full_name(self, full: str, place: str) -> None:
        """Refuse a name with a part that is no Avro name."""
        if not all(NAME.match(part) for part in full.split(".")):
            raise SchemaError(f"{show_json(full)} is no Avro name", place)

    def check_aliases(self, schema: dict[str, object], place: str) -> None:
        """Refuse aliases that are no names; a writer's schema may use them, data never does."""
        aliases = schema.get("aliases", [])
        if not isinstance(aliases, list):
            raise SchemaError(f'"aliases" must be a list, got {show_json(aliases)}', place)
        for alias in aliases:
            if not isinstance(alias, str):
                raise SchemaError(f"an alias must be a string, got {show_json(alias)}", place)
            self.check_full_name(alias.removeprefix("."), place)

    def parse_fields(
        self, record: AvroType, schema: dict[str, object], space: str, place: str, depth: int
    ) -> None:
        fields = schema.get("fields")
        if not isinstance(fields, list):
            raise SchemaError(f'"fields" must be a list, got {show_json(fields)}', place)
        for number, item in enumerate(fields):
            where = f"{place}/fields/{number}"
            if not isinstance(item, dict) or "type" not in item:
                raise SchemaError(f'a field needs "name" and "type", got {show_json(item)}', where)
            name = item.get("name")
            if not isinstance(name, str) or not NAME.match(name):
                raise SchemaError(f"{show_json(name)} is no Avro name", where)
            if name in record.by_name:
                raise SchemaError(f"the record has two fields {clip(name)}", where)
            if item.get("order", "ascending") not in ("ascending", "descending", "ignore"):
                raise SchemaError(f'"order" is {show_json(item["order"])}', where)
            self.check_aliases(item, where)
            found = self.parse(item["type"], space, f"{where}/type", depth + 1)
            record.fields.append(name)
            record.children.append(found)
            record.by_name[name] = found
            if "default" in item:
                self.defaults.append(Default(found, item["default"], f"{where}/default"))
            else:
                record.required.append(name)

    def parse_symbols(self, enum: AvroType, schema: dict[str, object], place: str) -> None:
        symbols = schema.get("symbols")
        if not isinstance(symbols, list) or not symbols:
            raise SchemaError(f'"symbols" must be a list of names, got {show_json(symbols)}', place)
        for number, symbol in enumerate(symbols):
            if not isinstance(symbol, str) or not NAME.match(symbol):
                raise SchemaError(
                    f"{show_json(symbol)} is no Avro name", f"{place}/symbols/{number}"
                )
        enum.symbols = dict.fromkeys(symbols)
        if len(set(symbols)) != len(symbols):
            raise SchemaError("the enum has a symbol twice", f"{place}/symbols")
        if "default" in schema and schema["default"] not in symbols:
            raise SchemaError(
                f"{show_json(schema['default'])} is none of the symbols", f"{place}/default"
            )

    def annotate(self, found: AvroType, schema: dict[str, object], place: str) -> AvroType:
        """Give a type its logical type.

        One that is unknown or does not fit is ignored, as the specification demands.
        """
        logical = schema.get("logicalType")
        if logical == "decimal" and found.kind in ("bytes", "fixed"):
            precision, scale = schema.get("precision"), schema.get("scale", 0)
            if not _is_int(precision) or not _is_int(scale):
                return found
            if precision < 1 or not 0 <= scale <= precision:
                return found
            digits_max = math.floor((8 * found.size - 1) * math.log10(2))
            if found.kind == "bytes" or precision <= digits_max:
                if precision > PRECISION_MAX:
                    raise SchemaError(f"precision {precision} exceeds {PRECISION_MAX}", place)
                found.logical, found.precision = "decimal", precision
        elif isinstance(logical, str) and (found.kind, logical) in ANNOTATIONS:
            found.logical = logical
        return found


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
