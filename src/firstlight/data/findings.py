"""What is told about a text: kept with its tokens, since the text is not read again."""

from pydantic import BaseModel, ConfigDict, NonNegativeInt

from firstlight.data.statistics import TextStatistics


class Findings(BaseModel):
    """Facts about a text, as far as somebody should know them."""

    model_config = ConfigDict(extra="forbid")

    statistics: TextStatistics
    n_nul: NonNegativeInt
    """NUL characters, which a text hardly ever has."""
    shared: str
    """How much of validation training has as well, in words; "" if it is little."""
    empty: list[NonNegativeInt] = []
    """Numbers of the files without text."""
    copies: list[tuple[NonNegativeInt, NonNegativeInt]] = []
    """Numbers of files with the same text as an earlier one, and of that one."""

    def notes(self) -> list[str]:
        """Warnings that hold for every kind of dataset."""
        notes: list[str] = []
        # NUL is valid UTF-8, but hardly ever in a text: this may be binary data, or UTF-16 that
        # `read_text` did not recognise.
        if self.n_nul > 0:
            notes.append(f"the text has {self.n_nul:,} NUL characters in it; is it UTF-8 text?")
        # Files with the same text are noted already.
        if self.shared and not self.copies:
            notes.append(
                f"training and validation share {self.shared}, so val/loss looks better than it"
                " is; leave the duplicates out"
            )
        return notes
