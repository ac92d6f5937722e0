"""Checkpoints: configuration, tensors in each of their formats, index, tokenizer."""

import json
import pickle
import random
import struct
import zipfile
from pathlib import Path
from typing import Any

from fuzzing.case import Case, Must
from fuzzing.kinds import results
from fuzzing.material import Material
from fuzzing.values import change, change_bytes, some_path, with_value

SIZES = {
    "vocab_size": 256,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_heads": 1,
    "intermediate_size": 24,
    "expand_ratio": 1,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_ratio": 4,
}
HUGE = ["1000000", "100000000", "1000000000000", str(2**63), "9" * 400, "9" * 5000, "1e30"]
OTHER_MATHS = {
    "rotary_embeddings": "true",
    "use_moe": "true",
    "num_experts": "8",
    "quantization_config": '{"quant_method": "bitnet", "bits": 2}',
    "use_short_conv": "true",
    "attn_mode": '"chunk"',
    "hidden_act": '"gelu"',
    "rope_scaling": '{"type": "linear", "factor": 2.0}',
    "sliding_window": "4096",
}
"""Keys of a model that computes something else, and a value that asks for it."""
HARMLESS = {
    "eos_token_id": "[2, 7]",
    "pad_token_id": "100000",
    "transformers_version": '"5.0.0"',
    "torch_dtype": '"float16"',
    "initializer_range": "0.5",
    "use_cache": "false",
    "_name_or_path": '"somebody/some-model"',
    "max_position_embeddings": "4096",
}
"""Keys whose value changes nothing that is computed."""
UNUSED = "bos_token_id", "eos_token_id"
"""What commands that read tokens alone do not need."""
INSPECT = ("inspect", "checkpoint")
FLOAT = ("logits", "checkpoint", "--engine", "float", "--tokens", "tokens.npy", "-o", "out.npy")


def _write(folder: Path, text: str) -> None:
    (folder / "checkpoint" / "config.json").write_bytes(text.encode(errors="surrogatepass"))


def configuration(draw: random.Random, material: Material, folder: Path) -> Case:
    """The configuration, read to be shown."""
    material.bring(folder, "checkpoint")
    tree = material.json("checkpoint/config.json")
    must: Must = "either"
    which = draw.random()
    if which < 0.2:
        name = draw.choice([k for k in SIZES if k not in ("hidden_ratio", "num_heads")])
        value = draw.choice(HUGE)
        what, text = f"{name} is {value[:20]}", with_value(tree, (name,), value)
        must = "either" if name in UNUSED else "be refused"
    elif which < 0.35:
        name, value = draw.choice(list(OTHER_MATHS.items()))
        what, text, must = f"{name} is {value}", with_value(tree, (name,), value), "be refused"
    elif which < 0.45:
        name, value = draw.choice(list(HARMLESS.items()))
        what, text, must = f"{name} is {value}", with_value(tree, (name,), value), "be accepted"
    elif which < 0.6:
        what, data = change_bytes(draw, json.dumps(tree).encode())
        (folder / "checkpoint" / "config.json").write_bytes(data)
        return Case(what, (INSPECT,), names=("config.json", "checkpoint"))
    else:
        name = draw.choice(list(SIZES)) if draw.random() < 0.6 else ""
        what, text, _ = change(draw, tree, (name,) if name in tree else None)
    _write(folder, text)
    return Case(what, (INSPECT,), names=("config.json", "checkpoint"), must=must)


def computed(draw: random.Random, material: Material, folder: Path) -> Case:
    """The configuration, and the float model that it describes."""
    case = configuration(draw, material, folder)
    material.bring(folder, "tokens.npy")
    command = FLOAT
    if draw.random() < 0.3:
        command = ("convert", "checkpoint", "-o", "out.graph", "--calibrate", "text.txt")
        material.bring(folder, "text.txt")
        return Case(case.what, (command,), case.names, ("out.graph",), must=case.must)
    return Case(case.what, (command,), case.names, ("out.npy",), results.finite(), case.must)


def _header(data: bytes) -> tuple[Any, bytes]:
    size = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:size]), data[size:]


def _with_header(text: str, tensors: bytes) -> bytes:
    head = text.encode(errors="surrogatepass")
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + tensors


