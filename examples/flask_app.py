"""Visits: writes go to the master, reads to a replica.

DATABASE_URL=postgresql://app@db1,db2,db3/app \
    gunicorn --pythonpath examples --workers 2 --threads 8 flask_app:app
"""

import os

import psycopg
from flask import Flask
from psycopg.rows import TupleRow

from hasql.contrib.flask import Hasql

db: Hasql[psycopg.Connection[TupleRow]] = Hasql()


def create_app() -> Flask:
    app = Flask(__name__)
    app.config["HASQL_DSN"] = os.environ["DATABASE_URL"]
    app.config["HASQL_OPTIONS"] = {
        # A write during a promotion waits for the new master, for up to 15 seconds.
        "acquire_timeout": 15,
        # On each host, one connection for each thread of the worker.
        "pool_factory_kwargs": {"min_size": 1, "max_size": 8},
    }
    db.init_app(app)
    app.register_blueprint(db.health, url_prefix="/health")

    @app.post("/visits/<page>")
    def visit(page: str) -> tuple[str, int]:
        db.connection().execute("INSERT INTO visits (page) VALUES (%s)", [page])
        return "", 201

    @app.get("/visits")
    @db.read_only
    def visits() -> dict[str, int]:
        row = db.connection().execute("SELECT count(*) FROM visits").fetchone()
        return {"visits": row[0] if row else 0}

    return app


app = create_app()
