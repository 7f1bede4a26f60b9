# The life of a client connection: who it is, how long it may take, when it is let go.
#
# `HttpConnection` holds the state; these are called when it begins, and by the sweep.

cdef str client_address(HttpConnection conn):
    if conn.peer is None and conn.transport is not None:
        peer = conn.transport.get_extra_info("peername")
        conn.peer = str(peer[0]) if isinstance(peer, tuple) and peer else "unix"
    return conn.peer or ""


cdef int meet_client(HttpConnection conn) except -1:
    """Find out who it is, and whether one more connection of it is too many."""
    cdef Ingress ingress = conn.ingress
    conn.address = address_key(client_address(conn))
    conn.bucket = ingress.address_rates.find(conn.address, ingress.now_ms)
    if conn.name_of is not None and conn.is_tls:
        certificate = conn.transport.get_extra_info("peercert")
        conn.certificate_user = conn.name_of(certificate) if certificate else None
    has_room = ingress.visitors.has_room(conn.address)
    ingress.visitors.enter(conn.address)
    if not has_room:
        ingress.row.add(COUNT_REFUSED_ADDRESS, 1)
        conn.fault("overloaded",
                   f"more than {ingress.visitors.each_max} connections of one address")
        conn.close_after_answers()
    return 0


cdef int sweep_body(HttpConnection conn, uint64_t now_ms) except -1:
    """Refuse a body that comes too slowly, or look again in a second."""
    cdef Ingress ingress = conn.ingress
    cdef uint64_t passed_ms
    if conn.is_reading_paused:
        # WHY: we take nothing at the moment; that is no slowness of the client's.
        conn.body_since_ms = now_ms
    passed_ms = now_ms - conn.body_since_ms
    if passed_ms >= ingress.body_timeout_ms:
        return conn.fault("request-timeout",
                          f"the body took longer than {ingress.body_timeout_ms} ms")
    if (passed_ms >= ingress.body_rate_grace_ms
            and <uint64_t>conn.body_size * 1000 < ingress.body_rate_bytes_min * passed_ms):
        return conn.fault("request-timeout",
                          f"the body came at less than {ingress.body_rate_bytes_min} bytes/s")
    conn.deadline_ms = min(now_ms + BODY_LOOK_MS, conn.body_since_ms + ingress.body_timeout_ms)
    return 0


cdef int sweep_connection(HttpConnection conn, uint64_t now_ms) except -1:
    """Act on a deadline that has passed."""
    if conn.is_paused and now_ms >= conn.paused_until_ms and not conn.is_closed:
        conn.transport.abort()
        return 0
    if conn.deadline_ms == 0 or now_ms < conn.deadline_ms or conn.is_closed:
        return 0
    conn.deadline_ms = 0
    if conn.is_lingering:
        conn.transport.abort()
    elif conn.phase == PHASE_HEAD:
        conn.fault("request-timeout",
                   f"the head took longer than {conn.ingress.head_timeout_ms} ms")
    elif conn.phase == PHASE_BODY:
        sweep_body(conn, now_ms)
    elif conn.head is None:
        conn.is_stopped = True
        conn.transport.close()
    return 0