def _tensor_file(draw: random.Random, data: bytes) -> tuple[str, bytes]:
    """A safetensors file with one change."""
    which = draw.random()
    if which < 0.35:
        return change_bytes(draw, data)
    header, tensors = _header(data)
    if which < 0.45:
        size = draw.choice([0, 1, 2**31, 2**63 - 1, 2**64 - 1, 100_000_001])
        return f"a header of {size} bytes", struct.pack("<Q", size) + data[8:]
    names = [name for name in header if name != "__metadata__"]
    name = draw.choice(names)
    if which < 0.6:
        field, value = draw.choice(
            [
                ("dtype", draw.choice(["F16", "F32", "F64", "I8", "BOOL", "F8_E4M3", "X", 5])),
                ("shape", draw.choice([[], [0], [-1, 4], [2**40, 2**40], [1.5], "x", [16]])),
                ("data_offsets", draw.choice([[0, 0], [5, 1], [-8, 8], [0, 2**63], [0], None])),
            ]
        )
        header[name][field] = value
        return f"{name}: {field} is {value}", _with_header(json.dumps(header), tensors)
    if which < 0.7:
        other = draw.choice(
            ["\x1b[31mred\x1b[0m", "module." + name, "a\0b", "\ud800", "x" * 5000, ""]
        )
        header[other] = header.pop(name)
        return f"{name} is named {other[:20]!r}", _with_header(json.dumps(header), tensors)
    if which < 0.75:
        prefix = draw.choice(["module.", "_orig_mod.", "model."])
        text = json.dumps({prefix + key: value for key, value in header.items()})
        return f"all names begin with {prefix}", _with_header(text, tensors)
    what, text, _ = change(draw, header, (name, *some_path(draw, header[name])))
    return what, _with_header(text, tensors)


def tensors(draw: random.Random, material: Material, folder: Path) -> Case:
    """The safetensors file, read to be shown."""
    material.bring(folder, "checkpoint")
    path = folder / "checkpoint" / "model.safetensors"
    what, data = _tensor_file(draw, path.read_bytes())
    path.write_bytes(data)
    return Case(what, (INSPECT,), names=("model.safetensors", "checkpoint"))


def tensors_computed(draw: random.Random, material: Material, folder: Path) -> Case:
    """The safetensors file, and the float model on it: its logits are finite."""
    case = tensors(draw, material, folder)
    material.bring(folder, "tokens.npy")
    path = folder / "checkpoint" / "model.safetensors"
    if draw.random() < 0.4:
        path.write_bytes((material.folder / "checkpoint" / "model.safetensors").read_bytes())
        what = _values(draw, path)
        return Case(what, (FLOAT,), case.names, ("out.npy",), results.finite())
    return Case(case.what, (FLOAT,), case.names, ("out.npy",), results.finite())


