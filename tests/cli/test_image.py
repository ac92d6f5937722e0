"""A mapping as a machine image, its listing, and runs of it, without graph and mapping."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from mmfree_neuro.cli.main import main
from mmfree_neuro.errors import CapacityError, MMFreeError
from mmfree_neuro.graph.nodes import AnyNode, Graph, Input, Output, PartialSum
from mmfree_neuro.graph.steps import steps
from mmfree_neuro.graph.verify import verify
from mmfree_neuro.image import build, synapses, write
from mmfree_neuro.mapping.mapping import Mapping
from mmfree_neuro.pipeline import image as imaging
from mmfree_neuro.run import run_file
from mmfree_neuro.systems.spec import SystemSpec
from mmfree_neuro.target.image_file import digest_of, load_image, save_image
from mmfree_sims.emulator.emulator import available

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not available(), reason="needs the emulator in C"),
]

Files = Callable[[str], str]
Said = pytest.CaptureFixture[str]


@pytest.fixture
def here(
    make_files: Callable[[str, int], Files], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with a graph, its mapping, its image, and token ids."""
    for name in ("a16.graph", "a16.map"):
        shutil.copy(make_files("smallest", 2)(name), tmp_path)
    monkeypatch.chdir(tmp_path)
    np.save("ids.npy", np.arange(6).reshape(2, 3))
    assert main(["image", "a16.map", "-o", "a16.image"]) == 0
    return tmp_path


def test_the_image_alone_gives_what_the_mapping_gives(here: Path, capsys: Said) -> None:
    prompt = ["--prompt", "ab", "--new-tokens", "6"]
    assert main(["simulate", "a16.map", *prompt, "--engine", "fast", "-o", "fast"]) == 0
    assert (
        main(["logits", "a16.map", "--engine", "fast", "--tokens", "ids.npy", "-o", "f.npy"]) == 0
    )
    assert main(["report", "fast", "-o", "fast.json"]) == 0
    for name in ("a16.graph", "a16.map"):
        (here / name).unlink()
    capsys.readouterr()
    assert main(["simulate", "a16.image", *prompt, "-o", "run"]) == 0
    assert capsys.readouterr().out.startswith("ab")
    ours, theirs = run_file.load_run(here / "run"), run_file.load_run(here / "fast")
    assert (ours.only.text, ours.prefill, ours.generate) == (
        theirs.only.text,
        theirs.prefill,
        theirs.generate,
    )
    assert (ours.engine, ours.mapping, ours.summary) == ("emulator", theirs.mapping, theirs.summary)
    assert main(["logits", "a16.image", "--tokens", "ids.npy", "-o", "i.npy"]) == 0
    assert (here / "i.npy").read_bytes() == (here / "f.npy").read_bytes()
    assert main(["report", "run", "-o", "run.json"]) == 0
    mine, other = (json.loads((here / f"{name}.json").read_text()) for name in ("run", "fast"))
    assert mine["phases"] == other["phases"]


def test_an_image_is_told_in_figures(here: Path, capsys: Said) -> None:
    capsys.readouterr()
    assert main(["image", "a16.map", "-o", "a16.image", "--json"]) == 0  # in the place of itself
    content = json.loads(capsys.readouterr().out)
    image = load_image(here / "a16.image")
    cores = [core for cores in image.chips.values() for core in cores]
    assert content["cores"] == len(cores) and content["chips"] == len(image.chips)
    assert content["bytes"] == sum(core.bytes for core in cores)
    assert content["fullest_core"]["input_axons"] == max(len(core.axon) for core in cores)
    assert content["steps"] == image.about.steps


