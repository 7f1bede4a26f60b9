# A compiled JSON schema: a flat table of nodes, each with what it takes of every kind of value.
#
# `JsonWalker` gets the nodes that fastgw/schema/json_fast.py compiles, checks that no index leads
# out of the table, and sorts what is looked up; json_walk.pxi walks messages by it. Names and single
# values are found by halving, so that no schema makes a long message cost its square.

cdef enum:
    # LIMIT: properties that one object schema names, a bit each in a frame.
    JSON_FIELDS_MAX = 256

# The kinds of values that a node takes, as bits. A whole number is one without point and exponent.
cdef enum:
    JSON_NULL = 1
    JSON_FALSE = 2
    JSON_TRUE = 4
    JSON_WHOLE = 8
    JSON_REAL = 16
    JSON_TEXT = 32
    JSON_ARRAY = 64
    JSON_OBJECT = 128
    # Which rules there are beside the kind.
    JSON_REAL_BOUND = 256
    JSON_TEXT_BOUND = 512
    JSON_WHOLE_LISTED = 1024
    JSON_TEXT_LISTED = 2048

# The words in which `JsonWalker` is told kinds, with their bits.
cdef dict JSON_KINDS = {
    "null": <int>JSON_NULL, "false": <int>JSON_FALSE, "true": <int>JSON_TRUE,
    "whole": <int>JSON_WHOLE, "real": <int>JSON_REAL, "text": <int>JSON_TEXT,
    "array": <int>JSON_ARRAY, "object": <int>JSON_OBJECT,
}

cdef struct JsonNode:
    int kinds
    int format
    int64_t low, high, step            # of whole numbers; step 0 for any
    double real_low, real_high
    bint low_open, high_open           # whether the bound itself is refused
    int64_t text_min, text_max         # in code points
    int wholes_first, wholes_count     # the single whole numbers
    int texts_first, texts_count       # the single strings
    int item                           # the node of each item
    int64_t items_min, items_max
    int rest                           # the node of properties that are not named; -1 for none
    int names_first, names_count
    int required_count
    int64_t members_min, members_max

cdef struct JsonName:
    const char* text_borrowed          # a name as `"name":`; DANGER: JsonWalker.owned owns it
    Py_ssize_t size
    int child
    bint is_required

cdef struct JsonProgram:
    JsonNode* nodes
    JsonName* names                    # those of one object in the schema's order
    int* sorted_names                  # their indexes by size, then bytes
    JsonName* texts                    # single strings, of one node by size, then bytes
    int64_t* wholes                    # single whole numbers, of one node in their order


cdef inline int compare_texts(
    const char* a, Py_ssize_t a_size, const char* b, Py_ssize_t b_size
) noexcept nogil:
    """Below, at or above zero, by size and then by bytes."""
    if a_size != b_size:
        return -1 if a_size < b_size else 1
    return memcmp(a, b, <size_t>a_size)


cdef int find_name(
    JsonProgram* program, JsonNode* node, const char* text, Py_ssize_t size
) noexcept nogil:
    """The number of a property within its node, or -1 for one that the schema does not name."""
    cdef int low = 0
    cdef int high = node.names_count
    cdef int middle, index, order
    cdef JsonName* name
    while low < high:
        middle = (low + high) // 2
        index = program.sorted_names[node.names_first + middle]
        name = &program.names[node.names_first + index]
        order = compare_texts(text, size, name.text_borrowed + 1, name.size - 3)
        if order == 0:
            return index
        if order < 0:
            high = middle
        else:
            low = middle + 1
    return -1


cdef bint is_listed_text(
    JsonProgram* program, JsonNode* node, const char* text, Py_ssize_t size
) noexcept nogil:
    cdef int low = node.texts_first
    cdef int high = low + node.texts_count
    cdef int middle, order
    while low < high:
        middle = (low + high) // 2
        order = compare_texts(
            text, size, program.texts[middle].text_borrowed, program.texts[middle].size)
        if order == 0:
            return True
        if order < 0:
            high = middle
        else:
            low = middle + 1
    return False


cdef bint is_listed_whole(JsonProgram* program, JsonNode* node, int64_t value) noexcept nogil:
    cdef int low = node.wholes_first
    cdef int high = low + node.wholes_count
    cdef int middle
    while low < high:
        middle = (low + high) // 2
        if program.wholes[middle] == value:
            return True
        if value < program.wholes[middle]:
            high = middle
        else:
            low = middle + 1
    return False


