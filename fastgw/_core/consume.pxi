# Consume: one pull request -> the JSON of its messages, written from the broker's bytes.
#
# A pull owns one subscription while it runs, because deliveries carry the original subject: only the
# subscription id tells to which request they belong. A finished pull leaves it clean for the next.
# Messages are acknowledged after the answer was handed to the client, or given back when it has left.

@cython.final
cdef class Pull:
    """One consume request on its way."""

    cdef Request request
    cdef BrokerLink link
    cdef int64_t sid
    cdef bytes inbox, subject
    cdef int messages_count, batch
    cdef bint wants_metadata
    cdef Buffer json
    cdef Buffer ack_subjects       # one a line
    cdef uint64_t deadline_ms
    cdef object on_missing

    def __dealloc__(self):
        drop_buffer(&self.json)
        drop_buffer(&self.ack_subjects)

    cdef int deliver(self, Op* op, const char* data) except -1:
        """Add one delivered message to the answer; of a client that has left only keep the ack's subject."""
        cdef Buffer* json = &self.json
        cdef int64_t size = <int64_t>json.size
        put(&self.ack_subjects, op.reply_borrowed, <size_t>op.reply_size)
        put(&self.ack_subjects, b"\n", 1)
        self.messages_count += 1
        self.link.ingress.row.add(COUNT_DELIVERIES, 1)
        if self.request.state == REQUEST_GONE:
            return 0
        put(json, b",", 1) if size else put(json, b"[", 1)
        put(json, b'{"message":', 11)
        put_message_text(json, data + op.header_size, op.total_size - op.header_size)
        put(json, b',"headers":{', 12)
        if op.header_size:
            put_header_members(json, data, op.header_size)
        put(json, b"}", 1)
        if self.wants_metadata:
            put_object(json, delivery_metadata(
                op.subject_borrowed[:op.subject_size], op.reply_borrowed[:op.reply_size]
            ))
        put(json, b"}", 1)
        size = <int64_t>json.size - size
        self.request.answer_bytes += size
        self.link.ingress.unread_bytes += size
        return 0

    cdef int answer(self) except -1:
        """Hand what has arrived to the request; messages of a client that has left go back."""
        cdef Request request = self.request
        if request.state == REQUEST_GONE:
            self.acknowledge(b"-NAK")
            return 0
        put(&self.json, b"]", 1) if self.messages_count else put(&self.json, b"[]", 2)
        request.answer = CONSUMED_HEAD
        request.answer_body = copy_of(&self.json)
        drop_buffer(&self.json)
        request.pull = self
        return request.make_ready()

    cdef int acknowledge(self, bytes verb) except -1:
        """Publish `verb` (four bytes) for each message of this pull, once."""
        cdef const char* subject = self.ack_subjects.data
        cdef const char* stop = end_of(&self.ack_subjects)
        cdef const char* newline
        cdef Buffer* out = &self.link.out
        if self.link.is_lost:
            return 0
        while subject < stop:
            newline = <const char*>memchr(subject, 10, stop - subject)
            reserve(out, <size_t>(newline - subject) + 32)
            put_reserved(out, b"PUB ", 4)
            put_reserved(out, subject, <size_t>(newline - subject))
            put_reserved(out, b" 4\r\n", 4)
            put_reserved(out, PyBytes_AS_STRING(verb), 4)
            put_reserved(out, b"\r\n", 2)
            subject = newline + 1
        drop_buffer(&self.ack_subjects)
        self.link.ingress.schedule_turn()
        return 0


cdef bytes CONSUMED_HEAD = answer_head(200, (), b"application/json")


cdef int put_json_text(Buffer* json, const char* text, Py_ssize_t size) except -1:
    """Append `text`, which is UTF-8, as the inside of a JSON string. SOURCE: RFC 8259 §7."""
    cdef const char* end = text + size
    cdef const char* run
    cdef unsigned char c
    cdef char* at
    while True:
        run = fastgw_string_run(text, end)
        # WHY: six bytes is the longest escape, so one reserve serves the run and what ends it.
        reserve(json, <size_t>(run - text) + 6)
        put_reserved(json, text, <size_t>(run - text))
        if run == end:
            return 0
        c = <unsigned char>run[0]
        at = end_of(json)
        at[0] = 92
        if c == 34 or c == 92:
            at[1] = <char>c
            json.size += 2
        elif c == 10 or c == 13 or c == 9:
            at[1] = 110 if c == 10 else (114 if c == 13 else 116)
            json.size += 2
        else:
            memcpy(at + 1, b"u00", 3)
            at[4] = 48 + (c >> 4)
            at[5] = b"0123456789abcdef"[c & 15]
            json.size += 6
        text = run + 1


cdef bint is_utf8(const char* text, Py_ssize_t size) except -1:
    if fastgw_is_ascii(text, size):
        return True
    try:
        PyUnicode_DecodeUTF8(text, size, NULL)
    except UnicodeDecodeError:
        return False
    return True


cdef int put_message_text(Buffer* json, const char* payload, Py_ssize_t size) except -1:
    """Append a payload as a JSON string, or as base64 with its `encoding` member beside it."""
    cdef bytes encoded
    put(json, b'"', 1)
    if is_utf8(payload, size):
        put_json_text(json, payload, size)
        return put(json, b'"', 1)
    encoded = b2a_base64(payload[:size], newline=False)
    put_object(json, encoded)
    return put(json, b'","encoding":"base64"', 21)


