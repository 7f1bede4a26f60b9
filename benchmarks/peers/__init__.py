"""The peers: the same work as the gateway's, on other servers, each at its best.

All check a JWT (verified tokens are found in a map), forward request headers where the station says
so, split batches without re-serialising, and answer after every PubAck. The answer itself is leaner
than the gateway's: no CORS headers, no sequence, no date. The Python ones publish with nats-py; the
Go one (`go/`) is fasthttp with nats.go, the Rust one (`rust/`) hyper with async-nats on one thread.
Their other configurations were dearer: net/http, nats.go's publishing with one request at a time,
and tokio's scheduler for several threads.
"""
