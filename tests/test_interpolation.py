"""What came from the environment is stored as text, is told from text that looks like it, and can be given again."""

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
    "${oc.env:NOWHERE,${oc.env:S}}": "${oc.env:NOWHERE,${oc.env:S}}",
    "${oc.env:${which}}": "${oc.env:S}",
    "${derived}/x": "${oc.env:S}/y/x",
    "${oc.decode:${oc.env:LIST}}": "${oc.decode:${oc.env:LIST}}",
    "${oc.create:${oc.env:LIST}}": "${oc.create:${oc.env:LIST}}",
    "n${oc.decode:${oc.env:N}}": "n${oc.decode:${oc.env:N}}",
    "\\${x} ${oc.env:S}, [q] \"z\" 'p'": "\\${x} ${oc.env:S}, [q] \"z\" 'p'",
    "\\\\${oc.env:S}": "\\\\${oc.env:S}",
}  # fmt: skip
"""What a config says, and what is stored of it."""
LITERAL = ["${x}", "${oc.env:S}", "\\${oc.env:S}", "a\\\\${oc.env:S}${y}", "???", "it's ${a:b}", "\\", "é灯"]


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name, value in {"S": "sesame", "N": "8", "LIST": "[one,two]"}.items():
        monkeypatch.setenv(name, value)
    yield
    forget_hidden()


def resolved(config):
    return OmegaConf.to_container(OmegaConf.create(config), resolve=True)


def stored(text):
    config = OmegaConf.create({"key": text, "which": "S", "derived": "${oc.env:S}/y"})
    return {"key": check_kept(config, OmegaConf.to_container(config, resolve=True))["key"]}


@pytest.mark.parametrize("text", FROM_ENVIRONMENT)
def test_what_came_from_the_environment_is_stored_as_text(text):
    assert stored(text) == {"key": FROM_ENVIRONMENT[text]}


@pytest.mark.parametrize("text", FROM_ENVIRONMENT)
def test_what_is_asked_for_again_means_the_same(text):
    [(key, value)] = from_environment(stored(text))
    override = OverridesParser.create().parse_override(f"{key}={value}")
    value = resolved({"key": text, "which": "S", "derived": "${oc.env:S}/y"})["key"]
    assert not override.is_sweep_override()
    assert resolved({"key": override.value()}) == {"key": value}


def test_lists_and_sections_are_asked_for_whole():
    config = OmegaConf.create({"a": ["${oc.env:S}/x", "y z", 1, None, True, {"b": "${oc.env:S}"}], "c": {"d": "${a}"}})
    kept = check_kept(config, OmegaConf.to_container(config, resolve=True))
    text = '[${oc.env:S}/x,"y z",1,null,true,{b:${oc.env:S}}]'
    assert dict(from_environment(kept)) == {"a": text, "c.d": text}
    override = OverridesParser.create().parse_override(f"a={text}")
    assert resolved({"a": override.value()})["a"] == resolved(config)["a"]


@pytest.mark.parametrize("value", LITERAL)
def test_a_text_that_looks_like_it_stays_a_text(value):
    kept = stored(f"${{text:{value.encode().hex()}}}")
    assert not list(from_environment(kept))
    assert as_values(kept) == {"key": value}
    assert resolved(as_data(kept)) == {"key": value}


@pytest.mark.parametrize("text", ["${oc.env:HOME}", "${oc.decode:'[1,2]'}", "${oc.create:{a:1}}", "${x}", "${now:%Y}"])
def test_nothing_in_a_stored_config_is_resolved(text):
    data = {"a": text, "b": [text, {"c": f"<{text}>"}]}
    assert resolved(as_data(data)) == data


def test_a_stored_text_of_the_environment_is_stored_again_as_it_is():
    config = OmegaConf.create(as_data({"output_dir": "${oc.env:S}/runs", "a": "\\${oc.env:S}", "b": "${x}"}))
    plain = OmegaConf.to_container(config, resolve=True)
    assert plain == {"output_dir": "${oc.env:S}/runs", "a": "${oc.env:S}", "b": "${x}"}
    assert check_kept(config, plain) == {"output_dir": "${oc.env:S}/runs", "a": "\\${oc.env:S}", "b": "${x}"}


@pytest.mark.parametrize(("text", "value"), [("${oc.decode:${oc.env:N}}", 8), ("${oc.decode:'tr${oc.env:U}'}", True)])
def test_numbers_and_booleans_are_stored_as_they_are(text, value, monkeypatch):
    monkeypatch.setenv("U", "ue")
    assert stored(text) == {"key": value}


@pytest.mark.parametrize("text", ["${parts.${oc.env:PART}}", "${oc.select:${oc.env:PART},nothing}"])
def test_what_the_environment_looks_up_is_refused(text, monkeypatch):
    monkeypatch.setenv("PART", "one")
    config = OmegaConf.create({"key": text, "parts": {"one": 1}, "one": 2})
    with pytest.raises(ConfigError, match="key: what the environment looks up cannot be kept"):
        check_kept(config, OmegaConf.to_container(config, resolve=True))


@pytest.mark.parametrize("key", ["model.init", "tokenizer.name", "callbacks.sample_generation.prompt"])
def test_what_a_run_shows_or_needs_cannot_be_kept_secret(key):
    config = OmegaConf.create({})
    OmegaConf.update(config, key, "${oc.env:S}")
    with pytest.raises(ConfigError, match=rf"{key}: .* not \$\{{oc.env:S\}}"):
        check_kept(config, OmegaConf.to_container(config, resolve=True))


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
        ("a/${foo:1}", "there is no such resolver; the forms are ${key}"),
        ("${nokey}", "there is no such key"),
        ("${oc.env:FIRSTLIGHT_NOWHERE}", "Environment variable 'FIRSTLIGHT_NOWHERE' not found"),
    ],
)
def test_what_cannot_be_resolved_is_told_without_the_words_of_python(tmp_path, monkeypatch, capsys, text, words):
    monkeypatch.chdir(tmp_path)
    assert main(["train", f"output_dir={text}"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"firstlight: output_dir: {text}: {words}") and line.count("\n") == 1
    assert "lambda" not in line and "raised while" not in line
