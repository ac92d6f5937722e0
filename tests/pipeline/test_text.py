"""A model's own tokenizer goes the whole way: it calibrates, it travels with the graph, it reads
and writes text."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE

from mmfree_neuro.cli.main import main
from mmfree_neuro.errors import CheckpointError, GraphError
from mmfree_neuro.graph import graph_file
from mmfree_neuro.graph.nodes import Graph
from mmfree_neuro.hgrn_bit.config import ModelConfig
from mmfree_neuro.model import checkpoint as checkpoints
from mmfree_neuro.model.checkpoint import Checkpoint, read_tokenizer
from mmfree_neuro.model.tokenizer import Spelling, speller
from mmfree_neuro.pipeline import engines, simulate
from mmfree_neuro.pipeline.convert import text_warnings
from mmfree_neuro.pipeline.text import CALIBRATION_WINDOW, calibration_windows
from mmfree_neuro.run import run_file

pytestmark = pytest.mark.slow

SPECIAL = ["<unk>", "<s>", "</s>"]
WORDS = [
    "▁o",
    "▁on",
    "▁onc",
    "▁once",
    "▁u",
    "▁up",
    "▁upo",
    "▁upon",
    "▁a",
    "▁t",
    "▁ti",
    "▁tim",
    "▁time",
]
SENTENCE = "once upon a time the cat sat on a mat, once more."


def made_up_tokenizer() -> str:
    """A small one as the published models have it: bytes for what has no token, <s> before a
    text."""
    tokens = [
        *SPECIAL,
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *"▁abcdefghijklmnopqrstuvwxyz.,",
        *WORDS,
    ]
    merges = [(word[:-1], word[-1]) for word in WORDS]
    model = BPE(
        {t: k for k, t in enumerate(tokens)},
        merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    made = Tokenizer(model)
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    return str(made.to_str())


JSON = made_up_tokenizer()
SIZE = Tokenizer.from_str(JSON).get_vocab_size()
SPELLING = Spelling(SIZE + 5, JSON)
Files = Callable[[str], str]
"""The path of a file by its name, as text."""


def as_text(tokens: Iterable[int]) -> str:
    """Tokens as that tokenizer shows them."""
    with speller(SPELLING) as by:
        return by.decode(tokens)


@pytest.fixture(scope="session")
def config(random_checkpoint: Callable[[str], Checkpoint]) -> ModelConfig:
    """Of the model with the tokenizer, which has five words more."""
    found: ModelConfig = random_checkpoint("with-a-tokenizer").config
    assert found.vocab_size == SIZE + 5
    return found


def write_checkpoint(folder: Path, config: ModelConfig, content: str | bytes | None = JSON) -> Path:
    """A random model, and its tokenizer where there is one."""
    random, shapes = np.random.default_rng(5), config.shapes()
    tensors = {
        name: random.normal(float(name.endswith("norm.weight")), 0.2, shapes[name]).astype(
            np.float32
        )
        for name in shapes
    }
    checkpoints.write(folder, Checkpoint(config, tensors), "float32")
    if content is not None:
        (folder / "tokenizer.json").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
    return folder


@pytest.fixture(scope="module")
def files(
    tmp_path_factory: pytest.TempPathFactory,
    random_graph: Callable[[str, str], Graph],
    config: ModelConfig,
) -> Files:
    """A checkpoint with a tokenizer, a text, and a graph with that tokenizer and its mapping."""
    folder = tmp_path_factory.mktemp("files")
    write_checkpoint(folder / "checkpoint", config)
    (folder / "text").write_text(f"{SENTENCE}\n" * 400, encoding="utf-8")
    graph = replace(random_graph("with-a-tokenizer", "a16"), tokenizer=JSON)
    graph_file.save_graph(graph, folder / "model.graph")

    def files(name: str) -> str:
        return str(folder / name)

    where = ["--system", "kapoho-point", "--block-per-chip", "--cores", "3"]
    assert main(["map", files("model.graph"), *where, "-o", files("model.map")]) == 0
    return files


@pytest.fixture(scope="module")
def converted(files: Files, tmp_path_factory: pytest.TempPathFactory, needs_torch: None) -> Path:
    """The graph that the command makes of the checkpoint and the text."""
    output = tmp_path_factory.mktemp("converted") / "model.graph"
    source = ["convert", files("checkpoint"), "--calibrate", files("text")]
    assert main([*source, "-o", str(output)]) == 0
    return output


def test_the_graph_carries_the_tokenizer(converted: Path, tmp_path: Path) -> None:
    graph, _ = graph_file.load_graph(converted)
    assert graph.tokenizer == JSON
    assert (graph.bos, graph.eos, graph.as_bytes) == (1, (2,), False)
    graph_file.save_graph(graph, tmp_path / "again.graph")
    assert (tmp_path / "again.graph").read_bytes() == converted.read_bytes()
    graph_file.save_graph(replace(graph, tokenizer=None), tmp_path / "without.graph")
    assert graph_file.load_graph(tmp_path / "without.graph")[0].tokenizer is None


def test_a_damaged_tokenizer_is_found(files: Files, tmp_path: Path) -> None:
    """It lies in the file as it was, and has its checksum like every array."""
    data = Path(files("model.graph")).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    at = data.index("▁upon".encode(), start)
    path = tmp_path / "model.graph"
    path.write_bytes(data[:at] + b"*" + data[at + 1 :])
    with pytest.raises(GraphError) as error:
        graph_file.load_graph(path)
    assert str(error.value) == (
        f"{path}: not a graph file: it is damaged, for bytes 0 … {len(data) - start} of its arrays "
        "differ from their checksum"
    )


def test_what_is_calibrated_on_are_words(
    files: Files, converted: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Windows of one length, each a text of its own as the tokenizer writes it, of the side that
    they are for."""
    from mmfree_kernels.float_model import calibrate

    seen: list[Any] = []
    measured = calibrate.calibrate

    def watched(checkpoint: Checkpoint, tokens: np.ndarray, *rest: Any, **more: Any) -> Any:
        seen.append(tokens)
        return measured(checkpoint, tokens, *rest, **more)

    monkeypatch.setattr(calibrate, "calibrate", watched)
    arguments = [
        "convert",
        files("checkpoint"),
        "-o",
        str(tmp_path / "model.graph"),
        "--calibrate",
        files("text"),
    ]
    assert main(arguments) == 0
    assert (tmp_path / "model.graph").read_bytes() == converted.read_bytes()
    calibration, held_out = calibration_windows(files("text"), (32, 16), SPELLING)
    assert np.array_equal(seen[0], calibration)
    once = Tokenizer.from_str(JSON).token_to_id("▁once")
    for tokens in (calibration, held_out):
        assert tokens.dtype == np.int64
        assert (tokens[:, 0] == 1).all()
        assert 10 < tokens.shape[1] <= CALIBRATION_WINDOW + 1
        assert (tokens == once).any()
        decoded = as_text(tokens[0])
        assert decoded.strip() in f"{SENTENCE}\n" * 400
    graph, _ = graph_file.load_graph(tmp_path / "model.graph")
    assert graph.quality["tokens"] == held_out[:, 1:].size


