"""Packages beside firstlight, as pip would have installed them: on sys.path, with an entry point."""

from pathlib import Path

from firstlight.new.command import new

TINY = (
    "tokenizer=bytes",
    "model.context_length=16",
    "model.emb_dim=16",
    "model.n_heads=2",
    "model.n_layers=1",
    "data.batch_size=2",
    "data.eval_batches=1",
    "trainer.max_steps=2",
    "trainer.log_every_n_steps=1",
    "scheduler=constant",
    "callbacks.sample_generation.max_new_tokens=3",
)


def installed(place: Path, name: str, *, value: str | None = None, version: str = "0.1.0") -> Path:
    """Write what an installation of `name` leaves in `place`: its entry point is `value`."""
    info = place / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[firstlight.conf]\n{name} = {value or name}\n")
    return place


def new_package(place: Path, name: str) -> Path:
    """Write what `firstlight new` writes, installed; return the folder to put on sys.path."""
    return installed(new(name=name, folder=str(place / name)) / "src", name)


def with_conf(place: Path, name: str, files: dict[str, str]) -> Path:
    """Write an installed package that has nothing but these files of conf/."""
    for file, text in {"__init__.py": "", **{f"conf/{key}": files[key] for key in files}}.items():
        path = place / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return installed(place, name)
