# Which header is which, and which of them become headers of the message.
#
# `find_field` classifies a name by its length and letters; `put_field` appends one line to the header
# block of the frame. DANGER: a value with CR or LF would forge broker headers (`Nats-Rollup: all`
# erases a stream), so every value passes the check here although the parser refuses them too.

cdef enum Field:
    FIELD_PLAIN
    FIELD_TRACE              # always copied
    FIELD_HOST
    FIELD_AUTHORIZATION
    FIELD_API_KEY
    FIELD_DROPPED            # hop-by-hop and secrets
    FIELD_UPGRADE
    FIELD_CONNECTION
    FIELD_EXPECT
    FIELD_CONTENT_LENGTH
    FIELD_CONTENT_TYPE
    FIELD_CONTENT_ENCODING
    FIELD_TRANSFER_ENCODING
    FIELD_ORIGIN
    FIELD_NATS
    FIELD_MESSAGE_ID         # Idempotency-Key, msg-id, webhook-id, svix-id
    FIELD_SUBJECT
    FIELD_HANDSHAKE

# SOURCE: the allow-list of the contract; the server compares these names with regard to case.
cdef dict NATS_NAMES = {
    name.lower(): name
    for name in (
        b"Nats-Expected-Last-Sequence",
        b"Nats-Expected-Last-Subject-Sequence",
        b"Nats-Expected-Last-Msg-Id",
        b"Nats-TTL",
    )
}


cdef extern from *:
    """
    /* Whether a token equals a lower-case name of letters, digits and hyphens, without regard to
       case: by words, which the compiler unrolls for the sizes that are known to it. Bit 5 makes
       lower case of a letter, and of no other byte of a token does it make a letter, digit or
       hyphen. SOURCE: RFC 9110 §5.6.2. */
    static inline int fastgw_is_name(const char *p, const char *lower, Py_ssize_t n) {
        unsigned long long a, b;
        unsigned int c, d;
        if (n >= 8) {
            Py_ssize_t i = 0;
            for (;;) {
                __builtin_memcpy(&a, p + i, 8);
                __builtin_memcpy(&b, lower + i, 8);
                if ((a | 0x2020202020202020ULL) != b) return 0;
                if (i == n - 8) return 1;
                i = i + 16 > n ? n - 8 : i + 8;
            }
        }
        if (n >= 4) {
            __builtin_memcpy(&c, p, 4);
            __builtin_memcpy(&d, lower, 4);
            if ((c | 0x20202020U) != d) return 0;
            __builtin_memcpy(&c, p + n - 4, 4);
            __builtin_memcpy(&d, lower + n - 4, 4);
            return (c | 0x20202020U) == d;
        }
        for (; n > 0; n--, p++, lower++) if ((*p | 0x20) != *lower) return 0;
        return 1;
    }
    """
    bint is_name "fastgw_is_name" (const char* token, const char* lower, Py_ssize_t size) noexcept nogil


cdef inline Field find_field(const char* name, Py_ssize_t size) noexcept nogil:
    """Which header is called `name`, which is a token: the parser takes no other."""
    if size == 2:
        if is_name(name, b"te", 2):
            return FIELD_DROPPED
    elif size == 4:
        if is_name(name, b"host", 4):
            return FIELD_HOST
    elif size == 6:
        if is_name(name, b"cookie", 6):
            return FIELD_DROPPED
        if is_name(name, b"expect", 6):
            return FIELD_EXPECT
        if is_name(name, b"origin", 6):
            return FIELD_ORIGIN
        if is_name(name, b"msg-id", 6):
            return FIELD_MESSAGE_ID
    elif size == 7:
        if is_name(name, b"upgrade", 7):
            return FIELD_UPGRADE
        if is_name(name, b"svix-id", 7):
            return FIELD_MESSAGE_ID
        if is_name(name, b"trailer", 7):
            return FIELD_DROPPED
        if is_name(name, b"baggage", 7):
            return FIELD_TRACE
    elif size == 9:
        if is_name(name, b"x-api-key", 9):
            return FIELD_API_KEY
    elif size == 10:
        if is_name(name, b"connection", 10):
            return FIELD_CONNECTION
        if is_name(name, b"keep-alive", 10):
            return FIELD_DROPPED
        if is_name(name, b"webhook-id", 10):
            return FIELD_MESSAGE_ID
        if is_name(name, b"tracestate", 10):
            return FIELD_TRACE
    elif size == 11:
        if is_name(name, b"traceparent", 11):
            return FIELD_TRACE
    elif size == 12:
        if is_name(name, b"content-type", 12):
            return FIELD_CONTENT_TYPE
    elif size == 13:
        if is_name(name, b"authorization", 13):
            return FIELD_AUTHORIZATION
    elif size == 14:
        if is_name(name, b"content-length", 14):
            return FIELD_CONTENT_LENGTH
        if is_name(name, b"http2-settings", 14):
            return FIELD_DROPPED
        if is_name(name, b"fastgw-subject", 14):
            return FIELD_SUBJECT
    elif size == 15:
        if is_name(name, b"idempotency-key", 15):
            return FIELD_MESSAGE_ID
    elif size == 16:
        if is_name(name, b"content-encoding", 16):
            return FIELD_CONTENT_ENCODING
    elif size == 17:
        if is_name(name, b"transfer-encoding", 17):
            return FIELD_TRANSFER_ENCODING
    elif size == 22:
        if is_name(name, b"webhook-request-origin", 22):
            return FIELD_HANDSHAKE
    if size >= 5 and is_name(name, b"nats-", 5):
        return FIELD_NATS
    if size >= 6 and is_name(name, b"proxy-", 6):
        return FIELD_DROPPED
    return FIELD_PLAIN


