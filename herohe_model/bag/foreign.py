"""Bag models that another tool trained, such as CLAM's single branch, brought into a model file of ours.

Lu et al. 2021, *Data-efficient and weakly supervised computational pathology on whole-slide images*: a
layer for each patch, gated attention, and a linear classifier of the pooled patch. Of two classes P(positive)
is the sigmoid of the difference of their logits, which is linear in the patches, so their shares stay exact.
It knows the status alone: all bits of the file are that one, and no other is claimed.

Which key of a checkpoint is which weight stands in ``foreign.json``, as data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
import torch

from herohe_model.bag.card import with_golden
from herohe_model.encoders.table import find_encoder
from herohe_model.encoders.weights import read_state
from herohe_model.errors import ModelFileError, OptionError, os_problem
from herohe_model.files import sha256_of
from herohe_model.grades import Target
from herohe_model.model.card import USUAL_THRESHOLD, BagCard, ModelCard, check_card
from herohe_model.model.checkpoint import join_members
from herohe_model.model.new_model import library_versions

_MAX_BYTES: Final = 1 << 20
_ROLES: Final = frozenset(
    f"{layer}.{part}"
    for layer in ("layer", "value", "gate", "weigh", "classifier")
    for part in ("weight", "bias")
)
_OWN_FORM: Final = "Name its keys in a file for --forms, see docs/encoders.md"


class Form(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a tool names the weights of its model.

    Attributes
    ----------
    keys
        From what a weight is for (``layer``, the tanh and sigmoid branches ``value`` and ``gate``, ``weigh``,
        ``classifier``) to its key in the checkpoint.
    ignored
        Beginnings of keys that take no part in a slide's logit.
    """

    name: str
    tool: str
    keys: dict[str, str]
    ignored: tuple[str, ...] = ()
    facts_from: str = ""

    def __post_init__(self) -> None:
        """Refuse what the types cannot."""
        if self.keys.keys() != _ROLES:
            raise ValueError(f"{self.name}: keys must name {', '.join(sorted(_ROLES))}, and nothing else")


