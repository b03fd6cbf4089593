#!/bin/sh
# Makes recordings like those of test/fixtures/perf-data in the folder given, with perf script's account of each.
#
#   scripts/record-fixtures.sh FOLDER
#   NMID_PERF_DATA=FOLDER node --test dist/src/pmu/perf-data/collection.test.js
#
# Needs root, perf (6.3 or later: older ones print user frames of callchains as offsets in their file), util-linux, cc
# and python3; tracefs for tracepoints. What the kernel or perf does not offer is left out, and said. Only the program
# below is recorded, but for the tracepoints: those are recorded system-wide, inside namespaces of their own.
set -eu
out=${1:?the folder to write to}
mkdir -p "$out"
out=$(cd "$out" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
perf=${PERF:-perf}

cat >"$scratch/work.c" <<'C'
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
static volatile unsigned long sink;
static void compute(long rounds) {
  for (long i = 0; i < rounds; i++) sink = sink * 6364136223846793005UL + (unsigned long)i;
}
static void *thread(void *argument) {
  (void)argument;
  compute(40000000);
  return NULL;
}
/* work THREADS FORKS MEGABYTES */
int main(int argc, char **argv) {
  int threads = argc > 1 ? atoi(argv[1]) : 1, forks = argc > 2 ? atoi(argv[2]) : 1;
  size_t bytes = (argc > 3 ? (size_t)atoi(argv[3]) : 1) << 20;
  pthread_t ids[64];
  for (int i = 0; i < forks; i++)
    if (fork() == 0) {
      compute(20000000);
      return 0;
    }
  if (threads > 64) threads = 64;
  for (int i = 0; i < threads; i++) pthread_create(&ids[i], NULL, thread, NULL);
  memset(malloc(bytes), 1, bytes);
  for (int i = 0; i < threads; i++) pthread_join(ids[i], NULL);
  while (wait(NULL) > 0) {
  }
  return 0;
}
C
cc -O1 -pthread -o "$scratch/work" "$scratch/work.c"
cd "$scratch"

# name, then perf script's fields beyond the common ones, then what to do
fixture() {
  name=$1 fields=$2
  shift 2
  if ! "$@" >"$scratch/said" 2>&1; then
    echo "record-fixtures: $name is left out: $(tail -1 "$scratch/said")" >&2
    return 0
  fi
  case $name in *dwarf* | *zstd-file*) plain=-G ;; *) plain= ;; esac
  all="comm,pid,tid,time,period,event,ip$fields"
  # shellcheck disable=SC2086
  if ! "$perf" script --ns --no-inline $plain -F "$all" -i "$name.perf.data" >"$name.script.txt" 2>"$scratch/said"; then
    echo "record-fixtures: $name is left out: perf script -F $all: $(head -1 "$scratch/said")" >&2
    return 0
  fi
  gzip -9n "$name.script.txt"
  "$perf" script -D -i "$name.perf.data" >dump 2>/dev/null || true
  python3 - "$name" "perf script --ns --no-inline $plain -F $all -i F" <<'PYTHON'
"""The record counts and attrs of one recording, by a walk over headers alone."""
import collections, json, struct, sys
name, command = sys.argv[1:]
data = open(name + ".perf.data", "rb").read()
KERNEL = "MMAP LOST COMM EXIT THROTTLE UNTHROTTLE FORK READ SAMPLE MMAP2 AUX ITRACE_START LOST_SAMPLES SWITCH SWITCH_CPU_WIDE NAMESPACES KSYMBOL BPF_EVENT CGROUP TEXT_POKE AUX_OUTPUT_HW_ID".split()
USER = "ATTR EVENT_TYPE TRACING_DATA BUILD_ID FINISHED_ROUND ID_INDEX AUXTRACE_INFO AUXTRACE AUXTRACE_ERROR THREAD_MAP CPU_MAP STAT_CONFIG STAT STAT_ROUND EVENT_UPDATE TIME_CONV FEATURE COMPRESSED FINISHED_INIT COMPRESSED2".split()
NAMES = {**{i + 1: n for i, n in enumerate(KERNEL)}, **{i + 64: n for i, n in enumerate(USER)}}
FEATURES = "TRACING_DATA BUILD_ID HOSTNAME OSRELEASE VERSION ARCH NRCPUS CPUDESC CPUID TOTAL_MEM CMDLINE EVENT_DESC CPU_TOPOLOGY NUMA_TOPOLOGY BRANCH_STACK PMU_MAPPINGS GROUP_DESC AUXTRACE STAT CACHE SAMPLE_TIME MEM_TOPOLOGY CLOCKID DIR_FORMAT BPF_PROG_INFO BPF_BTF COMPRESSED CPU_PMU_CAPS CLOCK_DATA HYBRID_TOPOLOGY PMU_CAPS".split()
u64 = lambda at: struct.unpack_from("<Q", data, at)[0]
u32 = lambda at: struct.unpack_from("<I", data, at)[0]
pipe = u64(8) == 16
attrs, features, counts = [], set(), collections.Counter()

