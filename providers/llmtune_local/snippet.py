"""Python that loads a tuned model through transformers and PEFT, without llmtune."""

from __future__ import annotations

from pathlib import Path

from llmtune.provider import DeploymentRef, ModelRef


def snippet(ref: ModelRef | DeploymentRef) -> str:
    """A few lines that load the model and ask it something."""
    if ref.data.get("method") == "classification":
        return _classifier_snippet(ref)
    if (Path(ref.id) / "adapter_config.json").exists():
        load = (
            "from peft import AutoPeftModelForCausalLM\n\n"
            f"model = AutoPeftModelForCausalLM.from_pretrained({ref.id!r})\n"
        )
    else:
        load = (
            "from transformers import AutoModelForCausalLM\n\n"
            f"model = AutoModelForCausalLM.from_pretrained({ref.id!r})\n"
        )
    return (
        "from transformers import AutoTokenizer\n" + load + f"tokenizer = AutoTokenizer.from_pretrained({ref.id!r})\n"
        "inputs = tokenizer.apply_chat_template(\n"
        '    [{"role": "user", "content": "..."}], add_generation_prompt=True, return_tensors="pt"\n'
        ")\n"
        "answer = model.generate(**inputs, max_new_tokens=64)\n"
        'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))\n'
    )


def _classifier_snippet(ref: ModelRef | DeploymentRef) -> str:
    folder = Path(ref.id)
    whole = not (folder / "adapter_config.json").exists()
    library, name = ("transformers", "AutoModel") if whole else ("peft", "AutoPeftModel")
    count = "" if whole else ", num_labels=len(labels)"
    return (
        "import json, pathlib\n"
        "from transformers import AutoTokenizer\n"
        f"from {library} import {name}ForSequenceClassification\n\n"
        f"folder = pathlib.Path({ref.id!r})\n"
        'labels = json.loads((folder / "labels.json").read_text())["labels"]\n'
        f"model = {name}ForSequenceClassification.from_pretrained(folder{count}).eval()\n"
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        'logits = model(**tokenizer(["..."], return_tensors="pt")).logits\n'
        "print(labels[logits.argmax(-1).item()], logits.softmax(-1).tolist())\n"
    )
