# What was read and may not be parsed yet: requests pipelined past the bound, taken up as answers go
# out, and the rest of a body that has no room.
#
# One read may bring thousands of tiny requests; parsing them all would give one connection the turn
# of all others. What is kept counts over all connections of a worker.

cdef int drop_backlog(HttpConnection conn) except -1:
    if conn.backlog is not None:
        conn.ingress.backlog_bytes -= PyBytes_GET_SIZE(conn.backlog)
        conn.backlog = None
    return 0


cdef int keep_backlog(HttpConnection conn, bytes data) except -1:
    """Keep what was read past the bound of pipelined requests, until some are answered."""
    cdef Ingress ingress = conn.ingress
    drop_backlog(conn)
    if ingress.backlog_bytes + PyBytes_GET_SIZE(data) > BACKLOG_BYTES_MAX:
        return conn.fault(
            "overloaded", f"more than {<int>BACKLOG_BYTES_MAX} bytes of requests wait to be read")
    conn.backlog = data
    ingress.backlog_bytes += PyBytes_GET_SIZE(data)
    return 0


cdef int read_on(HttpConnection conn) except -1:
    """Enough is answered: parse what was kept, then read the socket again."""
    cdef bytes data = conn.backlog
    conn.is_reading_paused = False
    if data is not None:
        drop_backlog(conn)
        conn.data_received(data)
    if conn.is_reading_paused or conn.is_closed:
        return 0
    if conn.is_half_closed:
        if not conn.is_stopped:
            conn.end_input()
        return 0
    conn.transport.resume_reading()
    return 0
