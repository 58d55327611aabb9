"""Models are found by the names that people type, one of them is the default, and one is removed whole."""

import os
import shutil
from pathlib import Path

import pytest

from gptoss_mlx.errors import ModelNotInstalledError, NotConvertedError, StorageError
from gptoss_mlx.home import models_dir
from gptoss_mlx.installed import (
    VARIABLE,
    default_model,
    find_model,
    installed_models,
    lasting_name,
    remove_model,
    set_default_model,
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(VARIABLE, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def install(*names, folder=None):
    for name in names:
        made = (folder or models_dir()) / name
        made.mkdir(parents=True)
        (made / "manifest.json").write_text("{}")
    return made


def checkpoint(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("")
    return folder


@pytest.mark.parametrize("spelled", ["{}", "gpt-oss-{}", "gpt-oss:{}", "openai/gpt-oss-{}"])
@pytest.mark.parametrize("name", ["20b", "120b"])
def test_a_published_model_has_every_name_that_people_type_in_any_case(spelled, name):
    install("20b", "120b")
    for text in (spelled.format(name), spelled.format(name).upper(), spelled.format(name).title()):
        assert find_model(text) == models_dir() / name


@pytest.mark.parametrize("text", ["gpt-oss-20", "20", "gpt-oss:120", "gpt-oss-20b-finetuned", "openai/20b", "20b "])
def test_what_only_resembles_a_name_means_no_published_model(text):
    install("20b", "120b")
    with pytest.raises(ModelNotInstalledError):
        find_model(text)


@pytest.mark.parametrize("text", ["20B", "gpt-oss:20b", "OpenAI/gpt-oss-20b"])
def test_a_published_model_that_is_missing_is_told_how_to_get_under_any_name(text):
    with pytest.raises(ModelNotInstalledError, match=r"'20b' is not installed; to .* run: gptoss-mac convert 20b$"):
        find_model(text)
    install("mine")
    with pytest.raises(ModelNotInstalledError, match=r"'20b' is not installed \(installed: mine\); to "):
        find_model(text)


def test_a_name_means_the_installed_model_and_a_path_the_folder():
    here = install("20b", folder=Path.cwd())
    assert find_model("20b") == Path("20b"), "while none is installed"
    install("20b")
    assert find_model("20b") == models_dir() / "20b"
    assert find_model("./20b") == Path("20b")
    assert find_model(here) == here


@pytest.mark.parametrize("inside", ["", "original"])
@pytest.mark.parametrize("text", ["gpt-oss-20b", "./gpt-oss-20b"])
def test_a_checkpoint_is_refused_with_the_commands_that_make_a_model_of_it(inside, text):
    checkpoint(Path("gpt-oss-20b") / inside)
    with pytest.raises(NotConvertedError) as refusal:
        find_model(text)
    assert str(refusal.value) == (
        "gpt-oss-20b: is a checkpoint, which must be converted once; "
        "run: gptoss-mac convert gpt-oss-20b && gptoss-mac chat --model 20b"
    )
    assert refusal.value.folder == "gpt-oss-20b"


@pytest.mark.parametrize("text", ["models/m.gguf", "models", "./models"])
def test_a_gguf_file_is_a_checkpoint_too(text):
    Path("models").mkdir()
    Path("models/m.gguf").write_text("")
    with pytest.raises(NotConvertedError) as refusal:
        find_model(text)
    assert f"run: gptoss-mac convert {Path(text)} && gptoss-mac chat --model {Path(text).stem}" in str(refusal.value)


def test_a_checkpoint_that_was_converted_before_names_its_model():
    checkpoint(Path("mine"))
    install("mine")
    with pytest.raises(ModelNotInstalledError, match="`gptoss-mac chat --model mine` opens that one") as refusal:
        find_model("./mine")
    assert not isinstance(refusal.value, NotConvertedError), "converting it again would fail"


def test_a_checkpoints_path_is_quoted_for_a_shell(home):
    folder = checkpoint(home / "my model's")
    with pytest.raises(NotConvertedError) as refusal:
        find_model(folder)
    assert f"""run: gptoss-mac convert '{home}/my model'"'"'s' && gptoss-mac chat --model my-model-s""" in str(
        refusal.value
    )


def test_a_model_folder_is_no_checkpoint_though_it_has_the_same_files():
    folder = install("mine", folder=Path.cwd())
    (folder / "config.json").write_text("{}")
    (folder / "model-head.safetensors").write_text("")
    assert find_model("mine") == Path("mine")


def test_hidden_folders_and_folders_without_a_manifest_are_no_installed_models():
    install("b", "a", ".20b.removed", ".20b.partial")
    (models_dir() / "empty").mkdir()
    assert installed_models() == ["a", "b"]


@pytest.mark.parametrize(
    ("installed", "default"),
    [
        ([], "20b"),
        (["tiny"], "tiny"),
        (["mine"], "mine"),
        (["120b", "tiny"], "120b"),
        (["120b", "mine"], "20b"),
        (["20b", "mine", "tiny"], "20b"),
    ],
)
def test_the_only_model_is_the_default_and_the_bundled_one_only_if_alone(installed, default):
    for name in installed:
        install(name)
    assert default_model() == default


def test_the_environment_goes_before_the_stored_default_and_that_before_the_only_model(monkeypatch):
    install("mine")
    assert set_default_model("tiny") == "tiny"
    assert default_model() == "tiny"
    monkeypatch.setenv(VARIABLE, "gpt-oss:20b")
    assert default_model() == "gpt-oss:20b"
    monkeypatch.setenv(VARIABLE, "")
    assert default_model() == "tiny"


def test_a_stored_default_is_the_short_name_or_a_path_that_is_good_anywhere(monkeypatch):
    install("20b")
    elsewhere = install("other", folder=Path.cwd())
    assert set_default_model("openai/gpt-oss-20B") == default_model() == "20b"
    assert set_default_model("other") == default_model() == str(elsewhere.absolute())
    monkeypatch.chdir("/")
    assert find_model(default_model()) == elsewhere.absolute() == Path(lasting_name(elsewhere.absolute()))


def test_a_path_of_bytes_that_are_no_text_is_stored_and_read_back():
    folder = Path(os.fsdecode(b"caf\xe9"))
    install(folder.name, folder=Path.cwd())
    assert set_default_model(f"./{folder}") == default_model() == str(folder.absolute())


def test_what_is_no_model_does_not_become_the_default():
    with pytest.raises(ModelNotInstalledError):
        set_default_model("mine")
    checkpoint(Path("raw"))
    with pytest.raises(NotConvertedError):
        set_default_model("raw")
    assert default_model() == "20b"


def test_a_removed_model_is_gone_whole_and_no_longer_the_default():
    install("mine", "20b", ".mine.removed")  # the last as a killed removal leaves it
    set_default_model("mine")
    remove_model("mine")
    assert [path.name for path in models_dir().iterdir()] == ["20b"]
    assert default_model() == "20b"


def test_another_default_survives_a_removal():
    install("mine", "120b", "20b")
    set_default_model("120b")
    remove_model("mine")
    assert default_model() == "120b"


def test_of_a_link_only_the_link_is_removed(home):
    kept = install("elsewhere", folder=home)
    models_dir().mkdir(parents=True)
    (models_dir() / "mine").symlink_to(kept)
    remove_model("mine")
    assert installed_models() == []
    assert (kept / "manifest.json").is_file()


@pytest.mark.parametrize("name", ["mine", "../work", "..", "", ".hidden", "notes"])
def test_nothing_but_an_installed_model_is_removed(name):
    install("20b", ".hidden")
    (models_dir() / "notes").mkdir()
    (models_dir() / "notes" / "a.txt").touch()
    before = sorted(Path.cwd().parent.rglob("*"))
    with pytest.raises(ModelNotInstalledError):
        remove_model(name)
    assert sorted(Path.cwd().parent.rglob("*")) == before


def test_a_removal_that_fails_half_way_leaves_no_model_and_the_next_one_ends_it(monkeypatch):
    install("mine")
    really = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda path: (_ for _ in ()).throw(PermissionError(13, "denied", str(path))))
    with pytest.raises(StorageError, match=r"\.mine\.removed: cannot be removed \(denied\)"):
        remove_model("mine")
    assert installed_models() == []
    monkeypatch.setattr(shutil, "rmtree", really)
    install("mine")
    remove_model("mine")
    assert list(models_dir().iterdir()) == []


def test_a_model_of_the_hub_is_found_by_its_id_and_told_how_to_get():
    with pytest.raises(ModelNotInstalledError, match=r"run: gptoss-mac convert someone/tuned$"):
        find_model("someone/tuned")
    install("tuned")
    assert find_model("someone/tuned") == models_dir() / "tuned"
    install("20b")
    with pytest.raises(ModelNotInstalledError):
        find_model("someone/gpt-oss-20b")


def test_what_is_left_under_a_models_name_can_be_removed(tmp_path):
    models_dir().mkdir(parents=True)
    (models_dir() / "empty").mkdir()
    (models_dir() / "link").symlink_to(tmp_path / "nowhere")
    for name in ("empty", "link"):
        remove_model(name)
        assert not os.path.lexists(models_dir() / name)
    with pytest.raises(ModelNotInstalledError):
        remove_model("..")
