"""A run that begins where another ended: chosen parts of its tokenizer are taken over, others are new or frozen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import lightning.pytorch as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor, nn

from vistok.errors import RecipeError
from vistok.quantizers import Quantizer
from vistok.recorded import Recorded
from vistok.tokenizer import Tokenizer, load
from vistok.tokenizer.normaliser import latent_grids, take_grids
from vistok.tokenizer.weights_hash import exported_state


class Stage(pl.Callback):
    """Takes weights over from another run's tokenizer before the first step, and freezes parts.

    Nothing is guessed: every weight of ``start`` must be used and every weight of the recipe's tokenizer found, except
    those of ``new`` parts. What was loaded, what is new and what is frozen is printed. A resumed run goes on from its
    checkpoint and does not look at ``start`` again.

    A frozen part stays as it is to the last bit: no gradients, evaluation mode, no statistics, no revived codes.

    Args:
        start: Folder or Hugging Face Hub id of a tokenizer, ``runs/first/tokenizer``; None begins as the recipe builds it.
        new: Parts that are not taken over, because they are to begin anew, or are only there or only here.
        frozen: Parts that are not trained. Parts are named as in the tokenizer, with dots: ``decoder``, ``encoder.levels.0``.
        renamed: Parts that have another name in ``start``: name there -> name here; the longest name that fits a weight
            counts. A part whose name another one takes needs a new name itself.
    """

    def __init__(
        self,
        start: str | None = None,
        new: Sequence[str] = (),
        frozen: Sequence[str] = (),
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        self.start, self.new, self.frozen = start, list(new), list(frozen)
        self.renamed = dict(renamed or {})
        if new and start is None:
            raise RecipeError(
                f"stage.new names {', '.join(new)}, but without stage.start all parts are new: set it"
            )
        self.weights_hash = ""
        self._begun = False

    @property
    def active(self) -> bool:
        """Whether it does anything."""
        return self.start is not None or bool(self.frozen)

    def begin(self, tokenizer: Tokenizer, resumed: bool = False) -> None:
        """Loads, unless the run is resumed, and freezes; once.

        Raises:
            RecipeError: a part that does not exist, or weights that are missing, unused or misshapen.
            TokenizerError: ``start`` cannot be loaded.
        """
        if self._begun:
            return
        self._begun = True
        if self.start is not None and not resumed:
            start = load(self.start)
            self.weights_hash = start.spec.weights_hash
            rank_zero_info("\n".join(take_over(tokenizer, start, self.new, self.start, self.renamed)))
        freeze(tokenizer, self.frozen)
        if self.active:
            trained = sum(w.numel() for w in tokenizer.parameters() if w.requires_grad)
            rank_zero_info(
                f"stage: frozen {', '.join(self.frozen) or 'nothing'}; {trained / 1e6:.2f} M weights to train"
            )

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        """Begins, before the optimizers are built."""
        if stage == "fit":
            self.begin(pl_module.tokenizer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Keeps frozen parts in evaluation mode, and notes where the run began."""
        self._still(pl_module)
        if self.active:
            told = {
                "start": self.start,
                "weights_hash": self.weights_hash,
                "new": self.new,
                "frozen": self.frozen,
                **({"renamed": self.renamed} if self.renamed else {}),
            }
            pl_module.provenance = {**pl_module.provenance, "stage": told}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Keeps frozen parts in evaluation mode."""
        self._still(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run cannot know: the weights that it began with."""
        return {"weights_hash": self.weights_hash}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores it."""
        self.weights_hash = str(state_dict["weights_hash"])

    def _still(self, module: Any) -> None:
        for name in self.frozen:
            module.tokenizer.get_submodule(name).eval()


def freeze(tokenizer: Tokenizer, names: Iterable[str]) -> None:
    """Switches gradients, statistics and training mode of parts off.

    Raises:
        RecipeError: a part that the tokenizer does not have.
    """
    known = dict(tokenizer.named_modules())
    for name in names:
        if name not in known or not name:
            raise _unknown("frozen", name, known)
        known[name].requires_grad_(False).eval()


@torch.no_grad()
def take_over(
    tokenizer: Tokenizer,
    start: Tokenizer,
    new: Sequence[str],
    where: str,
    renamed: Mapping[str, str] | None = None,
) -> list[str]:
    """Copies all weights but those of new parts from one tokenizer to another; returns what to tell.

    Args:
        tokenizer: It gets them.
        start: It has them.
        new: Parts to leave as they are.
        where: What to call ``start`` in messages.
        renamed: Name of a part in ``start`` -> name here.

    Raises:
        RecipeError: a part that neither has, or weights that are missing, unused or misshapen.
    """
    renamed = renamed or {}
    parts = {**dict(start.named_modules()), **dict(tokenizer.named_modules())}
    for there, here in renamed.items():
        for name, known in ((there, start), (here, tokenizer)):
            if name not in dict(known.named_modules()) or not name:
                raise _unknown("renamed", name, dict(known.named_modules()))
    for name in new:
        if name not in parts or not name:
            raise _unknown("new", name, parts)
    grids = {_named_here(f"{name}.", renamed)[:-1]: grid for name, grid in latent_grids(start).items()}
    take_grids(tokenizer, {name: grid for name, grid in grids.items() if not _within(name, new)})
    wanted, given = (
        {key: value for key, value in state.items() if not _within(key, new)}
        for state in (exported_state(tokenizer), _renamed_state(start, renamed))
    )
    for keys, told, cause in (
        (wanted.keys() - given.keys(), "has no weights", "the recipe has them"),
        (given.keys() - wanted.keys(), "has weights", "the recipe does not"),
    ):
        if keys:
            key, more = min(keys), f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
            raise RecipeError(
                f"{where} {told} {key!r}{more}, but {cause}: name the part {part_of(key)!r} in stage.new"
            )
    for key, value in given.items():
        if value.shape != wanted[key].shape:
            raise RecipeError(
                f"{where} has {key!r} of shape {tuple(value.shape)}, the recipe's is {tuple(wanted[key].shape)}: "
                f"build {part_of(key)!r} as it was, or name it in stage.new"
            )
    for key, value in given.items():  # once all is known to fit
        wanted[key].copy_(value)
    for name, part in tokenizer.named_modules():
        if isinstance(part, Quantizer) and not _within(name, new):
            part.loaded()
    return _report(tokenizer, start, new, where)


def part_of(key: str) -> str:
    """The part of a tokenizer that a weight belongs to."""
    return key.split(".", 1)[0]


def _report(tokenizer: Tokenizer, start: Tokenizer, new: Sequence[str], where: str) -> list[str]:
    sizes: dict[str, int] = {}
    for key, value in exported_state(tokenizer).items():
        if not _within(key, new):
            sizes[part_of(key)] = sizes.get(part_of(key), 0) + value.numel()
    loaded = ", ".join(f"{name} ({size} values)" for name, size in sizes.items())
    lines = [f"stage: loaded {loaded or 'nothing'} from {where}", f"stage: new {', '.join(new) or 'nothing'}"]
    for name, part in tokenizer.named_children():
        other = getattr(start, name, None)
        if name in new or not isinstance(part, Recorded) or not isinstance(other, Recorded):
            continue
        differing = _differences(part.to_config(), other.to_config())
        if differing:
            lines.append(f"stage: {name} is built otherwise than there: {', '.join(differing)}")
    return lines


def _differences(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    if here["class"] != there["class"]:
        return [f"{here['class']} in place of {there['class']}"]
    names = {**here["args"], **there["args"]}
    return [
        f"{name}={here['args'].get(name)!r} in place of {there['args'].get(name)!r}"
        for name in names
        if here["args"].get(name) != there["args"].get(name)
    ]


def _named_here(key: str, renamed: Mapping[str, str]) -> str:
    there = max((name for name in renamed if key.startswith(f"{name}.")), key=len, default=None)
    return key if there is None else renamed[there] + key[len(there) :]


def _renamed_state(start: Tokenizer, renamed: Mapping[str, str]) -> dict[str, Tensor]:
    """The exported state under the names of the parts here.

    Raises:
        RecipeError: two weights of one name.
    """
    origin: dict[str, str] = {}
    state: dict[str, Tensor] = {}
    for key, value in exported_state(start).items():
        here = _named_here(key, renamed)
        if here in state:
            raise RecipeError(
                f"stage.renamed gives {origin[here]!r} and {key!r} the one name {here!r}: give the part of the "
                "second a name of its own too"
            )
        state[here], origin[here] = value, key
    return state


def _within(key: str, names: Iterable[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _unknown(setting: str, name: str, known: dict[str, nn.Module]) -> RecipeError:
    empty = (nn.Identity, nn.ModuleList)
    top = sorted(
        part for part, module in known.items() if part and "." not in part and type(module) not in empty
    )
    close = get_close_matches(name, known, n=1)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    return RecipeError(
        f"stage.{setting} names {name!r}, and there is no such part: there is {', '.join(top)}{meant}"
    )
