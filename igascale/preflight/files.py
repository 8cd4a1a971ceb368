"""The model folder and the data files: the same on every host."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from igascale.preflight.finding import Facts, Finding, failed, listed, passed, warned

_WEIGHTS = ("*.safetensors", "*.bin", "*.index.json")
_EDGE = 1 << 20


def collect(model: str, data: list[str]) -> dict[str, Any]:
    """Fingerprints: of ``config.json`` and the tokenizer whole, of weights size and both ends, of data files whole.

    Args:
        model: the folder, or a Hub id.
        data: files.
    """
    folder = Path(model)
    prints = {}
    if folder.is_dir():
        for path in sorted(folder.glob("*.json")):
            prints[path.name] = _hash(path)
        for path in sorted({found for pattern in _WEIGHTS for found in folder.glob(pattern)}):
            prints[path.name] = f"{path.stat().st_size} bytes, {_hash_ends(path)}"
    return {
        "is_folder": folder.is_dir(),
        "model": prints,
        "data": {name: _hash(Path(name)) if Path(name).is_file() else "missing" for name in data},
    }


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _hash_ends(path: Path) -> str:
    """Reading 140 GB takes minutes; the first and the last MiB tell one training's weights from another's."""
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(_EDGE))
        file.seek(-min(_EDGE, path.stat().st_size), 2)
        digest.update(file.read(_EDGE))
    return digest.hexdigest()[:16]


def judge(facts: Facts, model: str) -> list[Finding]:
    """Every host against the first."""
    return _judge_model(facts, model) + _judge_data(facts)


def _judge_model(facts: Facts, model: str) -> list[Finding]:
    hosts = list(facts)
    without = [host for host in hosts if not facts[host]["is_folder"]]
    if len(without) == len(hosts):
        found = (
            f"{model} is no folder on any host, so it is taken for a Hub id; that the caches agree was not looked at"
        )
        return [warned("model", found, f"download it once to a shared folder: hf download {model} --local-dir DIR")]
    if without:
        return [
            failed(
                "model",
                f"{model} is not on {', '.join(without)}",
                "copy it there, or use a folder that all hosts mount",
            )
        ]
    findings, first = [], facts[hosts[0]]["model"]
    if "config.json" not in first:
        return [failed("model", f"{model} holds no config.json", "model.path must name a Hugging Face model folder")]
    for host in hosts[1:]:
        there = facts[host]["model"]
        changed = sorted(name for name in first.keys() | there.keys() if first.get(name) != there.get(name))
        if changed:
            lacking = [name for name in changed if name not in there]
            how = f"lacks {listed(lacking)}" if lacking else f"differs from {hosts[0]} in {listed(changed)}"
            remedy = f"copy the folder from {hosts[0]} (rsync -a --checksum), or use one that all hosts mount"
            findings.append(failed("model", f"{host} {how} ({model})", remedy))
    return findings or [passed("model", f"{model}, {len(first)} files, config.json {first['config.json']}")]


def _judge_data(facts: Facts) -> list[Finding]:
    hosts = list(facts)
    findings, first = [], facts[hosts[0]]["data"]
    for name in first:
        prints = {host: facts[host]["data"][name] for host in hosts}
        missing = [host for host, found in prints.items() if found == "missing"]
        other = [host for host, found in prints.items() if found not in (first[name], "missing")]
        if missing:
            findings.append(
                failed("data", f"{name} is not on {', '.join(missing)}", "copy it there, or put it on a shared disk")
            )
        if other and not missing:
            found = f"{name} on {', '.join(other)} is another file than on {hosts[0]}"
            findings.append(
                failed("data", found, "ranks would train on different groups: copy one of them to all hosts")
            )
    return findings or ([passed("data", f"{len(first)} files, the same on every host")] if first else [])
