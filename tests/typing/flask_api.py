"""What a user of Flask would write, for type checkers to read; nothing runs it. See `api.py`."""

from typing import Any, assert_type

import psycopg
from flask import Blueprint, Flask
from psycopg.rows import TupleRow

from hasql.contrib.flask import Hasql, NoAppError
from hasql.metrics import Metrics
from hasql.sync.base import BaseSyncPoolManager

app = Flask(__name__)
untyped = Hasql()
assert_type(untyped, Hasql[Any])
db: Hasql[psycopg.Connection[TupleRow]] = Hasql(app)
db.init_app(app)
_ = assert_type(db.health, Blueprint)
app.register_blueprint(db.health, url_prefix="/health")
Hasql("postgresql://db1/app")  # type: ignore[arg-type]


@app.get("/visits")
@db.read_only
def visits() -> str:
    _ = assert_type(db.connection(), psycopg.Connection[TupleRow])
    _ = assert_type(db.connection(True), psycopg.Connection[TupleRow])
    return str(db.connection(read_only=False, cluster="reports").execute("SELECT 1").fetchone())


@app.get("/later/<int:page>")
@db.read_only
async def later(page: int) -> str:
    return str(page)


assert_type(visits(), str)
never = later("1")  # type: ignore[arg-type]
assert_type(db.manager("reports"), BaseSyncPoolManager[Any, psycopg.Connection[TupleRow]])
assert_type(db.stats(), dict[str, Metrics])
with app.app_context():
    db.close()
    db.close(timeout=5)
error: RuntimeError = NoAppError()
