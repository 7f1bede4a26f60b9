"""Conformance of the HTTP side: our corpus and the public suites, against fastgw and its peers.

`python -m tests.conformance` runs them; docs/conformance.md has the table and the differences.
"""
