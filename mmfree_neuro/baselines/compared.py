"""What a run is compared with, as the report holds it: plain data with known keys."""

from typing import TypedDict


class Range(TypedDict):
    """A figure with its range; None at an end without bound."""

    low: float | None
    central: float | None
    high: float | None


class Figures(TypedDict):
    """A figure with its range."""

    low: float
    central: float
    high: float


class Theirs(TypedDict):
    """A row of another machine; the fields of `Baseline`, and what it stands out as."""

    name: str
    model: str
    same_architecture: bool
    implementation: str
    precision: str
    device: str
    device_kind: str
    mode: str
    batch: int
    sequence_length: int
    tokens_per_s: float
    millijoule_per_token: float | None
    """None where it was not measured."""
    power: str
    source: str
    stands_out_as: list[str]


class Estimated(TypedDict):
    """What is compared of a phase."""

    tokens_per_s: Figures
    millijoule_per_token: Figures


class Ours(TypedDict):
    """The estimate of a run in one mode."""

    name: str
    tokens_per_s: Figures
    millijoule_per_token: Figures


class Ratio(TypedDict):
    """A run beside a row of its own model size."""

    ours: Ours
    theirs: Theirs
    throughput_ours_over_theirs: Range
    energy_theirs_over_ours: Range | None
    """None where theirs was not measured."""


class Roofline(TypedDict):
    """The most that a GPU could do with the model of a run."""

    kind: str
    device: str
    device_kind: str
    mode: str
    batch: int
    sequence_length: int
    bytes_per_token: float
    operations_per_token: float
    bound_by: str
    most_tokens_per_s: float
    millijoule_per_token_at_idle_power: float | None
    millijoule_per_token_at_board_power: float
    sources: dict[str, str]


class Compared(TypedDict):
    """Ratios with rows of the same model size, other rows as context, sentences that say which."""

    model: str | None
    sentences: list[str]
    ratios: list[Ratio]
    context: list[Theirs]


class Comparison(Compared):
    """The same with rooflines."""

    estimated: list[Roofline]
