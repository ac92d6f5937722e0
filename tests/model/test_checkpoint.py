"""Checkpoints in the published format are read as they are stored, and whatever else is there has a
message."""

import json
import os
import shutil
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mmfree_neuro.errors import CheckpointError, shown
from mmfree_neuro.hgrn_bit.config import (
    FAMILY,
    ModelConfig,
    default_intermediate_size,
    parse_config,
)
from mmfree_neuro.hgrn_bit.names import head_weight
from mmfree_neuro.model.checkpoint import Checkpoint, read, write
from mmfree_neuro.model.tensors import Entries, read_safetensors, to_bfloat16

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = ModelConfig(vocab_size=5, hidden_size=4, num_hidden_layers=2, intermediate_size=3)
WHERE = Path("config.json")
A_BIN = "a file of tensors written by torch.save"
STORED = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "I32": np.int32}
LONG = {"F64": "float64", "F32": "float32", "F16": "float16", "I32": "int32", "BF16": "bfloat16"}

Arrays = Mapping[str, NDArray[Any]]


def load_bin(path: Path) -> Entries:
    """A .bin file, which takes torch."""
    torch_bin = pytest.importorskip("mmfree_kernels.float_model.torch_bin")
    entries: Entries = torch_bin.load_bin(path)
    return entries


def in_torch(values: NDArray[Any], dtype: str | None = None) -> Any:
    """An array as a tensor."""
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(values)
    return tensor if dtype is None else tensor.to(getattr(torch, dtype))


def torch_save(state: object, path: Path, **how: Any) -> None:
    """Write a .bin file."""
    pytest.importorskip("torch").save(state, path, **how)


def tiny(config: ModelConfig = TINY) -> Checkpoint:
    """Multiples of 1/8 up to 4, which every stored type holds."""
    draw = np.random.default_rng(0)
    shapes = config.shapes()
    return Checkpoint(
        config, {n: (draw.integers(-32, 33, s) / 8).astype(np.float32) for n, s in shapes.items()}
    )


def save(path: Path, tensors: Arrays, kind: str = "F32") -> None:
    """Write a safetensors file whose tensors are all of one stored type."""
    kept = {
        name: to_bfloat16(np.array(value)) if kind == "BF16" else np.array(value, STORED[kind])
        for name, value in tensors.items()
    }  # the specs hold addresses
    specs = {
        name: safetensors.TensorSpec(
            dtype=LONG[kind], shape=list(a.shape), data_ptr=a.ctypes.data, data_len=a.nbytes
        )
        for name, a in kept.items()
    }
    path.write_bytes(bytes(safetensors.serialize(specs, {"format": "pt"})))


