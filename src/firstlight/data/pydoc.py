"""The documentation that every CPython carries: real prose on every machine, with no download."""

from firstlight.data.datamodule import TextDataModule


class PydocData(TextDataModule):
    """The topics of Python's `help()`, in the order of their names: about 465,000 characters, by Python version."""

    def documents(self) -> list[str]:
        try:
            from pydoc_data.topics import topics
        except ImportError:  # some distributions leave it out
            raise ValueError(
                "this Python comes without pydoc_data.topics; use data=lamplighters or data=text"
            ) from None
        return ["\n".join(topics[name] for name in sorted(topics))]
