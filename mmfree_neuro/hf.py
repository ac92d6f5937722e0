"""The door for users of transformers: `import mmfree_neuro.hf` makes it know the family `hgrn_bit`.

    import mmfree_neuro.hf
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("ridger/MMfreeLM-370M")    or a folder
    model.generate(tokens, max_new_tokens=64)

No code of a checkpoint is run.  Logits are those of this project's float model, and
`save_pretrained` writes what `mmfree-neuro convert` reads.

PEFT's adapters can be trained and used.  They cannot be merged: `merge_and_unload` would add them
to weights that are made ternary afterwards, and what was learnt would be lost.

Needs torch and transformers: `pip install 'mmfree-neuro[hf]'`.
"""

try:
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoTokenizer,
        PreTrainedTokenizerFast,
    )

    from mmfree_kernels.hugging_face.config import HGRNBitConfig
    from mmfree_kernels.hugging_face.model import HGRNBitForCausalLM
except ModuleNotFoundError as missing:
    raise ImportError(
        f"mmfree_neuro.hf needs {missing.name}, which is not installed; install it with the hf "
        "extra: pip install 'mmfree-neuro[hf]'"
    ) from None

__all__ = ["HGRNBitConfig", "HGRNBitForCausalLM"]

AutoConfig.register(HGRNBitConfig.model_type, HGRNBitConfig, exist_ok=True)
AutoModelForCausalLM.register(HGRNBitConfig, HGRNBitForCausalLM, exist_ok=True)
AutoTokenizer.register(  # type: ignore[no-untyped-call]
    HGRNBitConfig, fast_tokenizer_class=PreTrainedTokenizerFast, exist_ok=True
)
