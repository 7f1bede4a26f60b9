# A head in its usual form, read where it stands: no object is made of a header that nobody keeps.
#
# Most requests are a POST of a station's own path whose head came in one read and says nothing odd.
# Such a head is read here in two passes: `scan_usual` looks at every byte and changes nothing, then
# `take_usual` acts on it as the parser's callbacks would. Whatever is not of this form goes to the
# parser untouched, so nothing is taken here that llhttp and http_rules.pxi refuse: a line that does
# not end with CRLF, a folded one, a name that is no token, a control byte, Transfer-Encoding, Upgrade,
# Expect, any Connection but keep-alive, anything twice that may be there once, any bound reached.
# A body of known length that comes later is collected without the parser too.

cdef struct Line:
    # DANGER: the pointers are borrowed from what was read; valid until the head is taken.
    const char* name
    const char* value
    Py_ssize_t name_size
    Py_ssize_t value_size    # without the white space around it
    Field kind
    bint is_canonical        # whether it stands as `name: value` with one space


cdef struct Head:
    Line lines[USUAL_FIELDS_MAX]
    int count
    Py_ssize_t fields_bytes
    const char* body
    Line* host
    Line* credential
    int64_t content_length   # -1 for none


cdef extern from *:
    """
    /* Where a field value ends: at the first control byte but a tab, or at `end`.
       SOURCE: RFC 9110 §5.5. */
    static inline const char *fastgw_value_end(const char *p, const char *end) {
    #ifdef __SSE2__
        const __m128i low = _mm_set1_epi8(0x1f), del = _mm_set1_epi8(0x7f);
        while (end - p >= 16) {
            __m128i v = _mm_loadu_si128((const __m128i *)p);
            int found = _mm_movemask_epi8(_mm_or_si128(
                _mm_cmpeq_epi8(_mm_min_epu8(v, low), v), _mm_cmpeq_epi8(v, del)));
            if (!found) { p += 16; continue; }
            p += __builtin_ctz((unsigned)found);
            if (*p != 9) return p;
            p++;
        }
    #endif
        while (p < end && ((unsigned char)*p >= 32 ? *p != 127 : *p == 9)) p++;
        return p;
    }
    /* How many letters, digits, hyphens and underscores `p` begins with, as far as one look tells;
       most names of headers have no other. */
    static inline Py_ssize_t fastgw_name_size(const char *p, const char *end) {
    #ifdef __SSE2__
        if (end - p >= 16) {
            const __m128i v = _mm_loadu_si128((const __m128i *)p);
            const __m128i lower = _mm_or_si128(v, _mm_set1_epi8(0x20));
            __m128i good = _mm_and_si128(
                _mm_cmpgt_epi8(lower, _mm_set1_epi8('a' - 1)), _mm_cmplt_epi8(lower, _mm_set1_epi8('z' + 1)));
            good = _mm_or_si128(good, _mm_and_si128(
                _mm_cmpgt_epi8(v, _mm_set1_epi8('0' - 1)), _mm_cmplt_epi8(v, _mm_set1_epi8('9' + 1))));
            good = _mm_or_si128(good, _mm_cmpeq_epi8(v, _mm_set1_epi8('-')));
            good = _mm_or_si128(good, _mm_cmpeq_epi8(v, _mm_set1_epi8('_')));
            return __builtin_ctz(~(unsigned)_mm_movemask_epi8(good));
        }
    #endif
        return 0;
    }
    /* SOURCE: RFC 9110 §5.6.2, tchar. */
    static const unsigned char FASTGW_TOKEN[256] = {
        ['0']=1,['1']=1,['2']=1,['3']=1,['4']=1,['5']=1,['6']=1,['7']=1,['8']=1,['9']=1,
        ['A']=1,['B']=1,['C']=1,['D']=1,['E']=1,['F']=1,['G']=1,['H']=1,['I']=1,['J']=1,['K']=1,
        ['L']=1,['M']=1,['N']=1,['O']=1,['P']=1,['Q']=1,['R']=1,['S']=1,['T']=1,['U']=1,['V']=1,
        ['W']=1,['X']=1,['Y']=1,['Z']=1,
        ['a']=1,['b']=1,['c']=1,['d']=1,['e']=1,['f']=1,['g']=1,['h']=1,['i']=1,['j']=1,['k']=1,
        ['l']=1,['m']=1,['n']=1,['o']=1,['p']=1,['q']=1,['r']=1,['s']=1,['t']=1,['u']=1,['v']=1,
        ['w']=1,['x']=1,['y']=1,['z']=1,
        ['!']=1,['#']=1,['$']=1,['%']=1,['&']=1,[39]=1,['*']=1,['+']=1,['-']=1,['.']=1,['^']=1,
        ['_']=1,['`']=1,['|']=1,['~']=1};
    """
    const char* value_end "fastgw_value_end" (const char* p, const char* end) noexcept nogil
    Py_ssize_t name_size "fastgw_name_size" (const char* p, const char* end) noexcept nogil
    const unsigned char FASTGW_TOKEN[256]


