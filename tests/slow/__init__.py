"""Slow clients against a real gateway: how long each kind is borne, and what good clients notice.

`python -m tests.slow` starts everything, measures and prints; nothing of it runs with the tests.
"""
