# Step 5: one message -> its HPUB or PUB frame in the write buffer.
#
# Every byte that reaches the broker as a publish passes here. Subjects were checked by
# `check_subject`, header values by `put_field`; sizes by `check_payload`. SOURCE: NATS client protocol.

cdef struct Frame:
    # DANGER: all pointers are borrowed from the request and its station; valid for one call.
    const char* hpub_borrowed
    Py_ssize_t hpub_size
    const char* pub_borrowed
    Py_ssize_t pub_size
    const char* fields_borrowed
    Py_ssize_t fields_size
    const char* id_borrowed
    Py_ssize_t id_size
    Py_ssize_t id_index
    const char* payload_borrowed
    Py_ssize_t payload_size
    bint is_apart            # the caller sends the payload and the line's end behind it


cdef inline Py_ssize_t header_block_size(Frame* frame) noexcept nogil:
    """Size of the header block: version line, fields, message id, blank line; 0 for no block."""
    cdef Py_ssize_t size = frame.fields_size
    if frame.id_size:
        size += 15 + frame.id_size
        if frame.id_index >= 0:
            size += 1 + decimal_size(<uint64_t>frame.id_index)
    return size + 12 if size else 0


cdef inline void put_header_block(Buffer* out, Frame* frame) noexcept nogil:
    put_reserved(out, b"NATS/1.0\r\n", 10)
    put_reserved(out, frame.fields_borrowed, <size_t>frame.fields_size)
    if frame.id_size:
        put_reserved(out, b"Nats-Msg-Id: ", 13)
        put_reserved(out, frame.id_borrowed, <size_t>frame.id_size)
        if frame.id_index >= 0:
            put_reserved(out, b".", 1)
            out.size = <size_t>(write_decimal(end_of(out), <uint64_t>frame.id_index) - out.data)
        put_reserved(out, b"\r\n", 2)
    put_reserved(out, b"\r\n", 2)


cdef inline int put_frame(Buffer* out, Frame* frame, bytes reply_prefix, int64_t number) except -1:
    """Append the frame of one publish whose PubAck comes to `reply_prefix` + `number`; none for -1."""
    cdef Py_ssize_t block = header_block_size(frame)
    cdef Py_ssize_t prefix_size = PyBytes_GET_SIZE(reply_prefix)
    cdef char* at
    reserve(out, <size_t>(frame.hpub_size + prefix_size + 64 + block)
            + (0 if frame.is_apart else <size_t>frame.payload_size))
    if block:
        put_reserved(out, frame.hpub_borrowed, <size_t>frame.hpub_size)
    else:
        put_reserved(out, frame.pub_borrowed, <size_t>frame.pub_size)
    at = end_of(out)
    if number >= 0:
        put_reserved(out, PyBytes_AS_STRING(reply_prefix), <size_t>prefix_size)
        at = write_decimal(end_of(out), <uint64_t>number)
        at[0] = 32
        at += 1
    if block:
        at = write_decimal(at, <uint64_t>block)
        at[0] = 32
        at += 1
    at = write_decimal(at, <uint64_t>(block + frame.payload_size))
    at[0] = 13
    at[1] = 10
    out.size = <size_t>(at + 2 - out.data)
    if block:
        put_header_block(out, frame)
    if not frame.is_apart:
        put_reserved(out, frame.payload_borrowed, <size_t>frame.payload_size)
        put_reserved(out, b"\r\n", 2)
    return 0
