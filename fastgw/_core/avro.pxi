# Avro binary data against a compiled schema, value by value, without building any.
#
# Bytes of one message enter, None or the first fault leaves. The schema arrives as a flat table of
# nodes (fastgw/schema/avro_program.py), whose children are indexes into the same table, so that
# recursive schemas need no recursion here: what is open stands in a fixed array of frames. Nothing
# is allocated for a value, and the work is bounded by the size of the message.
# SOURCE: Apache Avro 1.12 specification, "Binary Encoding".

cdef enum:
    # LIMIT: records, arrays and maps that are open at the same time; deeper data is refused.
    AVRO_DEPTH_MAX = 100
    # LIMIT: values looked at for each byte, and beside that. Only items of zero size and records of
    # one field cost more values than bytes; eight bytes may announce 2^40 of the former.
    AVRO_STEPS_PER_BYTE = 16
    AVRO_STEPS_FREE = 100000

cdef enum AvroOp:
    AVRO_NULL, AVRO_BOOLEAN, AVRO_INT, AVRO_LONG, AVRO_FLOAT, AVRO_DOUBLE, AVRO_BYTES, AVRO_STRING
    AVRO_FIXED, AVRO_ENUM, AVRO_UNION, AVRO_RECORD, AVRO_ARRAY, AVRO_MAP
    AVRO_DECIMAL_BYTES, AVRO_DECIMAL_FIXED, AVRO_UUID
    AVRO_OPS_COUNT

cdef enum AvroFault:
    AVRO_GOOD, AVRO_TRUNCATED, AVRO_VARINT, AVRO_RANGE, AVRO_BOOL, AVRO_LENGTH, AVRO_UTF8
    AVRO_ENUM_INDEX, AVRO_UNION_INDEX, AVRO_COUNT, AVRO_BLOCK, AVRO_DEPTH, AVRO_WORK
    AVRO_TRAILING, AVRO_PRECISION, AVRO_UUID_TEXT

# The words that `AvroWalker.find_fault` answers with, in the order of AvroFault.
AVRO_RULES = (
    "good", "truncated", "varint", "range", "boolean", "length", "utf-8", "enum", "union", "count",
    "block", "depth", "work", "trailing", "precision", "uuid",
)

cdef struct AvroNode:
    AvroOp op
    int first  # of its children
    int count  # children, or symbols of an enum
    # The range of an int, long or enum index. `low` is also the size of a fixed, and `high` says
    # whether the items of an array take no bytes, as null and empty records do.
    int64_t low, high
    const unsigned char* bound_borrowed  # largest decimal, big-endian; DANGER: AvroWalker.bounds owns it
    Py_ssize_t bound_size

cdef struct AvroFrame:
    int node
    int64_t child  # which field or item is being read
    int64_t left  # items of the block that are still to come
    const unsigned char* block_end  # where the block says that it ends, or NULL
    const unsigned char* key_borrowed  # of the map's item; DANGER: lives as long as the message
    int64_t key_size

cdef struct AvroPlace:
    const unsigned char* at
    int64_t got
    int node
    int depth

cdef extern from *:
    """
    /* Returns the first byte that is not UTF-8 (RFC 3629: shortest form, no surrogates), or end. */
    static const unsigned char *fastgw_find_bad_utf8(const unsigned char *p, const unsigned char *end) {
        unsigned long long w;
        unsigned char c;
        for (;;) {
            while (end - p >= 8) {
                __builtin_memcpy(&w, p, 8);
                if (w & 0x8080808080808080ULL) break;
                p += 8;
            }
            while (p < end && *p < 0x80) p++;
            if (p == end) return end;
            c = *p;
            if (c < 0xc2 || c > 0xf4) return p;
            if (c < 0xe0) {
                if (end - p < 2 || (p[1] & 0xc0) != 0x80) return p;
                p += 2;
            } else if (c < 0xf0) {
                if (end - p < 3 || (p[1] & 0xc0) != 0x80 || (p[2] & 0xc0) != 0x80
                    || (c == 0xe0 && p[1] < 0xa0) || (c == 0xed && p[1] > 0x9f)) return p;
                p += 3;
            } else {
                if (end - p < 4 || (p[1] & 0xc0) != 0x80 || (p[2] & 0xc0) != 0x80
                    || (p[3] & 0xc0) != 0x80 || (c == 0xf0 && p[1] < 0x90)
                    || (c == 0xf4 && p[1] > 0x8f)) return p;
                p += 4;
            }
        }
    }
    """
    const unsigned char* find_bad_utf8 "fastgw_find_bad_utf8" (
        const unsigned char* p, const unsigned char* end) noexcept nogil


