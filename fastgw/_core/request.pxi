# One HTTP request: what the steps hand to each other, and the face that handlers in Python see.
#
# Made by `HttpConnection` when a message begins, answered exactly once, then forgotten. Its answer
# waits until every earlier request of the connection has been answered.

cdef enum RequestState:
    REQUEST_READING
    REQUEST_IDENTIFYING   # an identity check runs off the loop
    REQUEST_SERVING       # in flight, waiting for a slot, or with a handler
    REQUEST_READY         # the answer is known
    REQUEST_GONE          # answered, or the client has left


cdef int note_broker_fault(Request request, str word) except -1:
    """Let the batch say what its messages failed of, and "unknown" when that is true of one.

    WHY one word: the answer has one status; a batch that the broker has refused as a whole must not
    say that parts of it may be stored.
    """
    if word == "ack-timeout":
        word = "outcome-unknown"
    elif word == "broker-busy":
        # SOURCE: the contract, a broker failure in a batch is 503.
        word = "overloaded"
    if request.broker_word is None or word == "outcome-unknown":
        request.broker_word = word
    return 0


@cython.final
@cython.freelist(512)
cdef class Request:
    """One HTTP request, as a handler sees it; made only by the core."""

    cdef HttpConnection conn         # None for a publish of the gateway's own
    cdef object on_done              # told how such a publish ended
    cdef Request next                # the next request of the connection, in answer order
    cdef Request next_waiting        # the next request that waits for free slots
    cdef Station station
    cdef Action action
    cdef RequestState state
    cdef bint keeps_alive, is_old, is_head, is_complete, owes_continue, is_duplicate
    cdef bytes url, method_name, path_bytes, query_bytes
    cdef int id_strength             # of the name that has set the message id
    cdef bytes credential, api_key, content_type, message_id_bytes, suffix, cors_line
    cdef bytes origin, coding        # Origin; Content-Encoding in lower case, None for a plain body
    cdef bytes handshake_origin      # CloudEvents: who asks whether it may deliver here
    cdef bint awaits_signature, is_foreign, is_charged
    cdef dict signature_fields       # headers that the station's verifier reads, or None
    cdef list header_list            # every header as sent; None on a path of a station
    cdef list connection_names       # headers that `Connection` names as hop-by-hop, or None
    cdef bytes body_bytes
    cdef bytes fields                # a copy of the header block, once the request has to wait
    cdef bytes subject               # publish subject with suffix, or None for the station's
    cdef Principal identity
    cdef Pull pull                   # what the answer carries and must be acknowledged behind it
    # The messages of a batch, and how far they are.
    cdef bint is_surely_good         # the message of a single, by the schema's walker
    cdef Buffer spans
    cdef Py_ssize_t messages_count, messages_sent, messages_settled, messages_stored
    cdef list errors, results
    cdef Py_ssize_t messages_judged, verdicts_awaited
    cdef dict replaced               # messages that are stored in another form, by index
    cdef Py_ssize_t forbidden_count  # messages that the broker forbids
    cdef str broker_word             # what has failed at the broker, for the batch as a whole
    cdef bint wants_results, wants_no_wait
    cdef uint64_t waiting_until_ms
    cdef bint is_in_line             # whether it stands in a `WaitingLine`
    cdef int64_t charged_bytes       # of its body, in what waits; see budget.pxi
    cdef int64_t answer_bytes        # of its answer, in what is unread
    # A batch of messages that go out together has no connection: these are its own.
    cdef list members                # (request, index) of each
    cdef Group group
    # The answer.
    cdef uint64_t sequence
    cdef bytes answer, answer_body
    cdef str fault_word              # of the answer, when it is a fault
    cdef uint64_t began_us

    def __cinit__(self):
        self.state = REQUEST_READING
        self.keeps_alive = True

    def __dealloc__(self):
        drop_buffer(&self.spans)

    cdef inline bytes wire_subject(self):
        return self.station.subject if self.subject is None else self.subject

    cdef inline Span span(self, Py_ssize_t index) noexcept:
        """Where message `index` stands in the body."""
        cdef Span whole
        if self.action == ACTION_BATCH:
            return (<Span*>self.spans.data)[index]
        whole.start = 0
        whole.size = PyBytes_GET_SIZE(self.body_bytes)
        whole.is_good = self.is_surely_good
        return whole

    cdef bytes payload_owner(self, Py_ssize_t index):
        """The object that message `index` is part of, as it is stored."""
        if self.replaced is not None and index in self.replaced:
            return self.replaced[index]
        return self.body_bytes

    cdef Py_ssize_t payload_size(self, Py_ssize_t index) except -1:
        """Size of message `index`, as it is stored."""
        if self.replaced is not None and index in self.replaced:
            return len(self.replaced[index])
        return self.span(index).size

    # --- the answer -------------------------------------------------------------------------

    cdef int make_ready(self) except -1:
        """The answer is known: have it written when its turn comes."""
        if self.state == REQUEST_GONE:
            return 0
        if self.conn is None:
            self.state = REQUEST_GONE
            self.on_done(self.messages_stored == 1)
            return 0
        self.state = REQUEST_READY
        self.conn.mark_dirty()
        return 0

    cdef int refuse(self, str word, str text) except -1:
        """Set the answer to a fault of kind `word`; the caller decides when it is ready."""
        kind = KINDS[word]
        self.fault_word = word
        self.answer = FAULT_HEADS[word]
        self.answer_body = fault_body(kind, text)
        if kind.closes:
            self.keeps_alive = False
        if self.conn is not None:
            self.conn.ingress.faults_count += 1
        return 0

    cdef int finish(self, str word, str text) except -1:
        self.refuse(word, text)
        return self.make_ready()

    cdef int settle_stored(self, Py_ssize_t index, uint64_t sequence, bint duplicate) except -1:
        """Message `index` is stored."""
        if self.members is not None:
            return settle_unit(self, sequence, duplicate, <int>(self.messages_stored or 1))
        if self.wants_no_wait:
            return 0
        self.messages_settled += 1
        self.messages_stored += 1
        if sequence > self.sequence:
            self.sequence = sequence
        if self.action == ACTION_SINGLE:
            self.is_duplicate = duplicate
            return self.make_ready()
        if self.results is not None:
            self.results[index] = {"seq": sequence, "duplicate": True} if duplicate else {"seq": sequence}
        return self.finish_batch_when_settled()

    cdef int settle_fault(self, Py_ssize_t index, str word, str text) except -1:
        """Message `index` is not stored, or nobody knows."""
        if self.members is not None:
            return settle_unit_fault(self, word, text)
        if self.wants_no_wait and index < self.messages_sent:
            return 0
        self.messages_settled += 1
        if self.action == ACTION_SINGLE:
            return self.finish(word, text)
        kind = KINDS[word]
        if kind.retryable:
            note_broker_fault(self, word)
        elif word == "forbidden":
            self.forbidden_count += 1
        if self.errors is None:
            self.errors = []
        self.errors.append((index, text))
        if self.results is not None:
            self.results[index] = {"error": text}
        return self.finish_batch_when_settled()

    cdef int settle_unsent(self, str word, str text) except -1:
        """No message that was not sent yet will be sent."""
        cdef Py_ssize_t index
        while self.messages_sent < self.messages_count:
            index = self.messages_sent
            self.messages_sent += 1
            if self.span(index).size >= 0:
                self.settle_fault(index, word, text)
        return 0

    cdef int finish_unwaited(self) except -1:
        """Every message was written to the broker connection, and the client waits for no more."""
        self.messages_stored = self.messages_count - self.messages_settled
        self.messages_settled = self.messages_count
        if self.errors is not None:
            return self.finish_batch_when_settled()
        self.respond(202, STORED_BODY)
        return 0

    cdef int finish_batch_when_settled(self) except -1:
        if self.messages_settled < self.messages_count:
            return 0
        if self.errors is None:
            if self.results is not None:
                self.answer = self.station.answer_head + b"%d\r\n" % self.sequence
                self.answer_body = msgspec.json.encode(
                    {"error": None, "results": self.results, "success": True}
                )
            return self.make_ready()
        self.errors.sort()
        body = {
            "errors": [text for _, text in self.errors],
            "fail": len(self.errors),
            "sent": self.messages_stored,
            "success": False,
        }
        if self.results is not None:
            body["results"] = self.results
        self.fault_word = "bad-batch" if self.broker_word is None else self.broker_word
        if self.forbidden_count == len(self.errors) and self.messages_stored == 0:
            self.fault_word = "forbidden"
        self.answer = FAULT_HEADS[self.fault_word]
        self.answer_body = msgspec.json.encode(body)
        return self.make_ready()

    # --- the face for Python ----------------------------------------------------------------

    @property
    def method(self) -> str:
        return self.method_name.decode("latin-1")

    @property
    def raw_path(self) -> bytes:
        return self.path_bytes

    @property
    def path(self) -> str:
        """The path, percent-decoded once, without the query."""
        return unquote_to_bytes(self.path_bytes).decode("utf-8", "replace")

    @property
    def query(self) -> bytes:
        return self.query_bytes or b""

    @property
    def headers(self) -> list:
        """Every header as sent, in order; empty on a path of a known station."""
        return self.header_list or []

    def header(self, bytes name):
        """Value of the first header called `name` (lower case), or None."""
        if name == b"authorization":
            return self.credential
        if name == b"x-api-key":
            return self.api_key
        if name == b"content-type":
            return self.content_type
        for key, value in self.header_list or ():
            if key.lower() == name:
                return value
        return None

    @property
    def body(self) -> bytes:
        return self.body_bytes or b""

    @property
    def principal(self):
        return self.identity

    @property
    def record(self):
        """The station's record that `Station` was made with; None on other paths."""
        return None if self.station is None else self.station.record

    @property
    def subject(self):
        """Where the message goes, or None on a path of no station."""
        return None if self.station is None else self.wire_subject().decode()

    @property
    def message_id(self):
        """The id that the client gave the message, or None."""
        return None if self.message_id_bytes is None else self.message_id_bytes.decode("latin-1")

    @property
    def client(self) -> str:
        """Address of the client, without its port."""
        return client_address(self.conn)

    @property
    def credential_sent(self):
        """Kind and bytes of the credential that counts, or None.

        The kind is "authorization", "key", "query" or "certificate", whose bytes name the user.
        """
        return find_credential(self)

    @property
    def serves(self) -> str:
        """What the listener is for: "all", "data" or "admin"."""
        return <str>SERVES_WORDS[self.conn.serves]

    @property
    def closed(self) -> bool:
        """Whether the client has left, or the answer was given."""
        return self.state == REQUEST_GONE

    def admit(self, Principal principal) -> bool:
        """Take `principal` for the sender; returns False when it was refused, and answered.

        For handlers that find out late who asks; a request that the core has admitted passes.
        """
        if self.identity is not None:
            return True
        admit_principal(self.conn.ingress, self, principal)
        if self.answer is None:
            return True
        self.make_ready()
        return False

    def respond(
        self,
        int status,
        bytes body=b"",
        tuple headers=(),
        bytes content_type=b"application/json",
    ) -> None:
        """Answer with `status` and `body`; a 204 has no body. A second answer is our bug."""
        if self.state == REQUEST_GONE:
            return
        if self.state == REQUEST_READY:
            raise InternalError("a request was answered twice")
        self.answer = answer_head(status, headers, content_type if body else b"")
        # SOURCE: RFC 9110 §8.6, neither has a Content-Length of its own.
        self.answer_body = None if status == 204 or status == 304 else body
        self.make_ready()

    def fail(self, fault) -> None:
        """Answer with a `Fault`."""
        if self.state != REQUEST_GONE:
            self.finish(fault.kind.word, fault.text)

    def resume(self) -> None:
        """Take the request back to step 2: its station exists now."""
        if self.state != REQUEST_GONE:
            self.conn.ingress.resume(self)
