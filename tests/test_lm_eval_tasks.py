"""`firstlight evaluate tasks=...`: tasks in local files, offline, and every mistake in one line."""

import json
import math

import pytest
import torch
import yaml

pytest.importorskip("lm_eval")

from lm_eval.tasks import TaskManager

from firstlight.checkpoints.model_file import save_model_file
from firstlight.cli import main
from firstlight.data.tokenizers.bytes import BytesTokenizer
from firstlight.lm_eval.adapter import HarnessLM
from firstlight.lm_eval.tasks import flat_results

SIZES = {
    "vocab_size": 257,
    "context_length": 32,
    "emb_dim": 12,
    "n_heads": 3,
    "n_layers": 2,
    "drop_rate": 0.0,
}
QUESTIONS = [
    {"question": "The lamp was", "choices": ["lit", "out", "quay"], "answer": 1},
    {
        "question": "Nobody on the quay",
        "choices": ["saw it", "fog", "a lamp and two ships"],
        "answer": 0,
    },
    {"question": "Who", "choices": ["did it", "was it", "?"], "answer": 2},
]
TEXTS = [
    "The lamp was lit, and the lamp went out.",
    "Nobody saw who did it, though all of them were on the quay.",
]


def metrics(*names, **more):
    return {"metric_list": [{"metric": name, "higher_is_better": True, **more} for name in names]}


CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "answer",
    **metrics("acc", aggregation="mean"),
}
ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    **metrics("bits_per_byte", aggregation="bits_per_byte"),
}
LAST_WORD = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{text.rsplit(' ', 1)[0]}}",
    "doc_to_target": "{{' ' + text.rsplit(' ', 1)[1]}}",
    **metrics("perplexity", aggregation="perplexity"),
}
ANSWER = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "!function words.answer",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8},
    **metrics("exact_match", aggregation="mean"),
}


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder to work in, with data; lm-eval reads and writes nothing outside of it, and no
    network.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, rows in {"questions": QUESTIONS, "texts": [{"text": text} for text in TEXTS]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "words.py").write_text(
        "def answer(doc):\n    return doc['choices'][doc['answer']]\n"
    )
    return tmp_path


@pytest.fixture
def write(place):
    """Write a task as a YAML file; its name."""

    def make(name, task, data="questions", **changes):
        source = {
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(place / f"{data}.jsonl")}},
        }
        content = {"task": name, **source, "test_split": "test", **task, **changes}
        text = yaml.safe_dump({key: value for key, value in content.items() if value is not None})
        (place / f"{name}.yaml").write_text(
            text.replace("'!function words.answer'", "!function words.answer")
        )
        return f"{name}.yaml"

    return make


@pytest.fixture
def model(tiny_gpt, place):
    """A model, and the same in a file."""
    tokenizer, model = BytesTokenizer(), tiny_gpt(**SIZES)
    tokenizer.fit([])
    config = {"model": {"_target_": "firstlight.model.gpt.GPT", **SIZES}}
    save_model_file(
        model.state_dict(),
        place / "model.safetensors",
        config=config,
        tokenizer=tokenizer.state_dict(),
    )
    return model


@pytest.fixture
def evaluate(model, capsys):
    """The metrics that the command prints, and nothing else on stdout."""

    def call(tasks, *arguments):
        words = [
            "evaluate",
            "format=json",
            "checkpoint=model.safetensors",
            "accelerator=cpu",
            f"tasks={tasks}",
            *arguments,
        ]
        assert main(words) == 0
        (line,) = capsys.readouterr().out.splitlines()
        return json.loads(line)

    return call


@pytest.fixture
def refused(model, capsys):
    """Run a command that is a mistake; the line that says so."""

    def call(tasks, *arguments):
        words = [
            "evaluate",
            "checkpoint=model.safetensors",
            "accelerator=cpu",
            f"tasks={tasks}",
            *arguments,
        ]
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert out == "" and "Traceback" not in err
        (line,) = [line for line in err.splitlines() if line.startswith("firstlight: ")]
        return line

    return call


@torch.no_grad()
def nats(model, context, text):
    """The loss of a text that the model's context holds, after as much of what stands before it as
    fits.
    """
    ids = [*(context.encode() or [256]), *text.encode()][-33:]
    logprobs = model(torch.tensor([ids[:-1]]))[0].double().log_softmax(dim=-1)
    return -sum(
        logprobs[place - 1, ids[place]].item()
        for place in range(len(ids) - len(text.encode()), len(ids))
    )


def test_results_are_those_computed_by_hand(evaluate, model, write):
    tasks = [
        write("choice", CHOICE),
        write("last", LAST_WORD, "texts"),
        write("rolling", ROLLING, "texts"),
    ]
    found = evaluate(f"[{','.join(tasks)}]")
    losses = [
        [nats(model, row["question"], f" {choice}") for choice in row["choices"]]
        for row in QUESTIONS
    ]
    right = [of.index(min(of)) == row["answer"] for of, row in zip(losses, QUESTIONS, strict=True)]
    assert found["choice/acc"] == pytest.approx(sum(right) / 3)
    assert "choice/acc_stderr" in found and found["choice/examples"] == 3
    losses = []
    for text in TEXTS:
        before, last = text.rsplit(" ", 1)
        losses.append(nats(model, before, f" {last}"))
    assert found["last/perplexity"] == pytest.approx(math.exp(sum(losses) / 2), rel=1e-4)
    assert found["last/perplexity_stderr"] > 0
    total = 0.0
    for text in TEXTS:
        total += nats(model, "", text[:32]) + nats(model, text[:32], text[32:])
    n_bytes = sum(len(text) for text in TEXTS)
    assert found["rolling/bits_per_byte"] == pytest.approx(total / math.log(2) / n_bytes, rel=1e-5)


