// answer.h: an incremental reader of one HTTP answer; decides whether the answer was a whole completion.
//
//   HEAD ─┬─► SIZED_BODY ─────────────────────────► whole
//         └─► CHUNK_SIZE ─► CHUNK ─► CHUNK_END ─┐
//               ▲ └─► TRAILER ──────────────────│─► whole
//               └───────────────────────────────┘
//
// Input may be split at any byte. Only an incomplete head, event or plain answer is held back.

#ifndef ANSWER_H
#define ANSWER_H

#include "common.h"

enum { HELD = 8 * 1024 };

enum stage { HEAD, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER, SIZED_BODY };

struct answer {
    bool streaming;  // true if the request asked for a stream
    bool whole, malformed, keep_alive;
    bool had_finish, had_done, had_choices;
    enum stage stage;
    int status, reads, events, text_events;
    size_t left;  // bytes left of this chunk, or of a body with a content-length
    size_t held_length;
    char held[HELD];
};

static inline void answer_begin(struct answer *a, bool streaming) {
    memset(a, 0, offsetof(struct answer, held));
    a->streaming = streaming;
}

// `events`: the number of text events of a whole stream; 0 accepts any number.
static inline bool answer_is_complete(const struct answer *a, int events) {
    if (!a->whole || a->malformed || a->status != 200)
        return false;
    if (!a->streaming)
        return a->had_choices;
    return a->had_finish && a->had_done && (events <= 0 || a->text_events == events);
}

// ---- steps: each takes some bytes and returns the address at which it stopped ----

static inline bool contains(const char *text, size_t length, const char *what) {
    return memmem(text, length, what, strlen(what)) != NULL;
}

static inline void take_event(struct answer *a, const char *event, size_t length) {
    static const char TEXT[] = "\"content\":\"";
    if (length < 6 || memcmp(event, "data: ", 6) != 0)
        return;  // a comment
    a->events++;
    if (contains(event, length, "data: [DONE]")) {
        a->had_done = true;
        return;
    }
    const char *text = memmem(event, length, TEXT, sizeof TEXT - 1);
    if (text && text[sizeof TEXT - 1] != '"')
        a->text_events++;
    else if (contains(event, length, "\"finish_reason\":\"stop\""))
        a->had_finish = true;
    else if (contains(event, length, "\"error\":"))
        a->malformed = true;
}

// Takes all complete events within `length` bytes; returns the number of bytes taken.
static inline size_t take_complete_events(struct answer *a, const char *bytes, size_t length) {
    const char *at = bytes, *end = bytes + length, *blank;
    while ((blank = memmem(at, (size_t)(end - at), "\n\n", 2)) != NULL) {
        take_event(a, at, (size_t)(blank - at));
        at = blank + 2;
    }
    return (size_t)(at - bytes);
}

static inline void take_stream(struct answer *a, const char *bytes, size_t length) {
    if (!a->held_length) {  // the usual case: no partial event is held, and the input ends with a whole one
        size_t taken = take_complete_events(a, bytes, length);
        bytes += taken;
        length -= taken;
    }
    while (length && !a->malformed) {
        size_t room = HELD - a->held_length, more = length < room ? length : room;
        memcpy(a->held + a->held_length, bytes, more);
        a->held_length += more;
        bytes += more;
        length -= more;
        size_t taken = take_complete_events(a, a->held, a->held_length);
        a->held_length -= taken;
        memmove(a->held, a->held + taken, a->held_length);
        a->malformed |= a->held_length == HELD;  // the fake endpoint sends no event of this length
    }
}

static inline void take_plain(struct answer *a, const char *bytes, size_t length) {
    size_t room = HELD - a->held_length, more = length < room ? length : room;
    memcpy(a->held + a->held_length, bytes, more);
    a->held_length += more;
    a->had_choices = a->had_choices || contains(a->held, a->held_length, "\"choices\":[{");
}

static inline const char *take_body(struct answer *a, const char *at, const char *end) {
    size_t more = (size_t)(end - at) < a->left ? (size_t)(end - at) : a->left;
    if (a->status == 200)
        (a->streaming ? take_stream : take_plain)(a, at, more);
    a->left -= more;
    if (!a->left && a->stage == SIZED_BODY)
        a->whole = true;
    else if (!a->left)
        a->stage = CHUNK_END;
    return at + more;
}

static inline void understand_head(struct answer *a, size_t length) {
    a->status = atoi(a->held + strlen("HTTP/1.1 "));
    a->keep_alive = !header_is(a->held, length, "connection", "close");
    const char *size = header_value(a->held, length, "content-length");
    a->left = size ? strtoul(size, NULL, 10) : 0;
    a->stage = size ? SIZED_BODY : CHUNK_SIZE;
    a->whole = size && !a->left;
    a->malformed = !size && !header_is(a->held, length, "transfer-encoding", "chunked");
}

static inline const char *take_head(struct answer *a, const char *at, const char *end) {
    size_t before = a->held_length, room = HELD - before;
    size_t more = (size_t)(end - at) < room ? (size_t)(end - at) : room;
    memcpy(a->held + before, at, more);
    a->held_length += more;
    const char *blank = memmem(a->held, a->held_length, "\r\n\r\n", 4);
    if (!blank) {
        a->malformed = a->held_length == HELD;
        return end;
    }
    size_t length = (size_t)(blank - a->held) + 4;
    understand_head(a, length);
    a->held_length = 0;
    return at + (length - before);
}

static inline int hex_digit(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 32;  // lower case
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static inline const char *take_chunk_size(struct answer *a, const char *at, const char *end) {
    for (; at < end && *at != '\n'; at++) {
        int digit = hex_digit(*at);
        if (digit >= 0)
            a->left = a->left * 16 + (size_t)digit;
        else
            a->malformed |= *at != '\r';
    }
    if (at == end)
        return end;
    a->stage = a->left ? CHUNK : TRAILER;
    return at + 1;
}

static inline const char *take_chunk_end(struct answer *a, const char *at, const char *end) {
    const char *line_end = memchr(at, '\n', (size_t)(end - at));
    if (!line_end)
        return end;
    a->stage = CHUNK_SIZE;
    return line_end + 1;
}

// An empty line follows the last chunk. No known server sends trailers to a client that did not ask for them.
static inline const char *take_trailer(struct answer *a, const char *at, const char *end) {
    const char *line_end = memchr(at, '\n', (size_t)(end - at));
    if (!line_end)
        return end;
    a->whole = true;
    return line_end + 1;
}

static inline const char *take_some(struct answer *a, const char *at, const char *end) {
    switch (a->stage) {
    case HEAD: return take_head(a, at, end);
    case CHUNK_SIZE: return take_chunk_size(a, at, end);
    case CHUNK: return take_body(a, at, end);
    case CHUNK_END: return take_chunk_end(a, at, end);
    case TRAILER: return take_trailer(a, at, end);
    case SIZED_BODY: return take_body(a, at, end);
    }
    return end;
}

static inline void answer_take(struct answer *a, const char *bytes, size_t length) {
    const char *at = bytes, *end = bytes + length;
    a->reads++;
    while (at < end && !a->whole && !a->malformed)
        at = take_some(a, at, end);
    a->malformed |= at < end;  // bytes after the end of the answer
}

#endif
