"""Placers: each takes shards, their footprints and a system, and gives every shard a core."""

from mmfree_partition.place import block_per_chip, greedy

PLACERS = {"block-per-chip": block_per_chip.place, "greedy": greedy.place}
