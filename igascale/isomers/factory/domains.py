"""The domains file: which domains each problem is told in, and what the teacher is told about them."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from igascale.errors import UserError, did_you_mean

PACKAGED = Path(__file__).parent / "domains.yaml"
_KEYS = ("name", "description", "hints")


@dataclass(frozen=True)
class Domain:
    """One domain; `hints` are further lines for the teacher."""

    name: str
    description: str
    hints: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What the teacher is told."""
        return "\n".join([self.description, *(f"- {hint}" for hint in self.hints)])


def load_domains(path: str | Path | None = None) -> tuple[Domain, ...]:
    """Read and check a domains file; the paper's four domains without one.

    Raises:
        UserError: the file is missing or breaks the form; file, line and domain are named.
    """
    path = Path(path) if path is not None else PACKAGED
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise UserError(f"{path}: cannot read this domains file ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason})") from None
    except RecursionError:
        raise UserError(f"{path}: not a domains file (brackets thousands deep)") from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise UserError(f"{path}:{line}: not valid YAML ({getattr(error, 'problem', error)})") from None
    return _Reader(path).domains(root)


class _Reader:
    """Walks the YAML nodes, which know their lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def domains(self, root: yaml.Node | None) -> tuple[Domain, ...]:
        if not isinstance(root, yaml.MappingNode):
            self.fail(root, "expected 'domains:' and a list of name and description")
        for key, _ in root.value:
            if key.value != "domains":
                self.fail(key, f"'{key.value}' is not a known key; the file has one, 'domains'")
        if len(root.value) > 1:
            self.fail(root.value[1][0], "'domains' is there twice")
        listed = next((value for _, value in root.value), None)
        if not isinstance(listed, yaml.SequenceNode):
            self.fail(listed or root, "'domains' must be a list of name and description")
        domains: list[Domain] = []
        for item in listed.value:
            domain = self.domain(item)
            if domain.name in [earlier.name for earlier in domains]:
                self.fail(item, f"domain '{domain.name}' is there twice")
            domains.append(domain)
        if len(domains) < 2:
            self.fail(listed, f"isomers need at least two domains, this file has {len(domains)}")
        return tuple(domains)

    def domain(self, item: yaml.Node) -> Domain:
        if not isinstance(item, yaml.MappingNode):
            self.fail(item, "a domain is an object with name and description")
        nodes: dict[str, yaml.Node] = {}
        for key, value in item.value:
            if key.value not in _KEYS:
                self.fail(key, f"'{key.value}' is not a known key of a domain" + did_you_mean(str(key.value), _KEYS))
            if key.value in nodes:
                self.fail(key, f"'{key.value}' is there twice")
            nodes[key.value] = value
        if "name" not in nodes:
            self.fail(item, "a domain has no name")
        name = self.text(nodes["name"], "a domain's name")
        if "/" in name or any(character.isspace() and character != " " for character in name):
            # Ids are "{seed id}/{domain}": with a slash two seeds could come to one.
            self.fail(nodes["name"], f"domain '{name}': a name is one line without '/'; it becomes a part of ids")
        if "description" not in nodes:
            self.fail(item, f"domain '{name}' has no description; say in a sentence or two what it covers")
        description = self.text(nodes["description"], f"domain '{name}': description")
        hints: tuple[str, ...] = ()
        if "hints" in nodes:
            listed = nodes["hints"]
            if not isinstance(listed, yaml.SequenceNode):
                self.fail(listed, f"domain '{name}': hints must be a list of strings")
            hints = tuple(self.text(hint, f"domain '{name}': hint") for hint in listed.value)
        return Domain(name, description, hints)

    def text(self, node: yaml.Node, what: str) -> str:
        value: Any = node.value if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":str") else None
        if value is None:
            empty = isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")
            self.fail(node, f"{what} is empty" if empty else f"{what} must be text; put it in quotes")
        if not value.strip():
            self.fail(node, f"{what} is empty")
        if any("\ud800" <= character <= "\udfff" for character in value):
            self.fail(node, f"{what} holds half of a surrogate pair, which is not text")
        return str(value).strip()

    def fail(self, node: yaml.Node | None, problem: str) -> NoReturn:
        line = node.start_mark.line + 1 if node is not None else 1
        raise UserError(f"{self.path}:{line}: {problem}")


def write_defaults(folder: str | Path) -> list[Path]:
    """Copy the packaged domains file and prompts into a folder, to edit them.

    Raises:
        UserError: one of the files exists already, or they cannot be written.
    """
    from igascale.isomers.factory import prompts

    out = Path(folder)
    sources = {out / "domains.yaml": PACKAGED}
    sources |= {out / "prompts" / path.name: path for path in sorted(prompts.PACKAGED.glob("*.md"))}
    for target in sources:
        if os.path.lexists(target):
            raise UserError(f"{target}: already exists; choose another folder, what you edited stays as it is")
    try:
        (out / "prompts").mkdir(parents=True, exist_ok=True)
        for target, source in sources.items():
            shutil.copyfile(source, target)
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written to ({error.strerror}); name a new folder for --write-defaults"
        ) from None
    return list(sources)
