/* The pacer: HTTP load at a constant rate, or as fast as the answers come, counted without mercy.
 *
 * In: pace PORT CONNECTIONS RATE WARM_UP_MS MS DEPTH COUNT FILE; FILE holds requests, each behind a
 *   line with its length. RATE 0 is a closed loop that keeps DEPTH requests on each connection.
 * Out: "ready" once all are connected; it starts at a byte on its input. Then one line of JSON; it
 *   stays connected until its input ends, so that neither end is counted. Times are nanoseconds; "latency" and "lag" are the counts of a histogram
 *   in HdrHistogram's layout with three significant digits, as pairs of value and count.
 * A request of a paced run is due at start + i / RATE whatever came before it, and its latency runs
 *   from there until the last byte of its answer; what is not answered counts with its age.
 *   "lag" is the pacer's own lateness: from when a request was due and a connection was free.
 * It talks to 127.0.0.1 alone. The harness compiles and starts it. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 1024, READ_BYTES = 262144, HEAD_BYTES = 8192, DEPTH_MAX = 64, HALF = 1024 };
enum { COUNTERS = 36 * HALF }; /* values up to 2^45 ns, nearly ten hours */
static const int64_t SECOND = 1000000000, GRACE_NS = 2000000000;
typedef struct { const char *p; size_t n; } Text;
typedef struct { const Text *request; int64_t due; } Sent;
typedef struct {
    int fd, head_len;
    unsigned first, written, last; /* in ring: answers to come from first, bytes to go from written */
    size_t offset;                 /* of ring[written] that the socket took already */
    size_t body_left;
    int refused, in_body, armed;
    int64_t idle_since;
    Sent *ring;
    char *head;
} Conn;

static Text *requests;
static Conn *conns, **idle;
static size_t requests_count, next_request, idle_first, idle_count;
static int ep, conns_count, conns_open, depth;
static int64_t start, warm, end, due_total, started, answers, timed, refused, errors, bytes;
static double interval;
static uint32_t latency[COUNTERS], lag[COUNTERS];
static char in[READ_BYTES + HEAD_BYTES];

