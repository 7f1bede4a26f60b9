# Messages with an id whose broker connection was lost before it confirmed: kept, and sent once more.
#
# The broker knows the id of each message for as long as its stream's duplicate window; within it a
# message that is sent again is stored once. So it is sent again only when the window is known and
# the first sending is well inside it; else, or when no broker comes back in time, its outcome is
# told as unknown. Messages without an id are never sent twice. Until those kept are sent or given up,
# new messages wait, so that none overtakes an earlier one of its connection.

@cython.final
cdef class Held:
    """One message that waits for another broker connection."""

    cdef Request request
    cdef Py_ssize_t index
    cdef uint64_t order, sent_ms, until_ms


cdef object order_of(held):
    return (<Held>held).order


cdef bint hold(
    Ingress ingress, Request request, Py_ssize_t index, uint64_t order, uint64_t sent_ms
) except -1:
    """Keep a message for another connection. Returns whether it may be sent again at all."""
    cdef Held held
    if (request.message_id_bytes is None or request.fields is None or request.wants_no_wait
            or request.state == REQUEST_GONE or len(ingress.held) >= ingress.publishes_in_flight_max):
        return False
    held = Held.__new__(Held)
    held.request = request
    held.index = index
    held.order = order
    held.sent_ms = sent_ms
    held.until_ms = ingress.now_ms + ingress.waiting_ms_max
    # WHY in order: slots are free in any order, and messages are stored as they are sent.
    insort(ingress.held, held, key=order_of)
    return True


cdef int settle_unknown(Request request, Py_ssize_t index) except -1:
    return request.settle_fault(
        index, "outcome-unknown",
        "the connection to the broker was lost before it confirmed; "
        "the message may or may not be stored",
    )


cdef int pump_held(Ingress ingress) except -1:
    """Send again what may be, and give up what has waited too long."""
    cdef Held held
    cdef Request request
    cdef Buffer fields
    cdef list kept = []
    cdef list waiting = ingress.held
    ingress.held = []
    for held in waiting:
        request = held.request
        window_ms = ingress.windows_ms.get(request.station.stream)
        if (ingress.now_ms >= held.until_ms or request.state == REQUEST_GONE
                or (ingress.link is not None and ingress.now_ms >= ingress.replay_until_ms)):
            settle_unknown(request, held.index)
        elif window_ms is None or ingress.link is None or not ingress.link.has_room():
            kept.append(held)
        elif ingress.now_ms - held.sent_ms + REPLAY_MARGIN_MS >= <uint64_t>window_ms:
            settle_unknown(request, held.index)
        else:
            fields = borrow(request.fields)
            ingress.row.add(COUNT_REPLAYS, 1)
            ingress.link.publish(request, &fields, held.index)
    ingress.held = kept + ingress.held
    if not ingress.held:
        ingress.schedule_turn()
    return 0
