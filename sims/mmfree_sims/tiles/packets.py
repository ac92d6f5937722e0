"""What tiles say to each other: packets, and the int32 vectors that carry them.

A packet is what one stretch sent for one token, or for several tokens that it computed together:
behind a header the labels of the tokens, and then all its outputs side by side.  The tokens may be
those of several sequences.  On channels of vectors of one size a packet takes as many vectors as it
needs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mmfree_sims.neurons import Int32, Sent
from mmfree_sims.tiles.plan import Plan

HEADER = 4
"""Header words: END or ERROR, stretch, tokens, number of the vector within the packet."""
END, ERROR = 1, 2
"""End of the stream; its sender has failed."""
LABEL = 4
"""Words of the label of a token."""
SEQUENCE, POSITION, FLAGS, SLOT = range(LABEL)
"""The columns of labels: a sequence of the job, the token's position in it, flags, and the slot
that the sequence has."""
GENERATED, SAVE = 1, 2
"""Flags: the token was generated, not part of a prompt; keep the states that follow this token."""


@dataclass(frozen=True, eq=False)
class Packet:
    """What a stretch sent for some tokens, by port, each [tokens, size]."""

    labels: Int32  # [tokens, LABEL]
    stretch: int
    sent: Sent

    @property
    def tokens(self) -> int:
        """How many tokens."""
        return len(self.labels)


def encode(packet: Packet, room: int) -> Iterator[Int32]:
    """A packet as vectors of at most `room` values behind the header, the last as short as it may
    be."""
    parts = packet.labels, *packet.sent.values()
    values = np.concatenate([part.reshape(-1) for part in parts])
    for number in range(-(-len(values) // room)):
        part = values[number * room : (number + 1) * room]
        vector = np.empty(HEADER + len(part), np.int32)
        vector[:HEADER] = 0, packet.stretch, packet.tokens, number
        vector[HEADER:] = part
        yield vector


def control(flags: int) -> Int32:
    """A packet without tokens: END or ERROR."""
    return np.array([flags, 0, 0, 0], np.int32)


class Reassembly:
    """Packets from the vectors of one sender, or of several whose stretches differ."""

    def __init__(self, plan: Plan, wanted: frozenset[int]) -> None:
        """Packets of stretches that are not `wanted` are dropped."""
        self.plan, self.wanted = plan, wanted
        self.parts: dict[int, list[Int32]] = {}

    def take(self, vector: Int32) -> Packet | None:
        """The packet that this vector completes; vectors may be longer than what they carry."""
        _, number, tokens, _ = (int(word) for word in vector[:HEADER])
        if number not in self.wanted:
            return None
        stretch = self.plan.stretches[number]
        total = (LABEL + self.plan.words(stretch)) * tokens
        parts = self.parts.setdefault(number, [])
        have = sum(len(part) for part in parts)
        parts.append(vector[HEADER : HEADER + total - have])
        if have + len(parts[-1]) < total:
            return None
        labels, values = np.split(np.concatenate(self.parts.pop(number)), [LABEL * tokens])
        outputs, size = self.plan.graph.node(stretch.node).outputs, tokens * stretch.size
        sent = {
            o.port: values[k * size : (k + 1) * size].reshape(tokens, -1)
            for k, o in enumerate(outputs)
        }
        return Packet(labels.reshape(tokens, LABEL), number, sent)
