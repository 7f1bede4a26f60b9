# Steps 2 and 3 for one request: which station, who sends, and whether it may go on.
#
# Called with the head known (`admit`) and again with the body whole (`proceed`). What the head alone
# condemns is answered before the body comes. Identities that cannot be told at once (passwords,
# outside tokens) and long bodies to inflate are awaited; the request keeps its place meanwhile.

cdef object authorize(Ingress ingress, Request request):
    """Step 3: the principal of the request's credential, from the nearest cache that has it."""
    cdef HttpConnection conn = request.conn
    cdef double now = <double>unix_time(NULL)
    cdef bytes key
    cdef bint is_key = request.credential is None
    cdef bytes sent = request.api_key if is_key else request.credential
    if ingress.anonymous is not None:
        # In this mode there are no credentials, good or bad.
        if request.is_foreign:
            raise ClientFault("forbidden", "without credentials no foreign web page may ask here")
        return ingress.anonymous
    # WHY: a connection mostly repeats its credential, and comparing is cheaper than hashing.
    if (sent is not None and conn.known_forgets_count == ingress.forgets_count
            and conn.is_known_key == is_key and is_same_bytes(sent, conn.known_credential)
            and conn.known_principal.expires_at > now):
        return conn.known_principal
    key = credential_key(request)
    if key is None:
        return None
    found = ingress.tokens.find(key, now)
    if found is None:
        found = ingress.identify(request)
        if type(found) is Principal:
            remember_principal(ingress, key, found)
    if type(found) is Principal and (is_key or key is sent):
        # WHY not a password: it is not kept in memory longer than its check takes.
        conn.known_credential = sent
        conn.is_known_key = is_key
        conn.known_principal = found
        conn.known_forgets_count = ingress.forgets_count
    return found


cdef int remember_principal(Ingress ingress, bytes key, Principal principal) except -1:
    """Cache a principal under its credential, with what its user or key may ask."""
    give_bucket(ingress, principal)
    return ingress.tokens.remember(key, principal)


cdef int give_bucket(Ingress ingress, Principal principal) except -1:
    cdef Rates rates = ingress.user_rates if principal.key is None else ingress.key_rates
    if principal.bucket is None:
        principal.bucket = rates.find(principal.user, ingress.now_ms)
    return 0


cdef int find_route(Ingress ingress, Request request) except -1:
    """Step 2: find the station by the target; other targets keep all their headers."""
    cdef HttpConnection conn = request.conn
    cdef PyObject* found
    cdef Route route
    ingress.requests_count += 1
    request.path_bytes = request.url
    if (conn.known_routes_count == ingress.routes_count
            and is_same_bytes(request.url, conn.known_url)):
        request.station = conn.known_route.station
        request.action = conn.known_route.action
        return 0
    found = PyDict_GetItem(ingress.routes, request.url)
    if found != NULL and conn.serves != SERVES_ADMIN:
        conn.known_url = request.url
        conn.known_route = <Route>found
        conn.known_routes_count = ingress.routes_count
    if found == NULL:
        request.path_bytes, request.query_bytes = split_target(request.url)
        found = PyDict_GetItem(ingress.routes, request.path_bytes)
        if found == NULL and b"%" in request.path_bytes:
            decoded = unquote_to_bytes(request.path_bytes)
            found = PyDict_GetItem(ingress.routes, decoded)
    if found == NULL or conn.serves == SERVES_ADMIN:
        request.header_list = []
        return 0
    route = <Route>found
    request.station = route.station
    request.action = route.action
    return 0


cdef bint is_loopback_ipv4(bytes host) except -1:
    """Whether `host`, maybe with a port, is an address in 127.0.0.0/8 and no name."""
    parts = host.split(b":", 1)[0].split(b".")
    return len(parts) == 4 and parts[0] == b"127" and all(part.isdigit() for part in parts)


cdef bint is_host_local(Ingress ingress, HttpConnection conn, bytes host) except -1:
    """Whether `Host` names this machine, or need not."""
    if ingress.is_any_host_local or conn.address == "unix":
        return True
    return (host.rsplit(b":", 1)[0].lower() in (b"localhost", b"[::1]", b"")
            or is_loopback_ipv4(host))


cdef bint is_foreign(Ingress ingress, HttpConnection conn, Request request) except -1:
    """Whether a web page of elsewhere may be asking, where everyone else may come in nameless.

    A page is known by its `Origin`, which a browser adds to all but GET and HEAD; one that has its
    own name resolve to this machine, by `Host`, too.
    SOURCE: Fetch standard, "append a request Origin header".
    """
    cdef bytes host = conn.host or b""
    if request.origin is None:
        return (request.method_name in (b"GET", b"HEAD")
                and request.path_bytes.startswith(CONTROL_PATHS)
                and not is_host_local(ingress, conn, host))
    if ingress.cors_origins is not None and request.origin in ingress.cors_origins:
        return False
    return (request.origin.partition(b"://")[2] != host or not is_host_local(ingress, conn, host))


