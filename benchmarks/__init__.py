"""The comparison that the README quotes: the gateway, the floor in C, and its peers, in one run.

What enters: options of `python -m benchmarks`. What leaves: a table on the screen, and a results
file (JSON and Markdown) with every raw round, the machine and the versions.
Nothing in `fastgw/` imports this package, and this package reaches the gateway only as a client
would: over its command line, HTTP and the broker (`micro/` alone loads the compiled core).
It must never end a process that it did not start, nor listen beyond 127.0.0.1.
"""
