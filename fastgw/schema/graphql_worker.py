"""The process that parses and validates GraphQL: slow work on hostile texts, away from the loop.

What enters: length-prefixed JSON jobs on stdin. What leaves: one length-prefixed JSON answer per
job on stdout. `graphql_pool` starts it by its path, so it must never import a module of the
project: `fastgw.schema` holds names such as `json`. It dies with its parent, at the end of stdin,
and, by an alarm, some time after the parent should have killed it.

Jobs: `{"do": "compile", "sdl": ...}` -> `{"error": reason | null, "place": ...}`;
`{"do": "load", "schema": key, "sdl": ...}` -> `{}`; `{"do": "judge", "schema": key, "query": ...,
"operation": text | null, "variables": JSON text | null}` -> `{"unknown": true}` when the schema
must be loaded first, else `{"reason": text | null, "kinds": variables' types | null}`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import struct
import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, BinaryIO, Final

if TYPE_CHECKING:
    from graphql import DocumentNode, GraphQLSchema, OperationDefinitionNode

TOKENS_MAX: Final = 2_000
COMMENTS_MAX: Final = 200
SOURCE_CHARS_MAX: Final = 65_536
SDL_TOKENS_MAX: Final = 60_000
ERRORS_MAX: Final = 1
"""WHY: one reason is told; more errors would only cost time."""

SCHEMAS_MAX: Final = 64
"""LIMIT: built schemas kept, about 1 MiB each; the parent sends the text of others again."""

DESCRIBED_MAX: Final = 1_000
DESCRIBED_DEPTH_MAX: Final = 8
"""LIMIT: what the parent builds a decoder for; the worker coerces larger ones itself."""

MEMORY_BYTES_MAX: Final = 1 << 30
FRAME_BYTES_MAX: Final = 32 << 20

Answer = dict[str, Any]


class Judge:
    """Holds the built schemas and does the jobs."""

    def __init__(self) -> None:
        self._schemas: OrderedDict[str, GraphQLSchema] = OrderedDict()

    def do(self, job: Answer) -> Answer:
        """Do one job; never raises for what a job's texts hold."""
        if job["do"] == "compile":
            return compile_sdl(job["sdl"])
        if job["do"] == "load":
            return self.load(job["schema"], job["sdl"])
        schema = self._schemas.get(job["schema"])
        if schema is None:
            return {"unknown": True}
        self._schemas.move_to_end(job["schema"])
        return judge(schema, job["query"], job["operation"], job["variables"])

    def load(self, key: str, sdl: str) -> Answer:
        """Build a schema that was compiled before, and forget the one unused for longest."""
        from graphql import build_schema

        self._schemas[key] = build_schema(sdl, assume_valid_sdl=True)
        if len(self._schemas) > SCHEMAS_MAX:
            self._schemas.popitem(last=False)
        return {}


def compile_sdl(sdl: str) -> Answer:
    """Build a schema once, to see whether it can be."""
    from graphql import GraphQLError, build_ast_schema, parse, validate_schema
    from graphql.validation.validate import validate_sdl

    try:
        document = parse(sdl, max_tokens=SDL_TOKENS_MAX, max_comments=SDL_TOKENS_MAX)
        errors = validate_sdl(document)
        if not errors:
            errors = validate_schema(build_ast_schema(document, assume_valid_sdl=True))
    except GraphQLError as error:
        errors = [error]
    except RecursionError:
        return {"error": "nested too deeply", "place": ""}
    except (TypeError, ValueError) as error:
        return {"error": str(error), "place": ""}
    if errors:
        return {"error": errors[0].message, "place": find_place(errors[0])}
    return {"error": None, "place": ""}


def judge(
    schema: GraphQLSchema, query: str, operation: str | None, variables: str | None
) -> Answer:
    """Validate a document, and the variables for its operation when there are any to judge."""
    from graphql import GraphQLError, parse, validate

    try:
        document = parse(
            query,
            max_tokens=TOKENS_MAX,
            max_lexical_tokens=TOKENS_MAX,
            max_comments=COMMENTS_MAX,
            max_source_length=SOURCE_CHARS_MAX,
            allow_empty_selection_sets=False,
        )
        errors = validate(schema, document, max_errors=ERRORS_MAX, allow_empty_selection_sets=False)
        if errors:
            return refuse(tell(errors[0]))
        return judge_variables(schema, document, operation, variables)
    except GraphQLError as error:
        return refuse(tell(error))
    except RecursionError:
        return refuse("nested too deeply")


