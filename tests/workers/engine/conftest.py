"""What several tests of the engine's stages start from."""

from typing import Any

import pytest


@pytest.fixture(scope="module")
def bundled() -> Any:
    """The bundled model, as transformers has it."""
    import torch
    from transformers import Florence2ForConditionalGeneration

    from arno_workers.engine.locate import BUNDLED

    return Florence2ForConditionalGeneration.from_pretrained(BUNDLED / "arno-tiny", dtype=torch.float32).eval()
