"""Answers to valid and invalid requests conform to the OpenAPI document."""

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    response_schema_conformance,
    status_code_conformance,
)

from conftest import Studio

CALM = settings(
    max_examples=8,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


PROMISED = [not_a_server_error, status_code_conformance, response_schema_conformance]


def test_every_answer_conforms_to_the_document(studio: Studio):
    schema = schemathesis.openapi.from_url(f"{studio.client.base_url}/api/v1/openapi.json")
    labels: list[str] = []
    for result in schema.exclude(path_regex="/events$").get_all_operations():
        operation = result.ok()
        labels.append(operation.label)

        @CALM
        @given(case=operation.as_strategy())
        def answered(case: schemathesis.Case) -> None:
            case.validate_response(case.call(), checks=PROMISED)

        answered()
    assert "POST /api/v1/jobs" in labels and len(labels) >= 14
    studio.client.patch("/api/v1/queue", json={"paused": False})


def test_all_routes_are_in_the_document(studio: Studio):
    paths = studio.client.get("/api/v1/openapi.json").json()["paths"]
    assert {
        "/api/v1/jobs",
        "/api/v1/jobs/{id}",
        "/api/v1/jobs/{id}/events",
        "/api/v1/assets",
        "/api/v1/assets/{id}",
        "/api/v1/models",
        "/api/v1/history",
        "/healthz",
        "/readyz",
        "/metrics",
    } <= paths.keys()
