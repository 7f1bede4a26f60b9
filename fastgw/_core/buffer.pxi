# A growing byte buffer: frames to the broker, header blocks, answers, JSON of consumed messages.
#
# Owned by whoever holds the struct, who must call `drop_buffer` once. Reserve first, then write
# through `end_of`; a pointer into it lives only until the next reserve.

cdef struct Buffer:
    char* data
    size_t size
    size_t capacity


cdef int grow_buffer(Buffer* buffer, size_t extra) except -1:
    cdef size_t capacity = buffer.capacity * 2
    cdef char* data
    if capacity < buffer.size + extra:
        capacity = buffer.size + extra
    if capacity < 256:
        capacity = 256
    data = <char*>realloc(buffer.data, capacity)
    if data == NULL:
        raise MemoryError(f"no memory for a buffer of {capacity} bytes")
    buffer.data = data
    buffer.capacity = capacity
    return 0


cdef inline int reserve(Buffer* buffer, size_t extra) except -1:
    """Make room for `extra` more bytes."""
    if buffer.capacity - buffer.size < extra:
        grow_buffer(buffer, extra)
    return 0


cdef inline char* end_of(Buffer* buffer) noexcept nogil:
    return buffer.data + buffer.size


cdef inline void put_reserved(Buffer* buffer, const char* data, size_t size) noexcept nogil:
    """Append bytes for which the caller has reserved room."""
    # WHY: copying nothing from nowhere is undefined all the same.
    if size:
        memcpy(buffer.data + buffer.size, data, size)
        buffer.size += size


cdef inline int put(Buffer* buffer, const char* data, size_t size) except -1:
    if size:
        reserve(buffer, size)
        put_reserved(buffer, data, size)
    return 0


cdef inline int put_object(Buffer* buffer, bytes data) except -1:
    return put(buffer, PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))


cdef inline bytes copy_of(Buffer* buffer):
    return PyBytes_FromStringAndSize(buffer.data, <Py_ssize_t>buffer.size)


cdef inline Buffer borrow(bytes data) noexcept:
    """`data` as a full buffer, to be read. DANGER: it lives no longer than `data`, and owns nothing."""
    cdef Buffer view
    view.data = PyBytes_AS_STRING(data)
    view.size = view.capacity = <size_t>PyBytes_GET_SIZE(data)
    return view


cdef inline void drop_buffer(Buffer* buffer) noexcept:
    free(buffer.data)
    buffer.data = NULL
    buffer.size = buffer.capacity = 0


cdef inline void shrink_buffer(Buffer* buffer, size_t kept) noexcept:
    """Give back the memory of an empty buffer that one large use had grown beyond `kept` bytes."""
    if buffer.size == 0 and buffer.capacity > kept:
        drop_buffer(buffer)


cdef inline void shrink_buffer_to(Buffer* buffer, size_t kept) noexcept:
    """Empty a scratch buffer, and give its memory back when one large use had grown it."""
    buffer.size = 0
    shrink_buffer(buffer, kept)
