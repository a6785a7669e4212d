"""What SQLAlchemy's statements tell: whether one does nothing but read."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ColumnElement,
    ForeignKey,
    Integer,
    MetaData,
    Sequence,
    String,
    Table,
    and_,
    bindparam,
    case,
    cast,
    column,
    delete,
    distinct,
    exists,
    extract,
    func,
    insert,
    lambda_stmt,
    lateral,
    literal,
    literal_column,
    null,
    quoted_name,
    select,
    table,
    text,
    true,
    tuple_,
    type_coerce,
    union_all,
    update,
    values,
    within_group,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import (
    Bundle,
    DeclarativeBase,
    Mapped,
    aliased,
    column_property,
    configure_mappers,
    contains_eager,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
    with_loader_criteria,
)
from sqlalchemy.sql.elements import BinaryExpression
from sqlalchemy.sql.functions import GenericFunction
from sqlalchemy.sql.visitors import iterate

from hasql._adapters.sqlalchemy.reads import ProvableReads

T = Table("t", MetaData(), Column("id", Integer), Column("name", String), Column("data", JSON))


class Base(DeclarativeBase):
    pass


class Parent(Base):
    __tablename__ = "parent"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    children: Mapped[list[Child]] = relationship(back_populates="parent", order_by="Child.id")

    @hybrid_property
    def upper_name(self) -> Any:
        return func.upper(self.name)


class Child(Base):
    __tablename__ = "child"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    parent_id: Mapped[int] = mapped_column(ForeignKey("parent.id"))
    parent: Mapped[Parent] = relationship(back_populates="children")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "child"}  # noqa: RUF012  # as SQLAlchemy has it


class Adopted(Child):
    __tablename__ = "adopted"
    id: Mapped[int] = mapped_column(ForeignKey("child.id"), primary_key=True)
    __mapper_args__ = {"polymorphic_identity": "adopted"}  # noqa: RUF012  # as SQLAlchemy has it


class Counted(Base):
    __tablename__ = "counted"
    id: Mapped[int] = mapped_column(primary_key=True)
    others: Mapped[int] = column_property(
        select(func.count(T.c.id)).correlate_except(T).scalar_subquery()
    )


class Calls(Base):
    __tablename__ = "calls"
    id: Mapped[int] = mapped_column(primary_key=True)
    next: Mapped[int] = column_property(func.nextval("s"))


class RelatedToCalls(Base):
    __tablename__ = "related"
    id: Mapped[int] = mapped_column(primary_key=True)
    calls_id: Mapped[int] = mapped_column(ForeignKey("calls.id"))
    calls: Mapped[Calls] = relationship()


class InOrderOfText(Base):
    __tablename__ = "ordered"
    id: Mapped[int] = mapped_column(primary_key=True)
    of_id: Mapped[int | None] = mapped_column(ForeignKey("ordered.id"))
    all: Mapped[list[InOrderOfText]] = relationship(order_by=func.f())


class of_the_applications_own(GenericFunction[int]):  # noqa: N801  # as SQLAlchemy names them
    inherit_cache = True


class Homemade(ColumnElement[bool]):
    inherit_cache = True
    type = Boolean()


recent = select(T).where(T.c.id > 5).cte("recent")
tree = select(T.c.id).where(T.c.id == 1).cte("tree", recursive=True)
tree = tree.union_all(select(T.c.id).join(tree, T.c.id == tree.c.id + 1))
A = aliased(Parent)

READS: dict[str, Any] = {
    "table": select(T),
    "constant": select(1, literal("x"), null(), true()),
    "where": select(T.c.id).where(and_(T.c.id > 1, T.c.name.like("x%"), ~T.c.id.in_([1, 2]))),
    "ilike": select(T.c.id).where(T.c.name.ilike("x") | T.c.name.is_(None)),
    "order": select(T.c.id.label("n")).order_by("n", T.c.name.desc().nulls_last()).limit(3),
    "count": select(func.count()).select_from(T),
    "aggregates": select(func.max(T.c.id), func.sum(T.c.id).filter(T.c.id > 1), func.array_agg(1)),
    "generics": select(
        func.coalesce(T.c.id, 0), func.now(), func.char_length(T.c.name), func.user()
    ),
    "window": select(func.rank().over(partition_by=T.c.name, order_by=T.c.id)),
    "ordered set": select(within_group(func.percentile_cont(0.5), T.c.id)),
    "group": select(T.c.name).group_by(func.cube(T.c.name)).having(func.count() > 1),
    "distinct": select(distinct(T.c.id)),
    "exists": select(exists().where(T.c.id == 1)),
    "any": select(exists(select(T.c.id).where(T.c.id == T.alias().c.id))),
    "case": select(case((T.c.id > 1, "a"), else_="b"), cast(T.c.id, String), type_coerce(1, JSON)),
    "extract": select(extract("year", T.c.id), tuple_(T.c.id, T.c.name)),
    "subquery": select(select(T).subquery()),
    "lateral": select(T, lateral(select(T.alias().c.id))),
    "cte": select(recent).join(T, T.c.id == recent.c.id),
    "recursive": select(tree.c.id),
    "union": union_all(select(T.c.id), select(T.c.id)).order_by("id"),
    "values": select(values(column("a", Integer), name="v").data([(1,)])),
    "json": select(
        T.c.data["a"]["b"].as_string(), T.c.name.op("->>")("x"), T.c.name.op("LIKE")("")
    ),
    "array": select(postgresql.array([1, 2]), T.c.name.regexp_match("x")),
    "full text": select(func.to_tsvector("x")).where(T.c.name.match("x")),
    "light": select(column("a")).select_from(table("b")),
    "parameter": select(T).where(T.c.id == bindparam("id")),
    "entity": select(Parent).where(Parent.id == 1),
    "columns": select(Parent.id, Bundle("b", Parent.name)),
    "related": select(Parent).options(selectinload(Parent.children), joinedload(Parent.children)),
    "joined": select(Parent).join(Parent.children).options(contains_eager(Parent.children)),
    "criteria": select(Parent).options(with_loader_criteria(Child, Child.id > 1)),
    "has": select(Parent).where(Parent.children.any(Child.id == 1)),
    "alias": select(A).where(A.name == "x"),
    "inherited": select(Child, Adopted),
    "from a select": select(Parent).from_statement(select(Parent).union(select(Parent))),
    "column property": select(Counted),
}
OTHERS: dict[str, Any] = {
    "text": text("SELECT 1"),
    "textual": text("SELECT 1").columns(column("a")),
    "text in where": select(T).where(text("id = 1")),
    "text in columns": select(text("now()")),
    "text in order": select(T).order_by(text("id")),
    "text in group": select(func.count()).group_by(text("1")),
    "text in from": select(T).select_from(text("t")),
    "text in a subquery": select(select(text("1")).subquery()),
    "text in a function": select(func.max(text("1"))),
    "text of an entity": select(Parent).from_statement(text("SELECT 1")),
    "literal column": select(literal_column("nextval('s')")),
    "unquoted name": select(column(quoted_name("nextval('s')", quote=False))),
    "unknown function": select(func.nextval("s")),
    "unknown in where": select(T).where(func.lower(T.c.name) == "x"),
    "unknown in values": select(T).where(T.c.id.in_(select(func.f()))),
    "unknown in from": select(func.generate_series(1, 2).table_valued("a")),
    "unknown of a schema": select(func.pg_catalog.now()),
    "unknown in a window": select(func.f().over()),
    "unknown in distinct": select(func.count(distinct(func.f()))),
    "hybrid": select(Parent.upper_name),
    "sample": select(T.tablesample(5)),
    "own generic": select(of_the_applications_own()),
    "own element": select(T).where(Homemade()),
    "sequence": select(Sequence("s").next_value()),
    "operator": select(T.c.id.op("= 1; DROP TABLE t; --")(1)),
    "for update": select(T).with_for_update(),
    "for share": select(Parent).with_for_update(read=True, skip_locked=True),
    "for update within": select(select(T).with_for_update().subquery()),
    "insert": insert(T),
    "update": update(T),
    "delete": delete(Parent),
    "upsert": postgresql.insert(T).on_conflict_do_nothing(),
    "DML in a CTE": select(update(T).values(id=1).returning(T.c.id).cte()),
    "DML beside": select(T).add_cte(delete(T).returning(T.c.id).cte()),
    "DML from": select(Parent).from_statement(insert(Parent).returning(Parent)),
    "union with one": union_all(select(T.c.id), select(func.f())),
    "lambda": lambda_stmt(lambda: select(T)),
    "mapped": select(Calls),
    "mapped and related": select(RelatedToCalls),
    "mapped beside": select(Parent, Calls),
    "mapped order": select(InOrderOfText),
    "DDL": Sequence("s"),
}


def is_read(statement: Any, *functions: str) -> bool:
    reads = ProvableReads(functions)
    found = reads.is_read(statement)
    assert reads.is_read(statement) is found  # it is remembered
    return found


@pytest.fixture(autouse=True, scope="module")
def _mappers() -> None:
    configure_mappers()


@pytest.mark.parametrize("statement", READS.values(), ids=READS)
def test_what_only_reads_is_known(statement: Any) -> None:
    assert is_read(statement)


@pytest.mark.parametrize("statement", OTHERS.values(), ids=OTHERS)
def test_what_may_do_more_is_not_taken_for_a_read(statement: Any) -> None:
    assert not is_read(statement)


@pytest.mark.parametrize("statement", READS.values(), ids=READS)
def test_a_comparison_has_two_parts(statement: Any) -> None:
    # Of which is made use, without asking SQLAlchemy.
    for each in iterate(statement):
        if type(each) is BinaryExpression:
            assert [*each.get_children()] == [each.left, each.right]


def test_functions_that_are_named_read() -> None:
    named = ["LOWER", "geo.distance", "of_the_applications_own", "nextval"]
    assert is_read(select(func.lower("x")), *named)
    assert is_read(select(func.Lower("x"), func.geo.distance(1, 2)), *named)
    assert is_read(select(of_the_applications_own()), *named)
    assert is_read(select(Calls), *named)
    assert not is_read(select(func.distance(1, 2)), *named)
    assert not is_read(select(func.geo.lower("x")), *named)
    assert not is_read(select(Sequence("s").next_value()), "next_value")
