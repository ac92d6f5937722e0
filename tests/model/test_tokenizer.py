"""Text to tokens and back, by a small tokenizer in the style of the published one and byte by
byte."""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordLevel

from mmfree_neuro.errors import InputError
from mmfree_neuro.model import tokenizer_process
from mmfree_neuro.model.tokenizer import Speller, Spelling, Typed, speller
from mmfree_neuro.model.tokenizer_process import TokenizerProcess

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


By = Callable[..., Speller]


@pytest.fixture(scope="module")
def by() -> Iterator[By]:
    """The function that gives who spells by a tokenizer; its process is there for all tests."""
    known: dict[str, Speller] = {}
    with ExitStack() as stack:

        def of(tokenizer: str) -> Speller:
            if tokenizer not in known:
                known[tokenizer] = stack.enter_context(speller(Spelling(400, tokenizer)))
            return known[tokenizer]

        yield of


def refused(spelling: Spelling, use: Callable[[Speller], object] = lambda _: None) -> str:
    """What somebody is told whose text cannot be spelt."""
    with pytest.raises(InputError) as error, speller(spelling) as by:
        use(by)
    return str(error.value)


def number(token: str) -> int:
    """The number of a token."""
    found = Tokenizer.from_str(LLAMA).token_to_id(token)
    assert found is not None
    return found


# Bytes.


@pytest.mark.parametrize("vocabulary", [256, 257, 260])
def test_a_vocabulary_of_bytes_needs_no_tokenizer(vocabulary: int) -> None:
    with speller(Spelling(vocabulary)) as by:
        assert by.encode("aé") == [97, 0xC3, 0xA9]
        # a byte of the command line that is not UTF-8
        assert by.encode("a\udcff") == [97, 0xFF]
        assert by.encode_corpus([b"a\xff", b"", b"b"]).tolist() == [97, 255, 98]
    with speller(Spelling(vocabulary, bos=vocabulary - 1)) as by:
        assert by.encode("a") == [vocabulary - 1, 97]
        assert by.encode("") == [vocabulary - 1]


@pytest.mark.parametrize("vocabulary", [1, 100, 255, 261, 300, 32_000, 50_257])
def test_any_other_vocabulary_is_bytes_where_one_says_so(vocabulary: int) -> None:
    assert refused(Spelling(vocabulary)) == (
        f"the model has no tokenizer, and its vocabulary of {vocabulary} tokens is not one of "
        "bytes: put its tokenizer.json beside the weights and convert again, or have text read as "
        "bytes with --bytes"
    )
    with speller(Spelling(vocabulary, as_bytes=True)) as by:
        assert by.encode("aé") == [97, 0xC3, 0xA9]


def test_bytes_go_before_a_tokenizer() -> None:
    with speller(Spelling(400, LLAMA, bos=1, as_bytes=True)) as by:
        assert by.encode("a") == [1, 97]
        assert by.decode([97, 300]) == "a�"


def test_bytes_as_text() -> None:
    """What is no byte is seen, and ends a character."""
    with speller(Spelling(260)) as by:
        assert by.decode(np.array([97, 0xC3, 0xA9])) == "aé"
        assert by.decode([97, 0xC3]) == "a�"
        assert by.decode([256, 97, 259, 258, 98]) == "�a��b"
        assert by.decode([0xC3, 300, 0xA9]) == "���"
        assert by.decode([-1]) == "�"
        assert by.decode([]) == ""


@pytest.mark.parametrize("bos", [-1, 256, 50_256])
def test_a_first_token_that_there_is_not(bos: int) -> None:
    """Told when a prompt needs it, and not before."""
    spelling = Spelling(256, bos=bos)
    with speller(spelling) as by:
        assert by.encode_corpus([b"a"]).tolist() == [97]
        assert by.decode([97]) == "a"
    assert refused(spelling, lambda by: by.encode("a")) == (
        f"the model puts token {bos} before a text (bos_token_id of config.json), must be one of "
        "its vocabulary 0 … 255, or null"
    )
    with speller(Spelling(400, LLAMA, bos=bos)) as by:
        assert by.encode("once") == [1, number("▁once")]


def test_bytes_have_no_special_tokens() -> None:
    assert refused(Spelling(256), lambda by: by.encode("<s>", special=True)) == (
        "the model has no tokenizer, so a prompt cannot name special tokens"
    )


