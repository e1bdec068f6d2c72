"""What the redactor hides, what it leaves alone, that no cut lets half a secret through, and that it is never slow."""

import dataclasses
import pickle
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qorzen_obs.errors import SettingsError
from qorzen_obs.telemetry.redaction import HIDDEN, Redactor

SECRET = "canary7Q"
PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n{SECRET}\n-----END RSA PRIVATE KEY-----"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N"


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "db_password",
        "PASSWD",
        "X-Api-Key",
        "apiKey",
        "APIKey",
        "authToken",
        "accesstoken",
        "client_secret",
        "AWS_SECRET_ACCESS_KEY",
        "Authorization",
        "Set-Cookie",
        "privateKey",
        "passwd_hash",
        "X-CSRFToken",
        "refresh_tokens",
        "database.credentials",
        "AccountKey",
        "password2",
        "CONNECTION_STRING",
    ],
)
def test_a_telling_name_hides_its_value(name: str) -> None:
    assert Redactor().hides(name)


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer",
        "token_count",
        "max_tokens",
        "password_length",
        "secretary",
        "author",
        "key",
        "keyboard",
        "monkey",
        "cookie_policy",
        "token_type",
        "",
        "...",
        "primary_key",
        "compass",
        "event",
    ],
)
def test_a_name_that_only_resembles_one_does_not(name: str) -> None:
    assert not Redactor().hides(name)


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"got Authorization: Digest username=x, response={SECRET}",
        f"Cookie: a=1; session={SECRET}\nHost: x",
        f'{{"Authorization": "Bearer {SECRET}", "x": 1}}',
        f"sent bearer {SECRET}",
        f"sent Basic {SECRET}==",
        f"password={SECRET} rest",
        f"url=password={SECRET}",
        f"?user=me&password={SECRET}&x=1",
        f"{{'password': 'it\\'s {SECRET}', 'b': 2}}",
        f'{{\\"password\\": \\"{SECRET}\\", \\"a\\": 1}}',
        f"db_password: {SECRET}",
        f"Config(api_key='{SECRET}', retries=3)",
        f"api key: {SECRET}",
        f"token=b'{SECRET}'",
        f"password: {{'old': '{SECRET}'}}",
        f"run --password {SECRET} --verbose",
        f"--token={SECRET}",
        f"postgres://user:{SECRET}@host/db",
        f"postgres://user:a/{SECRET}@host/db",
        f"https://{SECRET}@host/path",
        f"password: 'never closed {SECRET}",
        PEM,
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}",
        f"token => {SECRET}",
    ],
)
def test_a_secret_in_a_form_that_tells_is_hidden(text: str) -> None:
    shown = Redactor().text(text)
    assert SECRET not in shown
    assert HIDDEN in shown
    assert Redactor().text(shown) == shown, "redacting twice changes nothing more"


@pytest.mark.parametrize(
    "secret",
    [
        JWT,
        "AKIAIOSFODNN7EXAMPLE",
        "npm_0123456789abcdefghijABCDEFGHIJ012345",
        "ghp_0123456789abcdefghijABCDEFGHIJ012345",
        "github_pat_0123456789abcdefghij",
        "xoxb-123456789012-abcdefABCDEF",
        "https://hooks.slack.com/services/T000/B000/abcdefghijkl",
        "glpat-0123456789abcdefghij",
        "sk_live_0123456789abcdefghijklmn",
        "sk-proj-0123456789abcdefghijklmn",
        "AIzaSyA0123456789abcdefghijklmnopqrstuv",
        "pypi-AgEIcHlwaS5vcmcCJDAwMDAwMDAw",
    ],
)
def test_a_well_known_key_is_hidden_wherever_it_stands(secret: str) -> None:
    for text in (secret, f"value {secret}.", f"('{secret}',)", f"x={secret}&y"):
        assert secret[-12:] not in Redactor().text(text)


@pytest.mark.parametrize(
    "text",
    [
        "parsed 12 files in 0.3 s",
        "KeyError: 'name'",
        "token_count: 5, tokenizer: fast",
        "bearer token missing; basic authentication failed",
        "http://host:8080/users/a@b.example",
        "mail me@host.example",
        "the password is wrong",
        "task-name risk-free msg. ask-me-anything-about-the-weather",
        "npm_config_registry_of_the_project hf_hub_download_of_a_model AKIA",
        "a_long_identifier_for_a_function_that_reads_a_key",
        "",
    ],
)
def test_ordinary_text_is_given_back_as_the_same_object(text: str) -> None:
    assert Redactor().text(text) is text


def test_json_stays_json() -> None:
    shown = Redactor().text(msgspec.json.encode({"password": 'a"b', "n": 1, "api_key": "x\\"}).decode())
    assert msgspec.json.decode(shown) == {"password": HIDDEN, "n": 1, "api_key": HIDDEN}


def test_fields_are_hidden_by_name_at_any_depth_and_the_rest_stays() -> None:
    shown = Redactor().field(
        "request",
        {
            "headers": [("Cookie", "a=1"), ("Host", "x")],
            "user": {"name": "me", "password": "p", "token": None, "secret": ""},
            "url": "https://me:pw@host/",
            "count": 3,
        },
    )
    assert shown == {
        "headers": [["Cookie", HIDDEN], ("Host", "x")],
        "user": {"name": "me", "password": HIDDEN, "token": None, "secret": ""},
        "url": f"https://{HIDDEN}@host/",
        "count": 3,
    }
    assert Redactor().field("password", 1234) == HIDDEN