def _values(draw: random.Random, path: Path) -> str:
    """Some values of a tensor are extreme."""
    header, data = _header(path.read_bytes())
    name = draw.choice([key for key in header if key != "__metadata__"])
    first, last = header[name]["data_offsets"]
    what, pattern = draw.choice(
        [
            ("NaN", 0x7FC0),
            ("infinite", 0x7F80),
            ("3e38", 0x7F61),
            ("-3e38", 0xFF61),
            ("0", 0),
            ("1e-40", 0x0001),
        ]
    )
    count = draw.choice([1, (last - first) // 2])
    changed = bytearray(data)
    changed[first : first + 2 * count] = struct.pack("<H", pattern) * count
    path.write_bytes(_with_header(json.dumps(header), bytes(changed)))
    return f"{name}: {count} values are {what}"


def index(draw: random.Random, material: Material, folder: Path) -> Case:
    """The index of a checkpoint in several files."""
    material.bring(folder, "sharded")
    path = folder / "sharded" / "model.safetensors.index.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    which = draw.random()
    tensor = draw.choice(list(tree["weight_map"]))
    if which < 0.4:
        other = draw.choice(
            [
                "../checkpoint/model.safetensors",
                "/etc/passwd",
                "nothing",
                "",
                ".",
                "..",
                "a\0b",
                "\ud800",
                "config.json",
                "x" * 300,
                "a\x1b[31m.safetensors",
                "/dev/zero",
                None,
                5,
            ]
        )
        tree["weight_map"][tensor] = other
        what, text = f"{tensor} lies in {other!r}"[:80], json.dumps(tree)
        path.write_text(text, encoding="utf-8")
        names: tuple[str, ...] = ("index.json", "sharded")
        return Case(what, (("inspect", "sharded"),), names, must="be refused")
    if which < 0.6:
        what, data = change_bytes(draw, path.read_bytes())
        path.write_bytes(data)
    else:
        inside = ("weight_map", tensor) if which < 0.8 else None
        what, text, _ = change(draw, tree, inside)
        path.write_bytes(text.encode(errors="surrogatepass"))
    return Case(what, (("inspect", "sharded"),), names=("index.json", "sharded"))


class _Code:
    """What calls a function when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def bin_file(draw: random.Random, material: Material, folder: Path) -> Case:
    """A `.bin` file: bytes, members of its archive, what it would execute."""
    material.bring(folder, "bin")
    path = folder / "bin" / "pytorch_model.bin"
    which = draw.random()
    must: Must = "either"
    if which < 0.4:
        what, data = change_bytes(draw, path.read_bytes())
        path.write_bytes(data)
    elif which < 0.6:
        value = draw.choice([_Code(), {"a": _Code()}, [1, 2], {"a": 1}, None, "x" * 10**6])
        path.write_bytes(pickle.dumps(value, protocol=draw.choice([0, 2, 4])))
        what, must = f"a pickle of {type(value).__name__}", "be refused"
    else:
        what = _member(draw, path)
    return Case(what, (("inspect", "bin"),), names=("pytorch_model.bin", "bin"), must=must)


def _member(draw: random.Random, path: Path) -> str:
    """One member of the archive is changed, gone, or there twice."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = draw.choice(list(members))
    how = draw.choice(["changed", "gone", "named otherwise"])
    if how == "changed":
        said, members[name] = change_bytes(draw, members[name])
        how = said
    elif how == "gone":
        del members[name]
    else:
        members["../" + name] = members.pop(name)
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return f"{name}: {how}"


def _normalizer(draw: random.Random, tree: Any) -> str:
    charsmap = draw.choice(["AAAA", "/////w==", "", "AAAAAAAA", "/////////////w==", "x", None])
    tree["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": charsmap}
    return f"a Precompiled normalizer of {charsmap!r}"


def _words(draw: random.Random, tree: Any) -> str:
    vocabulary = {"ab": 5, "cd": 6}
    unknown = draw.choice(["<unk>", "", "nothing"])
    tree["model"] = {"type": "WordLevel", "vocab": vocabulary, "unk_token": unknown}
    tree["normalizer"] = tree["decoder"] = tree["post_processor"] = None
    tree["added_tokens"] = []
    return f"WordLevel without its unknown token {unknown!r}"


def _pattern(draw: random.Random, tree: Any) -> str:
    pattern = draw.choice(["(a+)+$", "(?<=", "[", "(" * 5000, "\\p{Foo}", "a{1000000000}", ""])
    tree["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }
    return f"a pattern {pattern[:20]!r}"


def _number(draw: random.Random, tree: Any) -> str:
    word = draw.choice(list(tree["model"]["vocab"]))
    number = draw.choice([320, 10**6, 2**31, 2**32 - 1, 2**32, -1, 2**63, 3.5])
    tree["model"]["vocab"][word] = number
    return f"{word!r} is {number}"


def _truncated(draw: random.Random, tree: Any) -> str:
    length = draw.choice([0, 1, 2**63])
    tree["truncation"] = {
        "direction": "Right",
        "max_length": length,
        "strategy": "LongestFirst",
        "stride": draw.choice([0, 5]),
    }
    return f"texts are cut to {length}"


SPECIAL = _normalizer, _normalizer, _words, _pattern, _number, _truncated


def changed_tokenizer(draw: random.Random, text: str) -> tuple[str, str]:
    """A `tokenizer.json` with one change."""
    tree, which = json.loads(text), draw.random()
    if which < 0.5:
        what = draw.choice(SPECIAL)(draw, tree)
        return what, json.dumps(tree)
    if which < 0.6:
        what, data = change_bytes(draw, text.encode())
        return what, data.decode(errors="replace")
    path = some_path(draw, tree)
    while path[:2] == ("model", "vocab") and draw.random() < 0.9:
        path = some_path(draw, tree)
    what, changed, _ = change(draw, tree, path)
    return what, changed.encode(errors="replace").decode()


def tokenizer(draw: random.Random, material: Material, folder: Path) -> Case:
    """The tokenizer of a checkpoint, which is converted."""
    material.bring(folder, "worded", "text.txt")
    path = folder / "worded" / "tokenizer.json"
    what, text = changed_tokenizer(draw, path.read_text(encoding="utf-8"))
    path.write_text(text, encoding="utf-8")
    command = ("convert", "worded", "-o", "out.graph", "--calibrate", "text.txt")
    return Case(what, (command,), ("tokenizer.json", "worded", "text.txt"), ("out.graph",))
