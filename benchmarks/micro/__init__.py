"""Micro benchmarks: instructions of the compiled core per request or message, without sockets.

What enters: nothing but the built extension. What leaves: counts that repeat to a fraction of a
percent on any load of the machine, compared with `baseline.json`. Stub transports stand for the
sockets here, and only here.
"""
