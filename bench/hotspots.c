/*
 * The program that profilers are compared on: functions whose time it measures itself.
 *
 * Usage: hotspots CPU SHIFT. It pins itself, prints "ready" and spins in idle(). For the line "run CPU_NS" it calls the hot
 * functions for so much of CPU time and prints "done CALLS INTERRUPTED TICKS_0 ... TICKS_7", ticks of the TSC in each. It
 * idles on, so that the CPU stays loaded, until the end of its input.
 *
 * All calls take about two microseconds, and a table of weights and a pseudo-random number say which function is next. So
 * what is on the CPU forgets within microseconds what was there before, and profilers whose periods are much longer draw
 * independent samples. As all calls are equally long, what it takes to read the TSC adds the same to each and leaves the
 * shares alone. SHIFT moves so many per cent of the first function's weight to the fourth.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define FUNCTIONS 8
#define ROUNDS 700               /* of some 3 ns */
#define CALIBRATION_CALLS 1001
#define CALLS_BETWEEN_CLOCKS 64
#define CALLS_BETWEEN_POLLS 5000
#define INTERRUPTED_TIMES 8      /* a call that took so many times the usual was interrupted: its time is not all its own */
#define WEIGHTS 1024

static int weights[FUNCTIONS] = {280, 210, 160, 120, 90, 72, 52, 40};
static uint8_t next[WEIGHTS];
static volatile uint64_t sink;
static uint64_t state = 0x9e3779b97f4a7c15;

/* Of one source, and yet different: identical functions may be merged into one. */
#define HOT(n)                                                        \
    __attribute__((noinline, noclone)) static void hot_##n(void)      \
    {                                                                 \
        uint64_t x = sink | 1;                                        \
        for (int i = 0; i < ROUNDS; i++) {                            \
            x ^= x << 13;                                             \
            x ^= x >> 7;                                              \
            x ^= x << 17;                                             \
            x += (n) + 1;                                             \
        }                                                             \
        sink = x;                                                     \
    }

HOT(0) HOT(1) HOT(2) HOT(3) HOT(4) HOT(5) HOT(6) HOT(7)

static void (*const hot[FUNCTIONS])(void) = {hot_0, hot_1, hot_2, hot_3, hot_4, hot_5, hot_6, hot_7};

/* What is sampled while nothing is measured. */
__attribute__((noinline, noclone)) static void idle(void)
{
    uint64_t x = sink | 1;
    for (int i = 0; i < ROUNDS; i++)
        x = x * 6364136223846793005 + 1442695040888963407;
    sink = x;
}

/* CPU time is what samples are drawn from: none is taken while others have the CPU. */
static int64_t cpu_time_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* Behind all that precedes it. RDTSCP would be, too, and takes 30 times as long in some virtual machines. */
static uint64_t read_tsc(void)
{
    _mm_lfence();
    return __rdtsc();
}

static uint64_t ticks_of_call(int function)
{
    uint64_t start = read_tsc();
    hot[function]();
    return read_tsc() - start;
}

static int ascending(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

/* xorshift64*, Vigna 2016: the upper bits. */
static int choose(void)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return next[(state * 0x2545f4914f6cdd1d) >> 54];
}

static void measure(int64_t duration_ns)
{
    static uint64_t trial[CALIBRATION_CALLS];
    uint64_t ticks[FUNCTIONS] = {0}, usual;
    long long calls = 0, interrupted = 0;
    int64_t end;

    /* In the same order as those that are measured, so that samples of them have the same shares. */
    for (int i = 0; i < CALIBRATION_CALLS; i++)
        trial[i] = ticks_of_call(choose());
    qsort(trial, CALIBRATION_CALLS, sizeof *trial, ascending);
    usual = trial[CALIBRATION_CALLS / 2];
    end = cpu_time_ns() + duration_ns;
    do {
        for (int i = 0; i < CALLS_BETWEEN_CLOCKS; i++) {
            int f = choose();
            uint64_t took = ticks_of_call(f);
            if (took > usual * INTERRUPTED_TIMES) {
                interrupted++;
                took = usual;
            }
            ticks[f] += took;
            calls++;
        }
    } while (cpu_time_ns() < end);
    printf("done %lld %lld", calls, interrupted);
    for (int f = 0; f < FUNCTIONS; f++)
        printf(" %llu", (unsigned long long)ticks[f]);
    printf("\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    cpu_set_t set;
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    char line[128];
    long long duration;
    int at = 0, moved;

    if (argc != 3) {
        fprintf(stderr, "usage: hotspots CPU SHIFT\n");
        return 2;
    }
    CPU_ZERO(&set);
    CPU_SET(atoi(argv[1]), &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) {
        perror("sched_setaffinity");
        return 1;
    }
    moved = weights[0] * atoi(argv[2]) / 100;
    weights[0] -= moved;
    weights[3] += moved;
    for (int f = 0; f < FUNCTIONS; f++)
        for (int i = 0; i < weights[f]; i++)
            next[at++] = f;
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        for (int i = 0; i < CALLS_BETWEEN_POLLS; i++)
            idle();
        if (poll(&input, 1, 0) <= 0)
            continue;
        if (fgets(line, sizeof line, stdin) == NULL)
            return 0;
        if (sscanf(line, "run %lld", &duration) == 1)
            measure(duration);
    }
}
