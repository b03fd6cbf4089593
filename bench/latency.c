/*
 * The least there is between a sample and a program that reads it from a socket: what nmid's latency is compared with.
 *
 * latency sample SOCKET FREQUENCY_HZ CPU...
 *     opens cpu-clock on each CPU, as the daemon does, with a wake-up for every sample; polls the rings and writes each
 *     record to SOCKET, until the end of its input.
 * latency collect SOCKET CPU WARM_UP_MS DURATION_MS
 *     listens on SOCKET, prints "ready", and reads records. Of those of CPU it notes how long ago they were sampled; it
 *     leaves out the warm-up, and prints "latencies NS NS ..." at the end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/perf_event.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define CPUS_MAX 1024
#define PAGE_BYTES 4096
#define RING_BYTES (512 * 1024)     /* the daemon's default */
#define LATENCIES_MAX (1 << 20)
#define BUFFER_BYTES (64 * 1024)
#define RECORD_BYTES_MIN sizeof(struct perf_event_header)

/* What SAMPLE_TYPE makes of a sample. */
struct sample {
    struct perf_event_header header;
    uint64_t id, ip;
    uint32_t pid, tid;
    uint64_t time;
    uint32_t cpu, reserved;
    uint64_t period;
};
#define SAMPLE_TYPE                                                                                         \
    (PERF_SAMPLE_IDENTIFIER | PERF_SAMPLE_IP | PERF_SAMPLE_TID | PERF_SAMPLE_TIME | PERF_SAMPLE_CPU |       \
     PERF_SAMPLE_PERIOD)

struct ring {
    struct perf_event_mmap_page *control;
    const uint8_t *data;
};

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static struct sockaddr_un address_of(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        fprintf(stderr, "%s: too long for a socket\n", path);
        exit(2);
    }
    strcpy(address.sun_path, path);
    return address;
}

static void write_all(int fd, const uint8_t *bytes, size_t length)
{
    while (length > 0) {
        ssize_t written = write(fd, bytes, length);
        if (written < 0 && errno == EPIPE)
            exit(0);            /* the collector has all it wanted */
        if (written < 0)
            die("write");
        bytes += written;
        length -= written;
    }
}

static int open_event(int cpu, int frequency_hz, struct ring *ring)
{
    struct perf_event_attr attr = {
        .type = PERF_TYPE_SOFTWARE,
        .size = sizeof attr,
        .config = PERF_COUNT_SW_CPU_CLOCK,
        .sample_period = 1000000000 / frequency_hz,
        .sample_type = SAMPLE_TYPE,
        .sample_id_all = 1,
        .use_clockid = 1,
        .clockid = CLOCK_MONOTONIC,
        .wakeup_events = 1,
    };
    int fd = syscall(SYS_perf_event_open, &attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
    if (fd < 0)
        die("perf_event_open");
    void *memory = mmap(NULL, PAGE_BYTES + RING_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        die("mmap");
    ring->control = memory;
    ring->data = (const uint8_t *)memory + PAGE_BYTES;
    return fd;
}

static void drain(const struct ring *ring, int out)
{
    uint64_t tail = ring->control->data_tail;
    uint64_t head = __atomic_load_n(&ring->control->data_head, __ATOMIC_ACQUIRE);
    while (tail < head) {
        uint8_t record[sizeof(struct sample)];
        struct perf_event_header header;
        /* Records are 8-byte aligned: a header never wraps, what follows it may. */
        memcpy(&header, ring->data + tail % RING_BYTES, sizeof header);
        if (header.size < RECORD_BYTES_MIN) {
            fprintf(stderr, "a record of %u bytes\n", header.size);
            exit(1);
        }
        if (header.type == PERF_RECORD_SAMPLE && header.size == sizeof record) {
            for (size_t i = 0; i < sizeof record; i++)
                record[i] = ring->data[(tail + i) % RING_BYTES];
            write_all(out, record, sizeof record);
        }
        tail += header.size;
    }
    __atomic_store_n(&ring->control->data_tail, tail, __ATOMIC_RELEASE);
}

static int sample(const char *path, int frequency_hz, char **cpus, int count)
{
    static struct ring rings[CPUS_MAX];
    static struct pollfd fds[CPUS_MAX + 1];
    struct sockaddr_un address = address_of(path);
    int out = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    signal(SIGPIPE, SIG_IGN);
    if (count > CPUS_MAX || frequency_hz < 1) {
        fprintf(stderr, "too many CPUs, or no frequency\n");
        return 2;
    }
    if (out < 0 || connect(out, (struct sockaddr *)&address, sizeof address) != 0)
        die("connect");
    for (int i = 0; i < count; i++)
        fds[i] = (struct pollfd){.fd = open_event(atoi(cpus[i]), frequency_hz, &rings[i]), .events = POLLIN};
    fds[count] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
    for (;;) {
        if (poll(fds, count + 1, -1) < 0 && errno != EINTR)
            die("poll");
        if (fds[count].revents != 0)
            return 0;
        for (int i = 0; i < count; i++)
            drain(&rings[i], out);
    }
}

static int collect(const char *path, uint32_t cpu, int64_t warm_up_ms, int64_t duration_ms)
{
    static int64_t latencies[LATENCIES_MAX];
    static uint8_t buffer[BUFFER_BYTES];
    size_t count = 0, length = 0;
    int64_t start = 0, end = INT64_MAX;
    struct sockaddr_un address = address_of(path);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 1) != 0)
        die("listen");
    printf("ready\n");
    fflush(stdout);
    int in = accept(listener, NULL, NULL);
    if (in < 0)
        die("accept");
    for (;;) {
        ssize_t got = read(in, buffer + length, sizeof buffer - length);
        int64_t now = now_ns();
        if (got < 0)
            die("read");
        if (got == 0) {
            fprintf(stderr, "the sampler has gone\n");
            return 1;
        }
        if (start == 0) {
            start = now + warm_up_ms * 1000000;
            end = start + duration_ms * 1000000;
        }
        length += got;
        size_t at = 0;
        for (; length - at >= sizeof(struct sample); at += sizeof(struct sample)) {
            struct sample record;
            memcpy(&record, buffer + at, sizeof record);
            if (record.cpu == cpu && now >= start && count < LATENCIES_MAX)
                latencies[count++] = now - (int64_t)record.time;
        }
        memmove(buffer, buffer + at, length - at);
        length -= at;
        if (now >= end)
            break;
    }
    printf("latencies");
    for (size_t i = 0; i < count; i++)
        printf(" %lld", (long long)latencies[i]);
    printf("\n");
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc >= 5 && strcmp(argv[1], "sample") == 0)
        return sample(argv[2], atoi(argv[3]), argv + 4, argc - 4);
    if (argc == 6 && strcmp(argv[1], "collect") == 0)
        return collect(argv[2], atoi(argv[3]), atoll(argv[4]), atoll(argv[5]));
    fprintf(stderr, "usage: latency sample SOCKET FREQUENCY_HZ CPU... | collect SOCKET CPU WARM_UP_MS DURATION_MS\n");
    return 2;
}
