# What waits in memory, and its bounds: bodies, and answers that nobody reads.
#
# A body counts from its first bytes that came without its end, while it waits for a verdict or for
# the broker, until it is sent; one that is published as it is read never counts. At the bound,
# connections with a body half read are read no further, until there is room or their wait is over.
# Answers count while the client does not read them, those with consumed messages from the first one.

cdef inline int charge(Ingress ingress, Request request, int64_t size) except -1:
    """Count `size` more bytes of the request's body."""
    request.charged_bytes += size
    ingress.waiting_bytes += size
    return 0


cdef inline int discharge(Ingress ingress, Request request) except -1:
    ingress.waiting_bytes -= request.charged_bytes
    request.charged_bytes = 0
    return 0


cdef inline int release(Ingress ingress, Request request) except -1:
    """The request is over: what it kept is kept no more."""
    if request.charged_bytes and not request.is_in_line:
        discharge(ingress, request)
    if request.answer_bytes:
        ingress.unread_bytes -= request.answer_bytes
        request.answer_bytes = 0
    return 0


cdef bint has_room_to_wait(Ingress ingress, Request request) except -1:
    """Count the whole body while it waits, unless that is past the bound."""
    cdef int64_t size = PyBytes_GET_SIZE(request.body_bytes) - request.charged_bytes
    if size <= 0:
        return True
    if ingress.waiting_bytes + size > ingress.waiting_bytes_max:
        return False
    charge(ingress, request, size)
    return True


cdef str crowded(Ingress ingress):
    return f"more than {ingress.waiting_bytes_max} bytes of bodies wait"


cdef int refuse_crowded(Ingress ingress, Request request) except -1:
    """There is no room for the request to wait in: say so, and keep nothing that was not sent."""
    cdef bint was_sent = request.messages_sent > 0
    if request.messages_count and request.verdicts_awaited == 0:
        request.settle_unsent("overloaded", crowded(ingress))
    else:
        request.finish("overloaded", crowded(ingress))
    if not was_sent:
        request.body_bytes = b""
    return discharge(ingress, request)


cdef int keep_arrived(HttpConnection conn) except -1:
    """Count what has come of a body whose end has not; read no further at the bound."""
    cdef Ingress ingress = conn.ingress
    cdef Request request = conn.current
    if request.answer is not None:
        # It is refused already; its body is dropped as it comes.
        return 0
    charge(ingress, request, conn.body_size - request.charged_bytes)
    if ingress.waiting_bytes <= ingress.waiting_bytes_max:
        return 0
    if ingress.waiting_bytes > 2 * ingress.waiting_bytes_max:
        # WHY: each connection may have brought one more read before it was its turn to pause.
        return conn.fault("overloaded", crowded(ingress))
    if not conn.is_starved:
        conn.is_starved = True
        conn.starved_until_ms = ingress.now_ms + ingress.waiting_ms_max
        ingress.starved.append(conn)
    if not conn.is_reading_paused:
        conn.is_reading_paused = True
        conn.transport.pause_reading()
    return 0


cdef int pump_starved(Ingress ingress) except -1:
    """Read on where a body is half read, oldest first, as far as there is room."""
    cdef HttpConnection conn
    cdef int64_t room = ingress.waiting_bytes_max - ingress.waiting_bytes
    while ingress.starved and room > 0:
        conn = ingress.starved.popleft()
        room -= READ_BYTES
        conn.is_starved = False
        if not conn.is_closed and conn.is_reading_paused and not conn.is_in_turn_line:
            read_on(conn)
    return 0


cdef int sweep_starved(Ingress ingress) except -1:
    """Refuse those that have waited too long. The oldest stands first."""
    cdef HttpConnection conn
    while ingress.starved:
        conn = ingress.starved[0]
        if not conn.is_closed and not conn.is_stopped and ingress.now_ms < conn.starved_until_ms:
            return 0
        ingress.starved.popleft()
        conn.is_starved = False
        if not conn.is_closed:
            conn.fault("overloaded", f"{crowded(ingress)}; there was no room for "
                                     f"{ingress.waiting_ms_max} ms")
    return 0
