/* The floor: the least work that can store an HTTP body in JetStream and answer after the ack.
 *
 * In: keep-alive HTTP (pipelining too), not validated: end of head, Content-Length, and whether
 *   the path ends in "batch" (a JSON array, split at top level; one PUB per element).
 * Out: `PUB <subject> _R.<slot> <n>` with a ring of 500 recycled reply subjects; 200 on the PubAck,
 *   500 on an error ack; one write per turn to the broker, and one per client connection.
 * The harness starts it: floor HTTP_PORT NATS_PORT USER PASSWORD SUBJECT.
 * It never checks tokens, headers or JSON: nothing that serves the same work can cost much less. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { SLOTS = 500, PIPELINED = 64, EVENTS = 512, READ_BYTES = 65536 };
typedef struct { char *p; size_t start, end, cap; } Buf;
typedef struct { int left, failed; } Request; /* acks still to come; 1 extra while being sent */
typedef struct Conn {
    int fd, in_flight, dirty, waiting;
    size_t elem;                  /* next byte of the batch that is being split; 0 = none */
    size_t batch_end;             /* both are offsets from in.p + in.start */
    unsigned head, tail;          /* requests not answered yet: head..tail-1 */
    Request requests[PIPELINED];
    Buf in, out;
    struct Conn *next_waiting, *next_dirty;
} Conn;
static struct { Conn *conn; unsigned request; } slots[SLOTS];
static int free_slots[SLOTS], free_count, ep, broker_fd, broker_armed;
static Conn *dirty_first, *waiting_first, **waiting_last = &waiting_first;
static Buf to_broker, from_broker;
static const char *subject;
static size_t subject_len;
static const char OK[] = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 29"
                         "\r\n\r\n{\"error\":null,\"success\":true}";
static const char BAD[] = "HTTP/1.1 500 Error\r\nContent-Type: application/json\r\n"
                          "Content-Length: 34\r\n\r\n{\"error\":\"refused\",\"success\":false}";

