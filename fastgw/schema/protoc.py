"""From .proto text to a descriptor set: protoc in a short-lived process that sees nothing else.

What enters: the text of a schema and a `Resolve` for what it imports. What leaves: the bytes of a
FileDescriptorSet, or a SchemaError with the line. Called by `protobuf` at registration, in a thread
off the loop. The compiler gets a folder of its own with the files found beforehand and the
well-known types; it must never see another file, nor run without limits.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from fastgw.config import child_environment
from fastgw.errors import clip
from fastgw.schema.base import REASON_CHARS_MAX, Resolve, SchemaError

TEXT_BYTES_MAX: Final = 262_144
"""LIMIT: 50,000 messages take protoc 1.25 s; 256 KiB hold less than half as many."""

FILES_MAX: Final = 64
FILES_BYTES_MAX: Final = 1_048_576
"""LIMIT: a schema with all that it imports; the largest public API sets stay below it per file."""

TIME_S_MAX: Final = 10.0
CPU_S_MAX: Final = 8
MEMORY_BYTES_MAX: Final = 1 << 30
OUTPUT_BYTES_MAX: Final = 16 << 20
PATH_CHARS_MAX: Final = 255
STRINGS_MAX: Final = 16

MAIN_FILE: Final = "fastgw-registered-schema.proto"
"""The file that holds the schema's own text; an import cannot mean it by accident."""

MISSING: Final = "protobuf schemas need more packages: install fastgw[schemas]"

_BUNDLED: Final = "google/protobuf/"
_PATH: Final = re.compile(r"[A-Za-z0-9_\-][A-Za-z0-9_\-.]*(?:/[A-Za-z0-9_\-][A-Za-z0-9_\-.]*)*")
_TOKEN: Final = re.compile(
    r"//[^\n]*|/\*.*?\*/|\s+"
    r"""|(?P<text>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
    r"|(?P<word>[A-Za-z_]\w*)|(?P<mark>.)",
    re.DOTALL,
)
_COMPLAINT: Final = re.compile(r"(?m)^([^\s:]+\.proto):(?:(\d+):(\d+): )?\s*(.+)$")


def compile_text(text: str, resolve: Resolve) -> bytes:
    """Compile .proto text with what it imports; takes about 30 ms in a process of its own.

    Returns:
        The serialised FileDescriptorSet; its last file is the schema's own.

    Raises:
        SchemaError: the text does not compile, is too large, or imports what is not registered.
    """
    bundled = _find_bundled()
    files = collect_files(text, resolve, bundled)
    with tempfile.TemporaryDirectory(prefix="fastgw-protoc-") as name:
        folder = Path(name)
        for path, content in files.items():
            file = folder / "in" / path
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(content, encoding="utf-8", newline="")
            except (OSError, UnicodeError) as error:
                what = "the schema" if path == MAIN_FILE else f"import {clip(path)!r}"
                raise SchemaError(f"{what} cannot be written as a UTF-8 file") from error
        return _run(folder, bundled)


def collect_files(text: str, resolve: Resolve, bundled: Path) -> dict[str, str]:
    """Find the schema's file and all that it imports, by import path, without compiling."""
    _check_size(text, "the schema")
    files = {MAIN_FILE: text}
    waiting = [(MAIN_FILE, text)]
    bytes_count = len(text)
    while waiting:
        importer, content = waiting.pop()
        for path in find_imports(content):
            if path in files:
                continue
            place = "" if importer == MAIN_FILE else importer
            _check_path(path, place)
            if path.startswith(_BUNDLED) and (bundled / path).is_file():
                continue
            found = resolve(path)
            if found is None:
                raise SchemaError(f"import {clip(path)!r} is no registered schema", place)
            _check_size(found, f"import {clip(path)!r}")
            bytes_count += len(found)
            if len(files) >= FILES_MAX or bytes_count > FILES_BYTES_MAX:
                raise SchemaError(
                    f"imports exceed {FILES_MAX} files or {FILES_BYTES_MAX} bytes", place
                )
            files[path] = found
            waiting.append((path, found))
    return files


def find_imports(text: str) -> list[str]:
    """List the paths that a .proto text imports, in order; other statements are not read.

    What is missed here is only not found by protoc, which sees no file that was not listed.
    """
    found: list[str] = []
    statement: list[str] = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup
        if kind is None:
            continue
        value = match[0]
        if kind == "mark" and value in ";{}":
            if value == ";" and statement[:1] == ["import"]:
                found.append("".join(each[1:-1] for each in statement if each[0] in "\"'"))
            statement = []
        elif len(statement) < STRINGS_MAX:
            # WHY: neighbouring strings are one string, as in C.
            statement.append(value)
    return found


def _check_size(text: str, what: str) -> None:
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > TEXT_BYTES_MAX:
        raise SchemaError(f"{what} of {size} bytes exceeds {TEXT_BYTES_MAX}")
    if "\0" in text or not text.strip():
        raise SchemaError(f"{what} is empty or holds a zero byte")


def _check_path(path: str, place: str) -> None:
    if len(path) > PATH_CHARS_MAX or not _PATH.fullmatch(path):
        raise SchemaError(
            f"import {clip(path)!r} is refused: expected a plain relative path such as a/b.proto",
            place,
        )


def _find_bundled() -> Path:
    spec = importlib.util.find_spec("grpc_tools")
    if spec is None or not spec.submodule_search_locations:
        raise SchemaError(MISSING)
    return Path(spec.submodule_search_locations[0]) / "_proto"


def _run(folder: Path, bundled: Path) -> bytes:
    output = folder / "set"
    child = Path(__file__).with_name("protoc_child.py")
    argv = [sys.executable, "-P", str(child)]
    argv += [str(CPU_S_MAX), str(MEMORY_BYTES_MAX), str(OUTPUT_BYTES_MAX)]
    argv += [f"-I{folder / 'in'}", f"-I{bundled}", "--include_imports"]
    argv += [f"--descriptor_set_out={output}", MAIN_FILE]
    try:
        done = subprocess.run(
            argv,
            env=child_environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=TIME_S_MAX,
            check=False,
            cwd=folder,
        )
    except subprocess.TimeoutExpired as error:
        raise SchemaError(f"compiling took more than {TIME_S_MAX:.0f} s") from error
    complaints = done.stderr.decode("utf-8", "replace")
    if done.returncode < 0:
        raise SchemaError(
            f"the compiler was ended by signal {-done.returncode}: the schema is too costly"
        )
    if done.returncode or not output.is_file():
        raise _read_complaint(complaints.replace(f"{folder / 'in'}/", ""))
    return output.read_bytes()


def _read_complaint(complaints: str) -> SchemaError:
    """Pick the first complaint that is not a warning, and where it is."""
    for match in _COMPLAINT.finditer(complaints):
        file, line, column, reason = match.groups()
        if reason.startswith("warning:"):
            continue
        place = f"line {line}, column {column}" if line else ""
        if file != MAIN_FILE:
            place = f"{file} {place}".strip()
        return SchemaError(clip(reason.replace(MAIN_FILE, "the schema"), REASON_CHARS_MAX), place)
    last = complaints.strip().splitlines()[-1:] or ["protoc gave no reason"]
    return SchemaError(clip(last[0], REASON_CHARS_MAX))
