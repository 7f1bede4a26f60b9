# JSON messages against a compiled schema, byte by byte, without building any object.
#
# Bytes enter, and the end of a value that is surely good leaves, or NULL for "not surely". The
# schema is a table of nodes (json_program.pxi) whose children are indexes into it; what is open
# stands in a fixed array of frames, so that nothing recurses and nothing is allocated.
# It must never take what the authority refuses: whatever needs care (an escaped or repeated name, a
# number that rounds, a surrogate) is "not surely", and the authority alone refuses.
# SOURCE: RFC 8259; JSON Schema, drafts 4 to 2020-12.

cdef enum:
    # LIMIT: objects and arrays that are open at the same time; deeper messages go to the authority.
    JSON_WALK_DEPTH_MAX = 128
    # LIMIT: bytes of a number with a fraction or exponent, and digits of its exponent: with these
    # no such number is beyond what a double holds.
    JSON_REAL_BYTES_MAX = 64
    JSON_EXPONENT_DIGITS_MAX = 2
    # LIMIT: digits that fit into 64 bits without a sign, whatever they are.
    JSON_DIGITS_MAX = 19
    # LIMIT: powers of ten that a double holds exactly.
    JSON_POWER_MAX = 22

cdef struct JsonFrame:
    JsonNode* node
    bint is_object
    int expected                       # the name that comes next, if the order is the schema's
    int required_left
    int known                          # members with a name of the schema
    int64_t count                      # members or items
    uint64_t[4] seen                   # names, a bit each


cdef extern from *:
    """
    #include <float.h>
    #include <stdint.h>
    /* Whether two texts of `n` bytes are the same; both have so many. */
    static inline int fastgw_is_same(const char *a, const char *b, Py_ssize_t n) {
        uint64_t x, y;
        uint32_t v, w;
        if (n >= 8) {
            const char *last = a + n - 8;
            for (; a < last; a += 8, b += 8) {
                __builtin_memcpy(&x, a, 8);
                __builtin_memcpy(&y, b, 8);
                if (x != y) return 0;
            }
            b -= a - last;
            __builtin_memcpy(&x, last, 8);
            __builtin_memcpy(&y, b, 8);
            return x == y;
        }
        if (n >= 4) {
            __builtin_memcpy(&v, a, 4);
            __builtin_memcpy(&w, b, 4);
            if (v != w) return 0;
            __builtin_memcpy(&v, a + n - 4, 4);
            __builtin_memcpy(&w, b + n - 4, 4);
            return v == w;
        }
        for (; n > 0; n--) if (*a++ != *b++) return 0;
        return 1;
    }
    static const double FASTGW_POWERS[] = {
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
        1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    /* WHY: one operation on two exact doubles rounds once, unless the machine has wider ones. */
    #if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD == 0
    #define FASTGW_ROUNDS_ONCE 1
    #else
    #define FASTGW_ROUNDS_ONCE 0
    #endif
    """
    bint is_same_bytes_of "fastgw_is_same" (
        const char* a, const char* b, Py_ssize_t n) noexcept nogil
    const double FASTGW_POWERS[23]
    const bint FASTGW_ROUNDS_ONCE


cdef inline int64_t count_points(const char* p, const char* end) noexcept nogil:
    """Code points of UTF-8 (which the caller proves): the bytes that do not continue one."""
    cdef int64_t count = 0
    while p < end:
        count += (<unsigned char>p[0] & 0xC0) != 0x80
        p += 1
    return count


cdef bint is_text_good(
    JsonProgram* program, JsonNode* node, const char* text, Py_ssize_t size
) noexcept nogil:
    """Whether a string without escapes follows its node's rules."""
    cdef int64_t count
    if node.kinds & JSON_TEXT_LISTED:
        return is_listed_text(program, node, text, size)
    if size < node.text_min:
        return False
    # WHY: a code point has one to four bytes, so that most lengths need no count.
    if size > node.text_max or (size + 3) // 4 < node.text_min:
        count = count_points(text, text + size)
        if not node.text_min <= count <= node.text_max:
            return False
    return node.format == JSON_FORMAT_ANY or is_of_format(node.format, text, text + size)


cdef const char* walk_escaped(
    JsonNode* node, const char* start, const char* p, const char* end
) noexcept nogil:
    """Behind a string from `start`, whose first escape may stand at `p`, or NULL."""
    cdef int64_t count = count_points(start, p)
    cdef int i
    if node.kinds & JSON_TEXT_LISTED or node.format != JSON_FORMAT_ANY:
        return NULL
    while p[0] != 34:
        if p[0] != 92 or end - p < 2:
            return NULL
        p += 1
        if p[0] == 117:
            if end - p < 5:
                return NULL
            for i in range(1, 5):
                if not is_hex(<unsigned char>p[i]):
                    return NULL
            # WHY: a surrogate must have its partner; the authority's decoder looks for it.
            if (p[1] == 100 or p[1] == 68) and (p[2] > 55):
                return NULL
            p += 5
        elif p[0] in (34, 92, 47, 98, 102, 110, 114, 116):
            p += 1
        else:
            return NULL
        start = p
        p = fastgw_string_run(p, end)
        if p == end:
            return NULL
        count += 1 + count_points(start, p)
    return p + 1 if node.text_min <= count <= node.text_max else NULL


