"""The text of the book: Edith Wharton's "The Verdict" (1908, public domain)."""

from typing import Any

import pooch
import requests

from firstlight.data.cache import cache_dir
from firstlight.data.datamodule import TextDataModule
from firstlight.data.files import read_text, user_path
from firstlight.output import note

SHA256 = "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f"
FILE_NAME = "the-verdict.txt"


class TheVerdictData(TextDataModule):
    """The book's 20,479 characters, downloaded once from `url` and checked by their sha256.

    `folder` keeps the file; None is the cache folder.
    """

    def __init__(self, *, url: str, folder: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.url = url
        self.folder = folder

    def documents(self) -> list[str]:
        folder = user_path(self.folder) if self.folder else cache_dir()
        file = folder / FILE_NAME
        if file.is_file() and pooch.file_hash(str(file)) != SHA256:
            note(f"{file} is not the text of the book (its sha256 differs): downloading it again")
        way_out = (
            f"put the file at {file}, or use data=lamplighters or data=pydoc, which need no network"
        )
        try:
            pooch.retrieve(
                self.url,
                known_hash=f"sha256:{SHA256}",
                fname=FILE_NAME,
                path=folder,
                downloader=pooch.HTTPDownloader(progressbar=True, timeout=20),  # type: ignore[arg-type]
            )
        except (requests.RequestException, OSError) as error:
            raise ValueError(
                f"cannot download {self.url} ({type(error).__name__}); {way_out}"
            ) from error
        except ValueError:
            # pooch raises it for a wrong hash.
            raise ValueError(
                f"{self.url} is not the text of the book: its sha256 differs; {way_out}"
            ) from None
        return [read_text(file)]
