"""What the core and every backend share: everything that the author of a provider needs.

docs/plugin.md builds a provider from these names. Importing this package imports none of its modules."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

#: Where each name is defined; it is imported when it is first used.
_HOME = {
    "Abilities": "llmtune.provider.limits",
    "Ability": "llmtune.provider.limits",
    "ProviderSettings": "llmtune.provider.types",
    "AnyRef": "llmtune.provider.types",
    "AnyValue": "llmtune.provider.values",
    "BARE": "llmtune.provider.base",
    "BaseGenerator": "llmtune.provider.chat",
    "BaseProvider": "llmtune.provider.base",
    "Billed": "llmtune.provider.types",
    "Bool": "llmtune.provider.values",
    "CHAT_FIELDS": "llmtune.provider.chat",
    "Capabilities": "llmtune.provider.declarations",
    "Catalog": "llmtune.provider.catalog",
    "ConvertedValue": "llmtune.provider.declarations",
    "ChatGenerator": "llmtune.provider.chat",
    "CheckResult": "llmtune.provider.abilities",
    "Choice": "llmtune.provider.values",
    "Client": "llmtune.provider.http",
    "NOT_FOLLOWED": "llmtune.provider.http",
    "check_vendor_url": "llmtune.provider.http",
    "bound_answer": "llmtune.provider.http",
    "join_within_bounds": "llmtune.provider.http",
    "bound_requests_answer": "llmtune.provider.http",
    "bound_body": "llmtune.provider.http",
    "clean_content": "llmtune.provider.vendor_json",
    "keep_redirects_home": "llmtune.provider.http",
    "load_json": "llmtune.provider.vendor_json",
    "OptionalReads": "llmtune.provider.base",
    "count_pages": "llmtune.provider.sdk",
    "read_within_bounds": "llmtune.provider.vendor_json",
    "SupportsContinuation": "llmtune.provider.abilities",
    "SupportsDeploymentCheck": "llmtune.provider.abilities",
    "Converted": "llmtune.provider.declarations",
    "CostEstimate": "llmtune.provider.cost",
    "CostLine": "llmtune.provider.cost",
    "Credentials": "llmtune.provider.base",
    "Cursor": "llmtune.provider.types",
    "DECLARED_FIELDS": "llmtune.provider.declarations",
    "DatasetStatus": "llmtune.provider.receipt",
    "Dataset": "llmtune.data.dataset",
    "Declaration": "llmtune.provider.declarations",
    "Declarations": "llmtune.provider.declarations",
    "DeploymentRef": "llmtune.provider.types",
    "EncodedDataset": "llmtune.provider.types",
    "EncodedFile": "llmtune.provider.types",
    "EpochRange": "llmtune.provider.limits",
    "HasCatalog": "llmtune.provider.abilities",
    "HasLivePrices": "llmtune.provider.abilities",
    "PriceAnswer": "llmtune.provider.abilities",
    "DescribesHardware": "llmtune.provider.abilities",
    "Duration": "llmtune.provider.duration",
    "Event": "llmtune.provider.types",
    "Sample": "llmtune.metrics.samples",
    "ExportFormat": "llmtune.provider.abilities",
    "Exporting": "llmtune.provider.abilities",
    "ExportsForServers": "llmtune.provider.abilities",
    "Precision": "llmtune.provider.abilities",
    "ServedExport": "llmtune.provider.abilities",
    "ServerFormat": "llmtune.provider.abilities",
    "ImportsWeights": "llmtune.provider.abilities",
    "WeightImport": "llmtune.provider.abilities",
    "WritesGraders": "llmtune.provider.abilities",
    "ConversionContext": "llmtune.provider.declarations",
    "FieldReceipt": "llmtune.provider.receipt",
    "Files": "llmtune.provider.types",
    "Float": "llmtune.provider.values",
    "FindSpeed": "llmtune.provider.duration",
    "FindsModels": "llmtune.provider.abilities",
    "Footprint": "llmtune.provider.memory",
    "MemoryPart": "llmtune.provider.memory",
    "FunctionGenerator": "llmtune.provider.chat",
    "GENERATION_FIELDS": "llmtune.provider.declarations",
    "Generation": "llmtune.provider.generation",
    "GenerationRequest": "llmtune.provider.generation",
    "Generator": "llmtune.provider.generation",
    "Inherent": "llmtune.provider.declarations",
    "Int": "llmtune.provider.values",
    "JOB_FIELDS": "llmtune.provider.declarations",
    "JobRef": "llmtune.provider.types",
    "KeepsDecisionRules": "llmtune.provider.abilities",
    "LabelScorer": "llmtune.provider.generation",
    "Lifecycle": "llmtune.provider.limits",
    "LifecycleStatus": "llmtune.provider.receipt",
    "Limits": "llmtune.provider.limits",
    "MappingValue": "llmtune.provider.values",
    "MeasuredSpeed": "llmtune.provider.duration",
    "MetricPoint": "llmtune.metrics.points",
    "ModelEntry": "llmtune.provider.catalog",
    "ModelRef": "llmtune.provider.types",
    "NOT_PUBLISHED": "llmtune.provider.declarations",
    "NOT_YET_METHODS": "llmtune.provider.limits",
    "NotOffered": "llmtune.provider.limits",
    "NotApplicable": "llmtune.provider.declarations",
    "ObjectStore": "llmtune.provider.object_store",
    "Options": "llmtune.provider.types",
    "JudgePlan": "llmtune.provider.receipt",
    "PanelPlan": "llmtune.provider.receipt",
    "Pausable": "llmtune.provider.abilities",
    "SupportsTokenPreview": "llmtune.provider.abilities",
    "Price": "llmtune.provider.limits",
    "Progress": "llmtune.provider.types",
    "Provider": "llmtune.provider.protocol",
    "Readiness": "llmtune.provider.types",
    "Receipt": "llmtune.provider.receipt",
    "Ref": "llmtune.provider.types",
    "NotConvertible": "llmtune.provider.declarations",
    "RemoteJob": "llmtune.provider.types",
    "RemoteModel": "llmtune.provider.types",
    "Request": "llmtune.provider.types",
    "Requirement": "llmtune.provider.types",
    "Resumable": "llmtune.provider.abilities",
    "Rule": "llmtune.provider.declarations",
    "RunKey": "llmtune.provider.types",
    "RunState": "llmtune.provider.types",
    "SelfChecking": "llmtune.provider.abilities",
    "Sent": "llmtune.provider.declarations",
    "ServiceSettings": "llmtune.provider.base",
    "Snapshot": "llmtune.provider.types",
    "StoredUploads": "llmtune.provider.object_store",
    "Streaming": "llmtune.provider.generation",
    "Settling": "llmtune.provider.types",
    "Span": "llmtune.provider.duration",
    "SubmitSafety": "llmtune.provider.types",
    "Support": "llmtune.provider.declarations",
    "SupportsPlanNotes": "llmtune.provider.abilities",
    "SupportsTimeEstimate": "llmtune.provider.abilities",
    "SupportsCostEstimate": "llmtune.provider.abilities",
    "ListsStrays": "llmtune.provider.abilities",
    "SuggestsMachine": "llmtune.provider.abilities",
    "Tags": "llmtune.provider.values",
    "Target": "llmtune.provider.types",
    "Text": "llmtune.provider.values",
    "TokenScorer": "llmtune.provider.generation",
    "AnswerLikelihood": "llmtune.provider.generation",
    "AnswerScorer": "llmtune.provider.generation",
    "RenderedPrompt": "llmtune.provider.abilities",
    "PromptRenderer": "llmtune.provider.abilities",
    "RendersPrompts": "llmtune.provider.abilities",
    "TokenStats": "llmtune.metrics.points",
    "Unavailable": "llmtune.provider.generation",
    "Unsupported": "llmtune.provider.declarations",
    "UploadRef": "llmtune.provider.types",
    "ValueType": "llmtune.provider.values",
    "SuggestsAdapter": "llmtune.provider.abilities",
    "SuggestsModels": "llmtune.provider.abilities",
    "ModelSuggestion": "llmtune.provider.abilities",
    "SupportsWarmStart": "llmtune.provider.abilities",
    "SupportsMemoryEstimate": "llmtune.provider.abilities",
    "chat_message": "llmtune.provider.chat",
    "count_from_interval": "llmtune.provider.conversions",
    "deep_merge": "llmtune.provider.receipt",
    "deprecated": "llmtune.deprecation",
    "encode_dataset": "llmtune.provider.encoding",
    "epochs_from_steps": "llmtune.provider.conversions",
    "get_provider": "llmtune.provider.registry",
    "growing_pauses": "llmtune.provider.sdk",
    "ignore_not_found": "llmtune.provider.sdk",
    "max_steps_as_epochs": "llmtune.provider.conversions",
    "may_have_arrived": "llmtune.provider.http",
    "multiplier_as_rate": "llmtune.provider.conversions",
    "multiplier_from_rate": "llmtune.provider.conversions",
    "nearest_size": "llmtune.provider.conversions",
    "only_new_events": "llmtune.provider.reading",
    "open_providers": "llmtune.provider.registry",
    "rate_from_multiplier": "llmtune.provider.conversions",
    "ratio_from_steps": "llmtune.provider.conversions",
    "read_completion": "llmtune.provider.chat",
    "read_each": "llmtune.provider.sdk",
    "read_number": "llmtune.provider.reading",
    "read_state": "llmtune.provider.reading",
    "read_values": "llmtune.provider.reading",
    "refused_answer": "llmtune.provider.http",
    "retry_after": "llmtune.provider.http",
    "sampling_settings": "llmtune.provider.chat",
    "steps_from_ratio": "llmtune.provider.conversions",
    "steps_per_epoch": "llmtune.provider.conversions",
    "total_steps": "llmtune.provider.conversions",
    "train_on_inputs": "llmtune.provider.conversions",
    "translate_errors": "llmtune.provider.sdk",
    "unix_seconds": "llmtune.provider.reading",
    "whole_number": "llmtune.provider.conversions",
}

__all__ = [
    "BARE",
    "CHAT_FIELDS",
    "DECLARED_FIELDS",
    "GENERATION_FIELDS",
    "JOB_FIELDS",
    "NOT_PUBLISHED",
    "NOT_YET_METHODS",
    "Abilities",
    "Ability",
    "AnswerLikelihood",
    "AnswerScorer",
    "AnyRef",
    "AnyValue",
    "BaseGenerator",
    "BaseProvider",
    "Billed",
    "Bool",
    "Capabilities",
    "Catalog",
    "ChatGenerator",
    "CheckResult",
    "Choice",
    "Client",
    "ConversionContext",
    "Converted",
    "ConvertedValue",
    "CostEstimate",
    "CostLine",
    "Credentials",
    "Cursor",
    "Dataset",
    "DatasetStatus",
    "Declaration",
    "Declarations",
    "DeploymentRef",
    "DescribesHardware",
    "Duration",
    "EncodedDataset",
    "EncodedFile",
    "EpochRange",
    "Event",
    "ExportFormat",
    "Exporting",
    "ExportsForServers",
    "FieldReceipt",
    "Files",
    "FindSpeed",
    "FindsModels",
    "Float",
    "Footprint",
    "FunctionGenerator",
    "Generation",
    "GenerationRequest",
    "Generator",
    "ImportsWeights",
    "Inherent",
    "Int",
    "JobRef",
    "JudgePlan",
    "KeepsDecisionRules",
    "LabelScorer",
    "Lifecycle",
    "LifecycleStatus",
    "Limits",
    "ListsStrays",
    "MappingValue",
    "MeasuredSpeed",
    "MemoryPart",
    "MetricPoint",
    "ModelEntry",
    "ModelRef",
    "ModelSuggestion",
    "NotApplicable",
    "NotConvertible",
    "NotOffered",
    "ObjectStore",
    "Options",
    "PanelPlan",
    "Pausable",
    "Price",
    "Progress",
    "PromptRenderer",
    "Provider",
    "ProviderSettings",
    "Readiness",
    "Receipt",
    "Ref",
    "RemoteJob",
    "RemoteModel",
    "RenderedPrompt",
    "RendersPrompts",
    "Request",
    "Requirement",
    "Resumable",
    "Rule",
    "RunKey",
    "RunState",
    "Sample",
    "SelfChecking",
    "Sent",
    "ServedExport",
    "ServiceSettings",
    "Settling",
    "Snapshot",
    "Span",
    "StoredUploads",
    "Streaming",
    "SubmitSafety",
    "SuggestsAdapter",
    "SuggestsMachine",
    "SuggestsModels",
    "Support",
    "SupportsContinuation",
    "SupportsCostEstimate",
    "SupportsDeploymentCheck",
    "SupportsMemoryEstimate",
    "SupportsPlanNotes",
    "SupportsTimeEstimate",
    "SupportsTokenPreview",
    "SupportsWarmStart",
    "Tags",
    "Target",
    "Text",
    "TokenScorer",
    "TokenStats",
    "Unavailable",
    "Unsupported",
    "UploadRef",
    "ValueType",
    "WeightImport",
    "WritesGraders",
    "chat_message",
    "count_from_interval",
    "deep_merge",
    "deprecated",
    "encode_dataset",
    "epochs_from_steps",
    "get_provider",
    "growing_pauses",
    "ignore_not_found",
    "max_steps_as_epochs",
    "may_have_arrived",
    "multiplier_as_rate",
    "multiplier_from_rate",
    "nearest_size",
    "only_new_events",
    "open_providers",
    "rate_from_multiplier",
    "ratio_from_steps",
    "read_completion",
    "read_each",
    "read_number",
    "read_state",
    "read_values",
    "refused_answer",
    "retry_after",
    "sampling_settings",
    "steps_from_ratio",
    "steps_per_epoch",
    "total_steps",
    "train_on_inputs",
    "translate_errors",
    "unix_seconds",
    "whole_number",
]

if TYPE_CHECKING:
    from llmtune.data.dataset import Dataset as Dataset
    from llmtune.deprecation import deprecated as deprecated
    from llmtune.metrics.points import MetricPoint as MetricPoint
    from llmtune.metrics.points import TokenStats as TokenStats
    from llmtune.metrics.samples import Sample as Sample
    from llmtune.provider.abilities import CheckResult as CheckResult
    from llmtune.provider.abilities import DescribesHardware as DescribesHardware
    from llmtune.provider.abilities import ExportFormat as ExportFormat
    from llmtune.provider.abilities import Exporting as Exporting
    from llmtune.provider.abilities import ExportsForServers as ExportsForServers
    from llmtune.provider.abilities import FindsModels as FindsModels
    from llmtune.provider.abilities import HasCatalog as HasCatalog
    from llmtune.provider.abilities import HasLivePrices as HasLivePrices
    from llmtune.provider.abilities import ImportsWeights as ImportsWeights
    from llmtune.provider.abilities import KeepsDecisionRules as KeepsDecisionRules
    from llmtune.provider.abilities import ListsStrays as ListsStrays
    from llmtune.provider.abilities import ModelSuggestion as ModelSuggestion
    from llmtune.provider.abilities import Pausable as Pausable
    from llmtune.provider.abilities import Precision as Precision
    from llmtune.provider.abilities import PriceAnswer as PriceAnswer
    from llmtune.provider.abilities import PromptRenderer as PromptRenderer
    from llmtune.provider.abilities import RenderedPrompt as RenderedPrompt
    from llmtune.provider.abilities import RendersPrompts as RendersPrompts
    from llmtune.provider.abilities import Resumable as Resumable
    from llmtune.provider.abilities import SelfChecking as SelfChecking
    from llmtune.provider.abilities import ServedExport as ServedExport
    from llmtune.provider.abilities import ServerFormat as ServerFormat
    from llmtune.provider.abilities import SuggestsAdapter as SuggestsAdapter
    from llmtune.provider.abilities import SuggestsMachine as SuggestsMachine
    from llmtune.provider.abilities import SuggestsModels as SuggestsModels
    from llmtune.provider.abilities import SupportsContinuation as SupportsContinuation
    from llmtune.provider.abilities import SupportsCostEstimate as SupportsCostEstimate
    from llmtune.provider.abilities import SupportsDeploymentCheck as SupportsDeploymentCheck
    from llmtune.provider.abilities import SupportsMemoryEstimate as SupportsMemoryEstimate
    from llmtune.provider.abilities import SupportsPlanNotes as SupportsPlanNotes
    from llmtune.provider.abilities import SupportsTimeEstimate as SupportsTimeEstimate
    from llmtune.provider.abilities import SupportsTokenPreview as SupportsTokenPreview
    from llmtune.provider.abilities import SupportsWarmStart as SupportsWarmStart
    from llmtune.provider.abilities import WeightImport as WeightImport
    from llmtune.provider.abilities import WritesGraders as WritesGraders
    from llmtune.provider.base import BARE as BARE
    from llmtune.provider.base import BaseProvider as BaseProvider
    from llmtune.provider.base import Credentials as Credentials
    from llmtune.provider.base import OptionalReads as OptionalReads
    from llmtune.provider.base import ServiceSettings as ServiceSettings
    from llmtune.provider.catalog import Catalog as Catalog
    from llmtune.provider.catalog import ModelEntry as ModelEntry
    from llmtune.provider.chat import CHAT_FIELDS as CHAT_FIELDS
    from llmtune.provider.chat import BaseGenerator as BaseGenerator
    from llmtune.provider.chat import ChatGenerator as ChatGenerator
    from llmtune.provider.chat import FunctionGenerator as FunctionGenerator
    from llmtune.provider.chat import chat_message as chat_message
    from llmtune.provider.chat import read_completion as read_completion
    from llmtune.provider.chat import sampling_settings as sampling_settings
    from llmtune.provider.conversions import count_from_interval as count_from_interval
    from llmtune.provider.conversions import epochs_from_steps as epochs_from_steps
    from llmtune.provider.conversions import max_steps_as_epochs as max_steps_as_epochs
    from llmtune.provider.conversions import multiplier_as_rate as multiplier_as_rate
    from llmtune.provider.conversions import multiplier_from_rate as multiplier_from_rate
    from llmtune.provider.conversions import nearest_size as nearest_size
    from llmtune.provider.conversions import rate_from_multiplier as rate_from_multiplier
    from llmtune.provider.conversions import ratio_from_steps as ratio_from_steps
    from llmtune.provider.conversions import steps_from_ratio as steps_from_ratio
    from llmtune.provider.conversions import steps_per_epoch as steps_per_epoch
    from llmtune.provider.conversions import total_steps as total_steps
    from llmtune.provider.conversions import train_on_inputs as train_on_inputs
    from llmtune.provider.conversions import whole_number as whole_number
    from llmtune.provider.cost import CostEstimate as CostEstimate
    from llmtune.provider.cost import CostLine as CostLine
    from llmtune.provider.declarations import DECLARED_FIELDS as DECLARED_FIELDS
    from llmtune.provider.declarations import GENERATION_FIELDS as GENERATION_FIELDS
    from llmtune.provider.declarations import JOB_FIELDS as JOB_FIELDS
    from llmtune.provider.declarations import NOT_PUBLISHED as NOT_PUBLISHED
    from llmtune.provider.declarations import Capabilities as Capabilities
    from llmtune.provider.declarations import ConversionContext as ConversionContext
    from llmtune.provider.declarations import Converted as Converted
    from llmtune.provider.declarations import ConvertedValue as ConvertedValue
    from llmtune.provider.declarations import Declaration as Declaration
    from llmtune.provider.declarations import Declarations as Declarations
    from llmtune.provider.declarations import Inherent as Inherent
    from llmtune.provider.declarations import NotApplicable as NotApplicable
    from llmtune.provider.declarations import NotConvertible as NotConvertible
    from llmtune.provider.declarations import Rule as Rule
    from llmtune.provider.declarations import Sent as Sent
    from llmtune.provider.declarations import Support as Support
    from llmtune.provider.declarations import Unsupported as Unsupported
    from llmtune.provider.duration import Duration as Duration
    from llmtune.provider.duration import FindSpeed as FindSpeed
    from llmtune.provider.duration import MeasuredSpeed as MeasuredSpeed
    from llmtune.provider.duration import Span as Span
    from llmtune.provider.encoding import encode_dataset as encode_dataset
    from llmtune.provider.generation import AnswerLikelihood as AnswerLikelihood
    from llmtune.provider.generation import AnswerScorer as AnswerScorer
    from llmtune.provider.generation import Generation as Generation
    from llmtune.provider.generation import GenerationRequest as GenerationRequest
    from llmtune.provider.generation import Generator as Generator
    from llmtune.provider.generation import LabelScorer as LabelScorer
    from llmtune.provider.generation import Streaming as Streaming
    from llmtune.provider.generation import TokenScorer as TokenScorer
    from llmtune.provider.generation import Unavailable as Unavailable
    from llmtune.provider.http import NOT_FOLLOWED as NOT_FOLLOWED
    from llmtune.provider.http import Client as Client
    from llmtune.provider.http import bound_answer as bound_answer
    from llmtune.provider.http import bound_body as bound_body
    from llmtune.provider.http import bound_requests_answer as bound_requests_answer
    from llmtune.provider.http import check_vendor_url as check_vendor_url
    from llmtune.provider.http import join_within_bounds as join_within_bounds
    from llmtune.provider.http import keep_redirects_home as keep_redirects_home
    from llmtune.provider.http import may_have_arrived as may_have_arrived
    from llmtune.provider.http import refused_answer as refused_answer
    from llmtune.provider.http import retry_after as retry_after
    from llmtune.provider.limits import NOT_YET_METHODS as NOT_YET_METHODS
    from llmtune.provider.limits import Abilities as Abilities
    from llmtune.provider.limits import Ability as Ability
    from llmtune.provider.limits import EpochRange as EpochRange
    from llmtune.provider.limits import Lifecycle as Lifecycle
    from llmtune.provider.limits import Limits as Limits
    from llmtune.provider.limits import NotOffered as NotOffered
    from llmtune.provider.limits import Price as Price
    from llmtune.provider.memory import Footprint as Footprint
    from llmtune.provider.memory import MemoryPart as MemoryPart
    from llmtune.provider.object_store import ObjectStore as ObjectStore
    from llmtune.provider.object_store import StoredUploads as StoredUploads
    from llmtune.provider.protocol import Provider as Provider
    from llmtune.provider.reading import only_new_events as only_new_events
    from llmtune.provider.reading import read_number as read_number
    from llmtune.provider.reading import read_state as read_state
    from llmtune.provider.reading import read_values as read_values
    from llmtune.provider.reading import unix_seconds as unix_seconds
    from llmtune.provider.receipt import DatasetStatus as DatasetStatus
    from llmtune.provider.receipt import FieldReceipt as FieldReceipt
    from llmtune.provider.receipt import JudgePlan as JudgePlan
    from llmtune.provider.receipt import LifecycleStatus as LifecycleStatus
    from llmtune.provider.receipt import PanelPlan as PanelPlan
    from llmtune.provider.receipt import Receipt as Receipt
    from llmtune.provider.receipt import deep_merge as deep_merge
    from llmtune.provider.registry import get_provider as get_provider
    from llmtune.provider.registry import open_providers as open_providers
    from llmtune.provider.sdk import count_pages as count_pages
    from llmtune.provider.sdk import growing_pauses as growing_pauses
    from llmtune.provider.sdk import ignore_not_found as ignore_not_found
    from llmtune.provider.sdk import read_each as read_each
    from llmtune.provider.sdk import translate_errors as translate_errors
    from llmtune.provider.types import AnyRef as AnyRef
    from llmtune.provider.types import Billed as Billed
    from llmtune.provider.types import Cursor as Cursor
    from llmtune.provider.types import DeploymentRef as DeploymentRef
    from llmtune.provider.types import EncodedDataset as EncodedDataset
    from llmtune.provider.types import EncodedFile as EncodedFile
    from llmtune.provider.types import Event as Event
    from llmtune.provider.types import Files as Files
    from llmtune.provider.types import JobRef as JobRef
    from llmtune.provider.types import ModelRef as ModelRef
    from llmtune.provider.types import Options as Options
    from llmtune.provider.types import Progress as Progress
    from llmtune.provider.types import ProviderSettings as ProviderSettings
    from llmtune.provider.types import Readiness as Readiness
    from llmtune.provider.types import Ref as Ref
    from llmtune.provider.types import RemoteJob as RemoteJob
    from llmtune.provider.types import RemoteModel as RemoteModel
    from llmtune.provider.types import Request as Request
    from llmtune.provider.types import Requirement as Requirement
    from llmtune.provider.types import RunKey as RunKey
    from llmtune.provider.types import RunState as RunState
    from llmtune.provider.types import Settling as Settling
    from llmtune.provider.types import Snapshot as Snapshot
    from llmtune.provider.types import SubmitSafety as SubmitSafety
    from llmtune.provider.types import Target as Target
    from llmtune.provider.types import UploadRef as UploadRef
    from llmtune.provider.values import AnyValue as AnyValue
    from llmtune.provider.values import Bool as Bool
    from llmtune.provider.values import Choice as Choice
    from llmtune.provider.values import Float as Float
    from llmtune.provider.values import Int as Int
    from llmtune.provider.values import MappingValue as MappingValue
    from llmtune.provider.values import Tags as Tags
    from llmtune.provider.values import Text as Text
    from llmtune.provider.values import ValueType as ValueType
    from llmtune.provider.vendor_json import clean_content as clean_content
    from llmtune.provider.vendor_json import load_json as load_json
    from llmtune.provider.vendor_json import read_within_bounds as read_within_bounds


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