cdef inline bytes without_padding(bytes value):
    """`value` without the optional white space that the parser leaves behind it."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(value)
    cdef const char* text = PyBytes_AS_STRING(value)
    if size and (text[size - 1] == 32 or text[size - 1] == 9):
        return value.rstrip(b" \t")
    return value


cdef inline int put_field(Buffer* fields, bytes name, bytes value) except -1:
    """Append `name: value` as one line of a header block."""
    cdef Py_ssize_t name_size = PyBytes_GET_SIZE(name)
    cdef Py_ssize_t value_size = PyBytes_GET_SIZE(value)
    # WHY: the name is a token already, the parser takes no other; a value is checked twice.
    if has_control_byte(PyBytes_AS_STRING(value), value_size):
        raise ClientFault("bad-header", f"header '{clip(name)}' has a control byte")
    reserve(fields, <size_t>(name_size + value_size + 4))
    put_reserved(fields, PyBytes_AS_STRING(name), <size_t>name_size)
    put_reserved(fields, b": ", 2)
    put_reserved(fields, PyBytes_AS_STRING(value), <size_t>value_size)
    put_reserved(fields, b"\r\n", 2)
    return 0


cdef int forward_field(Buffer* fields, Request request, Field kind, bytes name, bytes value) except -1:
    """Append the header to the message's block when the contract and the station let it through."""
    cdef Station station = request.station
    if kind == FIELD_NATS:
        lower = name.lower()
        if lower == b"nats-msg-id":
            note_message_id(request, name, value)
        elif lower in station.header_allow and lower in NATS_NAMES:
            put_field(fields, <bytes>NATS_NAMES[lower], value)
        return 0
    if kind == FIELD_MESSAGE_ID:
        note_message_id(request, name, value)
    elif kind == FIELD_CONTENT_TYPE and request.action == ACTION_BATCH:
        value = element_type(value)
    if station.forwards_all or kind == FIELD_TRACE:
        return put_field(fields, name, value)
    if not station.forwards_none and station.forwards(name):
        return put_field(fields, name, value)
    return 0


cdef int note_message_id(Request request, bytes name, bytes value) except -1:
    """Keep the message id of the strongest of the names that can set it.

    Order of strength: `Nats-Msg-Id`, `Idempotency-Key`, `msg-id`, `webhook-id` or `svix-id`.
    """
    cdef int strength = {11: 4, 15: 3, 6: 2, 10: 1, 7: 1}[len(name)]
    if value and strength > request.id_strength:
        request.id_strength = strength
        request.message_id_bytes = value
    return 0


cdef bytes element_type(bytes content_type):
    """The media type of one message of a batch.

    SOURCE: CloudEvents NATS binding §3.2; a batch is undefined there, each event is structured.
    """
    if content_type[:29].lower() == b"application/cloudevents-batch":
        return b"application/cloudevents" + content_type[29:]
    return content_type


cdef int keep_signature_field(Request request, bytes name, bytes value) except -1:
    """Keep a header that the station's verifier reads; one that comes twice verifies nothing."""
    name = name.lower()
    if name in request.station.signature_names:
        if request.signature_fields is None:
            request.signature_fields = {}
        request.signature_fields[name] = b"" if name in request.signature_fields else value
    return 0


cdef bint is_forwardable(Field kind) noexcept nogil:
    return kind in (
        FIELD_PLAIN, FIELD_TRACE, FIELD_HOST, FIELD_CONTENT_TYPE, FIELD_ORIGIN, FIELD_NATS,
        FIELD_MESSAGE_ID, FIELD_SUBJECT,
    )


cdef int drop_named_fields(Buffer* fields, list names) except -1:
    """Take out of a header block the headers that `Connection` names as hop-by-hop.

    SOURCE: RFC 9110 §7.6.1.
    """
    cdef bytes kept = b"".join(
        line + b"\r\n"
        for line in copy_of(fields).split(b"\r\n")
        if line and line.split(b":", 1)[0].lower() not in names
    )
    fields.size = 0
    return put_object(fields, kept)


cdef bint is_host_valid(bytes host) noexcept:
    """Whether `host` is `uri-host [ ":" port ]`.

    SOURCE: RFC 9112 §3.2, RFC 3986 §3.2.2; an IP literal is checked for its letters only.
    """
    cdef const char* text = PyBytes_AS_STRING(host)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(host)
    cdef Py_ssize_t at = 0
    if size and text[0] == 91:
        at = 1
        while at < size and (is_hex(<unsigned char>text[at]) or text[at] == 58 or text[at] == 46):
            at += 1
        if at < 3 or at == size or text[at] != 93:
            return False
        at += 1
    else:
        while at < size:
            if FASTGW_HOST[<unsigned char>text[at]]:
                at += 1
            elif (text[at] == 37 and at + 2 < size and is_hex(<unsigned char>text[at + 1])
                    and is_hex(<unsigned char>text[at + 2])):
                at += 3
            else:
                break
        if at == 0:
            # SOURCE: RFC 9110 §4.2.1, an http URI names a host.
            return False
    if at == size:
        return True
    if text[at] != 58 or size - at > 6:
        return False
    return skip_digits(text + at + 1, text + size) == text + size


def build_fields(headers) -> bytes:
    """Header lines for `Ingress.publish`.

    Args:
        headers: names and values, in order; a name is a token, a value holds no CR, LF or NUL.

    Raises:
        ClientFault: "bad-header".
    """
    cdef Buffer fields = Buffer(NULL, 0, 0)
    try:
        for name, value in headers:
            if not name or has_control_byte(name, len(name)) or b":" in name:
                raise ClientFault("bad-header", f"'{clip(name)}' is no name of a header")
            put_field(&fields, name, value)
        return copy_of(&fields)
    finally:
        drop_buffer(&fields)
