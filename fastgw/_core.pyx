"""The compiled core: a produced message from the socket to the answer, in nine steps.

    socket bytes
      1 http_request   a usual head, or httptools' -> Request   _core/http_request.pxi, http_{usual,rules,…}
      2 route          method + path -> Station                  _core/route.pxi
      3 authorize      credential bytes -> Principal             _core/authorize.pxi, admit.pxi, rate.pxi
      4 validate       body -> the messages in it, checked       _core/validate.pxi, judge.pxi, produce.pxi
      5 encode         one message -> its frame                  _core/encode.pxi, http_fields.pxi
      6 publish        slots in flight, one write per turn       _core/publish.pxi, link.pxi, turn.pxi
      7 nats_ops       broker bytes -> ops                       _core/nats_ops.pxi
      8 ack            PubAck or error -> the slot's request     _core/ack.pxi
      9 http_response  answers in request order                  _core/http_response.pxi

Nothing on this way awaits, makes a Task or a Future, or takes a lock. Requests that produce nothing
leave at step 2 for a handler in Python; `consume/batch` comes back for its messages (consume.pxi).
`Ingress` below is the only seam: it knows both sockets, the parts know bytes. Parts are included
before those that call them, because the compiler inlines only what it has seen.
"""

cimport cython
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF, PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memchr, memcmp, memcpy, memmove, memset
from libc.time cimport time as unix_time, time_t

from asyncio import ensure_future
from binascii import b2a_base64
from bisect import insort
from collections import deque
from datetime import UTC, datetime
from email.utils import formatdate
from fnmatch import fnmatchcase
from hashlib import sha256
from http import HTTPStatus
from inspect import isawaitable
from ipaddress import IPv6Address
from itertools import islice
from secrets import token_urlsafe
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec
from httptools import (
    HttpParserCallbackError,
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from fastgw.errors import KINDS, ClientFault, Fault, InternalError, UpstreamFault, clip

cdef extern from "<sys/socket.h>" nogil:
    ssize_t send(int fd, const void* data, size_t size, int flags)
    enum:
        MSG_DONTWAIT

cdef extern from *:
    """
    #include <time.h>
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0  /* WHY: macOS has SO_NOSIGPIPE instead, and Python ignores SIGPIPE. */
    #endif
    #ifndef CLOCK_MONOTONIC_COARSE
    #define CLOCK_MONOTONIC_COARSE CLOCK_MONOTONIC
    #endif
    """
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec* now) noexcept nogil
    const int CLOCK_MONOTONIC
    const int CLOCK_MONOTONIC_COARSE
    const int MSG_NOSIGNAL

cdef class Ingress
cdef class HttpConnection
cdef class BodySink
cdef class BrokerLink
cdef class Request
cdef class Pull
cdef class Group
cdef class JsonWalker

include "_core/limits.pxi"
include "_core/ascii.pxi"
include "_core/buffer.pxi"
include "_core/counters.pxi"
include "_core/http_response.pxi"
include "_core/route.pxi"
include "_core/rate.pxi"
include "_core/authorize.pxi"
include "_core/validate.pxi"
include "_core/json_formats.pxi"
include "_core/json_program.pxi"
include "_core/json_walk.pxi"
include "_core/encode.pxi"
include "_core/publish.pxi"
include "_core/nats_ops.pxi"
include "_core/ack.pxi"
include "_core/request.pxi"
include "_core/budget.pxi"
include "_core/http_fields.pxi"
include "_core/avro.pxi"
include "_core/options.pxi"
include "_core/judge.pxi"
include "_core/replay.pxi"
include "_core/consume.pxi"
include "_core/outbox.pxi"
include "_core/link.pxi"
include "_core/group.pxi"
include "_core/denied.pxi"
include "_core/http_rules.pxi"
include "_core/http_line.pxi"
include "_core/http_life.pxi"
include "_core/http_backlog.pxi"
include "_core/produce.pxi"
include "_core/admit.pxi"
include "_core/turn.pxi"
include "_core/http_body.pxi"
include "_core/http_usual.pxi"
include "_core/http_request.pxi"