cdef bint is_over_rate(Request request, Bucket bucket, str who) except -1:
    """Take a request from a bucket; answer 429 when there is none."""
    cdef double wait_ms = bucket.take(request.conn.ingress.now_ms)
    if wait_ms == 0:
        return False
    request.refuse("rate-limited", f"{who} has asked more than its rate; try again")
    request.answer = RATE_LIMITED_HEAD + b"Retry-After: %d\r\n" % <int64_t>min(
        RETRY_AFTER_S_MAX, (wait_ms + 999) // 1000)
    return True


cdef int await_identity(Ingress ingress, Request request, object found) except -1:
    """Who asks is told later. WHY apart: a function with a lambda in it pays for it at each call."""
    request.state = REQUEST_IDENTIFYING
    task = ensure_future(found)
    forgets_count = ingress.forgets_count
    task.add_done_callback(lambda done: ingress.on_identified(request, done, forgets_count))
    return 0


cdef int admit(Ingress ingress, Request request) except -1:
    """Steps 2 and 3 with the head known: set the answer when the head alone earns one."""
    if request.conn.bucket is not None and is_over_rate(request, request.conn.bucket, "this address"):
        return 0
    if ingress.anonymous is not None:
        request.is_foreign = is_foreign(ingress, request.conn, request)
    if request.method_name == b"OPTIONS":
        request.answer = ingress.preflight_head
        if request.action != ACTION_OTHER:
            request.answer += b"Allow: POST, OPTIONS\r\n"
        if request.handshake_origin is not None and is_produce_path(request.path_bytes):
            # SOURCE: CloudEvents HTTP webhook 1.0.2 §4, the sender asks whether it may deliver here.
            request.answer = HANDSHAKE_HEAD + request.handshake_origin + b"\r\n"
            request.answer_body = b""
        return 0
    if request.coding is not None and request.coding not in CODINGS:
        return request.refuse("media-type-unsupported",
                              f"Content-Encoding {clip(request.coding)} is not one of "
                              "gzip, deflate, zstd, identity")
    if request.action == ACTION_OTHER:
        if (request.method_name not in (b"POST", b"PUT")
                or not request.path_bytes.startswith(GUARDED_PATHS)):
            return 0
        # WHY: without a credential nobody may have us keep a body, whatever the path is.
    elif request.method_name != b"POST":
        request.refuse("method-not-allowed", f"{request.method} is not served here; POST is")
        request.answer += b"Allow: POST, OPTIONS\r\n"
        return 0
    if needs_signature(request):
        if request.signature_fields is None:
            return request.refuse("unauthorized", "no valid credential")
        # WHY: the signature covers the body; `proceed` looks at it when the body is there.
        request.awaits_signature = True
        return 0
    found = authorize(ingress, request)
    if found is None:
        return request.refuse("unauthorized", "no valid credential")
    if type(found) is Principal:
        return admit_principal(ingress, request, found)
    return await_identity(ingress, request, found)


cdef bint needs_signature(Request request):
    """Whether a signature decides: the station names a verifier, and there is no credential."""
    return (request.station is not None and request.station.verifier is not None
            and request.action != ACTION_CONSUME
            and (request.conn.ingress.anonymous is not None or credential_key(request) is None))


cdef int admit_principal(Ingress ingress, Request request, Principal principal) except -1:
    request.identity = principal
    if principal.bucket is not None and is_over_rate(request, principal.bucket, clip(principal.user)):
        return 0
    if principal.origins is not None and request.origin not in principal.origins:
        return request.refuse("forbidden",
                              f"{clip(principal.user)} may be used from its own origins only")
    return check_permission(request, principal)


cdef int check_permission(Request request, Principal principal) except -1:
    """Refuse what the principal may not do with the station; another path decides for itself."""
    if request.action == ACTION_OTHER:
        return 0
    needed = CONSUME if request.action == ACTION_CONSUME else PRODUCE
    if not principal.allows(needed, request.station.name):
        verb = "consume from" if request.action == ACTION_CONSUME else "produce to"
        request.refuse("forbidden", f"{clip(principal.user)} may not {verb} {clip(request.station.name)}")
    return 0


cdef int take_identity(Ingress ingress, Request request, object done, object forgets_count) except -1:
    """Go on after an identity check off the loop; see `Ingress.on_identified`."""
    if request.state != REQUEST_IDENTIFYING:
        return 0
    request.state = REQUEST_READING
    try:
        principal = done.result()
    except Fault as fault:
        request.refuse(fault.kind.word, fault.text)
    except Exception as error:
        ingress.report_defect("an identity check failed", error)
        request.refuse("internal", "internal error")
    else:
        if principal is None:
            request.refuse("unauthorized", "no valid credential")
        else:
            if forgets_count == ingress.forgets_count:
                remember_principal(ingress, credential_key(request), principal)
            admit_principal(ingress, request, principal)
    if request.is_complete:
        proceed(ingress, request, &ingress.no_fields)
    return 0


cdef int proceed(Ingress ingress, Request request, Buffer* fields) except -1:
    """The body is complete: go on to step 4, or answer what was refused."""
    if request.awaits_signature and request.answer is None:
        check_signature(ingress, request)
    if request.answer is not None:
        return request.make_ready()
    if request.state == REQUEST_IDENTIFYING:
        request.fields = copy_of(fields)
        if not has_room_to_wait(ingress, request):
            return refuse_crowded(ingress, request)
        return 0
    if (request.identity is not None and request.identity.bucket is not None
            and not request.is_charged):
        request.is_charged = True
        request.identity.bucket.charge(PyBytes_GET_SIZE(request.body_bytes))
    if request.coding is not None:
        return inflate_body(ingress, request, fields)
    return serve(ingress, request, fields)


cdef int check_signature(Ingress ingress, Request request) except -1:
    """Have the station's verifier judge headers and body, as they came."""
    cdef Station station = request.station
    request.awaits_signature = False
    try:
        station.verifier.verify(request.signature_fields, request.body_bytes, <double>unix_time(NULL))
    except Fault as fault:
        request.refuse(fault.kind.word, fault.text)
        if fault.kind.status == 401:
            # WHY: a sender's log is where its operator looks; there is nobody to hide it from.
            request.answer_body = msgspec.json.encode({"message": "Unauthorized", "error": fault.text})
        return 0
    except Exception as error:
        ingress.report_defect("a signature check failed", error)
        return request.refuse("internal", "internal error")
    give_bucket(ingress, station.sender)
    return admit_principal(ingress, request, station.sender)


cdef int inflate_body(Ingress ingress, Request request, Buffer* fields) except -1:
    """Undo the Content-Encoding under the body's bound, off the loop when it may take long."""
    cdef bytes coding = request.coding
    request.coding = None
    try:
        found = ingress.inflate(coding, request.body_bytes, body_max_of(ingress, request))
    except Fault as fault:
        request.refuse(fault.kind.word, fault.text)
        return request.make_ready()
    if type(found) is bytes:
        request.body_bytes = found
        return serve(ingress, request, fields)
    if request.fields is None:
        request.fields = copy_of(fields)
    request.state = REQUEST_SERVING
    task = ensure_future(found)
    task.add_done_callback(lambda done: ingress.on_inflated(request, done))
    if not has_room_to_wait(ingress, request):
        return refuse_crowded(ingress, request)
    return 0


cdef int answer_failure(Ingress ingress, Request request, object error, str text) except -1:
    """Answer with a fault that was raised; any other error is a defect, called `text` in the report."""
    if isinstance(error, Fault):
        request.fail(error)
        return 0
    ingress.report_defect(text, error)
    return request.finish("internal", "internal error")


cdef int take_inflated(Ingress ingress, Request request, object done) except -1:
    """Go on with a body that was inflated off the loop."""
    if request.state != REQUEST_SERVING:
        return 0
    try:
        request.body_bytes = done.result()
    except Exception as error:
        return answer_failure(ingress, request, error, "a body could not be inflated")
    return serve(ingress, request, &ingress.no_fields)


cdef Py_ssize_t body_max_of(Ingress ingress, Request request):
    """The bound of the request's body, which its path decides."""
    if request.action == ACTION_SINGLE:
        return ingress.body_bytes_max
    if request.action == ACTION_OTHER and not request.path_bytes.startswith(GUARDED_PATHS):
        return HANDLER_BODY_BYTES_MAX
    if request.path_bytes.endswith(b"/produce/batch"):
        return ingress.batch_bytes_max
    return ingress.body_bytes_max


cdef int serve(Ingress ingress, Request request, Buffer* fields) except -1:
    """Hand an admitted request with its plain body to what its path asks for."""
    request.state = REQUEST_SERVING
    if request.action == ACTION_OTHER:
        if not has_room_to_wait(ingress, request):
            return refuse_crowded(ingress, request)
        if ingress.dispatched_us < DISPATCH_US_A_TURN and not ingress.dispatch_line:
            return dispatch_now(ingress, request)
        ingress.dispatch_line.append(request)
        return ingress.schedule_turn()
    try:
        if request.action == ACTION_CONSUME:
            ingress.consume(request)
        else:
            produce(ingress, request, fields)
    except Exception as error:
        answer_failure(ingress, request, error, "a request failed")
    return 0


cdef int dispatch_now(Ingress ingress, Request request) except -1:
    """Hand a request to its handler in Python, and count the time that this takes of the turn."""
    cdef uint64_t began_us = monotonic_us()
    try:
        ingress.dispatch(request)
    except Exception as error:
        answer_failure(ingress, request, error, "a request failed")
    ingress.dispatched_us += monotonic_us() - began_us
    return 0


cdef int pump_dispatch(Ingress ingress) except -1:
    """Hand out the requests in line, oldest first, as many as one turn has time for."""
    cdef Request request
    while ingress.dispatch_line and ingress.dispatched_us < DISPATCH_US_A_TURN:
        request = ingress.dispatch_line.popleft()
        if request.state != REQUEST_GONE:
            dispatch_now(ingress, request)
    if ingress.dispatch_line:
        ingress.schedule_turn()
    return 0
