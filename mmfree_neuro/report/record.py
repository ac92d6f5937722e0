"""The content of a report: plain data with known keys, which is the JSON report."""

from typing import TypedDict

from mmfree_neuro.baselines.compared import Comparison, Figures


class Header(TypedDict):
    """What ran where."""

    model: str
    scheme: str
    system: str
    chip: str
    description: str
    placer: str
    options: list[str]
    set: list[str]
    """Figures of the system that a user has set, as `--set` takes them."""
    """Of `mmfree-neuro map`; none where a mapping does not have them."""
    root_before: bool
    """Whether the roots of norms stand before products."""
    engine: str
    date: str
    graph: str
    """The SHA-256 of the graph."""
    versions: dict[str, str]


class Text(TypedDict):
    """A prompt and what followed it."""

    prompt: str
    text: str
    prompt_tokens: int
    new_tokens: int
    asked: int
    ended: str
    sampling: dict[str, float]


class Texts(TypedDict):
    """The prompts of a run and what followed them."""

    in_flight: int
    results: list[Text]


class Use(TypedDict):
    """What cores in use take of one limit, and the limit."""

    max: float
    mean: float
    limit: float | None
    """None where the chip's file leaves it open."""


class CoreInUse(TypedDict):
    """A core: the kind and the block that most of it belongs to, and what it has of everything that
    is limited."""

    chip: int
    core: int
    kind: str
    block: int | None
    blocks: list[int]
    """Those of which anything lies on it."""
    holds: list[str]
    """Its shards: a node, and from which neuron to which."""
    use: dict[str, int]


class MappingContent(TypedDict):
    """A mapping in figures, and every core in use."""

    chips: int
    chips_of_system: int
    chip_columns: int
    """Chips of a row of the board."""
    cores: int
    cores_per_chip: int
    mesh_columns: int
    """Of routers."""
    cores_per_router: int
    shards: int
    head_on_host: bool
    sums_divided: int
    local_roots: list[str]
    in_flight: int
    greedy_on_chips: bool
    copied_neurons: int
    steps_per_token: int
    blocks: int
    ternary_synapses: int
    nonzero_synapses: int
    use: dict[str, Use]
    content: list[CoreInUse]


class Times(TypedDict):
    """The estimated times of a phase in one mode; the fields of `Timing`."""

    mode: str
    tokens_per_s: Figures
    seconds_per_token: Figures
    latency_seconds: Figures
    step_seconds: Figures
    steps_per_token: int
    slowest: str
    """Which core or link, in words."""
    resource: str
    barrier_share: float
    in_flight: int
    steps_apart: float


class EnergyPart(TypedDict):
    """One contribution to the energy of a token."""

    name: str
    operations_per_token: float
    each: Figures
    unit: str
    """Of what one operation takes: pJ, or W."""
    millijoule_per_token: Figures
    source: str


class OfCore(TypedDict):
    """What a core takes."""

    chip: int
    core: int
    millijoule_per_token: float


class OfLink(TypedDict):
    """What a link between chips takes; the host is chip -1."""

    source: int
    destination: int
    millijoule_per_token: float


class DynamicContent(TypedDict):
    """Millijoules a token of what is counted, idle visits left out, by what they belong to."""

    kinds: dict[str, float]
    blocks: dict[str, float]
    chips: dict[str, float]
    cores: list[OfCore]
    links: list[OfLink]


class StepsContent(TypedDict):
    """Steps of a token at which the same kinds of nodes fire."""

    kinds: list[str]
    steps: int
    seconds: float
    busy_seconds: float
    resource: str
    slowest: str


class EachStep(TypedDict):
    """A step of a token that falls through alone."""

    block: int | None
    kinds: list[str]
    seconds: float
    busy_seconds: float
    resource: str
    slowest: str


class Counts(TypedDict):
    """What was counted in a phase."""

    tokens: int
    traffic_per_token: dict[str, float]
    synops_per_token: float
    reads_per_token: float
    words_per_token: float
    instructions_per_token: dict[str, float]
    saturations: int
    wrapped: int


class CornersContent(TypedDict):
    """An estimate with every figure of the system at one end of its range, or with all central."""

    tokens_per_s: Figures
    chip_millijoule_per_token: Figures
    millijoule_per_token: Figures


class FactorContent(TypedDict):
    """What the energy of all that is counted is multiplied by."""

    why: str
    factor: Figures
    source: str


class SwingContent(TypedDict):
    """What one figure of the system, all others central, makes of a phase at its ends."""

    figure: str
    low: float
    high: float
    tokens_per_s: list[float]
    """At the low and at the high end."""
    millijoule_per_token: list[float]
    share_of_rate: float
    """Of the variance of tokens a second over all draws, by ranks."""
    share_of_energy: float


class Phase(Counts, Times):
    """A phase: its counts, and what they would take on the chips."""

    without_barrier: Times
    chip_millijoule_per_token: Figures
    millijoule_per_token: Figures
    watts: Figures
    """What the system draws."""
    corners: CornersContent
    parts: list[EnergyPart]
    factors: list[FactorContent]
    dynamic: DynamicContent
    sensitivity: list[SwingContent]
    """Figures that matter, that which changes most first."""
    each_step: list[EachStep]
    """Where a token falls through alone: its steps."""
    by_step: list[StepsContent]
    """Where a token falls through alone: the steps by what fires at them."""


class InFlight(TypedDict):
    """Generation with so many sequences under way."""

    in_flight: int
    tokens_per_s: Figures
    latency_seconds: Figures
    chip_millijoule_per_token: Figures
    millijoule_per_token: Figures
    resource: str
    state_bytes: int


class Link(TypedDict):
    """Messages from one chip to another; the host is chip -1."""

    source: int
    destination: int
    messages_per_token: float


class Sourced(Figures):
    """A figure of the system or its chip, with its source."""

    of: str
    name: str
    unit: str
    source: str
    drawn: Figures | None
    """As it is drawn together with the others; None where no cost reads it."""
    left: float | None
    """The share of its range that published rows leave; None where none are fitted to it."""


class Mapped(TypedDict):
    """What a picture of cores is drawn from."""

    mapping: MappingContent


class Content(Mapped):
    """The whole report."""

    format: str
    warnings: list[str]
    """What makes the result weaker than it looks."""
    header: Header
    run: Texts
    quality: dict[str, float | None]
    phases: dict[str, Phase | None]
    in_flight: list[InFlight]
    """Generation with more and more sequences under way."""
    links: list[Link]
    simulator_seconds: dict[str, float]
    sources: list[Sourced]
    comparison: Comparison