def test_an_image_is_inspected(here: Path, capsys: Said) -> None:
    capsys.readouterr()
    assert main(["image", "a16.map", "-o", "a16.image", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    digest = sha256((here / "a16.map").read_bytes()).hexdigest()
    graph = json.loads((here / "a16.map").read_text())["mapping"]["graph"]
    for name in ("a16.graph", "a16.map"):
        (here / name).unlink()
    assert main(["inspect", "a16.image", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    del made["image"]
    assert content == {
        "format": "mmfree-neuro image 3",
        "system": "kapoho-point",
        "graph": graph,
        "mapping": digest,
        "greedy": False,
        **made,
    }
    assert main(["inspect", "a16.image"]) == 0
    most = made["fullest_core"]
    assert capsys.readouterr().out == (
        "a16.image: mmfree-neuro image 3, for kapoho-point\n"
        f"of the graph {graph}\n"
        f"{made['cores']} cores on 3 chips, {made['programs']} programs, "
        f"{made['bytes'] / 1e6:.1f} MB on chips\n"
        f"the most of a core: {most['bytes']:,} bytes, {most['synaptic_bytes']:,} synaptic bytes, "
        f"{most['groups']} groups, {most['neurons']} neurons, {most['input_axons']} input axons, "
        f"{most['map_entries']} map entries, {most['accumulators']:,} accumulators, "
        f"{most['instructions']} instructions\n"
        f"a token takes {made['steps']} steps from the embedding to its results\n"
    )


def test_listings(here: Path, capsys: Said) -> None:
    capsys.readouterr()
    assert main(["listing", "a16.image"]) == 0
    assert capsys.readouterr().out == (here / "a16.image" / "programs.asm").read_text()
    assert main(["listing", "a16.image", "--program", "layers.0.mlgru"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("program 0\n; MLGRU\n") and "RMW" in text
    assert main(["listing", "a16.image", "--core", "host:0"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("core 0 of the host: ") and "group 0: embedding 0 … " in text
    assert main(["listing", "a16.image", "--core", "0:0", "--json"]) == 0
    assert "logits" not in json.loads(capsys.readouterr().out)["listing"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            "simulate a16.image --prompt a --engine fast -o out",
            "a16.image: is a machine image, which runs on engine emulator, not on fast",
        ),
        (
            "simulate a16.map --prompt a --engine emulator -o out",
            "a16.map: engine emulator runs machine images, must be made one by mmfree-neuro image",
        ),
        (
            "logits a16.image --engine fast --tokens ids.npy -o out",
            "a16.image: is a machine image, which runs on engine emulator, not on fast",
        ),
        (
            "logits a16.map --engine emulator --tokens ids.npy -o out",
            "a16.map: engine emulator runs machine images, must be made one by mmfree-neuro image",
        ),
        (
            "simulate a16.image --prompt a --ranks 0,1 -o out",
            "a16.image: is a machine image, which has no ranks to place chips on",
        ),
        (
            "logits a16.image --ranks 0,1 --tokens ids.npy -o out",
            "a16.image: is a machine image, which has no ranks to place chips on",
        ),
        (
            "simulate a16.image --prompt a -o a16.image",
            "a16.image: holds a machine image, must be another folder",
        ),
        (
            "logits a16.image --tokens ids.npy -o a16.image/programs.asm",
            "a16.image/programs.asm: is read by this command, must be another file to write",
        ),
        ("listing a16.map", "a16.map: is no machine image, must be one"),
        ("image a16.map -o mine", "mine: is a folder of something else, must be new, or an image"),
        (
            "image a16.image/board.bin -o a16.image",
            "a16.image: holds board.bin, which is read, must be another folder",
        ),
        (
            "listing a16.image --core 9:9",
            "a16.image: has no core '9:9', must be such as 0:3 or host:0",
        ),
        (
            "listing a16.image --program nobody",
            "a16.image: has no program of 'nobody', must be a node's name",
        ),
        ("image a16.graph -o out", "a16.graph: is a graph file, must be a mapping file"),
        ("image a16.image -o out", "a16.image: is a machine image, must be a mapping file"),
        ("image a16.image -o a16.image", "a16.image: is a machine image, must be a mapping file"),
        (
            "map a16.image --system kapoho-point -o out",
            "a16.image: is a machine image, must be a graph file",
        ),
        (
            "explore a16.image --system kapoho-point",
            "a16.image: is a machine image, must be a graph file",
        ),
        (
            "report a16.image -o out.json",
            "a16.image: is a machine image, must be a folder that simulate wrote",
        ),
        ("inspect a16.image --codes out", "a16.image: --codes needs a checkpoint folder"),
    ],
)
def test_wrong_input(words: str, problem: str, here: Path, capsys: Said) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "image.json").write_text("{}")
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert main(words.split()) == 2
    assert capsys.readouterr().err == f"mmfree-neuro: {problem}\n"
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def changed(image: Path, name: str, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]
    """Change a JSON file of an image, and mend its checksums."""
    content = json.loads((image / name).read_text())
    change(content)
    text = json.dumps(content)
    (image / name).write_text(text)
    about = json.loads((image / "image.json").read_text())
    about["files"][name] = sha256(text.encode()).hexdigest()
    del about["sha256"]
    (image / "image.json").write_text(json.dumps(about | {"sha256": digest_of(about)}))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c["mapping"]["locations"].pop(), "it has {} locations for {} shards"),
        (
            lambda c: c["mapping"]["shards"][2].__setitem__(2, 1),
            "its shards are not the groups of the image",
        ),
        (
            lambda c: c["mapping"]["routes"].pop(),
            "its routes are not the output entries of the image",
        ),
        (lambda c: c.pop("bos"), "has no bos, must have one"),
        (
            lambda c: c["summary"]["nodes"].clear(),
            "its graph has 0 nodes, must have some, each with its own name",
        ),
        (
            lambda c: c["mapping"]["shards"][2].__setitem__(0, "nobody"),
            "shard nobody[0:16] must be a part of a node",
        ),
    ],
    ids=["locations", "shards", "routes", "bos", "summary", "names"],
)
def test_an_origin_of_another_image(
    change: Callable[[dict], None],  # type: ignore[type-arg]
    problem: str,
    here: Path,
    capsys: Said,
) -> None:
    mapping = json.loads((here / "a16.map").read_text())["mapping"]
    shards = len(mapping["shards"])
    changed(here / "a16.image", "origin.json", change)
    capsys.readouterr()
    assert main(["simulate", "a16.image", "--prompt", "a", "-o", "out"]) == 2
    said = f"a16.image/origin.json: not what a machine image was made from: {problem}"
    assert capsys.readouterr().err == f"mmfree-neuro: {said.format(shards - 1, shards)}\n"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c["cores"].pop(), "its cores are not those of the image"),
        (
            lambda c: c["cores"][0]["groups"][0].__setitem__(2, 1),
            "the groups of core 0 of host are not the image's",
        ),
        (lambda c: c["kinds"].pop("head"), "its kinds are not those of the nodes that cores hold"),
    ],
    ids=["cores", "groups", "kinds"],
)
def test_names_of_another_image(
    change: Callable[[dict], None],  # type: ignore[type-arg]
    problem: str,
    here: Path,
    capsys: Said,
) -> None:
    changed(here / "a16.image", "symbols.json", change)
    capsys.readouterr()
    assert main(["listing", "a16.image", "--core", "0:0"]) == 2
    said = f"a16.image/symbols.json: not the names of a machine image: {problem}"
    assert capsys.readouterr().err == f"mmfree-neuro: {said}\n"


