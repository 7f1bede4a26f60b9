# Bytes as ASCII: compares without case, decimal digits in and out.
#
# Leaves without Python objects; every other part calls them. They never allocate.

cdef inline bint is_same_text(const char* text, const char* lower, Py_ssize_t size) noexcept nogil:
    """Whether `text` equals the lower-case ASCII `lower`, without regard to case."""
    cdef Py_ssize_t i
    cdef unsigned char c
    for i in range(size):
        c = <unsigned char>text[i]
        if 65 <= c <= 90:
            c |= 0x20
        if c != <unsigned char>lower[i]:
            return False
    return True


cdef inline bint is_subject_token_byte(unsigned char c) noexcept nogil:
    """Printable ASCII without the broker's separators and wildcards. SOURCE: NATS ADR-6, `term`."""
    return 33 <= c <= 126 and c != 42 and c != 46 and c != 62


cdef inline int decimal_size(uint64_t value) noexcept nogil:
    cdef int digits = 1
    while value >= 10:
        value //= 10
        digits += 1
    return digits


cdef inline char* write_decimal(char* at, uint64_t value) noexcept nogil:
    """Write `value` at `at`, which has room for 20 bytes. Returns the byte behind the last digit."""
    cdef int digits = decimal_size(value)
    cdef char* end = at + digits
    cdef char* p = end
    while True:
        p -= 1
        p[0] = <char>(48 + value % 10)
        value //= 10
        if value == 0:
            return end


cdef inline int64_t parse_decimal(const char* text, Py_ssize_t size) noexcept nogil:
    """The number that `text` spells, or -1 when it is not 1 to 18 decimal digits."""
    cdef int64_t value = 0
    cdef Py_ssize_t i
    if size < 1 or size > 18:
        return -1
    for i in range(size):
        if not 48 <= <unsigned char>text[i] <= 57:
            return -1
        value = value * 10 + (<unsigned char>text[i] - 48)
    return value


cdef inline bint has_control_byte(const char* text, Py_ssize_t size) noexcept nogil:
    """Whether CR, LF or NUL stands in `text`: any of them could forge a broker header."""
    return (memchr(text, 13, size) != NULL or memchr(text, 10, size) != NULL
            or memchr(text, 0, size) != NULL)


cdef inline uint64_t monotonic_ms() noexcept nogil:
    """Milliseconds of a clock that never jumps; coarse (4 ms), and a few nanoseconds to read."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now)
    return <uint64_t>now.tv_sec * 1000 + <uint64_t>now.tv_nsec // 1000000
