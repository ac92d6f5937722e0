"""Text to tokens and back, by a small tokenizer in the style of the published one and byte by
byte."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from mmfree_neuro.errors import InputError
from mmfree_neuro.model.tokenizer import check_tokenizer, decode, encode, encode_corpus

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
    "▁▁",
    "e▁",
]
LETTERS = [*"▁abcdefghijklmnopqrstuvwxyz.,<>/'\n"]
SPECIAL = ["<unk>", "<s>", "</s>"]


def made(normalizer: bool) -> Tokenizer:
    """Byte-pair encoding with bytes for what has no token; a space becomes U+2581, and one stands
    before a text.

    By a normalizer as the published tokenizers have it, or by a pre-tokenizer as newer ones do.
    """
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *LETTERS, *WORDS]
    merges = [(word[:-1], word[-1]) for word in WORDS]
    model = BPE(
        {t: k for k, t in enumerate(tokens)},
        merges,
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    first: decoders.Decoder = decoders.Metaspace()
    if normalizer:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        first = decoders.Replace("▁", " ")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tail = [decoders.Strip(" ", 1, 0)] if normalizer else []
    tokenizer.decoder = decoders.Sequence([first, decoders.ByteFallback(), decoders.Fuse(), *tail])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in SPECIAL]
    )
    return tokenizer


STYLES = {"normalizer": made(True).to_str(), "pre-tokenizer": made(False).to_str()}
LLAMA = STYLES["normalizer"]
every_style = pytest.mark.parametrize("style", STYLES)
TEXTS = [
    "once upon a time",
    " once",
    "   three  spaces ",
    "\n",
    "a\n\n b\n",
    "naïve café",
    "時間",
    "🙂 once 🙂🏽",
    "\0",
    "▁",
    "<s> once </s>",
    "<unk>",
    "e e e",
]


def number(token: str) -> int:
    """The number of a token."""
    found = Tokenizer.from_str(LLAMA).token_to_id(token)
    assert found is not None
    return found


def test_without_a_tokenizer_tokens_are_bytes() -> None:
    assert encode(None, None, "aé") == [97, 0xC3, 0xA9]
    assert encode(0, None, "a") == [0, 97]
    assert encode(0, None, "") == [0]
    assert encode(None, None, "a\udcff") == [
        97,
        0xFF,
    ]  # a byte of the command line that is not UTF-8
    assert decode(None, np.array([97, 0xC3, 0xA9, 300])) == "aé"
    assert decode(None, [97, 0xC3]) == "a�"


@every_style
def test_a_text_stands_behind_the_first_token_of_the_model(style: str) -> None:
    expected = [number("▁once"), number("▁upon"), number("▁a")]
    for bos in (1, 2):
        assert encode(bos, STYLES[style], "once upon a") == [bos, *expected]
    assert encode(None, STYLES[style], "once upon a") == expected
    assert encode(1, STYLES[style], "") == [1]


@every_style
def test_special_tokens_in_a_text_are_text(style: str) -> None:
    tokens = encode(1, STYLES[style], "<s> once</s>")
    assert tokens[0] == 1
    assert not {0, 1, 2} & set(tokens[1:])


@every_style
def test_what_has_no_token_becomes_bytes(style: str) -> None:
    assert encode(None, STYLES[style], "é") == [number("▁"), number("<0xC3>"), number("<0xA9>")]
    assert encode(None, STYLES[style], "a\udcff") == encode(None, STYLES[style], "a�")


@every_style
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back(style: str, text: str) -> None:
    tokens, shown = encode(None, STYLES[style], f".{text}"), text.replace("▁", " ")
    assert tokens[:2] == [number("▁"), number(".")]
    assert Tokenizer.from_str(STYLES[style]).decode(tokens) == f".{shown}"
    assert decode(STYLES[style], tokens) == f" .{shown}"
    assert decode(STYLES[style], tokens[2:]) == shown


@every_style
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=12))
def test_any_text_comes_back(style: str, text: str) -> None:
    tokens = encode(None, STYLES[style], f".{text}")
    assert decode(STYLES[style], tokens[2:]) == text


@every_style
def test_a_continuation_keeps_its_space_and_loses_special_tokens(style: str) -> None:
    upon, time, e = number("▁upon"), number("▁time"), number("e")
    assert decode(STYLES[style], np.array([upon, time])) == " upon time"
    assert decode(STYLES[style], [1, upon, 2, time, 2]) == " upon time"
    assert decode(STYLES[style], [e, upon]) == "e upon"
    assert decode(STYLES[style], [number("▁▁"), upon]) == "   upon"
    assert decode(STYLES[style], [number("<0xF0>"), number("<0x9F>"), e]) == "��e"
    assert decode(STYLES[style], []) == ""
    assert (
        decode(STYLES[style], [99999, upon]) == " upon"
    )  # a model may have more tokens than its tokenizer


def test_the_tokenizer_of_another_kind_needs_no_space_before_a_text() -> None:
    letters = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(BPE({letter: k for k, letter in enumerate(sorted(letters))}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    text = " once\n🙂 upon"
    tokens = encode(None, tokenizer.to_str(), text)
    assert len(tokens) == len(text.encode())
    assert decode(tokenizer.to_str(), tokens) == text


def test_a_text_is_never_cut_or_filled_up() -> None:
    tokenizer = made(True)
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=40)
    text = "once upon a time"
    assert encode(1, tokenizer.to_str(), text) == encode(1, LLAMA, text)


def test_a_corpus_is_its_documents_in_a_row() -> None:
    found = encode_corpus(LLAMA, (text for text in (b"once", b"", b"a\xff", b"<s>")))
    alone = [encode(1, LLAMA, text) for text in ("once", "", "a�", "<s>")]
    assert found.dtype == np.int64
    assert found.tolist() == [token for tokens in alone for token in tokens]
    assert encode_corpus(LLAMA, []).shape == (0,)


def test_nothing_to_begin_with() -> None:
    for tokenizer in (None, LLAMA):
        with pytest.raises(InputError) as error:
            encode(None, tokenizer, "")
        assert str(error.value) == (
            "the prompt is empty, must have at least one byte for a model without a token to "
            "begin with"
        )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("nonsense", "expected ident at line 1 column 2"),
        ("{}", "Model missing. at line 1 column 2"),
    ],
)
@pytest.mark.parametrize("use", ["encode", "decode", "corpus", "check"])
def test_no_tokenizer(content: str, problem: str, use: str) -> None:
    uses: dict[str, Callable[[], object]] = {
        "encode": lambda: encode(1, content, "a"),
        "decode": lambda: decode(content, [1]),
        "corpus": lambda: encode_corpus(content, []),
        "check": lambda: check_tokenizer(content, 300),
    }
    with pytest.raises(InputError) as error:
        uses[use]()
    assert str(error.value) == (
        f"tokenizer.json: is not readable ({problem}), must be a tokenizer in the format of "
        "Hugging Face tokenizers"
    )


def test_the_vocabulary_of_a_model_holds_that_of_its_tokenizer() -> None:
    size = made(True).get_vocab_size()
    check_tokenizer(LLAMA, size)
    with pytest.raises(InputError) as error:
        check_tokenizer(LLAMA, size - 1)
    assert str(error.value) == (
        f"tokenizer.json: has token {size - 1}, which is outside the vocabulary 0 … {size - 2}"
    )


def test_the_package_is_asked_for_where_it_is_needed() -> None:
    program = (
        "import sys\n"
        "sys.modules['tokenizers'] = None\n"
        "from mmfree_neuro.model.tokenizer import encode, decode\n"
        "assert decode(None, encode(0, None, 'a')) == '\\0a'\n"
        "encode(1, '{}', 'a')\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert found.stderr.splitlines()[-1] == (
        "mmfree_neuro.errors.InputError: tokenizer.json: cannot be used because the package "
        "tokenizers is not "
        "installed, must be there for models that have one: pip install tokenizers"
    )
