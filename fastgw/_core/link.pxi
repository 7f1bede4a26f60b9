# The data-plane connection to the broker: the other socket of the core.
#
# `fastgw.nats.connection` dials it and speaks the handshake through it; from `go_live` on, publishes
# and pulls go out by `flush`, once a turn, and acks and deliveries come in by `data_received`.
# The read side never waits for the write side: a broker whose acks are not read drops the connection.

cdef enum:
    ACK_SID = 1


cdef tuple publish_lines(Request request):
    """How an HPUB and a PUB to the request's subject begin."""
    if request.subject is None:
        return request.station.hpub, request.station.pub
    return b"HPUB " + request.subject + b" ", b"PUB " + request.subject + b" "


cdef inline void fill_frame(Frame* frame, Request request, Buffer* fields, bytes hpub, bytes pub) noexcept:
    """Point a frame at what all messages of a request share. DANGER: it borrows all of it."""
    frame.hpub_borrowed = PyBytes_AS_STRING(hpub)
    frame.hpub_size = PyBytes_GET_SIZE(hpub)
    frame.pub_borrowed = PyBytes_AS_STRING(pub)
    frame.pub_size = PyBytes_GET_SIZE(pub)
    frame.fields_borrowed = fields.data
    frame.fields_size = <Py_ssize_t>fields.size
    frame.id_borrowed = NULL
    frame.id_size = 0
    frame.is_apart = False
    if request.message_id_bytes is not None:
        frame.id_borrowed = PyBytes_AS_STRING(request.message_id_bytes)
        frame.id_size = PyBytes_GET_SIZE(request.message_id_bytes)


cdef inline bint point_frame(Frame* frame, Request request, Py_ssize_t index) except -1:
    """Point a frame at message `index`. Returns whether there is one: it may have been refused."""
    cdef bytes other
    cdef Span span = request.span(index)
    if span.size < 0:
        return False
    frame.id_index = index if request.action == ACTION_BATCH else -1
    frame.payload_borrowed = PyBytes_AS_STRING(request.body_bytes) + span.start
    frame.payload_size = span.size
    if request.replaced is not None and index in request.replaced:
        other = request.replaced[index]
        frame.payload_borrowed = PyBytes_AS_STRING(other)
        frame.payload_size = PyBytes_GET_SIZE(other)
    return True


cdef int name_stream(Request request, bytes stream, uint64_t sequence) except -1:
    """Another stream captures the subject: the answer names the one that stored it."""
    cdef Request member
    if request.members is not None:
        sequence -= <uint64_t>len(request.members)
        for member, _ in request.members:
            sequence += 1
            name_stream(member, stream, sequence)
    elif request.action == ACTION_SINGLE:
        request.answer = stored_head(stream) + b"%d\r\n" % sequence
        request.answer_body = STORED_BODY
    return 0


