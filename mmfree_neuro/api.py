"""The door for Python: `import mmfree_neuro as mm`.

    model = mm.load("examples/checkpoints/stdlib-5m")        a checkpoint folder
    graph = model.convert("a14", calibrate="stdlib")         integers, and what they cost in quality
    mapped = graph.map("kapoho-point", chips=8)              cores, chips and routes, checked
    run = mapped.run("import os", new_tokens=64)             text, logits, counts and estimates
    run.report("report.html")

No step needs a file, and every step takes and gives the files of the command line: `load` opens a
graph, a mapping or a run as well, and each of them has `save`.  Whatever the user can put right is
an `MMFreeError`, whose text says who, what it is and what it must be.
"""

import html
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from mmfree_neuro.cost.counted import counted
from mmfree_neuro.cost.estimate import Estimate, estimate
from mmfree_neuro.errors import InputError
from mmfree_neuro.graph import graph_file, nodes
from mmfree_neuro.graph.nodes import AnyNode
from mmfree_neuro.graph.summary import summarise
from mmfree_neuro.lowering.scheme import DEFAULT, Scheme, scheme_named
from mmfree_neuro.mapping import as_networkx, mapping, mapping_file
from mmfree_neuro.mapping.footprint import use_of_cores
from mmfree_neuro.mapping.mapping_file import StoredMapping
from mmfree_neuro.mapping.request import InFlight, Request, kinds_of
from mmfree_neuro.model import checkpoint as checkpoints
from mmfree_neuro.model import hub
from mmfree_neuro.model.checkpoint import Checkpoint
from mmfree_neuro.model.tokenizer import speller
from mmfree_neuro.pipeline import convert, families, logits, map, opened, report, simulate
from mmfree_neuro.pipeline.arguments import checked
from mmfree_neuro.pipeline.engines import engine_named
from mmfree_neuro.pipeline.placed import placed
from mmfree_neuro.pipeline.recost import recosted
from mmfree_neuro.pipeline.report import TRACE
from mmfree_neuro.pipeline.simulate import Task
from mmfree_neuro.pipeline.text import Source, spelling_of
from mmfree_neuro.report import content, terminal
from mmfree_neuro.report.record import Mapped as Drawn
from mmfree_neuro.run import run_file
from mmfree_neuro.run.activity import Activity
from mmfree_neuro.run.folder import holds_run, run_folder
from mmfree_neuro.run.job import Result
from mmfree_neuro.run.losses import quality_warnings
from mmfree_neuro.run.run_file import RunRecord
from mmfree_neuro.run.sampling import Sampling
from mmfree_neuro.systems.figures import Setting, with_figures
from mmfree_neuro.systems.load import load_system
from mmfree_neuro.systems.spec import SystemSpec

if TYPE_CHECKING:
    import networkx
    from matplotlib.figure import Figure

Tokens = NDArray[np.integer[Any]]


@checked
def load(path: str | Path) -> Any:
    """Whatever a path holds: a `Model` of a checkpoint folder (or by its name, as
    ridger/MMfreeLM-370M, where it lies in the local cache of a hub), a `Graph` of a graph file, a
    `Mapped` of a mapping file (`.map`), or a `Run` of the folder of one.

    Raises an MMFreeError where it is none of these, or damaged.
    """
    where = hub.located(Path(path))
    if holds_run(where):
        return Run(run_file.load_run(where), None)
    if where.is_dir():
        checkpoint, tokenizer = families.read_checkpoint(where), checkpoints.read_tokenizer(where)
        return Model(hub.name_of(where), checkpoint, tokenizer)
    if opened.is_mapping(where):
        divided, stored = opened.open_mapped(where)
        whole = Graph(opened.open_graph(stored.graph_path)[0], stored.graph_path)
        return Mapped(whole, divided, stored.mapping, stored.system, stored.cores)
    return Graph(opened.open_graph(where)[0], where)


def _system(system: str | Path | SystemSpec) -> SystemSpec:
    return system if isinstance(system, SystemSpec) else load_system(str(system))


def _table(rows: dict[str, object]) -> str:
    cells = (
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>"
        for name, value in rows.items()
    )
    return f"<table>{''.join(cells)}</table>"


