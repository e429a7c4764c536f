// common.h: shared by the endpoint and the client: the clock, options, header look-up and a growing buffer.

#ifndef COMMON_H
#define COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <arpa/inet.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

// ---- time ----

static inline uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static inline struct timespec span_us(uint64_t us) {
    return (struct timespec){.tv_sec = (time_t)(us / 1000000u), .tv_nsec = (long)(us % 1000000u) * 1000};
}

// ---- options: `--name value`, each a number or a text ----

struct option_spec {
    const char *name;
    const char *help;
    double *number;  // exactly one of these two is set
    const char **text;
};

static inline void print_help(FILE *out, const char *purpose, const struct option_spec *specs, size_t count) {
    fprintf(out, "%s\n", purpose);
    for (size_t i = 0; i < count; i++) {
        fprintf(out, "  --%-12s %s", specs[i].name, specs[i].help);
        if (specs[i].number)
            fprintf(out, " (%g)\n", *specs[i].number);
        else
            fprintf(out, " (%s)\n", **specs[i].text ? *specs[i].text : "none");
    }
}

static inline const struct option_spec *find_option(const char *word, const struct option_spec *specs, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (strncmp(word, "--", 2) == 0 && strcmp(word + 2, specs[i].name) == 0)
            return &specs[i];
    return NULL;
}

// Reads the command line. Exits the process with 0 after --help and with 2 after a mistake.
static inline void read_options(int argc, char **argv, const char *purpose, const struct option_spec *specs,
                                size_t count) {
    for (int i = 1; i < argc; i += 2) {
        if (strcmp(argv[i], "--help") == 0) {
            print_help(stdout, purpose, specs, count);
            exit(0);
        }
        const struct option_spec *spec = find_option(argv[i], specs, count);
        char *rest = NULL;
        if (spec && i + 1 < argc && spec->number)
            *spec->number = strtod(argv[i + 1], &rest);
        else if (spec && i + 1 < argc)
            *spec->text = argv[i + 1];
        if (!spec || i + 1 >= argc || (spec->number && (rest == argv[i + 1] || *rest))) {
            fprintf(stderr, "%s: not an option, or not its value; see --help\n", argv[i]);
            exit(2);
        }
    }
}

// ---- HTTP ----

static inline struct sockaddr_in loopback(long port) {
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

// The value of a header in a head of `length` bytes that ends with an empty line; NULL if the header is missing.
// The value ends at the line's "\r".
static inline const char *header_value(const char *head, size_t length, const char *name) {
    size_t size = strlen(name);
    const char *line = head, *end = head + length;
    while ((line = memchr(line, '\n', (size_t)(end - line))) != NULL) {
        line++;
        if ((size_t)(end - line) <= size)
            return NULL;
        if (line[size] == ':' && strncasecmp(line, name, size) == 0) {
            line += size + 1;
            while (*line == ' ')
                line++;
            return line;
        }
    }
    return NULL;
}

static inline bool header_is(const char *head, size_t length, const char *name, const char *value) {
    const char *found = header_value(head, length, name);
    return found && strncasecmp(found, value, strlen(value)) == 0;
}

// ---- a growing buffer ----

struct buffer {
    char *bytes;
    size_t length, room;
};

static inline void *must(void *memory) {
    if (!memory) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return memory;
}

// Makes room for `more` bytes after the held ones; returns the address of that room.
static inline char *buffer_reserve(struct buffer *buffer, size_t more) {
    if (buffer->length + more > buffer->room) {
        buffer->room = 2 * buffer->room > buffer->length + more ? 2 * buffer->room : buffer->length + more;
        buffer->bytes = must(realloc(buffer->bytes, buffer->room));
    }
    return buffer->bytes + buffer->length;
}

static inline void buffer_append(struct buffer *buffer, const char *bytes, size_t length) {
    memcpy(buffer_reserve(buffer, length), bytes, length);
    buffer->length += length;
}

static inline void buffer_drop(struct buffer *buffer, size_t length) {
    buffer->length -= length;
    memmove(buffer->bytes, buffer->bytes + length, buffer->length);
}

#endif