def judge_variables(
    schema: GraphQLSchema, document: DocumentNode, name: str | None, variables: str | None
) -> Answer:
    """Coerce the variables of the operation that `name`, or the document alone, tells.

    A bare document (`variables` is None) is judged without: who runs it will bring them.
    """
    from graphql import OperationDefinitionNode
    from graphql.execution.values import get_variable_values

    operations = [
        each for each in document.definitions if isinstance(each, OperationDefinitionNode)
    ]
    if not operations:
        return refuse("the document holds no operation")
    if variables is None:
        return {"reason": None, "kinds": []}
    if name is not None:
        operations = [each for each in operations if each.name and each.name.value == name]
        if not operations:
            return refuse("operationName names no operation of the document")
    elif len(operations) > 1:
        return refuse(f"the document holds {len(operations)} operations: expected operationName")
    definitions = operations[0].variable_definitions
    if not definitions:
        return {"reason": None, "kinds": []}
    try:
        inputs = json.loads(variables, parse_int=read_int)
    except (ValueError, RecursionError):
        return refuse("variables: not JSON, or nested too deeply")
    if not isinstance(inputs, dict):
        return refuse("variables: expected an object")
    result = get_variable_values(schema, definitions, inputs, max_errors=ERRORS_MAX)
    if isinstance(result, list):
        return refuse(tell(result[0]))
    return {"reason": None, "kinds": describe_variables(operations[0], schema)}


def describe_variables(operation: OperationDefinitionNode, schema: GraphQLSchema) -> Any:
    """Describe the types as `graphql_variables` reads them; None when that cannot be."""
    from graphql.utilities import type_from_ast

    budget = [DESCRIBED_MAX]
    try:
        return [
            [
                definition.variable.name.value,
                describe_type(type_from_ast(schema, definition.type), budget, 0),
                definition.default_value is not None,
            ]
            for definition in operation.variable_definitions or ()
        ]
    except ValueError:
        return None


def describe_type(kind: Any, budget: list[int], depth: int) -> Any:
    """Describe one input type. Raises ValueError for one that is recursive, large or one-of."""
    import graphql

    budget[0] -= 1
    if budget[0] < 0 or depth > DESCRIBED_DEPTH_MAX:
        raise ValueError("too large to describe")
    if graphql.is_non_null_type(kind):
        return ["!", describe_type(kind.of_type, budget, depth)]
    if graphql.is_list_type(kind):
        return ["[]", describe_type(kind.of_type, budget, depth + 1)]
    if graphql.is_scalar_type(kind):
        return kind.name if graphql.is_specified_scalar_type(kind) else "*"
    if graphql.is_enum_type(kind):
        budget[0] -= len(kind.values)
        return {"enum": list(kind.values)}
    if not graphql.is_input_object_type(kind) or kind.is_one_of:
        raise ValueError("not to be described")
    fields = []
    for name, field in kind.fields.items():
        has_default = not graphql.is_required_input_field(field)
        fields.append([name, describe_type(field.type, budget, depth + 1), has_default])
    return {"input": fields}


def read_int(digits: str) -> int | float:
    """Read a number of JSON; Python reads at most 4,300 digits, and GraphQL far fewer."""
    return int(digits) if len(digits) <= 4_000 else float("inf")


def refuse(reason: str) -> Answer:
    """Build the answer of a refusal."""
    return {"reason": reason, "kinds": None}


def tell(error: Any) -> str:
    """Write one error with its place; the parent clips it."""
    place = find_place(error)
    return f"{place}: {error.message}" if place else str(error.message)


def find_place(error: Any) -> str:
    """Return `line 1, column 9`, or nothing."""
    for location in error.locations or ():
        return f"line {location.line}, column {location.column}"
    return ""


def die_with_parent(parent: int) -> None:
    """Ask Linux for SIGKILL when the parent dies; elsewhere the end of stdin must do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)
        # DANGER: the parent may have died before prctl; then no signal will ever come.
        if os.getppid() != parent:
            os._exit(1)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class TimeUp(BaseException):
    """A job has used its processor time; no library may catch it."""


def on_time_up(number: int, frame: object) -> None:
    """End the job that runs."""
    raise TimeUp


def do_in_time(judging: Judge, job: Answer, cpu_s: float) -> Answer:
    """Do a job; a document that takes more than `cpu_s` of processor time is refused."""
    if job["do"] != "judge":
        return judging.do(job)
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s)
    try:
        return judging.do(job)
    except TimeUp:
        return refuse(f"validating takes more than {cpu_s:g} s of processor time")
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def serve(source: BinaryIO, sink: BinaryIO, cpu_s: float, alarm_s: float) -> None:
    """Answer jobs until `source` ends."""
    judging = Judge()
    while len(head := source.read(4)) == 4:
        (size,) = struct.unpack("<I", head)
        if size > FRAME_BYTES_MAX:
            return
        job = json.loads(source.read(size))
        # WHY: a parent that hangs or was replaced cannot kill us in time.
        signal.setitimer(signal.ITIMER_REAL, alarm_s)
        answer = json.dumps(do_in_time(judging, job, cpu_s)).encode()
        signal.setitimer(signal.ITIMER_REAL, 0)
        sink.write(struct.pack("<I", len(answer)) + answer)
        sink.flush()


def main(arguments: list[str]) -> int:
    """Serve on stdin and stdout.

    Arguments: the parent's process id, a document's processor time and a job's time, in seconds.
    """
    signal.signal(signal.SIGVTALRM, on_time_up)
    die_with_parent(int(arguments[0]))
    try:
        import graphql  # noqa: F401 - its import takes longer than a job may
    except ImportError:
        return 3
    sys.stdout.buffer.write(struct.pack("<I", 2) + b"{}")
    sys.stdout.buffer.flush()
    serve(sys.stdin.buffer, sys.stdout.buffer, float(arguments[1]), float(arguments[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
