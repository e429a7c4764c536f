// endpoint.c: a fake OpenAI endpoint that costs so little that a run measures the gateway in front of it.
//
// HTTP/1.1 with keep-alive on the loopback, one thread, epoll. A POST with "stream":true is answered with --events
// server-sent events of text, one write each and --gap-us apart, then one event with the finish reason and
// `data: [DONE]`. The first text event also carries the role, so the first event is the first token. A POST without
// "stream":true gets one JSON answer. GET /stats returns the counts; any other GET returns a small JSON (health,
// models). SIGTERM prints the counts and ends the process.
//
// All waits of one kind are equally long. Each kind therefore has a plain queue in order of time; no heap is needed.

#include "common.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_SIZE = 64 * 1024, MAX_REQUEST = 16 * 1024 * 1024, MAX_READY = 512 };

struct connection {
    int fd;
    struct buffer in, out;  // out: bytes that the socket has not accepted yet
    // The generation in progress on this connection, if `busy`.
    bool busy, streaming;
    long events_left;
    uint64_t due;
    struct queue *queue;
    struct connection *before, *after;
};

struct queue {
    struct connection *first, *last;
};

static double port = 9101, first_token_ms = 0, gap_us = 0, events = 20;
static struct {
    unsigned long live, opened, served, abandoned, connections;
} counts;

static struct queue waiting_first, waiting_next;  // for the first token, for the next event
static int poller;
static bool stopping;
static struct connection listener, stopper;  // markers of two descriptors in epoll: only address and fd are used

// ---- the answers, built once ----

static const char SSE_HEAD[] =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    "transfer-encoding: chunked\r\n\r\n";
static const char ANSWER[] =
    "{\"id\":\"chatcmpl-5f8a2c0e\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"m\",\"choices\":[{"
    "\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"Once upon a time no one had to wait.\"},"
    "\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":31,\"completion_tokens\":10,"
    "\"total_tokens\":41}}";
static const char MODELS[] =
    "{\"status\":\"ok\",\"object\":\"list\",\"data\":[{\"id\":\"m\",\"object\":\"model\",\"created\":1700000000,"
    "\"owned_by\":\"loadtest\"}]}";

static struct buffer first_event, next_event, last_event, answer;

static void append_text(struct buffer *buffer, const char *text) { buffer_append(buffer, text, strlen(text)); }

static void append_chunk(struct buffer *buffer, const char *delta, const char *finish, const char *rest) {
    char event[1024], size[16];
    snprintf(event, sizeof event,
             "data: {\"id\":\"chatcmpl-5f8a2c0e\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
             "\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":%s,\"logprobs\":null,\"finish_reason\":%s}]}\n\n%s",
             delta, finish, rest);
    snprintf(size, sizeof size, "%zx\r\n", strlen(event));
    append_text(buffer, size);
    append_text(buffer, event);
    append_text(buffer, "\r\n");
}

static void append_json(struct buffer *buffer, const char *json) {
    char head[128];
    snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n",
             strlen(json));
    append_text(buffer, head);
    append_text(buffer, json);
}

static void prepare_answers(void) {
    if (first_token_ms <= 0)  // no wait before the first token: one write carries the head and the first event
        append_text(&first_event, SSE_HEAD);
    append_chunk(&first_event, "{\"role\":\"assistant\",\"content\":\"Once\"}", "null", "");
    append_chunk(&next_event, "{\"content\":\" upon a time\"}", "null", "");
    append_chunk(&last_event, "{}", "\"stop\"", "data: [DONE]\n\n");
    append_text(&last_event, "0\r\n\r\n");
    append_json(&answer, ANSWER);
}

static int counts_as_json(char *into, size_t room) {
    return snprintf(into, room,
                    "{\"port\":%.0f,\"live\":%lu,\"opened\":%lu,\"served\":%lu,\"abandoned\":%lu,"
                    "\"connections\":%lu}",
                    port, counts.live, counts.opened, counts.served, counts.abandoned, counts.connections);
}

// ---- waiting ----

static void enqueue(struct queue *queue, struct connection *c, uint64_t due) {
    c->due = due;
    c->queue = queue;
    c->before = queue->last;
    c->after = NULL;
    *(queue->last ? &queue->last->after : &queue->first) = c;
    queue->last = c;
}

