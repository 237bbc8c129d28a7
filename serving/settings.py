"""The settings of the service: one frozen object, read once at the start.

A value comes from the environment (`GPT_OSS_ENGINE`, and `GPT_OSS_LIMITS__BODY_BYTES` for a
nested one), else from the file (`config/service.yaml`, or the one that GPT_OSS_CONFIG names), else
from the defaults here. An unknown key is an error that names the file and the key.
"""

from __future__ import annotations

import datetime
import difflib
import os
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

ENVIRONMENT_PREFIX = "GPT_OSS_"
CONFIG_VARIABLE = "GPT_OSS_CONFIG"
DEFAULT_PATH = Path(__file__).parent.parent / "config" / "service.yaml"

Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]

Origin = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#]+$")]
HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]


def _place(path: str) -> str:
    """Returns an absolute path. Two processes in two directories read the same settings."""
    placed = os.path.expanduser(path)
    if not os.path.isabs(placed):
        raise ValueError("a path begins with / or ~/")
    return placed


PlacedPath = Annotated[str, Field(min_length=1), AfterValidator(_place)]


class SettingsError(Exception):
    """Settings that cannot be used. The message names the file and the key."""


class Section(BaseModel):
    """A part of the settings: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Limits(Section):
    """What one request may hold. Whatever is larger is refused before it costs anything."""

    body_bytes: Count = 4 * 1024 * 1024
    header_bytes: Count = 32 * 1024
    header_fields: Count = 100
    json_depth: Count = 64
    messages: Count = 2048
    choices: Count = 4
    prompts: Count = 64
    stop_strings: Count = 4
    stop_characters: Count = 64
    embedding_inputs: Count = 2048
    tools: Count = 128
    tool_schema_bytes: Count = 64 * 1024
    schema_bytes: Count = 512 * 1024
    schema_depth: Count = 32
    logit_bias_entries: Count = 300
    top_logprobs: Annotated[int, Field(ge=0, le=20)] = 20
    label_bytes: Count = 512
    thread_body_bytes: Count = 64 * 1024
    sockets: Count = 256
    socket_requests: Count = 16


class Deadlines(Section):
    """The longest that each phase of a request may take."""

    body_seconds: Seconds = 30.0
    queue_seconds: Seconds = 30.0
    first_token_seconds: Seconds = 120.0
    stall_seconds: Seconds = 30.0
    total_seconds: Seconds = 1800.0
    slow_client_seconds: Seconds = 30.0
    schema_seconds: Seconds = 2.0
    socket_seconds: Seconds = 3600.0


class Http(Section):
    """Where the API is served, whom it believes, how connections are kept and how many."""

    keep_alive_seconds: Count = 75
    head_seconds: Seconds = 20.0
    connections: Count | None = None
    unix_socket: PlacedPath | None = None
    unix_socket_mode: Annotated[str, Field(pattern="^0?[0-7]{3}$")] = "600"
    tls_certificate: PlacedPath | None = None
    tls_key: PlacedPath | None = None
    root_path: Annotated[str, Field(pattern="^(/[A-Za-z0-9._~-]+)*$", max_length=256)] = ""
    trusted_proxies: tuple[Literal["unix"] | IPvAnyNetwork, ...] = ()
    allowed_origins: tuple[Origin, ...] = ()
    allowed_hosts: tuple[HostName, ...] = ()

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.tls_certificate is None:
            if self.tls_key is not None:
                raise ValueError("tls_key is given without tls_certificate")
            return self
        try:  # with an empty passphrase, where the key has one: OpenSSL would ask the terminal
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.tls_certificate, self.tls_key, password="")
        except OSError as error:
            raise ValueError(f"tls_certificate and tls_key cannot be used: {error}") from None
        return self


class Draining(Section):
    """How the service takes leave when it is told to end."""

    notice_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5.0
    running_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 300.0


class Admission(Section):
    """How many requests run and wait."""

    max_running: Count | None = None
    max_waiting: Annotated[int, Field(ge=0)] = 256
    max_waiting_schemas: Annotated[int, Field(ge=0)] = 32


class Supervision(Section):
    """When an engine process is given up, and how often another is started."""

    load_seconds: Seconds = 1800.0
    stall_seconds: Seconds = 30.0
    progress_seconds: Seconds = 120.0
    max_failures: Count = 5
    backoff_most_seconds: Seconds = 60.0
    exit_when_failed: bool = False


class Store(Section):
    """What is kept of responses and conversations, for how long, and where."""

    enabled: bool = True
    path: str | None = None
    max_responses: Count = 10_000
    max_conversations: Count = 10_000
    max_bytes: Count = 1024 * 1024 * 1024
    keep_seconds: Seconds = 30 * 24 * 3600.0
    wait_seconds: Seconds = 1.0
    bypass_seconds: Seconds = 10.0


class Embeddings(Section):
    """The sentence encoder of `/v1/embeddings`, and how much it takes at a time."""

    encoder: str | None = None
    served_model_names: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "sentence-transformers/all-MiniLM-L6-v2",
    )
    shorter_dimensions: tuple[Count, ...] = ()
    threads: Count | None = None
    batch_tokens: Count = 2048
    request_tokens: Count = 300_000
    max_waiting: Count = 64


class ToolServer(Section):
    """Where one built-in tool is run: an MCP server that speaks streamable HTTP."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s/@]+(/\S*)?$", max_length=2048)]
    token: SecretStr | None = None
    description: Annotated[str, Field(min_length=1, max_length=8192)] | None = None

    @field_validator("token")
    @classmethod
    def _sendable(cls, token: SecretStr | None) -> SecretStr | None:
        text = "x" if token is None else token.get_secret_value()
        if not (text and text.isascii() and text.isprintable()):
            raise ValueError("a token is printable ASCII, and not empty")
        return token


