"""Tab completion for bash, zsh and fish: `eval "$(firstlight completion bash)"`.

Hydra brings one, which composes the config at each keystroke: it takes a second, and knows neither
verbs nor comments. This one reads the YAML files alone (`compose/outline.py`).
"""
