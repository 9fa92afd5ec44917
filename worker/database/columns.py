"""What all tables share: their base, and the column types that both databases know."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, DateTime, Dialect, Integer
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.types import TypeDecorator

BigNumber = BigInteger().with_variant(Integer, "sqlite")
"""64 bits; SQLite numbers rows by itself only where the type is called INTEGER, which has 64 bits there."""


class UtcDateTime(TypeDecorator[dt.datetime]):
    """Aware UTC in Python; in the database a time without zone that plain SQL can compare."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        """Refuse naive times at the border, and strip the zone from aware ones."""
        del dialect
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time in the ledger must be aware")
        return value.astimezone(dt.UTC).replace(tzinfo=None)

    def process_result_value(self, value: dt.datetime | None, dialect: Dialect) -> dt.datetime | None:
        """Give the zone back."""
        del dialect
        return None if value is None else value.replace(tzinfo=dt.UTC)


class Table(DeclarativeBase):
    """Base of all tables."""

    type_annotation_map = {dt.datetime: UtcDateTime}  # noqa: RUF012 - SQLAlchemy's own form


class _Unindexed(ColumnElement[Any]):
    """A column with a mark that SQLite understands."""

    inherit_cache = True

    def __init__(self, column: Any) -> None:
        self.column = column
        self.type = column.type

    _traverse_internals = [("column", InternalTraversal.dp_clauseelement)]  # noqa: RUF012 - SQLAlchemy's own form


@compiles(_Unindexed)
def _plain(element: _Unindexed, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.column, **options)


@compiles(_Unindexed, "sqlite")
def _marked(element: _Unindexed, compiler: SQLCompiler, **options: Any) -> str:
    return f"+{compiler.process(element.column, **options)}"


def unindexed(column: Any) -> ColumnElement[Any]:
    """Return a column by which SQLite looks nothing up, and groups nothing (https://sqlite.org/optoverview.html, 4).

    SQLite keeps no statistics here. It takes *analysed* for rare, and would walk through all images there are, where
    another index leads to a few.
    """
    return _Unindexed(column)
