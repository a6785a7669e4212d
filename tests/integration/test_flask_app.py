"""The Flask extension in an application: settings, roles, 503, health, commands, and its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from contextlib import suppress
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

import psycopg
import pytest
from flask import Blueprint, Flask, Response
from flask.sessions import SecureCookieSessionInterface
from werkzeug.test import EnvironBuilder

import hasql.psycopg3
from hasql import ConfigurationError, HasqlError, NotAvailableError
from hasql.contrib.flask import Hasql, NoAppError
from hasql.metrics import Metrics
from tests.flask_scene import FlaskScene, execute, sizes, value, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hasql.testing import LocalCluster, LocalNode

PID = "SELECT pg_backend_pid()"
IN_RECOVERY = "SELECT pg_is_in_recovery()"
NOWHERE = "postgresql://app@127.0.0.1:{}/app"


def unserved(**settings: Any) -> Flask:
    """Make an application whose servers are never contacted."""
    app = Flask("tested")
    app.config["HASQL_DSN"] = "postgresql://app:secret@db1,db2/app"
    app.config.update({f"HASQL_{name}": each for name, each in settings.items()})
    return app


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"DSN": None}, "no cluster is configured: set HASQL_DSN"),
        ({"DSN": ""}, "HASQL_DSN must be a DSN that names all hosts, not str"),
        ({"DSN": 5}, "HASQL_DSN must be a DSN that names all hosts, not int"),
        ({"CLUSTERS": {"default": {"dsn": "postgresql://db1/app"}}}, "leave one of them out"),
        ({"CLUSTERS": {"a": {}}}, r"HASQL_CLUSTERS\['a'\]\['dsn'\] must be a DSN"),
        ({"CLUSTERS": {"a": {"dns": "x"}}}, "takes no 'dns': did you mean 'dsn'"),
        ({"CLUSTERS": {"a": {"whatever": 1}}}, "takes no 'whatever'; it takes dsn, driver"),
        ({"CLUSTERS": ["a"]}, "HASQL_CLUSTERS must be a dict .* not list"),
        ({"CLUSTERS": {"a": "dsn"}}, r"HASQL_CLUSTERS\['a'\] must be a dict .* not str"),
        ({"DRIVER": "psycopg"}, "did you mean 'psycopg3'"),
        ({"DRIVER": "asyncpg"}, "one of 'psycopg3', .* serve threads; 'asyncpg' is not one"),
        ({"DRIVER": hasql.psycopg3.PoolManager}, "takes the name of a driver for threads"),
        ({"TRANSACTIONS": "requests"}, "HASQL_TRANSACTIONS must be 'autocommit' or 'request'"),
        ({"OPTIONS": {"dsn": "x"}}, "HASQL_OPTIONS takes no 'dsn': HASQL_DSN is for that"),
        ({"OPTIONS": {"timeout": 1}}, "options of the cluster 'default' cannot work: .*timeout"),
        ({"OPTIONS": {"acquire_timeout": -1}}, "acquire_timeout must be more than 0 seconds"),
        ({"OPTIONS": {"pool_factory_kwargs": {"max_sise": 1}}}, "did you mean 'max_size'"),
        ({"RETRY_AFTER": -1}, "HASQL_RETRY_AFTER must be at least 0 seconds"),
    ],
)
def test_settings_that_can_never_work_are_refused_at_once(
    settings: dict[str, Any], message: str
) -> None:
    app = unserved(**settings)
    with pytest.raises(ConfigurationError, match=message) as refused:
        Hasql(app)
    assert "secret" not in str(refused.value)


def test_a_flag_that_is_none_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="HASQL_RESET must be True or False, not 'no'"):
        Hasql(unserved(RESET="no"))


def test_settings_are_read_from_the_environment_as_flask_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = Flask("tested")
    monkeypatch.setenv("FLASK_HASQL_DSN", "postgresql://db1,db2/app")
    monkeypatch.setenv("FLASK_HASQL_OPTIONS", '{"acquire_timeout": 15}')
    app.config.from_prefixed_env()
    db: Hasql[Any] = Hasql(app)
    with app.app_context():
        assert [each.host for each in db.manager().dsn.hosts] == ["db1", "db2"]


def test_no_password_is_shown() -> None:
    app = unserved()
    Hasql(app)
    assert "secret" not in repr(vars(app.extensions["hasql"]))


# Mistakes


def test_without_init_app_the_remedy_is_named() -> None:
    db: Hasql[Any] = Hasql()
    with Flask("other").app_context():
        for use in (db.connection, db.manager, db.stats, db.close):
            with pytest.raises(NoAppError, match=r"'other': call db.init_app\(app\)"):
                use()
    with unserved().app_context(), pytest.raises(RuntimeError, match="init_app"):
        db.connection()


def test_outside_of_an_app_context_the_remedy_is_named() -> None:
    db: Hasql[Any] = Hasql(unserved())
    for use in (db.connection, db.manager, db.stats, db.close):
        with pytest.raises(NoAppError, match=r"with app.app_context\(\):"):
            use()


def test_another_hasql_of_the_same_application_is_told_apart() -> None:
    app = unserved()
    db, other = Hasql[Any](app), Hasql[Any]()
    with pytest.raises(ConfigurationError, match="already has this extension: call init_app once"):
        other.init_app(app)
    with app.app_context(), pytest.raises(NoAppError, match="on this same object"):
        other.connection()
    with app.app_context():
        db.manager()


@pytest.mark.parametrize("name", ["reports", None, 7])
def test_an_unknown_cluster_is_named_with_those_there_are(name: Any) -> None:
    app = unserved(CLUSTERS={"other": {"dsn": "postgresql://db3/app"}})
    db: Hasql[Any] = Hasql(app)
    with app.app_context():
        for use in (db.connection, db.manager):
            with pytest.raises(ConfigurationError, match=r"no cluster .*, only 'default'"):
                use(cluster=name)


def test_an_async_manager_is_refused() -> None:
    pool = hasql.psycopg3.PoolManager("postgresql://app:secret@db1/app")
    with pytest.raises(ConfigurationError, match="HASQL_DSN, HASQL_DRIVER") as refused:
        Hasql(pool)  # type: ignore[arg-type]  # wrong on purpose
    assert "secret" not in str(refused.value)


def test_a_missing_extra_is_named_when_the_application_is_made() -> None:
    program = """
        import sys
        sys.modules["psycopg2"] = None
        from flask import Flask
        from hasql.contrib.flask import Hasql
        app = Flask("tested")
        app.config.update(HASQL_DSN="postgresql://db1/app", HASQL_DRIVER="psycopg2")
        try:
            Hasql(app)
        except ImportError as error:
            print(type(error).__name__, error)
    """
    said = run(program)
    assert said.startswith("MissingExtraError")
    assert "pip install 'hasql[psycopg2]'" in said


def run(program: str, *words: str, **environment: str) -> str:
    """Run a program in a process of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program), *words],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, **environment},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


