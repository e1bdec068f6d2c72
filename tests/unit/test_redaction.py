"""What the redactor hides, what it leaves alone, that no cut lets half a secret through, and that it is never slow."""

import dataclasses
import pickle
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qorzen_obs.errors import SettingsError
from qorzen_obs.telemetry.redaction import Redactor
from qorzen_obs.telemetry.secret_forms import HIDDEN
from tests import hostile

SECRET = "canary7Q"
PEM = f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n{SECRET}\n-----END RSA PRIVATE KEY-----"
CORPUS = tomllib.loads((Path(__file__).parents[1] / "redaction_corpus.toml").read_text("utf-8"))
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
        "pass",
        "DB_PASS",
        "smtpPass",
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
        "bypass",
        "passed",
        "pass_count",
        "InvalidTokenError",
        "event",
    ],
)
def test_a_name_that_only_resembles_one_does_not(name: str) -> None:
    assert not Redactor().hides(name)


@pytest.mark.parametrize(
    "form", [form for kind in CORPUS["hidden"] for form in kind["forms"]], ids=lambda form: form["text"]
)
def test_a_secret_in_a_form_that_tells_is_hidden_and_the_rest_stays(form: dict[str, Any]) -> None:
    shown = Redactor().text(form["text"])
    assert SECRET[:6] not in shown
    assert HIDDEN in shown
    assert [part for part in form.get("stays", ()) if part not in shown] == [], shown
    assert Redactor().text(shown) == shown, "redacting twice changes nothing more"


@pytest.mark.parametrize(
    "text",
    [
        PEM,
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}",
        f"postgres://me:{'x' * 300}{SECRET}{'x' * 300}@host/db",
        f"postgres://me:{'@/x' * 3_000}{SECRET}@host/db",
        f"\u0130\u0130 password={SECRET}",
        f"password={'(' * 3_000}{SECRET}",
    ],
    ids=["key", "key without an end", "long URL", "long URL of signs", "letter that grows", "brackets"],
)
def test_a_long_or_odd_secret_is_hidden_too(text: str) -> None:
    shown = Redactor().text(text)
    assert SECRET not in shown
    assert HIDDEN in shown


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


@pytest.mark.parametrize("text", CORPUS["harmless"]["texts"])
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


def test_pairs_and_records_of_names_and_values_are_hidden_in_fields_too() -> None:
    shown = Redactor().field(
        "request",
        {
            "headers": [["Cookie", "a=1"], ["Host", "x"]],  # as JSON leaves pairs
            "env": [{"name": "DB_PASSWORD", "value": "p"}, {"name": "PORT", "value": "80"}],
            "tokens": ["a", "b"],
            "max_tokens": 4_096,
            "smtp": {"pass": "p", "passed": "yes"},
        },
    )
    assert shown == {
        "headers": [["Cookie", HIDDEN], ["Host", "x"]],
        "env": [{"name": "DB_PASSWORD", "value": HIDDEN}, {"name": "PORT", "value": "80"}],
        "tokens": HIDDEN,
        "max_tokens": 4_096,
        "smtp": {"pass": HIDDEN, "passed": "yes"},
    }


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
    assert Redactor(["bearer"]).text("Bearer 0123456789") == f"Bearer {HIDDEN}"
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
_UNITS += ["<", "<token>", "<token ", "</token>", "name=token value=", "value='a', name=token ", "('token', "]
_UNITS += [
    "[['token',",
    "token=a(",
    "token=(",
    "%3A%2F%2F",
    "%40",
    "%22token%22%3A",
    "&quot;token&quot;:",
    "://a:'",
]
_UNITS += [
    "token",
    "pass",
    "\u0130token=",
    "token:\n  - a\n",
    "token: |\n ",
    "identified by '",
    "name: token\n",
    "--",
]
_UNITS += [
    "<name>token</name><value>",
    "password '",
    "tokens=[",
    'token=\\\\"',
    "@/://",
    "[a]",
    "'token': {'a': ",
]
_UNITS += ["aA", "AKIA", "\\'", "--token ", "ghp_", "xox"]


# A fraction of a second where the time grows with the length, minutes where it grows with its square.
@pytest.mark.timeout(60)
@pytest.mark.parametrize("unit", _UNITS)
@pytest.mark.parametrize(("start", "end"), [("", ""), ("password=", " @ key password=1 basic bearer")])
def test_hostile_text_takes_time_in_proportion_to_its_length(unit: str, start: str, end: str) -> None:
    text = start + unit * (100_000 // len(unit)) + end
    Redactor().text(text)
    Redactor().hides(text)


@pytest.mark.timeout(120)  # as above
@settings(max_examples=50)
@given(st.lists(st.sampled_from(_UNITS), min_size=1, max_size=4))
def test_no_mixture_is_slow_either(units: list[str]) -> None:
    text = "".join(units) * (100_000 // sum(map(len, units)))
    Redactor().text(text)


@pytest.mark.parametrize("hook", ["__eq__", "__bool__", "__hash__", "metaclass __eq__"])
def test_a_hidden_value_is_not_asked_what_it_is(hook: str) -> None:
    clean = Redactor().field("fields", {"password": hostile.value(hook, SystemExit)})
    assert clean == {"password": HIDDEN}
