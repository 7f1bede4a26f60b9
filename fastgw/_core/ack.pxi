# Step 8: PubAck or error -> the slot's request.
#
# The usual ack is read by position against the station's expected head; every other shape goes
# through msgspec. SOURCE: ADR-1 JetStream API, ADR-22 retries; texts seen on nats-server 2.15.

class PubError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    count: int = 0                   # messages of an atomic batch; 0 for a single one
    duplicate: bool = False
    error: PubError | None = None


cdef object decode_ack = msgspec.json.Decoder(PubAck).decode

# SOURCE: nats-server errors.json. Everything not named here is the broker's refusal of the message.
cdef dict ACK_FAULTS = {
    10054: "message-too-large",      # message size exceeds maximum allowed
    10060: "sequence-differs",       # expected stream does not match
    10070: "sequence-differs",       # wrong last msg id
    10071: "sequence-differs",       # wrong last sequence
    10164: "sequence-differs",       # wrong last sequence, constant form
    10077: "stream-full",            # maximum messages, bytes, or messages per subject exceeded
    10023: "stream-full",            # insufficient resources
    10002: "stream-full",            # resource limits exceeded for account
    10047: "stream-full",            # insufficient storage resources
    10167: "broker-busy",            # ingest queue full
    10158: "outcome-unknown",        # the same message id is being stored right now
}


cdef inline int64_t parse_stored(const char* ack, Py_ssize_t size, bytes expected_head) noexcept:
    """Sequence of `{"stream":"S","seq":7}` when it has exactly this shape, else -1."""
    cdef Py_ssize_t head = PyBytes_GET_SIZE(expected_head)
    cdef int64_t sequence
    if size <= head + 1 or ack[size - 1] != 125:
        return -1
    if memcmp(ack, PyBytes_AS_STRING(expected_head), <size_t>head) != 0:
        return -1
    sequence = parse_decimal(ack + head, size - head - 1)
    return sequence if sequence > 0 else -1


cdef object ack_fault(object error):
    """The fault that a JetStream error means for the client."""
    cdef str word = ACK_FAULTS.get(error.err_code, "")
    if not word:
        word = "broker-busy" if error.code == 429 else (
            "stream-full" if error.code >= 500 else "broker-refused"
        )
    return UpstreamFault(word, f"the broker refused the message: {error.description} ({error.err_code})")
