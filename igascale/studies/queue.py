"""Many jobs, some at a time; one that fails does not end the others."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from queue import SimpleQueue

from igascale.errors import UserError
from igascale.launchers import ranks
from igascale.launching.attempt import Signals
from igascale.studies.jobs import FAILED, INTERRUPTED, Job, Launching, Outcome, run_job
from igascale.studies.processes import Processes

_TICK = 0.2


class Listener:
    """Hears of the jobs as they go on, in the thread that called :func:`run_jobs`, but for stages."""

    def stage(self, job: Job, stage: str) -> None:
        """A job began a part of its work; called in the job's thread."""

    def ended(self, outcome: Outcome) -> None:
        """A job ended."""

    def tick(self) -> None:
        """Some time has passed."""


def check_distinct(jobs: Iterable[Job]) -> None:
    """Refuse two jobs of one name or in one folder.

    Raises:
        UserError: names it.
    """
    seen: dict[str, Job] = {}
    for job in jobs:
        for key in (job.name, str(job.folder.absolute())):
            if key in seen:
                raise UserError(f"two jobs are called {job.name}, or share {job.folder}; give one of them another name")
        seen |= {job.name: job, str(job.folder.absolute()): job}


def run_jobs(
    jobs: Sequence[Job],
    launching: Launching,
    listener: Listener | None = None,
    *,
    at_a_time: int = 1,
    retry_failed: bool = False,
    signals: Signals | None = None,
) -> list[Outcome]:
    """Run jobs to their end, in their order; call it in the main thread.

    SIGINT, SIGTERM and SIGUSR1 are passed on to every process, which writes a checkpoint; what has not begun is not begun.

    Args:
        jobs: of distinct names and folders.
        launching: how each is started. With several at a time, each gets its share of the cores (``OMP_NUM_THREADS``) and of the GPUs
            (``CUDA_VISIBLE_DEVICES``), unless the first is set.
        listener: hears how they are.
        at_a_time: how many run at once.
        retry_failed: as in :func:`igascale.studies.jobs.run_job`.
        signals: already entered, where the caller has something to do before and after; of this call by default.

    Returns:
        An outcome for each, in order.

    Raises:
        UserError: two jobs of one name, or too few GPUs for so many at a time.
    """
    check_distinct(jobs)
    if signals is None:
        with Signals() as own:
            return run_jobs(jobs, launching, listener, at_a_time=at_a_time, retry_failed=retry_failed, signals=own)
    listener, processes = listener or Listener(), Processes()
    slots: SimpleQueue[Launching] = SimpleQueue()
    for share in shares(launching, at_a_time):
        slots.put(share)

    def work(job: Job) -> Outcome:
        share = slots.get()
        try:
            if processes.stopped is not None:
                return Outcome(job, INTERRUPTED)
            return run_job(job, share, processes, lambda stage: listener.stage(job, stage), retry_failed)
        except (UserError, OSError) as error:
            return Outcome(job, FAILED, str(error).splitlines()[0])
        except Exception as error:  # of one job, whatever it is; the others go on
            return Outcome(job, FAILED, f"{type(error).__name__}: {error}".splitlines()[0])
        finally:
            slots.put(share)

    told = 0
    with ThreadPoolExecutor(at_a_time, thread_name_prefix="job") as threads:
        futures = [threads.submit(work, job) for job in jobs]
        left: set[Future[Outcome]] = set(futures)
        try:
            while left:
                done, left = wait(left, _TICK, FIRST_COMPLETED)
                for future in done:
                    listener.ended(future.result())
                for signum in signals.received[told:]:
                    told += 1
                    processes.stop(signum)
                listener.tick()
        except BaseException:
            processes.stop(15)
            raise
    return [future.result() for future in futures]


def shares(launching: Launching, at_a_time: int) -> list[Launching]:
    """What each of the jobs that run at once gets of this machine.

    Raises:
        UserError: the GPUs do not suffice.
    """
    if at_a_time == 1:
        return [launching]
    launching = replace(launching, at_a_time=at_a_time)
    if ranks.has_gpu():
        each, devices = launching.num_processes or 1, visible_devices()
        if each * at_a_time > len(devices):
            raise UserError(
                f"{at_a_time} jobs at a time with {each} process{'es' if each > 1 else ''} each need {each * at_a_time} GPUs; "
                f"{len(devices)} are visible: run fewer at a time"
            )
        return [
            replace(
                launching,
                num_processes=each,
                environ={**launching.environ, "CUDA_VISIBLE_DEVICES": ",".join(devices[k * each : (k + 1) * each])},
            )
            for k in range(at_a_time)
        ]
    if "OMP_NUM_THREADS" in os.environ:
        return [launching] * at_a_time
    threads = max(1, len(os.sched_getaffinity(0)) // (at_a_time * (launching.num_processes or 1)))
    return [replace(launching, environ={**launching.environ, "OMP_NUM_THREADS": str(threads)})] * at_a_time


def visible_devices() -> list[str]:
    """The GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(k) for k in range(torch.cuda.device_count())]
