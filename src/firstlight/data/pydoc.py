"""Python's own documentation: real prose on every machine, without a download."""

from firstlight.data.datamodule import TextDataModule


class PydocData(TextDataModule):
    """The topics of Python's `help()`, sorted by name: about 465,000 characters.

    The text depends on Python's version.
    """

    def documents(self) -> list[str]:
        try:
            from pydoc_data.topics import topics
        except ImportError:
            # Some Linux distributions package it apart.
            raise ValueError(
                "this Python has no pydoc_data.topics; use data=lamplighters or data=text"
            ) from None
        return ["\n".join(topics[name] for name in sorted(topics))]
