"""Makes a folder in the Hugging Face layout from a GGUF file: `python -m turnwise.model.gguf FILE FOLDER`.

Engines and trainers of many kinds read the folder; the quantised file suits only some engines. Needs the packages gguf
and accelerate, which nothing else here does.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import torch


def convert(file: Path, folder: Path) -> None:
    """Writes float32 weights, configuration and tokenizer with its chat template.

    Args:
        file: A causal language model that transformers knows in this format.
        folder: Made anew; it appears only when it is whole.

    Raises:
        FileNotFoundError: There is no such file.
        FileExistsError: The folder is there already.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; remove it to make it anew")
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    source: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    read: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    # A model of the same configuration, but for the note that its weights were quantised.
    settings = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    model = type(read)(type(read.config)(**settings))
    model.load_state_dict(read.state_dict())
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    model.save_pretrained(part)
    AutoTokenizer.from_pretrained(**source).save_pretrained(part)
    part.rename(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="GGUF to the Hugging Face layout.")
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    convert(**vars(parser.parse_args()))
