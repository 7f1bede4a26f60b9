"""fastgw: HTTP in, stored in NATS JetStream, answered.

The way of a message is told in `docs/walk.md`; the assembly is `fastgw.gateway`.
"""

__version__ = "0.1.0"
