/*
 * Reads a handler table from outside the daemon, by docs/handler-table.md alone.
 *
 * Usage: reader FILE. Prints "daemon PID CAPACITY DISPATCHERS" and then, in the order of the list, a line for each slot
 * that has had an owner, its fields separated by tabs:
 *
 *   ID STATE MATCHED DELIVERED LOST DISPATCHES LONGEST_NS DISPATCH_NS_SUM QUEUE_MAX FILTER_FLAGS REGISTERED_AT
 *   LOSSES BUCKETS NAME EVENTS
 *
 * LOSSES and BUCKETS are lists with commas. A slot that is being claimed has an id and a state only. Where the file
 * cannot be read, is no table, or one of another version, it says so on stderr and exits with 1.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

static const char MAGIC[] = "NMIDHTBL";

enum { LAYOUT_VERSION = 3, HEADER_BYTES = 192 };

enum header {
    MAGIC_AT = 0,
    VERSION = 8,
    SLOTS_AT = 12,
    CAPACITY = 24,
    DISPATCHERS = 28,
    SLOT_STRIDE = 32,
    DAEMON_PID = 36,
    LIST_HEAD = 64,
};

enum slot {
    STATE_GENERATION = 0,
    NEXT = 4,
    NAME = 64,
    EVENTS = 128,
    FILTER_FLAGS = 256,
    QUEUE_MAX_BYTES = 264,
    REGISTERED_AT = 272,
    DELIVERED = 320,
    LOSSES = 336,
    BLOCKS = 448,
};

enum block {
    DISPATCHES = 64,
    MATCHED = 72,
    QUEUE_FULL = 80,
    LONGEST_DISPATCH_NS = 88,
    DISPATCH_NS_SUM = 112,
    DISPATCH_TIME = 120,
    MEMORY = 240,
    BLOCK_BYTES = 256,
};

enum { NAME_BYTES = 64, EVENTS_BYTES = 128, LOSS_REASONS = 12, LOSS_QUEUE_FULL = 1, LOSS_MEMORY = 10, BUCKETS = 15 };

enum { STATE_BITS = 3, FREE = 0, CLAIMED = 1, IDS_PER_GENERATION = 65536 };
static const char *const STATE_NAMES[] = {"FREE", "CLAIMED", "ACTIVE", "DRAINING"};

/* A slot that changes owners faster than it can be read is not worth waiting for. */
enum { READS_MAX = 1000 };

struct handler {
    uint32_t word;
    double matched, delivered, lost, dispatches, longest_ns, dispatch_ns_sum, queue_max, registered_at;
    double losses[LOSS_REASONS];
    double buckets[BUCKETS];
    uint32_t filter_flags;
    char name[NAME_BYTES], events[EVENTS_BYTES];
};

static void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static uint32_t u32(const char *at)
{
    return __atomic_load_n((const uint32_t *)at, __ATOMIC_ACQUIRE);
}

