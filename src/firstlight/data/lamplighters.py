"""The stories that come with firstlight."""

from pathlib import Path

from firstlight.data.datamodule import TextDataModule
from firstlight.data.files import read_text


class LamplightersData(TextDataModule):
    """The Lamplighters, a cycle of short stories written for this project (CC0)."""

    def documents(self) -> list[str]:
        return [read_text(Path(__file__).parent / "texts" / "the_lamplighters.txt")]