static void die(const char *what) { fprintf(stderr, "pace: %s\n", what); exit(1); }
static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}
static void record(uint32_t *histogram, int64_t value) { /* bucket and sub-bucket, HALF apart */
    uint64_t v = value < 1 ? 1 : value;
    int bucket = 63 - __builtin_clzll(v | (2 * HALF - 1)) - 10;
    size_t i = (size_t)bucket * HALF + (v >> bucket);
    histogram[i < COUNTERS ? i : COUNTERS - 1]++;
}
static void print_counts(const char *name, const uint32_t *histogram) {
    printf(",\"%s\":[", name);
    for (size_t i = 0, any = 0; i < COUNTERS; i++) {
        if (!histogram[i]) continue;
        int bucket = i < 2 * HALF ? 0 : i / HALF - 1;
        uint64_t lowest = (uint64_t)(i - (size_t)bucket * HALF) << bucket;
        printf("%s[%lu,%u]", any++ ? "," : "", lowest, histogram[i]);
    }
    putchar(']');
}
static void read_requests(const char *path) {
    struct stat st;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &st) || !st.st_size) die("cannot read the requests");
    char *p = mmap(0, st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0), *stop;
    if (p == MAP_FAILED) die("cannot map the requests");
    for (stop = p + st.st_size; p < stop; requests_count++) {
        if (requests_count % 1024 == 0)
            requests = realloc(requests, (requests_count + 1024) * sizeof *requests);
        char *text;
        size_t n = strtoul(p, &text, 10);
        if (!requests || !n || *text++ != '\n' || n > (size_t)(stop - text)) die("damaged requests");
        requests[requests_count] = (Text){text, n}, p = text + n;
    }
    close(fd);
}
static void give_up(Conn *c) { /* the server closed it, or it broke: what was out counts as failed */
    close(c->fd), c->fd = -1, conns_open--;
    errors += c->last - c->first ? c->last - c->first : 1;
}
static void flush(Conn *c) {
    while (c->written != c->last) {
        struct iovec parts[DEPTH_MAX];
        int n = 0;
        for (unsigned i = c->written; i != c->last; i++, n++) {
            const Text *t = c->ring[i % DEPTH_MAX].request;
            size_t skip = n ? 0 : c->offset;
            parts[n] = (struct iovec){(char *)t->p + skip, t->n - skip};
        }
        ssize_t took = writev(c->fd, parts, n);
        if (took < 0 && errno != EAGAIN) { give_up(c); return; }
        if (took < 0) break;
        for (c->offset += took; c->written != c->last; c->written++) {
            size_t size = c->ring[c->written % DEPTH_MAX].request->n;
            if (c->offset < size) break;
            c->offset -= size;
        }
    }
    int arm = c->written != c->last;
    if (arm == c->armed) return;
    struct epoll_event e = {.events = EPOLLIN | (arm ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e), c->armed = arm;
}
static void add(Conn *c, int64_t due) {
    c->ring[c->last++ % DEPTH_MAX] = (Sent){&requests[next_request], due};
    if (++next_request == requests_count) next_request = 0;
    started++;
}
static void refill(Conn *c, int64_t now) { /* the closed loop */
    while (now < end && started < due_total && c->last - c->first < (unsigned)depth) add(c, now);
    flush(c);
}
static int64_t due_at(int64_t i) { return start + (int64_t)(i * interval); }
static void send_due(int64_t now) { /* the paced run: every request that is due and finds a place */
    while (idle_count && started < due_total && due_at(started) <= now) {
        Conn *c = idle[idle_first];
        idle_first = (idle_first + 1) % conns_count, idle_count--;
        if (c->fd < 0) continue;
        int64_t due = due_at(started), since = due > c->idle_since ? due : c->idle_since;
        if (due >= warm) record(lag, now - since);
        add(c, due);
        flush(c);
    }
}
static void on_answer(Conn *c, int64_t now) {
    Sent *sent = &c->ring[c->first++ % DEPTH_MAX];
    answers++, refused += c->refused, c->in_body = 0;
    if (now >= warm && now <= end) timed++;
    if (sent->due >= warm) record(latency, now - sent->due);
    if (interval && c->first == c->last) {
        c->idle_since = now;
        idle[(idle_first + idle_count++) % conns_count] = c;
    }
}
static void parse_head(Conn *c, const char *p, const char *stop) {
    const char *line = p;
    long length = -1;
    if (stop - p < 16 || memcmp(p, "HTTP/1.", 7)) die("an answer is not HTTP");
    c->refused = p[9] != '2';
    while ((line = memchr(line, '\n', stop - line)) && ++line < stop)
        if (!strncasecmp(line, "content-length:", 15)) length = strtol(line + 15, 0, 10);
    if (length < 0) die("an answer has no Content-Length");
    c->body_left = length, c->in_body = 1;
}
static void on_readable(Conn *c) {
    if (c->head_len) memcpy(in, c->head, c->head_len);
    ssize_t n = read(c->fd, in + c->head_len, READ_BYTES);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { give_up(c); return; }
    int64_t now = now_ns();
    char *p = in, *stop = in + c->head_len + n;
    for (c->head_len = 0; p < stop || (c->in_body && !c->body_left); ) {
        if (c->in_body) {
            size_t part = c->body_left < (size_t)(stop - p) ? c->body_left : (size_t)(stop - p);
            p += part, bytes += part;
            if (!(c->body_left -= part)) on_answer(c, now);
            continue;
        }
        char *head_end = memmem(p, stop - p, "\r\n\r\n", 4);
        if (head_end && c->first == c->written) die("an answer came without a request");
        if (head_end) { parse_head(c, p, head_end + 2), p = head_end + 4; continue; }
        if (stop - p > HEAD_BYTES) die("the head of an answer is too long");
        if (!c->head && !(c->head = malloc(HEAD_BYTES))) die("memory");
        memcpy(c->head, p, c->head_len = stop - p), p = stop;
    }
    if (!interval) refill(c, now);
}
static void dial(Conn *c, int port) {
    int one = 1;
    struct sockaddr_in a = {AF_INET, htons(port), {htonl(INADDR_LOOPBACK)}, {0}};
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (void *)&a, sizeof a)) die("cannot connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e) || !(c->ring = calloc(DEPTH_MAX, sizeof *c->ring)))
        die("cannot watch a connection");
    idle[idle_count++] = c, conns_open++;
}
static void turn(int64_t until) { /* wait for answers, at most until then */
    struct epoll_event events[EVENTS];
    int64_t wait = until - now_ns();
    struct timespec t = {wait / SECOND, wait % SECOND};
    if (wait <= 0) t = (struct timespec){0, 0};
    int n = epoll_pwait2(ep, events, EVENTS, &t, 0);
    if (n < 0 && errno != EINTR) die("epoll");
    for (int i = 0; i < n; i++) {
        Conn *c = events[i].data.ptr;
        if (c->fd >= 0 && events[i].events & EPOLLOUT) flush(c);
        if (c->fd >= 0 && events[i].events & ~EPOLLOUT) on_readable(c);
    }
}
static void run(void) {
    if (!interval) for (int i = 0; i < conns_count; i++) refill(&conns[i], start);
    for (int64_t now; conns_open && (now = now_ns()) < end + GRACE_NS; ) {
        if (interval) send_due(now);
        int is_sent = interval || now < end ? started >= due_total : 1;
        if (is_sent && answers + errors >= started) break;
        turn(interval && idle_count && !is_sent ? due_at(started) : end + GRACE_NS);
    }
}
static int64_t count_unanswered(int64_t now) { /* each weighs with its age, which is still growing */
    int64_t unanswered = 0;
    for (int i = 0; i < conns_count; i++)
        for (Conn *c = &conns[i]; c->first != c->last; c->first++, unanswered++)
            if (c->ring[c->first % DEPTH_MAX].due >= warm)
                record(latency, now - c->ring[c->first % DEPTH_MAX].due);
    for (; interval && started < due_total; started++, unanswered++)
        if (due_at(started) >= warm) record(latency, now - due_at(started));
    return unanswered;
}
int main(int argc, char **argv) {
    if (argc != 9) die("usage: pace PORT CONNECTIONS RATE WARM_UP_MS MS DEPTH COUNT FILE");
    double rate = atof(argv[3]);
    conns_count = atoi(argv[2]), depth = atoi(argv[6]), due_total = atoll(argv[7]);
    if (conns_count < 1 || depth < 1 || depth > DEPTH_MAX) die("no such connections or depth");
    prctl(PR_SET_TIMERSLACK, 1); /* else the kernel may wake us 50 us late */
    read_requests(argv[8]);
    conns = calloc(conns_count, sizeof *conns), idle = calloc(conns_count, sizeof *idle);
    ep = epoll_create1(0);
    if (!conns || !idle || ep < 0) die("memory");
    for (int i = 0; i < conns_count; i++) dial(&conns[i], atoi(argv[1]));
    puts("ready"), fflush(stdout);
    if (getchar() == EOF) die("nobody said go");
    start = now_ns(), warm = start + atoll(argv[4]) * 1000000, end = warm + atoll(argv[5]) * 1000000;
    if (!due_total) due_total = INT64_MAX;
    if (rate > 0) {
        interval = SECOND / rate;
        int64_t fits = (end - start) / interval;
        if (due_total > fits) due_total = fits;
    }
    run();
    int64_t stop = now_ns(), unanswered = count_unanswered(stop);
    printf("{\"answers\":%ld,\"timed\":%ld,\"refused\":%ld,\"errors\":%ld,\"unanswered\":%ld,"
           "\"bytes\":%ld,\"window_ns\":%ld", answers, timed, refused, errors, unanswered, bytes,
           (stop < end ? stop : end) - warm);
    print_counts("latency", latency), print_counts("lag", lag);
    puts("}"), fflush(stdout);
    while (getchar() != EOF);
    return 0;
}