@cython.final
cdef class Ingress:
    """Everything that the connections of one worker share, and the decisions between the steps.

    Args:
        loop: the running event loop.
        limits: `fastgw.config.LimitsConfig`, whose bounds are copied.
        rates: `fastgw.config.RateConfig`, likewise.
        tokens_max: how many verified credentials are kept.
        cors_origins: origins that may read answers; ("*",) for all, () for no CORS headers.
        identify: called with a Request whose credential is not cached; returns a Principal, None,
            or an awaitable of either.
        dispatch: called with a Request of any path that is not a station's.
        consume: called with a Request of a station's consume/batch.
        inflate: undoes a Content-Encoding: called with its name, the body and the bound in bytes;
            returns the plain body or an awaitable of it.
        refused: called with a Request, its header block, a message and the reason, for each message
            that the schema of a station with dead letters refused.
        report: called with a text and an exception for each defect that was survived.
        board: this worker's slots of the counters, 64-bit, as `METRICS` names them; None counts
            where nobody looks.
    """

    cdef object call_soon, identify, dispatch, consume, inflate, refused, report, on_turn
    cdef Row row
    cdef list held                   # messages that wait to be sent again
    cdef uint64_t replay_until_ms    # until then new messages wait for those
    cdef dict windows_ms             # duplicate windows of their streams, once they are known
    cdef uint64_t now_us             # of the read or turn that runs
    cdef Rates user_rates, key_rates, address_rates
    cdef Visitors visitors
    cdef dict routes
    cdef uint64_t routes_count       # rises with each change of them
    cdef TokenCache tokens
    cdef Principal anonymous
    cdef bint is_any_host_local
    cdef BrokerLink link
    cdef set connections, links
    cdef list dirty
    cdef object dispatch_line        # requests for handlers that this turn had no time for
    cdef uint64_t dispatched_us      # what handlers have had of this turn
    cdef int64_t backlog_bytes
    cdef WaitingLine waiting
    cdef dict groups                 # by stream, of stations whose messages go out in batches
    cdef object turn_line            # connections with requests that wait until others had their turn
    cdef object starved              # connections with a body half read and no room for its rest
    cdef int64_t waiting_bytes, unread_bytes
    cdef Buffer scratch, no_fields
    cdef bytes answer_tail, stored_tail, cors_head, preflight_head
    cdef frozenset cors_origins
    cdef bint is_turn_scheduled, is_draining
    cdef bint has_own_turn           # the read under way ends with its turn; see turn.pxi
    cdef bint was_lone               # the last read of a client found nothing under way
    cdef time_t tail_second
    cdef uint64_t now_ms, next_connection_sweep_ms, forgets_count
    # Bounds, copied from the configuration.
    cdef Py_ssize_t body_bytes_max, batch_bytes_max, batch_messages_max
    cdef bint is_body_bound_configured
    cdef Py_ssize_t request_line_bytes_max, headers_bytes_max
    cdef int headers_count_max, publishes_in_flight_max, pipelined_max, connections_max
    cdef uint64_t head_timeout_ms, idle_timeout_ms, body_timeout_ms, ack_timeout_ms, waiting_ms_max
    cdef uint64_t body_rate_bytes_min, body_rate_grace_ms
    cdef int64_t waiting_bytes_max, unread_bytes_max, publishes_in_flight_bytes_max, consume_bytes_max
    # Counters, for monitoring.
    cdef readonly uint64_t requests_count, faults_count, defects_count

    def __init__(
        self, loop, limits, rates, *, int tokens_max, tuple cors_origins, identify, dispatch, consume,
        inflate, refused, report, board=None
    ):
        self.call_soon = loop.call_soon
        self.identify = identify
        self.dispatch = dispatch
        self.consume = consume
        self.inflate = inflate
        self.refused = refused
        self.report = report
        self.row = Row(board)
        self.held = []
        self.windows_ms = {}
        self.on_turn = self.turn
        self.routes = {}
        self.tokens = TokenCache(tokens_max)
        self.connections = set()
        self.links = set()
        self.waiting = WaitingLine(self)
        self.groups = {}
        self.starved = deque()
        self.turn_line = deque()
        self.dirty = []
        self.dispatch_line = deque()
        self.copy_limits(limits)
        self.user_rates = Rates(rates.user_requests_per_s, rates.user_bytes_per_s, rates.burst_s)
        self.key_rates = Rates(rates.key_requests_per_s, rates.key_bytes_per_s, rates.burst_s)
        self.address_rates = Rates(
            rates.address_requests_per_s, rates.address_bytes_per_s, rates.burst_s)
        self.cors_head, self.preflight_head = build_cors(cors_origins)
        self.cors_origins = None
        if cors_origins and "*" not in cors_origins:
            self.cors_origins = frozenset(origin.encode() for origin in cors_origins)
        self.now_ms = monotonic_ms()
        self.renew_tail(unix_time(NULL))

    def __dealloc__(self):
        drop_buffer(&self.scratch)
        drop_buffer(&self.no_fields)

    cdef int copy_limits(self, object limits) except -1:
        self.is_body_bound_configured = limits.body_bytes_max is not None
        self.body_bytes_max = limits.body_bytes_max or 1048576
        self.batch_bytes_max = limits.batch_bytes_max
        self.batch_messages_max = limits.batch_messages_max
        self.request_line_bytes_max = limits.request_line_bytes_max
        self.headers_bytes_max = limits.headers_bytes_max
        self.headers_count_max = limits.headers_count_max
        self.publishes_in_flight_max = limits.publishes_in_flight_max
        self.pipelined_max = limits.pipelined_max
        self.connections_max = limits.connections_max
        self.head_timeout_ms = limits.head_timeout_ms
        self.idle_timeout_ms = limits.idle_timeout_ms
        self.body_timeout_ms = limits.body_timeout_ms
        self.ack_timeout_ms = limits.ack_timeout_ms
        self.waiting_ms_max = limits.waiting_ms_max
        self.waiting_bytes_max = limits.waiting_bytes_max
        self.unread_bytes_max = limits.unread_bytes_max
        self.publishes_in_flight_bytes_max = limits.publishes_in_flight_bytes_max
        self.consume_bytes_max = limits.consume_bytes_max
        self.body_rate_bytes_min = limits.body_rate_bytes_min
        self.body_rate_grace_ms = limits.body_rate_grace_ms
        self.visitors = Visitors(limits.connections_per_address_max)
        return 0

    # --- the face for gateway.py ------------------------------------------------------------

    def protocol(self, *, str serves="all", str client=None, name_of=None) -> HttpConnection:
        """A protocol for one accepted client connection.

        Args:
            serves: "all", "data" or "admin": which routes its listener is for.
            client: the client's address when a proxy has told it; else the socket's own counts.
            name_of: returns the user that a client's certificate names, or None; it gets the
                certificate as `ssl.SSLSocket.getpeercert` returns it.
        """
        cdef HttpConnection conn = HttpConnection.__new__(HttpConnection, self)
        conn.serves = <Serves><int>SERVES_WORDS.index(serves)
        conn.peer = client
        conn.name_of = name_of
        return conn

    def has_room_for(self, str address) -> bool:
        """Whether a client at `address` may open one more connection."""
        return (len(self.connections) < self.connections_max
                and self.visitors.has_room(address_key(address)))

    def make_link(self) -> BrokerLink:
        """A protocol for one data-plane connection to the broker."""
        return BrokerLink.__new__(BrokerLink, self)

    def put_station(self, Station station) -> None:
        """Serve `station` from now on; one of the same name is replaced whole."""
        self.routes.update(station_routes(station))
        self.routes_count += 1

    def drop_station(self, str name) -> None:
        """Serve the station no more."""
        cdef bytes base = b"/stations/" + name.encode()
        self.routes_count += 1
        for end in (b"/produce/single", b"/produce/batch", b"/consume/batch"):
            self.routes.pop(base + end, None)

    def forget_user(self, str user) -> None:
        """Drop the cached credentials of a user that has changed, and end what it waits for."""
        self.tokens.forget(user)
        self.note_forgotten(user)

    def forget_everyone(self) -> None:
        """Do so for everyone, because what credentials were checked with has changed."""
        self.tokens.principals.clear()
        self.note_forgotten(None)

    cdef int note_forgotten(self, str user) except -1:
        """What connections know is void, and what `user` (None for everyone) waits for ends."""
        cdef BrokerLink link
        self.forgets_count += 1
        for link in list(self.links):
            link.drop_pulls(user)
        return 0

    def allow_anonymous(self, Principal principal, *, bint any_host=False) -> None:
        """Let every request without credentials act as `principal`, but for foreign web pages.

        Args:
            principal: who they are.
            any_host: whether `Host` may name more than this machine. WHY it must not by default: a
                web page can have its own name resolve to the loopback address.
        """
        self.anonymous = principal
        self.is_any_host_local = any_host
        give_bucket(self, principal)

    def find_principal(self, Request request):
        """Who sends the request: a Principal, None, or an awaitable of either."""
        return authorize(self, request)

    def held_streams(self) -> set:
        """Names of the streams with messages that wait to be sent again.

        Each is sent again when `note_window` has told its stream's duplicate window.
        """
        cdef Held held
        return {held.request.station.stream for held in self.held}

    def note_window(self, str stream, uint64_t window_ms) -> None:
        """Send again what waits for `stream`, as far as it is safely inside the duplicate window.

        Args:
            window_ms: for how long the broker knows the ids of the stream's messages.
        """
        self.windows_ms[stream] = window_ms
        pump_held(self)

    def begin_drain(self, *, bint closes_idle=True) -> None:
        """Answer what is there, and close each connection behind its last answer.

        Args:
            closes_idle: also close now whoever asks nothing. WHY it may wait: a request may be on
                its way, and its sender could not tell whether it was stored.
        """
        cdef HttpConnection conn
        self.is_draining = True
        if not closes_idle:
            return
        for conn in list(self.connections):
            if conn.head is None and conn.current is None and conn.phase == PHASE_IDLE:
                if not conn.has_asked:
                    # WHY: who has just connected is about to ask, and cannot know that we end.
                    conn.deadline_ms = min(conn.deadline_ms, self.now_ms + FIRST_REQUEST_MS)
                    continue
                conn.is_stopped = True
                conn.transport.close()

    @property
    def is_broker_live(self) -> bool:
        return self.link is not None

    def stats(self) -> dict:
        """Counters and gauges of this worker."""
        return {
            "requests": self.requests_count,
            "faults": self.faults_count,
            "defects": self.defects_count,
            "connections": len(self.connections),
            "in_flight": 0 if self.link is None else self.link.slots.in_flight(),
            "waiting_bytes": self.waiting_bytes,
            "unread_bytes": self.unread_bytes,
            "tokens_cached": len(self.tokens.principals),
        }

    def refresh_gauges(self, *, bint is_exhausted=False) -> None:
        """Set the gauges of the board to what is now.

        Args:
            is_exhausted: whether this process can open no more files.
        """
        cdef BrokerLink link
        cdef uint64_t in_flight = 0
        for link in self.links:
            in_flight += <uint64_t>link.slots.in_flight()
        self.row.set_gauge(0, <uint64_t>len(self.connections))
        self.row.set_gauge(1, in_flight)
        self.row.set_gauge(2, <uint64_t>self.waiting_bytes)
        self.row.set_gauge(3, <uint64_t>len(self.tokens.principals))
        self.row.set_gauge(4, self.link is not None)
        self.row.set_gauge(5, self.is_draining)
        self.row.set_gauge(6, <uint64_t>self.unread_bytes)
        self.row.set_gauge(7, is_exhausted)

    def sweep(self) -> None:
        """Act on every deadline that has passed; called about ten times a second."""
        cdef HttpConnection conn
        cdef BrokerLink link
        self.now_ms = monotonic_ms()
        for link in list(self.links):
            link.sweep(self.now_ms)
        sweep_line(self, self.waiting)
        for group in list(self.groups.values()):
            sweep_line(self, (<Group>group).line)
        if self.starved:
            sweep_starved(self)
            pump_starved(self)
        if self.held:
            pump_held(self)
        if self.now_ms >= self.next_connection_sweep_ms:
            self.next_connection_sweep_ms = self.now_ms + 500
            for conn in list(self.connections):
                sweep_connection(conn, self.now_ms)

    # --- the broker's side ------------------------------------------------------------------

    cdef int take_link(self, BrokerLink link) except -1:
        self.link = link
        self.links.add(link)
        self.replay_until_ms = self.now_ms + REPLAY_WAIT_MS
        if not self.is_body_bound_configured:
            self.body_bytes_max = <Py_ssize_t>link.payload_bytes_max
        return self.schedule_turn()

    cdef int link_lost(self, BrokerLink link) except -1:
        """`link` takes no more publishes. What waits for a slot was never sent, and is told so."""
        if link.is_lost:
            self.links.discard(link)
        if self.link is not link:
            return 0
        self.link = None
        self.windows_ms = {}
        while self.waiting.first is not None:
            self.waiting.take().settle_unsent(
                "broker-away", "the connection to the broker was lost; nothing was sent"
            )
        return drop_groups(self)

    # --- one request ------------------------------------------------------------------------

    def on_identified(self, Request request, done, forgets_count) -> None:
        """An identity check off the loop has ended.

        Args:
            forgets_count: how many users had changed when the check began; when one has changed
                since, the verdict may be stale and is not kept.
        """
        take_identity(self, request, done, forgets_count)

    def on_inflated(self, Request request, done) -> None:
        """A body was inflated off the loop, or could not be."""
        take_inflated(self, request, done)

    def resume(self, Request request) -> None:
        """Take a request back to step 2 after its station was made."""
        cdef Buffer fields = Buffer(NULL, 0, 0)
        cdef Principal principal = request.identity
        cdef PyObject* found = PyDict_GetItem(self.routes, unquote_to_bytes(request.path_bytes))
        if found == NULL:
            request.finish("station-unknown", "no such station")
            return
        request.station = (<Route>found).station
        request.action = (<Route>found).action
        request.fields = None
        check_permission(request, principal)
        request.state = REQUEST_READING
        try:
            refill_fields(request, &fields)
            proceed(self, request, &fields)
        finally:
            drop_buffer(&fields)

    def next_verdicts(self, Request request) -> None:
        """Judge on, in a turn of its own, where a large batch has left off."""
        if request.state == REQUEST_SERVING:
            try:
                judge_kept(self, request)
            except Exception as error:
                self.report_defect("a request failed", error)
                request.finish("internal", "internal error")

    def on_awaited_verdict(self, Request request, index, bytes message, done) -> None:
        """A verdict that was found off the loop is there."""
        cdef Buffer fields
        request.verdicts_awaited -= 1
        if request.state != REQUEST_SERVING:
            return
        fields = borrow(request.fields)
        try:
            take_verdict(self, request, &fields, index, message, done.result())
        except Fault as fault:
            refuse_message(request, index, fault.kind.word, fault.text)
        except Exception as error:
            self.report_defect("a validator failed", error)
            refuse_message(request, index, "internal", "internal error")
        send_judged(self, request, &fields)

    def publish(self, Station station, bytes fields, bytes payload, on_done) -> None:
        """Store a message of the gateway's own: a dead letter.

        Args:
            station: where to.
            fields: its header lines, each ended by CRLF; see `build_fields`.
            payload: the message.
            on_done: called once with whether it is stored.
        """
        cdef Request request = Request.__new__(Request)
        cdef Buffer block = borrow(fields)
        request.station = station
        request.action = ACTION_SINGLE
        request.state = REQUEST_SERVING
        request.body_bytes = payload
        request.fields = fields
        request.messages_count = request.messages_judged = 1
        request.on_done = on_done
        if (self.link is None
                or PyBytes_GET_SIZE(payload) + overhead_of(request, &block) > self.link.payload_bytes_max):
            on_done(False)
            return
        send_judged(self, request, &block)

    # --- consuming --------------------------------------------------------------------------

    def pull(
        self,
        Request request,
        str stream,
        str durable,
        int batch,
        uint64_t wait_ms,
        bint metadata,
        on_missing,
    ) -> None:
        """Fetch messages of a durable consumer and answer the request with them.

        Args:
            stream, durable: names of the stream and of its pull consumer, already checked.
            batch: how many messages at most.
            wait_ms: how long to wait for the first one, in milliseconds.
            metadata: whether each message carries seq, timestamp, deliveries and subject.
            on_missing: called instead of an answer when the consumer does not exist.
        """
        cdef Pull pull
        if request.state == REQUEST_GONE:
            return
        if self.link is None:
            request.finish("broker-away", "the broker is away")
            return
        if len(self.link.pulls) >= PULLS_MAX:
            request.finish("overloaded", f"more than {<int>PULLS_MAX} consumers wait for messages")
            return
        if self.unread_bytes > self.unread_bytes_max:
            request.finish(
                "overloaded", f"more than {self.unread_bytes_max} bytes of answers are not read")
            return
        pull = Pull.__new__(Pull)
        pull.request = request
        pull.batch = batch
        pull.wants_metadata = metadata
        pull.on_missing = on_missing
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}".encode()
        # WHY: a message above max_bytes would block its consumer for ever.
        bytes_max = max(self.consume_bytes_max, 2 * self.link.payload_bytes_max)
        self.link.start_pull(pull, subject, wait_ms, bytes_max)

    cdef inline int after_answer(self, Request request) except -1:
        """The answer was handed to the client's connection: acknowledge what it carries."""
        cdef Pull pull
        if request.pull is not None:
            pull = request.pull
            request.pull = None
            pull.acknowledge(b"+ACK")
        return 0

    # --- turns ------------------------------------------------------------------------------

    cdef inline int schedule_turn(self) except -1:
        """Have a turn run once: when the read under way ends, if it has a turn of its own, else
        after every socket that is readable now was read.
        """
        if not self.is_turn_scheduled:
            self.is_turn_scheduled = True
            if not self.has_own_turn:
                self.call_soon(self.on_turn)
        return 0

    def turn(self) -> None:
        """The end of an event-loop turn: one write to the broker, one to each connection."""
        run_turn(self)

    cdef int renew_tail(self, time_t now) except -1:
        self.tail_second = now
        self.answer_tail = self.cors_head + b"Date: " + http_date(<double>now) + b"\r\n"
        self.stored_tail = self.answer_tail + b"Content-Length: %d\r\n\r\n%s" % (
            len(STORED_BODY), STORED_BODY)
        return 0

    cdef int report_defect(self, str text, object error) except -1:
        self.defects_count += 1
        self.row.add(COUNT_DEFECTS, 1)
        self.report(text, error)
        return 0