# Roles


def test_a_read_only_view_is_on_a_replica(flask: FlaskScene) -> None:
    app, db = flask.app(), flask.db

    def role() -> str:
        return str(value(db.connection(), IN_RECOVERY))

    @db.read_only
    def reading() -> str:
        assert value(db.connection(read_only=False), IN_RECOVERY) is False
        assert db.connection() is db.connection(read_only=True)
        return role()

    @db.read_only
    async def reading_async() -> str:
        return role()

    @db.read_only
    def broken() -> NoReturn:
        raise ZeroDivisionError

    assert reading.__name__ == "reading"
    views = (reading, role, reading_async, role, broken, role)
    answers = [flask.ask(app, view) for view in views]
    assert [each.text for each in answers if each.status_code == 200] == [
        *("True", "False") * 2,
        "False",
    ]
    with app.app_context():
        assert value(db.connection(read_only=True), IN_RECOVERY) is True


def test_an_async_view_has_one_connection_in_all_its_threads(flask: FlaskScene) -> None:
    app, db = flask.app(), flask.db

    async def view() -> str:
        import asyncio

        together = threading.Barrier(4)

        def ask() -> int:
            together.wait(10)
            return id(db.connection())

        return str(len(set(await asyncio.gather(*(asyncio.to_thread(ask) for _ in range(4))))))

    assert flask.ask(app, view).text == "1"
    flask.all_given_back(app)


# 503


