"""Flask: connections for requests, to the master or a replica of a cluster.

::

    db = Hasql()


    def create_app():
        app = Flask(__name__)
        app.config["HASQL_DSN"] = "postgresql://app@db1,db2,db3/app"
        db.init_app(app)
        app.register_blueprint(db.health, url_prefix="/health")
        return app


    @blueprint.get("/visits")
    @db.read_only
    def visits():
        return {"visits": db.connection().execute("SELECT count(*) FROM visits").fetchone()[0]}
"""

from hasql.errors import MissingExtraError

try:
    from hasql.contrib.flask.extension import Hasql, NoAppError
except ImportError as error:
    raise MissingExtraError(
        "hasql.contrib.flask needs Flask: pip install 'hasql[flask]'"
    ) from error

__all__ = ("Hasql", "NoAppError")
