"""`python -m tests.suites.json_schema [--suite DIR]`: the official JSON-Schema-Test-Suite.

What enters: a checkout of the suite, or the source package of `jsonschema`, which carries one and
which pip finds. What leaves: scores per draft (required, optional, format) of ours, and of
jsonschema and fastjsonschema where they are installed; exit code 1 when ours fails a test.
It must never fetch what a schema refers to: the suite's own remotes are the registered schemas.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from fastgw.schema.base import SchemaError
from fastgw.schema.json import JsonValidator, compile_authority, compile_json
from fastgw.schema.json_fast import compile_fast
from fastgw.schema.json_guard import read_documents

DRAFTS: Final = {
    "draft4": "http://json-schema.org/draft-04/schema#",
    "draft6": "http://json-schema.org/draft-06/schema#",
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}
PARTS: Final = ("required", "optional", "format")
Judge = Callable[[bytes], bool]
Maker = Callable[[Any, str, bool | None, dict[str, str]], Judge]


def find_suite(named: str | None, scratch: Path) -> Path | None:
    """Find a folder with `tests` and `remotes`; None when there is none."""
    if named:
        folder = Path(named)
        return folder if (folder / "tests" / "draft7").is_dir() else None
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    argv += ["--no-deps", "--no-binary", "jsonschema", "--dest", str(scratch), "jsonschema"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    archives = sorted(scratch.glob("jsonschema-*.tar.gz"))
    if done.returncode or not archives:
        return None
    with tarfile.open(archives[-1]) as archive:
        # WHY by attribute: the argument `filter` came with 3.11.4 only.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        archive.extractall(scratch)  # noqa: S202 - filtered, see above
    found = list(scratch.glob("jsonschema-*/json/tests/draft7"))
    return found[0].parents[1] if found else None


def read_remotes(suite: Path) -> dict[str, str]:
    """Read the schemas that the tests refer to, by URI."""
    folder = suite / "remotes"
    return {
        f"http://localhost:1234/{path.relative_to(folder).as_posix()}": path.read_text("utf-8")
        for path in folder.rglob("*.json")
    }


def list_groups(suite: Path, draft: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """List the groups of a draft: its part, its file's name, the group."""
    folder = suite / "tests" / draft
    for path in sorted(folder.rglob("*.json")):
        steps = path.relative_to(folder).parts
        part = "required" if steps[0] != "optional" else "optional"
        if steps[:2] == ("optional", "format"):
            part = "format"
        for group in msgspec.json.decode(path.read_bytes()):
            yield part, "/".join(steps), group


def _own_home(schema: Any, draft: str) -> Any:
    """Name the draft where the schema does not, as the suite's folder does."""
    if isinstance(schema, dict) and "$schema" not in schema:
        return {"$schema": DRAFTS[draft], **schema}
    return schema


def make_ours(schema: Any, draft: str, formats: bool | None, remotes: dict[str, str]) -> Judge:
    """Make fastgw's validator. The suite asserts formats in its format tests only."""
    text = msgspec.json.encode(_own_home(schema, draft)).decode()
    validator = compile_json(text, resolve=remotes.get)
    documents = read_documents(text, remotes.get)
    authority = compile_authority(documents, validate_formats=formats)
    fast = compile_fast(documents, formats_asserted=bool(formats)) if validator.accepts else None
    judge = JsonValidator(authority, fast, documents, validator.draft)
    if fast is not None:
        FAST["schemas"] += 1

    def judge_both(body: bytes) -> bool:
        verdict = judge.judge(body) is None
        if fast is not None and fast.is_surely_good(body):
            FAST["accepted"] += 1
            FAST["unsound"] += not verdict
        return judge.check(body, None) is None

    return judge_both


FAST: Final[Counter[str]] = Counter()


def make_jsonschema(
    schema: Any, draft: str, formats: bool | None, remotes: dict[str, str]
) -> Judge:
    """Make jsonschema's validator."""
    import jsonschema
    import referencing
    import referencing.jsonschema

    kind = jsonschema.validators.validator_for({"$schema": DRAFTS[draft]})
    default = referencing.jsonschema.specification_with(DRAFTS[draft])
    registry: Any = referencing.Registry().with_resources(
        (uri, referencing.Resource.from_contents(json.loads(text), default_specification=default))
        for uri, text in remotes.items()
    )
    checker = kind.FORMAT_CHECKER if formats else None
    validator = kind(schema, registry=registry, format_checker=checker)
    return lambda body: bool(validator.is_valid(json.loads(body)))


