"""A text whose documents are in files that are read one after another."""

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firstlight.config import NonEmpty
from firstlight.data.datamodule import TextDataModule
from firstlight.data.documents import Format, format_of, read_documents, stream_text


class DocumentsInFiles(TextDataModule):
    """The documents of `files`: each is read by its name, or as `format`.

    A line of JSON, or a row of Parquet, is a document, in the field or column `field`.
    """

    def __init__(self, *, format: Format, field: NonEmpty = "text", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.format: Format = format
        self.field = field

    @abstractmethod
    def files(self) -> list[Path]:
        """Return the files in the order in which they are read.

        Raises:
            ValueError: they are not available.
        """

    def iter_documents(self) -> Iterator[str]:
        for file in self.files():
            yield from read_documents(file, format=self.format, field=self.field)

    def iter_pieces(self, longest: int) -> Iterator[str]:
        for file in self.files():
            if format_of(file, self.format) == "text":
                yield from self.cut(stream_text(file), longest)
                continue
            for text in read_documents(file, format=self.format, field=self.field):
                yield from self.cut([text], longest)
