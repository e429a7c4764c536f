// client.c: a load generator for OpenAI-compatible servers on the loopback; prints its results as one line of JSON.
//
// Closed loop (the default): --clients connections; each sends its next request as soon as the last is answered.
// Open loop (--rate R): requests are due at random times, R per second on average, independent of earlier answers. A
//   request's latency counts from its due time, so waiting for a free connection is part of the latency.
// Hold (--hold K): K streams are opened evenly over --ramp seconds, one connection each. The memory of --pids is read
//   before the first stream, and once all K streams have had their first token.
//
// An answer is "ok" only if its status is 200 and it is whole: all --events of text, the finish reason and [DONE]
// for a stream, choices for a plain answer. Requests that were due before the end of the warm-up are not counted.

#include "answer.h"
#include "common.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { READ_SIZE = 64 * 1024, MAX_READY = 1024, MAX_LIST = 64, LOOK_EVERY_US = 100000 };

// One client: a connection, and the open request on it.
struct client {
    int fd;  // -1: not connected; a client connects when it sends a request
    bool busy, had_first;
    uint64_t due;
    struct answer answer;
};

struct latencies {
    uint32_t *us;
    size_t count, room;
};

struct tally {
    unsigned long ok, bad, broken, incomplete, events, reads;
};

struct list {
    long values[MAX_LIST];
    size_t count;
};

struct usage {
    double seconds;  // of processor time
    double waited;   // seconds in which a main thread was ready to run and another process had the core
    long rss_kib;
};

static double clients = 32, rate = 0, hold = 0, ramp = 5, seconds = 5, warm_up = 1, requests = 0,
              drain = 30, stream = 1, events = 20, seed = 1;
static const char *port = "8000", *path = "/v1/chat/completions", *model = "m", *key = NULL, *pids = NULL;

static struct list port_list, pid_list;
static struct buffer request;
static struct client *all_clients, **idle;
static size_t idle_count;
static int poller;

static unsigned long begun;
static unsigned long open_now, open_most, had_first_token, connects;
static int last_bad_status;
static double next_due;  // microseconds, with their fraction: without it the rate would be slightly too high
static uint64_t measure_from, measure_until, ended_at;
static bool measuring, measured;
static struct tally total, in_time;  // in_time: the requests that had ended by the end of the measured time
static struct latencies first_token, whole_answer;
static struct usage at_begin, at_end, at_most;
static double own_begin, own_end;

// ---- chance ----

static uint64_t random_state = 88172645463325252u;

// Uniform in (0, 1]; xorshift64.
static double chance(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return ((double)(random_state >> 11) + 1) / 9007199254740992.0;
}

// ---- the cost of processes ----