cdef inline AvroFault read_varint(
    const unsigned char** at, const unsigned char* end, int bytes_max, int64_t* value
) noexcept nogil:
    """Read one zigzag varint of at most `bytes_max` bytes and move `at` behind it."""
    cdef const unsigned char* p = at[0]
    cdef uint64_t bits = 0
    cdef int shift = 0
    cdef unsigned char c
    if p != end and p[0] < 0x80:  # WHY: most are lengths, counts and branches of one byte.
        at[0] = p + 1
        value[0] = <int64_t>(p[0] >> 1) ^ -<int64_t>(p[0] & 1)
        return AVRO_GOOD
    while True:
        if p == end:
            return AVRO_TRUNCATED
        c = p[0]
        if shift == 63 and c > 1:
            return AVRO_VARINT
        bits |= <uint64_t>(c & 0x7F) << shift
        p += 1
        if c < 0x80:
            break
        shift += 7
        if shift == 7 * bytes_max:
            return AVRO_VARINT
    at[0] = p
    value[0] = <int64_t>((bits >> 1) ^ (0 - (bits & 1)))
    return AVRO_GOOD


cdef bint is_decimal_within(const unsigned char* p, Py_ssize_t size, AvroNode* node) noexcept nogil:
    """Whether a two's complement number has no more digits than the node's largest decimal."""
    cdef unsigned char flip = 0xFF if p[0] & 0x80 else 0
    cdef Py_ssize_t i
    while size > 0 and p[0] == flip:
        p += 1
        size -= 1
    if size != node.bound_size:
        return size < node.bound_size
    for i in range(size):
        if p[i] ^ flip != node.bound_borrowed[i]:
            return p[i] ^ flip < node.bound_borrowed[i]
    # WHY: the complement of -n is n - 1, so that -10^precision looks like the largest decimal.
    return flip == 0


cdef bint is_uuid_text(const unsigned char* p, int64_t size) noexcept nogil:
    """Whether it is 8-4-4-4-12 hexadecimal digits. SOURCE: RFC 4122 section 3."""
    cdef int i
    cdef unsigned char c
    if size != 36:
        return False
    for i in range(36):
        c = p[i]
        if i == 8 or i == 13 or i == 18 or i == 23:
            if c != 45:
                return False
        elif not (48 <= c <= 57 or 65 <= c <= 70 or 97 <= c <= 102):
            return False
    return True


cdef AvroFault read_sized(
    AvroNode* node, const unsigned char** at, const unsigned char* end, int64_t* got
) noexcept nogil:
    """Read bytes, a string or a fixed, and check what they hold."""
    cdef const unsigned char* bad
    cdef const unsigned char* start = at[0]
    cdef const unsigned char* p
    cdef AvroOp op = node.op
    cdef AvroFault fault
    cdef int64_t size = node.low
    if op != AVRO_FIXED and op != AVRO_DECIMAL_FIXED:
        fault = read_varint(at, end, 10, &size)
        got[0] = size
        if fault != AVRO_GOOD:
            got[0] = 1
            return fault
        if size < 0:
            at[0] = start
            return AVRO_LENGTH
    p = at[0]
    if size > end - p:
        got[0] = size
        return AVRO_TRUNCATED
    if op == AVRO_STRING:
        bad = find_bad_utf8(p, p + size)
        if bad != p + size:
            at[0] = bad
            got[0] = bad[0]
            return AVRO_UTF8
    elif op == AVRO_DECIMAL_BYTES or op == AVRO_DECIMAL_FIXED:
        if size == 0:
            at[0] = start
            return AVRO_LENGTH
        if not is_decimal_within(p, size, node):
            return AVRO_PRECISION
    elif op == AVRO_UUID:
        if not is_uuid_text(p, size):
            return AVRO_UUID_TEXT
    at[0] = p + size
    return AVRO_GOOD


cdef AvroFault read_scalar(
    AvroNode* node, const unsigned char** at, const unsigned char* end, int64_t* got
) noexcept nogil:
    """Read a value that holds no others."""
    cdef const unsigned char* start = at[0]
    cdef AvroFault fault
    cdef AvroOp op = node.op
    cdef int size
    if op == AVRO_INT or op == AVRO_LONG or op == AVRO_ENUM:
        # WHY: five bytes, as every reader of an int takes; more would be read by some only.
        fault = read_varint(at, end, 10 if op == AVRO_LONG else 5, got)
        if fault != AVRO_GOOD:
            got[0] = 1
            return fault
        if node.low <= got[0] <= node.high:
            return AVRO_GOOD
        at[0] = start
        return AVRO_ENUM_INDEX if op == AVRO_ENUM else AVRO_RANGE
    elif op == AVRO_NULL:
        return AVRO_GOOD
    elif op == AVRO_BOOLEAN or op == AVRO_FLOAT or op == AVRO_DOUBLE:
        size = 1 if op == AVRO_BOOLEAN else 4 if op == AVRO_FLOAT else 8
        if end - start < size:
            got[0] = size
            return AVRO_TRUNCATED
        if op == AVRO_BOOLEAN and start[0] > 1:
            got[0] = start[0]
            return AVRO_BOOL
        at[0] = start + size
        return AVRO_GOOD
    else:
        return read_sized(node, at, end, got)


