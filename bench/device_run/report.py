"""What the parts found: device.json to compute with, device.md to read."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TAIL_LINES = 30
AIMS = {"CAPTION": 3, "OCR_WITH_REGION": 5}
"""By task: how many times as fast as the best of transformers the engine is to be."""


def write(file: Path, value: Any) -> None:
    """Whole or not at all."""
    whole = file.with_name(file.name + ".partial")
    whole.write_text(value if isinstance(value, str) else json.dumps(value, indent=1, default=str))
    os.replace(whole, file)


def tail_of(file: Path) -> list[str]:
    return [line[:300] for line in file.read_text(errors="replace").splitlines()[-TAIL_LINES:]]


def is_bad(piece: Mapping[str, Any]) -> bool:
    found = piece.get("found")
    return "error" in piece or (isinstance(found, dict) and found.get("ok") is False)


def against_transformers(parts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each task that both were measured with, on base: `images_per_s` of the engine's and of transformers'
    fastest piece."""
    rows = []
    for task, aim in AIMS.items():
        engine, theirs = _fastest(parts, task, "engine_"), _fastest(parts, task, "baseline")
        if engine and theirs:
            ratio = engine[1] / theirs[1]
            row = {"task": task, "engine": engine[1], "transformers": theirs[1], "its fastest": theirs[0]}
            rows.append({**row, "ratio": ratio, "aim": aim})
    return rows


def _fastest(parts: Mapping[str, Any], task: str, begins: str) -> tuple[str, float] | None:
    """With 3 beams, as Florence-2's checkpoints ask for."""
    found = [
        (name, float(piece["found"]["images_per_s"]))
        for part, each in parts.items()
        if part.startswith(begins)
        for name, piece in each["pieces"].items()
        if isinstance(piece.get("found"), dict) and piece["found"].get("task") == task
        if piece["found"].get("beams") == 3
    ]
    return max(found, key=lambda one: one[1], default=None)


def as_markdown(report: Mapping[str, Any]) -> str:
    parts: Mapping[str, Any] = report["parts"]
    shown = ("status", "seconds", "failed")
    overview = [{"part": name, **{key: part.get(key, "") for key in shown}} for name, part in parts.items()]
    lines = [f"# Measured on {report['device']}{', tiny' if report['tiny'] else ''}", *_lines(overview)]
    if rows := against_transformers(parts):
        lines += ["## Against transformers, images/s", *_lines(rows)]
    for name, part in parts.items():
        lines += ["", f"## {name}: {part['status']}"]
        if "log" in part:
            lines += _block(part["log"])
        table = _one_table(part["pieces"])
        lines += table
        for piece, each in part["pieces"].items():
            if not (table and _is_flat(each)):
                lines += ["", f"### {'✗ ' if is_bad(each) else ''}{piece} ({each['seconds']:.1f} s)", ""]
                lines += _lines(each.get("found", {key: each[key] for key in each if key not in ("seconds", "found")}))
    return "\n".join(lines) + "\n"


def _one_table(pieces: Mapping[str, Any]) -> list[str]:
    """Where several pieces found nothing but the same few numbers, as the switches do."""
    rows = [{"": name, **each["found"]} for name, each in pieces.items() if _is_flat(each)]
    alike = len({tuple(row) for row in rows}) == 1
    return _lines(rows) if len(rows) > 1 and alike else []


def _is_flat(piece: Mapping[str, Any]) -> bool:
    found = piece.get("found")
    return (
        isinstance(found, dict)
        and len(found) > 1
        and not is_bad(piece)
        and not any(isinstance(each, dict | list) for each in found.values())
    )


def _lines(found: Any) -> list[str]:
    """Tables where there are rows, lines for the rest."""
    if isinstance(found, dict) and found and all(isinstance(each, dict) for each in found.values()):
        found = [{"": name, **each} for name, each in found.items()]
    if isinstance(found, list) and found and isinstance(found[0], dict):
        return list(_table(found))
    if not isinstance(found, dict):
        return ["done" if found is None else _text(found)]
    lines = []
    for name, each in found.items():
        if name in ("tail", "traceback"):
            lines += _block(each)
        elif isinstance(each, dict) or (isinstance(each, list) and each and isinstance(each[0], dict)):
            lines += ["", f"{name}:", *_lines(each)]
        elif each != []:
            lines.append(f"- {name}: {_text(each)}")
    return lines


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    yield ""
    for cells in (names, ["---"] * len(names), *([_text(row.get(name, "")) for name in names] for row in rows)):
        yield f"| {' | '.join(cells)} |"
    yield ""


def _block(lines: list[str]) -> list[str]:
    return ["", "```", *lines, "```"]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return str(value).replace("|", "\\|").replace("\n", " ")
