"""The benchmarks run, say what they measured, and fail when the engine answers anything else than transformers."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from arno_workers.engine.checkpoint.locate import BUNDLED
from tests.acceptance.fork_server import FLORENCE, fork_server

BENCH = Path(__file__).parents[2] / "bench"
TINY = BUNDLED / "arno-tiny"

SHORT = ["--images", "4", "--single-images", "3", "--batch", "2", "--device", "cpu", "--rounds", "1"]
ONE_WRONG_TOKEN = f"""
import sys
sys.path.insert(0, {str(BENCH)!r})
import apart, engine
right = apart.Apart.answer

def wrong(self, pictures, workload):
    answers = right(self, pictures, workload)
    key = min(answers)
    return {{**answers, key: (*answers[key][:-2], 7, answers[key][-1])}}

if __name__ == "__main__":
    apart.Apart.answer = wrong
    engine.main()
"""


@pytest.fixture(autouse=True)
def scripts_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)


def run(*command: object) -> subprocess.CompletedProcess[str]:
    env = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(BENCH)}
    return fork_server(*FLORENCE).run(*map(str, command), env=env, timeout_s=240)


def test_every_row_is_measured_and_every_token_compared(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    peaks = ["--peak-tflops", "0.1", "--peak-gb-per-s", "20"]
    done = run(BENCH / "engine.py", *SHORT, "--rounds", "2", "--workloads", "mix", "four", *peaks, "--json", file)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    measured = {(one["workload"], one["row"]): one for one in report["measured"]}
    assert set(measured) == {("mix", row) for row in "ABCD"} | {
        ("four", row) for row in ("A", "B", "B+", "C", "C+", "D")
    }
    for (_, row), one in measured.items():
        assert one["images"] == (3 if row == "A" else 4)
        assert one["images_per_s"] > 0
        assert one["limit_images_per_s"] > 0
        assert one["name"] in done.stdout
    assert {one["same_answers"] for one in report["agreements"]} == {1.0}
    # Four prompts for four pictures, of which A has three.
    assert {one["answers"] for one in report["agreements"] if one["workload"] == "four"} == {12, 16}


def test_one_wrong_token_fails_the_run(tmp_path: Path) -> None:
    script = tmp_path / "one_wrong_token.py"
    script.write_text(ONE_WRONG_TOKEN)
    done = run(script, *SHORT, "--rows", "A", "D", "--workloads", "caption")
    assert done.returncode == 1
    assert "caption: D and A answer <CAPTION> about picture 0 differently from token" in done.stderr, done.stderr


@pytest.mark.long
def test_agreement_is_a_table_where_tokens_may_differ() -> None:
    done = run(
        BENCH / "engine.py", *SHORT, "--rows", "B", "D", "--workloads", "od", "--dtype", "bfloat16", "--agreement", 2
    )
    assert done.returncode == 0, done.stderr
    assert "same tokens" in done.stdout
    assert "transformers, float32" in done.stdout


def test_an_unknown_workload_is_an_error_that_names_the_others() -> None:
    done = run(BENCH / "engine.py", *SHORT, "--workloads", "poetry")
    assert done.returncode == 2
    assert "poetry; it has caption, od, ocr_with_region, detailed_caption, mix, four" in done.stderr


def test_the_limit_counts_the_operations_that_torch_counts() -> None:
    from limit import Limit, Peaks

    model: Any = Florence2ForConditionalGeneration.from_pretrained(TINY, attn_implementation="eager").eval()
    limit = Limit(model.config, Peaks(1e-12, 1e12), beams=1, prompt_tokens=8, picture_px=128)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.get_image_features(torch.zeros(1, 3, 128, 128))
    assert limit.vision_s() == pytest.approx(counter.get_total_flops())
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.model.language_model.encoder(inputs_embeds=torch.zeros(1, 65 + 8, 128))
    cross = 2 * (65 + 8) * 128 * 2 * 128 * 2
    assert limit.encoder_s() == pytest.approx(counter.get_total_flops() + cross)


def test_beams_share_what_they_look_at_and_pay_for_what_they_said() -> None:
    from limit import Limit, Peaks, config_of

    config, slow_memory = config_of("base"), Peaks(1e6, 1)
    one, three = (Limit(config, slow_memory, beams=beams) for beams in (1, 3))
    assert one.vision_s() == three.vision_s()
    assert one.decoder_s(1) < three.decoder_s(1) < 1.1 * one.decoder_s(1)
    assert one.decoder_s(2.5) == pytest.approx((one.decoder_s(2) + one.decoder_s(3)) / 2)
    assert one.images_per_s([100]) > three.images_per_s([100])
    # Four prompts of one picture cost less than four pictures with a prompt each.
    assert one.images_per_s([10] * 4) > one.images_per_s([10]) / 4


def test_a_random_checkpoint_answers_about_its_picture_as_long_as_it_may(tmp_path: Path) -> None:
    from baselines import OneByOne, Transformers, Workload
    from checkpoints import SIZES, make
    from PIL import Image

    make(SIZES["tiny"], tmp_path)
    assert len(Florence2Processor.from_pretrained(tmp_path).tokenizer) == 51_290
    transformers = Transformers(tmp_path, "cpu", torch.float32, None, {"<OD>": 20})
    assert transformers.num_beams == 3
    assert transformers.model.get_input_embeddings().weight.shape[0] == 51_328
    pictures = [Image.new("RGB", (40, 30), colour) for colour in ("red", "green", "black")]
    answers = OneByOne(transformers).answer(pictures, Workload("od", ("<OD>",)))
    assert [len(ids) for ids in answers.values()] == [20] * 3
    assert len(set(answers.values())) > 1
