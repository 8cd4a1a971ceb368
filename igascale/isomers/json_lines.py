"""One line of JSON from a file that somebody else wrote: every way in which it can be bad is one message."""

from __future__ import annotations

import json
from typing import Any

from igascale.errors import UserError


def parse_json(line: str, where: str, expected: str) -> Any:
    """The value that a line holds.

    Args:
        line: JSON.
        where: what a message begins with, ``file:line``.
        expected: what a message ends with, as ``one seed a line``.

    Raises:
        UserError: it is not JSON, an object has a field twice, of which only the last would count, a number has thousands of digits, or
            brackets are thousands deep.
    """
    try:
        return _DECODER.decode(line)
    except _Twice as error:
        raise UserError(f"{where}: field '{error}': is there twice in one object; leave one") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not valid JSON ({error.msg} at column {error.colno}); {expected}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON that can be read ({error}); {expected}") from None


class _Twice(Exception):
    """A field that an object has more than once."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        raise _Twice(next(name for name, _ in pairs if name in seen or seen.add(name)))  # type: ignore[func-returns-value]
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)  # made once: json.loads makes one for every line
