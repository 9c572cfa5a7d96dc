"""What a run stands on: it goes on with the same files and frozen weights, or is refused."""

import json
import shutil

import pytest

from gdsd_jax import checkpoint, origin, settings


def test_files_that_are_others_now_are_named(tmp_path):
    """A run of an earlier version, which noted nothing, goes on; so does one whose file is no
    longer there, for what it is needed for says so."""
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    for file in (train, test):
        file.write_text("{}")
    chosen = settings.build({"data_file": str(train), "heldout_file": str(test)})
    origin.check(tmp_path, chosen, origin.of)
    origin.write(tmp_path, chosen)
    assert json.loads((tmp_path / origin.FILE).read_text()).keys() == {"data_file", "heldout_file"}
    for file, key in ((train, "data_file"), (test, "heldout_file")):
        origin.check(tmp_path, chosen, origin.of)
        file.write_text("{} ")
        with pytest.raises(checkpoint.OtherSettings) as error:
            origin.check(tmp_path, chosen, origin.of)
        assert f"{key}={file} is not what it was" in str(error.value)
        assert "\n" not in str(error.value)
        file.unlink()
    origin.check(tmp_path, chosen, origin.of)
    for text, said in (("{", "not JSON .*"), ("[]", "no JSON object")):
        (tmp_path / origin.FILE).write_text(text)
        with pytest.raises(checkpoint.OtherSettings, match=f"origin.json: {said}: delete it"):
            origin.check(tmp_path, chosen, origin.of)


def test_a_base_that_went_on_is_not_that_of_its_adapters(workdir, tmp_path):
    """Checkpoints hold the adapters alone. Where all weights are trained they hold all."""
    base, run = tmp_path / "base", tmp_path / "run"
    shutil.copytree(workdir, base)
    run.mkdir()
    whole = settings.build({"init_from": str(base)})
    adapted = settings.replace(whole, {"lora_rank": 2, "lora_alpha": 2.0})
    assert origin.of(whole) == {}
    origin.write(run, adapted)
    origin.check(run, adapted, origin.base_of)
    newest = checkpoint.latest_iteration(base)
    shutil.copytree(base / "checkpoints" / str(newest), base / "checkpoints" / str(newest + 1))
    with pytest.raises(checkpoint.OtherSettings, match=f"init_from={base} is not what it was"):
        origin.check(run, adapted, origin.base_of)
