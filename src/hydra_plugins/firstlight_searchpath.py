"""The folders `conf/` of installed packages, on the search path of firstlight's configs.

Hydra imports this whenever it starts, in other programs too: nothing heavy may be imported here.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class FirstlightSearchPath(SearchPathPlugin):
    """Adds the packages of `firstlight.packages`, behind firstlight's own conf/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        from firstlight.conf_files import conf_dir
        from firstlight.packages import found

        own = conf_dir()
        # The configs of other programs are none of our business.
        if not any(place.path.removeprefix("file://") == own for place in search_path.get_path()):
            return
        for package in found().packages:
            search_path.append(provider=str(package), path=f"file://{package.conf}")