def attr(at, size):
    attrs.append({"type": u32(at), "size": size, "config": hex(u64(at + 8)), "period": u64(at + 16),
                  "sample_type_raw": hex(u64(at + 24)), "read_format": hex(u64(at + 32)),
                  "flags": hex(u64(at + 40)), "branch_sample_type": hex(u64(at + 72) if size >= 80 else 0)})

at, end = (16, len(data)) if pipe else (u64(40), u64(40) + u64(48))
if not pipe:
    for i in range(u64(32) // u64(16)):
        attr(u64(24) + i * u64(16), u64(16) - 16)
    features = {n for i, n in enumerate(FEATURES) if data[72 + (i + 1) // 8] >> ((i + 1) % 8) & 1}
compressed = False
while at + 8 <= end:
    kind, size = u32(at), struct.unpack_from("<H", data, at + 6)[0]
    counts[NAMES[kind]] += 1
    if kind == 64:
        attr(at + 8, u32(at + 12))
    elif kind == 80:
        features |= set(FEATURES[u64(at + 8) - 1 : u64(at + 8)])  # the last one only says that there are no more
    compressed |= kind in (81, 83)
    at += size + (u64(at + 8) if kind == 71 else u32(at + 8) if kind == 66 else 0)
    features |= {"TRACING_DATA"} if kind == 66 else set()
if compressed:
    # What is inside is counted as perf dumps it.
    for line in open("dump", errors="replace"):
        if ": PERF_RECORD_" in line:
            counts["dumped " + line.split(": PERF_RECORD_")[1].split()[0].split("(")[0].rstrip(":")] += 1
    for n in KERNEL:
        counts[n] = counts.pop("dumped " + n, 0)
    for n in [n for n in counts if n.startswith("dumped ") or counts[n] == 0]:
        del counts[n]
json.dump({"mode": "pipe" if pipe else "file", "golden_cmd": command, "features": sorted(features), "attrs": attrs,
           "walker_counts": dict(sorted(counts.items())), "samples_by_event": {}}, open(name + ".records.json", "w"), indent=1)
PYTHON
  mv "$name.perf.data" "$name.records.json" "$name.script.txt.gz" "$out/"
}

record() {
  name=$1
  shift
  env -i PATH=/usr/bin:/bin LC_ALL=C HOME=/ unshare --uts --pid --fork --mount-proc sh -c \
    'hostname fixture; exec "$@"' sh "$perf" record -q -o "$name.perf.data" "$@"
}
piped() {
  name=$1
  shift
  "$perf" record -o - "$@" >"$name.perf.data"
}

fixture cpuclock-g-pipe "" piped cpuclock-g-pipe -e cpu-clock -F 499 -g -- ./work 2 2 4
fixture zstd2-pipe "" piped zstd2-pipe -z -e cpu-clock -F 999 -g -- ./work 2 2 4
fixture zstd-file-big ",addr,data_src,uregs" record zstd-file-big -z -m 16 -e cpu-clock -F 9999 --call-graph dwarf,1024 -d -- ./work 4 1 2
fixture pf-addr-phys ",addr,weight,data_src,phys_addr,data_page_size,code_page_size" \
  record pf-addr-phys -e page-faults -c 1 -d --phys-data --data-page-size --code-page-size -W -- ./work 2 1 1
fixture tp-sched-sys ",cpu" record tp-sched-sys -e sched:sched_switch -e sched:sched_wakeup -e sched:sched_process_exit -a -- ./work 2 2 1
fixture group-read "" record group-read -e '{cpu-clock,page-faults,context-switches}:S' -F 499 -- ./work 2 2 4
fixture intr-regs ",iregs" record intr-regs -e cpu-clock -F 499 --intr-regs=ax,bx,cx,ip,sp,flags -- ./work 2 1 1
fixture cgroup-all ",cgroup" record cgroup-all --all-cgroups -e cpu-clock -F 499 -- ./work 2 2 4
fixture switch-ns "" record switch-ns --switch-events --namespaces -e cpu-clock -F 499 -- unshare --mount ./work 2 2 1
fixture stat-read "" record stat-read -s -e cpu-clock,page-faults -F 499 -- ./work 2 2 1
ls -l "$out"
