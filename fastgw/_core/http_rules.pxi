# The head of a request against the rules: what RFC 9112 asks of a server and the parser leaves to it.
#
# `note_field` keeps what the gateway itself needs of each header; `check_head` judges the whole head.
# A head that breaks a rule is answered and its connection closed: where the next request starts is
# unknown then.

cdef int note_field(HttpConnection conn, Request request, Field kind, bytes value) except -1:
    """Keep what the gateway itself needs of a header."""
    if kind == FIELD_HOST:
        conn.hosts_count += 1
        conn.host = value
    elif kind == FIELD_AUTHORIZATION:
        if request.credential is not None:
            # WHY: a proxy before us may have judged the other one.
            request.refuse("bad-header", "Authorization is there twice")
        request.credential = value
    elif kind == FIELD_API_KEY:
        if request.api_key is not None:
            request.refuse("bad-header", "X-API-Key is there twice")
        request.api_key = value
    elif kind == FIELD_CONTENT_TYPE:
        request.content_type = value
    elif kind == FIELD_CONTENT_LENGTH:
        conn.content_length = parse_decimal(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
        if conn.content_length < 0:
            conn.content_length = 1 << 62
    elif kind == FIELD_TRANSFER_ENCODING:
        conn.transfer_coding = (
            value if conn.transfer_coding is None else conn.transfer_coding + b", " + value
        )
    elif kind == FIELD_CONNECTION:
        conn.connection_value = (
            value if conn.connection_value is None else conn.connection_value + b"," + value
        )
    elif kind == FIELD_EXPECT:
        conn.expects_continue = True
        if value.lower() != b"100-continue":
            request.refuse("expectation-failed", f"Expect: {clip(value)} is not supported")
    elif kind == FIELD_CONTENT_ENCODING and value and value.lower() != b"identity":
        coding = value.lower()
        request.coding = coding if request.coding is None else request.coding + b", " + coding
    elif kind == FIELD_SUBJECT:
        request.suffix = value
    elif kind == FIELD_ORIGIN:
        request.origin = value
        if conn.ingress.cors_origins is not None and value in conn.ingress.cors_origins:
            request.cors_line = b"Access-Control-Allow-Origin: " + value + b"\r\n"
    elif kind == FIELD_HANDSHAKE and 0 < PyBytes_GET_SIZE(value) <= HANDSHAKE_ORIGIN_BYTES_MAX:
        request.handshake_origin = value
    return 0


cdef bint read_connection_options(HttpConnection conn, Request request, bint keeps_alive) except -1:
    """Read the `Connection` header; returns whether the connection persists."""
    cdef list named = None
    has_upgrade_option = False
    for option in (conn.connection_value or b"").lower().split(b","):
        option = option.strip(b" \t")
        if option == b"upgrade":
            has_upgrade_option = True
        elif option == b"close":
            # SOURCE: RFC 9112 §9.3, the first thing to look for; it wins over keep-alive.
            keeps_alive = False
        elif option not in (b"keep-alive", b"te", b"http2-settings", b""):
            named = [option] if named is None else named + [option]
    if named is not None:
        request.connection_names = named
        if request.header_list is None:
            drop_named_fields(&conn.fields, named)
    if has_upgrade_option and conn.parser.should_upgrade():
        conn.has_upgrade = True
        # SOURCE: llhttp reports an upgrade request as persistent or not by the options alone.
        options = conn.connection_value.lower()
        keeps_alive = b"close" not in options and (not request.is_old or b"keep-alive" in options)
    return keeps_alive


cdef bint check_head(HttpConnection conn, Request request) except -1:
    """What RFC 9112 asks of a server and the parser leaves to it. Returns whether to go on."""
    cdef bint keeps_alive = conn.parser.should_keep_alive()
    if conn.connection_value is not None or not keeps_alive:
        # WHY: asking for the version costs a formatted string; only these requests need it.
        version = conn.parser.get_http_version()
        if version != "1.1" and version != "1.0":
            conn.fault("version-unsupported", f"HTTP version {version}; 1.0 and 1.1 are served")
            return False
        request.is_old = version == "1.0"
        keeps_alive = read_connection_options(conn, request, keeps_alive)
        if request.is_old:
            conn.expects_continue = False
    request.keeps_alive = keeps_alive
    request.is_head = request.method_name == b"HEAD"
    if not is_target_valid(request):
        conn.fault("bad-request-framing", f"request target '{clip(request.url)}' is not served")
        return False
    if conn.hosts_count != 1 and not (request.is_old and conn.hosts_count == 0):
        conn.fault("bad-host", f"{conn.hosts_count} Host headers; exactly one is required")
        return False
    if conn.host is not None and not is_same_bytes(conn.host, conn.known_host):
        if not conn.host or not is_host_valid(conn.host):
            conn.fault("bad-host", f"Host '{clip(conn.host)}' is not a host and port")
            return False
        conn.known_host = conn.host
    if conn.transfer_coding is not None:
        if conn.transfer_coding.strip().lower() != b"chunked":
            conn.fault("transfer-coding-unknown",
                       f"Transfer-Encoding '{clip(conn.transfer_coding)}'; only chunked is served")
            return False
        if request.is_old:
            conn.fault("bad-request-framing", "Transfer-Encoding in an HTTP/1.0 request")
            return False
    if conn.content_length > conn.body_max:
        conn.fault("body-too-large",
                   f"body of {conn.content_length} bytes exceeds {conn.body_max}")
        return False
    return True


cdef bint is_target_valid(Request request):
    """Whether the target has a form that its method may have. SOURCE: RFC 9112 §3.2."""
    cdef const char* text = PyBytes_AS_STRING(request.url)
    if text[0] == 47:
        return memchr(text, 35, <size_t>PyBytes_GET_SIZE(request.url)) == NULL
    if b"#" in request.url:
        return False
    if request.url == b"*":
        return request.method_name == b"OPTIONS"
    if request.method_name == b"CONNECT":
        return True
    scheme, _, rest = request.url.partition(b"://")
    if scheme.lower() not in (b"http", b"https"):
        return False
    authority = authority_of(rest)
    return authority != b"" and is_host_valid(authority)


cdef int read_past_upgrade(HttpConnection conn, object data, Py_ssize_t offset) except -1:
    """Read the body of an upgrade request, which the parser has taken for another protocol.

    SOURCE: RFC 9110 §7.8, a server may ignore Upgrade. A new parser is shown the framing alone.
    """
    if conn.is_stopped or conn.current is None or not conn.has_upgrade:
        if not conn.is_stopped:
            conn.fault("method-not-allowed", "this kind of request is not served")
        return 0
    framing = b"POST / HTTP/1.1\r\nHost: x\r\n"
    if conn.transfer_coding is not None:
        framing += b"Transfer-Encoding: chunked\r\n"
    elif conn.content_length >= 0:
        framing += b"Content-Length: %d\r\n" % conn.content_length
    conn.is_replaying = True
    conn.make_parser()
    rest = memoryview(data)[offset:]
    if conn.transfer_coding is None and conn.content_length <= 0:
        conn.on_message_complete()
        conn.is_replaying = False
    else:
        conn.feed(framing + b"\r\n")
        conn.is_replaying = False
        conn.has_upgrade = False
    conn.feeding = None
    if len(rest) and not conn.is_stopped:
        conn.feed_bytes(rest, len(rest))
    return 0
