#!/bin/sh
# Makes recordings/demo.perf.data: five seconds of small standard programs on two CPUs, with callchains.
#
# Needs root, perf and util-linux. Only the programs started here are recorded (no -a), in namespaces of their own and
# under the host name "demo", so that nothing of the machine gets into a file that ships: the last step looks.
set -eu
cd "$(dirname "$0")/.."
out=$(pwd)/recordings/demo.perf.data
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cat >"$scratch/workload" <<'WORKLOAD'
pack() { seq 1500000 | gzip -6 | gzip -dc | sha256sum; }
order() { seq 400000 | sort -R | sort -n | tail -1; }
compute() { python3 -S -c 'print(sum(i * i % 7 for i in range(5000000)))'; }
end=$(($(date +%s) + 5))
(while [ "$(date +%s)" -lt "$end" ]; do pack; compute; done) &
(while [ "$(date +%s)" -lt "$end" ]; do order; pack; done) &
wait
WORKLOAD

cat >"$scratch/record" <<'RECORD'
hostname demo
perf record -q -k CLOCK_MONOTONIC -e cpu-clock -F 99 -g -T -P --sample-cpu --sample-identifier --no-buildid \
  -o demo.perf.data -- sh workload >/dev/null
RECORD

cd "$scratch"
env -i PATH=/usr/bin:/bin LC_ALL=C HOME=/ unshare --uts --pid --fork --mount-proc sh record
perf report -i demo.perf.data --stdio --header-only >/dev/null
if strings -n 4 demo.perf.data | grep -iE "$(hostname)|$scratch|/home/|/root|/tmp/|/work" | grep -vx demo; then
  echo "record-demo: the recording names something of this machine (above)" >&2
  exit 1
fi
install -m 644 demo.perf.data "$out"
ls -l "$out"
