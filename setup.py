"""Build of the one extension, `fastgw._core`, in one of five flavours.

`FASTGW_BUILD` picks the flavour: `release` (default), `debug` (assertions, symbols), `trace` (line
coverage of the parts), `asan` (AddressSanitizer and UBSAN) or `fuzz` (the same with what a guided
fuzzer counts; needs clang). Everything else is in pyproject.toml.
"""

import os

from Cython.Build import cythonize
from setuptools import Extension, setup

FLAVOUR = os.environ.get("FASTGW_BUILD", "release")
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
FLAGS = {
    # WHY: -O3 was measured slower than -O2, and link-time optimisation changed nothing.
    "release": (["-O2", "-g0"], []),
    "debug": (["-O0", "-g3", "-UNDEBUG"], []),
    "trace": (["-O1", "-g0"], []),
    "asan": (["-O1", "-g", "-fno-omit-frame-pointer", *SANITIZERS], SANITIZERS),
    "fuzz": (
        ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=fuzzer-no-link", *SANITIZERS],
        SANITIZERS,
    ),
}
if FLAVOUR not in FLAGS:
    raise SystemExit(f"FASTGW_BUILD is {FLAVOUR!r}; it must be one of {', '.join(FLAGS)}")

compile_args, link_args = FLAGS[FLAVOUR]
tracing = FLAVOUR == "trace"
macros = [("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")] if tracing else []

extension = Extension(
    "fastgw._core",
    ["fastgw/_core.pyx"],
    extra_compile_args=[*compile_args, "-Wno-unused-function"],
    extra_link_args=link_args,
    define_macros=macros,
)
directives = {
    "language_level": "3",
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "linetrace": tracing,
}
setup(
    ext_modules=cythonize(
        [extension],
        compiler_directives=directives,
        # WHY: each flavour keeps its generated C apart, so that a switch never links stale code.
        build_dir=f"build/cython-{FLAVOUR}",
        annotate=FLAVOUR == "debug",
        force=True,
    )
)
