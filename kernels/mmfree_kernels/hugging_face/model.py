"""`hgrn_bit` for transformers: the float model with the names of its published parameters, a cache
that is the recurrent state, and a loss.

The weights may be of any type; activations are float32, as in `float_model`, whose logits these
are.  Written for transformers 5.
"""

from dataclasses import fields
from typing import Any

from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from mmfree_kernels.float_model.model import BitLinear, Body, Gain, Numerics, initialise, through
from mmfree_kernels.hugging_face.config import HGRNBitConfig
from mmfree_neuro.hgrn_bit.config import ModelConfig

CACHE = next(
    field.name
    for field in fields(CausalLMOutputWithPast)
    if field.name in ("cache", "past_key_values")
)
"""What transformers calls a cache: another name from 5.24 on."""
NUMERICS = Numerics()


class RecurrentCache:
    """The state after the tokens that were seen, whose size does not grow with them.

    `generate` asks for the rest: whether a cache can be compiled for or cropped, how many tokens it
    has seen, which a prompt is then taken to begin with (it would not, were layers called linear),
    and another order of its rows.
    """

    is_compileable = False
    is_croppable = False

    def __init__(self, layers: int) -> None:
        self.state: Tensor | None = None  # [layers, batch, state]
        self.seen = 0
        self.is_linear = [False] * layers

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many tokens the state is of; the same for every layer."""
        return self.seen

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Give each row the state of another."""
        if self.state is not None:
            self.state = self.state.index_select(1, beam_idx.to(self.state.device))


class HGRNBitForCausalLM(PreTrainedModel, GenerationMixin):
    """A MatMul-free language model; parameters have their published names.

    Padding must be on the left, where it leaves the state as it is: zero.
    """

    config_class = HGRNBitConfig
    base_model_prefix = "model"
    _is_stateful = True
    _no_split_modules = ["Block"]  # noqa: RUF012  # as transformers declares it
    _tied_weights_keys = {"lm_head.weight": "model.embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: HGRNBitConfig) -> None:
        super().__init__(config)
        shape = config.shape()
        self.model = Body(shape)
        self.lm_head = BitLinear(shape.hidden_size, shape.vocab_size)
        self.post_init()

    @property
    def shape(self) -> ModelConfig:
        """The configuration, as the float model has it."""
        found: ModelConfig = self.config.shape()
        return found

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """A cache of keys and values has no place for this state."""
        return False

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of tokens."""
        return self.model.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another in its place, as `resize_token_embeddings` does."""
        self.model.embeddings = value

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.lm_head

    def _get_resized_lm_head(self, old_lm_head: Any, *sizes: Any, **how: Any) -> BitLinear:
        """The head for another number of words, with the gains that it has."""
        plain = super()._get_resized_lm_head(old_lm_head, *sizes, **how)
        head = BitLinear(plain.weight.shape[1], plain.weight.shape[0])
        head.weight, head.norm = plain.weight, old_lm_head.norm
        return head

    def _init_weights(self, module: nn.Module) -> None:
        """Fresh parameters, as the published code sets them."""
        match module:
            case BitLinear() | nn.Embedding():
                # transformers takes the first setting of a weight for the last.
                name = next(name for name, other in self.named_modules() if other is module)
                layers, spread = self.shape.num_hidden_layers, self.config.initializer_range
                initialise(f"{name}.weight", module.weight, layers, spread)
            case Gain():
                nn.init.ones_(module.weight)
            case Body() if self.shape.use_lower_bound:
                nn.init.zeros_(module.lower_bounds)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: RecurrentCache | None = None,
        past_key_values: RecurrentCache | None = None,
        return_dict: bool | None = None,
        **more: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits [batch, time, vocab] in float32 of `input_ids` [batch, time], or of
        `inputs_embeds` [batch, time, hidden].

        `attention_mask` [batch, time, or all tokens seen and these] is 0 at left padding. `labels`
        [batch, time], -100 where nothing is to be predicted, give `loss`, the mean of nats; each is
        that of the token before it. `logits_to_keep` is how many of the last tokens have logits, 0
        for all, or the numbers of those that have.  The cache that is given is brought up to date
        and returned.  Neither hidden states nor attentions are given.
        """
        for name in ("output_hidden_states", "output_attentions"):
            if more.pop(name, None):
                raise ValueError(f"{name} is set, and this model gives none")
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("either input_ids or inputs_embeds must be given, and not both")
        shape = self.shape
        x = self.model.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        cache = past_key_values if cache is None else cache
        wanted = self.config.use_cache if use_cache is None else use_cache
        if cache is None and wanted and not self.training:
            cache = RecurrentCache(shape.num_hidden_layers)
        mask = None if attention_mask is None else attention_mask[:, -x.shape[1] :]
        state = None if cache is None else cache.state
        keep = logits_to_keep if isinstance(logits_to_keep, int) and labels is None else 0
        logits, state = through(shape, self.model, self.lm_head, x, state, mask, NUMERICS, keep)
        if cache is not None:
            cache.state, cache.seen = state.detach(), cache.seen + x.shape[1]
        if labels is None and not isinstance(logits_to_keep, int):
            logits = logits[:, logits_to_keep]
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=shape.vocab_size, **more)
        out = CausalLMOutputWithPast(loss=loss, logits=logits)
        if wanted and cache is not None:
            out[CACHE] = cache
        return out if return_dict is not False else out.to_tuple()
