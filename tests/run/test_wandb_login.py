"""A login in a netrc file is found for the server that wandb will use, however the two are written."""

from pathlib import Path

import pytest

from mirrorpo.run import wandb_login

KEY = "k" * 40


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("API_KEY", "IDENTITY_TOKEN_FILE", "BASE_URL", "CONFIG_DIR"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write(path: Path, host: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"machine github.com login me password no\nmachine {host}\n  login user\n  password {KEY}\n"
    )


@pytest.mark.parametrize(
    ("base_url", "host", "there"),
    [
        (None, "api.wandb.ai", True),
        (None, "wandb.lab.example", False),
        ("", "api.wandb.ai", True),
        ("https://wandb.lab.example", "wandb.lab.example", True),
        ("https://wandb.lab.example/", "wandb.lab.example", True),
        ("https://wandb.lab.example", "api.wandb.ai", False),
        ("https://Tracking.Lab.example", "tracking.lab.EXAMPLE", True),
        # wandb itself looks for the port too.
        ("http://tracking.lab.example:8080", "tracking.lab.example:8080", True),
        ("http://tracking.lab.example:8080", "tracking.lab.example", True),
        ("http://tracking.lab.example:8080", "tracking.lab.example:9090", False),
        ("http://user@10.0.0.7:8080", "10.0.0.7:8080", True),
        # Of another trade, though its name has wandb in it.
        (None, "wandb-mirror.example", False),
    ],
)
def test_the_entry_of_the_server_that_is_used(
    home: Path, monkeypatch: pytest.MonkeyPatch, base_url: str | None, host: str, there: bool
) -> None:
    if base_url is not None:
        monkeypatch.setenv("WANDB_BASE_URL", base_url)
    write(home / ".netrc", host)
    assert (wandb_login.key(), wandb_login.known()) == ((KEY, True) if there else (None, False))


def test_the_file_that_the_environment_names_and_the_one_without_a_dot(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home / "_netrc", "api.wandb.ai")
    assert wandb_login.known()
    monkeypatch.setenv("NETRC", "~/elsewhere")
    assert not wandb_login.known()
    write(home / "elsewhere", "api.wandb.ai")
    assert wandb_login.known()


def test_the_server_that_wandb_login_stored(home: Path) -> None:
    write(home / ".config" / "wandb" / "settings", "")
    (home / ".config" / "wandb" / "settings").write_text("[default]\nbase_url = https://wandb.lab.example\n")
    write(home / ".netrc", "wandb.lab.example")
    assert wandb_login.key() == KEY


@pytest.mark.parametrize(
    "content", [b"machine\n", b"machine api.wandb.ai login \xff\xfe", b"default login a password b"]
)
def test_a_file_that_cannot_be_read_or_is_for_other_servers_is_no_login(home: Path, content: bytes) -> None:
    (home / ".netrc").write_bytes(content)
    assert not wandb_login.known()


def test_what_the_environment_names_stands_before_a_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home / ".netrc", "api.wandb.ai")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    assert wandb_login.key() is None and wandb_login.known()