# A tokenizer.


@every_style
def test_a_text_stands_where_the_tokenizer_puts_it(style: str, by: By) -> None:
    expected = [number("▁once"), number("▁upon"), number("▁a")]
    assert by(STYLES[style]).encode("once upon a") == [1, *expected]
    assert by(STYLES[style]).encode("") == [1]
    around = Tokenizer.from_str(STYLES[style])
    around.post_processor = processors.TemplateProcessing(
        "<s> $A </s> <s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert by(around.to_str()).encode("once upon a") == [1, *expected, 2, 1]
    around.post_processor = None  # type: ignore[assignment]
    plain = json.loads(STYLES[style]) | {"post_processor": None}
    assert by(json.dumps(plain)).encode("once upon a") == expected


@every_style
def test_special_tokens_in_a_text_are_text(style: str, by: By) -> None:
    tokens = by(STYLES[style]).encode("<s> once</s>")
    assert tokens[0] == 1
    assert not {0, 1, 2} & set(tokens[1:])


@every_style
def test_special_tokens_in_a_text_are_tokens_where_one_says_so(style: str, by: By) -> None:
    spelt = by(STYLES[style])
    tokens = spelt.encode("a</s>", special=True)
    assert (tokens[0], tokens[-1]) == (1, 2)
    assert tokens == Tokenizer.from_str(STYLES[style]).encode("a</s>").ids
    assert spelt.encode("a</s>")[-1] == number(">")  # the next one is not told


@every_style
def test_what_has_no_token_becomes_bytes(style: str, by: By) -> None:
    spelt = by(STYLES[style])
    assert spelt.encode("é") == [1, number("▁"), number("<0xC3>"), number("<0xA9>")]
    assert spelt.encode("a\udcff") == spelt.encode("a�")


@every_style
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back(style: str, text: str, by: By) -> None:
    tokens, shown = by(STYLES[style]).encode(f".{text}")[1:], text.replace("▁", " ")
    assert tokens[:2] == [number("▁"), number(".")]
    assert Tokenizer.from_str(STYLES[style]).decode(tokens) == f".{shown}"
    assert by(STYLES[style]).decode(tokens) == f" .{shown}"
    assert by(STYLES[style]).decode(tokens[2:]) == shown


@every_style
@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=12))
def test_any_text_comes_back(style: str, text: str, by: By) -> None:
    tokens = by(STYLES[style]).encode(f".{text}")
    assert by(STYLES[style]).decode(tokens[3:]) == text


@every_style
def test_a_continuation_keeps_its_space_and_loses_special_tokens(style: str, by: By) -> None:
    upon, time, e = number("▁upon"), number("▁time"), number("e")
    decode = by(STYLES[style]).decode
    assert decode(np.array([upon, time])) == " upon time"
    assert decode([1, upon, 2, time, 2]) == " upon time"
    assert decode([e, upon]) == "e upon"
    assert decode([number("▁▁"), upon]) == "   upon"
    assert decode([number("<0xF0>"), number("<0x9F>"), e]) == "��e"
    assert decode([]) == ""
    # a model may have more tokens than its tokenizer
    assert decode([99999, upon]) == " upon"