class Tools(Section):
    """Which built-in tools the model may use, where they are run, and how long and how often."""

    python: ToolServer | None = None
    browser: ToolServer | None = None
    connect_seconds: Seconds = 5.0
    call_seconds: Seconds = 120.0
    output_bytes: Count = 32 * 1024
    max_calls: Count = 64
    max_responses: Count = 256


class Settings(BaseSettings):
    """Everything that can be set. `config/service.yaml` says what each key means."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENVIRONMENT_PREFIX,
        env_nested_delimiter="__",
    )

    engine: str | None = None
    served_model_names: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    model_identity: str = "You are ChatGPT, a large language model trained by OpenAI."
    knowledge_cutoff: str | None = "2024-06"
    current_date: Literal["start", "none"] | datetime.date = "start"
    reasoning_effort: Literal["low", "medium", "high"] = "medium"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    limits: Limits = Limits()
    deadlines: Deadlines = Deadlines()
    http: Http = Http()
    drain: Draining = Draining()
    admission: Admission = Admission()
    supervision: Supervision = Supervision()
    store: Store = Store()
    embeddings: Embeddings = Embeddings()
    tools: Tools = Tools()

    @field_validator("served_model_names")
    @classmethod
    def _plain_names(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if names is not None and not _are_names(names):
            raise ValueError("model names must be printable, not empty, and different")
        return names

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment stands above the file, whose values are the arguments."""
        return env_settings, init_settings

    def date_at(self, started: datetime.date) -> str | None:
        """Returns the date of the system message for a process that began on `started`.

        It never changes while the process lives: a new date would empty the prefix cache.
        """
        if self.current_date == "none":
            return None
        date = started if self.current_date == "start" else self.current_date
        return date.isoformat() if isinstance(date, datetime.date) else date


def _are_names(names: tuple[str, ...]) -> bool:
    return len(set(names)) == len(names) and all(name.isprintable() and name for name in names)


def load_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Returns the settings of this process. Raises SettingsError for what cannot be used."""
    environment = os.environ if environment is None else environment
    named = environment.get(CONFIG_VARIABLE)
    path = Path(named) if named else DEFAULT_PATH
    try:
        values = _read(path)
    except FileNotFoundError:
        if named:
            message = f"{path}: the file that {CONFIG_VARIABLE} names does not exist"
            raise SettingsError(message) from None
        values = {}
    try:
        return Settings(**values)
    except ValidationError as error:
        raise SettingsError("; ".join(_describe(path, values, error))) from None


def _read(path: Path) -> dict[str, Any]:
    """Returns the mapping that a YAML file holds. Raises FileNotFoundError and SettingsError."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise SettingsError(f"{path}: must be a mapping of settings")
    return values


def _describe(path: Path, values: dict[str, object], error: ValidationError) -> Iterable[str]:
    """Yields one line for each wrong value, with the file or variable that holds it."""
    for detail in error.errors():
        keys = [str(key) for key in detail["loc"]]
        dotted = ".".join(keys)
        variable = ENVIRONMENT_PREFIX + "__".join(keys[:2]).upper()
        source = str(path) if _holds(values, keys) else variable
        if detail["type"] == "extra_forbidden":
            yield f"{source}: unknown key {dotted!r}{_nearest(keys)}"
        else:
            yield f"{source}: {dotted}: {detail['msg']}"


def _holds(values: object, keys: list[str]) -> bool:
    """Returns whether the file has the first key that the error names, and the second in it."""
    for key in keys[:2]:
        if not isinstance(values, dict) or key not in values:
            return not isinstance(values, dict)
        values = values[key]
    return True


def _nearest(keys: list[str]) -> str:
    """Returns a hint with the known key that is most like the last of `keys`."""
    section: type[BaseModel] = Settings
    for key in keys[:-1]:
        found = section.model_fields.get(key)
        if found is None or not isinstance(found.default, BaseModel):
            return ""
        section = type(found.default)
    near = difflib.get_close_matches(keys[-1], section.model_fields, n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
