"""The installed package's version."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("lyra-bio")
except PackageNotFoundError:  # run from a folder that was not installed
    __version__ = "0+unknown"
