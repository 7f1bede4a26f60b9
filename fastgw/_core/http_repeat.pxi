# A head that is, byte for byte, the one before it: what it says is known, so it is not parsed again.
#
# A producer on a connection that it keeps mostly sends the same head each time. llhttp has read it
# once, every rule has judged it, and both look at nothing but its bytes; so the same bytes between
# two messages say the same. What may change meanwhile is asked again: the credential, the rates, the
# stations, the bound of the body. Heads that could mean anything else than a plain message are not kept.

cdef Py_ssize_t size_of_head(HttpConnection conn, bytes data) noexcept:
    """Size of the head that `data` begins with; 0 when it has not one line a field, all ended by CRLF."""
    cdef const char* text = PyBytes_AS_STRING(data)
    cdef const char* end = text + PyBytes_GET_SIZE(data)
    cdef const char* p = text
    cdef const char* newline
    cdef int lines = 0
    while True:
        newline = <const char*>memchr(p, 10, end - p)
        if newline == NULL or newline == p or (newline - 1)[0] != 13:
            return 0
        if memchr(p, 13, newline - 1 - p) != NULL:
            return 0
        if newline - 1 == p:
            return newline + 1 - text if lines == conn.fields_count + 1 else 0
        lines += 1
        p = newline + 1


cdef bint is_head_plain(HttpConnection conn, Request request) noexcept:
    """Whether the head says nothing that lives beside its station, credential and media type."""
    cdef bytes sent = request.api_key if request.credential is None else request.credential
    return (conn.persists_unasked and conn.is_line_here and conn.transfer_coding is None
            and not conn.expects_continue and not conn.has_upgrade
            and (request.action == ACTION_SINGLE or request.action == ACTION_BATCH)
            and request.answer is None and request.station.signature_names is None
            and conn.known_routes_count == conn.ingress.routes_count
            and is_same_bytes(request.url, conn.known_url)
            # WHY: a password is not kept in memory longer than its check takes.
            and (sent is None or is_same_bytes(sent, conn.known_credential))
            and (request.credential is None or request.api_key is None)
            and request.suffix is None and request.message_id_bytes is None
            and request.origin is None and request.coding is None
            and request.handshake_origin is None)


cdef int keep_head(HttpConnection conn, Request request) except -1:
    """Keep the head of a request that is whole, when it is plain and stands in one read."""
    cdef Py_ssize_t size
    if conn.unlike_count > 0:
        conn.unlike_count -= 1
        return 0
    if not is_head_plain(conn, request):
        return 0
    size = size_of_head(conn, <bytes>conn.feeding)
    if size == 0 or size > KNOWN_HEAD_BYTES_MAX:
        return 0
    conn.known_head = (<bytes>conn.feeding)[:size]
    conn.known_fields = copy_of(&conn.fields)
    conn.known_length = max(0, conn.content_length)
    conn.is_known_sent_key = request.credential is None
    conn.known_sent = request.api_key if conn.is_known_sent_key else request.credential
    conn.known_type = request.content_type
    return 0


cdef int forget_head(HttpConnection conn) except -1:
    conn.known_head = conn.known_fields = conn.known_sent = conn.known_type = None
    # WHY: a client whose heads differ each time must not pay for each that is kept in vain.
    conn.unlike_count = UNLIKE_HEADS_PAUSE
    return 0


cdef Py_ssize_t read_repeated(HttpConnection conn, bytes data, Py_ssize_t at) except -1:
    """Take the request that begins at `at` when its head is the known one and its body is there.

    Returns its size, or 0: then the parser reads it.
    """
    cdef Ingress ingress = conn.ingress
    cdef Py_ssize_t head_size = PyBytes_GET_SIZE(conn.known_head)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data) - at
    cdef Request request
    cdef bytes block
    cdef Buffer fields
    if (size < head_size or conn.known_routes_count != ingress.routes_count
            or memcmp(PyBytes_AS_STRING(data) + at, PyBytes_AS_STRING(conn.known_head),
                      <size_t>head_size) != 0):
        forget_head(conn)
        return 0
    if size - head_size < conn.known_length:
        return 0
    request = conn.begin_request()
    request.method_name = b"POST"
    request.url = conn.known_url
    find_route(ingress, request)
    conn.body_max = body_max_of(ingress, request)
    conn.content_length = conn.known_length
    request.content_type = conn.known_type
    if conn.is_known_sent_key:
        request.api_key = conn.known_sent
    else:
        request.credential = conn.known_sent
    conn.is_routed = True
    conn.phase = PHASE_BODY
    conn.owe(request)
    if conn.known_length > conn.body_max:
        conn.fault("body-too-large", f"body of {conn.known_length} bytes exceeds {conn.body_max}")
        return size
    conn.admit(request)
    if conn.is_stopped:
        return size
    if conn.bucket is not None:
        conn.bucket.charge(conn.known_length)
    if request.answer is None:
        request.body_bytes = PyBytes_FromStringAndSize(
            PyBytes_AS_STRING(data) + at + head_size, <Py_ssize_t>conn.known_length)
    block = conn.known_fields
    fields = borrow(block)
    conn.complete_request(request, &fields)
    return head_size + conn.known_length


cdef Py_ssize_t take_repeated(HttpConnection conn, bytes data, Py_ssize_t at) except -1:
    """Take a repeated request, as `read_repeated` says; an error ends in an answer."""
    try:
        return read_repeated(conn, data, at)
    except Exception as error:
        conn.ingress.report_defect("a request failed", error)
        conn.fault("internal", "internal error")
        return PyBytes_GET_SIZE(data) - at
