"""Which of SQLAlchemy's statements are proved to do nothing but read."""

from __future__ import annotations

import enum
from typing import Any

import pytest
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Enum,
    ForeignKey,
    Integer,
    Interval,
    MetaData,
    Numeric,
    Select,
    Sequence,
    String,
    Table,
    TypeDecorator,
    Uuid,
    and_,
    any_,
    bindparam,
    case,
    cast,
    collate,
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
    union,
    union_all,
    update,
    values,
    within_group,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import (
    Bundle,
    DeclarativeBase,
    Load,
    Mapped,
    UserDefinedOption,
    aliased,
    column_property,
    configure_mappers,
    contains_eager,
    defer,
    joinedload,
    load_only,
    mapped_column,
    query_expression,
    raiseload,
    relationship,
    selectin_polymorphic,
    selectinload,
    undefer_group,
    with_expression,
    with_loader_criteria,
    with_polymorphic,
)
from sqlalchemy.sql.elements import Grouping, UnaryExpression
from sqlalchemy.sql.functions import FunctionElement, GenericFunction
from sqlalchemy.sql.operators import custom_op
from sqlalchemy.types import UserDefinedType

from hasql._adapters.sqlalchemy.reads import ProvableReads


class Hidden(TypeDecorator[int]):
    """A type that converts values in Python only."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: int | None, _: object) -> int | None:
        return value


class Money(TypeDecorator[Any]):
    """A type that puts SQL around a column, which only reads."""

    impl = postgresql.MONEY
    cache_ok = True

    def column_expression(self, column: Any) -> Any:
        return cast(column, Numeric())


class SetsWhenRead(TypeDecorator[int]):
    impl = Integer
    cache_ok = True

    def column_expression(self, column: Any) -> Any:
        return func.setval("s", column, type_=self)


class SetsWhenCompared(TypeDecorator[int]):
    impl = Integer
    cache_ok = True

    def bind_expression(self, bindvalue: Any) -> Any:
        return func.setval("s", bindvalue, type_=self)


class Fails(TypeDecorator[int]):
    impl = Integer
    cache_ok = True

    def column_expression(self, column: Any) -> Any:
        raise LookupError(column)


class Vector(UserDefinedType[Any]):
    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "vectors.VECTOR(3,-1)"


class Smuggler(UserDefinedType[Any]):
    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "int), nextval('s'), (int"


class Color(enum.Enum):
    RED = 1


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


class Inside(Base):
    __tablename__ = "inside"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int] = mapped_column(ForeignKey("parent.id"))


Inside.parents = relationship(
    OF_A_CALL := aliased(Parent, select(Parent).where(func.f() > 1).subquery()),
    primaryjoin=Inside.parent_id == OF_A_CALL.id,
    viewonly=True,
)


class Typed(Base):
    __tablename__ = "typed"
    id: Mapped[int] = mapped_column(Hidden, primary_key=True)
    uuid = mapped_column(Uuid)
    json = mapped_column(MutableDict.as_mutable(postgresql.JSONB))
    array = mapped_column(postgresql.ARRAY(Integer))
    color = mapped_column(Enum(Color))
    money = mapped_column(Money)
    vector = mapped_column(Vector)
    interval = mapped_column(Interval)
    range = mapped_column(postgresql.INT4RANGE)
    collated = mapped_column(String(collation="C"))
    varying = mapped_column(String().with_variant(postgresql.CITEXT(), "postgresql"))


class SetWhenRead(Base):
    __tablename__ = "set_when_read"
    id: Mapped[int] = mapped_column(primary_key=True)
    v = mapped_column(SetsWhenRead)


class SetWhenCompared(Base):
    __tablename__ = "set_when_compared"
    id: Mapped[int] = mapped_column(primary_key=True)
    v = mapped_column(SetsWhenCompared)


class KeySetWhenCompared(Base):
    __tablename__ = "key_set_when_compared"
    id = mapped_column(SetsWhenCompared, primary_key=True)


class Computed(Base):
    __tablename__ = "computed"
    id: Mapped[int] = mapped_column(primary_key=True)
    computed: Mapped[int] = query_expression()


class HasEnd:
    ended: Mapped[bool] = mapped_column()


class Ending(HasEnd, Base):
    __tablename__ = "ending"
    id: Mapped[int] = mapped_column(primary_key=True)


class OwnColumn(Column[Any]):
    inherit_cache = True


class OtherColumn(Column[Any]):
    inherit_cache = True


@compiles(OtherColumn)
def _other_column(*_: object, **__: object) -> str:
    return "nextval('s')"


OWN = Table("own", MetaData(), OwnColumn("id", Integer))
OTHER = Table("other", MetaData(), OtherColumn("id", Integer))


class Wrapper(Grouping[Any]):
    inherit_cache = True


class Option(UserDefinedOption):
    pass


class CalledCount(FunctionElement[int]):
    inherit_cache = True
    name = "count"


class of_the_applications_own(GenericFunction[int]):  # noqa: N801  # as SQLAlchemy names them
    inherit_cache = True


class Homemade(ColumnElement[bool]):
    inherit_cache = True
    type = Boolean()


recent = select(T).where(T.c.id > 5).cte("recent")
tree = select(T.c.id).where(T.c.id == 1).cte("tree", recursive=True)
tree = tree.union_all(select(T.c.id).join(tree, T.c.id == tree.c.id + 1))
A = aliased(Parent)
CHILD = aliased(Child)
#: An alias of a subquery that calls a function.
OF_CHILDREN = aliased(Child, select(Child).where(func.f() > 1).subquery())
WRAPPED = Table("w", MetaData(), Column("id", Integer), Column("v", SetsWhenRead))
CALL = func.nextval("s")


def unquoted(name: str = "a, nextval('s')") -> quoted_name:
    return quoted_name(name, quote=False)


def rows(of_type: Any, value: Any, **kwargs: Any) -> Any:
    return values(column("a", of_type), name="v", **kwargs).data([(value,)])


def once(*args: Any) -> Any:
    """Return a SELECT with loader options."""
    return select(Parent).options(*args)


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
    "alias of a column property": select(select(Counted).subquery()),
    "a column beside a call": select(Calls.id),
    "types": select(Typed),
    "values of types": select(Typed.id).where(
        Typed.id == 1,
        Typed.color == Color.RED,
        Typed.json["a"].as_integer() == 1,
        any_(Typed.array) == 1,
        Typed.vector.op("<->")([1]),
        Typed.collated == "x",
        Typed.varying.in_(["x"]),
        tuple_(Typed.id, T.c.id).in_([(1, 2)]),
    ),
    "casts": select(
        cast(T.c.id, Hidden),
        cast(T.c.id, Enum(Color)),
        cast(T.c.id, Vector),
        cast(T.c.id, Interval),
        cast(T.c.id, Numeric(3, 2)),
        cast(T.c.id, DateTime(timezone=True)),
        cast(T.c.id, postgresql.ARRAY(String(3))),
        cast(T.c.id, postgresql.BIT(3, varying=True)),
        cast(T.c.id, postgresql.DOUBLE_PRECISION),
        cast(T.c.id, postgresql.INTERVAL(3, "DAY TO SECOND")),
        cast(T.c.id, postgresql.ENUM("a", name="of my own")),
        cast(T.c.name, String(3, collation="C")),
    ),
    "a type that is not selected": select(SetWhenRead.id),
    "a type that is not compared": select(SetWhenCompared),
    "literal rows": select(rows(Integer, 1, literal_binds=True)),
    "comment": select(T).prefix_with("/* route=accounts */"),
    "materialized": select(select(T).cte().prefix_with("NOT MATERIALIZED")),
    "only": select(T).with_hint(T, "ONLY", "postgresql"),
    "collation": select(collate(T.c.name, "de_DE")),
    "name with a schema": select(table(unquoted("a.b"), column("c"))),
    "loading": once(
        joinedload(Parent.children, innerjoin=True).load_only(Child.id),
        load_only(Parent.name),
        raiseload("*"),
    ),
    "loading all": once(joinedload("*"), defer("*"), undefer_group("x")),
    "loading all of one": once(Load(Parent).joinedload("*")),
    "loading an alias": once(selectinload(Parent.children.of_type(CHILD))),
    "loading what is joined": select(Parent)
    .join(Parent.children.of_type(CHILD))
    .options(contains_eager(Parent.children, alias=CHILD)),
    "loading subclasses": select(Child).options(selectin_polymorphic(Child, [Adopted])),
    "polymorphic": select(with_polymorphic(Child, "*")),
    "criteria of one": once(selectinload(Parent.children.and_(Child.id > 1))),
    "criteria of a function": once(with_loader_criteria(Child, lambda cls: cls.id > 1)),
    "criteria of all": select(Ending).options(
        with_loader_criteria(HasEnd, lambda cls: cls.ended.is_(False), include_aliases=True)
    ),
    "computed": select(Computed).options(with_expression(Computed.computed, Computed.id + 1)),
    "own option": once(Option()),
    "own column": select(OWN).where(OWN.c.id == 1),
    "lambda in where": select(T).where(lambda: T.c.id > 1),
    "other columns": select(Parent).join(Parent.children).with_only_columns(Child.id),
    "rows of a window": select(func.sum(T.c.id).over(order_by=T.c.id, rows=(-1, 1))),
    "order in an aggregate": select(
        func.array_agg(postgresql.aggregate_order_by(T.c.id, T.c.name.desc()))
    ),
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
    "prefix": select(T).prefix_with("nextval('s'),"),
    "prefix within": select(exists(select(T).prefix_with("ALL nextval('s'),"))),
    "prefix of a CTE": select(select(T).cte().prefix_with("(")),
    "suffix": select(T).suffix_with("FOR UPDATE"),
    "suffix of a CTE": select(select(T).cte().suffix_with("FOR UPDATE")),
    "suffix in a union": union(select(T).suffix_with("FOR UPDATE"), select(T)),
    "hint": select(T).with_statement_hint("FOR UPDATE"),
    "hint for a table": select(T).with_hint(T, "nextval('s')"),
    "rows": select(rows(Integer, CALL)),
    "rows of an alias": select(rows(Integer, CALL).alias("b")),
    "rows to compare": select(T).where(T.c.id.in_(rows(Integer, CALL).scalar_values())),
    "rows of a type": select(rows(SetsWhenCompared, 1)),
    "literal rows of a type": select(rows(Hidden, 1, literal_binds=True)),
    "rows of something mapped": select(rows(Integer, Calls.next)),
    "union beside DML": union(select(T.c.id), select(T.c.id)).add_cte(delete(T).cte("x")),
    "computed by a call": select(Computed).options(with_expression(Computed.computed, CALL)),
    "computed of a type": select(Computed).options(
        with_expression(Computed.computed, type_coerce(Computed.id, SetsWhenRead))
    ),
    "computed before": select(Computed)
    .options(with_expression(Computed.computed, CALL))
    .with_only_columns(Computed.id),
    "criteria with a call": once(with_loader_criteria(Parent, func.f() > 1)),
    "criteria with text": once(with_loader_criteria(Parent, text("f() > 1"))),
    "criteria of a function with a call": once(
        with_loader_criteria(Child, lambda cls: func.f() > cls.id)
    ),
    "criteria of all with a call": select(Ending).options(
        with_loader_criteria(HasEnd, lambda cls: func.f() > cls.ended, include_aliases=True)
    ),
    "criteria of what is within": select(T)
    .where(exists(select(Ending.id)))
    .options(with_loader_criteria(Ending, lambda cls: func.f() > cls.id)),
    "criteria of a relationship": once(selectinload(Parent.children.and_(func.f() > Child.id))),
    "criteria further on": select(Child).options(
        joinedload(Child.parent).selectinload(Parent.children.and_(func.f() > Child.id))
    ),
    "loading an alias of a call": once(joinedload(Parent.children.of_type(OF_CHILDREN))),
    "loading what is joined with a call": once(contains_eager(Parent.children, alias=OF_CHILDREN)),
    "joined with a call": select(Parent).join(Parent.children.of_type(OF_CHILDREN)),
    "related to a call": select(Inside),
    "mapped within": select(select(Calls).subquery()),
    "mapped in exists": select(exists(select(Calls))),
    "type of a column": select(WRAPPED),
    "type of a column within": select(select(WRAPPED).subquery()),
    "type of a column in a union": union_all(select(WRAPPED), select(WRAPPED)),
    "type of an aggregate": select(func.max(WRAPPED.c.v)),
    "type that fails": select(column("a", Fails)),
    "type of a mapped column": select(SetWhenRead),
    "type of a value": select(SetWhenCompared.id).where(SetWhenCompared.v == 1),
    "type of values": select(SetWhenCompared.id).where(SetWhenCompared.v.in_([1])),
    "type of a key": select(KeySetWhenCompared),
    "type of an operator": select(T.c.id.op("+", return_type=SetsWhenRead())(1)),
    "type of a variant": select(column("a", Integer().with_variant(SetsWhenRead(), "postgresql"))),
    "type coerced": select(type_coerce(T.c.id, SetsWhenRead)),
    "type of a literal": select(literal(1, SetsWhenCompared)),
    "type that writes a literal": select(literal(1, Hidden, literal_execute=True)),
    "type of a cast": select(cast(T.c.id, SetsWhenRead)),
    "name of a type": select(cast(T.c.id, Smuggler)),
    "name of a type in an array": select(cast(T.c.id, postgresql.ARRAY(Smuggler))),
    "fields of an interval": select(cast(T.c.id, postgresql.INTERVAL(fields="DAY), nextval('s"))),
    "field of extract": select(extract("epoch FROM nextval('s')::text) + (1", T.c.id)),
    "unquoted label": select(T.c.id.label(unquoted())),
    "unquoted table": select(table(unquoted(), column("a"))),
    "unquoted schema": select(table("a", column("a"), schema=unquoted())),
    "unquoted alias": select(T.alias(unquoted())),
    "unquoted entity": select(aliased(Parent, name=unquoted())),
    "unquoted CTE": select(select(T).cte(unquoted())),
    "unquoted rows": select(values(column("a", Integer), name=unquoted()).data([(1,)])),
    "unquoted column": select(table("a", column(unquoted()))),
    "unquoted collation": select(collate(T.c.name, unquoted())),
    "modifier": select(UnaryExpression(T.c.id, modifier=custom_op("; DROP TABLE t; --"))),
    "lambda with a call": select(T).where(lambda: func.f() > T.c.id),
    "order of another": select(T.c.id).order_by(select(CALL.label("a")).subquery().c.a),
    "in an aggregate's order": select(func.mode().within_group(CALL)),
    "own column with SQL": select(OTHER.c.id),
    "own element annotated": select(T).where(Wrapper(literal(1))._annotate({"a": 1})),  # noqa: SLF001  # as SQLAlchemy does
    "own function": select(CalledCount()),
    "other compiler": select(T)._set_propagate_attrs({"compile_state_plugin": "x"}),  # noqa: SLF001  # as SQLAlchemy does
}


def is_read(statement: Any, *functions: str) -> bool:
    reads = ProvableReads(functions)
    found = reads.is_read(statement)
    assert reads.is_read(statement) is found  # the second answer is a remembered one
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


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (ColumnElement, "_annotations"),
        (Integer, "_variant_mapping"),
        (Column, "_traverse_internals"),
        (Select, "_traverse_internals"),
    ],
)
def test_where_sqlalchemy_tells_something_no_more_nothing_is_a_read(
    monkeypatch: pytest.MonkeyPatch, owner: type[Any], name: str
) -> None:
    """The attribute is private to SQLAlchemy, and a release may drop it."""

    class Gone:
        def __get__(self, *_: object) -> object:
            raise AttributeError(name)

    statement = select(Parent).options(load_only(Parent.id)).where(Parent.id == 1)
    assert is_read(statement)
    monkeypatch.setattr(owner, name, Gone())
    assert not is_read(statement)


def test_functions_that_are_named_read() -> None:
    named = ["LOWER", "geo.distance", "of_the_applications_own", "nextval"]
    assert is_read(select(func.lower("x")), *named)
    assert is_read(select(func.Lower("x"), func.geo.distance(1, 2)), *named)
    assert is_read(select(of_the_applications_own()), *named)
    assert is_read(select(Calls), *named)
    assert not is_read(select(func.distance(1, 2)), *named)
    assert not is_read(select(func.geo.lower("x")), *named)
    assert not is_read(select(Sequence("s").next_value()), "next_value")


def test_functions_in_types_can_be_named() -> None:
    for statement in (select(SetWhenRead), select(KeySetWhenCompared), select(WRAPPED.c.v)):
        assert is_read(statement, "setval")
        assert not is_read(statement, "lower")


def test_a_type_counts_where_its_column_is_selected() -> None:
    assert is_read(select(SetWhenRead.id).where(SetWhenRead.v > SetWhenRead.id))
    assert not is_read(select(SetWhenRead.v))
