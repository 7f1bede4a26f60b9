# What is counted: one row of 64-bit numbers for each worker, in memory that all workers share.
#
# `METRICS` names every slot in order; the rest of the core adds to slots by the constants below.
# A row outlives its worker, so counters are only added to; gauges are set. Times are taken once a
# read and once a turn, not once a request: a request costs some additions and no system call.

cdef enum CountersShape:
    ROUTES_COUNT = 6
    STATUSES_COUNT = 23
    BUCKETS_COUNT = 17

cdef tuple ROUTE_WORDS = ("single", "batch", "consume", "auth", "admin", "other")
cdef tuple STATUS_CODES = (
    200, 201, 202, 204, 304, 400, 401, 403, 404, 405, 408, 409, 413, 414, 415, 417, 429, 431, 500, 501,
    503, 504, 0,
)
cdef tuple KIND_WORDS = tuple(KINDS)
# WHY these bounds: a produce on one machine takes a fraction of a millisecond, one that waits for a
# lost broker some seconds; between them a factor of two or two and a half tells enough.
cdef tuple BUCKETS_US = (
    100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000, 500000, 1000000, 2000000,
    5000000, 10000000, 30000000,
)
cdef tuple PLAIN_COUNTERS = (
    ("fastgw_request_bytes_total", ()),
    ("fastgw_response_bytes_total", ()),
    ("fastgw_publishes_total", ()),
    ("fastgw_publish_bytes_total", ()),
    ("fastgw_acks_total", (("outcome", "stored"),)),
    ("fastgw_acks_total", (("outcome", "duplicate"),)),
    ("fastgw_defects_total", ()),
    ("fastgw_connections_total", ()),
    ("fastgw_connections_refused_total", (("reason", "total"),)),
    ("fastgw_connections_refused_total", (("reason", "address"),)),
    ("fastgw_deliveries_total", ()),
    ("fastgw_broker_links_total", ()),
    ("fastgw_broker_links_lost_total", ()),
    ("fastgw_replays_total", ()),
)
cdef tuple GAUGES = (
    "fastgw_connections", "fastgw_publishes_in_flight", "fastgw_waiting_bytes", "fastgw_tokens_cached",
    "fastgw_broker_live", "fastgw_draining", "fastgw_unread_bytes",
    "fastgw_descriptors_exhausted",
)

cdef enum Counter:
    # Offsets of the plain counters, in the order above.
    COUNT_REQUEST_BYTES
    COUNT_RESPONSE_BYTES
    COUNT_PUBLISHES
    COUNT_PUBLISH_BYTES
    COUNT_STORED
    COUNT_DUPLICATES
    COUNT_DEFECTS
    COUNT_CONNECTIONS
    COUNT_REFUSED_TOTAL
    COUNT_REFUSED_ADDRESS
    COUNT_DELIVERIES
    COUNT_LINKS
    COUNT_LINKS_LOST
    COUNT_REPLAYS
    COUNTERS_COUNT


cdef tuple name_slots():
    """Name, labels and kind of every slot, in order."""
    slots = [
        ("fastgw_requests_total",
         (("route", route), ("status", str(status) if status else "other")), "counter")
        for route in ROUTE_WORDS for status in STATUS_CODES
    ]
    slots += [(name, labels, "counter") for name, labels in PLAIN_COUNTERS]
    slots += [("fastgw_errors_total", (("kind", word),), "counter") for word in KIND_WORDS]
    slots += [(name, (), "gauge") for name in GAUGES]
    for name in ("fastgw_request_duration_seconds", "fastgw_ack_duration_seconds"):
        slots += [(name, (("le", repr(bound / 1000000)),), "bucket") for bound in BUCKETS_US]
        slots += [(name, (("le", "+Inf"),), "bucket"), (name, (), "sum"), (name, (), "count")]
    return tuple(slots)


METRICS = name_slots()

cdef Py_ssize_t AT_PLAIN = ROUTES_COUNT * STATUSES_COUNT
cdef Py_ssize_t AT_KINDS = AT_PLAIN + COUNTERS_COUNT
cdef Py_ssize_t AT_GAUGES = AT_KINDS + len(KIND_WORDS)
cdef Py_ssize_t AT_REQUEST_TIMES = AT_GAUGES + len(GAUGES)
cdef Py_ssize_t AT_ACK_TIMES = AT_REQUEST_TIMES + BUCKETS_COUNT + 3
cdef dict KIND_INDEX = {word: index for index, word in enumerate(KIND_WORDS)}

# By status code: its index in STATUS_CODES, the last one for all that are not named.
cdef unsigned char STATUS_INDEX[600]
cdef uint64_t BUCKET_BOUNDS[BUCKETS_COUNT]


cdef int fill_tables() except -1:
    cdef int status
    if len(STATUS_CODES) != STATUSES_COUNT or len(BUCKETS_US) != BUCKETS_COUNT:
        raise InternalError("the tables of the counters do not fit their sizes")
    if len(PLAIN_COUNTERS) != COUNTERS_COUNT or len(ROUTE_WORDS) != ROUTES_COUNT:
        raise InternalError("the names of the counters do not fit their offsets")
    for status in range(600):
        STATUS_INDEX[status] = STATUSES_COUNT - 1
    for index, code in enumerate(STATUS_CODES[:STATUSES_COUNT - 1]):
        STATUS_INDEX[<int>code] = <unsigned char>index
    for index, bound in enumerate(BUCKETS_US):
        BUCKET_BOUNDS[<int>index] = bound
    return 0


fill_tables()


@cython.final
cdef class Row:
    """The slots of this worker."""

    cdef uint64_t* slots
    cdef Py_buffer held              # keeps the memory in its place
    cdef uint64_t timed_us           # the duration that was counted last, and its bucket
    cdef int timed_bucket

    def __cinit__(self, view):
        cdef Py_ssize_t size = 8 * len(METRICS)
        # WHY: what nobody reads is counted all the same; a question each time would cost more.
        PyObject_GetBuffer(bytearray(size) if view is None else view, &self.held, PyBUF_WRITABLE)
        if self.held.len < size:
            raise InternalError(f"a row of {self.held.len} bytes; {size} are needed")
        self.slots = <uint64_t*>self.held.buf

    def __dealloc__(self):
        PyBuffer_Release(&self.held)

    cdef inline void add(self, Counter counter, uint64_t amount) noexcept nogil:
        self.slots[AT_PLAIN + <Py_ssize_t>counter] += amount

    cdef inline void count_answer(self, int route, int status) noexcept nogil:
        if not 0 <= status < 600:
            status = 0
        self.slots[route * STATUSES_COUNT + STATUS_INDEX[status]] += 1

    cdef inline int count_fault(self, str word) except -1:
        self.slots[AT_KINDS + <Py_ssize_t>KIND_INDEX[word]] += 1
        return 0

    cdef inline void time(self, Py_ssize_t base, uint64_t took_us) noexcept nogil:
        """Count one duration in the histogram at `base`."""
        cdef int bucket = self.timed_bucket
        if took_us != self.timed_us:
            # WHY: what one read brings was mostly sent by one turn, and took as long.
            bucket = 0
            while bucket < BUCKETS_COUNT and took_us > BUCKET_BOUNDS[bucket]:
                bucket += 1
            self.timed_us = took_us
            self.timed_bucket = bucket
        self.slots[base + bucket] += 1
        self.slots[base + BUCKETS_COUNT + 1] += took_us
        self.slots[base + BUCKETS_COUNT + 2] += 1

    cdef inline void set_gauge(self, int index, uint64_t value) noexcept nogil:
        self.slots[AT_GAUGES + index] = value