@pytest.fixture
def nowhere(unused_ports: tuple[int, int]) -> dict[str, Any]:
    """Settings of a cluster where nobody answers."""
    return {"DSN": NOWHERE.format(unused_ports[0]), "OPTIONS": {"acquire_timeout": 0.05}}


@pytest.fixture
def db() -> Hasql[Any]:
    return Hasql()


@pytest.fixture
def app(db: Hasql[Any], nowhere: dict[str, Any]) -> Iterator[Flask]:
    app = unserved(**nowhere, RETRY_AFTER=2.5)
    db.init_app(app)

    @app.get("/")
    def view() -> str:
        return str(db.connection())

    yield app
    with app.app_context():
        db.close()


def test_no_host_in_time_is_503_with_retry_after(app: Flask) -> None:
    for testing in (False, True):
        app.testing = testing
        answer = app.test_client().get("/")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "3")


def test_an_exhausted_pool_is_waited_for_and_then_503(flask: FlaskScene) -> None:
    app, db = flask.app(pool=1, OPTIONS={"acquire_timeout": 0.3}), flask.db
    taken, done = Event(), Event()

    def hold() -> None:
        with app.app_context():
            db.connection()
            taken.set()
            done.wait(20)

    def view() -> str:
        return str(value(db.connection(), "SELECT 1"))

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert taken.wait(20)
        began = monotonic()
        answer = flask.ask(app, view)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert monotonic() - began >= 0.3
    finally:
        done.set()
        holder.join(20)
    assert flask.ask(app, view).text == "1"


@pytest.mark.parametrize("handled", [NotAvailableError, TimeoutError, HasqlError, Exception, 503])
def test_what_the_application_handles_is_its_own(app: Flask, handled: Any) -> None:
    seen: list[Any] = []

    @app.errorhandler(handled)
    def handler(error: Any) -> tuple[str, int]:
        seen.append(error)
        return "its own", 418

    answer = app.test_client().get("/")
    assert (answer.status_code, answer.text) == (418, "its own")
    # A handler of `Exception` or of 503 gets the HTTP error that Flask would answer with.
    unavailable = seen[0].__cause__ if handled in {Exception, 503} else seen[0]
    assert isinstance(unavailable, NotAvailableError)


def test_what_a_blueprint_handles_is_its_own(nowhere: dict[str, Any]) -> None:
    app, db = unserved(**nowhere), Hasql[Any]()
    db.init_app(app)
    blueprint = Blueprint("inner", __name__)

    @blueprint.get("/")
    def view() -> str:
        return str(db.connection())

    @blueprint.errorhandler(TimeoutError)
    def handler(_: TimeoutError) -> tuple[str, int]:
        return "its own", 418

    app.register_blueprint(blueprint)
    assert app.test_client().get("/").status_code == 418
    with app.app_context():
        db.close()


@pytest.mark.parametrize("testing", [False, True])
@pytest.mark.parametrize("where", ["after_request", "open_session", "save_session"])
def test_it_is_503_as_well_where_flask_asks_no_handler(
    app: Flask, db: Hasql[Any], where: str, testing: bool
) -> None:
    app.testing, app.secret_key = testing, "of a test"
    app.add_url_rule("/well", "well", lambda: "well")
    _have_it_raise(app, db, where)
    answer = app.test_client().get("/well")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "3")


@pytest.mark.parametrize("handled", [NotAvailableError, HasqlError, Exception, 503])
def test_what_is_raised_behind_a_view_is_the_applications_to_handle(
    app: Flask, db: Hasql[Any], handled: Any
) -> None:
    seen: list[Any] = []

    @app.errorhandler(handled)
    def handler(error: Any) -> tuple[str, int]:
        seen.append(error)
        return "its own", 418

    app.add_url_rule("/well", "well", lambda: "well")
    _have_it_raise(app, db, "after_request")
    answer = app.test_client().get("/well")
    assert (answer.status_code, answer.text) == (418, "its own")
    assert len(seen) == 1


@pytest.mark.parametrize("handled", [NotAvailableError, 503])
def test_a_handler_that_finds_no_host_either_is_called_once(
    app: Flask, db: Hasql[Any], handled: Any
) -> None:
    seen: list[Any] = []

    @app.errorhandler(handled)
    def handler(error: Any) -> str:
        seen.append(error)
        return str(db.connection())

    answer = app.test_client().get("/")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "3")
    assert len(seen) == 1


