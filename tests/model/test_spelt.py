"""A corpus in the tokens of a tokenizer, and what a model must know of it."""

import os
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel

from mmfree_neuro.errors import InputError
from mmfree_neuro.model import corpus, spelt
from mmfree_neuro.model.corpus import Texts, load_texts

WORDS = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "cat": 4, "sat": 5}


def tokenizer(template: str = "<s> $A", names: tuple[str, ...] = ("<s>", "</s>")) -> str:
    """Words between spaces, between the special tokens of a template."""
    words = {word: n for word, n in WORDS.items() if word not in ("<s>", "</s>") or word in names}
    made = Tokenizer(WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = [(name, WORDS[name]) for name in names]
    made.post_processor = processors.TemplateProcessing(template, special_tokens=special)
    made.add_special_tokens([AddedToken(name, special=True) for name in names])
    return made.to_str()


@pytest.mark.parametrize(
    ("template", "names", "bos", "eos"),
    [
        ("<s> $A", ("<s>", "</s>"), 1, 2),
        ("$A", ("<s>", "</s>"), None, 2),
        ("$A <s>", ("<s>",), None, 1),
        ("<s> $A", ("<s>",), 1, None),
    ],
)
def test_what_a_model_must_know(
    template: str, names: tuple[str, ...], bos: int | None, eos: int | None
) -> None:
    assert spelt.vocabulary_of(tokenizer(template, names)) == spelt.Vocabulary(6, bos, eos)


def test_tokens_with_gaps_and_none_for_a_letter() -> None:
    """The vocabulary reaches to the largest token."""
    made = Tokenizer(WordLevel({"<unk>": 0, "cat": 40}, unk_token="<unk>"))
    assert spelt.vocabulary_of(made.to_str()) == spelt.Vocabulary(41, None, None)


@pytest.mark.parametrize("together", [1, 12, 1 << 20])
def test_documents_in_their_order(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever spells them, and however many go together."""
    monkeypatch.setattr(spelt, "TOGETHER_BYTES", together)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    documents = [b"a cat" if n % 3 else b"sat \xff" for n in range(40)]
    found = spelt.corpus_of(Texts(documents, [b"cat sat", b""], "rhymes"), tokenizer())
    expected = [token for n in range(40) for token in ((1, 3, 4) if n % 3 else (1, 5, 0))]
    assert found.train.tolist() == expected
    assert found.held_out.tolist() == [1, 4, 5, 1]
    assert found.train.dtype == np.int32
    assert (found.description, found.held_out_bytes) == ("rhymes", 7)


def test_a_tokenizer_that_makes_nothing_of_a_text() -> None:
    with pytest.raises(InputError) as error:
        spelt.corpus_of(Texts([b"a"], [b" "], "rhymes"), tokenizer("$A"))
    assert str(error.value) == "rhymes: becomes no tokens by tokenizer.json, must become some"


def test_a_file_becomes_documents_that_end_with_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "_PIECE_BYTES", 10)
    (tmp_path / "book").write_bytes(b"one two three\nfour\nfive six seven\n" * 2 + b"the end" * 2)
    texts = load_texts(str(tmp_path / "book"))
    assert texts.train[:3] == [b"one two three\n", b"four\nfive six seven\n", b"one two three\n"]
    assert b"".join((*texts.train, *texts.held_out)) == (tmp_path / "book").read_bytes()


def test_packages_have_each_content_once_and_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's own library, then installed packages; the vendored copy and the large file are left
    out, caches are no text."""
    library, installed = tmp_path / "lib", tmp_path / "lib" / "site-packages"
    held = next(name for name in map("m{}.py".format, range(99)) if corpus.is_held_out(name))
    for path, text in (
        (library / "a.py", "a"),
        (library / held, "held out"),
        (installed / "p" / "b.md", "b"),
        (installed / "p" / "vendored.py", "held out"),
        (installed / "p" / "table.txt", "x" * 200),
        (installed / "p" / "picture.png", "c"),
        (installed / "p" / "__pycache__" / "d.py", "d"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    paths = {"stdlib": str(library), "purelib": str(installed), "platlib": str(installed)}
    monkeypatch.setattr(corpus.sysconfig, "get_paths", lambda: paths)
    monkeypatch.setattr(corpus.site, "getsitepackages", lambda: [str(installed), "/nowhere"])
    monkeypatch.setattr(corpus, "MOST_OF_A_FILE", 100)
    texts = load_texts("packages")
    assert sorted(texts.train) == [b"a", b"b"]
    assert texts.held_out == [b"held out"]
    assert texts.description.startswith("the packages of Python 3.")
    assert corpus.load("packages").train.tobytes() == b"\0a\0b"