def test_without_a_tokenizer_windows_are_bytes(files: Files) -> None:
    calibration, held_out = calibration_windows(files("text"), (4, 2), Spelling(256))
    assert calibration.shape == (4, CALIBRATION_WINDOW)
    assert held_out.shape[1] == CALIBRATION_WINDOW + 1
    assert bytes(calibration[0].astype(np.uint8)).decode() in f"{SENTENCE}\n" * 400


def test_a_run_prints_text(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt, out = "once upon a", tmp_path / "run"
    what = [
        "--prompt",
        prompt,
        "--new-tokens",
        "12",
        "--temperature",
        "2",
        "--engine",
        "fast",
        "-o",
        str(out),
    ]
    assert main(["simulate", files("model.map"), *what]) == 0
    said = capsys.readouterr().out
    run = run_file.load_run(out)
    assert list(run.only.prompt_tokens) == [
        1,
        *map(Tokenizer.from_str(JSON).token_to_id, ("▁once", "▁upon", "▁a")),
    ]
    assert len(run.only.new_tokens) == 12
    assert run.only.text == as_text(run.only.new_tokens)
    assert said.startswith(f"{prompt}{run.only.text}\n\n")
    assert max(run.only.new_tokens) > 255
    assert main(["simulate", files("model.map"), *what, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["text"] == run.only.text


def test_a_run_says_the_words_that_were_chosen(
    files: Files,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Were they these, the text would go on with a space and these words."""
    words = [
        Tokenizer.from_str(JSON).token_to_id(word)
        for word in ("▁once", "▁upon", "▁a", "▁time", ".")
    ]
    start = engines.engine_named("fast")

    def eloquent(*arguments: Any) -> Any:
        result = start(*arguments)
        return replace(result, outcomes=(replace(result.outcomes[0], chosen=np.array(words)),))

    monkeypatch.setattr(simulate, "engine_named", lambda *_: eloquent)
    what = [
        "--prompt",
        "the cat,",
        "--new-tokens",
        "5",
        "--engine",
        "fast",
        "-o",
        str(tmp_path / "run"),
    ]
    assert main(["simulate", files("model.map"), *what]) == 0
    assert capsys.readouterr().out.startswith("the cat, once upon a time.\n\n")
    assert run_file.load_run(tmp_path / "run").only.text == " once upon a time."


def test_logits_of_a_folder_are_those_of_its_graph(
    files: Files, converted: Path, tmp_path: Path
) -> None:
    """Converted on the way, calibrated by the same words."""
    np.save(tmp_path / "tokens.npy", np.array([[1, SIZE - 1, 7]]))
    found = []
    for number, source in enumerate((files("checkpoint"), str(converted))):
        out = str(tmp_path / f"{number}.npy")
        arguments = [
            "logits",
            source,
            "--tokens",
            str(tmp_path / "tokens.npy"),
            "-o",
            out,
            "--engine",
            "fast",
        ]
        assert main([*arguments, "--calibrate", files("text")]) == 0
        found.append(np.load(out))
    assert np.array_equal(*found)


# What is wrong.


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command ends."""
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("mmfree-neuro: ")
    assert said.err.count("\n") == 1
    return said.err.removeprefix("mmfree-neuro: ").rstrip("\n")


@pytest.mark.usefixtures("needs_torch")
def test_a_tokenizer_of_more_tokens_than_its_model(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], config: ModelConfig
) -> None:
    """They are refused where a text has them, and only there."""
    folder = write_checkpoint(tmp_path / "checkpoint", replace(config, vocab_size=SIZE - 1))
    graph, others = str(tmp_path / "model.graph"), tmp_path / "others"
    arguments = ["convert", str(folder), "-o", graph, "--calibrate"]
    assert refused([*arguments, files("text")], capsys) == (
        f"{files('text')}: holds token {SIZE - 1}, which is outside the vocabulary 0 … {SIZE - 2}"
    )
    assert not Path(graph).exists()
    others.write_text("once upon a cat\n" * 400, encoding="utf-8")
    assert main([*arguments, str(others)]) == 0
    mapping, run = str(tmp_path / "model.map"), str(tmp_path / "run")
    assert (
        main(
            [
                "map",
                graph,
                "--system",
                "kapoho-point",
                "--block-per-chip",
                "--cores",
                "3",
                "-o",
                mapping,
            ]
        )
        == 0
    )
    what = ["simulate", mapping, "--engine", "fast", "--new-tokens", "1", "-o", run, "--prompt"]
    capsys.readouterr()
    assert refused([*what, "a time"], capsys) == (
        f"token {SIZE - 1} is outside the vocabulary, must be 0 … {SIZE - 2}"
    )
    assert main([*what, "a cat"]) == 0


@pytest.mark.usefixtures("needs_torch")
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("{\n", "EOF while parsing an object at line 2 column 0"),
        ("{}", "Model missing. at line 1 column 2"),
    ],
)
def test_a_tokenizer_that_is_none(
    content: str,
    problem: str,
    files: Files,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    config: ModelConfig,
) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", config, content=content)
    arguments = [
        "convert",
        str(folder),
        "-o",
        str(tmp_path / "model.graph"),
        "--calibrate",
        files("text"),
    ]
    assert refused(arguments, capsys) == (
        f"tokenizer.json: is not readable ({problem}), must be a tokenizer in the format of "
        "Hugging Face tokenizers"
    )
    assert not (tmp_path / "model.graph").exists()


def test_reading_a_tokenizer(tmp_path: Path) -> None:
    assert read_tokenizer(tmp_path) is None
    assert read_tokenizer(tmp_path / "none") is None
    path = tmp_path / "tokenizer.json"
    path.write_text("▁any text", encoding="utf-8")
    assert read_tokenizer(tmp_path) == "▁any text"


def test_a_tokenizer_that_cannot_be_read(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], config: ModelConfig
) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", config, content=b'{"\xff"}')
    path = folder / "tokenizer.json"
    for problem in (
        ", or damaged (\"'utf-8' codec can't decode ...sition 2: invalid start byte\")",
        ": is a folder, must be a regular file",
    ):
        message = f"{path}: not a tokenizer in JSON{problem}"
        with pytest.raises(CheckpointError) as error:
            read_tokenizer(folder)
        assert str(error.value) == message
        arguments = [
            "convert",
            str(folder),
            "-o",
            str(tmp_path / "model.graph"),
            "--calibrate",
            files("text"),
        ]
        assert refused(arguments, capsys) == message
        path.unlink(missing_ok=True) if path.is_file() else shutil.rmtree(path)
        path.mkdir()
    assert not (tmp_path / "model.graph").exists()


