"""The OpenAPI document: that it is one, that no route is missing, and that it says what each takes."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from qorzen_obs.server.app import ROUTES
from qorzen_obs.server.documents import encode_json
from qorzen_obs.server.openapi import openapi_document
from qorzen_obs.server.routes import API_VERSION, Access, Route


@pytest.fixture(scope="module", params=[True, False], ids=["secured", "open"])
def document(request: pytest.FixtureRequest) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(encode_json(openapi_document(ROUTES, secured=request.param)))
    return document


def test_it_is_an_openapi_3_1_document(document: dict[str, Any]) -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_says_what_it_is_for_and_what_it_answers(route: Route) -> None:
    assert route.summary.endswith(".")
    assert (route.tag is None) == route.path.startswith("/static/")
    assert route.tag is None or route.description.endswith(".")
    assert any(200 <= status < 300 for status in route.answers), "no good answer"
    assert all(answer.description.endswith(".") for answer in route.answers.values())
    assert all(parameter.description.endswith(".") for parameter in route.parameters)
    assert (route.method == "GET") == (route.access is not Access.CONTROL)
    for status, answer in route.answers.items():
        assert (answer.media_types == ("application/problem+json",)) == (status >= 400 and status != 503) or (
            status == 503  # a probe that fails says so in its own form
        )


def test_every_path_of_the_router_is_in_it_but_the_pages_files(document: dict[str, Any]) -> None:
    assert {(route.method.lower(), route.path) for route in ROUTES if route.tag is not None} == {
        (method, path) for path, operations in document["paths"].items() for method in operations
    }


def test_every_operation_is_described_and_belongs_to_a_described_group(document: dict[str, Any]) -> None:
    groups = {tag["name"] for tag in document["tags"] if tag["description"]}
    for operations in document["paths"].values():
        for operation in operations.values():
            assert operation["summary"]
            assert operation["description"]
            assert len(operation["tags"]) == 1
            assert set(operation["tags"]) <= groups
    assert not [path for path in document["paths"] if path.startswith("/static/")]


def test_it_has_the_version_of_the_interface_and_that_of_the_package(document: dict[str, Any]) -> None:
    assert document["info"]["version"] == API_VERSION
    assert document["info"]["x-qorzen-obs-version"] == version("qorzen-obs")


def test_names_of_operations_are_their_own(document: dict[str, Any]) -> None:
    names = [
        operation["operationId"]
        for operations in document["paths"].values()
        for operation in operations.values()
    ]
    assert len(names) == len(set(names))
    assert "get_api_tasks_task_id_why" in names


def test_only_a_service_with_a_token_asks_for_one() -> None:
    secured = openapi_document(ROUTES, secured=True)["paths"]
    assert secured["/"]["get"]["security"] == []
    assert secured["/livez"]["get"]["security"] == [{}, {"token": ["read"]}]
    assert secured["/status"]["get"]["security"] == [{"token": ["read"]}]
    assert secured["/api/tasks"]["post"]["security"] == [{"token": ["control"]}]
    assert "401" in secured["/status"]["get"]["responses"]
    for operations in openapi_document(ROUTES, secured=False)["paths"].values():
        for operation in operations.values():
            assert "security" not in operation
            assert "401" not in operation["responses"]


def test_parameters_and_bodies_are_described_by_their_types(document: dict[str, Any]) -> None:
    listing = {each["name"]: each for each in document["paths"]["/api/tasks"]["get"]["parameters"]}
    assert listing["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 1000}
    assert listing["status"]["schema"]["items"] == {"$ref": "#/components/schemas/TaskStatus"}
    (path,) = document["paths"]["/api/tasks/{task_id}"]["get"]["parameters"]
    assert (path["name"], path["in"], path["required"]) == ("task_id", "path", True)
    submit = document["paths"]["/api/tasks"]["post"]
    assert submit["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/Submission")
    assert document["components"]["schemas"]["Submission"]["required"] == ["task"]
    assert document["components"]["schemas"]["Submission"]["additionalProperties"] is False
    assert {each["name"] for each in submit["parameters"]} >= {"Idempotency-Key", "traceparent"}


def test_generators_of_clients_understand_every_schema(document: dict[str, Any]) -> None:
    """They leave out the operations with an enum of several types, or with an array that does not say of what."""

    def check(schema: Any) -> None:
        if isinstance(schema, list):
            for each in schema:
                check(each)
        elif isinstance(schema, dict):
            choices = schema.get("enum")
            assert not isinstance(choices, list) or len({type(choice) for choice in choices}) == 1, schema
            assert schema.get("type") != "array" or schema.keys() & {"items", "prefixItems"}, schema
            for each in schema.values():
                check(each)

    check(document)


def test_only_what_reads_a_body_has_one(document: dict[str, Any]) -> None:
    with_body = [
        path
        for path, operations in document["paths"].items()
        for each in operations.values()
        if "requestBody" in each
    ]
    assert with_body == ["/api/tasks"]


def test_a_document_of_a_mounted_application_has_its_prefix() -> None:
    assert openapi_document(ROUTES, "/ops", secured=False)["servers"] == [{"url": "/ops"}]
    assert openapi_document(ROUTES, secured=False)["servers"] == [{"url": "/"}]