cdef AvroFault open_block(
    AvroFrame* frame, const unsigned char** at, const unsigned char* end, int64_t* got
) noexcept nogil:
    """Read the count of an array's or map's next block; 0 left says that there is none."""
    cdef const unsigned char* start = at[0]
    cdef AvroFault fault
    cdef int64_t size
    if frame.block_end != NULL and start != frame.block_end:
        got[0] = start - frame.block_end
        return AVRO_BLOCK
    frame.block_end = NULL
    fault = read_varint(at, end, 10, &frame.left)
    if fault == AVRO_GOOD and frame.left < 0:
        frame.left = <int64_t>(0 - <uint64_t>frame.left)
        if frame.left < 0:  # WHY: -2^63 has no opposite.
            at[0] = start
            got[0] = frame.left
            return AVRO_COUNT
        fault = read_varint(at, end, 10, &size)
        if fault == AVRO_GOOD:
            if size < 0 or size > end - at[0]:
                got[0] = size
                return AVRO_LENGTH if size < 0 else AVRO_TRUNCATED
            frame.block_end = at[0] + size
    got[0] = 1
    return fault


cdef AvroFault next_item(
    AvroFrame* frame, AvroNode* node, const unsigned char** at, const unsigned char* end,
    int64_t* got, int64_t* steps,
) noexcept nogil:
    """Move to the next item of an array or map; a frame with nothing left is at its end."""
    cdef const unsigned char* bad
    cdef const unsigned char* start
    cdef AvroFault fault
    cdef int64_t size
    while frame.left == 0:
        fault = open_block(frame, at, end, got)
        if fault != AVRO_GOOD or frame.left == 0:
            return fault
        if node.op == AVRO_ARRAY and node.high:
            # WHY: there is nothing to read, but who reads the message later makes all these items.
            if frame.left > steps[0]:
                return AVRO_WORK
            steps[0] -= frame.left
            frame.child += frame.left
            frame.left = 0
    frame.child += 1
    if node.op == AVRO_ARRAY:
        return AVRO_GOOD
    frame.key_borrowed = NULL
    start = at[0]
    fault = read_varint(at, end, 10, &size)
    if fault != AVRO_GOOD:
        got[0] = 1
        return fault
    got[0] = size
    if size < 0:
        at[0] = start
        return AVRO_LENGTH
    if size > end - at[0]:
        return AVRO_TRUNCATED
    bad = find_bad_utf8(at[0], at[0] + size)
    if bad != at[0] + size:
        at[0] = bad
        got[0] = bad[0]
        return AVRO_UTF8
    frame.key_borrowed = at[0]
    frame.key_size = size
    at[0] += size
    return AVRO_GOOD


cdef AvroFault walk_avro(
    AvroNode* nodes, int* children, const unsigned char* p, const unsigned char* end,
    AvroFrame* frames, AvroPlace* place,
) noexcept nogil:
    """Walk one value of node 0 that must end at `end`; the first fault stands in `place`."""
    cdef int64_t steps = AVRO_STEPS_FREE + (end - p) * AVRO_STEPS_PER_BYTE
    cdef int64_t got = 0
    cdef AvroFault fault = AVRO_GOOD
    cdef AvroFrame* frame
    cdef AvroNode* node
    cdef const unsigned char* start
    cdef int current = 0
    cdef int depth = 0
    cdef bint is_open
    while fault == AVRO_GOOD:
        node = &nodes[current]
        steps -= 1
        if steps < 0:
            fault = AVRO_WORK
            break
        if node.op == AVRO_UNION:
            start = p
            fault = read_varint(&p, end, 5, &got)
            if fault != AVRO_GOOD:
                got = 1
                break
            if not 0 <= got < node.count:
                p = start
                fault = AVRO_UNION_INDEX
                break
            current = children[node.first + <int>got]
            continue
        elif node.op == AVRO_RECORD or node.op == AVRO_ARRAY or node.op == AVRO_MAP:
            if depth == AVRO_DEPTH_MAX:
                fault = AVRO_DEPTH
                break
            frame = &frames[depth]
            depth += 1
            frame.node = current
            frame.child = -1
            frame.left = node.count if node.op == AVRO_RECORD else 0
            frame.block_end = NULL
            frame.key_borrowed = NULL
        else:
            fault = read_scalar(node, &p, end, &got)
            if fault != AVRO_GOOD:
                break
        # What comes next: a field or an item of the innermost value that is still open.
        is_open = False
        while depth > 0 and not is_open:
            frame = &frames[depth - 1]
            node = &nodes[frame.node]
            if node.op == AVRO_RECORD:
                frame.child += 1
            else:
                fault = next_item(frame, node, &p, end, &got, &steps)
                if fault != AVRO_GOOD:
                    break
            if frame.left == 0:
                depth -= 1
                continue
            frame.left -= 1
            current = children[node.first + (frame.child if node.op == AVRO_RECORD else 0)]
            is_open = True
        if depth == 0:
            if p != end:
                fault = AVRO_TRAILING
                got = end - p
            break
    place.at = p
    place.got = got
    place.node = current
    place.depth = depth
    return fault


