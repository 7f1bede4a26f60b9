# Group commit: stations whose 200 means "synced" have their messages stored by atomic batches.
#
# A broker that syncs each message before its ack syncs an atomic batch once, whatever is in it. So what
# arrives for one stream while a batch is on its way waits, and goes as the next batch. A batch that
# the broker refuses has stored nothing: its messages are sent again one by one, and each gets its own
# answer. SOURCE: NATS ADR-50, atomic batch publishing.

@cython.final
cdef class Group:
    """The messages of one stream that wait for a batch, and the batch that is on its way."""

    cdef Ingress ingress
    cdef str stream
    cdef WaitingLine line            # requests with messages that no batch has yet
    cdef object again                # (request, index) of a refused batch, to be sent alone
    cdef int units_in_flight
    cdef uint64_t alone_until_ms     # until then the stream's broker takes no batches
    cdef bytes batch_name            # of all batches of this group, before their number
    cdef uint64_t batches_count
    cdef Buffer fields               # the header lines of one message in a batch

    def __cinit__(self, Ingress ingress, str stream):
        self.ingress = ingress
        self.stream = stream
        self.line = WaitingLine(ingress)
        self.again = deque()
        # WHY not the reply's prefix: the id is stored with the messages, and that one is a secret.
        self.batch_name = token_urlsafe(12).encode()

    def __dealloc__(self):
        drop_buffer(&self.fields)


cdef int gather(Ingress ingress, Request request, Buffer* fields) except -1:
    """Put a judged request in the line of its stream."""
    cdef Station station = request.station
    cdef Group group = ingress.groups.get(station.stream)
    if request.fields is None:
        request.fields = copy_of(fields)
    if not has_room_to_wait(ingress, request):
        return refuse_crowded(ingress, request)
    if group is None:
        group = Group.__new__(Group, ingress, station.stream)
        ingress.groups[station.stream] = group
    group.line.put(request, ingress.now_ms + ingress.waiting_ms_max)
    return ingress.schedule_turn()


cdef int pump_groups(Ingress ingress) except -1:
    """Send the next batch of each stream whose last one is answered."""
    cdef Group group
    for group in list(ingress.groups.values()):
        if ingress.link is not None and not ingress.held and group.units_in_flight == 0:
            pump_group(group, ingress.link)
        if (group.units_in_flight == 0 and group.line.first is None and not group.again
                and ingress.now_ms >= group.alone_until_ms):
            del ingress.groups[group.stream]
    return 0


cdef int pump_group(Group group, BrokerLink link) except -1:
    cdef list members
    if not group.again and link.has_room():
        members = take_members(group)
        if (len(members) >= GROUP_MESSAGES_MIN
                and group.ingress.now_ms >= group.alone_until_ms):
            return publish_unit(group, link, members)
        group.again.extend(members)
    while group.again and link.has_room():
        publish_unit(group, link, [group.again.popleft()])
    return 0


cdef list take_members(Group group):
    """Take the oldest messages out of the line, as many as one batch may hold."""
    cdef Request request
    cdef list members = []
    cdef Py_ssize_t size = 0
    cdef Py_ssize_t index
    while group.line.first is not None and len(members) < GROUP_MESSAGES_MAX and size < GROUP_BYTES_MAX:
        request = group.line.first
        if request.state == REQUEST_GONE and request.messages_sent == 0:
            # WHY: the client left before anything was sent; nobody was promised anything.
            group.line.take()
            continue
        while (request.messages_sent < request.messages_count
                and len(members) < GROUP_MESSAGES_MAX and size < GROUP_BYTES_MAX):
            index = request.messages_sent
            request.messages_sent += 1
            if request.span(index).size >= 0:
                members.append((request, index))
                size += request.payload_size(index)
        if request.messages_sent == request.messages_count:
            group.line.take()
    return members


