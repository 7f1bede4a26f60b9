# Step 4: body -> the messages in it, each of them checked.
#
# A batch is split by one scan that validates as it goes (RFC 8259, nothing more lenient), so that
# each message keeps its own bytes and no object is built. A station's validator, when it has one,
# then judges each message, but those that its walker (json_walk.pxi) took instead of the scan.
# Nothing of a body that is not a batch is ever published.

cdef struct Span:
    Py_ssize_t start
    Py_ssize_t size
    bint is_good                     # whether the schema's walker has taken it


cdef struct JsonScan:
    const char* start
    const char* end
    const char* fault_at
    const char* fault


cdef extern from *:
    """
    /* The first byte that ends a run of plain string bytes: quote, backslash, control byte.
       SOURCE: RFC 8259 §7. Sixteen or eight bytes at a time; in each word the lowest mark is
       exact. */
    __attribute__((noinline))
    static const char *fastgw_string_rest(const char *p, const char *end) {
    #ifdef __SSE2__
        const __m128i quote = _mm_set1_epi8(34), escape = _mm_set1_epi8(92);
        const __m128i control = _mm_set1_epi8(31);
        while (end - p >= 16) {
            __m128i v = _mm_loadu_si128((const __m128i *)p);
            __m128i m = _mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, escape));
            int marks = _mm_movemask_epi8(
                _mm_or_si128(m, _mm_cmpeq_epi8(_mm_min_epu8(v, control), v)));
            if (marks) return p + __builtin_ctz((unsigned int)marks);
            p += 16;
        }
    #endif
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        while (end - p >= 8) {
            unsigned long long w, q, b, c;
            __builtin_memcpy(&w, p, 8);
            q = w ^ 0x2222222222222222ULL;
            b = w ^ 0x5c5c5c5c5c5c5c5cULL;
            q = (q - 0x0101010101010101ULL) & ~q;
            b = (b - 0x0101010101010101ULL) & ~b;
            c = (w - 0x2020202020202020ULL) & ~w;
            c = (q | b | c) & 0x8080808080808080ULL;
            if (c) return p + (__builtin_ctzll(c) >> 3);
            p += 8;
        }
    #endif
        while (p < end && *p != 34 && *p != 92 && (unsigned char)*p >= 0x20) p++;
        return p;
    }
    /* WHY apart: names and most values are short, and end in the first sixteen bytes. */
    __attribute__((always_inline))
    static inline const char *fastgw_string_run(const char *p, const char *end) {
    #ifdef __SSE2__
        if (end - p >= 16) {
            __m128i v = _mm_loadu_si128((const __m128i *)p);
            __m128i m = _mm_or_si128(
                _mm_cmpeq_epi8(v, _mm_set1_epi8(34)), _mm_cmpeq_epi8(v, _mm_set1_epi8(92)));
            int marks = _mm_movemask_epi8(
                _mm_or_si128(m, _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(31)), v)));
            if (marks) return p + __builtin_ctz((unsigned int)marks);
            p += 16;
        }
    #endif
        return fastgw_string_rest(p, end);
    }
    static inline int fastgw_is_ascii(const char *p, Py_ssize_t n) {
        unsigned long long w, seen = 0;
    #ifdef __SSE2__
        __m128i all = _mm_setzero_si128();
        for (; n >= 32; p += 32, n -= 32) {
            all = _mm_or_si128(all, _mm_loadu_si128((const __m128i *)p));
            all = _mm_or_si128(all, _mm_loadu_si128((const __m128i *)(p + 16)));
        }
        if (_mm_movemask_epi8(all)) return 0;
    #endif
        while (n >= 8) { __builtin_memcpy(&w, p, 8); seen |= w; p += 8; n -= 8; }
        while (n-- > 0) seen |= (unsigned char)*p++;
        return !(seen & 0x8080808080808080ULL);
    }
    """
    const char* fastgw_string_run(const char* p, const char* end) noexcept nogil
    bint fastgw_is_ascii(const char* p, Py_ssize_t n) noexcept nogil


cdef inline const char* skip_space(const char* p, const char* end) noexcept nogil:
    # WHY: most often there is none.
    if p < end and <unsigned char>p[0] > 32:
        return p
    while p < end and (p[0] == 32 or p[0] == 10 or p[0] == 13 or p[0] == 9):
        p += 1
    return p


cdef inline const char* json_fault(JsonScan* scan, const char* at, const char* why) noexcept nogil:
    scan.fault_at = at
    scan.fault = why
    return NULL


cdef inline bint is_hex(unsigned char c) noexcept nogil:
    return 48 <= c <= 57 or 65 <= c <= 70 or 97 <= c <= 102


