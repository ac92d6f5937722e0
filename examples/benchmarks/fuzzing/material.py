"""Valid files of every kind, made from one tiny model: what inputs are mutated from, and what
commands give on them."""

import json
import os
import pickle
import shutil
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE

from mmfree_neuro import testing
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.hgrn_bit.synthetic import write_synthetic
from mmfree_neuro.lowering.scheme import SCHEMES
from mmfree_neuro.mapping.request import Request
from mmfree_neuro.model.tokenizer import speller
from mmfree_neuro.pipeline import map as mapping
from mmfree_neuro.pipeline import opened
from mmfree_neuro.pipeline import simulate as simulating
from mmfree_neuro.pipeline.families import read_checkpoint
from mmfree_neuro.pipeline.image import image_of
from mmfree_neuro.pipeline.placed import placed
from mmfree_neuro.pipeline.quality import in_one_place
from mmfree_neuro.pipeline.text import spelling_of
from mmfree_neuro.run import run_file, state_file
from mmfree_neuro.run.job import Job, RunState, Saving
from mmfree_neuro.run.run_file import RunRecord
from mmfree_neuro.systems.load import chip_names
from mmfree_sims import fast

CONFIG = ModelConfig(
    vocab_size=256,
    hidden_size=16,
    num_hidden_layers=1,
    intermediate_size=24,
    use_lower_bound=False,
    bos_token_id=0,
    eos_token_id=0,
)
WORDED = ModelConfig(
    vocab_size=320,
    hidden_size=16,
    num_hidden_layers=1,
    intermediate_size=24,
    use_lower_bound=False,
    bos_token_id=1,
    eos_token_id=2,
)
PROMPT, NEW_TOKENS = "abcd", 6
SIMULATE = ("--prompt", PROMPT, "--new-tokens", str(NEW_TOKENS))
SYSTEM = "kapoho-point"
CHIPS = 2
GRAPHS = "a16.graph", "a8.graph", "worded.graph"
REQUESTS = {
    "a16": Request("block-per-chip", cores=8),
    "a8": Request("chain", CHIPS, cores=4),
    "worded": Request("block-per-chip", cores=8),
}
"""How each graph is mapped."""
SECONDS = {"start": 0.5, "prefill": 0.5, "generate": 0.5}
KEPT = "material.pickle"
GPU_ROWS = [
    {
        "name": f"MatMul-free {model}",
        "implementation": "fused kernels",
        "impl": "fast",
        "precision": "int8 activations",
        "model": model,
        "ternary_synapses": synapses,
        "mode": mode,
        "batch": 1,
        "sequence_length": 512,
        "tokens_per_s": 2817.5,
        "millijoule_per_token": 98.25,
        "device": "a GPU",
        "power": "the whole GPU",
        "script": "mmfree-neuro bench gpu",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "date": "2026-01-31T12:00:00+00:00",
    }
    for model, synapses in (("370m", 341_835_776), ("1.3b", 1_298_661_376))
    for mode in ("generate", "prefill")
]


@dataclass(frozen=True, eq=False)
class Material:
    """A folder of valid files, and what the commands give on them."""

    folder: Path
    tokens: NDArray[np.int64]
    logits: dict[str, NDArray[Any]]
    """The integer logits of the tokens, by graph file."""
    job: Job
    """What the run was asked for."""
    run: RunRecord
    """What the run folder holds."""
    state: RunState
    """What the unfinished run has saved."""

    def bring(self, folder: Path, *names: str) -> None:
        """Copy some files and folders into another folder."""
        for name in names:
            source = self.folder / name
            if source.is_dir():
                shutil.copytree(source, folder / name)
            else:
                shutil.copyfile(source, folder / name)

    def json(self, name: str) -> Any:
        """The content of a JSON file."""
        return json.loads((self.folder / name).read_text(encoding="utf-8"))


