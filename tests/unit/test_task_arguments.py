"""What a registered task takes over HTTP: what its type hints let in, and what is said of the rest."""

import functools
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pydantic
import pytest
from msgspec import Meta

from qorzen_obs.server.arguments import Arguments, UnreadableHintsError
from qorzen_obs.server.problems import ProblemError


@dataclass
class Size:
    """A size in pixels."""

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 0:
            raise ValueError(f"<script>{self.width}")
        if self.height < 0:
            raise RuntimeError(f"<script>{self.height}")


def thumbnail(
    path: str,
    size: Size,
    quality: Annotated[int, Meta(ge=1, le=100)] = 80,
    *,
    form: Literal["png", "jpeg"] = "png",
) -> None:
    """Make a thumbnail."""


NOON = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CANARY = "canary-5d0b"


class Address(pydantic.BaseModel):
    zip: int
    default: str = CANARY

    @pydantic.field_validator("zip")
    @classmethod
    def _is_positive(cls, value: int) -> int:
        if value < 0:
            raise ValueError(f"<script>{value}")
        return value


class Order(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    address: Address
    sizes: list[Address] = []
    colour: Literal["red", "blue"] = "red"
    by_name: dict[str, int] = {}
    at: datetime | None = None
    id: UUID | None = None
    part_of: "Order | None" = None


class OddModel(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    callback: object = None
    event: functools.partial[int] | None = None


def ordering(order: Order, others: dict[str, Order] = {}) -> None: ...  # noqa: B006 - never changed
def of_an_odd_model(model: OddModel) -> None: ...
def reporting(progress_reporter: Callable[[int], None], path: str) -> None: ...
def collecting(first: int, /, second: int, *rest: int, **labels: str) -> None: ...
def unannotated(value, other=None): ...  # type: ignore[no-untyped-def]  # the case is about those
def at(moment: datetime, by_number: dict[int, float]) -> None: ...
def called_back(callback: Callable[[], None]) -> None: ...
def forward(value: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821 - as is this one


@pytest.mark.parametrize(
    ("func", "args", "kwargs", "bound"),
    [
        (
            thumbnail,
            ["a.png", {"width": 1, "height": 2}],
            {"form": "jpeg"},
            ([], {"path": "a.png", "size": Size(1, 2), "form": "jpeg"}),
        ),
        (
            thumbnail,
            [],
            {"size": {"width": 1, "height": 2}, "path": "a", "quality": 1},
            ([], {"path": "a", "size": Size(1, 2), "quality": 1}),
        ),
        (reporting, ["a"], {}, ([], {"path": "a"})),
        (collecting, [1, 2, 3, 4], {"a": "b"}, ([1, 2, 3, 4], {"a": "b"})),
        (unannotated, [{"any": [1]}], {}, ([], {"value": {"any": [1]}})),
        (
            at,
            ["2026-01-02T03:04:05Z", {"1": 2}],
            {},
            ([], {"moment": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "by_number": {1: 2.0}}),
        ),
        (functools.partial(thumbnail, "a", form="jpeg"), [], {"size": {"width": 1, "height": 2}}, None),
    ],
)
def test_arguments_become_what_their_hints_say(
    func: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], bound: object
) -> None:
    positional, named = Arguments(func).bind(args, kwargs)
    assert bound is None or (positional, named) == bound
    if func is not reporting:
        func(*positional, **named)


@pytest.mark.parametrize(
    ("args", "kwargs", "place", "problem"),
    [
        (
            [],
            {},
            "args and kwargs",
            "they do not fit; the task takes path, size, quality, form; missing: path, size",
        ),
        (["a"] * 9, {}, "args and kwargs", "they do not fit"),
        (["a", {}], {"path": "<script>"}, "args and kwargs", "they do not fit"),
        ([], {"<script>": 1}, "args and kwargs", "they do not fit"),
        ([5, {}], {}, "path", "Expected `str`, got `int`"),
        (["a", "<script>"], {}, "size", "Expected `object`, got `str`"),
        (["a", {"width": "<script>"}], {}, "size.width", "Expected `int`, got `str`"),
        (["a", {"width": 1}], {}, "size", "Object missing required field `height`"),
        (["a", {"width": -1, "height": 1}], {}, "size", "takes something else"),
        (["a", {"width": 1, "height": -1}], {}, "size", "takes something else"),
        (["a", {"width": 1, "height": 1}, 101], {}, "quality", "Expected `int` <= 100"),
        (["a", {"width": 1, "height": 1}], {"form": "<script>"}, "form", "takes one of jpeg, png"),
    ],
)
def test_t6_what_does_not_fit_is_told_by_place_and_type_and_not_repeated(
    args: list[Any], kwargs: dict[str, Any], place: str, problem: str
) -> None:
    with pytest.raises(ProblemError) as refused:
        Arguments(thumbnail).bind(args, kwargs)
    assert refused.value.status == 422
    assert refused.value.parameter == place
    assert refused.value.detail.startswith(f"{place}: {problem}")
    assert "script" not in refused.value.detail


def test_what_a_reporter_and_a_rest_take_is_told_too() -> None:
    with pytest.raises(ProblemError, match=r"the task takes path'"):
        Arguments(reporting).bind([], {"path": "a", "progress_reporter": "b"})
    with pytest.raises(ProblemError, match=r"the task takes first, second, \*rest, \*\*labels"):
        Arguments(collecting).bind([], {"first": 1})
    for args, kwargs, place in (([1, 2, 3, "x"], {}, "rest[1]"), ([1, 2], {"<b>": 1}, "labels[...]")):
        with pytest.raises(ProblemError) as refused:
            Arguments(collecting).bind(args, kwargs)
        assert refused.value.parameter == place


def test_the_schema_has_each_parameter_by_name_and_no_default() -> None:
    arguments = Arguments(thumbnail)
    assert arguments.positional == ["path", "size", "quality"]
    assert arguments.schema == {
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "size": {"$ref": "#/$defs/Size"},
            "quality": {"type": "integer", "minimum": 1, "maximum": 100},
            "form": {"enum": ["jpeg", "png"]},
        },
        "required": ["path", "size"],
        "additionalProperties": False,
        "$defs": {
            "Size": {
                "title": "Size",
                "description": "A size in pixels.",
                "type": "object",
                "properties": {"width": {"type": "integer"}, "height": {"type": "integer"}},
                "required": ["width", "height"],
            }
        },
    }
    assert Arguments(collecting).positional == ["first", "second", "*rest"]
    assert Arguments(collecting).schema["additionalProperties"] == {"type": "string"}
    assert Arguments(unannotated).schema["properties"] == {"value": {}, "other": {}}
    assert "progress_reporter" not in Arguments(reporting).schema["properties"]


@pytest.mark.parametrize(
    ("func", "problem"),
    [
        (called_back, "the type hint of its parameter callback has no JSON Schema"),
        (forward, "the type hint of its parameter value cannot be read"),
        (type, "its signature cannot be read"),
        (object(), "its signature cannot be read"),
        (of_an_odd_model, "the type hint of its parameter model has no JSON Schema"),
    ],
)
def test_a_hint_that_json_has_no_type_for_closes_the_task_and_names_the_parameter(
    func: Any, problem: str
) -> None:
    with pytest.raises(UnreadableHintsError) as closed:
        Arguments(func)
    assert str(closed.value) == problem


# ---------------------------------------------------------------- types that msgspec does not know by itself


@pytest.mark.parametrize(
    ("value", "made"),
    [
        (
            {"address": {"zip": 7}, "sizes": [{"zip": 8}]},
            Order(address=Address(zip=7), sizes=[Address(zip=8)]),
        ),
        ({"address": {"zip": 7}, "at": "2026-01-02T03:04:05Z"}, Order(address=Address(zip=7), at=NOON)),
    ],
)
def test_a_model_of_pydantic_is_made_as_it_makes_itself_of_json(value: object, made: Order) -> None:
    assert Arguments(ordering).bind([value], {}) == ([], {"order": made})
    assert Arguments(ordering).bind([], {"order": value, "others": {"a": value}}) == (
        [],
        {"order": made, "others": {"a": made}},
    )


@pytest.mark.parametrize(
    ("order", "place", "problem"),
    [
        ("<script>", "order", "Input should be an object"),
        ({}, "order.address", "Field required"),
        ({"address": {"zip": "<script>"}}, "order.address.zip", "Input should be a valid integer"),
        ({"address": {"zip": 1}, "sizes": [{"zip": 1}, {}]}, "order.sizes[1].zip", "Field required"),
        ({"address": {"zip": 1}, "<script>": 1}, "order[...]", "Extra inputs are not permitted"),
        ({"address": {"zip": -1}}, "order.address.zip", "takes something else"),
        ({"address": {"zip": 1}, "colour": "<script>"}, "order.colour", "Input should be 'red' or 'blue'"),
        ({"address": {"zip": 1}, "by_name": {"<script>": "x"}}, "order.by_name[...]", "Input should be"),
        ({"address": {"zip": 1}, "id": "<script>"}, "order.id", "takes something else"),
    ],
)
def test_t6_what_a_model_refuses_is_told_by_place_and_not_repeated(
    order: object, place: str, problem: str
) -> None:
    with pytest.raises(ProblemError) as refused:
        Arguments(ordering).bind([order], {})
    assert refused.value.parameter == place
    assert refused.value.detail.startswith(f"{place}: {problem}")
    assert "script" not in refused.value.detail


def test_the_place_within_a_type_of_ours_leads_to_the_field_of_the_model() -> None:
    wrong = {"address": {"zip": "x"}}
    for value, place in (({"a": wrong}, "others[...].address.zip"), ([wrong], "others")):
        with pytest.raises(ProblemError) as refused:
            Arguments(ordering).bind([{"address": {"zip": 1}}], {"others": value})
        assert refused.value.parameter == place


def test_the_schema_of_a_model_refers_to_definitions_that_are_there_and_has_no_default() -> None:
    schema = Arguments(ordering).schema
    text = json.dumps(schema)
    references = set(re.findall(r'"\$ref": "#/\$defs/([^"]+)"', text))
    assert references
    assert references <= schema["$defs"].keys()
    assert '"$defs"' not in json.dumps([schema["properties"], schema["$defs"]])
    assert CANARY not in text, "the default of a field"
    assert (
        "default" in next(one for one in schema["$defs"].values() if "zip" in one["properties"])["properties"]
    )


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("/tmp/a", Path("/tmp/a")),
        ("3f2504e0-4f89-11d3-9a0c-0305e82c3301", UUID("3f2504e0-4f89-11d3-9a0c-0305e82c3301")),
        ("1.10", Decimal("1.10")),
        ("2026-01-02T03:04:05Z", NOON),
        ("2026-01-02", date(2026, 1, 2)),
    ],
)
def test_paths_ids_decimals_and_times_are_texts(given: str, made: Any) -> None:
    def take(value: Any, several: Any) -> None: ...

    kind = Path if isinstance(made, Path) else type(made)
    take.__annotations__ = {"value": kind, "several": list[kind | None]}  # type: ignore[valid-type]
    assert Arguments(take).bind([given, [given, None]], {}) == ([], {"value": made, "several": [made, None]})
    with pytest.raises(ProblemError) as refused:
        Arguments(take).bind([given, [given, ["<script>"]]], {})
    assert refused.value.parameter == "several[1]"
    with pytest.raises(ProblemError) as refused:
        Arguments(take).bind([["<script>"], []], {})
    assert refused.value.parameter == "value"
    assert "script" not in refused.value.detail


def test_without_pydantic_a_model_s_place_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "pydantic")
    with pytest.raises(UnreadableHintsError, match="order has no JSON Schema"):
        Arguments(ordering)