cdef const char* skip_escaped(JsonScan* scan, const char* p) noexcept nogil:
    """Behind the closing quote of the string whose first run of plain bytes ends at `p`, or NULL."""
    cdef const char* end = scan.end
    cdef int i
    while True:
        p = fastgw_string_run(p, end)
        if p == end:
            return json_fault(scan, p, b"the text ends inside a string")
        if p[0] == 34:
            return p + 1
        if p[0] != 92:
            return json_fault(scan, p, b"a control byte stands in a string")
        p += 1
        if p == end:
            return json_fault(scan, p, b"the text ends inside a string")
        if p[0] == 117:
            if end - p < 5:
                return json_fault(scan, p, b"an escape is cut short")
            for i in range(1, 5):
                if not is_hex(<unsigned char>p[i]):
                    return json_fault(scan, p, b"an escape has a digit that is not hexadecimal")
            p += 5
        elif p[0] in (34, 92, 47, 98, 102, 110, 114, 116):
            p += 1
        else:
            return json_fault(scan, p, b"an escape is unknown")


cdef inline const char* skip_string(JsonScan* scan, const char* p) noexcept nogil:
    """Behind the closing quote of the string that opens at `p`, or NULL."""
    p = fastgw_string_run(p + 1, scan.end)
    if p < scan.end and p[0] == 34:
        return p + 1
    return skip_escaped(scan, p)


cdef inline const char* skip_digits(const char* p, const char* end) noexcept nogil:
    while p < end and 48 <= p[0] <= 57:
        p += 1
    return p


cdef const char* skip_number(JsonScan* scan, const char* p) noexcept nogil:
    """Behind the number at `p`, or NULL. SOURCE: RFC 8259 §6."""
    cdef const char* end = scan.end
    cdef const char* digits
    if p[0] == 45:
        p += 1
    if p < end and p[0] == 48:
        p += 1
    else:
        digits = p
        p = skip_digits(p, end)
        if p == digits:
            return json_fault(scan, p, b"a number has no digits")
    if p < end and p[0] == 46:
        digits = p + 1
        p = skip_digits(digits, end)
        if p == digits:
            return json_fault(scan, p, b"a number has no digits behind its point")
    if p < end and (p[0] == 101 or p[0] == 69):
        p += 1
        if p < end and (p[0] == 43 or p[0] == 45):
            p += 1
        digits = p
        p = skip_digits(digits, end)
        if p == digits:
            return json_fault(scan, p, b"a number has no digits in its exponent")
    return p


cdef const char* skip_scalar(JsonScan* scan, const char* p) noexcept nogil:
    """Behind the string, number or literal at `p`, or NULL."""
    if p[0] == 34:
        return skip_string(scan, p)
    if p[0] == 45 or 48 <= p[0] <= 57:
        return skip_number(scan, p)
    if scan.end - p >= 4 and (memcmp(p, b"true", 4) == 0 or memcmp(p, b"null", 4) == 0):
        return p + 4
    if scan.end - p >= 5 and memcmp(p, b"false", 5) == 0:
        return p + 5
    return json_fault(scan, p, b"no JSON value starts here")


cdef inline const char* skip_key(JsonScan* scan, const char* p) noexcept nogil:
    """Behind the colon of the member whose name should start at or after `p`, or NULL."""
    p = skip_space(p, scan.end)
    if p == scan.end or p[0] != 34:
        return json_fault(scan, p, b"a member's name is missing")
    p = skip_string(scan, p)
    if p == NULL:
        return NULL
    p = skip_space(p, scan.end)
    if p == scan.end or p[0] != 58:
        return json_fault(scan, p, b"a colon is missing")
    return p + 1


cdef const char* skip_value(JsonScan* scan, const char* p) noexcept nogil:
    """Behind the JSON value at `p`, or NULL with the fault in `scan`. Never recurses."""
    cdef const char* end = scan.end
    cdef char[JSON_DEPTH_MAX] closing    # the bracket that ends each of those that are open
    cdef int depth = 0
    cdef bint wants_name = False
    cdef char c
    while True:
        if wants_name:
            p = skip_key(scan, p)
            if p == NULL:
                return NULL
        p = skip_space(p, end)
        if p == end:
            return json_fault(scan, p, b"the text ends where a value should stand")
        c = p[0]
        if c == 123 or c == 91:
            if depth == JSON_DEPTH_MAX:
                return json_fault(scan, p, b"nesting is deeper than 512 levels")
            closing[depth] = c + 2
            depth += 1
            p = skip_space(p + 1, end)
            if p == end or p[0] != c + 2:
                wants_name = c == 123
                continue
            p += 1
            depth -= 1
        else:
            p = skip_scalar(scan, p)
            if p == NULL:
                return NULL
        # A value has ended; leave the containers that end with it.
        while True:
            if depth == 0:
                return p
            p = skip_space(p, end)
            if p == end:
                return json_fault(scan, p, b"the text ends inside an object or array")
            if p[0] == 44:
                p += 1
                wants_name = closing[depth - 1] == 125
                break
            if p[0] != closing[depth - 1]:
                return json_fault(scan, p, b"a comma or closing bracket is missing")
            p += 1
            depth -= 1