cdef inline const char* scan_line(const char* p, const char* end, Line* line) noexcept nogil:
    """Read one header line; returns the byte behind it, or NULL when it is not of the usual form.

    A zero byte stands at `end`, as it does behind every bytes object.
    """
    line.name = p
    p += name_size(p, end)
    while FASTGW_TOKEN[<unsigned char>p[0]]:
        p += 1
    line.name_size = p - line.name
    if line.name_size == 0 or p[0] != 58:
        return NULL
    p += 1
    while p[0] == 32 or p[0] == 9:
        p += 1
    line.value = p
    p = value_end(p, end)
    if end - p < 2 or p[0] != 13 or p[1] != 10:
        return NULL
    line.value_size = p - line.value
    line.is_canonical = (line.value - line.name == line.name_size + 2 and (line.value - 1)[0] == 32)
    while line.value_size and (line.value[line.value_size - 1] == 32
                               or line.value[line.value_size - 1] == 9):
        line.value_size -= 1
        line.is_canonical = False
    return p + 2


cdef inline bint is_line_harmless(Head* head, Line* line) noexcept nogil:
    """Whether the line leaves the message and the connection what they are; notes what is once there."""
    if line.kind == FIELD_PLAIN:
        return True
    if line.kind == FIELD_HOST:
        if head.host != NULL:
            return False
        head.host = line
    elif line.kind == FIELD_AUTHORIZATION or line.kind == FIELD_API_KEY:
        if head.credential != NULL:
            return False
        head.credential = line
    elif line.kind == FIELD_CONTENT_LENGTH:
        if head.content_length >= 0:
            return False
        head.content_length = parse_decimal(line.value, line.value_size)
        return head.content_length >= 0
    elif line.kind == FIELD_CONNECTION:
        return line.value_size == 10 and is_same_text(line.value, b"keep-alive", 10)
    elif line.kind == FIELD_DROPPED:
        # WHY: `Proxy-Connection` is one of them, and llhttp obeys it.
        return not (line.name_size >= 6 and is_name(line.name, b"proxy-", 6))
    elif (line.kind == FIELD_UPGRADE or line.kind == FIELD_EXPECT
            or line.kind == FIELD_TRANSFER_ENCODING):
        return False
    return True


cdef bint scan_usual(const char* p, const char* end, Head* head) noexcept nogil:
    """Read the header lines from `p` on. Returns whether the whole head is here and of the usual form."""
    cdef Line* line
    cdef const char* behind
    head.count = 0
    head.fields_bytes = 0
    head.host = head.credential = NULL
    head.content_length = -1
    while p[0] != 13:
        if head.count == USUAL_FIELDS_MAX:
            return False
        line = &head.lines[head.count]
        behind = scan_line(p, end, line)
        if behind == NULL:
            return False
        line.kind = find_field(line.name, line.name_size)
        if not is_line_harmless(head, line):
            return False
        head.fields_bytes += line.name_size + (behind - 2 - line.value) + 4
        head.count += 1
        p = behind
    head.body = p + 2
    return p[1] == 10 and head.body <= end and head.host != NULL


cdef inline bytes value_of(Line* line):
    return PyBytes_FromStringAndSize(line.value, line.value_size)


cdef inline bytes value_like(Line* line, bytes known):
    """The value of a line: the object `known` when it says the same."""
    if (known is not None and PyBytes_GET_SIZE(known) == line.value_size
            and memcmp(PyBytes_AS_STRING(known), line.value, <size_t>line.value_size) == 0):
        return known
    return value_of(line)


cdef int put_line(Buffer* fields, Line* line) except -1:
    """Append a line to a header block. Each byte of it has been looked at by `scan_line`."""
    reserve(fields, <size_t>(line.name_size + line.value_size + 4))
    if line.is_canonical:
        put_reserved(fields, line.name, <size_t>(line.name_size + line.value_size + 4))
        return 0
    put_reserved(fields, line.name, <size_t>line.name_size)
    put_reserved(fields, b": ", 2)
    put_reserved(fields, line.value, <size_t>line.value_size)
    put_reserved(fields, b"\r\n", 2)
    return 0


