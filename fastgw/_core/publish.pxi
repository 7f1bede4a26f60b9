# Step 6: slots in flight. A slot is one publish that the broker has not answered.
#
# Each slot owns a reply number; the ring of numbers is recycled, because the broker keeps a cache of
# about 500 reply subjects and fresh ones cost it a fifth more CPU. One publish is outstanding in each.
# Where a second answer may come, a slot gets a number of the next generation, so that it finds nobody:
# when it timed out, and after each publish to a cluster, whose old leader may answer once more when it
# wakes up. SOURCE: seen with nats-server 2.15, three replicas, a leader stopped and continued.

cdef struct Slot:
    PyObject* request      # owned while the slot is taken, else NULL
    Py_ssize_t index       # which message of the request
    Py_ssize_t size        # bytes of its payload, or of all payloads of a batch
    uint32_t number        # the reply number in use
    uint64_t order         # rises with each publish of the link
    uint64_t deadline_ms
    uint64_t sent_us


@cython.final
cdef class Slots:
    """The publishes in flight of one broker connection."""

    cdef Slot* slots
    cdef int* free
    cdef int free_count
    cdef int slots_count
    cdef uint64_t order
    cdef bint is_answered_once       # no number is used twice where the broker may answer twice
    cdef int64_t bytes_count         # of all payloads in flight

    def __cinit__(self, int slots_count):
        cdef int i
        self.slots = <Slot*>calloc(slots_count, sizeof(Slot))
        self.free = <int*>calloc(slots_count, sizeof(int))
        if self.slots == NULL or self.free == NULL:
            raise MemoryError(f"no memory for {slots_count} publishes in flight")
        self.slots_count = self.free_count = slots_count
        for i in range(slots_count):
            self.slots[i].number = <uint32_t>i
            self.free[slots_count - 1 - i] = i

    def __dealloc__(self):
        cdef int i
        if self.slots != NULL:
            for i in range(self.slots_count):
                Py_XDECREF(self.slots[i].request)
        free(self.slots)
        free(self.free)

    cdef inline Slot* take(self, object request, Py_ssize_t index, uint64_t deadline_ms) noexcept:
        """Take a free slot for message `index` of `request`. The caller has seen that one is free."""
        cdef Slot* slot
        self.free_count -= 1
        slot = &self.slots[self.free[self.free_count]]
        Py_INCREF(request)
        slot.request = <PyObject*>request
        slot.index = index
        slot.size = 0
        slot.order = self.order
        slot.deadline_ms = deadline_ms
        self.order += 1
        return slot

    cdef inline void weigh(self, Slot* slot, Py_ssize_t size) noexcept nogil:
        """Count the payload of a slot that was just taken."""
        slot.size = size
        self.bytes_count += size

    cdef inline Slot* find(self, int64_t number) noexcept:
        """The taken slot that waits for reply `number`, or NULL: a late ack of one that timed out."""
        cdef Slot* slot
        if number < 0 or number > 0xffffffff:
            return NULL
        # WHY: a division costs more than the rest, and numbers rarely are of a later generation.
        slot = &self.slots[number if number < self.slots_count else number % self.slots_count]
        if slot.request == NULL or slot.number != <uint32_t>number:
            return NULL
        return slot

    cdef inline object give_back(self, Slot* slot, bint was_answered):
        """Free the slot. Returns its request, whose reference passes to the caller."""
        cdef object request = <object>slot.request
        Py_DECREF(request)
        slot.request = NULL
        self.bytes_count -= slot.size
        if not (was_answered and self.is_answered_once):
            # WHY: an ack may still come; with the next generation's number it finds nobody.
            slot.number += <uint32_t>self.slots_count
            if slot.number > 4000000000:
                slot.number %= <uint32_t>self.slots_count
        self.free[self.free_count] = <int>(slot - self.slots)
        self.free_count += 1
        return request

    cdef int in_flight(self) noexcept:
        return self.slots_count - self.free_count

    cdef int count_pending(self, bytes subject, uint64_t from_order, uint64_t to_order) noexcept:
        """How many publishes to `subject` of that part of the order are unanswered."""
        cdef int count = 0
        cdef int i
        for i in range(self.slots_count):
            count += is_pending(&self.slots[i], subject, from_order, to_order)
        return count


cdef bint is_pending(Slot* slot, bytes subject, uint64_t from_order, uint64_t to_order) noexcept:
    return (slot.request != NULL and from_order <= slot.order < to_order
            and is_same_bytes((<Request>slot.request).wire_subject(), subject))


@cython.final
cdef class WaitingLine:
    """Requests with messages that found no free slot, oldest first."""

    cdef Ingress ingress
    cdef Request first
    cdef Request last

    def __cinit__(self, Ingress ingress):
        self.ingress = ingress

    cdef int put(self, Request request, uint64_t until_ms) except -1:
        """Put a request behind the others; its body counts as waiting already."""
        request.waiting_until_ms = until_ms
        request.is_in_line = True
        if self.last is None:
            self.first = request
        else:
            self.last.next_waiting = request
        self.last = request
        return 0

    cdef Request take(self):
        """Take the oldest out; there is one."""
        cdef Request request = self.first
        self.first = request.next_waiting
        if self.first is None:
            self.last = None
        request.next_waiting = None
        request.is_in_line = False
        discharge(self.ingress, request)
        return request