cdef inline const char* put_value(
    JsonScan* scan, JsonProgram* program, const char* text, const char* p, Buffer* spans
) except? NULL:
    """Put the span of the value at `p`. Returns its end, or NULL with the fault set."""
    cdef Span span
    cdef const char* stop = NULL
    if program != NULL:
        stop = walk_json(program, p, scan.end)
    span.is_good = stop != NULL
    if stop == NULL:
        stop = skip_value(scan, p)
        if stop == NULL:
            return NULL
    span.start = p - text
    span.size = stop - p
    put(spans, <const char*>&span, sizeof(Span))
    return stop


cdef int split_array(JsonScan* scan, JsonProgram* program, Buffer* spans) except -1:
    """Put the span of each element of the array into `spans`. Returns 1, or 0 with the fault set."""
    cdef const char* p = skip_space(scan.start, scan.end)
    if p == scan.end or p[0] != 91:
        json_fault(scan, p, b"a batch must be a JSON array")
        return 0
    p = skip_space(p + 1, scan.end)
    if p < scan.end and p[0] == 93:
        p += 1
    else:
        while True:
            p = put_value(scan, program, scan.start, skip_space(p, scan.end), spans)
            if p == NULL:
                return 0
            p = skip_space(p, scan.end)
            if p < scan.end and p[0] == 44:
                p += 1
                continue
            if p < scan.end and p[0] == 93:
                p += 1
                break
            json_fault(scan, p, b"a comma or closing bracket is missing")
            return 0
    p = skip_space(p, scan.end)
    if p != scan.end:
        json_fault(scan, p, b"something stands behind the array")
        return 0
    return 1


cdef int split_lines(JsonScan* scan, JsonProgram* program, Buffer* spans) except -1:
    """Put the span of each line that is not blank into `spans`. Returns 1, or 0 with the fault set."""
    cdef const char* whole_end = scan.end
    cdef const char* p = scan.start
    cdef const char* start
    cdef const char* stop
    while p < whole_end:
        stop = <const char*>memchr(p, 10, whole_end - p)
        scan.end = stop if stop != NULL else whole_end
        start = skip_space(p, scan.end)
        if start < scan.end:
            p = put_value(scan, program, scan.start, start, spans)
            if p == NULL:
                return 0
            p = skip_space(p, scan.end)
            if p != scan.end:
                json_fault(scan, p, b"something stands behind the value of a line")
                return 0
        p = scan.end + 1
    return 1


cdef int split_body(bytes body, bint by_lines, JsonProgram* program, Buffer* spans) except -1:
    """Put the span of each message of a batch into `spans`.

    Raises ClientFault "bad-json" if it is none.
    `program` tells messages that are surely good; NULL for none.
    """
    cdef const char* text = PyBytes_AS_STRING(body)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(body)
    cdef JsonScan scan = JsonScan(text, text + size, NULL, NULL)
    if not (split_lines(&scan, program, spans) if by_lines else split_array(&scan, program, spans)):
        spans.size = 0
        raise ClientFault(
            "bad-json", f"{scan.fault.decode()}, at byte {scan.fault_at - text} of {size}"
        )
    # SOURCE: RFC 8259 §8.1, JSON between systems is UTF-8; the scan above lets every high byte pass.
    if not fastgw_is_ascii(text, size):
        try:
            PyUnicode_DecodeUTF8(text, size, NULL)
        except UnicodeDecodeError as error:
            spans.size = 0
            raise ClientFault("bad-json", f"not UTF-8 at byte {error.start} of {size}") from None
    return 0


def split_batch(bytes body, bint by_lines=False) -> list:
    """The messages of a batch body, each with its own bytes.

    Args:
        body: a JSON array, or with `by_lines` one JSON value a line.

    Raises:
        ClientFault: "bad-json", naming what is wrong and at which byte.
    """
    cdef Buffer spans = Buffer(NULL, 0, 0)
    cdef Span* span
    try:
        split_body(body, by_lines, NULL, &spans)
        span = <Span*>spans.data
        return [
            body[span[i].start:span[i].start + span[i].size]
            for i in range(spans.size // sizeof(Span))
        ]
    finally:
        drop_buffer(&spans)