cdef int put_header_text(Buffer* json, const char* text, Py_ssize_t size) except -1:
    """Append a header's name or value; bytes that are not UTF-8 are read as Latin-1."""
    cdef bytes recoded
    if is_utf8(text, size):
        return put_json_text(json, text, size)
    recoded = text[:size].decode("latin-1").encode()
    return put_json_text(json, PyBytes_AS_STRING(recoded), PyBytes_GET_SIZE(recoded))


cdef struct HeaderLine:
    const char* name_borrowed
    Py_ssize_t name_size
    const char* value_borrowed
    Py_ssize_t value_size


cdef bint next_header(const char** at, const char* end, HeaderLine* line) noexcept nogil:
    """Read the next `name: value` line of a block; returns whether there was one."""
    cdef const char* start = at[0]
    cdef const char* newline
    cdef const char* stop
    cdef const char* colon
    while start < end:
        newline = <const char*>memchr(start, 10, end - start)
        if newline == NULL:
            return False
        stop = newline - 1 if newline > start and (newline - 1)[0] == 13 else newline
        at[0] = newline + 1
        colon = <const char*>memchr(start, 58, stop - start)
        if colon != NULL and colon > start:
            line.name_borrowed = start
            line.name_size = colon - start
            colon += 1
            while colon < stop and colon[0] == 32:
                colon += 1
            line.value_borrowed = colon
            line.value_size = stop - colon
            return True
        start = newline + 1
    return False


cdef inline bint is_same_name(HeaderLine* a, HeaderLine* b) noexcept nogil:
    return a.name_size == b.name_size and memcmp(
        a.name_borrowed, b.name_borrowed, <size_t>a.name_size) == 0


cdef inline bint is_batch_field(HeaderLine* line) noexcept nogil:
    """Whether it tells how the message came into the stream, which is nobody's business."""
    return line.name_size > 11 and memcmp(line.name_borrowed, b"Nats-Batch-", 11) == 0


cdef int put_many_header_members(Buffer* json, const char* first, const char* end) except -1:
    """Append the headers of a long block; see `put_header_members`."""
    cdef dict values = {}
    cdef HeaderLine line
    cdef bint is_first = True
    while next_header(&first, end, &line):
        if is_batch_field(&line):
            continue
        name = line.name_borrowed[:line.name_size]
        values.setdefault(name, []).append(line.value_borrowed[:line.value_size])
    for name, found in values.items():
        put(json, b'"', 1) if is_first else put(json, b',"', 2)
        is_first = False
        put_header_text(json, PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name))
        put(json, b'":"', 3)
        joined = b", ".join(found)
        put_header_text(json, PyBytes_AS_STRING(joined), PyBytes_GET_SIZE(joined))
        put(json, b'"', 1)
    return 0


cdef int put_header_members(Buffer* json, const char* block, Py_ssize_t size) except -1:
    """Append the headers of a block as members; values of one name are joined by a comma.

    SOURCE: RFC 9110 §5.3 for the joining; a JSON object must not name a member twice.
    """
    cdef const char* first = <const char*>memchr(block, 10, size)
    cdef const char* end = block + size
    cdef const char* at
    cdef const char* other_at
    cdef HeaderLine line, other
    cdef bint was_seen, is_first = True
    if first == NULL:
        return 0
    at = first + 1
    if size > SHORT_BLOCK_BYTES_MAX:
        # WHY: comparing each name with each costs the square of their number.
        return put_many_header_members(json, at, end)
    while next_header(&at, end, &line):
        was_seen = is_batch_field(&line)
        other_at = first + 1
        while next_header(&other_at, end, &other) and other.name_borrowed < line.name_borrowed:
            if is_same_name(&line, &other):
                was_seen = True
                break
        if was_seen:
            continue
        put(json, b'"', 1) if is_first else put(json, b',"', 2)
        is_first = False
        put_header_text(json, line.name_borrowed, line.name_size)
        put(json, b'":"', 3)
        put_header_text(json, line.value_borrowed, line.value_size)
        other_at = at
        while next_header(&other_at, end, &other):
            if is_same_name(&line, &other):
                put(json, b", ", 2)
                put_header_text(json, other.value_borrowed, other.value_size)
        put(json, b'"', 1)
    return 0


cdef bytes delivery_metadata(bytes subject, bytes ack_subject):
    """The members `seq`, `timestamp`, `deliveries` and `subject` of a delivered message.

    SOURCE: ADR-15; `$JS.ACK.<stream>.<consumer>.<deliveries>.<seq>.<consumer seq>.<ns>.<pending>`,
    with domain and account hash behind `ACK` in the longer form.
    """
    tokens = ack_subject.split(b".")
    base = 4 if len(tokens) == 9 else 6
    try:
        members = {
            "seq": int(tokens[base + 1]),
            "timestamp": nanoseconds_text(int(tokens[base + 3])),
            "deliveries": int(tokens[base]),
            "subject": subject.decode("utf-8", "replace"),
        }
    except (IndexError, ValueError, OverflowError, OSError):
        # WHY: a message that no consumer has sent tells only its subject; what else came with it
        # must still be delivered.
        members = {"subject": subject.decode("utf-8", "replace")}
    cdef bytes text = msgspec.json.encode(members)
    return b"," + text[1:len(text) - 1]


cdef str nanoseconds_text(object nanoseconds):
    """Nanoseconds since 1970 as RFC 3339 with nine digits of fraction, UTC."""
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"