def folder(path: Path, checkpoint: Checkpoint) -> Path:
    """A folder with only a config.json."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(
        json.dumps(checkpoint.config.to_json("float32")), encoding="utf-8"
    )
    return path


def message(path: Path) -> str:
    """What the user of a wrong folder is told."""
    with pytest.raises(CheckpointError) as error:
        read(path, load_bin, FAMILY)
    return str(error.value)


def equal(a: Arrays, b: Arrays) -> bool:
    return list(a) == list(b) and all(
        a[n].dtype == b[n].dtype and np.array_equal(a[n], b[n]) for n in a
    )


# What is stored


def test_golden_folder() -> None:
    found = read(GOLDEN / "a_h64_l2_v256" / "checkpoint", load_bin, FAMILY)
    assert found.config == ModelConfig(256, 64, 2, intermediate_size=256)
    assert list(found.tensors) == list(found.config.shapes())
    assert all(value.dtype == np.float32 for value in found.tensors.values())


def test_golden_folder_in_bfloat16() -> None:
    found = read(GOLDEN / "trained" / "checkpoint", load_bin, FAMILY)
    assert found.config == ModelConfig(
        256, 128, 3, intermediate_size=256, bos_token_id=None, eos_token_id=None
    )
    assert all(not (value.view(np.uint32) & 0xFFFF).any() for value in found.tensors.values())


@pytest.mark.parametrize("kind", ["F64", "F32", "F16", "BF16"])
def test_every_stored_type_is_read_as_float32(tmp_path: Path, kind: str) -> None:
    save(folder(tmp_path, tiny()) / "model.safetensors", tiny().tensors, kind)
    assert equal(read(tmp_path, load_bin, FAMILY).tensors, tiny().tensors)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_bin(tmp_path: Path, dtype: str) -> None:
    state = {name: in_torch(value, dtype) for name, value in tiny().tensors.items()}
    torch_save(state, folder(tmp_path, tiny()) / "pytorch_model.bin")
    assert equal(read(tmp_path, load_bin, FAMILY).tensors, tiny().tensors)


@pytest.mark.parametrize("single", ["model.safetensors", "pytorch_model.bin"])
def test_shards_with_an_index(tmp_path: Path, single: str) -> None:
    names, stem = sorted(tiny().tensors), single.partition(".")
    weight_map = {
        name: f"{stem[0]}-{n % 2 + 1:05}-of-00002.{stem[2]}" for n, name in enumerate(names)
    }
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder(tmp_path, tiny()) / f"{single}.index.json").write_text(
        json.dumps(index), encoding="utf-8"
    )
    for file in set(weight_map.values()):
        part = {n: tiny().tensors[n] for n in names if weight_map[n] == file}
        if stem[2] == "bin":
            torch_save({n: in_torch(a) for n, a in part.items()}, tmp_path / file)
        else:
            save(tmp_path / file, part)
    assert equal(read(tmp_path, load_bin, FAMILY).tensors, tiny().tensors)


def test_safetensors_go_before_bin(tmp_path: Path) -> None:
    save(folder(tmp_path, tiny()) / "model.safetensors", tiny().tensors)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    assert equal(read(tmp_path, load_bin, FAMILY).tensors, tiny().tensors)


@pytest.mark.parametrize("spare", [False, True], ids=["as published", "with a spare head"])
def test_tied_heads(tmp_path: Path, spare: bool) -> None:
    checkpoint = tiny(replace(TINY, tie_word_embeddings=True))
    assert (
        "lm_head.weight" not in checkpoint.tensors and "lm_head.norm.weight" in checkpoint.tensors
    )
    extra = {"lm_head.weight": checkpoint.tensors["model.embeddings.weight"]} if spare else {}
    save(folder(tmp_path, checkpoint) / "model.safetensors", {**checkpoint.tensors, **extra})
    found = read(tmp_path, load_bin, FAMILY)
    assert equal(found.tensors, checkpoint.tensors)
    assert np.array_equal(head_weight(found), checkpoint.tensors["model.embeddings.weight"])


def test_head_of_its_own() -> None:
    checkpoint = tiny()
    assert head_weight(checkpoint) is checkpoint.tensors["lm_head.weight"]


def test_names_and_shapes_of_an_expanded_layer() -> None:
    config = replace(TINY, use_lower_bound=False, expand_ratio=2, num_hidden_layers=1)
    assert config.shapes() == {
        "model.embeddings.weight": (5, 4),
        "model.layers.0.attn_norm.weight": (4,),
        "model.layers.0.mlp_norm.weight": (4,),
        "model.layers.0.attn.i_proj.weight": (8, 4),
        "model.layers.0.attn.i_proj.norm.weight": (4,),
        "model.layers.0.attn.f_proj.weight": (8, 4),
        "model.layers.0.attn.f_proj.norm.weight": (4,),
        "model.layers.0.attn.g_proj.weight": (8, 4),
        "model.layers.0.attn.g_proj.norm.weight": (4,),
        "model.layers.0.attn.g_norm.weight": (8,),
        "model.layers.0.attn.o_proj.weight": (4, 8),
        "model.layers.0.attn.o_proj.norm.weight": (8,),
        "model.layers.0.mlp.gate_proj.weight": (6, 4),
        "model.layers.0.mlp.gate_proj.norm.weight": (4,),
        "model.layers.0.mlp.down_proj.weight": (4, 3),
        "model.layers.0.mlp.down_proj.norm.weight": (3,),
        "model.norm.weight": (4,),
        "lm_head.weight": (5, 4),
        "lm_head.norm.weight": (4,),
    }
    assert TINY.shapes()["model.lower_bounds"] == (2, 4)


@pytest.mark.parametrize(
    ("hidden", "layers", "intermediate", "parameters"),
    [
        (1024, 24, 2816, 374_108_160),
        (2048, 24, 5632, 1_364_779_008),
        (2560, 32, 6912, 2_702_357_504),
    ],
)
def test_published_sizes(hidden: int, layers: int, intermediate: int, parameters: int) -> None:
    raw = {
        "model_type": "hgrn_bit",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "intermediate_size": None,
    }
    config = parse_config(raw, WHERE)
    assert config.intermediate_size == intermediate
    assert config.parameters() == parameters
    assert sum(int(np.prod(shape)) for shape in config.shapes().values()) == parameters


# config.json


def test_missing_keys_take_the_published_defaults() -> None:
    expected = ModelConfig(
        vocab_size=32000,
        hidden_size=2048,
        num_hidden_layers=24,
        num_heads=1,
        expand_ratio=1,
        use_lower_bound=True,
        intermediate_size=5632,
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    assert parse_config({"model_type": "hgrn_bit"}, WHERE) == expected == ModelConfig()


@pytest.mark.parametrize(
    ("hidden", "ratio", "size"), [(64, 4, 256), (96, 4, 256), (97, 4, 512), (64, 8, 512)]
)
def test_intermediate_size_is_rounded_up_to_a_multiple_of_256(
    hidden: int, ratio: int, size: int
) -> None:
    assert default_intermediate_size(hidden, ratio) == size
    raw = {"model_type": "hgrn_bit", "hidden_size": hidden, "hidden_ratio": ratio}
    assert parse_config(raw, WHERE).intermediate_size == size
    assert parse_config(raw | {"intermediate_size": 7}, WHERE).intermediate_size == 7


def test_a_hidden_ratio_of_null_is_4() -> None:
    raw = {"model_type": "hgrn_bit", "hidden_size": 96, "hidden_ratio": None}
    assert parse_config(raw, WHERE).intermediate_size == 256


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, num_heads=2, rms_norm_eps=1e-3, bos_token_id=None, eos_token_id=None),
        replace(TINY, use_lower_bound=False, expand_ratio=1.5, tie_word_embeddings=True),
    ],
)
def test_a_configuration_is_read_as_it_was_written(config: ModelConfig) -> None:
    written = json.loads(json.dumps(config.to_json("bfloat16")))
    assert parse_config(written, WHERE) == config
    assert (written["architectures"], written["torch_dtype"]) == (
        ["HGRNBitForCausalLM"],
        "bfloat16",
    )


def test_a_written_configuration_has_the_published_keys() -> None:
    published = json.loads(
        (GOLDEN / "trained" / "checkpoint" / "config.json").read_text(encoding="utf-8")
    )
    assert published.keys() - TINY.to_json("bfloat16").keys() == {"transformers_version"}
    assert TINY.to_json("bfloat16").keys() <= published.keys()


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"attn_mode": "chunk"}, "config.json: attn_mode is 'chunk', must be 'fused_recurrent'"),
        ({"hidden_act": "gelu"}, "config.json: hidden_act is 'gelu', must be 'swish' or 'silu'"),
        ({"hidden_size": "64"}, "config.json: hidden_size is '64', must be int"),
        ({"hidden_size": 64.0}, "config.json: hidden_size is 64.0, must be int"),
        ({"hidden_size": True}, "config.json: hidden_size is True, must be int"),
        ({"vocab_size": None}, "config.json: vocab_size is None, must be int"),
        ({"num_hidden_layers": []}, "config.json: num_hidden_layers is [], must be int"),
        ({"num_heads": None}, "config.json: num_heads is None, must be int"),
        ({"expand_ratio": "1"}, "config.json: expand_ratio is '1', must be int or float"),
        ({"use_lower_bound": 1}, "config.json: use_lower_bound is 1, must be bool"),
        ({"use_lower_bound": None}, "config.json: use_lower_bound is None, must be bool"),
        ({"tie_word_embeddings": "no"}, "config.json: tie_word_embeddings is 'no', must be bool"),
        ({"hidden_ratio": "4"}, "config.json: hidden_ratio is '4', must be int or float or null"),
        ({"intermediate_size": 1.5}, "config.json: intermediate_size is 1.5, must be int or null"),
        (
            {"intermediate_size": False},
            "config.json: intermediate_size is False, must be int or null",
        ),
        ({"rms_norm_eps": "1e-6"}, "config.json: rms_norm_eps is '1e-6', must be int or float"),
        ({"bos_token_id": "<s>"}, "config.json: bos_token_id is '<s>', must be int or null"),
        ({"eos_token_id": "</s>"}, "config.json: eos_token_id is '</s>', must be int or null"),
        ({"eos_token_id": [2, "a"]}, "config.json: eos_token_id is 'a', must be int"),
        ({"eos_token_id": [None]}, "config.json: eos_token_id is None, must be int"),
        ({"eos_token_id": True}, "config.json: eos_token_id is True, must be int or null"),
        ({"vocab_size": 0}, "config.json: vocab_size is 0, must be positive"),
        ({"hidden_size": -4}, "config.json: hidden_size is -4, must be positive"),
        ({"num_hidden_layers": 0}, "config.json: num_hidden_layers is 0, must be positive"),
        ({"num_heads": 0}, "config.json: num_heads is 0, must be positive"),
        ({"intermediate_size": -1}, "config.json: intermediate_size is -1, must be positive"),
        ({"expand_ratio": 0}, "config.json: expand_ratio is 0, must be positive"),
        ({"rms_norm_eps": 0}, "config.json: rms_norm_eps is 0.0, must be between 0 and 1"),
        ({"rms_norm_eps": 1}, "config.json: rms_norm_eps is 1.0, must be between 0 and 1"),
        ({"rms_norm_eps": float("nan")}, "config.json: rms_norm_eps is nan, must be below 1e+12"),
        ({"num_heads": 3}, "config.json: num_heads is 3, must divide the state size 4"),
        ({"expand_ratio": 2}, "config.json: expand_ratio is 2, must be 1 with use_lower_bound"),
    ],
)
def test_wrong_configurations(changed: dict[str, Any], expected: str) -> None:
    with pytest.raises(CheckpointError) as error:
        parse_config(TINY.to_json("float32") | changed, WHERE)
    assert str(error.value) == expected


# What another architecture says of itself


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"use_short_conv": True}, "short convolutions"),
        ({"use_short_conv": "yes"}, "short convolutions"),
        ({"use_short_conv": None, "conv_bias": True}, "short convolutions"),
        ({"rotary_embeddings": True}, "rotary or other positions"),
        ({"rope_theta": 10000.0}, "rotary or other positions"),
        ({"rope_scaling": {"type": "linear"}}, "rotary or other positions"),
        ({"use_moe": True, "moe_num_experts": 4}, "a mixture of experts"),
        ({"num_local_experts": 8}, "a mixture of experts"),
        ({"moe": 1}, "a mixture of experts"),
        ({"quantization_config": {"quant_method": "gptq"}}, "another quantisation"),
        ({"weight_quant_group_size": 128}, "another quantisation"),
        ({"sliding_window": 4096}, "sliding windows"),
        ({"num_attention_heads": 8}, "attention"),
        ({"attn": {"layers": [1]}}, "attention"),
        ({"head_dim": 64}, "attention"),
        ({"mlp_bias": True}, "biases"),
        ({"lora_rank": 8}, "added weights"),
        ({"is_encoder_decoder": True}, "an encoder"),
        ({"layer_types": ["full"]}, "blocks of several kinds"),
        ({"decay_mode": "independent"}, "another forget gate"),
        ({"norm_eps": 1e-5}, "another norm"),
        ({"logit_scale": 0.5}, "factors on its values"),
        ({"use_mup": True}, "factors on its values"),
    ],
)
def test_another_architecture(changed: dict[str, Any], what: str) -> None:
    with pytest.raises(CheckpointError) as error:
        parse_config(TINY.to_json("float32") | changed, WHERE)
    name = next(name for name, value in changed.items() if value is not None)
    assert str(error.value) == (
        f"config.json: {name} is {changed[name]!r}, must be false or absent: such a model has "
        f"{what}, which this project does not run"
    )


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("attn_mode", "chunk", "'fused_recurrent'"),
        ("token_mixer", "hgrn2", "'hgrn'"),
        ("activation_quant_bits", 4, "8"),
        ("weight_quant_bits", 4, "2 or 1.58"),
        ("weight_quant_scale", "rms", "'mean_abs'"),
        ("quantize_lm_head", False, "True"),
        ("elementwise_affine", False, "True"),
    ],
)
def test_a_value_that_the_published_model_does_not_have(
    name: str, value: object, allowed: str
) -> None:
    with pytest.raises(CheckpointError) as error:
        parse_config(TINY.to_json("float32") | {name: value}, WHERE)
    assert str(error.value) == f"config.json: {name} is {value!r}, must be {allowed}"


@pytest.mark.parametrize(
    "changed",
    [
        {"hidden_act": "silu", "attn_mode": None, "use_short_conv": 0},
        {"use_moe": False, "moe_num_experts": 4, "moe_router_bias": True, "moe_layer_indices": []},
        {"rotary_embeddings": False, "rope_theta": 1e4, "use_ternary_rope": True},
        {"rope_scaling": None, "sliding_window": None, "attention_bias": False, "logit_scale": 1.0},
        {"quantization_config": None, "pruned_heads": {}, "position_embedding_type": "None"},
        {"conv_bias": True, "conv_size": 8, "share_conv_kernel": False},
        {"attention_dropout": 0.1, "max_position_embeddings": 1 << 20, "initializer_range": 1},
        {"dtype": "bfloat16", "_name_or_path": "x", "auto_map": {"AutoModel": "m.M"}},
        {"temperature": 0.7, "num_beams": 4, "id2label": {"0": "a"}, "is_decoder": True},
    ],
)
def test_what_does_not_change_the_model(changed: dict[str, Any]) -> None:
    raw = TINY.to_json("float32") | changed
    config = parse_config(raw, WHERE)
    assert config == TINY
    assert config.warnings(raw) == []


OF_TRANSFORMERS: tuple[tuple[object, str], ...] = (
    (
        None,
        """
        bad_words_ids begin_suppress_tokens cross_attention_hidden_size decoder_start_token_id
        exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
        pad_token_id prefix problem_type sep_token_id suppress_tokens task_specific_params
        tokenizer_class moe_noise_alpha moe_expert_intermediate_size
        """,
    ),
    (
        False,
        """
        add_cross_attention do_sample early_stopping is_decoder is_encoder_decoder output_attentions
        output_hidden_states output_scores remove_invalid_values return_dict_in_generate
        tf_legacy_loss tie_encoder_decoder torchscript use_bfloat16 use_moe moe_router_bias
        moe_grouped_topk
        """,
    ),
    (
        1,
        """
        chunk_size_feed_forward diversity_penalty encoder_no_repeat_ngram_size length_penalty
        max_length min_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences
        repetition_penalty temperature top_k top_p typical_p return_dict moe_num_experts
        moe_num_experts_per_tok moe_output_scale moe_topk_per_group
        """,
    ),
)


def test_what_transformers_writes_of_itself_is_known() -> None:
    """All that `PretrainedConfig` has with its values of version 4.40, and those of a public fork
    that has experts and does not use them."""
    base = {name: value for value, names in OF_TRANSFORMERS for name in names.split()}
    base |= {"pruned_heads": {}, "id2label": {"0": "a"}, "label2id": {"a": 0}}
    base |= {"_name_or_path": "", "moe_init_method": "copy_noise", "moe_layer_indices": [1]}
    raw = TINY.to_json("float32") | base
    assert parse_config(raw, WHERE) == TINY
    assert TINY.warnings(raw) == []


def test_unknown_keys_are_named(tmp_path: Path) -> None:
    save(folder(tmp_path, tiny()) / "model.safetensors", tiny().tensors)
    path = tmp_path / "config.json"
    odd = {"zeta": 1, "my\x1b[31mkey": None, "architectures": ["OtherModel"]}
    path.write_text(json.dumps(TINY.to_json("float32") | odd), encoding="utf-8")
    assert read(tmp_path, load_bin, FAMILY).warnings == (
        f"{path}: unknown keys are left out: my\\x1b[31mkey, zeta",
        f"{path}: architectures is ['OtherModel'], and the model is read as HGRNBitForCausalLM",
    )
    path.write_text(json.dumps(TINY.to_json("float32")), encoding="utf-8")
    assert read(tmp_path, load_bin, FAMILY).warnings == ()


def test_of_many_unknown_keys_some_are_named() -> None:
    odd = {f"odd{n:02}": n for n in range(11)}
    assert TINY.warnings(odd) == [
        "unknown keys are left out: odd00, odd01, odd02, odd03, odd04, odd05, odd06, odd07 and 3 "
        "others"
    ]


# Wrong folders


@pytest.mark.parametrize("family", ["llama", None, ["hgrn_bit"]])
def test_another_family(family: object, tmp_path: Path) -> None:
    config = TINY.to_json("float32") | {"model_type": family}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    said = f"{tmp_path}/config.json: model_type is {family!r}, must be 'hgrn_bit'"
    assert message(tmp_path) == said


def test_no_config(tmp_path: Path) -> None:
    assert (
        message(tmp_path)
        == f"{tmp_path}/config.json: no such file, must be a configuration in JSON"
    )


def test_a_config_that_is_not_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    assert message(tmp_path) == (
        f"{tmp_path}/config.json: not a configuration in JSON, or damaged ('Expecting property "
        "name enc...es: line 1 column 2 (char 1)')"
    )


def test_a_config_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff")
    assert message(tmp_path) == (
        f"{tmp_path}/config.json: not a configuration in JSON, or damaged (\"'utf-8' codec can't "
        'decode ...sition 0: invalid start byte")'
    )


def test_a_config_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    assert message(tmp_path) == (
        f"{tmp_path}/config.json: not a configuration in JSON: is a folder, must be a regular file"
    )


def test_a_config_that_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    assert message(tmp_path) == (
        f"{tmp_path}/config.json: not a configuration in JSON: is a pipe, must be a regular file"
    )


def test_a_config_that_is_not_an_object(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("[1]", encoding="utf-8")
    assert message(tmp_path) == (
        f"{tmp_path}/config.json: not a configuration in JSON: holds [1], must hold an object"
    )


@pytest.mark.parametrize("name", ["gone", "file"])
def test_a_checkpoint_that_is_no_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    what = {"gone": "no such folder", "file": "is a file"}[name]
    assert message(tmp_path / name) == (
        f"{tmp_path / name}: {what}, must be a folder with config.json and weights"
    )


def test_no_weights(tmp_path: Path) -> None:
    expected = "no weights; expected model.safetensors or pytorch_model.bin, whole or with an index"
    assert message(folder(tmp_path, tiny())) == f"{tmp_path}: {expected}"


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ({}, "weight_map is None, must map names of tensors to files"),
        ({"weight_map": ["a"]}, "weight_map is ['a'], must map names of tensors to files"),
        ({"weight_map": {}}, "weight_map is {}, must map names of tensors to files"),
        ({"weight_map": {"a": 1}}, "'a' is said to be in 1, must be in a file in the same folder"),
        (
            {"weight_map": {"a": "../model.safetensors"}},
            "'a' is said to be in '../model.safetensors', must be in a file in the same folder",
        ),
        (
            {"weight_map": {"a": ".."}},
            "'a' is said to be in '..', must be in a file in the same folder",
        ),
        (
            {"weight_map": {"a": ""}},
            "'a' is said to be in '', must be in a file in the same folder",
        ),
        (
            {"weight_map": {"a": "x\0"}},
            "'a' is said to be in 'x\\x00', must be in a file in the same folder",
        ),
    ],
)
def test_an_index_that_is_none(tmp_path: Path, index: dict[str, Any], expected: str) -> None:
    path = folder(tmp_path, tiny()) / "model.safetensors.index.json"
    path.write_text(json.dumps(index), encoding="utf-8")
    assert message(tmp_path) == f"{path}: not an index in JSON: {expected}"


@pytest.mark.parametrize("single", ["model.safetensors", "pytorch_model.bin"])
def test_a_missing_shard(tmp_path: Path, single: str) -> None:
    index = folder(tmp_path, tiny()) / f"{single}.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "gone"}}), encoding="utf-8")
    what = "a safetensors file" if single.endswith("tensors") else A_BIN
    assert message(tmp_path) == f"{tmp_path}/gone: no such file, must be {what}"


def test_a_tensor_in_two_shards(tmp_path: Path) -> None:
    names = list(tiny().tensors)
    weight_map = {name: "1" for name in names[1:]} | {names[0]: "2"}
    index = folder(tmp_path, tiny()) / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    save(tmp_path / "1", tiny().tensors)
    save(tmp_path / "2", {names[0]: tiny().tensors[names[0]]})
    assert message(tmp_path) == f"{tmp_path}/2: model.embeddings.weight is stored twice"


def test_a_cut_file(tmp_path: Path) -> None:
    path = folder(tmp_path, tiny()) / "model.safetensors"
    save(path, tiny().tensors)
    path.write_bytes(path.read_bytes()[:-1])
    assert message(tmp_path) == refusal(path)


def refusal(path: Path) -> str:
    """What is said of a file that safetensors refuses, with its reason."""
    with pytest.raises(safetensors.SafetensorError) as reason:
        safetensors.safe_open(path, framework="numpy")
    return f"{path}: not a safetensors file, or damaged ({shown(str(reason.value))})"


def entry(start: int, stop: int, count: int) -> dict[str, object]:
    """A line of a safetensors header."""
    return {"dtype": "F32", "shape": [count], "data_offsets": [start, stop]}


def headed(content: bytes, data_bytes: int = 0) -> bytes:
    """A safetensors file with this header."""
    return len(content).to_bytes(8, "little") + content + bytes(data_bytes)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        (1 << 63).to_bytes(8, "little") + b"{}",
        headed(b"{}")[:-1],
        headed(b"\xff{}"),
        headed(json.dumps({"a": entry(0, 4, 1), "b": entry(8, 12, 1)}).encode(), 12),
        headed(json.dumps({"a": entry(0, 8, 2), "b": entry(4, 12, 2)}).encode(), 12),
        headed(json.dumps({"a": entry(0, 8, 1)}).encode(), 8),
        headed(json.dumps({"a": entry(0, 4, 1 << 63)}).encode(), 4),
        headed(json.dumps({"a": entry(0, 4, 1)}).encode(), 3),
        headed(json.dumps({"a": entry(0, 4, 1)}).encode(), 5),
    ],
    ids=[
        "empty",
        "short",
        "huge",
        "cut",
        "no text",
        "hole",
        "overlap",
        "shape",
        "overflow",
        "less data",
        "more data",
    ],
)
def test_a_hostile_header(tmp_path: Path, content: bytes) -> None:
    path = folder(tmp_path, tiny()) / "model.safetensors"
    path.write_bytes(content)
    assert message(tmp_path) == refusal(path)


def test_tensors_lie_in_a_file_in_any_order(tmp_path: Path) -> None:
    content = (
        json.dumps({"a": entry(8, 16, 2), "none": entry(8, 8, 0), "b": entry(0, 8, 2)}).encode()
        + b"   "
    )
    (tmp_path / "x").write_bytes(headed(content) + np.array([1, 2, 3, 4], "<f4").tobytes())
    found = read_safetensors(tmp_path / "x")
    assert {name: entry.load().tolist() for name, entry in found.items()} == {
        "a": [3, 4],
        "none": [],
        "b": [1, 2],
    }


def test_a_stored_type_that_no_weight_has(tmp_path: Path) -> None:
    path = folder(tmp_path, tiny()) / "model.safetensors"
    save(path, {"model.norm.weight": np.ones(4)}, "I32")
    assert (
        message(tmp_path)
        == f"{path}: model.norm.weight: stored as I32, must be one of BF16, F16, F32, F64"
    )


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("lm_head.weight", None, "lm_head.weight is missing"),
        ("model.lower_bounds", None, "model.lower_bounds is missing"),
        (
            "model.layers.2.attn_norm.weight",
            np.ones(4),
            "model.layers.2.attn_norm.weight does not belong to a model of this configuration",
        ),
        (
            "model.layers.1.mlp.gate_proj.weight",
            np.ones((3, 4)),
            "model.layers.1.mlp.gate_proj.weight has shape [3, 4], must have [6, 4]",
        ),
    ],
)
def test_wrong_tensors(
    tmp_path: Path, name: str, value: NDArray[Any] | None, expected: str
) -> None:
    tensors = {n: v for n, v in {**tiny().tensors, name: value}.items() if v is not None}
    save(folder(tmp_path, tiny()) / "model.safetensors", tensors)
    assert message(tmp_path) == f"{tmp_path}: {expected}"


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model."])
def test_names_with_a_prefix(tmp_path: Path, prefix: str) -> None:
    tensors = {f"{prefix}{name}": value for name, value in tiny().tensors.items()}
    save(folder(tmp_path, tiny()) / "model.safetensors", {**tensors, "step": np.ones(1)})
    assert message(tmp_path) == (
        f"{tmp_path}: model.embeddings.weight is missing; {len(tensors)} of {len(tensors) + 1} "
        f"names begin with {prefix!r}, must begin without"
    )


def test_names_without_their_prefix(tmp_path: Path) -> None:
    tensors = {name.removeprefix("model."): value for name, value in tiny().tensors.items()}
    save(folder(tmp_path, tiny()) / "model.safetensors", tensors)
    assert message(tmp_path) == (
        f"{tmp_path}: model.embeddings.weight is missing; there is embeddings.weight, so the "
        "names lack 'model.' at their beginning"
    )


@pytest.mark.parametrize("layers", [10**6, 10**11])
def test_more_blocks_than_the_files_have(tmp_path: Path, layers: int) -> None:
    """Nothing is made for those that are only claimed."""
    config = replace(TINY, num_hidden_layers=layers)
    (tmp_path / "config.json").write_text(json.dumps(config.to_json("float32")), encoding="utf-8")
    save(tmp_path / "model.safetensors", tiny().tensors)
    tracemalloc.start()
    said = message(tmp_path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert said == f"{tmp_path}: model.layers.2.attn_norm.weight is missing"
    assert most < 10_000_000


@pytest.mark.parametrize("kind", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path: Path, value: float, kind: str) -> None:
    tensors = {**tiny().tensors, "model.norm.weight": np.array([1, value, 1, 1], np.float32)}
    save(folder(tmp_path, tiny()) / "model.safetensors", tensors, kind)
    found = read(tmp_path, load_bin, FAMILY).tensors
    assert np.array_equal(found["lm_head.weight"], tensors["lm_head.weight"])
    with pytest.raises(CheckpointError) as error:
        found["model.norm.weight"]
    assert str(error.value) == f"{tmp_path}: model.norm.weight holds values that are not finite"


def test_a_value_that_float32_cannot_hold(tmp_path: Path) -> None:
    tensors = {**tiny().tensors, "model.norm.weight": np.array([1, -1e300, 1, 1])}
    save(folder(tmp_path, tiny()) / "model.safetensors", tensors, "F64")
    with pytest.raises(CheckpointError) as error:
        read(tmp_path, load_bin, FAMILY).tensors["model.norm.weight"]
    assert str(error.value) == f"{tmp_path}: model.norm.weight holds values that are not finite"


# What is read when


def test_tensors_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    save(folder(tmp_path, tiny()) / "model.safetensors", tiny().tensors)
    found = read(tmp_path, load_bin, FAMILY).tensors
    assert (
        "model.norm.weight" in found
        and "nothing" not in found
        and len(found) == len(tiny().tensors)
    )
    save(tmp_path / "model.safetensors", {name: -value for name, value in tiny().tensors.items()})
    assert np.array_equal(found["model.norm.weight"], -tiny().tensors["model.norm.weight"])
    assert found["model.norm.weight"] is not found["model.norm.weight"]
    with pytest.raises(KeyError):
        found["nothing"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (Path.unlink, "no such file, must be a safetensors file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "changed while it was in use"),
    ],
)
def test_a_file_that_does_not_stay_as_it_was(
    tmp_path: Path, change: Callable[[Path], Any], expected: str
) -> None:
    save(tmp_path / "x", {"a": np.ones(4)})
    found = read_safetensors(tmp_path / "x")
    change(tmp_path / "x")
    with pytest.raises(CheckpointError) as error:
        found["a"].load()
    assert str(error.value) == f"{tmp_path / 'x'}: {expected}"


def test_a_bin_from_before_zip_files(tmp_path: Path) -> None:
    state = {name: in_torch(value, "bfloat16") for name, value in tiny().tensors.items()}
    path = folder(tmp_path, tiny()) / "pytorch_model.bin"
    torch_save(state, path, _use_new_zipfile_serialization=False)
    assert equal(read(tmp_path, load_bin, FAMILY).tensors, tiny().tensors)


@pytest.mark.usefixtures("needs_torch")
def test_a_bin_is_mapped_anew_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmfree_kernels.float_model.torch_bin._MAPPED_BYTES", 16)
    state = {name: in_torch(value) for name, value in tiny().tensors.items()}
    path = folder(tmp_path, tiny()) / "pytorch_model.bin"
    torch_save(state, path)
    found = read(tmp_path, load_bin, FAMILY).tensors
    assert equal(found, tiny().tensors)
    torch_save(dict(list(state.items())[1:]), tmp_path / "other")
    os.replace(tmp_path / "other", path)
    with pytest.raises(CheckpointError) as error:
        [found["model.embeddings.weight"] for _ in range(3)]
    assert str(error.value) == f"{path}: changed while it was in use"


@pytest.mark.parametrize(
    "content", [b"", b"not a file of tensors", b"PK\x03\x04 cut", b"\x80\x02K"]
)
def test_a_bin_that_is_none(tmp_path: Path, content: bytes) -> None:
    path = folder(tmp_path, tiny()) / "pytorch_model.bin"
    path.write_bytes(content)
    assert message(tmp_path) == f"{path}: not readable as {A_BIN}"


def test_a_bin_that_would_run_code(tmp_path: Path) -> None:
    path = folder(tmp_path, tiny()) / "pytorch_model.bin"
    torch_save({"model.norm.weight": Path("/")}, path)  # any class that is not a tensor
    assert message(tmp_path) == f"{path}: not readable as {A_BIN}"


@pytest.mark.parametrize("content", [[np.ones(1)], {"step": 3}, np.ones(2)])
def test_a_bin_that_is_no_state_dict(tmp_path: Path, content: Any) -> None:
    if isinstance(content, list):
        content = [in_torch(value) for value in content]
    elif isinstance(content, np.ndarray):
        content = in_torch(content)
    path = folder(tmp_path, tiny()) / "pytorch_model.bin"
    torch_save(content, path)
    assert message(tmp_path) == (
        f"{path}: not {A_BIN}: it holds something else than names and tensors"
    )


def test_a_bin_that_claims_more_than_it_has(tmp_path: Path) -> None:
    path = folder(tmp_path, tiny()) / "pytorch_model.bin"
    torch_save({"model.norm.weight": in_torch(np.ones(1)).expand(1 << 60)}, path)
    assert message(tmp_path) == (
        f"{path}: not {A_BIN}: 'model.norm.weight' claims {1 << 60} values, has fewer"
    )


def test_a_bin_of_integers(tmp_path: Path) -> None:
    path = folder(tmp_path, tiny()) / "pytorch_model.bin"
    torch_save({"model.norm.weight": in_torch(np.ones(4, np.int32))}, path)
    expected = "model.norm.weight: stored as torch.int32, must be of a floating type"
    assert message(tmp_path) == f"{path}: {expected}"


# Writing


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path, dtype: str, tied: bool) -> None:
    checkpoint = tiny(replace(TINY, tie_word_embeddings=tied))
    target = tmp_path / "new" / "folder"
    write(target, checkpoint, dtype)
    found = read(target, load_bin, FAMILY)
    assert found.config == checkpoint.config
    assert equal(found.tensors, checkpoint.tensors)
    assert sorted(path.name for path in target.iterdir()) == ["config.json", "model.safetensors"]
    assert [path.name for path in target.parent.iterdir()] == ["folder"]
    stored = {
        e["dtype"] for _, e in safetensors.deserialize((target / "model.safetensors").read_bytes())
    }
    assert stored == {"BF16" if dtype == "bfloat16" else "F32"}


def test_a_folder_that_cannot_be_renamed_is_written_into(tmp_path: Path) -> None:
    """A link as folder stays one, files have the mode that the umask leaves, and nothing else is
    there."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    before = os.umask(0o077)
    try:
        write(tmp_path / "link", tiny(), durable=True)
    finally:
        os.umask(before)
    assert (tmp_path / "link").is_symlink()
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "real").iterdir()}
    assert modes == {"config.json": 0o600, "model.safetensors": 0o600}