def _pre(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A trained checkpoint, whose tensors stay in their files until they are asked for."""

    name: str
    checkpoint: Checkpoint[Any]
    tokenizer: str | None
    """The content of `tokenizer.json`, where there is one."""

    @property
    def config(self) -> Any:
        """The configuration, a record with the names of `config.json`."""
        return self.checkpoint.config

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was not understood in the checkpoint's files, a sentence each."""
        return self.checkpoint.warnings

    @checked
    def convert(
        self,
        scheme: str | Scheme = DEFAULT,
        calibrate: Source = "stdlib",
        *,
        root: str = "after",
        as_bytes: bool = False,
    ) -> "Graph":
        """The model in integers, calibrated, proved and measured against the float model.

        The `root` of a norm comes "before" or "after" the product behind it, where the scheme is
        given by its name.

        `calibrate` is `stdlib`, or a path of a text file, a folder of Python sources or an `.npy`
        file; a text, which has more than one line, or several of any length; or token ids, int
        [rows, time] or [time].  `as_bytes` has text read as bytes, whatever tokenizer and
        vocabulary the model has.  Needs torch.  Raises InputError, CheckpointError or RangeError.
        """
        source: Source = calibrate
        if isinstance(source, str) and "\n" in source:
            source = [source]
        chosen = scheme if isinstance(scheme, Scheme) else scheme_named(scheme, root)
        made = convert.to_graph(
            self.checkpoint, self.tokenizer, chosen, source, self.name, as_bytes=as_bytes
        )
        return Graph(made.graph, told=made.warnings)

    def logits(self, tokens: Tokens) -> NDArray[np.float64]:
        """The float model's logits [rows, time, vocabulary], natural units; needs torch.

        Tokens are integers [rows, time] or [time], each row from a zero state.  Raises InputError
        where they are not, or are outside the vocabulary, and RangeError where the model overflows.
        """
        try:
            rows = np.atleast_2d(tokens)
        except ValueError:
            raise InputError("the tokens have rows of several lengths, must have one") from None
        return logits.float_logits(self.checkpoint, rows)

    def __repr__(self) -> str:
        return f"<Model {self.name}: {self.config.model_type}, {self._parameters:,} parameters>"

    @property
    def _parameters(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.config.shapes().values())

    def _repr_html_(self) -> str:
        return _table(
            {"model": self.name, "parameters": f"{self._parameters:,}"} | asdict(self.config)
        )


@dataclass(frozen=True, eq=False, repr=False)
class Graph:
    """A whole model as integer operations: what every engine computes, bit for bit."""

    graph: nodes.Graph
    path: Path | None = None
    """The file that it came from, where there is one."""
    told: tuple[str, ...] | None = None
    """What conversion had to say, where it was here that the graph was converted."""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.graph.name

    @property
    def scheme(self) -> str:
        """How it was made of integers."""
        return self.graph.scheme

    @property
    def quality(self) -> dict[str, float]:
        """What the integers lost: nats per token of both models, ratio of perplexities, greedy
        agreement from 0 to 1, and on how many tokens."""
        return dict(self.graph.quality)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know of the graph, a sentence each, such as how little of the float
        model is left."""
        return quality_warnings(self.graph.quality) if self.told is None else self.told

    @property
    def nodes(self) -> tuple[AnyNode, ...]:
        """The nodes in topological order; each one's class says in its docstring what it is."""
        return self.graph.nodes

    @checked
    def map(
        self,
        system: str | Path | SystemSpec = "kapoho-point",
        *,
        chips: int | None = None,
        placer: str = "chain",
        cores: int | None = None,
        spread: bool = False,
        head_on_host: bool = False,
        weight_bits: int | None = None,
        divide: bool = True,
        refine: bool = False,
        seed: int = 0,
        local_roots: str | Collection[str] = (),
        in_flight: InFlight = 1,
        greedy_on_chips: bool = False,
        figures: Mapping[str, Setting] = MappingProxyType({}),
    ) -> "Mapped":
        """The graph on the cores of a system: a name, a TOML file of your own, or a record.

        The options are those of `mmfree-neuro map`, `local_roots` such as "o+mlp" or ["o", "mlp"];
        `in_flight` sequences can then be under way at once, with "fill" as many as fill the
        machine.  With `greedy_on_chips` the chips choose the words, and no logits come to the host.
        `figures` are set as in `Run.costed`.  Raises CapacityError where the graph does not fit,
        and InputError or HardwareError where an option or the system cannot be.
        """
        request = Request(
            placer,
            chips,
            cores,
            spread,
            head_on_host,
            weight_bits,
            divide,
            refine,
            seed,
            local_roots=kinds_of(local_roots),
            in_flight=in_flight,
            greedy_on_chips=greedy_on_chips,
        )
        spec = map.with_weight_bits(with_figures(_system(system), figures), weight_bits)
        digest = graph_file.digest_of(self.graph)
        divided, placed = map.place(self.graph, digest, spec, request)
        return Mapped(self, divided, placed, spec, cores)

    @checked
    def save(self, path: str | Path) -> Path:
        """Write a graph file, as `mmfree-neuro convert` does."""
        graph_file.save_graph(self.graph, Path(path))
        return Path(path)

    def to_networkx(self) -> "networkx.MultiDiGraph[str]":
        """The nodes and their inputs, as networkx has graphs."""
        return as_networkx.graph_to_networkx(self.graph)

    def __str__(self) -> str:
        return terminal.graph_text(self.graph)

    def __repr__(self) -> str:
        return repr(self.graph)

    def _repr_html_(self) -> str:
        return _pre(f"{terminal.graph_line(self.graph)}\n{terminal.quality(self.graph.quality)}")


@dataclass(frozen=True, eq=False, repr=False)
class Mapped:
    """A graph on the cores of a system, checked."""

    graph: Graph
    divided: nodes.Graph
    """The graph as the mapping divides its sums; its bits are the same."""
    mapping: mapping.Mapping
    system: SystemSpec
    cores: int | None
    """How many cores of a chip were allowed; None for all."""

    @property
    def bounds(self) -> dict[str, dict[str, float | None]]:
        """Cores, chips, the slowest core (ns) and messages between chips, with their bounds."""
        return map.bounds(self.divided, self.mapping, self.system, self.cores)

    @overload
    def run(
        self,
        prompt: str,
        new_tokens: int = 64,
        *,
        engine: str = "fast",
        temperature: float = 0.0,
        seed: int = 0,
        logits: bool = True,
        ignore_eos: bool = False,
        special: bool = False,
        as_bytes: bool = False,
        in_flight: int = 1,
    ) -> "Run": ...

    @overload
    def run(
        self,
        prompt: list[str] | tuple[str, ...],
        new_tokens: int = 64,
        *,
        engine: str = "fast",
        temperature: float = 0.0,
        seed: int = 0,
        logits: bool = True,
        ignore_eos: bool = False,
        special: bool = False,
        as_bytes: bool = False,
        in_flight: int = 1,
    ) -> "Runs": ...

    @checked
    def run(
        self,
        prompt: str | list[str] | tuple[str, ...],
        new_tokens: int = 64,
        *,
        engine: str = "fast",
        temperature: float = 0.0,
        seed: int = 0,
        logits: bool = True,
        ignore_eos: bool = False,
        special: bool = False,
        as_bytes: bool = False,
        in_flight: int = 1,
    ) -> "Run | Runs":
        """Run one prompt, or several, of which `in_flight` are under way at once, on an engine by
        its name; each comes to the same as by itself.

        `temperature` 0 takes the likeliest token.  A text ends where the model ends it, unless
        `ignore_eos`.  With `special`, names of special tokens in a prompt stand for them; with
        `as_bytes`, text is read as bytes whatever the model has.  With `logits` False none are
        kept, for long runs; nor where the chips choose the words.  Raises EngineError where the
        engine cannot be used here, and InputError; under mpiexec, ranks other than 0 raise `Served`
        when their part is done.
        """
        if not isinstance(prompt, str) and not prompt:
            raise InputError("there is no prompt, must be at least one")
        prompts, sampling = (
            [prompt] if isinstance(prompt, str) else prompt,
            Sampling(temperature, seed),
        )
        tasks = [Task(one, new_tokens, sampling, ignore_eos, special, as_bytes) for one in prompts]
        parts = [[task] for task in tasks] if in_flight == 1 else [tasks]
        runs = Runs(
            tuple(
                run
                for part in parts
                for run in self._run(part, engine, keep_logits=logits, in_flight=in_flight)
            )
        )
        return runs[0] if isinstance(prompt, str) else runs

    def _run(
        self, tasks: Sequence[Task], engine: str, *, keep_logits: bool, in_flight: int
    ) -> Iterator["Run"]:
        """Run some prompts together; the seconds of each run are those of all of them."""
        graph, start = self.divided, engine_named(engine)
        keep_logits = keep_logits and not graph.greedy
        with speller(spelling_of(graph, as_bytes=tasks[0].as_bytes)) as by:
            job = simulate.job_of(tasks, graph, by, keep_logits=keep_logits, in_flight=in_flight)
            result = start(graph, self.mapping, job)
            where = placed(graph, self.mapping, self.system)
            for task, asked, outcome in zip(tasks, job.sequences, result.outcomes, strict=True):
                alone = replace(
                    job, tokens=[asked.tokens], new_tokens=asked.new_tokens, sampling=asked.sampling
                )
                came = Result((outcome,), result.seconds)
                record = simulate.record_of(where, engine, [task], alone, came, by)
                natural = outcome.logits.astype(np.float64) * graph.logit_scale
                yield Run(record, natural if keep_logits else None)

    @checked
    def plot(self, what: str = "cores-by-kind") -> "Figure":
        """A picture of the cores in use: "cores-by-kind", "cores-by-memory" or "limits"."""
        from mmfree_neuro.report import pictures

        use = use_of_cores(self.divided, self.mapping, self.system.chip)
        summary = summarise(self.divided)
        drawn: Drawn = {"mapping": content.mapping_content(self.mapping, summary, self.system, use)}
        known = {
            "cores-by-kind": pictures.cores_by_kind,
            "cores-by-memory": pictures.cores_by_memory,
            "limits": pictures.limits,
        }
        if what not in known:
            raise InputError(
                f"the picture {what!r} is not known, must be one of {', '.join(known)}"
            )
        return known[what](drawn)

    @checked
    def save(self, path: str | Path) -> Path:
        """Write a mapping file, as `mmfree-neuro map` does; its name ends in `.map`.

        A graph that was not loaded from a file lies beside it, with the ending `.graph`, and is
        written if it does not yet.  Raises InputError where another file has that name.
        """
        where = Path(path)
        if where.suffix != ".map":
            raise InputError(f"{where}: ends in {where.suffix!r}, must end in .map")
        graph_path = self.graph.path or where.with_suffix(".graph")
        if not graph_path.exists():
            self.graph.save(graph_path)
        elif opened.open_graph(graph_path)[1] != self.mapping.graph:
            raise InputError(f"{graph_path}: is another graph, must be that of the mapping")
        stored = StoredMapping(self.mapping, self.system, graph_path, self.cores)
        mapping_file.save_mapping(stored, where)
        return where

    def to_networkx(self) -> "networkx.DiGraph[tuple[int, int]]":
        """The cores in use and the payloads between them, as networkx has graphs."""
        return as_networkx.mapping_to_networkx(self.mapping)

    def __str__(self) -> str:
        return terminal.mapping(self.divided, self.mapping, self.system, self.bounds)

    def __repr__(self) -> str:
        return f"<Mapped {self.graph.name}: {self.mapping!r}>"

    def _repr_html_(self) -> str:
        return _pre(str(self))


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A finished run of one prompt; from a folder also of several, whose `prompt`, `text` and
    `tokens` are those of the first.  `record.results` has all of them."""

    record: RunRecord
    logits: NDArray[np.float64] | None
    """Natural units [tokens fed, vocabulary], after each token of the prompt and of the
    continuation but the last; None where they were not kept, as in a run from a file."""

    @property
    def prompt(self) -> str:
        """The prompt."""
        return self.record.only.prompt

    @property
    def text(self) -> str:
        """What follows the prompt."""
        return self.record.only.text

    @property
    def tokens(self) -> NDArray[np.int64]:
        """The tokens that were chosen [new tokens]."""
        return np.array(self.record.only.new_tokens, np.int64)

    @property
    def activity(self) -> dict[str, Activity]:
        """What was counted, by phase: "prefill" and "generate"."""
        return {"prefill": self.record.prefill, "generate": self.record.generate}

    @property
    def estimates(self) -> dict[str, Estimate]:
        """Speed and energy on the chips by phase, each as the median and 5 to 95 % over all draws
        of the constants; a phase without tokens has none."""
        run = self.record
        counts = counted(run.mapping, run.summary, run.prefill, run.system)
        return {
            phase: estimate(replace(counts, activity=activity), phase, run.under_way)
            for phase, activity in self.activity.items()
            if activity.tokens
        }

    @checked
    def costed(
        self,
        system: str | Path | SystemSpec | None = None,
        figures: Mapping[str, Setting] = MappingProxyType({}),
    ) -> "Run":
        """The same run, costed on another system, or on its own with other `figures`, such as
        {"chip.energy_per_synop_pj": 5} or {"chip.energy_per_synop_pj": (3, 5, 9)}; counts and
        mapping stay.

        Raises InputError where the mapping does not fit the system, and HardwareError where there
        is no such figure.
        """
        spec = None if system is None else _system(system)
        return replace(self, record=recosted(self.record, spec, figures))

    @checked
    def table(self, what: str = "trace") -> list[dict[str, Any]]:
        """Plain rows, such as `pandas.DataFrame` takes: "trace" (every step and core: the mean
        counts of a token), "cores", "links" or "energy"."""
        from mmfree_neuro.report import tables

        if what == "trace":
            return tables.trace(self.record)
        known = {"cores": tables.cores, "links": tables.links, "energy": tables.energy}
        if what not in known:
            raise InputError(
                f"the table {what!r} is not known, must be one of trace, {', '.join(known)}"
            )
        return known[what](report.build(self.record))

    @property
    def neurobench(self) -> dict[str, dict[str, Any]]:
        """The metrics of NeuroBench by phase: footprint, connection sparsity, activation sparsity
        and synaptic operations."""
        from mmfree_neuro.report import tables

        return tables.neurobench(self.record)

    @checked
    def report(self, path: str | Path, gpu_rows: Sequence[str | Path] = ()) -> Path:
        """Write the report as `.html`, `.md` or `.json`, or a trace as `.jsonl`, by the name of the
        path."""
        if Path(path).suffix == TRACE:
            report.trace_to(self.record, Path(path))
        else:
            report.write(report.build(self.record, [Path(rows) for rows in gpu_rows]), Path(path))
        return Path(path)

    @checked
    def plot(self, what: str = "energy") -> "Figure":
        """A picture of the report: "energy", "links", "limits", "cores-by-kind" or
        "cores-by-memory"."""
        from mmfree_neuro.report import pictures

        drawn = pictures.draw(report.build(self.record))
        if what not in drawn:
            raise InputError(
                f"the picture {what!r} is not known, must be one of {', '.join(drawn)}"
            )
        return drawn[what]

    @checked
    def save(self, path: str | Path) -> Path:
        """Write the folder of a run, as `mmfree-neuro simulate` does; logits are not kept there."""
        with run_folder(Path(path), resume=False) as folder:
            run_file.save_run(self.record, folder)
        return Path(path)

    def __str__(self) -> str:
        return f"{terminal.texts(self.record)}\n\n{terminal.speed(self.record)}"

    def __repr__(self) -> str:
        return repr(self.record).replace("RunRecord", "Run", 1)

    def _repr_html_(self) -> str:
        return _pre(f"{self}\n\n{terminal.estimates(report.build(self.record))}")


@dataclass(frozen=True, eq=False, repr=False)
class Runs(Sequence[Run]):
    """The runs of several prompts, in their order."""

    runs: tuple[Run, ...]

    @overload
    def __getitem__(self, index: int) -> Run: ...

    @overload
    def __getitem__(self, index: slice) -> "Runs": ...

    def __getitem__(self, index: int | slice) -> "Run | Runs":
        return Runs(self.runs[index]) if isinstance(index, slice) else self.runs[index]

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    @property
    def text(self) -> list[str]:
        """What follows each prompt."""
        return [run.text for run in self.runs]

    @property
    def tokens(self) -> list[NDArray[np.int64]]:
        """The tokens that were chosen, for each prompt [new tokens]."""
        return [run.tokens for run in self.runs]

    @property
    def logits(self) -> list[NDArray[np.float64] | None]:
        """The logits of each run, as `Run.logits`."""
        return [run.logits for run in self.runs]

    @property
    def activity(self) -> dict[str, Activity]:
        """What was counted in all runs together, by phase."""
        first, *others = (run.activity for run in self.runs)
        for other in others:
            first = {phase: first[phase] + other[phase] for phase in first}
        return first

    @property
    def estimates(self) -> dict[str, Estimate]:
        """Speed and energy of a token on average over all runs, by phase, with as many under way at
        once as there were."""
        both = self.activity
        together = replace(
            self.runs[0].record,
            prefill=both["prefill"],
            generate=both["generate"],
            results=tuple(result for run in self.runs for result in run.record.results),
        )
        return Run(together, None).estimates

    def __repr__(self) -> str:
        return f"<Runs: {len(self.runs)} prompts>"

    def _repr_html_(self) -> str:
        return "".join(run._repr_html_() for run in self.runs)