def test_a_prompt_that_is_empty(files: Files, tmp_path: Path) -> None:
    """It begins with the first token of the model."""
    what = ["--prompt", "", "--new-tokens", "2", "--engine", "fast", "-o", str(tmp_path / "run")]
    assert main(["simulate", files("model.map"), *what]) == 0
    assert run_file.load_run(tmp_path / "run").only.prompt_tokens == (1,)


@pytest.mark.usefixtures("needs_torch")
@pytest.mark.parametrize(
    "content", ["once " * 9, "ti" * 21, SENTENCE], ids=["words", "one-word", "sentence"]
)
@pytest.mark.parametrize("first", [True, False], ids=["first-token", "no-first-token"])
def test_a_text_of_few_words(
    content: str,
    first: bool,
    files: Files,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    config: ModelConfig,
) -> None:
    """Two bytes are held out; where they are one token, nothing can be predicted from it."""
    made = Tokenizer.from_str(JSON)
    if not first:
        made.post_processor = processors.TemplateProcessing("$A", special_tokens=[])
    folder = write_checkpoint(tmp_path / "checkpoint", config, content=made.to_str())
    (tmp_path / "text").write_text(content, encoding="utf-8")
    arguments = [
        "convert",
        str(folder),
        "-o",
        str(tmp_path / "model.graph"),
        "--calibrate",
        str(tmp_path / "text"),
    ]
    if content == "ti" * 21 and not first:
        message = "a part of the text has 1 tokens, must have at least 2 to calibrate on"
        assert refused(arguments, capsys) == message
        assert not (tmp_path / "model.graph").exists()
        return
    assert main(arguments) == 0
    quality = graph_file.load_graph(tmp_path / "model.graph")[0].quality
    assert quality["tokens"] >= 1
    assert np.isfinite(list(quality.values())).all()


