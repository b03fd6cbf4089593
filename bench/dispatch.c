/*
 * The dispatcher's walk of src/registry/walk.ts in C, over the same file: same steps, same order, every shared access
 * sequentially consistent. What the TypeScript costs is told as a multiple of this.
 *
 * Usage: dispatch TABLE...: files laid out as docs/handler-table.md says. For each line "walk ID TABLE PASSES MASK" (the
 * table by its number from 0, the event mask's low word) it prints "walked ID NS CALLS": how long the passes took, and
 * how many handlers they have called. It ends with its input.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* docs/handler-table.md, layout 2; bytes */
enum {
    HEADER_SLOTS_AT = 12,
    HEADER_SLOT_STRIDE = 32,
    HEADER_LIST_HEAD = 64,
    SLOT_STATE = 0,
    SLOT_NEXT = 4,
    SLOT_EVENT_MASK = 8,
    SLOT_DISPATCHERS = 448,
    STATE_BITS = 3,
    STATE_ACTIVE = 2,
    STATE_DRAINING = 3,
};

struct table {
    char *base;
    uint32_t slots_at;
    uint32_t stride;
};

struct target {
    void (*dispatch)(struct target *self, uint32_t slot, uint32_t generation);
    uint64_t calls;
};

static uint32_t doorbell;

static uint32_t load(const char *at)
{
    return __atomic_load_n((const uint32_t *)at, __ATOMIC_SEQ_CST);
}

static void store(char *at, uint32_t value)
{
    __atomic_store_n((uint32_t *)at, value, __ATOMIC_SEQ_CST);
}

static uint32_t state_of(uint32_t word)
{
    return word & ((1 << STATE_BITS) - 1);
}

static void ring(void)
{
    __atomic_fetch_add(&doorbell, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &doorbell, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static void offer(char *slot, uint32_t index, uint32_t state, struct target *target)
{
    char *running = slot + SLOT_DISPATCHERS; /* dispatcher 0 */

    store(running, 1);
    if (load(slot + SLOT_STATE) == state)
        target->dispatch(target, index, state >> STATE_BITS);
    store(running, 0);
    if (state_of(load(slot + SLOT_STATE)) == STATE_DRAINING)
        ring();
}

static __attribute__((noinline)) void walk(const struct table *table, uint32_t mask_low, uint32_t mask_high,
                                           struct target *target)
{
    for (uint32_t link = load(table->base + HEADER_LIST_HEAD); link != 0;) {
        uint32_t index = link - 1;
        char *slot = table->base + table->slots_at + (size_t)index * table->stride;
        uint32_t state = load(slot + SLOT_STATE);

        if (state_of(state) == STATE_ACTIVE) {
            uint32_t wanted =
                (load(slot + SLOT_EVENT_MASK) & mask_low) | (load(slot + SLOT_EVENT_MASK + 4) & mask_high);
            if (wanted != 0)
                offer(slot, index, state, target);
        }
        link = load(slot + SLOT_NEXT);
    }
}

static void count(struct target *self, uint32_t slot, uint32_t generation)
{
    (void)slot;
    (void)generation;
    self->calls++;
}

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static struct table open_table(const char *path)
{
    struct stat status;
    struct table table;
    int fd = open(path, O_RDWR | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &status) < 0) {
        perror(path);
        exit(1);
    }
    table.base = mmap(NULL, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (table.base == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    close(fd);
    table.slots_at = load(table.base + HEADER_SLOTS_AT);
    table.stride = load(table.base + HEADER_SLOT_STRIDE);
    return table;
}

int main(int argc, char **argv)
{
    struct table *tables = calloc(argc, sizeof *tables);
    unsigned id, index, passes, mask;

    for (int i = 1; i < argc; i++)
        tables[i - 1] = open_table(argv[i]);
    while (scanf(" walk %u %u %u %u", &id, &index, &passes, &mask) == 4 && index < (unsigned)argc - 1) {
        /* volatile: the compiler must not know whom it calls, as no walk of a table does. */
        struct target *volatile target = &(struct target){.dispatch = count};

        walk(&tables[index], mask, 0, target); /* into the cache */
        target->calls = 0;
        int64_t start = now_ns();
        for (unsigned pass = 0; pass < passes; pass++)
            walk(&tables[index], mask, 0, target);
        printf("walked %u %lld %llu\n", id, (long long)(now_ns() - start), (unsigned long long)target->calls);
        fflush(stdout);
    }
    return 0;
}
