"""The official files, as a model folder: found, read strictly, written as safetensors. Nobody unpickles them again."""

from vatt_core.weights.importing.build import ImportOptions, ImportReport, import_model

__all__ = ["ImportOptions", "ImportReport", "import_model"]
