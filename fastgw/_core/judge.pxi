# Step 4, the verdicts: each message against the bounds and the station's schema.
#
# Called by `Ingress` with the messages found (validate.pxi). A verdict is None, a reason, other bytes
# to store, or an awaitable of these; a large batch is judged over several turns.

cdef inline Py_ssize_t overhead_of(Request request, Buffer* fields) noexcept:
    """What the broker counts beside the payload: the header block, and a little room."""
    cdef Py_ssize_t size = <Py_ssize_t>fields.size + 64
    if request.message_id_bytes is not None:
        size += PyBytes_GET_SIZE(request.message_id_bytes)
    if request.station.ack_fsync:
        size += GROUP_FIELDS_BYTES_MAX
    return size


cdef int refuse_message(Request request, Py_ssize_t index, str word, str text) except -1:
    if request.action == ACTION_BATCH:
        (<Span*>request.spans.data)[index].size = -1
    return request.settle_fault(index, word, text)


cdef int take_verdict(
    Ingress ingress, Request request, Buffer* fields, Py_ssize_t index, bytes message, object verdict
) except -1:
    if verdict is None:
        return 0
    if type(verdict) is bytes:
        if (ingress.link is not None and PyBytes_GET_SIZE(verdict) + overhead_of(request, fields)
                > ingress.link.payload_bytes_max):
            return refuse_message(
                request, index, "message-too-large",
                f"message of {len(verdict)} bytes after transcoding exceeds the broker's "
                f"{ingress.link.payload_bytes_max}",
            )
        if request.replaced is None:
            request.replaced = {}
        request.replaced[index] = verdict
        return 0
    if request.station.keeps_refused:
        ingress.refused(request, copy_of(fields), message, verdict)
    return refuse_message(
        request, index, "schema-refused", f"Schema validation has failed: {verdict}")


cdef int await_verdict(
    Ingress ingress, Request request, Buffer* fields, Py_ssize_t index, bytes message, object verdict
) except -1:
    """A verdict comes later. WHY apart: a function with a lambda in it pays for it at each call."""
    request.verdicts_awaited += 1
    if request.fields is None:
        request.fields = copy_of(fields)
    task = ensure_future(verdict)
    task.add_done_callback(lambda done: ingress.on_awaited_verdict(request, index, message, done))
    return 0


cdef int judge_message(
    Ingress ingress, Request request, Buffer* fields, Py_ssize_t index, bytes message
) except -1:
    try:
        verdict = request.station.check(message, request.content_type)
    except Fault as fault:
        return refuse_message(request, index, fault.kind.word, fault.text)
    if verdict is None or type(verdict) is str or type(verdict) is bytes:
        return take_verdict(ingress, request, fields, index, message, verdict)
    return await_verdict(ingress, request, fields, index, message, verdict)


cdef int judge(Ingress ingress, Request request, Buffer* fields) except -1:
    """Step 4: judge the messages that have no verdict yet, as many as one turn may take."""
    cdef Station station = request.station
    cdef bytes body = request.body_bytes
    cdef Py_ssize_t overhead = overhead_of(request, fields)
    cdef Py_ssize_t size_max
    cdef Py_ssize_t judged_bytes = 0
    cdef uint64_t began_us = 0
    cdef Py_ssize_t index
    cdef Span span
    if ingress.link is None:
        return request.settle_unsent(
            "broker-away", "the connection to the broker was lost; nothing was sent")
    size_max = ingress.link.payload_bytes_max
    while request.messages_judged < request.messages_count:
        if judged_bytes > JUDGED_BYTES_A_TURN or (
                began_us and monotonic_us() - began_us > JUDGED_US_A_TURN):
            # WHY: a large batch must not keep the other connections waiting, nor a schema that is
            # slow with small messages.
            if request.fields is None:
                request.fields = copy_of(fields)
            ingress.call_soon(ingress.next_verdicts, request)
            return 0
        index = request.messages_judged
        request.messages_judged += 1
        span = request.span(index)
        # WHY: a payload above the broker's bound closes the connection that all requests share.
        if span.size + overhead > size_max:
            refuse_message(
                request, index, "message-too-large",
                f"message of {span.size} bytes with its headers exceeds the broker's {size_max}",
            )
        elif station.message_bytes_max and span.size > station.message_bytes_max:
            refuse_message(
                request, index, "message-too-large",
                f"message of {span.size} bytes exceeds the station's {station.message_bytes_max}",
            )
        elif station.check is not None and not span.is_good:
            judged_bytes += span.size
            if began_us == 0:
                # The short way is quick by itself; the long one is watched.
                began_us = monotonic_us()
            if request.action == ACTION_SINGLE:
                judge_message(ingress, request, fields, index, body)
            else:
                # WHY not a slice: its bounds would become objects, which cost more than the copy.
                judge_message(
                    ingress, request, fields, index,
                    PyBytes_FromStringAndSize(PyBytes_AS_STRING(body) + span.start, span.size))
    return 0
