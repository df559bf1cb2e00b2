"""Real workers with models as people have them: what their rows and `arno workers` say, and how a bad one ends."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from arno_producer import Producer
from arno_shared.presence import WorkerState, workers
from arno_shared.settings import Settings
from tests.acceptance.arno_worker import arno_worker, eventually
from tests.checkpoints import make_adapter, make_original

FLORENCE = {"ARNO_WORKER__ENGINE": "florence", "ARNO_WORKER__SLOTS": "4", "ARNO_WORKER__DTYPE": "float32"}
RULES = "3 beams, no 3-gram twice, from text_config of config.json"


def state_of(producer: Producer, name: str) -> WorkerState:
    def said() -> WorkerState | None:
        return next((seen.state for seen in workers(producer.redis) if seen.state and seen.state.provenance), None)

    state = eventually(said, f"{name} has read its model")
    assert isinstance(state, WorkerState)
    return state


def test_two_adapters_on_one_base_are_two_deployments_and_rows_say_which(
    settings: Settings, tmp_path: Path, pictures: Callable[[int], list[str]], files_allowed: dict[str, str]
) -> None:
    base = make_original(tmp_path / "base")
    answers, facts = {}, {}
    for name, hit in (("invoices", ("lm_head",)), ("plants", ("q_proj", "fc2", "lm_head"))):
        adapter = make_adapter(tmp_path / name, hit=hit)
        own = settings.model_copy(update={"key_prefix": f"{name}:"})
        env = {
            **files_allowed,
            **FLORENCE,
            "ARNO_WORKER__MODEL": str(base),
            "ARNO_WORKER__ADAPTER": str(adapter),
            "ARNO_KEY_PREFIX": f"{name}:",
        }
        with arno_worker(own, tmp_path, name, env) as worker:
            producer = Producer(own)
            generation = {"num_beams": 1, "max_new_tokens": 6}
            output = f"{settings.output_prefix}{name}/"
            job = producer.submit(pictures(1), "<CAPTION>", output=output, generation=generation)
            assert job.wait(60).ok == 1
            (row,) = job.results()
            state = state_of(producer, name)
            (line,) = worker.logged("checkpoint read")
        answers[name], facts[name] = row.prompts[0].raw, row.model
        assert (row.model.id, row.model.adapter) == (str(base), str(adapter))
        assert (state.adapter, state.adapter_revision) == (str(adapter), row.model.adapter_revision)
        assert state.provenance == line["said"]
        assert line["said"].startswith(f"Microsoft's original layout, float32, head of its own; {RULES}; adapter ")
    assert answers["invoices"] != answers["plants"]
    assert facts["invoices"].revision == facts["plants"].revision
    assert facts["invoices"].adapter_revision != facts["plants"].adapter_revision


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("missing", "it lacks tensor image_proj_norm.bias (of 274); this seems to be a Florence-2 in Microsoft's"),
        ("nan", "tensor image_proj_norm.bias holds values that are not finite numbers (NaN or infinity); this seems"),
    ],
)
def test_a_model_that_would_answer_nonsense_ends_its_worker_with_one_sentence(
    settings: Settings, tmp_path: Path, change: str, words: str
) -> None:
    folder = make_original(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    if change == "missing":
        del tensors["image_proj_norm.bias"]
    else:
        tensors["image_proj_norm.bias"][3] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    env = {**FLORENCE, "ARNO_WORKER__MODEL": str(folder)}
    with arno_worker(settings, tmp_path, "bad", env, ready=False) as worker:
        assert worker.process.wait(60) == 1
    (last,) = worker.log.read_text().splitlines()[-1:]
    assert last.startswith(f"arno-worker: {folder}: ")
    assert words in last
    assert "Traceback" not in worker.log.read_text()
