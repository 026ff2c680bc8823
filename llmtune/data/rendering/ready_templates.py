"""Chat templates by name, each with its source, for models without one or whose own one cannot be trained on.

The formats are the model makers' own (`plain` is ours). The templates are written so that every assistant turn begins
with what inference sends and ends in a token that ends a turn, reasoning is kept, and no text of a turn is left out.
None renders tools. Where a format has no system role, a system turn is put at the beginning of the first user turn.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class ReadyTemplate(NamedTuple):
    """A template by name. `end` is the token that ends a turn, which a tokenizer must have; empty where the tokenizer's
    own end of text does. `source` is where the format is described."""

    name: str
    end: str
    source: str
    template: str


#: Collects the system turns in `ns.system`, for formats without such a role.
_FOLD = (
    "{%- set ns = namespace(system='') -%}"
    "{%- for message in messages if message.role == 'system' -%}"
    "{%- set ns.system = ns.system + message.content + '\\n\\n' -%}"
    "{%- endfor -%}"
)
_USER = "{%- if message.role == 'user' -%}"
_CONTENT = "{{- ns.system + message.content -}}{%- set ns.system = '' -%}"

TEMPLATES: tuple[ReadyTemplate, ...] = (
    ReadyTemplate(
        "chatml",
        "<|im_end|>",
        "https://huggingface.co/Qwen/Qwen2.5-0.5B-Instruct (tokenizer_config.json; SmolLM and others use it, too)",
        "{%- for message in messages -%}"
        "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}",
    ),
    ReadyTemplate(
        "llama3",
        "<|eot_id|>",
        "https://www.llama.com/docs/model-cards-and-prompt-formats/meta-llama-3/",
        "{{- bos_token -}}"
        "{%- for message in messages -%}"
        "{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content + '<|eot_id|>' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}{%- endif -%}",
    ),
    ReadyTemplate(
        "gemma",
        "<end_of_turn>",
        "https://ai.google.dev/gemma/docs/core/prompt-structure (no system role: it goes into the first user turn)",
        "{{- bos_token -}}"
        + _FOLD
        + "{%- for message in messages if message.role != 'system' -%}"
        + _USER
        + "{{- '<start_of_turn>user\\n' -}}"
        + _CONTENT
        + "{{- '<end_of_turn>\\n' -}}"
        "{%- else -%}{{- '<start_of_turn>model\\n' + message.content + '<end_of_turn>\\n' -}}{%- endif -%}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<start_of_turn>model\\n' -}}{%- endif -%}",
    ),
    ReadyTemplate(
        "deepseek-r1",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "https://huggingface.co/deepseek-ai/DeepSeek-R1-Distill-Qwen-7B (tokenizer_config.json; its own template takes"
        " the reasoning away)",
        "{{- bos_token -}}"
        "{%- for message in messages -%}"
        "{%- if message.role == 'user' -%}{{- '<\uff5cUser\uff5c>' + message.content -}}"
        "{%- elif message.role == 'assistant' -%}{{- '<\uff5cAssistant\uff5c>' -}}"
        "{%- if message.reasoning_content -%}{{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' -}}"
        "{%- endif -%}{{- message.content + eos_token -}}"
        "{%- else -%}{{- message.content -}}{%- endif -%}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<\uff5cAssistant\uff5c>' -}}{%- endif -%}",
    ),
    ReadyTemplate(
        "plain",
        "",
        "https://github.com/lm-sys/FastChat (our own, with the roles of Vicuna 1.1, each turn on lines of its own: it"
        " needs no token but the end of text, so it fits any base model)",
        "{{- bos_token if bos_token else '' -}}"
        "{%- for message in messages -%}"
        "{%- if message.role == 'user' -%}{{- 'USER: ' + message.content + '\\n' -}}"
        "{%- elif message.role == 'assistant' -%}{{- 'ASSISTANT:\\n' + message.content + eos_token + '\\n' -}}"
        "{%- else -%}{{- message.content + '\\n\\n' -}}{%- endif -%}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- 'ASSISTANT:\\n' -}}{%- endif -%}",
    ),
    ReadyTemplate(
        "alpaca",
        "",
        "https://github.com/tatsu-lab/stanford_alpaca#data-release (needs no token but the end of text)",
        "{{- bos_token if bos_token else '' -}}"
        "{%- for message in messages -%}"
        "{%- if message.role == 'user' -%}{{- '### Instruction:\\n' + message.content + '\\n\\n' -}}"
        "{%- elif message.role == 'assistant' -%}{{- '### Response:\\n' + message.content + eos_token + '\\n\\n' -}}"
        "{%- else -%}{{- message.content + '\\n\\n' -}}{%- endif -%}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '### Response:\\n' -}}{%- endif -%}",
    ),
)
_BY_NAME = {ready.name: ready for ready in TEMPLATES}


def resolve_template(template: str) -> str:
    """Return the Jinja text of a template: of the ready one of that name, or the text itself."""
    ready = _BY_NAME.get(template.strip())
    return template if ready is None else ready.template


def suggest_template(tokenizer: Any) -> str:
    """Return the name of the first ready template whose end-of-turn token the tokenizer has; `plain` if none."""
    tokens = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    return next((ready.name for ready in TEMPLATES if ready.end in tokens), "plain")