def test_steps_are_those_that_entries_need(here: Path, capsys: Said) -> None:
    about = json.loads((here / "a16.image" / "image.json").read_text())
    del about["sha256"]
    needed = about["steps"]
    about["steps"] -= 1
    (here / "a16.image" / "image.json").write_text(json.dumps(about | {"sha256": digest_of(about)}))
    capsys.readouterr()
    assert main(["inspect", "a16.image"]) == 2
    assert capsys.readouterr().err == (
        f"mmfree-neuro: a16.image: not a machine image: steps is {needed - 1}, must be at least "
        f"{needed}, for so many entries lead one after another from the embedding to a result\n"
    )


def test_a_machine_that_traps_gives_nothing(here: Path, capsys: Said) -> None:
    """Neither logits nor counts: the run ends, and no file is there."""
    about = json.loads((here / "a16.image" / "image.json").read_text())
    del about["sha256"]
    about["machine"]["payload_bits"] = 9
    (here / "a16.image" / "image.json").write_text(json.dumps(about | {"sha256": digest_of(about)}))
    before = sorted(here.iterdir())
    for words in (
        "simulate a16.image --prompt ab --new-tokens 2 -o out",
        "simulate a16.image --prompt ab --new-tokens 2 --save-every 1 -o out",
        "logits a16.image --tokens ids.npy -o out",
    ):
        capsys.readouterr()
        assert main(words.split()) == 2
        said = capsys.readouterr().err
        assert said.startswith("mmfree-neuro: a16.image: the host group 0 neuron ")
        assert said.endswith(", which does not fit 9 bits\n") and said.count("\n") == 1
        assert sorted(here.iterdir()) == before


