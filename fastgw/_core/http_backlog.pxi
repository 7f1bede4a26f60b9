# What was read and may not be parsed yet: requests pipelined past a bound, which are taken up as answers
# go out or as other connections have had their turn, and the rest of a body that has no room.
#
# One read may bring thousands of tiny requests; parsing them all would give one connection the turn
# of all others. What is kept counts over all connections of a worker.

cdef int drop_backlog(HttpConnection conn) except -1:
    if conn.backlog is not None:
        conn.ingress.backlog_bytes -= PyBytes_GET_SIZE(conn.backlog)
        conn.backlog = None
        conn.backlog_at = 0
    return 0


cdef int keep_backlog(HttpConnection conn, bytes data, Py_ssize_t at) except -1:
    """Keep what stands in `data` from `at` on, until it is its turn."""
    cdef Ingress ingress = conn.ingress
    drop_backlog(conn)
    if ingress.backlog_bytes + PyBytes_GET_SIZE(data) > BACKLOG_BYTES_MAX:
        return conn.fault(
            "overloaded", f"more than {<int>BACKLOG_BYTES_MAX} bytes of requests wait to be read")
    conn.backlog = data
    conn.backlog_at = at
    ingress.backlog_bytes += PyBytes_GET_SIZE(data)
    return 0


cdef int wait_for_turn(HttpConnection conn, bytes data, Py_ssize_t at) except -1:
    """The connection has had enough of this turn: the others come first."""
    keep_backlog(conn, data, at)
    if conn.is_stopped:
        return 0
    conn.is_in_turn_line = True
    conn.ingress.turn_line.append(conn)
    if not conn.is_reading_paused:
        conn.is_reading_paused = True
        conn.transport.pause_reading()
    return conn.ingress.schedule_turn()


cdef int pump_turn_line(Ingress ingress) except -1:
    """Parse on where a connection has waited for the others, as far as one turn has time."""
    cdef HttpConnection conn
    cdef uint64_t until_us = monotonic_us() + PARSE_US_A_TURN
    cdef Py_ssize_t i
    for i in range(len(ingress.turn_line)):
        conn = ingress.turn_line.popleft()
        conn.is_in_turn_line = False
        if not conn.is_closed and conn.is_reading_paused:
            read_on(conn)
        if monotonic_us() >= until_us:
            break
    if ingress.turn_line:
        ingress.schedule_turn()
    return 0


cdef int read_on(HttpConnection conn) except -1:
    """Parse what was kept, then read the socket again."""
    cdef bytes data = conn.backlog
    cdef Py_ssize_t at = conn.backlog_at
    conn.is_reading_paused = False
    if data is not None:
        drop_backlog(conn)
        conn.feed_slices(data, at)
    if conn.is_reading_paused or conn.is_closed:
        return 0
    if conn.is_half_closed:
        if not conn.is_stopped:
            conn.end_input()
        return 0
    conn.transport.resume_reading()
    return 0