# Models without a tokenizer.


NEITHER = (
    f"the model has no tokenizer, and its vocabulary of {SIZE + 5} tokens is not one of bytes: put "
    "its tokenizer.json beside the weights and convert again, or have text read as bytes with "
    "--bytes"
)


@pytest.mark.usefixtures("needs_torch")
def test_a_vocabulary_that_is_not_of_bytes(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], config: ModelConfig
) -> None:
    """Text is refused everywhere, and token ids are not."""
    folder = write_checkpoint(tmp_path / "checkpoint", config, content=None)
    np.save(tmp_path / "ids.npy", np.random.default_rng(1).integers(0, SIZE + 5, (8, 33)))
    graph, mapping = str(tmp_path / "model.graph"), str(tmp_path / "model.map")
    convert = ["convert", str(folder), "-o", graph, "--calibrate"]
    logits = ["logits", str(folder), "--engine", "fast", "--tokens", str(tmp_path / "ids.npy")]
    logits += ["-o", str(tmp_path / "logits.npy"), "--calibrate"]
    assert refused([*convert, files("text")], capsys) == NEITHER
    assert refused([*logits, files("text")], capsys) == NEITHER
    assert not Path(graph).exists()
    assert main([*logits, str(tmp_path / "ids.npy")]) == 0
    assert main([*convert, str(tmp_path / "ids.npy")]) == 0
    assert (
        main(
            [
                "map",
                graph,
                "--system",
                "kapoho-point",
                "--block-per-chip",
                "--cores",
                "3",
                "-o",
                mapping,
            ]
        )
        == 0
    )
    simulate = ["simulate", mapping, "--engine", "fast", "--prompt", "ab", "--ignore-eos"]
    simulate += ["--new-tokens", "6", "--temperature", "9", "-o", str(tmp_path / "run")]
    capsys.readouterr()
    assert refused(simulate, capsys) == NEITHER
    assert not (tmp_path / "run").exists()
    assert main([*simulate, "--bytes"]) == 0
    run = run_file.load_run(tmp_path / "run")
    assert run.only.prompt_tokens == (1, *b"ab")
    assert max(run.only.new_tokens) > 255
    assert run.only.text.count("\ufffd") >= sum(token > 255 for token in run.only.new_tokens)


