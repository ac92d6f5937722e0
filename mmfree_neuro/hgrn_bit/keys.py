"""The keys of a `config.json`: which say what a model computes, and which say nothing of it.

The same family name, and the same names of tensors, are used for models that compute something
else: with rotary positions, with experts, with weights that are quantised in groups.  A key that
says so is refused.  What is left over is named, because nobody here knows what it means.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmfree_neuro.errors import CheckpointError, printable, shown


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


READ = _words(
    """
    bos_token_id eos_token_id pad_token_id expand_ratio hidden_ratio hidden_size intermediate_size
    model_type num_heads num_hidden_layers rms_norm_eps tie_word_embeddings use_lower_bound
    vocab_size
    """
)
"""What this project reads."""

INERT = _words(
    """
    _attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash
    _name_or_path attn_implementation architectures auto_map begin_suppress_tokens
    chunk_size_feed_forward conv_size custom_pipelines decoder_start_token_id dtype finetuning_task
    fuse_cross_entropy fuse_linear_cross_entropy fuse_norm fuse_swiglu id2label initializer_range
    is_decoder keys_to_ignore_at_inference label2id language max_position_embeddings num_labels
    output_attentions output_hidden_states output_scores prefix problem_type return_dict
    return_dict_in_generate sep_token_id share_conv_kernel task_specific_params tf_legacy_loss
    tokenizer_class torch_dtype torchscript transformers_version unk_token_id use_bfloat16
    use_cache use_l2warp

    bad_words_ids diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty
    max_length max_new_tokens min_length no_repeat_ngram_size num_beam_groups num_beams
    num_return_sequences remove_invalid_values repetition_penalty suppress_tokens temperature top_k
    top_p typical_p

    activation_dropout attention_dropout attention_probs_dropout_prob classifier_dropout dropout
    embd_pdrop embedding_dropout gradient_checkpointing hidden_dropout hidden_dropout_prob
    quantization_warmup_steps resid_dropout resid_pdrop router_aux_loss_coef router_z_loss_coef
    """
)
"""What the logits do not depend on: names and versions, training, memory, generation by others."""

NAMED = {
    "attn_mode": ("fused_recurrent",),
    "hidden_act": ("swish", "silu"),
    "token_mixer": ("hgrn",),
    "activation_quant_bits": (8,),
    "weight_quant_bits": (2, 1.58),
    "weight_quant_scale": ("mean_abs",),
    "quantize_lm_head": (True,),
    "elementwise_affine": (True,),
}
"""Keys that have to have one of these values, as the published model has it, or be absent."""


@dataclass(frozen=True)
class Mechanism:
    """What a model may have that the published one has not."""

    what: str
    words: frozenset[str]
    """A key that has one of them between its underscores is about the mechanism."""
    names: frozenset[str] = frozenset()
    """Other keys about it."""
    switches: tuple[str, ...] = ()
    """Keys that say whether it is there at all; where they say no, the others mean nothing."""
    neutral: tuple[object, ...] = (None, False, 0, "", "none")
    """Values, besides empty lists and objects, that say that it is not there."""

    def is_about(self, key: str) -> bool:
        """Whether a key is about the mechanism."""
        return (
            key in self.names
            or key in self.switches
            or not self.words.isdisjoint(re.split("[^a-z]+", key.lower()))
        )

    def is_off(self, value: object) -> bool:
        """Whether the value of such a key says that the mechanism is not there."""
        if isinstance(value, list | dict):
            return not value
        return any(_equal(value, one) for one in self.neutral)


MECHANISMS = (
    Mechanism("short convolutions", _words("conv"), switches=("use_short_conv",)),
    Mechanism(
        "rotary or other positions",
        _words("rope rotary yarn alibi"),
        _words("position_embedding_type positional_encoding"),
        ("rotary_embeddings", "use_rotary_embeddings", "use_rotary", "use_rope"),
    ),
    Mechanism(
        "a mixture of experts", _words("moe expert experts router"), switches=("use_moe", "moe")
    ),
    Mechanism("sliding windows", _words("sliding"), _words("window_size"), ("use_sliding_window",)),
    Mechanism("attention", _words("attn attention kv qk qkv head heads")),
    Mechanism(
        "another quantisation",
        _words("quant quantization quantized quantize quantizer gptq awq bnb"),
    ),
    Mechanism("biases", _words("bias biases")),
    Mechanism("added weights", _words("lora dora adapter adapters peft")),
    Mechanism("an encoder", _words("encoder vision audio")),
    Mechanism("blocks of several kinds", _words("hybrid"), _words("layer_types block_types")),
    Mechanism("another forget gate", frozenset(), _words("decay_mode decay_init")),
    Mechanism(
        "another norm",
        _words("layernorm"),
        _words("layer_norm_eps layer_norm_epsilon norm_eps norm_epsilon norm_type normalization"),
    ),
    Mechanism(
        "factors on its values",
        _words("multiplier softcap softcapping mup"),
        _words("logit_scale logits_scaling embedding_scale residual_scale scale_depth scale_emb"),
        neutral=(None, False, 0, "", "none", 1),
    ),
)


def check_keys(raw: Mapping[str, Any], where: Path) -> None:
    """CheckpointError where a key says that the model computes what is not computed here."""
    for name, allowed in NAMED.items():
        value = raw.get(name)
        if value is not None and not any(_equal(value, one) for one in allowed):
            listed = " or ".join(repr(one) for one in allowed)
            raise CheckpointError(f"{where}: {name} is {shown(value)}, must be {listed}")
    silent = _silenced(raw)
    for mechanism in MECHANISMS:
        about = [name for name in _others(raw) if mechanism.is_about(name)]
        for name in sorted(about, key=lambda name: name not in mechanism.switches):
            if name not in silent and not mechanism.is_off(raw[name]):
                raise CheckpointError(
                    f"{where}: {printable(name)} is {shown(raw[name])}, must be false or absent: "
                    f"such a model has {mechanism.what}, which this project does not run"
                )


def unknown_keys(raw: Mapping[str, Any]) -> list[str]:
    """The keys of which nothing is known."""
    return [
        name
        for name in _others(raw)
        if not any(mechanism.is_about(name) for mechanism in MECHANISMS)
    ]


def _others(raw: Mapping[str, Any]) -> list[str]:
    """The keys that are neither read nor known to mean nothing."""
    return sorted(raw.keys() - READ - INERT - NAMED.keys())


def _silenced(raw: Mapping[str, Any]) -> set[str]:
    """The keys about mechanisms whose switches say that they are not there."""
    found: set[str] = set()
    for mechanism in MECHANISMS:
        said = [raw[name] for name in mechanism.switches if raw.get(name) is not None]
        if said and all(map(mechanism.is_off, said)):
            found.update(filter(mechanism.is_about, raw))
    return found


def _equal(value: object, other: object) -> bool:
    """Whether two plain values are the same: truth is no number, and the case of letters is
    nothing."""
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    if isinstance(value, str) and isinstance(other, str):
        return value.lower() == other.lower()
    return bool(value == other)
