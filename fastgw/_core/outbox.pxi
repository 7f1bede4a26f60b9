# Long payloads on their way to the broker: not copied, but sent from where they lie.
#
# Frames gather in the link's buffer; a long payload is only remembered, with the place in the buffer
# where it belongs. One `sendmsg` a turn takes both; what the socket does not take goes to the
# transport, which keeps the payload's object instead of a copy of it.

cdef extern from "<sys/socket.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    ssize_t sendmsg(int fd, const msghdr* message, int flags)

cdef struct Apart:
    PyObject* owner          # owned: the bytes object that the payload is part of
    Py_ssize_t start
    Py_ssize_t size
    size_t at                # how much of the buffer goes out before it


cdef inline bint is_sent_apart(BrokerLink link, Py_ssize_t size) noexcept:
    """Whether a payload of `size` bytes is worth a piece of its own, and there is one."""
    return size >= APART_BYTES_MIN and link.aparts_count < APARTS_MAX


cdef int put_apart(BrokerLink link, bytes owner, const char* payload, Py_ssize_t size) except -1:
    """Have a part of `owner` sent behind what is in the buffer now. The caller has seen that it may."""
    cdef Apart* apart = &link.aparts[link.aparts_count]
    Py_INCREF(owner)
    apart.owner = <PyObject*>owner
    apart.start = payload - PyBytes_AS_STRING(owner)
    apart.size = size
    apart.at = link.out.size
    link.aparts_count += 1
    link.aparts_bytes += <size_t>size
    return 0


cdef int drop_aparts(BrokerLink link) except -1:
    """They are sent, or never will be."""
    cdef int i
    for i in range(link.aparts_count):
        Py_XDECREF(link.aparts[i].owner)
    link.aparts_count = 0
    link.aparts_bytes = 0
    return 0


cdef size_t write_at_once(BrokerLink link) noexcept:
    """Give the socket the buffer and the payloads, in order. Returns how much it took."""
    cdef iovec parts[2 * APARTS_MAX + 1]
    cdef msghdr message
    cdef Apart* apart
    cdef ssize_t sent
    cdef size_t at = 0
    cdef int i
    if link.fd < 0:
        return 0
    if link.aparts_count == 0:
        sent = send(link.fd, link.out.data, link.out.size, MSG_NOSIGNAL | MSG_DONTWAIT)
        # WHY: EAGAIN is no failure, and of any other the transport's own write tells.
        return <size_t>sent if sent > 0 else 0
    for i in range(link.aparts_count):
        apart = &link.aparts[i]
        parts[2 * i].iov_base = link.out.data + at
        parts[2 * i].iov_len = apart.at - at
        parts[2 * i + 1].iov_base = PyBytes_AS_STRING(<object>apart.owner) + apart.start
        parts[2 * i + 1].iov_len = <size_t>apart.size
        at = apart.at
    parts[2 * link.aparts_count].iov_base = link.out.data + at
    parts[2 * link.aparts_count].iov_len = link.out.size - at
    memset(&message, 0, sizeof(msghdr))
    message.msg_iov = parts
    message.msg_iovlen = 2 * link.aparts_count + 1
    sent = sendmsg(link.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT)
    return <size_t>sent if sent > 0 else 0


cdef int write_frames(BrokerLink link, size_t begin, size_t end, size_t* sent) except -1:
    """Give the transport what of this part of the buffer the socket has not taken."""
    cdef size_t skipped = min(sent[0], end - begin)
    sent[0] -= skipped
    if begin + skipped < end:
        link.transport.write(PyBytes_FromStringAndSize(
            link.out.data + begin + skipped, <Py_ssize_t>(end - begin - skipped)))
    return 0


cdef int flush_aparts(BrokerLink link) except -1:
    """Write the buffer and the payloads; the buffer's frames may be overwritten then."""
    cdef size_t sent = write_at_once(link)
    cdef size_t at = 0
    cdef size_t skipped
    cdef Apart* apart
    cdef int i
    if sent < link.out.size + link.aparts_bytes:
        for i in range(link.aparts_count):
            apart = &link.aparts[i]
            write_frames(link, at, apart.at, &sent)
            at = apart.at
            skipped = min(sent, <size_t>apart.size)
            sent -= skipped
            if skipped < <size_t>apart.size:
                link.transport.write(memoryview(<bytes>apart.owner)[
                    apart.start + <Py_ssize_t>skipped:apart.start + apart.size])
        write_frames(link, at, link.out.size, &sent)
    return drop_aparts(link)
