"""Settings by flag, environment and file, and what is said of a bad one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from runtimestore import RuntimeStoreClient
from runtimestore_server.settings import DatabaseUrl, Settings
from support.servers.command import run, serving

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = "correct-horse-7b1"  # noqa: S105  (nobody's)
URL = f"postgresql://app:{PASSWORD}@127.0.0.1:1/store"


@pytest.mark.parametrize("by", ["flag", "environment"])
def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path, by: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        'listen = "127.0.0.1:0"\ndatabase_url = "memory:"\n'
        "max_document_bytes = 1001\nmax_waiting_reads = 1002\nmax_waiting_writes = 1003\n"
    )
    extra = {"RUNTIMESTORE_MAX_WAITING_READS": "2002", "RUNTIMESTORE_MAX_WAITING_WRITES": "2003"}
    arguments = ["--max-waiting-writes", "3003"]
    if by == "flag":
        arguments += ["--config", str(file)]
    else:
        extra["RUNTIMESTORE_CONFIG"] = str(file)

    with serving(*arguments, cwd=tmp_path, extra=extra) as server, RuntimeStoreClient(server.address) as client:
        info = client.get_server_info()

    assert info.engine == "memory"
    limits = info.limits
    assert (limits.max_document_bytes, limits.max_waiting_reads, limits.max_waiting_writes) == (1001, 2002, 3003)


BAD = {
    "listen": "nowhere",
    "database_url": "mysql://somewhere/store",
    "max_batch_writes": "0",
    "max_message_bytes": "many",
    "grace_period_seconds": "-1",
    "health_interval_seconds": "0",
    "log_level": "loud",
    "log_format": "xml",
}


@pytest.mark.parametrize("by", ["flag", "environment", "file"])
@pytest.mark.parametrize("name", ["listen", "max_batch_writes", "log_level"])
def test_a_bad_setting_is_named_wherever_it_comes_from(tmp_path: Path, name: str, by: str) -> None:
    arguments, extra = [], {}
    if by == "flag":
        arguments = [f"--{name.replace('_', '-')}", BAD[name]]
    elif by == "environment":
        extra = {f"RUNTIMESTORE_{name.upper()}": BAD[name]}
    else:
        (tmp_path / "settings.toml").write_text(f'{name} = "{BAD[name]}"\n')
        arguments = ["--config", "settings.toml"]

    done = run("serve", *arguments, cwd=tmp_path, extra=extra)

    assert done.returncode == 2
    assert name in done.stderr.replace("-", "_")
    assert "Traceback" not in done.stderr


def test_all_bad_settings_are_named_at_once(tmp_path: Path) -> None:
    done = run("serve", cwd=tmp_path, extra={f"RUNTIMESTORE_{name.upper()}": value for name, value in BAD.items()})

    assert done.returncode == 2
    assert [name for name in BAD if f"setting {name}:" not in done.stderr] == []
    assert done.stderr.count("\n") == len(BAD)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("max_message_bytes", 1_000_000_000),
        ("max_session_snapshot_bytes", 900_000_000),
        ("max_document_bytes", 900_000_000),
    ],
)
def test_a_limit_that_no_engine_could_keep_is_refused(tmp_path: Path, name: str, most: int) -> None:
    done = run("serve", f"--{name.replace('_', '-')}", str(most + 1), cwd=tmp_path)

    assert done.returncode == 2
    assert str(most) in next(line for line in done.stderr.splitlines() if name in line)
    settings: dict[str, Any] = {name: most}
    assert getattr(Settings(_env_file=None, **settings), name) == most


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("max_waiting_writes", 2**32 - 1),
        ("max_waiting_reads", 2**32 - 1),
        ("max_waiting_bytes", 2**63 - 1),
        ("reader_threads", 1000),
        ("committer_threads", 1000),
    ],
)
def test_a_number_that_could_not_be_told_or_started_is_refused_by_its_name_and_the_largest_one_is_taken(
    tmp_path: Path, name: str, most: int
) -> None:
    flag = f"--{name.replace('_', '-')}"
    done = run("serve", "--database-url", "memory:", flag, str(most + 1), cwd=tmp_path)

    assert done.returncode == 2
    assert f"setting {name}:" in done.stderr
    assert str(most) in done.stderr
    with serving(flag, str(most), cwd=tmp_path) as server, RuntimeStoreClient(server.address) as client:
        assert getattr(client.get_server_info().limits, name, most) == most


@pytest.mark.parametrize("name", ["listen", "metrics_listen"])
@pytest.mark.parametrize(
    "address", [" 127.0.0.1:0", "127.0.0.1 :0", "127.0.0.1\n:0", "127.0.0.1:\u0660", "127.0.0.1:0 "]
)
def test_an_address_with_white_space_or_foreign_digits_is_refused_as_none(
    tmp_path: Path, name: str, address: str
) -> None:
    done = run("serve", f"--{name.replace('_', '-')}", address, "--database-url", "memory:", cwd=tmp_path)

    assert done.returncode == 2
    assert f"setting {name}: must be HOST:PORT such as" in done.stderr


@pytest.mark.parametrize("name", ["grace_period_seconds", "health_interval_seconds"])
@pytest.mark.parametrize("value", ["inf", "nan", "1e400"])
def test_a_time_that_never_ends_is_refused_by_its_name(tmp_path: Path, name: str, value: str) -> None:
    done = run("serve", f"--{name.replace('_', '-')}", value, "--database-url", "memory:", cwd=tmp_path)

    assert done.returncode == 2
    assert f"setting {name}: Input should be a finite number" in done.stderr


def test_every_default_is_a_value_that_can_be_set() -> None:
    defaults: dict[str, Any] = {name: field.default for name, field in Settings.model_fields.items()}

    assert Settings(**defaults) == Settings.model_construct(**defaults)


def test_a_database_url_without_a_file_names_the_setting(tmp_path: Path) -> None:
    done = run("serve", "--listen", "127.0.0.1:0", "--database-url", "sqlite://", cwd=tmp_path)

    assert "database_url" in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("text", "named"),
    [(None, "settings.toml"), ("listen = \n", "settings.toml"), ("max_batch_write = 3\n", "max_batch_write")],
    ids=["missing", "no TOML", "an unknown setting"],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str | None, named: str) -> None:
    if text is not None:
        (tmp_path / "settings.toml").write_text(text)

    done = run("serve", "--config", "settings.toml", cwd=tmp_path)

    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize("command", ["serve", "migrate", "verify", "health"])
def test_a_variable_that_is_nearly_a_setting_is_refused_and_others_are_let_be(tmp_path: Path, command: str) -> None:
    others = {"RUNTIMESTORE_PORT": "tcp://10.0.0.7:50051", "RUNTIMESTORE_SERVICE_HOST": "10.0.0.7"}
    extra = {**others, "RUNTIMESTORE_DATABSE_URL": "postgresql://app:secret@db/store"}

    done = run(command, cwd=tmp_path, extra=extra)

    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "RUNTIMESTORE_DATABSE_URL is no setting; did you mean RUNTIMESTORE_DATABASE_URL?" in done.stderr
    assert "secret" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_setting_that_does_not_exist_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("max_batch_write = 3\n")

    done = run("serve", "--config", "settings.toml", cwd=tmp_path)

    assert "setting max_batch_write: there is no such setting" in done.stderr


def test_a_folder_is_no_file_of_settings(tmp_path: Path) -> None:
    done = run("serve", "--config", str(tmp_path), cwd=tmp_path)

    assert f"--config {tmp_path}: is no file" in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize("arguments", [("serve", "--no-such-flag", "1"), ("no-such-command",), ()])
def test_what_is_no_command_or_flag_exits_with_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run(*arguments, cwd=tmp_path)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("password", ["plain", "with@sign", "a@b@c"])
def test_a_shown_database_url_hides_the_whole_password(password: str) -> None:
    shown = str(DatabaseUrl(f"postgresql://app:{password}@host/store"))

    assert shown == "postgresql://app:***@host/store"


def test_a_database_url_may_name_several_hosts_and_hides_its_password_too() -> None:
    url = f"postgresql://app:{PASSWORD}@/store?host=db1:5432&host=db2:5433&target_session_attrs=read-write"

    settings = Settings(_env_file=None, database_url=DatabaseUrl(url))

    assert PASSWORD not in str(settings.database_url)
    assert "db1:5432" in str(settings.database_url)
    assert settings.database_url.get_secret_value() == url
