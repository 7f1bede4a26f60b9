# Step 2: method + path -> Station, by one dict lookup.
#
# Each station has three entries in the table, one a path that a message takes; every other path
# leaves the core for a handler in Python. Also: the station's prebuilt bytes, and its header policy.

cdef bytes STATIONS_PATH = b"/stations/"
cdef tuple CONTROL_PATHS = (b"/stations", b"/schemas", b"/users", b"/keys", b"/secrets")
cdef tuple GUARDED_PATHS = (STATIONS_PATH, b"/schemas/", b"/users/", b"/keys/", b"/secrets/")


# What a listener is for.
cdef enum Serves:
    SERVES_ALL
    SERVES_DATA
    SERVES_ADMIN

cdef tuple SERVES_WORDS = ("all", "data", "admin")


cdef enum Action:
    ACTION_OTHER
    ACTION_SINGLE
    ACTION_BATCH
    ACTION_CONSUME


cdef bint matches_glob(str name, tuple globs) except -1:
    """WHY apart: a function with a generator in it pays for it at each call."""
    return any(fnmatchcase(name, glob) for glob in globs)


@cython.final
cdef class Station:
    """What the core needs to know of one station; built whole, replaced whole, never changed.

    Args:
        name: the station's name in paths.
        stream: name of the JetStream stream.
        subject: the subject that messages are published to.
        headers: "all", "none", or a tuple of globs of header names that become message headers.
        header_allow: names of the `Nats-*` headers that a client may set, beside `Nats-Msg-Id`.
        record: what Python keeps beside it (the station's record).
        check: judges one message, as `fastgw.schema.base.Validator.check` does; None for no schema.
        accepts: tells JSON messages that are surely good; `check` judges any other. None where the
            schema has no such short way.
        message_bytes_max: the largest message of this station, 0 for the broker's bound.
        allow_suffix: whether clients may append tokens to the subject.
        allow_no_wait: whether `wait=false` is answered.
        verifier: judges the signature of a request without credentials: `header_names`, in lower
            case, and `verify(headers, body, now)`, which raises ClientFault; None for no such way.
        keeps_refused: whether refused messages are handed to `refused` of the ingress.
        ack_fsync: whether the messages of a turn are stored by one atomic batch, which a broker that
            syncs always syncs once.
    """

    cdef readonly str name
    cdef readonly str stream
    cdef readonly object record
    cdef bytes subject
    cdef bytes hpub, pub
    cdef bytes ack_head
    cdef bytes answer_head
    cdef bint forwards_all, forwards_none
    cdef tuple header_globs
    cdef dict forwarded              # what the globs say of names that came
    cdef frozenset header_allow
    cdef object check
    cdef JsonWalker accepts
    cdef Py_ssize_t message_bytes_max
    cdef bint allow_suffix, allow_no_wait, keeps_refused, ack_fsync
    cdef object verifier
    cdef frozenset signature_names
    cdef Principal sender            # who a verified signature stands for

    def __init__(
        self,
        str name,
        str stream,
        str subject,
        object headers="all",
        object header_allow=(),
        object record=None,
        object check=None,
        *,
        JsonWalker accepts=None,
        Py_ssize_t message_bytes_max=0,
        bint allow_suffix=True,
        bint allow_no_wait=False,
        bint keeps_refused=False,
        bint ack_fsync=False,
        object verifier=None,
    ):
        self.name = name
        self.stream = stream
        self.record = record
        self.check = check
        self.accepts = accepts
        self.message_bytes_max = message_bytes_max
        self.allow_suffix = allow_suffix
        self.allow_no_wait = allow_no_wait
        self.keeps_refused = keeps_refused
        self.ack_fsync = ack_fsync
        self.verifier = verifier
        if verifier is not None:
            self.signature_names = frozenset(verifier.header_names)
            self.sender = Principal("webhook:" + name, 1, PRODUCE, (name,))
        self.subject = check_subject(subject.encode())
        self.hpub = b"HPUB " + self.subject + b" "
        self.pub = b"PUB " + self.subject + b" "
        self.ack_head = b'{"stream":"' + stream.encode() + b'","seq":'
        self.answer_head = stored_head(stream.encode())
        self.forwards_all = headers == "all"
        self.forwards_none = headers == "none"
        self.header_globs = () if isinstance(headers, str) else tuple(g.lower() for g in headers)
        self.forwarded = {}
        self.header_allow = frozenset(n.lower().encode() for n in header_allow)

    cdef bint forwards(self, bytes header_name) except -1:
        """Whether one of the globs matches the name."""
        cdef PyObject* found = PyDict_GetItem(self.forwarded, header_name)
        if found != NULL:
            return <object>found is True
        verdict = matches_glob(header_name.decode("latin-1").lower(), self.header_globs)
        if (len(self.forwarded) < FORWARDED_NAMES_MAX
                and PyBytes_GET_SIZE(header_name) <= FORWARDED_NAME_BYTES_MAX):
            self.forwarded[header_name] = verdict
        return verdict


