"""Which licence a model may be given away under: what its cohorts and its network permit, as data.

No legal advice: where the terms do not say that models may be given away, the answer is to ask whoever can
permit it, and to write down what they said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Final, Literal

import msgspec

from herohe_model.errors import HeroheError, OptionError, os_problem
from herohe_model.model.card import ModelCard

LICENCES: Final = {
    "cc-by-4.0": False,
    "apache-2.0": False,
    "mit": False,
    "gpl-3.0": False,
    "cc-by-nc-4.0": True,
    "cc-by-nc-sa-4.0": True,
}
"""Licences of models, as the Hugging Face hub names them, and whether each forbids commercial use."""

_MAX_BYTES: Final = 1 << 20
_FORM: Final = "Correct it after the form of docs/models.md"


class Terms(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a cohort, or the licence of a network's weights, permits.

    Attributes
    ----------
    said
        The terms, in a few words.
    models
        Whether models made with it may be given away: ``ask`` where that is not said; `why` says more.
    non_commercial
        Whether they may be given away for non-commercial use alone.
    copyleft
        The only licence that they may be given away under; "" where there is none.
    attribution
        Who must be named.
    facts_from
        Where this comes from.
    """

    name: str
    aliases: tuple[str, ...] = ()
    said: str
    models: Literal["yes", "no", "ask"]
    why: str = ""
    non_commercial: bool = False
    copyleft: Literal["", "gpl-3.0"] = ""
    attribution: str = ""
    facts_from: str

    def is_called(self, name: str) -> bool:
        """Whether a name means it, in whatever letters."""
        return name.casefold() in {n.casefold() for n in (self.name, *self.aliases)}


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal[1]
    cohorts: tuple[Terms, ...] = ()
    networks: tuple[Terms, ...] = ()


class TermsError(HeroheError):
    """A model may not be given away so."""

    code = "terms"


def cohorts_named(cohort: str) -> list[str]:
    """Split what ``train --cohort`` was given, such as ``BCNB + Yale``, into names."""
    return [name for part in re.split(r"\s*(?:[+,;&]|\band\b)\s*", cohort) if (name := part.strip())]


def cohort_terms(name: str) -> Terms:
    """Return what is known of the terms of a public cohort, by one of its names.

    Raises
    ------
    TermsError
        If they are not known.
    """
    return _find((name,), _shipped().cohorts, f"The terms of the cohort {name} are not known")


def _shipped() -> _Table:
    return _decode((resources.files(__package__) / "terms.json").read_bytes(), "terms.json")


def terms_of(card: ModelCard, table: Path | None = None) -> tuple[list[Terms], list[Terms]]:
    """Return the terms of a model's cohorts, and of its network's weights.

    Parameters
    ----------
    table
        A user's own terms, which go before ours.

    Raises
    ------
    TermsError
        If the card names no cohort, or the terms of one are not known.
    OptionError
        If the user's table cannot be read.
    """
    own, ours = _read(table), _shipped()
    cohorts, networks = own.cohorts + ours.cohorts, own.networks + ours.networks
    names = cohorts_named(card.cohort)
    if not names:
        raise TermsError(
            f"{card.name} does not say which cohort it was trained on, whose terms decide",
            "Train it with --cohort",
        )
    found = [_find((name,), cohorts, f"The terms of the cohort {name} are not known") for name in names]
    licence, network = network_licence(card), _network(card)
    unknown = f"What the licence of {network} ({licence or 'not known'}) permits is not known"
    return found, [_find((network, licence), networks, unknown)]


def network_licence(card: ModelCard) -> str:
    """Return the licence of the weights that a model begins with: its encoder's, or its backbone's in timm.

    A backbone that was trained from random weights is taken for one that was not: the card does not tell.
    "" where it is not known.
    """
    if card.bag is not None:
        from herohe_model.encoders.table import find_encoder

        try:
            return find_encoder(card.bag.encoder).licence
        except OptionError:
            return ""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(card.backbone)
    return str(getattr(config, "license", None) or "")


def _network(card: ModelCard) -> str:
    return card.backbone if card.bag is None else card.bag.encoder


def choose_licence(terms: Sequence[Terms], wanted: str | None, permission: str) -> str:
    """Return the licence to give a model away under: the one wanted, or the first that is permitted.

    Parameters
    ----------
    permission
        Who permitted what the terms leave open, in words; "" for nobody.

    Raises
    ------
    TermsError
        If the terms forbid it, leave it open without a permission, or exclude each other.
    """
    for one in terms:
        if one.models == "no" or (one.models == "ask" and not permission):
            raise TermsError(
                f"{one.name} ({one.said}): {one.why or 'models made with it may not be given away'}",
                "Ask its owners, and say who permitted it with --permission" if one.models == "ask" else "",
            )
    copyleft = [one for one in terms if one.copyleft]
    reserved = [one for one in terms if one.non_commercial]
    if copyleft and reserved:
        raise TermsError(
            f"{copyleft[0].name} wants {copyleft[0].copyleft}, which forbids to exclude anybody, and "
            f"{reserved[0].name} ({reserved[0].said}) excludes commercial use: no licence permits both",
            "Use another encoder, or another cohort",
        )
    permitted = [
        licence
        for licence, excludes in LICENCES.items()
        if (not copyleft or licence == copyleft[0].copyleft) and (excludes or not reserved)
    ]
    if wanted is None:
        return permitted[0]
    if wanted not in permitted:
        who = (copyleft or reserved or list(terms))[0]
        raise TermsError(
            f"{wanted} is not permitted by {who.name} ({who.said})", f"Use one of {', '.join(permitted)}"
        )
    return wanted


def _find(names: Sequence[str], known: Sequence[Terms], problem: str) -> Terms:
    found = next((terms for name in names for terms in known if terms.is_called(name)), None)
    if found is None:
        raise TermsError(
            problem, "Read it, and say what it permits in a file for --terms; see docs/models.md"
        )
    return found


def _read(table: Path | None) -> _Table:
    if table is None:
        return _Table(1)
    try:
        with table.open("rb") as file:
            return _decode(file.read(_MAX_BYTES), str(table))
    except OSError as error:
        raise OptionError(os_problem(error), "Check the path") from error


def _decode(data: bytes, what: str) -> _Table:
    try:
        return msgspec.json.decode(data, type=_Table)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise OptionError(f"{what} is no table of terms: {error}", _FORM) from error
