"""Python that loads a tuned model through transformers and PEFT, without llmtune."""

from __future__ import annotations

from pathlib import Path

from llmtune.provider import DeploymentRef, ModelRef
from llmtune_local.models import shape
from llmtune_local.models.hub import saved_gguf
from llmtune_local.models.shape import reads_images


def snippet(ref: ModelRef | DeploymentRef) -> str:
    """Return a few lines of Python that load the model and ask it a question."""
    if ref.data.get("method") == "classification":
        return _classifier_snippet(ref)
    folder = Path(ref.id)
    ends = ""
    if (folder / "adapter_config.json").exists():
        load = (
            "from peft import AutoPeftModelForCausalLM\n\n"
            f"model = AutoPeftModelForCausalLM.from_pretrained({ref.id!r})\n"
        )
        gguf = saved_gguf(str(ref.data.get("model", "")))
        if gguf is not None:
            load = (
                "from transformers import AutoModelForCausalLM, GgufConfig\nfrom peft import PeftModel\n\n"
                f"base = AutoModelForCausalLM.from_pretrained(\n    {str(gguf.parent)!r}, gguf_file={gguf.name!r},"
                " quantization_config=GgufConfig(dequantize=True)\n)\n"
                f"model = PeftModel.from_pretrained(base, {ref.id!r})\n"
            )
        base = shape.find_model_folder(str(ref.data.get("model", "")), ref.data.get("revision"))
        if base is not None and shape.has_text_config(base):
            load = (
                "from transformers import AutoModelForImageTextToText\nfrom peft import PeftModel\n\n"
                f"base = AutoModelForImageTextToText.from_pretrained({ref.data['model']!r})\n"
                f"model = PeftModel.from_pretrained(base, {ref.id!r})\n"
            )
        # A whole model's folder names the tokens that end an answer; for an adapter, those of its base would be used.
        ends = f", eos_token_id={end_tokens}" if (end_tokens := shape.read_end_tokens(folder)) else ""
    else:
        name = "AutoModelForImageTextToText" if shape.has_text_config(folder) else "AutoModelForCausalLM"
        load = f"from transformers import {name}\n\nmodel = {name}.from_pretrained({ref.id!r})\n"
    if reads_images(folder):
        return (
            "from transformers import AutoProcessor  # some need torchvision, SmolVLM's num2words\n"
            + load
            + f"processor = AutoProcessor.from_pretrained({ref.id!r})\n"
            'parts = [{"type": "image", "path": "picture.png"}, {"type": "text", "text": "..."}]\n'
            "inputs = processor.apply_chat_template(\n"
            '    [{"role": "user", "content": parts}],\n'
            '    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",\n'
            ")\n"
            f"answer = model.generate(**inputs, max_new_tokens=64{ends})\n"
            'print(processor.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))\n'
        )
    return (
        "from transformers import AutoTokenizer\n" + load + f"tokenizer = AutoTokenizer.from_pretrained({ref.id!r})\n"
        "inputs = tokenizer.apply_chat_template(\n"
        '    [{"role": "user", "content": "..."}], add_generation_prompt=True, return_tensors="pt"\n'
        ")\n"
        f"answer = model.generate(**inputs, max_new_tokens=64{ends})\n"
        'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))\n'
    )


def _classifier_snippet(ref: ModelRef | DeploymentRef) -> str:
    folder = Path(ref.id)
    is_full_model = not (folder / "adapter_config.json").exists()
    library, name = ("transformers", "AutoModel") if is_full_model else ("peft", "AutoPeftModel")
    count = "" if is_full_model else ", num_labels=len(labels)"
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