def tokenizer_json() -> str:
    """A small tokenizer in the style of the published one."""
    words = ["▁o", "▁on", "▁once", "e▁", "▁▁", "ab", "abc"]
    merges = [
        ("▁", "o"),
        ("▁o", "n"),
        ("▁on", "ce"),
        ("e", "▁"),
        ("▁", "▁"),
        ("a", "b"),
        ("ab", "c"),
    ]
    letters = [*"▁abcdefghijklmnopqrstuvwxyz.,\n", "ce"]
    names = ["<unk>", "<s>", "</s>"]
    tokens = [*names, *(f"<0x{byte:02X}>" for byte in range(256)), *letters, *words]
    model = BPE(
        {token: number for number, token in enumerate(tokens)},
        merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    return str(tokenizer.to_str())


def _graphs(folder: Path) -> dict[str, Graph]:
    """The graphs of the checkpoints, in files."""
    plain, worded = read_checkpoint(folder / "checkpoint"), read_checkpoint(folder / "worded")
    made = {
        "a16.graph": testing.graph_of(plain, SCHEMES["a16"], "tiny"),
        "a8.graph": testing.graph_of(plain, SCHEMES["a8"], "tiny"),
        "worded.graph": testing.graph_of(worded, SCHEMES["a16"], "worded", tokenizer_json()),
    }
    for name, graph in made.items():
        graph_file.save_graph(graph, folder / name)
    return made


def system_toml() -> str:
    """A system with a chip of its own."""
    from importlib import resources

    systems = resources.files("mmfree_neuro.systems")
    assert "loihi2" in chip_names()
    chip = (systems / "chips" / "loihi2.toml").read_text(encoding="utf-8")
    system = (systems / f"{SYSTEM}.toml").read_text(encoding="utf-8")
    return system.replace('chip = "loihi2"\n', "") + "\n[chip]\n" + chip


def make(folder: Path) -> Material:
    """All files, and what commands give on them.

    A child makes them, so that nothing that the package remembers of files that it has proved is
    inherited by the commands that read changed ones.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            (folder / KEPT).write_bytes(pickle.dumps(_made(folder)))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if os.waitpid(pid, 0)[1] != 0:
        raise SystemExit("the valid files could not be made")
    return pickle.loads((folder / KEPT).read_bytes())


def _made(folder: Path) -> Material:
    write_synthetic(folder / "checkpoint", CONFIG)
    write_synthetic(folder / "sharded", CONFIG, shard_bytes=9000)
    write_synthetic(folder / "worded", WORDED)
    (folder / "worded" / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
    tokens = np.random.default_rng(6).integers(0, CONFIG.vocab_size, (2, 5))
    np.save(folder / "tokens.npy", tokens)
    (folder / "rows.json").write_text(json.dumps(GPU_ROWS), encoding="utf-8")
    (folder / "system.toml").write_text(system_toml(), encoding="utf-8")
    (folder / "text.txt").write_text("once upon a time, a text\n" * 40, encoding="utf-8")
    graphs = _graphs(folder)
    logits = {
        name: fast.run(graph, in_one_place(graph), Job(tokens)).logits
        for name, graph in graphs.items()
    }
    for name, request in REQUESTS.items():
        mapping.map_graph(folder / f"{name}.graph", SYSTEM, folder / f"{name}.map", request)
    image_of(folder / "a16.map", folder / "a16.image")
    return Material(folder, tokens, logits, *_runs(folder))


def _runs(folder: Path) -> tuple[Job, RunRecord, RunState]:
    """A run in a folder, and in another its state two tokens into the continuation; the clock has
    no part in either."""
    graph, stored = opened.open_mapped(folder / "a16.map")
    tasks, states = [simulating.Task(PROMPT, NEW_TOKENS)], list[RunState]()
    with speller(spelling_of(graph, as_bytes=False)) as by:
        job = simulating.job_of(tasks, graph, by, keep_logits=False)
        result = fast.run(graph, stored.mapping, job, saving=Saving(1, states.append))
        result = replace(result, seconds=SECONDS)
        where = placed(graph, stored.mapping, stored.system)
        run = simulating.record_of(where, "fast", tasks, job, result, by)
    run = replace(run, date="2026-01-31T12:00:00+00:00", versions={"python": "3.11.7"})
    state = next(s for s in states if s.fed == job.prompted + 2)
    state = replace(state, seconds=SECONDS)
    for name in ("run", "half"):
        (folder / name).mkdir()
    run_file.save_run(run, folder / "run")
    state_file.save_state(state, state_file.identity(stored.mapping, job), folder / "half")
    return job, run, state


def add_bin(folder: Path) -> None:
    """The checkpoint as a `.bin` file, which torch writes."""
    import torch

    if (folder / "bin").exists():
        return
    checkpoint = read_checkpoint(folder / "checkpoint")
    (folder / "bin").mkdir()
    shutil.copyfile(folder / "checkpoint" / "config.json", folder / "bin" / "config.json")
    tensors = {name: torch.from_numpy(value) for name, value in checkpoint.tensors.items()}
    torch.save(tensors, folder / "bin" / "pytorch_model.bin")
