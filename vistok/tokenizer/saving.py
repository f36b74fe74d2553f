"""Tokenizers on disk and on the Hub: strict, safetensors and JSON only, whole or not at all."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn

from vistok.errors import TokenizerError, VistokError
from vistok.quantizers import Quantizer
from vistok.recorded import build
from vistok.spec import ImagePolicy, TokenizerSpec
from vistok.tokenizer.weights_hash import exported_state

if TYPE_CHECKING:
    from vistok.tokenizer.tokenizer import Tokenizer

# of config.json. Files of version 1 hold shift and scale of each element of a grid, which the weights hold too, and
# dims of features that are told otherwise now.
FORMAT_VERSION = 2
WEIGHTS, CONFIG = "model.safetensors", "config.json"
SPARE_PARTS, PARTS_PER_TENSOR = 1000, 16  # modules that a model may have for a file of so many tensors


def save(tokenizer: Tokenizer, folder: str | Path) -> None:
    """Writes a tokenizer into a folder of its own, by a temporary folder beside it and a rename.

    Raises:
        TokenizerError: a place that cannot be written, or a folder that holds something else.
    """
    folder = Path(folder)
    if folder.exists() and (
        not folder.is_dir() or (any(folder.iterdir()) and not (folder / CONFIG).is_file())
    ):
        raise TokenizerError(f"{folder} exists and is not a tokenizer: choose another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise TokenizerError(f"{folder} cannot be written: {error.strerror or error}") from error
    try:
        _write(tokenizer, staged)
        staged.chmod(0o755)
        _put_in_place(staged, folder)
    except (OSError, SafetensorError) as error:
        raise TokenizerError(
            f"{folder} cannot be written: {getattr(error, 'strerror', None) or _first_line(error)}"
        ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def load(source: str | Path, *, device: str | torch.device = "cpu") -> Tokenizer:
    """A tokenizer from a folder, or from the Hugging Face Hub by its id, in evaluation mode.

    Only classes that vistok exports are built, only safetensors are read, every key must match, and the weights must
    be those that the spec was written for.

    Raises:
        TokenizerError: nothing there, a missing, unknown or misshapen key, weights that are not finite or not the spec's.
    """
    folder = _locate(source)
    config = _read_config(folder)
    try:
        _check_size(config, folder)
        tokenizer = _build(config, folder)
        spec = TokenizerSpec.from_json(json.dumps(config["spec"]))
        if (
            (continuous := tokenizer.continuous) is not None
            and spec.latents is not None
            and spec.latents.grid
        ):
            assert continuous[1].normaliser is not None
            # as many elements as the weights hold, which overwrite them
            continuous[1].normaliser.set(0.0, 1.0, spec.latents.grid)
        _fill(tokenizer, folder)
    except VistokError:
        raise
    except Exception as error:  # the file may come from anywhere, so anything may be wrong with it
        raise TokenizerError(f"{folder / CONFIG} is damaged: {_first_line(error)}") from error
    tokenizer.provenance, tokenizer.licence, tokenizer.metrics = spec.provenance, spec.licence, spec.metrics
    _compare(tokenizer.spec, _completed(spec, tokenizer.spec, config["format_version"]), folder)
    return tokenizer.to(device)


def push_to_hub(tokenizer: Tokenizer, repo_id: str, *, private: bool = False) -> str:
    """Uploads a tokenizer and returns its address; see ``Tokenizer.push_to_hub``."""
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise TokenizerError("uploading needs huggingface_hub: pip install 'vistok[hub]'") from error
    with tempfile.TemporaryDirectory() as room:
        save(tokenizer, Path(room) / "tokenizer")
        try:
            api = HfApi()
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo_id, folder_path=Path(room) / "tokenizer"))
        except Exception as error:
            raise TokenizerError(
                f"{repo_id} cannot be uploaded: {_first_line(error)}; log in with `hf auth login`"
            ) from error


def exported_classes() -> dict[str, type]:
    """The classes that a config may name: what the backbones, quantizers and the tokenizer export, nothing else."""
    from vistok import backbones, quantizers
    from vistok.tokenizer.branch import Branch
    from vistok.tokenizer.code_noise import CodeNoise
    from vistok.tokenizer.merge import Merge
    from vistok.tokenizer.tokenizer import Tokenizer

    parts: tuple[type, ...] = (Tokenizer, ImagePolicy, Branch, CodeNoise, Merge)
    found: dict[str, type] = {part.__name__: part for part in parts}
    for package in (backbones, quantizers):
        found.update(
            {n: getattr(package, n) for n in package.__all__ if isinstance(getattr(package, n), type)}
        )
    return found


def _write(tokenizer: Tokenizer, folder: Path) -> None:
    from safetensors.torch import save_file

    import vistok

    state = {name: value.detach().cpu().contiguous() for name, value in exported_state(tokenizer).items()}
    save_file(
        {name: value.clone() for name, value in state.items()}, folder / WEIGHTS, metadata={"format": "pt"}
    )
    config = {
        "format_version": FORMAT_VERSION,
        "vistok": vistok.__version__,
        "model": tokenizer.to_config(),
        "spec": _shortened(tokenizer.spec).to_json_data(),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _shortened(spec: TokenizerSpec) -> TokenizerSpec:
    """Without the shift and scale of each element of a grid, which may be megabytes and are among the weights."""
    if spec.latents is None or not spec.latents.grid:
        return spec
    return replace(spec, latents=replace(spec.latents, shift=(), scale=()))


def _completed(saved: TokenizerSpec, built: TokenizerSpec, version: int) -> TokenizerSpec:
    """A saved spec with what its file leaves out, or told wrongly, as the tokenizer itself tells it."""
    if version < 2:
        saved = replace(saved, features=built.features)
    left_out = saved.latents is not None and saved.latents.grid and not saved.latents.shift
    if not left_out or saved.latents is None or built.latents is None:
        return saved
    return replace(
        saved, latents=replace(saved.latents, shift=built.latents.shift, scale=built.latents.scale)
    )


def _put_in_place(staged: Path, folder: Path) -> None:
    for path in (*staged.iterdir(), staged):
        _sync(path)
    if not folder.exists():
        staged.rename(folder)
    else:
        retired = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
        try:
            folder.rename(retired / "tokenizer")
            staged.rename(folder)
        except BaseException:
            if not folder.exists():
                (retired / "tokenizer").rename(folder)
            retired.rmdir()
            raise
        shutil.rmtree(retired)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _compare(built: TokenizerSpec, saved: TokenizerSpec, folder: Path) -> None:
    if built.weights_hash != saved.weights_hash:
        raise TokenizerError(
            f"{folder / WEIGHTS} does not hold the weights that {CONFIG} describes: one of them was changed; fetch both again"
        )
    if built != saved:
        field = next(f.name for f in fields(built) if getattr(built, f.name) != getattr(saved, f.name))
        raise TokenizerError(
            f"{folder / CONFIG} contradicts itself: {field} of its spec is not that of its model; fetch it again"
        )


def _locate(source: str | Path) -> Path:
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise TokenizerError(f"{source} is a file: give the folder that holds {CONFIG} and {WEIGHTS}")
    parts = str(source).split("/")
    if len(parts) != 2 or not all(parts) or parts[0] in (".", "..", "~"):
        kept = sorted(folder.parent.glob(f".{folder.name}.old.*/tokenizer")) if folder.parent.is_dir() else []
        remedy = f"; a save was cut short, the one before it lies in {kept[0]}" if kept else ""
        raise TokenizerError(f"no tokenizer at {source}: there is no such folder{remedy}")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise TokenizerError(
            f"no folder {source}; to load it from the Hub: pip install 'vistok[hub]'"
        ) from error
    try:
        return Path(snapshot_download(str(source), allow_patterns=[CONFIG, WEIGHTS]))
    except Exception as error:
        raise TokenizerError(
            f"no folder {source}, and the Hub does not give it: {_first_line(error)}"
        ) from error


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise TokenizerError(f"{folder} is not a tokenizer: it has no {CONFIG}")
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise TokenizerError(f"{path} is damaged: {_first_line(error)}") from error
    if not isinstance(config, dict) or not {"model", "spec", "format_version"} <= set(config):
        raise TokenizerError(f"{path} is not a vistok config: it needs model, spec and format_version")
    if type(config["format_version"]) is not int or not 1 <= config["format_version"] <= FORMAT_VERSION:
        raise TokenizerError(
            f"{path} has format version {config['format_version']}, this vistok reads up to {FORMAT_VERSION}: upgrade vistok"
        )
    return config


def _check_size(config: dict[str, Any], folder: Path) -> None:
    """Makes sure, before any memory is taken, that a config asks for no larger model than there are weights for.

    The model is built without storage, and only as many parts of it as a file with so many tensors can need.

    Raises:
        TokenizerError: the weights are missing, damaged, or of other shapes.
    """
    shapes = _saved_shapes(folder)
    room = SPARE_PARTS + PARTS_PER_TENSOR * len(shapes)

    def count(module: nn.Module, name: str, part: nn.Module | None) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise TokenizerError(
                f"{folder / CONFIG} describes a model of more parts than {WEIGHTS} has weights for"
            )

    counting = torch.nn.modules.module.register_module_module_registration_hook(count)
    try:
        with torch.device("meta"):
            wanted = exported_state(build(config["model"], exported_classes()))
    except TokenizerError as error:
        if room < 0:
            raise
        # what is wrong with a part is told when it is built in earnest; some parts of others cannot be built without storage
        logging.getLogger(__name__).debug("not built without storage: %s", error)
        return
    finally:
        counting.remove()
    needed = {name: tuple(value.shape) for name, value in wanted.items()}
    for name in needed:
        if ".normaliser." in f".{name}":  # as many elements as the weights hold, see ``load``
            needed[name] = shapes.get(name, needed[name])
    _check_shapes(needed, shapes, folder / WEIGHTS)


def _check_shapes(wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]], path: Path) -> None:
    for names, word in (
        (sorted(set(wanted) - set(found)), "lacks"),
        (sorted(set(found) - set(wanted)), "has an unknown"),
    ):
        if names:
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise TokenizerError(
                f"{path} {word} key {names[0]!r}{more}: the weights do not belong to this {CONFIG}"
            )
    for name, shape in found.items():
        if shape != wanted[name]:
            raise TokenizerError(f"{path}: {name} has shape {shape}, the model needs {wanted[name]}")


def _saved_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import safe_open

    path = folder / WEIGHTS
    if not path.is_file():
        raise TokenizerError(f"{folder} is incomplete: it has no {WEIGHTS}")
    try:
        with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise TokenizerError(f"{path} is damaged: {_first_line(error)}") from error


def _build(config: dict[str, Any], folder: Path) -> Tokenizer:
    # weights are filled in afterwards, so drawing random ones would be wasted, and must not disturb the caller's draws
    with torch.random.fork_rng(devices=[]):
        tokenizer: Tokenizer = build(config["model"], exported_classes())
    if type(tokenizer).__name__ != "Tokenizer":
        raise TokenizerError(f"{folder / CONFIG} describes a {type(tokenizer).__name__}, not a tokenizer")
    return tokenizer.eval()


def _fill(tokenizer: Tokenizer, folder: Path) -> None:
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise TokenizerError(f"{path} is damaged: {_first_line(error)}") from error
    wanted = exported_state(tokenizer)
    shapes, found = ({n: tuple(v.shape) for n, v in state.items()} for state in (wanted, weights))
    _check_shapes(shapes, found, path)
    for name, value in weights.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise TokenizerError(f"{path}: {name} holds NaN or Inf: the training that made it diverged")
    _cast_like(tokenizer, weights)
    tokenizer.load_state_dict(weights, strict=False)
    for part in tokenizer.modules():
        if isinstance(part, Quantizer):
            part.loaded()


def _cast_like(tokenizer: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    # a tokenizer saved in bfloat16 comes back in bfloat16, tensor by tensor
    for name, value in list(tokenizer.named_parameters()) + list(tokenizer.named_buffers()):
        if name in weights and weights[name].dtype != value.dtype:
            value.data = value.data.to(weights[name].dtype)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