@cython.final
cdef class Route:
    """One path of one station."""

    cdef Station station
    cdef Action action

    @staticmethod
    cdef Route make(Station station, Action action):
        cdef Route route = Route.__new__(Route)
        route.station = station
        route.action = action
        return route


def check_subject(bytes subject) -> bytes:
    """Return `subject` when it may reach the broker; else raise ClientFault "bad-subject".

    Tokens of printable ASCII, none empty, no wildcard, not below `$` or `_INBOX`.
    SOURCE: NATS ADR-6; nats-server stores a literal `*` and takes a space as the reply's start.
    """
    cdef Py_ssize_t size = len(subject)
    cdef const char* text = subject
    cdef Py_ssize_t i
    if size == 0 or size > SUBJECT_BYTES_MAX:
        raise ClientFault("bad-subject", f"subject of {size} bytes; 1 to {<int>SUBJECT_BYTES_MAX} are allowed")
    if text[0] == b"$" or subject.split(b".", 1)[0] == b"_INBOX":
        raise ClientFault("bad-subject", f"subject '{clip(subject)}' is reserved for the broker")
    for i in range(size):
        if text[i] == b".":
            if i == 0 or i == size - 1 or text[i - 1] == 46:
                raise ClientFault("bad-subject", f"subject '{clip(subject)}' has an empty token")
        elif not is_subject_token_byte(<unsigned char>text[i]):
            raise ClientFault(
                "bad-subject",
                f"subject '{clip(subject)}' has the byte {hex(<unsigned char>text[i])} at {i}; "
                "wildcards, spaces and control bytes are not allowed",
            )
    return subject


cdef dict station_routes(Station station):
    """The paths of a station, as a client that escapes nothing writes them."""
    cdef bytes base = STATIONS_PATH + station.name.encode()
    return {
        base + b"/produce/single": Route.make(station, ACTION_SINGLE),
        base + b"/produce/batch": Route.make(station, ACTION_BATCH),
        base + b"/consume/batch": Route.make(station, ACTION_CONSUME),
    }


cdef bint is_produce_path(bytes path) except -1:
    """Whether the path has the form of one that takes messages, known station or not."""
    return path.startswith(STATIONS_PATH) and path.endswith((b"/produce/single", b"/produce/batch"))


cdef inline bytes authority_of(bytes rest):
    """The authority of an absolute target, whose scheme is cut off."""
    return rest.split(b"/", 1)[0].split(b"?", 1)[0]


cdef inline tuple split_target(bytes target):
    """Path and query of a request target; the absolute form loses its scheme and authority.

    SOURCE: RFC 9112 §3.2.2, a server must accept the absolute form.
    """
    cdef bytes path = target
    cdef bytes query = b""
    cdef Py_ssize_t at
    if not path.startswith(b"/") and b"://" in path[:8]:
        rest = path[path.index(b"://") + 3:]
        # SOURCE: RFC 3986 §3.2, the authority ends at the first "/" or "?"; §6.2.3, no path is "/".
        path = rest[len(authority_of(rest)):]
        if not path.startswith(b"/"):
            path = b"/" + path
    at = path.find(b"?")
    if at >= 0:
        query = path[at + 1:]
        path = path[:at]
    return path, query
