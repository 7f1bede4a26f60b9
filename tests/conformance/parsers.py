"""The suites of two parsers, played to a server: gunicorn's tests/requests, llhttp's test/request.

What enters: their files, which are read and never run. What leaves: `ParserCase`s.
Called by `__main__`. Both suites test parsers, which do not ask for Host: where a case of HTTP/1.1
has none, one is added, so that what the case is about is what is judged.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Ending = Literal["served", "refused", "cut", "any"]
"""What comes behind the served requests: nothing, a refusal, a message without its end, or what the
server likes."""

HOST_LINE: Final = b"Host: corpus.test\r\n"


@dataclass(frozen=True, slots=True)
class Read:
    """One request as the parser must read it."""

    method: str
    target: str
    body: bytes


@dataclass(frozen=True, slots=True)
class ParserCase:
    """One case of a parser's suite.

    Args:
        name: file, and heading where a file has several.
        raw: the bytes.
        reads: what is read until the end.
        ending: what is behind them.
        skip: why the case says nothing about a server, else "".
    """

    name: str
    raw: bytes
    reads: tuple[Read, ...] = ()
    ending: Ending = "served"
    skip: str = ""


def with_host(raw: bytes) -> bytes:
    """Add a Host to each request of HTTP/1.1, when none has one; bodies stay as they are."""
    if re.search(rb"\nhost[ \t]*:", raw, re.IGNORECASE):
        return raw
    head, blank, rest = raw.partition(b"\r\n\r\n")
    head = re.sub(rb"( HTTP/1\.1\r?\n)", rb"\1" + HOST_LINE, head + b"\r\n", count=1)[:-2]
    if not blank or b"transfer-encoding" in head.lower():
        behind = re.compile(rb"(\r\n\r\n[A-Z-]+ \S+ HTTP/1\.1\r\n)")
        return head + behind.sub(rb"\1" + HOST_LINE, blank + rest)
    found = re.search(rb"\ncontent-length:[ \t]*(\d{1,6})[ \t]*(\r|$)", head, re.IGNORECASE)
    size = int(found[1]) if found else 0
    return head + blank + rest[:size] + (with_host(rest[size:]) if rest[size:] else b"")


# --- gunicorn ------------------------------------------------------------------------------------


def read_gunicorn(folder: Path) -> Iterator[ParserCase]:
    """Read `valid/*.http` and `invalid/*.http` with the expectations beside them."""
    for path in sorted(folder.glob("*/*.http")):
        name = f"{path.parent.name}/{path.stem}"
        raw = with_host(_decode_gunicorn(path.read_bytes()))
        names, settings = _read_assignments(path.with_suffix(".py"))
        if settings:
            yield ParserCase(name, raw, skip=f"needs gunicorn's {', '.join(settings)}")
        elif path.parent.name == "valid":
            found = names["request"]
            yield ParserCase(name, raw, tuple(found) if isinstance(found, list) else ())
        else:
            is_cut = names["request"] == "NoMoreData"
            yield ParserCase(name, raw, ending="cut" if is_cut else "refused")


def _decode_gunicorn(text: bytes) -> bytes:
    r"""Line ends of the file mean nothing; \r\n, \n, \t, \0 and \xHH are written out."""
    words = {rb"\r": b"\r", rb"\n": b"\n", rb"\t": b"\t", rb"\0": b"\0"}

    def decode(match: re.Match[bytes]) -> bytes:
        found = match[0]
        return words[found] if found in words else bytes([int(found[2:], 16)])

    return re.sub(rb"\\x[0-9a-fA-F]{2}|\\[rnt0]", decode, text.replace(b"\n", b""))


def _read_assignments(path: Path) -> tuple[dict[str, object], list[str]]:
    """Read what a file assigns, and the settings that it wants; nothing of it runs."""
    names: dict[str, object] = {}
    settings: list[str] = []
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = _evaluate(node.value, names)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            settings.append(str(ast.literal_eval(node.value.args[0])))
    return names, settings


def _evaluate(node: ast.expr, names: dict[str, object]) -> object:
    """Evaluate a dict of a request (to a list of one), a name, or a list of names."""
    if isinstance(node, ast.Dict):
        fields = {
            ast.literal_eval(key): value
            for key, value in zip(node.keys, node.values, strict=True)
            if key is not None
        }
        uri = fields["uri"]
        assert isinstance(uri, ast.Call)
        target = ast.literal_eval(uri.args[0])
        method = ast.literal_eval(fields["method"])
        body = _evaluate_body(fields["body"])
        return [Read(method, target, body)]
    if isinstance(node, ast.List):
        parts = [_evaluate(element, names) for element in node.elts]
        return [read for part in parts if isinstance(part, list) for read in part]
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    return None


def _evaluate_body(node: ast.expr) -> bytes:
    """Evaluate a literal, or one with str or bytes methods that replace, encode or decode."""
    return found if isinstance(found := _evaluate_text(node), bytes) else b""


def _evaluate_text(node: ast.expr) -> str | bytes:
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Attribute)
        arguments = [ast.literal_eval(argument) for argument in node.args]
        text = _evaluate_text(node.func.value)
        assert node.func.attr in ("replace", "encode", "decode"), ast.unparse(node)
        changed = getattr(text, node.func.attr)(*arguments)
        assert isinstance(changed, (str, bytes))
        return changed
    found = ast.literal_eval(node)
    assert isinstance(found, (str, bytes))
    return found


# --- llhttp --------------------------------------------------------------------------------------

_BLOCK: Final = re.compile(
    r"<!--\s*meta=(?P<meta>\{.*?\})\s*-->\s*```http\n(?P<input>(?:(?!```).)*)```"
    r"(?:(?!```).)*```log\n(?P<log>(?:(?!```).)*)```",
    re.DOTALL,
)
_SPAN: Final = re.compile(r'span\[(method|url|body)\]=(?:"(.*)"|(\w+))$')
_ERROR: Final = re.compile(r"error code=(\d+)")
_AFTER_CLOSE: Final = 5
_UPGRADES: Final = (22, 23)
_WORDS: Final = {"lf": "\n", "cr": "\r", "tab": "\t"}


def read_llhttp(folder: Path) -> Iterator[ParserCase]:
    """Read the cases of `test/request/*.md` of a checkout."""
    for path in sorted((folder / "test" / "request").glob("*.md")):
        text = path.read_text("utf-8")
        for match in _BLOCK.finditer(text):
            heading = text.rfind("\n#", 0, match.start())
            title = text[heading + 1 : text.index("\n", heading + 1)].strip("# ")
            line = text.count("\n", 0, match.start()) + 1
            yield _read_llhttp_case(f"{path.stem}:{line} {title}", match)


def _read_llhttp_case(name: str, match: re.Match[str]) -> ParserCase:
    kind = re.search(r'"type":\s*"([\w-]+)"', match["meta"])
    if kind is None or kind[1] not in ("request", "request-finish"):
        return ParserCase(name, b"", skip="lenient modes of llhttp, which a server need not have")
    if "pause" in match["meta"] or "skipBody" in match["meta"]:
        return ParserCase(name, b"", skip="llhttp's own interface")
    raw = with_host(_decode_llhttp(match["input"]))
    reads, ending = _read_log(match["log"])
    return ParserCase(name, raw, tuple(reads), ending)


def _decode_llhttp(text: str) -> bytes:
    """Turn the text of a case into its bytes, as the suite's README tells."""
    text = text.removesuffix("\n")
    text = re.sub(r"\\\n", "", text).replace("\n", "\r\n")
    for escape, what in ((r"\r", "\r"), (r"\n", "\n"), (r"\t", "\t"), (r"\f", "\f")):
        text = text.replace(escape, what)
    text = re.sub(r"\\x([0-9a-fA-F]+)", lambda m: chr(int(m[1], 16)), text)
    text = re.sub(r"\\([0-7]{1,3})", lambda m: chr(int(m[1], 8)), text)
    return text.encode("utf-8")


def _read_log(log: str) -> tuple[list[Read], Ending]:
    reads: list[Read] = []
    parts = {"method": "", "url": "", "body": ""}
    is_open = False
    for line in log.splitlines():
        if line.endswith("message begin"):
            parts = dict.fromkeys(parts, "")
            is_open = True
        elif span := _SPAN.search(line):
            parts[span[1]] += span[2] if span[3] is None else _WORDS.get(span[3], "")
        elif line.endswith("message complete"):
            reads.append(Read(parts["method"], parts["url"], parts["body"].encode("latin-1")))
            is_open = False
        elif error := _ERROR.search(line):
            code = int(error[1])
            if code == _AFTER_CLOSE:
                return reads, "served"
            return reads, "any" if code in _UPGRADES else "refused"
    return reads, "cut" if is_open else "served"