static double cpu_seconds(long pid) {
    char name[64], line[1024];
    unsigned long user = 0, system = 0;
    snprintf(name, sizeof name, "/proc/%ld/stat", pid);
    FILE *file = fopen(name, "r");
    if (!file)
        return 0;
    // The second field is the command's name and may contain blanks: count from its closing parenthesis.
    const char *rest = fgets(line, sizeof line, file) ? strrchr(line, ')') : NULL;
    fclose(file);
    if (!rest || sscanf(rest, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
        return 0;
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static double seconds_waited(long pid) {
    char name[64];
    double ran = 0, waited = 0;
    snprintf(name, sizeof name, "/proc/%ld/schedstat", pid);
    FILE *file = fopen(name, "r");
    if (!file)
        return 0;
    if (fscanf(file, "%lf %lf", &ran, &waited) != 2)
        waited = 0;
    fclose(file);
    return waited / 1e9;
}

static long rss_kib(long pid) {
    char name[64];
    long size = 0, resident = 0;
    snprintf(name, sizeof name, "/proc/%ld/statm", pid);
    FILE *file = fopen(name, "r");
    if (!file)
        return 0;
    if (fscanf(file, "%ld %ld", &size, &resident) != 2)
        resident = 0;
    fclose(file);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static struct usage usage_of_pids(void) {
    struct usage sum = {0};
    for (size_t i = 0; i < pid_list.count; i++) {
        sum.seconds += cpu_seconds(pid_list.values[i]);
        sum.waited += seconds_waited(pid_list.values[i]);
        sum.rss_kib += rss_kib(pid_list.values[i]);
    }
    return sum;
}

static double own_cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

// ---- counting ----

static void remember(struct latencies *latencies, uint64_t us) {
    if (latencies->count == latencies->room) {
        latencies->room = latencies->room ? 2 * latencies->room : 4096;
        latencies->us = must(realloc(latencies->us, latencies->room * sizeof *latencies->us));
    }
    latencies->us[latencies->count++] = us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
}

static int by_size(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double quantile_ms(const struct latencies *sorted, double share) {
    if (!sorted->count)
        return 0;
    size_t at = (size_t)(share * (double)sorted->count);
    return sorted->us[at < sorted->count ? at : sorted->count - 1] / 1000.0;
}

static bool counts(const struct client *c) { return c->due >= measure_from; }

static void count_first_token(struct client *c) {
    if (c->had_first)
        return;
    c->had_first = true;
    had_first_token++;
    if (counts(c))
        remember(&first_token, now_us() - c->due);
}

static void count_end(struct client *c) {
    if (!counts(c))
        return;
    const struct answer *answer = &c->answer;
    total.reads += (unsigned long)answer->reads;
    if (answer->whole && answer->status != 200) {
        total.bad++;
        last_bad_status = answer->status;
    } else if (answer_is_complete(answer, (int)events)) {
        total.ok++;
        if (!answer->streaming)
            count_first_token(c);
        remember(&whole_answer, now_us() - c->due);
    } else {
        total.broken++;
        total.incomplete += answer->streaming && answer->status == 200;
    }
}

// ---- sending requests ----

static void prepare_request(void) {
    char body[1024], head[2048], authorization[512] = "";
    snprintf(body, sizeof body,
             "{\"model\":\"%s\",%s\"messages\":[{\"role\":\"system\",\"content\":\"You are a helpful assistant.\"},"
             "{\"role\":\"user\",\"content\":\"Tell me a short story about someone who never had to wait.\"}],"
             "\"temperature\":0.7,\"max_tokens\":64}",
             model, stream > 0 ? "\"stream\":true," : "");
    if (key)
        snprintf(authorization, sizeof authorization, "authorization: Bearer %s\r\n", key);
    snprintf(head, sizeof head,
             "POST %s HTTP/1.1\r\nhost: 127.0.0.1:%ld\r\naccept: */*\r\ncontent-type: application/json\r\n"
             "%scontent-length: %zu\r\n\r\n",
             path, port_list.values[0], authorization, strlen(body));
    buffer_append(&request, head, strlen(head));
    buffer_append(&request, body, strlen(body));
}

static void disconnect(struct client *c) {
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
}

static bool connect_client(struct client *c) {
    size_t number = (size_t)(c - all_clients);
    struct sockaddr_in address = loopback(port_list.values[number % port_list.count]);
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address) != 0) {
        disconnect(c);
        return false;
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
    connects++;
    return true;
}

static void end_request(struct client *c) {
    count_end(c);
    if (!c->answer.whole || c->answer.malformed || !c->answer.keep_alive)
        disconnect(c);
    c->busy = false;
    open_now--;
    idle[idle_count++] = c;
}

static void begin_request(struct client *c, uint64_t due) {
    answer_begin(&c->answer, stream > 0);
    c->busy = true;
    c->had_first = false;
    c->due = due;
    begun++;
    open_now++;
    if (open_now > open_most)
        open_most = open_now;
    bool sent = (c->fd >= 0 || connect_client(c)) &&
                send(c->fd, request.bytes, request.length, MSG_NOSIGNAL) == (ssize_t)request.length;
    if (!sent)
        end_request(c);
}

// ---- the schedule of requests ----

static bool may_begin(uint64_t now) {
    if (requests > 0 && begun >= (unsigned long)requests)
        return false;
    if (hold > 0)
        return true;
    // The open loop sends each request that was due within the measured time, however late.
    return rate > 0 ? next_due < (double)measure_until : now < measure_until;
}

static double pause_us(void) { return hold > 0 ? ramp * 1e6 / hold : -log(chance()) * 1e6 / rate; }

static void begin_due(void) {
    bool scheduled = rate > 0 || hold > 0;
    // At most one turn per client: a client whose requests fail at once must not keep this loop busy.
    for (size_t turns = idle_count; turns && idle_count; turns--) {
        uint64_t now = now_us();
        if (!may_begin(now) || (scheduled && next_due > (double)now))
            return;
        begin_request(idle[--idle_count], scheduled ? (uint64_t)next_due : now);
        if (scheduled)
            next_due += pause_us();
    }
}

// The number of requests that were due within the measured time and found no idle client even after it.
static unsigned long count_unsent(void) {
    unsigned long unsent = 0;
    for (; rate > 0 && next_due < (double)measure_until; next_due += pause_us())
        unsent++;
    return unsent;
}

// ---- the loop ----

static void begin_measuring(void) {
    measuring = true;
    total = (struct tally){0};
    at_begin = usage_of_pids();
    own_begin = own_cpu_seconds();
}

static void end_measuring(void) {
    measured = true;
    ended_at = now_us();
    at_end = usage_of_pids();
    own_end = own_cpu_seconds();
    in_time = total;
}

static void watch_time(uint64_t now) {
    if (!measuring && now >= measure_from)
        begin_measuring();
    bool over = hold > 0 || requests > 0 ? begun >= (unsigned long)requests && !open_now : false;
    if (!measured && (over || now >= measure_until))
        end_measuring();
    if (hold > 0 && !at_most.rss_kib && had_first_token >= (unsigned long)hold)
        at_most = usage_of_pids();
}

static struct timespec time_to_wait(void) {
    double now = (double)now_us(), until = now + LOOK_EVERY_US;
    if (idle_count && may_begin((uint64_t)now) && (rate > 0 || hold > 0) && next_due < until)
        until = next_due;
    double turn = (double)(measuring ? measure_until : measure_from);
    if (!measured && turn < until)
        until = turn;
    return span_us(until > now ? (uint64_t)(until - now) : 0);
}

static void take_answer(struct client *c, const char *bytes, size_t length) {
    int before = c->answer.events;
    answer_take(&c->answer, bytes, length);
    total.events += (unsigned long)(c->answer.events - before);
    if (c->answer.text_events)
        count_first_token(c);
}

static void read_answer(struct client *c) {
    static char bytes[READ_SIZE];
    ssize_t got = recv(c->fd, bytes, sizeof bytes, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (!c->busy) {  // the server closed an idle connection, or sent bytes without a request
        disconnect(c);
        return;
    }
    if (got > 0)
        take_answer(c, bytes, (size_t)got);
    if (got <= 0 || c->answer.whole || c->answer.malformed)
        end_request(c);
}

static void read_all_ready(void) {
    static struct epoll_event ready[MAX_READY];
    struct timespec wait = time_to_wait();
    int count = epoll_pwait2(poller, ready, MAX_READY, &wait, NULL);
    for (int i = 0; i < count; i++)
        read_answer(ready[i].data.ptr);
}

static void run(void) {
    for (;;) {
        uint64_t now = now_us();
        watch_time(now);
        begin_due();
        bool nothing_left = !open_now && (requests > 0 || !may_begin(now));
        if (measured && (nothing_left || (double)now > (double)ended_at + drain * 1e6))
            return;
        read_all_ready();
    }
}

// Ends the requests that are still open after --drain seconds; they count as broken.
static void give_up_on_the_rest(void) {
    for (size_t i = 0; i < (size_t)clients; i++)
        if (all_clients[i].busy)
            end_request(&all_clients[i]);
}

// ---- the report ----

static void print_latencies(const char *name, struct latencies *latencies) {
    if (latencies->count)
        qsort(latencies->us, latencies->count, sizeof *latencies->us, by_size);
    printf(",\"%s\":{\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"max\":%.3f}", name, quantile_ms(latencies, 0.5),
           quantile_ms(latencies, 0.9), quantile_ms(latencies, 0.99), quantile_ms(latencies, 1));
}

static double per_request_us(double cpu) { return in_time.ok ? cpu * 1e6 / (double)in_time.ok : 0; }

static void print_report(void) {
    double span = (double)(ended_at - measure_from) / 1e6;
    unsigned long ended = total.ok + total.bad + total.broken;
    printf("{\"ok\":%lu,\"bad\":%lu,\"broken\":%lu,\"incomplete\":%lu,\"unsent\":%lu", total.ok, total.bad,
           total.broken, total.incomplete, count_unsent());
    printf(",\"last_bad_status\":%d,\"connects\":%lu,\"seconds\":%.3f", last_bad_status, connects, span);
    printf(",\"requests_per_second\":%.1f,\"events_per_second\":%.0f,\"reads_per_request\":%.1f",
           (double)in_time.ok / span, (double)in_time.events / span, ended ? (double)total.reads / (double)ended : 0);
    print_latencies("first_token_ms", &first_token);
    print_latencies("total_ms", &whole_answer);
    double cpu = at_end.seconds - at_begin.seconds, own = own_end - own_begin;
    printf(",\"client\":{\"us_per_request\":%.2f,\"busy\":%.3f}", per_request_us(own), own / span);
    if (pids)
        printf(",\"pids\":{\"us_per_request\":%.2f,\"busy\":%.3f,\"waited\":%.3f,\"rss_kib\":%ld}",
               per_request_us(cpu), cpu / span, (at_end.waited - at_begin.waited) / span, at_end.rss_kib);
    long grown = at_most.rss_kib ? at_most.rss_kib - at_begin.rss_kib : 0;
    if (hold > 0)
        printf(",\"hold\":{\"streams\":%.0f,\"open_at_once\":%lu,\"lost\":%.0f,\"rss_before_kib\":%ld,"
               "\"rss_held_kib\":%ld,\"kib_per_stream\":%.2f}",
               hold, open_most, hold - (double)total.ok, at_begin.rss_kib, at_most.rss_kib,
               (double)grown / hold);
    puts("}");
}

// ---- beginning ----

static struct list read_list(const char *text) {
    struct list list = {0};
    for (char *rest; text && *text && list.count < MAX_LIST; text = *rest == ',' ? rest + 1 : "")
        list.values[list.count++] = strtol(text, &rest, 10);
    return list;
}

static void prepare_clients(void) {
    all_clients = must(calloc((size_t)clients, sizeof *all_clients));
    idle = must(calloc((size_t)clients, sizeof(struct client *)));
    for (size_t i = 0; i < (size_t)clients; i++) {
        all_clients[i].fd = -1;
        idle[idle_count++] = &all_clients[i];
    }
}

static void prepare_times(void) {
    random_state ^= (uint64_t)seed * 0x9E3779B97F4A7C15u;
    uint64_t now = now_us();
    next_due = (double)now;
    measure_from = now + (uint64_t)(warm_up * 1e6);
    measure_until = measure_from + (uint64_t)(seconds * 1e6);
}

int main(int argc, char **argv) {
    const struct option_spec options[] = {
        {"port", "port of the server on 127.0.0.1; or several, separated by commas: clients spread evenly", NULL, &port},
        {"path", "the path to POST to", NULL, &path},
        {"model", "the model to request", NULL, &model},
        {"key", "the API key, sent as a bearer token", NULL, &key},
        {"stream", "1: request streams, 0: request plain answers", &stream, NULL},
        {"events", "text events in a whole stream; 0: any number", &events, NULL},
        {"clients", "number of connections", &clients, NULL},
        {"rate", "open loop: requests per second", &rate, NULL},
        {"hold", "hold this many streams open at once", &hold, NULL},
        {"ramp", "with --hold: seconds in which the streams are opened", &ramp, NULL},
        {"seconds", "measured time, at most", &seconds, NULL},
        {"warm-up", "seconds before the measured time, which do not count", &warm_up, NULL},
        {"requests", "end after this many requests, without a warm-up; 0: end by time only", &requests, NULL},
        {"drain", "seconds that open requests have after the end of the measured time", &drain, NULL},
        {"pids", "processes whose cost is measured, separated by commas", NULL, &pids},
        {"seed", "seed of the random times of --rate", &seed, NULL},
    };
    read_options(argc, argv, "client: a load generator for OpenAI-compatible servers on the loopback", options,
                 sizeof options / sizeof *options);
    port_list = read_list(port);
    pid_list = read_list(pids);
    if (hold > 0)
        clients = requests = hold;
    if (requests > 0)
        warm_up = 0;
    poller = epoll_create1(0);
    prepare_request();
    prepare_clients();
    prepare_times();
    run();
    give_up_on_the_rest();
    print_report();
    return 0;
}
