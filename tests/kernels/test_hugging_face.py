"""transformers runs the family as its own: the published logits, generation with a state that is
carried, and files that go there and back."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import mmfree_neuro.hf
from mmfree_kernels.float_model import evaluate
from mmfree_kernels.float_model.model import from_checkpoint
from mmfree_kernels.hugging_face.config import HGRNBitConfig
from mmfree_kernels.hugging_face.model import CACHE, HGRNBitForCausalLM, RecurrentCache
from mmfree_neuro.errors import CheckpointError
from mmfree_neuro.hgrn_bit.config import FAMILY, ModelConfig
from mmfree_neuro.hgrn_bit.synthetic import write_synthetic
from mmfree_neuro.model.checkpoint import Checkpoint, read

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 3, "intermediate_size": 24}
SHAPES = {
    "plain": ModelConfig(**TINY),
    "tied": ModelConfig(**TINY, tie_word_embeddings=True),
    "no-lower-bounds": ModelConfig(**TINY, use_lower_bound=False, expand_ratio=2),
}
GREEDY = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}


def opened(folder: Path) -> Any:
    """The model in a folder, as a user of transformers opens it."""
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module", params=SHAPES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint in the published format."""
    found = tmp_path_factory.mktemp("checkpoint")
    write_synthetic(found, SHAPES[request.param], seed=5)
    return found


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    """It, for transformers."""
    return opened(folder)


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint[Any]:
    """It, for us."""
    return read(folder, lambda _: {}, FAMILY)


def prompts() -> torch.Tensor:
    """Two rows of nine tokens."""
    return torch.from_numpy(np.random.default_rng(3).integers(3, 64, (2, 9)))


def test_logits_are_those_of_the_float_model(model: Any, checkpoint: Checkpoint[Any]) -> None:
    tokens = prompts()
    with torch.no_grad():
        found = model(tokens).logits
    assert found.dtype == torch.float32 and model.dtype == torch.bfloat16 and not model.training
    assert np.array_equal(
        found.numpy(), evaluate.logits(from_checkpoint(checkpoint), tokens.numpy())
    )


@pytest.mark.parametrize("name", ["a_h64_l2_v256", "trained"])
def test_logits_are_the_published_ones(name: str) -> None:
    model = opened(GOLDEN / name / "checkpoint")
    with torch.no_grad():
        found = model(torch.from_numpy(np.load(GOLDEN / name / "inputs.npy"))).logits
    assert np.abs(found.numpy() - np.load(GOLDEN / name / "logits.npy")).max() < 1e-3


def test_generation_is_that_of_the_float_model(model: Any, checkpoint: Checkpoint[Any]) -> None:
    tokens = prompts()
    ours = from_checkpoint(checkpoint)
    expected = evaluate.greedy(ours, tokens.numpy(), 12)
    whole = torch.ones_like(tokens)
    model.generation_config.eos_token_id = None
    for use_cache in (True, False):
        found = model.generate(tokens, attention_mask=whole, use_cache=use_cache, **GREEDY)
        assert np.array_equal(found[:, 9:], expected)


def test_beams_and_draws_need_no_cache_to_be_the_same(model: Any) -> None:
    tokens = prompts()
    whole = torch.ones_like(tokens)
    for how in ({"num_beams": 3, "do_sample": False}, {"do_sample": True, "top_k": 20}):
        found = []
        for use_cache in (True, False):
            torch.manual_seed(1)
            found.append(
                model.generate(
                    tokens, attention_mask=whole, max_new_tokens=8, use_cache=use_cache, **how
                )
            )
        assert torch.equal(*found)


def test_padding_on_the_left_changes_nothing(model: Any) -> None:
    tokens = prompts()
    mask = torch.ones_like(tokens)
    mask[0, :4] = 0
    padded = model.generate(tokens, attention_mask=mask, **GREEDY)
    alone = model.generate(tokens[:1, 4:], attention_mask=mask[:1, 4:], **GREEDY)
    assert torch.equal(padded[0, 9:], alone[0, 5:])