cdef inline const char* walk_text(
    JsonProgram* program, JsonNode* node, const char* p, const char* end
) noexcept nogil:
    """Behind the string that opens at `p`, or NULL for not surely good."""
    cdef const char* start = p + 1
    if not node.kinds & JSON_TEXT:
        return NULL
    p = fastgw_string_run(start, end)
    if p == end:
        return NULL
    if p[0] != 34:
        return walk_escaped(node, start, p, end)
    if node.kinds & JSON_TEXT_BOUND and not is_text_good(program, node, start, p - start):
        return NULL
    return p + 1


cdef bint is_real_good(JsonNode* node, uint64_t digits, int power, bint is_negative) noexcept nogil:
    """Whether digits times a power of ten are surely within the node's bounds."""
    cdef double value = <double>digits
    cdef double slack = 0
    if not -JSON_POWER_MAX <= power <= JSON_POWER_MAX:
        return False
    value = value * FASTGW_POWERS[power] if power >= 0 else value / FASTGW_POWERS[-power]
    if digits > (<uint64_t>1 << 53) or not FASTGW_ROUNDS_ONCE:
        # WHY: it is rounded more than once, by some 1e-16 of itself, which matters near a bound.
        slack = value * 1e-12
    if is_negative:
        value = -value
    if slack == 0:
        return ((value > node.real_low or (value == node.real_low and not node.low_open))
                and (value < node.real_high or (value == node.real_high and not node.high_open)))
    return value - slack > node.real_low and value + slack < node.real_high


cdef const char* walk_real(
    JsonNode* node, const char* start, const char* p, const char* end, uint64_t digits
) noexcept nogil:
    """Behind the number from `start` whose point or exponent stands at `p`, or NULL."""
    cdef const char* first = start + (start[0] == 45)
    cdef Py_ssize_t count = p - first
    cdef const char* part
    cdef int power = 0
    cdef int exponent = 0
    cdef bint is_low = False
    if not node.kinds & JSON_REAL:
        return NULL
    if p[0] == 46:
        part = p + 1
        p = part
        while p < end and 48 <= p[0] <= 57:
            digits = digits * 10 + <uint64_t>(p[0] - 48)
            p += 1
        if p == part:
            return NULL
        count += p - part
        if p - start > JSON_REAL_BYTES_MAX:
            return NULL
        power = -<int>(p - part)
    if p < end and (p[0] == 101 or p[0] == 69):
        p += 1
        if p < end and (p[0] == 43 or p[0] == 45):
            is_low = p[0] == 45
            p += 1
        part = p
        while p < end and 48 <= p[0] <= 57:
            if p - part == JSON_EXPONENT_DIGITS_MAX:
                return NULL
            exponent = exponent * 10 + (p[0] - 48)
            p += 1
        if p == part:
            return NULL
        power += -exponent if is_low else exponent
    if p - start > JSON_REAL_BYTES_MAX:
        return NULL
    if node.kinds & JSON_REAL_BOUND and (
            count > JSON_DIGITS_MAX or not is_real_good(node, digits, power, start[0] == 45)):
        return NULL
    return p


cdef inline const char* walk_number(
    JsonProgram* program, JsonNode* node, const char* p, const char* end
) noexcept nogil:
    """Behind the number at `p`, or NULL for not surely good."""
    cdef const char* start = p
    cdef const char* first
    cdef uint64_t digits = 0
    cdef int64_t value
    if p[0] == 45:
        p += 1
    first = p
    while p < end and 48 <= p[0] <= 57:
        # More than JSON_DIGITS_MAX of them wrap around, and are counted below.
        digits = digits * 10 + <uint64_t>(p[0] - 48)
        p += 1
    if p == first or (first[0] == 48 and p - first > 1):
        return NULL
    if p < end and (p[0] == 46 or p[0] == 101 or p[0] == 69):
        return walk_real(node, start, p, end, digits)
    if (not node.kinds & JSON_WHOLE or p - first > JSON_DIGITS_MAX
            or digits > <uint64_t>0x7FFFFFFFFFFFFFFF):
        return NULL
    value = <int64_t>digits
    if start != first:
        if value == 0:  # WHY: -0 is a whole number to some, and a real one to others.
            return NULL
        value = -value
    if node.kinds & JSON_WHOLE_LISTED:
        return p if is_listed_whole(program, node, value) else NULL
    if not node.low <= value <= node.high or (node.step and value % node.step):
        return NULL
    return p


