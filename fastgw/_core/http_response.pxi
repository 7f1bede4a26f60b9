# Step 9: answers in request order, prebuilt status lines, ONE write per connection per turn.
#
# Leaves bytes in a buffer that the caller writes. `Date` and CORS stand on every answer, so they
# live in one prebuilt tail that is renewed each second.

cdef bytes STORED_BODY = b'{"error":null,"success":true}'
cdef bytes CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
cdef dict REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


cdef bytes stored_head(bytes stream):
    """The answer to a stored message, up to where its sequence number stands."""
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nNats-Stream: " + stream
        + b"\r\nNats-Sequence: "
    )


cdef bytes answer_head(int status, tuple headers, bytes content_type):
    """Status line and headers of an answer that is not the prebuilt one, without its tail."""
    parts = [b"HTTP/1.1 %d %s\r\n" % (status, REASONS.get(status, b"Unknown"))]
    if content_type:
        parts.append(b"Content-Type: " + content_type + b"\r\n")
    for name, value in headers:
        if has_control_byte(name, len(name)) or has_control_byte(value, len(value)):
            raise InternalError(f"a response header has a control byte: {clip(name)}")
        parts.append(name + b": " + value + b"\r\n")
    return b"".join(parts)


cdef bytes fault_headers(object kind):
    cdef bytes head = answer_head(
        kind.status, ((b"Error-Code", kind.word.encode()),), b"application/json"
    )
    if kind.status == 401:
        head += b'WWW-Authenticate: Bearer realm="fastgw"\r\n'
    if kind.retry_after_s:
        head += b"Retry-After: %d\r\n" % kind.retry_after_s
    return head


cdef dict FAULT_HEADS = {word: fault_headers(kind) for word, kind in KINDS.items()}


cdef bytes fault_body(object kind, str text):
    if kind.status == 401:
        return b'{"message":"Unauthorized"}'
    return msgspec.json.encode({"error": text, "success": False})


cdef bytes RATE_LIMITED_HEAD = FAULT_HEADS["rate-limited"]
cdef bytes HANDSHAKE_HEAD = (
    b"HTTP/1.1 200 OK\r\nAllow: POST\r\nWebHook-Allowed-Rate: *\r\nWebHook-Allowed-Origin: "
)


cdef inline int put_tail(Buffer* out, bytes tail, bint closes, bint keeps_old, Py_ssize_t body) except -1:
    """Common end of a head: CORS and Date, `Connection` when it must be said, Content-Length."""
    reserve(out, <size_t>PyBytes_GET_SIZE(tail) + 96)
    put_reserved(out, PyBytes_AS_STRING(tail), <size_t>PyBytes_GET_SIZE(tail))
    if closes:
        put_reserved(out, b"Connection: close\r\n", 19)
    elif keeps_old:
        # SOURCE: RFC 9112 §9.3, an HTTP/1.0 client must be told that the connection persists.
        put_reserved(out, b"Connection: keep-alive\r\n", 24)
    if body >= 0:
        put_reserved(out, b"Content-Length: ", 16)
        out.size = <size_t>(write_decimal(end_of(out), <uint64_t>body) - out.data)
        put_reserved(out, b"\r\n", 2)
    put_reserved(out, b"\r\n", 2)
    return 0


cdef int put_answer(Buffer* out, Request request, Ingress ingress, bint closes) except -1:
    """Append the whole answer of `request`, which is ready."""
    cdef Station station = request.station
    cdef bytes tail = ingress.answer_tail
    cdef bytes body
    if request.answer is None:
        body = STORED_BODY
        reserve(out, <size_t>PyBytes_GET_SIZE(station.answer_head) + 64)
        put_reserved(out, PyBytes_AS_STRING(station.answer_head),
                     <size_t>PyBytes_GET_SIZE(station.answer_head))
        out.size = <size_t>(write_decimal(end_of(out), request.sequence) - out.data)
        put_reserved(out, b"\r\n", 2)
        if request.is_duplicate:
            put_reserved(out, b"Nats-Duplicate: true\r\n", 22)
        if not closes and not request.is_old and request.cors_line is None:
            # The usual end, body included, is one piece.
            return put_object(out, ingress.stored_tail)
    else:
        body = request.answer_body
        put_object(out, request.answer)
    if request.cors_line is not None:
        put_object(out, request.cors_line)
    # SOURCE: RFC 9110 §8.6, no Content-Length on 204.
    put_tail(out, tail, closes, request.is_old, -1 if body is None else PyBytes_GET_SIZE(body))
    if body is not None and not request.is_head:
        put_object(out, body)
    return 0


cdef int route_of(Request request) except -1:
    """The index of a request's kind in `ROUTE_WORDS`."""
    if request.action != ACTION_OTHER:
        return <int>request.action - 1
    if request.path_bytes is not None:
        if request.path_bytes.startswith(b"/auth/"):
            return 3
        if request.path_bytes.startswith(CONTROL_PATHS):
            return 4
    return 5


cdef inline int count_answer(Row row, Request request, uint64_t now_us) except -1:
    """Count an answer that is written now."""
    cdef int status = 200
    if request.answer is not None:
        status = <int>parse_decimal(PyBytes_AS_STRING(request.answer) + 9, 3)
    row.count_answer(route_of(request), status)
    if request.fault_word is not None:
        row.count_fault(request.fault_word)
    if request.began_us and now_us > request.began_us:
        row.time(AT_REQUEST_TIMES, now_us - request.began_us)
    return 0


cdef bytes http_date(double now):
    """`now` as an IMF-fixdate. SOURCE: RFC 9110 §5.6.7."""
    return formatdate(now, usegmt=True).encode()


cdef tuple build_cors(tuple origins):
    """The CORS lines of every answer, and the whole head of a preflight answer.

    SOURCE: Fetch standard, CORS protocol.
    """
    allow = b"HTTP/1.1 204 No Content\r\n"
    if not origins:
        return b"", allow
    lines = (
        b"Access-Control-Expose-Headers: "
        b"Nats-Stream, Nats-Sequence, Nats-Duplicate, Error-Code, Retry-After\r\n"
    )
    if "*" in origins:
        lines = b"Access-Control-Allow-Origin: *\r\n" + lines
    else:
        lines += b"Vary: Origin\r\n"
    # WHY: the wildcard does not cover Authorization, so it is named beside it.
    preflight = (
        b"Access-Control-Allow-Methods: GET, HEAD, POST, PUT, DELETE, OPTIONS\r\n"
        b"Access-Control-Allow-Headers: Authorization, Content-Type, *\r\n"
        b"Access-Control-Max-Age: 86400\r\n"
    )
    return lines, allow + preflight
