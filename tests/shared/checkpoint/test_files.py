"""Of all that lies in a folder, what counts is read, and nothing else."""

import pytest

from arno_shared.checkpoint.files import Wanted, adapter_files, files_to_read, missing_shards, weight_files

SHARDS = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
BESIDE = [
    "README.md",
    "modeling_florence2.py",
    "optimizer.pt",
    "training_args.bin",
    "scheduler.pt",
    "flax_model.msgpack",
]


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (["model.safetensors"], ["model.safetensors"]),
        (["pytorch_model.bin"], ["pytorch_model.bin"]),
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        ([*SHARDS, "model.safetensors.index.json"], SHARDS),
        ([*SHARDS, "model.safetensors"], ["model.safetensors"]),
        ([*SHARDS, "pytorch_model.bin"], SHARDS),
        (["pytorch_model-00001-of-00001.bin"], ["pytorch_model-00001-of-00001.bin"]),
        (["adapter_model.safetensors", "training_args.bin"], []),
        (["model.fp16.safetensors", "florence.safetensors"], []),
    ],
)
def test_weights_are_one_file_or_its_shards_and_safetensors_first(names: list[str], weights: list[str]) -> None:
    assert weight_files([*reversed(names), *BESIDE]) == weights


def test_shards_that_are_missing_are_known_by_name() -> None:
    assert missing_shards(SHARDS) == []
    assert missing_shards(SHARDS[1:2]) == [SHARDS[0], SHARDS[2]]
    assert missing_shards(["model.safetensors"]) == []


def test_each_purpose_has_its_files() -> None:
    processor = ["merges.txt", "preprocessor_config.json", "tokenizer.json", "vocab.json"]
    names = ["config.json", "generation_config.json", "pytorch_model.bin", "model.safetensors", *processor, *BESIDE]
    assert files_to_read(names, Wanted.WEIGHTS) == ["config.json", "generation_config.json", "model.safetensors"]
    assert files_to_read(names, Wanted.PROCESSOR) == processor
    assert files_to_read(names, Wanted.MODEL) == sorted(
        [*processor, "config.json", "generation_config.json", "model.safetensors"]
    )
    assert files_to_read([*names, "adapter_config.json", "adapter_model.bin"], Wanted.ADAPTER) == [
        "adapter_config.json",
        "adapter_model.bin",
    ]


def test_an_adapter_s_weights_are_not_a_model_s() -> None:
    names = ["adapter_model.safetensors", "adapter_model.bin", "model.safetensors"]
    assert adapter_files(names) == ["adapter_model.safetensors"]
    assert weight_files(names) == ["model.safetensors"]
