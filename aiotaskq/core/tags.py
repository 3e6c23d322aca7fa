"""Tags of tasks: names with values by which they are found. They are part of a task's ``extra``, under one key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from aiotaskq.core.errors import ValidationError, check_key, kind_name, shown

TAGS: Final = "tags"
"""The key in ``extra`` of the tags, values by name."""
MAX_TAGS: Final = 16
MAX_VALUE: Final = 100
"""Characters of a value."""
OTHER: Final = "other"
"""What stands for names and values beyond the number that is told apart."""
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,50}")


def check_tags(tags: object) -> dict[str, str]:
    """Return a copy of tags if they can be stored: None for none. Raises ValidationError."""
    if tags is None:
        return {}
    if not isinstance(tags, Mapping):
        raise ValidationError(f"tags: a dict of names and values is needed (got {kind_name(tags)})")
    if len(tags) > MAX_TAGS:
        raise ValidationError(f"tags: {len(tags)} are more than {MAX_TAGS}")
    found: dict[str, str] = {}
    for name, value in tags.items():
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise ValidationError(
                f"tags: {shown(name)} is no name of a tag: use 1 to 50 letters, digits, dots, underscores and hyphens"
            )
        found[name] = check_key(f"tags.{name}", value, MAX_VALUE)
    return found


def check_tag_names(argument: str, names: object) -> tuple[str, ...]:
    """Return names of tags without repetitions. Raises ValidationError naming the argument."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise ValidationError(f"{argument}: a list of names is needed (got {kind_name(names)})")
    return tuple(check_tags(dict.fromkeys(names, "-")))


def tags_of(extra: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags in the ``extra`` of a task, empty for none, and where a dict of the caller's had none as such."""
    if TAGS not in extra:
        return {}
    try:
        return check_tags(extra[TAGS])
    except ValidationError:
        return {}


def with_tags(extra: dict[str, Any], tags: Mapping[str, str]) -> dict[str, Any]:
    """Return ``extra`` with these tags and no others."""
    if tags:
        return {**extra, TAGS: dict(tags)}
    return {name: value for name, value in extra.items() if name != TAGS} if TAGS in extra else extra


def labels(tags: Mapping[str, str]) -> list[str]:
    """Return tags as ``name=value``."""
    return [f"{name}={value}" for name, value in tags.items()]


def split_labels(line: str) -> list[str]:
    """Return the tags of a line, which are separated by blanks or commas, each as ``name=value``."""
    return re.split(r"(?<![\s,])[\s,]++(?=[A-Za-z0-9_.-]++=)", line.strip())


def read_labels(texts: Iterable[str]) -> dict[str, str]:
    """Return the tags that are given as ``name=value``. Raises ValidationError."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValidationError(f"tag: {text!r:.40} is none; use name=value, such as order=17")
        if found.setdefault(name, value) != value:
            raise ValidationError(f"tag: {name!r:.40} is given twice, and a task has one value of each")
    return check_tags(found)
