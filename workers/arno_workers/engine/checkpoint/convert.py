"""Writes a checkpoint as a folder in transformers' own layout: `arno model convert` runs this where torch is.

    python -m arno_workers.engine.checkpoint.convert FOLDER

What is converted is the model, processor and adapter that the environment names.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from arno_shared import logs
from arno_shared.checkpoint.folder import LocalFolder
from arno_shared.checkpoint.survey import survey
from arno_shared.errors import ArnoError, InvalidRequest
from arno_shared.settings import Settings
from arno_shared.storage import ObjectStore
from arno_workers.engine.checkpoint.load import Checkpoint, load_checkpoint, locate_all


def write_native(checkpoint: Checkpoint, folder: Path) -> None:
    """The folder appears when it is whole. Raises InvalidRequest when something is there."""
    folder = check_free(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        model, processor = checkpoint.model.to(checkpoint.stored), checkpoint.processor
        _make_room(model, processor)
        if model.generation_config.num_beams == 1:
            # transformers saves no rules for beams where there are none.
            model.generation_config.early_stopping = model.generation_config.length_penalty = None
        model.save_pretrained(partial)
        processor.save_pretrained(partial)
        # Where transformers before version 5, and others, look for it.
        processor.image_processor.save_pretrained(partial)
        survey(LocalFolder(partial)).checked()
        partial.chmod(0o755)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(folder: Path) -> Path:
    """Where it lies. Raises InvalidRequest when something is there."""
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidRequest(f"{folder} is there already, and not empty: name a folder that is not")
    return folder


@torch.no_grad()
def _make_room(model: Any, processor: Any) -> None:
    """transformers looks up the row of `<image>` before it puts the picture there."""
    embeddings, head, last = model.get_input_embeddings(), model.get_output_embeddings(), processor.image_token_id
    rows = embeddings.weight.shape[0]
    if last < rows:
        return
    tied, pad = head.weight is embeddings.weight, processor.tokenizer.pad_token_id
    model.resize_token_embeddings(last + 1, mean_resizing=False)
    for matrix in (
        [model.get_input_embeddings()] if tied else [model.get_input_embeddings(), model.get_output_embeddings()]
    ):
        # No model says it: so no answer changes but for the least of its probability.
        matrix.weight[rows:] = matrix.weight[pad]


def main() -> None:
    settings = Settings()
    logs.configure(settings.log_level)
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        folder = check_free(Path(sys.argv[1]))
        write_native(load_checkpoint(locate_all(settings.worker, ObjectStore())), folder)
    except Exception as error:
        words = str(error) if isinstance(error, ArnoError | OSError) else f"{type(error).__name__}: {error}"
        sys.exit(f"arno model convert: {' '.join(words.split())}")


if __name__ == "__main__":
    main()