cdef int take_line(HttpConnection conn, Request request, Line* line) except -1:
    """Do with one header what `HttpConnection.on_header` does."""
    cdef Station station = request.station
    cdef bytes name, value
    if station.signature_names is None:
        if line.kind == FIELD_PLAIN:
            if station.forwards_all:
                return put_line(&conn.fields, line)
            if station.forwards_none:
                return 0
        elif line.kind == FIELD_HOST:
            conn.host = conn.known_host
            if station.forwards_all:
                return put_line(&conn.fields, line)
            if station.forwards_none:
                return 0
        elif line.kind == FIELD_AUTHORIZATION:
            request.credential = value_like(line, conn.known_credential)
            return 0
        elif line.kind == FIELD_API_KEY:
            request.api_key = value_like(line, conn.known_credential)
            return 0
        elif line.kind == FIELD_CONTENT_TYPE and request.action != ACTION_BATCH:
            request.content_type = conn.known_type = value_like(line, conn.known_type)
            if station.forwards_all:
                return put_line(&conn.fields, line)
            if station.forwards_none:
                return 0
        elif (line.kind == FIELD_CONTENT_LENGTH or line.kind == FIELD_DROPPED
                or line.kind == FIELD_CONNECTION):
            return 0
    name = PyBytes_FromStringAndSize(line.name, line.name_size)
    value = value_of(line)
    if is_forwardable(line.kind):
        forward_field(&conn.fields, request, line.kind, name, value)
    if station.signature_names is not None:
        keep_signature_field(request, name, value)
    if line.kind == FIELD_PLAIN or line.kind == FIELD_CONNECTION or line.kind == FIELD_DROPPED:
        return 0
    return note_field(conn, request, line.kind, value)


cdef bint is_usual_host(HttpConnection conn, Line* line):
    """Whether the host is valid; it is the connection's known one then."""
    cdef bytes host = value_like(line, conn.known_host)
    if host is not conn.known_host:
        if not host or not is_host_valid(host):
            return False
        conn.known_host = host
    return True


cdef bytes usual_target(HttpConnection conn, const char* p, const char* end):
    """The target of `POST target HTTP/1.1` CRLF when it is a path of a station, as it is written; or None."""
    cdef const char* target = p + 5
    cdef const char* behind
    cdef Py_ssize_t size = 0 if conn.known_url is None else PyBytes_GET_SIZE(conn.known_url)
    cdef bytes url
    if end - p < 16 or memcmp(p, b"POST /", 6) != 0:
        return None
    if (size and conn.known_routes_count == conn.ingress.routes_count and end - target >= size + 11
            and memcmp(target, PyBytes_AS_STRING(conn.known_url), <size_t>size) == 0
            and memcmp(target + size, b" HTTP/1.1\r\n", 11) == 0):
        return conn.known_url
    behind = <const char*>memchr(target, 32, <size_t>min(end - target, ROUTE_BYTES_MAX))
    if behind == NULL or end - behind < 11 or memcmp(behind, b" HTTP/1.1\r\n", 11) != 0:
        return None
    url = PyBytes_FromStringAndSize(target, behind - target)
    return url if PyDict_GetItem(conn.ingress.routes, url) != NULL else None


cdef Py_ssize_t read_usual(HttpConnection conn, bytes data, Py_ssize_t at) except -1:
    """Take the request that begins at `at` when its head is whole and of the usual form.

    Returns how much of `data` it took, or 0: then the parser reads it.
    """
    cdef Ingress ingress = conn.ingress
    cdef const char* text = PyBytes_AS_STRING(data)
    cdef const char* end = text + PyBytes_GET_SIZE(data)
    cdef const char* p = text + at
    cdef Py_ssize_t taken
    cdef Head head
    cdef Request request
    cdef int i
    cdef bytes url = usual_target(conn, p, end)
    if (url is None or conn.serves == SERVES_ADMIN
            or PyBytes_GET_SIZE(url) > ingress.request_line_bytes_max
            or not scan_usual(p + PyBytes_GET_SIZE(url) + 16, end, &head)
            or head.fields_bytes > ingress.headers_bytes_max
            or head.count > ingress.headers_count_max
            or head.body - p > ingress.request_line_bytes_max + ingress.headers_bytes_max
            or not is_usual_host(conn, head.host)):
        return 0
    request = conn.begin_request()
    request.method_name = b"POST"
    request.url = url
    conn.is_routed = True
    find_route(ingress, request)
    conn.body_max = body_max_of(ingress, request)
    conn.content_length = head.content_length
    for i in range(head.count):
        take_line(conn, request, &head.lines[i])
    conn.begin_body(request)
    if head.content_length > conn.body_max:
        conn.fault("body-too-large",
                   f"body of {head.content_length} bytes exceeds {conn.body_max}")
    else:
        conn.admit(request)
    if conn.is_stopped:
        return PyBytes_GET_SIZE(data) - at
    if head.content_length <= 0:
        conn.complete_request(request, &conn.fields)
        return head.body - p
    conn.is_body_alone = True
    taken = min(head.content_length, end - head.body)
    collect_body(conn, head.body, taken)
    return head.body + taken - p


cdef Py_ssize_t take_usual(HttpConnection conn, bytes data, Py_ssize_t at) except -1:
    """Take a usual request, or more of its body; an error ends in an answer. Returns as `read_usual`."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data) - at
    try:
        if not conn.is_body_alone:
            return read_usual(conn, data, at)
        if size > conn.content_length - conn.body_size:
            size = conn.content_length - conn.body_size
        collect_body(conn, PyBytes_AS_STRING(data) + at, size)
        return size
    except Exception as error:
        conn.ingress.report_defect("a request failed", error)
        conn.fault("internal", "internal error")
        return PyBytes_GET_SIZE(data) - at
