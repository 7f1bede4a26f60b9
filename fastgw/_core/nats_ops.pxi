# Step 7: broker bytes -> ops. A leaf that reads one control line; the link feeds it and acts on it.
#
# SOURCE: NATS client protocol. Tolerates more than one space between arguments (advisories have two).

cdef enum OpKind:
    OP_MORE       # the line is not whole yet
    OP_MSG
    OP_HMSG
    OP_PING
    OP_PONG
    OP_INFO
    OP_ERROR
    OP_OK
    OP_UNKNOWN


cdef struct Op:
    OpKind kind
    # DANGER: borrowed from the bytes that were fed; dead after the next read.
    const char* subject_borrowed
    Py_ssize_t subject_size
    const char* reply_borrowed
    Py_ssize_t reply_size
    const char* text_borrowed
    Py_ssize_t text_size
    int64_t sid
    int64_t header_size
    int64_t total_size
    Py_ssize_t line_size


cdef inline bint parse_delivery(const char* line, const char* end, bint has_headers, Op* op) noexcept nogil:
    """Read the arguments of MSG or HMSG. Returns whether they are well-formed."""
    cdef const char* starts[5]
    cdef Py_ssize_t sizes[5]
    cdef int count = 0
    cdef int wanted = 4 if has_headers else 3
    cdef const char* p = line
    while p < end:
        if p[0] == 32:
            p += 1
            continue
        if count == 5:
            return False
        starts[count] = p
        while p < end and p[0] != 32:
            p += 1
        sizes[count] = p - starts[count]
        count += 1
    if count != wanted and count != wanted + 1:
        return False
    op.subject_borrowed = starts[0]
    op.subject_size = sizes[0]
    op.sid = parse_decimal(starts[1], sizes[1])
    op.reply_size = 0
    if count == wanted + 1:
        op.reply_borrowed = starts[2]
        op.reply_size = sizes[2]
    op.header_size = parse_decimal(starts[count - 2], sizes[count - 2]) if has_headers else 0
    op.total_size = parse_decimal(starts[count - 1], sizes[count - 1])
    return op.sid >= 0 and 0 <= op.header_size <= op.total_size


cdef inline void parse_op(const char* data, Py_ssize_t size, Op* op) noexcept nogil:
    """Read the control line at `data`; `op.line_size` is its size with CRLF, 0 for OP_MORE."""
    cdef const char* newline = <const char*>memchr(data, 10, size)
    cdef const char* end
    cdef Py_ssize_t verb = 0
    op.line_size = 0
    if newline == NULL:
        op.kind = OP_MORE
        return
    op.line_size = newline + 1 - data
    end = newline - 1 if newline > data and (newline - 1)[0] == 13 else newline
    while data + verb < end and data[verb] != 32 and verb < 5:
        verb += 1
    op.text_borrowed = data + verb
    op.text_size = end - op.text_borrowed
    op.kind = OP_UNKNOWN
    if verb == 3 and is_same_text(data, b"msg", 3):
        if parse_delivery(data + 4, end, False, op):
            op.kind = OP_MSG
    elif verb == 4:
        if is_same_text(data, b"hmsg", 4):
            if parse_delivery(data + 5, end, True, op):
                op.kind = OP_HMSG
        elif is_same_text(data, b"ping", 4):
            op.kind = OP_PING
        elif is_same_text(data, b"pong", 4):
            op.kind = OP_PONG
        elif is_same_text(data, b"info", 4):
            op.kind = OP_INFO
        elif is_same_text(data, b"-err", 4):
            op.kind = OP_ERROR
    elif verb == 3 and is_same_text(data, b"+ok", 3):
        op.kind = OP_OK


cdef inline int64_t parse_ack_line(
    const char* data, Py_ssize_t size, bytes line_head, Op* op
) noexcept:
    """Read the line of an ack by position: `line_head`, a number, ` 1 `, a size, CRLF.

    Returns the number; -1, with `op` untouched, for any other line, which `parse_op` reads.
    WHY: acks are nearly all that a broker sends here, and it writes each of them like this.
    """
    cdef Py_ssize_t head_size = PyBytes_GET_SIZE(line_head)
    cdef const char* end = data + size
    cdef const char* p = data + head_size
    cdef int64_t number = 0
    cdef int64_t payload_size = 0
    # A whole ack has more behind the head than this, and no more than 18 bytes of it are read here.
    if size < head_size + 22 or memcmp(data, PyBytes_AS_STRING(line_head), <size_t>head_size) != 0:
        return -1
    end = p + 10
    if not 48 <= p[0] <= 57:
        return -1
    while p < end and 48 <= p[0] <= 57:
        number = number * 10 + (p[0] - 48)
        p += 1
    if p[0] != 32 or p[1] != 49 or p[2] != 32 or not 48 <= p[3] <= 57:
        return -1
    p += 3
    end = p + 3
    while p < end and 48 <= p[0] <= 57:
        payload_size = payload_size * 10 + (p[0] - 48)
        p += 1
    if p[0] != 13 or p[1] != 10:
        return -1
    op.kind = OP_MSG
    op.header_size = 0
    op.total_size = payload_size
    op.line_size = p + 2 - data
    return number


cdef inline int parse_status(const char* block, Py_ssize_t size) noexcept nogil:
    """The code of a status line `NATS/1.0 503 …`, or 0 when the block is plain headers."""
    cdef int64_t code
    if size < 14 or memcmp(block, b"NATS/1.0 ", 9) != 0:
        return 0
    code = parse_decimal(block + 9, 3)
    return <int>code if code > 0 else 0
