"""Exports of a real registered version, loaded as other tools load them."""

import json
import stat
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from tiny_models import write_tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from versions import Versions, make_versions

from orpo_pipeline.data.lineage import prepared_stages, stage_rows
from orpo_pipeline.data.row_lists import FACTS, keep_row_list
from orpo_pipeline.export import drift
from schemas.config import RunConfig
from schemas.errors import EnvironmentFault, UserError
from schemas.hardware import Probe
from tasks.export import Exported, ExportRequest, export_version

IDS = torch.arange(3, 33).view(1, 30)


@pytest.fixture(scope="module")
def nf4_versions(
    tiny_model: Path, probe: Probe, tmp_path_factory: pytest.TempPathFactory
) -> Versions:
    """A version that was trained on NF4 weights."""
    model = {"base_model": str(tiny_model), "quantization": "nf4", "dtype": "bfloat16"}
    versions = make_versions(tmp_path_factory.mktemp("nf4"), tiny_model, probe, model=model)
    versions.register(1)
    return versions


def run_export(versions: Versions, folder: Path, **wanted: Any) -> Exported:
    request = ExportRequest(folder, **wanted)
    return export_version(versions.config, versions.home, "1", request, lambda _: None)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS).logits.float()
    return found


def registered_logits(versions: Versions) -> torch.Tensor:
    """Of the adapter that was registered, on the base it was registered with."""
    from orpo_pipeline.training.qlora import attach_saved_adapter, load_base

    base = load_base(versions.prepared.base_model, versions.plan)
    return logits(attach_saved_adapter(base, versions.home / "adapters" / "adapter-1"))


def test_peft_loads_the_adapter_folder_as_it_is(two_versions: Versions, tmp_path: Path) -> None:
    done = run_export(two_versions, tmp_path / "out")
    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(logits(model), registered_logits(two_versions))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    base = two_versions.prepared.base_model
    assert config["base_model_name_or_path"] == str(base.path)
    assert config["revision"] == base.revision
    assert config["modules_to_save"] is None
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template and done.drift is None
    assert (tmp_path / "out" / "README.md").read_text().startswith("---\nbase_model: ")
    assert "serving.json" not in done.files


def test_merged_nf4_answers_as_its_adapter_did(nf4_versions: Versions, tmp_path: Path) -> None:
    done = run_export(nf4_versions, tmp_path / "out", merge=True, pairs=8)
    assert done.drift is not None and done.drift.pairs == 8
    assert done.drift.mean_kl < 0.005 and done.drift.pairs_from == "of its own data"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "bfloat16"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.dtype == torch.bfloat16
    ours = registered_logits(nf4_versions).log_softmax(-1)
    merged = logits(model).log_softmax(-1)
    original = logits(AutoModelForCausalLM.from_pretrained(nf4_versions.prepared.base_model.path))
    kl = (ours.exp() * (ours - merged)).sum(-1).mean()
    from_base = (ours.exp() * (ours - original.log_softmax(-1))).sum(-1).mean()
    assert kl < 0.005 < from_base  # the adapter is in the weights
    assert "merged onto the dequantised NF4" in (tmp_path / "out" / "README.md").read_text()
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [2]


def test_a_model_without_fused_attention_is_merged_and_answers(
    probe: Probe, tmp_path: Path
) -> None:
    """Gemma 2 caps its scores, for which transformers has eager attention alone."""
    gemma = write_tiny_model(tmp_path / "gemma", "Gemma2", head_dim=16)
    versions = make_versions(tmp_path, gemma, probe)
    registered, _ = versions.register(1)
    done = run_export(versions, tmp_path / "out", merge=True, pairs=2)
    assert done.drift is not None
    mlflow.set_registry_uri(versions.tracker().uri)
    served = mlflow.pyfunc.load_model(f"models:/tiny/{registered.version}")
    hello = {"messages": [{"role": "user", "content": "Hello"}]}
    (answer,) = served.predict(hello, params={"max_new_tokens": 3})
    assert isinstance(answer, str)


def test_weights_that_drifted_are_refused_unless_forced(
    two_versions: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift, "MOST_KL", -1.0)
    with pytest.raises(UserError, match="The merged weights differ"):
        run_export(two_versions, tmp_path / "out", merge=True, pairs=2)
    assert list(tmp_path.iterdir()) == []
    assert run_export(two_versions, tmp_path / "out", merge=True, pairs=2, force=True).drift


@pytest.mark.parametrize("pruned", [True, False])
def test_without_its_own_pairs_the_packaged_ones_are_taken_and_named(
    two_versions: Versions, tmp_path: Path, pruned: bool
) -> None:
    """The state folder knows nothing of the version, or the ids of its rows alone."""
    config = two_versions.config.model_dump()
    config["registry"]["tracking_uri"] = two_versions.tracker().uri
    elsewhere = RunConfig.model_validate(config)
    request = ExportRequest(tmp_path / "out", merge=True, pairs=3)
    if pruned:
        (stage,) = prepared_stages(two_versions.home)
        facts = {name: getattr(stage, name) for name in FACTS}
        keep_row_list(tmp_path / "home", stage_rows(stage.folder), facts)
    done = export_version(elsewhere, tmp_path / "home", "1", request, lambda _: None)
    assert done.drift is not None and done.drift.pairs == 3
    assert "packaged" in done.drift.pairs_from


def test_a_folder_that_is_taken_is_refused_first(two_versions: Versions, tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(UserError, match="is not an empty folder"):
        run_export(two_versions, tmp_path)


def test_a_missing_converter_is_said_before_anything_is_merged(
    two_versions: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentFault, match=r"convert_hf_to_gguf\.py"):
        run_export(two_versions, tmp_path / "out", gguf=True)
    with pytest.raises(EnvironmentFault, match="is not at"):
        run_export(two_versions, tmp_path / "out", gguf=True, converter=tmp_path / "nowhere.py")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [0, 3])
def test_a_converter_that_fails_or_writes_nothing_leaves_nothing(
    two_versions: Versions, tmp_path: Path, code: int
) -> None:
    script = tmp_path / "convert.py"
    script.write_text(f"import sys; print('no such architecture'); sys.exit({code})")
    with pytest.raises(EnvironmentFault, match=f"exit code {code}: no such architecture"):
        run_export(two_versions, tmp_path / "out", gguf=True, converter=script, pairs=2)
    assert [path.name for path in tmp_path.iterdir()] == ["convert.py"]


def test_a_converter_on_the_path_gets_the_merged_folder(
    two_versions: Versions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "convert-hf-to-gguf"
    script.write_text(
        f"#!{sys.executable}\nimport pathlib, sys\nfolder, flag, out = sys.argv[1:4]\n"
        "assert flag == '--outfile' and (pathlib.Path(folder) / 'model.safetensors').is_file()\n"
        "pathlib.Path(out).write_bytes(b'GGUF')\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run_export(two_versions, tmp_path / "out", gguf=True, pairs=2)
    assert "tiny-1-bf16.gguf" in done.files
