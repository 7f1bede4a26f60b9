# Steps 4 to 6 for one request: its messages are found, judged, and published; or it waits for room.
#
# `admit.pxi` hands over a request with its plain body; verdicts, free slots and the messages that
# are sent again may make it wait. Everything that publishes comes through `send_judged`.

cdef int find_messages(Ingress ingress, Request request) except -1:
    """The messages of the body; a batch is split, and nothing of a broken one is published."""
    cdef JsonWalker walker = request.station.accepts
    cdef bint is_json = is_json_type(request.content_type)
    cdef bint by_lines
    request.messages_count = 1
    if request.action == ACTION_SINGLE:
        request.is_surely_good = walker is not None and is_json and walker.takes(
            PyBytes_AS_STRING(request.body_bytes), PyBytes_GET_SIZE(request.body_bytes))
        return 0
    if is_envelope_type(request.content_type):
        raise ClientFault(
            "media-type-unsupported", f"Content-Type {clip(request.content_type)} is not served"
        )
    by_lines = not is_json and is_lines_type(request.content_type)
    split_body(
        request.body_bytes, by_lines,
        &walker.program if walker is not None and (is_json or by_lines) else NULL, &request.spans)
    request.messages_count = request.spans.size // sizeof(Span)
    if request.messages_count > ingress.batch_messages_max:
        raise ClientFault(
            "body-too-large",
            f"batch of {request.messages_count} messages exceeds {ingress.batch_messages_max}",
        )
    if request.wants_results:
        request.results = [None] * request.messages_count
    if request.messages_count == 0:
        request.respond(200, STORED_BODY)
    return 0


cdef int wait_for_room(Ingress ingress, Request request) except -1:
    """Put the request behind those that wait; past the bound it is refused."""
    if not has_room_to_wait(ingress, request):
        return refuse_crowded(ingress, request)
    return ingress.waiting.put(request, ingress.now_ms + ingress.waiting_ms_max)


cdef int send_judged(Ingress ingress, Request request, Buffer* fields) except -1:
    """Publish what was judged good, once every verdict is in."""
    cdef bint is_whole = (request.messages_judged == request.messages_count
                          and request.verdicts_awaited == 0)
    if request.state != REQUEST_SERVING:
        return 0
    if not is_whole:
        if request.fields is None:
            request.fields = copy_of(fields)
        if not has_room_to_wait(ingress, request):
            return refuse_crowded(ingress, request)
        return 0
    if ingress.link is None:
        return request.settle_unsent(
            "broker-away", "the connection to the broker was lost; nothing was sent"
        )
    if request.station.ack_fsync and not request.wants_no_wait:
        return gather(ingress, request, fields)
    if ingress.waiting.first is None and not ingress.held:
        ingress.link.publish(request, fields)
    if request.messages_sent < request.messages_count:
        if request.fields is None:
            request.fields = copy_of(fields)
        wait_for_room(ingress, request)
    elif request.charged_bytes:
        discharge(ingress, request)
    if request.wants_no_wait and request.messages_sent == request.messages_count:
        return request.finish_unwaited()
    return 0


cdef int judge_kept(Ingress ingress, Request request) except -1:
    """Go on with a request that had to wait; its header block is in its own keeping."""
    cdef Buffer fields = borrow(request.fields)
    judge(ingress, request, &fields)
    return send_judged(ingress, request, &fields)


cdef int produce(Ingress ingress, Request request, Buffer* fields) except -1:
    """Steps 4 to 6: validate, encode, publish; or wait for verdicts or for room."""
    if ingress.link is None:
        request.finish("broker-away", "the broker is away; nothing was stored")
        return 0
    if request.suffix is not None or request.query_bytes:
        read_produce_options(request)
    if request.message_id_bytes is not None and PyBytes_GET_SIZE(request.message_id_bytes) > MESSAGE_ID_BYTES_MAX:
        raise ClientFault(
            "bad-header",
            f"message id of {len(request.message_id_bytes)} bytes exceeds {<int>MESSAGE_ID_BYTES_MAX}",
        )
    find_messages(ingress, request)
    if request.state != REQUEST_SERVING:
        return 0
    if request.fields is not None:
        return judge_kept(ingress, request)
    judge(ingress, request, fields)
    return send_judged(ingress, request, fields)


cdef int pump_waiting(Ingress ingress) except -1:
    """Publish for those that wait, oldest first, while there is room."""
    cdef Request request
    cdef Buffer fields
    while (ingress.waiting.first is not None and ingress.link is not None and ingress.link.has_room()
            and not ingress.held):
        request = ingress.waiting.first
        if request.state == REQUEST_GONE and request.messages_sent == 0:
            # WHY: the client left before anything was sent; nobody was promised anything.
            ingress.waiting.take()
            continue
        fields = borrow(request.fields)
        ingress.link.publish(request, &fields)
        if request.messages_sent < request.messages_count:
            return 0
        ingress.waiting.take()
        if request.wants_no_wait:
            request.finish_unwaited()
    return 0


cdef int sweep_line(Ingress ingress, WaitingLine line) except -1:
    """Refuse those that have waited too long. The oldest stands first."""
    while line.first is not None and line.first.waiting_until_ms <= ingress.now_ms:
        line.take().settle_unsent(
            "overloaded",
            f"the broker had no room for {ingress.waiting_ms_max} ms; nothing was sent",
        )
    return 0