def test_another_error_of_a_handler_is_a_500_as_ever(app: Flask, db: Hasql[Any]) -> None:
    @app.errorhandler(NotAvailableError)
    def handler(_: Exception) -> str:
        raise ZeroDivisionError

    app.add_url_rule("/well", "well", lambda: "well")
    _have_it_raise(app, db, "after_request")
    for path in ("/", "/well"):
        assert app.test_client().get(path).status_code == 500


@pytest.mark.parametrize("where", ["stream", "teardown"])
def test_it_is_503_as_long_as_nothing_was_sent(app: Flask, db: Hasql[Any], where: str) -> None:
    @app.get("/late")
    def late() -> Response:
        manager = db.manager()

        def lines() -> Iterator[str]:
            if where == "stream":
                manager.getconn()
            yield "well"

        return Response(lines(), mimetype="text/plain")

    @app.teardown_request
    def teardown(_: BaseException | None) -> None:
        if where == "teardown":
            db.connection()

    begun: list[tuple[str, dict[str, str]]] = []

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        assert (exc_info is None) is (begun == [])
        begun.append((status, dict(headers)))

    environ = EnvironBuilder("/late").get_environ()
    assert b"".join(app.wsgi_app(environ, start)) == b""
    status, headers = begun[-1]
    assert (status[:3], headers["Retry-After"]) == ("503", "3")
    with pytest.raises(NotAvailableError):
        app.test_client().get("/late").get_data()


def test_what_a_stream_raises_behind_its_beginning_is_its_servers_to_see(
    app: Flask, db: Hasql[Any]
) -> None:
    closed: list[bool] = []

    @app.get("/late")
    def late() -> Response:
        manager = db.manager()

        def lines() -> Iterator[str]:
            yield "well"
            manager.getconn()

        response = Response(lines(), mimetype="text/plain")
        response.call_on_close(lambda: closed.append(True))
        return response

    answer = app.test_client().get("/late")
    assert answer.status_code == 200
    with pytest.raises(NotAvailableError):
        answer.get_data()
    answer.close()
    assert closed == [True]


def test_a_stream_that_nobody_reads_to_its_end_is_closed_once(app: Flask) -> None:
    closed: list[str] = []

    @app.get("/late")
    def late() -> Response:
        def lines() -> Iterator[str]:
            try:
                yield "first"
                yield "second"
            finally:
                closed.append("generator")

        response = Response(lines(), mimetype="text/plain")
        response.call_on_close(lambda: closed.append("response"))
        return response

    answer = app.test_client().get("/late")
    assert next(iter(answer.response)) == b"first"
    answer.close()
    assert sorted(closed) == ["generator", "response"]


def _have_it_raise(app: Flask, db: Hasql[Any], where: str) -> None:
    if where == "after_request":

        @app.after_request
        def ask(_: Any) -> Any:
            return db.connection()

        return

    class Interface(SecureCookieSessionInterface):
        """A session interface that keeps its sessions in the database."""

    setattr(Interface, where, lambda *_: db.connection())
    app.session_interface = Interface()


# Health, numbers and commands


def test_health_counts_the_hosts_and_takes_no_connection(flask: FlaskScene) -> None:
    app, db = flask.app(CLUSTERS={"other": {"dsn": flask.dsn, "driver": flask.driver}}), flask.db
    app.register_blueprint(db.health, url_prefix="/health")
    client = app.test_client()
    with app.app_context():
        db.manager("other").ready(1, 2)
    counts = {"masters": 1, "replicas": 2}
    well = {"status": "ok", "clusters": {"default": counts, "other": counts}}
    for path in ("/health/live", "/health/ready"):
        answer = client.get(path)
        assert (answer.status_code, answer.json) == (200, well)
        assert answer.headers["Cache-Control"] == "no-store"
    with app.app_context():
        assert all(each.acquires == 0 for each in db.stats().values())


def test_a_cluster_without_a_master_is_not_ready(app: Flask, db: Hasql[Any]) -> None:
    app.register_blueprint(db.health, url_prefix="/health")
    client = app.test_client()
    counts = {"default": {"masters": 0, "replicas": 0}}
    live, ready = client.get("/health/live"), client.get("/health/ready")
    assert (live.status_code, live.json) == (200, {"status": "ok", "clusters": counts})
    assert (ready.status_code, ready.json) == (503, {"status": "unavailable", "clusters": counts})