def make_fastjsonschema(
    schema: Any, draft: str, formats: bool | None, remotes: dict[str, str]
) -> Judge:
    """Make fastjsonschema's validator. Its handlers stand in for the network."""
    import fastjsonschema

    def find(uri: str) -> Any:
        return json.loads(remotes[uri.partition("#")[0]])

    handlers = {"http": find, "https": find, "file": find}
    named = _own_home(schema, draft)
    validate = fastjsonschema.compile(named, handlers=handlers, use_formats=bool(formats))

    def judge(body: bytes) -> bool:
        try:
            validate(json.loads(body))
        except fastjsonschema.JsonSchemaValueException:
            return False
        return True

    return judge


def score(suite: Path, make: Maker, *, show: bool) -> dict[tuple[str, str], tuple[int, int]]:
    """Run the whole suite through one library: (draft, part) -> passed, of."""
    remotes = read_remotes(suite)
    scores: dict[tuple[str, str], tuple[int, int]] = {}
    for draft in DRAFTS:
        for part, name, group in list_groups(suite, draft):
            # WHY: these tests are about schemas that themselves say whether formats are rules.
            formats = None if name.endswith("format-assertion.json") else part == "format"
            verdicts = judge_group(make, group, draft, formats, remotes)
            for test, verdict in zip(group["tests"], verdicts, strict=True):
                passed, count = scores.get((draft, part), (0, 0))
                good = verdict == test["valid"]
                scores[draft, part] = (passed + good, count + 1)
                if show and not good:
                    where = f"{draft} {name}: {group['description']}: {test['description']}"
                    print(f"  failed: {where}: {verdict}")
    return scores


def judge_group(
    make: Maker, group: dict[str, Any], draft: str, formats: bool | None, remotes: dict[str, str]
) -> list[bool | str]:
    """Judge the documents of one group; a library that raises has no verdict."""
    try:
        judge = make(group["schema"], draft, formats, remotes)
    except SchemaError as exc:
        return [str(exc)] * len(group["tests"])
    except Exception as exc:  # noqa: BLE001 - whatever a library raises is its score
        return [repr(exc)[:80]] * len(group["tests"])
    verdicts: list[bool | str] = []
    for test in group["tests"]:
        try:
            verdicts.append(judge(msgspec.json.encode(test["data"])))
        except Exception as exc:  # noqa: BLE001 - whatever a library raises is its score
            verdicts.append(repr(exc)[:80])
    return verdicts


def show_scores(name: str, scores: dict[tuple[str, str], tuple[int, int]]) -> int:
    """Print one library's scores. Returns how many tests it failed."""
    totals = Counter[tuple[str, int]]()
    print(f"\n{name:14}{'required':>16}{'optional':>16}{'format':>16}")
    for draft in DRAFTS:
        cells = [scores.get((draft, part), (0, 0)) for part in PARTS]
        for part, cell in zip(PARTS, cells, strict=True):
            totals[part, 0] += cell[0]
            totals[part, 1] += cell[1]
        print(f"{draft:14}" + "".join(f"{f'{a} of {b}':>16}" for a, b in cells))
    sums = [(totals[part, 0], totals[part, 1]) for part in PARTS]
    print(f"{'all':14}" + "".join(f"{f'{a} of {b}':>16}" for a, b in sums))
    return sum(b - a for a, b in sums)


def main() -> int:
    """Run the suite and print the scores."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--suite", help="a checkout of JSON-Schema-Test-Suite")
    named = parser.parse_args().suite
    with tempfile.TemporaryDirectory() as scratch:
        suite = find_suite(named, Path(scratch))
        if suite is None:
            print("skipped: no JSON-Schema-Test-Suite; name a checkout with --suite DIR")
            return 2 if named else 0
        print(f"JSON-Schema-Test-Suite of {suite.relative_to(scratch) if not named else suite}")
        failed = show_scores("fastgw", score(suite, make_ours, show=True))
        print("fast path:", ", ".join(f"{count} {what}" for what, count in FAST.items()))
        for name, make in (
            ("jsonschema", make_jsonschema),
            ("fastjsonschema", make_fastjsonschema),
        ):
            try:
                __import__(name)
            except ImportError:
                print(f"\n{name}: not installed")
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                show_scores(name, score(suite, make, show=False))
    return 1 if failed or FAST["unsound"] else 0


if __name__ == "__main__":
    sys.exit(main())
