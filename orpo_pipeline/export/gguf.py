"""Merged weights as a GGUF file, by llama.cpp's own converter where it is installed.

The merged weights are converted, never the adapter: llama.cpp's converter of adapters does not know
rsLoRA's scaling.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from schemas.errors import EnvironmentFault

CONVERTERS = ("convert_hf_to_gguf.py", "convert-hf-to-gguf")
LAST_LINES = 5


def find_converter(named: Path | None) -> Path:
    """llama.cpp's convert_hf_to_gguf.py: the one named, else from PATH.

    Raises EnvironmentFault when it is not there.
    """
    if named is not None and named.is_file():
        return named.resolve()
    for name in CONVERTERS if named is None else ():
        found = shutil.which(name)
        if found:
            return Path(found)
    raise EnvironmentFault(
        f"llama.cpp's converter is not at {named}."
        if named
        else f"llama.cpp's converter is not installed: {' or '.join(CONVERTERS)} is not on PATH.",
        "the script convert_hf_to_gguf.py of a llama.cpp checkout.",
        "Name it: --converter path/to/llama.cpp/convert_hf_to_gguf.py.",
    )


def convert(converter: Path, merged: Path, outfile: Path) -> None:
    """Write `outfile` (bf16) from a folder of merged weights. Raises EnvironmentFault."""
    command = [str(converter), str(merged), "--outfile", str(outfile), "--outtype", "bf16"]
    if converter.suffix == ".py":
        command.insert(0, sys.executable)
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode or not outfile.is_file():
        said = "\n".join((finished.stderr or finished.stdout).strip().splitlines()[-LAST_LINES:])
        raise EnvironmentFault(
            f"{converter.name} failed with exit code {finished.returncode}: {said}",
            "a converter that knows this architecture and tokenizer.",
            "Update llama.cpp, or convert the folder of `export --merge` by hand.",
        )
