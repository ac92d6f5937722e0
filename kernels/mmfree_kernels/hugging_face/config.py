"""The configuration of `hgrn_bit` as transformers has it."""

from pathlib import Path

from transformers import PretrainedConfig

from mmfree_neuro.hgrn_bit.config import ModelConfig, parse_config


class HGRNBitConfig(PretrainedConfig):
    """What a published `config.json` holds; keys and defaults are those of the published code."""

    model_type = ModelConfig.model_type
    vocab_size: int = 32000
    hidden_size: int = 2048
    num_hidden_layers: int = 24
    attn_mode: str = "fused_recurrent"
    num_heads: int | None = 1
    expand_ratio: int | float | None = 1
    use_short_conv: bool = False
    conv_size: int = 4
    share_conv_kernel: bool = True
    use_lower_bound: bool = True
    hidden_ratio: int | float | None = 4
    intermediate_size: int | None = None
    hidden_act: str = "swish"
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    fuse_cross_entropy: bool = True

    def shape(self) -> ModelConfig:
        """The same as the float model has it.  Raises CheckpointError where a value is none that
        the family has, or asks for what is not built (a short convolution)."""
        return parse_config(self.to_dict(), Path(self.name_or_path or "the configuration"))