def test_what_waits_longer_than_a_synapse_can_hold_back(
    a16: Graph,
    make_mapping: Callable[..., Mapping],
    system: SystemSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(write, "LONGEST_DELAY", 4)
    with pytest.raises(CapacityError) as error:
        write.write_image(a16, make_mapping(a16, "chain"), system, "0" * 64, tmp_path / "image")
    assert str(error.value) == (
        f"{a16.name}: a sum waits 5 steps for another one, a synapse can hold back 4"
    )
    assert not (tmp_path / "image").exists()


def refused(graph: Graph, mapping: Mapping, system: SystemSpec, folder: Path) -> str:
    """Why no image is written."""
    with pytest.raises(MMFreeError) as error:
        write.write_image(graph, mapping, system, "0" * 64, folder / "image")
    assert not any(folder.iterdir())
    return str(error.value)


def test_figures_that_an_image_has_no_room_for(
    a16: Graph,
    make_mapping: Callable[..., Mapping],
    system: SystemSpec,
    with_figures: Callable[..., SystemSpec],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mapping = make_mapping(a16, "chain")
    for figures, said in (
        ({"weight_bits": 16}, "weight_bits is 16, an image must have 2 … 8"),
        ({"payload_bits": 40}, "payload_bits is 40, an image must have 2 … 32"),
    ):
        found = refused(a16, mapping, with_figures(system, **figures), tmp_path)
        assert found == f"kapoho-point: {said}"
    core = "kapoho-point: core 0 of chip -1"  # the host, which is built first
    for where, name, most, said in (
        (build, "MOST_PORTS", 1, f"{core} needs 2 ports, an image has room for 1"),
        (build, "MOST_CORES", 0, f"{core} needs 1 cores, an image has room for 0"),
        (
            synapses,
            "MOST_LISTS",
            0,
            "embedding.sq: a core needs 1 lists for a payload, an image has room for 0",
        ),
        (
            synapses,
            "MOST_WORDS",
            1,
            "embedding.sq: a core needs 64 words of lists, an image has room for 1",
        ),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, most)
            assert refused(a16, mapping, system, tmp_path) == said


def test_what_fires_behind_the_head(
    a16: Graph, make_mapping: Callable[..., Mapping], system: SystemSpec, tmp_path: Path
) -> None:
    """A node that nobody reads does no harm elsewhere; of an image, logits are the last to come."""
    chain: list[AnyNode] = []
    read = Input("y", "head.norm", "y", "aligned")
    for number in range(3):
        output = Output("sum", 64, a16.node("head.norm").output("y").qtype)
        chain.append(PartialSum(f"behind{number}", 64, (read,), (output,)))
        read = Input("y", f"behind{number}", "sum", "aligned")
    graph = verify(replace(a16, nodes=(*a16.nodes[:-1], *chain, a16.nodes[-1])))
    step = steps(graph.nodes)
    assert refused(graph, make_mapping(graph, "chain"), system, tmp_path) == (
        f"behind1: fires at step {step['head'] + 1}, behind the {step['head']} of head, must be "
        "read by it in the end"
    )


def test_an_image_has_the_limits_of_its_system(
    a16: Graph,
    make_mapping: Callable[..., Mapping],
    system: SystemSpec,
    with_figures: Callable[..., SystemSpec],
    tmp_path: Path,
) -> None:
    """What has more than a core may is not written."""
    mapping = make_mapping(a16, "chain")
    image = write.write_image(a16, mapping, system, "0" * 64, tmp_path / "whole.image")
    most = imaging.summary_of(image).fullest_core
    assert image.about.machine.memory_bytes_per_core == 196_608
    for name, (figure, said) in {
        "bytes": ("memory_bytes_per_core", "memory bytes"),
        "synaptic_bytes": ("synaptic_memory_bytes_per_core", "synaptic bytes"),
        "neurons": ("neurons_per_core", "neurons"),
        "input_axons": ("input_axons_per_core", "input axons"),
        "map_entries": ("axon_map_entries_per_core", "map entries"),
        "accumulators": ("accumulators_per_core", "accumulators"),
        "instructions": ("program_instructions_per_core", "instructions"),
    }.items():
        narrow = with_figures(system, **{figure: most[name] - 1})
        (empty := tmp_path / name).mkdir()
        found = refused(a16, mapping, narrow, empty)
        assert found.endswith(f"has {most[name]} {said}, must have at most {most[name] - 1}")


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": "another"}'])
def test_an_image_with_another_head_is_no_checkpoint(
    content: bytes, here: Path, capsys: Said
) -> None:
    (here / "a16.image" / "image.json").write_bytes(content)
    for words in ("logits a16.image --raw --tokens ids.npy -o out", "listing a16.image"):
        capsys.readouterr()
        assert main(words.split()) == 2
        said = capsys.readouterr().err
        assert said.startswith(
            "mmfree-neuro: a16.image/image.json: not the head of a machine image"
        )
        assert said.count("\n") == 1
    assert not (here / "out").exists()


def test_a_listing_is_of_the_words_that_cores_run(here: Path, capsys: Said) -> None:
    """Not of the text beside them, which nobody runs."""
    text = (here / "a16.image" / "programs.asm").read_text()
    (here / "a16.image" / "programs.asm").write_bytes(b"\xff\xfe")
    about = json.loads((here / "a16.image" / "image.json").read_text())
    about["files"]["programs.asm"] = sha256(b"\xff\xfe").hexdigest()
    del about["sha256"]
    (here / "a16.image" / "image.json").write_text(json.dumps(about | {"sha256": digest_of(about)}))
    capsys.readouterr()
    assert main(["listing", "a16.image"]) == 0
    assert capsys.readouterr().out == text


def test_programs_of_a_node_that_are_not_alike(here: Path, capsys: Said) -> None:
    """Where somebody changed the words of a core, all that cores run is listed."""
    image = load_image(here / "a16.image")
    first, *more = image.chips[0]
    pool = first.pool.copy()
    pool[0] += 1
    chips = {**image.chips, 0: (replace(first, pool=pool), *more)}
    texts = {"programs": image.programs.decode(), "symbols": image.symbols.decode()}
    save_image(here / "odd", image.about, image.host, chips.items(), image.board, **texts)
    capsys.readouterr()
    for name in ("a16.image", "odd"):
        assert main(["listing", name]) == 0
    before, _, after = capsys.readouterr().out.partition("program 0\n")[2].partition("program 0\n")
    assert after.count("program ") == before.count("program ") + 1
