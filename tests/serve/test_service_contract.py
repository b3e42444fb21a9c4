"""The interface as it describes itself: requests made from it, right and wrong, find no failure and nothing undescribed."""

import hypothesis
import pytest
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance
from service_stand_ins import running

from hat.serve.service import KeyFile, KeyRing
from hat.serve.service.routes import galleries, model, search

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]

ROUTES = [route for part in (galleries, model, search) for route in part.router.routes]
OPERATIONS = [(method, route.path_format) for route in ROUTES for method in sorted(route.methods)]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A service with a gallery of the name that most made-up requests use, and what it says of itself."""
    folder = tmp_path_factory.mktemp("contract")
    keys = KeyFile(folder / "keys.json")
    token = keys.add("explorer", "write")[1]
    limits = {"receive_timeout_s": 2, "timeout_s": 20, "max_galleries": 3}
    with running(galleries=("people",), root=folder, keys=KeyRing(keys), **limits) as (client, _):
        client.headers["authorization"] = f"Bearer {token}"
        yield client, client.get("/openapi.json").json()


def test_every_operation_is_explored(served):
    _, described = served
    found = sorted((method.upper(), path) for path, methods in described["paths"].items() for method in methods)
    assert found == sorted(OPERATIONS) and len(found) > 18


@pytest.mark.parametrize("max_examples", [4, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_what_is_described_is_what_is_answered(served, method, path, max_examples):
    """Ask an operation for what it describes and for what it does not; every answer must be one that it describes."""
    client, described = served
    operation = schemathesis.openapi.from_dict(described)[path][method]
    address, headers = str(client.base_url).rstrip("/"), {"authorization": client.headers["authorization"]}
    right, wrong = (operation.as_strategy(generation_mode=mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE))

    # The health checks of hypothesis are about speed, and the machine may be busy.
    @hypothesis.settings(
        max_examples=max_examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=right | wrong, is_there=hypothesis.strategies.booleans())
    def ask(case, is_there):
        if is_there and "name" in (case.path_parameters or {}):
            case.path_parameters["name"] = "people"
        answer = case.call(base_url=address, headers=headers, timeout=30)
        case.validate_response(answer, checks=CHECKS)

    ask()