def test_the_first_question_starts_the_manager(flask: FlaskScene) -> None:
    app, db = flask.app(), flask.db
    app.register_blueprint(db.health, url_prefix="/health")
    with app.app_context():
        db.close()
    assert app.test_client().get("/health/ready").status_code == 200


def test_stats_are_the_metrics_of_each_cluster(flask: FlaskScene) -> None:
    app, db = flask.app(CLUSTERS={"other": {"dsn": flask.dsn, "driver": flask.driver}}), flask.db
    flask.ask(app, lambda: str(value(db.connection(), "SELECT 1")))
    with app.app_context():
        stats = db.stats()
    assert {name: type(each) for name, each in stats.items()} == {
        "default": Metrics,
        "other": Metrics,
    }
    assert stats["default"].acquires == 1


def test_status_shows_the_hosts_with_their_roles(flask: FlaskScene) -> None:
    app = flask.app()
    done = app.test_cli_runner().invoke(args=["hasql", "status"])
    assert done.exit_code == 0
    head, *hosts = done.output.splitlines()
    assert head.split() == [
        "cluster",
        "host",
        "role",
        "health",
        "lag",
        "answers",
        "in",
        "connections",
    ]
    assert sorted(line.split()[2] for line in hosts) == ["master", "replica", "replica"]
    assert {line.split()[3] for line in hosts} == {"up"}
    assert str(flask.cluster.master.port) in done.output


def test_status_tells_why_a_host_is_down(app: Flask) -> None:
    done = app.test_cli_runner().invoke(args=["hasql", "status", "--timeout", "0.5"])
    assert done.exit_code == 0
    assert "down" in done.output
    assert "refused" in done.output.lower()


def test_check_says_by_its_exit_code_whether_there_is_a_master(flask: FlaskScene) -> None:
    runner = flask.app().test_cli_runner()
    done = runner.invoke(args=["hasql", "check", "--replicas", "2"])
    assert (done.exit_code, done.output) == (0, "default: ok, masters: 1, replicas: 2\n")
    short = runner.invoke(args=["hasql", "check", "--replicas", "3", "--timeout", "0.2"])
    assert short.exit_code == 1
    other = runner.invoke(args=["hasql", "check", "--cluster", "other"])
    assert other.exit_code == 2
    assert "no cluster 'other', only 'default'" in other.output


def test_check_fails_where_nobody_answers(app: Flask) -> None:
    done = app.test_cli_runner().invoke(args=["hasql", "check", "--timeout", "0.2"])
    assert done.exit_code == 1
    assert done.output.startswith("default: ")
    assert "secret" not in done.output


def test_a_command_of_the_application_has_a_connection(flask: FlaskScene) -> None:
    app, db, table = flask.app(TRANSACTIONS="request"), flask.db, flask.table()

    @app.cli.command("fill")
    def fill() -> None:
        execute(db.connection(), table.insert(1))

    assert app.test_cli_runner().invoke(args=["fill"]).exit_code == 0
    assert flask.rows(table) == [1]


# Ends


def test_close_gives_back_what_the_context_has_and_the_next_use_makes_a_new_manager(
    flask: FlaskScene,
) -> None:
    app, db = flask.app(), flask.db
    with app.app_context():
        first = db.manager()
        value(db.connection(), "SELECT 1")
        began = monotonic()
        db.close()
        assert monotonic() - began < 5
        assert first.closed
        assert value(db.connection(), "SELECT 1") == 1
        assert db.manager() is not first


def test_the_other_applications_go_on_when_one_is_closed(flask: FlaskScene) -> None:
    one, other, db = flask.app(), flask.app(), flask.db
    with one.app_context():
        db.close()
    assert flask.ask(other, lambda: str(value(db.connection(), "SELECT 1"))).text == "1"