class ManifestFields(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a reader's manifest calls its list of heads and, of each or of all, file, encoder, and so on."""

    heads: tuple[str, ...]
    file: tuple[str, ...]
    encoder: tuple[str, ...]
    sha256: tuple[str, ...] = ()
    licence: tuple[str, ...] = ()


class Forms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All forms that are known; `prefixes` are what training frameworks put before every key."""

    format: Literal[1]
    forms: Annotated[tuple[Form, ...], msgspec.Meta(min_length=1)]
    prefixes: tuple[str, ...] = ("",)
    manifest: ManifestFields


@dataclass(frozen=True)
class ForeignModel:
    """What is to be imported.

    Attributes
    ----------
    files
        Checkpoints; more than one become an ensemble.
    encoder
        As it is said: a name of the table, or timm's.
    source, licence
        Where it comes from and its terms, as the importer or its manifest says.
    positive_class
        Which of two classes is HER2-positive.
    patch_px, mpp
        Of its patches; None for the encoder's of the table.
    """

    files: tuple[Path, ...]
    encoder: str
    source: str
    licence: str = ""
    positive_class: int = 1
    patch_px: int | None = None
    mpp: float | None = None


def read_forms(path: Path | None = None) -> Forms:
    """Return the known forms, or those of a user's file.

    Raises
    ------
    OptionError
        If it cannot be read, or is none.
    """
    what = str(path or "foreign.json")
    try:
        shipped = resources.files(__package__) / "foreign.json"
        return msgspec.json.decode(_read(path) if path else shipped.read_bytes(), type=Forms)
    except OSError as error:
        raise OptionError(os_problem(error), "Check the path") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise OptionError(f"{what} does not say how a tool names weights: {error}", _OWN_FORM) from error


def read_foreign_manifest(
    path: Path,
    fields: ManifestFields,
    encoder: str | None,
    find: Callable[[str], Path | None] | None = None,
) -> ForeignModel:
    """Read a reader's manifest: which checkpoints there are, of features of which encoder.

    Parameters
    ----------
    encoder
        Take the heads of this one; None where all are of one.
    find
        Finds a file by its name, or None; by default it is beside the manifest.

    Raises
    ------
    ModelFileError
        If it is none, names a file that is not beside it or has another digest, or heads of several encoders.
    """
    try:
        said = msgspec.json.decode(_read(path), type=dict[str, Any])
    except OSError as error:
        raise ModelFileError(os_problem(error), "Check the path") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is no manifest: {error}", _OWN_FORM) from error
    found = _field(said, fields.heads)
    listed = list(found.values()) if isinstance(found, dict) else found
    if not isinstance(listed, list) or not listed or not all(isinstance(h, dict) for h in listed):
        raise ModelFileError(f"{path} lists no heads under {' or '.join(fields.heads)}", _OWN_FORM)
    heads = [{**said, **head} for head in listed]
    encoders = [str(_field(head, fields.encoder) or "").removeprefix("hf-hub:") for head in heads]
    chosen = encoder or encoders[0]
    if not chosen or (encoder is None and len(set(encoders)) > 1):
        raise ModelFileError(
            f"{path} has heads of {', '.join(sorted(set(encoders))) or 'an encoder that it does not name'}",
            "A model is of one encoder: name it with --encoder",
        )
    files = []
    for head, of in zip(heads, encoders, strict=True):
        if of not in (chosen, "") and not _same_encoder(of, chosen):
            continue
        name = _field(head, fields.file)
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelFileError(f"{path} names no file beside it for each head", _OWN_FORM)
        file = (find(name) if find is not None else None) or path.with_name(name)
        digest = _field(head, fields.sha256)
        if digest is not None and sha256_of(file) != digest:
            raise ModelFileError(
                f"{file} is not what {path.name} says: its SHA-256 is another", "Get it again"
            )
        files.append(file)
    if not files:
        raise ModelFileError(f"{path} has no head of {chosen}", f"It has {', '.join(sorted(set(encoders)))}")
    licence = _field(said, fields.licence)
    return ForeignModel(tuple(files), chosen, str(path), licence if isinstance(licence, str) else "")


def import_model(
    model: ForeignModel, forms: Forms, *, name: str
) -> tuple[ModelCard, dict[str, torch.Tensor]]:
    """Bring another tool's model into card and weights of ours, for ``save_model``.

    Raises
    ------
    ModelFileError
        If a key or a shape of a checkpoint is not what its form says; each is named.
    OptionError
        If nothing says how large patches are.
    """
    states, used = [], set()
    for file in model.files:
        state, form = _of_form(read_state(file), forms, str(file))
        used.add(form.name)
        states.append(_translated(state, form, model.positive_class, str(file)))
    shapes = [{key: tuple(t.shape) for key, t in state.items()} for state in states]
    odd = next((i for i, shape in enumerate(shapes) if shape != shapes[0]), None)
    if odd is not None:
        raise ModelFileError(
            f"{model.files[odd]} has other shapes than {model.files[0]}", "Import each alone"
        )
    card = _card(model, name, states[0], f"{model.source}, in the form {', '.join(sorted(used))}")
    weights = join_members(list[Mapping[str, torch.Tensor]](states))
    return with_golden(card, weights), weights


def _of_form(
    state: Mapping[str, torch.Tensor], forms: Forms, what: str
) -> tuple[dict[str, torch.Tensor], Form]:
    """Return a checkpoint's weights by what they are for, and the form that names them so."""
    tried = []
    for form in forms.forms:
        for prefix in forms.prefixes:
            keys = {role: prefix + key for role, key in form.keys.items()}
            ignored = tuple(prefix + key for key in form.ignored)
            others = [k for k in state.keys() - set(keys.values()) if not k.startswith(ignored or "\0")]
            missing = [key for key in keys.values() if key not in state]
            if not missing and not others:
                return {role: state[key].float() for role, key in keys.items()}, form
            tried.append((len(missing) + len(others), form, sorted(missing), sorted(others)))
    _, form, missing, others = min(tried, key=lambda t: t[0])
    lacks = f" lacks {_some(missing)}" if missing else ""
    has = f" has {_some(others)}, which it does not know" if others else ""
    differs = " and".join(said for said in (lacks, has) if said)
    raise ModelFileError(f"{what} is not of the form {form.name} ({form.tool}): it{differs}", _OWN_FORM)


def _translated(
    state: Mapping[str, torch.Tensor], form: Form, positive: int, what: str
) -> dict[str, torch.Tensor]:
    """Check the shapes, and name the weights as ours are."""
    layer, value = state["layer.weight"], state["value.weight"]
    width, dimension = layer.shape if layer.ndim == 2 else (0, 0)
    inner = len(value) if value.ndim == 2 else 0
    classes = len(state["classifier.bias"]) if state["classifier.bias"].ndim == 1 else 0
    expected = {
        "layer.weight": (width, dimension),
        "layer.bias": (width,),
        **{f"{branch}.weight": (inner, width) for branch in ("value", "gate")},
        **{f"{branch}.bias": (inner,) for branch in ("value", "gate")},
        "weigh.weight": (1, inner),
        "weigh.bias": (1,),
        "classifier.weight": (classes, width),
        "classifier.bias": (classes,),
    }
    wrong = [
        f"{form.keys[role]} is {_shape(state[role].shape)} instead of {_shape(shape)}"
        for role, shape in expected.items()
        if tuple(state[role].shape) != shape or 0 in shape
    ]
    if wrong:
        raise ModelFileError(f"{what} does not hold together: {_some(wrong)}", "Get it again")
    if classes > 2:
        raise ModelFileError(
            f"{what}: {form.keys['classifier.bias']} has {classes} classes, and a status has two",
            "Import a model of positive against negative",
        )
    weight, bias = state["classifier.weight"], state["classifier.bias"]
    if classes == 2:
        weight, bias = (t[positive] - t[1 - positive] for t in (weight, bias))
    else:
        weight, bias = weight[0], bias[0]
    bits = len(Target.IHC_ISH.steps)
    return {
        "centre": torch.zeros(dimension),
        "scale": torch.ones(dimension),
        **{key: state[key] for key in _ROLES if not key.startswith("classifier")},
        "head.weight": weight.expand(bits, width).clone(),
        "head.bias": bias.expand(bits).clone(),
    }


def _card(model: ForeignModel, name: str, state: Mapping[str, torch.Tensor], said: str) -> ModelCard:
    encoder, patch_px, mpp = model.encoder, model.patch_px, model.mpp
    try:
        known = find_encoder(encoder)
        encoder, patch_px, mpp = known.name, patch_px or known.input_px, mpp or known.mpp
    except OptionError:
        if patch_px is None or mpp is None:
            raise OptionError(
                f"Nothing says how large patches of {encoder} are, which is not in the table of encoders",
                "Say it with --patch-px and --mpp",
            ) from None
    width, dimension = state["layer.weight"].shape
    licence = model.licence or "not known: ask its authors"
    return check_card(
        ModelCard(
            name=name,
            backbone="",
            head="free",
            target=Target.IHC_ISH.value,
            patch_px=patch_px,
            grid=1,
            mpp=mpp,
            foreground_threshold=USUAL_THRESHOLD,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            positive_step=Target.IHC_ISH.default_positive_step,
            threshold_chosen="not chosen: one half, as its classifier has it",
            trained_on="not here, and not known here: imported",
            versions=library_versions(),
            note=f"Imported from {said}. It was neither trained nor judged here. Licence: {licence}. "
            "It knows the status alone. For research use only; it has no regulatory approval.",
            members=len(model.files),
            learned=(Target.IHC_ISH.default_positive_step,),
            bag=BagCard(
                pooling="attention",
                dimension=dimension,
                width=width,
                attention_width=len(state["value.bias"]),
                encoder=encoder,
            ),
        )
    )


def _same_encoder(one: str, other: str) -> bool:
    try:
        return find_encoder(one).name == find_encoder(other).name
    except OptionError:
        return False


def _field(said: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((said[name] for name in names if said.get(name) is not None), None)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_BYTES)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "a number"
