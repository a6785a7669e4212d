"""The settings of pool managers: no argument is missing, and no given value is shown."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from dataclasses import MISSING, fields
from importlib import import_module
from traceback import format_exception
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from hasql._manager.facade import Facade
from hasql.balancer_policy import GreedyBalancerPolicy, RoundRobinBalancerPolicy
from hasql.cluster.host import HostSpec
from hasql.discovery import StaticDiscovery
from hasql.errors import ConfigurationError
from hasql.resilience import Admission, Breaker, Lifecycle, RateLimit, SessionDefaults
from hasql.settings import (
    AdmissionGroup,
    BreakerGroup,
    LifecycleGroup,
    RateLimitGroup,
    SessionGroup,
    Settings,
)
from testbed.fake_driver import FakeManager
from testbed.kits.registry import DRIVERS, THREAD_DRIVERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

DSN = "postgresql://user:very-secret@a,b/app"

GROUPS: dict[type[BaseModel], type[Any]] = {
    SessionGroup: SessionDefaults,
    LifecycleGroup: Lifecycle,
    AdmissionGroup: Admission,
    RateLimitGroup: RateLimit,
    BreakerGroup: Breaker,
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """An environment without settings, and a directory without files."""
    monkeypatch.chdir(tmp_path)
    return monkeypatch


# Nothing is missing


def test_each_argument_of_a_pool_manager_is_a_setting_with_its_default() -> None:
    parameters = dict(inspect.signature(Facade.__init__).parameters)
    del parameters["self"]
    assert list(Settings.model_fields) == list(parameters)
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert Settings(dsn=DSN).arguments() == {**defaults, "dsn": DSN}


@pytest.mark.parametrize("group", GROUPS, ids=[group.__name__ for group in GROUPS])
def test_each_value_of_a_group_is_a_setting_with_its_default(group: type[BaseModel]) -> None:
    values = {field.name: field.default for field in fields(GROUPS[group])}
    assert list(group.model_fields) == list(values)
    for name, default in values.items():
        setting: Any = group.model_fields[name]
        if default is MISSING:
            assert setting.is_required()
        elif isinstance(setting.default, SecretStr):
            assert setting.default.get_secret_value() == default
        else:
            assert setting.default == default


MODELS: tuple[type[BaseModel], ...] = (Settings, *GROUPS)
ALL_FIELDS: dict[str, FieldInfo] = {
    f"{model.__name__}.{name}": field
    for model in MODELS
    for name, field in model.model_fields.items()
}
#: Numbers that are not durations.
NOT_SECONDS = {
    *("master_as_replica_weight", "stopwatch_window_size", "jitter", "limit", "replica_limit"),
    *("queue", "reserve", "threshold"),
}


@pytest.mark.parametrize(("name", "field"), ALL_FIELDS.items(), ids=ALL_FIELDS.keys())
def test_each_setting_says_what_it_is(name: str, field: FieldInfo) -> None:
    assert field.description
    assert field.description.endswith(".")
    if re.search(r"\b(float|int)\b", str(field.annotation)):
        extra: Any = field.json_schema_extra or {}
        is_seconds = extra.get("unit") == "seconds"
        assert is_seconds is (name.partition(".")[2] not in NOT_SECONDS)


def numbers() -> Iterator[tuple[str, str | None, float]]:
    """Yield a name, its group and a value out of its bounds, for each setting that is a number."""
    models: dict[str | None, type[BaseModel]] = {
        None: Settings,
        "session": SessionGroup,
        "lifecycle": LifecycleGroup,
        "admission": AdmissionGroup,
        "breaker": BreakerGroup,
    }
    for group, model in models.items():
        for name, schema in model.model_json_schema(mode="validation")["properties"].items():
            for each in schema.get("anyOf", [schema]):
                if each.get("type") in {"number", "integer"}:
                    yield name, group, -1
                    if "exclusiveMinimum" in each or each.get("minimum") == 1:
                        yield name, group, 0
                    if "maximum" in each:
                        yield name, group, each["maximum"] + 1


NUMBERS = list(numbers())


@pytest.mark.parametrize(("name", "group", "value"), NUMBERS)
def test_bounds_are_those_of_the_pool_manager(name: str, group: str | None, value: float) -> None:
    given: dict[str, Any] = {name: value}
    needed = {"limit": 10} if group == "admission" and name != "limit" else {}
    with pytest.raises(ValidationError, match=name):
        Settings(**{"dsn": DSN, **({group: {**needed, **given}} if group else given)})
    with pytest.raises(ConfigurationError, match=name):
        if group is None:
            FakeManager({}, dsn=DSN, **given)
        else:
            kinds = {"session": SessionDefaults, "lifecycle": Lifecycle, "admission": Admission}
            kinds.get(group, Breaker)(**needed, **given)


def test_there_are_numbers_with_bounds() -> None:
    assert len(NUMBERS) > 20


# Where they come from


def test_the_environment(environment: pytest.MonkeyPatch) -> None:
    given = {
        "DSN": DSN,
        "ACQUIRE_TIMEOUT": "2.5",
        "FALLBACK_MASTER": "true",
        "STOPWATCH_WINDOW_SIZE": "64",
        "LEASE_ABORT_AFTER": "none",
        "NEVER_MASTER": "b, c:5433",
        "BALANCER_POLICY": "hasql.balancer_policy:RoundRobinBalancerPolicy",
        "POOL_FACTORY_KWARGS__MAX_SIZE": "20",
        "POOL_FACTORY_KWARGS__NAME": "web",
        "SESSION__STATEMENT_TIMEOUT": "5",
        "SESSION__SEARCH_PATH": "app,public",
        "LIFECYCLE__LEAK_THRESHOLD": "60",
        "LIFECYCLE__MAX_IDLE": "None",
        "ADMISSION__LIMIT": "100",
        "RATE_LIMIT": '{"rate": "10/second", "wait": false}',
        "BREAKER": "{}",
        "OF_ANOTHER_PROGRAM": "1",
    }
    for name, value in given.items():
        environment.setenv(f"HASQL_{name}", value)
    arguments = Settings().arguments()
    assert arguments == {
        **Settings().arguments(),
        "dsn": DSN,
        "acquire_timeout": 2.5,
        "fallback_master": True,
        "stopwatch_window_size": 64,
        "lease_abort_after": None,
        "never_master": ("b", "c:5433"),
        "balancer_policy": RoundRobinBalancerPolicy,
        "pool_factory_kwargs": {"max_size": 20, "name": "web"},
        "session": SessionDefaults(statement_timeout=5, search_path=("app", "public")),
        "lifecycle": Lifecycle(leak_threshold=60),
        "admission": Admission(limit=100),
        "rate_limit": RateLimit(rate="10/second", wait=False),
        "breaker": Breaker(),
    }


TOML = f"""
[tool.hasql]
dsn = "{DSN}"
acquire_timeout = 3
never_master = ["b"]
lease_abort_after = "none"
pool_factory_kwargs = {{ max_size = 20 }}

