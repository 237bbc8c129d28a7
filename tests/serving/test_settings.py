"""Settings: file, environment, and errors that name both."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from serving.settings import DEFAULT_PATH, Settings, SettingsError, load_settings


def write(tmp_path: Path, text: str) -> dict[str, str]:
    path = tmp_path / "service.yaml"
    path.write_text(text)
    return {"GPT_OSS_CONFIG": str(path)}


def test_the_file_of_the_product_holds_every_setting_with_its_default() -> None:
    values = yaml.safe_load(DEFAULT_PATH.read_text())
    assert set(values) == set(Settings.model_fields)
    for section in (
        "limits",
        "deadlines",
        "http",
        "drain",
        "admission",
        "supervision",
        "embeddings",
    ):
        default = Settings.model_fields[section].default
        assert isinstance(default, BaseModel)
        assert set(values[section]) == set(type(default).model_fields)
    assert Settings(**values) == Settings()


def test_a_file_overrides_defaults(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, "limits: {choices: 2}\nreasoning_effort: low\n"))
    assert settings.limits.choices == 2
    assert settings.limits.messages == 2048
    assert settings.reasoning_effort == "low"


def test_the_environment_stands_above_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = write(tmp_path, "engine: a\nlimits: {choices: 2, tools: 5}\n")
    monkeypatch.setenv("GPT_OSS_ENGINE", "b")
    monkeypatch.setenv("GPT_OSS_LIMITS__CHOICES", "3")
    settings = load_settings(environment)
    assert settings.engine == "b"
    assert (settings.limits.choices, settings.limits.tools) == (3, 5)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("engin: x\n", ("unknown key 'engin'", "'engine'")),
        ("limits: {body_byte: 1}\n", ("unknown key 'limits.body_byte'", "'body_bytes'")),
        ("limits: {choices: 0}\n", ("limits.choices",)),
        ("deadlines: {queue_seconds: .inf}\n", ("deadlines.queue_seconds",)),
        ("reasoning_effort: huge\n", ("reasoning_effort",)),
        ("served_model_names: []\n", ("served_model_names",)),
        ("served_model_names: [a, a]\n", ("served_model_names", "different")),
        ("- a list\n", ("must be a mapping",)),
        ("a: [\n", ("not YAML",)),
    ],
)
def test_what_is_wrong_is_named_with_its_file(
    tmp_path: Path, text: str, named: tuple[str, ...]
) -> None:
    environment = write(tmp_path, text)
    with pytest.raises(SettingsError) as wrong:
        load_settings(environment)
    for word in (environment["GPT_OSS_CONFIG"], *named):
        assert word in str(wrong.value)


def test_what_is_wrong_in_the_environment_is_named_by_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT_OSS_LIMITS__CHOICES", "many")
    with pytest.raises(SettingsError, match="GPT_OSS_LIMITS__CHOICES"):
        load_settings(write(tmp_path, "engine: x\n"))


def test_a_file_that_is_named_and_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        load_settings({"GPT_OSS_CONFIG": str(tmp_path / "no.yaml")})


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().engine = "other"


@pytest.mark.parametrize(
    ("setting", "date"),
    [("start", "2026-03-04"), ("none", None), (datetime.date(2025, 1, 2), "2025-01-02")],
)
def test_the_date_is_fixed_for_the_life_of_the_process(
    setting: str | datetime.date, date: str | None
) -> None:
    settings = Settings.model_validate({"current_date": setting})
    assert settings.date_at(datetime.date(2026, 3, 4)) == date


def test_an_executor_can_be_named_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPT_OSS_TOOLS__PYTHON__URL", "http://127.0.0.1:8101/mcp")
    monkeypatch.setenv("GPT_OSS_TOOLS__PYTHON__TOKEN", "secret")
    tools = load_settings().tools
    assert tools.python is not None
    assert tools.python.url == "http://127.0.0.1:8101/mcp"
    assert tools.python.token is not None
    assert "secret" not in repr(tools)
    assert tools.browser is None


@pytest.mark.parametrize("url", ["127.0.0.1:8101", "file:///etc", "http://a:b@host/", "http:// x"])
def test_an_executor_that_is_no_plain_address_is_refused(tmp_path: Path, url: str) -> None:
    text = f"tools: {{python: {{url: '{url}'}}}}\n"
    with pytest.raises(SettingsError, match=r"tools\.python\.url"):
        load_settings(write(tmp_path, text))


@pytest.mark.parametrize("token", ["", "a\\nb", "é"])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(tmp_path: Path, token: str) -> None:
    text = f'tools: {{python: {{url: "http://a/", token: "{token}"}}}}\n'
    with pytest.raises(SettingsError, match=r"tools\.python\.token") as refused:
        load_settings(write(tmp_path, text))
    assert not token or token not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{unix_socket: api.sock}", "begins with /"),
        ("{unix_socket_mode: '999'}", "unix_socket_mode"),
        ("{root_path: llm}", "root_path"),
        ("{root_path: /llm/}", "root_path"),
        ("{tls_key: /key.pem}", "without tls_certificate"),
        ("{tls_certificate: /nowhere.pem}", "cannot be used"),
        ("{trusted_proxies: ['*']}", "trusted_proxies"),
        ("{trusted_proxies: [proxy.example]}", "trusted_proxies"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load_settings(write(tmp_path, f"http: {text}\n"))


def test_a_file_of_no_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("nothing")
    with pytest.raises(SettingsError, match="cannot be used"):
        load_settings(write(tmp_path, f"http: {{tls_certificate: {tmp_path}/no.pem}}\n"))


def test_proxies_are_addresses_and_networks(tmp_path: Path) -> None:
    text = "http: {trusted_proxies: [unix, 10.0.0.1, 'fd00::/8'], unix_socket: ~/api.sock}\n"
    http = load_settings(write(tmp_path, text)).http
    assert [str(proxy) for proxy in http.trusted_proxies] == ["unix", "10.0.0.1/32", "fd00::/8"]
    assert http.unix_socket == str(Path.home() / "api.sock")


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"^{tmp_path}: cannot be read: Is a directory$"):
        load_settings({"GPT_OSS_CONFIG": str(tmp_path)})
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SettingsError, match=r"bytes\.yaml: not YAML"):
        load_settings({"GPT_OSS_CONFIG": str(tmp_path / "bytes.yaml")})
