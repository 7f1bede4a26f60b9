# What a request asks for beside its body: credential, query options, media type of a batch.
#
# Called between steps 2 and 4; only requests that carry such options pay for them.

# No Authorization value begins with a zero byte: the parser takes none.
cdef dict CREDENTIAL_PREFIXES = {"key": b"\0key ", "query": b"\0query ", "certificate": b"\0cert "}
cdef tuple CODINGS = (b"gzip", b"x-gzip", b"deflate", b"zstd")


cdef inline bint is_basic(bytes credential) noexcept:
    return (PyBytes_GET_SIZE(credential) > 6
            and is_same_text(PyBytes_AS_STRING(credential), b"basic ", 6))


cdef tuple find_credential(Request request):
    """Which credential counts, the first of four: its kind and its bytes; None when there is none.

    DANGER: what a principal is cached by and what it is found by must be the same bytes; so this is
    the only reader of credentials, for the cache and for `identify`.
    """
    cdef bytes found = None
    if request.credential is not None:
        return "authorization", request.credential
    if request.api_key is not None:
        return "key", request.api_key
    if request.query_bytes:
        for name, value in parse_query(request.query_bytes):
            if name == b"authorization" or name == b"access_token":
                # WHY: of two, each reader would choose another; so neither counts.
                found = value if found is None else b""
        if found is not None:
            return "query", found
    if request.conn.certificate_user is not None:
        return "certificate", request.conn.certificate_user.encode()
    return None


cdef bytes credential_key(Request request):
    """The raw bytes that a credential is cached by, or None when the request has none."""
    cdef tuple found
    if request.credential is not None and not is_basic(request.credential):
        return request.credential
    found = find_credential(request)
    if found is None:
        return None
    kind, value = found
    if kind == "authorization":
        # WHY: a password is not kept in memory longer than its check takes.
        return b"\0basic " + sha256(value).digest()
    return CREDENTIAL_PREFIXES[kind] + value


cdef list parse_query(bytes query):
    """Names and values of a query, percent-decoded."""
    # WHY: Latin-1 maps each byte to itself, and a field that nobody asks for may hold any byte.
    cdef str text = query.decode("latin-1")
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=64, encoding="latin-1")
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
    except ValueError as error:
        raise ClientFault("bad-request", f"the query cannot be read: {error}") from None


cdef bint is_true(bytes name, bytes value) except -1:
    """Read a switch. WHY: a value that is not understood must not pass for its opposite."""
    if value == b"true":
        return True
    if value == b"false":
        return False
    raise ClientFault("bad-request", f"{clip(name)} is true or false; got {clip(value)}")


cdef int read_produce_options(Request request) except -1:
    """Read the query options of a produce request, and its subject suffix."""
    for name, value in parse_query(request.query_bytes or b""):
        if name == b"subject":
            request.suffix = value
        elif name == b"results":
            request.wants_results = is_true(name, value) and request.action == ACTION_BATCH
        elif name == b"wait":
            request.wants_no_wait = not is_true(name, value)
            if request.wants_no_wait and not request.station.allow_no_wait:
                raise ClientFault("bad-request", "wait=false is not allowed on this station")
        elif name == b"atomic" and is_true(name, value):
            raise ClientFault("bad-request", "atomic=true is not allowed on this station")
    if request.suffix is not None:
        if not request.station.allow_suffix:
            raise ClientFault("bad-subject", "this station takes no subject of the client's")
        request.subject = check_subject(request.station.subject + b"." + request.suffix)
    return 0


cdef int refill_fields(Request request, Buffer* fields) except -1:
    """Build the header block again, for a request that was read before its station was known."""
    for name, value in request.header_list:
        kind = find_field(name, len(name))
        if is_forwardable(kind):
            forward_field(fields, request, kind, name, value)
    if request.connection_names is not None:
        drop_named_fields(fields, request.connection_names)
    request.header_list = None
    return 0


cdef bint is_lines_type(bytes content_type):
    """Whether the media type says one JSON value a line."""
    if content_type is None:
        return False
    media = content_type.split(b";", 1)[0].strip().lower()
    return media in (b"application/x-ndjson", b"application/jsonl", b"application/ndjson",
                     b"application/x-jsonlines")


cdef inline bint is_json_type(bytes content_type) noexcept:
    """Whether the media type is surely no other schema type's; most requests say JSON or nothing."""
    cdef Py_ssize_t size
    cdef const char* text
    if content_type is None:
        return True
    size = PyBytes_GET_SIZE(content_type)
    text = PyBytes_AS_STRING(content_type)
    # WHY the end: `application/jsonl` is another type.
    return (size >= 16 and memcmp(text, b"application/json", 16) == 0
            and (size == 16 or text[16] == 59 or text[16] == 32))


cdef bint is_envelope_type(bytes content_type):
    """Whether the media type is one of ours that names more than plain messages."""
    return (content_type is not None
            and content_type.lower().startswith(b"application/vnd.fastgw."))
