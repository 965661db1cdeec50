"""Runs on documents in other formats than plain text."""

import gzip
import json
from pathlib import Path

from tiny_run import TINY, rows_of, same_weights

from firstlight.cli import main
from firstlight.runs.run_folder import RunFolder

STORY = "The lamp was lit, and the lamp went out; nobody on the quay had seen who did it. " * 3
OF_LINES = ["data.path=stories", "data.field=a field"]


def begin(folder, *overrides):
    return main(["train", *TINY, *OF_LINES, f"output_dir={folder}", *overrides])


def write():
    Path("stories").mkdir()
    for n in range(2):
        lines = [json.dumps({"a field": f"{STORY}{n}.{line}", "id": line}) for line in range(3)]
        packed = gzip.compress("\n".join(lines).encode())
        Path(f"stories/{n}.jsonl.gz").write_bytes(packed)


def test_a_run_on_compressed_json_lines_tells_what_it_read_and_is_resumed_from_elsewhere(
    tmp_path, monkeypatch, capsys
):
    write()
    assert begin("whole", "trainer.max_steps=4") == 0
    told = capsys.readouterr().out
    assert "2 files\n" in told and "6 documents, 1,476 bytes; letters: Latin 100%" in told
    assert begin("halved", "trainer.max_steps=2") == 0
    assert RunFolder(Path("halved")).config["data"]["field"] == "a field"
    other = tmp_path / "other"
    (other / "a field").mkdir(parents=True)  # the name of a field is no path
    monkeypatch.chdir(other)
    assert main(["train", "resume=../halved", "trainer.max_steps=4"]) == 0
    assert rows_of("../halved")[-1] == rows_of("../whole")[-1]
    assert same_weights("../halved", "../whole")
    assert main(["evaluate", "format=json", "checkpoint=../whole"]) == 0


def test_a_line_that_is_not_json_ends_in_one_line_and_no_folder(capsys):
    write()
    Path("stories/3.jsonl").write_text('{"a field": "x"}\n{"a field"}\n')
    assert begin("run") == 2
    told = capsys.readouterr().err
    assert told.startswith("firstlight: data: path (") and "3.jsonl), line 2 is not JSON" in told
    assert told.count("\n") == 1 and not Path("run").exists()