@pytest.mark.parametrize(
    "value",
    [1, 2.5, True, None, "x", [1, "x"], {"a": (1,)}, {"b"}, datetime(2026, 1, 1, tzinfo=UTC), b"x", {1: 2}],
    ids=repr,
)
def test_a_field_without_secrets_is_the_same_object(value: Any) -> None:
    assert Redactor().field("name", value) is value


@dataclasses.dataclass
class Login:
    user: str
    password: str


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_objects_are_seen_through() -> None:
    redactor = Redactor()
    assert redactor.field("login", Login("me", SECRET)) == {"user": "me", "password": HIDDEN}
    assert SECRET not in repr(redactor.field("error", ValueError(f"password={SECRET}")))
    assert SECRET not in repr(redactor.field("body", f"password={SECRET}".encode()))
    assert SECRET not in repr(redactor.field("map", {(1, f"token={SECRET}"): 1}))
    assert redactor.field("broken", Broken()) == "<cannot be shown: RuntimeError>"


def test_what_has_no_end_is_bounded() -> None:
    endless: list[Any] = []
    endless.append(endless)
    Redactor().field("endless", endless)
    assert len(Redactor().field("many", list(range(5_000)))) == 1_001
    assert len(Redactor().field("many", {n: n for n in range(5_000)})) == 1_001
    assert len(Redactor().field("long", "x" * 10_000_000)) <= 65_536


def test_own_names_and_patterns_count_too() -> None:
    redactor = Redactor(["iban", "customerNumber"], [r"\bP-\d{6}\b"])
    assert redactor.hides("customer_iban")
    assert redactor.hides("X-Customer-Number")
    assert not redactor.hides("number")
    assert redactor.text("iban=DE00 patient P-123456") == f"iban={HIDDEN} patient {HIDDEN}"
    assert pickle.loads(pickle.dumps(redactor)).text("P-123456") == HIDDEN


@pytest.mark.parametrize(
    ("keys", "patterns", "setting"),
    [
        (["--"], [], "telemetry.redact_keys"),
        ([], ["("], "telemetry.redact_patterns"),
        ([], ["x*"], "telemetry.redact_patterns"),
    ],
)
def test_a_useless_setting_is_refused_by_its_name(keys: list[str], patterns: list[str], setting: str) -> None:
    with pytest.raises(SettingsError, match=setting):
        Redactor(keys, patterns)


@pytest.mark.parametrize(
    "secret", [JWT, PEM, f"password={SECRET}", "AKIAIOSFODNN7EXAMPLE"], ids=lambda s: s[:5]
)
@pytest.mark.parametrize("length", [100, 90_000, 300_000])
def test_no_cut_lets_half_a_secret_through(secret: str, length: int) -> None:
    redactor = Redactor()
    for limit in (100, 500):
        for at in (*range(limit - len(secret), limit + 1, 7), *range(limit + 65_436, limit + 65_546, 7)):
            text = "x " * (at // 2) + " " * (at % 2) + secret
            text += " y" * max(0, (length - len(text)) // 2)
            for shown in (redactor.head(text, limit), redactor.tail(text[::-1][::-1], limit)):
                assert len(shown) <= limit
                assert not any(secret[start : start + 8] in shown for start in range(9, len(secret) - 8))


@given(st.text(alphabet="aA0_-.=:@/\\\"' \n[]{}", max_size=60), st.text(max_size=20))
def test_no_text_raises_and_twice_is_as_good_as_once(one: str, other: str) -> None:
    redactor = Redactor()
    for text in (one + other, f"password{one}", f"token={one}{other}", f"://{one}@"):
        shown = redactor.text(text)
        assert SECRET not in shown
        redactor.text(shown)


_UNITS = [
    "a",
    "=",
    "://",
    "'",
    "\\",
    '"',
    "eyJ",
    "Basic ",
    "Bearer ",
    "-----BEGIN ",
    "--a ",
    "://a:",
    "://@:",
    "@",
]
_UNITS += [
    "[",
    "token=",
    "token='",
    "A-",
    "api key",
    'password:\\"',
    "token =>  ",
    "a.b-c_",
    "-----BEGIN PRIVATE KEY-----",
]
_UNITS += ["aA", "AKIA", "\\'", "--token ", "ghp_", "xox"]


# A fraction of a second where the time grows with the length, minutes where it grows with its square.
@pytest.mark.timeout(60)
@pytest.mark.parametrize("unit", _UNITS)
@pytest.mark.parametrize("end", ["", " @ key password=1 basic bearer"])
def test_hostile_text_takes_time_in_proportion_to_its_length(unit: str, end: str) -> None:
    text = unit * (500_000 // len(unit)) + end
    Redactor().text(text)
    Redactor().hides(text)


@pytest.mark.timeout(120)  # as above
@settings(max_examples=50)
@given(st.lists(st.sampled_from(_UNITS), min_size=1, max_size=4))
def test_no_mixture_is_slow_either(units: list[str]) -> None:
    text = "".join(units) * (200_000 // sum(map(len, units)))
    Redactor().text(text)
