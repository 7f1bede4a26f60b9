"""Fuzzing: arbitrary bytes into every reader of the gateway, checked against plain rules.

What enters: bytes, from a coverage-guided fuzzer or from the seeded mutator here. What leaves:
nothing, or an exception that names the rule that was broken. `python -m tests.fuzz` runs it,
`tests/unit/test_fuzz_targets.py` runs a short part of it with the other tests; docs/fuzzing.md.
"""
