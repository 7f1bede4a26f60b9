"""`python -m tests.fuzz TARGET --runs N`: the fuzzer's command line.

What enters: a target, a number of inputs, folders. What leaves: progress on standard output, each
input that broke a rule as a file, status 1 when there was one. With atheris installed it is guided
by the coverage of the core (when that was built with FASTGW_BUILD=fuzz) and keeps a corpus; without
it, or with `--plain`, the seeded mutator runs. docs/fuzzing.md tells how to build.
"""

from __future__ import annotations

import argparse
import atexit
import hashlib
import importlib.util
import os
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES: Final = (
    "http", "headers", "usual", "broker", "batch", "schema", "avro", "proxy", "inflate",
)  # fmt: skip
PYTHON_MODULES: Final = ("fastgw.inflate", "fastgw.door.proxy_protocol")
PYTHON_TARGETS: Final = ("proxy", "inflate")
INPUT_BYTES_MAX: Final = 4096
CORPUS_MAX: Final = 20_000
INPUT_S_MAX: Final = 10
"""LIMIT: an input that takes longer is reported as a hang."""
RSS_MB_MAX: Final = 3000
REPORT_S: Final = 10.0
SANITIZER: Final = {
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:quarantine_size_mb=32:malloc_context_size=2",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    # WHY: Python's own allocator hides reads behind the end of an object from the sanitizer.
    "PYTHONMALLOC": "malloc",
}


class Counter:
    """Counts inputs, and says so every few seconds."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.started = self.reported = time.monotonic()

    def add(self) -> None:
        """One more input."""
        self.count += 1
        if self.count & 255 == 0 and time.monotonic() - self.reported > REPORT_S:
            self.report()

    def report(self) -> None:
        """Print the line of progress."""
        self.reported = time.monotonic()
        seconds = self.reported - self.started
        rss_mb = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20
        rate = self.count / max(seconds, 0.001)
        print(
            f"{self.name}: {self.count} inputs in {seconds:.0f} s, {rate:.0f}/s, "
            f"{rss_mb} MB resident",
            flush=True,
        )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=NAMES)
    parser.add_argument("--runs", type=int, default=100_000, help="inputs; 0 for no end")
    parser.add_argument("--seconds", type=int, default=0, help="stop after so long; 0 for never")
    parser.add_argument("--number", type=int, default=1, help="the seed of the random choices")
    parser.add_argument("--plain", action="store_true", help="without atheris")
    parser.add_argument("--kept", type=Path, default=Path("build/fuzz-kept"), help="folder")
    parser.add_argument("--repeat", type=Path, help="run this one input, and nothing else")
    return parser.parse_args()


def preload_sanitizer(*, is_plain: bool) -> None:
    """Start again with the sanitizer's runtime in front, when the core was built for it."""
    found = importlib.util.find_spec("fastgw._core")
    if found is None or found.origin is None or "FASTGW_FUZZ_PRELOADED" in os.environ:
        return
    if b"__sanitizer_cov" not in Path(found.origin).read_bytes():
        if not is_plain:
            print("the core has no coverage of its own: FASTGW_BUILD=fuzz builds one that has")
        return
    atheris = importlib.util.find_spec("atheris")
    if atheris is None or atheris.origin is None:
        sys.exit("this core was built for atheris, which is not installed")
    runtime = Path(atheris.origin).parents[1] / "asan_with_fuzzer.so"
    environment = SANITIZER | os.environ
    environment |= {"LD_PRELOAD": str(runtime), "FASTGW_FUZZ_PRELOADED": "1"}
    # WHY: the runtime must be the first library of the process, so this one is replaced.
    os.execve(  # noqa: S606 - no shell is wanted
        sys.executable, [sys.executable, "-m", "tests.fuzz", *sys.argv[1:]], environment
    )


def run_plainly(target: Callable[[bytes], None], asked: argparse.Namespace) -> int:
    """Run the seeded mutator; keep what broke a rule, and stop there."""
    from tests.fuzz import mutator, seeds

    counter = Counter(asked.target)
    latest = b""
    try:
        for data in mutator.run(
            target,
            starting_inputs(asked),
            seeds.WORDS[asked.target],
            number=asked.number,
            runs=asked.runs or sys.maxsize,
        ):
            latest = data
            counter.add()
            if asked.seconds and time.monotonic() - counter.started > asked.seconds:
                break
    except Exception:
        asked.kept.mkdir(parents=True, exist_ok=True)
        kept = asked.kept / f"{asked.target}-{hashlib.sha256(latest).hexdigest()[:16]}"
        kept.write_bytes(latest)
        print(f"{asked.target}: a rule was broken after {counter.count} inputs; kept as {kept}")
        raise
    counter.report()
    return 0


def starting_inputs(asked: argparse.Namespace) -> tuple[bytes, ...]:
    """The seeds, and what guided runs have found before."""
    from tests.fuzz import seeds

    found = sorted((asked.kept / asked.target / "corpus").glob("*"))[:CORPUS_MAX]
    return seeds.seeds(asked.target) + tuple(path.read_bytes() for path in found)


def run_guided(target: Callable[[bytes], None], asked: argparse.Namespace, atheris: Any) -> None:
    """Run libFuzzer; it ends the process itself, and keeps inputs beside the corpus."""
    from tests.fuzz import seeds

    folder = asked.kept / asked.target
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for data in seeds.seeds(asked.target):
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data[:INPUT_BYTES_MAX])
    words = folder / "words"
    words.write_text(
        "".join(
            '"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n'
            for word in seeds.WORDS[asked.target]
        )
    )
    counter = Counter(asked.target)

    def counted(data: bytes) -> None:
        counter.add()
        target(data)

    options = {
        "runs": asked.runs or -1,
        "max_total_time": asked.seconds,
        "seed": asked.number,
        "max_len": INPUT_BYTES_MAX,
        "timeout": INPUT_S_MAX,
        "rss_limit_mb": RSS_MB_MAX,
        "dict": words,
        "artifact_prefix": f"{folder}/",
        "print_final_stats": 1,
        "report_slow_units": INPUT_S_MAX,
        "reduce_inputs": 0,
        "verbosity": 0,
    }
    listed = [f"-{name}={value}" for name, value in options.items()]
    atheris.Setup([sys.argv[0], *listed, str(corpus)], counted, enable_python_coverage=False)
    atexit.register(counter.report)
    atheris.Fuzz()


def main() -> int:
    """Run what the command line asks for."""
    asked = parse_arguments()
    preload_sanitizer(is_plain=asked.plain)
    atheris: Any = None
    if not asked.plain and importlib.util.find_spec("atheris") is not None:
        atheris = importlib.import_module("atheris")
        if asked.target in PYTHON_TARGETS:
            # WHY: these readers are Python, whose coverage atheris writes into the byte code.
            with atheris.instrument_imports(
                include=["fastgw.inflate", "fastgw.door.proxy_protocol"]
            ):
                importlib.import_module("tests.fuzz.targets")
    from tests.fuzz.targets import TARGETS

    target = TARGETS[asked.target]
    if asked.repeat is not None:
        target(asked.repeat.read_bytes())
        print(f"{asked.target}: {asked.repeat} breaks no rule")
        return 0
    if atheris is None:
        return run_plainly(target, asked)
    run_guided(target, asked, atheris)
    return 0


if __name__ == "__main__":
    sys.exit(main())
