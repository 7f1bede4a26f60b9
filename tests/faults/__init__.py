"""Faults with real processes and real signals, and the audit of what became of each request.

`python -m tests.faults` runs everything; a short form of it runs with the tests.
"""
