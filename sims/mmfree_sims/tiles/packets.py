"""What tiles say to each other: packets, and the int32 vectors that carry them.

A packet is what one stretch sent for one token, or for several tokens that it computed together:
all its outputs side by side, behind a header.  On channels of vectors of one size a packet takes as
many vectors as it needs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mmfree_sims.neurons import Int32, Sent
from mmfree_sims.tiles.plan import Plan

HEADER = 6
"""Header words: sequence, first token, flags, stretch, tokens, number of the vector within the
packet."""
END, ERROR, GENERATED, SAVE = 1, 2, 4, 8
"""Flags: end of the stream; its sender has failed; the token was generated, not part of a prompt;
keep the state that follows this token."""


@dataclass(frozen=True, eq=False)
class Packet:
    """What a stretch sent for `tokens` tokens of one sequence, by port, each [tokens, size]."""

    sequence: int
    token: int
    """The position of the first token in its sequence."""
    flags: int
    stretch: int
    tokens: int
    sent: Sent


def encode(packet: Packet, room: int) -> Iterator[Int32]:
    """A packet as vectors of at most `room` values behind the header, the last as short as it may
    be."""
    values = np.concatenate([part.reshape(-1) for part in packet.sent.values()])
    for number in range(-(-len(values) // room)):
        part = values[number * room : (number + 1) * room]
        vector = np.empty(HEADER + len(part), np.int32)
        vector[:HEADER] = (
            packet.sequence,
            packet.token,
            packet.flags,
            packet.stretch,
            packet.tokens,
            number,
        )
        vector[HEADER:] = part
        yield vector


def control(flags: int) -> Int32:
    """A packet without payload: END or ERROR."""
    return np.array([0, 0, flags, 0, 0, 0], np.int32)


class Reassembly:
    """Packets from the vectors of one sender, or of several whose stretches differ."""

    def __init__(self, plan: Plan, wanted: frozenset[int]) -> None:
        """Packets of stretches that are not `wanted` are dropped."""
        self.plan, self.wanted = plan, wanted
        self.parts: dict[int, list[Int32]] = {}

    def take(self, vector: Int32) -> Packet | None:
        """The packet that this vector completes; vectors may be longer than what they carry."""
        sequence, token, flags, number, tokens, _ = (int(word) for word in vector[:HEADER])
        if number not in self.wanted:
            return None
        stretch = self.plan.stretches[number]
        total = self.plan.words(stretch) * tokens
        parts = self.parts.setdefault(number, [])
        have = sum(len(part) for part in parts)
        parts.append(vector[HEADER : HEADER + total - have])
        if have + len(parts[-1]) < total:
            return None
        values = np.concatenate(self.parts.pop(number))
        outputs, size = self.plan.graph.node(stretch.node).outputs, tokens * stretch.size
        sent = {
            o.port: values[k * size : (k + 1) * size].reshape(tokens, -1)
            for k, o in enumerate(outputs)
        }
        return Packet(sequence, token, flags, number, tokens, sent)
