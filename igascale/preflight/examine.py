"""The examination: which questions all hosts are asked, in which order, and what the answers are judged by."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from igascale.preflight import devices, disk, files, limits, link, network, port, reach, versions
from igascale.preflight.conversation import NoAnswer
from igascale.preflight.finding import Facts, Finding, failed, passed, warned

#: Seconds of the all-reduce itself.
ALL_REDUCE = 2.0


class Patient(Protocol):
    """A host that is examined; :class:`~igascale.preflight.conversation.Conversation` is the one that there is."""

    host: str

    def await_shell(self, timeout: float) -> float:
        """Seconds until a shell answered."""

    def await_python(self, timeout: float) -> None:
        """Wait until questions may be asked."""

    def ask(self, action: str, timeout: float, /, **arguments: Any) -> Any:
        """What :data:`igascale.preflight.__main__.ACTIONS` does there."""

    def close(self) -> None:
        """End it."""


@dataclass(frozen=True)
class Plan:
    """What is to be examined.

    Attributes:
        hosts: name -> the devices to use there.
        remote: by ssh; else this host alone.
        address: of the first host, as the others reach it.
        port: where ranks meet.
        timeout: seconds that a host may take over one question.
        folder: the run folder, if known.
        config: the run's resolved configuration, if known.
    """

    hosts: Mapping[str, tuple[int, ...]]
    remote: bool
    address: str
    port: int
    timeout: float
    folder: str | None = None
    config: dict[str, Any] | None = None


@dataclass
class Examination:
    """Asks and judges; a host that does not answer is told of once and then left out.

    Args:
        plan: what to look at.
        patients: the hosts, in the order of ``plan.hosts``.
    """

    plan: Plan
    patients: Sequence[Patient]
    _lost: list[Finding] = field(default_factory=list)
    _port_is_good: bool = False

    def run(self) -> Iterator[Finding]:
        """Findings as they come, cheap and basic ones first."""
        self._here = {patient.host: patient for patient in self.patients}
        with ThreadPoolExecutor(max_workers=max(4, len(self.patients))) as self._pool:
            for family in self._families():
                yield from family()
                yield from self._lost
                self._lost.clear()
                if not self._here:
                    return

    def _families(self) -> list[Callable[[], list[Finding]]]:
        families = [self._tools, self._shells, self._pythons, self._clocks] if self.plan.remote else [self._pythons]
        families += [self._versions, self._devices, self._limits]
        families += [self._network] if self.plan.remote else []
        families += [self._port]
        families += [self._run_folder] if self.plan.folder else []
        families += [self._files] if self.plan.config else []
        return [*families, self._all_reduce]

    # Asking

    def _all(self, name: str, work: Callable[[Patient], Any], hosts: Sequence[str] | None = None) -> dict[str, Any]:
        """``work`` on all hosts (or these) at the same time; without those that gave no answer."""
        patients = [p for host, p in self._here.items() if hosts is None or host in hosts]
        futures = {patient.host: self._pool.submit(work, patient) for patient in patients}
        answers = {}
        for host, future in futures.items():
            try:
                answers[host] = future.result()
            except NoAnswer as silence:
                self._lost.append(failed(name, f"{host}: {silence.found}", silence.remedy))
                self._here.pop(host).close()
        return answers

    def _ask(self, name: str, action: str, hosts: Sequence[str] | None = None, /, **arguments: Any) -> dict[str, Any]:
        return self._all(name, lambda patient: patient.ask(action, self.plan.timeout, **arguments), hosts)

    def _others(self) -> list[str]:
        return list(self._here)[1:]

    # Families

    def _tools(self) -> list[Finding]:
        if shutil.which("pdsh"):
            return [passed("tools", "ssh and pdsh are installed here")]
        remedy = "install the Debian package pdsh; --backend torchrun does without it"
        return [warned("tools", "pdsh is not installed here, which the deepspeed backend starts hosts with", remedy)]

    def _shells(self) -> list[Finding]:
        seconds = self._all("ssh", lambda patient: patient.await_shell(self.plan.timeout))
        return reach.judge_shells(seconds) if seconds else []

    def _pythons(self) -> list[Finding]:
        self._all("python", lambda patient: patient.await_python(self.plan.timeout))
        return []

    def _clocks(self) -> list[Finding]:
        def work(patient: Patient) -> reach.Offset:
            return reach.measure_offset(partial(patient.ask, "clock", self.plan.timeout))

        offsets = {
            host: self._all("clock", work, [host]).get(host) for host in list(self._here)
        }  # one at a time: they are timed
        known = {host: offset for host, offset in offsets.items() if offset}
        return reach.judge_clocks(known) if known else []

    def _judged(self, judge: Callable[..., list[Finding]], facts: Facts, *more: Any) -> list[Finding]:
        return judge(facts, *more) if facts else []

    def _versions(self) -> list[Finding]:
        return self._judged(versions.judge, self._ask("versions", "versions"))

    def _devices(self) -> list[Finding]:
        facts = self._ask("GPUs", "devices")
        self._gpus = {host: len(told["gpus"]) for host, told in facts.items()}
        return self._judged(devices.judge, facts, self.plan.hosts)

    def _limits(self) -> list[Finding]:
        return self._judged(
            limits.judge, self._ask("limits", "limits"), {h: len(s) for h, s in self.plan.hosts.items()}
        )

    def _network(self) -> list[Finding]:
        first, others = next(iter(self._here)), self._others()
        facts = self._ask("network", "network", others, towards=self.plan.address)
        second = next((told["source"] for told in facts.values() if told["source"]), self.plan.address)
        facts = self._ask("network", "network", [first], towards=second) | facts
        return self._judged(network.judge, facts)

    def _port(self) -> list[Finding]:
        first = next(iter(self._here))
        if first != next(iter(self.plan.hosts)):
            return []  # ranks would meet on the host that is lost
        held = self._ask("master port", "port hold", [first], port=self.plan.port)
        if not held:
            return []
        findings = port.judge_free(first, self.plan.port, held[first])
        if not findings:
            target = {"address": self.plan.address, "port": self.plan.port}
            problems = self._ask("master port", "port try", self._others(), **target)
            findings = port.judge_reach(self.plan.address, self.plan.port, problems)
        self._ask("master port", "port release", [first])
        self._port_is_good = all(finding.status == "pass" for finding in findings)
        return findings

    def _run_folder(self) -> list[Finding]:
        assert self.plan.folder is not None
        facts = self._ask("run folder", "disk", folder=self.plan.folder)
        if not facts:
            return []
        first = next(iter(facts))
        folder = facts[first]["folder"]
        needed = None
        if self.plan.config:
            needed = self._ask("disk", "disk need", [first], config=self.plan.config).get(first)
        return [*self._share(folder), *disk.judge_room(facts, needed)]

    def _share(self, folder: str) -> list[Finding]:
        """Every host writes a token; the first reads all, all read the first's."""
        names = {host: f".igascale-doctor-{secrets.token_hex(8)}" for host in self._here}
        first = next(iter(names))
        target: dict[str, Any] = {"folder": folder}

        def token(host: str) -> dict[str, Any]:
            return {**target, "name": names[host], "text": host}

        def work(patient: Patient) -> str | None:
            answer: str | None = patient.ask("token write", self.plan.timeout, **token(patient.host))
            return answer

        writing = self._all("run folder", work)
        written = [host for host, problem in writing.items() if not problem]
        seen = {}
        for writer in written:
            readers = [h for h in self._here if h != writer] if writer == first else [first]
            answers = self._ask("run folder", "token read", [h for h in readers if h in written], **token(writer))
            seen.update({(reader, writer): found for reader, found in answers.items()})
        for host in written:
            self._ask("run folder", "token remove", [host], **target, name=names[host])
        return disk.judge_shared(folder, writing, seen)

    def _files(self) -> list[Finding]:
        assert self.plan.config is not None
        section = self.plan.config["data"]
        data = [section[key] for key in ("train", "validation", "ood") if section.get(key)]
        model = self.plan.config["model"]["path"]
        return self._judged(files.judge, self._ask("model", "files", model=model, data=data), model)

    def _all_reduce(self) -> list[Finding]:
        if set(self._here) != set(self.plan.hosts) or not self._port_is_good:
            return [warned("all-reduce", "not tried", "mend the lines that fail first")]
        nccl = all(self._gpus.values())
        ranks: dict[str, list[int]] = {}
        count = 0
        for host, slots in self.plan.hosts.items():
            # On the CPU one rank shows what there is to see between hosts, two what there is within one.
            here = min(len(slots), self._gpus[host]) if nccl else (1 if self.plan.remote else 2)
            ranks[host] = list(range(count, count + here))
            count += here
        group = {
            "world_size": count,
            "address": self.plan.address,
            "port": self.plan.port,
            "backend": "nccl" if nccl else "gloo",
            "seconds": ALL_REDUCE,
            "timeout": self.plan.timeout,
        }

        def work(patient: Patient) -> Any:
            slots = list(self.plan.hosts[patient.host])[: len(ranks[patient.host])] if nccl else []
            return patient.ask("link", self.plan.timeout + 10, ranks=ranks[patient.host], devices=slots, **group)

        answers = self._all("all-reduce", work)
        return link.judge(answers, "nccl" if nccl else "gloo") if set(answers) == set(ranks) else []


def where(folder: str | None, config: dict[str, Any] | None) -> str | None:
    """The run folder to look at: the one given, or the configuration's."""
    given = folder or (config and config["output_dir"])
    return str(Path(given).absolute()) if given else None
