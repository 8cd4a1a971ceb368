"""Tokens for the eye: an example with what the loss sees marked, and the lengths of a file's instances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from igascale.isomers.encode import Example
    from igascale.isomers.tokens import Tokens

_PERCENTILES = (1, 5, 25, 50, 75, 95, 99)


def print_marked(console: Any, tokenizer: Any, example: Example) -> None:
    """Print an example's text, special tokens shown, the supervised part marked by colour or, in a file, by ``[[ ]]``."""
    from rich.text import Text

    from igascale.isomers.encode import mark_supervised

    text, before = Text(), False
    for piece, supervised in mark_supervised(tokenizer, example):
        if not console.is_terminal and supervised != before:  # a file keeps no colours
            text.append("[[" if supervised else "]]")
        text.append(piece, style="black on green" if supervised else "dim")
        before = supervised
    if not console.is_terminal and before:
        text.append("]]")
    console.print(text)


def print_lengths(source: str, tokens: Tokens, max_length: int) -> int:
    """Print tokens, their percentiles, and what a cut at ``max_length`` would do; returns how many instances it leaves nothing."""
    import numpy as np

    from igascale.isomers.tokens import Encoded

    store = Encoded(tokens, max_length)
    lengths = tokens.lengths()
    figures = ", ".join(f"p{p} {int(v)}" for p, v in zip(_PERCENTILES, np.percentile(lengths, _PERCENTILES)))
    click.echo(
        f"{source}: {tokens.num_tokens:,} tokens in {tokens.num_instances:,} instances; of an instance {figures}, "
        f"longest {int(lengths.max())}; prompts {np.median(tokens.prompt_lengths()):.0f} (median)"
    )
    cut, nothing = int(store.truncated().sum()), store.unsupervised()
    if cut:
        click.secho(
            f"{source}: {cut:,} of {tokens.num_instances:,} instances are longer than max_length {max_length}: they lose their end, "
            "and with it the answer",
            fg="yellow",
        )
    else:
        click.echo(f"{source}: none is longer than max_length {max_length}")
    left = int(nothing.sum())
    if left:
        example = store[int(nothing.argmax())]
        click.secho(
            f"{source}: {left:,} instances have no supervised token at max_length {max_length}, the first is "
            f"'{example.instance_id}'; training refuses them",
            fg="red",
        )
    else:
        click.echo(f"{source}: every instance has supervised tokens")
    return left
