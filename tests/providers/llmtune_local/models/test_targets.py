"""A preset means the same in every family, says what it leaves out, and PEFT puts the adapter where it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("peft")

import peft
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from llmtune.errors import InvalidJob
from llmtune_local.models.peft_adapter import make_adapter
from llmtune_local.models.targets import Targets, select_targets, zero_tensors
from llmtune_local.run_state.schema import RunRequest

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
EXPERTS: dict[str, Any] = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
DEEPSEEK: dict[str, Any] = EXPERTS | {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_key_value_heads": 4,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
MAMBA: dict[str, Any] = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def build(family: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    shape = MAMBA if family == "mamba" else SHAPE
    config = AutoConfig.for_model(family, **(shape | settings))
    return AutoModelForCausalLM.from_config(config).requires_grad_(False).eval()


def build_vlm() -> Any:
    torch.manual_seed(0)
    text = SHAPE | {"head_dim": 8, "vocab_size": 300}
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=VISION, mm_tokens_per_image=4)
    return AutoModelForImageTextToText.from_config(config).requires_grad_(False).eval()


def adapt(model: Any, targets: Targets, **request: Any) -> Any:
    body: dict[str, Any] = {"model": "tiny", "files": {"train": "x"}, "hyperparameters": {}}
    body["hyperparameters"] = {"epochs": 1, "batch_size": 2, "learning_rate": 1e-2, "lora_rank": 4}
    return make_adapter(model, RunRequest.model_validate(body | request), targets)


def leaves(targets: Targets) -> set[str]:
    return {name.rpartition(".")[2] for name in targets.modules}


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("qwen3_moe", EXPERTS | {"num_experts": 4, "head_dim": 8}),
        ("mixtral", {"num_local_experts": 4}),
        ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
        ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}),
        ("deepseek_v3", DEEPSEEK),
    ],
)
def test_routed_experts_are_left_out_and_named_when_wanted(family: str, settings: dict[str, Any]) -> None:
    model = build(family, **settings)
    targets = select_targets(model, "all-linear")
    (note,) = targets.notes
    assert "not on the routed experts (4 per layer; lora_target_modules: [experts] names them) and their router" in note
    assert not any("experts." in name and "shared" not in name for name in (*targets.modules, *targets.parameters))
    named = select_targets(model, ["q_proj" if family != "deepseek_v3" else "o_proj", "experts"])
    assert {name.rpartition(".")[2] for name in named.parameters} == {"gate_up_proj", "down_proj"}
    tuned = adapt(model, named)
    assert any("experts" in name for name, _ in tuned.named_parameters() if "lora_A" in name)
    assert "experts.gate_up_proj" in named.notes[0]


def test_names_of_a_checkpoint_mean_the_experts() -> None:
    model = build("qwen3_moe", **EXPERTS, num_experts=4, head_dim=8)
    targets = select_targets(model, ["gate_proj", "up_proj", "down_proj"])
    assert not targets.modules
    assert {name.rpartition(".")[2] for name in targets.parameters} == {"gate_up_proj", "down_proj"}
    with pytest.raises(
        InvalidJob, match=r"no linear layer for the preset 'mlp' beside the routed experts \(4 per layer"
    ):
        select_targets(model, "mlp")
    with pytest.raises(InvalidJob, match="the router of the experts"):
        select_targets(model, ["mlp.gate"])
    with pytest.raises(InvalidJob, match="without lora_dropout"):
        select_targets(model, ["experts"], plain=False)


def test_the_linear_layers_asked_for_get_the_adapter_and_no_expert_does(tmp_path: Path) -> None:
    """PEFT takes the names of the dense and the shared layers for those of experts, and would adapt these instead."""
    model = build("deepseek_v3", **DEEPSEEK)
    targets = select_targets(model, "all-linear")
    assert {"model.layers.0.mlp.gate_proj.weight", "model.layers.1.mlp.shared_experts.down_proj.weight"} <= set(
        targets.parameters
    )
    tuned = adapt(model, targets)
    names = [name for name, _ in tuned.named_parameters() if "lora_A" in name]
    assert sum("layers.0.mlp" in name for name in names) == 3
    assert sum("shared_experts" in name for name in names) == 3
    assert not any(".experts." in name for name in names)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.arange(9).unsqueeze(0)
    expected = tuned.eval()(input_ids=ids).logits
    tuned.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(build("deepseek_v3", **DEEPSEEK), tmp_path).eval()
    torch.testing.assert_close(again(input_ids=ids).logits, expected)
    torch.testing.assert_close(again.merge_and_unload()(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-5)


def test_layers_that_only_plain_lora_can_reach_are_left_out_and_named_otherwise() -> None:
    targets = select_targets(build("deepseek_v3", **DEEPSEEK), "all-linear", plain=False)
    assert not targets.parameters
    assert "down_proj, gate_proj, up_proj (PEFT takes them for experts unless" in targets.notes[0]


@pytest.mark.parametrize("preset", ["all-linear", "mlp"])
def test_what_peft_refuses_is_left_out_of_a_preset(preset: str) -> None:
    model = build("mamba")
    targets = select_targets(model, preset)
    assert leaves(targets) == {"in_proj", "x_proj"}
    assert "not on dt_proj (the model reads its weight past an adapter)" in targets.notes[0]
    with pytest.raises(InvalidJob, match="would learn nothing there"):
        select_targets(model, ["dt_proj"])
    assert "not on out_proj (PEFT takes no adapter there in mamba models)" in targets.notes[0]
    assert adapt(model, targets)
    with pytest.raises(InvalidJob, match="PEFT takes no adapter on out_proj in mamba models"):
        select_targets(model, ["in_proj", "out_proj"])


def test_of_a_model_of_text_and_images_the_text_part_alone_is_adapted() -> None:
    model = build_vlm()
    targets = select_targets(model, "all-linear")
    assert targets.modules
    assert all(".language_model." in name for name in targets.modules)
    assert "not on what is outside of the text model (vision_tower" in targets.notes[0]
    assert all("language_model" in name for name, _ in adapt(model, targets).named_parameters() if "lora" in name)
    assert select_targets(model, ["q_proj"]).modules == tuple(n for n in targets.modules if n.endswith("q_proj"))
    with pytest.raises(InvalidJob, match=r"'fc1' is outside of the text model \(vision_tower\)"):
        select_targets(model, ["fc1"])


def test_matrices_that_are_still_zero_are_found() -> None:
    tuned = adapt(build("llama"), select_targets(build("llama"), "attention"))
    assert len(zero_tensors(tuned)) == 8
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name and "k_proj" not in name:
            torch.nn.init.ones_(parameter)
    assert [name.rpartition("self_attn.")[2] for name in zero_tensors(tuned)] == ["k_proj.lora_B.weight"] * 2


def test_plan_says_what_the_adapter_will_cover_and_start_refuses_before_anything_begins(tmp_path: Path) -> None:
    from llmtune import TuningJob, plan, start
    from llmtune_local.models.hub import locate

    folder = tmp_path / "model"
    build("mamba", vocab_size=700, bos_token_id=None, eos_token_id=None).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((Path(locate("tiny")) / name).read_bytes())
    rows = tmp_path / "rows.jsonl"
    row = '{"messages": [{"role": "user", "content": "%d"}, {"role": "assistant", "content": "b"}]}\n'
    rows.write_text("".join(row % number for number in range(20)))
    job = TuningJob.model_validate(
        {"name": "t", "dataset": str(rows), "model": str(folder), "adapter": "lora"}
        | {"provider_options": {"local": {"device": "cpu", "num_threads": 1}}}
    )
    (note,) = [line for line in plan(job, "local").warnings if "the adapter is on" in line]
    assert "not on out_proj (PEFT takes no adapter there in mamba models)" in note
    named = job.model_validate(job.model_dump() | {"hyperparameters": {"lora_target_modules": ["out_proj"]}})
    (note,) = [line for line in plan(named, "local").warnings if "will be refused" in line]
    assert "PEFT takes no adapter on out_proj" in note
    with pytest.raises(InvalidJob, match="PEFT takes no adapter on out_proj"):
        start(named, "local").wait(timeout=60)
    assert not any("adapter is on" in line for line in plan(job.model_copy(update={"model": "tiny"}), "local").warnings)


def test_a_model_of_text_and_images_is_loaded_under_the_names_it_is_published_with(tmp_path: Path) -> None:
    from llmtune_local.models.hub import load_config
    from llmtune_local.models.loading import load_base

    build_vlm().save_pretrained(tmp_path)
    assert load_config(str(tmp_path)).model_type == "gemma3"
    loaded = load_base(str(tmp_path), None, dtype=torch.float32, device="cpu")
    assert type(loaded).__name__ == "Gemma3ForConditionalGeneration"


def test_an_encoder_decoder_is_refused_for_what_it_is(tmp_path: Path) -> None:
    from llmtune_local.models.hub import load_config

    AutoConfig.for_model("t5").save_pretrained(tmp_path)
    with pytest.raises(InvalidJob, match="an encoder and a decoder: decoder-only models"):
        load_config(str(tmp_path))
