"""Keywords of public functions: a wrong one is refused with the nearest valid name, before anything is done."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from llmtune.errors import UnknownOption

P = ParamSpec("P")
R = TypeVar("R")


def check_keywords(*passed_to: Callable[..., Any]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function so that an unknown keyword raises `UnknownOption`, which names the nearest valid one.

    Args:
        passed_to: the functions whose keyword-only parameters the function takes as `**options` and passes on. Its
            signature, as `help` and notebooks show it, lists them in place of `**options`.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = _list_options(inspect.signature(function), passed_to)
        names = [
            name
            for name, parameter in signature.parameters.items()
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        ]

        def check(keywords: Iterable[str]) -> None:
            for name in keywords:
                if name not in names:
                    raise UnknownOption("option", name, names, where=f"{function.__name__}()")

        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            check(kwargs)
            return function(*args, **kwargs)

        @wraps(function)
        async def checked_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            check(kwargs)
            return await cast(Awaitable[Any], function(*args, **kwargs))

        decorated: Any = checked_async if inspect.iscoroutinefunction(function) else checked
        decorated.__signature__ = signature
        decorated.__options_of__ = passed_to  # for the reference: their docstrings describe the options
        return cast(Callable[P, R], decorated)

    return decorate


def _list_options(signature: inspect.Signature, passed_to: tuple[Callable[..., Any], ...]) -> inspect.Signature:
    """Return the signature with `**options` replaced by the keyword-only parameters of other functions."""
    if not passed_to:
        return signature
    listed = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    names = {parameter.name for parameter in listed}
    options = [
        parameter
        for function in passed_to
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in names
    ]
    by_position = [parameter for parameter in listed if parameter.kind is not parameter.KEYWORD_ONLY]
    by_name = [parameter for parameter in listed if parameter.kind is parameter.KEYWORD_ONLY]
    return signature.replace(parameters=[*by_position, *options, *by_name])