static void dequeue(struct connection *c) {
    if (!c->queue)
        return;
    *(c->before ? &c->before->after : &c->queue->first) = c->after;
    *(c->after ? &c->after->before : &c->queue->last) = c->before;
    c->queue = NULL;
}

// The waiting connection with the earliest due time; NULL if no connection waits.
static struct connection *earliest(void) {
    struct connection *a = waiting_first.first, *b = waiting_next.first;
    if (!a || !b)
        return a ? a : b;
    return a->due <= b->due ? a : b;
}

// ---- connections ----

static void watch(struct connection *c, int operation, uint32_t interest) {
    struct epoll_event event = {.events = interest, .data.ptr = c};
    epoll_ctl(poller, operation, c->fd, &event);
}

static void accept_all(void) {
    int fd, on = 1;
    while ((fd = accept4(listener.fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        struct connection *c = must(calloc(1, sizeof *c));
        c->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(c, EPOLL_CTL_ADD, EPOLLIN);
        counts.connections++;
    }
}

static void drop(struct connection *c) {
    if (c->busy) {
        counts.live--;
        counts.abandoned++;
    }
    dequeue(c);
    close(c->fd);
    counts.connections--;
    free(c->in.bytes);
    free(c->out.bytes);
    free(c);
}

// Sends the bytes, and keeps those that the socket does not accept now. Returns false if the peer is gone.
static bool send_bytes(struct connection *c, const char *bytes, size_t length) {
    if (!c->out.length) {
        ssize_t sent = send(c->fd, bytes, length, MSG_NOSIGNAL);
        if (sent == (ssize_t)length)
            return true;
        if (sent < 0 && errno != EAGAIN)
            return false;
        watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
        if (sent > 0) {
            bytes += sent;
            length -= (size_t)sent;
        }
    }
    buffer_append(&c->out, bytes, length);
    return true;
}

static bool send_rest(struct connection *c) {
    ssize_t sent = send(c->fd, c->out.bytes, c->out.length, MSG_NOSIGNAL);
    if (sent < 0)
        return errno == EAGAIN;
    buffer_drop(&c->out, (size_t)sent);
    if (!c->out.length)
        watch(c, EPOLL_CTL_MOD, EPOLLIN);
    return true;
}

static bool send_buffer(struct connection *c, const struct buffer *buffer) {
    return send_bytes(c, buffer->bytes, buffer->length);
}

// ---- generations ----

static bool begin_generation(struct connection *c, bool streaming) {
    counts.opened++;
    counts.live++;
    c->busy = true;
    c->streaming = streaming;
    c->events_left = (long)events;
    // A wait of zero goes through the queue too: both queues stay in order of time.
    enqueue(&waiting_first, c, now_us() + (uint64_t)(first_token_ms * 1000));
    return !streaming || first_token_ms <= 0 || send_bytes(c, SSE_HEAD, sizeof SSE_HEAD - 1);
}

static void end_generation(struct connection *c) {
    c->busy = false;
    counts.live--;
    counts.served++;
}

static bool send_event(struct connection *c, bool first, uint64_t now) {
    bool last = c->events_left == 0;
    if (!send_buffer(c, last ? &last_event : first ? &first_event : &next_event))
        return false;
    if (last) {
        end_generation(c);
        return true;
    }
    c->events_left--;
    // One event per turn, however late this process is: a gateway must not receive two events in one read for that.
    uint64_t due = c->due + (uint64_t)gap_us;
    enqueue(&waiting_next, c, due > now ? due : now + 1);
    return true;
}

static bool advance(struct connection *c, uint64_t now) {
    bool first = c->queue == &waiting_first;
    dequeue(c);
    if (c->streaming)
        return send_event(c, first, now);
    end_generation(c);
    return send_buffer(c, &answer);
}

// ---- requests ----

// The length of the first request in `in` if it is complete, else 0; sets `head` to the length of its head.
static size_t request_length(const struct buffer *in, size_t *head) {
    const char *blank = memmem(in->bytes, in->length, "\r\n\r\n", 4);
    if (!blank)
        return 0;
    *head = (size_t)(blank - in->bytes) + 4;
    size_t length = *head;
    const char *size = header_value(in->bytes, *head, "content-length");
    if (size) {
        length += strtoul(size, NULL, 10);
    } else if (header_is(in->bytes, *head, "transfer-encoding", "chunked")) {
        const char *end = memmem(in->bytes + *head, in->length - *head, "0\r\n\r\n", 5);
        length = end ? (size_t)(end - in->bytes) + 5 : in->length + 1;
    }
    return length <= in->length ? length : 0;
}

static bool asks_for_stream(const char *body, size_t length) {
    static const char KEY[] = "\"stream\":";
    const char *end = body + length, *at = memmem(body, length, KEY, sizeof KEY - 1);
    if (!at)
        return false;
    at += sizeof KEY - 1;
    while (at < end && *at == ' ')
        at++;
    return at < end && *at == 't';
}

static bool answer_get(struct connection *c, bool stats) {
    char json[256];
    counts_as_json(json, sizeof json);
    struct buffer reply = {0};
    append_json(&reply, stats ? json : MODELS);
    bool sent = send_buffer(c, &reply);
    free(reply.bytes);
    return sent;
}

// Takes the next complete request, unless a generation is in progress. Returns false if the connection must be dropped.
static bool take_request(struct connection *c) {
    while (!c->busy && c->in.length) {
        size_t head = 0, length = request_length(&c->in, &head);
        if (!length)
            return c->in.length < MAX_REQUEST;
        bool get = memcmp(c->in.bytes, "GET ", 4) == 0;
        bool stats = get && memmem(c->in.bytes, head, " /stats ", 8);
        bool streaming = asks_for_stream(c->in.bytes + head, length - head);
        buffer_drop(&c->in, length);
        if (!(get ? answer_get(c, stats) : begin_generation(c, streaming)))
            return false;
    }
    return true;
}

static bool read_request(struct connection *c) {
    ssize_t got = recv(c->fd, buffer_reserve(&c->in, READ_SIZE), READ_SIZE, 0);
    if (got < 0)
        return errno == EAGAIN;
    c->in.length += (size_t)got;
    return got > 0 && take_request(c);
}

// ---- the loop ----

static void handle(struct connection *c, uint32_t ready) {
    if (c == &stopper) {
        stopping = true;
        return;
    }
    if (c == &listener) {
        accept_all();
        return;
    }
    if ((ready & EPOLLOUT) && c->out.length && !send_rest(c)) {
        drop(c);
        return;
    }
    if ((ready & (EPOLLIN | EPOLLHUP | EPOLLERR)) && !read_request(c))
        drop(c);
}

static void advance_all_due(void) {
    uint64_t now = now_us();
    for (struct connection *c; (c = earliest()) != NULL && c->due <= now;)
        if (!advance(c, now) || !take_request(c))
            drop(c);
}

static void wait_and_handle(void) {
    static struct epoll_event ready[MAX_READY];
    struct timespec span, *limit = NULL;
    struct connection *next = earliest();
    if (next) {
        uint64_t now = now_us();
        span = span_us(next->due > now ? next->due - now : 0);
        limit = &span;
    }
    int count = epoll_pwait2(poller, ready, MAX_READY, limit, NULL);
    for (int i = 0; i < count; i++)
        handle(ready[i].data.ptr, ready[i].events);
}

// Turns SIGTERM and SIGINT into a readable descriptor: they are handled between two turns, even under full load.
static void catch_stop(void) {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    stopper.fd = signalfd(-1, &signals, SFD_NONBLOCK);
    watch(&stopper, EPOLL_CTL_ADD, EPOLLIN);
}

static bool listen_on_port(void) {
    int on = 1;
    struct sockaddr_in address = loopback((long)port);
    listener.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener.fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    return bind(listener.fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(listener.fd, 4096) == 0;
}

int main(int argc, char **argv) {
    const struct option_spec options[] = {
        {"port", "listen on this port of 127.0.0.1", &port, NULL},
        {"first-ms", "milliseconds before the first token, or before the whole answer", &first_token_ms, NULL},
        {"gap-us", "microseconds between events", &gap_us, NULL},
        {"events", "text events in a stream, at least 1", &events, NULL},
    };
    read_options(argc, argv, "endpoint: a fake OpenAI endpoint on the loopback", options,
                 sizeof options / sizeof *options);
    prepare_answers();
    if (!listen_on_port()) {
        perror("listen");
        return 1;
    }
    poller = epoll_create1(0);
    catch_stop();
    watch(&listener, EPOLL_CTL_ADD, EPOLLIN);
    while (!stopping) {
        wait_and_handle();
        advance_all_due();
    }
    char json[256];
    counts_as_json(json, sizeof json);
    puts(json);
    return 0;
}