@cython.final
cdef class BrokerLink:
    """One connection to the broker; made by `Ingress.make_link`.

    Attributes:
        on_info: called with the JSON of each INFO.
        on_pong: called for each PONG.
        on_error: called with the text of each -ERR that belongs to no publish.
        on_lost: called once with the exception, or None, when the connection has ended.
        is_fruitful: whether some stream has stored a publish.
    """

    cdef Ingress ingress
    cdef public object on_info, on_pong, on_error, on_lost
    cdef readonly object transport
    cdef readonly int pings_out
    cdef readonly bint is_live
    cdef int fd
    cdef bint is_retired, is_paused, is_lost
    cdef uint64_t pings_count, pongs_count
    cdef uint64_t barren_since_ms    # 0 while some stream answers
    cdef readonly bint is_fruitful   # whether one ever has
    cdef list denials                # refusals that no request could be told yet
    cdef Slots slots
    cdef Buffer out
    cdef Apart aparts[APARTS_MAX]    # long payloads that belong between what is in `out`
    cdef int aparts_count
    cdef size_t aparts_bytes
    cdef Buffer inbox                # the start of an op that is not whole yet
    cdef size_t needed               # how many bytes `inbox` must hold before reading on pays
    cdef bytes reply_prefix
    cdef bytes ack_line              # how the line of each ack begins
    cdef int64_t payload_bytes_max
    cdef dict pulls                  # running pulls by sid
    cdef list free_sids
    cdef int64_t next_sid

    def __cinit__(self, Ingress ingress):
        self.ingress = ingress
        self.fd = -1
        self.slots = Slots(ingress.publishes_in_flight_max)
        # WHY: unguessable and per connection, so that nobody can answer for the broker.
        self.reply_prefix = b"_INBOX.%s." % token_urlsafe(12).replace("-", "x").replace("_", "y").encode()
        self.ack_line = b"MSG " + self.reply_prefix
        self.payload_bytes_max = 1048576
        self.pulls = {}
        self.denials = []
        self.free_sids = []
        self.next_sid = ACK_SID + 1

    def __dealloc__(self):
        drop_aparts(self)
        drop_buffer(&self.out)
        drop_buffer(&self.inbox)

    # --- asyncio protocol and handshake -----------------------------------------------------

    def connection_made(self, transport) -> None:
        self.use_transport(transport)

    def use_transport(self, transport) -> None:
        """Write through `transport` from now on: the plain one, or the one that TLS made of it."""
        cdef bint is_tls = transport.get_extra_info("sslcontext") is not None
        self.transport = transport
        # WHY: see `HttpConnection.connection_made`.
        transport.set_write_buffer_limits(high=1 if is_tls else 0)
        self.is_paused = False
        self.fd = -1
        sock = transport.get_extra_info("socket")
        if sock is not None and not is_tls:
            self.fd = sock.fileno()

    def connection_lost(self, exc) -> None:
        self.is_lost = True
        if self.is_live:
            self.ingress.row.add(COUNT_LINKS_LOST, 1)
        self.is_live = False
        self.fd = -1
        drop_aparts(self)
        self.fail_everything()
        self.ingress.link_lost(self)
        if self.on_lost is not None:
            self.on_lost(exc)

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        self.ingress.schedule_turn()

    def send(self, bytes data) -> None:
        """Write handshake bytes."""
        if not self.is_lost:
            self.transport.write(data)

    @property
    def subscribe_line(self) -> bytes:
        """What has the broker send acks to this link; it belongs into the handshake."""
        return b"SUB %s* %d\r\n" % (self.reply_prefix, <int>ACK_SID)

    def ping(self) -> None:
        """Ask for a PONG; `pings_out` counts those that have not come."""
        self.pings_out += 1
        self.pings_count += 1
        put(&self.out, b"PING\r\n", 6)
        self.ingress.schedule_turn()

    def go_live(self, dict info) -> None:
        """Take publishes from now on. `info` is the broker's INFO."""
        self.payload_bytes_max = info.get("max_payload", self.payload_bytes_max)
        self.slots.is_answered_once = not (info.get("cluster") or info.get("connect_urls"))
        self.is_live = True
        self.ingress.row.add(COUNT_LINKS, 1)
        self.ingress.take_link(self)

    def retire(self) -> None:
        """Send no more publishes; close when those in flight are answered."""
        self.is_live = False
        self.is_retired = True
        self.ingress.link_lost(self)
        self.close_when_idle()

    def close(self) -> None:
        if self.transport is not None and not self.is_lost:
            self.transport.close()

    @property
    def barren_ms(self) -> int:
        """For how long no stream has stored although there were publishes; 0 when one has."""
        return self.ingress.now_ms - self.barren_since_ms if self.barren_since_ms else 0

    @property
    def in_flight(self) -> int:
        """Publishes that the broker has not answered."""
        return self.slots.in_flight()

    cdef int close_when_idle(self) except -1:
        if self.is_retired and self.slots.in_flight() == 0 and not self.pulls:
            self.close()
        return 0

    # --- writing ----------------------------------------------------------------------------

    cdef inline bint has_room(self) noexcept:
        return (self.slots.free_count > 0
                and self.out.size + self.aparts_bytes < BROKER_OUT_BYTES_MAX
                and self.slots.bytes_count < self.ingress.publishes_in_flight_bytes_max)

    cdef int publish(self, Request request, Buffer* fields, Py_ssize_t again=-1) except -1:
        """Send messages of `request` while there is room; `fields` holds its header block.

        Args:
            again: the one message to be sent once more, or -1 for those that were not sent yet.
        """
        cdef Py_ssize_t index
        cdef Station station = request.station
        cdef Frame frame
        cdef Slot* slot
        cdef bytes hpub = station.hpub
        cdef bytes pub = station.pub
        cdef uint64_t deadline_ms = self.ingress.now_ms + self.ingress.ack_timeout_ms
        if request.subject is not None:
            hpub, pub = publish_lines(request)
        fill_frame(&frame, request, fields, hpub, pub)
        if request.message_id_bytes is not None and request.fields is None:
            # WHY: it may have to be sent again, when the connection's own buffer is long reused.
            request.fields = copy_of(fields)
        while (again >= 0 or request.messages_sent < request.messages_count) and self.has_room():
            index = again if again >= 0 else request.messages_sent
            if again < 0:
                request.messages_sent += 1
            if not point_frame(&frame, request, index):
                # A message that validation refused has its answer already.
                continue
            slot = self.slots.take(request, index, deadline_ms)
            slot.sent_us = self.ingress.now_us
            self.slots.weigh(slot, frame.payload_size)
            self.ingress.row.add(COUNT_PUBLISHES, 1)
            self.ingress.row.add(COUNT_PUBLISH_BYTES, <uint64_t>frame.payload_size)
            frame.is_apart = is_sent_apart(self, frame.payload_size)
            put_frame(&self.out, &frame, self.reply_prefix, slot.number)
            if frame.is_apart:
                put_apart(self, request.payload_owner(index), frame.payload_borrowed, frame.payload_size)
                put(&self.out, b"\r\n", 2)
            if again >= 0:
                break
        self.ingress.schedule_turn()
        return 0

    cdef int flush(self) except -1:
        """Write what the turn has gathered, in one write."""
        cdef size_t sent
        if self.out.size == 0 or self.is_paused or self.is_lost or self.transport is None:
            return 0
        if self.aparts_count:
            flush_aparts(self)
        else:
            sent = write_at_once(self)
            write_frames(self, 0, self.out.size, &sent)
        self.out.size = 0
        shrink_buffer(&self.out, BROKER_OUT_KEPT_BYTES)
        return 0

    # --- reading ----------------------------------------------------------------------------

    def data_received(self, bytes data) -> None:
        self.ingress.now_us = monotonic_us()
        if self.slots.in_flight() != 1 or self.ingress.is_turn_scheduled:
            self.feed_ops(data)
            return
        # WHY: it can bring but one ack, and nobody gains from waiting for more; see turn.pxi.
        self.ingress.has_own_turn = True
        try:
            self.feed_ops(data)
        finally:
            end_own_turn(self.ingress)

    cdef int feed_ops(self, bytes data) except -1:
        """Act on the whole ops of what was kept and of `data`; keep the rest."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef Py_ssize_t consumed
        if self.inbox.size == 0:
            consumed = self.read_ops(PyBytes_AS_STRING(data), size)
            if consumed < size:
                put(&self.inbox, PyBytes_AS_STRING(data) + consumed, <size_t>(size - consumed))
        else:
            put(&self.inbox, PyBytes_AS_STRING(data), <size_t>size)
            if self.inbox.size < self.needed:
                return 0
            consumed = self.read_ops(self.inbox.data, <Py_ssize_t>self.inbox.size)
            self.inbox.size -= <size_t>consumed
            memmove(self.inbox.data, self.inbox.data + consumed, self.inbox.size)
            shrink_buffer(&self.inbox, 65536)
        if self.denials:
            resolve_denials(self)
        return 0

    cdef Py_ssize_t read_ops(self, const char* data, Py_ssize_t size) except -1:
        """Act on every whole op. Returns the bytes consumed; sets `needed` for the rest."""
        cdef Op op
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t whole
        cdef int64_t number
        while at < size:
            number = parse_ack_line(data + at, size - at, self.ack_line, &op)
            if number < 0:
                parse_op(data + at, size - at, &op)
            if op.kind == OP_MSG or op.kind == OP_HMSG:
                whole = op.line_size + <Py_ssize_t>op.total_size + 2
                if size - at < whole:
                    self.needed = <size_t>whole
                    return at
                if number >= 0:
                    self.on_ack(number, &op, data + at + op.line_size)
                else:
                    self.on_delivery(&op, data + at + op.line_size)
                at += whole
                continue
            if op.kind == OP_MORE:
                self.needed = <size_t>(size - at) + 1
                if size - at > BROKER_LINE_BYTES_MAX:
                    self.give_up(f"a line of more than {<int>BROKER_LINE_BYTES_MAX} bytes")
                    return size
                return at
            at += op.line_size
            if op.kind == OP_UNKNOWN:
                self.give_up("an unknown operation")
                return size
            self.on_control(&op)
        return at

    cdef int give_up(self, str why) except -1:
        self.ingress.report_defect(f"the broker sent {why}", None)
        self.transport.abort()
        return 0

    cdef int on_control(self, Op* op) except -1:
        cdef str text
        if op.kind == OP_PING:
            put(&self.out, b"PONG\r\n", 6)
            self.ingress.schedule_turn()
        elif op.kind == OP_PONG:
            self.pings_out = 0
            if self.is_live or self.is_retired:
                # The handshake's own is not one that `ping` has asked for.
                self.pongs_count += 1
            if self.on_pong is not None:
                self.on_pong()
        elif op.kind == OP_INFO:
            if self.on_info is not None:
                self.on_info(op.text_borrowed[:op.text_size].strip())
        elif op.kind == OP_ERROR:
            text = op.text_borrowed[:op.text_size].decode("utf-8", "replace").strip().strip("'")
            if not take_denial(self, text) and self.on_error is not None:
                # WHY: whoever knows the inbox could answer for the broker.
                self.on_error(text.replace(self.reply_prefix.decode(), "_INBOX.(ours)."))
        return 0

    cdef int on_delivery(self, Op* op, const char* data) except -1:
        cdef Pull pull
        cdef Py_ssize_t prefix
        cdef PyObject* found
        if op.sid == ACK_SID:
            prefix = PyBytes_GET_SIZE(self.reply_prefix)
            return self.on_ack(
                parse_decimal(op.subject_borrowed + prefix, op.subject_size - prefix), op, data)
        sid = op.sid
        found = PyDict_GetItem(self.pulls, sid)
        if found == NULL:
            return 0
        pull = <Pull>found
        if op.reply_size == 0:
            status = parse_status(data, <Py_ssize_t>op.header_size)
            if status == 0 or status == 100:
                return 0
            return self.end_pull(pull, status, data[:op.header_size])
        pull.deliver(op, data)
        if pull.messages_count >= pull.batch:
            self.end_pull(pull, 200, b"")
        elif self.ingress.unread_bytes > self.ingress.unread_bytes_max:
            # WHY: answers may not grow without bound; what has come is a batch, too.
            self.retire_pull(pull)
        return 0

    cdef int on_ack(self, int64_t number, Op* op, const char* data) except -1:
        """Step 8: find the slot by the reply number, read the ack, settle the request."""
        cdef Slot* slot = self.slots.find(number)
        cdef Request request
        cdef Py_ssize_t index
        cdef int64_t sequence = -1
        if slot == NULL:
            return 0
        index = slot.index
        if self.ingress.now_us > slot.sent_us:
            self.ingress.row.time(AT_ACK_TIMES, self.ingress.now_us - slot.sent_us)
        request = self.slots.give_back(slot, True)
        if self.ingress.waiting.first is not None:
            self.ingress.schedule_turn()
        if self.is_retired:
            self.close_when_idle()
        if op.kind == OP_MSG:
            sequence = parse_stored(data, <Py_ssize_t>op.total_size, request.station.ack_head)
        elif parse_status(data, <Py_ssize_t>op.header_size) == 503:
            self.note_barren(slot.sent_us // 1000)
            return request.settle_fault(index, "broker-away", "no stream answers for this station")
        if sequence >= 0:
            self.note_fruit()
            self.ingress.row.add(COUNT_STORED, 1)
            return request.settle_stored(index, <uint64_t>sequence, False)
        return self.settle_by_text(
            request, index, data[op.header_size:op.total_size]
        )

    cdef int settle_by_text(self, Request request, Py_ssize_t index, bytes text) except -1:
        """Settle by an ack of another shape than the usual one: duplicate, domain, error."""
        try:
            ack = decode_ack(text)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            # WHY: msgspec raises UnicodeDecodeError and RecursionError of Python's own beside its.
            self.ingress.report_defect("an ack could not be read", error)
            return request.settle_fault(index, "outcome-unknown", "the broker's answer is not understood")
        if ack.error is not None:
            fault = ack_fault(ack.error)
            return request.settle_fault(index, fault.kind.word, fault.text)
        stream = ack.stream.encode()
        if request.members is not None:
            request.messages_stored = ack.count or 1
        if not stream or ack.seq == 0 or not ack.stream.isprintable():
            self.ingress.report_defect("an ack names no stream or no sequence", None)
            return request.settle_fault(index, "outcome-unknown", "the broker's answer is not understood")
        if ack.stream != request.station.stream:
            name_stream(request, stream, ack.seq)
        self.note_fruit()
        self.ingress.row.add(COUNT_DUPLICATES if ack.duplicate else COUNT_STORED, 1)
        return request.settle_stored(index, ack.seq, ack.duplicate)

    # --- pulls ------------------------------------------------------------------------------

    cdef int start_pull(self, Pull pull, bytes subject, uint64_t wait_ms, int64_t bytes_max) except -1:
        """Ask the broker for messages; they come to a subscription of the pull's own."""
        cdef bytes demand
        pull.subject = subject
        if self.free_sids:
            pull.sid = self.free_sids.pop()
        else:
            pull.sid = self.next_sid
            self.next_sid += 1
            put_object(&self.out, b"SUB %sc.%d %d\r\n" % (self.reply_prefix, pull.sid, pull.sid))
        pull.inbox = b"%sc.%d" % (self.reply_prefix, pull.sid)
        pull.link = self
        pull.deadline_ms = self.ingress.now_ms + wait_ms + PULL_GRACE_MS
        self.pulls[pull.sid] = pull
        # WHY: no_wait with expires answers at once when something is there, and else with the first
        # arrival; one pull serves one request and leaves nothing behind at the broker.
        demand = b'{"batch":%d,"no_wait":true,"expires":%d,"max_bytes":%d}' % (
            pull.batch, wait_ms * 1000000, bytes_max)
        put_object(&self.out, b"PUB %s %s %d\r\n%s\r\n" % (subject, pull.inbox, len(demand), demand))
        return self.ingress.schedule_turn()

    cdef int end_pull(self, Pull pull, int status, bytes block) except -1:
        """The pull is over, by its last message or by a status of the broker."""
        cdef Request request = pull.request
        del self.pulls[pull.sid]
        if self.slots.is_answered_once:
            self.free_sids.append(pull.sid)
        else:
            # WHY: see publish.pxi; what comes once more must not reach the next pull.
            put_object(&self.out, b"UNSUB %d\r\n" % pull.sid)
            self.ingress.schedule_turn()
        self.close_when_idle()
        if pull.messages_count == 0 and (status == 503 or (status == 409 and b"Consumer Deleted" in block)):
            if request.state != REQUEST_GONE:
                pull.on_missing()
            return 0
        if pull.messages_count == 0 and status not in (200, 404, 408, 409):
            request.finish("broker-away", "the broker refused to deliver: " + clip(block[9:].split(b"\r", 1)[0]))
            return 0
        return pull.answer()

    cdef int retire_pull(self, Pull pull) except -1:
        """Answer with what came by the deadline; the subscription may still get messages, so it goes."""
        self.drop_pull(pull)
        return pull.answer()

    cdef int drop_pull(self, Pull pull) except -1:
        del self.pulls[pull.sid]
        put_object(&self.out, b"UNSUB %d\r\n" % pull.sid)
        return self.ingress.schedule_turn()

    cdef int drop_pulls(self, str user) except -1:
        """End the pulls of a user, or of all for None: a right that has ended ends waiting, too.

        The answer is an empty batch; what is asked for next is judged anew.
        """
        cdef Pull pull
        for pull in list(self.pulls.values()):
            if user is not None and pull.request.identity.user != user:
                continue
            self.drop_pull(pull)
            pull.acknowledge(b"-NAK")
            pull.request.respond(200, b"[]")
        self.ingress.schedule_turn()
        return self.close_when_idle()

    # --- time and trouble -------------------------------------------------------------------

    cdef inline void note_fruit(self) noexcept:
        # WHY not for a refusal, too: a leader that has lost the others still refuses by itself.
        self.barren_since_ms = 0
        self.is_fruitful = True

    cdef int note_barren(self, uint64_t since_ms) except -1:
        """No stream takes a publish of `since_ms`: its server may have lost the others."""
        if self.barren_since_ms == 0:
            self.barren_since_ms = since_ms
        return 0

    cdef int sweep(self, uint64_t now_ms) except -1:
        """Answer what has waited too long: publishes without an ack, pulls without an end."""
        cdef Slot* slot
        cdef Request request
        cdef Py_ssize_t index
        cdef Pull pull
        cdef int i
        for i in range(self.slots.slots_count):
            slot = &self.slots.slots[i]
            if slot.request != NULL and now_ms >= slot.deadline_ms:
                index = slot.index
                self.note_barren(slot.deadline_ms - self.ingress.ack_timeout_ms)
                request = self.slots.give_back(slot, False)
                request.settle_fault(
                    index, "ack-timeout",
                    f"the broker did not confirm within {self.ingress.ack_timeout_ms} ms; "
                    "the message may or may not be stored",
                )
        for pull in list(self.pulls.values()):
            if now_ms >= pull.deadline_ms:
                self.retire_pull(pull)
        return self.close_when_idle()

    cdef int fail_everything(self) except -1:
        """The connection has ended: nobody will ever answer what is in flight."""
        cdef Slot* slot
        cdef uint64_t sent_ms, order
        cdef Request request
        cdef Py_ssize_t index
        cdef Pull pull
        cdef int i
        for i in range(self.slots.slots_count):
            slot = &self.slots.slots[i]
            if slot.request != NULL:
                index = slot.index
                sent_ms = slot.deadline_ms - self.ingress.ack_timeout_ms
                order = slot.order
                request = self.slots.give_back(slot, False)
                if request.members is not None:
                    lose_unit(request, order, sent_ms)
                elif not hold(self.ingress, request, index, order, sent_ms):
                    settle_unknown(request, index)
        for pull in list(self.pulls.values()):
            if pull.request.state != REQUEST_GONE:
                pull.request.finish("broker-away", "the connection to the broker was lost")
        self.pulls.clear()
        return 0
