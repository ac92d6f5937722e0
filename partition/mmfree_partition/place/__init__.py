"""Placers: each takes a graph, a system and a request, and gives shards and a core for every
one."""

from mmfree_partition.place import anneal, balanced, best_cuts, block_per_chip, greedy, mtkahypar

PLACERS = {
    "block-per-chip": block_per_chip.place,
    "greedy": greedy.place,
    "balanced": balanced.place,
    "chain": best_cuts.place,
    "anneal": anneal.place,
    "mtkahypar": mtkahypar.place,
}
