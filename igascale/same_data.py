"""Whether all ranks train on the same data. Each host reads its own copy of a file; an old one would train, and give wrong figures, in silence."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from igascale.errors import UserError
from igascale.isomers.fingerprint import fingerprint_tokenizer

if TYPE_CHECKING:
    from igascale.engine import Collectives
    from igascale.loading import Data

_SHOWN = 8  # ranks that a message names


def check_same_data(data: Data, tokenizer: Any, comm: Collectives) -> None:
    """Compare the files' hashes, the groups, the domains and the tokenizers of all ranks; call it on every rank.

    Args:
        data: this rank's, from :func:`igascale.loading.load_data`.
        tokenizer: that it was loaded with.
        comm: of the run.

    Raises:
        UserError: they differ; on every rank, with the same line, which names what, the ranks and their hosts.
    """
    if comm.world_size == 1:
        return
    everyone = comm.gather_objects((socket.gethostname(), _facts(data, tokenizer)))
    (host, first) = everyone[0]
    for name, value in first.items():
        odd = [rank for rank, (_, facts) in enumerate(everyone) if facts[name] != value]
        if odd:
            who = ", ".join(f"rank {rank} ({everyone[rank][0]})" for rank in odd[:_SHOWN])
            raise UserError(
                f"the ranks do not train on the same data: {name} is {value} on rank 0 ({host}), but {everyone[odd[0]][1][name]} on "
                f"{who}{', ...' if len(odd) > _SHOWN else ''}; give every host the same files, tokenizer and library versions"
            )


def _facts(data: Data, tokenizer: Any) -> dict[str, str]:
    """What must be the same everywhere, by the name that a message gives it; the files come first, being the usual cause."""
    facts = {}
    for key, split in (("train", data.train), ("validation", data.validation), ("ood", data.ood)):
        facts[f"the SHA-256 of data.{key}"] = split.sha256[:16] if split else "none"
    fingerprint = fingerprint_tokenizer(tokenizer)
    return {
        **facts,
        "the number of groups": str(len(data.train.groups)),
        "the list of domains": ", ".join(data.domains),
        "the number of steps": str(data.total_steps),
        "the tokenizer (or the version of transformers or tokenizers)": fingerprint[:16] if fingerprint else "unknown",
    }
