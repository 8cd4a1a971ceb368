"""The prompts: Markdown files with a version and named fields, checked when they are loaded.

A file begins with ``name``, ``version`` and ``takes`` (the fields it needs) between two lines of three dashes. ``# System`` and
``# User`` follow; ``# Again`` is added to the user's turn when an earlier answer was refused, with ``{{issues}}`` filled in.
The version that counts is the declared one together with a hash of the text: an edited file is another prompt.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from igascale.errors import UserError, did_you_mean
from igascale.isomers.factory.replies import REPLIES, field_names

PACKAGED = Path(__file__).parent / "prompts"
#: Prompt -> the fields that the pipeline has for it.
TAKES: dict[str, tuple[str, ...]] = {
    "extract": ("problem",),
    "instantiate": ("structure", "domain", "description"),
    "verify": ("seed", "problem", "solution", "domain", "description", "structure"),
    "solve": ("problem",),
}
_SECTIONS = ("System", "User", "Again")
_FIELD = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")


@dataclass(frozen=True)
class Prompt:
    """One prompt. `version` is the declared version and the text's hash, `text` the file as it was read."""

    name: str
    path: Path
    version: str
    text: str
    sections: Mapping[str, str]

    def fill(self, fields: Mapping[str, str], issues: str = "") -> tuple[str, str]:
        """(system, user), with the fields put in; `issues`: why an earlier answer was refused.

        What a field holds is not searched for fields again.
        """
        user = self.sections["User"]
        if issues and "Again" in self.sections:
            user = f"{user}\n\n{self.sections['Again']}"
        values = {**fields, "issues": issues}
        return self.sections["System"], _FIELD.sub(lambda match: values[match[1]], user)


@dataclass(frozen=True)
class PromptSet:
    """The prompts of a build."""

    prompts: Mapping[str, Prompt]

    def __getitem__(self, name: str) -> Prompt:
        return self.prompts[name]

    @property
    def versions(self) -> dict[str, str]:
        """Prompt -> version."""
        return {name: prompt.version for name, prompt in self.prompts.items()}

    def edited(self) -> list[Path]:
        """Files that are no longer what was read from them."""
        changed = []
        for prompt in self.prompts.values():
            try:
                same = prompt.path.read_text(encoding="utf-8") == prompt.text
            except (OSError, UnicodeDecodeError):
                same = False
            if not same:
                changed.append(prompt.path)
        return changed


def load_prompts(folder: str | Path | None = None) -> PromptSet:
    """The packaged prompts; those that `folder` holds take their place.

    Raises:
        UserError: the folder or a file is missing, holds no prompt, or a file breaks the form (file and line are named).
    """
    own: dict[str, Path] = {}
    if folder is not None:
        if not Path(folder).is_dir():
            raise UserError(
                f"{folder}: no such folder of prompts; `igascale data build --write-defaults DIR` makes one"
            )
        own = {path.stem: path for path in sorted(Path(folder).glob("*.md"))}
        for name, path in own.items():
            if name not in TAKES:
                raise UserError(f"{path}: not a prompt; the prompts are {', '.join(TAKES)}" + did_you_mean(name, TAKES))
        if not own:
            raise UserError(f"{folder}: holds no prompt ({', '.join(f'{name}.md' for name in TAKES)})")
    return PromptSet({name: read_prompt(own.get(name, PACKAGED / f"{name}.md"), name) for name in TAKES})


def read_prompt(path: Path, name: str) -> Prompt:
    """Read and check one file.

    Raises:
        UserError: as `load_prompts`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot read this prompt ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error.reason})") from None
    head, body, first_line = _parts(path, text)
    declared = _check_head(path, head, name)
    sections = _sections(path, body, first_line)
    _check_fields(path, sections, text, name)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Prompt(name, path, f"{declared}-{digest}", text, sections)


def _parts(path: Path, text: str) -> tuple[dict[str, object], str, int]:
    """The head, the rest, and the line that the rest begins on."""
    match = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if match is None:
        raise UserError(f"{path}:1: a prompt begins with name, version and takes between two lines of '---'")
    try:
        head = yaml.safe_load(match[1])
    except RecursionError:
        raise UserError(f"{path}:2: not the head of a prompt (brackets thousands deep)") from None
    except yaml.YAMLError as error:
        line = getattr(getattr(error, "problem_mark", None), "line", 0) + 2
        raise UserError(f"{path}:{line}: not valid YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(head, dict):
        raise UserError(f"{path}:2: expected name, version and takes")
    return head, text[match.end() :], text[: match.end()].count("\n") + 1


def _check_head(path: Path, head: dict[str, object], name: str) -> str:
    for key in head:
        if key not in ("name", "version", "takes"):
            raise UserError(f"{path}: '{key}' is not a known key; a prompt has name, version and takes")
    if head.get("name") != name:
        raise UserError(f"{path}: name is {head.get('name')!r}, but this file is the prompt '{name}'")
    version = head.get("version")
    if isinstance(version, bool) or not isinstance(version, (int, float, str)) or not str(version).strip():
        raise UserError(f"{path}: version is missing; write for example 'version: 2'")
    if head.get("takes") != list(TAKES[name]):
        raise UserError(f"{path}: takes must be [{', '.join(TAKES[name])}], which is what this prompt is given")
    return str(version).strip()


def _sections(path: Path, body: str, first_line: int) -> dict[str, str]:
    sections: dict[str, list[str]] = {}
    current: list[str] | None = None
    for number, line in enumerate(body.splitlines(), start=first_line):
        title = line.removeprefix("# ").strip() if line.startswith("# ") else None
        if title is not None:
            if title not in _SECTIONS:
                raise UserError(
                    f"{path}:{number}: '# {title}' is not a section; the sections are {', '.join(_SECTIONS)}"
                    + did_you_mean(title, _SECTIONS)
                )
            if title in sections:
                raise UserError(f"{path}:{number}: '# {title}' is there twice")
            current = sections[title] = []
        elif current is not None:
            current.append(line)
        elif line.strip():
            raise UserError(f"{path}:{number}: text before '# System'")
    texts = {title: "\n".join(lines).strip() for title, lines in sections.items()}
    for title in ("System", "User"):
        if not texts.get(title):
            raise UserError(f"{path}: section '# {title}' is missing or empty")
    return texts


def _check_fields(path: Path, sections: Mapping[str, str], text: str, name: str) -> None:
    """Every field that is used is given, every given one is used, and the answer's fields are named."""
    for number, line in enumerate(text.splitlines(), start=1):
        for field in _FIELD.findall(line):
            if field not in (*TAKES[name], "issues"):
                raise UserError(
                    f"{path}:{number}: {{{{{field}}}}} is not a field of this prompt; it is given "
                    f"{', '.join(TAKES[name])}, and issues under '# Again'" + did_you_mean(field, TAKES[name])
                )
    if _FIELD.search(sections["System"]):
        raise UserError(f"{path}: fields belong under '# User'; '# System' is the same for every request")
    used = _FIELD.findall(sections["User"])
    for field in TAKES[name]:
        if field not in used:
            raise UserError(f"{path}: '# User' never uses {{{{{field}}}}}, so the teacher would not see it")
    if "issues" in used:
        raise UserError(f"{path}: {{{{issues}}}} belongs under '# Again', which is added after a refusal")
    for field in field_names(REPLIES[name]):
        if not re.search(rf"\b{field}\b", text):
            raise UserError(f"{path}: never names '{field}', a field that the answer must have")