def test_writing_replaces_an_older_checkpoint_and_keeps_other_files(tmp_path: Path) -> None:
    write(tmp_path, tiny())
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    other = Checkpoint(TINY, {name: -value for name, value in tiny().tensors.items()})
    write(tmp_path, other)
    assert equal(read(tmp_path, load_bin, FAMILY).tensors, other.tensors)
    assert (tmp_path / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_arrays_of_any_layout_are_written(tmp_path: Path) -> None:
    turned = {name: np.asfortranarray(value) for name, value in tiny().tensors.items()}
    for dtype in ("bfloat16", "float32"):
        write(tmp_path / dtype, Checkpoint(TINY, turned), dtype)
        assert equal(read(tmp_path / dtype, load_bin, FAMILY).tensors, tiny().tensors)


def test_the_golden_weights_are_written_byte_for_byte(tmp_path: Path) -> None:
    write(tmp_path, read(GOLDEN / "trained" / "checkpoint", load_bin, FAMILY))
    shutil.copy(
        GOLDEN / "trained" / "checkpoint" / "model.safetensors", tmp_path / "published.safetensors"
    )
    found, published = (
        {
            name: bytes(e["data"])
            for name, e in safetensors.deserialize((tmp_path / file).read_bytes())
        }
        for file in ("model.safetensors", "published.safetensors")
    )
    assert found == published


def test_bfloat16_by_hand() -> None:
    values = np.array(
        [1.0, -2.0, 0.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-8], np.float32
    )
    # A half goes to the even neighbour: 1 + 1/256 down to 1, 1 + 3/256 up to 1 + 4/256.
    assert [hex(x) for x in to_bfloat16(values)] == [
        "0x3f80",
        "0xc000",
        "0x0",
        "0x3f80",
        "0x3f82",
        "0x3f81",
        "0xbf80",
    ]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_bfloat16_rounds_as_torch_does(values: list[float]) -> None:
    torch, x = pytest.importorskip("torch"), np.array(values, np.float32)
    expected = in_torch(x, "bfloat16").view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(to_bfloat16(x), expected)


def test_safetensors_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        read_safetensors(tmp_path / "gone.safetensors")
    assert (
        str(error.value) == f"{tmp_path}/gone.safetensors: no such file, must be a safetensors file"
    )


@pytest.mark.parametrize(
    ("stored", "eos"),
    [
        (2, (2,)),
        ([2, 7], (2, 7)),
        ([], ()),
        (None, ()),
        (-1, (-1,)),
        ([50_256, -100], (50_256, -100)),
    ],
)
def test_what_ends_a_text(stored: object, eos: tuple[int, ...], tmp_path: Path) -> None:
    """One token, several or none, be they in the vocabulary or not; `generation_config.json` says
    it where it says anything."""
    write(tmp_path, tiny(), "float32")
    path, other = tmp_path / "config.json", tmp_path / "generation_config.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(raw | {"eos_token_id": stored}), encoding="utf-8")
    config = read(tmp_path, load_bin, FAMILY).config
    assert config.eos == eos
    assert config.to_json("float32")["eos_token_id"] == stored
    for content, expected in (
        ({}, eos),
        ({"eos_token_id": None}, eos),
        ({"eos_token_id": [5]}, (5,)),
    ):
        other.write_text(json.dumps(content), encoding="utf-8")
        assert read(tmp_path, load_bin, FAMILY).config.eos == expected
    path.write_text(json.dumps(raw), encoding="utf-8")
    other.write_text(json.dumps({"eos_token_id": stored}), encoding="utf-8")
    assert read(tmp_path, load_bin, FAMILY).config.eos == (TINY.eos if stored is None else eos)


@pytest.mark.parametrize("bos", [-1, 10**9, None])
def test_a_first_token_that_there_is_not(bos: int | None, tmp_path: Path) -> None:
    """It refuses no checkpoint, which may do without it."""
    write(tmp_path, tiny(replace(TINY, bos_token_id=bos)), "float32")
    assert read(tmp_path, load_bin, FAMILY).config.bos_token_id == bos


@pytest.mark.parametrize("eos", ["</s>", [1, None], 2.5, True, {"id": 2}])
def test_what_cannot_end_a_text(eos: object, tmp_path: Path) -> None:
    write(tmp_path, tiny(), "float32")
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": eos}), encoding="utf-8")
    with pytest.raises(CheckpointError) as error:
        read(tmp_path, load_bin, FAMILY)
    assert str(error.value) == (
        f"{path}: eos_token_id is {eos!r}, must be int, a list of int, or null"
    )
