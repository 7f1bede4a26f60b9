# Turns: what the reads of one event-loop turn have brought goes out together, in as few writes as can be.
#
# A turn mostly runs at the end of the loop's, so that all sockets that were readable share one write
# to the broker. A lone request would wait there for nobody: its frame is written as soon as it is
# read, and its answer as soon as its ack is, by a turn of that read's own.

cdef int run_turn(Ingress ingress) except -1:
    """The loop's turn: those that wait in a line come first, then what was read."""
    begin_turn(ingress)
    if ingress.waiting.first is not None:
        pump_waiting(ingress)
    if ingress.groups:
        pump_groups(ingress)
    if ingress.link is not None:
        ingress.link.flush()
    if ingress.starved:
        pump_starved(ingress)
    if ingress.turn_line:
        pump_turn_line(ingress)
    ingress.dispatched_us = 0
    if ingress.dispatch_line:
        pump_dispatch(ingress)
    return flush_dirty(ingress)


cdef int begin_turn(Ingress ingress) except -1:
    cdef time_t now
    ingress.is_turn_scheduled = False
    ingress.now_us = monotonic_us()
    ingress.now_ms = ingress.now_us // 1000
    now = unix_time(NULL)
    if now != ingress.tail_second:
        ingress.renew_tail(now)
    return 0


cdef int flush_dirty(Ingress ingress) except -1:
    """Write the answers that are ready, then what they have left for the broker."""
    cdef HttpConnection conn
    cdef list dirty = ingress.dirty
    if dirty:
        ingress.dirty = []
        for conn in dirty:
            try:
                conn.flush()
            except Exception as error:
                # WHY: a defect in one answer must not keep the other connections waiting.
                ingress.report_defect("an answer could not be written", error)
                conn.transport.abort()
        shrink_buffer_to(&ingress.scratch, 262144)
    if ingress.link is not None:
        ingress.link.flush()
    if ingress.link is None or len(ingress.links) > 1:
        for link in ingress.links:
            (<BrokerLink>link).flush()
    return 0


cdef inline bint is_read_lone(Ingress ingress) noexcept:
    """Whether bytes of a client that were just read may have a turn of their own.

    Nothing is under way, nor was at the read before. WHY both: the first of many that come together
    finds nothing under way, too, and would cost one write more each time.
    """
    cdef bint was_lone = ingress.was_lone
    ingress.was_lone = (not ingress.is_turn_scheduled and ingress.link is not None
                        and ingress.link.slots.in_flight() == 0)
    return was_lone and ingress.was_lone


cdef int end_own_turn(Ingress ingress) except -1:
    """Run the turn of a read that had its own, if the read asked for one.

    Where anybody waits in a line, or a handler has had time of the turn, it becomes the loop's.
    DANGER: to be called behind all else that the read does, for a turn may parse what was kept.
    """
    ingress.has_own_turn = False
    if not ingress.is_turn_scheduled:
        return 0
    if (ingress.turn_line or ingress.dispatch_line or ingress.dispatched_us or ingress.groups
            or ingress.held or ingress.starved or ingress.waiting.first is not None):
        ingress.call_soon(ingress.on_turn)
        return 0
    try:
        begin_turn(ingress)
        if ingress.link is not None:
            ingress.link.flush()
        flush_dirty(ingress)
    except Exception as error:
        # WHY: the connection whose bytes were read must not be ended for a defect elsewhere.
        ingress.report_defect("a turn failed", error)
    return 0
