#!/usr/bin/env bash
# On a machine with a GPU: the tests that need one, then a moment of every hot loop, in three minutes at most.
#
#   tools/gpu_check.sh
#   OUT=out/h100 PYTHON=.venv/bin/python tools/gpu_check.sh --only teacher,student
#
# It asks no network and needs no installation of ddhub: torch, numpy, pyarrow, safetensors, click, tqdm, Pillow,
# pyyaml, filelock, huggingface_hub, and pytest with pytest-xdist. What it says lies in OUT (out/gpu-check): tests.txt,
# tests.xml, hot_loops.txt and hot_loops.json. Options are those of benchmarks/hot_loops.py. It fails if a test or a
# loop does; where there is no GPU, tests are skipped and loops are small.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
out=${OUT:-out/gpu-check} python=${PYTHON:-python3} failed=0
mkdir -p "$out"
export PYTHONPATH=. PYTHONUNBUFFERED=1

# Files without the mark are not imported: some need libraries that may be absent.
mapfile -t files < <(grep -rl --include='test_*.py' 'mark\.cuda' tests)
timeout --signal INT --kill-after 10 90 "$python" -m pytest -o addopts= -p no:cacheprovider --strict-markers -W default \
    -n "${WORKERS:-8}" --dist worksteal -m cuda -q -rfE --junitxml "$out/tests.xml" "${files[@]}" 2>&1 \
    | tee "$out/tests.txt" || failed=1
timeout --kill-after 5 75 "$python" benchmarks/hot_loops.py --budget 55 --out "$out" "$@" || failed=1
exit $failed