@cython.final
cdef class JsonWalker:
    """Tells JSON messages that are surely good by one schema.

    Args:
        nodes: the schema's program, `fastgw.schema.json_fast.Node` each; node 0 is the root.
    """

    cdef JsonProgram program
    cdef list owned                    # the bytes that names and texts point into

    def __init__(self, list nodes):
        cdef int names_count = sum(len(node.names) for node in nodes)
        cdef int texts_count = sum(len(node.texts or ()) for node in nodes)
        cdef int wholes_count = sum(len(node.wholes or ()) for node in nodes)
        cdef JsonProgram* program = &self.program
        cdef JsonNode filled
        cdef int i
        if program.nodes != NULL or not nodes:
            raise InternalError("a JSON program is given once, and has a root")
        self.owned = []
        # WHY one more of each: an empty table has an address too.
        program.nodes = <JsonNode*>calloc(<size_t>len(nodes) + 1, sizeof(JsonNode))
        program.names = <JsonName*>calloc(<size_t>names_count + 1, sizeof(JsonName))
        program.sorted_names = <int*>calloc(<size_t>names_count + 1, sizeof(int))
        program.texts = <JsonName*>calloc(<size_t>texts_count + 1, sizeof(JsonName))
        program.wholes = <int64_t*>calloc(<size_t>wholes_count + 1, sizeof(int64_t))
        if (program.nodes == NULL or program.names == NULL or program.sorted_names == NULL
                or program.texts == NULL or program.wholes == NULL):
            raise MemoryError("no memory for a JSON program")
        filled.names_count = filled.texts_count = filled.wholes_count = 0
        for i, node in enumerate(nodes):
            self.fill_kinds(&program.nodes[i], node)
            self.fill_values(&program.nodes[i], &filled, node)
            self.fill_names(&program.nodes[i], &filled, node, <int>len(nodes))

    def __dealloc__(self):
        free(self.program.nodes)
        free(self.program.names)
        free(self.program.sorted_names)
        free(self.program.texts)
        free(self.program.wholes)

    cdef int fill_kinds(self, JsonNode* node, object rules) except -1:
        """Set which kinds the node takes, and the bounds of each."""
        for kind in rules.kinds:
            node.kinds |= <int>JSON_KINDS[kind]
        node.low, node.high, node.step = rules.low, rules.high, rules.step
        if rules.real is not None:
            node.kinds |= JSON_REAL_BOUND
            node.real_low, node.real_high, node.low_open, node.high_open = rules.real
        node.text_min, node.text_max = rules.text
        node.format = JSON_FORMATS.index(rules.format)
        if rules.text != (0, 0x7FFFFFFFFFFFFFFF) or node.format or rules.texts is not None:
            node.kinds |= JSON_TEXT_BOUND
        node.items_min, node.items_max = rules.items
        node.members_min, node.members_max = rules.members
        return 0

    cdef int fill_values(self, JsonNode* node, JsonNode* filled, object rules) except -1:
        """Set the single values that the node takes, in the order in which they are looked up."""
        cdef JsonName* text
        node.texts_first = filled.texts_count
        node.wholes_first = filled.wholes_count
        if rules.texts is not None:
            node.kinds |= JSON_TEXT_LISTED
            for one in sorted(rules.texts, key=by_size):
                self.owned.append(one)
                text = &self.program.texts[filled.texts_count]
                text.text_borrowed = PyBytes_AS_STRING(<bytes?>one)
                text.size = PyBytes_GET_SIZE(one)
                filled.texts_count += 1
        if rules.wholes is not None:
            node.kinds |= JSON_WHOLE_LISTED
            for number in sorted(rules.wholes):
                self.program.wholes[filled.wholes_count] = number
                filled.wholes_count += 1
        node.texts_count = filled.texts_count - node.texts_first
        node.wholes_count = filled.wholes_count - node.wholes_first
        return 0

    cdef int fill_names(
        self, JsonNode* node, JsonNode* filled, object rules, int nodes_count
    ) except -1:
        """Set the node's children and the names that lead to them."""
        cdef JsonName* name
        cdef bytes quoted
        cdef int i
        if len(rules.names) > JSON_FIELDS_MAX:
            raise InternalError(f"{len(rules.names)} properties in one node of a JSON program")
        if not (0 <= rules.item < nodes_count and -1 <= rules.rest < nodes_count):
            raise InternalError(
                f"a node of a JSON program has children {rules.item} and {rules.rest}")
        node.item, node.rest = rules.item, rules.rest
        node.names_first = filled.names_count
        node.names_count = <int>len(rules.names)
        filled.names_count += node.names_count
        for i, (text, child, is_required) in enumerate(rules.names):
            quoted = b'"' + <bytes?>text + b'":'
            name = &self.program.names[node.names_first + i]
            name.text_borrowed = PyBytes_AS_STRING(quoted)
            name.size = PyBytes_GET_SIZE(quoted)
            # WHY: names are compared with bytes that nobody has read as a string before.
            if (fastgw_string_run(name.text_borrowed + 1, name.text_borrowed + name.size)
                    != name.text_borrowed + name.size - 2 or not 0 <= child < nodes_count):
                raise InternalError(f"a JSON program names {clip(text)} with child {child}")
            self.owned.append(quoted)
            name.child, name.is_required = child, is_required
            node.required_count += name.is_required
        order = sorted(range(node.names_count), key=lambda i: by_size(rules.names[i][0]))
        for i in range(node.names_count):
            self.program.sorted_names[node.names_first + i] = order[i]
        return 0

    cdef bint takes(self, const char* text, Py_ssize_t size) noexcept nogil:
        cdef const char* end = text + size
        cdef const char* p
        if self.program.nodes == NULL:
            return False
        p = walk_json(&self.program, text, end)
        if p == NULL or skip_space(p, end) != end:
            return False
        return (fastgw_is_ascii(text, size) or find_bad_utf8(<const unsigned char*>text,
                <const unsigned char*>end) == <const unsigned char*>end)

    def is_surely_good(self, bytes message not None) -> bool:
        """Whether the message is good without doubt; False says nothing."""
        return self.takes(PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message))


cdef tuple by_size(bytes text):
    """The order in which names and single strings are looked up."""
    return PyBytes_GET_SIZE(text), text
