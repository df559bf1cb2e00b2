"""`arno model`: what a folder is, in a table or as JSON, and a copy of it in transformers' layout."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import change_json, make_adapter, make_original


def arno(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from arno_producer.cli import main; main()", "model", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_original(tmp_path_factory.mktemp("models") / "original")


def test_an_original_is_told_for_what_it_is(original: Path) -> None:
    done = arno(original, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "folder": str(original),
        "is": "a Florence-2 in Microsoft's original layout",
        "size": "a size of its own: 1,866,729 parameters",
        "files": f"model.safetensors ({(original / 'model.safetensors').stat().st_size:,} bytes)",
        "numbers": "F32 (1,866,729)",
        "head": "tied to the vocabulary",
        "vocabulary": "51,289 tokens, of which 1,024 of Florence-2's are added while loading",
        "generation": "3 beams, no 3-gram twice, from text_config of config.json",
        "prompts": 'Florence-2\'s fifteen tasks, as far as it was trained on them, and any of its own as {"raw": …}',
        "Arno": "will run it",
    }


def test_a_table_says_it_to_people(original: Path) -> None:
    done = arno("show", original)
    assert done.returncode == 0, done.stderr
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip()]
    assert ["is", "a Florence-2 in Microsoft's original layout"] in [[a, b.strip()] for a, b in lines]
    assert ["Arno", "will run it"] in [[a, b.strip()] for a, b in lines]


def test_what_arno_will_not_run_says_what_to_mend_and_fails(tmp_path: Path) -> None:
    folder = make_original(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    change_json(folder / "config.json", quantization_config={"quant_method": "gptq"})
    done = arno(folder)
    assert done.returncode == 1
    assert "will not run it" in done.stdout
    assert "its weights are quantized (gptq)" in done.stdout
    assert "ARNO_WORKER__PROCESSOR names the folder or hub id" in done.stdout


def test_an_adapter_is_told_alone_and_with_its_base(original: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter")
    alone = json.loads(arno(adapter, "--json").stdout)
    assert (alone["is"], alone["for"]) == ("a LoRA adapter", "microsoft/Florence-2-base-ft")
    assert alone["adapts"] == "lora of rank 4, 33 weights"
    merged = json.loads(arno(original, "--adapter", adapter, "--json").stdout)
    assert merged["adapter"] == f"{adapter} (lora of rank 4, 33 weights)"
    change_json(adapter / "adapter_config.json", use_dora=True)
    refused = arno(adapter)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"arno: {adapter}: the adapter uses DoRA, which is not supported (use_dora in adapter_config.json)\n"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("owner/name", "owner/name is no folder here: arno model looks into folders, and downloads nothing"),
        ("./nowhere", "there is no model './nowhere'"),
    ],
)
def test_what_is_no_folder_is_refused(name: str, words: str) -> None:
    done = arno(name)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"arno: {words}")


def test_a_model_is_converted_with_its_adapter(original: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter")
    done = arno("convert", original, tmp_path / "native", "--adapter", adapter)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == f"{tmp_path / 'native'} is written"
    found = json.loads(arno(tmp_path / "native", "--json").stdout)
    assert found["is"] == "a Florence-2 in transformers' own layout"
    assert found["head"] == "a matrix of its own"
    again = arno("convert", original, tmp_path / "native")
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1].startswith(f"arno model convert: {tmp_path / 'native'} is there already")


def test_a_model_that_cannot_be_read_is_not_converted(tmp_path: Path) -> None:
    folder = make_original(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    done = arno("convert", folder, tmp_path / "native")
    assert done.returncode == 1
    assert "lacks" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "native").exists()
