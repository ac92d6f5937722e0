"""The program of the process in which the library `tokenizers` is used; see `tokenizer_process`.

It reads a line of JSON for every wish and answers with one.  The library may panic or abort: then
this process ends, and whoever asked sees that.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

BEFORE = "a"
"""Stands before a continuation when it is decoded, for decoders drop the space at the beginning of
a text."""
ENDS = "</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>"
"""Names of the token that ends a text."""
SPOILER = "<0xFF>"
"""The token of a byte that is no UTF-8.  Bytes that stand together are text only where all of them
are UTF-8, so this one behind them shows which are not settled yet."""


def limited(memory_bytes: int) -> None:
    """Bounds what the library may take, and leaves interrupts to whoever asks."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, be it in compiled code


def answers(content: str) -> dict[str, Callable[..., Any]]:
    """What can be asked about a `tokenizer.json`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def encode(texts: list[str], special: bool) -> list[list[int]]:
        """Each text between the special tokens that the tokenizer puts around it; names of special
        tokens inside are text unless `special`."""
        tokenizer.encode_special_tokens = not special
        return [tokenizer.encode(text, add_special_tokens=True).ids for text in texts]

    try:
        before = tokenizer.encode(BEFORE, add_special_tokens=False).ids
    except Exception:  # it has no token for this letter, and none for the unknown
        before = []
    shown_before = tokenizer.decode(before)

    def decode(ids: list[int]) -> str:
        """A continuation as text, special tokens left out."""
        return tokenizer.decode([*before, *ids]).removeprefix(shown_before)

    spoiler = tokenizer.token_to_id(SPOILER)

    def settled(ids: list[int]) -> str:
        """What of a continuation no token that follows will change."""
        text = decode(ids)
        if spoiler is None:
            return text
        spoilt = decode([*ids, spoiler])
        same = (k for k, pair in enumerate(zip(text, spoilt, strict=False)) if len(set(pair)) > 1)
        return text[: next(same, min(len(text), len(spoilt)))]

    def facts() -> tuple[int, list[int], list[int], int | None]:
        """The largest token and 1, those before a text and behind it, and the one that ends a
        text by its name."""
        inside, whole = before, tokenizer.encode(BEFORE, add_special_tokens=True).ids
        places = (k for k in range(len(whole) + 1) if whole[k : k + len(inside)] == inside)
        at = next(places, len(whole))
        named = (tokenizer.token_to_id(name) for name in ENDS)
        end = next((token for token in named if token is not None), None)
        size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
        return size, whole[:at], whole[at + len(inside) :], end

    return {"encode": encode, "decode": decode, "settled": settled, "facts": facts}


def attempt(seconds: int, act: Callable[[], Any]) -> dict[str, Any]:
    """The answer to a wish: what came of it, or what the library said."""
    signal.alarm(seconds)
    try:
        return {"answer": act()}
    except ImportError:
        return {"missing": True}
    except BaseException as error:  # a panic of the library is no Exception
        return {"refused": str(error) or type(error).__name__}
    finally:
        signal.alarm(0)


def main() -> None:
    """Answer until nobody asks any more."""
    wishes, replies = sys.stdin, os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever the library prints is no answer
    first = json.loads(wishes.readline())
    limited(first["memory_bytes"])
    sys.path[:] = first["path"]
    known: dict[str, Callable[..., Any]] = {}

    def begin() -> None:
        known.update(answers(first["tokenizer"]))

    reply = attempt(first["seconds"], begin)
    while True:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
        line = wishes.readline()
        if not line:
            return
        name, arguments = json.loads(line)
        reply = attempt(first["seconds"], partial(known[name], *arguments))


if __name__ == "__main__":
    main()
