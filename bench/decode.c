/*
 * From ring to encoded columns, as src/pmu/record.ts and src/daemon/dispatch/encode.ts do it, in C: index the records of
 * one batch, then write the columns of nmi.v1.SampleBatch. The same passes over the same bytes, with the same checks.
 *
 * Usage: decode RING ID: a file with a ring's data area (a power of two) that starts with whole records, and the id that
 * its samples carry. For each line "decode N BATCHES HEAD" it indexes and encodes HEAD bytes of the ring BATCHES times and
 * prints "decoded N NS SAMPLES CHECKSUM": nanoseconds and samples of all batches, and a sum over the last batch's words.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

enum {
    RECORD_THROTTLE = 5,
    RECORD_UNTHROTTLE = 6,
    RECORD_SAMPLE = 9,
    MISC_CPUMODE_MASK = 7,
    BATCH_SAMPLES_MAX = 1024,
    BATCH_BYTES_MAX = 64 * 1024,
    /* 16 KiB less a segment's header and six columns' */
    SAMPLES_PER_CHUNK = (16 * 1024 - 64 - 6 * 4) / 36,
};

/* Word offsets from a sample's header: IDENTIFIER, IP, TID, TIME, CPU, PERIOD. */
enum { ID = 2, IP = 4, PID = 6, TIME = 8, CPU = 10, PERIOD = 12, BYTES_MIN = 56 };

static struct {
    uint8_t event[BATCH_SAMPLES_MAX], cpumode[BATCH_SAMPLES_MAX], claimed[BATCH_SAMPLES_MAX];
    uint32_t at[BATCH_SAMPLES_MAX], pid[BATCH_SAMPLES_MAX];
    double time[BATCH_SAMPLES_MAX], period[BATCH_SAMPLES_MAX];
    uint32_t count;
    uint64_t corrupt, others;
} batch;

static uint32_t out[64 * 1024 / 4];

static __attribute__((noinline)) void scan(const uint32_t *words, uint32_t mask, uint32_t head, uint64_t id)
{
    uint32_t limit = head < BATCH_BYTES_MAX ? head : BATCH_BYTES_MAX;
    uint32_t word = 0, size, count = 0;

    for (uint32_t taken = 0; taken < limit && count < BATCH_SAMPLES_MAX;
         taken += size, word = (word + size / 4) & mask) {
        uint32_t type = words[word], misc = words[(word + 1) & mask];

        size = misc >> 16;
        if (size < 8 || (size & 7) != 0 || taken + size > head) {
            batch.corrupt += head - taken;
            break;
        }
        if (type != RECORD_SAMPLE) {
            batch.others++;
            continue;
        }
        if (words[(word + ID) & mask] != (uint32_t)id || words[(word + ID + 1) & mask] != id >> 32) {
            batch.others++;
            continue;
        }
        if (size < BYTES_MIN) {
            batch.corrupt += size;
            continue;
        }
        batch.at[count] = word;
        batch.cpumode[count] = misc & MISC_CPUMODE_MASK;
        batch.pid[count] = words[(word + PID) & mask];
        batch.time[count] = words[(word + TIME) & mask] + words[(word + TIME + 1) & mask] * 4294967296.0;
        batch.period[count] = words[(word + PERIOD) & mask] + words[(word + PERIOD + 1) & mask] * 4294967296.0;
        batch.event[count] = 0;
        batch.claimed[count] = 0;
        count++;
    }
    batch.count = count;
}

static uint32_t header(uint32_t field, uint32_t bytes)
{
    return field << 3 | 2 | (bytes & 0x7f) << 8 | 0x8000 | (bytes >> 7 & 0x7f) << 16 | 0x800000 | bytes >> 14 << 24;
}

static __attribute__((noinline)) uint32_t *encode(uint32_t *to, const uint32_t *words, uint32_t mask, uint32_t first,
                                                  uint32_t n)
{
    uint32_t *time = to + 1, *ip = time + 2 * n + 1, *pid = ip + 2 * n + 1, *tid = pid + n + 1, *cpu = tid + n + 1,
             *period = cpu + n + 1;

    time[-1] = header(3, n * 8);
    ip[-1] = header(4, n * 8);
    pid[-1] = header(5, n * 4);
    tid[-1] = header(6, n * 4);
    cpu[-1] = header(7, n * 4);
    period[-1] = header(8, n * 8);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t record = batch.at[first + i];
        uint64_t weight = (uint64_t)batch.period[first + i];

        time[2 * i] = words[(record + TIME) & mask];
        time[2 * i + 1] = words[(record + TIME + 1) & mask];
        ip[2 * i] = words[(record + IP) & mask];
        ip[2 * i + 1] = words[(record + IP + 1) & mask];
        pid[i] = words[(record + PID) & mask];
        tid[i] = words[(record + PID + 1) & mask];
        cpu[i] = words[(record + CPU) & mask];
        period[2 * i] = (uint32_t)weight;
        period[2 * i + 1] = (uint32_t)(weight >> 32);
    }
    return period + 2 * n;
}

static int64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int main(int argc, char **argv)
{
    struct stat status;
    unsigned number, batches, head;
    int fd = argc == 3 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1;

    if (fd < 0 || fstat(fd, &status) < 0) {
        perror("decode RING ID");
        return 1;
    }
    const uint32_t *words = mmap(NULL, status.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (words == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    uint64_t id = strtoull(argv[2], NULL, 10);
    uint32_t mask = (uint32_t)(status.st_size / 4 - 1);

    while (scanf(" decode %u %u %u", &number, &batches, &head) == 3) {
        uint64_t samples = 0, checksum = 0;
        uint32_t *end = out;
        int64_t start = now_ns();

        for (unsigned i = 0; i < batches; i++) {
            scan(words, mask, head, id);
            end = out;
            for (uint32_t from = 0; from < batch.count; from += SAMPLES_PER_CHUNK) {
                uint32_t left = batch.count - from;

                end = encode(end, words, mask, from, left < SAMPLES_PER_CHUNK ? left : SAMPLES_PER_CHUNK);
            }
            samples += batch.count;
        }
        int64_t ns = now_ns() - start;
        for (const uint32_t *word = out; word < end; word++)
            checksum += *word;
        printf("decoded %u %lld %llu %llu\n", number, (long long)ns, (unsigned long long)samples,
               (unsigned long long)checksum);
        fflush(stdout);
    }
    return 0;
}
