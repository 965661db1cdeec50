"""`firstlight generate`, on a model that has learned one thing: the alphabet."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from firstlight.checkpoints.model_file import save_model_file
from firstlight.cli import main
from firstlight.commands.generate import generate
from firstlight.commands.written import RULE
from firstlight.compose.arguments import parse_arguments
from firstlight.compose.compose import compose_config
from firstlight.config import check_config
from firstlight.data.tokenizers.bytes import BytesTokenizer
from firstlight.decoding.beam import BeamSearch
from firstlight.decoding.greedy import Greedy
from firstlight.decoding.sample import Sample
from firstlight.errors import ConfigError
from firstlight.model.gpt import GPT
from firstlight.sources import load_checkpoint

pytestmark = pytest.mark.cpu

TEXT = "abcdefghi\njklmnopqrstuvwxyzé"
"""What the model knows: each byte is followed by the next one, the last by the end of text."""
END_OF_TEXT = 256
SIZES = {
    "vocab_size": 257,
    "context_length": 16,
    "emb_dim": 32,
    "n_heads": 2,
    "n_layers": 1,
    "drop_rate": 0.0,
}


@pytest.fixture(scope="module")
def alphabet(tmp_path_factory):
    """A file of weights: the residual stream is the embedding of a byte, which the head has beside
    the next byte.
    """
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = GPT(**SIZES)
        model.pos_emb.weight.zero_()
        for block in model.trf_blocks:
            for into_stream in (block.att.out_proj, block.ff.layers[2]):
                into_stream.weight.zero_()
                into_stream.bias.zero_()
        model.out_head.weight.normal_(std=0.1)
        known = [*TEXT.encode(), END_OF_TEXT]
        model.out_head.weight[known[1:]] = 0.25 * model.final_norm(model.tok_emb.weight[known[:-1]])
    file, tokenizer = tmp_path_factory.mktemp("alphabet") / "model.safetensors", BytesTokenizer()
    tokenizer.fit([])
    config = {"model": {"_target_": "firstlight.model.gpt.GPT", "_partial_": True, **SIZES}}
    save_model_file(model.state_dict(), file, config=config, tokenizer=tokenizer.state_dict())
    return file


@pytest.fixture
def output(alphabet):
    """What `generate` prints for arguments; greedily, on the CPU, unless they say otherwise."""

    def call(**arguments):
        settings = {
            "checkpoint": str(alphabet),
            "decoding": Greedy(),
            "accelerator": "cpu",
            "max_new_tokens": 40,
        }
        return "".join(generate(**(settings | arguments)))

    return call


@pytest.fixture
def objects(output):
    """The JSON objects that `generate` prints for arguments."""
    return lambda **arguments: [
        json.loads(line) for line in output(format="jsonl", **arguments).split("\n")[:-1]
    ]


@pytest.fixture
def prompts(tmp_path):
    """A file of prompts of unequal length, one of them longer than half the context."""
    file = tmp_path / "prompts.txt"
    file.write_text("wx\nabcdefghi\n\nno\n  \nq\n", encoding="utf-8")
    return str(file)


BOLD = Sample(temperature=2.0)


# ---- text


def test_a_prompt_is_continued_up_to_the_end_of_text_past_the_context_length(output):
    assert output(prompt="abc") == TEXT + "\n"


def test_a_prompt_is_continued_by_no_more_than_was_asked_for(output):
    assert output(prompt="abc", max_new_tokens=3) == "abcdef\n"


def test_every_line_of_a_file_that_is_not_blank_is_a_prompt(output, prompts):
    assert output(prompts=prompts) == RULE.join(
        f"{begin}{TEXT.partition(begin)[2]}\n" for begin in ("wx", "abcdefghi", "no", "q")
    )


def test_lines_of_a_file_end_at_newlines_only_and_may_have_a_mark_and_spaces(objects, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeff a\u2028b \r\n\x0cc\u0085d".encode())
    assert [found["prompt"] for found in objects(prompts=str(file))] == [
        " a\u2028b ",
        "\x0cc\u0085d",
    ]


def test_several_samples_of_a_prompt_differ_and_begin_with_it(output):
    texts = output(prompt="abc", decoding=BOLD, num_samples=3).split(RULE)
    assert len(set(texts)) == 3
    assert all(text.startswith("abc") for text in texts)


# ---- stop strings


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("mno", "abcdefghi\njkl"),
        ("\\n", "abcdefghi"),
        ("\n", "abcdefghi"),
        (["xyz", "i\\nj"], "abcdefgh"),
        ("é", "abcdefghi\njklmnopqrstuvwxyz"),
        ([], TEXT),
    ],
    ids=repr,
)
@pytest.mark.parametrize(
    "way", [{}, {"stream": True}, {"prompt_lookup": 4}], ids=["plain", "stream", "lookup"]
)
def test_a_stop_string_ends_the_text_and_is_cut_off(output, stop, expected, way):
    assert output(prompt="abc", stop=stop, **way) == expected + "\n"


def test_rows_of_a_batch_stop_on_their_own(objects, prompts):
    found = objects(prompts=prompts, stop=["z", "gh"])
    assert [(one["text"], one["finish_reason"]) for one in found] == [
        ("y", "stop"),
        ("\njklmnopqrstuvwxy", "stop"),
        ("pqrstuvwxy", "stop"),
        ("rstuvwxy", "stop"),
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_that_no_stop_string_came_is_said_on_stderr_in_a_line(output, capsys, stream):
    arguments = {"prompt": "abc", "stop": "never", "stream": stream}
    assert output(max_new_tokens=3, **arguments) == "abcdef\n"
    out, err = capsys.readouterr()
    assert (out, err) == ("", "note: no stop string came within max_new_tokens (1 of 1 texts)\n")
    for quiet in ({"max_new_tokens": 40}, {"stop": "d"}, {"max_new_tokens": 3, "stop": None}):
        output(**(arguments | quiet))  # the text ended, a stop came, none was asked for
    assert capsys.readouterr().err == ""


# ---- the same output, whatever the way


@pytest.mark.parametrize(
    "decoding",
    [
        Greedy(),
        BOLD,
        Sample(temperature=1.5, top_k=50, top_p=0.9, min_p=0.01, repetition_penalty=1.1),
    ],
    ids=["greedy", "sample", "all filters"],
)
def test_streams_batches_and_guesses_change_no_letter(output, prompts, tmp_path, decoding):
    lookup_text = tmp_path / "lookup.txt"
    lookup_text.write_text(TEXT, encoding="utf-8")
    arguments = {
        "prompts": prompts,
        "decoding": decoding,
        "stop": ["gh", "é"],
        "num_samples": 2 if decoding.draws else 1,
    }
    expected = output(**arguments)
    for way in (
        {"batch_size": 1},
        {"batch_size": 3},
        {"batch_size": 100},
        {"stream": True},
        {"prompt_lookup": 5},
        {"prompt_lookup": 5, "lookup_text": str(lookup_text)},
        {"prompt_lookup": 5, "lookup_text": str(lookup_text), "stream": True},
    ):
        assert output(**arguments, **way) == expected, way


def test_the_same_seed_gives_the_same_text_and_another_seed_another(output):
    def text(seed):
        return output(prompt="abc", decoding=BOLD, seed=seed)

    assert text(1) == text(1) != text(2)


def test_the_same_prompt_twice_gets_texts_of_its_own_and_the_first_that_of_the_prompt_alone(
    objects, tmp_path
):
    file = tmp_path / "prompts.txt"
    file.write_text("abc\nabc\nabc\n")
    found = [one["text"] for one in objects(prompts=str(file), decoding=BOLD, num_samples=3)]
    assert len(set(found)) == 9
    assert found[:3] == [one["text"] for one in objects(prompt="abc", decoding=BOLD, num_samples=3)]


def test_a_stream_comes_in_pieces_of_whole_characters(alphabet):
    pieces = generate(
        checkpoint=str(alphabet),
        prompt="yz",
        decoding=Greedy(),
        stream=True,
        accelerator="cpu",
        stop="never",
    )
    assert list(pieces) == [
        "yz",
        "",
        "é",
        "",
        "\n",
    ]  # two bytes, the end of text, the end of the line


# ---- JSON lines


def test_a_json_line_has_the_prompt_the_text_and_why_it_ended(objects, prompts):
    assert objects(prompts=prompts, max_new_tokens=4, stop="pq")[:3] == [
        {"prompt": "wx", "text": "yzé", "finish_reason": "length"},
        {"prompt": "abcdefghi", "text": "\njkl", "finish_reason": "length"},
        {"prompt": "no", "text": "", "finish_reason": "stop"},
    ]
    assert objects(prompt="z")[0] == {"prompt": "z", "text": "é", "finish_reason": "end_of_text"}


@pytest.mark.parametrize("way", [{}, {"prompt_lookup": 4}], ids=["plain", "lookup"])
def test_log_probabilities_are_those_of_the_model_for_each_token(objects, alphabet, way):
    [one] = objects(prompt="xy", logprobs=True, decoding=Sample(temperature=0.5, top_k=3), **way)
    assert set(one) == {"prompt", "text", "finish_reason", "ids", "tokens", "logprobs"}
    assert one["ids"] == [*"zé".encode(), END_OF_TEXT]
    assert one["tokens"] == ["z", "\ufffd", "\ufffd", "<|endoftext|>"]
    with torch.no_grad():
        logits = load_checkpoint(alphabet).build_model()(torch.tensor([[*b"xy", *one["ids"]]]))[
            0, 1:-1
        ]
    expected = logits.log_softmax(dim=-1).gather(-1, torch.tensor(one["ids"])[:, None])[:, 0]
    assert one["logprobs"] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_json_line_is_one_line_whatever_the_text(output):
    assert len(output(prompt="a\n\u2028\x0c", format="jsonl").split("\n")) == 2


def test_beams_come_with_their_scores_best_first(objects, prompts):
    found = objects(prompts=prompts, decoding=BeamSearch(n_beams=3), num_samples=2, logprobs=True)
    assert [one["prompt"] for one in found] == [
        p for p in ("wx", "abcdefghi", "no", "q") for _ in range(2)
    ]
    for best, second in zip(found[::2], found[1::2], strict=True):
        assert best["score"] >= second["score"]
        assert best["text"] == TEXT.partition(best["prompt"])[2]
        assert best["score"] == pytest.approx(sum(best["logprobs"]) / len(best["ids"]), rel=1e-5)


def test_batches_of_beams_are_beams_of_each_prompt(output, prompts):
    arguments = {
        "prompts": prompts,
        "decoding": BeamSearch(n_beams=3),
        "num_samples": 2,
        "stop": "op",
    }
    assert output(**arguments, batch_size=1) == output(**arguments, batch_size=100)


# ---- the end of text in a prompt


@pytest.mark.parametrize("special_tokens", [True, False])
def test_the_end_of_text_in_a_prompt_is_a_token_or_its_characters_as_was_said(
    output, special_tokens
):
    text = output(prompt="<|endoftext|>abc", special_tokens=special_tokens, max_new_tokens=3)
    assert text == "<|endoftext|>abcdef\n"
    longer = {"prompt": "<|endoftext|>abcd", "special_tokens": special_tokens, "max_new_tokens": 3}
    if special_tokens:
        assert output(**longer) == "<|endoftext|>abcdefg\n"  # 5 tokens
    else:
        with pytest.raises(ConfigError, match="17 tokens, more than the model's context of 16"):
            output(**longer)


# ---- less memory


@pytest.mark.parametrize("precision", ["bf16-true", "int8"])
@pytest.mark.parametrize("decoding", [Greedy(), BeamSearch(n_beams=2)], ids=["greedy", "beam"])
def test_lower_precision_still_knows_the_alphabet(output, precision, decoding):
    assert output(prompt="abc", precision=precision, decoding=decoding) == TEXT + "\n"
    assert (
        output(prompt="abc", precision=precision, decoding=decoding, max_new_tokens=3) == "abcdef\n"
    )


# ---- the command line


@pytest.fixture
def run(alphabet, capsys):
    """What the command line prints."""

    def call(*words):
        assert main(["generate", f"checkpoint={alphabet}", "accelerator=cpu", *words]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return call


def test_the_command_line_reads_stop_strings_as_they_are_typed(run):
    assert run("prompt=abc", "decoding=greedy", "stop=\\n") == "abcdefghi\n"
    assert run("prompt=abc", "decoding=greedy", 'stop=[END,"i\\n"]', "stream=true") == "abcdefgh\n"


def test_the_command_line_prints_json_lines_that_a_machine_reads(run, prompts):
    lines = run(
        f"prompts={prompts}", "decoding=beam", "num_samples=2", "format=jsonl", "logprobs=true"
    ).splitlines()
    assert len(lines) == 8
    assert all({"prompt", "text", "score", "logprobs"} <= set(json.loads(line)) for line in lines)


def test_the_command_line_samples_with_every_filter(run, prompts):
    words = [
        "decoding.top_p=0.9",
        "decoding.min_p=0.05",
        "decoding.repetition_penalty=1.2",
        "num_samples=2",
        "seed=7",
    ]
    assert run(f"prompts={prompts}", *words) == run(f"prompts={prompts}", *words, "prompt_lookup=4")


@pytest.mark.long
@pytest.mark.parametrize("words", ["format=jsonl", "stream=true"])
def test_a_reader_that_leaves_is_nobodys_mistake(alphabet, words):
    command = [
        sys.executable,
        "-m",
        "firstlight",
        "generate",
        f"checkpoint={alphabet}",
        "prompt=a",
        words,
    ]
    shell = f"{shlex.join(command)} max_new_tokens=3 | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
def test_a_full_disk_behind_standard_output_is_one_line(alphabet):
    command = [sys.executable, "-m", "firstlight", "generate", f"checkpoint={alphabet}", "prompt=a"]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2
    assert (
        result.stderr == "firstlight: standard output cannot be written: No space left on device\n"
    )


@pytest.mark.parametrize("stop", ["</s>", "<|im_end|>", "it's", '"', "🙂", "a, [b", "${x}"])
def test_a_stop_string_is_taken_as_it_is_typed(stop):
    overrides = parse_arguments("generate", ["checkpoint=x", f"stop={stop}"]).overrides
    assert check_config(compose_config("generate", overrides), generate)["stop"] == stop


def test_stop_strings_may_be_several_or_none():
    for word, expected in {'stop=[a,"b, c"]': ["a", "b, c"], "stop=null": None}.items():
        overrides = parse_arguments("generate", ["checkpoint=x", word]).overrides
        assert check_config(compose_config("generate", overrides), generate)["stop"] == expected


def test_lines_of_json_are_the_same_text_where_the_output_is_ascii(output, monkeypatch):
    as_unicode = json.loads(output(prompt="xyzé", format="jsonl", max_new_tokens=2))
    monkeypatch.setattr("firstlight.commands.written.is_unicode", lambda: False)
    line = output(prompt="xyzé", format="jsonl", max_new_tokens=2)
    assert line.isascii() and json.loads(line) == as_unicode


# ---- what is copied


@pytest.fixture
def known_text(tmp_path):
    """A text with a part of what the model knows, and validation in which none of it stands."""
    file = tmp_path / "known.txt"
    file.write_text(f"{'. ' * 40}klmnopqrstuvw{'! ' * 40}zyxwvutsrqponmlkjihg", encoding="utf-8")
    return file


def copied(alphabet, file, *overrides):
    words = ["data=text", f"data.path={file}", "data.test_ratio=0", "copied=4", "prompt=ab"]
    words += ["max_new_tokens=40", "accelerator=cpu", "decoding=greedy", f"checkpoint={alphabet}"]
    return main(["generate", *words, *overrides])


def test_what_stands_in_a_text_is_marked_and_counted(alphabet, known_text, capsys):
    assert copied(alphabet, known_text, "format=jsonl") == 0
    found = json.loads(capsys.readouterr().out)
    new = TEXT[2:].encode()  # a token is a byte
    place = known_text.read_bytes().index(b"klmn")
    assert found["copied"] == {
        "n": 4,
        "n_grams": len(new) - 3,
        "share": 10 / (len(new) - 3),
        "validation_share": 0.0,
        "longest": 13,
        "runs": [
            {"start": new.index(b"klmn"), "length": 13, "place": place, "text": "klmnopqrstuvw"}
        ],
    }
    assert copied(alphabet, known_text, "stop=op", "format=html") == 0
    page = capsys.readouterr().out
    assert f'<pre>{TEXT[:11]}<mark class="copy-0"' in page and ">klmn</mark></pre>" in page
    assert copied(alphabet, known_text) == 0
    n_training = int(0.9 * len(known_text.read_text()))
    assert capsys.readouterr().out == (
        f"{TEXT}\n\nlongest copy 13 tokens, {10 / (len(new) - 3):.1%} of 4-grams copied, of"
        f" validation's 0.0%\n  1  13 tokens, training tokens {place} to {place + 12} of"
        f" {n_training} ({place / n_training:.0%}): klmnopqrstuvw\n"
    )


def test_that_a_long_text_takes_a_while_is_said(alphabet, known_text, capsys, monkeypatch):
    assert copied(alphabet, known_text) == 0
    assert "takes a while" not in capsys.readouterr().err
    monkeypatch.setattr("firstlight.commands.copied.MUCH", 100)
    assert copied(alphabet, known_text) == 0
    assert "has 173 tokens: all of it is compared with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["copied=1"], "copied: expected "),
        (["copied=auto", "stream=true"], "copied=... needs all of it: choose one of them"),
        (["format=html"], "format=html shows what was copied: give copied=auto with it"),
        (["data=text", "data.path=x"], "data is the text in which copies are looked for: give"),
        (["copied=auto"], "does not say what it was trained on; choose one with data=..."),
        (["copied=auto", "data=text", "data.path=no.txt"], "data: path (no.txt)"),
    ],
)
def test_copies_that_cannot_be_looked_for_are_refused_in_a_line(alphabet, capsys, words, said):
    assert main(["generate", f"checkpoint={alphabet}", "prompt=ab", "accelerator=cpu", *words]) == 2
    captured = capsys.readouterr()
    [line] = captured.err.splitlines()
    assert said in line and not captured.out
