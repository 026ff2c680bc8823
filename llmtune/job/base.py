"""The base of every noun the user writes: frozen, closed, and answering mistakes in plain sentences."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from llmtune.errors import InvalidJob, UnknownName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import ModelWrapValidatorHandler
    from pydantic_core import ErrorDetails

# Only the outermost noun turns pydantic's errors into ours: it alone knows the whole path of the field.
_inside: ContextVar[bool] = ContextVar("llmtune_inside_a_noun", default=False)


class Noun(BaseModel):
    """A frozen model that refuses unknown fields and raises `InvalidJob` instead of a pydantic error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=False,
        allow_inf_nan=False,
    )

    def _check_rules(self) -> None:
        """Rules over several fields; overridden where there are any. Raises ValueError with one sentence.

        Not an "after" validator: pydantic would run that outside the wrapper below, which would not see it fail.
        """

    @model_validator(mode="wrap")
    @classmethod
    def _speak_plainly(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if _inside.get():
            noun = handler(data)
            noun._check_rules()
            return noun
        token = _inside.set(True)
        try:
            noun = handler(data)
            noun._check_rules()
        except ValidationError as error:
            raise explain(cls, error) from None
        except ValueError as error:
            raise InvalidJob(str(error)) from None
        finally:
            _inside.reset(token)
        return noun


def explain(model: type[BaseModel], error: ValidationError) -> InvalidJob:
    """All the faults of a pydantic error as one `InvalidJob`; a lone unknown name becomes `UnknownName`."""
    faults = error.errors(include_url=False)
    first = faults[0]
    if len(faults) == 1 and first["type"] == "extra_forbidden":
        owner = _model_at(model, first["loc"][:-1])
        return UnknownName(
            _kind(owner), str(first["loc"][-1]), owner.model_fields, where=_path(first["loc"][:-1]) or None
        )
    return InvalidJob("; ".join(_sentence(model, fault) for fault in faults))


def _sentence(model: type[BaseModel], fault: ErrorDetails) -> str:
    path = _path(fault["loc"])
    if fault["type"] == "extra_forbidden":
        owner = _model_at(model, fault["loc"][:-1])
        where = _path(fault["loc"][:-1])
        message = UnknownName(_kind(owner), str(fault["loc"][-1]), owner.model_fields).message
        return f"{where}: {message}" if where else message
    if fault["type"] == "missing":
        return f"{path} is missing"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{path}: {message}" if path else message
    if fault["input"] == "auto" and _may_be_left_out(model, fault["loc"]):
        return f"{path}: 'auto' is written by leaving {path} out: the backend then chooses"
    message = message.removeprefix("Input should be ")
    return f"{path} must be {message}, not {_short(fault['input'])}"


def _may_be_left_out(model: type[BaseModel], loc: Sequence[int | str]) -> bool:
    field = _model_at(model, loc[:-1]).model_fields.get(str(loc[-1]))
    return field is not None and not field.is_required() and field.default is None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _path(loc: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in loc)


def _kind(model: type[BaseModel]) -> str:
    return str(getattr(model, "__field_word__", "field"))


def _model_at(model: type[BaseModel], loc: Sequence[int | str]) -> type[BaseModel]:
    """The model that owns the field at `loc`, walking through `dict[str, Model]` and optional fields."""
    for part in loc:
        field = model.model_fields.get(str(part))
        if field is None:  # a key of dict[str, Model]: the model was already found
            continue
        inner = _inner_model(field.annotation)
        if inner is None:
            return model
        model = inner
    return model


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is not None:
        for argument in get_args(annotation):
            if found := _inner_model(argument):
                return found
    return None