static void die(const char *what) { fprintf(stderr, "floor: %s\n", what); exit(1); }
static char *room(Buf *b, size_t n) { /* at least n writable bytes at the end */
    if (b->start == b->end) b->start = b->end = 0;
    if (b->cap - b->end < n && b->start) {
        memmove(b->p, b->p + b->start, b->end - b->start);
        b->end -= b->start, b->start = 0;
    }
    if (b->cap - b->end < n && !(b->p = realloc(b->p, b->cap = (b->end + n) * 2))) die("memory");
    return b->p + b->end;
}
static void put(Buf *b, const void *p, size_t n) { memcpy(room(b, n), p, n); b->end += n; }
static void mark_dirty(Conn *c) { /* something to answer, or to free, when the turn ends */
    if (!c->dirty) c->dirty = 1, c->next_dirty = dirty_first, dirty_first = c;
}
static void close_conn(Conn *c) { /* its memory stays until the last ack came */
    if (c->fd >= 0) close(c->fd), c->fd = -1;
    mark_dirty(c);
}
static void publish(Conn *c, const char *p, size_t n) {
    int slot = free_slots[--free_count];
    slots[slot].conn = c, slots[slot].request = c->tail - 1;
    c->in_flight++, c->requests[(c->tail - 1) % PIPELINED].left++;
    char *q = room(&to_broker, subject_len + n + 40), *at = q;
    q = mempcpy(mempcpy(q, "PUB ", 4), subject, subject_len);
    q = mempcpy(q, " _R.000 ", 8);
    q[-4] += slot / 100, q[-3] += slot / 10 % 10, q[-2] += slot % 10;
    char digits[20], *d = digits + 20;
    size_t v = n;
    do *--d = '0' + v % 10; while (v /= 10);
    q = mempcpy(q, d, digits + 20 - d);
    q = mempcpy(mempcpy(mempcpy(q, "\r\n", 2), p, n), "\r\n", 2);
    to_broker.end += q - at;
}
static void finish_sending(Conn *c) { /* every PUB of the newest request was written */
    c->requests[(c->tail - 1) % PIPELINED].left--;
    mark_dirty(c);
}
static int send_elements(Conn *c) { /* 1 = the batch was sent, 0 = no free slot */
    const char *body = c->in.p + c->in.start;
    size_t i = c->elem, end = c->batch_end;
    for (; i < end; c->elem = ++i) {
        while (i < end && strchr("], \r\n\t", body[i])) i++;
        if (i == end) break;
        if (!free_count) { c->elem = i; return 0; }
        size_t from = i;
        for (int depth = 0, quoted = 0; i < end; i++) {
            char b = body[i];
            if (b == '"') quoted = !quoted;
            else if (b == '\\') i++;
            else if (quoted) continue;
            else if (b == '{' || b == '[') depth++;
            else if ((b == '}' || b == ']') && depth) depth--;
            else if (!depth && (b == ',' || b == ']')) break;
        }
        publish(c, body + from, i - from);
    }
    finish_sending(c);
    c->in.start += end, c->elem = c->batch_end = 0;
    return 1;
}
static int wait_for_slot(Conn *c) {
    if (c->waiting) return 0;
    c->waiting = 1, c->next_waiting = 0;
    *waiting_last = c, waiting_last = &c->next_waiting;
    return 0;
}
static int feed_request(Conn *c) { /* 1 = a request was sent, 0 = more bytes or slots are needed */
    if (c->elem) return send_elements(c) || wait_for_slot(c);
    char *p = c->in.p + c->in.start, *line, *nl;
    size_t n = c->in.end - c->in.start, length = 0;
    char *end = n ? memmem(p, n, "\r\n\r\n", 4) : 0;
    if (!end) return 0;
    for (line = memchr(p, '\n', n); line < end; line = memchr(line, '\n', end + 2 - line))
        if (!strncasecmp(++line, "content-length:", 15)) length = strtoul(line + 15, 0, 10);
    size_t head = end + 4 - p;
    if (n < head + length || c->tail - c->head == PIPELINED) return 0;
    if (!free_count) return wait_for_slot(c);
    c->requests[c->tail++ % PIPELINED] = (Request){1, 0};
    nl = memchr(p, '\n', n);
    if (nl - p > 16 && !memcmp(nl - 15, "batch", 5)) { /* "batch HTTP/1.1\r" ends the line */
        c->elem = head + 1, c->batch_end = head + length;
        return send_elements(c) || wait_for_slot(c);
    }
    publish(c, p + head, length);
    c->in.start += head + length;
    finish_sending(c);
    return 1;
}
static void on_client(Conn *c) {
    ssize_t n = c->fd < 0 ? 0 : read(c->fd, room(&c->in, READ_BYTES), READ_BYTES);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { close_conn(c); return; }
    c->in.end += n;
    if (!c->waiting) while (feed_request(c));
}
static void on_ack(char *line, int is_ok) {
    int slot = atoi(line + 3); /* "_R.123 1 23" */
    Conn *c = slots[slot].conn;
    Request *r = &c->requests[slots[slot].request % PIPELINED];
    free_slots[free_count++] = slot, c->in_flight--;
    r->left--, r->failed |= !is_ok;
    mark_dirty(c);
}
static void on_broker(void) {
    Buf *b = &from_broker;
    ssize_t n = read(broker_fd, room(b, READ_BYTES), READ_BYTES);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) die("the broker closed the connection");
    b->end += n;
    for (char *p, *nl; (nl = memchr(p = b->p + b->start, '\n', b->end - b->start)); ) {
        size_t size = nl + 1 - p;
        int is_msg = !memcmp(p, "MSG ", 4), is_hmsg = !memcmp(p, "HMSG ", 5);
        if (is_msg || is_hmsg) {
            size_t payload = strtoul(memrchr(p, ' ', size), 0, 10);
            if (b->end - b->start < size + payload + 2) break;
            int is_ok = is_msg && payload > 10 && !memcmp(nl + 1, "{\"stream\":", 10);
            on_ack(p + (is_msg ? 4 : 5), is_ok);
            size += payload + 2;
        } else if (!memcmp(p, "PING", 4)) put(&to_broker, "PONG\r\n", 6);
        else if (!memcmp(p, "-ERR", 4)) *nl = 0, die(p);
        b->start += size;
    }
    Conn *c = waiting_first;
    for (waiting_first = 0, waiting_last = &waiting_first; c; ) {
        Conn *next = c->next_waiting;
        c->waiting = 0;
        if (c->fd < 0) mark_dirty(c); else while (feed_request(c));
        c = next;
    }
}
static void flush_client(Conn *c) {
    unsigned head = c->head;
    c->dirty = 0;
    for (; c->head != c->tail && !c->requests[c->head % PIPELINED].left; c->head++)
        if (c->requests[c->head % PIPELINED].failed) put(&c->out, BAD, sizeof BAD - 1);
        else put(&c->out, OK, sizeof OK - 1);
    if (c->fd >= 0 && c->out.end) { /* a client that does not read is dropped */
        if (write(c->fd, c->out.p, c->out.end) != (ssize_t)c->out.end) close(c->fd), c->fd = -1;
        c->out.end = 0;
    }
    if (c->tail - head == PIPELINED && c->fd >= 0 && !c->waiting) while (feed_request(c));
    if (c->fd < 0 && !c->in_flight && !c->waiting) free(c->in.p), free(c->out.p), free(c);
}
static void flush_broker(void) {
    Buf *b = &to_broker;
    if (b->start != b->end) {
        ssize_t n = write(broker_fd, b->p + b->start, b->end - b->start);
        if (n < 0 && errno != EAGAIN) die("writing to the broker");
        if (n > 0) b->start += n;
    }
    int arm = b->start != b->end;
    if (arm == broker_armed) return;
    struct epoll_event e = {.events = EPOLLIN | (arm ? EPOLLOUT : 0), .data.ptr = &broker_fd};
    epoll_ctl(ep, EPOLL_CTL_MOD, broker_fd, &e), broker_armed = arm;
}
static int open_socket(int port, int listening) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in a = {AF_INET, htons(port), {htonl(INADDR_LOOPBACK)}, {0}};
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (!listening && connect(fd, (void *)&a, sizeof a)) die("cannot reach the broker");
    if (listening && (bind(fd, (void *)&a, sizeof a) || listen(fd, 4096))) die("cannot listen");
    return fd;
}
static void dial_broker(int port, const char *user, const char *password) {
    char hello[512], first[4];
    broker_fd = open_socket(port, 0);
    int n = snprintf(hello, sizeof hello, "CONNECT {\"verbose\":false,\"headers\":true,"
        "\"pedantic\":false,\"no_responders\":true,\"protocol\":1,\"echo\":false,"
        "\"user\":\"%s\",\"pass\":\"%s\"}\r\nSUB _R.* 1\r\n", user, password);
    if (read(broker_fd, first, 4) != 4 || memcmp(first, "INFO", 4)) die("no INFO from the broker");
    if (write(broker_fd, hello, n) != n) die("writing to the broker");
    fcntl(broker_fd, F_SETFL, O_NONBLOCK);
}
static void watch(int fd, void *data) {
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = data};
    epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
}
static void accept_client(int listener) {
    int one = 1, fd = accept4(listener, 0, 0, SOCK_NONBLOCK);
    if (fd < 0) return;
    Conn *c = calloc(1, sizeof *c);
    if (!c) die("memory");
    c->fd = fd;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    watch(fd, c);
}
int main(int argc, char **argv) {
    if (argc != 6) die("usage: floor HTTP_PORT NATS_PORT USER PASSWORD SUBJECT");
    subject = argv[5], subject_len = strlen(subject);
    for (; free_count < SLOTS; free_count++) free_slots[free_count] = free_count;
    dial_broker(atoi(argv[2]), argv[3], argv[4]);
    int listener = open_socket(atoi(argv[1]), 1);
    ep = epoll_create1(0);
    watch(listener, 0), watch(broker_fd, &broker_fd);
    for (struct epoll_event events[EVENTS];;) {
        int n = epoll_wait(ep, events, EVENTS, -1);
        for (int i = 0; i < n; i++)
            if (!events[i].data.ptr) accept_client(listener);
            else if (events[i].data.ptr == &broker_fd) on_broker();
            else on_client(events[i].data.ptr);
        for (Conn *c; (c = dirty_first); flush_client(c)) dirty_first = c->next_dirty;
        flush_broker();
    }
}