def test_neither_the_batch_size_nor_the_company_changes_a_result(evaluate, write, place):
    (place / "all").mkdir()
    (place / "words.py").rename(place / "all" / "words.py")
    for name, task, data in (
        ("a", CHOICE, "questions"),
        ("b", ROLLING, "texts"),
        ("c", ANSWER, "questions"),
    ):
        (place / write(name, task, data)).rename(place / "all" / f"{name}.yaml")
    one, eight = evaluate("./all", "batch_size=1"), evaluate("all/", "batch_size=8")
    assert one == pytest.approx(eight) and len(one) == 8
    assert evaluate("all/b.yaml").items() <= eight.items()


def test_examples_can_be_limited_and_shown_first(evaluate, write, monkeypatch):
    asked = []
    inner = HarnessLM.loglikelihood
    monkeypatch.setattr(
        HarnessLM,
        "loglikelihood",
        lambda lm, requests, **kwargs: (
            asked.extend(r.args[0] for r in requests) or inner(lm, requests, **kwargs)
        ),
    )
    found = evaluate(write("choice", CHOICE), "limit=2", "num_fewshot=1")
    assert found["choice/examples"] == 2 and len(asked) == 6
    assert all(text.count("\n\n") == 1 for text in asked)


def test_the_precision_reaches_the_model(evaluate, write):
    task = write("rolling", ROLLING, "texts")
    exact, rounded = evaluate(task), evaluate(task, "precision=bf16-mixed")
    assert exact != rounded and exact == pytest.approx(rounded, rel=0.05)


@pytest.mark.usefixtures("small_index")
def test_a_file_can_be_a_group_of_tasks(evaluate, write, place):
    write("choice", CHOICE)
    write("rolling", ROLLING, "texts")
    mean = {"metric": "acc", "aggregation": "mean"}
    suite = {"group": "suite", "task": ["choice", "rolling"], "aggregate_metric_list": [mean]}
    (place / "suite.yaml").write_text(yaml.safe_dump(suite))
    found = evaluate("suite.yaml")
    assert found["suite/acc"] == found["choice/acc"] and "rolling/bits_per_byte" in found


def test_keys_are_flat_and_values_are_numbers():
    results = {
        "t": {
            "alias": "t",
            "name": "t",
            "sample_len": 3,
            "f,none": 0.5,
            "f_stderr,none": "N/A",
            "f,strict": 1,
        }
    }
    assert flat_results(results) == {"t/f": 0.5, "t/f,strict": 1.0, "t/examples": 3}


def test_a_task_that_cannot_be_run_is_refused_in_one_line(refused, write, place):
    (place / "damaged.yaml").write_text("task: [x")
    (place / "list.yaml").write_text("- x")
    (place / "latin1.yaml").write_bytes(b"task: \xe9")
    (place / "empty").mkdir()
    cases = {
        "damaged.yaml": ["damaged.yaml", "damaged", "line 2"],
        "list.yaml": ["list.yaml", "damaged"],
        "latin1.yaml": ["latin1.yaml", "damaged"],
        "nowhere.yaml": ["nowhere.yaml", "no such file"],
        "empty/": ["empty/", "no YAML file in the folder"],
        write("field", CHOICE, doc_to_text="{{nothing}}"): ["field.yaml", "nothing"],
        write("gone", CHOICE, "gone"): ["gone.yaml", "gone.jsonl"],
        write("beams", ANSWER, generation_kwargs={"num_beams": 4}): [
            "beams.yaml",
            "num_beams is not available",
        ],
        write("function", ANSWER, doc_to_target="!function words.answer", process_docs=3): [
            "function.yaml"
        ],
        write("unsafe", CHOICE, unsafe_code=True): ["unsafe.yaml", "code that a model writes"],
        write("image", CHOICE, doc_to_image="{{question}}"): ["image.yaml", "text alone"],
        write("hub", CHOICE, dataset_path="owner/data", dataset_kwargs=None): [
            "hub.yaml",
            "downloaded",
            "owner/data",
        ],
        f"[{write('same', CHOICE)},same.yaml]": ["same.yaml", "already among the tasks"],
    }
    for tasks, words in cases.items():
        line = refused(tasks)
        assert all(word in line for word in words), line
    line = refused("same.yaml", "num_fewshot=9")
    assert "same" in line and "num_fewshot 9" in line


@pytest.fixture
def small_index(place, monkeypatch):
    """In place of lm-eval's 14,000 tasks, which take ten seconds to find, those in the folder."""

    def manager(*, include_defaults, **_):
        assert include_defaults
        return TaskManager(include_path=place, include_defaults=False)

    monkeypatch.setattr("firstlight.lm_eval.tasks.TaskManager", manager)


@pytest.mark.usefixtures("small_index")
def test_a_task_has_a_name_and_a_misspelt_one_is_answered_with_the_one_that_was_meant(
    evaluate, refused, write, place
):
    (place / "mine").mkdir()
    write("lambada_openai", CHOICE)
    assert evaluate("lambada_openai")["lambada_openai/examples"] == 3
    assert "did you mean 'lambada_openai'?" in refused("lambada_opena")
    assert "the folder is ./mine" in refused("mine")
