# Step 1: httptools callbacks -> Request; and the client's side of step 9.
#
# One `HttpConnection` per client socket. Bytes enter by `data_received`, answers leave by `flush`,
# once a turn, in the order of the requests. What llhttp leaves to its user is done here: limits,
# Host, versions, Upgrade, Expect, trailers, half-close, data behind the last request.

cdef enum Phase:
    PHASE_IDLE
    PHASE_HEAD
    PHASE_BODY


@cython.final
cdef class HttpConnection:
    """The protocol of one client connection; made by `Ingress.protocol`."""

    cdef Ingress ingress
    cdef object transport
    cdef object parser
    cdef object feed
    cdef int fd                      # where to send without the transport; -1 under TLS
    cdef Phase phase
    cdef Request current             # the request that is being read
    cdef Request head                # the answers owed, in order
    cdef Request tail
    cdef int owed_count
    # The request that is being read.
    cdef bint is_routed, has_upgrade, is_replaying, expects_continue
    cdef int hosts_count, fields_count
    cdef Py_ssize_t head_bytes, fields_bytes, raw_bytes, body_size, body_max
    cdef int64_t content_length
    cdef bytes transfer_coding, host, connection_value
    cdef object feeding              # what the parser has now
    cdef bytearray line              # what came of a request line that is not whole
    cdef bint is_line_first          # whether it stands where the reading began
    cdef bint is_line_exact          # whether it stands just behind a message of the same read
    cdef bint is_line_here           # whether it began in `feeding`
    cdef Py_ssize_t line_from        # where in `feeding` it stands, or before which it does not
    # How far the message was when `feeding` began: its phase, its body, the last bytes of its head.
    cdef Phase feeding_phase
    cdef Py_ssize_t feeding_body
    cdef bytes head_end
    cdef Buffer fields
    cdef bytearray assembly          # what came of a body of unknown length
    cdef bytes whole                 # a body of known length, as far as it came
    cdef bint is_body_alone          # what comes of the body does not go through the parser
    cdef BodySink sink               # what reads the socket in place of this object, for a long body
    cdef bint is_starved             # a body is half read, and there is no room for its rest
    cdef uint64_t starved_until_ms
    cdef int64_t unread_bytes        # what the transport holds of our answers
    cdef bytes backlog               # read, and not parsed yet
    cdef Py_ssize_t backlog_at       # what of it is parsed
    cdef bint is_in_turn_line        # the others come first
    # The connection.
    cdef bint is_stopped             # no further request is read
    cdef bint has_asked              # a request has begun
    cdef bint is_lingering           # the last answer is out; what still comes is dropped
    cdef bint is_half_closed, is_paused, is_reading_paused, is_dirty, is_closed, is_tls
    cdef uint64_t deadline_ms
    cdef uint64_t paused_until_ms    # by then what was written must have been read
    cdef str peer, address           # who it is; what counts as one client
    cdef Serves serves
    cdef Bucket bucket
    cdef object name_of
    cdef str certificate_user
    cdef uint64_t body_since_ms
    # What the last request named, and what it was found to be: a connection mostly repeats itself.
    cdef bytes known_url
    cdef Route known_route
    cdef uint64_t known_routes_count
    cdef bytes known_host            # a valid one
    cdef bytes known_type, known_credential
    cdef bint is_known_key           # whether it is an X-API-Key
    cdef Principal known_principal
    cdef uint64_t known_forgets_count

    def __cinit__(self, Ingress ingress):
        self.ingress = ingress
        self.fd = -1

    def __dealloc__(self):
        drop_buffer(&self.fields)

    # --- asyncio protocol -------------------------------------------------------------------

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.ingress.connections.add(self)
        self.ingress.row.add(COUNT_CONNECTIONS, 1)
        sock = transport.get_extra_info("socket")
        self.is_tls = transport.get_extra_info("sslcontext") is not None
        # WHY: with a mark of 0, a paused protocol means exactly "the transport holds bytes", and
        # only then must a write go through the transport instead of straight to the socket. Under
        # TLS uvloop pauses at the mark, not above it: 0 would pause for ever.
        transport.set_write_buffer_limits(high=1 if self.is_tls else 0)
        if sock is not None and not self.is_tls:
            self.fd = sock.fileno()
        self.make_parser()
        self.deadline_ms = self.ingress.now_ms + self.ingress.idle_timeout_ms
        meet_client(self)
        if len(self.ingress.connections) > self.ingress.connections_max:
            self.ingress.row.add(COUNT_REFUSED_TOTAL, 1)
            self.fault("overloaded", f"more than {self.ingress.connections_max} connections")
            self.close_after_answers()

    cdef int make_parser(self) except -1:
        self.parser = HttpRequestParser(self)
        # WHY: what follows the last request must not fail the request before it; it is dropped here.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.feed = self.parser.feed_data
        return 0

    def data_received(self, bytes data) -> None:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        if self.is_stopped:
            return
        if not self.ingress.is_turn_scheduled:
            # WHY: what is read in one turn of the loop has begun at one time, near enough.
            self.ingress.now_us = monotonic_us()
        self.ingress.row.add(COUNT_REQUEST_BYTES, <uint64_t>size)
        if self.backlog is not None:
            keep_backlog(self, self.backlog[self.backlog_at:] + data, 0)
        elif not is_read_lone(self.ingress):
            self.feed_slices(data, 0)
        else:
            self.ingress.has_own_turn = True
            try:
                self.feed_slices(data, 0)
            finally:
                end_own_turn(self.ingress)

    cdef int feed_slices(self, bytes data, Py_ssize_t at) except -1:
        """Parse `data` from `at` on, piece by piece, as far as this connection may now."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef int owed_before = self.owed_count
        cdef Py_ssize_t take
        view = None
        while at < size and not self.is_stopped:
            if self.is_reading_paused:
                return keep_backlog(self, data, at)
            if self.owed_count - owed_before >= PIPELINED_A_TURN:
                return wait_for_turn(self, data, at)
            if self.phase == PHASE_IDLE or self.is_body_alone:
                take = take_usual(self, data, at)
                if take > 0:
                    at += take
                    continue
            if at == 0 and size <= SLICE_BYTES:
                return self.feed_bytes(data, size)
            if view is None:
                view = memoryview(data)
            take = SLICE_BYTES
            if self.phase == PHASE_BODY and self.content_length - self.body_size > take:
                take = self.content_length - self.body_size
            if take > size - at:
                take = size - at
            self.feed_bytes(view[at:at + take], take)
            at += take
        return 0

    cdef int feed_bytes(self, object data, Py_ssize_t size) except -1:
        """Give bytes to the parser, and count those that bring no body nearer to its end."""
        cdef Request request_before = self.current
        self.feeding = data
        self.line_from = 0
        self.is_line_here = False
        self.feeding_phase = self.phase
        self.feeding_body = self.body_size
        if self.phase == PHASE_IDLE:
            self.is_line_first = True
        try:
            self.feed(data)
        except HttpParserUpgrade as upgrade:
            return read_past_upgrade(self, data, upgrade.args[0])
        except HttpParserCallbackError as error:
            self.ingress.report_defect("a parser callback failed", error.__context__ or error)
            self.fault("internal", "internal error")
            return 0
        except HttpParserError as error:
            self.fault("bad-request-framing", f"not a valid HTTP/1.1 request: {clip(error)}")
            return 0
        self.feeding = None
        if self.is_stopped or self.current is None:
            return 0
        if self.phase == PHASE_HEAD:
            keep_line(self, data)
        elif self.phase == PHASE_BODY:
            keep_arrived(self)
            if self.is_stopped:
                return 0
        if self.current is not request_before:
            return 0
        if self.phase == PHASE_HEAD:
            # LIMIT: no callback comes while a field is incomplete, so the bytes themselves count.
            self.head_bytes += size
            if self.head_bytes > self.ingress.request_line_bytes_max + self.ingress.headers_bytes_max:
                if self.current.url is None:
                    self.fault("bad-request-framing", "a request line without a target")
                else:
                    self.fault("head-too-large",
                               f"head of more than {self.ingress.headers_bytes_max} bytes")
        elif self.transfer_coding is not None:
            self.raw_bytes += size - (self.body_size - self.feeding_body)
            if self.raw_bytes > CHUNK_OVERHEAD_BYTES_MAX + 8 * self.body_size:
                self.fault("bad-request-framing", "chunk extensions or trailers are too large")
        return 0

    def eof_received(self) -> bool:
        """The client sends no more. Returns whether the connection stays open for answers."""
        if self.is_lingering or self.is_closed:
            return False
        self.is_half_closed = True
        if self.backlog is None:
            self.end_input()
        # WHY: asyncio has no half-closed TLS; to ask for it only warns.
        return self.head is not None and not self.is_tls

    cdef int end_input(self) except -1:
        """Nothing more will come: what is half read is an error."""
        if self.current is not None and not self.is_stopped:
            if self.phase == PHASE_BODY:
                self.fault("bad-request-framing",
                           f"the body ended after {self.body_size} bytes; more were announced")
            elif self.phase == PHASE_HEAD:
                self.fault("bad-request-framing", "the request ended inside its head")
        self.is_stopped = True
        return 0

    def connection_lost(self, exc) -> None:
        self.is_closed = self.is_stopped = True
        self.ingress.connections.discard(self)
        drop_backlog(self)
        self.ingress.unread_bytes -= self.unread_bytes
        self.unread_bytes = 0
        if self.address is not None:
            self.ingress.visitors.leave(self.address)
            self.address = None
        cdef Request request = self.head
        cdef Request next_request
        while request is not None:
            next_request = request.next
            request.next = None
            request.state = REQUEST_GONE
            release(self.ingress, request)
            if request.pull is not None:
                # WHY: the answer was never written; the group gets the messages at once.
                request.pull.acknowledge(b"-NAK")
                request.pull = None
            request = next_request
        if self.current is not None:
            self.current.state = REQUEST_GONE
        self.head = self.tail = self.current = None
        self.parser = self.feed = self.transport = None
        self.known_credential = self.known_principal = self.feeding = self.line = None
        self.known_url = self.known_route = self.known_host = self.known_type = None
        self.assembly = self.whole = self.sink = None
        drop_buffer(&self.fields)

    def pause_writing(self) -> None:
        # WHY: a client that reads nothing for as long as an idle one may stay is let go, whatever
        # it sends meanwhile.
        self.is_paused = True
        self.paused_until_ms = self.ingress.now_ms + self.ingress.idle_timeout_ms
        self.unread_bytes = self.transport.get_write_buffer_size()
        self.ingress.unread_bytes += self.unread_bytes

    def resume_writing(self) -> None:
        self.is_paused = False
        self.ingress.unread_bytes -= self.unread_bytes
        self.unread_bytes = 0
        self.mark_dirty()

    # --- httptools callbacks ----------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.is_stopped or self.is_replaying:
            return
        if not self.is_line_first:
            find_line(self)
        self.begin_request()

    cdef Request begin_request(self):
        """A message begins: nothing is known of it yet."""
        cdef Request request = Request.__new__(Request)
        request.conn = self
        request.began_us = self.ingress.now_us
        self.has_asked = True
        self.current = request
        self.phase = PHASE_HEAD
        self.is_routed = self.has_upgrade = self.expects_continue = self.is_body_alone = False
        self.hosts_count = self.fields_count = 0
        self.head_bytes = self.fields_bytes = self.raw_bytes = self.body_size = 0
        self.content_length = -1
        self.transfer_coding = self.host = self.connection_value = None
        self.fields.size = 0
        self.deadline_ms = self.ingress.now_ms + self.ingress.head_timeout_ms
        return request

    def on_url(self, bytes url) -> None:
        cdef Request request = self.current
        if request is None or self.is_stopped or self.is_replaying:
            return
        request.url = url if request.url is None else request.url + url
        if PyBytes_GET_SIZE(request.url) > self.ingress.request_line_bytes_max:
            self.fault("target-too-long",
                       f"request target of more than {self.ingress.request_line_bytes_max} bytes")

    def on_header(self, bytes name, bytes value) -> None:
        cdef Request request = self.current
        cdef Field kind
        if request is None or self.is_stopped or self.is_replaying:
            return
        if self.phase != PHASE_HEAD:
            # Trailers come through here too, behind the head; they are dropped.
            if find_field(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name)) in (
                    FIELD_CONNECTION, FIELD_DROPPED):
                # WHY: llhttp obeys Connection and Proxy-Connection in a trailer and reads on as they
                # say; so this message is the last.
                request.keeps_alive = False
            return
        if not self.is_routed:
            self.route(request)
            if self.is_stopped:
                return
        self.fields_count += 1
        self.fields_bytes += PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(value) + 4
        if (self.fields_bytes > self.ingress.headers_bytes_max
                or self.fields_count > self.ingress.headers_count_max):
            self.fault("head-too-large",
                       f"more than {self.ingress.headers_bytes_max} bytes or "
                       f"{self.ingress.headers_count_max} header fields")
            return
        value = without_padding(value)
        kind = find_field(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        if request.header_list is not None:
            request.header_list.append((name, value))
        elif kind == FIELD_PLAIN and request.station.forwards_all:
            put_field(&self.fields, name, value)
        elif is_forwardable(kind) and not (kind == FIELD_PLAIN and request.station.forwards_none):
            forward_field(&self.fields, request, kind, name, value)
        if request.station is not None and request.station.signature_names is not None:
            keep_signature_field(request, name, value)
        if kind != FIELD_PLAIN:
            note_field(self, request, kind, value)

    def on_headers_complete(self) -> None:
        cdef Request request = self.current
        if request is None or self.is_stopped or self.is_replaying:
            return
        if not self.is_routed:
            self.route(request)
            if self.is_stopped:
                return
        self.begin_body(request)
        if check_head(self, request):
            self.admit(request)

    cdef int begin_body(self, Request request) except -1:
        """The head is whole: its answer is owed from now on."""
        self.phase = PHASE_BODY
        self.body_since_ms = self.ingress.now_ms
        self.deadline_ms = self.ingress.now_ms + min(
            self.ingress.body_timeout_ms, self.ingress.body_rate_grace_ms)
        return self.owe(request)

    def on_body(self, bytes chunk) -> None:
        cdef Request request = self.current
        if request is None or self.is_stopped:
            return
        count_part(self, PyBytes_GET_SIZE(chunk))
        if self.body_size > self.body_max:
            self.fault("body-too-large", f"body of more than {self.body_max} bytes")
        elif request.answer is not None:
            if self.body_size > REFUSED_BODY_BYTES_MAX:
                self.answer_at_once(request)
        elif PyBytes_GET_SIZE(chunk) == self.content_length:
            request.body_bytes = chunk
        elif self.content_length >= 0:
            put_part(self, PyBytes_AS_STRING(chunk), PyBytes_GET_SIZE(chunk))
        elif request.body_bytes is None:
            request.body_bytes = chunk
        else:
            if self.assembly is None:
                self.assembly = bytearray(request.body_bytes)
            self.assembly += chunk

    def on_message_complete(self) -> None:
        cdef Request request = self.current
        if request is None or self.is_stopped:
            return
        if self.has_upgrade and not self.is_replaying:
            # WHY: llhttp ends an upgrade request at its head; its body follows in what it calls the
            # new protocol, and `read_past_upgrade` fetches it.
            return
        self.finish_body(request)

    cdef int finish_body(self, Request request) except -1:
        """The last of the body has come, if there is one."""
        if self.assembly is not None:
            request.body_bytes = bytes(self.assembly)
            self.assembly = None
        elif self.whole is not None:
            if self.body_size < self.content_length:
                raise InternalError("the parser gave less of a body than was announced")
            request.body_bytes = self.whole
            self.whole = None
        return self.complete_request(request, &self.fields)

    cdef int complete_request(self, Request request, Buffer* fields) except -1:
        """The message is whole."""
        self.current = None
        self.phase = PHASE_IDLE
        self.deadline_ms = 0
        if request.body_bytes is None:
            request.body_bytes = b""
        request.is_complete = True
        if not request.keeps_alive:
            self.is_stopped = True
        self.is_line_first = False
        proceed(self.ingress, request, fields)
        if self.owed_count >= self.ingress.pipelined_max and not self.is_reading_paused:
            self.is_reading_paused = True
            self.transport.pause_reading()
        return 0

    # --- reading one request ----------------------------------------------------------------

    cdef int route(self, Request request) except -1:
        """Step 2, as soon as the target is whole."""
        self.is_routed = True
        request.method_name = self.parser.get_method()
        if not is_line_strict(self, request):
            self.fault("bad-request-framing", "the request line is not `METHOD target HTTP/1.1`")
            return 0
        self.line = None
        find_route(self.ingress, request)
        self.body_max = body_max_of(self.ingress, request)
        return 0

    cdef int admit(self, Request request) except -1:
        """Steps 2 and 3 with the whole head known: refuse early what the head alone condemns."""
        if request.method_name == b"CONNECT" and not self.is_replaying:
            self.fault("method-not-allowed", "CONNECT is not served")
            return 0
        if request.answer is None:
            try:
                admit(self.ingress, request)
            except Fault as fault:
                request.refuse(fault.kind.word, fault.text)
        if request.answer is not None:
            if (self.expects_continue or self.transfer_coding is not None
                    or self.content_length > REFUSED_BODY_BYTES_MAX):
                self.answer_at_once(request)
        elif self.expects_continue and (self.content_length > 0 or self.transfer_coding is not None):
            request.owes_continue = True
            self.mark_dirty()
        return 0

    cdef int answer_at_once(self, Request request) except -1:
        """Answer without waiting for the body, whose end nobody can know then."""
        request.keeps_alive = False
        self.stop_reading()
        return request.make_ready()

    # --- answers ----------------------------------------------------------------------------

    cdef inline int owe(self, Request request) except -1:
        """Put the request behind those that are answered before it."""
        if self.tail is None:
            self.head = request
        else:
            self.tail.next = request
        self.tail = request
        self.owed_count += 1
        return 0

    cdef int stop_reading(self) except -1:
        self.is_stopped = True
        self.current = None
        self.assembly = self.whole = None
        leave_sink(self)
        drop_backlog(self)
        self.phase = PHASE_IDLE
        return 0

    cdef int fault(self, str word, str text) except -1:
        """Answer with a fault behind all earlier answers, and read nothing more."""
        cdef Request request = self.current
        if self.is_stopped:
            return 0
        if request is None:
            request = Request.__new__(Request)
            request.conn = self
        if self.phase != PHASE_BODY:
            self.owe(request)
        self.stop_reading()
        request.refuse(word, text)
        request.keeps_alive = False
        # SOURCE: RFC 9110 §9.3.2, an answer to HEAD has no content, whatever is wrong.
        request.is_head = request.method_name == b"HEAD"
        return request.make_ready()

    cdef inline int mark_dirty(self) except -1:
        """Something is to be written: do it at the end of this turn."""
        if not self.is_dirty and not self.is_closed:
            self.is_dirty = True
            self.ingress.dirty.append(self)
            self.ingress.schedule_turn()
        return 0

    cdef int flush(self) except -1:
        """Write every answer that is ready and next in order, in one write."""
        cdef Buffer* out = &self.ingress.scratch
        cdef Request request
        cdef bint closes = False
        self.is_dirty = False
        if self.is_closed or self.is_paused:
            return 0
        out.size = 0
        while self.head is not None and self.head.state == REQUEST_READY and not closes:
            request = self.head
            self.head = request.next
            if self.head is None:
                self.tail = None
            request.next = None
            self.owed_count -= 1
            closes = not request.keeps_alive or (self.ingress.is_draining and self.head is None)
            put_answer(out, request, self.ingress, closes)
            count_answer(self.ingress.row, request, self.ingress.now_us)
            request.state = REQUEST_GONE
            if request.charged_bytes or request.answer_bytes:
                release(self.ingress, request)
            self.ingress.after_answer(request)
        if self.head is not None and self.head.owes_continue and not closes:
            self.head.owes_continue = False
            if self.head.state != REQUEST_READY and not self.head.is_complete:
                put_object(out, CONTINUE)
        if out.size:
            self.ingress.row.add(COUNT_RESPONSE_BYTES, out.size)
            self.write(out)
        if closes or (self.is_half_closed and self.head is None and self.backlog is None):
            return self.close_after_answers()
        if self.head is None and self.current is None:
            self.deadline_ms = self.ingress.now_ms + self.ingress.idle_timeout_ms
        # WHY 2: the request whose body is half read is owed an answer, too.
        if (self.is_reading_paused and not self.is_starved and not self.is_in_turn_line
                and self.owed_count * 2 <= max(2, self.ingress.pipelined_max)):
            read_on(self)
        return 0

    cdef int write(self, Buffer* out) except -1:
        """Send to the socket itself; what it does not take goes through the transport."""
        cdef ssize_t sent = 0
        if self.fd >= 0:
            sent = send(self.fd, out.data, out.size, MSG_NOSIGNAL | MSG_DONTWAIT)
            if sent < 0:
                # WHY: EAGAIN is no failure, and of any other the transport's own write tells.
                sent = 0
        if <size_t>sent < out.size:
            self.transport.write(
                PyBytes_FromStringAndSize(out.data + sent, <Py_ssize_t>(out.size - <size_t>sent))
            )
        return 0

    cdef int close_after_answers(self) except -1:
        """The last answer is out: say so to the client, and let it read before the socket dies.

        WHY: closing while unread bytes wait makes the kernel send a reset, which can overtake the
        answer. So the write side is closed first, and what still comes is dropped for a while.
        """
        if self.is_closed or self.is_lingering:
            return 0
        self.stop_reading()
        if self.head is not None:
            return 0
        if self.is_half_closed or self.is_tls:
            self.transport.close()
            return 0
        self.is_lingering = True
        if self.is_reading_paused:
            self.is_reading_paused = False
            self.transport.resume_reading()
        self.deadline_ms = self.ingress.now_ms + LINGER_MS
        self.transport.write_eof()
        return 0
