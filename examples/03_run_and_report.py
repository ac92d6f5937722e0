"""3. Two engines run the same mapping and agree to the last bit; the counts become time and energy.

Run after 02: python examples/03_run_and_report.py [OUTPUT FOLDER]
"""

import sys
from pathlib import Path

import numpy as np

from mmfree_neuro.cost import energy as cost
from mmfree_neuro.cost import load, timing
from mmfree_neuro.cost.counted import counted
from mmfree_neuro.cost.traffic import traffic
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.mapping import mapping_file
from mmfree_neuro.model import tokenizer
from mmfree_neuro.pipeline import engines, report, simulate
from mmfree_neuro.run.job import Job


def main(folder: Path) -> None:
    graph, stored = mapping_file.load_mapped(folder / "packed.map")
    job = Job(np.array([tokenizer.encode(graph.bos, graph.tokenizer, "import os\n")]), new_tokens=8)
    fast = engines.engine_named("fast")(graph, stored.mapping, job, lambda *_: None)
    reference = engines.engine_named("reference")(graph, stored.mapping, job, lambda *_: None)
    assert np.array_equal(fast.logits, reference.logits)
    assert fast.prefill == reference.prefill
    assert fast.generate == reference.generate
    print(
        "same bits, same counts; the text goes on "
        f"{tokenizer.decode(graph.tokenizer, fast.chosen[0])!r}"
    )

    # The same counts can be costed on any system, in milliseconds.
    activity = fast.generate
    counts = counted(stored.mapping, summarise(graph), activity, stored.system)
    moved = traffic(counts)
    times = timing.fall_through(load.load(counts), stored.system)
    energy = cost.energy(counts, times)
    rate, joules, alone = (
        times.tokens_per_s,
        energy.millijoule_per_token,
        energy.chip_millijoule_per_token,
    )
    messages, between = moved.messages / activity.tokens, moved.between_chips / activity.tokens
    print(f"{messages:.0f} messages a token, {between:.0f} of them between chips")
    print(f"generation: {rate.central:.0f} tokens/s ({rate.low:.0f} to {rate.high:.0f})")
    print(f"            {joules.central:.3g} mJ/token ({joules.low:.3g} to {joules.high:.3g})")
    print(f"            {alone.central:.3g} of them in the chips; slowest: {times.resource}")

    run = simulate.simulate(
        folder / "packed.map",
        "import os\n",
        lambda tokens: Job(tokens, new_tokens=8),
        "fast",
        folder / "run",
    )
    report.write_report(folder / "run", folder / "report.html")
    print(f"{run.engine} run and its report are in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("examples-output"))
