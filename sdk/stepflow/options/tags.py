"""Declared tags of a function: values of the event by which its runs are found."""

from __future__ import annotations

from collections.abc import Mapping

from stepflow_broker.registry.tags import MAX_DECLARED_TAGS, TagConfig, check_tag_name
from stepflow_engine.errors import ConfigurationError
from stepflow_engine.expression import expression

__all__ = ["tag_configs"]


def tag_configs(tags: Mapping[str, str] | None) -> tuple[TagConfig, ...]:
    """The tags of a function in the form in which the registry stores them.

    Args:
        tags: the name of each tag, and a path or a CEL expression on ``event``; ``None``: no tags.

    Raises:
        ConfigurationError: a name or an expression is invalid, or there are more than five.
    """
    if tags is None:
        return ()
    if not isinstance(tags, Mapping):
        raise ConfigurationError(
            f'tags must be a mapping, as in {{"tenant": "event.data.tenant"}}, got {type(tags).__name__}'
        )
    if len(tags) > MAX_DECLARED_TAGS:
        raise ConfigurationError(f"tags: a function may declare at most {MAX_DECLARED_TAGS}, got {len(tags)}")
    configs = []
    for name, value in tags.items():
        try:
            configs.append(TagConfig(check_tag_name(name), expression(value).text))
        except ValueError as error:
            raise ConfigurationError(f"tags: {error}") from None
        except ConfigurationError as error:
            raise ConfigurationError(f"tags: {name}: {error}") from None
    return tuple(configs)
