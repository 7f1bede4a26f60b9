# How much one user, API key or address may ask: requests and bytes a second, connections at once.
#
# A `Bucket` hangs on the Principal and on the connection it belongs to, so that a request pays two
# subtractions and no lookup. Each worker counts for itself.

@cython.final
cdef class Bucket:
    """Two token buckets, one of requests and one of bytes; a rate of 0 is no bound."""

    cdef double requests_per_ms, bytes_per_ms, requests_max, bytes_max
    cdef double requests, bytes_left
    cdef uint64_t refilled_ms

    def __cinit__(self, double requests_per_s, double bytes_per_s, double burst_s, uint64_t now_ms):
        self.requests_per_ms = requests_per_s / 1000
        self.bytes_per_ms = bytes_per_s / 1000
        # WHY: a burst below one request would never let any through.
        self.requests = self.requests_max = max(1.0, requests_per_s * burst_s)
        self.bytes_left = self.bytes_max = max(1.0, bytes_per_s * burst_s)
        self.refilled_ms = now_ms

    cdef void refill(self, uint64_t now_ms) noexcept:
        """Give what the time since the last look has earned."""
        cdef double passed = <double>(now_ms - self.refilled_ms) if now_ms > self.refilled_ms else 0
        self.refilled_ms = now_ms
        self.requests = min(self.requests_max, self.requests + passed * self.requests_per_ms)
        self.bytes_left = min(self.bytes_max, self.bytes_left + passed * self.bytes_per_ms)

    cdef double take(self, uint64_t now_ms) noexcept:
        """Take one request. Returns 0, or the ms until the next may come; nothing is taken then."""
        self.refill(now_ms)
        if self.bytes_per_ms > 0 and self.bytes_left <= 0:
            return max(1.0, -self.bytes_left / self.bytes_per_ms)
        if self.requests_per_ms > 0:
            if self.requests < 1:
                return (1 - self.requests) / self.requests_per_ms
            self.requests -= 1
        return 0

    cdef inline void charge(self, Py_ssize_t size) noexcept:
        """Count bytes of a body. WHY: its size is known behind the head; the next request pays."""
        if self.bytes_per_ms > 0:
            self.bytes_left -= size

    cdef bint is_full(self, uint64_t now_ms) noexcept:
        """Whether nothing was taken for so long that a new bucket would be the same."""
        self.refill(now_ms)
        return self.requests >= self.requests_max and self.bytes_left >= self.bytes_max


@cython.final
cdef class Rates:
    """The buckets of one kind of name; bounded, and full ones leave first."""

    cdef double requests_per_s, bytes_per_s, burst_s
    cdef dict buckets

    def __cinit__(self, requests_per_s, bytes_per_s, double burst_s):
        self.requests_per_s = requests_per_s or 0
        self.bytes_per_s = bytes_per_s or 0
        self.burst_s = burst_s
        self.buckets = {}

    cdef Bucket find(self, str name, uint64_t now_ms):
        """The bucket of `name`, made when it is missing; None when this kind has no bound."""
        if self.requests_per_s == 0 and self.bytes_per_s == 0:
            return None
        bucket = self.buckets.get(name)
        if bucket is None:
            if len(self.buckets) >= RATE_ENTRIES_MAX:
                self.make_room(now_ms)
            bucket = Bucket(self.requests_per_s, self.bytes_per_s, self.burst_s, now_ms)
            self.buckets[name] = bucket
        return bucket

    cdef int make_room(self, uint64_t now_ms) except -1:
        """Drop the oldest full buckets, or the oldest of all when there is no full one."""
        cdef list oldest = list(islice(self.buckets, 256))
        cdef bint has_room = False
        for name in oldest:
            if (<Bucket>self.buckets[name]).is_full(now_ms):
                del self.buckets[name]
                has_room = True
        if not has_room:
            del self.buckets[oldest[0]]
        return 0


cdef str address_key(str address):
    """What counts as one client: an IPv4 address, the /64 of an IPv6 one.

    WHY: whoever has one IPv6 address mostly has the 2^64 beside it.
    """
    if ":" not in address:
        return address
    try:
        found = IPv6Address(address.partition("%")[0])
    except ValueError:
        return address
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(IPv6Address(int(found) >> 64 << 64))


def client_of(str address) -> str:
    """What counts as one client, for whoever counts outside of the core: see `address_key`."""
    return address_key(address)


cdef bint is_near(str address):
    """Whether the client is on this machine, whose connections are not counted by address."""
    return address.startswith("127.") or address in ("::1", "unix", "")


@cython.final
cdef class Visitors:
    """How many connections each address has."""

    cdef dict counts
    cdef Py_ssize_t each_max

    def __cinit__(self, Py_ssize_t each_max):
        self.counts = {}
        self.each_max = each_max

    cdef bint has_room(self, str key):
        return is_near(key) or self.counts.get(key, 0) < self.each_max

    cdef int enter(self, str key) except -1:
        if not is_near(key):
            self.counts[key] = self.counts.get(key, 0) + 1
        return 0

    cdef int leave(self, str key) except -1:
        cdef Py_ssize_t count
        if is_near(key):
            return 0
        count = self.counts.get(key, 0)
        if count <= 1:
            self.counts.pop(key, None)
        else:
            self.counts[key] = count - 1
        return 0
