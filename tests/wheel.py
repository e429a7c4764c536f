"""`python -m tests.wheel VENV BUILD`: an installed firsttoken names its build, serves a stream, and stops cleanly.

`scripts/test-compiled` installs a wheel of the compiled build into an environment of its own, and tests it so.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from openai import OpenAI

from tests.processes import HI, environment, free_port

LIMIT = 30.0  # seconds for each command


def main(venv: Path, build: str) -> None:
    """Raises AssertionError if the installed program is another build, or does not serve."""
    firsttoken, port = venv / "bin" / "firsttoken", free_port()
    with TemporaryDirectory() as elsewhere:  # not in the checkout, whose package would be imported
        version = subprocess.run(
            [firsttoken, "--version"],
            cwd=elsewhere,
            env=environment(PYTHONPATH=""),
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=True,
        ).stdout
        assert version.endswith(f"({build})\n"), version
        command = [str(firsttoken), "serve", "--example", "--port", str(port)]
        process = subprocess.Popen(command, cwd=elsewhere, env=environment(PYTHONPATH=""), stderr=subprocess.DEVNULL)
        try:
            client = OpenAI(api_key="any", base_url=f"http://127.0.0.1:{port}/v1", max_retries=10, timeout=LIMIT)
            model = client.models.list().data[0].id
            stream = client.chat.completions.create(model=model, messages=HI, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
            assert text, "a stream without text"
            process.send_signal(signal.SIGTERM)
            assert process.wait(LIMIT) == 0
        finally:
            process.kill()
            process.wait()
    print(f"{version.strip()}: served a stream of {len(text)} characters")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), sys.argv[2])
