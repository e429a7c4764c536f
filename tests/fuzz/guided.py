"""One target guided by coverage, for `scripts/fuzz --atheris`: libFuzzer keeps and mutates inputs that reach new code.

Atheris is no dependency of the project; the script installs it into build/. usage: guided TARGET FOLDER [OPTION ...]
(the options are libFuzzer's)
"""

import sys
from pathlib import Path
from random import Random
from zlib import crc32

import atheris  # type: ignore[import-untyped, unused-ignore, import-not-found]

with atheris.instrument_imports(include=["router"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    program, name, folder, *options = sys.argv
    target = TARGETS[name]
    for number, data in enumerate(target.inputs):
        Path(folder, f"sample-{number}").write_bytes(data)

    def run(data: bytes) -> None:
        target.run(data, Random(crc32(data)))

    atheris.Setup([program, folder, *options], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