def test_the_tokenizer_of_another_kind_needs_no_space_before_a_text(by: By) -> None:
    letters = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(BPE({letter: k for k, letter in enumerate(sorted(letters))}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    text = " once\n🙂 upon"
    tokens = by(tokenizer.to_str()).encode(text)
    assert len(tokens) == len(text.encode())
    assert by(tokenizer.to_str()).decode(tokens) == text


def test_a_text_is_never_cut_or_filled_up(by: By) -> None:
    tokenizer = made(True)
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=40)
    text = "once upon a time"
    assert by(tokenizer.to_str()).encode(text) == by(LLAMA).encode(text)


def test_a_corpus_is_its_documents_in_a_row(by: By) -> None:
    found = by(LLAMA).encode_corpus(text for text in (b"once", b"", b"a\xff", b"<s>"))
    alone = [by(LLAMA).encode(text) for text in ("once", "", "a�", "<s>")]
    assert found.dtype == np.int64
    assert found.tolist() == [token for tokens in alone for token in tokens]
    assert by(LLAMA).encode_corpus([]).shape == (0,)


# What cannot be spelt.


def test_nothing_to_begin_with() -> None:
    bare = json.dumps(json.loads(LLAMA) | {"post_processor": None})
    for spelling in (Spelling(256), Spelling(400, bare)):
        assert refused(spelling, lambda by: by.encode("")) == (
            "the prompt is empty, must have at least one byte for a model without a token to "
            "begin with"
        )


def test_a_prompt_of_no_tokens() -> None:
    nothing = Tokenizer(BPE({}, [])).to_str()
    assert refused(Spelling(400, nothing), lambda by: by.encode("once")) == (
        "the prompt becomes no token by tokenizer.json, must become at least one"
    )


@pytest.mark.parametrize("text", ["a\ud83d", "\udfff", "\udc00b", "\ud83d\ude42"])
def test_half_a_character(text: str) -> None:
    half = next(letter for letter in text if "\ud800" <= letter <= "\udfff")
    for spelling in (Spelling(256), Spelling(400, LLAMA)):
        assert refused(spelling, lambda by: by.encode(text)) == (
            f"the prompt holds U+{ord(half):04X}, half a character, must be Unicode text"
        )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("nonsense", "expected ident at line 1 column 2"),
        ("{}", "Model missing. at line 1 column 2"),
    ],
)
def test_no_tokenizer(content: str, problem: str) -> None:
    assert refused(Spelling(400, content)) == (
        f"tokenizer.json: is not readable ({problem}), must be a tokenizer in the format of "
        "Hugging Face tokenizers"
    )


def failing(why: str) -> str:
    return (
        f"tokenizer.json: the library tokenizers fails with it ({why}), must be a tokenizer that "
        "it can use"
    )


def test_a_tokenizer_at_which_the_library_panics(capfd: pytest.CaptureFixture[str]) -> None:
    content = json.loads(LLAMA)
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    said = refused(Spelling(400, json.dumps(content)))
    assert said.startswith("tokenizer.json: is not readable (")
    assert said.endswith("), must be a tokenizer in the format of Hugging Face tokenizers")
    assert capfd.readouterr() == ("", "")


def test_a_tokenizer_at_which_the_library_aborts(capfd: pytest.CaptureFixture[str]) -> None:
    content = json.loads(LLAMA)
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "/////w=="}
    assert refused(Spelling(400, json.dumps(content))) == failing("ended by SIGABRT")
    assert capfd.readouterr() == ("", "")


