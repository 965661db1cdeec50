"""What came from the environment is stored as text, is told from text that looks like it, and can
be given again.
"""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from firstlight.cli import main
from firstlight.errors import ConfigError, forget_hidden, hide, one_line, shorten, without_hidden
from firstlight.interpolation import as_data, as_typed, as_values, check_kept, from_environment

FROM_ENVIRONMENT = {
    "${oc.env:S}": "${oc.env:S}",
    "${oc.env:S}/data": "${oc.env:S}/data",
    "${oc.env:NOWHERE,default}": "${oc.env:NOWHERE,default}",
    "${oc.env:NOWHERE,null}": "${oc.env:NOWHERE,null}",
    "${oc.env:NOWHERE,'it\\'s, a'}": "${oc.env:NOWHERE,'it\\'s, a'}",
    "${oc.env:NOWHERE,${oc.env:S}}": "${oc.env:NOWHERE,'${oc.env:S}'}",
    "${oc.env:${which}}": "${oc.env:S}",
    "${data.path}/x": "${oc.env:S}/y/x",
    "\\${x} ${oc.env:S}, [q] \"z\" 'p'": "\\${x} ${oc.env:S}, [q] \"z\" 'p'",
    "\\\\${oc.env:S}": "\\\\${oc.env:S}",
}  # fmt: skip
"""What a config says, and what is stored of it."""
LITERAL = [
    "${x}",
    "${oc.env:S}",
    "\\${oc.env:S}",
    "a\\\\${oc.env:S}${y}",
    "???",
    "it's ${a:b}",
    "\\",
    "é灯",
]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name, value in {"S": "sesame", "N": "8", "LIST": "[one,two]"}.items():
        monkeypatch.setenv(name, value)
    yield
    forget_hidden()


def resolved(config):
    return OmegaConf.to_container(OmegaConf.create(config), resolve=True)


def stored(text):
    config = OmegaConf.create({"name": text, "which": "S", "data": {"path": "${oc.env:S}/y"}})
    return {"name": check_kept(config, OmegaConf.to_container(config, resolve=True))["name"]}


@pytest.mark.parametrize("text", FROM_ENVIRONMENT)
def test_what_came_from_the_environment_is_stored_as_text(text):
    assert stored(text) == {"name": FROM_ENVIRONMENT[text]}


@pytest.mark.parametrize("text", FROM_ENVIRONMENT)
def test_what_is_asked_for_again_means_the_same(text):
    [(key, value)] = from_environment(stored(text))
    override = OverridesParser.create().parse_override(f"{key}={value}")
    value = resolved({"key": text, "which": "S", "data": {"path": "${oc.env:S}/y"}})["key"]
    assert not override.is_sweep_override()
    assert resolved({"key": override.value()}) == {"key": value}


def test_lists_are_asked_for_whole():
    values = ["${oc.env:S}/x", "y z", 1, None, True]
    config = OmegaConf.create({"data": {"path": values}, "callbacks": {"d": "${data.path}"}})
    kept = check_kept(config, OmegaConf.to_container(config, resolve=True))
    text = '[${oc.env:S}/x,"y z",1,null,true]'
    assert dict(from_environment(kept)) == {"data.path": text, "callbacks.d": text}
    override = OverridesParser.create().parse_override(f"data.path={text}")
    assert resolved({"a": override.value()})["a"] == resolved(config)["data"]["path"]


@pytest.mark.parametrize("value", LITERAL)
def test_a_text_that_looks_like_it_stays_a_text(value):
    kept = stored(f"${{text:{value.encode().hex()}}}")
    assert not list(from_environment(kept))
    assert as_values(kept) == {"name": value}
    assert resolved(as_data(kept)) == {"name": value}


@pytest.mark.parametrize(
    "text", ["${oc.env:HOME}", "${oc.decode:'[1,2]'}", "${oc.create:{a:1}}", "${x}", "${now:%Y}"]
)
def test_nothing_in_a_stored_config_is_resolved(text):
    data = {"a": text, "b": [text, {"c": f"<{text}>"}]}
    assert resolved(as_data(data)) == data


