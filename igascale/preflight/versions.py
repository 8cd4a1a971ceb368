"""The same Python, the same packages, the same igascale source."""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from igascale.preflight.finding import Facts, Finding, differ, failed, listed, passed

#: Ranks that differ in one of these compute different things, or do not understand each other.
PACKAGES = ("igascale", "torch", "deepspeed", "transformers", "peft", "safetensors", "tokenizers", "numpy")


def collect() -> dict[str, Any]:
    """Versions as pip knows them; a hash of every file of igascale."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    root = Path(__file__).resolve().parents[1]
    return {"python": platform.python_version(), "packages": found, "root": str(root), "source": hash_source(root)}


def hash_source(root: Path) -> dict[str, str]:
    """The first 12 digits of the SHA-256 of every file that is part of the package."""
    # `hooks`, `launchers` and `ds_configs` may be links, which rglob does not follow.
    folders = [root, *(link for link in sorted(root.iterdir()) if link.is_symlink() and link.is_dir())]
    hashes = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".py", ".yaml", ".json") and path.is_file():
                hashes[str(path.relative_to(root))] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return hashes


def judge(facts: Facts) -> list[Finding]:
    """One line where all is the same; else one for each thing that differs."""
    findings = []
    pythons = {host: f"Python {told['python']}" for host, told in facts.items()}
    if len(set(pythons.values())) > 1:
        findings.append(failed("versions", differ(pythons), "use the same interpreter on every host"))
    for name in PACKAGES:
        versions = {host: f"{name} {told['packages'][name]}" for host, told in facts.items()}
        if len(set(versions.values())) > 1:
            findings.append(failed("versions", differ(versions), f"install the same {name} on every host"))
    first = next(iter(facts.values()))
    if not findings:
        installed = [f"{name} {v}" for name, v in first["packages"].items() if v != "not installed"]
        findings.append(passed("versions", f"Python {first['python']}, {', '.join(installed)}"))
    missing = [
        name for name in ("torch", "transformers", "peft", "deepspeed") if first["packages"][name] == "not installed"
    ]
    if missing:
        remedy = (
            "pip install 'igascale[deepspeed]'"
            if missing == ["deepspeed"]
            else "pip install igascale in this environment"
        )
        findings.append(failed("versions", f"{', '.join(missing)}: not installed", remedy))
    return findings + _judge_source(facts)


def _judge_source(facts: Facts) -> list[Finding]:
    hosts = list(facts)
    first = facts[hosts[0]]["source"]
    findings = []
    for host in hosts[1:]:
        source = facts[host]["source"]
        changed = sorted(path for path in first.keys() | source.keys() if first.get(path) != source.get(path))
        if changed:
            findings.append(
                failed(
                    "igascale source",
                    f"{host} differs from {hosts[0]} in {listed(changed)} ({facts[host]['root']})",
                    "check out the same commit on every host, or install the same wheel",
                )
            )
    if not findings:
        digest = hashlib.sha256(repr(sorted(first.items())).encode()).hexdigest()[:12]
        findings.append(passed("igascale source", f"{digest}, {len(first)} files, {facts[hosts[0]]['root']}"))
    return findings
