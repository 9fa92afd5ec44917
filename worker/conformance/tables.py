"""Tables of the conformance statement, as Markdown; presentation contexts as PS3.2 tabulates them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from pydicom.uid import UID

if TYPE_CHECKING:
    from pynetdicom.presentation import PresentationContext

_HEAD = ("SOP class", "UID", "transfer syntaxes", "UIDs", "role", "extended negotiation")


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """Yield the lines of a table."""
    names = [str(each) for each in head]
    yield f"| {' | '.join(names)} |"
    yield "|" + "---|" * len(names)
    for row in rows:
        yield f"| {' | '.join(str(each).replace('|', '/') for each in row)} |"


def contexts(
    proposed: Iterable[PresentationContext],
    role: str,
    *,
    extended: str = "none",
    roles: Mapping[str, str] | None = None,
    together: bool = False,
) -> Iterator[str]:
    """Yield a table with a row for each presentation context, or `together` for each SOP class.

    Parameters
    ----------
    role
        SCU or SCP.
    extended
        What is negotiated beyond the contexts, for all of them.
    roles
        By SOP class, where role selection gives it another role.
    """
    selected = roles or {}
    rows = []
    for sop_class, syntaxes in _by_class(proposed) if together else _each(proposed):
        negotiated = "SCP/SCU role selection" if sop_class in selected else extended
        names = ", ".join(syntax.name for syntax in syntaxes)
        rows.append(
            (UID(sop_class).name, sop_class, names, ", ".join(syntaxes), selected.get(sop_class, role), negotiated)
        )
    yield from table(_HEAD, rows)


def _each(proposed: Iterable[PresentationContext]) -> Iterator[tuple[str, list[UID]]]:
    for each in proposed:
        yield str(each.abstract_syntax), [UID(syntax) for syntax in each.transfer_syntax or ()]


def _by_class(proposed: Iterable[PresentationContext]) -> Iterator[tuple[str, list[UID]]]:
    classes: dict[str, list[UID]] = {}
    for sop_class, syntaxes in _each(proposed):
        classes.setdefault(sop_class, []).extend(syntaxes)
    yield from classes.items()
