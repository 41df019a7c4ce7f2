"""Checkpoints as earlier versions wrote them."""

import json
import zlib

import torch
from safetensors import safe_open
from safetensors.torch import save_file

MODULES = {"dynamics": "rssm", "backward_network": "hindsight"}


def read(path):
    """The tensors and the header of a checkpoint, as they are in the file."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return tensors, json.loads(file.metadata()["worldmodel"])


def in_format_2(path):
    """Rewrite a checkpoint in format 2: one model, one optimiser, and the names of that time. Returns the names."""
    tensors, header = read(path)
    older = {_older_name(name): value for name, value in tensors.items()}
    header["checksum"] = zlib.crc32(json.dumps({key: header[key] for key in ("counters", "settings")}).encode())
    for name in sorted(older):
        header["checksum"] = zlib.crc32(name.encode(), header["checksum"])
        header["checksum"] = zlib.crc32(older[name].reshape(-1).view(torch.uint8).numpy().data, header["checksum"])
    save_file(older, path, metadata={"worldmodel": json.dumps({**header, "format": 2})})
    return set(older)


def _older_name(name):
    if name == "policy/generator":
        return "random/policy"
    kind, _, rest = name.removeprefix("world/").partition("/")
    module, dot, parameter = rest.partition(".")
    return f"{kind}/{MODULES.get(module, module)}{dot}{parameter}"
