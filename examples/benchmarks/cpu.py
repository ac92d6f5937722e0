"""What this machine's processor does with a model in integers: the `fast` engine with its counts.

    python examples/benchmarks/cpu.py [370m|1.3b|2.7b]

One sequence and 32 in generation, and a prompt; weights are random, as speed does not depend on
them.  Sequences that go together must first give the logits that they give alone.  Energy is that
of all processor packages by their own counters (RAPL, /sys/class/powercap), less nothing; a machine
that does not let these be read gets rows without energy.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rows import write

from mmfree_neuro.graph.slots import with_slots
from mmfree_neuro.lowering.scheme import DEFAULT
from mmfree_neuro.pipeline.quality import in_one_place
from mmfree_neuro.run.job import Job, Result
from mmfree_neuro.testing import published_graph
from mmfree_sims import fast

SEQUENCES, PROMPT, GENERATED, ROUNDS = 32, 512, 48, 3
COUNTERS = Path("/sys/class/powercap")


def microjoules() -> dict[str, tuple[int, int]] | None:
    """The counter of every processor package and where it begins again; None where they cannot be
    read."""
    found = {}
    try:
        for folder in COUNTERS.glob("intel-rapl:*"):
            if folder.name.count(":") == 1 and "package" in (folder / "name").read_text():
                energy, most = (
                    int((folder / name).read_text())
                    for name in ("energy_uj", "max_energy_range_uj")
                )
                found[folder.name] = energy, most
    except OSError:
        return None
    return found or None


def measured(run: Callable[[], Result], phase: str) -> tuple[float, float | None]:
    """Tokens a second and millijoules a token of a phase: the fastest of several runs."""
    best: tuple[float, float | None] = (0.0, None)
    for _ in range(ROUNDS):
        before, begin = microjoules(), time.monotonic()
        result = run()
        whole, after = time.monotonic() - begin, microjoules()
        tokens, seconds = getattr(result, phase).tokens, result.seconds[phase]
        energy = None
        if before is not None and after is not None:
            used = sum((after[k][0] - e) % most for k, (e, most) in before.items())
            energy = used * 1e-3 / whole * seconds / tokens  # evenly over the run
        if tokens / seconds > best[0]:
            best = tokens / seconds, energy
    return best


def main(model: str) -> None:
    graph = with_slots(published_graph(model, scheme=DEFAULT, seed=1), SEQUENCES)
    mapping, rng = in_one_place(graph), np.random.default_rng(1)
    prompts = [rng.integers(0, graph.vocabulary, 4) for _ in range(SEQUENCES)]
    few = [fast.run(graph, mapping, Job(prompts[:3], 4, in_flight=count)) for count in (3, 1)]
    together, alone = (one.outcomes for one in few)
    if not all(np.array_equal(a.logits, b.logits) for a, b in zip(together, alone, strict=True)):
        raise SystemExit("sequences that go together gave other logits: no row is written")
    long = rng.integers(0, graph.vocabulary, PROMPT)
    rows: list[dict[str, object]] = []
    for what, phase, batch, job in (
        ("generation", "generate", 1, Job(prompts[:1], GENERATED, keep_logits=False)),
        (
            "generation",
            "generate",
            SEQUENCES,
            Job(prompts, GENERATED, keep_logits=False, in_flight=SEQUENCES),
        ),
        (f"prefill of {PROMPT} tokens", "prefill", 1, Job([long], 1, keep_logits=False)),
    ):
        rate, energy = measured(lambda job=job: fast.run(graph, mapping, job), phase)
        rows.append(
            {
                "what": f"{model}, fast, {what}, {batch} in flight",
                "value": round(rate, 1),
                "unit": "tokens/s",
                "millijoule_per_token": "not measured" if energy is None else round(energy, 2),
                "scheme": DEFAULT,
            }
        )
    write(f"cpu_{model}", rows)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "370m")