@cython.final
cdef class AvroWalker:
    """Checks binary Avro data against one schema.

    Args:
        nodes: the schema's program; node 0 is the root. Each is (op, children, low, high, bound):
            an `AvroOp`; the nodes of its fields, branches or items; two numbers, see AvroNode; and
            the largest decimal as big-endian bytes.
    """

    cdef AvroNode* nodes
    cdef int* children
    cdef int nodes_count
    cdef list bounds

    def __init__(self, list nodes):
        cdef int i, child
        cdef int filled = 0
        cdef int total = sum(len(children) for _, children, *_ in nodes)
        if self.nodes != NULL or not nodes:
            raise InternalError("an Avro program is given once, and has a root")
        self.bounds = []
        self.nodes_count = <int>len(nodes)
        self.nodes = <AvroNode*>calloc(<size_t>self.nodes_count, sizeof(AvroNode))
        self.children = <int*>calloc(<size_t>total + 1, sizeof(int))
        if self.nodes == NULL or self.children == NULL:
            raise MemoryError("no memory for an Avro program")
        for i, (op, children, low, high, bound) in enumerate(nodes):
            if not 0 <= op < AVRO_OPS_COUNT or (op in (AVRO_ARRAY, AVRO_MAP) and len(children) != 1):
                raise InternalError(f"node {i} of an Avro program has op {op}")
            self.nodes[i].op = op
            self.nodes[i].first = filled
            self.nodes[i].count = <int>len(children)
            self.nodes[i].low = low
            self.nodes[i].high = high
            self.bounds.append(bound)
            self.nodes[i].bound_borrowed = <const unsigned char*>PyBytes_AS_STRING(<bytes?>bound)
            self.nodes[i].bound_size = PyBytes_GET_SIZE(bound)
            for child in children:
                if not 0 <= child < self.nodes_count:
                    raise InternalError(f"node {i} of an Avro program has child {child}")
                self.children[filled] = child
                filled += 1

    def __dealloc__(self):
        free(self.nodes)
        free(self.children)

    def find_fault(self, bytes message not None, Py_ssize_t start=0):
        """Walk `message` from the byte `start` to its end.

        Returns:
            None when it is one value of the schema; else (rule, offset, got, node, path): a word of
            `AVRO_RULES`, the byte where it failed, the number found there, the node being read, and
            the way to it, as a list of (record node, field number) and (-1, item number) pairs and
            of keys.
        """
        cdef AvroFrame[AVRO_DEPTH_MAX] frames
        cdef AvroPlace place
        cdef AvroFault fault
        cdef const unsigned char* data = <const unsigned char*>PyBytes_AS_STRING(message)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(message)
        if not 0 <= start <= size:
            raise InternalError(f"start {start} of an Avro message of {size} bytes")
        if self.nodes == NULL:
            raise InternalError("an Avro walker without a program")
        fault = walk_avro(self.nodes, self.children, data + start, data + size, frames, &place)
        if fault == AVRO_GOOD:
            return None
        path = [self.step(&frames[i]) for i in range(place.depth)]
        return AVRO_RULES[<int>fault], place.at - data, place.got, place.node, path

    cdef object step(self, AvroFrame* frame):
        if self.nodes[frame.node].op == AVRO_RECORD:
            return frame.node, frame.child
        if frame.key_borrowed != NULL:
            return frame.key_borrowed[:min(frame.key_size, 160)].decode("utf-8", "replace")
        return -1, frame.child