cdef int publish_unit(Group group, BrokerLink link, list members) except -1:
    """Send messages as one atomic batch, or a single one as it is. Its ack settles them all."""
    cdef Request unit = Request.__new__(Request)
    cdef Request request
    cdef Buffer fields
    cdef Frame frame
    cdef Slot* slot
    cdef Py_ssize_t index
    cdef Py_ssize_t size = 0
    cdef int64_t reply
    cdef int position = 0
    cdef int count = <int>len(members)
    unit.station = (<Request>members[0][0]).station
    unit.subject = (<Request>members[0][0]).wire_subject()
    unit.members = members
    unit.group = group
    unit.messages_count = count
    slot = link.slots.take(unit, 0, link.ingress.now_ms + link.ingress.ack_timeout_ms)
    slot.sent_us = link.ingress.now_us
    group.units_in_flight += 1
    group.batches_count += 1
    for request, index in members:
        position += 1
        fields = borrow(request.fields)
        if count > 1:
            put_batch_fields(group, &fields, position, position == count)
            fields = group.fields
        hpub, pub = publish_lines(request)
        fill_frame(&frame, request, &fields, hpub, pub)
        point_frame(&frame, request, index)
        # WHY: messages before the last are answered by the ack of the whole.
        reply = slot.number if position == count else -1
        put_frame(&link.out, &frame, link.reply_prefix, reply)
        link.ingress.row.add(COUNT_PUBLISH_BYTES, <uint64_t>frame.payload_size)
        size += frame.payload_size
    link.ingress.row.add(COUNT_PUBLISHES, <uint64_t>count)
    link.slots.weigh(slot, size)
    return 0


cdef int put_batch_fields(Group group, Buffer* fields, int position, bint is_last) except -1:
    """Write the header lines of a message, and behind them its place in the batch."""
    group.fields.size = 0
    put(&group.fields, fields.data, fields.size)
    put_object(&group.fields, b"Nats-Batch-Id: %s-%d\r\nNats-Batch-Sequence: %d\r\n" % (
        group.batch_name, group.batches_count, position))
    if is_last:
        put(&group.fields, b"Nats-Batch-Commit: 1\r\n", 22)
    return 0


cdef Group close_unit(Request unit):
    """The unit has its answer: the next one may go."""
    cdef Group group = unit.group
    group.units_in_flight -= 1
    group.ingress.schedule_turn()
    return group


cdef int settle_unit(Request unit, uint64_t sequence, bint duplicate, int stored_count) except -1:
    """The broker has stored the unit; `sequence` is that of its last message."""
    cdef Group group = close_unit(unit)
    cdef Request request
    cdef Py_ssize_t index
    cdef int count = <int>len(unit.members)
    if stored_count != count:
        # WHY: a broker that knows no atomic batches stores each message by itself, and speaks of one.
        group.alone_until_ms = group.ingress.now_ms + GROUP_ALONE_MS
        group.ingress.report_defect(
            f"a batch of {count} messages was acknowledged as {stored_count}", None)
        return settle_members(
            unit, "outcome-unknown", "the broker's answer to a batch is not understood")
    group.ingress.row.add(COUNT_STORED, <uint64_t>(count - 1))
    sequence -= <uint64_t>count
    for request, index in unit.members:
        sequence += 1
        request.settle_stored(index, sequence, duplicate)
    return 0


cdef int settle_members(Request unit, str word, str text) except -1:
    cdef Request request
    cdef Py_ssize_t index
    for request, index in unit.members:
        request.settle_fault(index, word, text)
    return 0


cdef int settle_unit_fault(Request unit, str word, str text) except -1:
    """The unit is not stored, or nobody knows; a batch that is surely not is taken apart."""
    cdef Group group = close_unit(unit)
    if len(unit.members) == 1 or word in UNIT_WORDS:
        return settle_members(unit, word, text)
    if group.ingress.groups.get(group.stream) is not group:
        # The connection that it went out by takes no more, and what waited was told so.
        return settle_members(
            unit, "broker-away", "the connection to the broker was lost; nothing was stored")
    group.again.extend(unit.members)
    return 0


cdef int lose_unit(Request unit, uint64_t order, uint64_t sent_ms) except -1:
    """The connection has ended before the unit was answered."""
    cdef Request request
    cdef Py_ssize_t index
    cdef Group group = close_unit(unit)
    for request, index in unit.members:
        if not hold(group.ingress, request, index, order, sent_ms):
            settle_unknown(request, index)
    return 0


cdef int drop_groups(Ingress ingress) except -1:
    """No broker takes publishes any more: what waits was never sent, and is told so."""
    cdef Group group
    cdef Request request
    cdef Py_ssize_t index
    cdef str text = "the connection to the broker was lost; nothing was stored"
    cdef dict groups = ingress.groups
    ingress.groups = {}
    for group in groups.values():
        while group.line.first is not None:
            group.line.take().settle_unsent("broker-away", text)
        for request, index in group.again:
            request.settle_fault(index, "broker-away", text)
        group.again.clear()
    return 0


# What is true of each message of a batch when it is true of the batch.
cdef frozenset UNIT_WORDS = frozenset(("outcome-unknown", "ack-timeout", "broker-away"))
