"""A graph without its weights: what a visit to a neuron issues, with and without a token."""

import re
from dataclasses import replace

import pytest

from mmfree_neuro.errors import GraphError
from mmfree_neuro.graph import assembler
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.graph.verify import instruction_counts


def test_a_visit_by_hand(hand_graph: Graph) -> None:
    """The guard of a head reads its one port, and skips the rest where it reads zero."""
    embedding, head = summarise(hand_graph).nodes
    counted = {"ADD": 1, "LT": 1, "MIN": 1, "MUL_SHR": 2, "SEL": 1}
    assert head.instructions == counted | {"RDC": 1, "SKP_C": 1, "SPIKE": 1}
    assert (head.idle_instructions, embedding.idle_instructions) == (2, 0)


def test_a_visit_with_a_token_issues_what_is_proved_and_the_guard(graph: Graph) -> None:
    """Every instruction of a guard is a read or an OR but the last; what it reads may be read by
    the program anyway."""
    counts = instruction_counts(graph)
    for about in summarise(graph).nodes:
        more = sum(about.instructions.values()) - sum(counts[about.name].values())
        if about.kind == "Embedding":
            assert (more, about.idle_instructions) == (0, 0)
        else:
            assert 1 <= more <= about.idle_instructions


def test_steps_of_blocks_that_no_node_names(hand_graph: Graph) -> None:
    """A file may claim blocks that its nodes know nothing of."""
    assert summarise(replace(hand_graph, blocks=2)).steps_per_block == 0


def test_a_graph_that_is_not_legal_has_no_summary(hand_graph: Graph) -> None:
    head = replace(hand_graph.head, name="embedding")
    with pytest.raises(GraphError, match=r"^embedding: two nodes have this name$"):
        summarise(replace(hand_graph, nodes=(hand_graph.embedding, head)))


def test_a_program_that_no_core_has_room_for(
    hand_graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembler, "REGISTERS", 1)
    message = re.escape("embedding: its program takes 3 registers, must take at most 1")
    with pytest.raises(GraphError, match=f"^{message}$"):
        summarise(hand_graph)