def test_a_teardown_that_raises_costs_no_place(flask: FlaskScene) -> None:
    """After such an error, Flask calls none of the other teardown functions."""
    app, db, table = flask.app(pool=1, TRANSACTIONS="request"), flask.db, flask.table()
    breaks = [True] * 3

    @app.teardown_appcontext
    def broken(_: BaseException | None) -> None:
        if breaks:
            breaks.pop()
            raise ZeroDivisionError

    errors = []  # kept, with everything that their tracebacks refer to
    for _ in range(3):
        with pytest.raises(ZeroDivisionError) as raised, app.app_context():
            execute(db.connection(), table.insert(1))
        errors.append(raised)
    assert flask.ask(app, lambda: str(value(db.connection(), "SELECT 1"))).text == "1"
    assert flask.rows(table) == []


def test_a_statement_that_is_broken_off_costs_no_place(flask: FlaskScene) -> None:
    """This happens when gevent ends a greenlet that waits for a server."""
    app, db = flask.app(pool=1), flask.db

    def view() -> NoReturn:
        connection = db.connection()
        # The state that a statement leaves if its result is not read.
        if flask.driver == "psycopg3":
            connection.pgconn.send_query(b"SELECT pg_sleep(10)")
        else:
            raise_in_callback(connection)
        raise SystemExit

    with pytest.raises(SystemExit):
        flask.ask(app, view)
    assert flask.ask(app, lambda: str(value(db.connection(), "SELECT 1"))).text == "1"


def raise_in_callback(connection: Any) -> None:
    """Break off a statement of psycopg2 where it asks for more data."""

    class Broken:
        def read(self, _: int) -> NoReturn:
            raise SystemExit

    with suppress(SystemExit, Exception), connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE copied (i int)")
        cursor.copy_expert("COPY copied FROM STDIN", Broken())


ENDING = """
    import json, sys
    from flask import Flask
    from hasql.contrib.flask import Hasql

    app = Flask("ending")
    app.config.update(HASQL_DSN=sys.argv[1], HASQL_DRIVER=sys.argv[2])
    app.config["HASQL_OPTIONS"] = {"pool_factory_kwargs": json.loads(sys.argv[3])}
    db = Hasql(app)
    for read_only in (False, True):
        with app.app_context():
            cursor = db.connection(read_only=read_only).cursor()
            cursor.execute("SELECT 1")
            print(cursor.fetchone())
"""


def test_the_end_of_the_process_says_goodbye_to_the_servers(
    pg_cluster: LocalCluster, application: str
) -> None:
    dsn = f"{pg_cluster.dsn}?application_name={application}"
    before = {node.name: abandoned(node, application) for node in pg_cluster.nodes}
    for driver in ("psycopg3", "psycopg2"):
        words = (dsn, driver, json.dumps(sizes(driver, 1)))
        assert run(ENDING, *words) == "(1,)\n(1,)\n"
    for node in pg_cluster.nodes:
        # Sessions of monitors, which end without telling the server.
        assert abandoned(node, application) - before[node.name] <= 2


def abandoned(node: LocalNode, application: str) -> int:
    """Wait until the application has no session left; count those that the server has ever lost."""
    with psycopg.connect(node.superuser_dsn, autocommit=True) as admin:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        wait_for(lambda: admin.execute(query, [application]).fetchone() == (0,))
        return int(value(admin, "SELECT sum(sessions_abandoned) FROM pg_stat_database"))


# Forks


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_starts_afresh_and_leaves_its_parent_alone(flask: FlaskScene) -> None:
    app, db, table = flask.app(pool=2), flask.db, flask.table()
    flask.ask(app, lambda: str(value(db.connection(), PID)))
    flask.all_given_back(app)

    def ask_in_child(inherited: Any, pid: int) -> int:
        """Use the extension; return 0 if everything is as it must be."""
        fresh = value(db.connection(), PID)
        well = fresh != pid and db.connection() is not inherited
        execute(db.connection(), table.insert(1))
        answer = flask.ask(app, lambda: str(value(db.connection(), "SELECT 1")))
        db.close()
        return 0 if well and answer.text == "1" else 1

    with app.app_context():
        connection = db.connection()
        mine = value(connection, PID)
        execute(connection, "SET work_mem = '7MB'")
        child = os.fork()
        if child == 0:
            code = 2
            try:
                code = ask_in_child(connection, mine)
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert value(connection, PID) == mine
        assert value(connection, "SHOW work_mem") == "7MB"
    assert flask.rows(table) == [1]
    flask.all_given_back(app)
