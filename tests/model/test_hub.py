"""Models by their names on a hub: where they lie in the local cache, and what they are called."""

from pathlib import Path

import pytest

from mmfree_neuro.errors import CheckpointError
from mmfree_neuro.model import hub

NAME, COMMIT = "owner/Model-1.3B", "0123abcd"
VARIABLES = "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty home and an empty folder to work in."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def stored(cache: Path, *, commit: str = COMMIT) -> Path:
    """A model in a cache."""
    folder = cache / "models--owner--Model-1.3B"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    return folder / "snapshots" / COMMIT


@pytest.mark.parametrize(
    ("variable", "value", "cache"),
    [
        (None, "", ".cache/huggingface/hub"),
        ("HF_HUB_CACHE", "a", "a"),
        ("HF_HUB_CACHE", "~/a", "a"),
        ("HF_HOME", "~/a", "a/hub"),
        ("HUGGINGFACE_HUB_CACHE", "a", "a"),
        ("HF_HOME", "a", "a/hub"),
        ("XDG_CACHE_HOME", "a", "a/huggingface/hub"),
    ],
)
def test_a_name_is_looked_up_in_the_cache(
    variable: str | None, value: str, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv(variable, value if value[0] == "~" else str(tmp_path / value))
    folder = stored(tmp_path / cache)
    assert hub.located(Path(NAME)) == folder
    assert hub.name_of(folder) == "Model-1.3B"


def test_what_is_there_is_taken_as_it_is(tmp_path: Path) -> None:
    stored(tmp_path / ".cache/huggingface/hub")
    Path(NAME).mkdir(parents=True)
    assert hub.located(Path(NAME)) == Path(NAME)
    assert hub.name_of(Path(NAME)) == "Model-1.3B"
    assert hub.name_of(Path("owner")) == "owner"


@pytest.mark.parametrize(
    "path", ["model", "a/b/c", "/owner/model", "owner/m.graph", "owner/m.map", "out/my.run"]
)
def test_what_is_no_such_name_is_left_as_it_is(path: str) -> None:
    assert hub.located(Path(path)) == Path(path)


def test_a_misspelt_path_in_a_folder_is_no_such_name() -> None:
    Path("owner").mkdir()
    assert hub.located(Path(NAME)) == Path(NAME)


@pytest.mark.parametrize("commit", [None, "", "another", b"\xff"])
def test_what_is_not_in_the_cache_can_be_downloaded(
    commit: str | bytes | None, tmp_path: Path
) -> None:
    cache = tmp_path / ".cache/huggingface/hub"
    if commit is not None:
        refs = stored(cache).parents[1] / "refs" / "main"
        refs.write_bytes(commit if isinstance(commit, bytes) else commit.encode())
    with pytest.raises(CheckpointError) as error:
        hub.located(Path(NAME))
    assert str(error.value) == (
        f"{NAME}: no such file or folder, and no model of this name in the local cache {cache}; "
        f"if it is one on the hub, this downloads it: hf download {NAME}"
    )
