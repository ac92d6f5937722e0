"""3. Two engines run the same mapping and agree to the last bit; the counts become time and energy.

Run after 02: python examples/03_run_and_report.py [OUTPUT FOLDER]
"""

import sys
from pathlib import Path

import numpy as np

import mmfree_neuro as mm


def main(folder: Path) -> None:
    mapped = mm.load(folder / "packed.map")
    fast = mapped.run("import os\n", new_tokens=8, engine="fast")
    reference = mapped.run("import os\n", new_tokens=8, engine="reference")
    assert np.array_equal(fast.logits, reference.logits)
    assert fast.activity == reference.activity
    print(f"same bits, same counts; the text goes on {fast.text!r}")

    # Counts become time and energy: medians, and 5 to 95 % under what is not known of the chip.
    generation, tokens = fast.estimates["generate"], fast.activity["generate"].tokens
    messages, between = generation.traffic.messages, generation.traffic.between_chips
    print(f"{messages / tokens:.0f} messages a token, {between / tokens:.0f} of them between chips")
    rate, joules = generation.tokens_per_s, generation.millijoule_per_token
    print(f"generation: {rate.central:.0f} tokens/s ({rate.low:.0f} to {rate.high:.0f})")
    print(f"            {joules.central:.3g} mJ/token ({joules.low:.3g} to {joules.high:.3g})")
    alone = generation.chip_millijoule_per_token.central
    print(f"            {alone:.3g} of them in the chips; slowest: {generation.timing.resource}")

    fast.save(folder / "run")
    fast.report(folder / "report.html")
    print(f"the {fast.record.engine} run and its report are in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("examples-output"))
