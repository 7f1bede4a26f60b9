"""Lines of a head by the way they go: read where they stand, or by the parser.

What leaves: tables for tests/property/test_http_usual.py. A line that stands here is of one way; a
usual one may still be refused for what it says.
"""

from __future__ import annotations

USUAL_LINES = [
    b"X-A: 1", b"X-A:1", b"X-A:   1", b"X-A: 1  ", b"X-A:\t1\t", b"X-A: a\tb", b"X-A:", b"X-A: ",
    b"X-A: \t ", b"X-A: \xe9\xff", b"X-A: :", b"x_a: 1", b"!#$%&'*+-.^_`|~09azAZ: v", b"a: b",
    b"X-A: 1\r\nX-A: 2", b"X-" + b"a" * 40 + b": " + b"v" * 300, b"Nats-Msg-Id: 7",
    b"Nats-TTL: 5", b"nats-ttl: 5s", b"Nats-Rollup: all", b"Nats-Expected-Stream: x",
    b"Idempotency-Key: k", b"msg-id: m", b"webhook-id: w", b"svix-id: s", b"Idempotency-Key:",
    b"msg-id: m\r\nNats-Msg-Id: n\r\nwebhook-id: w", b"traceparent: 00-a-b-01", b"tracestate: a=b",
    b"baggage: a", b"Origin: https://a.example", b"Origin: http://gateway", b"Origin: null",
    b"Origin: https://a.example\r\nOrigin: https://b.example", b"Origin:",
    b"Fastgw-Subject: eu.west", b"Fastgw-Subject: *", b"Fastgw-Subject:", b"Cookie: a=b",
    b"TE: trailers", b"Trailer: X-T", b"Keep-Alive: timeout=5", b"HTTP2-Settings: AA",
    b"Content-Type: application/json", b"content-type:application/x-ndjson ", b"Content-Type:",
    b"Content-Type: application/json\r\nContent-Type: text/plain",
    b"Content-Type: application/cloudevents-batch+json", b"Content-Type: application/avro",
    b"Content-Encoding: gzip", b"Content-Encoding: identity", b"Content-Encoding: br",
    b"Content-Encoding:", b"Content-Encoding: gzip\r\nContent-Encoding: gzip",
    b"Connection: keep-alive", b"connection:KEEP-ALIVE \t",
    b"Connection: keep-alive\r\nConnection: Keep-Alive", b"WebHook-Request-Origin: a.example",
    b"X-Signature: good [1,2]", b"X-Signature: good [1,2]\r\nX-Signature: good [1,2]",
    b"X-More: 1\r\nX-Signature: bad", b"Forwarded: for=1.2.3.4", b"Hosts: b", b"Accept: */*",
]  # fmt: skip
PARSED_LINES = [
    b"X-A: 1\r\n folded", b"X-A: 1\r\n\tfolded", b" X-A: 1", b"\tX-A: 1", b"X-A : 1", b"X-A\t: 1",
    b"X A: 1", b"X-A", b": 1", b"X-A: a\0b", b"X-A: a\x01b", b"X-A: a\x7fb", b"X-A: a\rb",
    b"X-A: a\nb", b"X-A: 1\n", b"X-A: 1\r", b"X-A: 1\r\r", b"X\xe9: 1", b"X-\0: 1", b"(X): 1",
    b"X-A: a" + b"b" * 20 + b"\x1f", b"X-A: " + b"b" * 15 + b"\x7f" + b"c" * 20, b"X@: 1",
    b"Host: gateway", b"Host: other", b"host:", b"Authorization: Bearer good", b"X-API-Key: a",
    b"Connection: close", b"Connection: x-a\r\nX-A: 1", b"Connection: keep-alive, close",
    b"Connection:", b"Connection: keep-alive\r\nConnection: close", b"Connection: upgrade",
    b"Connection: keep-alive\xa0", b"Proxy-Connection: keep-alive", b"Proxy-Connection: close",
    b"Proxy-Authorization: Basic YTpi", b"proxy-: x", b"Upgrade: h2c",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA",
    b"Expect: 100-continue", b"Expect: tea", b"Expect:", b"Transfer-Encoding: chunked",
    b"transfer-encoding:", b"Transfer-Encoding: gzip", b"Transfer-Encoding: identity",
    b"Content-Length: 5", b"Content-Length: 6", b"Content-Length:",
]  # fmt: skip

# `SINGLE` stands for the usual target.
USUAL_REQUEST_LINES = [
    b"POST SINGLE HTTP/1.1\r\n", b"POST /stations/orders/produce/batch HTTP/1.1\r\n",
    b"POST /stations/orders/consume/batch HTTP/1.1\r\n",
    b"POST /stations/plain/produce/single HTTP/1.1\r\n",
]  # fmt: skip
PARSED_REQUEST_LINES = [
    b"POST SINGLE HTTP/1.0\r\n", b"POST SINGLE HTTP/1.2\r\n", b"POST SINGLE HTTP/2.0\r\n",
    b"POST SINGLE http/1.1\r\n", b"POST SINGLE HTTP/1.1\n", b"POST SINGLE HTTP/1.1 \r\n",
    b"POST SINGLE  HTTP/1.1\r\n", b"POST  SINGLE HTTP/1.1\r\n", b"POST SINGLE\tHTTP/1.1\r\n",
    b"POST SINGLE RTSP/1.1\r\n", b"POST SINGLE\r\n", b"post SINGLE HTTP/1.1\r\n",
    b"PUT SINGLE HTTP/1.1\r\n", b"GET SINGLE HTTP/1.1\r\n", b"HEAD SINGLE HTTP/1.1\r\n",
    b"OPTIONS SINGLE HTTP/1.1\r\n", b"POST SINGLE? HTTP/1.1\r\n",
    b"POST SINGLE?subject=a HTTP/1.1\r\n", b"POST SINGLE?access_token=good HTTP/1.1\r\n",
    b"POST SINGLE#a HTTP/1.1\r\n", b"POST SINGLE/ HTTP/1.1\r\n",
    b"POST /stations/%6frders/produce/single HTTP/1.1\r\n", b"POST /SINGLE HTTP/1.1\r\n",
    b"POST http://gatewaySINGLE HTTP/1.1\r\n",
    b"POST /stations/missing/produce/single HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n",
    b"POST * HTTP/1.1\r\n", b"\r\nPOST SINGLE HTTP/1.1\r\n", b"\r\n\n\r\nPOST SINGLE HTTP/1.1\r\n",
    b" POST SINGLE HTTP/1.1\r\n",
]  # fmt: skip
