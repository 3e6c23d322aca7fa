"""The rules of tags."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiotaskq.core.tags import MAX_TAGS, check_tags, labels, read_labels, split_labels, tags_of, with_tags
from aiotaskq.core.task import Task, with_default_tags
from aiotaskq.errors import ValidationError
from tests.support.machine import within

NAMES = st.from_regex(r"[A-Za-z0-9_.-]{1,50}", fullmatch=True)
VALUES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=100).filter(
    lambda text: not text.isspace()
)
TAGS = st.dictionaries(NAMES, VALUES, max_size=MAX_TAGS)


@given(TAGS)
def test_tags_that_hold_the_rules_are_kept_as_they_are(tags: dict[str, str]) -> None:
    assert check_tags(tags) == tags_of({"tags": tags}) == read_labels(labels(tags)) == tags
    assert with_tags({"other": 1, "tags": {"old": "1"}}, tags) == {"other": 1, **({"tags": tags} if tags else {})}


@given(TAGS, TAGS)
def test_those_of_a_task_replace_the_defaults_by_name(own: dict[str, str], defaults: dict[str, str]) -> None:
    task = Task(task_id="1", type="t", extra=with_tags({}, own))
    assert Task.replace(task, extra={}).tags == {}
    assert len({**defaults, **own}) > MAX_TAGS or with_default_tags(task, defaults).tags == {**defaults, **own}


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        (["a"], "tags: a dict of names and values is needed (got list)"),
        ({f"n{number}": "1" for number in range(17)}, "tags: 17 are more than 16"),
        ({"a b": "1"}, "tags: 'a b' is no name of a tag"),
        ({"": "1"}, "tags: '' is no name of a tag"),
        ({"a" * 51: "1"}, "is no name of a tag"),
        ({1: "1"}, "tags: 1 is no name of a tag"),
        ({"a\n": "1"}, "is no name of a tag"),
        ({"order": 17}, "tags.order: a string is needed (got int)"),
        ({"order": True}, "tags.order: a string is needed (got bool)"),
        ({"order": ""}, "tags.order: must not be empty"),
        ({"order": "a\tb"}, "tags.order: control characters are not allowed"),
        ({"order": "a" * 101}, "tags.order: 101 characters are more than 100"),
    ],
)
def test_others_are_refused(tags: Any, said: str) -> None:
    with pytest.raises(ValidationError) as error:
        check_tags(tags)
    assert said in str(error.value)
    assert tags_of({"tags": tags}) == {}  # a key of the caller's, which means nothing here


@pytest.mark.parametrize(
    ("texts", "said"),
    [(["order"], "tag: 'order' is none; use name=value"), (["a=1", "a=2"], "tag: 'a' is given twice")],
)
def test_texts_that_are_no_tags(texts: list[str], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        read_labels(texts)
    assert read_labels(["a=b=c", "a=b=c"]) == {"a": "b=c"}


@pytest.mark.parametrize("between", [",", " ", ", "])
def test_a_line_with_many_separators_is_split_in_linear_time(between: str) -> None:
    line = f"a=1{between * 50_000}b"
    began = time.process_time()
    assert split_labels(line) == [line]
    assert time.process_time() - began < within(1)
