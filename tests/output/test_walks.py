"""Schemas that hypothesis makes: what matches is let through, and what is let through matches."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from localllm._json import JsonValue
from localllm.output.checks import rules_of
from localllm.output.forms import output_form
from localllm.output.scripts import departure
from localllm.output.validation import violation
from tests.output.strategies import Case, as_generated, cases, values
from tests.output.validators import complaint
from tests.output.walks import accepts, walk

_slowly = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@given(case=cases, data=st.data())
@_slowly
def test_every_instance_of_a_schema_can_be_generated(case: Case, data: st.DataObject) -> None:
    """As `json.dumps` writes it, or any other way for a script; and it is what the form makes of it."""
    value = data.draw(case.instances)
    form = output_form(case.schema)
    text = json.dumps(value, ensure_ascii=False)
    assert complaint(value, case.schema) is None
    assert accepts(form.grammar, json.dumps(as_generated(value), ensure_ascii=False)), (case.schema, text)
    assert departure(form.grammar, text) is None
    assert departure(form.grammar, "\n" + json.dumps(value, indent=2, sort_keys=True) + "\n") is None
    assert form.parse(text) == value


@given(case=cases, seed=st.integers(0, 2**32))
@_slowly
def test_whatever_is_generated_matches(case: Case, seed: int) -> None:
    """By the second validator, and by ours."""
    form = output_form(case.schema)
    text = walk(form.grammar, seed)
    if text is not None:
        assert complaint(json.loads(text), case.schema) is None, (case.schema, text)
        if "inf" not in repr(json.loads(text)):  # 1e999 is a number of JSON, and none of Python's
            form.parse(text)
        assert departure(form.grammar, text) is None


@given(case=cases, value=values)
@_slowly
def test_a_script_may_say_what_matches_and_nothing_else(case: Case, value: JsonValue) -> None:
    """By the second validator, for values that have nothing to do with the schema, too."""
    found = departure(output_form(case.schema).grammar, json.dumps(value))
    assert (found is None) == (complaint(value, case.schema) is None), (case.schema, value, found)


@given(case=cases, value=values)
@_slowly
def test_both_validators_agree_on_any_value(case: Case, value: object) -> None:
    """On values that have nothing to do with the schema, too."""
    rules = rules_of(case.schema)
    found = violation(value, rules.ready, rules.ready)  # type: ignore[arg-type]
    assert (found is None) == (complaint(value, case.schema) is None), (case.schema, value, found)
