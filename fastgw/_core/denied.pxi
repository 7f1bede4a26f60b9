# Publishes that the broker's permissions refuse: which of those in flight an -ERR speaks of.
#
# The -ERR names the subject and nothing else, and it overtakes the acks of earlier publishes that were
# taken. So refusals of a subject are counted, and a PING is sent: the broker reads in order, so with
# its PONG every refusal of what was sent before the PING has come. When no more publishes of that
# subject are unanswered than were refused, those are the ones. SOURCE: seen on nats-server 2.15.

@cython.final
cdef class Denial:
    """Refusals among the publishes between two marks of a link."""

    cdef dict counts                 # by subject
    cdef uint64_t from_order, to_order
    cdef uint64_t pong               # the PONG that ends the counting
    cdef bint is_counted


cdef int note_denied(BrokerLink link, bytes subject) except -1:
    """A publish to `subject` was refused; find out which, now or when more is known."""
    cdef Denial last = link.denials[len(link.denials) - 1] if link.denials else None
    cdef Denial denial = last
    if last is not None and link.pongs_count >= last.pong:
        # WHY here: one read may bring its PONG and the refusals of what was sent behind it.
        last.is_counted = True
    if denial is None or denial.is_counted:
        if denial is None and link.slots.count_pending(subject, 0, link.slots.order) <= 1:
            return refuse_denied(link, subject, 0, link.slots.order)
        denial = Denial.__new__(Denial)
        denial.counts = {}
        denial.from_order = 0 if last is None else last.to_order
        denial.to_order = link.slots.order
        link.ping()
        denial.pong = link.pings_count
        link.denials.append(denial)
    denial.counts[subject] = denial.counts.get(subject, 0) + 1
    return 0


cdef int resolve_denials(BrokerLink link) except -1:
    """Refuse what is known to be refused by now. Called at each PONG and ack while some is not."""
    cdef Denial denial
    while link.denials:
        denial = link.denials[0]
        denial.is_counted = denial.is_counted or link.pongs_count >= denial.pong
        if not denial.is_counted:
            return 0
        for subject, count in list(denial.counts.items()):
            if link.slots.count_pending(subject, denial.from_order, denial.to_order) <= count:
                refuse_denied(link, subject, denial.from_order, denial.to_order)
                del denial.counts[subject]
        if denial.counts:
            return 0
        link.denials.pop(0)
    return 0


cdef int refuse_denied(BrokerLink link, bytes subject, uint64_t from_order, uint64_t to_order) except -1:
    cdef Slot* slot
    cdef Request request
    cdef Py_ssize_t index
    cdef int i
    for i in range(link.slots.slots_count):
        slot = &link.slots.slots[i]
        if is_pending(slot, subject, from_order, to_order):
            index = slot.index
            request = link.slots.give_back(slot, False)
            request.settle_fault(index, "forbidden", FORBIDDEN_TEXT)
    return link.close_when_idle()


cdef bint deny_pull(BrokerLink link, Pull pull) except -1:
    """The broker refuses what a consume needs: answer it."""
    link.drop_pull(pull)
    if pull.request.state != REQUEST_GONE:
        pull.request.finish("forbidden", FORBIDDEN_TEXT)
    return True


cdef bint take_denial(BrokerLink link, str text) except -1:
    """Act on an -ERR about permissions. Returns whether it belongs to a request."""
    cdef Pull pull
    cdef bytes subject
    if not text.startswith("Permissions Violation for "):
        return False
    subject = text.partition('"')[2].partition('"')[0].encode()
    if text.startswith("Permissions Violation for Subscription "):
        if subject == link.reply_prefix + b"*" and link.is_live:
            # WHY: deaf to acks, this connection would store messages and tell nobody.
            if link.on_error is not None:
                link.on_error("the broker no longer lets us hear its acks")
            link.transport.abort()
            return True
        for pull in link.pulls.values():
            if pull.inbox == subject:
                return deny_pull(link, pull)
        return False
    # WHY the newest: those before it were taken, and wait.
    for pull in reversed(list(link.pulls.values())):
        if pull.subject == subject:
            return deny_pull(link, pull)
    if link.slots.count_pending(subject, 0, link.slots.order) == 0:
        return False
    note_denied(link, subject)
    return True


cdef str FORBIDDEN_TEXT = "the broker forbids the gateway this subject"