@torch.no_grad()
def test_a_cache_is_the_state_after_what_was_read(model: Any) -> None:
    tokens, cache = prompts(), RecurrentCache(3)
    first = model(tokens[:, :4], past_key_values=cache)
    second = model(tokens[:, 4:], cache=cache, logits_to_keep=2)
    assert second.to_tuple()[-1] is cache and cache.get_seq_length() == 9
    assert first.logits.shape == (2, 4, 64) and second.logits.shape == (2, 2, 64)
    assert torch.allclose(second.logits, model(tokens).logits[:, -2:], atol=0.01)
    assert model(tokens, use_cache=False).to_tuple()[1:] == ()
    logits, kept = model(tokens, return_dict=False)
    assert torch.allclose(kept.state, cache.state, atol=0.01)
    assert torch.equal(logits, model(tokens).logits)
    before = kept.state
    kept.reorder_cache(torch.tensor([1, 0]))
    assert torch.equal(kept.state, before[:, [1, 0]])


def test_a_prompt_goes_on_where_a_cache_ends(model: Any) -> None:
    """Whether a conversation is given anew, or what is new of it alone."""
    tokens, cache = prompts(), RecurrentCache(3)
    with torch.no_grad():
        model(tokens[:, :4], cache=cache)
    whole = torch.ones_like(tokens)
    expected = model.generate(tokens, attention_mask=whole, **GREEDY)
    found = model.generate(tokens, attention_mask=whole, **{CACHE: cache}, **GREEDY)
    assert torch.equal(found, expected) and cache.seen == 9 + 11
    assert not cache.state.requires_grad


@torch.no_grad()
def test_which_tokens_have_logits(model: Any) -> None:
    tokens = prompts()
    found = model(tokens, logits_to_keep=torch.tensor([0, -1])).logits
    assert torch.equal(found, model(tokens).logits[:, [0, -1]])


@pytest.mark.parametrize("name", ["output_hidden_states", "output_attentions"])
def test_what_the_model_does_not_give_is_refused(model: Any, name: str) -> None:
    with pytest.raises(ValueError) as error:
        model(prompts(), **{name: True})
    assert str(error.value) == f"{name} is set, and this model gives none"
    assert model(prompts(), **{name: False}).logits.shape == (2, 9, 64)


def test_words_can_be_added(folder: Path, tmp_path: Path) -> None:
    """The head stays a ternary one, with its gains and the weights of the words that it had."""
    model = opened(folder)
    tokens, gains = prompts(), model.lm_head.norm.weight.clone()
    head = model.lm_head.weight.clone()
    model.resize_token_embeddings(70)
    assert torch.equal(model.lm_head.norm.weight, gains)
    assert torch.equal(model.lm_head.weight[:64], head)
    model.save_pretrained(tmp_path)
    again = opened(tmp_path)
    with torch.no_grad():
        found = again(tokens).logits
        assert torch.equal(found, model(tokens).logits)
    assert found.shape == (2, 9, 70) and again.config.vocab_size == 70
    assert again(tokens, labels=tokens).loss > 0


def test_the_loss_is_that_of_each_token_before_the_next(model: Any) -> None:
    tokens = prompts()
    labels = tokens.clone()
    labels[:, :3] = -100
    found = model(tokens, labels=labels)
    nats = torch.nn.functional.cross_entropy(
        found.logits[:, 2:-1].reshape(-1, 64), tokens[:, 3:].reshape(-1)
    )
    assert found.loss.item() == pytest.approx(nats.item(), rel=1e-6)
    assert found.logits.shape == (2, 9, 64)


@torch.no_grad()
def test_embeddings_may_come_from_elsewhere(model: Any) -> None:
    tokens = prompts()
    found = model(inputs_embeds=model.get_input_embeddings()(tokens))
    assert torch.equal(found.logits, model(tokens).logits)
    for given in ({}, {"input_ids": tokens, "inputs_embeds": torch.zeros(2, 9, 16)}):
        with pytest.raises(ValueError) as error:
            model(**given)
        assert str(error.value) == "either input_ids or inputs_embeds must be given, and not both"