@pytest.mark.usefixtures("needs_torch")
def test_bytes_where_one_asks_for_them(files: Files, tmp_path: Path, config: ModelConfig) -> None:
    """Whatever tokenizer there is; the graph remembers."""
    for content in (None, JSON):
        folder = write_checkpoint(tmp_path / "checkpoint", config, content=content)
        graph, mapping = str(tmp_path / "model.graph"), str(tmp_path / "model.map")
        assert (
            main(["convert", str(folder), "-o", graph, "--calibrate", files("text"), "--bytes"])
            == 0
        )
        found, _ = graph_file.load_graph(Path(graph))
        assert (found.tokenizer, found.as_bytes) == (None, True)
        assert (
            main(
                [
                    "map",
                    graph,
                    "--system",
                    "kapoho-point",
                    "--block-per-chip",
                    "--cores",
                    "3",
                    "-o",
                    mapping,
                ]
            )
            == 0
        )
        what = ["--engine", "fast", "--new-tokens", "2", "-o", str(tmp_path / "run")]
        assert main(["simulate", mapping, "--prompt", "ab", *what]) == 0
        assert run_file.load_run(tmp_path / "run").only.prompt_tokens == (1, *b"ab")
    assert main(["simulate", files("model.map"), "--bytes", "--prompt", "ab", *what]) == 0
    assert run_file.load_run(tmp_path / "run").only.prompt_tokens == (1, *b"ab")


def test_special_tokens_of_a_prompt(files: Files, tmp_path: Path) -> None:
    what = ["--new-tokens", "2", "--engine", "fast", "-o", str(tmp_path / "run")]
    simulate = ["simulate", files("model.map"), "--prompt", "a</s>", *what]
    assert main(simulate) == 0
    assert 2 not in run_file.load_run(tmp_path / "run").only.prompt_tokens
    assert main([*simulate, "--special"]) == 0
    tokens = run_file.load_run(tmp_path / "run").only.prompt_tokens
    assert tokens == tuple(Tokenizer.from_str(JSON).encode("a</s>").ids)
    assert tokens[-1] == 2