static double f64(const char *at)
{
    uint64_t bits = __atomic_load_n((const uint64_t *)at, __ATOMIC_ACQUIRE);
    double value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

static void text(char *to, const char *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        to[i] = *(const volatile char *)(from + i);
    to[bytes - 1] = '\0';
}

static void read_fields(const char *slot, uint32_t dispatchers, struct handler *to)
{
    text(to->name, slot + NAME, NAME_BYTES);
    text(to->events, slot + EVENTS, EVENTS_BYTES);
    to->filter_flags = u32(slot + FILTER_FLAGS);
    to->queue_max = f64(slot + QUEUE_MAX_BYTES);
    to->registered_at = f64(slot + REGISTERED_AT);
    to->delivered = f64(slot + DELIVERED);
    for (int reason = 0; reason < LOSS_REASONS; reason++)
        to->losses[reason] = f64(slot + LOSSES + 8 * reason);
    for (uint32_t d = 0; d < dispatchers; d++) {
        const char *block = slot + BLOCKS + (size_t)d * BLOCK_BYTES;
        double longest_ns = f64(block + LONGEST_DISPATCH_NS);

        to->dispatches += f64(block + DISPATCHES);
        to->matched += f64(block + MATCHED);
        to->losses[LOSS_QUEUE_FULL] += f64(block + QUEUE_FULL);
        to->losses[LOSS_MEMORY] += f64(block + MEMORY);
        to->dispatch_ns_sum += f64(block + DISPATCH_NS_SUM);
        if (longest_ns > to->longest_ns)
            to->longest_ns = longest_ns;
        for (int i = 0; i < BUCKETS; i++)
            to->buckets[i] += f64(block + DISPATCH_TIME + 8 * i);
    }
    for (int reason = 0; reason < LOSS_REASONS; reason++)
        to->lost += to->losses[reason];
}

/* One owner's fields, all of them. */
static struct handler read_slot(const char *slot, uint32_t index, uint32_t dispatchers)
{
    for (int reads = 0; reads < READS_MAX; reads++) {
        struct handler handler = {.word = u32(slot + STATE_GENERATION)};

        if ((handler.word & ((1 << STATE_BITS) - 1)) == CLAIMED)
            return handler;
        read_fields(slot, dispatchers, &handler);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (u32(slot + STATE_GENERATION) == handler.word)
            return handler;
    }
    fail("slot %u changed %d times while it was read", index, READS_MAX);
}

static void print_list(const double *values, int count)
{
    for (int i = 0; i < count; i++)
        printf("%s%.0f", i == 0 ? "" : ",", values[i]);
    putchar('\t');
}

static void print_handler(const struct handler *handler, uint32_t index)
{
    uint32_t state = handler->word & ((1 << STATE_BITS) - 1);
    uint64_t generation = handler->word >> STATE_BITS;

    if (state >= sizeof STATE_NAMES / sizeof *STATE_NAMES)
        fail("slot %u is in state %u", index, state);
    if (generation == 0)
        return;
    printf("%llu\t%s", (unsigned long long)(generation * IDS_PER_GENERATION + index), STATE_NAMES[state]);
    if (state != CLAIMED) {
        printf("\t%.0f\t%.0f\t%.0f\t%.0f\t", handler->matched, handler->delivered, handler->lost, handler->dispatches);
        printf("%.17g\t%.17g\t%.0f\t", handler->longest_ns, handler->dispatch_ns_sum, handler->queue_max);
        printf("%u\t%.17g\t", handler->filter_flags, handler->registered_at);
        print_list(handler->losses, LOSS_REASONS);
        print_list(handler->buckets, BUCKETS);
        printf("%s\t%s", handler->name, handler->events);
    }
    putchar('\n');
}

static const char *map_table(const char *path)
{
    struct stat status;
    const char *base;
    uint32_t version;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &status) < 0)
        fail("%s: cannot be read", path);
    if (status.st_size < HEADER_BYTES)
        fail("%s: %lld bytes are no table", path, (long long)status.st_size);
    base = mmap(NULL, status.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        fail("%s: cannot be mapped", path);
    if (memcmp(base + MAGIC_AT, MAGIC, strlen(MAGIC)) != 0)
        fail("%s: no table", path);
    version = u32(base + VERSION);
    if (version == 0)
        fail("%s: not complete yet", path);
    if (version != LAYOUT_VERSION)
        fail("%s: layout version %u, not %d", path, version, LAYOUT_VERSION);
    if (u32(base + SLOTS_AT) + (uint64_t)u32(base + CAPACITY) * u32(base + SLOT_STRIDE) > (uint64_t)status.st_size ||
        BLOCKS + (uint64_t)u32(base + DISPATCHERS) * BLOCK_BYTES > u32(base + SLOT_STRIDE))
        fail("%s: %lld bytes do not hold what its header says", path, (long long)status.st_size);
    return base;
}

int main(int argc, char **argv)
{
    const char *base;
    uint32_t capacity, dispatchers, steps = 0;

    if (argc != 2)
        fail("usage: reader FILE");
    base = map_table(argv[1]);
    capacity = u32(base + CAPACITY);
    dispatchers = u32(base + DISPATCHERS);
    printf("daemon %u %u %u\n", u32(base + DAEMON_PID), capacity, dispatchers);
    for (uint32_t link = u32(base + LIST_HEAD); link != 0; steps++) {
        const char *slot;
        struct handler handler;

        if (link > capacity || steps == capacity)
            fail("the list is broken: it leads to slot %u after %u steps", link - 1, steps);
        slot = base + u32(base + SLOTS_AT) + (size_t)(link - 1) * u32(base + SLOT_STRIDE);
        handler = read_slot(slot, link - 1, dispatchers);
        print_handler(&handler, link - 1);
        link = u32(slot + NEXT);
    }
    return 0;
}
