"""The section `data` of a verb that takes a checkpoint: its own text, or another one."""

from omegaconf import DictConfig, OmegaConf, open_dict


def prepare_text_section(config: DictConfig) -> None:
    """Make the section `data` one that is checked without a model; None if it is not given."""
    with open_dict(config):
        section = config.setdefault("data", None)  # None: the checkpoint's
        # ${model.context_length}: here only the checkpoint knows the model.
        if isinstance(section, DictConfig) and OmegaConf.is_interpolation(
            section, "context_length"
        ):
            del section["context_length"]
