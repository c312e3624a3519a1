"""Loads apps by name: ``module:app``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from stepflow import Stepflow
from stepflow_engine.errors import ConfigurationError

__all__ = ["load_app", "load_apps"]


def load_apps(names: Sequence[str]) -> list[Stepflow]:
    """Load several apps; see `load_app`.

    Raises:
        ConfigurationError: an app is missing, or two apps have the same id.
    """
    apps = [load_app(name) for name in names]
    ids = [app.id for app in apps]
    for app in apps:
        if ids.count(app.id) > 1:
            raise ConfigurationError(f"app id must be unique, got {app.id!r} twice: change one of them")
    return apps


def load_app(name: str) -> Stepflow:
    """Load the app that ``module:attribute`` names. The current folder is searched too.

    Raises:
        ConfigurationError: there is no such module or attribute, it is not an app, or the import fails.
    """
    module_name, colon, attribute = name.partition(":")
    if not module_name or not colon or not attribute:
        raise ConfigurationError(f"app must be module:app, got {name!r}: write it as in shop.flows:app")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ConfigurationError(
                f"app {name!r}: there is no module {error.name!r}: start from the folder that contains it"
            ) from None
        raise ConfigurationError(
            f"module {module_name!r} cannot be imported: {error}: install what it needs"
        ) from error
    except ConfigurationError:
        raise
    except SystemExit as error:
        raise ConfigurationError(
            f"module {module_name!r} calls sys.exit({error.code!r}) while it is imported: "
            'move the call behind if __name__ == "__main__"'
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # user code: an import can raise anything
        raise ConfigurationError(
            f"module {module_name!r} cannot be imported: {type(error).__name__}: {error}: correct it"
        ) from error
    return _app_in(module, module_name, attribute)


def _app_in(module: object, module_name: str, attribute: str) -> Stepflow:
    app = getattr(module, attribute, None)
    if isinstance(app, Stepflow):
        return app
    apps = [name for name, value in vars(module).items() if isinstance(value, Stepflow)]
    hint = f"its apps: {', '.join(apps)}" if apps else "it has no app: app = Stepflow(...)"
    if app is None:
        raise ConfigurationError(f"module {module_name!r} has no {attribute!r}; {hint}")
    raise ConfigurationError(f"{module_name}:{attribute} is not an app but {type(app).__name__}; {hint}")
