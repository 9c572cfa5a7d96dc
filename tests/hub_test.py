"""Names on the Hugging Face hub: what is asked of the library, and one line where there is none."""

import os
from pathlib import Path
import subprocess
import sys

import pytest

from gdsd_jax import checkpoint, hub
from launch import convert
from tests import folders

huggingface_hub = pytest.importorskip("huggingface_hub")

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("owner/name", True),
        ("Owner-1/na.me_2@refs/pr/3", True),
        ("owner/name@v1.0", True),
        ("/owner/name", False),
        ("./name", False),
        ("a/b/c", False),
        ("name", False),
        ("gs://bucket/name", False),
    ],
)
def test_what_is_a_name(text, wanted):
    assert hub.is_name(text) == wanted


def test_a_name_is_downloaded_and_converted(tmp_path, monkeypatch):
    """The library is asked for that repository and revision, and for none of the files that are not
    read; the manifest has the hash."""
    monkeypatch.chdir(tmp_path)
    asked = {}

    def snapshot_download(name, **given):
        asked.update(given, name=name)
        folder = tmp_path / "cache" / "0123abcd"
        folders.write(folder)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert convert.main(["--from_hf=owner/name@v2", f"--to_orbax={tmp_path / 'out'}"]) == 0
    assert (asked["name"], asked["revision"]) == ("owner/name", "v2")
    assert checkpoint.read_manifest(tmp_path / "out")["source"] == "owner/name@0123abcd"
    read = [
        *("config.json", "generation_config.json", "model-00001-of-00002.safetensors"),
        *("model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"),
        *("special_tokens_map.json", "chat_template.jinja", "merges.txt", "tokenizer.model"),
        "modeling_own.py",
        "README.md",  # which names the license
    ]
    others = [
        *("pytorch_model.bin", "consolidated.00.pth", "consolidated.safetensors"),
        *("onnx/model.onnx", "original/params.json", "model.gguf", ".gitattributes"),
    ]
    patterns = {key: asked[key] for key in ("allow_patterns", "ignore_patterns")}
    found = huggingface_hub.utils.filter_repo_objects([*read, *others], **patterns)
    assert sorted(found) == sorted(read)


def test_a_folder_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: 1 / 0)
    folders.write(tmp_path / "owner" / "name")
    assert convert.main(["--from_hf=owner/name", "--to_orbax=out"]) == 0


def test_without_a_network_one_line_says_what_to_do(tmp_path):
    command = [sys.executable, "launch/convert.py", "--from_hf=owner/name-that-is-not"]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "JAX_PLATFORMS": "cpu",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "hub"),
    }
    done = subprocess.run(
        [*command, f"--to_orbax={tmp_path / 'out'}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    (line,) = done.stderr.strip().splitlines()
    assert "owner/name-that-is-not: no such folder, and it cannot be downloaded" in line
    assert line.endswith("or copy the model's folder here and give its path")


def test_the_package_is_named_where_it_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert convert.main(["--from_hf=owner/name", f"--to_orbax={tmp_path / 'out'}"]) == 2
    assert "`pip install huggingface_hub`" in capsys.readouterr().err