[tool.hasql.session]
statement_timeout = 5
search_path = ["app", "public"]
"""


def test_a_toml_file(tmp_path: Path) -> None:
    path = tmp_path / "app.toml"
    path.write_text(TOML)
    settings = Settings.of_toml(path, "tool", "hasql", acquire_timeout=4)
    assert settings.dsn.get_secret_value() == DSN
    assert settings.acquire_timeout == 4
    assert settings.lease_abort_after is None
    assert settings.arguments()["never_master"] == ("b",)
    assert settings.arguments()["pool_factory_kwargs"] == {"max_size": 20}
    expected = SessionDefaults(statement_timeout=5, search_path=("app", "public"))
    assert settings.arguments()["session"] == expected


def test_a_toml_file_that_is_not_there_or_lacks_the_table(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Settings.of_toml(tmp_path / "none.toml")
    (tmp_path / "app.toml").write_text(TOML)
    with pytest.raises(ConfigurationError, match=r"has no table tool\.other"):
        Settings.of_toml(tmp_path / "app.toml", "tool", "other")


def test_a_dotenv_file_may_have_the_variables_of_others(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        f"POSTGRES_PASSWORD=other\nHASQL_DSN={DSN}\nHASQL_SESSION__LOCK_TIMEOUT=2\n"
    )
    settings = Settings(_env_file=".env")
    assert settings.arguments()["session"] == SessionDefaults(lock_timeout=2)


def test_code_goes_before_the_environment_and_that_before_files(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "app.toml").write_text(
        f'dsn = "{DSN}"\nacquire_timeout = 1\nrefresh_delay = 1\nrefresh_timeout = 1\n'
        "release_timeout = 1\nsession = { lock_timeout = 1, statement_timeout = 1 }"
    )
    (tmp_path / ".env").write_text(
        "HASQL_ACQUIRE_TIMEOUT=2\nHASQL_REFRESH_DELAY=2\nHASQL_REFRESH_TIMEOUT=2"
    )
    environment.setenv("HASQL_ACQUIRE_TIMEOUT", "3")
    environment.setenv("HASQL_REFRESH_DELAY", "3")
    environment.setenv("HASQL_SESSION__LOCK_TIMEOUT", "3")

    class AppSettings(Settings, env_file=".env", toml_file="app.toml"):
        debug: bool = False

    settings = AppSettings(acquire_timeout=4, debug=True)
    assert (
        settings.acquire_timeout,
        settings.refresh_delay,
        settings.refresh_timeout,
        settings.release_timeout,
    ) == (4, 3, 2, 1)
    assert settings.session == SessionGroup(lock_timeout=3, statement_timeout=1)
    assert "debug" not in settings.arguments()
    assert Settings.of_toml("app.toml", acquire_timeout=4).refresh_delay == 3


def test_settings_may_be_a_part_of_others(environment: pytest.MonkeyPatch) -> None:
    class AppSettings(BaseSettings):
        model_config = SettingsConfigDict(env_nested_delimiter="__")
        database: Settings
        reports: Settings

    environment.setenv("DATABASE__DSN", DSN)
    environment.setenv("REPORTS__DSN", "host=r")
    environment.setenv("REPORTS__SESSION__STATEMENT_TIMEOUT", "60")
    settings = AppSettings()  # type: ignore[call-arg]  # the values are in the environment
    assert settings.database.dsn.get_secret_value() == DSN
    assert settings.reports.arguments()["session"] == SessionDefaults(statement_timeout=60)


def test_the_arguments_themselves_may_be_given() -> None:
    given = {
        "session": SessionDefaults(statement_timeout=5, search_path=["app"]),
        "lifecycle": Lifecycle(max_idle=60),
        "admission": Admission(limit=3),
        "rate_limit": RateLimit("5/second", key=str),
        "breaker": Breaker(threshold=2),
        "balancer_policy": RoundRobinBalancerPolicy(),
        "credentials": str,
        "discovery": StaticDiscovery([HostSpec("a", 5432)]),
    }
    arguments = Settings(dsn=DSN, **given).arguments()
    assert {name: arguments[name] for name in given} == given


# What is refused


@pytest.mark.parametrize(
    "given",
    [
        {"acquire_timout": 1},
        {"session": {"statment_timeout": 1}},
        {"session": Breaker()},
        {"breaker": {"treshold": 1}},
    ],
)
def test_unknown_names_in_code_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Settings(dsn=DSN, **given)


@pytest.mark.parametrize("line", ["acquire_timout = 1", "[session]\nstatment_timeout = 1"])
def test_unknown_names_in_a_toml_file_are_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "app.toml").write_text(f'dsn = "{DSN}"\n{line}')
    with pytest.raises(ValidationError, match="not permitted"):
        Settings.of_toml("app.toml")


@pytest.mark.parametrize("name", ["HASQL_ACQUIRE_TIMOUT", "HASQL_SESSION__STATMENT_TIMEOUT"])
def test_unknown_names_in_a_dotenv_file_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"HASQL_DSN={DSN}\n{name}=1")
    with pytest.raises(ValidationError, match="not permitted"):
        Settings(_env_file=".env")


def test_unknown_names_of_a_group_in_the_environment_are_refused(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("HASQL_DSN", DSN)
    environment.setenv("HASQL_SESSION__STATMENT_TIMEOUT", "5")
    with pytest.raises(ValidationError, match=r"session\.statment_timeout"):
        Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("acquire_timeout", True),
        ("acquire_timeout", "soon"),
        ("acquire_timeout", float("nan")),
        ("refresh_delay", float("inf")),
        ("stopwatch_window_size", 1.5),
        ("session", {"statement_timeout": float("inf")}),
        ("session", {"statement_timeout": 1e10}),
        ("session", {"application_name": "é"}),
        ("lifecycle", {"leak_action": "terminate_it"}),
        ("rate_limit", {"rate": "many"}),
        ("rate_limit", {"strategy": "token-bucket", "storage": "redis://:very-secret@r"}),
        ("credentials", "no reference"),
        ("credentials", "os.path"),
        ("never_master", 5),
        ("never_master", '["b"'),
        ("admission", {}),
    ],
)
def test_what_cannot_be_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        Settings(**{"dsn": DSN, name: value})


def test_a_dsn_is_needed() -> None:
    with pytest.raises(ValidationError, match="dsn\n  Field required"):
        Settings()


# Nothing is shown


@pytest.mark.parametrize(
    "given",
    [
        {"dsn": ["very-secret"]},
        {"acquire_timeout": "very-secret"},
        {"password": "very-secret"},
        {"session": {"password": "very-secret"}},
        {"session": {"search_path": ["very-secret" * 10]}},
        {"session": {"application_name": "very-secret\n"}},
        {"session": "very-secret"},
        {"credentials": "very-secret"},
        {"never_master": {"very-secret": 1}},
        {"lifecycle": {"leak_action": "very-secret"}},
        {"rate_limit": {"rate": "very-secret"}},
        {"rate_limit": {"storage": "very-secret"}},
        {"rate_limit": {"storage": "http://:very-secret@r"}},
        {"pool_factory_kwargs": "very-secret"},
    ],
    ids=str,
)
def test_errors_show_no_value(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(**{"dsn": DSN, **given})
    error = caught.value
    assert "very-secret" not in f"{error} {error!r} {error.errors()} {error.json()}"
    assert error.__context__ is None


def test_what_is_no_json_is_not_shown(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("HASQL_DSN", DSN)
    environment.setenv("HASQL_POOL_FACTORY_KWARGS", '{"password": "very-secret"')
    with pytest.raises(ValueError, match="pool_factory_kwargs") as caught:
        Settings()
    assert "very-secret" not in "".join(format_exception(caught.value))


def test_a_repr_shows_no_secret() -> None:
    settings = Settings(
        dsn=DSN,
        pool_factory_kwargs={"password": "very-secret"},
        rate_limit={"storage": "redis://:very-secret@r", "strategy": "fixed-window"},
    )
    assert "very-secret" not in f"{settings} {settings!r}"
    assert settings.arguments()["rate_limit"].storage == "redis://:very-secret@r"
    with pytest.raises(ValidationError, match="frozen"):
        settings.dsn = SecretStr("host=other")


# Objects given by name


def token() -> str:
    return "token"


made: list[StaticDiscovery] = []


def discovery() -> StaticDiscovery:
    made.append(StaticDiscovery([HostSpec("a", 5432)]))
    return made[-1]


class Factory:
    class Policy(GreedyBalancerPolicy):
        pass


HERE = __name__


def test_callables_and_objects_are_found_by_their_names() -> None:
    settings = Settings(
        dsn=DSN,
        credentials=f"{HERE}:token",
        rate_limit={"key": f"{HERE}:token"},
        balancer_policy=f"{HERE}:Factory.Policy",
        discovery=f"{HERE}:discovery",
    )
    arguments = settings.arguments()
    assert arguments["credentials"] is token
    assert arguments["rate_limit"].key is token
    assert arguments["balancer_policy"] is Factory.Policy
    assert arguments["discovery"] is made[-1]
    # A source serves only one manager.
    assert settings.arguments()["discovery"] is not arguments["discovery"]


@pytest.mark.parametrize("reference", ["no_such_module:x", "os:no_such_name", "os:path.none"])
@pytest.mark.parametrize("name", ["credentials", "discovery", "rate_limit"])
def test_a_name_that_leads_nowhere_is_an_error_when_a_manager_is_made(
    reference: str, name: str
) -> None:
    value = {"key": reference} if name == "rate_limit" else reference
    settings = Settings(**{"dsn": DSN, name: value})
    with pytest.raises(ConfigurationError, match=f"{name}.*='{reference}' cannot be imported"):
        settings.arguments()


# Pool managers


@pytest.mark.parametrize(
    "module",
    [driver.facade for driver in (*DRIVERS, *THREAD_DRIVERS) if driver.sqlalchemy == "2"],
)
def test_every_pool_manager_is_made_of_settings(module: str) -> None:
    settings = Settings(dsn=DSN, refresh_delay=7)
    manager = import_module(module).PoolManager.from_settings(settings)
    assert manager.refresh_delay == 7
    assert "a:5432,b:5432/app" in str(manager.dsn)


def test_an_object_like_settings_will_do_and_nothing_else() -> None:
    class Own:
        def arguments(self) -> dict[str, Any]:
            return {"servers": {}, "dsn": DSN, "refresh_delay": 7}

    assert FakeManager.from_settings(Own()).refresh_delay == 7
    for other in (DSN, {"dsn": DSN}, None):
        with pytest.raises(TypeError, match=r"takes a hasql\.settings\.Settings\(\), not"):
            FakeManager.from_settings(other)  # type: ignore[arg-type]


def test_without_the_library_the_extra_is_named() -> None:
    program = "import sys; sys.modules['pydantic_settings'] = None; import hasql.settings"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert "MissingExtraError" in done.stderr
    assert "pip install 'hasql[settings]'" in done.stderr
