"""Tensors out of the files of the official release: the only place that unpickles what others made, with `weights_only=True`
unless the user trusts the file. A training reads its own checkpoints, and no others, in the same restricted way.

Files are mapped into memory, so that a checkpoint larger than the memory can be read tensor by tensor.
"""

from __future__ import annotations

import collections
import json
import pickle
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vatt_core.errors import BadModel

_AGAIN = "fetch it again"
# What a file of codebooks may be made of, beside plain tensors (reference 3.3). None of them runs code when it is read.
_CONTAINERS: list[Any] = [nn.ParameterList, nn.ModuleList, nn.Embedding, nn.ParameterDict, nn.ModuleDict, set]


def read_pickled(path: Path, *, trust: bool = False) -> Any:
    """What torch.save wrote, on the CPU.

    Raises BadModel for a damaged file, and for one that holds more than tensors and plain containers, with the reason,
    unless `trust` allows it to run whatever code it names.
    """
    try:
        with torch.serialization.safe_globals(_CONTAINERS):
            return _load(path, weights_only=not trust)
    except pickle.UnpicklingError as error:
        if not _is_pickle(path):
            raise BadModel(f"{path} is no file of weights; {_AGAIN}", file=str(path)) from error
        raise BadModel(
            f"{path} holds more than tensors ({_reason(error)}), and reading it could run a program that it brings "
            "along; if you trust where it comes from, add --trust",
            file=str(path),
        ) from error
    except ImportError as error:
        raise BadModel(
            f"{path} needs the Python module {error.name}, which is not installed here ({_first_line(error)}); install it "
            "beside VATT, or give a file that holds tensors only",
            file=str(path),
        ) from error
    except OSError as error:
        raise BadModel(
            f"{path} cannot be read ({_first_line(error)}); change its rights, or {_AGAIN}", file=str(path)
        ) from error
    except (RuntimeError, EOFError, ValueError, AttributeError, LookupError, TypeError) as error:
        if not _is_pickle(path):
            raise BadModel(f"{path} is no file of weights; {_AGAIN}", file=str(path)) from error
        raise BadModel(f"{path} is damaged ({_first_line(error)}); {_AGAIN}", file=str(path)) from error


def _load(path: Path, *, weights_only: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=weights_only)
    except RuntimeError as error:
        if "mmap can only be used with files saved with" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=weights_only)  # the form before torch 1.6


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            return True
        file.seek(0)
        return file.read(1) == b"\x80"


def _first_line(error: Exception) -> str:
    """The first sentence of a library's message."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text.partition(". ")[0].rstrip(".")


def _reason(error: Exception) -> str:
    """What the restricted reader refused, by name."""
    found = re.search(r"GLOBAL (\S+)|nsupported (?:class|global) (\S+)", str(error), re.IGNORECASE)
    return next(filter(None, found.groups())).rstrip(".,") if found else "more than the restricted reader takes"


def read_tensors(path: Path, *, trust: bool = False) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a pickled state dict (bare, or below "state_dict" or "model").

    Raises BadModel when the file is missing, damaged or holds no state dict.
    """
    if not path.is_file():
        raise BadModel(f"{path} is missing; {_AGAIN}", file=str(path))
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise BadModel(f"{path} is damaged ({_first_line(error)}); {_AGAIN}", file=str(path)) from error
    return state_dict(read_pickled(path, trust=trust), path)


def state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The named tensors in what a file holds."""
    if isinstance(content, collections.abc.Mapping):
        for name in ("state_dict", "model"):
            if isinstance(content.get(name), collections.abc.Mapping):
                content = content[name]
                break
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
    raise BadModel(
        f"{path} holds no named tensors but {type(content).__name__}; name the file that holds the weights",
        file=str(path),
    )


def read_folder(folder: Path, *, trust: bool = False) -> dict[Path, dict[str, Tensor]]:
    """The tensors of each weight file of a folder as transformers writes it: one file or shards, .safetensors before .bin.

    Raises BadModel when there is no weight file, or when a shard that the index names is missing.
    """
    for stem, suffix in (("model", "safetensors"), ("pytorch_model", "bin")):
        whole = folder / f"{stem}.{suffix}"
        index = folder / f"{stem}.{suffix}.index.json"
        if index.is_file():
            try:
                names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (OSError, ValueError, KeyError, AttributeError) as error:
                raise BadModel(f"{index} is no index of weight files; {_AGAIN}", file=str(index)) from error
            shards = [folder / Path(name).name for name in names]
            return {shard: read_tensors(shard, trust=trust) for shard in shards}
        if whole.is_file():
            return {whole: read_tensors(whole, trust=trust)}
    raise BadModel(
        f"{folder} holds no weights (model.safetensors or pytorch_model.bin, whole or in shards); {_AGAIN}",
        file=str(folder),
    )


def read_codebooks(path: Path, *, trust: bool = False) -> list[Tensor]:
    """K tables [V, latent] float32 from any form that the release may have (reference 3.3): a tensor [K, V, latent], a
    list, tuple or ParameterList of tables, a ModuleList of Embeddings, a dictionary by codebook. Raises BadModel.
    """
    content = read_tensors(path) if path.suffix == ".safetensors" else read_pickled(path, trust=trust)
    return [table.detach().to(torch.float32) for table in _tables(content, path)]


def _tables(content: Any, path: Path) -> Sequence[Tensor]:
    if isinstance(content, Tensor):
        if content.ndim == 3:
            return list(content)
    elif isinstance(content, nn.Module | collections.abc.Mapping):
        named = content.state_dict() if isinstance(content, nn.Module) else content
        found = {str(key): value for key, value in named.items() if isinstance(value, Tensor)}
        if len(found) == 1 and next(iter(found.values())).ndim == 3:
            return list(next(iter(found.values())))
        if found and all(value.ndim == 2 for value in found.values()):
            return [found[key] for key in sorted(found, key=_number)]
        inner = [value for value in named.values() if isinstance(value, nn.Embedding)]
        if inner and len(inner) == len(named):
            return [table.weight for table in inner]
    elif isinstance(content, list | tuple):
        tables = [item.weight if isinstance(item, nn.Embedding) else item for item in content]
        if tables and all(isinstance(table, Tensor) and table.ndim == 2 for table in tables):
            return tables
    raise BadModel(
        f"{path} holds no codebooks that are known ({type(content).__name__}); they are a tensor [codebooks, size, "
        "width], or one table [size, width] for each",
        file=str(path),
    )


def _number(key: str) -> tuple[int, str]:
    digits = "".join(filter(str.isdigit, key))
    return (int(digits) if digits else 0, key)