def test_a_tokenizer_that_the_library_cannot_use(
    random_graph: Callable[[str, str], Graph], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line, though the library panics or aborts."""
    content = json.loads(JSON)
    for blob in ("AAAA", "/////w=="):
        content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": blob}
        graph = replace(random_graph("with-a-tokenizer", "a16"), tokenizer=json.dumps(content))
        graph_file.save_graph(graph, tmp_path / "model.graph")
        where = ["--system", "kapoho-point", "--block-per-chip", "--cores", "3"]
        where += ["-o", str(tmp_path / "model.map")]
        assert main(["map", str(tmp_path / "model.graph"), *where]) == 0
        capfd.readouterr()
        what = ["--prompt", "a", "--engine", "fast", "-o", str(tmp_path / "run")]
        assert main(["simulate", str(tmp_path / "model.map"), *what]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith("mmfree-neuro: tokenizer.json: ")
        assert err.count("\n") == 1


# Tokens that there are not.


@pytest.mark.usefixtures("needs_torch")
def test_a_first_token_that_no_text_of_bytes_can_have(
    random_checkpoint: Callable[[str], Checkpoint],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Converting says so, token ids are taken, and a prompt is refused."""
    model = random_checkpoint("small")
    config = replace(model.config, bos_token_id=-1, eos_token_id=(2, 256))
    checkpoints.write(tmp_path / "model", Checkpoint(config, model.tensors), "float32")
    np.save(tmp_path / "ids.npy", np.random.default_rng(1).integers(0, 256, (8, 33)))
    graph, mapping = str(tmp_path / "model.graph"), str(tmp_path / "model.map")
    what = ["convert", str(tmp_path / "model"), "--calibrate", str(tmp_path / "ids.npy")]
    assert main([*what, "-o", graph]) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if "_token_id" in line] == [
        "mmfree-neuro: warning: no text ends at token 256 (eos_token_id), which is outside the "
        "vocabulary 0 … 255",
        "mmfree-neuro: warning: token -1 (bos_token_id) stands before a text of bytes and is "
        "outside the vocabulary 0 … 255: prompts are refused, until config.json has one that is "
        "not, or null",
    ]
    where = ["--system", "kapoho-point", "--block-per-chip", "--cores", "3", "-o", mapping]
    assert main(["map", graph, *where]) == 0
    logits = ["--tokens", str(tmp_path / "ids.npy"), "-o", str(tmp_path / "logits.npy")]
    assert main(["logits", mapping, "--engine", "fast", *logits]) == 0
    capsys.readouterr()
    simulate = ["simulate", mapping, "--engine", "fast", "--prompt", "a"]
    assert refused([*simulate, "-o", str(tmp_path / "run")], capsys) == (
        "the model puts token -1 before a text (bos_token_id of config.json), must be one of its "
        "vocabulary 0 … 255, or null"
    )


def test_what_is_said_of_texts(random_graph: Callable[[str, str], Graph]) -> None:
    graph = replace(random_graph("with-a-tokenizer", "a16"), bos=-1, eos=(2,))
    assert text_warnings(replace(graph, tokenizer=JSON)) == ()
    assert text_warnings(graph) == (
        "the model has no tokenizer, and its vocabulary is not one of bytes: it takes token ids, "
        "and text only with --bytes",
        "token -1 (bos_token_id) stands before a text of bytes and is outside the vocabulary 0 … "
        f"{SIZE + 4}: prompts are refused, until config.json has one that is not, or null",
    )
    assert text_warnings(replace(graph, as_bytes=True, eos=(-1,))) == (
        f"no text ends at token -1 (eos_token_id), which is outside the vocabulary 0 … {SIZE + 4}",
        "token -1 (bos_token_id) stands before a text of bytes and is outside the vocabulary 0 … "
        f"{SIZE + 4}: prompts are refused, until config.json has one that is not, or null",
    )