def test_a_stored_text_of_the_environment_is_stored_again_as_it_is():
    kept = {
        "output_dir": "${oc.env:S}/runs",
        "name": "\\${x} ${oc.decode:${oc.env:S}}",
        "a": "\\${oc.env:S}",
        "b": "${x}",
    }
    config = OmegaConf.create(as_data(kept))
    plain = OmegaConf.to_container(config, resolve=True)
    assert plain == kept | {"a": "${oc.env:S}"}
    assert check_kept(config, plain) == kept


REFUSED = {
    "a number": ("seed", "${oc.decode:${oc.env:N}}"),
    "a number of the data": ("data.batch_size", "${oc.decode:${oc.env:N}}"),
    "a boolean": ("compile", "${oc.decode:'tr${oc.env:U}'}"),
    "a list": ("data.path", "${oc.decode:${oc.env:LIST}}"),
    "a section": ("data.path", "${oc.create:${oc.env:LIST}}"),
    "a text that decides numbers": ("trainer.precision", "${oc.env:S}"),
    "what a checkpoint tells": ("model.init", "${oc.env:S}"),
    "what a tokenizer needs": ("tokenizer.name", "x${oc.env:S}"),
    "a reference to a place": ("optimizer.lr", "${data.path}"),
    "what is looked up": ("data.x", "${parts.${oc.env:PART}}"),
    "what is selected": ("data.x", "${oc.select:${oc.env:PART},nothing}"),
}


@pytest.mark.parametrize(("key", "text"), REFUSED.values(), ids=REFUSED)
def test_the_environment_is_for_secrets_and_places(key, text, monkeypatch):
    monkeypatch.setenv("PART", "one")
    monkeypatch.setenv("U", "ue")
    config = OmegaConf.create({"parts": {"one": 1}, "one": 2, "data": {"path": "${oc.env:S}/y"}})
    OmegaConf.update(config, key, text)
    with pytest.raises(ConfigError) as caught:
        check_kept(config, OmegaConf.to_container(config, resolve=True))
    line = str(caught.value)
    assert (
        line.startswith(f"{key}: give the value itself")
        and "secrets and places (name, output_dir" in line
    )
    assert "\n" not in line and "sesame" not in line


def test_a_text_that_a_run_shows_cannot_be_kept_secret():
    config = OmegaConf.create({"callbacks": {"sample_generation": {"prompt": "${oc.env:S}"}}})
    with pytest.raises(
        ConfigError, match=r"callbacks.sample_generation.prompt: .* give the text itself"
    ):
        check_kept(config, OmegaConf.to_container(config, resolve=True))


def test_the_parts_of_a_list_are_hidden_as_it_is(monkeypatch):
    monkeypatch.setenv("LIST", "[first-secret,{second-secret: 1}]")
    assert resolved({"a": "${oc.decode:${oc.env:LIST}}"})["a"][0] == "first-secret"
    assert without_hidden("first-secret or second-secret") == "${oc.env:LIST} or ${oc.env:LIST}"


def test_messages_show_the_text_in_its_place():
    hide("it's\na secret", "${oc.env:S}")
    assert without_hidden("(it's\na secret)") == "(${oc.env:S})"
    assert one_line(ValueError("path (it's\na secret/x)")) == "path (${oc.env:S}/x)"
    assert shorten(repr("it's\na secret" + "x" * 200)).startswith('"${oc.env:S}xxx')


def test_a_text_kept_from_omegaconf_is_shown_as_it_was_typed():
    assert as_typed("prompt=${text:247b787d}") == "prompt=${x}"
    assert as_typed("a=${oc.env:S}") == "a=${oc.env:S}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("${now:}", "these are not the arguments that it takes"),
        ("a/${foo:1}", "no such resolver; the forms are ${key}"),
        ("${nokey}", "no such key"),
        ("${oc.env:FIRSTLIGHT_NOWHERE}", "Environment variable 'FIRSTLIGHT_NOWHERE' not found"),
    ],
)
def test_what_cannot_be_resolved_is_told_without_the_words_of_python(
    tmp_path, monkeypatch, capsys, text, words
):
    monkeypatch.chdir(tmp_path)
    assert main(["train", f"output_dir={text}"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"firstlight: output_dir: {text}: {words}") and line.count("\n") == 1
    assert "lambda" not in line and "raised while" not in line
