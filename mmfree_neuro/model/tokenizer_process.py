"""The library `tokenizers` in a process of its own, because a `tokenizer.json` may make it panic,
abort, or go on for ever.

Whatever it does there becomes one InputError here, and nothing of it reaches the terminal.
"""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmfree_neuro.errors import InputError, shown

SECONDS = 30
"""The longest that one wish may take."""
MEMORY_BYTES = 4 << 30
"""The most that the process may take, its code and its threads included."""
PROGRAM = Path(__file__).with_name("tokenizer_program.py")


class TokenizerProcess:
    """A process that encodes and decodes by one `tokenizer.json`; it starts when it is first
    asked."""

    def __init__(self, tokenizer_json: str) -> None:
        self.content = tokenizer_json
        self.process: subprocess.Popen[bytes] | None = None

    def encode(self, texts: list[str], *, special: bool) -> list[list[int]]:
        """The tokens of each text, with what the tokenizer puts around it; names of special tokens
        inside are text unless `special`."""
        return self._ask("encode", texts, special)

    def facts(self) -> tuple[int, list[int], list[int], int | None]:
        """The largest token and 1, those before a text and behind it, and the one that ends a
        text by its name."""
        size, before, behind, named = self._ask("facts")
        return size, before, behind, named

    def decode(self, tokens: list[int]) -> str:
        """The text of tokens that continue another one."""
        return self._ask("decode", tokens)

    def settled(self, tokens: list[int]) -> str:
        """What of that text no token that follows will change."""
        return self._ask("settled", tokens)

    def start(self) -> None:
        """Have the library read the tokenizer, unless it has and is still there."""
        if self.process is not None and self.process.poll() is None:
            return
        self.close()
        self.process = subprocess.Popen(
            # Isolated, so that no file of the folder that we are in is taken for a library.
            [sys.executable, "-I", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"TOKENIZERS_PARALLELISM": "false"},
        )
        first = {"path": sys.path, "tokenizer": self.content}
        reply = self._exchange(first | {"memory_bytes": MEMORY_BYTES, "seconds": SECONDS})
        if "missing" in reply:
            raise InputError(
                "tokenizer.json: cannot be used because the package tokenizers is not installed, "
                "must be there for models that have one: pip install tokenizers"
            )
        if "refused" in reply:
            raise InputError(
                f"tokenizer.json: is not readable ({_inside(reply['refused'])}), must be a "
                "tokenizer in the format of Hugging Face tokenizers"
            )

    def _ask(self, name: str, *arguments: Any) -> Any:
        self.start()
        reply = self._exchange([name, arguments])
        if "refused" in reply:
            raise _unusable(_inside(reply["refused"]))
        return reply["answer"]

    def _exchange(self, wish: Any) -> dict[str, Any]:
        """The answer to a wish; InputError where the process ends over it."""
        process = self.process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(wish).encode() + b"\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if line:
            reply: dict[str, Any] = json.loads(line)
            return reply
        status = process.wait()
        self.close()
        raise _unusable(_how(status))

    def close(self) -> None:
        """End the process."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                with suppress(BrokenPipeError):  # what it did not read
                    stream.close()
            process.wait()


def _unusable(why: str) -> InputError:
    return InputError(
        f"tokenizer.json: the library tokenizers fails with it ({why}), must be a tokenizer that "
        "it can use"
    )


def _inside(message: str) -> str:
    """What the library said, in a message."""
    return shown(message)[1:-1]


def _how(status: int) -> str:
    """How a process ended."""
    if status == -signal.SIGALRM:
        return f"not done after {SECONDS} s"
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
