"""Files of a dataset on Hugging Face's hub: downloaded, checked, and read as they are."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from firstlight.config import NonEmpty
from firstlight.data.cache import cache_dir
from firstlight.data.documents import Format
from firstlight.data.documents_in_files import DocumentsInFiles
from firstlight.data.download import DownloadError
from firstlight.data.files import user_path
from firstlight.data.hub_files import downloaded
from firstlight.errors import counted, reason_of, shorten


class HubData(DocumentsInFiles):
    """The documents in some files of a dataset: text, JSON lines or Parquet.

    `dataset` is OWNER/NAME, or OWNER/NAME@REVISION, where a commit is what never changes and, once
    it is here, needs no network. `files` are paths in it, or patterns of them. They are downloaded
    once into `folder` (None: the cache folder), and compared with the hub's hashes each time.
    """

    def __init__(
        self,
        *,
        dataset: NonEmpty,
        files: NonEmpty | Annotated[list[NonEmpty], Field(min_length=1)],
        folder: NonEmpty | None = None,
        format: Format = "auto",
        **kwargs: Any,
    ) -> None:
        super().__init__(format=format, **kwargs)
        self.dataset = dataset
        self.patterns = [files] if isinstance(files, str) else files
        self.folder = folder

    def files(self) -> list[Path]:
        repo, _, revision = self.dataset.partition("@")
        folder = user_path(self.folder) if self.folder else cache_dir() / "datasets"
        try:
            return downloaded(repo, revision or "main", self.patterns, folder)
        except DownloadError as error:
            raise ValueError(f"dataset ({shorten(self.dataset)}): {error}") from error
        except OSError as error:
            raise ValueError(
                f"folder ({shorten(str(folder))}): cannot be written: {reason_of(error)}"
            ) from error

    def place(self) -> str:
        return f"dataset ({self.dataset})"

    def setting(self) -> str:
        return f"data.dataset ({shorten(self.dataset)})"

    def source(self) -> str:
        return f"{shorten(self.dataset)}, {counted(len(self._listed), 'file')}"
