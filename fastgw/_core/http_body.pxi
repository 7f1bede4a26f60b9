# A body of known length that comes without the parser: it is put into its place part by part.
#
# A long one is read by the socket straight into that place: while it lasts, a `BodySink` is the
# transport's protocol instead of the connection. Bodies count while they come, see budget.pxi.

cdef int put_part(HttpConnection conn, const char* part, Py_ssize_t size) except -1:
    """Put a part of the body into its place; `body_size` counts it already."""
    if conn.body_size > conn.content_length:
        raise InternalError("the parser gave more of a body than was announced")
    make_place(conn)
    memcpy(PyBytes_AS_STRING(conn.whole) + conn.body_size - size, part, <size_t>size)
    return 0


cdef inline int make_place(HttpConnection conn) except -1:
    if conn.whole is None:
        # WHY at once: a body that grows is copied again and again; what is not written to yet
        # is no memory yet.
        conn.whole = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>conn.content_length)
    return 0


cdef int collect_body(HttpConnection conn, const char* text, Py_ssize_t size) except -1:
    """Take the next `size` bytes of a body, no more than is missing, without the parser."""
    cdef Request request = conn.current
    count_part(conn, size)
    if request.answer is not None:
        # It is refused already; its body is dropped as it comes.
        pass
    elif conn.whole is None and size == conn.content_length:
        request.body_bytes = PyBytes_FromStringAndSize(text, size)
    elif size:
        put_part(conn, text, size)
    return go_on_with_body(conn, request)


cdef inline int count_part(HttpConnection conn, Py_ssize_t size) except -1:
    conn.body_size += size
    if conn.bucket is not None:
        conn.bucket.charge(size)
    return 0


cdef int go_on_with_body(HttpConnection conn, Request request) except -1:
    """Some of the body has come; see whether that was the last of it."""
    if request.answer is not None and conn.body_size > REFUSED_BODY_BYTES_MAX:
        return conn.answer_at_once(request)
    if conn.body_size == conn.content_length:
        conn.is_body_alone = False
        leave_sink(conn)
        return conn.finish_body(request)
    keep_arrived(conn)
    if (conn.sink is None and not conn.is_stopped and not conn.is_tls
            and conn.content_length - conn.body_size >= SINK_BYTES_MIN):
        conn.sink = BodySink.__new__(BodySink)
        conn.sink.conn = conn
        conn.transport.set_protocol(conn.sink)
    return 0


cdef int leave_sink(HttpConnection conn) except -1:
    """The connection reads its socket itself again."""
    if conn.sink is not None:
        conn.sink = None
        if conn.transport is not None and not conn.is_closed:
            conn.transport.set_protocol(conn)
    return 0


@cython.final
cdef class BodySink:
    """The protocol of a connection while a long body comes: `asyncio.BufferedProtocol`, by form.

    It is the buffer that the socket reads into, too: where the body goes on, or a place for what
    nobody wants when the request was refused meanwhile.
    """

    cdef HttpConnection conn

    def get_buffer(self, sizehint: int) -> BodySink:
        return self

    def __getbuffer__(self, Py_buffer* view, int flags):
        cdef HttpConnection conn = self.conn
        cdef Py_ssize_t missing = <Py_ssize_t>conn.content_length - conn.body_size
        if conn.current is not None and conn.current.answer is None:
            make_place(conn)
            PyBuffer_FillInfo(
                view, self, PyBytes_AS_STRING(conn.whole) + conn.body_size, missing, 0, flags)
            return
        missing = max(1, min(missing, REFUSED_BODY_BYTES_MAX))
        conn.ingress.scratch.size = 0
        reserve(&conn.ingress.scratch, <size_t>missing)
        PyBuffer_FillInfo(view, self, conn.ingress.scratch.data, missing, 0, flags)

    def buffer_updated(self, Py_ssize_t size) -> None:
        cdef HttpConnection conn = self.conn
        cdef Request request = conn.current
        if conn.is_stopped or request is None:
            return
        if not conn.ingress.is_turn_scheduled:
            conn.ingress.now_us = monotonic_us()
        conn.ingress.row.add(COUNT_REQUEST_BYTES, <uint64_t>size)
        try:
            count_part(conn, size)
            go_on_with_body(conn, request)
        except Exception as error:
            conn.ingress.report_defect("a request failed", error)
            conn.fault("internal", "internal error")

    def eof_received(self) -> bool:
        return self.conn.eof_received()

    def connection_lost(self, exc) -> None:
        self.conn.connection_lost(exc)

    def pause_writing(self) -> None:
        self.conn.pause_writing()

    def resume_writing(self) -> None:
        self.conn.resume_writing()
