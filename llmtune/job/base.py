"""The base model of everything that the user writes: frozen, without unknown fields, with errors in plain English."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from llmtune.errors import InvalidJob, UnknownName
from llmtune.job.values import check_values

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic import ModelWrapValidatorHandler
    from pydantic_core import ErrorDetails

# Only the outermost model turns pydantic's errors into ours: it alone knows the whole path of the field.
_inside: ContextVar[bool] = ContextVar("llmtune_validating", default=False)


class StrictModel(BaseModel):
    """A frozen model that refuses unknown fields and raises `InvalidJob` instead of a pydantic error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=False,
        allow_inf_nan=False,
    )

    def _check_rules(self) -> None:
        """Check rules over several fields, in models that have any. Raises ValueError with one sentence.

        Not an "after" validator: pydantic would run that outside the wrapper below, which would not see it fail.
        """

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the fields that differ from their defaults: the others say nothing."""
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if field.is_required() or value != field.get_default(call_default_factory=True):
                yield name, value

    @model_validator(mode="wrap")
    @classmethod
    def _translate_errors(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if _inside.get():
            instance = handler(data)
            instance._check_rules()
            return instance
        token = _inside.set(True)
        try:
            check_values(data)
            instance = handler(data)
            instance._check_rules()
        except ValidationError as error:
            raise explain_error(cls, error) from None
        except ValueError as error:
            raise InvalidJob(str(error)) from None
        finally:
            _inside.reset(token)
        return instance


def explain_error(model: type[BaseModel], error: ValidationError) -> InvalidJob:
    """Return one `InvalidJob` for all errors of a pydantic error; a single unknown name becomes `UnknownName`."""
    faults = error.errors(include_url=False)
    first = faults[0]
    if len(faults) == 1 and first["type"] == "extra_forbidden":
        owner = _find_owner(model, first["loc"][:-1])
        unknown = UnknownName(
            _kind(owner),
            str(first["loc"][-1]),
            owner.model_fields,
            where=_path(first["loc"][:-1]) or None,
            suggestion=suggest_field(model, owner, str(first["loc"][-1])),
        )
        unknown.faults = ((first["loc"], unknown.message),)
        return unknown
    described = tuple((fault["loc"], _describe_fault(model, fault)) for fault in faults)
    invalid = InvalidJob("; ".join(sentence for _, sentence in described))
    invalid.faults = described
    return invalid


def suggest_field(root: type[BaseModel], owner: type[BaseModel], name: str) -> str | None:
    """Return the field that was probably meant by a name that `owner` does not have; None where none is likely.

    A name that other tools have for it, and a field that stands elsewhere in `root`, are recognised.
    """
    aliases = getattr(owner, "__other_names__", {})
    if name.lower() in aliases:
        return repr(aliases[name.lower()])
    if name in root.model_fields and root is not owner:
        return f"{name!r} at the top level"
    for section, field in root.model_fields.items():
        inner = _inner_model(field.annotation)
        if inner is None or inner is owner or get_origin(field.annotation) is dict:
            continue
        inner_name = getattr(inner, "__other_names__", {}).get(name.lower(), name)
        if inner_name in inner.model_fields:
            return f"'{section}.{inner_name}'"
    return None


def _describe_fault(model: type[BaseModel], fault: ErrorDetails) -> str:
    path = _path(fault["loc"])
    if fault["type"] == "extra_forbidden":
        owner = _find_owner(model, fault["loc"][:-1])
        where = _path(fault["loc"][:-1])
        name = str(fault["loc"][-1])
        suggestion = suggest_field(model, owner, name)
        message = UnknownName(_kind(owner), name, owner.model_fields, suggestion=suggestion).message
        return f"{where}: {message}" if where else message
    if fault["type"] == "missing":
        return f"{path} is missing"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{path}: {message}" if path else message
    if fault["input"] == "auto" and _may_be_left_out(model, fault["loc"]):
        return f"{path}: 'auto' is written by leaving {path} out: the backend then chooses"
    message = message.removeprefix("Input should be ").partition(", unable to parse")[0]
    return f"{path} must be {message}, not {_short(fault['input'])}"


def _may_be_left_out(model: type[BaseModel], loc: Sequence[int | str]) -> bool:
    field = _find_owner(model, loc[:-1]).model_fields.get(str(loc[-1]))
    return field is not None and not field.is_required() and field.default is None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _path(loc: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in loc)


def _kind(model: type[BaseModel]) -> str:
    return str(getattr(model, "__field_word__", "field"))


def _find_owner(model: type[BaseModel], loc: Sequence[int | str]) -> type[BaseModel]:
    """Return the model that owns the field at `loc`, walking through `dict[str, Model]` and optional fields."""
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
            if inner := _inner_model(argument):
                return inner
    return None
