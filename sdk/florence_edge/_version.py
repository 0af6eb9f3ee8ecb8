"""The one place the version is written; hatchling and CMake read it from here."""

__version__ = "0.1.0"
