"""The child process that runs protoc: limits on itself first, then the compiler, then the end.

What enters: the limits and protoc's arguments, on the command line. What leaves: a descriptor set
in the file that the arguments name, messages on stderr, protoc's exit code.
`protoc` starts it by its path, so it must never import a module of the project: `fastgw.schema`
holds names such as `json`, and a short life is all that it has.
"""

from __future__ import annotations

import contextlib
import resource
import sys


def limit_self(cpu_s: int, memory_bytes: int, file_bytes: int) -> None:
    """Bound processor time, address space and file size of this process."""
    limits = (
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_CORE, 0),
    )
    for kind, most in limits:
        # WHY: a system that lacks a limit, or has a lower one, still has the parent's time limit.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (most, most))


def main(arguments: list[str]) -> int:
    """Run protoc with `arguments[3:]` under the limits in `arguments[:3]`."""
    limit_self(*map(int, arguments[:3]))
    from grpc_tools import _protoc_compiler

    return int(_protoc_compiler.run_main([b"protoc", *map(str.encode, arguments[3:])]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
