"""The way to the broker: who we are there, how we reach it, and the broker as our own child.

`connection.py` opens the two connections of a worker, `embedded.py` runs nats-server.
Nothing here knows HTTP, stations or users; it must never show a secret in a text or a log line.
"""
