"""Registry of models: which names there are, where their folders lie, which weights they hold, how they get there."""

from vatt_core.weights.fingerprint import model_hash
from vatt_core.weights.registry import ModelEntry, find_entry, find_model, list_models, models_folder

__all__ = ["ModelEntry", "find_entry", "find_model", "list_models", "model_hash", "models_folder"]
