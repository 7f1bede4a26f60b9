# The request line, byte for byte: llhttp reads it too kindly and keeps none of it.
#
# Where a line begins is known exactly when a read begins with it, and behind a message whose length
# was told. Behind a chunked one of the same read it is only known where it does not begin.

cdef int keep_line(HttpConnection conn, object data) except -1:
    """Keep what came of a request line that is not whole, and how a head that is not ends."""
    cdef Py_ssize_t size = len(data)
    if size >= 3:
        conn.head_end = bytes(data[size - 3:])
    else:
        conn.head_end = (conn.head_end or b"") + bytes(data)
        size = PyBytes_GET_SIZE(conn.head_end)
        if size > 3:
            conn.head_end = conn.head_end[size - 3:]
    if not conn.is_routed:
        if conn.line is None:
            conn.line = bytearray()
        conn.line += data[conn.line_from:] if conn.line_from > 0 else data
    return 0


cdef int find_line(HttpConnection conn) except -1:
    """Find where the next message may begin, behind the one that has ended in `feeding`."""
    cdef Py_ssize_t body = conn.content_length if conn.content_length > 0 else 0
    conn.is_line_exact = conn.transfer_coding is None
    if conn.feeding_phase == PHASE_BODY and not conn.is_line_here:
        conn.line_from = body - conn.feeding_body if body else 0
    else:
        # SOURCE: RFC 9112 §2.1, the head ends with its first empty line.
        known = b"" if conn.is_line_here or conn.feeding_phase == PHASE_IDLE else conn.head_end
        data = known + bytes(conn.feeding)
        conn.line_from = data.find(b"\r\n\r\n", conn.line_from) + 4 - len(known) + body
    conn.is_line_here = False
    return 0


cdef bint is_line_strict(HttpConnection conn, Request request) except -1:
    """Whether the request line is `METHOD SP target SP HTTP/` and nothing else, byte for byte.

    llhttp takes more than one space between the parts, and RTSP and ICE for some methods.
    SOURCE: RFC 9112 §3.
    """
    cdef bytes data = conn.feeding if type(conn.feeding) is bytes else bytes(conn.feeding)
    cdef Py_ssize_t at = conn.line_from
    cdef Py_ssize_t size, method_size, url_size
    cdef const char* text
    conn.is_line_here = conn.line is None
    if conn.line is not None:
        data = bytes(conn.line) + data
    if conn.is_line_first or conn.is_line_exact:
        text = PyBytes_AS_STRING(data)
        size = PyBytes_GET_SIZE(data)
        method_size = PyBytes_GET_SIZE(request.method_name)
        url_size = PyBytes_GET_SIZE(request.url)
        # SOURCE: RFC 9112 §2.2, empty lines before a request line are skipped.
        while at < size and (text[at] == 13 or text[at] == 10):
            at += 1
        if (size - at < method_size + url_size + 7
                or memcmp(text + at, PyBytes_AS_STRING(request.method_name), <size_t>method_size) != 0
                or memcmp(text + at + method_size + 1, PyBytes_AS_STRING(request.url), <size_t>url_size) != 0
                or text[at + method_size] != 32
                or memcmp(text + at + method_size + 1 + url_size, b" HTTP/", 6) != 0):
            return False
        if conn.is_line_here:
            conn.line_from = at
        return True
    at = data.find(request.method_name + b" " + request.url + b" HTTP/", at)
    if conn.is_line_here:
        conn.line_from = at
    return at >= 0
