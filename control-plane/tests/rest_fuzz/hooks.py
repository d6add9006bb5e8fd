"""The fuzzer calls as the operator "admin". It must not saw off the branch that it sits on."""

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.operation.path.startswith("/v1/operators/{name}") and case.path_parameters.get("name") == "admin":
        case.path_parameters["name"] = "somebody"
