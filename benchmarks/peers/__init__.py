"""The peers: the same work as the gateway's, on other servers, with nats-py, each at its best.

All check a JWT (a dict of verified tokens in front of PyJWT), forward request headers where the
station says so, split batches without re-serialising, and answer after every PubAck. The answer
itself is leaner than the gateway's: no CORS headers, no sequence, no date.
"""
