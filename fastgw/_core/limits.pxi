# Bounds of the compiled core that no configuration changes.
#
# Each one stops growth at a defined answer; `tests/` holds a case that reaches it.
# Bounds that an operator may change live in `fastgw.config.LimitsConfig` and are copied into `Ingress`.

cdef enum:
    # LIMIT: how much the parser gets at once: a head can pass its bound by no more than this, and one
    # connection that pipelines tiny requests may have so many parsed before others have their turn.
    SLICE_BYTES = 2048
    # LIMIT: so many requests of one connection are parsed, then the others have their turn; and how long
    # those that wait so may take of a turn, in microseconds.
    PIPELINED_A_TURN = 16
    PARSE_US_A_TURN = 2000
    # LIMIT: nats-server refuses a control line above 4,096 bytes and closes the connection that all
    # requests share. SOURCE: nats-server max_control_line. Subject, reply and digits stay far below.
    SUBJECT_BYTES_MAX = 512
    # LIMIT: the server keeps the id of each message in its duplicate window; long ids cost memory there.
    MESSAGE_ID_BYTES_MAX = 512
    # LIMIT: a token longer than this is verified on each request instead of filling the cache.
    CREDENTIAL_BYTES_MAX = 8192
    # LIMIT: a refused request whose body is longer than this is answered at once and its connection
    # closed; up to here the body is read and dropped, which keeps the connection usable.
    REFUSED_BODY_BYTES_MAX = 65536
    # LIMIT: what pipelined requests may have us keep unread, over all connections of a worker.
    BACKLOG_BYTES_MAX = 33554432
    # LIMIT: what one read of a client's socket brings at most. SOURCE: uvloop, UV_STREAM_RECV_BUF_SIZE.
    READ_BYTES = 256000
    # LIMIT: fewer messages than this are sent one by one: a batch has a price of its own, with one
    # replica that of a dozen synced messages (seen: 4 syncs, 3 folders made, 12 files removed).
    GROUP_MESSAGES_MIN = 16
    # LIMIT: messages of an atomic batch. SOURCE: nats-server, max_batch_size.
    GROUP_MESSAGES_MAX = 1000
    # LIMIT: the payloads of a batch, so that none holds up the others for long.
    GROUP_BYTES_MAX = 4194304
    # LIMIT: what a batch adds to a message: its name, a place of four digits, the commit.
    GROUP_FIELDS_BYTES_MAX = 128
    # LIMIT: how long a stream gets no batches when its broker seems to know none.
    GROUP_ALONE_MS = 10000
    # LIMIT: time that handlers in Python have of one turn; the other requests wait in line, so that
    # a flood of cheap questions does not keep those who produce waiting.
    DISPATCH_US_A_TURN = 2000
    # LIMIT: bodies of paths that need no credential, such as a login; they are small JSON objects.
    HANDLER_BODY_BYTES_MAX = 65536
    # LIMIT: chunk sizes, extensions and trailers may cost this much beside the body itself.
    CHUNK_OVERHEAD_BYTES_MAX = 65536
    # LIMIT: bytes that schemas judge in one turn before other connections have theirs; the JSON
    # authority takes about 5 us a KiB, so this is a millisecond or two.
    JUDGED_BYTES_A_TURN = 262144
    # LIMIT: the same in time, for schemas that are slow with little; other requests wait this long.
    JUDGED_US_A_TURN = 2000
    # LIMIT: nesting of a JSON batch element, one bit a level on the stack of the splitter.
    JSON_DEPTH_MAX = 512
    # LIMIT: a NATS control line from the broker; INFO is the longest and grows with the cluster.
    BROKER_LINE_BYTES_MAX = 65536
    # LIMIT: bytes that may wait for the broker's socket before publishes wait in their requests.
    BROKER_OUT_BYTES_MAX = 8388608
    # LIMIT: payloads from this size on go to the broker's socket without a copy, so many a turn.
    APART_BYTES_MIN = 16384
    APARTS_MAX = 64
    # LIMIT: what of its memory is kept from turn to turn; fresh pages would cost more than the copy.
    BROKER_OUT_KEPT_BYTES = 4194304
    # LIMIT: consume requests that wait at the broker at the same time, one subscription each.
    PULLS_MAX = 512
    # LIMIT: up to here the names of a header block are compared with each other, without a table.
    SHORT_BLOCK_BYTES_MAX = 4096
    # LIMIT: how often the pace of a body is looked at, once its grace is over.
    BODY_LOOK_MS = 1000
    # LIMIT: names with a rate of their own at a time, 200 bytes each; the idlest leaves first.
    RATE_ENTRIES_MAX = 65536
    # LIMIT: what Retry-After tells at most; a day's wait is as good as none.
    RETRY_AFTER_S_MAX = 3600
    # LIMIT: an origin that asks for leave to deliver; it is a DNS name.
    HANDSHAKE_ORIGIN_BYTES_MAX = 255
    # LIMIT: how long a new connection waits for the duplicate windows before it takes new messages.
    REPLAY_WAIT_MS = 1000
    # LIMIT: how far inside the duplicate window a message must be to be sent again: clocks differ, and
    # the second sending takes its time.
    REPLAY_MARGIN_MS = 2000
    # LIMIT: how long a new client may take for its first request when the gateway ends.
    FIRST_REQUEST_MS = 500
    # LIMIT: names of headers for which a station keeps what its globs said; others are matched each time.
    FORWARDED_NAMES_MAX = 256
    FORWARDED_NAME_BYTES_MAX = 64
    # LIMIT: a body of which so much is missing is read by the socket into its place.
    SINK_BYTES_MIN = 65536
    # LIMIT: header fields of a head that is read without the parser; most have a dozen.
    USUAL_FIELDS_MAX = 32
    # LIMIT: how far the end of such a head's target is looked for; a station's name is the longest part.
    ROUTE_BYTES_MAX = 512
    # LIMIT: how long a refused connection is read and dropped so that the client sees its answer.
    LINGER_MS = 2000
    # LIMIT: how much longer than its own deadline a pull is awaited before its subscription is retired.
    PULL_GRACE_MS = 1000