cdef const char* walk_word(JsonNode* node, const char* p, const char* end) noexcept nogil:
    """Behind `true`, `false` or `null`, or NULL."""
    if end - p >= 4 and memcmp(p, b"true", 4) == 0:
        return p + 4 if node.kinds & JSON_TRUE else NULL
    if end - p >= 4 and memcmp(p, b"null", 4) == 0:
        return p + 4 if node.kinds & JSON_NULL else NULL
    if end - p >= 5 and memcmp(p, b"false", 5) == 0:
        return p + 5 if node.kinds & JSON_FALSE else NULL
    return NULL


cdef inline const char* walk_key(
    JsonProgram* program, JsonFrame* frame, const char* p, const char* end, JsonNode** child
) noexcept nogil:
    """Behind the colon of the member at `p`, whose node goes to `child`, or NULL."""
    cdef JsonNode* node = frame.node
    cdef JsonName* name
    cdef const char* start
    cdef uint64_t bit
    cdef int index = frame.expected
    p = skip_space(p, end)
    name = &program.names[node.names_first + index]
    if (index < node.names_count and end - p >= name.size
            and is_same_bytes_of(p, name.text_borrowed, name.size)):
        p += name.size
    else:
        if p == end or p[0] != 34:
            return NULL
        start = p + 1
        p = fastgw_string_run(start, end)
        if p == end or p[0] != 34:
            return NULL
        index = find_name(program, node, start, p - start)
        p = skip_space(p + 1, end)
        if p == end or p[0] != 58:
            return NULL
        p += 1
        if index < 0:
            if node.rest < 0:
                return NULL
            child[0] = &program.nodes[node.rest]
            return p
        name = &program.names[node.names_first + index]
    # WHY: readers differ in which of two members with one name they take.
    bit = <uint64_t>1 << (index & 63)
    if frame.seen[index >> 6] & bit:
        return NULL
    frame.seen[index >> 6] |= bit
    frame.expected = index + 1
    frame.known += 1
    frame.required_left -= name.is_required
    child[0] = &program.nodes[name.child]
    return p


cdef inline bint is_whole_frame(JsonFrame* frame) noexcept nogil:
    """Whether the object or array that ends here has as much in it as it should."""
    cdef JsonNode* node = frame.node
    if not frame.is_object:
        return node.items_min <= frame.count <= node.items_max
    # WHY: members whose names the schema does not name may have one name together.
    return (frame.required_left == 0 and frame.count <= node.members_max
            and frame.known + (frame.count > frame.known) >= node.members_min)


cdef const char* walk_json(JsonProgram* program, const char* p, const char* end) noexcept nogil:
    """Behind the value of node 0 that starts at or after `p`; NULL when it is not surely good.

    That its bytes are UTF-8 is for the caller to prove. Reads nothing at or behind `end`.
    """
    cdef JsonFrame[JSON_WALK_DEPTH_MAX] frames
    cdef JsonFrame* frame = NULL
    cdef JsonNode* node = &program.nodes[0]
    cdef int depth = 0
    cdef bint wants_name = False
    cdef char c
    while True:
        if wants_name:
            p = walk_key(program, frame, p, end, &node)
            if p == NULL:
                return NULL
        p = skip_space(p, end)
        if p == end:
            return NULL
        c = p[0]
        if c == 123 or c == 91:
            if depth == JSON_WALK_DEPTH_MAX or not node.kinds & (
                    JSON_OBJECT if c == 123 else JSON_ARRAY):
                return NULL
            frame = &frames[depth]
            depth += 1
            frame.node = node
            frame.count = 0
            frame.is_object = wants_name = c == 123
            p = skip_space(p + 1, end)
            if wants_name:
                frame.expected = frame.known = 0
                frame.required_left = node.required_count
                frame.seen[0] = frame.seen[1] = frame.seen[2] = frame.seen[3] = 0
            if p == end or p[0] != c + 2:
                frame.count = 1
                if not wants_name:
                    node = &program.nodes[node.item]
                continue
        else:
            if c == 34:
                p = walk_text(program, node, p, end)
            elif c == 45 or 48 <= c <= 57:
                p = walk_number(program, node, p, end)
            else:
                p = walk_word(node, p, end)
            if p == NULL:
                return NULL
        # A value has ended; leave the objects and arrays that end with it.
        while True:
            if depth == 0:
                return p
            p = skip_space(p, end)
            if p == end:
                return NULL
            if p[0] == 44:
                p += 1
                frame.count += 1
                wants_name = frame.is_object
                if not wants_name:
                    node = &program.nodes[frame.node.item]
                break
            if p[0] != (125 if frame.is_object else 93) or not is_whole_frame(frame):
                return NULL
            p += 1
            depth -= 1
            frame = &frames[depth - 1] if depth else NULL
