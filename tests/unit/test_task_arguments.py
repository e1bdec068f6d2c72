"""What a registered task takes over HTTP: what its type hints let in, and what is said of the rest."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

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


@pytest.mark.parametrize("func", [called_back, forward, type, object()])
def test_a_hint_that_json_has_no_type_for_closes_the_task(func: Any) -> None:
    with pytest.raises(UnreadableHintsError):
        Arguments(func)
