#!/usr/bin/env bash
# What an architect asks in ten commands: what would half the barrier and twice the links give, for
# which mapping, and which figure matters most then?  Needs mmfree-neuro on the PATH and a folder:
#
#     examples/architect.sh /tmp/architect
set -euo pipefail
checkpoint=$(cd "$(dirname "$0")" && pwd)/checkpoints/stdlib-5m
mkdir -p "$1"
cd "$1"

# A system of ours with what differs: half the barrier, and links between chips that are twice as fast.
cat > ours.toml <<'END'
[system]
base = "kapoho-point"
name = "half-barrier"

[chip]
barrier_few_chips_ns = { low = 500, central = 22600, high = 25600, source = "half of Loihi 2's" }
barrier_many_chips_ns = { low = 500, central = 36650, high = 39200, source = "half of Loihi 2's" }
time_per_crossing_ns = { low = 0.5, central = 4.07, high = 36.6, source = "half of Loihi 2's" }
END

mmfree-neuro convert "$checkpoint" -o model.graph
mmfree-neuro systems ours.toml
mmfree-neuro explore model.graph --system ours.toml --chips fewest,2,8 --local-roots none,o -o points.json
mmfree-neuro map model.graph --system ours.toml --chips 2 --spread --local-roots o -o model.map
mmfree-neuro simulate model.map --prompt "import os" --new-tokens 32 -o run
mmfree-neuro report run -o report.html
mmfree-neuro report run --system kapoho-point -o before.html
mmfree-neuro report run --set chip.energy_per_synop_pj=5 -o cheaper.html
mmfree-neuro sensitivity run --picture tornado.png
mmfree-neuro sensitivity run --system kapoho-point