def test_a_word_that_is_unknown() -> None:
    """And no token for it: told of the text that has it, not of another."""
    words = Tokenizer(WordLevel({"once": 0, "upon": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    spelling = Spelling(400, words.to_str())
    with speller(spelling) as by:
        assert by.encode("once upon") == [0, 1]
        assert by.decode([0, 1]) == "once upon"
    assert refused(spelling, lambda by: by.encode("once more")) == failing(
        "WordLevel error: Missing [UNK] token from the vocabulary"
    )


# The process of the library.


class Elsewhere:
    """A program in the place of ours, whose text is given."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.path, self.patch = folder / "program.py", patch

    def is_(self, program: str) -> None:
        self.path.write_text(program, encoding="utf-8")
        self.patch.setattr(tokenizer_process, "PROGRAM", self.path)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Elsewhere:
    return Elsewhere(tmp_path, monkeypatch)


BUSY = """
import sys
sys.path.insert(0, {ours!r})
import tokenizer_program
tokenizer_program.answers = lambda content: {{"encode": eval(content)}}
tokenizer_program.main()
"""


@pytest.mark.parametrize(
    ("what", "seconds", "why"),
    [
        ("lambda *_: max(iter(int, 1))", 1, "not done after 1 s"),
        ("lambda *_: bytes(1 << 40)", 9, "MemoryError"),
        ("lambda *_: exit(3)", 9, "3"),
        ("lambda *_: __import__('os')._exit(3)", 9, "exit status 3"),
        ("lambda *_: __import__('os').kill(__import__('os').getpid(), 9)", 9, "ended by SIGKILL"),
        ("lambda *_: 1 / 0", 9, "division by zero"),
    ],
)
def test_whatever_the_library_does(
    what: str, seconds: int, why: str, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goes on for ever, takes all memory, ends: one line, and the process is gone."""
    monkeypatch.setattr(tokenizer_process, "SECONDS", seconds)
    monkeypatch.setattr(tokenizer_process, "MEMORY_BYTES", 1 << 30)
    elsewhere.is_(BUSY.format(ours=str(Path(tokenizer_process.__file__).parent)))
    process = TokenizerProcess(what)
    with pytest.raises(InputError) as error:
        process.encode(["a"], special=False)
    assert str(error.value) == failing(why)
    process.close()
    assert process.process is None


def test_the_process_is_there_while_it_is_needed(by: By) -> None:
    process = TokenizerProcess(LLAMA)
    assert process.process is None
    assert process.encode(["once"], special=False) == [[1, number("▁once")]]
    assert process.process is not None
    first = process.process.pid
    assert process.decode([number("▁once")]) == " once"
    assert process.process.pid == first
    os.kill(first, 9)  # as where the machine has no memory left
    process.process.wait()
    assert process.decode([number("▁once")]) == " once"
    second = process.process
    assert second.pid != first
    process.close()
    assert second.poll() is not None
    process.close()


def test_a_library_of_the_folder_that_we_are_in_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizers.py").write_text("raise ImportError('not this one')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with speller(Spelling(400, LLAMA)) as by:
        assert by.encode("once") == [1, number("▁once")]


def test_the_package_is_asked_for_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    with speller(Spelling(256)) as by:
        assert by.decode(by.encode("a")) == "a"
    assert refused(Spelling(400, LLAMA)) == (
        "tokenizer.json: cannot be used because the package tokenizers is not installed, must be "
        "there for models that have one: pip install tokenizers"
    )


# Text that is shown as it comes.


def typed(by: Speller, tokens: list[int]) -> tuple[list[str], str]:
    """What is shown after each token, and all of it."""
    typing = Typed(by)
    pieces = []
    for token in tokens:
        typing.not_before = 0.0
        pieces.append(typing.take([token]))
    return pieces, "".join(pieces) + typing.rest(by.decode(tokens))


def test_no_character_is_shown_by_halves(by: By) -> None:
    with speller(Spelling(256)) as plain:
        assert typed(plain, list("aé".encode())) == (["a", "", "é"], "aé")
        assert typed(plain, [97, 0xC3]) == (["a", ""], "a�")
        assert typed(plain, [0xC3, 0xC3, 97]) == (["", "", "��a"], "��a")
    upon, bytes_ = number("▁upon"), [number("<0xC3>"), number("<0xA9>")]
    # Of bytes that stand together none is text before all of them are.
    assert typed(by(LLAMA), [upon, *bytes_, 2]) == ([" upon", "", "", ""], " uponé")
    assert typed(by(LLAMA), [upon, *bytes_, upon]) == ([" upon", "", "", "é upon"], " uponé upon")


@every_style
@given(tokens=st.lists(st.integers(0, 310), max_size=12))
def test_what_was_shown_is_the_text(style: str, tokens: list[int], by: By) -> None:
    assert typed(by(STYLES[style]), tokens)[1] == by(STYLES[style]).decode(tokens)


@given(tokens=st.lists(st.integers(0, 259), max_size=12))
def test_what_was_shown_of_bytes_is_the_text(tokens: list[int]) -> None:
    with speller(Spelling(260)) as by:
        assert typed(by, tokens)[1] == by.decode(tokens)


class Mending:
    """A decoder that mends what it has written: a space before a full stop is taken away."""

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        raise NotImplementedError

    def encode_corpus(self, documents: Any) -> Any:
        raise NotImplementedError

    def decode(self, tokens: Any) -> str:
        return "".join(("a ", ".", "b")[token] for token in tokens).replace(" .", ".")

    def settled(self, tokens: Any) -> str:
        return self.decode(tokens)


def test_a_text_that_was_mended_is_shown_anew() -> None:
    """Where what was shown is no beginning of the text, the text stands on a line of its own."""
    mending = Typed(Mending())
    assert mending.take([0]) == "a "
    mending.not_before = 0.0
    assert mending.take([1]) == ""
    assert mending.rest("a.") == "\na."


def test_showing_takes_little_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a decoding that took a second, the next is nine seconds later."""
    now = [0.0]

    class Slow(Mending):
        def decode(self, tokens: Any) -> str:
            now[0] += 1
            return super().decode(tokens)

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    typing = Typed(Slow())
    assert typing.take([0]) == "a "
    now[0] = 9.9
    assert typing.take([2]) == ""
    now[0] = 10.0
    assert typing.take([2]) == "bb"
