/*
 * The program whose speed the benchmarks measure: pure arithmetic on one CPU, without memory traffic or system calls.
 *
 * Usage: victim CPU. It pins itself, prints "ready" and works. For the line "run START_NS DURATION_NS" (times of
 * CLOCK_MONOTONIC) it counts the blocks of work it finishes in that time and prints "done BLOCKS ELAPSED_NS". It works
 * on, so that the CPU stays loaded, until the end of its input.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define STEPS_PER_BLOCK 10000     /* about 10 to 20 us: short beside a measurement, long beside reading the clock */
#define BLOCKS_BETWEEN_POLLS 100

static volatile uint64_t sink;

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void block(void)
{
    uint64_t x = sink | 1;
    for (int i = 0; i < STEPS_PER_BLOCK; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
    }
    sink = x;
}

static void measure(int64_t start_ns, int64_t duration_ns)
{
    int64_t blocks = 0, end;
    while (now_ns() < start_ns)
        block();
    start_ns = now_ns();
    do {
        block();
        blocks++;
        end = now_ns();
    } while (end - start_ns < duration_ns);
    printf("done %lld %lld\n", (long long)blocks, (long long)(end - start_ns));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    cpu_set_t set;
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    char line[128];
    long long start, duration;

    if (argc != 2) {
        fprintf(stderr, "usage: victim CPU\n");
        return 2;
    }
    CPU_ZERO(&set);
    CPU_SET(atoi(argv[1]), &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) {
        perror("sched_setaffinity");
        return 1;
    }
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        for (int i = 0; i < BLOCKS_BETWEEN_POLLS; i++)
            block();
        if (poll(&input, 1, 0) <= 0)
            continue;
        if (fgets(line, sizeof line, stdin) == NULL)
            return 0;
        if (sscanf(line, "run %lld %lld", &start, &duration) == 2)
            measure(start, duration);
    }
}
