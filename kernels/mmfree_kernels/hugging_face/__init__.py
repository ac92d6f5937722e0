"""The family `hgrn_bit` as the library transformers has its models."""
