#!/bin/sh
# nmid with CAP_PERFMON where the container has been given it, and without where not: nmid then says what is missing.
set -eu

if with-perfmon --inh-caps +perfmon --ambient-caps +perfmon true 2>/dev/null; then
    exec with-perfmon --inh-caps +perfmon --ambient-caps +perfmon nmid "$@"
fi
exec nmid "$@"