def test_what_is_saved_is_what_was_read(
    model: Any, checkpoint: Checkpoint[Any], tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    again = read(tmp_path, lambda _: {}, FAMILY)
    assert again.config == checkpoint.config and again.warnings == ()
    for name in checkpoint.config.shapes():
        assert np.array_equal(again.tensors[name], checkpoint.tensors[name])
    raw = json.loads((tmp_path / "config.json").read_text())
    assert (raw["model_type"], raw["architectures"]) == ("hgrn_bit", ["HGRNBitForCausalLM"])


def test_fresh_parameters_are_spread_as_the_published_code_spreads_them() -> None:
    torch.manual_seed(0)
    config = HGRNBitConfig(**TINY | {"hidden_size": 128, "intermediate_size": 256})
    state = AutoModelForCausalLM.from_config(config).state_dict()

    def spread(name: str) -> float:
        return float(state[name].std())

    xavier = 2**-2.5 * (2 / (128 + 128)) ** 0.5
    assert spread("model.layers.1.attn.f_proj.weight") == pytest.approx(xavier, rel=0.05)
    assert spread("model.layers.1.mlp.gate_proj.weight") == pytest.approx(0.02, rel=0.05)
    assert spread("model.layers.1.mlp.down_proj.weight") == pytest.approx(0.02 / 6**0.5, rel=0.05)
    assert spread("model.embeddings.weight") == pytest.approx(0.02, rel=0.05)
    assert not state["model.lower_bounds"].any()
    assert (state["model.layers.0.attn.g_norm.weight"] == 1).all()


def test_a_configuration_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        HGRNBitForCausalLM(HGRNBitConfig(**TINY | {"hidden_size": 0}))
    assert str(error.value) == "the configuration: hidden_size is 0, must be positive"


def test_a_published_configuration_is_read_as_it_is() -> None:
    config = AutoConfig.from_pretrained(GOLDEN / "a_h64_l2_v256" / "checkpoint")
    assert isinstance(config, mmfree_neuro.hf.HGRNBitConfig)
    published = read(GOLDEN / "a_h64_l2_v256" / "checkpoint", lambda _: {}, FAMILY).config
    assert config.shape() == published
    assert HGRNBitConfig(hidden_size=1024).shape() == ModelConfig(
        hidden_size=1024, intermediate_size=2816
    )


def test_its_tokenizer_is_found(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    write_synthetic(tmp_path, SHAPES["plain"])
    Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?")).save(
        str(tmp_path / "tokenizer.json")
    )
    assert AutoTokenizer.from_pretrained(tmp_path)("a").input_ids == [0]


# PEFT asks transformers by an older name.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_a_step_with_adapters_and_a_trainer(tmp_path: Path) -> None:
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(HGRNBitConfig(**TINY))
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["i_proj", "gate_proj"])
    adapted = peft.get_peft_model(model, lora)
    names = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert len(names) == 2 * 2 * 3 and all("lora" in name for name in names)
    before = {n: p.detach().clone() for n, p in adapted.named_parameters()}
    rows = [{"input_ids": row, "labels": row} for row in prompts().tolist()]
    trainer = transformers.Trainer(
        adapted,
        transformers.TrainingArguments(
            str(tmp_path),
            max_steps=2,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            report_to=[],
            use_cpu=True,
            dataloader_pin_memory=False,
            disable_tqdm=True,
            save_strategy="no",
            logging_strategy="no",
        ),
        train_dataset=rows,
    )
    assert trainer.train().training_loss > 0
    changed = {n for n, p in adapted.named_parameters() if not torch.equal(p.detach(), before[n])}
    assert changed and all("lora" in name for name in changed)


def test_without_transformers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError) as error:
        importlib.reload(mmfree_neuro.hf)
    assert str(error.value) == (
        "mmfree_neuro.hf needs transformers, which is not installed; install it with the hf extra: "
        "pip install 'mmfree-neuro[hf]'"
    )
