/* The raw publisher: what one connection gets from a broker, with no HTTP before it.
 *
 * In: publish NATS_PORT USER PASSWORD SUBJECT BYTES WINDOW COUNT MS; it publishes the same message
 *   again and again, with at most WINDOW unacknowledged, until COUNT are sent or MS are over.
 * Out: one line of JSON: how many were stored, how many refused, and the nanoseconds it took.
 * One write a turn; the message is a JSON object of BYTES bytes. It talks to 127.0.0.1 alone.
 * The harness uses it to fill streams, and as the measure of P5. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { READ_BYTES = 65536, WINDOW_MAX = 1000 };
static char in[READ_BYTES + 4096];

static void die(const char *what) { fprintf(stderr, "publish: %s\n", what); exit(1); }
static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}
static int dial(int port, const char *user, const char *password) {
    char hello[512], first[4];
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in a = {AF_INET, htons(port), {htonl(INADDR_LOOPBACK)}, {0}};
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (void *)&a, sizeof a)) die("cannot reach the broker");
    int n = snprintf(hello, sizeof hello, "CONNECT {\"verbose\":false,\"headers\":true,"
        "\"pedantic\":false,\"no_responders\":true,\"protocol\":1,\"echo\":false,"
        "\"user\":\"%s\",\"pass\":\"%s\"}\r\nSUB _P.* 1\r\n", user, password);
    if (read(fd, first, 4) != 4 || memcmp(first, "INFO", 4)) die("no INFO from the broker");
    if (write(fd, hello, n) != n) die("writing to the broker");
    return fd;
}
static void write_all(int fd, const char *p, size_t n) {
    for (ssize_t took; n; p += took, n -= took)
        if ((took = write(fd, p, n)) < 0) die("writing to the broker");
}
static size_t read_acks(int fd, char *p, char *stop, int64_t *stored, int64_t *refused) {
    for (char *nl; (nl = memchr(p, '\n', stop - p)); ) { /* returns how much is left, from in on */
        size_t size = nl + 1 - p;
        int is_msg = !memcmp(p, "MSG ", 4);
        if (is_msg || !memcmp(p, "HMSG ", 5)) {
            size_t payload = strtoul(memrchr(p, ' ', size), 0, 10);
            if ((size_t)(stop - p) < size + payload + 2) break;
            int is_ok = is_msg && payload > 10 && !memcmp(nl + 1, "{\"stream\":", 10);
            ++*(is_ok ? stored : refused);
            size += payload + 2;
        } else if (!memcmp(p, "PING", 4)) write_all(fd, "PONG\r\n", 6);
        else if (!memcmp(p, "-ERR", 4)) *nl = 0, die(p);
        p += size;
    }
    memmove(in, p, stop - p);
    return stop - p;
}
int main(int argc, char **argv) {
    if (argc != 9) die("usage: publish NATS_PORT USER PASSWORD SUBJECT BYTES WINDOW COUNT MS");
    int fd = dial(atoi(argv[1]), argv[2], argv[3]), size = atoi(argv[5]), window = atoi(argv[6]);
    int64_t count = atoll(argv[7]), sent = 0, stored = 0, refused = 0;
    if (size < 8 || window < 1 || window > WINDOW_MAX) die("no such size or window");
    size_t head_room = strlen(argv[4]) + 64, left = 0, frame = 0;
    char *out = malloc((head_room + size) * window), *body = malloc(size);
    if (!out || !body) die("memory");
    memset(body, 'x', size), memcpy(body, "{\"a\":\"", 6), memcpy(body + size - 2, "\"}", 2);
    int64_t start = now_ns(), end = start + atoll(argv[8]) * 1000000;
    for (int is_over = 0; ; is_over = sent == count || now_ns() >= end) {
        for (frame = 0; !is_over && sent < count && sent - stored - refused < window; sent++) {
            frame += sprintf(out + frame, "PUB %s _P.%d %d\r\n", argv[4], (int)(sent % window), size);
            memcpy(out + frame, body, size), memcpy(out + frame + size, "\r\n", 2);
            frame += size + 2;
        }
        write_all(fd, out, frame);
        if (stored + refused == sent && is_over) break;
        ssize_t n = read(fd, in + left, READ_BYTES);
        if (n <= 0) die("the broker closed the connection");
        left = read_acks(fd, in, in + left + n, &stored, &refused);
        if (left > 4096) die("an operation of the broker is too long");
    }
    printf("{\"stored\":%ld,\"refused\":%ld,\"elapsed_ns\":%ld}\n", stored, refused, now_ns() - start);
    return 0;
}
