"""The configuration: who wins, what is refused with which words, and what is never shown."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from fastgw.config import Config, ConfigError, Loaded, NatsConfig, load, mask, mask_urls
from fastgw.config import parse_address as split_address
from fastgw.config_types import SECRETS, AuthConfig, parse_nats_url

SECRET = "s3cr3t-s3cr3t-s3cr3t-s3cr3t-s3cr3t"


def write(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "gateway.toml"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def load_env(**env: str) -> Loaded:
    return load(None, env, {})


def refusal(
    toml_path: str | None = None,
    env: dict[str, str] | None = None,
    flags: dict[str, object] | None = None,
) -> str:
    with pytest.raises(ConfigError) as caught:
        load(toml_path, env or {}, flags or {})
    assert "\n" not in caught.value.text
    return caught.value.text


# --- what counts --------------------------------------------------------------------------------


def test_load_nothing_given_is_all_default() -> None:
    loaded = load(None, {}, {})
    assert loaded.config == Config()
    assert set(loaded.origins.values()) == {"default"}
    assert loaded.warnings == []


def test_load_each_source_overrules_the_weaker(tmp_path: Path) -> None:
    path = write(tmp_path, "[limits]\nack_timeout_ms = 100\nidle_timeout_ms = 200\npipelined_max=3")
    env = {"FASTGW_LIMITS_IDLE_TIMEOUT_MS": "300", "FASTGW_LIMITS_PIPELINED_MAX": "4"}
    loaded = load(path, env, {"limits.pipelined_max": 5, "workers": None})
    limits = loaded.config.limits
    assert (limits.ack_timeout_ms, limits.idle_timeout_ms, limits.pipelined_max) == (100, 300, 5)
    assert loaded.origins["limits.ack_timeout_ms"] == f"file {path}"
    assert loaded.origins["limits.idle_timeout_ms"] == "env FASTGW_LIMITS_IDLE_TIMEOUT_MS"
    assert loaded.origins["limits.pipelined_max"] == "flag --limits-pipelined-max"
    assert loaded.origins["workers"] == "default"


def test_load_flag_origins_are_the_names_of_the_command_line() -> None:
    flags = {"listen": "[::1]:0", "nats.url": "h", "log.level": "debug", "workers": "auto"}
    origins = load(None, {}, flags).origins
    given = {key: origins[key] for key in flags}
    assert given == {
        "listen": "flag --listen",
        "nats.url": "flag --nats",
        "log.level": "flag --log-level",
        "workers": "flag --workers",
    }


def test_load_file_named_by_environment_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, "workers = 3")
    assert load_env(FASTGW_CONFIG=path).config.workers == 3
    other = tmp_path / "other.toml"
    other.write_text("workers = 4")
    assert load(str(other), {"FASTGW_CONFIG": path}, {}).config.workers == 4


def test_load_environment_text_becomes_the_type_of_the_key() -> None:
    config = load_env(
        FASTGW_WORKERS="2",
        FASTGW_CORS_ENABLED="false",
        FASTGW_CORS_ORIGINS="https://a.example, https://b.example",
        FASTGW_STATIONS_AUTO_CREATE="true",
        FASTGW_NATS_URL="nats://a:1,b",
        FASTGW_NATS_PASSWORD="null",
        FASTGW_NATS_USER="12",
    ).config
    assert config.workers == 2
    assert config.cors.enabled is False
    assert config.cors.origins == ["https://a.example", "https://b.example"]
    assert config.stations.auto_create is True
    assert config.nats.url == ["nats://a:1", "nats://b:4222"]
    assert (config.nats.user, config.nats.password) == ("12", "null")


def test_load_empty_variable_counts_as_not_set() -> None:
    loaded = load_env(FASTGW_LISTEN="", JWT_SECRET="", FASTGW_ADMIN_USER="")
    assert loaded.config == Config()


def test_load_every_key_has_a_variable() -> None:
    loaded = load(None, {}, {})
    for key, value, _ in loaded.rows():
        if isinstance(value, bool | int) or key == "log.level":
            name = "FASTGW_" + key.upper().replace(".", "_")
            again = load_env(**{name: str(value)})
            assert again.config == loaded.config
            assert again.origins[key] == f"env {name}"


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("JWT_SECRET", SECRET, "auth.jwt_secret", SECRET),
        ("REFRESH_JWT_SECRET", SECRET, "auth.refresh_jwt_secret", SECRET),
        ("JWT_EXPIRES_IN_MINUTES", "525600000", "auth.token_expiry_minutes", 525_600_000),
        ("REFRESH_JWT_EXPIRES_IN_MINUTES", "9", "auth.refresh_token_expiry_minutes", 9),
        ("MEMPHIS_HOST", "memphis", "nats.url", ["nats://memphis:4222"]),
        ("MEMPHIS_HOST", "memphis:6666", "nats.url", ["nats://memphis:6666"]),
        ("HTTP_PORT", "8080", "listen", "127.0.0.1:8080"),
    ],
)
def test_load_memphis_name_is_weaker_than_ours(
    name: str, text: str, key: str, value: object
) -> None:
    def get(loaded: Loaded) -> object:
        table, _, leaf = key.rpartition(".")
        return getattr(getattr(loaded.config, table) if table else loaded.config, leaf)

    alone = load_env(**{name: text})
    assert get(alone) == value
    assert alone.origins[key] == f"env {name}"
    ours = "FASTGW_" + key.upper().replace(".", "_")
    plain = {"listen": "0.0.0.0:1", "nats.url": "nats://other:1"}.get(key, "77777777" + SECRET[8:])
    plain = "77" if key.endswith("minutes") else plain
    both = load_env(**{name: text, ours: plain})
    assert both.origins[key] == f"env {ours}"
    assert get(both) != value


def test_load_admin_has_three_names_of_growing_strength() -> None:
    env = {"ROOT_USER": "root", "ROOT_PASSWORD": "memphis"}
    assert load(None, env, {}).config.auth.admin_user == "root"
    env |= {"FASTGW_ADMIN_USER": "boss", "FASTGW_ADMIN_PASSWORD": "short name"}
    loaded = load(None, env, {})
    assert loaded.config.auth.admin_user == "boss"
    assert loaded.origins["auth.admin_password"] == "env FASTGW_ADMIN_PASSWORD"
    env |= {"FASTGW_AUTH_ADMIN_USER": "chief"}
    assert load(None, env, {}).config.auth.admin_user == "chief"


def test_load_http_port_with_a_broker_elsewhere_listens_on_all() -> None:
    loaded = load_env(HTTP_PORT="8080", MEMPHIS_HOST="memphis")
    assert loaded.config.listen_address() == ("0.0.0.0", 8080)


@pytest.mark.parametrize(
    ("config", "address"),
    [
        (Config(), ("127.0.0.1", 4444)),
        (Config(nats=NatsConfig(url=["nats://h:4222"])), ("0.0.0.0", 4444)),
        (Config(listen="[::1]:4444"), ("::1", 4444)),
        (Config(listen="gateway.example:0"), ("gateway.example", 0)),
    ],
)
def test_listen_address_depends_on_the_broker(config: Config, address: tuple[str, int]) -> None:
    assert config.listen_address() == address


def test_auto_create_unset_follows_the_broker() -> None:
    elsewhere = {"FASTGW_NATS_URL": "h"}
    assert load(None, {}, {}).config.auto_create is True
    assert load(None, elsewhere, {}).config.auto_create is False
    forced = elsewhere | {"FASTGW_STATIONS_AUTO_CREATE": "1"}
    assert load(None, forced, {}).config.auto_create is True


def test_workers_auto_is_one_for_each_usable_core() -> None:
    assert Config(workers=3).workers_count == 3
    assert 1 <= Config(workers="auto").workers_count <= (os.cpu_count() or 1)


# --- what is refused, and in which words --------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "text"),
    [
        ("workers = 0", 'workers = 0: must be a whole number from 1 to 256, or "auto"'),
        ("workers = true", 'workers = true: must be a whole number from 1 to 256, or "auto"'),
        ('workers = "many"', 'workers = "many": must be a whole number from 1 to 256, or "auto"'),
        ("listen = 4444", "listen = 4444: must be a string"),
        ('listen = "4444"', 'listen = "4444": it must be HOST:PORT, as in 127.0.0.1:4444'),
        ('listen = ":4444"', 'listen = ":4444": it must be HOST:PORT, as in 127.0.0.1:4444'),
        ('listen = "h:65536"', 'listen = "h:65536": the port must be 0 to 65535'),
        ('listen = "h:-1"', 'listen = "h:-1": the port must be 0 to 65535'),
        (
            'listen = "::1:80"',
            'listen = "::1:80": an IPv6 address stands in brackets, as in [::1]:4444',
        ),
        ('data = ""', 'data = "": must be a string of 1 to 4096 characters'),
        ("[cors]\nenabled = 1", "cors.enabled = 1: must be true or false"),
        ('[cors]\norigins = ["a", 1]', 'cors.origins = ["a", 1]: must be a list of strings'),
        (
            '[log]\nlevel = "loud"',
            'log.level = "loud": must be "debug" or "error" or "info" or "warning"',
        ),
        (
            "[limits]\nack_timeout_ms = 9",
            "limits.ack_timeout_ms = 9: must be a whole number from 10 to 600000",
        ),
        (
            "[limits]\nack_timeout_ms = 1e3",
            "limits.ack_timeout_ms = 1000.0: must be a whole number from 10 to 600000",
        ),
        (
            '[nats]\nsync_interval = "1 day"',
            'nats.sync_interval = "1 day": must be "always", or a number with its unit'
            ' as in "100ms", "2s" or "1m"',
        ),
        (
            '[nats]\nurl = "http://h"',
            'nats.url = ["http://h"]: the scheme must be nats:// or tls://',
        ),
        (
            '[nats]\nurl = ["nats://h:0"]',
            'nats.url = ["nats://h:0"]: the port must be 1 to 65535',
        ),
        (
            '[nats]\nurl = "nats://h/x"',
            'nats.url = ["nats://h/x"]: it must be nats://HOST:PORT or tls://HOST:PORT',
        ),
        ("nats = 3", "nats must be a table, as in [nats]"),
        ("limits.body_byte_max = 3", "unknown key limits.body_byte_max; did you mean"),
        ("body_bytes_max = 3", "unknown key body_bytes_max; did you mean limits.body_bytes_max?"),
        ("[limit]\nx = 3", "unknown table limit; did you mean limits?"),
        ("[nats.tls]\nca = 3", "unknown key nats.tls"),
        ("=", "is not TOML: "),
        ('[nats]\nuser = "u"', "nats.user is set without nats.password"),
        ('[nats]\ntls_key_file = "f"', "nats.tls_key_file is set without nats.tls_cert_file"),
        (
            '[nats]\ntoken = "t"\nuser = "u"\npassword = "p"',
            "nats.token and nats.user (file PATH) are two ways to log in; set one",
        ),
        ('[nats]\ncreds_file = "/no/such"', 'nats.creds_file = "/no/such": no such file'),
        (
            '[nats]\ntoken = "t"',
            "nats.token is set without nats.url; the embedded broker has users of its own",
        ),
        (
            "[nats]\nreplicas = 3",
            "nats.replicas = 3: must be 1 with the embedded broker, which is one server;"
            " set nats.url for a cluster",
        ),
        (
            "[nats]\nreconnect_wait_ms_min = 6000",
            "nats.reconnect_wait_ms_max = 5000: must be at least nats.reconnect_wait_ms_min (6000)",
        ),
        (
            'listen = "10.0.0.1:80"\n[auth]\nmode = "none"',
            'auth.mode = "none": anyone could produce and consume on 10.0.0.1;'
            " listen on 127.0.0.1, or set auth.insecure = true",
        ),
    ],
)
def test_load_bad_file_is_refused_with_key_value_and_range(
    tmp_path: Path, toml: str, text: str
) -> None:
    path = write(tmp_path, toml)
    message = refusal(path)
    assert message.startswith(f"file {path}: ")
    assert text.replace("PATH", path) in message


def test_load_bad_variable_and_flag_are_refused_by_name() -> None:
    wrong = {"FASTGW_LIMITS_HEADERS_COUNT_MAX": "many"}
    allowed = "must be a whole number from 1 to 1000"
    assert refusal(env=wrong) == (
        f'env FASTGW_LIMITS_HEADERS_COUNT_MAX: limits.headers_count_max = "many": {allowed}'
    )
    assert refusal(flags={"workers": "0"}).startswith('flag --workers: workers = "0": must be')
    assert refusal(flags={"worker": "1"}) == (
        "flag --worker: unknown key worker; did you mean workers?"
    )
    assert refusal(env={"HTTP_PORT": "tcp://10.0.0.1:80"}) == (
        'env HTTP_PORT: listen = "tcp://10.0.0.1:80": must be a port from 0 to 65535'
    )


def test_load_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.toml")
    assert refusal(missing) == f"file {missing}: cannot be read: No such file or directory"
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'data = "\xe9"')
    assert refusal(str(latin)) == f"file {latin}: is not UTF-8 at byte 8"


def test_load_long_value_is_clipped() -> None:
    message = refusal(env={"FASTGW_WORKERS": "9" * 5000})
    assert len(message) < 150
    assert "…" in message


def test_load_unknown_variable_warns_with_the_nearest_name() -> None:
    ignored = {"FASTGW_BUILD": "trace", "FASTGW_PORT_4444_TCP": "x", "FASTGW_SERVICE_HOST": "x"}
    loaded = load(None, ignored | {"FASTGW_LIMITS_PIPELINED": "4"}, {})
    assert loaded.warnings == [
        "env FASTGW_LIMITS_PIPELINED: no key has this name, it is ignored;"
        " did you mean FASTGW_LIMITS_PIPELINED_MAX?"
    ]


def test_load_auth_none_on_loopback_or_forced_is_taken() -> None:
    assert load_env(FASTGW_AUTH_MODE="none").warnings == []
    for listen in ("localhost:1", "[::1]:1", "127.9.9.9:1"):
        assert load_env(FASTGW_AUTH_MODE="none", FASTGW_LISTEN=listen).warnings == []
    forced = load_env(
        FASTGW_AUTH_MODE="none", FASTGW_AUTH_INSECURE="true", FASTGW_LISTEN="0.0.0.0:1"
    )
    assert forced.warnings == ["auth.mode is none on 0.0.0.0: anyone who reaches it is let in"]


# --- what is never shown ------------------------------------------------------------------------


@pytest.mark.parametrize("key", sorted(SECRETS))
def test_secret_of_wrong_type_is_refused_masked(tmp_path: Path, key: str) -> None:
    table, _, leaf = key.partition(".")
    path = write(tmp_path, f'[{table}]\n{leaf} = [["{SECRET}"]]')
    message = refusal(path)
    wanted = "a list of strings" if leaf.endswith("_old") else "a string"
    assert f"{key} = ********: must be {wanted}" in message
    assert SECRET not in message


@pytest.mark.parametrize(
    "url",
    [
        f"http://u:{SECRET}@h",
        f"nats://u:{SECRET}@h:99999",
        f"nats://u:{SECRET},x@h",
        f"u:{SECRET}/@h:0",
        f"nats://ok,{SECRET}@h:x",
    ],
)
def test_url_with_a_password_is_refused_masked(url: str) -> None:
    message = refusal(env={"FASTGW_NATS_URL": url})
    assert message.startswith("env FASTGW_NATS_URL: nats.url = ********: ")
    assert SECRET[:8] not in message


def test_rows_and_repr_mask_every_secret() -> None:
    env = {
        "JWT_SECRET": SECRET,
        "REFRESH_JWT_SECRET": SECRET,
        "FASTGW_ADMIN_USER": "boss",
        "FASTGW_ADMIN_PASSWORD": SECRET,
        "FASTGW_NATS_URL": f"nats://u:{SECRET}@h:1,nats://plain:2",
        "FASTGW_NATS_USER": "u",
        "FASTGW_NATS_PASSWORD": SECRET,
        "FASTGW_NATS_DATA_USER": "d",
        "FASTGW_NATS_DATA_PASSWORD": SECRET,
    }
    loaded = load(None, env, {})
    rows = {key: value for key, value, _ in loaded.rows()}
    assert rows["auth.jwt_secret"] == rows["nats.data_password"] == "********"
    assert rows["nats.url"] == ["nats://********@h:1", "nats://plain:2"]
    assert rows["auth.admin_user"] == "boss"
    assert rows["nats.token"] is None
    for text in (repr(loaded), repr(loaded.config), str(rows), str(loaded.config.__rich_repr__())):
        assert SECRET not in text


def test_empty_list_of_secrets_is_shown_as_empty() -> None:
    assert mask("auth.jwt_secrets_old", []) == []
    assert "old" not in str(mask("auth.jwt_secrets_old", ["old"]))


def test_repr_masks_inside_a_rich_table() -> None:
    assert SECRET not in str(AuthConfig(jwt_secret=SECRET).__rich_repr__())
    assert "mode='users'" in repr(AuthConfig())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nats://u:p@h:1", "nats://********@h:1"),
        ("nats://token@h", "nats://********@h"),
        ("u:p@h", "********@h"),
        ("nats://u:p@ss@h", "nats://********@h"),
        ("nats://h:1", "nats://h:1"),
    ],
)
def test_mask_urls_hides_user_and_password(text: str, shown: str) -> None:
    assert mask_urls(text) == shown
    assert mask("nats.url", text) == shown


def test_secrets_in_a_file_that_others_read_warn(tmp_path: Path) -> None:
    path = write(tmp_path, f'[auth]\njwt_secret = "{SECRET}"\n', mode=0o644)
    (warning,) = load(path, {}, {}).warnings
    assert warning == (
        f"file {path} holds auth.jwt_secret and every user of this machine can read it;"
        f" chmod 600 {path}"
    )
    Path(path).chmod(0o640)
    assert load(path, {}, {}).warnings == []
    Path(path).write_text('[nats]\nurl = "nats://u:p@h"')
    Path(path).chmod(0o604)
    assert len(load(path, {}, {}).warnings) == 1
    Path(path).write_text('[nats]\nurl = "nats://h"')
    assert load(path, {}, {}).warnings == []


def test_short_signing_secret_warns_and_a_guessable_one_is_refused() -> None:
    (warning,) = load_env(JWT_SECRET="x" * 31).warnings
    assert warning.startswith("env JWT_SECRET: auth.jwt_secret has 31 bytes; at least 32 ")
    assert "must be a string of 8 to 4096 characters" in refusal(env={"JWT_SECRET": "x" * 7})


# --- the structs --------------------------------------------------------------------------------


def test_config_is_frozen_and_closed() -> None:
    with pytest.raises(AttributeError):
        Config().workers = 2  # type: ignore[misc]
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"nats": {"urls": []}}, Config)


def test_config_survives_the_way_to_a_worker() -> None:
    config = load_env(FASTGW_NATS_URL="nats://h:1", FASTGW_WORKERS="auto").config
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=Config) == config


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("h", "nats://h:4222"),
        ("tls://h", "tls://h:4222"),
        ("nats://[::1]:5", "nats://[::1]:5"),
        ("nats://u:p%40@h:5/", "nats://u:p%40@h:5"),
    ],
)
def test_parse_nats_url_fills_in_the_defaults(text: str, url: str) -> None:
    assert parse_nats_url(text) == url


@pytest.mark.parametrize("text", ["", "h", ":1", "h:", "h:x", "a b:1", "u@h:1", "[::g]:1", "h/:1"])
def test_parse_address_refuses_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        split_address(text)


# --- doors ----------------------------------------------------------------------------------------

ISSUER = """
[[issuers]]
name = "okta"
issuer = "https://id.example"
audience = ["fastgw"]
jwks_url = "https://id.example/keys"
permissions = { "events:write" = ["produce"] }
"""


def test_listeners_and_issuers_are_arrays_of_tables(tmp_path: Path) -> None:
    path = write(tmp_path, '[[listeners]]\nlisten = "unix:/run/f"\nserves = "data"\n' + ISSUER)
    config = load(path, {}, {}).config
    assert [one.listen for one in config.all_listeners()] == ["unix:/run/f"]
    assert config.all_listeners()[0].address() == "/run/f"
    assert config.issuers[0].permissions == {"events:write": ["produce"]}
    config = load(path, {}, {"listen": "127.0.0.1:1"}).config
    assert [one.listen for one in config.all_listeners()] == ["127.0.0.1:1", "unix:/run/f"]


def test_listeners_stand_in_a_variable_as_json() -> None:
    env = {"FASTGW_LISTENERS": '[{"listen": "127.0.0.1:99", "serves": "admin"}]'}
    assert load(None, env, {}).config.all_listeners()[0].serves == "admin"
    assert "is not a JSON array" in refusal(env={"FASTGW_LISTENERS": "127.0.0.1:99"})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[[listeners]]\nlisten = "unix:"', "a socket's path has 1 to 103 bytes"),
        (f'[[listeners]]\nlisten = "unix:/{"x" * 103}"', "a socket's path has 1 to 103 bytes"),
        ('[[listeners]]\nlisten = "h:1"\nserves = "all of it"', "serves of number 1: Invalid"),
        ('[[listeners]]\nlisten = "h:1"\nport = 2', "number 1: unknown key `port`"),
        ('[[listeners]]\nlisten = "h:1"\n[[listeners]]\nlisten = "h:1"', "h:1 is there twice"),
        ('[[listeners]]\nlisten = "h:1"\ntls.cert_file = "/x"', "tls.cert_file and tls.key_file"),
        ('[tls]\ncert_file = "/x"', "tls.cert_file is set without tls.key_file"),
        ('[tls]\nclient_cert = "required"', "clients' certificates need tls.cert_file"),
        ('[tls]\ncert_file = "/none"\nkey_file = "/none"', '"/none": no such file'),
        ('[[listeners]]\nlisten = "h:1"\nproxy_from = ["10.0.0.0/99"]', "no address or network"),
        ('[[listeners]]\nlisten = "unix:/x"\nproxy_from = ["::1"]', "takes no PROXY header"),
        ('[[listeners]]\nlisten = "h:1"\nsocket_mode = "0999"', "socket_mode of number 1"),
        (ISSUER + ISSUER, "okta is there twice"),
        (ISSUER.replace("okta", "key"), "the name key is taken"),
        (ISSUER.replace("https://id.example/keys", "http://id.example"), "begin with https://"),
        (ISSUER.replace("//id.example/keys", "//u:p@id.example"), "without a user"),
        (ISSUER.replace("jwks_url", "# "), "set one of jwks_file and jwks_url"),
        (ISSUER.replace("jwks_url", 'jwks_file = "/none"\n#'), '"/none": cannot be read'),
        (ISSUER.replace("permissions", "# "), "no token would allow anything"),
        (ISSUER.replace('["fastgw"]', "[]"), "audience of number 1"),
        (ISSUER + 'algorithms = ["HS256"]', "algorithms"),
    ],
)
def test_door_that_cannot_be_is_refused(tmp_path: Path, text: str, told: str) -> None:
    assert told in refusal(write(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        '[[listeners]]\nlisten = "0.0.0.0:1"',
        '[[listeners]]\nlisten = "127.0.0.1:1"\nproxy_from = ["127.0.0.1"]',
        '[[listeners]]\nlisten = "127.0.0.1:1"\n[[listeners]]\nlisten = "[::]:1"',
    ],
)
def test_anonymous_mode_is_refused_on_any_open_listener(tmp_path: Path, text: str) -> None:
    assert "anyone could produce" in refusal(write(tmp_path, f'auth.mode = "none"\n{text}'))


def test_key_file_that_others_may_read_is_warned_about(tmp_path: Path) -> None:
    key = tmp_path / "seed"
    key.write_text("SU")
    path = write(tmp_path, f'nats.url = ["h"]\nnats.nkey_seed_file = "{key}"')
    key.chmod(0o640)
    (warning,) = load(path, {}, {}).warnings
    assert "(nats.nkey_seed_file) has mode 0640" in warning
    key.chmod(0o600)
    assert load(path, {}, {}).warnings == []


def test_password_on_the_command_line_is_warned_about() -> None:
    url = f"nats://u:{SECRET}@h"
    (warning,) = load(None, {}, {"nats.url": url}).warnings
    assert "process list" in warning and SECRET not in warning
    assert load(None, {"FASTGW_NATS_URL": url}, {}).warnings == []


def test_anonymous_mode_on_a_unix_socket_is_allowed(tmp_path: Path) -> None:
    head = 'auth.mode = "none"\n[[listeners]]\nlisten = "unix:/run/f"\n'
    assert load(write(tmp_path, head), {}, {}).warnings == []
    loose = load(write(tmp_path, head + 'socket_mode = "0666"'), {}, {}).warnings
    assert loose == ["auth.mode is none on /run/f, and its mode lets everyone in"]
